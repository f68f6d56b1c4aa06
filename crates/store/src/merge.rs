//! Merging one row: decides each change, writes the row once, and records the clocks that won.

use std::rc::Rc;

use opor_core::{
    CausalLength, ColVersion, Incoming, LocalRow, Outcome, PackedColumn, PackedKey, SiteId, Value, ValueRef,
    decide,
};
use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::block::CellClock;
use crate::catalog::Table;
use crate::clocks::{block_of, rowid_of};
use crate::colset::ColSet;
use crate::conflict::{self, Masks, masked};
use crate::engine::Engine;
use crate::forced::Forced;
use crate::notes::MergeOp;
use crate::sqlite::{Run, Stmt, failure, held, quote};
use crate::tombs::Tomb;

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
    pub(crate) const fn cell(&self) -> CellClock {
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
    insert: FxHashMap<(u32, ColSet), Stmt>,
    pub(crate) insert_batch: FxHashMap<(u32, ColSet), Stmt>,
    update: FxHashMap<(u32, ColSet), Stmt>,
    read: FxHashMap<u32, Stmt>,
    /// The rows after one.
    pub(crate) after: FxHashMap<u32, Stmt>,
    same: FxHashMap<(u32, usize), Stmt>,
    /// Whether the last row merged was new, which is then tried first for the next.
    pub(crate) last_was_new: bool,
    /// The schema that the statements were prepared for.
    schema_version: i64,
    pub(crate) masks: Masks,
    /// A database in memory, to try out what SQLite makes of a value.
    pub(crate) scratch: Option<rusqlite::Connection>,
}

impl MergeSql {
    /// Lets go of statements that name tables and columns as they were called before.
    pub(crate) fn follow_schema(&mut self, schema_version: i64) {
        if self.schema_version != schema_version {
            *self = Self { schema_version, ..Self::default() };
        }
    }
}

/// Merges rows into one table set, within the open transaction.
pub(crate) struct Merger<'e> {
    pub(crate) engine: &'e Engine,
    pub(crate) sql: &'e mut MergeSql,
    /// Nothing can roll this transaction back in part.
    pub(crate) direct: bool,
    pub(crate) watch: Watch,
    /// Rows are stored though they break a rule of their table.
    pub(crate) lenient: bool,
    /// How many rules have been broken.
    pub(crate) violations: usize,
    /// The row that was found by its key last: the id of the table, and the rowid.
    pub(crate) found: Option<(u32, i64)>,
}

/// Where a row is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// In the table, at this rowid (0 in a keyed table).
    Row(i64),
    Absent,
}

/// What is known of a row before the merge.
struct Local {
    place: Place,
    cl: u64,
    /// The clocks of the incoming cells, in their order.
    clocks: Vec<Option<CellClock>>,
    /// Set when the merge has created the row again: its cells then start from nothing.
    restarted: bool,
}

/// What is known of one cell.
struct LocalCell {
    clock: Option<CellClock>,
    value: Option<Same>,
    /// The table shows something else.
    masked: bool,
}

/// A local value beside the incoming one.
enum Same {
    Incoming,
    Other(Value),
}

impl Merger<'_> {
    /// `place` is where the row is, if that is known already.
    pub(crate) fn merge(
        &mut self,
        table: &Rc<Table>,
        row: &IncomingRow<'_>,
        place: Option<Place>,
    ) -> Result<RowOutcome, Error> {
        let place = match place {
            Some(place) => place,
            None => self.find(table, row.key)?,
        };
        if self.is_known(table, row, place)? {
            return Ok(RowOutcome { known: row.cells.len(), local_cl: row.cl, ..RowOutcome::default() });
        }
        let mut local = self.local(table, row, place)?;
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
        let known = self.local_cells(table, row, &local)?;
        for cell in known.into_iter().enumerate() {
            self.merge_cell(table, row, cell, &mut local, &mut create, &mut outcome)?;
        }
        self.write(table, row, &local, create, &mut outcome)?;
        Ok(outcome)
    }

    /// Whether every cell is a write that is here already: what a second delivery looks like.
    fn is_known(&self, table: &Rc<Table>, row: &IncomingRow<'_>, place: Place) -> Result<bool, Error> {
        let (Place::Row(rowid), None, false) = (place, row.sentinel, row.cells.is_empty()) else {
            return Ok(false);
        };
        let mut clocks = self.engine.clocks.borrow_mut();
        let (id, bit) = clocks.place_of(table, rowid, row.key.as_bytes())?;
        let block = &clocks.peek(id)?.block;
        let known = |cell: &IncomingCell<'_>| {
            let clock = block.cell(bit, table.columns[cell.column].bit);
            clock.is_some_and(|clock| is_same_write(clock, cell.clock))
        };
        Ok(row.cells.iter().all(known) && block.cl(bit) == row.cl)
    }

    fn local(&self, table: &Rc<Table>, row: &IncomingRow<'_>, place: Place) -> Result<Local, Error> {
        let key = row.key.as_bytes();
        let mut clocks = self.engine.clocks.borrow_mut();
        let mut local = Local { place, cl: 0, clocks: vec![None; row.cells.len()], restarted: false };
        if let Place::Row(rowid) = place {
            let (id, bit) = clocks.place_of(table, rowid, key)?;
            let block = &clocks.peek(id)?.block;
            local.cl = block.cl(bit);
            for (clock, cell) in local.clocks.iter_mut().zip(&row.cells) {
                *clock = block.cell(bit, table.columns[cell.column].bit);
            }
        }
        if local.cl == 0 {
            local.cl = clocks.tomb(table, key)?.map_or(0, |tomb| tomb.cl);
        }
        Ok(local)
    }

    pub(crate) fn find(&mut self, table: &Table, key: &PackedKey) -> Result<Place, Error> {
        if table.rowid_is_key {
            // A row that has clocks is there; one without may be there all the same.
            let rowid = rowid_of(key.as_bytes());
            let (block, bit) = block_of(rowid);
            if self.engine.clocks.borrow_mut().peek((table.id, block))?.block.live() >> bit & 1 == 1 {
                return Ok(Place::Row(rowid));
            }
        }
        let stmt = held(&mut self.sql.find, table.id, || {
            let what = if table.keyed { "0" } else { table.rowid_name };
            let sql = format!("SELECT {what} FROM {} WHERE {}", table.sql_name(), table.key_condition());
            self.engine.db.prepare(&sql)
        })?;
        let mut row = stmt.start();
        bind_key(&mut row, key)?;
        if !row.step()? {
            return Ok(Place::Absent);
        }
        let rowid = row.integer(0);
        self.found = Some((table.id, rowid));
        Ok(Place::Row(rowid))
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

    /// The local clocks of the incoming cells, and the row's values when one of them decides or is watched.
    fn local_cells(
        &mut self,
        table: &Rc<Table>,
        row: &IncomingRow<'_>,
        local: &Local,
    ) -> Result<Vec<LocalCell>, Error> {
        let cells = row.cells.iter().zip(&local.clocks);
        let mut known: Vec<LocalCell> =
            cells.map(|(_, clock)| LocalCell { clock: *clock, value: None, masked: false }).collect();
        let Place::Row(rowid) = local.place else { return Ok(known) };
        let watched = !matches!(self.watch, Watch::Nothing);
        // A value decides ties only, and is read only then.
        let wanted = |known: &LocalCell, cell: &IncomingCell<'_>| {
            known.clock.is_some_and(|clock| {
                watched
                    || local.restarted
                    || (clock.cv == cell.clock.cv && local.cl == row.cl && !is_same_write(clock, cell.clock))
            })
        };
        if !known.iter().zip(&row.cells).any(|(known, cell)| wanted(known, cell)) {
            return Ok(known);
        }
        let stmt = held(&mut self.sql.read, table.id, || {
            let columns: Vec<_> = table.columns.iter().map(|column| quote(&column.name)).collect();
            let (columns, name) = (columns.join(", "), table.sql_name());
            self.engine.db.prepare(&format!("SELECT {columns} FROM {name} WHERE {}", row_condition(table)))
        })?;
        let masks = self.sql.masks.of(self.engine, table, row.key.as_bytes())?;
        let mut values = stmt.start();
        bind_row(&mut values, table, row.key, rowid)?;
        if !values.step()? {
            return Err(failure("a row went away while it was merged"));
        }
        for (known, cell) in known.iter_mut().zip(&row.cells) {
            if wanted(known, cell) {
                let bit = table.columns[cell.column].bit;
                let hidden = known.clock.as_ref().and_then(|clock| masked(&masks, bit, clock));
                known.masked = hidden.is_some();
                let value = hidden.map_or_else(|| values.value(cell.column as i32), Value::as_ref);
                // Equal values need no copy: the incoming one says the same.
                known.value =
                    Some(if value == cell.value { Same::Incoming } else { Same::Other(value.to_owned()) });
            }
        }
        Ok(known)
    }

    fn merge_cell(
        &mut self,
        table: &Rc<Table>,
        row: &IncomingRow<'_>,
        (i, known): (usize, LocalCell),
        local: &mut Local,
        create: &mut Option<IncomingClock>,
        outcome: &mut RowOutcome,
    ) -> Result<(), Error> {
        let (cell, cl) = (&row.cells[i], row.cl);
        let clock =
            known.clock.map(|clock| if local.restarted { CellClock { cv: 0, ..clock } } else { clock });
        let value = known.value.as_ref().map(|value| match value {
            Same::Incoming => cell.value,
            Same::Other(value) => value.as_ref(),
        });
        let cell_state = match clock {
            Some(clock) => {
                let site = self.engine.site_of(clock.site)?;
                Some((ColVersion(clock.cv), site, value.unwrap_or(ValueRef::Null)))
            }
            None => None,
        };
        if local.cl == cl && clock.is_some_and(|clock| is_same_write(clock, cell.clock)) {
            outcome.known += 1;
            return Ok(());
        }
        let mut decided = decision(self.engine, local.cl, cell_state, cl, false, &cell.clock, cell.value);
        let tie = clock.is_some_and(|clock| clock.cv == cell.clock.cv);
        let tie = tie && !known.masked && table.columns[cell.column].converts;
        if let (Outcome::Win, true, Some(Same::Other(value))) = (decided, tie, &known.value)
            && std::mem::discriminant(&value.as_ref()) != std::mem::discriminant(&cell.value)
            && self.stored_alike(table, row, cell, local)?
        {
            // The same value, which the column's affinity has given another type here.
            decided = Outcome::Known;
        }
        let won = matches!(decided, Outcome::Win | Outcome::CreateAndWin);
        if let (Some(clock), Some(Same::Other(value)), Outcome::Win | Outcome::Lose) =
            (clock, known.value, decided)
            && self.is_conflict(clock, cell)
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

    /// Whether the column would store the incoming value as the one that is there.
    fn stored_alike(
        &mut self,
        table: &Table,
        row: &IncomingRow<'_>,
        cell: &IncomingCell<'_>,
        local: &Local,
    ) -> Result<bool, Error> {
        let Place::Row(rowid) = local.place else { return Ok(false) };
        let stmt = held(&mut self.sql.same, (table.id, cell.column), || {
            let (name, column) = (table.sql_name(), quote(&table.columns[cell.column].name));
            let condition = row_condition(table);
            self.engine
                .db
                .prepare(&format!("SELECT 1 FROM {name} WHERE {column} COLLATE BINARY IS ? AND {condition}"))
        })?;
        let mut run = stmt.start();
        run.bind(cell.value)?;
        bind_row(&mut run, table, row.key, rowid)?;
        run.step()
    }

    fn is_conflict(&self, clock: CellClock, cell: &IncomingCell<'_>) -> bool {
        let Watch::Conflicts { acknowledged } = self.watch else { return false };
        if clock.site == cell.clock.ordinal {
            return false;
        }
        // A newer write may simply follow the older; it does not when the older is ours and the peer has not seen it.
        cell.clock.cv <= clock.cv || (clock.site == 0 && clock.dv > acknowledged)
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
        // Statements are kept by the set of columns they write, so the values come in table order.
        outcome.won.sort_unstable_by_key(|i| row.cells[*i].column);
        let rowid = match local.place {
            Place::Row(rowid) => {
                if create.is_some() {
                    conflict::begin_again(self.engine, table, row.key.as_bytes())?;
                }
                for cell in outcome.won.iter().map(|i| &row.cells[*i]).filter(|cell| cell.clock.cv == 0) {
                    let bit = table.columns[cell.column].bit;
                    conflict::write_over(self.engine, table, row.key.as_bytes(), bit)?;
                }
                if !outcome.won.is_empty() {
                    let values = outcome.won.iter().map(|i| row.cells[*i].value);
                    let done = self.update_row(table, (row.key, rowid), &shape_of(row, &outcome.won), values);
                    if let Err(error) = done {
                        self.force_update(table, (row.key, rowid), &forced(row, &outcome.won), error)?;
                    }
                }
                rowid
            }
            Place::Absent => {
                conflict::bury(self.engine, table, row.key.as_bytes())?;
                let values = outcome.won.iter().map(|i| row.cells[*i].value);
                let done = self.insert_row(table, row.key, &shape_of(row, &outcome.won), values);
                let forced = |error| self.force_insert(table, row.key, &forced(row, &outcome.won), error);
                if !done.or_else(forced)? {
                    // A trigger of the user's said RAISE(IGNORE): the row is not taken, and may come again.
                    outcome.known += outcome.won.len();
                    outcome.won.clear();
                    return Ok(());
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

    pub(crate) fn record(&self, op: MergeOp) -> Result<(), Error> {
        if self.direct { self.engine.merge_directly(&op) } else { self.engine.merge(op) }
    }

    fn delete_row(&mut self, table: &Table, key: &PackedKey, rowid: i64) -> Result<(), Error> {
        let stmt = held(&mut self.sql.delete, table.id, || {
            let (name, condition) = (table.sql_name(), row_condition(table));
            self.engine.db.prepare(&format!("DELETE FROM {name} WHERE {condition}"))
        })?;
        let mut run = stmt.start();
        bind_row(&mut run, table, key, rowid)?;
        self.engine.uncaptured(|| run.step())?;
        Ok(())
    }

    /// Sets the columns at these places, in their order.
    pub(crate) fn update_row<'v>(
        &mut self,
        table: &'v Table,
        (key, rowid): (&'v PackedKey, i64),
        places: &ColSet,
        mut values: impl Iterator<Item = ValueRef<'v>>,
    ) -> Result<(), Error> {
        let stmt = held(&mut self.sql.update, (table.id, places.clone()), || {
            let columns = places.iter().map(|place| &table.columns[place as usize].name);
            let set: Vec<_> = columns.map(|name| format!("{} = ?", quote(name))).collect();
            let (name, condition) = (table.sql_name(), row_condition(table));
            self.engine.db.prepare(&format!("UPDATE {name} SET {} WHERE {condition}", set.join(", ")))
        })?;
        let mut run = stmt.start();
        values.try_for_each(|value| run.bind(value))?;
        bind_row(&mut run, table, key, rowid)?;
        self.engine.uncaptured(|| run.step())?;
        Ok(())
    }

    /// Inserts a row with values for the columns at these places, in their order. `false` when there is a row of this
    /// key already.
    pub(crate) fn insert_row<'v>(
        &mut self,
        table: &'v Table,
        key: &'v PackedKey,
        places: &ColSet,
        mut values: impl Iterator<Item = ValueRef<'v>>,
    ) -> Result<bool, Error> {
        let stmt = held(&mut self.sql.insert, (table.id, places.clone()), || {
            let names = insert_names(table, places);
            let marks = vec!["?"; names.len()].join(", ");
            self.engine.db.prepare(&format!(
                "INSERT INTO {}({}) VALUES ({marks}) ON CONFLICT({}) DO NOTHING",
                table.sql_name(),
                names.join(", "),
                table.key_list(),
            ))
        })?;
        let mut run = stmt.start();
        bind_key(&mut run, key)?;
        values.try_for_each(|value| run.bind(value))?;
        for place in table.fillers(places) {
            run.bind(table.columns[place].filler.as_ref().map_or(ValueRef::Null, Value::as_ref))?;
        }
        self.engine.uncaptured(|| run.step())?;
        drop(run);
        Ok(self.engine.db.changes() > 0)
    }
}

/// No count of edits gets here, and no stamp since 1970-01-25 is below.
pub(crate) const STAMP_MIN: u64 = 1 << 40;

/// Whether two clocks are of one and the same write. A stamp of the hybrid clock with its site and place in the commit
/// names a write; a count of edits does not, because a cell that moved to another key keeps its clock.
fn is_same_write(local: CellClock, incoming: IncomingClock) -> bool {
    local.cv == incoming.cv
        && local.cv >= STAMP_MIN
        && local.site == incoming.ordinal
        && local.seq == incoming.seq
}

/// The row goes through a delete that was missed, or is new: its cells start over.
const fn begin_again(local: &mut Local, cl: u64, outcome: &mut RowOutcome) {
    outcome.resurrected = local.cl > 0;
    local.cl = cl;
    local.restarted = true;
}

pub(crate) fn decision(
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

/// The columns that inserting a row gives values, quoted, in the order in which they are bound.
pub(crate) fn insert_names(table: &Table, places: &ColSet) -> Vec<String> {
    let places = places.iter().map(|place| place as usize).chain(table.fillers(places));
    let columns = places.map(|place| &table.columns[place].name);
    let keys = table.key.iter().map(|column| &column.name);
    keys.chain(columns).map(|name| quote(name)).collect()
}

fn row_condition(table: &Table) -> String {
    if table.keyed { table.key_condition() } else { format!("{} = ?", table.rowid_name) }
}

fn bind_row<'r>(run: &mut Run<'r>, table: &Table, key: &'r PackedKey, rowid: i64) -> Result<(), Error> {
    if table.keyed { bind_key(run, key) } else { run.bind_integer(rowid) }
}

/// The columns that a write sets; the key of its statement.
fn shape_of(row: &IncomingRow<'_>, won: &[usize]) -> ColSet {
    let mut shape = ColSet::default();
    won.iter().for_each(|i| shape.insert(row.cells[*i].column as u32));
    shape
}

fn forced<'r>(row: &IncomingRow<'r>, won: &[usize]) -> Vec<Forced<'r>> {
    let cells = won.iter().map(|i| &row.cells[*i]);
    cells.map(|cell| Forced { place: cell.column, value: cell.value, clock: cell.clock.cell() }).collect()
}

pub(crate) fn bind_key<'r>(run: &mut Run<'r>, key: &'r PackedKey) -> Result<(), Error> {
    key.packed_columns().try_for_each(|column| match column {
        PackedColumn::Null => run.bind(ValueRef::Null),
        PackedColumn::Integer(value) => run.bind(ValueRef::Integer(value)),
        PackedColumn::Real(value) => run.bind(ValueRef::Real(value)),
        PackedColumn::Text(text) => run.bind_text_bytes(text),
        PackedColumn::Blob(bytes) => run.bind(ValueRef::Blob(bytes)),
    })
}
