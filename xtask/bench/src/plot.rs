//! Plots as SVG: dots on a scale of doublings, and panels of lines. They follow the reader's light or dark setting and
//! bring their own background; who made a mark shows by its form as well as by its colour.

use std::fmt::Write as _;

use crate::database::Side;
use crate::figure::Spread;
use crate::report::number;

/// A line of a plot of dots.
#[derive(Debug)]
pub(crate) struct Dots {
    pub(crate) label: String,
    pub(crate) goal: Option<f64>,
    pub(crate) others: Vec<(Side, f64)>,
    pub(crate) opor: Option<Spread>,
}

/// One of a plot of panels.
#[derive(Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// What is counted from left to right.
    pub(crate) along: &'static str,
    /// For each side sizes and values.
    pub(crate) lines: Vec<(Side, Vec<(f64, f64)>)>,
}

/// Colours, for both settings of the reader.
const STYLE: &str = "<style>
svg { font: 12px sans-serif; --back: #ffffff; --text: #1f2328; --faint: #59636e; --grid: #d1d9e0;
      --reached: #1a7f37; --missed: #bc4c00; --plain: #59636e; --hand: #0969da; --genuine: #8250df }
@media (prefers-color-scheme: dark) {
  svg { --back: #0d1117; --text: #f0f6fc; --faint: #9198a1; --grid: #30363d;
        --reached: #3fb950; --missed: #e07b39; --plain: #9198a1; --hand: #58a6ff; --genuine: #bc8cff }
}
.back { fill: var(--back) } text { fill: var(--text) } .faint { fill: var(--faint) } .title { font-size: 15px }
.grid { stroke: var(--grid) } .one { stroke: var(--faint) } .goal { fill: var(--text) } .end { text-anchor: end }
.middle { text-anchor: middle } .reached { fill: var(--reached); stroke: var(--reached) }
.missed { fill: var(--missed); stroke: var(--missed) } .open { fill: var(--faint); stroke: var(--faint) }
.plain { stroke: var(--plain); fill: none } .hand { stroke: var(--hand); fill: none }
.genuine { stroke: var(--genuine); fill: none } .opor { stroke: var(--reached); fill: none }
.plain, .hand, .genuine, .opor { stroke-width: 1.8 }
text.reached, text.missed, text.open { stroke: none }
</style>";

const LABELS: f64 = 310.0;
const SCALE: f64 = 430.0;
const NUMBERS: f64 = 170.0;
const LINE: f64 = 20.0;
const TOP: f64 = 84.0;

/// The plot of dots as an SVG document; fewer is better on every scale.
pub(crate) fn dots(title: &str, unit: &str, lines: &[Dots]) -> String {
    let (width, bottom) = (LABELS + SCALE + NUMBERS, TOP + LINE * lines.len() as f64);
    let mut svg = Svg::new(width, bottom + 14.0);
    svg.text(12.0, 22.0, "title", title);
    legend(&mut svg);
    let all = lines.iter().flat_map(|line| {
        let own = line.opor.iter().flat_map(|spread| [spread.lo, spread.hi, spread.value]);
        own.chain(line.goal).chain(line.others.iter().map(|(_, value)| *value))
    });
    let axis = Axis::doublings(all, LABELS, LABELS + SCALE);
    for tick in axis.doubling_ticks() {
        let class = if tick == 1.0 && unit == "x" { "one" } else { "grid" };
        svg.line([axis.at(tick), TOP - 8.0], [axis.at(tick), bottom], class);
        svg.text(axis.at(tick), TOP - 13.0, "faint middle", &short(tick));
    }
    for (index, line) in lines.iter().enumerate() {
        draw(&mut svg, line, unit, &axis, TOP + LINE * index as f64 + 8.0);
    }
    svg.finish()
}

fn legend(svg: &mut Svg) {
    let y = 44.0;
    svg.circle(18.0, y, 4.5, "reached");
    svg.circle(30.0, y, 4.5, "missed");
    svg.text(
        40.0,
        y + 4.0,
        "faint",
        "opor, goal reached or missed; the bar is from the best run to the worst",
    );
    svg.goal(446.0, y);
    svg.text(454.0, y + 4.0, "faint", "goal");
    svg.mark(Side::ByHand, 506.0, y);
    svg.text(516.0, y + 4.0, "faint", "written by hand");
    svg.mark(Side::CrSqlite, 630.0, y);
    svg.text(640.0, y + 4.0, "faint", "cr-sqlite");
}

fn draw(svg: &mut Svg, line: &Dots, unit: &str, axis: &Axis, y: f64) {
    svg.text(LABELS - 14.0, y + 4.0, "end", &line.label);
    for (side, value) in &line.others {
        svg.mark(*side, axis.at(*value), y);
    }
    if let Some(goal) = line.goal {
        svg.goal(axis.at(goal), y);
    }
    let Some(spread) = line.opor else {
        return svg.text(LABELS + SCALE + 14.0, y + 4.0, "faint", "not measured");
    };
    let (class, said) = match line.goal {
        None => ("open", String::new()),
        Some(goal) if spread.value <= goal => ("reached", format!(" \u{2264} {}", number(goal, unit))),
        Some(goal) => ("missed", format!(" > {}", number(goal, unit))),
    };
    svg.line([axis.at(spread.lo), y], [axis.at(spread.hi), y], class);
    svg.circle(axis.at(spread.value), y, 4.5, class);
    svg.text(LABELS + SCALE + 14.0, y + 4.0, class, &format!("{}{said}", number(spread.value, unit)));
}

const PANEL: [f64; 2] = [290.0, 220.0];
const COLUMNS: usize = 3;

/// The panels as an SVG document; both scales are logarithmic.
pub(crate) fn panels(title: &str, panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(COLUMNS);
    let mut svg = Svg::new(PANEL[0] * COLUMNS as f64 + 20.0, 66.0 + PANEL[1] * rows as f64);
    svg.text(12.0, 22.0, "title", title);
    let mut x = 18.0;
    for (side, name) in [
        (Side::Opor, "opor"),
        (Side::Plain, "plain SQLite"),
        (Side::ByHand, "written by hand"),
        (Side::CrSqlite, "cr-sqlite"),
    ] {
        svg.mark(side, x, 44.0);
        svg.text(x + 10.0, 48.0, "faint", name);
        x += 40.0 + 6.5 * name.len() as f64;
    }
    for (index, panel) in panels.iter().enumerate() {
        let (column, row) = (index % COLUMNS, index / COLUMNS);
        draw_panel(&mut svg, panel, [10.0 + PANEL[0] * column as f64, 62.0 + PANEL[1] * row as f64]);
    }
    svg.finish()
}

fn draw_panel(svg: &mut Svg, panel: &Panel, [left, top]: [f64; 2]) {
    let points = || panel.lines.iter().flat_map(|(_, points)| points);
    let (first, last) = (left + 58.0, left + PANEL[0] - 24.0);
    let (bottom, upper) = (top + PANEL[1] - 36.0, top + 34.0);
    let along = Axis::exactly(points().map(|point| point.0), first, last);
    let up = Axis::doublings(points().map(|point| point.1), bottom, upper);
    svg.text(left + 12.0, top + 20.0, "", &panel.title);
    for tick in up.doubling_ticks() {
        svg.line([first, up.at(tick)], [last, up.at(tick)], "grid");
        svg.text(first - 10.0, up.at(tick) + 4.0, "faint end", &format!("{} us", short(tick)));
    }
    let mut sizes: Vec<f64> = points().map(|point| point.0).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    for (index, size) in sizes.iter().enumerate() {
        let unit = if index + 1 == sizes.len() { format!(" {}", panel.along) } else { String::new() };
        let (x, class) =
            if unit.is_empty() { (along.at(*size), "faint middle") } else { (last + 20.0, "faint end") };
        svg.text(x, bottom + 18.0, class, &format!("{}{unit}", short(*size)));
    }
    for (side, points) in &panel.lines {
        for pair in points.windows(2) {
            let end = |point: (f64, f64)| [along.at(point.0), up.at(point.1)];
            svg.line(end(pair[0]), end(pair[1]), class_of(*side));
        }
        for (size, value) in points {
            svg.mark(*side, along.at(*size), up.at(*value));
        }
    }
}

/// A logarithmic scale.
struct Axis {
    lo: f64,
    hi: f64,
    from: f64,
    to: f64,
}

/// What is less than this, or nothing at all, stands at the end of the scale.
const LEAST: f64 = 0.0625;

impl Axis {
    /// From a power of two to another.
    fn doublings(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let exact = Self::exactly(values, from, to);
        let (lo, hi) = (exact.lo.log2().floor().exp2(), exact.hi.log2().ceil().exp2());
        Self { lo, hi: if lo < hi { hi } else { lo * 2.0 }, ..exact }
    }

    fn exactly(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let ends = |(lo, hi): (f64, f64), value: f64| (lo.min(value.max(LEAST)), hi.max(value.max(LEAST)));
        let (lo, hi) = values.fold((f64::MAX, LEAST), ends);
        Self { lo: lo.min(hi), hi, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.max(LEAST) / self.lo).ln() / (self.hi / self.lo).ln();
        self.from + (self.to - self.from) * if part.is_finite() { part } else { 0.0 }
    }

    /// Powers of two, or every other one and so on where there are many.
    fn doubling_ticks(&self) -> Vec<f64> {
        let doublings = (self.hi / self.lo).log2().round() as usize;
        let step = doublings.div_ceil(9).max(1);
        (0..=doublings).step_by(step).map(|power| self.lo * (power as f64).exp2()).collect()
    }
}

/// A number in few characters, for the scales.
fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.0}M", value / 1e6),
        value if value >= 1e3 => format!("{:.0}k", value / 1e3),
        value => format!("{value}"),
    }
}

const fn class_of(side: Side) -> &'static str {
    match side {
        Side::Plain | Side::Floor => "plain",
        Side::ByHand => "hand",
        Side::CrSqlite => "genuine",
        Side::Opor => "opor",
    }
}

/// A document that is being written.
struct Svg(String);

impl Svg {
    fn new(width: f64, height: f64) -> Self {
        let size = format!("viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\"");
        let mut svg = Self(format!("<svg xmlns=\"http://www.w3.org/2000/svg\" {size}>\n{STYLE}\n"));
        svg.add(format_args!("<rect class=\"back\" width=\"{width}\" height=\"{height}\"/>"));
        svg
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{element}").expect("writing to a string does not fail");
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>"));
    }

    fn line(&mut self, from: [f64; 2], to: [f64; 2], class: &str) {
        let ([x1, y1], [x2, y2]) = (from, to);
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        ));
    }

    fn circle(&mut self, x: f64, y: f64, radius: f64, class: &str) {
        self.add(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"{class}\"/>"));
    }

    /// The form of a side.
    fn mark(&mut self, side: Side, x: f64, y: f64) {
        match side {
            Side::Plain | Side::Floor => self.circle(x, y, 3.5, "plain"),
            Side::Opor => self.circle(x, y, 4.0, "reached"),
            Side::ByHand => {
                let (x, y) = (x - 4.0, y - 4.0);
                self.add(format_args!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"8\" height=\"8\" class=\"hand\"/>"
                ));
            }
            Side::CrSqlite => self
                .add(format_args!("<path d=\"M{:.1} {y:.1}l5 -5l5 5l-5 5z\" class=\"genuine\"/>", x - 5.0)),
        }
    }

    fn goal(&mut self, x: f64, y: f64) {
        self.add(format_args!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"2\" height=\"16\" class=\"goal\"/>",
            x - 1.0,
            y - 8.0
        ));
    }

    fn finish(mut self) -> String {
        self.0 += "</svg>\n";
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(value: f64) -> String {
        let opor = Some(Spread { value, lo: value / 2.0, hi: value * 2.0 });
        let line = |label: &str| Dots { label: label.to_owned(), goal: Some(1.25), others: Vec::new(), opor };
        dots("Writes", "x", &[line("insert <b> & more"), Dots { opor: None, ..line("update") }])
    }

    #[test]
    fn a_doubling_is_as_far_everywhere() {
        let axis = Axis::doublings([0.7, 7.0].into_iter(), 100.0, 500.0);
        assert_eq!(axis.doubling_ticks(), [0.5, 1.0, 2.0, 4.0, 8.0]);
        assert_eq!([0.5, 1.0, 2.0, 8.0].map(|value| axis.at(value).round()), [100.0, 200.0, 300.0, 500.0]);
    }

    #[test]
    fn nothing_and_less_stand_at_the_end_of_the_scale() {
        let axis = Axis::doublings([-3.0, 0.0, 4.0].into_iter(), 0.0, 60.0);
        assert_eq!([-3.0, 0.0, LEAST].map(|value| axis.at(value)), [0.0; 3]);
    }

    #[test]
    fn words_and_colour_tell_the_verdict() {
        assert!(plot(1.25).contains("class=\"reached\">1.25x \u{2264} 1.25x</text>"));
        assert!(plot(1.26).contains("class=\"missed\">1.26x > 1.25x</text>"));
        assert!(plot(1.0).contains("not measured"));
    }

    #[test]
    fn numbers_on_scales_are_short() {
        assert_eq!([0.25, 512.0, 32_768.0, 1e7].map(short), ["0.25", "512", "33k", "10M"]);
    }

    #[test]
    fn labels_are_escaped() {
        assert!(plot(1.0).contains("insert &lt;b> &amp; more</text>"));
    }

    #[test]
    fn a_panel_has_a_mark_for_every_point() {
        let lines = vec![(Side::Opor, vec![(1e4, 1.0), (1e6, 1.5)]), (Side::ByHand, vec![(1e4, 2.0)])];
        let svg = panels("Growth", &[Panel { title: "insert".to_owned(), along: "rows", lines }]);
        // One more of each in the legend.
        assert_eq!(svg.matches("class=\"hand\"/>").count(), 2, "{svg}");
        assert_eq!(svg.matches("class=\"reached\"/>").count(), 3, "{svg}");
        assert!(svg.contains(">1M rows</text>"));
    }
}
