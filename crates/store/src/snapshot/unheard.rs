//! Rows of a snapshot whose sender has not heard of deletes that were forgotten here: this replica has no row and no
//! tombstone of them any more, and others may still have one.

use std::collections::hash_map::Entry;
use std::rc::Rc;

use opor_core::{Changeset, PackedKey};
use rustc_hash::{FxHashMap, FxHashSet};

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

/// What becomes of such rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unheard {
    /// The sender takes a snapshot of this replica later. It knows what was written to them since, so it decides; until then
    /// they are left out.
    Left,
    /// Nobody else decides: each is deleted or comes back for everybody.
    Judged,
}

impl Store {
    /// A piece of the image without such rows, and how many changes to rows were left out.
    pub(super) fn without_unheard(
        &self,
        changeset: Changeset,
        lookups: &mut FxHashMap<u32, RowLookup>,
    ) -> Result<(Changeset, usize), rusqlite::Error> {
        let ours = self.engine.catalog.borrow().clone();
        let cuts = self.engine.clocks.borrow().cut_lengths.clone();
        let tables: Vec<_> = changeset.tables().iter().map(|table| ours.table(&table.name)).collect();
        let mut left = FxHashSet::default();
        for (at, row) in changeset.rows().iter().enumerate() {
            let Some(table) = tables[row.table as usize] else { continue };
            let cut = cuts.get(&table.id).copied().unwrap_or(0);
            if row.cl.0.is_multiple_of(2) || row.cl.0 > cut || !table.fits(&row.key) {
                continue;
            }
            let lookup = match lookups.entry(table.id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(RowLookup::new(&self.engine, table)?),
            };
            if !self.is_on_record(table, lookup, &row.key, row.cl.0)? {
                left.insert(at);
            }
        }
        if left.is_empty() {
            return Ok((changeset, 0));
        }
        let mut rest = Changeset::new();
        for table in changeset.tables() {
            let index = rest.table_index(&table.name);
            table.columns.iter().for_each(|column| _ = rest.column_index(index, column));
        }
        changeset.sites().iter().for_each(|site| _ = rest.site_index(*site));
        let rows = changeset.rows().iter().enumerate().filter(|(at, _)| !left.contains(at));
        rows.for_each(|(_, row)| rest.push_row(row.clone()));
        Ok((rest, left.len()))
    }

    /// Whether there is a row of this key here, or a record that this life of it has ended. The end of an earlier life does not
    /// tell of the deletes that were forgotten.
    fn is_on_record(
        &self,
        table: &Table,
        lookup: &mut RowLookup,
        key: &PackedKey,
        cl: u64,
    ) -> Result<bool, rusqlite::Error> {
        let tomb = self.engine.clocks.borrow_mut().tomb(table, key.as_bytes())?;
        Ok(tomb.is_some_and(|tomb| tomb.cl > cl) || lookup.has(key)?)
    }

    /// Deletes such rows for everybody, or brings them back for everybody, in the open transaction of the merge and before
    /// anything else of the snapshot. As they stand in it they would come in here, and not where the delete is remembered.
    pub(super) fn judge_unheard(
        &self,
        source: &Self,
        manifest: &Manifest,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        let mut report = ApplyReport::default();
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
            let mut judge =
                Judge { store, source, table, their_table, lookup, values, masks, pulled, cut, counts };
            let mut after = None;
            loop {
                let page = source.engine.rows_after(their_table, after.as_ref())?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                reporter.add(page.len() as u64)?;
                let changes = judge.changes(page)?;
                report.add(self.merge_piece(&changes, &mut Reporter::silent())?);
            }
            report.add(judge.counts);
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

struct Judge<'s> {
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

impl Judge<'_> {
    /// What is to be merged for the rows of a page of the image.
    fn changes(&mut self, page: Vec<RowPlace>) -> Result<Changeset, rusqlite::Error> {
        let mut changes = Changeset::new();
        for row in page {
            let clocks = self.source.engine.row_clocks(self.their_table, &row)?;
            // A longer life than any that was forgotten began after those deletes.
            if clocks.cl == 0
                || clocks.cl > self.cut
                || !self.table.fits(&row.key)
                || self.store.is_on_record(self.table, &mut self.lookup, &row.key, clocks.cl)?
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
}
