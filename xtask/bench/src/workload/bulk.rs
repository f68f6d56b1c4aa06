//! Many rows in one transaction: insert, update, delete.

use anyhow::Result;
use rusqlite::types::Value;

use crate::clock::{Stopwatch, cpu};
use crate::database::{Database, Setting, Side, in_transaction};
use crate::shape::{Row, WRITTEN};

/// Insert every row.
pub(crate) fn insert(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = Database::open(setting, side)?;
    in_one(&database, setting.chunks(), |rows| database.insert(rows))
}

/// Update one column of every row, in one statement.
pub(crate) fn update_all(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    statement(&database, &database.sql.update_all(), &[], setting.rows)
}

/// Update one column of every row, by key.
pub(crate) fn update_by_key(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    in_one(&database, setting.chunks(), |rows| database.update(rows, WRITTEN))
}

/// Delete half of the rows, in one statement.
pub(crate) fn delete_half(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let half = setting.rows / 2;
    let database = setting.filled(side)?;
    statement(&database, &database.sql.delete_up_to(), &[Value::Integer(half as i64)], half)
}

/// Delete half of the rows, by key.
pub(crate) fn delete_by_key(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    in_one(&database, setting.shape.chunks(0..setting.rows / 2), |rows| database.delete(rows))
}

/// CPU seconds of writing rows in one transaction; making them is not counted.
pub(crate) fn in_one(
    database: &Database,
    rows: impl Iterator<Item = Vec<Row>>,
    mut write: impl FnMut(&[Row]) -> Result<()>,
) -> Result<f64> {
    let mut watch = Stopwatch::default();
    watch.run(|| Ok(database.execute_batch("BEGIN IMMEDIATE")?))?;
    for rows in rows {
        watch.run(|| write(&rows))?;
    }
    watch.run(|| Ok(database.execute_batch("COMMIT")?))?;
    Ok(watch.seconds())
}

fn statement(database: &Database, sql: &str, parameters: &[Value], rows: usize) -> Result<f64> {
    let write = || {
        let changed = database.write_once(sql, parameters)?;
        anyhow::ensure!(changed == rows, "{changed} rows changed, not {rows}");
        Ok(())
    };
    Ok(cpu(|| in_transaction(database, write))?.0)
}
