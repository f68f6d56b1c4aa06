//! Reading the change log, against reading the rows.

use anyhow::{Result, ensure};
use opor_core::{Changeset, DbVersion, Value};
use rusqlite::types::ValueRef;
use rusqlite::{Row, params_from_iter};

use crate::clock::{cpu, overhead};
use crate::database::{self, Setting, Side, in_transaction};
use crate::shape::WRITTEN;

/// How often a short read is repeated, so that it lasts long against the resolution of the clock.
const REPEATS: usize = 20;

/// How many polls are measured one by one, a commit before each.
const POLLS: usize = 1_000;

/// How many polls that find nothing are measured in one go.
const EMPTY_POLLS: usize = 100_000;

/// The whole log, against every row.
pub(crate) fn whole_log(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let mut database = setting.filled(side, &setting.all_rows())?;
    match side {
        Side::Plain => {
            let (seconds, rows) = cpu(|| {
                let mut statement = database.prepare(&setting.shape.select_all())?;
                let rows = statement.query_map([], values)?.collect::<Result<Vec<_>, _>>()?;
                Ok(rows)
            })?;
            ensure!(rows.len() == setting.rows, "{} rows were read", rows.len());
            Ok(seconds)
        }
        Side::Opor => {
            let store = database.store()?;
            let (seconds, changeset) = cpu(|| Ok(store.changes_since(DbVersion(0))?))?;
            ensure!(changeset.rows().len() == setting.rows, "{} rows were read", changeset.rows().len());
            Ok(seconds)
        }
    }
}

/// The log of the last commit, which inserted the last 1 % of the rows, against those rows by key.
pub(crate) fn last_percent(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.all_rows();
    let (most, last) = rows.split_at(setting.rows - setting.rows / 100);
    let mut database = setting.filled(side, most)?;
    let before = match side {
        Side::Plain => DbVersion(0),
        Side::Opor => database.store()?.db_version()?,
    };
    in_transaction(&database, || database::insert(&database, setting.shape, last))?;
    match side {
        Side::Plain => {
            let mut statement = database.prepare(&setting.shape.select_by_key("*"))?;
            let mut read = Vec::new();
            // In one transaction, as reading the log is.
            let select = || {
                for row in std::iter::repeat_n(last, REPEATS).flatten() {
                    let key = params_from_iter(setting.shape.key_of(row));
                    read.push(statement.query_row(key, values)?);
                }
                Ok(())
            };
            let (seconds, ()) = cpu(|| in_transaction(&database, select))?;
            ensure!(read.len() == last.len() * REPEATS, "{} rows were read", read.len());
            Ok(seconds)
        }
        Side::Opor => {
            let store = database.store()?;
            let (seconds, read) = cpu(|| {
                let polls = std::iter::repeat_with(|| store.changes_since(before)).take(REPEATS);
                Ok(polls.collect::<Result<Vec<Changeset>, _>>()?)
            })?;
            let right = read.iter().all(|changeset| changeset.rows().len() == last.len());
            ensure!(right, "a poll did not find the {} rows of the last commit", last.len());
            Ok(seconds)
        }
    }
}

/// Microseconds of a poll that finds one change.
pub(crate) fn one_change(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.all_rows();
    let mut database = setting.filled(side, &rows)?;
    let mut total = -overhead() * POLLS as f64;
    for row in rows.chunks(1).cycle().take(POLLS).enumerate() {
        let (index, row) = row;
        let before = database.store()?.db_version()?;
        database::update(&database, setting.shape, row, WRITTEN + index as i64)?;
        let store = database.store()?;
        let (seconds, found) = cpu(|| Ok(store.changes_since(before)?))?;
        ensure!(found.len() == 1, "a poll found {} changes", found.len());
        total += seconds;
    }
    Ok(total / POLLS as f64 * 1e6)
}

/// Microseconds of a poll that finds nothing.
pub(crate) fn empty_poll(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let mut database = setting.filled(side, &setting.all_rows())?;
    let store = database.store()?;
    let now = store.db_version()?;
    let (seconds, found) = cpu(|| {
        let polls = std::iter::repeat_with(|| store.changes_since(now)).take(EMPTY_POLLS);
        polls.map(|found| Ok(found?.len())).sum::<Result<usize>>()
    })?;
    ensure!(found == 0, "{found} changes were found where none was made");
    Ok(seconds / EMPTY_POLLS as f64 * 1e6)
}

fn values(row: &Row<'_>) -> rusqlite::Result<Vec<Value>> {
    let columns = row.as_ref().column_count();
    (0..columns).map(|column| owned(row.get_ref(column)?)).collect()
}

fn owned(value: ValueRef<'_>) -> rusqlite::Result<Value> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(_) => Value::Text(value.as_str()?.to_owned()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
    })
}
