//! Merges an image into a replica that has data of its own.

use opor_core::{CausalLength, Changeset, Clock, ColVersion, DbVersion, PackedKey, RowChange};

use super::check;
use super::receive::{RestoreError, SnapshotImage};
use crate::apply::{ApplyError, ApplyOptions, ApplyReport};
use crate::cursor::Cursor;
use crate::meta;
use crate::options::OpenOptions;
use crate::progress::{Cancelled, Phase, Reporter, Watcher};
use crate::read::ReadError;
use crate::rows::RowLookup;
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
            error => Self::Apply(error),
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
    /// Rows that the sender deleted so long ago that it has forgotten them are deleted here too, if the sender has
    /// acknowledged all that was written to them here; rows with something newer are kept, and come back at the sender.
    ///
    /// It is one commit: nobody sees a part of it, and other writers wait until it is done, so give them a long enough
    /// busy timeout. Memory does not grow with the image; the write-ahead log does, by about what is new.
    ///
    /// # Errors
    /// See [`RestoreError`]; nothing has changed then.
    pub fn merge_snapshot(&mut self, image: &SnapshotImage) -> Result<ApplyReport, RestoreError> {
        self.merge_image(image, &mut Reporter::silent())
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
        self.merge_image(image, &mut Reporter::to(watcher))
    }

    fn merge_image(
        &self,
        image: &SnapshotImage,
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
        self.merging(true, || {
            let mut report = self.merge_pieces(&source, reporter)?;
            if image.manifest.horizon > 0 {
                report.add(self.prune(&source, image, reporter)?);
            }
            self.engine.uncaptured(|| self.move_cursor(image))?;
            Ok(report)
        })
    }

    fn merge_pieces(&self, source: &Store, reporter: &mut Reporter<'_>) -> Result<ApplyReport, RestoreError> {
        let mut total = 0;
        for table in &source.engine.catalog.borrow().tables {
            let rows = source.engine.db.integer(&format!("SELECT count(*) FROM {}", table.sql_name()))?;
            total += rows.unwrap_or(0).cast_unsigned();
        }
        reporter.begin(Phase::Merge, total)?;
        let mut report = ApplyReport::default();
        let mut cursor = Cursor::start();
        loop {
            let batch = source.changes(&cursor, PIECE_CHANGES)?;
            report.add(self.merge_piece(&batch.changeset, reporter)?);
            if batch.done {
                reporter.end()?;
                return Ok(report);
            }
            cursor = batch.cursor;
        }
    }

    fn merge_piece(
        &self,
        changeset: &Changeset,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        let options = ApplyOptions::default();
        let report =
            self.engine.apply(changeset, &options, &mut self.merge.borrow_mut(), true, reporter)?;
        self.engine.fold_when_full(STAGED_MAX)?;
        Ok(report)
    }

    /// Deletes rows that the sender has had, has no more, and has no tombstone of: it deleted them and has forgotten.
    fn prune(
        &self,
        source: &Store,
        image: &SnapshotImage,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        let sender = image.manifest.site;
        let acknowledged = meta::acknowledged(self.engine.db, sender)?;
        let mut report = ApplyReport::default();
        if acknowledged == 0 {
            return Ok(report);
        }
        let theirs = source.engine.catalog.borrow().clone();
        let ours = self.engine.catalog.borrow().clone();
        reporter.begin(Phase::Prune, 0)?;
        for table in &theirs.tables {
            let (theirs, Some(table)) = (table, ours.table(&table.name)) else { continue };
            let mut lookup = RowLookup::new(&source.engine, theirs)?;
            let mut after = None;
            loop {
                let page = self.engine.rows_after(table, after.as_ref())?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                let mut gone = Changeset::new();
                for row in page {
                    reporter.add(1)?;
                    let (cl, newest) = self.engine.row_clock(table, &row)?;
                    let forgotten = cl > 0 && newest <= acknowledged && !lookup.has(&row.key)?;
                    if forgotten {
                        push_delete(&mut gone, table, row.key, cl, sender);
                    }
                }
                report.add(self.merge_piece(&gone, &mut Reporter::silent())?);
            }
        }
        reporter.end()?;
        Ok(report)
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

fn push_delete(
    changeset: &mut Changeset,
    table: &crate::catalog::Table,
    key: PackedKey,
    cl: u64,
    site: opor_core::SiteId,
) {
    let cl = CausalLength(cl + 1);
    let (table, site) = (changeset.table_index(&table.name), changeset.site_index(site));
    let seq = changeset.rows().len() as u64;
    let sentinel = Clock { col_version: ColVersion(cl.0), db_version: DbVersion(0), seq, site };
    changeset.push_row(RowChange { table, key, cl, sentinel: Some(sentinel), cells: Vec::new() });
}
