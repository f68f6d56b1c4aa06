//! Rows that the sender of a snapshot deleted and has forgotten: it has no row and no tombstone of them any more, and this
//! replica was away too long to have heard of it.

use std::rc::Rc;

use opor_core::{
    CausalLength, Cell, Changeset, Clock, ColVersion, DbVersion, PackedKey, RowChange, SiteId, Value,
};

use super::receive::{RestoreError, SnapshotImage};
use crate::apply::ApplyReport;
use crate::block::CellClock;
use crate::catalog::Table;
use crate::colset::ColSet;
use crate::meta;
use crate::progress::{Phase, Reporter};
use crate::rows::{RowClocks, RowLookup, RowPlace, RowValues};
use crate::store::Store;

impl Store {
    /// Deletes such rows, or brings them back for everybody, in the open transaction of the merge.
    pub(super) fn follow_forgotten(
        &self,
        source: &Self,
        image: &SnapshotImage,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        let (sender, horizon) = (image.manifest.site, image.manifest.horizon);
        let held = meta::held(self.engine.db, sender)?;
        let pulled = meta::pulled(self.engine.db, sender)?.map_or(0, |cursor| cursor.base.0);
        let mut report = ApplyReport::default();
        // What the sender has never held it cannot have deleted; and what it deleted since the horizon it tells.
        if held == 0 || pulled >= horizon {
            return Ok(report);
        }
        reporter.begin(Phase::Prune, 0)?;
        let theirs = source.engine.catalog.borrow().clone();
        let ours = self.engine.catalog.borrow().clone();
        for their_table in &theirs.tables {
            let Some(table) = ours.table(&their_table.name) else { continue };
            let lookup = RowLookup::new(&source.engine, their_table)?;
            let values = RowValues::new(&self.engine, table)?;
            let mut forgotten =
                Forgotten { store: self, table, lookup, values, held, sender, brought_back: 0 };
            let mut after = None;
            loop {
                let page = self.engine.rows_after(table, after.as_ref())?;
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                reporter.add(page.len() as u64)?;
                let changes = forgotten.changes(page)?;
                report.add(self.merge_piece(&changes, &mut Reporter::silent())?);
            }
            report.rows_brought_back += forgotten.brought_back;
        }
        reporter.end()?;
        Ok(report)
    }
}

struct Forgotten<'s> {
    store: &'s Store,
    table: &'s Rc<Table>,
    lookup: RowLookup,
    values: RowValues,
    /// Up to here the sender has held everything.
    held: u64,
    sender: SiteId,
    brought_back: usize,
}

impl Forgotten<'_> {
    /// What is to be merged for the rows of a page.
    fn changes(&mut self, page: Vec<RowPlace>) -> Result<Changeset, rusqlite::Error> {
        let mut changes = Changeset::new();
        for row in page {
            let clocks = self.store.engine.row_clocks(self.table, &row)?;
            let (oldest, newest) = clocks.versions();
            // A row that is newer as a whole is one the sender has not heard of yet.
            let known = clocks.cl > 0 && oldest <= self.held;
            if !known || self.lookup.has(&row.key)? {
                continue;
            }
            if newest <= self.held {
                push(&mut changes, self.table, row.key, clocks.cl + 1, self.sender, Vec::new());
            } else if let Some(values) = self.values.read(self.table, &row.key)? {
                let cells = self.cells(&mut changes, &clocks, values)?;
                let own = self.store.site_id();
                self.brought_back += 1;
                push(&mut changes, self.table, row.key, clocks.cl + 2, own, cells);
            }
        }
        Ok(changes)
    }

    /// The cells of a row as they are, to be written again in its next life.
    fn cells(
        &self,
        changes: &mut Changeset,
        clocks: &RowClocks,
        values: Vec<Value>,
    ) -> Result<Vec<Cell>, rusqlite::Error> {
        let table = changes.table_index(&self.table.name);
        let mut cells = Vec::new();
        for (column, value) in self.table.columns.iter().zip(values) {
            let clock = clocks.cells.iter().find(|(bit, _)| *bit == column.bit && *bit != ColSet::SENTINEL);
            let Some((_, CellClock { cv, seq, site, .. })) = clock else { continue };
            let site = changes.site_index(self.store.engine.site_of(*site)?);
            let clock = Clock { col_version: ColVersion(*cv), db_version: DbVersion(0), seq: *seq, site };
            cells.push(Cell { column: changes.column_index(table, &column.name), value, clock });
        }
        Ok(cells)
    }
}

fn push(changes: &mut Changeset, table: &Table, key: PackedKey, cl: u64, site: SiteId, cells: Vec<Cell>) {
    let (table, site) = (changes.table_index(&table.name), changes.site_index(site));
    let seq = changes.rows().len() as u64;
    let sentinel = Clock { col_version: ColVersion(cl), db_version: DbVersion(0), seq, site };
    changes.push_row(RowChange { table, key, cl: CausalLength(cl), sentinel: Some(sentinel), cells });
}
