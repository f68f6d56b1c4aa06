//! What SQLite calls back for: when the transaction commits or is rolled back, and when savepoints come and go.

use opor_core::SiteId;
use rusqlite::Error;

use super::{Engine, Sites, TAIL_BLOCKS_MAX, TAIL_BYTES_MAX, TAIL_COMMITS_MAX, Tail};
use crate::feed::Origin;
use crate::meta;
use crate::replay::seqs_of;
use crate::sqlite::failure;

impl Engine {
    /// `xSync`: writes the clocks inside the transaction that commits. May run twice, when COMMIT was busy.
    pub(crate) fn before_commit(&self) -> Result<(), Error> {
        if let Some(fault) = self.fault.borrow().clone() {
            return Err(failure(fault));
        }
        let rowid = self.db.last_insert_rowid();
        let result = self.uncaptured(|| {
            self.refresh_catalog()?;
            self.save_columns()?;
            self.replay()?;
            self.write_clocks()
        });
        self.db.set_last_insert_rowid(rowid);
        result
    }

    fn write_clocks(&self) -> Result<(), Error> {
        let Some(numbering) = self.numbering.get() else { return Ok(()) };
        let mut clocks = self.clocks.borrow_mut();
        if clocks.staged.is_empty() {
            return Ok(());
        }
        let tail = self.tail.get();
        let small = clocks.staged.len() <= TAIL_BLOCKS_MAX
            && tail.commits < TAIL_COMMITS_MAX
            && tail.bytes < TAIL_BYTES_MAX
            && !self.folded.get()
            // The tail files one record a version.
            && numbering.used > self.db_version();
        if let Some(body) = small.then(|| clocks.encode_staged(numbering.used)).flatten() {
            let mut sql = self.sql.borrow_mut();
            let sql = sql.as_mut().ok_or_else(|| failure("the store is closed"))?;
            let mut put = sql.tail_put.start();
            put.bind_integer(numbering.used.cast_signed())?;
            put.bind_blob(&body)?;
            put.step()?;
            self.tail.set(Tail { commits: tail.commits + 1, bytes: tail.bytes + body.len() });
            drop(clocks);
            self.bake();
            return Ok(());
        }
        self.folded.set(true);
        clocks.fold()?;
        self.db.exec("DELETE FROM opor_tail")?;
        let hlc = self.hybrid.borrow().last().version().0;
        meta::save_fold(self.db, numbering.used.max(self.db_version()), hlc)?;
        self.tail.set(Tail::default());
        drop(clocks);
        self.bake();
        Ok(())
    }

    /// What has been replayed is in the file now, as far as the transaction is: it must not be replayed again.
    fn bake(&self) {
        let mut notes = self.notes.borrow_mut();
        notes.baked = notes.replayed;
        self.baked_numbering.set(self.numbering.get());
    }

    /// Writes all that is known into the clock tables, in the open write transaction.
    pub(crate) fn fold_now(&self) -> Result<(), Error> {
        self.replay()?;
        let used = self.numbering.get().map_or(0, |numbering| numbering.used);
        let mut clocks = self.clocks.borrow_mut();
        self.folded.set(true);
        clocks.fold()?;
        clocks.discard_staged();
        drop(clocks);
        self.db.exec("DELETE FROM opor_tail")?;
        let hlc = self.hybrid.borrow().last().version().0;
        meta::save_fold(self.db, used.max(self.db_version()), hlc)?;
        self.tail.set(Tail::default());
        self.reread.set(true);
        self.bake();
        Ok(())
    }

    /// Clocks of the version that merges take have been written past what is staged: the commit takes that version.
    pub(crate) fn wrote_below(&self) -> Result<(), Error> {
        let mut numbering = self.begin_numbering();
        numbering.used = numbering.used.max(numbering.dv);
        self.numbering.set(Some(numbering));
        // Nothing in the clock tables is newer than what is said to have been folded.
        self.uncaptured(|| self.fold_now())?;
        self.clocks.borrow_mut().staged.takes_version = true;
        Ok(())
    }

    /// `xCommit`: what was staged is the truth now.
    pub(crate) fn after_commit(&self) {
        let mut clocks = self.clocks.borrow_mut();
        if let (Some(numbering), false) = (self.numbering.get(), clocks.staged.is_empty()) {
            let mut meta = self.meta.borrow_mut();
            meta.db_version = meta.db_version.max(numbering.used);
            if self.folded.get() {
                meta.folded = meta.db_version;
            }
        }
        if self.folded.get() || self.reread.get() {
            clocks.discard_staged();
            self.stale.set(self.stale.get() || self.reread.replace(false));
        } else if let Some(numbering) = self.numbering.get() {
            clocks.publish(numbering.used);
        }
        drop(clocks);
        // Only the commit that has just been made lies between; it is in memory too.
        let current = self.header_at_enlist.get().filter(|before| self.seen_header.get() == Some(*before));
        let now = self.header();
        if let (Some(before), Some(now)) = (current, now)
            && now.follows(&before)
        {
            self.seen_header.set(Some(now));
        }
        self.end_transaction();
        self.record_committed();
    }

    /// The pages of a commit are about to be written, under the write lock.
    pub(crate) fn record_committing(&self) {
        if let Some(recorder) = self.recorder.get() {
            self.find_wal_index();
            recorder.committing(self.db, self.header());
        }
    }

    /// If a commit was made and the feeds have not been told, tells them.
    pub(crate) fn record_committed(&self) {
        if let Some(recorder) = self.recorder.get() {
            recorder.publish(self.db, self.header());
        }
    }

    /// The open transaction merges what a peer sent.
    pub(crate) fn record_merge(&self, peer: Option<SiteId>) {
        if let Some(recorder) = self.recorder.get() {
            recorder.merges(peer.map_or(Origin::Mixed, Origin::Peer));
        }
    }

    /// The open transaction was rolled back, whether it had written anything or not.
    pub(crate) fn forget_promise(&self) {
        self.pending.set(0);
        // The schema may have gone back.
        self.prepared.set(true);
        if let Some(recorder) = self.recorder.get() {
            recorder.rolled_back();
        }
    }

    /// `xRollback`: nothing happened.
    pub(crate) fn after_rollback(&self) {
        self.forget_promise();
        self.clocks.borrow_mut().discard_staged();
        // What was read within the transaction, the schema included, may have been its own.
        self.stale.set(true);
        self.reread.set(false);
        self.released_at.set(-1);
        self.forget_catalog();
        self.end_transaction();
    }

    fn end_transaction(&self) {
        self.notes.borrow_mut().clear();
        self.numbering.set(None);
        self.stamp.set(None);
        self.enlisted.set(false);
        self.header_at_enlist.set(None);
        self.keys_matter.set(false);
        self.baked_numbering.set(None);
        self.plain_tables.borrow_mut().clear();
        self.backfilled.borrow_mut().clear();
        self.folded.set(false);
        self.rows_impacted.set(0);
        self.pending.set(0);
        *self.fault.borrow_mut() = None;
    }

    pub(crate) fn savepoint(&self, level: i32) {
        self.notes.borrow_mut().mark(level);
        if let Some(recorder) = self.recorder.get() {
            recorder.savepoint(level);
        }
    }

    pub(crate) fn release(&self, level: i32) {
        self.notes.borrow_mut().release(level);
        if let Some(recorder) = self.recorder.get() {
            recorder.release(level);
        }
    }

    pub(crate) fn rollback_to(&self, level: i32) {
        if let Some(recorder) = self.recorder.get() {
            recorder.rollback_to(level);
        }
        let catalog = self.catalog.borrow().clone();
        let undone = self.notes.borrow_mut().rollback_to(level, |note| seqs_of(&catalog, note));
        let baked = self.notes.borrow().baked > 0;
        if undone {
            self.clocks.borrow_mut().discard_staged();
            self.numbering.set(if baked { self.baked_numbering.get() } else { None });
            // What is in the file of this transaction is not staged any more, so the end reads it.
            self.reread.set(self.reread.get() || baked);
            self.folded.set(false);
        }
        // Sites, settings and the schema may have gone back with the rest.
        self.stale.set(true);
        self.schema_suspect.set(true);
        self.prepared.set(true);
        self.released_at.set(-1);
        *self.sites.borrow_mut() = Sites::default();
        *self.fault.borrow_mut() = None;
    }
}
