//! Compaction: drops what is kept only so that peers learn of it, once they have.

use std::collections::BTreeMap;
use std::time::Duration;

use opor_core::{ColVersion, DbVersion, Hlc, SiteId, WallMillis};
use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::block::Block;
use crate::catalog::Table;
use crate::colset::ColSet;
use crate::engine::Engine;
use crate::horizon;
use crate::learnt::Reader;
use crate::merge::STAMP_MIN;
use crate::meta;
use crate::options::ClockPolicy;
use crate::progress::{Halt, Phase, Reporter, Watcher};
use crate::quarantine;
use crate::records::{self, StoredBlock};
use crate::store::Store;

/// What [`Store::compact_with`] may drop.
#[derive(Clone, Debug, Default)]
pub struct CompactOptions {
    /// Also drop tombstones that are older than this, whether or not every peer has acknowledged them. Peers that had
    /// not are then behind the horizon.
    ///
    /// Age goes by this replica's clock. With a hybrid clock the stamps of its own writes date the tombstones between
    /// them; with counted versions only earlier compactions do, so the first one drops nothing by age.
    pub retention: Option<Duration>,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Tombstones that are gone.
    pub tombstones_dropped: u64,
    /// Tombstones that are still needed.
    pub tombstones_left: u64,
    /// Blocks of clocks that were made smaller or removed.
    pub blocks_tidied: u64,
    /// Deletes at or below this version are no longer on record. A cursor from before is refused.
    pub horizon: DbVersion,
}

/// Why a compaction ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// A transaction is open.
    #[error("a database cannot be compacted while a transaction is open")]
    InTransaction,
    /// The watcher cancelled it. The batches that were done stay done, and the next compaction does the rest.
    #[error("the compaction was cancelled")]
    Cancelled {
        /// What had been done.
        report: CompactReport,
    },
    /// SQLite failed. The batch it failed in has changed nothing.
    #[error("the database could not be compacted")]
    Sqlite(#[from] Error),
}

impl Store {
    /// Drops the tombstones that every known peer has acknowledged, and tidies the clocks. Without a known peer no
    /// tombstone is dropped: there is nobody to say that the deletes have arrived. See
    /// [`compact_with`](Self::compact_with).
    ///
    /// # Errors
    /// See [`CompactError`].
    pub fn compact(&mut self) -> Result<CompactReport, CompactError> {
        self.compact_with(&CompactOptions::default())
    }

    /// Drops tombstones that are acknowledged or, if asked, old; and clocks that say nothing any more.
    ///
    /// A peer is known once a cursor or an acknowledgement of it is stored ([`Store::peers`]); one that has never
    /// acknowledged anything keeps every tombstone. Versions are not numbered anew. What is dropped begins a new epoch:
    /// cursors of earlier ones hold from the [`horizon`](Self::horizon) on, and older ones are refused
    /// ([`ReadError::BehindHorizon`](crate::ReadError)). New rows of a table that has lost tombstones begin their
    /// life past the longest of theirs, so that a peer that still has one for the key takes them.
    ///
    /// The space becomes free within the file; `VACUUM` gives it back. Work is done in batches, each a transaction of
    /// its own, so others write in between; memory does not grow with the database.
    ///
    /// # Errors
    /// See [`CompactError`].
    pub fn compact_with(&mut self, options: &CompactOptions) -> Result<CompactReport, CompactError> {
        self.compaction(options, &mut Reporter::silent())
    }

    /// As [`compact_with`](Self::compact_with), and tells a watcher how far it is.
    ///
    /// # Errors
    /// See [`CompactError`].
    pub fn compact_watched(
        &mut self,
        options: &CompactOptions,
        watcher: &mut Watcher<'_>,
    ) -> Result<CompactReport, CompactError> {
        self.compaction(options, &mut Reporter::to(watcher))
    }

    /// The version up to which deletes may no longer be on record; 0 while nothing has been dropped.
    ///
    /// A peer that has acknowledged less has not learnt of them. Rows that it still holds and changes would come back in
    /// part: have it merge a snapshot before anything is pulled from it.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn horizon(&self) -> Result<DbVersion, crate::StoreError> {
        self.engine.in_snapshot(|| self.engine.refresh())?;
        Ok(DbVersion(self.engine.horizon.get()))
    }

    /// The version up to which deletes cannot be told to a peer any more: those that are forgotten here, and those that others
    /// have forgotten, if this replica learnt of them from a snapshot of somebody else.
    ///
    /// A peer is behind while `acknowledged_by(peer) < horizon_for(peer)`: see [`horizon`](Self::horizon).
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn horizon_for(&self, peer: SiteId) -> Result<DbVersion, crate::StoreError> {
        self.engine.in_snapshot(|| self.engine.refresh())?;
        Ok(DbVersion(self.engine.horizon_of(Reader::Peer(peer))))
    }

    fn compaction(
        &self,
        options: &CompactOptions,
        reporter: &mut Reporter<'_>,
    ) -> Result<CompactReport, CompactError> {
        if !self.is_autocommit() {
            return Err(CompactError::InTransaction);
        }
        self.engine.look_around()?;
        let mut report = CompactReport::default();
        let done = self.engine.compact(options, &mut report, reporter);
        self.engine.in_snapshot(|| self.engine.refresh())?;
        report.horizon = DbVersion(self.engine.horizon.get());
        match done {
            Ok(()) => Ok(report),
            Err(Halt::Cancelled) => Err(CompactError::Cancelled { report }),
            Err(Halt::Sqlite(error)) => Err(error.into()),
        }
    }
}

/// What a compaction is to drop.
struct Plan {
    /// Tombstones at or below this version.
    cut: u64,
    /// By table, the columns that are gone.
    retired: FxHashMap<u32, ColSet>,
}

/// What can go, or has gone.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    dropped: u64,
    left: u64,
    tidied: u64,
}

impl Engine {
    fn compact(
        &self,
        options: &CompactOptions,
        report: &mut CompactReport,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), Halt> {
        let now = self.wall.now();
        let before = options.retention.map(|retention| {
            let millis = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
            WallMillis(now.0.saturating_sub(millis))
        });
        let aged = match before {
            Some(before) => {
                // The stamps that date tombstones may not be in the clock tables yet.
                self.in_write(|| self.uncaptured(|| self.fold_now()))?;
                self.newest_stamped_before(before, reporter)?
            }
            None => 0,
        };
        let plan = self.in_write(|| self.uncaptured(|| self.plan_compaction(now, before, aged)))?;
        let catalog = self.catalog.borrow().clone();
        let total = self.count_records()?;
        reporter.begin(Phase::Survey, total)?;
        let found = self.survey(&plan, reporter)?;
        reporter.end()?;
        report.tombstones_left = found.dropped + found.left;
        if found.dropped + found.tidied == 0 {
            return Ok(());
        }
        reporter.begin(Phase::Sweep, total)?;
        if found.dropped > 0 {
            // Before the first tombstone goes: whoever begins to read from now on needs none of them.
            self.in_write(|| self.uncaptured(|| horizon::advance(self.db, plan.cut)))?;
        }
        self.sweep_chunks(&plan, report, reporter)?;
        catalog.tables.iter().try_for_each(|table| self.sweep_blocks(table, &plan, report, reporter))?;
        Ok(reporter.end()?)
    }

    /// Puts everything into the clock tables, and decides up to which version tombstones go.
    fn plan_compaction(&self, now: WallMillis, before: Option<WallMillis>, aged: u64) -> Result<Plan, Error> {
        let db = self.db;
        self.fold_now()?;
        if self.catalog.borrow().quarantines {
            // A change to a row that was deleted since would bring the row back, once the tombstone is gone.
            quarantine::sweep(self)?;
        }
        if self.catalog.borrow().conflicts {
            self.sweep_conflicts()?;
        }
        horizon::create(db)?;
        let marked = match before {
            Some(before) => horizon::marked_by(db, before.0)?,
            None => 0,
        };
        let newest = meta::folded_version(db)?;
        horizon::save_mark(db, now.0, newest)?;
        let mut retired = FxHashMap::default();
        for table in &self.catalog.borrow().tables {
            // A table of keys alone tells of its rows by their sentinels, and may have nothing else left.
            if !table.columns.is_empty() {
                retired.insert(table.id, meta::retired_columns(db, table.id)?);
            }
        }
        let cut = meta::acknowledged_by_all(db)?.max(marked).max(aged).min(newest);
        Ok(Plan { cut, retired })
    }

    /// Counts what can go. Others may write meanwhile: what they delete is newer than the cut.
    fn survey(&self, plan: &Plan, reporter: &mut Reporter<'_>) -> Result<Tally, Halt> {
        let mut found = Tally::default();
        records::each_chunk(self.db, |chunk| {
            let dropped = chunk.tombs.iter().filter(|(_, tomb)| tomb.dv <= plan.cut).count() as u64;
            found.dropped += dropped;
            found.left += chunk.tombs.len() as u64 - dropped;
            Ok::<_, Halt>(reporter.add(1)?)
        })?;
        for table in &self.catalog.borrow().clone().tables {
            records::each_block(self.db, table.id, |stored| {
                let swept = self.swept(table.id, &stored, plan)?;
                let dropped = swept.as_ref().map_or(0, |swept| swept.dropped);
                found.dropped += u64::from(dropped);
                found.left += u64::from(stored.block.dead().count_ones() - dropped);
                found.tidied += u64::from(swept.is_some());
                Ok::<_, Halt>(reporter.add(1)?)
            })?;
        }
        Ok(found)
    }

    fn sweep_chunks(
        &self,
        plan: &Plan,
        report: &mut CompactReport,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), Halt> {
        let mut after = Some(i64::MIN);
        while let Some(from) = after {
            let batch = self.in_write(|| self.uncaptured(|| self.sweep_chunk_batch(from, plan)))?;
            after = batch.count(report);
            reporter.batch(batch.seen)?;
        }
        Ok(())
    }

    fn sweep_chunk_batch(&self, from: i64, plan: &Plan) -> Result<Batch, Error> {
        self.fold_now()?;
        let mut batch = Batch::default();
        let mut lengths = Lengths::default();
        for chunk in records::chunks_after(self.db, from)? {
            batch.last = Some(chunk.id);
            batch.seen += 1;
            for (key, tomb) in chunk.tombs.into_iter().filter(|(_, tomb)| tomb.dv <= plan.cut) {
                self.clocks.borrow_mut().staged.tombs.set((chunk.table, key), None);
                lengths.note(chunk.table, tomb.cl);
                batch.dropped += 1;
            }
        }
        self.finish_batch(batch, lengths)
    }

    fn sweep_blocks(
        &self,
        table: &Table,
        plan: &Plan,
        report: &mut CompactReport,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), Halt> {
        let mut after = Some(i64::MIN);
        while let Some(from) = after {
            let batch = self.in_write(|| self.uncaptured(|| self.sweep_block_batch(table.id, from, plan)))?;
            after = batch.count(report);
            reporter.batch(batch.seen)?;
        }
        Ok(())
    }

    fn sweep_block_batch(&self, table: u32, from: i64, plan: &Plan) -> Result<Batch, Error> {
        self.fold_now()?;
        let mut batch = Batch::default();
        let mut lengths = Lengths::default();
        for stored in records::blocks_after(self.db, table, from)? {
            batch.last = Some(stored.number);
            batch.seen += 1;
            if let Some(swept) = self.swept(table, &stored, plan)? {
                lengths.note(table, swept.cl);
                batch.dropped += u64::from(swept.dropped);
                batch.tidied += 1;
                // What has no groups goes when it is folded.
                self.clocks.borrow_mut().stage((table, stored.number))?.replace(swept.block);
            }
        }
        self.finish_batch(batch, lengths)
    }

    fn finish_batch(&self, batch: Batch, lengths: Lengths) -> Result<Batch, Error> {
        if batch.dropped + batch.tidied > 0 {
            lengths.0.into_iter().try_for_each(|(table, cl)| horizon::save_length(self.db, table, cl))?;
            self.fold_now()?;
        }
        Ok(batch)
    }

    /// A block without what can go; `None` when nothing can.
    fn swept(&self, table: u32, stored: &StoredBlock, plan: &Plan) -> Result<Option<Swept>, Error> {
        let block = &stored.block;
        let mut swept = Swept { block: block.clone(), dropped: 0, cl: 0 };
        if block.groups.is_empty() {
            // Its neighbour may have given way to it, and is found through it.
            let needed = records::has_block(self.db, table, stored.number + 1)?;
            return Ok((!needed).then_some(swept));
        }
        let dead = block.dead();
        for row in (0..u32::BITS).filter(|row| dead >> row & 1 == 1) {
            if let Some(tomb) = block.tomb(row).filter(|tomb| tomb.dv <= plan.cut) {
                swept.block.clear(1 << row);
                swept.dropped += 1;
                swept.cl = swept.cl.max(tomb.cl);
            }
        }
        if let Some(retired) = plan.retired.get(&table).filter(|retired| !retired.is_empty()) {
            let mut tidy = swept.block.clone();
            tidy.groups.retain(|group| !group.cols.is_subset(retired));
            // Where such a clock is all that is known of a row, it stays.
            if tidy.live() == block.live() {
                swept.block = tidy;
            }
        }
        Ok((swept.block.groups != block.groups).then_some(swept))
    }

    /// The newest version that was certainly committed before a time: its stamp says so, and versions and stamps rise
    /// together. Cells that moved to another key have stamps older than their versions and say nothing.
    fn newest_stamped_before(&self, before: WallMillis, reporter: &mut Reporter<'_>) -> Result<u64, Halt> {
        if self.policy() != ClockPolicy::Hlc {
            return Ok(0);
        }
        reporter.begin(Phase::Survey, self.count_records()?)?;
        let stamp = |cv: u64| Hlc::from_version(ColVersion(cv)).millis();
        let mut newest = 0;
        for table in &self.catalog.borrow().clone().tables {
            records::each_block(self.db, table.id, |stored| {
                let dated = stored.block.groups.iter().filter(|group| {
                    group.site == 0
                        && group.shown_dv == group.dv
                        && group.cv >= STAMP_MIN
                        && !group.cols.contains(ColSet::SENTINEL)
                        && stamp(group.cv) < before
                });
                newest = dated.map(|group| group.dv).fold(newest, u64::max);
                Ok::<_, Halt>(reporter.add(1)?)
            })?;
        }
        Ok(newest)
    }

    fn count_records(&self) -> Result<u64, Error> {
        records::count(self.db, self.catalog.borrow().tables.iter().map(|table| table.id))
    }
}

/// A block without what could go.
struct Swept {
    block: Block,
    dropped: u32,
    /// The longest causal length that was dropped with it.
    cl: u64,
}

/// By table, the longest causal length that was dropped.
#[derive(Default)]
struct Lengths(BTreeMap<u32, u64>);

impl Lengths {
    fn note(&mut self, table: u32, cl: u64) {
        if cl > 0 {
            let longest = self.0.entry(table).or_default();
            *longest = cl.max(*longest);
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Batch {
    last: Option<i64>,
    seen: u64,
    dropped: u64,
    tidied: u64,
}

impl Batch {
    /// Adds what was done to the report; where the next batch begins.
    fn count(&self, report: &mut CompactReport) -> Option<i64> {
        report.tombstones_dropped += self.dropped;
        report.tombstones_left = report.tombstones_left.saturating_sub(self.dropped);
        report.blocks_tidied += self.tidied;
        self.last
    }
}
