//! Many rows in one transaction: insert, update, delete.

use anyhow::Result;

use crate::clock::cpu;
use crate::database::{self, Database, Setting, Side, in_transaction};
use crate::shape::WRITTEN;

/// Insert every row.
pub(crate) fn insert(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.all_rows();
    let database = Database::open(setting, side)?;
    seconds(&database, || database::insert(&database, setting.shape, &rows))
}

/// Update one column of every row, in one statement.
pub(crate) fn update_all(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side, &setting.all_rows())?;
    let mut statement = database.prepare(&setting.shape.update_all())?;
    seconds(&database, || expect_rows(statement.execute([])?, setting.rows))
}

/// Update one column of every row, by key.
pub(crate) fn update_by_key(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.all_rows();
    let database = setting.filled(side, &rows)?;
    seconds(&database, || database::update(&database, setting.shape, &rows, WRITTEN))
}

/// Delete half of the rows, in one statement.
pub(crate) fn delete_half(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let half = setting.rows / 2;
    let database = setting.filled(side, &setting.all_rows())?;
    let mut statement = database.prepare(&setting.shape.delete_up_to())?;
    seconds(&database, || expect_rows(statement.execute([half as i64])?, half))
}

/// Delete half of the rows, by key.
pub(crate) fn delete_by_key(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.all_rows();
    let database = setting.filled(side, &rows)?;
    seconds(&database, || database::delete(&database, setting.shape, &rows[..setting.rows / 2]))
}

fn seconds(database: &Database, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    Ok(cpu(|| in_transaction(database, work))?.0)
}

fn expect_rows(changed: usize, expected: usize) -> Result<()> {
    anyhow::ensure!(changed == expected, "{changed} rows changed, not {expected}");
    Ok(())
}
