//! The result of a query at one commit.

use std::sync::Arc;

use opor_core::{DbVersion, Value};
use opor_store::{CommitSeq, Origin};
use rustc_hash::FxHashMap;

use crate::error::LiveError;

/// A row of a result: one value for each column.
pub type Row = Arc<[Value]>;

/// Every row of a query's result, in its order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResultSet {
    pub(crate) rows: Vec<Row>,
    /// The names of its columns.
    pub(crate) columns: Arc<[String]>,
    /// The commit of this process that it was last looked at for.
    pub(crate) seq: CommitSeq,
    /// The last commit of the file in its snapshot, where that is asked for.
    pub(crate) commit: Option<DbVersion>,
    /// Counts the results of the query that were different.
    pub(crate) version: u64,
    /// Who brought it about; `None` for the first.
    pub(crate) origin: Option<Origin>,
}

/// What tells one row of a result from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// All of it: a row that changes is another row.
    Whole,
    /// These columns.
    Columns(Box<[usize]>),
}

/// A value as part of a key: equal when type and bits are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cell<'a> {
    Null,
    Integer(i64),
    Real(u64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl<'a> From<&'a Value> for Cell<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(value) => Self::Integer(*value),
            Value::Real(value) => Self::Real(value.to_bits()),
            Value::Text(text) => Self::Text(text),
            Value::Blob(bytes) => Self::Blob(bytes),
        }
    }
}

impl Key {
    /// The columns of these names; all when there is none.
    ///
    /// # Errors
    /// [`LiveError::UnknownKeyColumn`].
    pub(crate) fn named(names: &[String], columns: &[String]) -> Result<Self, LiveError> {
        if names.is_empty() {
            return Ok(Self::Whole);
        }
        let place = |name: &String| {
            let place = columns.iter().position(|column| column.eq_ignore_ascii_case(name));
            place.ok_or_else(|| LiveError::UnknownKeyColumn { column: name.clone() })
        };
        Ok(Self::Columns(names.iter().map(place).collect::<Result<_, _>>()?))
    }

    pub(crate) fn cells<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = Cell<'a>> {
        let (whole, columns): (&[Value], &[usize]) = match self {
            Self::Whole => (row, &[]),
            Self::Columns(columns) => (&[], columns),
        };
        whole.iter().map(Cell::from).chain(columns.iter().map(|column| Cell::from(&row[*column])))
    }

    /// That no two rows have the same key.
    pub(crate) fn check(&self, rows: &[Row]) -> Result<(), LiveError> {
        if *self == Self::Whole {
            return Ok(());
        }
        let mut seen: FxHashMap<Vec<Cell<'_>>, usize> = FxHashMap::default();
        for (second, row) in rows.iter().enumerate() {
            if let Some(first) = seen.insert(self.cells(row).collect(), second) {
                return Err(LiveError::DuplicateKey { first, second });
            }
        }
        Ok(())
    }
}
