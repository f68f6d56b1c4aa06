//! Keeping what is in memory in step with the file: what other connections committed, and what became of the schema.

use std::rc::Rc;

use opor_core::Hlc;
use rusqlite::Error;
use rustc_hash::FxHashSet;

use super::{Engine, EngineSql, Sites, Tail};
use crate::catalog::Catalog;
use crate::colset::ColSet;
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

    pub(super) fn refresh_at(&self, schema_version: Option<i64>) -> Result<(), Error> {
        if !self.stale.get() && self.header_is_seen() {
            return self.refresh_catalog_at(schema_version);
        }
        let seen = self.seen_version()?;
        if self.stale.get() || seen != self.data_version.get() {
            self.reload()?;
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

    pub(super) fn header_is_seen(&self) -> bool {
        self.seen_header.get().is_some_and(|seen| self.header() == Some(seen))
    }

    /// A read transaction is about to begin: what it sees is at least as new as the header is now.
    pub(crate) fn before_snapshot(&self) {
        self.find_wal_index();
        self.header_before.set(self.header());
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

    fn seen_version(&self) -> Result<i64, Error> {
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
        *self.catalog.borrow_mut() = Rc::new(catalog);
        Ok(())
    }

    /// Reads the tail and the counters again. Another connection's fold or commit shows here.
    fn reload(&self) -> Result<(), Error> {
        let meta = Meta::load(self.db)?;
        let mut clocks = self.clocks.borrow_mut();
        clocks.forget_file();
        clocks.hash_seed = meta.hash_seed;
        let mut tail = Tail::default();
        let mut db_version = meta.db_version;
        let mut stmt = self.db.prepare("SELECT db_version, body FROM opor_tail ORDER BY db_version")?;
        let mut rows = stmt.start();
        while rows.step()? {
            let dv = rows.integer(0).cast_unsigned();
            let body = rows.blob(1);
            clocks.mirror.decode(dv, body).map_err(crate::clocks::damaged)?;
            db_version = db_version.max(dv);
            tail = Tail { commits: tail.commits + 1, bytes: tail.bytes + body.len() };
        }
        drop(rows);
        let known: FxHashSet<u32> = meta::recorded_tables(self.db)?.into_iter().map(|(id, _)| id).collect();
        clocks.mirror.blocks.retain(|id, _| known.contains(&id.0));
        clocks.mirror.tombs.retain(|id, _| known.contains(&id.0));
        let stamps = clocks.mirror.blocks.values().flat_map(|record| &record.block.groups);
        let stamp = stamps.filter(|group| !group.cols.contains(ColSet::SENTINEL)).map(|group| group.cv).max();
        self.hybrid.borrow_mut().restore(Hlc::from_version(stamp.unwrap_or(0).max(meta.hlc).into()));
        self.tail.set(tail);
        self.cut_stale.set(true);
        *self.meta.borrow_mut() = Meta { db_version, ..meta };
        *self.sites.borrow_mut() = Sites::default();
        Ok(())
    }
}
