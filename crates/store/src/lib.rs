//! SKELETON of the public API, to be replaced by the engine; bodies come next.
#![expect(missing_docs, reason = "skeleton")]
use opor_core::*;
use rusqlite::Connection;
use std::path::Path;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockPolicy {
    Hlc,
    Lamport,
}

#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct OpenError;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct StoreError;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct ReplicateError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    #[error(transparent)]
    Invalid(#[from] InvalidChange),
    #[error("table {table:?} is not replicated here")]
    UnknownTable { table: String },
    #[error("table {table:?} has no column {column:?} that replicates")]
    UnknownColumn { table: String, column: String },
    #[error("key ({key}) does not fit table {table:?}")]
    KeyShape { table: String, key: PackedKey },
    #[error("row ({key}) of table {table:?} breaks a constraint")]
    Constraint { table: String, key: PackedKey, source: rusqlite::Error },
    #[error("the store failed")]
    Store(#[source] StoreError),
}

/// Builder: `OpenOptions::new().clock(ClockPolicy::Lamport).site_id(site).open("app.db")`
#[derive(Clone, Default)]
pub struct OpenOptions {}
impl std::fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenOptions")
    }
}
impl OpenOptions {
    pub fn new() -> Self {
        unimplemented!()
    }
    /// Policy for a database that is created by this open; an existing one keeps its own. Default `Hlc`.
    pub fn clock(self, _policy: ClockPolicy) -> Self {
        unimplemented!()
    }
    /// Site id for a database that is created by this open (tests).
    pub fn site_id(self, _site: SiteId) -> Self {
        unimplemented!()
    }
    pub fn drift_max_ms(self, _ms: u64) -> Self {
        unimplemented!()
    }
    /// Time source (tests); default: the system clock.
    pub fn wall_clock(self, _clock: Arc<dyn Fn() -> WallMillis + Send + Sync>) -> Self {
        unimplemented!()
    }
    pub fn open(&self, _path: impl AsRef<Path>) -> Result<Store, OpenError> {
        unimplemented!()
    }
    pub fn open_in_memory(&self) -> Result<Store, OpenError> {
        unimplemented!()
    }
}

/// One connection to a database with replicated tables. `Send`, not `Sync`. Derefs to `rusqlite::Connection` for plain SQL
/// (execute, prepare, query_row ..): every write to a replicated table is captured.
#[derive(Debug)]
pub struct Store {
    _c: Connection,
}
impl std::ops::Deref for Store {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        unimplemented!()
    }
}

/// How far a pull from a peer has got. Opaque to keep: `Display`/`FromStr` give a text form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub base: DbVersion, /* .. */
}
impl Cursor {
    pub fn start() -> Self {
        unimplemented!()
    }
    pub fn at(_base: DbVersion) -> Self {
        unimplemented!()
    }
}
impl std::fmt::Display for Cursor {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        unimplemented!()
    }
}
impl std::str::FromStr for Cursor {
    type Err = StoreError;
    fn from_str(_s: &str) -> Result<Self, StoreError> {
        unimplemented!()
    }
}

/// A piece of a pull: the changes and the cursor to continue from once they are applied.
#[derive(Clone, Debug)]
pub struct Batch {
    pub changeset: Changeset,
    pub cursor: Cursor,
    pub done: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// Store this cursor for this peer in the same transaction as the changes.
    pub cursor: Option<(SiteId, Cursor)>,
    /// Collect an event per cell (else only counts).
    pub events: bool,
}

/// What an apply did.
#[derive(Clone, Debug, Default)]
pub struct ApplyReport {
    pub rows_inserted: usize,
    pub rows_updated: usize,
    pub rows_deleted: usize,
    pub cells_won: usize,
    pub cells_lost: usize,
    pub unchanged: usize,
    /// The local version the merge took; None when it changed nothing.
    pub db_version: Option<DbVersion>,
    pub events: Vec<MergeEvent>,
}

/// What happened to one row or cell in a merge (only collected when asked for).
#[derive(Clone, Debug)]
pub struct MergeEvent {
    pub table: Arc<str>,
    pub key: PackedKey,
    pub kind: MergeEventKind,
}
#[derive(Clone, Debug)]
pub enum MergeEventKind {
    Inserted,
    Deleted,
    Resurrected,
    /// The incoming row is older than what is known (deleted or created again since): ignored.
    Stale {
        local_cl: CausalLength,
        incoming_cl: CausalLength,
    },
    Updated {
        column: Arc<str>,
        value: Value,
    },
    /// Both sides had written the cell: both values, both stamps, who won.
    Conflict {
        column: Arc<str>,
        local: Side,
        incoming: Side,
        incoming_won: bool,
    },
}
#[derive(Clone, Debug)]
pub struct Side {
    pub value: Value,
    pub col_version: ColVersion,
    pub site_id: SiteId,
}

impl Store {
    pub fn open(_path: impl AsRef<Path>) -> Result<Self, OpenError> {
        unimplemented!()
    }
    pub fn open_in_memory() -> Result<Self, OpenError> {
        unimplemented!()
    }
    pub fn site_id(&self) -> SiteId {
        unimplemented!()
    }
    pub fn clock_policy(&self) -> ClockPolicy {
        unimplemented!()
    }
    pub fn db_version(&self) -> Result<DbVersion, StoreError> {
        unimplemented!()
    }
    /// BEGIN IMMEDIATE; nested savepoints through rusqlite's `Transaction::savepoint`.
    pub fn transaction(&mut self) -> rusqlite::Result<rusqlite::Transaction<'_>> {
        unimplemented!()
    }
    /// More tables than `crsql_as_crr` accepts: foreign keys and NOT NULL columns without a default are fine.
    pub fn replicate(&mut self, _table: &str) -> Result<(), ReplicateError> {
        unimplemented!()
    }
    pub fn unreplicate(&mut self, _table: &str) -> Result<(), ReplicateError> {
        unimplemented!()
    }
    pub fn replicated_tables(&self) -> Result<Vec<String>, StoreError> {
        unimplemented!()
    }
    /// The next piece after `cursor`, at least one row and at most about `changes_max` changes.
    pub fn changes(&self, _cursor: &Cursor, _changes_max: usize) -> Result<Batch, StoreError> {
        unimplemented!()
    }
    /// Everything after `since`, in one piece.
    pub fn changes_since(&self, _since: DbVersion) -> Result<Changeset, StoreError> {
        unimplemented!()
    }
    pub fn apply(&mut self, _changeset: &Changeset) -> Result<ApplyReport, ApplyError> {
        unimplemented!()
    }
    pub fn apply_with(
        &mut self,
        _changeset: &Changeset,
        _options: &ApplyOptions,
    ) -> Result<ApplyReport, ApplyError> {
        unimplemented!()
    }
    /// The whole database as one binary changeset.
    pub fn changeset(&self) -> Result<Vec<u8>, StoreError> {
        unimplemented!()
    }
    pub fn apply_changeset(&mut self, _bytes: &[u8]) -> Result<ApplyReport, ApplyError> {
        unimplemented!()
    }
    /// How far this replica has pulled from `peer`; durable.
    pub fn peer_cursor(&self, _peer: SiteId) -> Result<Option<Cursor>, StoreError> {
        unimplemented!()
    }
    /// How much of this replica's own log `peer` has acknowledged; durable.
    pub fn acknowledged_by(&self, _peer: SiteId) -> Result<DbVersion, StoreError> {
        unimplemented!()
    }
    pub fn set_acknowledged_by(&mut self, _peer: SiteId, _version: DbVersion) -> Result<(), StoreError> {
        unimplemented!()
    }
}
