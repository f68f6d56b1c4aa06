//! Keeping what is in memory in step with the file: what other connections committed, and what became of the schema.

use std::rc::Rc;

use opor_core::Hlc;
use rusqlite::Error;
use rustc_hash::FxHashSet;

use super::{Engine, EngineSql, Sites, Tail};
use crate::catalog::Catalog;
use crate::meta::{self, Meta};
use crate::sqlite::failure;
use crate::wal_index::{WalHeader, WalIndex};

impl Engine {
    /// Makes what is in memory match the file, as the open transaction sees it.
    pub(crate) fn refresh(&self) -> Result<(), Error> {
        // This reads something, so that the transaction has its snapshot before the header is looked at.
        let schema_version =
            self.sql.borrow_mut().as_mut().map(EngineSql::read_schema_version).transpose()?;
        self.refresh_at(schema_version)
    }

    fn refresh_at(&self, schema_version: Option<i64>) -> Result<(), Error> {
        self.refresh_behind(self.header(), schema_version)
    }

    /// Makes what is in memory match the file, whose WAL index has this header.
    pub(super) fn refresh_behind(
        &self,
        header: Option<WalHeader>,
        schema_version: Option<i64>,
    ) -> Result<(), Error> {
        if !self.stale.get() && header.is_some() && header == self.seen_header.get() {
            return self.refresh_catalog_at(schema_version);
        }
        let seen = self.seen_version()?;
        if self.stale.get() || seen != self.data_version.get() {
            let moved = schema_version != Some(self.catalog.borrow().schema_version);
            self.reload(moved)?;
            // Another connection may have recorded what this one found new in the schema.
            if !self.catalog.borrow().is_recorded() {
                self.load_catalog()?;
            }
            self.data_version.set(seen);
            self.stale.set(false);
        }
        if let Some(header) = self.header_before.take() {
            self.seen_header.set(Some(header));
        }
        self.refresh_catalog_at(schema_version)?;
        self.refresh_cut()
    }

    fn refresh_catalog_at(&self, schema_version: Option<i64>) -> Result<(), Error> {
        match schema_version {
            Some(version) if self.catalog.borrow().schema_version != version => self.load_catalog(),
            _ => Ok(()),
        }
    }

    /// The header of the WAL index, where it is known.
    #[expect(unsafe_code, reason = "reads memory that SQLite shares")]
    pub(super) fn header(&self) -> Option<WalHeader> {
        let index = self.wal_index.get()??;
        // SAFETY: hooks and calls run while the connection is open.
        unsafe { index.header() }
    }

    /// The header, for somebody who looks whether another connection has committed; `None` where there is none.
    pub(crate) fn look_at_header(&self) -> Option<WalHeader> {
        self.find_wal_index();
        self.header()
    }

    /// Begins a read transaction, and tells the header of its snapshot: `None` when there is none, or somebody committed in
    /// the same moment.
    pub(crate) fn begin_at(&self) -> Result<Option<WalHeader>, Error> {
        let before = self.look_at_header();
        self.db.exec("BEGIN")?;
        // The snapshot is taken by the first read, and this is the cheapest.
        let read = self.sql.borrow_mut().as_mut().map(EngineSql::read_schema_version).transpose();
        if let Err(error) = read {
            self.db.exec("ROLLBACK")?;
            return Err(error);
        }
        Ok(before.filter(|before| self.header() == Some(*before)))
    }

    pub(super) fn header_is_seen(&self) -> bool {
        self.seen_header.get().is_some_and(|seen| self.header() == Some(seen))
    }

    /// The header, if no transaction is open and what is in memory is what was committed last.
    pub(crate) fn current_header(&self) -> Option<WalHeader> {
        let quiet = self.db.is_autocommit() && !self.stale.get() && !self.cut_stale.get();
        let seen = self.seen_header.get().filter(|_| quiet)?;
        (self.header() == Some(seen)).then_some(seen)
    }

    /// A read transaction is about to begin: what it sees is at least as new as the header is now. Unless a statement
    /// stands in the middle of its rows: it goes on in that one's, which may be older.
    pub(crate) fn before_snapshot(&self) {
        self.find_wal_index();
        self.header_before.set(if self.db.is_reading() { None } else { self.header() });
    }

    pub(super) fn find_wal_index(&self) {
        if self.wal_index.get().is_none() {
            self.wal_index.set(Some(WalIndex::of(self.db)));
        }
    }

    pub(crate) fn after_snapshot(&self) {
        self.header_before.set(None);
    }

    /// The journal, or how it is locked, may be changed by a statement that is being prepared.
    pub(crate) fn wal_may_move(&self) {
        self.wal_index.set(None);
        self.seen_header.set(None);
    }

    /// Whether everything newer than `base` is in memory.
    pub(crate) fn is_layered_since(&self, base: u64) -> bool {
        base >= self.meta.borrow().folded && !self.folded.get() && !self.reread.get()
    }

    /// SQLite's count of what other connections have committed.
    pub(crate) fn seen_version(&self) -> Result<i64, Error> {
        let mut sql = self.sql.borrow_mut();
        let sql = sql.as_mut().ok_or_else(|| failure("the store is closed"))?;
        let mut row = sql.data_version.start();
        row.step()?;
        Ok(row.integer(0))
    }

    /// Whether nothing has been committed, by anyone, since this connection last looked; and nothing is open.
    pub(crate) fn is_current(&self) -> Result<bool, Error> {
        let quiet = !self.stale.get() && !self.enlisted.get();
        Ok(quiet && (self.header_is_seen() || self.seen_version()? == self.data_version.get()))
    }

    /// When another connection has committed: whether a table was emptied without opor.
    pub(crate) fn look_around(&self) -> Result<(), Error> {
        let quiet = self.read_only.get() || !self.db.is_autocommit() || self.is_current()?;
        if quiet {
            return Ok(());
        }
        self.in_snapshot(|| self.refresh())?;
        self.notice_truncation()
    }

    pub(super) fn refresh_catalog(&self) -> Result<(), Error> {
        let version = self.sql.borrow_mut().as_mut().map(EngineSql::read_schema_version).transpose()?;
        self.refresh_catalog_at(version)
    }

    pub(crate) fn load_catalog(&self) -> Result<(), Error> {
        let previous = self.catalog.borrow().clone();
        let catalog = self.uncaptured(|| Catalog::load(self.db, &previous))?;
        self.clocks.borrow_mut().known = self.recorded()?;
        *self.catalog.borrow_mut() = Rc::new(catalog);
        Ok(())
    }

    fn recorded(&self) -> Result<FxHashSet<u32>, Error> {
        Ok(meta::recorded_tables(self.db)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Reads the counters, and what is new in the tail; all of it, if another connection has folded it or something may
    /// have been undone. `schema_moved` says that tables may have gone.
    fn reload(&self, schema_moved: bool) -> Result<(), Error> {
        let meta = Meta::load(self.db)?;
        let before = self.meta.borrow().clone();
        let anew = self.stale.get()
            || schema_moved
            || (meta.folded, meta.epoch, meta.hash_seed) != (before.folded, before.epoch, before.hash_seed);
        let mut clocks = self.clocks.borrow_mut();
        clocks.forget_tables();
        if anew {
            clocks.mirror.clear();
            clocks.hash_seed = meta.hash_seed;
            clocks.known = self.recorded()?;
            self.tail.set(Tail::default());
        }
        let mut db_version = if anew { meta.db_version } else { before.db_version };
        let mut stamp = meta.hlc;
        let mut tail = self.tail.get();
        let mut sql = self.sql.borrow_mut();
        let sql = sql.as_mut().ok_or_else(|| failure("the store is closed"))?;
        let mut rows = sql.tail_after.start();
        rows.bind_integer(if anew { -1 } else { db_version.cast_signed() })?;
        while rows.step()? {
            let dv = rows.integer(0).cast_unsigned();
            let body = rows.blob(1);
            stamp = clocks.lay(dv, body)?.0.max(stamp);
            db_version = db_version.max(dv);
            tail = Tail { commits: tail.commits + 1, bytes: tail.bytes + body.len() };
        }
        self.hybrid.borrow_mut().restore(Hlc::from_version(stamp.into()));
        self.tail.set(tail);
        self.cut_stale.set(true);
        *self.meta.borrow_mut() = Meta { db_version, ..meta };
        *self.sites.borrow_mut() = Sites::default();
        Ok(())
    }
}
