//! Merging what another replica wrote, against writing it here.

use anyhow::{Result, ensure};
use opor_core::{Changeset, DbVersion};
use rusqlite::params_from_iter;
use rusqlite::types::Value;

use crate::clock::cpu;
use crate::database::{self, Database, Setting, Side, in_transaction};
use crate::shape::WRITTEN;
use crate::workload::bulk;

/// Every row into an empty replica, against inserting it.
pub(crate) fn into_empty(setting: &Setting<'_>, side: Side) -> Result<f64> {
    if side == Side::Plain {
        return bulk::insert(setting, side);
    }
    let (_, changeset) = source(setting, &setting.all_rows())?;
    let mut target = Database::open(setting, Side::Opor)?;
    let store = target.store()?;
    let (seconds, report) = cpu(|| Ok(store.apply(&changeset)?))?;
    ensure!(report.rows_inserted == setting.rows, "{} rows were inserted", report.rows_inserted);
    Ok(seconds)
}

/// One cell of every row, newer than the local one, against updating it.
pub(crate) fn cells_won(setting: &Setting<'_>, side: Side) -> Result<f64> {
    if side == Side::Plain {
        return bulk::update_by_key(setting, side);
    }
    let rows = setting.all_rows();
    let (mut target, changeset) = rival(setting, &rows)?;
    let store = target.store()?;
    let (seconds, report) = cpu(|| Ok(store.apply(&changeset)?))?;
    ensure!(report.cells_won == setting.rows, "{} cells won", report.cells_won);
    Ok(seconds)
}

/// One cell of every row, older than the local one, against updating it.
pub(crate) fn cells_lost(setting: &Setting<'_>, side: Side) -> Result<f64> {
    if side == Side::Plain {
        return bulk::update_by_key(setting, side);
    }
    let rows = setting.all_rows();
    let (mut target, changeset) = rival(setting, &rows)?;
    // Written after the rival's cells, so a later stamp.
    in_transaction(&target, || database::update(&target, setting.shape, &rows, WRITTEN + 1))?;
    let store = target.store()?;
    let (seconds, report) = cpu(|| Ok(store.apply(&changeset)?))?;
    ensure!(report.cells_lost == setting.rows, "{} cells lost", report.cells_lost);
    Ok(seconds)
}

/// The same changeset once more, against looking every key up.
pub(crate) fn again(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.all_rows();
    if side == Side::Plain {
        let database = setting.filled(side, &rows)?;
        return look_up(setting, &database, &rows);
    }
    let (_, changeset) = source(setting, &rows)?;
    let mut target = Database::open(setting, Side::Opor)?;
    let store = target.store()?;
    store.apply(&changeset)?;
    let (seconds, report) = cpu(|| Ok(store.apply(&changeset)?))?;
    ensure!(report.db_version.is_none(), "a changeset merged again changed something");
    Ok(seconds)
}

/// A replica with these rows, and its whole log.
fn source(setting: &Setting<'_>, rows: &[Vec<Value>]) -> Result<(Database, Changeset)> {
    let mut source = setting.filled(Side::Opor, rows)?;
    let changeset = source.store()?.changes_since(DbVersion(0))?;
    Ok((source, changeset))
}

/// A replica with these rows, and a changeset of another one that updates a cell of each.
fn rival(setting: &Setting<'_>, rows: &[Vec<Value>]) -> Result<(Database, Changeset)> {
    let (mut source, everything) = source(setting, rows)?;
    let mut target = Database::open(setting, Side::Opor)?;
    target.store()?.apply(&everything)?;
    let before = source.store()?.db_version()?;
    in_transaction(&source, || database::update(&source, setting.shape, rows, WRITTEN))?;
    let changeset = source.store()?.changes_since(before)?;
    Ok((target, changeset))
}

fn look_up(setting: &Setting<'_>, database: &Database, rows: &[Vec<Value>]) -> Result<f64> {
    let mut statement = database.prepare(&setting.shape.select_by_key("1"))?;
    let mut found = 0;
    let look_up = || {
        for row in rows {
            found += usize::from(statement.exists(params_from_iter(setting.shape.key_of(row)))?);
        }
        Ok(())
    };
    // In one transaction, as a merge is: else taking the lock of the file would cost more than the lookup.
    let (seconds, ()) = cpu(|| in_transaction(database, look_up))?;
    ensure!(found == rows.len(), "{found} keys were found");
    Ok(seconds)
}
