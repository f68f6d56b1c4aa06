//! Bar plots as SVG: a bar a figure, the goal as a line across it.

use std::fmt::Write as _;

/// One plot.
#[derive(Debug)]
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    pub(crate) value: f64,
    pub(crate) goal: f64,
}

const LABELS: f64 = 300.0;
const BARS: f64 = 420.0;
const NUMBERS: f64 = 70.0;
const LINE: f64 = 22.0;
const TOP: f64 = 56.0;

const REACHED: &str = "#2f7d4f";
const MISSED: &str = "#c8742b";
const GOAL: &str = "#1f2328";

/// The plot as an SVG document. Bars are drawn to one scale; green reaches its goal.
pub(crate) fn svg(plot: &Plot<'_>) -> String {
    let most = plot.bars.iter().map(|bar| bar.value.max(bar.goal)).fold(f64::MIN_POSITIVE, f64::max);
    let width = LABELS + BARS + NUMBERS;
    let height = TOP + LINE * plot.bars.len() as f64 + 12.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"{GOAL}\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\">{}</text>\n\
         <text x=\"12\" y=\"40\" fill=\"#57606a\">less is better; the black line is the goal, green reaches it</text>\n",
        escaped(plot.title)
    );
    for (index, bar) in plot.bars.iter().enumerate() {
        draw(&mut svg, bar, plot.unit, TOP + LINE * index as f64, BARS / most);
    }
    svg += "</svg>\n";
    svg
}

fn draw(svg: &mut String, bar: &Bar, unit: &str, top: f64, scale: f64) {
    let colour = if bar.value <= bar.goal { REACHED } else { MISSED };
    let space = if unit == "x" { "" } else { " " };
    let (length, goal) = (bar.value.max(0.0) * scale, LABELS + bar.goal * scale);
    let beside = LABELS + length.max(bar.goal * scale) + 6.0;
    let written = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
         <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"14\" fill=\"{colour}\"/>\n\
         <rect x=\"{goal:.1}\" y=\"{:.1}\" width=\"2\" height=\"18\"/>\n\
         <text x=\"{beside:.1}\" y=\"{:.1}\">{:.2}{space}{unit}</text>\n",
        LABELS - 8.0,
        top + 12.0,
        escaped(&bar.label),
        top + 1.0,
        top - 1.0,
        top + 12.0,
        bar.value,
    );
    written.expect("writing to a string does not fail");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(value: f64) -> String {
        let bars = vec![
            Bar { label: "P1 <insert> & more".to_owned(), value, goal: 1.25 },
            Bar { label: "P2".to_owned(), value: 2.5, goal: 1.25 },
        ];
        svg(&Plot { title: "Writes", unit: "x", bars })
    }

    #[test]
    fn bars_share_a_scale_and_colour_tells_the_verdict() {
        let svg = plot(1.25);
        assert!(svg.contains("width=\"420.0\" height=\"14\" fill=\"#c8742b\""), "{svg}");
        assert!(svg.contains("width=\"210.0\" height=\"14\" fill=\"#2f7d4f\""), "{svg}");
        assert!(svg.contains("<rect x=\"510.0\""), "the goal is drawn at half of the longest bar: {svg}");
    }

    #[test]
    fn labels_are_escaped() {
        assert!(plot(1.0).contains("P1 &lt;insert> &amp; more</text>"));
    }

    #[test]
    fn a_negative_figure_has_no_bar() {
        assert!(plot(-0.5).contains("width=\"0.0\""));
    }
}
