//! The result of a query at one commit.

use std::ops::Deref;
use std::slice;
use std::sync::Arc;

use opor_core::{DbVersion, Value};
use opor_store::{CommitSeq, Origin};
use rustc_hash::FxHashMap;

use crate::error::LiveError;

/// A row of a result: one value for each column.
pub type Row = Arc<[Value]>;

/// Every row of a query's result, in its order. There is one of each query, of which there may be very many: what several
/// have in common is shared among them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResultSet {
    pub(crate) rows: Rows,
    pub(crate) heading: Arc<Heading>,
    /// The commit of this process that it was last looked at for.
    pub(crate) seq: CommitSeq,
    pub(crate) source: Arc<Source>,
    /// No other result of this process's queries has it.
    pub(crate) version: u64,
}

/// What is above the rows of a result: the same for all queries of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heading {
    /// The names of the columns.
    pub(crate) columns: Arc<[String]>,
}

/// Where a result comes from: the same for all that became others by one commit, and most often for many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// The last commit of the file in its snapshot, where that is asked for.
    pub(crate) commit: Option<DbVersion>,
    /// Who brought it about; `None` for the first.
    pub(crate) origin: Option<Origin>,
}

/// Rows of a result. A single one, as that of a query by key, takes no list of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rows {
    One(Row),
    List(Box<[Row]>),
}

impl From<Vec<Row>> for Rows {
    fn from(mut rows: Vec<Row>) -> Self {
        match (rows.pop(), rows.is_empty()) {
            (Some(only), true) => Self::One(only),
            (last, _) => {
                rows.extend(last);
                Self::List(rows.into())
            }
        }
    }
}

impl Deref for Rows {
    type Target = [Row];

    fn deref(&self) -> &[Row] {
        match self {
            Self::One(row) => slice::from_ref(row),
            Self::List(rows) => rows,
        }
    }
}

impl ResultSet {
    pub(crate) fn columns(&self) -> &Arc<[String]> {
        &self.heading.columns
    }
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
