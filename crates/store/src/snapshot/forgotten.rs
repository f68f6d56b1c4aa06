//! Rows that the sender of a snapshot deleted and has forgotten: it has no row and no tombstone of them any more, and this
//! replica was away too long to have heard of it.

use std::rc::Rc;

use opor_core::{
    CausalLength, Cell, Changeset, Cid, Clock, ColVersion, DbVersion, PackedKey, RowChange, SiteId, Value,
};

use super::manifest::Pulled;
use super::receive::{RestoreError, SnapshotImage};
use crate::apply::ApplyReport;
use crate::block::CellClock;
use crate::catalog::Table;
use crate::colset::ColSet;
use crate::conflict::{Mask, Masks, masked};
use crate::engine::Engine;
use crate::learnt::Reader;
use crate::meta;
use crate::progress::{Phase, Reporter};
use crate::quarantine::{self, Held};
use crate::rows::{RowClocks, RowLookup, RowPlace, RowValues};
use crate::store::Store;

impl Store {
    /// Deletes such rows, or brings them back for everybody, in the open transaction of the merge.
    pub(super) fn follow_forgotten(
        &self,
        source: &Self,
        image: &SnapshotImage,
        held: u64,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        let sender = image.manifest.site;
        let horizon = source.engine.horizon_of(Reader::Peer(self.site_id()));
        let pulled = meta::pulled(self.engine.db, sender)?.map_or(0, |cursor| cursor.base.0);
        let mut report = ApplyReport::default();
        // What it deleted since the horizon it tells, and what it learnt since.
        if pulled >= horizon {
            return Ok(report);
        }
        reporter.begin(Phase::Prune, 0)?;
        let theirs = source.engine.catalog.borrow().clone();
        let ours = self.engine.catalog.borrow().clone();
        // Of a table that was moved as it is, the image has every row.
        let moved = source.engine.left_out.borrow().clone();
        for their_table in theirs.tables.iter().filter(|table| !moved.contains(&table.id)) {
            let Some(table) = ours.table(&their_table.name) else { continue };
            let lookup = RowLookup::new(&source.engine, their_table)?;
            let values = RowValues::new(&self.engine, table)?;
            let (cut, masks, brought_back) = (cut_length(source, their_table), Masks::default(), 0);
            let mut forgotten =
                Forgotten { store: self, table, lookup, values, masks, held, cut, sender, brought_back };
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
        if ours.quarantines {
            for their_table in theirs.tables.iter().filter(|table| ours.table(&table.name).is_none()) {
                report.add(self.follow_forgotten_aside(source, their_table, held, sender)?);
            }
        }
        reporter.end()?;
        Ok(report)
    }

    /// The same for rows of a table that is not here, which are in quarantine.
    fn follow_forgotten_aside(
        &self,
        source: &Self,
        table: &Table,
        held_there: u64,
        sender: SiteId,
    ) -> Result<ApplyReport, RestoreError> {
        let mut lookup = RowLookup::new(&source.engine, table)?;
        let cut = cut_length(source, table);
        let (db, mut report, mut last) = (self.engine.db, ApplyReport::default(), None::<Held>);
        loop {
            let page = quarantine::of_table(db, &table.name, last.as_ref())?;
            let Some(end) = page.last() else { return Ok(report) };
            last = Some(end.clone());
            let mut keys: Vec<_> = page.into_iter().map(|held| held.key).collect();
            keys.dedup();
            let mut changes = Changeset::new();
            for key in keys {
                let row = quarantine::of_row(db, &table.name, &key)?;
                let known = row.iter().any(|held| held.dv <= held_there);
                let told = |cl: &u64| (known || *cl <= cut) && cl % 2 == 1 && table.fits(&key);
                let Some(cl) = row.iter().map(|held| held.cl).max().filter(told) else {
                    continue;
                };
                if lookup.has(&key)? {
                    continue;
                }
                if row.iter().all(|held| held.dv <= held_there) {
                    push(&mut changes, &table.name, key, cl + 1, sender, Vec::new());
                } else {
                    let cells = self.cells_aside(&mut changes, &table.name, row)?;
                    report.rows_brought_back += 1;
                    push(&mut changes, &table.name, key, (cl + 2).max(cut + 1), self.site_id(), cells);
                }
            }
            report.add(self.merge_piece(&changes, &mut Reporter::silent())?);
        }
    }

    fn cells_aside(
        &self,
        changes: &mut Changeset,
        table: &str,
        row: Vec<Held>,
    ) -> Result<Vec<Cell>, rusqlite::Error> {
        let table = changes.table_index(table);
        let mut cells = Vec::new();
        for held in row {
            let Cid::Column(name) = &held.cid else { continue };
            let column = changes.column_index(table, name);
            let site = changes.site_index(self.engine.site_of(held.site)?);
            let (col_version, db_version) = (ColVersion(held.cv), DbVersion(0));
            let clock = Clock { col_version, db_version, seq: held.seq, site };
            cells.push(Cell { column, value: held.value, clock });
        }
        Ok(cells)
    }
}

impl Store {
    /// How much of the log here the sender held when the image was made: what it had pulled, and what it had sent itself.
    ///
    /// What it has acknowledged may be more and may be less: the image may be older than the last pull, and then lacks rows that
    /// nobody deleted; and an acknowledgement may have got lost, of a row that is never pulled again.
    pub(super) fn known_to_sender(
        &self,
        image: &SnapshotImage,
        held: DbVersion,
    ) -> Result<u64, rusqlite::Error> {
        let (db, sender, own) = (self.engine.db, image.manifest.site, self.site_id());
        let told = image.manifest.pulled.iter().find(|pulled| pulled.site == own);
        let mut base = 0;
        if let Some(Pulled { epoch, base: pulled, .. }) = told
            && self.engine.is_of_history(*epoch, pulled.0)?
        {
            base = pulled.0;
        }
        // What it sent tells only where it came from a log that is older than the image, and where the image has all that the
        // sender has acknowledged: else there are rows that the image cannot have.
        let is_older =
            meta::pulled(db, sender)?.is_none_or(|pulled| pulled.reached() <= image.manifest.db_version);
        let sent =
            if is_older && meta::acknowledged(db, sender)? <= base { meta::held(db, sender)? } else { 0 };
        self.engine.uncaptured(|| meta::save_acknowledged(db, sender, base))?;
        Ok(base.max(sent).max(held.0))
    }
}

/// The longest causal length among the tombstones of a table that the sender has forgotten.
fn cut_length(source: &Store, table: &Table) -> u64 {
    source.engine.clocks.borrow().cut_lengths.get(&table.id).copied().unwrap_or(0)
}

struct Forgotten<'s> {
    store: &'s Store,
    table: &'s Rc<Table>,
    lookup: RowLookup,
    values: RowValues,
    masks: Masks,
    /// Up to here the sender held everything when the image was made.
    held: u64,
    /// The longest causal length among the tombstones that the sender has forgotten.
    cut: u64,
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
            // A row that is newer as a whole the sender may not have heard of yet; what it has never held it cannot have
            // deleted. But the key may have had a row before, whose tombstone somebody still has.
            let known = oldest <= self.held;
            if clocks.cl == 0 || (!known && clocks.cl > self.cut) || self.lookup.has(&row.key)? {
                continue;
            }
            if newest <= self.held {
                push(&mut changes, &self.table.name, row.key, clocks.cl + 1, self.sender, Vec::new());
            } else if let Some(values) = self.values.read(self.table, &row.key)? {
                let masks = self.masks.of(&self.store.engine, self.table, row.key.as_bytes())?;
                let cells = cells_of(&self.store.engine, self.table, &mut changes, &clocks, values, &masks)?;
                let (own, life) = (self.store.site_id(), (clocks.cl + 2).max(self.cut + 1));
                self.brought_back += 1;
                push(&mut changes, &self.table.name, row.key, life, own, cells);
            }
        }
        Ok(changes)
    }
}

/// The cells of a row as they are, to be written again in its next life.
pub(super) fn cells_of(
    engine: &Engine,
    table: &Table,
    changes: &mut Changeset,
    clocks: &RowClocks,
    values: Vec<Value>,
    masks: &[Mask],
) -> Result<Vec<Cell>, rusqlite::Error> {
    let in_changes = changes.table_index(&table.name);
    let mut cells = Vec::new();
    for (column, value) in table.columns.iter().zip(values) {
        let clock = clocks.cells.iter().find(|(bit, _)| *bit == column.bit && *bit != ColSet::SENTINEL);
        let Some((_, known)) = clock else { continue };
        let value = masked(masks, column.bit, known).cloned().unwrap_or(value);
        let CellClock { cv, seq, site, .. } = known;
        let site = changes.site_index(engine.site_of(*site)?);
        let clock = Clock { col_version: ColVersion(*cv), db_version: DbVersion(0), seq: *seq, site };
        cells.push(Cell { column: changes.column_index(in_changes, &column.name), value, clock });
    }
    Ok(cells)
}

pub(super) fn push(
    changes: &mut Changeset,
    table: &str,
    key: PackedKey,
    cl: u64,
    site: SiteId,
    cells: Vec<Cell>,
) {
    let (table, site) = (changes.table_index(table), changes.site_index(site));
    let seq = changes.rows().len() as u64;
    let sentinel = Clock { col_version: ColVersion(cl), db_version: DbVersion(0), seq, site };
    changes.push_row(RowChange { table, key, cl: CausalLength(cl), sentinel: Some(sentinel), cells });
}
