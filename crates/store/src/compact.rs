//! Compaction: drops what is kept only so that peers learn of it, once they have.

use std::time::Duration;

use opor_core::{ColVersion, DbVersion, Hlc, WallMillis};
use rusqlite::Error;

use crate::block::Block;
use crate::catalog::Table;
use crate::colset::ColSet;
use crate::engine::Engine;
use crate::horizon;
use crate::meta;
use crate::options::ClockPolicy;
use crate::progress::{Halt, Phase, Reporter, Watcher};
use crate::records;
use crate::store::Store;

/// Tombstones, or blocks, that one transaction takes: it holds the write lock for some tens of milliseconds.
const BATCH: usize = 4096;
/// No count of edits gets here, and no stamp since 1970-01-25 is below.
const STAMP_MIN: u64 = 1 << 40;

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
            Some(before) => self.newest_stamped_before(before)?,
            None => 0,
        };
        reporter.begin(Phase::Sweep, 0)?;
        let (cut, total) = self.in_write(|| self.uncaptured(|| self.cut(now, before, aged)))?;
        reporter.begin(Phase::Sweep, total)?;
        loop {
            let dropped = self.in_write(|| self.uncaptured(|| self.sweep(cut)))?;
            report.tombstones_dropped += dropped;
            if dropped == 0 {
                break;
            }
            reporter.add(dropped)?;
        }
        reporter.end()?;
        let left = self.db.integer("SELECT count(*) FROM opor_tombstone")?;
        report.tombstones_left = left.unwrap_or(0).cast_unsigned();
        let catalog = self.catalog.borrow().clone();
        catalog.tables.iter().try_for_each(|table| self.tidy(table, report, reporter))
    }

    /// Decides up to which version tombstones go, and moves the horizon there before the first does: whoever begins to
    /// read from now on needs none of them. How many there are comes with it.
    fn cut(&self, now: WallMillis, before: Option<WallMillis>, aged: u64) -> Result<(u64, u64), Error> {
        let db = self.db;
        self.fold_now()?;
        horizon::create(db)?;
        let marked = match before {
            Some(before) => horizon::marked_by(db, before.0)?,
            None => 0,
        };
        let newest = db.integer("SELECT db_version FROM opor_meta WHERE id = 1")?.unwrap_or(0).cast_unsigned();
        let acknowledged = meta::acknowledged_by_all(db)?;
        let cut = acknowledged.max(marked).max(aged).min(newest);
        horizon::save_mark(db, now.0, newest)?;
        let count = records::count_tombs_up_to(db, cut)?;
        if count > 0 {
            horizon::advance(db, cut)?;
        }
        Ok((cut, count))
    }

    /// Drops the next tombstones, and remembers how long the lives were that they ended.
    fn sweep(&self, cut: u64) -> Result<u64, Error> {
        self.fold_now()?;
        let tombs = records::tombs_up_to(self.db, cut, BATCH)?;
        for stored in &tombs {
            self.clocks.borrow_mut().set_tomb(stored.table, &stored.key, None);
        }
        let mut lengths: Vec<(u32, u64)> = tombs.iter().map(|stored| (stored.table, stored.tomb.cl)).collect();
        lengths.sort_unstable();
        for pair in lengths.chunk_by(|a, b| a.0 == b.0).filter_map(<[_]>::last) {
            horizon::save_length(self.db, pair.0, pair.1)?;
        }
        if !tombs.is_empty() {
            self.fold_now()?;
        }
        Ok(tombs.len() as u64)
    }

    /// The newest version that was certainly committed before a time: its stamp says so, and versions and stamps rise
    /// together. Cells that moved to another key have stamps older than their versions and say nothing.
    fn newest_stamped_before(&self, before: WallMillis) -> Result<u64, Error> {
        if self.policy() != ClockPolicy::Hlc {
            return Ok(0);
        }
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
                Ok::<_, Error>(())
            })?;
        }
        Ok(newest)
    }

    /// Drops clocks of columns that are gone, and places of keys that no other gave way to.
    fn tidy(
        &self,
        table: &Table,
        report: &mut CompactReport,
        reporter: &mut Reporter<'_>,
    ) -> Result<(), Halt> {
        let retired = meta::retired_columns(self.db, table.id)?;
        if table.columns.is_empty() || (retired.is_empty() && !table.keyed) {
            return Ok(());
        }
        reporter.begin(Phase::Tidy, records::count(self.db, std::iter::once(table.id))?)?;
        let mut after = Some(i64::MIN);
        while let Some(from) = after {
            let batch = self.in_write(|| self.uncaptured(|| self.tidy_batch(table.id, from, &retired)))?;
            report.blocks_tidied += batch.tidied;
            after = batch.last;
            reporter.add(batch.seen)?;
        }
        Ok(reporter.end()?)
    }

    fn tidy_batch(&self, table: u32, from: i64, retired: &ColSet) -> Result<Batch, Error> {
        self.fold_now()?;
        let mut batch = Batch { last: None, seen: 0, tidied: 0 };
        for stored in records::blocks_after(self.db, table, from)? {
            batch.last = Some(stored.number);
            batch.seen += 1;
            let tidied = if stored.block.groups.is_empty() {
                // Its neighbour may have given way to it, and is found through it.
                (!records::has_block(self.db, table, stored.number + 1)?).then(Block::default)
            } else {
                tidied(&stored.block, retired)
            };
            if let Some(tidied) = tidied {
                self.clocks.borrow_mut().stage((table, stored.number))?.block = tidied;
                batch.tidied += 1;
            }
        }
        if batch.tidied > 0 {
            self.fold_now()?;
        }
        Ok(batch)
    }
}

struct Batch {
    last: Option<i64>,
    seen: u64,
    tidied: u64,
}

/// A block without the clocks of columns that are gone; `None` when it is as it should be. Where such a clock is all
/// that is known of a row, it stays.
fn tidied(block: &Block, retired: &ColSet) -> Option<Block> {
    let mut tidy = block.clone();
    tidy.groups.retain(|group| !group.cols.is_subset(retired));
    let smaller = tidy.groups.len() < block.groups.len() && tidy.rows() == block.rows();
    smaller.then_some(tidy)
}
