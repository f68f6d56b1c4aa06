//! The CR-SQLite engine of opor: SQLite tables that replicate.
//!
//! A [`Store`] is a SQLite connection on which some tables replicate: writes to them are noted as they are made, by
//! whatever SQL, and get their clocks in the transaction that commits them. [`Store::changes`] reads what is new,
//! [`Store::apply`] merges what others wrote, and the `crsql_*` SQL of cr-sqlite 0.16 does both in SQL.

mod apply;
mod apply_rows;
mod batch;
mod block;
mod buried;
mod catalog;
mod changes_vtab;
mod checks;
mod clock_table;
mod clocks;
mod colset;
mod commit_hook;
mod compact;
mod conflict;
mod conflicts_vtab;
mod cursor;
mod engine;
mod feed;
mod forced;
mod functions;
mod gap;
mod handle;
mod hook;
mod horizon;
mod journal;
mod learnt;
mod lives;
mod merge;
mod meta;
mod neighbours;
mod notes;
mod options;
mod progress;
mod quarantine;
mod read;
mod records;
mod release;
mod repair;
mod replay;
mod replicate;
mod rows;
mod snapshot;
mod sqlite;
mod store;
mod tombs;
mod unpack_vtab;
mod upgrade;
mod varint;
mod wal_index;
mod whole;

pub use apply::{ApplyError, ApplyOptions, ApplyReport, MergeEvent, MergeEventKind, Side};
pub use compact::{CompactError, CompactOptions, CompactReport};
pub use conflict::{Conflict, ConflictKind};
pub use cursor::{Cursor, CursorError};
pub use feed::{
    Beyond, Changes, ColumnMask, CommitSeq, FeedWaker, Image, Interest, Origin, ROWS_WAITING_MAX, RowChange,
    RowFeed, TableChanges, Woken,
};
pub use handle::{Commits, HandleError, StoreHandle};
pub use options::{ClockPolicy, OpenOptions};
pub use progress::{Phase, Progress, Watcher};
pub use quarantine::{Quarantine, QuarantineLimits, QuarantineReason, QuarantinedChange};
pub use read::{Batch, ReadError};
pub use repair::Incident;
pub use replicate::ReplicateError;
pub use rusqlite;
pub use snapshot::{
    ImageError, Manifest, ManifestError, RestoreError, Snapshot, SnapshotError, SnapshotImage,
    SnapshotReader, SnapshotReceiver, SnapshotTable, StreamError, partial_path, remove_abandoned_images,
};
pub use store::{OpenError, Store, StoreError};
