//! What a row, or an operation, costs as tables grow, or as there are more of them: microseconds.

use anyhow::Result;

use crate::clock::{cpu, overhead};
use crate::database::{Setting, Side, in_transaction};
use crate::shape::{Row, WRITTEN};
use crate::workload::{bulk, commits, merge, read};

/// How many rows a poll finds, whatever the table holds.
const FOUND: usize = 1_000;

/// How many rows are updated, each by a commit of its own.
const COMMITS: usize = 1_000;

/// How often each of them is.
const ROUNDS: usize = 2;

/// How often a database is opened.
const OPENED: usize = 20;

/// Insert, a row of one transaction.
pub(crate) fn insert(setting: &Setting<'_>, side: Side) -> Result<f64> {
    Ok(bulk::insert(setting, side)? * 1e6 / setting.rows as f64)
}

/// Merge into an empty replica, a row.
pub(crate) fn merge(setting: &Setting<'_>, side: Side) -> Result<f64> {
    Ok(merge::into_empty(setting, side)? * 1e6 / setting.rows as f64)
}

/// Poll, a row of those that the last commit inserted.
pub(crate) fn poll(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let written: Vec<Row> = (0..FOUND).map(|number| setting.shape.row(setting.rows + number)).collect();
    let before = database.version()?;
    in_transaction(&database, || database.insert(&written))?;
    Ok(read::micros_a_row(read::read_again(&database, before, &written)?, FOUND))
}

/// Update a row of a small table, in a transaction of its own.
pub(crate) fn commit(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let rows = setting.shape.rows(setting.rows.min(COMMITS));
    let rounds = std::iter::repeat_n(rows, ROUNDS);
    let mut value = WRITTEN;
    let seconds = commits::each(rounds, |rows| {
        value += 1;
        database.update(rows, value)
    })?;
    Ok(seconds * 1e6 / (ROUNDS * setting.rows.min(COMMITS)) as f64)
}

/// Open the file and read its schema.
pub(crate) fn open(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let mut total = -overhead() * OPENED as f64;
    for _ in 0..OPENED {
        // Closing is not counted.
        let (seconds, again) = cpu(|| database.open_again(setting))?;
        drop(again);
        total += seconds;
    }
    Ok(total * 1e6 / OPENED as f64)
}
