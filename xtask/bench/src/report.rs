//! The table that a run ends with.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::case::Basis;
use crate::database::Medium;
use crate::figure::{Figure, Metric, NEAR, Verdict};

/// One line a figure: goal, bar, what was measured, verdict.
pub(crate) fn table(figures: &[Figure]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header(["#", "what", "shape", "plain", "opor", "goal", "1.5x goal", "measured", "verdict"]);
    for index in 3..8 {
        let column = table.column_mut(index).expect("the header has nine columns");
        column.set_cell_alignment(CellAlignment::Right);
    }
    for figure in figures {
        table.add_row(row(figure));
    }
    table
}

fn row(figure: &Figure) -> [String; 9] {
    let unit = figure.unit();
    let with_unit =
        |value: f64| if unit == "x" { format!("{value:.2}x") } else { format!("{value:.1} {unit}") };
    let (plain, opor) = match &figure.outcome {
        Ok(measured) => (measured.plain.map(|plain| side(figure, plain)), Some(side(figure, measured.opor))),
        Err(_) => (None, None),
    };
    let verdict = match figure.verdict() {
        Verdict::Reached => "goal reached".to_owned(),
        Verdict::Near => "within 1.5x".to_owned(),
        Verdict::Far => "over 1.5x".to_owned(),
        Verdict::Failed => {
            figure.outcome.as_ref().err().map_or_else(String::new, |why| format!("not measured: {why:#}"))
        }
    };
    [
        figure.case.number.to_owned(),
        figure.case.name.to_owned(),
        figure.shape.letter.to_owned(),
        plain.unwrap_or_default(),
        opor.unwrap_or_default(),
        with_unit(figure.goal),
        with_unit(figure.goal * NEAR),
        figure.value().map(with_unit).unwrap_or_default(),
        verdict,
    ]
}

/// What one side measured.
fn side(figure: &Figure, value: f64) -> String {
    match (figure.metric, figure.case.basis) {
        (Metric::Instructions, _) => format!("{:.1} Minstr", value / 1e6),
        (Metric::Cpu, Basis::Ratio) => format!("{:.1} ms", value * 1e3),
        (Metric::Cpu, Basis::Extra(unit) | Basis::Alone(unit)) => format!("{value:.1} {unit}"),
    }
}

/// What the table says as a whole.
pub(crate) fn footer(figures: &[Figure], rows: usize, runs: usize, medium: Medium) -> String {
    let count = |verdict| figures.iter().filter(|figure| figure.verdict() == verdict).count();
    let place = match medium {
        Medium::File => "databases in files (WAL, synchronous NORMAL)",
        Medium::Memory => "databases in memory",
    };
    let shapes = crate::shape::SHAPES.iter().map(|shape| format!("{}: {}", shape.letter, shape.name));
    format!(
        "{}\n{rows} rows, {place}; CPU time, medians of {runs} runs, both sides in turn\n\
         {} figures: {} reach the goal, {} are within 1.5x, {} are not, {} could not be measured",
        shapes.collect::<Vec<_>>().join("; "),
        figures.len(),
        count(Verdict::Reached),
        count(Verdict::Near),
        count(Verdict::Far),
        count(Verdict::Failed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::samples::{failed, figure};

    #[test]
    fn a_line_holds_goal_bar_measure_and_verdict() {
        let line = row(&figure("insert", Some(0.1), 0.13));
        assert_eq!(line[3..], ["100.0 ms", "130.0 ms", "1.25x", "1.88x", "1.30x", "within 1.5x"]);
        let line = row(&figure("poll-one", None, 9.0));
        assert_eq!(line[3..], ["", "9.0 us", "5.0 us", "7.5 us", "9.0 us", "over 1.5x"]);
    }

    #[test]
    fn what_could_not_be_measured_says_why() {
        let line = row(&failed("wire", "no codec"));
        assert_eq!(line[7..], ["", "not measured: no codec"]);
    }

    #[test]
    fn the_footer_counts_verdicts() {
        let figures =
            [figure("insert", Some(1.0), 1.0), figure("insert", Some(1.0), 9.0), failed("wire", "no")];
        let footer = footer(&figures, 1_000, 3, Medium::File);
        let expected = "3 figures: 1 reach the goal, 0 are within 1.5x, 1 are not, 1 could not be measured";
        assert_eq!(footer.lines().last(), Some(expected));
    }
}
