//! One connection to a database with replicated tables: the typed API.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use opor_core::{Changeset, DbVersion, SiteId};
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::apply::{ApplyError, ApplyOptions, ApplyReport};
use crate::cursor::Cursor;
use crate::engine::Engine;
use crate::feed::{self, Feeds};
use crate::learnt::Reader;
use crate::merge::MergeSql;
use crate::options::{ClockPolicy, OpenOptions};
use crate::progress::{Phase, Reporter, Watcher};
use crate::read::{Batch, ReadError};
use crate::repair::Incident;
use crate::replicate::{ReplicateError, Strictness};
use crate::sqlite::Db;
use crate::{changes_vtab, commit_hook, conflicts_vtab, functions, hook, meta, unpack_vtab};

/// Why a database could not be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is something else.
    #[error("{} is not a SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file, or its folder, is missing or may not be used.
    #[error("{} could not be opened", path.display())]
    Unreachable {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Error,
    },
    /// Names that begin with `file:` are URIs to SQLite, with options that an outsider could set.
    #[error("{} would be read as a URI; write ./ before it", path.display())]
    UriName {
        /// The name.
        path: PathBuf,
    },
    /// Another version of opor wrote the file.
    #[error("the database has format {found}, this version reads {supported}")]
    OtherFormat {
        /// The file's.
        found: i64,
        /// The one this code knows.
        supported: i64,
    },
    /// Tables that the genuine cr-sqlite made; their clocks are in a layout of its own.
    #[error(
        "the database holds replicated tables of cr-sqlite itself (such as {table:?}), which cannot be taken over yet"
    )]
    CrSqliteTables {
        /// One of them.
        table: String,
    },
    /// Opened to read only, and there is nothing replicated in it.
    #[error("the database has never been opened for writing by opor")]
    NotInitialised,
    /// A thread of a [`StoreHandle`](crate::StoreHandle) could not be started.
    #[error("a database thread could not be started")]
    Thread {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// SQLite failed.
    #[error("the database could not be prepared")]
    Sqlite(#[from] Error),
}

/// Something that SQLite could not do.
#[derive(Debug, thiserror::Error)]
#[error("the database failed")]
pub struct StoreError(#[from] Error);

/// One connection to a database with replicated tables.
///
/// It dereferences to [`rusqlite::Connection`], for plain SQL: every write to a replicated table is noted, whichever
/// way it is made, and gets its clocks in the transaction that commits it. Do not replace the preupdate hook of that
/// connection. `Send`, not `Sync`; several stores, in one process or many, may share a file.
///
/// ```
/// use opor_store::Store;
///
/// let mut laptop = Store::open_in_memory()?;
/// let mut phone = Store::open_in_memory()?;
/// for store in [&mut laptop, &mut phone] {
///     store.execute_batch("CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER)")?;
///     store.replicate("todos")?;
/// }
/// laptop.execute("INSERT INTO todos VALUES ('a', 'buy milk', 0)", [])?;
/// phone.apply_changeset(&laptop.changeset()?)?;
///
/// phone.execute("UPDATE todos SET done = 1", [])?;
/// laptop.execute("UPDATE todos SET title = 'buy oat milk'", [])?;
/// laptop.apply_changeset(&phone.changeset()?)?;
/// let merged: (String, bool) =
///     laptop.query_row("SELECT title, done FROM todos", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
/// assert_eq!(merged, ("buy oat milk".to_owned(), true));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Durability
/// A file is in WAL mode with `synchronous = NORMAL`: a commit survives a crash of the process; a power cut may take
/// the last commits, never tear one. `PRAGMA synchronous = FULL` makes every commit durable at the price of a flush.
pub struct Store {
    // Dropped first: closing the connection frees what refers to the engine.
    conn: Connection,
    pub(crate) engine: Box<Engine>,
    pub(crate) merge: RefCell<MergeSql>,
    /// There is no file, whatever SQLite calls it.
    pub(crate) is_memory: bool,
}

#[expect(unsafe_code, reason = "the engine holds raw handles")]
// SAFETY: the engine and its statements belong to this connection alone, and the store is not `Sync`: whichever thread
// has the store is the only one to touch them. SQLite is built thread-safe.
unsafe impl Send for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        self.merge.take();
        if !self.conn.is_autocommit() {
            // An open transaction is rolled back while the engine still listens.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        self.engine.stop();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.conn.path())
            .field("site_id", &self.engine.site.get())
            .finish_non_exhaustive()
    }
}

impl Deref for Store {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.conn
    }
}

impl Store {
    /// Opens a file with [`OpenOptions::new`]; it is created when missing.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        OpenOptions::new().open(path)
    }

    /// Opens a database in memory.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_in_memory() -> Result<Self, OpenError> {
        OpenOptions::new().open_in_memory()
    }

    pub(crate) fn open_file(path: &Path, options: &OpenOptions) -> Result<Self, OpenError> {
        if path.to_string_lossy().starts_with("file:") || path.as_os_str() == ":memory:" {
            return Err(OpenError::UriName { path: path.to_owned() });
        }
        let access = if options.read_only {
            OpenFlags::SQLITE_OPEN_READ_ONLY
        } else if options.create {
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
        } else {
            OpenFlags::SQLITE_OPEN_READ_WRITE
        };
        let named = |source: Error| match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => OpenError::NotADatabase { path: path.to_owned() },
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                OpenError::Unreachable { path: path.to_owned(), source }
            }
            _ => OpenError::Sqlite(source),
        };
        let conn =
            Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(named)?;
        Self::start(conn, options, false).map_err(|error| match error {
            OpenError::Sqlite(source) => named(source),
            other => other,
        })
    }

    pub(crate) fn open_memory(options: &OpenOptions) -> Result<Self, OpenError> {
        Self::start(Connection::open_in_memory()?, options, true)
    }

    pub(crate) fn open_shared_memory(name: &str, options: &OpenOptions) -> Result<Self, OpenError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(OpenError::UriName { path: name.into() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::start(Connection::open_with_flags(format!("file:/{name}?vfs=memdb"), flags)?, options, true)
    }

    #[expect(unsafe_code, reason = "hooks are given the engine, which is boxed and outlives the connection")]
    fn start(conn: Connection, options: &OpenOptions, memory: bool) -> Result<Self, OpenError> {
        // SAFETY: the handle is used only while the store, which owns the connection, is alive.
        let db = Db(unsafe { conn.handle() });
        let engine = Box::new(Engine::new(db, options.wall.clone(), options.drift_max_ms));
        let address: *const Engine = &raw const *engine;
        conn.busy_timeout(options.busy_timeout)?;
        // SAFETY: the engine is boxed, and dropped after the connection is closed.
        unsafe {
            hook::install(db, address);
            commit_hook::install(db, address)?;
            changes_vtab::install(db, address)?;
        }
        unpack_vtab::install(&conn)?;
        conflicts_vtab::install(&conn, address)?;
        functions::install(&conn, address)?;
        if let Some(seed) = options.random_seed {
            functions::seed_random(&conn, seed)?;
        }
        // From here on the store's own drop lets go of everything in the right order.
        let store = Self { conn, engine, merge: RefCell::default(), is_memory: memory };
        store.prepare(options, memory)?;
        Ok(store)
    }

    fn prepare(&self, options: &OpenOptions, memory: bool) -> Result<(), OpenError> {
        let db = self.engine.db;
        let format = meta::format(db)?;
        if format != 0 && format != meta::FORMAT {
            return Err(OpenError::OtherFormat { found: format, supported: meta::FORMAT });
        }
        if options.read_only && format == 0 {
            return Err(OpenError::NotInitialised);
        }
        if !options.read_only {
            if let Some(table) = meta::genuine_clock_table(db)? {
                return Err(OpenError::CrSqliteTables { table });
            }
            // Who has chosen another journal for a file keeps it, and SQLite's default flushing with it.
            if !memory && format == 0 {
                db.exec("PRAGMA journal_mode = WAL")?;
            }
            if db.integer("SELECT 1 FROM pragma_journal_mode WHERE journal_mode = 'wal'")?.is_some() {
                db.exec("PRAGMA synchronous = NORMAL")?;
            }
            self.engine.uncaptured(|| self.create(options))?;
        }
        self.engine.read_only.set(options.read_only);
        self.engine.limits.set(options.quarantine);
        if !options.image {
            self.engine.site.set(meta::own_site(db)?);
        }
        self.engine.start()?;
        if !options.read_only {
            self.engine.mend_guards()?;
            self.engine.notice_truncation()?;
            match self.engine.settle() {
                // Somebody else writes; the next merge sees to it.
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
                settled => settled?,
            }
        }
        Ok(())
    }

    fn create(&self, options: &OpenOptions) -> Result<(), Error> {
        let db = self.engine.db;
        let done = meta::format(db)? == meta::FORMAT;
        if done && !meta::has_orphans(db)? {
            return Ok(());
        }
        db.exec("BEGIN IMMEDIATE")?;
        let made = (|| {
            // Another process may have been quicker.
            if meta::format(db)? == 0 {
                meta::create(db, options.policy, options.site)?;
            }
            meta::drop_orphans(db)
        })();
        match made {
            Ok(()) => db.exec("COMMIT"),
            Err(error) => {
                db.exec("ROLLBACK")?;
                Err(error)
            }
        }
    }

    /// Notes for these feeds what is written on this connection from now on.
    #[expect(
        unsafe_code,
        reason = "the hook is given the engine, which is boxed and outlives the connection"
    )]
    pub(crate) fn record_for(&self, feeds: Arc<Feeds>) {
        if self.engine.recorder.set(feed::Recorder::new(feeds)).is_ok() {
            // SAFETY: the engine is boxed, and dropped after the connection is closed.
            unsafe { feed::install(self.engine.db, &raw const *self.engine) };
        }
    }

    /// The connection, for plain SQL.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.conn
    }

    /// This replica's id.
    #[must_use]
    pub fn site_id(&self) -> SiteId {
        self.engine.site.get()
    }

    /// The clock this database was created with.
    #[must_use]
    pub fn clock_policy(&self) -> ClockPolicy {
        self.engine.policy()
    }

    /// The last version committed to the file, by this connection or another.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn db_version(&self) -> Result<DbVersion, StoreError> {
        self.engine.in_snapshot(|| self.engine.refresh())?;
        Ok(DbVersion(self.engine.db_version()))
    }

    /// Begins a write transaction; it waits for its turn, and rolls back when dropped without a commit. For nested
    /// ones see [`Transaction::savepoint`].
    ///
    /// # Errors
    /// When another connection holds the write lock for longer than the busy timeout.
    pub fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        Transaction::new(&mut self.conn, TransactionBehavior::Immediate)
    }

    /// Makes a table replicate. A table that already does stays as it is. Rows that are there get clocks in one new
    /// version, older than any write to come.
    ///
    /// Foreign keys and NOT NULL columns without a default are fine, which `crsql_as_crr` refuses.
    ///
    /// # Errors
    /// See [`ReplicateError`]; nothing has changed then, and an open transaction goes on.
    pub fn replicate(&mut self, table: &str) -> Result<(), ReplicateError> {
        self.engine.replicate(table, Strictness::Opor).map(drop)
    }

    /// As [`replicate`](Self::replicate), and tells a watcher how far it is. Rows get their clocks in pieces, so memory does
    /// not grow with the table. The guard index is made in one statement, which is not interrupted; it is a scan of the
    /// table.
    ///
    /// # Errors
    /// See [`ReplicateError`]; cancelled or failed, nothing has changed, and an open transaction goes on.
    pub fn replicate_watched(
        &mut self,
        table: &str,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), ReplicateError> {
        self.engine.replicate_watched(table, Strictness::Opor, &mut Reporter::to(watcher)).map(drop)
    }

    /// Stops a table from replicating; its rows stay, and what is known of their history is dropped. A table that did
    /// not replicate stays as it is.
    ///
    /// # Errors
    /// When SQLite fails; nothing has changed then.
    pub fn unreplicate(&mut self, table: &str) -> Result<(), ReplicateError> {
        let done = self.engine.unreplicate(table).map(drop);
        done.map_err(|source| ReplicateError::Sqlite { table: table.to_owned(), source })
    }

    /// The tables that replicate, in the order in which they began to.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn replicated_tables(&self) -> Result<Vec<String>, StoreError> {
        self.engine.in_snapshot(|| self.engine.refresh())?;
        Ok(self.engine.catalog.borrow().tables.iter().map(|table| table.name.to_string()).collect())
    }

    /// The next piece of the log after `cursor`: about `changes_max` changes, and at least one row.
    ///
    /// A pull in pieces sees writes that are made meanwhile, and may then see a row twice; it misses none. Memory is
    /// bounded by the piece: one that has 16 MiB of values ends early, unless `changes_max` is `usize::MAX`.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn changes(&self, cursor: &Cursor, changes_max: usize) -> Result<Batch, ReadError> {
        self.piece(cursor, Reader::Unnamed, changes_max)
    }

    /// As [`changes`](Self::changes), for a peer. Its cursor is also refused if this replica has since learnt from others of
    /// deletes that it cannot tell of ([`horizon_for`](Self::horizon_for)).
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn changes_for(&self, peer: SiteId, cursor: &Cursor, changes_max: usize) -> Result<Batch, ReadError> {
        self.piece(cursor, Reader::Peer(peer), changes_max)
    }

    fn piece(&self, cursor: &Cursor, reader: Reader, changes_max: usize) -> Result<Batch, ReadError> {
        if let Some(nothing) = self.engine.nothing_new(cursor)? {
            return Ok(nothing);
        }
        if let Some(batch) = self.engine.batch_of_tail(cursor, reader, changes_max)? {
            return Ok(batch);
        }
        self.engine.look_around()?;
        self.engine.in_snapshot(|| self.engine.batch(cursor, reader, changes_max))
    }

    /// Everything after `since`, in one piece.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn changes_since(&self, since: DbVersion) -> Result<Changeset, ReadError> {
        Ok(self.changes(&Cursor::at(since), usize::MAX)?.changeset)
    }

    /// Merges a changeset, in a transaction of its own or as part of an open one.
    ///
    /// # Errors
    /// See [`ApplyError`]; nothing of the changeset is stored then, and later ones are not affected.
    pub fn apply(&mut self, changeset: &Changeset) -> Result<ApplyReport, ApplyError> {
        self.apply_with(changeset, &ApplyOptions::default())
    }

    /// As [`apply`](Self::apply), with options.
    ///
    /// # Errors
    /// See [`ApplyError`].
    ///
    /// # Durability
    /// The cursor in the options is stored in the same transaction as the changes.
    pub fn apply_with(
        &mut self,
        changeset: &Changeset,
        options: &ApplyOptions,
    ) -> Result<ApplyReport, ApplyError> {
        self.apply_reporting(changeset, options, &mut Reporter::silent())
    }

    /// As [`apply_with`](Self::apply_with), and tells a watcher how far it is.
    ///
    /// Memory is that of the changeset and of the clocks it touches, until the commit. To merge more than fits, merge
    /// in pieces, each with its cursor.
    ///
    /// # Errors
    /// See [`ApplyError`]; cancelled or failed, nothing of the changeset is stored, and an open transaction goes on.
    pub fn apply_watched(
        &mut self,
        changeset: &Changeset,
        options: &ApplyOptions,
        watcher: &mut Watcher<'_>,
    ) -> Result<ApplyReport, ApplyError> {
        self.apply_reporting(changeset, options, &mut Reporter::to(watcher))
    }

    fn apply_reporting(
        &self,
        changeset: &Changeset,
        options: &ApplyOptions,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, ApplyError> {
        let own = self.engine.db.is_autocommit();
        self.engine.look_around()?;
        reporter.begin(Phase::Merge, changeset.rows().len() as u64)?;
        self.merging(own, || {
            let merge = &mut self.merge.borrow_mut();
            let report = self.engine.apply(changeset, options, merge, own, reporter)?;
            reporter.end()?;
            Ok(report)
        })
    }

    /// Runs merges in a transaction of their own, or as part of the open one; all of it or nothing.
    pub(crate) fn merging<E: From<ApplyError>>(
        &self,
        own: bool,
        merge: impl FnOnce() -> Result<ApplyReport, E>,
    ) -> Result<ApplyReport, E> {
        let db = self.engine.db;
        // Rows arrive in any order, children before parents; and another replica's delete is its own cascade.
        let enforced = db.set_foreign_keys(false);
        let result = self.in_merge_transaction(own, merge);
        db.set_foreign_keys(enforced);
        result
    }

    fn in_merge_transaction<E: From<ApplyError>>(
        &self,
        own: bool,
        merge: impl FnOnce() -> Result<ApplyReport, E>,
    ) -> Result<ApplyReport, E> {
        let db = self.engine.db;
        let sqlite = |error| E::from(ApplyError::Sqlite(error));
        db.exec(if own { "BEGIN IMMEDIATE" } else { "SAVEPOINT opor_apply" }).map_err(sqlite)?;
        let applied = merge();
        let ended = match &applied {
            Ok(_) => db.exec(if own { "COMMIT" } else { "RELEASE opor_apply" }),
            Err(_) => db.exec(if own { "ROLLBACK" } else { "ROLLBACK TO opor_apply; RELEASE opor_apply" }),
        };
        if let (Err(error), true) = (&ended, own && !db.is_autocommit()) {
            let _ = db.exec("ROLLBACK");
            return Err(sqlite(Error::SqliteFailure(
                rusqlite::ffi::Error::new(error.sqlite_error().map_or(1, |error| error.extended_code)),
                Some(error.to_string()),
            )));
        }
        let report = applied?;
        ended.map_err(sqlite)?;
        Ok(report)
    }

    /// The whole log as one compressed binary changeset.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn changeset(&self) -> Result<Vec<u8>, ReadError> {
        Ok(self.changes_since(DbVersion(0))?.to_bytes())
    }

    /// The whole log as JSON.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn changeset_json(&self) -> Result<String, ReadError> {
        Ok(self.changes_since(DbVersion(0))?.to_json())
    }

    /// Merges a binary changeset, or one in JSON: the first byte tells.
    ///
    /// # Errors
    /// See [`ApplyError`]; bytes that are no changeset change nothing.
    pub fn apply_changeset(&mut self, bytes: &[u8]) -> Result<ApplyReport, ApplyError> {
        let changeset = parse_changeset(bytes)?;
        self.apply(&changeset)
    }

    /// How far this replica has pulled from a peer; `None` when it never has.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn peer_cursor(&self, peer: SiteId) -> Result<Option<Cursor>, StoreError> {
        Ok(meta::pulled(self.engine.db, peer)?)
    }

    /// How much of this replica's own log a peer has said it holds.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn acknowledged_by(&self, peer: SiteId) -> Result<DbVersion, StoreError> {
        Ok(DbVersion(meta::acknowledged(self.engine.db, peer)?))
    }

    /// Records what a peer has said it holds; it never goes back.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn set_acknowledged_by(&mut self, peer: SiteId, version: DbVersion) -> Result<(), StoreError> {
        Ok(self.engine.uncaptured(|| meta::save_acknowledged(self.engine.db, peer, version.0))?)
    }

    /// Up to which version of this replica's own log a peer holds everything: by what it has acknowledged, and by what it
    /// sent itself. It may be more than [`acknowledged_by`](Self::acknowledged_by): the peer need not have pulled its own
    /// changes back.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn held_by(&self, peer: SiteId) -> Result<DbVersion, StoreError> {
        Ok(DbVersion(meta::held(self.engine.db, peer)?))
    }

    /// Records that a peer holds everything up to a version; it never goes back. A merge with a cursor records it by itself
    /// where all before was held.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn set_held_by(&mut self, peer: SiteId, version: DbVersion) -> Result<(), StoreError> {
        Ok(self.engine.uncaptured(|| meta::save_held(self.engine.db, peer, version.0))?)
    }

    /// What was done to the file without opor and noticed, oldest first.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn incidents(&self) -> Result<Vec<Incident>, StoreError> {
        Ok(meta::incidents(self.engine.db)?)
    }

    /// The peers that a cursor or an acknowledgement is stored of.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn peers(&self) -> Result<Vec<SiteId>, StoreError> {
        Ok(meta::peers(self.engine.db)?)
    }
}

fn parse_changeset(bytes: &[u8]) -> Result<Changeset, ApplyError> {
    let limits = opor_core::DecodeLimits::default();
    let json =
        bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b'[' | b'{'));
    if json {
        Changeset::from_json(bytes, &limits).map_err(|error| ApplyError::Malformed(error.into()))
    } else {
        Changeset::from_bytes(bytes, &limits).map_err(|error| ApplyError::Malformed(error.into()))
    }
}
