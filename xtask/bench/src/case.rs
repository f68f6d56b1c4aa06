//! The cases and their goals: the table of numbers to reach.

use anyhow::Result;

use crate::database::{Setting, Side};
use crate::shape::Shape;
use crate::workload::{bulk, commits, merge, read, size, wire};

/// How a figure comes from what the sides measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// CPU time of opor over that of plain SQLite.
    Ratio,
    /// What opor has more than plain SQLite, in this unit.
    Extra(&'static str),
    /// What opor has, in this unit; plain SQLite has nothing like it.
    Alone(&'static str),
}

/// The goals for shapes a, b and c; `None` where the case makes no sense.
type Goals = [Option<f64>; 3];

/// One thing to measure.
#[derive(Debug)]
pub(crate) struct Case {
    /// The line of the table of goals.
    pub(crate) number: &'static str,
    /// Its name on the command line.
    pub(crate) slug: &'static str,
    /// Its name in a report.
    pub(crate) name: &'static str,
    pub(crate) basis: Basis,
    goals: Goals,
    /// The goal in instructions instead of CPU time, where there is one.
    pub(crate) instructions: Option<f64>,
    /// Whether it says nothing about a database in memory.
    pub(crate) needs_file: bool,
    /// Whether every run gives the same.
    pub(crate) exact: bool,
    pub(crate) measure: fn(&Setting<'_>, Side) -> Result<f64>,
}

impl Case {
    /// The most this may be on a shape.
    pub(crate) fn goal(&self, shape: &Shape) -> Option<f64> {
        let place = ["a", "b", "c"].iter().position(|letter| *letter == shape.letter)?;
        self.goals[place]
    }

    const fn ratio(
        [number, slug, name]: [&'static str; 3],
        goals: Goals,
        measure: fn(&Setting<'_>, Side) -> Result<f64>,
    ) -> Self {
        let basis = Basis::Ratio;
        Self {
            number,
            slug,
            name,
            basis,
            goals,
            instructions: None,
            needs_file: false,
            exact: false,
            measure,
        }
    }

    const fn count(
        [number, slug, name]: [&'static str; 3],
        basis: Basis,
        goals: Goals,
        measure: fn(&Setting<'_>, Side) -> Result<f64>,
    ) -> Self {
        Self { number, slug, name, basis, goals, instructions: None, needs_file: false, exact: true, measure }
    }

    const fn instructions(self, goal: f64) -> Self {
        Self { instructions: Some(goal), ..self }
    }

    const fn in_files(self) -> Self {
        Self { needs_file: true, ..self }
    }

    const fn timed(self) -> Self {
        Self { exact: false, ..self }
    }
}

const fn all(goal: f64) -> Goals {
    [Some(goal), Some(goal), Some(goal)]
}

const BYTES: &str = "B";
const MICROS: &str = "us";

/// Every case, in the order of the report.
pub(crate) const CASES: &[Case] = &[
    Case::ratio(["P1", "insert", "insert, one transaction"], all(1.25), bulk::insert).instructions(1.10),
    Case::ratio(["P2", "commit-insert", "insert, one row a commit"], all(1.45), commits::insert),
    Case::ratio(
        ["P2", "commit-update", "update, one row a commit"],
        [Some(1.45), Some(1.6), Some(1.45)],
        commits::update,
    ),
    Case::count(
        ["P2", "wal-insert", "extra WAL pages a commit, insert"],
        Basis::Extra("pages"),
        all(1.1),
        commits::insert_pages,
    )
    .in_files(),
    Case::count(
        ["P2", "wal-update", "extra WAL pages a commit, update"],
        Basis::Extra("pages"),
        all(1.1),
        commits::update_pages,
    )
    .in_files(),
    Case::ratio(["P3", "update-all", "update a column, one statement"], all(1.5), bulk::update_all),
    Case::ratio(["P3", "update-by-key", "update a column, by key"], all(1.3), bulk::update_by_key),
    Case::ratio(["P4", "delete-half", "delete half, one statement"], all(1.7), bulk::delete_half),
    Case::ratio(["P4", "delete-by-key", "delete half, by key"], all(1.7), bulk::delete_by_key),
    Case::count(["P5", "size-row", "metadata a row"], Basis::Extra(BYTES), all(1.0), size::rows),
    Case::count(
        ["P5", "size-cell", "metadata a cell written alone"],
        Basis::Extra(BYTES),
        all(10.0),
        size::lone_cells,
    ),
    Case::count(["P5", "size-tombstone", "a tombstone"], Basis::Extra(BYTES), all(45.0), size::tombstones),
    Case::count(
        ["P5", "size-sparse", "metadata a row, random integer keys"],
        Basis::Extra(BYTES),
        [None, Some(45.0), None],
        size::sparse_rows,
    ),
    Case::ratio(["P6", "read-all", "read the whole log, x SELECT *"], all(1.8), read::whole_log)
        .instructions(1.8),
    Case::ratio(["P6", "read-last", "read the last 1 %, x SELECT by key"], all(1.1), read::last_percent),
    Case::count(["P6", "poll-one", "poll, one change"], Basis::Alone(MICROS), all(5.0), read::one_change)
        .timed(),
    Case::count(["P6", "poll-empty", "poll, no change"], Basis::Alone(MICROS), all(1.0), read::empty_poll)
        .timed(),
    Case::ratio(["P7", "merge", "merge into an empty replica, x insert"], all(1.25), merge::into_empty)
        .instructions(1.25),
    Case::ratio(["P7", "merge-won", "merge, cells won, x update"], all(1.5), merge::cells_won),
    Case::ratio(["P7", "merge-lost", "merge, cells lost, x update"], all(1.05), merge::cells_lost),
    Case::ratio(["P8", "merge-again", "merge again, x one lookup a row"], all(1.2), merge::again),
    Case::count(
        ["P9", "wire", "wire, a row"],
        Basis::Alone(BYTES),
        [Some(48.0), Some(97.0), Some(58.0)],
        wire::raw,
    ),
    Case::count(
        ["P9", "wire-zstd", "wire, a row, compressed"],
        Basis::Alone(BYTES),
        [Some(26.0), Some(53.0), Some(17.0)],
        wire::compressed,
    ),
    Case::count(["P9", "wire-cell", "wire, one cell alone"], Basis::Alone(BYTES), all(123.0), wire::one_cell),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::database::Medium;
    use crate::shape::SHAPES;

    #[test]
    fn names_are_distinct() {
        let slugs: BTreeSet<&str> = CASES.iter().map(|case| case.slug).collect();
        assert_eq!(slugs.len(), CASES.len());
    }

    #[test]
    fn every_case_with_a_plain_side_measures_it() {
        let folder = tempfile::tempdir().unwrap();
        for case in CASES.iter().filter(|case| !matches!(case.basis, Basis::Alone(_))) {
            for shape in SHAPES.iter().filter(|shape| case.goal(shape).is_some()) {
                let setting = Setting { shape, rows: 1_000, medium: Medium::File, folder: folder.path() };
                let measured = (case.measure)(&setting, Side::Plain).unwrap();
                // So few rows may fit into the pages of the empty table.
                let right = measured > 0.0 || (measured == 0.0 && case.exact);
                assert!(right, "{} on shape {}: {measured}", case.slug, shape.letter);
            }
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no file is left behind");
    }
}
