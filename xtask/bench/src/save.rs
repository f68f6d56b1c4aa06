//! What a run leaves under `docs/bench`: for each part its figures as JSON, and the plots.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde_json::{Map, Value, json};

use crate::case::Goal;
use crate::cases::Part;
use crate::database::Side;
use crate::figure::{Figure, Metric, Point};
use crate::plot::{Dots, Panel, dots, panels};
use crate::report::Run;

/// The plots of dots: file, title, part, lines of the table of goals, unit.
const DOTS: &[(&str, &str, Part, &[&str], &str)] = &[
    ("writes.svg", "Writes: CPU time, times plain SQLite", Part::Store, &["P1", "P2", "P3", "P4"], "x"),
    (
        "reads-and-merges.svg",
        "Reads and merges: CPU time, times plain SQLite",
        Part::Store,
        &["P6", "P7", "P8"],
        "x",
    ),
    ("polls.svg", "Polls: microseconds", Part::Store, &["P6"], "us"),
    ("sizes.svg", "Metadata and wire: bytes", Part::Store, &["P5", "P9"], "B"),
    ("worst.svg", "Worst cases: CPU time, times plain SQLite", Part::Worst, &["worst"], "x"),
    ("live.svg", "Live queries: microseconds", Part::Live, &["P10", "P11"], "us"),
    (
        "live-beside.svg",
        "Live queries beside other work: times that work alone",
        Part::Live,
        &["P12", "P13"],
        "x",
    ),
];

/// The plots of panels: file, title, part. Each has the cases of its part that are measured at several sizes.
const PANELS: &[(&str, &str, Part)] = &[
    ("growth.svg", "Growth: microseconds a row, or an operation", Part::Scale),
    ("live-growth.svg", "Live queries as rows and queries become more: microseconds, or bytes", Part::Live),
];

/// Writes everything that the figures are enough for.
pub(crate) fn all(figures: &[Figure], run: &Run) -> Result<()> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bench"));
    std::fs::create_dir_all(folder).context("could not create docs/bench")?;
    let write = |name: &str, text: String| {
        std::fs::write(folder.join(name), text).with_context(|| format!("could not write docs/bench/{name}"))
    };
    for part in Part::value_variants() {
        let own: Vec<&Figure> = figures.iter().filter(|figure| figure.part == *part).collect();
        if !own.is_empty() {
            write(&format!("{}.json", part.name()), format!("{:#}\n", document(&own, run)))?;
        }
    }
    for (name, title, part, numbers, unit) in DOTS {
        let shown = figures.iter().filter(|figure| {
            let named = figure.part == *part && numbers.contains(&figure.case.number);
            named && figure.unit() == *unit && figure.metric == Metric::Cpu
        });
        let lines: Vec<Dots> = shown.map(line).collect();
        if !lines.is_empty() {
            write(name, dots(title, unit, &lines))?;
        }
    }
    for (name, title, part) in PANELS {
        let grown = figures.iter().filter(|figure| figure.part == *part && figure.points.len() > 1);
        let grown: Vec<Panel> = grown.map(panel).collect();
        if !grown.is_empty() {
            write(name, panels(title, &grown))?;
        }
    }
    Ok(())
}

fn line(figure: &Figure) -> Dots {
    let goal = match figure.goal {
        Goal::AtMost(goal) => Some(goal),
        Goal::Open | Goal::Skip => None,
    };
    let others = [Side::ByHand, Side::CrSqlite].map(|side| Some((side, figure.of(side)?.value)));
    let label = format!("{} ({})", figure.case.name, figure.shape.letter);
    Dots { label, goal, others: others.into_iter().flatten().collect(), opor: figure.of(Side::Opor) }
}

fn panel(figure: &Figure) -> Panel {
    let rows = figure.points.iter().map(|point| point.size).max() > Some(1_000);
    let along = if rows { "rows" } else { "tables" };
    let of = |side: Side| {
        let points = figure.points.iter().filter_map(|point| Some((point.size as f64, middle(point, side)?)));
        (side, points.collect::<Vec<_>>())
    };
    Panel {
        title: format!("{} ({})", figure.case.name, figure.shape.letter),
        along,
        lines: figure
            .case
            .sides
            .iter()
            .map(|side| of(*side))
            .filter(|(_, points)| !points.is_empty())
            .collect(),
    }
}

fn middle(point: &Point, side: Side) -> Option<f64> {
    point.runs(side).map(|runs| crate::clock::median(runs.to_vec()))
}

fn document(figures: &[&Figure], run: &Run) -> Value {
    json!({
        "rows": run.rows,
        "sqlite": rusqlite::version(),
        "notes": run.notes,
        "figures": figures.iter().map(|figure| entry(figure)).collect::<Vec<_>>(),
    })
}

/// What should hold on any machine, and under `measured` what this one measured, run by run.
fn entry(figure: &Figure) -> Value {
    let goal = match figure.goal {
        Goal::AtMost(goal) => Some(goal),
        Goal::Open | Goal::Skip => None,
    };
    let own = figure.of(Side::Opor);
    json!({
        "number": figure.case.number,
        "case": figure.case.slug,
        "what": figure.case.name,
        "shape": figure.shape.letter,
        "unit": figure.unit(),
        "goal": goal,
        "value": own.map(|spread| spread.value),
        "min": own.map(|spread| spread.lo),
        "max": own.map(|spread| spread.hi),
        "by_hand": figure.of(Side::ByHand).map(|spread| spread.value),
        "cr_sqlite": figure.of(Side::CrSqlite).map(|spread| spread.value),
        "floor": figure.of(Side::Floor).map(|spread| spread.value),
        "measured": {
            "unit": figure.raw_unit(),
            "points": figure.points.iter().map(point).collect::<Vec<_>>(),
        },
    })
}

fn point(point: &Point) -> Value {
    let named = |side: Side| match side {
        Side::Plain => "plain",
        Side::ByHand => "by_hand",
        Side::CrSqlite => "cr_sqlite",
        Side::Opor => "opor",
        Side::Floor => "floor",
    };
    let runs =
        point.sides.keys().filter_map(|side| Some((named(*side).to_owned(), json!(point.runs(*side)?))));
    let mut entry: Map<String, Value> = runs.collect();
    entry.insert("size".to_owned(), json!(point.size));
    Value::Object(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::samples::{failed, figure};

    #[test]
    fn an_entry_holds_the_figure_and_every_run() {
        let expected = json!({
            "number": "P1", "case": "insert", "what": "insert, one transaction", "shape": "b", "unit": "x",
            "goal": 1.25, "value": 1.5, "min": 1.5, "max": 2.0, "by_hand": null, "cr_sqlite": null, "floor": null,
            "measured": {
                "unit": "seconds",
                "points": [{ "size": 1_000, "plain": [2.0, 2.0, 1.0], "opor": [3.0, 3.5, 2.0] }],
            },
        });
        assert_eq!(entry(&figure("insert", &[2.0, 2.0, 1.0], &[3.0, 3.5, 2.0])), expected);
    }

    #[test]
    fn what_could_not_be_measured_is_null() {
        let entry = entry(&failed("wire", "no codec"));
        assert_eq!((&entry["value"], &entry["unit"]), (&Value::Null, &json!("B")));
    }
}
