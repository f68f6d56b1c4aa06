//! How much a database grows: packed bytes beyond those of an empty one, per row or cell.
//!
//! The plain table grows too; the difference is what replication keeps.

use anyhow::Result;
use rusqlite::params_from_iter;
use rusqlite::types::Value;

use crate::database::{Database, Setting, Side, in_transaction, stamp};
use crate::shape::{Row, shuffle, with_sparse_key};

/// Per row, inserted in one transaction.
pub(crate) fn rows(setting: &Setting<'_>, side: Side) -> Result<f64> {
    growth(setting, side, |database| fill(database, setting.chunks()))
        .map(|bytes| bytes / setting.rows as f64)
}

/// Per row with a random integer for its key.
pub(crate) fn sparse_rows(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let mut next = 0..setting.rows;
    let sparse = setting.chunks().map(|rows| -> Vec<Row> {
        rows.into_iter().zip(&mut next).map(|(row, index)| with_sparse_key(index, row)).collect()
    });
    let growth = growth(setting, side, |database| fill(database, sparse))?;
    Ok(growth / setting.rows as f64)
}

/// Per cell, every cell written in a transaction of its own, in random order.
pub(crate) fn lone_cells(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.shape.rows(setting.commits());
    let columns = &setting.shape.others;
    let growth = growth(setting, side, |database| {
        fill(database, std::iter::once(rows.clone()))?;
        let mut cells: Vec<(usize, usize)> =
            (0..columns.len()).flat_map(|column| (0..rows.len()).map(move |row| (column, row))).collect();
        shuffle(&mut cells);
        let statements: Result<Vec<_>, _> =
            columns.iter().map(|column| database.prepare(&database.sql.update_by_key(&[column]))).collect();
        let mut statements = statements?;
        for (column, row) in cells {
            let row = &rows[row];
            let value = changed(&row[setting.shape.key.len() + column]);
            let stamp = database.sql.stamped().then(|| Value::Integer(stamp()));
            let parameters = std::iter::once(&value).chain(setting.shape.key_of(row)).chain(&stamp);
            statements[column].execute(params_from_iter(parameters))?;
        }
        Ok(())
    })?;
    Ok(growth / (rows.len() * columns.len()) as f64)
}

/// Per deleted row, with no row left.
pub(crate) fn tombstones(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let growth = growth(setting, side, |database| {
        fill(database, setting.chunks())?;
        in_transaction(database, || setting.chunks().try_for_each(|rows| database.delete(&rows)))
    })?;
    Ok(growth / setting.rows as f64)
}

fn growth(setting: &Setting<'_>, side: Side, work: impl FnOnce(&Database) -> Result<()>) -> Result<f64> {
    let database = Database::open(setting, side)?;
    let empty = database.packed_bytes()?;
    work(&database)?;
    Ok(database.packed_bytes()? - empty)
}

fn fill(database: &Database, mut rows: impl Iterator<Item = Vec<Row>>) -> Result<()> {
    in_transaction(database, || rows.try_for_each(|rows| database.insert(&rows)))
}

/// Another value of the same type and size.
fn changed(value: &Value) -> Value {
    match value {
        Value::Null => Value::Text("noted".to_owned()),
        Value::Integer(integer) => Value::Integer(integer ^ 1),
        Value::Real(real) => Value::Real(real + 0.5),
        Value::Text(text) => Value::Text(text.replacen(|_: char| true, "~", 1)),
        Value::Blob(blob) => Value::Blob(blob.iter().map(|byte| !byte).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_value_differs() {
        let values = [
            Value::Null,
            Value::Integer(3),
            Value::Real(0.5),
            Value::Text("new".to_owned()),
            Value::Blob(vec![1, 2]),
        ];
        for value in values {
            assert_ne!(changed(&value), value);
        }
        assert_eq!(changed(&Value::Text("new".to_owned())), Value::Text("~ew".to_owned()));
    }
}
