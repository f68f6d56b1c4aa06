//! Reading the change log, against reading the rows.

use anyhow::{Result, ensure};
use rusqlite::params_from_iter;

use crate::clock::{Stopwatch, cpu, overhead};
use crate::database::{Database, Setting, Side, in_transaction};
use crate::log::{PIECE, Reader};
use crate::shape::{Row, WRITTEN};

/// How often a short read is repeated, so that it lasts long against the resolution of the clock.
const REPEATS: usize = 20;

/// How many polls are measured one by one, a commit before each.
const POLLS: usize = 1_000;

/// How many polls that find nothing are measured in one go.
const EMPTY_POLLS: usize = 100_000;

/// As many of a side that looks at every table.
const SLOW_POLLS: usize = 2_000;

/// The whole log, against every row.
pub(crate) fn whole_log(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let (mut watch, mut found) = (Stopwatch::default(), 0);
    Reader::new(&database)?.pieces(PIECE, &mut watch, |piece| {
        found += piece.len();
        Ok(())
    })?;
    let expected = setting.rows * if side == Side::CrSqlite { setting.shape.others.len() } else { 1 };
    ensure!(found == expected, "{found} rows were read");
    Ok(watch.seconds())
}

/// The log of the last commit, which inserted as many rows as 1 % of the others, against those rows by key.
pub(crate) fn last_percent(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let last: Vec<Row> =
        (setting.rows..setting.rows + setting.rows / 100).map(|index| setting.shape.row(index)).collect();
    let before = database.version()?;
    in_transaction(&database, || database.insert(&last))?;
    read_again(&database, before, &last)
}

/// CPU seconds of reading what was written after a version, many times; on a plain table the same rows by key.
pub(crate) fn read_again(database: &Database, before: i64, written: &[Row]) -> Result<f64> {
    if database.sql.side == Side::Plain {
        return select_again(database, written);
    }
    let mut reader = Reader::new(database)?;
    let (seconds, read) = cpu(|| {
        let polls = std::iter::repeat_with(|| reader.since(before)).take(REPEATS);
        polls.collect::<Result<Vec<_>>>()
    })?;
    let right = read.iter().all(|piece| piece.len() >= written.len());
    ensure!(right, "a poll did not find the {} rows of the last commit", written.len());
    Ok(seconds)
}

fn select_again(database: &Database, written: &[Row]) -> Result<f64> {
    let shape = database.sql.shape;
    let columns = shape.key.len() + shape.others.len();
    let mut statement = database.prepare(&database.sql.select_by_key("*"))?;
    let mut read: Vec<Row> = Vec::new();
    // In one transaction, as reading the log is.
    let select = || {
        for row in std::iter::repeat_n(written, REPEATS).flatten() {
            let key = params_from_iter(shape.key_of(row));
            read.push(statement.query_row(key, |row| (0..columns).map(|column| row.get(column)).collect())?);
        }
        Ok(())
    };
    let (seconds, ()) = cpu(|| in_transaction(database, select))?;
    ensure!(read.len() == written.len() * REPEATS, "{} rows were read", read.len());
    Ok(seconds)
}

/// Microseconds a row of [`read_again`].
pub(crate) fn micros_a_row(seconds: f64, rows: usize) -> f64 {
    seconds * 1e6 / (rows * REPEATS) as f64
}

/// Microseconds of a poll that finds one change.
pub(crate) fn one_change(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let mut reader = Reader::new(&database)?;
    let rows = setting.shape.rows(POLLS.min(setting.rows));
    let mut total = -overhead() * POLLS as f64;
    for (index, row) in rows.chunks(1).cycle().take(POLLS).enumerate() {
        let before = database.version()?;
        database.update(row, WRITTEN + index as i64)?;
        let (seconds, found) = cpu(|| reader.since(before))?;
        ensure!(found.len() == 1, "a poll found {} changes", found.len());
        total += seconds;
    }
    Ok(total / POLLS as f64 * 1e6)
}

/// Microseconds of a poll that finds nothing.
pub(crate) fn empty_poll(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let mut reader = Reader::new(&database)?;
    let (now, times) = (database.version()?, if side == Side::CrSqlite { SLOW_POLLS } else { EMPTY_POLLS });
    let (seconds, found) = cpu(|| {
        let polls = std::iter::repeat_with(|| reader.since(now)).take(times);
        polls.map(|found| Ok(found?.len())).sum::<Result<usize>>()
    })?;
    ensure!(found == 0, "{found} changes were found where none was made");
    Ok(seconds / times as f64 * 1e6)
}
