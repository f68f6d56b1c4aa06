//! One row, one commit: what an application does as somebody types.

use anyhow::Result;
use rusqlite::types::Value;

use crate::clock::cpu;
use crate::database::{self, Database, Setting, Side};
use crate::shape::{WRITTEN, shuffle};

/// Insert row by row into an empty table.
pub(crate) fn insert(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.shape.rows(setting.commits());
    let database = Database::open(setting, side)?;
    Ok(cpu(|| database::insert(&database, setting.shape, &rows))?.0)
}

/// Update rows of a full table, in random order.
pub(crate) fn update(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let (database, chosen) = full(setting, side)?;
    Ok(cpu(|| database::update(&database, setting.shape, &chosen, WRITTEN))?.0)
}

/// Pages in the write-ahead log per commit of an insert.
pub(crate) fn insert_pages(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.shape.rows(setting.commits());
    let database = Database::open(setting, side)?;
    database.keep_wal()?;
    database::insert(&database, setting.shape, &rows)?;
    Ok(database.wal_pages()? / setting.commits() as f64)
}

/// Pages in the write-ahead log per commit of an update.
pub(crate) fn update_pages(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let (database, chosen) = full(setting, side)?;
    database.keep_wal()?;
    database::update(&database, setting.shape, &chosen, WRITTEN)?;
    Ok(database.wal_pages()? / setting.commits() as f64)
}

/// A full table, and a tenth of its rows picked at random.
fn full(setting: &Setting<'_>, side: Side) -> Result<(Database, Vec<Vec<Value>>)> {
    let mut rows = setting.all_rows();
    let database = setting.filled(side, &rows)?;
    shuffle(&mut rows);
    rows.truncate(setting.commits());
    Ok((database, rows))
}
