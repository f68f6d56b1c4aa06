//! What a run leaves under `docs/bench`: the figures as JSON, and the plots.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::figure::{Figure, Metric};
use crate::plot::{self, Plot};

/// Which cases stand in which plot.
const PLOTS: &[(&str, &str, &[&str])] = &[
    ("writes.svg", "Writes: CPU time, times plain SQLite", &["P1", "P2", "P3", "P4"]),
    ("reads-and-merges.svg", "Reads and merges: CPU time, times plain SQLite", &["P6", "P7", "P8"]),
    ("sizes.svg", "Metadata and wire: bytes", &["P5", "P9"]),
];

/// Writes everything.
pub(crate) fn all(figures: &[Figure], rows: usize, runs: usize) -> Result<()> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/bench"));
    std::fs::create_dir_all(folder).context("could not create docs/bench")?;
    let write = |name: &str, text: String| {
        std::fs::write(folder.join(name), text).with_context(|| format!("could not write docs/bench/{name}"))
    };
    write("store.json", format!("{:#}\n", document(figures, rows, runs)))?;
    for (name, title, numbers) in PLOTS {
        let unit = if *name == "sizes.svg" { "B" } else { "x" };
        let shown = figures.iter().filter(|figure| {
            numbers.contains(&figure.case.number) && figure.unit() == unit && figure.metric == Metric::Cpu
        });
        write(name, plot::svg(&Plot { title, unit, bars: shown.filter_map(bar).collect() }))?;
    }
    Ok(())
}

fn bar(figure: &Figure) -> Option<plot::Bar> {
    let label = format!("{} {} ({})", figure.case.number, figure.case.name, figure.shape.letter);
    Some(plot::Bar { label, value: figure.value()?, goal: figure.goal })
}

fn document(figures: &[Figure], rows: usize, runs: usize) -> Value {
    json!({
        "rows": rows,
        "runs": runs,
        "sqlite": rusqlite::version(),
        "figures": figures.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn entry(figure: &Figure) -> Value {
    let measured = figure.outcome.as_ref().ok();
    let metric = match (figure.metric, figure.unit()) {
        (Metric::Instructions, _) => "instructions",
        (Metric::Cpu, "x") => "cpu seconds",
        (Metric::Cpu, unit) => unit,
    };
    json!({
        "number": figure.case.number,
        "case": figure.case.slug,
        "what": figure.case.name,
        "shape": figure.shape.letter,
        "metric": metric,
        "plain": measured.and_then(|measured| measured.plain),
        "opor": measured.map(|measured| measured.opor),
        "value": figure.value(),
        "goal": figure.goal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::samples::{failed, figure};

    #[test]
    fn an_entry_holds_both_sides_and_the_figure() {
        let expected = json!({
            "number": "P1", "case": "insert", "what": "insert, one transaction", "shape": "a",
            "metric": "cpu seconds", "plain": 2.0, "opor": 3.0, "value": 1.5, "goal": 1.25,
        });
        assert_eq!(entry(&figure("insert", Some(2.0), 3.0)), expected);
    }

    #[test]
    fn what_could_not_be_measured_is_null() {
        let entry = entry(&failed("wire", "no codec"));
        assert_eq!((&entry["value"], &entry["metric"]), (&Value::Null, &json!("B")));
    }
}
