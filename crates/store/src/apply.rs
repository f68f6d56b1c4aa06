//! Applying a changeset: checked whole, then merged row by row in one transaction.

use std::sync::Arc;

use opor_core::{
    CausalLength, Changeset, ColVersion, DbVersion, Hlc, InvalidChange, Limits, PackedKey, RowChange, SiteId,
    Value,
};
use rusqlite::Error;

use crate::catalog::Table;
use crate::cursor::Cursor;
use crate::engine::Engine;
use crate::learnt::Reader;
use crate::merge::{IncomingRow, MergeSql, RowOutcome, Watch};
use crate::meta;
use crate::progress::{Cancelled, Reporter};
use crate::quarantine::QuarantineReason;

/// Why a changeset was refused. Nothing of it is stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The bytes or the text are not a changeset.
    #[error("not a changeset")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A change that breaks a limit, or a stamp from the future.
    #[error(transparent)]
    Invalid(#[from] InvalidChange),
    /// A table that does not exist or does not replicate.
    #[error("table {table:?} is not replicated here")]
    UnknownTable {
        /// The table.
        table: String,
    },
    /// A column that does not exist, is generated, or is part of the key.
    #[error("table {table:?} has no column {column:?} that replicates")]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A key with another number of columns than the table's, with a NULL, or with a value that the column would store
    /// as another type: the row would then answer to two keys.
    #[error("key ({key}) does not fit table {table:?}")]
    KeyShape {
        /// The table.
        table: String,
        /// The key.
        key: PackedKey,
    },
    /// A row that the table's own rules refuse: NOT NULL, CHECK, a STRICT type, an INTEGER key that is text.
    #[error("row ({key}) of table {table:?} breaks a rule of the table")]
    Constraint {
        /// The table.
        table: String,
        /// The key.
        key: PackedKey,
        /// What SQLite said.
        #[source]
        source: Error,
    },
    /// There is no room to keep what cannot be stored here; see
    /// [`OpenOptions::quarantine`](crate::OpenOptions::quarantine).
    #[error("a change to table {table:?} cannot be stored, and quarantine is full")]
    QuarantineFull {
        /// The table.
        table: String,
    },
    /// The peer has not learnt of all deletes that were dropped from the record here; see [`ApplyOptions::from_aware`].
    #[error(
        "peer holds version {acknowledged}, and deletes up to version {horizon} are no longer on record here"
    )]
    PeerBehind {
        /// How much of this replica's log the peer has acknowledged.
        acknowledged: DbVersion,
        /// The horizon here.
        horizon: DbVersion,
    },
    /// The watcher cancelled it.
    #[error("the merge was cancelled")]
    Cancelled,
    /// SQLite failed.
    #[error("the changeset could not be stored")]
    Sqlite(#[from] Error),
}

/// How to apply a changeset.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// Store this cursor for this peer in the same transaction as the changes. The peer also decides which local
    /// writes count as unseen when conflicts are looked for: those it has not acknowledged.
    ///
    /// Where the stored cursor says that all up to this one is held, the changeset is a second delivery. It is not looked
    /// at, however large it is, and nothing is stored.
    pub cursor: Option<(SiteId, Cursor)>,
    /// Refuse the changeset of a peer that has acknowledged less than its [horizon](crate::Store::horizon_for): rows that were
    /// deleted and forgotten here would come back with it, in part. It is looked at in the transaction of the merge, so
    /// whoever compacts meanwhile does so before or after. It needs a [`cursor`](Self::cursor), which names the peer.
    pub from_aware: bool,
    /// Collect events. Without, rows are merged without being read first.
    pub events: bool,
    /// Do not run the user's triggers. By default they run, as they do in cr-sqlite; what they write to replicated
    /// tables is not recorded as a change, because they run at every replica.
    pub without_triggers: bool,
    /// Refuse the changeset when something in it cannot be stored here, in place of keeping that aside; see
    /// [`OpenOptions::quarantine`](crate::OpenOptions::quarantine). For callers that can mend what they send.
    pub refuse_unstorable: bool,
}

/// What an apply did.
#[derive(Clone, Debug, Default)]
pub struct ApplyReport {
    /// Rows that are new here.
    pub rows_inserted: usize,
    /// Rows that took at least one value.
    pub rows_updated: usize,
    /// Rows that were deleted.
    pub rows_deleted: usize,
    /// Values that were taken.
    pub cells_won: usize,
    /// Values that were not, because the local ones are newer or greater.
    pub cells_lost: usize,
    /// Changes that were known already, or older than the row's present life.
    pub unchanged: usize,
    /// Changes that cannot be stored here and went into quarantine. They reach peers all the same.
    pub quarantined: usize,
    /// Changes that left quarantine, because what they were waiting for is there now. The counts of rows and values are
    /// theirs too.
    pub released: usize,
    /// Rules of tables that the merge broke: NULL in a NOT NULL column, a type that a STRICT table does not hold, a CHECK.
    /// See [`Store::conflicts`](crate::Store::conflicts).
    pub violations: usize,
    /// Rows whose delete one side had forgotten, and that something which that side has never held brings back for
    /// everybody; only merging a snapshot finds such.
    pub rows_brought_back: usize,
    /// Rows that the peer still has, and that were deleted and forgotten here: they are deleted again, for everybody. Only
    /// merging a snapshot finds such.
    pub rows_gone: usize,
    /// Changes to rows that may have been deleted and forgotten here, and that were left to the peer to decide on; only
    /// [`Store::merge_snapshot_of_peer`](crate::Store::merge_snapshot_of_peer) leaves any out.
    pub rows_left_out: usize,
    /// The stored cursor says that all of it is held. Nothing of it was looked at, and the counts are 0, but for what
    /// had waited here.
    pub held: bool,
    /// The version the merge took here; `None` when it changed nothing.
    pub db_version: Option<DbVersion>,
    /// What happened, row by row, when [`ApplyOptions::events`] asked for it.
    pub events: Vec<MergeEvent>,
}

/// What a merge did to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeEvent {
    /// The table.
    pub table: Arc<str>,
    /// The row.
    pub key: PackedKey,
    /// What happened.
    pub kind: MergeEventKind,
}

/// What happened to a row in a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MergeEventKind {
    /// It is new here.
    Inserted,
    /// It was deleted.
    Deleted,
    /// It was deleted and created again elsewhere; its cells started over.
    Resurrected,
    /// What came is of an earlier life of the row and was ignored.
    Stale {
        /// The causal length here.
        local_cl: CausalLength,
        /// The causal length that came.
        incoming_cl: CausalLength,
    },
    /// A column took a value.
    Updated {
        /// The column.
        column: Arc<str>,
        /// The value.
        value: Value,
    },
    /// Both sides had written the column without knowing of the other's write.
    Conflict {
        /// The column.
        column: Arc<str>,
        /// What was here.
        local: Side,
        /// What came.
        incoming: Side,
        /// Who won; the higher version does, and at equal versions the greater value.
        incoming_won: bool,
    },
    /// It breaks a rule of its table, as it was merged; see [`Store::conflicts`](crate::Store::conflicts).
    RuleBroken,
    /// Something of what came cannot be stored here and is in quarantine.
    Quarantined {
        /// Why.
        reason: QuarantineReason,
    },
}

/// One side of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The value.
    pub value: Value,
    /// Its version: a stamp of the hybrid clock, or a count.
    pub col_version: ColVersion,
    /// Who wrote it.
    pub site_id: SiteId,
}

impl Engine {
    /// Applies within the open transaction. `direct` says that nothing can roll it back in part.
    pub(crate) fn apply(
        &self,
        changeset: &Changeset,
        options: &ApplyOptions,
        sql: &mut MergeSql,
        direct: bool,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, ApplyError> {
        if let Some((peer, cursor)) = &options.cursor
            && meta::pulled(self.db, *peer)?.is_some_and(|pulled| pulled.covers(cursor))
        {
            let mut report = ApplyReport { held: true, ..ApplyReport::default() };
            if self.catalog.borrow().quarantines {
                self.enlist()?;
                self.replay()?;
                self.release_quarantine(options, sql, &mut report)?;
            }
            return Ok(report);
        }
        let limits = Limits::default();
        let mut checks = changeset.validation(&limits)?;
        // A merge in a transaction of its own looks at rows as it merges them: a large changeset is not in the cache, and
        // what is refused in the middle leaves no trace.
        let newest = if direct { None } else { Some(checks.check(usize::MAX)?) };
        self.enlist()?;
        self.record_merge(options.cursor.as_ref().map(|(peer, _)| *peer));
        self.replay()?;
        if options.from_aware && !changeset.is_empty() {
            self.check_aware(options)?;
        }
        let mut report = ApplyReport::default();
        if let Some(newest) = newest {
            self.check_drift(changeset, newest)?;
            self.observe_merged(newest);
        }
        let triggers = options.without_triggers.then(|| self.db.set_triggers(false));
        let limits = self.quarantine_limits(options);
        let merged = self.release_quarantine(options, sql, &mut report).and_then(|()| {
            self.merge_rows(changeset, &mut checks, options, limits, sql, direct, &mut report, reporter)
        });
        if let Some(on) = triggers {
            self.db.set_triggers(on);
        }
        let merged = merged?;
        if direct {
            self.observe_merged(merged);
        }
        if let Some((peer, cursor)) = &options.cursor {
            self.uncaptured(|| meta::save_pulled(self.db, *peer, cursor))?;
            // In a transaction of others there may be writes of which the peer knows nothing, and what had waited here for
            // its table may be of somebody else.
            if let Some(version) = report.db_version.filter(|_| direct && report.released == 0) {
                self.uncaptured(|| meta::note_sent(self.db, *peer, version.0))?;
            }
        }
        Ok(report)
    }

    fn check_aware(&self, options: &ApplyOptions) -> Result<(), ApplyError> {
        let Some((peer, _)) = &options.cursor else { return Ok(()) };
        let (acknowledged, horizon) =
            (meta::acknowledged(self.db, *peer)?, self.horizon_of(Reader::Peer(*peer)));
        if acknowledged < horizon {
            let (acknowledged, horizon) = (DbVersion(acknowledged), DbVersion(horizon));
            return Err(ApplyError::PeerBehind { acknowledged, horizon });
        }
        Ok(())
    }

    /// Refuses stamps that are too far ahead; `newest` is the newest.
    pub(crate) fn check_drift(&self, changeset: &Changeset, newest: ColVersion) -> Result<(), ApplyError> {
        let (stamp, wall) = (Hlc::from_version(newest), self.wall.now());
        if self.policy() == crate::ClockPolicy::Hlc && self.hybrid.borrow().check(stamp, wall).is_err() {
            changeset.check_drift(&self.hybrid.borrow(), wall)?;
        }
        Ok(())
    }

    pub(crate) fn watch(&self, options: &ApplyOptions) -> Result<Watch, Error> {
        if !options.events {
            return Ok(Watch::Nothing);
        }
        let acknowledged = match &options.cursor {
            Some((peer, _)) => meta::acknowledged(self.db, *peer)?,
            None => 0,
        };
        Ok(Watch::Conflicts { acknowledged })
    }

    pub(crate) fn report_events(
        &self,
        changeset: &Changeset,
        table: &Table,
        incoming: &IncomingRow<'_>,
        row: &RowChange,
        outcome: RowOutcome,
        events: &mut Vec<MergeEvent>,
    ) -> Result<(), ApplyError> {
        let mut add =
            |kind| events.push(MergeEvent { table: table.name.clone(), key: row.key.clone(), kind });
        if outcome.deleted {
            add(MergeEventKind::Deleted);
        } else if outcome.resurrected {
            add(MergeEventKind::Resurrected);
        } else if outcome.inserted {
            add(MergeEventKind::Inserted);
        }
        if outcome.stale {
            let (local_cl, incoming_cl) = (CausalLength(outcome.local_cl), row.cl);
            add(MergeEventKind::Stale { local_cl, incoming_cl });
        }
        let column = |cell: usize| table.columns[incoming.cells[cell].column].name.clone();
        if !outcome.inserted {
            for won in &outcome.won {
                let value = row.cells[*won].value.clone();
                add(MergeEventKind::Updated { column: column(*won), value });
            }
        }
        for conflict in outcome.conflicts {
            let cell = &row.cells[conflict.cell];
            let local = Side {
                value: conflict.local,
                col_version: ColVersion(conflict.clock.cv),
                site_id: self.site_of(conflict.clock.site)?,
            };
            let incoming = Side {
                value: cell.value.clone(),
                col_version: cell.clock.col_version,
                site_id: changeset.sites()[cell.clock.site as usize],
            };
            let (column, incoming_won) = (column(conflict.cell), conflict.incoming_won);
            add(MergeEventKind::Conflict { column, local, incoming, incoming_won });
        }
        Ok(())
    }
}

impl From<Cancelled> for ApplyError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl ApplyReport {
    /// Whether all that the merge wrote is what the sender has. What was brought back or deleted again is news to the
    /// sender, and what had waited here for its table may be: it has to be sent back.
    #[must_use]
    pub const fn is_echo(&self) -> bool {
        self.rows_brought_back == 0 && self.rows_gone == 0 && self.released == 0
    }

    /// Adds what a further piece did.
    pub(crate) fn add(&mut self, piece: Self) {
        self.rows_inserted += piece.rows_inserted;
        self.rows_updated += piece.rows_updated;
        self.rows_deleted += piece.rows_deleted;
        self.cells_won += piece.cells_won;
        self.cells_lost += piece.cells_lost;
        self.unchanged += piece.unchanged;
        self.quarantined += piece.quarantined;
        self.released += piece.released;
        self.violations += piece.violations;
        self.rows_brought_back += piece.rows_brought_back;
        self.rows_gone += piece.rows_gone;
        self.rows_left_out += piece.rows_left_out;
        self.db_version = self.db_version.max(piece.db_version);
        self.events.extend(piece.events);
    }

    pub(crate) fn count(&mut self, outcome: &RowOutcome) {
        self.rows_inserted += usize::from(outcome.inserted);
        self.rows_deleted += usize::from(outcome.deleted);
        self.rows_updated += usize::from(!outcome.inserted && (!outcome.won.is_empty() || outcome.created));
        self.cells_won += outcome.won.len();
        self.cells_lost += outcome.lost;
        self.unchanged += outcome.known + usize::from(outcome.stale);
    }
}
