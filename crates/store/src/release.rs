//! Letting changes out of quarantine, once the table or the column that they were waiting for is there.

use opor_core::{Changeset, Hlc};
use rusqlite::Error;

use crate::apply::{ApplyError, ApplyOptions, ApplyReport};
use crate::catalog::Table;
use crate::engine::Engine;
use crate::merge::MergeSql;
use crate::options::ClockPolicy;
use crate::progress::Reporter;
use crate::quarantine::{self, Held, Lives, Quarantine, QuarantineLimits, QuarantinedChange, Ward};
use crate::store::{Store, StoreError};

impl Engine {
    /// Whether the schema has moved since quarantine was last looked through.
    fn is_release_due(&self) -> bool {
        let catalog = self.catalog.borrow();
        let any = catalog.quarantines || catalog.conflicts;
        any && !self.read_only.get() && self.released_at.get() != catalog.schema_version
    }

    /// Merges what can be stored by now as if it had just come, within the open write transaction. What is in quarantine
    /// is late, nothing else, and merging does not mind.
    pub(crate) fn release_quarantine(
        &self,
        options: &ApplyOptions,
        sql: &mut MergeSql,
        report: &mut ApplyReport,
    ) -> Result<(), ApplyError> {
        if !self.is_release_due() {
            return Ok(());
        }
        let catalog = self.catalog.borrow().clone();
        if catalog.conflicts {
            self.uncaptured(|| self.sweep_conflicts())?;
        }
        let names =
            if catalog.quarantines { self.uncaptured(|| quarantine::tables(self.db))? } else { Vec::new() };
        for name in names {
            let Some(table) = catalog.table(&name) else { continue };
            let mut piece = ApplyReport::default();
            self.release_table(table, options, sql, &mut piece)?;
            report.add(piece);
        }
        self.released_at.set(catalog.schema_version);
        Ok(())
    }

    fn release_table(
        &self,
        table: &Table,
        options: &ApplyOptions,
        sql: &mut MergeSql,
        report: &mut ApplyReport,
    ) -> Result<(), ApplyError> {
        let mut last: Option<Held> = None;
        loop {
            let mut page = self.uncaptured(|| quarantine::of_table(self.db, &table.name, last.as_ref()))?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some(end.clone());
            page.retain(|held| self.is_storable(table, held));
            if page.is_empty() {
                continue;
            }
            report.released += page.len();
            self.uncaptured(|| {
                let mut ward = Ward::open(self.db, QuarantineLimits::NONE)?;
                page.iter().try_for_each(|held| ward.remove(held))?;
                ward.close(self.db)
            })?;
            let mut changes = Changeset::new();
            page.into_iter().try_for_each(|held| held.change(self).map(|change| changes.push(change)))?;
            let of_changes = opor_core::Limits::default();
            let mut checks = changes.validation(&of_changes)?;
            let newest = checks.check(usize::MAX)?;
            if self.policy() == ClockPolicy::Hlc {
                self.hybrid.borrow_mut().restore(Hlc::from_version(newest));
            }
            // What turns out to be refused goes back, whatever the limits.
            let limits = QuarantineLimits { changes_max: u64::MAX, bytes_max: u64::MAX };
            let reporter = &mut Reporter::silent();
            self.merge_rows(&changes, &mut checks, options, limits, sql, false, report, reporter)?;
        }
    }

    fn is_storable(&self, table: &Table, held: &Held) -> bool {
        let column = match &held.cid {
            opor_core::Cid::Sentinel => true,
            opor_core::Cid::Column(name) => table.columns.iter().any(|column| column.name == *name),
        };
        column && table.fits(&held.key)
    }

    /// As [`release_quarantine`](Self::release_quarantine), with the connection set up for merging.
    pub(crate) fn release_now(&self) -> Result<ApplyReport, ApplyError> {
        let mut report = ApplyReport::default();
        if !self.is_release_due() {
            return Ok(report);
        }
        let enforced = self.db.set_foreign_keys(false);
        let options = ApplyOptions::default();
        let released = self.release_quarantine(&options, &mut MergeSql::default(), &mut report);
        self.db.set_foreign_keys(enforced);
        released.map(|()| report)
    }

    /// As [`release_quarantine`](Self::release_quarantine), in a transaction of its own.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        if !self.is_release_due() {
            return Ok(());
        }
        self.in_write(|| self.release_now().map(drop).map_err(plain))
    }

    /// As [`settle`](Self::settle), when the schema may have moved unseen.
    pub(crate) fn settle_after_ddl(&self) -> Result<(), Error> {
        let any = self.catalog.borrow().quarantines || self.catalog.borrow().conflicts;
        if !any || self.read_only.get() || !self.db.is_autocommit() {
            return Ok(());
        }
        self.in_snapshot(|| self.refresh())?;
        self.settle()
    }

    /// The causal length of a row; 0 when it was never seen.
    pub(crate) fn row_cl(
        &self,
        table: &std::rc::Rc<Table>,
        key: &opor_core::PackedKey,
    ) -> Result<u64, Error> {
        Lives::default().cl(self, table, key)
    }
}

/// What SQLite says of an error in a release, for callers that have no other words.
pub(crate) fn plain(error: ApplyError) -> Error {
    match error {
        ApplyError::Sqlite(error) => error,
        other => crate::sqlite::failure(other.to_string()),
    }
}

impl Store {
    /// How much is in quarantine: changes from peers that cannot be stored here, because a table or a column is missing,
    /// a key does not fit, or the table refuses the row. They reach other peers through this replica all the same.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn quarantine(&self) -> Result<Quarantine, StoreError> {
        Ok(self.engine.in_snapshot(|| {
            self.engine.refresh()?;
            if self.engine.catalog.borrow().quarantines {
                quarantine::summary(self.engine.db)
            } else {
                Ok(Quarantine::default())
            }
        })?)
    }

    /// The next `count` changes in quarantine after a number; begin with 0.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn quarantined(&self, after: i64, count: usize) -> Result<Vec<QuarantinedChange>, StoreError> {
        let engine = &self.engine;
        Ok(engine.in_snapshot(|| {
            engine.refresh()?;
            if !engine.catalog.borrow().quarantines {
                return Ok(Vec::new());
            }
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let held = quarantine::after(engine.db, after, count)?;
            let told = held.into_iter().map(|held| {
                let (id, reason) = (held.id, held.reason);
                Ok(QuarantinedChange { id, change: held.change(engine)?, reason })
            });
            told.collect::<Result<Vec<_>, Error>>()
        })?)
    }

    /// Tries again to store what is in quarantine, whether or not the schema has moved, and tells what came of it.
    ///
    /// That happens by itself when a table begins to replicate, when `crsql_commit_alter` is called, when the file is
    /// opened, and with the next merge after any other change of the schema.
    ///
    /// # Errors
    /// See [`ApplyError`]; everything stays as it was then.
    pub fn release_quarantine(&mut self, options: &ApplyOptions) -> Result<ApplyReport, ApplyError> {
        self.engine.released_at.set(-1);
        let options = ApplyOptions { cursor: None, ..options.clone() };
        self.apply_with(&Changeset::new(), &options)
    }

    /// Drops what is in quarantine for a table, and tells how many changes that was. Peers that have not pulled them do
    /// not get them from here. For changes that will never be wanted.
    ///
    /// # Errors
    /// When SQLite fails; nothing has changed then.
    pub fn discard_quarantine(&mut self, table: &str) -> Result<u64, StoreError> {
        let engine = &self.engine;
        Ok(engine.in_write(|| {
            if !engine.catalog.borrow().quarantines {
                return Ok(0);
            }
            engine.uncaptured(|| quarantine::discard(engine.db, table))
        })?)
    }
}
