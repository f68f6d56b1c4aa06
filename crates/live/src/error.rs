//! What can go wrong with a live query.

use opor_store::rusqlite;
use opor_store::{HandleError, OpenError};

/// Why a query is not live, or has no result at present.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// It does something other than reading.
    #[error("a live query only reads, and this is not a SELECT")]
    NotReadOnly,
    /// It is more than one statement.
    #[error("a live query is one statement")]
    SeveralStatements,
    /// Its result depends on something that is not in the database.
    #[error("{function} gives another result every time, and nothing tells when")]
    NonDeterministic {
        /// The function.
        function: String,
    },
    /// SQLite did not understand it, or failed while it ran.
    #[error("{message}")]
    Sql {
        /// What SQLite said.
        message: String,
        /// The byte of the statement at fault, where SQLite says.
        offset: Option<usize>,
    },
    /// A parameter of the statement has no value.
    #[error("parameter {parameter} has no value")]
    MissingParameter {
        /// Its name, or its number with a question mark before it.
        parameter: String,
    },
    /// A value was given for a parameter that the statement does not have.
    #[error("the statement has no parameter {parameter}")]
    UnknownParameter {
        /// Its name, or its number with a question mark before it.
        parameter: String,
    },
    /// A key column is not among the columns of the result.
    #[error("the result has no column {column:?} to be a key")]
    UnknownKeyColumn {
        /// The column.
        column: String,
    },
    /// Two rows of the result have the same key.
    #[error("two rows of the result have the same key: rows {first} and {second}")]
    DuplicateKey {
        /// The first of them, counted from 0.
        first: usize,
        /// The second.
        second: usize,
    },
    /// A row does not fit the type it was asked as.
    #[error("row {row} does not fit its type: {message}")]
    Row {
        /// The row, counted from 0.
        row: usize,
        /// What does not fit.
        message: String,
    },
    /// The result is larger than allowed.
    #[error("the result has more than {rows_max} rows")]
    TooLarge {
        /// The limit; see [`LiveOptions::rows_max`](crate::LiveOptions::rows_max).
        rows_max: usize,
    },
    /// The database is closed; nothing changes any more.
    #[error("the database is closed")]
    Closed,
}

impl From<rusqlite::Error> for LiveError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqlInputError { msg, offset, .. } => {
                Self::Sql { message: msg, offset: usize::try_from(offset).ok() }
            }
            rusqlite::Error::SqliteFailure(code, message) => {
                Self::Sql { message: message.unwrap_or_else(|| code.to_string()), offset: None }
            }
            rusqlite::Error::MultipleStatement => Self::SeveralStatements,
            other => Self::Sql { message: other.to_string(), offset: None },
        }
    }
}

impl From<HandleError> for LiveError {
    fn from(_: HandleError) -> Self {
        Self::Closed
    }
}

/// Why live queries could not be started on a database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A connection to read with could not be opened.
    #[error("a connection for live queries could not be opened")]
    Open(#[from] OpenError),
    /// A thread could not be started.
    #[error("a thread for live queries could not be started")]
    Thread(#[source] std::io::Error),
}
