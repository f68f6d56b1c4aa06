//! The tables of cases, one for each part of the benchmark: the numbers to reach.

use anyhow::Result;
use clap::ValueEnum;

use crate::case::Basis::{Alone, Extra, Growth, Ratio};
use crate::case::Goal::{AtMost, Open};
use crate::case::{Case, Goal, Sizes, all, each, only_b, two, wide};
use crate::database::{Setting, Side};
use crate::workload::{
    bulk, commits, growth, live, live_merge, memory, merge, read, size, sync, upkeep, wire, worst,
};

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Writes, reads, merges and sizes against ordinary tables.
    Store,
    /// What a row costs as tables grow, and an operation as there are more tables.
    Scale,
    /// Opening, upgrading, changing the schema, packing; memory.
    Upkeep,
    /// What opor's storage likes least.
    Worst,
    /// Two replicas over a WebSocket.
    Sync,
    /// Queries that stay current.
    Live,
}

impl Part {
    /// Its name on the command line and in files.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Scale => "scale",
            Self::Upkeep => "upkeep",
            Self::Worst => "worst",
            Self::Sync => "sync",
            Self::Live => "live",
        }
    }

    /// Its cases, in the order of the report.
    pub(crate) const fn cases(self) -> &'static [Case] {
        match self {
            Self::Store => STORE,
            Self::Scale => SCALE,
            Self::Upkeep => UPKEEP,
            Self::Worst => WORST,
            Self::Sync => SYNC,
            Self::Live => LIVE,
        }
    }
}

/// Every case with its part.
pub(crate) fn every() -> impl Iterator<Item = (Part, &'static Case)> {
    Part::value_variants().iter().flat_map(|part| part.cases().iter().map(|case| (*part, case)))
}

const BYTES: &str = "B";
/// One look at a cursor, in a write transaction, whatever the changeset holds.
const COVERED: f64 = 50.0;
const MICROS: &str = "us";
const MEGABYTES: &str = "MB";
const MILLIS: &str = "ms";
const SECONDS: &str = "s";
const TIMES: &str = "x";

/// Writes, which have a floor.
const WRITES: &[Side] = &[Side::Plain, Side::ByHand, Side::CrSqlite, Side::Floor, Side::Opor];

/// The sides that have a log.
const LOGS: &[Side] = &[Side::ByHand, Side::CrSqlite, Side::Opor];

/// Only opor itself.
const OPOR: &[Side] = &[Side::Opor];

/// A file that is copied, and a replica.
const COPY: &[Side] = &[Side::Plain, Side::Opor];

/// Where a table kept by hand would be another program, or take long and tell little.
const NOT_BY_HAND: &[Side] = &[Side::Plain, Side::CrSqlite, Side::Opor];

/// By hand: where only tables are known, every query of a table is run again.
const BY_TABLES: &[Side] = &[Side::ByHand, Side::Opor];

/// Ten, a hundred and a thousand rows for each thousand that is asked for.
const UP_TO_ALL: Sizes = Sizes::Rows(&[10, 100, 1_000]);

/// On a table of its own; a shape has to be named.
const LIVE: &[Case] = &[
    live_case(
        ["P10", "diff-p50", "commit until its diff, a query by = for every ten rows, p50"],
        MICROS,
        AtMost(100.0),
        live::diff_p50,
    )
    .sides(BY_TABLES)
    .sizes(UP_TO_ALL),
    live_case(["P10", "diff-p99", "commit until its diff, p99"], MICROS, AtMost(500.0), live::diff_p99),
    live_case(
        ["P11", "route-equal", "routing a change: added by a query by = for every row"],
        MICROS,
        AtMost(0.5),
        live::route_equal,
    ),
    live_case(
        ["P11", "route-range", "routing a change: added by a query by range for every row"],
        MICROS,
        AtMost(3.0),
        live::route_range,
    ),
    live_case(
        ["P12", "disjoint", "a writer beside 50 queries of other columns"],
        TIMES,
        AtMost(1.10),
        live::disjoint,
    ),
    Case::new(
        ["P13", "merge-live", "a merge of 100,000 rows beside 1,000 queries, one update each, x alone"],
        Ratio,
        only_b(AtMost(1.2)),
        live_merge::merge,
    )
    .sides(COPY)
    .in_files(),
    Case::new(
        ["P13", "merge-told", "the same, and each row is in a result"],
        Ratio,
        only_b(Open),
        live_merge::merge_all_told,
    )
    .sides(COPY)
    .in_files(),
    live_case(["live", "binding", "memory of one more open query"], BYTES, AtMost(400.0), live::memory)
        .sizes(Sizes::Rows(&[100, 1_000])),
    live_case(
        ["live", "stalled", "memory of a reader who stalls for 100,000 commits"],
        MEGABYTES,
        AtMost(32.0),
        live_merge::stalled,
    ),
];

const fn live_case(
    names: [&'static str; 3],
    unit: &'static str,
    goal: Goal,
    measure: fn(&Setting<'_>, Side) -> Result<f64>,
) -> Case {
    Case::new(names, Alone(unit), only_b(goal), measure).sides(OPOR).own_process()
}

const STORE: &[Case] = &[
    Case::new(["P1", "insert", "insert, one transaction"], Ratio, all(1.25), bulk::insert)
        .instructions(1.10)
        .sides(WRITES),
    Case::new(["P2", "commit-insert", "insert, one row a commit"], Ratio, all(1.45), commits::insert)
        .sides(WRITES),
    Case::new(
        ["P2", "commit-update", "update, one row a commit"],
        Ratio,
        each(1.45, 1.6, 1.45),
        commits::update,
    )
    .sides(WRITES),
    Case::new(
        ["P2", "wal-insert", "extra WAL pages a commit, insert"],
        Extra("pages"),
        all(1.1),
        commits::insert_pages,
    )
    .in_files()
    .exact(),
    Case::new(
        ["P2", "wal-update", "extra WAL pages a commit, update"],
        Extra("pages"),
        all(1.1),
        commits::update_pages,
    )
    .in_files()
    .exact(),
    Case::new(["P3", "update-all", "update a column, one statement"], Ratio, all(1.5), bulk::update_all)
        .sides(WRITES),
    Case::new(["P3", "update-by-key", "update a column, by key"], Ratio, all(1.3), bulk::update_by_key)
        .sides(WRITES),
    Case::new(["P4", "delete-half", "delete half, one statement"], Ratio, all(1.7), bulk::delete_half)
        .sides(WRITES),
    Case::new(["P4", "delete-by-key", "delete half, by key"], Ratio, all(1.7), bulk::delete_by_key)
        .sides(WRITES),
    Case::new(["P5", "size-row", "metadata a row"], Extra(BYTES), all(1.0), size::rows).exact(),
    Case::new(
        ["P5", "size-cell", "metadata a cell written alone"],
        Extra(BYTES),
        all(10.0),
        size::lone_cells,
    )
    .exact(),
    Case::new(["P5", "size-tombstone", "a tombstone"], Extra(BYTES), all(45.0), size::tombstones).exact(),
    Case::new(
        ["P5", "size-sparse", "metadata a row, random integer keys"],
        Extra(BYTES),
        only_b(AtMost(45.0)),
        size::sparse_rows,
    )
    .exact(),
    Case::new(["P6", "read-all", "read the whole log, x SELECT *"], Ratio, all(1.8), read::whole_log)
        .instructions(1.8),
    Case::new(["P6", "read-last", "read the last 1 %, x SELECT by key"], Ratio, all(1.1), read::last_percent),
    Case::new(["P6", "poll-one", "poll, one change"], Alone(MICROS), all(5.0), read::one_change).sides(LOGS),
    Case::new(["P6", "poll-empty", "poll, no change"], Alone(MICROS), all(1.0), read::empty_poll).sides(LOGS),
    Case::new(["P7", "merge", "merge into an empty replica, x insert"], Ratio, all(1.25), merge::into_empty)
        .instructions(1.25),
    Case::new(["P7", "merge-won", "merge, cells won, x update"], Ratio, all(1.5), merge::cells_won),
    Case::new(["P7", "merge-lost", "merge, cells lost, x update"], Ratio, all(1.05), merge::cells_lost),
    Case::new(["P8", "merge-again", "merge again, x one lookup a row"], Ratio, all(1.2), merge::again),
    Case::new(
        ["P8", "merge-covered", "merge again, told by the cursor"],
        Alone(MICROS),
        all(COVERED),
        merge::covered,
    )
    .sides(OPOR),
    Case::new(["P9", "wire", "wire, a row"], Alone(BYTES), each(48.0, 97.0, 58.0), wire::raw)
        .exact()
        .sides(OPOR),
    Case::new(
        ["P9", "wire-zstd", "wire, a row, compressed"],
        Alone(BYTES),
        each(26.0, 53.0, 17.0),
        wire::compressed,
    )
    .exact()
    .sides(OPOR),
    Case::new(["P9", "wire-cell", "wire, one cell alone"], Alone(BYTES), all(123.0), wire::one_cell)
        .exact()
        .sides(OPOR),
    Case::new(
        ["P9", "wire-session", "wire, one cell within a session"],
        Alone(BYTES),
        all(60.0),
        wire::one_cell_in_session,
    )
    .exact()
    .sides(OPOR),
];

/// From a tenth of the rows to ten times as many.
const DECADES: Sizes = Sizes::RowsAndHuge(&[100, 1_000, 10_000]);

/// One table and as many as a large application has.
const TABLES: Sizes = Sizes::Tables(&[1, 10, 200]);

/// What P16 allows.
const FLAT: f64 = 1.5;

const SCALE: &[Case] = &[
    Case::new(["P16", "grow-insert", "insert, a row"], Growth(MICROS), two(AtMost(FLAT)), growth::insert)
        .sizes(DECADES)
        .sides(NOT_BY_HAND),
    Case::new(["P16", "grow-merge", "merge, a row"], Growth(MICROS), two(AtMost(FLAT)), growth::merge)
        .sizes(DECADES)
        .sides(NOT_BY_HAND),
    Case::new(
        ["P16", "grow-poll", "poll, a row of 1,000 found"],
        Growth(MICROS),
        two(AtMost(FLAT)),
        growth::poll,
    )
    .sizes(DECADES),
    Case::new(
        ["P16", "tables-empty", "poll, no change"],
        Growth(MICROS),
        only_b(AtMost(FLAT)),
        read::empty_poll,
    )
    .sizes(TABLES)
    .sides(&[Side::CrSqlite, Side::Opor]),
    Case::new(
        ["P16", "tables-one", "poll, one change"],
        Growth(MICROS),
        only_b(AtMost(FLAT)),
        read::one_change,
    )
    .sizes(TABLES)
    .sides(&[Side::CrSqlite, Side::Opor]),
    Case::new(
        ["P16", "tables-commit", "commit of one row"],
        Growth(MICROS),
        only_b(AtMost(FLAT)),
        growth::commit,
    )
    .sizes(TABLES)
    .sides(NOT_BY_HAND),
    Case::new(["", "tables-open", "open the database"], Growth(MICROS), only_b(Open), growth::open)
        .sizes(TABLES)
        .sides(NOT_BY_HAND)
        .in_files(),
];

/// Ten times the rows.
const TENFOLD: Sizes = Sizes::Rows(&[10_000]);

/// The rows, and ten times as many.
const TO_TENFOLD: Sizes = Sizes::Rows(&[1_000, 10_000]);

const UPKEEP: &[Case] = &[
    Case::new(["", "open", "open the database"], Alone(MICROS), two(Open), growth::open).in_files(),
    Case::new(["", "replicate", "upgrade a full table, a row"], Alone(MICROS), two(Open), upkeep::replicate)
        .sizes(TENFOLD)
        .sides(LOGS)
        .in_files(),
    Case::new(
        ["", "add-column", "add a column, write and poll"],
        Growth(MICROS),
        two(AtMost(FLAT)),
        upkeep::add_column,
    )
    .sizes(Sizes::Rows(&[100, 10_000]))
    .sides(&[Side::Plain, Side::ByHand, Side::Opor]),
    Case::new(["", "vacuum", "VACUUM and one write"], Ratio, two(Open), upkeep::vacuum).in_files(),
    Case::new(
        ["", "memory-merge", "memory, merge at once"],
        Alone(MEGABYTES),
        two(Open),
        memory::merge_at_once,
    )
    .own_process()
    .sides(LOGS),
    Case::new(
        ["", "memory-read", "memory, read the log in pieces"],
        Growth(MEGABYTES),
        two(AtMost(FLAT)),
        memory::read_in_pieces,
    )
    .own_process()
    .sizes(TO_TENFOLD)
    .sides(LOGS),
    Case::new(
        ["", "memory-pieces", "memory, merge in pieces"],
        Growth(MEGABYTES),
        two(AtMost(FLAT)),
        memory::merge_in_pieces,
    )
    .own_process()
    .sizes(TO_TENFOLD)
    .sides(LOGS),
    Case::new(
        ["P15", "bootstrap", "a replica from a snapshot, x as safely by hand"],
        Ratio,
        two(AtMost(2.0)),
        upkeep::bootstrap,
    )
    .sizes(TENFOLD)
    .sides(&[Side::Plain, Side::Opor])
    .in_files(),
    Case::new(
        ["P15", "bootstrap-copy", "a replica from a snapshot, x copying the file"],
        Ratio,
        two(Open),
        upkeep::bootstrap_or_copy,
    )
    .sizes(TENFOLD)
    .sides(&[Side::Plain, Side::Opor])
    .in_files(),
    Case::new(["", "compact", "compaction, a tombstone"], Alone(MICROS), two(Open), upkeep::compact)
        .sides(OPOR),
];

/// What no case may exceed.
const WORST_MAX: f64 = 3.0;

/// A fiftieth of the rows: as many cells as the rows of shape b have.
const FEW: Sizes = Sizes::Rows(&[20]);

const WORST: &[Case] = &[
    Case::new(
        ["worst", "random-updates", "update at random, one row a commit"],
        Ratio,
        two(AtMost(WORST_MAX)),
        commits::update,
    )
    .sizes(TENFOLD)
    .sides(NOT_BY_HAND),
    Case::new(
        ["worst", "many-sites", "merge, 64 sites in turn"],
        Ratio,
        two(AtMost(WORST_MAX)),
        worst::many_sites,
    )
    .sides(NOT_BY_HAND),
    Case::new(
        ["worst", "churn", "insert and delete in turn, a commit each"],
        Ratio,
        two(AtMost(WORST_MAX)),
        worst::insert_and_delete,
    )
    .sides(NOT_BY_HAND),
    Case::new(
        ["worst", "scattered-poll", "poll, 1,000 rows all over, x SELECT by key"],
        Ratio,
        two(AtMost(WORST_MAX)),
        worst::scattered_poll,
    )
    .sizes(TENFOLD),
    Case::new(["worst", "wide-insert", "insert, one transaction"], Ratio, wide(WORST_MAX), bulk::insert)
        .sizes(FEW),
    Case::new(
        ["worst", "wide-update", "update a column, by key"],
        Ratio,
        wide(WORST_MAX),
        bulk::update_by_key,
    )
    .sizes(FEW),
    Case::new(
        ["worst", "wide-rows", "update every column, by key"],
        Ratio,
        wide(WORST_MAX),
        worst::update_whole_rows,
    )
    .sizes(FEW),
    Case::new(
        ["worst", "wide-merge", "merge into an empty replica, x insert"],
        Ratio,
        wide(WORST_MAX),
        merge::into_empty,
    )
    .sizes(FEW),
];

/// What both sides of a catch-up may take in memory, however long the log is: two pieces of it on their way, read, sent,
/// received and merged, and the page caches of six connections.
const SYNC_MEGABYTES_MAX: f64 = 96.0;

const SYNC: &[Case] = &[
    Case::new(
        ["P14", "live-p50", "live edit, until it is there, p50"],
        Alone(MILLIS),
        only_b(AtMost(2.0)),
        sync::live_p50,
    )
    .sides(OPOR)
    .in_files(),
    Case::new(
        ["P14", "live-p99", "live edit, until it is there, p99"],
        Alone(MILLIS),
        only_b(AtMost(10.0)),
        sync::live_p99,
    )
    .sides(OPOR)
    .in_files(),
    Case::new(
        ["", "catch-up", "catch up by the log, x applying it"],
        Alone(TIMES),
        two(AtMost(2.0)),
        sync::catch_up,
    )
    .sides(OPOR)
    .in_files(),
    Case::new(
        ["", "memory-sync", "memory, both sides, catching up with edits"],
        Alone(MEGABYTES),
        two(AtMost(SYNC_MEGABYTES_MAX)),
        sync::memory,
    )
    .own_process()
    .sides(OPOR),
    Case::new(
        ["P15", "bootstrap-sync", "a replica by snapshot, x as safely by hand"],
        Ratio,
        two(AtMost(2.0)),
        sync::by_snapshot_or_hand,
    )
    .sizes(TENFOLD)
    .sides(COPY)
    .in_files(),
    Case::new(
        ["P15", "bootstrap-sync-copy", "a replica by snapshot, x copying the file"],
        Ratio,
        two(Open),
        sync::by_snapshot,
    )
    .sizes(TENFOLD)
    .sides(COPY)
    .in_files(),
    Case::new(
        ["", "snapshot-clock", "a replica by snapshot, on the clock"],
        Alone(SECONDS),
        two(Open),
        sync::by_snapshot_clock,
    )
    .sizes(TENFOLD)
    .sides(COPY)
    .in_files(),
    Case::new(["", "log-sync", "a replica by the log, x copying the file"], Ratio, two(Open), sync::by_log)
        .sizes(TENFOLD)
        .sides(COPY)
        .in_files(),
    Case::new(
        ["", "log-clock", "a replica by the log, on the clock"],
        Alone(SECONDS),
        two(Open),
        sync::by_log_clock,
    )
    .sizes(TENFOLD)
    .sides(OPOR)
    .in_files(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::case::Goal;
    use crate::database::{Medium, Setting};
    use crate::shape::SHAPES;

    #[test]
    fn names_are_distinct() {
        let slugs: BTreeSet<&str> = every().map(|(_, case)| case.slug).collect();
        assert_eq!(slugs.len(), every().count());
    }

    #[test]
    fn every_case_can_be_measured_on_every_side_but_the_genuine_one() {
        let folder = tempfile::tempdir().unwrap();
        for (_, case) in every().filter(|(_, case)| !case.traits.own_process) {
            for shape in SHAPES.iter().filter(|shape| case.goal(shape) != Goal::Skip) {
                let setting = Setting {
                    shape,
                    rows: 1_000,
                    tables: 2,
                    medium: Medium::File,
                    folder: folder.path(),
                    crsqlite: None,
                };
                for side in case.sides.iter().filter(|side| **side != Side::CrSqlite) {
                    let measured = (case.measure)(&setting, *side).unwrap();
                    // So few rows may fit into the pages of the empty table.
                    let right = measured > 0.0 || (measured == 0.0 && case.traits.exact);
                    assert!(right, "{} on shape {}, {side:?}: {measured}", case.slug, shape.letter);
                }
            }
        }
        let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| !name.to_string_lossy().ends_with(".filled")).collect();
        assert_eq!(left, [""; 0], "only filled databases are kept");
    }

    #[test]
    fn sizes_are_parts_of_the_rows_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let base = Setting {
            shape: &SHAPES[1],
            rows: 100_000,
            tables: 1,
            medium: Medium::File,
            folder: folder.path(),
            crsqlite: None,
        };
        let sizes = |slug: &str, huge| -> Vec<(usize, usize)> {
            let (_, case) = every().find(|(_, case)| case.slug == slug).unwrap();
            case.settings(&base, huge).iter().map(|(size, setting)| (*size, setting.rows)).collect()
        };
        assert_eq!(sizes("insert", true), [(100_000, 100_000)]);
        assert_eq!(sizes("grow-insert", false), [10_000, 100_000, 1_000_000].map(|rows| (rows, rows)));
        assert_eq!(sizes("grow-insert", true).last(), Some(&(10_000_000, 10_000_000)));
        assert_eq!(sizes("tables-open", false), [(1, 1_000), (10, 1_000), (200, 1_000)]);
    }
}
