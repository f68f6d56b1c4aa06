//! Merges an image into a replica that has data of its own.

use opor_core::{Changeset, DbVersion};
use rustc_hash::FxHashMap;

use super::check;
use super::receive::{RestoreError, SnapshotImage};
use super::transfer::{Transfer, count_rows};
use super::unheard::Unheard;
use crate::apply::{ApplyError, ApplyOptions, ApplyReport};
use crate::cursor::Cursor;
use crate::horizon;
use crate::meta;
use crate::options::OpenOptions;
use crate::progress::{Cancelled, Phase, Reporter, Watcher};
use crate::read::ReadError;
use crate::store::Store;

/// Changes that are read from the image at a time; a few megabytes at most, unless values are large.
const PIECE_CHANGES: usize = 16_384;
/// Blocks whose clocks wait in memory before they are written, in the same transaction.
const STAGED_MAX: usize = 1 << 14;

impl From<Cancelled> for RestoreError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<ApplyError> for RestoreError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Cancelled => Self::Cancelled,
            ApplyError::Sqlite(error) => Self::Sqlite(error),
            error => Self::Apply(Box::new(error)),
        }
    }
}

impl From<ReadError> for RestoreError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Store {
    /// Merges a snapshot into this replica: what it lacks comes in, what it wrote itself is kept, and of two writes to a
    /// cell the later wins, as in every merge. Then its cursor for the sender is where the image ends, unless it was
    /// further already.
    ///
    /// If the sender has dropped tombstones that this replica has not pulled, rows that the sender has held and
    /// has no more were deleted there: they are deleted here too. Where something newer was written to such a row here,
    /// it is kept, and comes back for everybody, whole, as if it had been created again.
    ///
    /// If the sender had not heard of deletes that are forgotten here, it may have rows that were deleted here: such go, or
    /// come back, for everybody. What the sender writes to them before it hears of that may be lost. Two that are linked
    /// use [`merge_snapshot_of_peer`](Self::merge_snapshot_of_peer).
    ///
    /// A table of which nothing is known here yet, with the same definition as there, is moved as it is: rows, indexes and
    /// clocks at once. So a new replica whose tables are made costs little more than a file that is copied. Tables with
    /// triggers, with rows that break a rule, or `WITHOUT ROWID` are merged row by row, as all are that hold something.
    ///
    /// It is one commit: nobody sees a part of it, and other writers wait until it is done, so give them a long enough
    /// busy timeout. Memory does not grow with the image; the write-ahead log does, by about what is new. SQLite's progress
    /// callback on this connection is replaced, and the image is attached to it meanwhile.
    ///
    /// # Errors
    /// See [`RestoreError`]; nothing has changed then.
    pub fn merge_snapshot(&mut self, image: &SnapshotImage) -> Result<ApplyReport, RestoreError> {
        self.merge_image(image, DbVersion(0), Unheard::Judged, &mut Reporter::silent())
    }

    /// As [`merge_snapshot_watched`](Self::merge_snapshot_watched), from a peer that takes a snapshot of this replica next if it
    /// has not heard of deletes that are forgotten here, before anything else is pulled from it. Rows that may have been
    /// deleted here are then left out ([`ApplyReport::rows_left_out`]): the peer decides on them when it merges
    /// that snapshot, and loses no write. As long as rows are left out, the cursor for the peer stays where it was.
    ///
    /// # Errors
    /// As [`merge_snapshot`](Self::merge_snapshot), or [`RestoreError::Cancelled`].
    pub fn merge_snapshot_of_peer(
        &mut self,
        image: &SnapshotImage,
        watcher: &mut Watcher<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        self.merge_image(image, DbVersion(0), Unheard::Left, &mut Reporter::to(watcher))
    }

    /// As [`merge_snapshot`](Self::merge_snapshot), and tells what the manifest cannot: that all of the log here up to `held`
    /// was in the image when it was made. For replicas that hear of each other through others, and never pull. A row of that
    /// log that the image lacks was deleted.
    ///
    /// # Errors
    /// As [`merge_snapshot`](Self::merge_snapshot).
    pub fn merge_snapshot_holding(
        &mut self,
        image: &SnapshotImage,
        held: DbVersion,
    ) -> Result<ApplyReport, RestoreError> {
        self.merge_image(image, held, Unheard::Judged, &mut Reporter::silent())
    }

    /// As [`merge_snapshot`](Self::merge_snapshot), and tells a watcher how far it is.
    ///
    /// # Errors
    /// As [`merge_snapshot`](Self::merge_snapshot), or [`RestoreError::Cancelled`].
    pub fn merge_snapshot_watched(
        &mut self,
        image: &SnapshotImage,
        watcher: &mut Watcher<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        self.merge_image(image, DbVersion(0), Unheard::Judged, &mut Reporter::to(watcher))
    }

    fn merge_image(
        &self,
        image: &SnapshotImage,
        held: DbVersion,
        unheard: Unheard,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        if !self.is_autocommit() {
            return Err(RestoreError::InTransaction);
        }
        if image.manifest.site == self.site_id() {
            return Err(RestoreError::OwnSnapshot);
        }
        let source = check::open(&image.path, &OpenOptions::new()).map_err(RestoreError::Open)?;
        self.engine.look_around()?;
        let transfer = Transfer::prepare(self, &source, &image.path, reporter)?;
        let merged = self.merging(true, || {
            let held = self.known_to_sender(image, held)?;
            // What other connections have written and cut is known from here on.
            let mut report = self.merge_piece(&Changeset::new(), &mut Reporter::silent())?;
            let has_missed = self.engine.has_missed(&source.engine, &image.manifest, held);
            if has_missed && unheard == Unheard::Judged {
                report.add(self.judge_unheard(&source, &image.manifest, reporter)?);
            }
            let tables = source.engine.catalog.borrow().clone();
            let rows = tables.tables.iter().map(|table| count_rows(source.engine.db, table));
            let total = rows.sum::<Result<_, _>>()?;
            reporter.begin(Phase::Merge, total)?;
            // A table that is moved has never had a row here, so none of its deletes can be forgotten.
            report.add(transfer.run(self, &source, reporter)?);
            let leave_out = has_missed && unheard == Unheard::Left;
            report.add(self.merge_pieces(&source, leave_out, reporter)?);
            report.add(self.follow_forgotten(&source, image, held, reporter)?);
            self.engine.uncaptured(|| self.take_over_cut(&source))?;
            let news = self.engine.unlearnt(&source.engine, image.manifest.site)?;
            if !news.is_empty() {
                report.db_version = Some(DbVersion(self.engine.learn(&news, image.manifest.site)?));
            }
            if report.rows_left_out == 0 {
                self.engine.uncaptured(|| self.move_cursor(image))?;
            }
            if let Some(version) = report.db_version.filter(|_| report.is_echo()) {
                let sender = image.manifest.site;
                self.engine.uncaptured(|| meta::note_sent(self.engine.db, sender, version.0))?;
            }
            Ok(report)
        });
        drop(transfer);
        // What has been cut is read anew, as if another connection had written it.
        self.engine.stale.set(true);
        merged
    }

    fn merge_pieces(
        &self,
        source: &Self,
        leave_out: bool,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        let mut report = ApplyReport::default();
        let (mut cursor, mut lookups) = (Cursor::start(), FxHashMap::default());
        loop {
            let mut batch = source.changes(&cursor, PIECE_CHANGES)?;
            if leave_out {
                let (rest, left_out) = self.without_unheard(batch.changeset, &mut lookups)?;
                batch.changeset = rest;
                report.rows_left_out += left_out;
            }
            report.add(self.merge_piece(&batch.changeset, reporter)?);
            if batch.done {
                reporter.end()?;
                return Ok(report);
            }
            cursor = batch.cursor;
        }
    }

    pub(super) fn merge_piece(
        &self,
        changeset: &Changeset,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        let options = ApplyOptions::default();
        let report = self.engine.apply(changeset, &options, &mut self.merge.borrow_mut(), true, reporter)?;
        self.engine.fold_when_full(STAGED_MAX)?;
        Ok(report)
    }

    /// New rows of a table begin past the deletes that the sender has forgotten, of which this replica may never have heard.
    fn take_over_cut(&self, source: &Self) -> Result<(), rusqlite::Error> {
        let (theirs, ours) = (source.engine.catalog.borrow(), self.engine.catalog.borrow().clone());
        let cut = &source.engine.clocks.borrow().cut_lengths;
        for table in &theirs.tables {
            if let (Some(cl), Some(own)) = (cut.get(&table.id), ours.table(&table.name)) {
                horizon::create(self.engine.db)?;
                horizon::save_length(self.engine.db, own.id, *cl)?;
            }
        }
        Ok(())
    }

    /// A cursor that is further stays: the image is then older than what was pulled since.
    fn move_cursor(&self, image: &SnapshotImage) -> Result<(), rusqlite::Error> {
        let db = self.engine.db;
        let (sender, base, epoch) = (image.manifest.site, image.manifest.db_version, image.manifest.epoch);
        let known = meta::pulled(db, sender)?;
        let further = known.is_some_and(|known| known.epoch == Some(epoch) && known.base >= base);
        if further {
            return Ok(());
        }
        meta::save_pulled(db, sender, &Cursor { base, epoch: Some(epoch), position: None })
    }
}
