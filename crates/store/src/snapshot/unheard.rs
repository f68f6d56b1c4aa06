//! Rows of a snapshot whose sender has not heard of deletes that were forgotten here: this replica has no row and no
//! tombstone of them any more, and others may still have one.

use std::rc::Rc;

use opor_core::Changeset;

use super::forgotten::{cells_of, push};
use super::manifest::Manifest;
use super::receive::RestoreError;
use crate::apply::ApplyReport;
use crate::catalog::Table;
use crate::conflict::Masks;
use crate::meta;
use crate::progress::{Phase, Reporter};
use crate::rows::{RowLookup, RowPlace, RowValues};
use crate::store::Store;

impl Store {
    /// Deletes such rows for everybody, or brings them back for everybody, in the open transaction of the merge and before
    /// anything else of the snapshot. As they stand in it they would come in here, and not where the delete is remembered.
    ///
    /// `held` is how much of the log here the sender held when the image was made.
    pub(super) fn meet_unheard(
        &self,
        source: &Self,
        manifest: &Manifest,
        held: u64,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        // What other connections have written and cut is known from here on.
        let mut report = self.merge_piece(&Changeset::new(), &mut Reporter::silent())?;
        if held >= self.engine.horizon.get() {
            return Ok(report);
        }
        reporter.begin(Phase::Prune, 0)?;
        let pulled = self.pulled_of(source, manifest)?;
        let theirs = source.engine.catalog.borrow().clone();
        let ours = self.engine.catalog.borrow().clone();
        for their_table in &theirs.tables {
            let Some(table) = ours.table(&their_table.name) else { continue };
            let Some(cut) = self.engine.clocks.borrow().cut_lengths.get(&table.id).copied() else { continue };
            let lookup = RowLookup::new(&self.engine, table)?;
            let values = RowValues::new(&source.engine, their_table)?;
            let (masks, store, counts) = (Masks::default(), self, ApplyReport::default());
            let mut unheard =
                Unheard { store, source, table, their_table, lookup, values, masks, pulled, cut, counts };
            let mut after = None;
            loop {
                let page = source.engine.rows_after(their_table, after.as_ref())?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                reporter.add(page.len() as u64)?;
                let changes = unheard.changes(page)?;
                report.add(self.merge_piece(&changes, &mut Reporter::silent())?);
            }
            report.add(unheard.counts);
        }
        reporter.end()?;
        Ok(report)
    }

    /// Up to which version of the sender everything has been here, as far as the image shows that it was of this history.
    fn pulled_of(&self, source: &Self, manifest: &Manifest) -> Result<u64, rusqlite::Error> {
        let Some(pulled) = meta::pulled(self.engine.db, manifest.site)? else { return Ok(0) };
        let Some(epoch) = pulled.epoch else { return Ok(0) };
        let is_known = source.engine.is_of_history(epoch, pulled.base.0)?;
        Ok(if is_known { pulled.base.0 } else { 0 })
    }
}

struct Unheard<'s> {
    store: &'s Store,
    source: &'s Store,
    table: &'s Rc<Table>,
    their_table: &'s Rc<Table>,
    /// Here.
    lookup: RowLookup,
    /// There.
    values: RowValues,
    masks: Masks,
    /// Up to here everything of the sender has been here.
    pulled: u64,
    /// The longest causal length among the tombstones that were forgotten here.
    cut: u64,
    counts: ApplyReport,
}

impl Unheard<'_> {
    /// What is to be merged for the rows of a page of the image.
    fn changes(&mut self, page: Vec<RowPlace>) -> Result<Changeset, rusqlite::Error> {
        let mut changes = Changeset::new();
        for row in page {
            let clocks = self.source.engine.row_clocks(self.their_table, &row)?;
            // A longer life than any that was forgotten began after those deletes.
            if clocks.cl == 0
                || clocks.cl > self.cut
                || !self.table.fits(&row.key)
                || self.is_on_record(&row)?
            {
                continue;
            }
            let (own, (_, newest)) = (self.store.site_id(), clocks.versions());
            if newest <= self.pulled {
                // All of it has been here, so it was deleted here.
                self.counts.rows_gone += 1;
                push(&mut changes, &self.table.name, row.key, clocks.cl + 1, own, Vec::new());
            } else if let Some(values) = self.values.read(self.their_table, &row.key)? {
                let (engine, table) = (&self.source.engine, self.their_table);
                let masks = self.masks.of(engine, table, row.key.as_bytes())?;
                let cells = cells_of(engine, table, &mut changes, &clocks, values, &masks)?;
                self.counts.rows_brought_back += 1;
                push(&mut changes, &self.table.name, row.key, self.cut + 1, own, cells);
            }
        }
        Ok(changes)
    }

    /// Whether something is known here of a row, or of its delete.
    fn is_on_record(&mut self, row: &RowPlace) -> Result<bool, rusqlite::Error> {
        let has_tomb = self.store.engine.clocks.borrow_mut().tomb(self.table, row.key.as_bytes())?.is_some();
        Ok(has_tomb || self.lookup.has(&row.key)?)
    }
}
