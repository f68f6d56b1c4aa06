//! The table that a run ends with.

use std::path::{Path, PathBuf};

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::case::{Basis, Goal};
use crate::clock::median;
use crate::database::{Medium, Setting, Side};
use crate::figure::{Figure, Metric, Spread, Verdict};
use crate::shape::{SHAPES, Shape};

/// What a run was made on.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) rows: usize,
    pub(crate) medium: Medium,
    pub(crate) crsqlite: Option<PathBuf>,
    /// What is missing, and why.
    pub(crate) notes: Vec<String>,
}

impl Default for Run {
    fn default() -> Self {
        Self { rows: 0, medium: Medium::File, crsqlite: None, notes: Vec::new() }
    }
}

impl Run {
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// What cases are measured on, at the usual size.
    pub(crate) fn setting<'a>(&'a self, shape: &'static Shape, folder: &'a Path) -> Setting<'a> {
        let (rows, medium) = (self.rows, self.medium);
        Setting { shape, rows, tables: 1, medium, folder, crsqlite: self.crsqlite.as_deref() }
    }
}

const HEADER: [&str; 11] = [
    "#",
    "what",
    "shape",
    "plain",
    "by hand",
    "cr-sqlite",
    "floor",
    "goal",
    "measured",
    "min .. max",
    "verdict",
];

/// One line a figure.
pub(crate) fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(HEADER);
    for index in 3..10 {
        let column = table.column_mut(index).expect("the header has eleven columns");
        column.set_cell_alignment(CellAlignment::Right);
    }
    for figure in figures {
        table.add_row(row(figure));
    }
    table
}

fn row(figure: &Figure) -> [String; 11] {
    let of = |side| figure.of(side).map(|spread| number(spread.value, figure.unit())).unwrap_or_default();
    let own = figure.of(Side::Opor);
    let name = match figure.metric {
        Metric::Cpu => figure.case.name.to_owned(),
        Metric::Instructions => format!("{}, instructions", figure.case.name),
    };
    [
        figure.case.number.to_owned(),
        name,
        figure.shape.letter.to_owned(),
        plain(figure),
        of(Side::ByHand),
        of(Side::CrSqlite),
        of(Side::Floor),
        match figure.goal {
            Goal::AtMost(goal) => number(goal, figure.unit()),
            Goal::Open | Goal::Skip => "-".to_owned(),
        },
        own.map(|spread| measured(figure, Side::Opor, spread)).unwrap_or_default(),
        own.filter(|spread| spread.lo < spread.hi).map(range).unwrap_or_default(),
        verdict(figure),
    ]
}

/// What an ordinary table takes: what the others are compared with, or its own growth.
fn plain(figure: &Figure) -> String {
    match figure.case.basis {
        Basis::Growth(_) => {
            figure.of(Side::Plain).map(|spread| measured(figure, Side::Plain, spread)).unwrap_or_default()
        }
        Basis::Ratio | Basis::Extra(_) | Basis::Alone(_) => {
            let runs = figure.points.last().and_then(|point| point.runs(Side::Plain));
            runs.map(|runs| raw(median(runs.to_vec()), figure.raw_unit())).unwrap_or_default()
        }
    }
}

/// What a side came to; for growth also from what to what.
fn measured(figure: &Figure, side: Side, spread: Spread) -> String {
    let value = number(spread.value, figure.unit());
    match (figure.case.basis, figure.points.as_slice()) {
        (Basis::Growth(unit), [first, .., last]) => {
            let ends =
                [first, last].map(|point| point.runs(side).map_or(f64::NAN, |runs| median(runs.to_vec())));
            format!("{value}: {} to {} {unit}", short(ends[0]), short(ends[1]))
        }
        _ => value,
    }
}

/// Three digits or so.
fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

fn range(spread: Spread) -> String {
    format!("{:.2} .. {:.2}", spread.lo, spread.hi)
}

/// A value in its unit.
pub(crate) fn number(value: f64, unit: &str) -> String {
    match unit {
        "x" => format!("{value:.2}x"),
        _ => format!("{value:.1} {unit}"),
    }
}

fn raw(value: f64, unit: &str) -> String {
    match unit {
        "seconds" => format!("{:.1} ms", value * 1e3),
        "instructions" => format!("{:.1} Minstr", value / 1e6),
        _ => number(value, unit),
    }
}

fn verdict(figure: &Figure) -> String {
    let noisy = if figure.is_noisy() { ", noisy" } else { "" };
    match figure.verdict() {
        Verdict::Reached => format!("reached{noisy}"),
        Verdict::Missed(times) => {
            let excuse = [growth_of_plain(figure), floor_above(figure)].concat();
            format!("missed: {times:.2} times the goal{noisy}{excuse}")
        }
        Verdict::Open => "no goal".to_owned(),
        Verdict::Failed => {
            let why = figure.failure().map(|(side, error)| format!(", {side:?}: {error:#}"));
            format!("not measured{}", why.unwrap_or_default())
        }
    }
}

/// Whether plain SQLite grows beyond the goal too, with the same rows.
fn growth_of_plain(figure: &Figure) -> &'static str {
    let (Basis::Growth(_), Goal::AtMost(goal)) = (figure.case.basis, figure.goal) else { return "" };
    let plain = figure.of(Side::Plain).is_some_and(|plain| plain.value > goal);
    if plain { "; plain misses it too" } else { "" }
}

/// Whether SQLite's own part takes more than the goal, with any code behind its hook.
fn floor_above(figure: &Figure) -> &'static str {
    let Goal::AtMost(goal) = figure.goal else { return "" };
    let floor = figure.of(Side::Floor).is_some_and(|floor| floor.value > goal);
    if floor { "; so does the floor" } else { "" }
}

/// What the table says as a whole.
pub(crate) fn footer(figures: &[Figure], run: &Run) -> String {
    let count =
        |wanted: fn(&Verdict) -> bool| figures.iter().filter(|figure| wanted(&figure.verdict())).count();
    let place = match run.medium {
        Medium::File => "databases in files (WAL, synchronous NORMAL)",
        Medium::Memory => "databases in memory",
    };
    let shapes = SHAPES.iter().map(|shape| format!("{}: {}", shape.letter, shape.name));
    let mut lines = vec![
        shapes.collect::<Vec<_>>().join("; "),
        format!(
            "{} rows, {place}; CPU time, medians, all sides in turn; \"plain\" is an ordinary table",
            run.rows
        ),
        "floor: plain, with the guard, a hook that asks for what opor needs, and a row in a log for each commit"
            .to_owned(),
        "x: times plain; of growth: the greatest size over the smallest, and plain's own growth beside it"
            .to_owned(),
    ];
    lines.extend(run.notes.iter().cloned());
    lines.extend(
        figures.iter().filter(|figure| figure.verdict() != Verdict::Failed).filter_map(other_failure),
    );
    lines.push(format!(
        "{} figures: {} reach their goal, {} do not, {} have none, {} could not be measured",
        figures.len(),
        count(|verdict| *verdict == Verdict::Reached),
        count(|verdict| matches!(verdict, Verdict::Missed(_))),
        count(|verdict| *verdict == Verdict::Open),
        count(|verdict| *verdict == Verdict::Failed),
    ));
    lines.join("\n")
}

/// A side beside opor that could not be measured.
fn other_failure(figure: &Figure) -> Option<String> {
    let (side, error) = figure.failure()?;
    Some(format!("{} ({}), {side:?} could not be measured: {error:#}", figure.case.slug, figure.shape.letter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::samples::{add, failed, figure};

    #[test]
    fn a_line_holds_goal_measure_spread_and_verdict() {
        let line = row(&figure("insert", &[0.1, 0.1, 0.1], &[0.13, 0.12, 0.14]));
        let expected =
            ["100.0 ms", "", "", "", "1.25x", "1.30x", "1.20 .. 1.40", "missed: 1.04 times the goal, noisy"];
        assert_eq!(line[3..], expected);
        let line = row(&figure("poll-one", &[], &[9.0]));
        assert_eq!(line[3..], ["", "", "", "", "5.0 us", "9.0 us", "", "missed: 1.80 times the goal"]);
    }

    #[test]
    fn growth_stands_beside_that_of_plain_sqlite() {
        let mut figure = figure("grow-insert", &[1.0], &[2.0]);
        add(&mut figure, 10_000, &[1.5], &[2.5]);
        assert_eq!(
            row(&figure)[3..],
            ["1.50x: 1.00 to 1.50 us", "", "", "", "1.50x", "1.25x: 2.00 to 2.50 us", "", "reached"]
        );
    }

    #[test]
    fn growth_that_plain_sqlite_has_too_is_said_to_be() {
        let mut figure = figure("grow-insert", &[1.0], &[2.0]);
        add(&mut figure, 10_000, &[1.75], &[6.0]);
        assert_eq!(row(&figure)[10], "missed: 2.00 times the goal; plain misses it too");
    }

    #[test]
    fn a_floor_above_the_goal_is_said_to_be() {
        let mut figure = figure("insert", &[1.0], &[1.5]);
        figure.points[0].sides.insert(Side::Floor, Ok(vec![1.3]));
        let line = row(&figure);
        assert_eq!((&*line[6], &*line[10]), ("1.30x", "missed: 1.20 times the goal; so does the floor"));
    }

    #[test]
    fn what_could_not_be_measured_says_why() {
        let line = row(&failed("wire", "no codec"));
        assert_eq!(line[8..], ["", "", "not measured, Opor: no codec"]);
    }

    #[test]
    fn the_footer_counts_verdicts_and_holds_the_notes() {
        let figures =
            [figure("insert", &[1.0], &[1.0]), figure("insert", &[1.0], &[9.0]), failed("wire", "no")];
        let footer = footer(&figures, &Run { notes: vec!["without valgrind".to_owned()], ..Run::default() });
        let expected = "3 figures: 1 reach their goal, 1 do not, 0 have none, 1 could not be measured";
        assert_eq!(footer.lines().last(), Some(expected));
        assert!(footer.contains("\nwithout valgrind\n"), "{footer}");
    }
}
