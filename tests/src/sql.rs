//! Plain SQL from a test: run a text, read rows as typed values, write literals.

use opor_core::Value;
use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, Error, Params, Row};

/// Runs every statement of `sql` and gives the rows of the last one.
///
/// # Errors
/// The first statement that fails; the ones before it have taken effect.
pub fn run(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut rows = Vec::new();
    let mut batch = Batch::new(conn, sql);
    while let Some(mut statement) = batch.next()? {
        let width = statement.column_count();
        rows.clear();
        let mut cursor = statement.query([])?;
        while let Some(row) = cursor.next()? {
            rows.push(read_row(row, width)?);
        }
    }
    Ok(rows)
}

/// The rows of one query.
///
/// # Errors
/// Whatever SQLite says.
pub fn rows_of(conn: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = conn.prepare(sql)?;
    let width = statement.column_count();
    let rows = statement.query_map(params, |row| read_row(row, width))?;
    rows.collect()
}

/// The rows of a table, in an order that depends on nothing but their values.
///
/// # Errors
/// Whatever SQLite says.
pub fn table_dump(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut rows = rows_of(conn, &format!("SELECT * FROM {}", quote(table)), [])?;
    rows.sort_by_cached_key(|row| format!("{row:?}"));
    Ok(rows)
}

/// The message SQLite gave, without what rusqlite adds around it.
#[must_use]
pub fn message(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(message)) => message.clone(),
        Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// An identifier in SQL.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A value in SQL, exactly.
#[must_use]
pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(i64::MIN) => "(-9223372036854775807 - 1)".to_owned(),
        Value::Integer(v) => v.to_string(),
        Value::Real(v) => format!("{v:?}"),
        Value::Text(v) => format!("'{}'", v.replace('\'', "''")),
        Value::Blob(v) => format!("x'{}'", crate::hex(v)),
    }
}

pub(crate) fn value_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(v) => Value::Integer(v),
        ValueRef::Real(v) => Value::Real(v),
        ValueRef::Text(v) => Value::Text(String::from_utf8_lossy(v).into_owned()),
        ValueRef::Blob(v) => Value::Blob(v.to_owned()),
    }
}

/// A value as rusqlite binds it.
#[must_use]
pub fn sql_value(value: &Value) -> rusqlite::types::Value {
    match value {
        Value::Null => rusqlite::types::Value::Null,
        Value::Integer(v) => rusqlite::types::Value::Integer(*v),
        Value::Real(v) => rusqlite::types::Value::Real(*v),
        Value::Text(v) => rusqlite::types::Value::Text(v.clone()),
        Value::Blob(v) => rusqlite::types::Value::Blob(v.clone()),
    }
}

fn read_row(row: &Row<'_>, width: usize) -> rusqlite::Result<Vec<Value>> {
    (0..width).map(|i| row.get_ref(i).map(value_of)).collect()
}
