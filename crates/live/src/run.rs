//! Running a query, and keeping what has not changed.

use std::sync::Arc;

use opor_core::{Value, ValueRef};
use opor_store::Store;
use opor_store::rusqlite::types::{ToSqlOutput, ValueRef as SqlRef};
use opor_store::rusqlite::{self, Statement, StatementStatus, ToSql};
use rustc_hash::FxHashMap;

use crate::error::LiveError;
use crate::plan::Plan;
use crate::result::{Cell, Row};

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) rows: Vec<Row>,
    /// How many steps SQLite's machine took.
    pub(crate) steps: u64,
}

/// Runs a query in the open transaction. Rows that were in the result before are the same rows, not copies. `sql` is the statement of the plan or
/// one that gives more columns, which `hidden` is shown.
///
/// # Errors
/// [`LiveError`]: of SQL, also when it fails among its rows, and when there are more than `rows_max`.
pub(crate) fn run(
    store: &Store,
    sql: &str,
    plan: &Plan,
    parameters: &[Value],
    before: &[Row],
    rows_max: usize,
    mut hidden: impl FnMut(&rusqlite::Row<'_>),
) -> Result<Ran, LiveError> {
    let mut stmt = store.prepare_cached(sql)?;
    bind(&mut stmt, parameters)?;
    stmt.reset_status(StatementStatus::VmStep);
    let width = plan.columns.len();
    let mut rows = stmt.raw_query();
    let mut result: Vec<Row> = Vec::with_capacity(before.len());
    let mut values = Vec::with_capacity(width);
    let mut known: Option<FxHashMap<Vec<Cell<'_>>, &Row>> = None;
    while let Some(row) = rows.next()? {
        if result.len() == rows_max {
            return Err(LiveError::TooLarge { rows_max });
        }
        hidden(row);
        values.clear();
        for column in 0..width {
            values.push(value(row.get_ref(column)?)?);
        }
        // Most often it is where it was.
        if let Some(same) = before.get(result.len()).filter(|before| before[..] == values[..]) {
            result.push(same.clone());
            continue;
        }
        if before.is_empty() {
            result.push(values.drain(..).collect());
            continue;
        }
        let known = known.get_or_insert_with(|| {
            before.iter().map(|row| (row.iter().map(Cell::from).collect(), row)).collect()
        });
        let cells: Vec<Cell<'_>> = values.iter().map(Cell::from).collect();
        let same = known.get(&cells).map(|row| (*row).clone());
        result.push(same.unwrap_or_else(|| values.drain(..).collect()));
    }
    drop(rows);
    let steps = u64::from(stmt.reset_status(StatementStatus::VmStep).unsigned_abs());
    Ok(Ran { rows: result, steps })
}

/// Gives a statement the values of its parameters.
pub(crate) fn bind(stmt: &mut Statement<'_>, parameters: &[Value]) -> Result<(), rusqlite::Error> {
    for (at, value) in parameters.iter().enumerate() {
        stmt.raw_bind_parameter(at + 1, Parameter(value))?;
    }
    Ok(())
}

/// Whether two results are the same, row for row.
pub(crate) fn same(before: &[Row], after: &[Row]) -> bool {
    let equal = |(a, b): (&Row, &Row)| Arc::ptr_eq(a, b) || a == b;
    before.len() == after.len() && before.iter().zip(after).all(equal)
}

struct Parameter<'a>(&'a Value);

impl ToSql for Parameter<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0.as_ref() {
            ValueRef::Null => SqlRef::Null,
            ValueRef::Integer(value) => SqlRef::Integer(value),
            ValueRef::Real(value) => SqlRef::Real(value),
            ValueRef::Text(text) => SqlRef::Text(text.as_bytes()),
            ValueRef::Blob(bytes) => SqlRef::Blob(bytes),
        }))
    }
}

pub(crate) fn value(value: SqlRef<'_>) -> Result<Value, LiveError> {
    Ok(match value {
        SqlRef::Null => Value::Null,
        SqlRef::Integer(value) => Value::Integer(value),
        SqlRef::Real(value) => Value::Real(value),
        SqlRef::Text(bytes) => {
            let text = std::str::from_utf8(bytes);
            let text = text.map_err(|_| LiveError::Sql {
                message: "a text of the result is not valid UTF-8".to_owned(),
                offset: None,
            })?;
            Value::Text(text.to_owned())
        }
        SqlRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    })
}
