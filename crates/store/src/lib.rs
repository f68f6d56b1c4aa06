//! The CR-SQLite engine of opor: SQLite tables that replicate.
//!
//! A [`Store`] is a SQLite connection on which some tables replicate: writes to them are noted as they are made, by
//! whatever SQL, and get their clocks in the transaction that commits them. [`Store::changes`] reads what is new,
//! [`Store::apply`] merges what others wrote, and the `crsql_*` SQL of cr-sqlite 0.16 does both in SQL.

/// The example of the README, which is compiled and run with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

mod apply;
mod block;
mod catalog;
mod changes_vtab;
mod clocks;
mod colset;
mod commit_hook;
mod cursor;
mod engine;
mod functions;
mod handle;
mod hook;
mod merge;
mod meta;
mod notes;
mod options;
mod read;
mod repair;
mod replay;
mod replicate;
mod sqlite;
mod store;
mod tombs;
mod unpack_vtab;
mod varint;
mod wal_index;
mod whole;

pub use apply::{ApplyError, ApplyOptions, ApplyReport, MergeEvent, MergeEventKind, Side};
pub use cursor::{Cursor, CursorError};
pub use handle::{HandleError, StoreHandle};
pub use options::{ClockPolicy, OpenOptions};
pub use read::{Batch, ReadError};
pub use repair::Incident;
pub use replicate::ReplicateError;
pub use rusqlite;
pub use store::{OpenError, Store, StoreError};
