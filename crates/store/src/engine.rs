//! The engine of one connection: what the hooks, the SQL functions and the typed API share.
//!
//! An engine is touched by one thread at a time, the one that uses its connection. SQLite calls back into it in the
//! middle of statements, so every borrow here is short, and none is held while SQL of the user runs.

mod refresh;
mod transaction;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use opor_core::{ClockDrift, ColVersion, EqualValues, Hlc, HybridClock, SiteId};
use rusqlite::Error;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::batch::BATCH;
use crate::block::{CellClock, Group};
use crate::catalog::{Catalog, ColumnChange, Table};
use crate::clocks::{Clocks, block_of};
use crate::colset::ColSet;
use crate::feed::Recorder;
use crate::hook::Assignable;
use crate::learnt::Learnt;
use crate::meta::{self, Meta};
use crate::notes::{MergeOp, Note, Notes};
use crate::options::{ClockPolicy, WallClock};
use crate::quarantine::QuarantineLimits;
use crate::read::ReadSql;
use crate::replay::{Numbering, Replay};
use crate::sqlite::{Db, Stmt, failure};
use crate::wal_index::{WalHeader, WalIndex};

/// Does nothing, to a table that takes nothing: having touched it is what counts. A DELETE would open a journal of the
/// statement, and a cursor.
const ENLIST: &str = "INSERT OR IGNORE INTO opor_commit_hook DEFAULT VALUES";
/// The most commits in the tail. Reading all of it, once at open, stays at a millisecond or two; a longer tail saves no page.
const TAIL_COMMITS_MAX: usize = 1024;
/// The most bytes in the tail: what a reader reads at open, and eight pages of the file.
const TAIL_BYTES_MAX: usize = 32 << 10;
/// A commit that touches more blocks than this goes to the clock tables at once.
const TAIL_BLOCKS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) db: Db,
    pub(crate) wall: WallClock,
    pub(crate) site: Cell<SiteId>,
    pub(crate) read_only: Cell<bool>,
    pub(crate) catalog: RefCell<Rc<Catalog>>,
    pub(crate) notes: RefCell<Notes>,
    pub(crate) clocks: RefCell<Clocks>,
    pub(crate) meta: RefCell<Meta>,
    pub(crate) hybrid: RefCell<HybridClock>,
    pub(crate) sites: RefCell<Sites>,
    sql: RefCell<Option<EngineSql>>,
    pub(crate) read_sql: RefCell<ReadSql>,
    pub(crate) assignable: RefCell<Assignable>,
    /// Whether a statement has been prepared, by SQLite itself perhaps, or something was rolled back, since the version of
    /// the schema was last read at the first write of a transaction.
    pub(crate) prepared: Cell<bool>,
    /// The numbering of the open transaction, once something has been replayed.
    numbering: Cell<Option<Numbering>>,
    /// The stamp of the open transaction, which outlives a second replay.
    stamp: Cell<Option<u64>>,
    /// Set once a key of the open transaction has died: a later insert may bring it back, so its key is noted.
    pub(crate) keys_matter: Cell<bool>,
    /// Above zero, writes are the engine's own or a merge's and are not noted.
    pub(crate) capture_off: Cell<u32>,
    /// How many rows were deleted or moved without notes, in any table.
    pub(crate) moves: Cell<u64>,
    /// The rowids of rows that are being inserted without notes, when somebody wants to know.
    pub(crate) inserted: RefCell<Option<Vec<i64>>>,
    /// Merges and deletes rows one by one, as a measure of doing so to many.
    #[cfg(test)]
    pub(crate) one_by_one: Cell<bool>,
    /// Set by `crsql_internal_sync_bit(1)`.
    pub(crate) sync_bit: Cell<bool>,
    /// Whether SQLite will call back when the open transaction commits.
    pub(crate) enlisted: Cell<bool>,
    /// Whether the mirror was written to the clock tables in the open transaction.
    folded: Cell<bool>,
    /// Set when what is in memory may not match the file.
    pub(crate) stale: Cell<bool>,
    data_version: Cell<i64>,
    /// Where the WAL index is; `None` until it is asked for, and after a pragma that may have moved it.
    wal_index: Cell<Option<Option<WalIndex>>>,
    /// The header of the WAL index when what is in memory matched the file.
    seen_header: Cell<Option<WalHeader>>,
    /// The header before the read transaction that is open.
    header_before: Cell<Option<WalHeader>>,
    /// The header at the first write of the open transaction, under the write lock.
    header_at_enlist: Cell<Option<WalHeader>>,
    /// Notes what changes for the feeds of a handle.
    pub(crate) recorder: OnceCell<Recorder>,
    /// The table that the hook saw last, for the name that SQLite gave, and the catalog it is from.
    last_written: RefCell<Option<LastWritten>>,
    /// The first fault of a hook, which has no way to say so: it fails the commit.
    pub(crate) fault: RefCell<Option<String>>,
    /// Merge winners of the open transaction.
    pub(crate) rows_impacted: Cell<i64>,
    /// What `crsql_next_db_version` promised in the open transaction.
    pub(crate) pending: Cell<u64>,
    tail: Cell<Tail>,
    /// The numbering when what had been replayed was last written to the file.
    baked_numbering: Cell<Option<Numbering>>,
    /// Set when a savepoint was rolled back, and the schema perhaps with it.
    schema_suspect: Cell<bool>,
    /// Tables written to in the open transaction that do not replicate.
    plain_tables: RefCell<FxHashSet<Box<[u8]>>>,
    /// Renamed columns whose values have got their clocks in the open transaction.
    backfilled: RefCell<FxHashSet<(u32, u32)>>,
    /// Set when the open transaction changed what memory cannot follow, so that it is read again after the commit.
    reread: Cell<bool>,
    /// Tombstones at or below this version may be gone.
    pub(crate) horizon: Cell<u64>,
    /// What others have forgotten, as far as it was learnt from snapshots.
    pub(crate) learnt: RefCell<Vec<Learnt>>,
    /// Set when what has been cut off the log must be read again.
    pub(crate) cut_stale: Cell<bool>,
    /// What a changeset may put into quarantine, if the owner has said so.
    pub(crate) limits: Cell<Option<QuarantineLimits>>,
    /// The schema for which quarantine was last looked through; below 0 when it has to be.
    pub(crate) released_at: Cell<i64>,
    /// Tables whose blocks the walk over the log leaves out. For images: their rows have been taken from them already.
    pub(crate) left_out: RefCell<FxHashSet<u32>>,
}

/// Statements write to one table many times in a row: comparing two pointers and a name finds it again.
#[derive(Debug)]
struct LastWritten {
    name: *const u8,
    catalog: Rc<Catalog>,
    table: Rc<Table>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    commits: usize,
    bytes: usize,
}

#[derive(Debug)]
struct EngineSql {
    enlist: Stmt,
    /// The schema for which `enlist` was prepared.
    enlist_version: i64,
    schema_version: Stmt,
    /// Moves when another connection has committed.
    data_version: Stmt,
    tail_put: Stmt,
    tail_after: Stmt,
}

impl EngineSql {
    fn read_schema_version(&mut self) -> Result<i64, Error> {
        let mut row = self.schema_version.start();
        row.step()?;
        Ok(row.integer(0))
    }
}

/// Sites and their ordinals, the local one being 0.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    by_ordinal: FxHashMap<u32, SiteId>,
    ordinals: FxHashMap<SiteId, u32>,
}

impl Engine {
    pub(crate) fn new(db: Db, wall: WallClock, drift_max_ms: u64) -> Self {
        Self {
            db,
            wall,
            site: Cell::new(SiteId::from([0; 16])),
            read_only: Cell::new(false),
            catalog: RefCell::default(),
            notes: RefCell::default(),
            clocks: RefCell::new(Clocks::new(db)),
            meta: RefCell::default(),
            hybrid: RefCell::new(HybridClock::new(drift_max_ms)),
            sites: RefCell::default(),
            sql: RefCell::new(None),
            read_sql: RefCell::default(),
            assignable: RefCell::default(),
            prepared: Cell::new(true),
            numbering: Cell::new(None),
            stamp: Cell::new(None),
            keys_matter: Cell::new(false),
            capture_off: Cell::new(0),
            moves: Cell::new(0),
            inserted: RefCell::new(None),
            #[cfg(test)]
            one_by_one: Cell::new(false),
            sync_bit: Cell::new(false),
            enlisted: Cell::new(false),
            folded: Cell::new(false),
            stale: Cell::new(true),
            data_version: Cell::new(0),
            wal_index: Cell::new(None),
            seen_header: Cell::new(None),
            header_before: Cell::new(None),
            header_at_enlist: Cell::new(None),
            recorder: OnceCell::new(),
            last_written: RefCell::new(None),
            fault: RefCell::new(None),
            rows_impacted: Cell::new(0),
            pending: Cell::new(0),
            tail: Cell::default(),
            reread: Cell::new(false),
            baked_numbering: Cell::new(None),
            schema_suspect: Cell::new(false),
            plain_tables: RefCell::default(),
            backfilled: RefCell::default(),
            horizon: Cell::new(0),
            learnt: RefCell::default(),
            cut_stale: Cell::new(true),
            limits: Cell::new(None),
            released_at: Cell::new(-1),
            left_out: RefCell::default(),
        }
    }

    /// Prepares what the hot paths hold; the internal tables exist by now.
    pub(crate) fn start(&self) -> Result<(), Error> {
        let db = self.db;
        *self.sql.borrow_mut() = Some(EngineSql {
            enlist: db.prepare(ENLIST)?,
            enlist_version: -1,
            schema_version: db.prepare("PRAGMA main.schema_version")?,
            data_version: db.prepare("PRAGMA main.data_version")?,
            tail_put: db.prepare("INSERT OR REPLACE INTO opor_tail(db_version, body) VALUES (?, ?)")?,
            tail_after: db
                .prepare("SELECT db_version, body FROM opor_tail WHERE db_version > ? ORDER BY db_version")?,
        });
        self.refresh()
    }

    /// Lets go of every statement, before the connection closes.
    pub(crate) fn stop(&self) {
        *self.sql.borrow_mut() = None;
        self.read_sql.take();
        self.clocks.borrow_mut().finalize();
    }

    /// Runs without capture: the writes inside are the engine's own.
    pub(crate) fn uncaptured<T>(&self, run: impl FnOnce() -> T) -> T {
        self.capture_off.set(self.capture_off.get() + 1);
        let result = run();
        self.capture_off.set(self.capture_off.get() - 1);
        result
    }

    /// As [`uncaptured`](Self::uncaptured), and tells the rowids of the rows that were inserted, in their order.
    pub(crate) fn collecting<T>(&self, run: impl FnOnce() -> T) -> (T, Vec<i64>) {
        *self.inserted.borrow_mut() = Some(Vec::with_capacity(BATCH));
        let result = self.uncaptured(run);
        (result, self.inserted.take().unwrap_or_default())
    }

    pub(crate) fn captures(&self) -> bool {
        self.capture_off.get() == 0 && !self.sync_bit.get()
    }

    pub(crate) fn table(&self, name: &str) -> Option<Rc<Table>> {
        self.catalog.borrow().table(name).cloned()
    }

    /// As SQL finds tables. What travels is told apart by case.
    pub(crate) fn table_in_any_case(&self, name: &str) -> Option<Rc<Table>> {
        let catalog = self.catalog.borrow();
        catalog.tables.iter().find(|table| table.name.eq_ignore_ascii_case(name)).cloned()
    }

    pub(crate) fn policy(&self) -> ClockPolicy {
        self.meta.borrow().policy
    }

    pub(crate) fn equal_values(&self) -> EqualValues {
        if self.meta.borrow().merge_equal_values { EqualValues::LargerSite } else { EqualValues::KeepLocal }
    }

    /// Has SQLite call back at COMMIT, and learns what other connections did. Called at the first write of a
    /// transaction, with the write lock held.
    pub(crate) fn enlist(&self) -> Result<(), Error> {
        if self.enlisted.get() {
            return Ok(());
        }
        let version = self.uncaptured(|| {
            let mut sql = self.sql.borrow_mut();
            let sql = sql.as_mut().ok_or_else(|| failure("the store is closed"))?;
            // SQLite must not prepare this anew by itself: here, in the middle of a write, that would let go of the
            // page that the write stands on. (Found with SQLITE_DEBUG: "p->nRef>0" in sqlite3PcacheMakeDirty.)
            let version = if self.prepared.replace(false) || sql.enlist_version < 0 {
                sql.read_schema_version()?
            } else {
                // The statement that writes was prepared before the version was last read, and SQLite has checked just now
                // that the schema is the one it was prepared for.
                sql.enlist_version
            };
            if sql.enlist_version != version {
                sql.enlist = self.db.prepare(ENLIST)?;
                sql.enlist_version = version;
            }
            sql.enlist.run(&[])?;
            Ok::<_, Error>(version)
        })?;
        self.enlisted.set(true);
        if let Some(recorder) = self.recorder.get() {
            recorder.enlisted();
        }
        self.find_wal_index();
        self.header_at_enlist.set(self.header());
        self.refresh_behind(self.header_at_enlist.get(), Some(version))?;
        // Nobody else can commit now: what is in memory is what the header tells of.
        self.seen_header.set(self.header_at_enlist.get());
        self.backfill_renamed()
    }

    /// The catalog's table of a name that a write mentions. A table that was renamed in this transaction is found.
    pub(crate) fn written_table(&self, name: &[u8]) -> Result<Option<Rc<Table>>, Error> {
        if self.schema_suspect.replace(false) {
            self.refresh_catalog()?;
        }
        if let Some(last) = &*self.last_written.borrow()
            && last.name == name.as_ptr()
            && Rc::ptr_eq(&last.catalog, &*self.catalog.borrow())
            && last.table.name.as_bytes() == name
        {
            return Ok(Some(last.table.clone()));
        }
        let catalog = self.catalog.borrow().clone();
        if let Some((_, table)) = catalog.table_by_bytes(name) {
            let table = table.clone();
            let last = LastWritten { name: name.as_ptr(), catalog, table: table.clone() };
            *self.last_written.borrow_mut() = Some(last);
            return Ok(Some(table));
        }
        if self.plain_tables.borrow().contains(name) {
            return Ok(None);
        }
        self.refresh_catalog()?;
        self.backfill_renamed()?;
        if let Some((_, table)) = self.catalog.borrow().table_by_bytes(name) {
            return Ok(Some(table.clone()));
        }
        self.plain_tables.borrow_mut().insert(name.into());
        Ok(None)
    }

    /// A table was made, dropped or renamed: what was known of names may not hold.
    pub(crate) fn schema_may_move(&self) {
        self.plain_tables.borrow_mut().clear();
        self.schema_suspect.set(true);
    }

    /// Gives clocks to the values of renamed columns before anything more is written to them.
    fn backfill_renamed(&self) -> Result<(), Error> {
        let catalog = self.catalog.borrow().clone();
        for change in &catalog.unsaved {
            match change {
                ColumnChange::Added { table, bit, renamed: true, .. } => {
                    self.backfill_once(&catalog, *table, *bit)?
                }
                ColumnChange::Retired { table, .. }
                    if catalog.table_by_id(*table).is_some_and(|table| table.columns.is_empty()) =>
                {
                    // A table of keys alone tells of its rows by their sentinels.
                    self.backfill_once(&catalog, *table, ColSet::SENTINEL)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn backfill_once(&self, catalog: &Catalog, table: u32, bit: u32) -> Result<(), Error> {
        match catalog.table_by_id(table) {
            Some(found) if self.backfilled.borrow_mut().insert((table, bit)) => {
                self.backfill_column(found, bit)
            }
            _ => Ok(()),
        }
    }

    /// The numbering of the open transaction.
    fn begin_numbering(&self) -> Numbering {
        if let Some(numbering) = self.numbering.get() {
            return numbering;
        }
        let stamp = match self.policy() {
            ClockPolicy::Lamport => None,
            ClockPolicy::Hlc => Some(self.stamp.get().unwrap_or_else(|| {
                let stamp = self.hybrid.borrow_mut().tick(self.wall.now()).version().0;
                self.stamp.set(Some(stamp));
                stamp
            })),
        };
        let dv = (self.meta.borrow().db_version + 1).max(self.pending.get());
        Numbering { dv, seq: 0, used: 0, stamp }
    }

    /// Turns the notes taken so far into staged clocks.
    pub(crate) fn replay(&self) -> Result<(), Error> {
        if self.stale.get() {
            self.refresh()?;
        }
        let mut notes = self.notes.borrow_mut();
        if notes.replayed == notes.log.len() {
            return Ok(());
        }
        let mut numbering = self.begin_numbering();
        let catalog = self.catalog.borrow().clone();
        let mut clocks = self.clocks.borrow_mut();
        let mut replay = Replay { catalog: &catalog, clocks: &mut clocks, numbering: &mut numbering };
        let mut rest = &notes.log[notes.replayed..];
        while let Some((note, after)) = rest.split_first() {
            #[cfg(test)]
            let runs = !self.one_by_one.get();
            #[cfg(not(test))]
            let runs = true;
            if runs && let Some(many) = replay.deletes_of_keys(&notes, rest)? {
                rest = &rest[many..];
                continue;
            }
            replay.note(&notes, note)?;
            rest = after;
        }
        notes.replayed = notes.log.len();
        self.numbering.set(Some(numbering));
        Ok(())
    }

    /// The version a merge made now takes, before it looks at the incoming one.
    pub(crate) fn merge_version(&self) -> u64 {
        self.begin_numbering().dv
    }

    /// Records what a merge did to the clocks of a row, in step with the notes.
    pub(crate) fn merge(&self, op: MergeOp) -> Result<(), Error> {
        self.notes.borrow_mut().log.push(Note::Merge(Box::new(op)));
        self.replay()
    }

    /// As [`merge`](Self::merge), for an apply that owns its transaction: nothing can roll it back in part, so
    /// nothing is kept to replay it.
    pub(crate) fn merge_directly(&self, op: &MergeOp) -> Result<(), Error> {
        let mut numbering = self.begin_numbering();
        let catalog = self.catalog.borrow().clone();
        let mut clocks = self.clocks.borrow_mut();
        Replay { catalog: &catalog, clocks: &mut clocks, numbering: &mut numbering }.merge(op)?;
        self.numbering.set(Some(numbering));
        Ok(())
    }

    /// As [`merge_directly`](Self::merge_directly), for one clock of some columns of a row that is found by rowid.
    pub(crate) fn merge_group_directly(
        &self,
        table: &Table,
        row: i64,
        cols: &ColSet,
        clock: CellClock,
    ) -> Result<(), Error> {
        let mut numbering = self.begin_numbering();
        numbering.dv = numbering.dv.max(clock.dv);
        numbering.used = numbering.used.max(numbering.dv);
        let (block, bit) = block_of(row);
        let mut clocks = self.clocks.borrow_mut();
        clocks.stage((table.id, block))?.put(Group::of_row(bit, cols.clone(), clock));
        self.numbering.set(Some(numbering));
        Ok(())
    }

    /// As [`merge_group_directly`](Self::merge_group_directly), for several rows in the order of their rowids.
    pub(crate) fn merge_groups_directly(
        &self,
        table: &Table,
        cols: &ColSet,
        rows: impl Iterator<Item = (i64, CellClock)>,
    ) -> Result<(), Error> {
        let mut numbering = self.begin_numbering();
        let mut clocks = self.clocks.borrow_mut();
        let mut rows = rows.peekable();
        while let Some((first, _)) = rows.peek() {
            let (block, _) = block_of(*first);
            let mut staged = clocks.stage((table.id, block))?;
            while let Some((row, clock)) = rows.next_if(|(row, _)| block_of(*row).0 == block) {
                numbering.dv = numbering.dv.max(clock.dv);
                numbering.used = numbering.used.max(numbering.dv);
                staged.put(Group::of_row(block_of(row).1, cols.clone(), clock));
            }
        }
        self.numbering.set(Some(numbering));
        Ok(())
    }

    /// What `crsql_next_db_version` answers.
    pub(crate) fn promise_version(&self, at_least: u64) -> Result<u64, Error> {
        self.replay()?;
        let current = self.numbering.get().map_or(0, |numbering| numbering.dv);
        let next = (self.meta.borrow().db_version + 1).max(current).max(self.pending.get()).max(at_least);
        self.pending.set(next);
        if let Some(numbering) = self.numbering.get() {
            self.notes.borrow_mut().log.push(Note::AtLeast(next));
            self.numbering.set(Some(Numbering { dv: next, ..numbering }));
        }
        Ok(next)
    }

    pub(crate) fn next_seq(&self, take: bool) -> i64 {
        let numbering = self.begin_numbering();
        if take {
            self.notes.borrow_mut().log.push(Note::SkipSeqs(1));
        }
        numbering.seq.cast_signed()
    }

    /// Moves the hybrid clock past a stamp from a peer; where versions are counted there is nothing to do.
    pub(crate) fn observe(&self, stamp: u64) -> Result<(), ClockDrift> {
        match self.policy() {
            ClockPolicy::Lamport => Ok(()),
            ClockPolicy::Hlc => {
                self.hybrid.borrow_mut().observe(Hlc::from_version(stamp.into()), self.wall.now())
            }
        }
    }

    /// Moves the hybrid clock past the newest stamp of what was merged, and with it what is written after that in the same
    /// transaction.
    pub(crate) fn observe_merged(&self, newest: ColVersion) {
        if self.policy() != ClockPolicy::Hlc {
            return;
        }
        let mut hybrid = self.hybrid.borrow_mut();
        hybrid.restore(Hlc::from_version(newest));
        if self.stamp.get().is_some_and(|stamp| stamp <= newest.0) {
            let stamp = Some(hybrid.tick(self.wall.now()).version().0);
            self.stamp.set(stamp);
            self.numbering.set(self.numbering.get().map(|numbering| Numbering { stamp, ..numbering }));
        }
    }

    fn forget_catalog(&self) {
        *self.catalog.borrow_mut() = Rc::new(Catalog::unknown());
    }

    /// After a rollback of schema changes within a transaction that goes on.
    pub(crate) fn forget_schema(&self) {
        self.read_sql.take();
        self.clocks.borrow_mut().finalize();
        if self.load_catalog().is_err() {
            self.forget_catalog();
        }
    }

    /// Puts columns that appeared or went on record.
    pub(crate) fn save_columns(&self) -> Result<(), Error> {
        let catalog = self.catalog.borrow().clone();
        if catalog.unsaved.is_empty() && catalog.dropped.is_empty() && catalog.renamed.is_empty() {
            return Ok(());
        }
        self.backfill_renamed()?;
        for change in &catalog.unsaved {
            self.save_column(change)?;
        }
        let recorded = meta::recorded_tables(self.db)?;
        for table in &catalog.dropped {
            if let Some((_, name)) = recorded.iter().find(|(id, _)| id == table) {
                let what = "dropped: it does not replicate any more, and peers keep its rows";
                meta::record_incident(self.db, self.wall.now().0, name, what)?;
            }
            meta::forget_table(self.db, *table)?;
            meta::remove_tombs(self.db, *table)?;
            self.clocks.borrow_mut().forget_table(*table);
        }
        for (table, name) in &catalog.renamed {
            meta::rename_table(self.db, *table, name)?;
        }
        self.load_catalog()
    }

    fn save_column(&self, change: &ColumnChange) -> Result<(), Error> {
        match change {
            ColumnChange::Retired { table, bit } => meta::retire_column(self.db, *table, *bit),
            ColumnChange::Added { table, bit, name, renamed } => {
                let _ = renamed;
                meta::add_column(self.db, *table, *bit, name)
            }
        }
    }

    /// The ordinal of a site, which is recorded when it is new.
    pub(crate) fn ordinal(&self, site: SiteId) -> Result<u32, Error> {
        if site == self.site.get() {
            return Ok(0);
        }
        if let Some(ordinal) = self.sites.borrow().ordinals.get(&site) {
            return Ok(*ordinal);
        }
        let ordinal = self.uncaptured(|| meta::ordinal(self.db, site))?;
        self.sites.borrow_mut().ordinals.insert(site, ordinal);
        Ok(ordinal)
    }

    /// The site of an ordinal.
    pub(crate) fn site_of(&self, ordinal: u32) -> Result<SiteId, Error> {
        if ordinal == 0 {
            return Ok(self.site.get());
        }
        if let Some(site) = self.sites.borrow().by_ordinal.get(&ordinal) {
            return Ok(*site);
        }
        let site = meta::site_of(self.db, ordinal)?;
        self.sites.borrow_mut().by_ordinal.insert(ordinal, site);
        Ok(site)
    }

    /// Whether REPLACE deletes as a DELETE does; asked rarely.
    pub(crate) fn recursive_triggers(&self) -> bool {
        matches!(self.db.integer("PRAGMA recursive_triggers"), Ok(Some(1)))
    }

    /// The last committed version.
    pub(crate) fn db_version(&self) -> u64 {
        self.meta.borrow().db_version
    }
}
