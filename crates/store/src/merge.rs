//! Merging one row: decides each change, writes the row once, and records the clocks that won.

use std::rc::Rc;

use opor_core::{
    CausalLength, ColVersion, Incoming, LocalRow, Outcome, PackedKey, SiteId, Value, ValueRef, decide,
};
use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::block::{Block, CellClock};
use crate::catalog::{Column, Table};
use crate::clocks::Tomb;
use crate::colset::ColSet;
use crate::engine::Engine;
use crate::notes::MergeOp;
use crate::sqlite::{Run, Stmt, failure, quote};

/// The changes to one row, as they came.
#[derive(Debug)]
pub(crate) struct IncomingRow<'a> {
    pub(crate) key: &'a PackedKey,
    pub(crate) cl: u64,
    pub(crate) sentinel: Option<IncomingClock>,
    pub(crate) cells: Vec<IncomingCell<'a>>,
}

#[derive(Debug)]
pub(crate) struct IncomingCell<'a> {
    /// Place in [`Table::columns`].
    pub(crate) column: usize,
    pub(crate) value: ValueRef<'a>,
    pub(crate) clock: IncomingClock,
}

/// A clock as it came, except that the site is an ordinal here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IncomingClock {
    pub(crate) cv: u64,
    pub(crate) seq: u64,
    pub(crate) site: SiteId,
    pub(crate) ordinal: u32,
    /// The version the merge of this change takes here.
    pub(crate) dv: u64,
}

impl IncomingClock {
    const fn cell(&self) -> CellClock {
        CellClock { cv: self.cv, dv: self.dv, shown_dv: self.dv, seq: self.seq, site: self.ordinal }
    }
}

/// What a merge did to one row.
#[derive(Debug, Default)]
pub(crate) struct RowOutcome {
    pub(crate) inserted: bool,
    pub(crate) resurrected: bool,
    pub(crate) deleted: bool,
    pub(crate) stale: bool,
    pub(crate) known: usize,
    pub(crate) lost: usize,
    /// Places in [`IncomingRow::cells`].
    pub(crate) won: Vec<usize>,
    /// Whether the sentinel changed something by itself.
    pub(crate) created: bool,
    pub(crate) conflicts: Vec<CellConflict>,
    /// The causal length before the merge.
    pub(crate) local_cl: u64,
}

/// Both sides had written the cell.
#[derive(Debug)]
pub(crate) struct CellConflict {
    /// Place in [`IncomingRow::cells`].
    pub(crate) cell: usize,
    pub(crate) local: Value,
    pub(crate) clock: CellClock,
    pub(crate) incoming_won: bool,
}

/// Whether to look for conflicts, which costs a read of the row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Watch {
    Nothing,
    /// A local write counts as unseen by the peer when it is newer than this version.
    Conflicts {
        acknowledged: u64,
    },
}

/// The statements that merges hold; one set a connection.
#[derive(Debug, Default)]
pub(crate) struct MergeSql {
    find: FxHashMap<u32, Stmt>,
    delete: FxHashMap<u32, Stmt>,
    insert: FxHashMap<(u32, Vec<u16>), Stmt>,
    update: FxHashMap<(u32, Vec<u16>), Stmt>,
    read: FxHashMap<(u32, usize), Stmt>,
    /// Whether the last row merged was new, which is then tried first for the next.
    last_was_new: bool,
}

/// Merges rows into one table set, within the open transaction.
pub(crate) struct Merger<'e> {
    pub(crate) engine: &'e Engine,
    pub(crate) sql: &'e mut MergeSql,
    /// Nothing can roll this transaction back in part.
    pub(crate) direct: bool,
    pub(crate) watch: Watch,
}

/// Where a row is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the table, at this rowid (0 in a keyed table).
    Row(i64),
    Absent,
}

/// What is known of a row before the merge.
struct Local {
    place: Place,
    block: Option<Block>,
    bit: u32,
    cl: u64,
    /// Set when the merge has created the row again: its cells then start from nothing.
    restarted: bool,
}

impl Local {
    fn cell(&self, bit: u32) -> Option<CellClock> {
        let clock = self.block.as_ref().and_then(|block| block.cell(self.bit, bit))?;
        Some(if self.restarted { CellClock { cv: 0, ..clock } } else { clock })
    }
}

impl Merger<'_> {
    pub(crate) fn merge(&mut self, table: &Rc<Table>, row: &IncomingRow<'_>) -> Result<RowOutcome, Error> {
        let plain_insert = row.cl == 1 && row.sentinel.is_none() && !row.cells.is_empty();
        if plain_insert && self.sql.last_was_new && !table.keyed {
            if let Some(outcome) = self.try_insert(table, row)? {
                return Ok(outcome);
            }
            self.sql.last_was_new = false;
        }
        let mut local = self.local(table, row.key)?;
        let mut outcome = RowOutcome { local_cl: local.cl, ..RowOutcome::default() };
        if row.cl.is_multiple_of(2) {
            if let Some(op) = self.merge_delete(table, row, &local, &mut outcome)? {
                if let Place::Row(rowid) = local.place {
                    self.delete_row(table, row.key, rowid)?;
                }
                self.record(op)?;
            }
            return Ok(outcome);
        }
        let mut create = self.merge_sentinel(row, &mut local, &mut outcome);
        for (i, cell) in row.cells.iter().enumerate() {
            self.merge_cell(table, row.key, (i, cell, row.cl), &mut local, &mut create, &mut outcome)?;
        }
        self.write(table, row, &local, create, &mut outcome)?;
        Ok(outcome)
    }

    /// The common case of a first sync: a row nobody here has seen. One statement tells and does it.
    fn try_insert(&mut self, table: &Rc<Table>, row: &IncomingRow<'_>) -> Result<Option<RowOutcome>, Error> {
        if self.engine.clocks.borrow_mut().tombs_possible(table.id)? {
            let tomb = self.engine.clocks.borrow_mut().tomb(table.id, row.key.as_bytes())?;
            if tomb.is_some() {
                return Ok(None);
            }
        }
        let won: Vec<usize> = (0..row.cells.len()).collect();
        if !self.insert_row(table, row, &won)? {
            return Ok(None);
        }
        let outcome = RowOutcome { inserted: true, won, ..RowOutcome::default() };
        self.record_cells(table, row, self.engine.db.last_insert_rowid(), &outcome.won)?;
        Ok(Some(outcome))
    }

    fn local(&mut self, table: &Rc<Table>, key: &PackedKey) -> Result<Local, Error> {
        let place = self.find(table, key)?;
        let mut clocks = self.engine.clocks.borrow_mut();
        let mut local = Local { place, block: None, bit: 0, cl: 0, restarted: false };
        if let Place::Row(rowid) = place {
            let (id, bit) = clocks.place_of(table, rowid, key.as_bytes())?;
            local.bit = bit;
            local.block = clocks.peek(id)?.map(|record| record.block);
            local.cl = local.block.as_ref().map_or(0, |block| block.cl(bit));
        }
        if local.cl == 0 {
            local.cl = clocks.tomb(table.id, key.as_bytes())?.map_or(0, |tomb| tomb.cl);
        }
        Ok(local)
    }

    fn find(&mut self, table: &Table, key: &PackedKey) -> Result<Place, Error> {
        let stmt = held(&mut self.sql.find, table.id, || {
            let what = if table.keyed { "0" } else { table.rowid_name };
            let sql = format!("SELECT {what} FROM {} WHERE {}", quote(&table.name), table.key_condition());
            self.engine.db.prepare(&sql)
        })?;
        let mut row = stmt.start();
        bind_key(&mut row, key)?;
        Ok(if row.step()? { Place::Row(row.integer(0)) } else { Place::Absent })
    }

    /// Whatever column a change names, an even causal length means the row is gone.
    fn merge_delete(
        &self,
        table: &Rc<Table>,
        row: &IncomingRow<'_>,
        local: &Local,
        outcome: &mut RowOutcome,
    ) -> Result<Option<MergeOp>, Error> {
        let Some(clock) = row.sentinel.or(row.cells.first().map(|cell| cell.clock)) else { return Ok(None) };
        match decision(self.engine, local.cl, None, row.cl, true, &clock, ValueRef::Null) {
            Outcome::Delete => {}
            Outcome::Known => {
                outcome.known += 1;
                return Ok(None);
            }
            _ => {
                outcome.stale = true;
                return Ok(None);
            }
        }
        outcome.deleted = true;
        // A sentinel's own version says the same as the causal length, unless it is forged.
        let tomb = Tomb { cl: row.cl, dv: clock.dv, seq: clock.seq, site: clock.ordinal };
        let at = match local.place {
            Place::Row(rowid) => Some(rowid),
            Place::Absent => table.keyed.then_some(0),
        };
        Ok(Some(MergeOp::Delete { table: table.id, row: at, key: row.key.as_bytes().into(), tomb }))
    }

    fn merge_sentinel(
        &self,
        row: &IncomingRow<'_>,
        local: &mut Local,
        outcome: &mut RowOutcome,
    ) -> Option<IncomingClock> {
        let clock = row.sentinel?;
        match decision(self.engine, local.cl, None, row.cl, true, &clock, ValueRef::Null) {
            Outcome::Create => {
                begin_again(local, row.cl, outcome);
                Some(IncomingClock { cv: row.cl, ..clock })
            }
            Outcome::Known => {
                outcome.known += 1;
                None
            }
            _ => {
                outcome.stale = true;
                None
            }
        }
    }

    fn merge_cell(
        &mut self,
        table: &Rc<Table>,
        key: &PackedKey,
        (i, cell, cl): (usize, &IncomingCell<'_>, u64),
        local: &mut Local,
        create: &mut Option<IncomingClock>,
        outcome: &mut RowOutcome,
    ) -> Result<(), Error> {
        let column = &table.columns[cell.column];
        let clock = local.cell(column.bit);
        // The value decides ties only, and is read only then; watching for conflicts wants it in any case.
        let tie = clock.is_some_and(|clock| clock.cv == cell.clock.cv && local.cl == cl);
        let watched = !matches!(self.watch, Watch::Nothing) && clock.is_some();
        let value = match local.place {
            Place::Row(rowid) if tie || watched => Some(self.read(table, key, cell.column, rowid)?),
            _ => None,
        };
        let site = match clock {
            Some(clock) => self.engine.site_of(clock.site)?,
            None => cell.clock.site,
        };
        let known = clock
            .map(|clock| (ColVersion(clock.cv), site, value.as_ref().map_or(ValueRef::Null, Value::as_ref)));
        let mut decided = decision(self.engine, local.cl, known, cl, false, &cell.clock, cell.value);
        if let (Outcome::Win, true, Some(clock), Some(value)) = (decided, tie, clock, &value) {
            // The same write again, which column affinity has given another type here: not a new one.
            let same_write = clock.site == cell.clock.ordinal && clock.seq == cell.clock.seq;
            if same_write && std::mem::discriminant(&value.as_ref()) != std::mem::discriminant(&cell.value) {
                decided = Outcome::Known;
            }
        }
        let won = matches!(decided, Outcome::Win | Outcome::CreateAndWin);
        if let (Some(clock), Some(value), Outcome::Win | Outcome::Lose) = (clock, value, decided)
            && self.is_conflict(clock, cell, &value)
        {
            outcome.conflicts.push(CellConflict { cell: i, local: value, clock, incoming_won: won });
        }
        match decided {
            Outcome::CreateAndWin => {
                begin_again(local, cl, outcome);
                *create = Some(IncomingClock { cv: cl, ..cell.clock });
            }
            // A first cell makes the row known; the next is then compared within causal length 1.
            Outcome::Win => local.cl = cl,
            Outcome::Lose => outcome.lost += 1,
            Outcome::Stale => outcome.stale = true,
            _ => outcome.known += 1,
        }
        if won {
            outcome.won.push(i);
        }
        Ok(())
    }

    fn is_conflict(&self, clock: CellClock, cell: &IncomingCell<'_>, value: &Value) -> bool {
        let Watch::Conflicts { acknowledged } = self.watch else { return false };
        if clock.site == cell.clock.ordinal || value.as_ref() == cell.value {
            return false;
        }
        // A newer write may simply follow the older; it does not when the older is ours and the peer has not seen it.
        cell.clock.cv <= clock.cv || (clock.site == 0 && clock.dv > acknowledged)
    }

    fn read(&mut self, table: &Table, key: &PackedKey, column: usize, rowid: i64) -> Result<Value, Error> {
        let stmt = held(&mut self.sql.read, (table.id, column), || {
            let (name, column) = (quote(&table.name), quote(&table.columns[column].name));
            self.engine.db.prepare(&format!("SELECT {column} FROM {name} WHERE {}", row_condition(table)))
        })?;
        let mut row = stmt.start();
        bind_row(&mut row, table, key, rowid)?;
        if !row.step()? {
            return Err(failure("a row went away while it was merged"));
        }
        Ok(row.value(0)?.to_owned())
    }

    fn write(
        &mut self,
        table: &Rc<Table>,
        row: &IncomingRow<'_>,
        local: &Local,
        create: Option<IncomingClock>,
        outcome: &mut RowOutcome,
    ) -> Result<(), Error> {
        if create.is_none() && outcome.won.is_empty() {
            return Ok(());
        }
        let rowid = match local.place {
            Place::Row(rowid) => {
                if !outcome.won.is_empty() {
                    self.update_row(table, row, rowid, &outcome.won)?;
                }
                rowid
            }
            Place::Absent => {
                if !self.insert_row(table, row, &outcome.won)? {
                    return Err(failure("a row appeared while it was merged"));
                }
                outcome.inserted = true;
                self.engine.db.last_insert_rowid()
            }
        };
        self.sql.last_was_new = outcome.inserted;
        if let Some(clock) = create {
            outcome.created = true;
            let key = row.key.as_bytes().into();
            self.record(MergeOp::Create { table: table.id, row: rowid, key, sentinel: clock.cell() })?;
        }
        self.record_cells(table, row, rowid, &outcome.won)
    }

    fn record_cells(
        &self,
        table: &Rc<Table>,
        row: &IncomingRow<'_>,
        rowid: i64,
        won: &[usize],
    ) -> Result<(), Error> {
        if won.is_empty() {
            return Ok(());
        }
        let mut cells: Vec<(ColSet, CellClock)> = Vec::with_capacity(2);
        for cell in won.iter().map(|i| &row.cells[*i]) {
            let (bit, clock) = (table.columns[cell.column].bit, cell.clock.cell());
            if let Some((cols, first)) = cells.last_mut() {
                let next = CellClock { seq: first.seq + u64::from(cols.len()), ..*first };
                if next == clock && cols.rank(bit) == cols.len() && !cols.contains(bit) {
                    cols.insert(bit);
                    continue;
                }
            }
            cells.push((ColSet::one(bit), clock));
        }
        let key = if table.keyed { row.key.as_bytes().into() } else { Box::default() };
        self.record(MergeOp::Cells { table: table.id, row: rowid, key, cells })
    }

    fn record(&self, op: MergeOp) -> Result<(), Error> {
        if self.direct { self.engine.merge_directly(&op) } else { self.engine.merge(op) }
    }

    fn delete_row(&mut self, table: &Table, key: &PackedKey, rowid: i64) -> Result<(), Error> {
        let stmt = held(&mut self.sql.delete, table.id, || {
            let (name, condition) = (quote(&table.name), row_condition(table));
            self.engine.db.prepare(&format!("DELETE FROM {name} WHERE {condition}"))
        })?;
        let mut run = stmt.start();
        bind_row(&mut run, table, key, rowid)?;
        self.engine.uncaptured(|| run.step())?;
        Ok(())
    }

    fn update_row(
        &mut self,
        table: &Table,
        row: &IncomingRow<'_>,
        rowid: i64,
        won: &[usize],
    ) -> Result<(), Error> {
        let shape: Vec<u16> = won.iter().map(|i| row.cells[*i].column as u16).collect();
        let stmt = held(&mut self.sql.update, (table.id, shape), || {
            let set: Vec<_> = won
                .iter()
                .map(|i| format!("{} = ?", quote(&table.columns[row.cells[*i].column].name)))
                .collect();
            let (name, condition) = (quote(&table.name), row_condition(table));
            self.engine.db.prepare(&format!("UPDATE {name} SET {} WHERE {condition}", set.join(", ")))
        })?;
        let mut run = stmt.start();
        won.iter().try_for_each(|i| run.bind(row.cells[*i].value))?;
        bind_row(&mut run, table, row.key, rowid)?;
        self.engine.uncaptured(|| run.step())?;
        Ok(())
    }

    /// `false` when there is a row of this key already.
    fn insert_row(&mut self, table: &Table, row: &IncomingRow<'_>, won: &[usize]) -> Result<bool, Error> {
        let shape: Vec<u16> = won.iter().map(|i| row.cells[*i].column as u16).collect();
        let fillers = || {
            let missing = |(i, _): &(usize, &Column)| !won.iter().any(|won| row.cells[*won].column == *i);
            table
                .columns
                .iter()
                .enumerate()
                .filter(missing)
                .filter_map(|(_, column)| column.filler.as_ref().map(|value| (column, value)))
        };
        let stmt = held(&mut self.sql.insert, (table.id, shape), || {
            let won = won.iter().map(|i| &table.columns[row.cells[*i].column]);
            let names: Vec<_> = table
                .key
                .iter()
                .map(|column| quote(&column.name))
                .chain(won.map(|column| quote(&column.name)))
                .chain(fillers().map(|(column, _)| quote(&column.name)))
                .collect();
            let marks = vec!["?"; names.len()].join(", ");
            self.engine.db.prepare(&format!(
                "INSERT INTO {}({}) VALUES ({marks}) ON CONFLICT({}) DO NOTHING",
                quote(&table.name),
                names.join(", "),
                table.key_list(),
            ))
        })?;
        let mut run = stmt.start();
        bind_key(&mut run, row.key)?;
        won.iter().try_for_each(|i| run.bind(row.cells[*i].value))?;
        for (_, value) in fillers() {
            run.bind(value.as_ref())?;
        }
        self.engine.uncaptured(|| run.step())?;
        drop(run);
        Ok(self.engine.db.changes() > 0)
    }
}

/// The row goes through a delete that was missed, or is new: its cells start over.
const fn begin_again(local: &mut Local, cl: u64, outcome: &mut RowOutcome) {
    outcome.resurrected = local.cl > 0;
    local.cl = cl;
    local.restarted = true;
}

fn decision(
    engine: &Engine,
    local_cl: u64,
    cell: Option<(ColVersion, SiteId, ValueRef<'_>)>,
    cl: u64,
    sentinel: bool,
    clock: &IncomingClock,
    value: ValueRef<'_>,
) -> Outcome {
    let local = LocalRow { cl: CausalLength(local_cl), cell };
    let incoming = Incoming {
        cl: CausalLength(cl),
        sentinel,
        col_version: ColVersion(clock.cv),
        site_id: clock.site,
        value,
    };
    decide(local, incoming, engine.equal_values())
}

fn row_condition(table: &Table) -> String {
    if table.keyed { table.key_condition() } else { format!("{} = ?", table.rowid_name) }
}

fn bind_row(run: &mut Run<'_>, table: &Table, key: &PackedKey, rowid: i64) -> Result<(), Error> {
    if table.keyed { bind_key(run, key) } else { run.bind_integer(rowid) }
}

fn bind_key(run: &mut Run<'_>, key: &PackedKey) -> Result<(), Error> {
    let mut columns = key.columns();
    columns.try_for_each(|column| run.bind(column))
}

/// A statement that is prepared once.
fn held<K: std::hash::Hash + Eq>(
    statements: &mut FxHashMap<K, Stmt>,
    key: K,
    prepare: impl FnOnce() -> Result<Stmt, Error>,
) -> Result<&mut Stmt, Error> {
    match statements.entry(key) {
        std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
        std::collections::hash_map::Entry::Vacant(entry) => Ok(entry.insert(prepare()?)),
    }
}
