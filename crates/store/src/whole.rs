//! Merging rows whose cells were all written at once, which need no decision for each cell: nearly all rows of a first
//! sync, and most edits.

use std::rc::Rc;

use opor_core::{ColVersion, Outcome, PackedKey, RowChange, ValueRef};
use rusqlite::Error;

use crate::block::CellClock;
use crate::catalog::Table;
use crate::colset::ColSet;
use crate::forced::Forced;
use crate::merge::{IncomingClock, Merger, Place, STAMP_MIN, Watch, decision};
use crate::notes::MergeOp;

/// What [`Merger::merge_whole`] found.
#[derive(Debug)]
pub(crate) enum Whole {
    /// The row was new, and is here now.
    Inserted,
    /// It was here already, by the same write.
    Known,
    /// Every cell won.
    Won,
    /// Every cell lost.
    Lost,
    /// It has to be merged cell by cell.
    Other(Place),
}

/// The columns of rows that follow one another, worked out once for all that have the same.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    table: u32,
    /// As the changeset numbers them.
    columns: Vec<u32>,
    /// Whether they come in the order of their bits, as they do in the commit that wrote them.
    ascending: bool,
    pub(crate) places: ColSet,
    pub(crate) bits: ColSet,
}

impl Layout {
    /// Turns to the columns of `row`; `places` are those of the changeset's columns in the table. Whether they come in
    /// the order in which clocks are told.
    pub(crate) fn fits(&mut self, table: &Table, row: &RowChange, places: &[usize]) -> bool {
        if self.is_of(table, row) {
            return self.ascending;
        }
        let columns = row.cells.iter().map(|cell| cell.column).collect();
        *self = Self { table: table.id, columns, ..Self::default() };
        let places = self.columns.iter().map(|column| places[*column as usize]);
        let bits = places.clone().map(|place| table.columns[place].bit);
        self.ascending = places.clone().is_sorted_by(|a, b| a < b) && bits.clone().is_sorted_by(|a, b| a < b);
        places.for_each(|place| self.places.insert(place as u32));
        bits.for_each(|bit| self.bits.insert(bit));
        self.ascending
    }

    /// Whether these are the columns of `row`, in its order.
    pub(crate) fn is_of(&self, table: &Table, row: &RowChange) -> bool {
        self.table == table.id && row.cells.iter().map(|cell| cell.column).eq(self.columns.iter().copied())
    }
}

impl Merger<'_> {
    /// Merges a row all of whose cells were written at once. The outcome is that of [`merge`](Self::merge), and `place` is
    /// as there.
    pub(crate) fn merge_whole(
        &mut self,
        table: &Rc<Table>,
        row: &RowChange,
        layout: &Layout,
        clock: IncomingClock,
        place: Option<Place>,
    ) -> Result<Whole, Error> {
        let key = row.key.as_bytes();
        let may_be_on_record = self.engine.catalog.borrow().conflicts;
        if self.sql.last_was_new && !table.keyed && place.is_none() && !may_be_on_record {
            // The common case of a first sync: a row nobody here has seen. One statement tells and does it.
            let buried = self.engine.clocks.borrow_mut().tomb(table, key)?.is_some();
            if !buried && self.insert_whole(table, row, layout, &clock)? {
                let rowid = self.engine.db.last_insert_rowid();
                self.record_group(table, (&row.key, rowid), &layout.bits, clock.cell())?;
                return Ok(Whole::Inserted);
            }
            self.sql.last_was_new = false;
        }
        let place = match place {
            Some(place) => place,
            None => self.find(table, &row.key)?,
        };
        let Place::Row(rowid) = place else { return Ok(Whole::Other(place)) };
        match self.decide_whole(table, (&row.key, rowid), layout, &clock)? {
            Some(Outcome::Known) => Ok(Whole::Known),
            Some(Outcome::Lose) => Ok(Whole::Lost),
            Some(Outcome::Win) => {
                let done = self.update_row(table, (&row.key, rowid), &layout.places, values(row));
                if let Err(error) = done {
                    self.force_update(table, (&row.key, rowid), &forced(row, layout, &clock), error)?;
                }
                self.record_group(table, (&row.key, rowid), &layout.bits, clock.cell())?;
                Ok(Whole::Won)
            }
            _ => Ok(Whole::Other(place)),
        }
    }

    fn insert_whole(
        &mut self,
        table: &Rc<Table>,
        row: &RowChange,
        layout: &Layout,
        clock: &IncomingClock,
    ) -> Result<bool, Error> {
        match self.insert_row(table, &row.key, &layout.places, values(row)) {
            Err(error) => self.force_insert(table, &row.key, &forced(row, layout, clock), error),
            done => done,
        }
    }

    /// What becomes of all cells alike; `None` when they differ, or their values have to be looked at.
    fn decide_whole(
        &self,
        table: &Rc<Table>,
        (key, rowid): (&PackedKey, i64),
        layout: &Layout,
        clock: &IncomingClock,
    ) -> Result<Option<Outcome>, Error> {
        let mut clocks = self.engine.clocks.borrow_mut();
        let (id, bit) = clocks.place_of(table, rowid, key.as_bytes())?;
        let block = &clocks.peek(id)?.block;
        if block.cl(bit) != 1 {
            return Ok(None);
        }
        if clock.cv >= STAMP_MIN && block.has_written(bit, &layout.bits, &clock.cell()) {
            return Ok(Some(Outcome::Known));
        }
        let Some((least, greatest)) = block.versions_of(bit, &layout.bits) else { return Ok(None) };
        let quiet = matches!(self.watch, Watch::Nothing);
        if !quiet || (least..=greatest).contains(&clock.cv) {
            return Ok(None);
        }
        // Versions that differ decide without the values, and those between two that decide alike do so too.
        let against = |version| {
            let cell = (ColVersion(version), self.engine.site.get(), ValueRef::Null);
            decision(self.engine, 1, Some(cell), 1, false, clock, ValueRef::Null)
        };
        let outcome = against(least);
        Ok((outcome == against(greatest)).then_some(outcome))
    }

    /// Records one clock for some columns of a row.
    fn record_group(
        &self,
        table: &Rc<Table>,
        (key, row): (&PackedKey, i64),
        cols: &ColSet,
        clock: CellClock,
    ) -> Result<(), Error> {
        if self.direct && !table.keyed {
            return self.engine.merge_group_directly(table, row, cols, clock);
        }
        let cells = vec![(cols.clone(), clock)];
        let key = if table.keyed { key.as_bytes().into() } else { Box::default() };
        self.record(MergeOp::Cells { table: table.id, row, key, cells })
    }
}

impl Merger<'_> {
    /// Records one clock for each of some rows that are found by rowid and are in the order of these.
    pub(crate) fn record_groups(
        &self,
        table: &Rc<Table>,
        cols: &ColSet,
        mut rows: impl Iterator<Item = (i64, CellClock)>,
    ) -> Result<(), Error> {
        if self.direct {
            return self.engine.merge_groups_directly(table, cols, rows);
        }
        rows.try_for_each(|(row, clock)| {
            let cells = vec![(cols.clone(), clock)];
            self.record(MergeOp::Cells { table: table.id, row, key: Box::default(), cells })
        })
    }
}

fn forced<'r>(row: &'r RowChange, layout: &Layout, clock: &IncomingClock) -> Vec<Forced<'r>> {
    let cells = layout.places.iter().zip(&row.cells).zip(clock.seq..);
    let forced = cells.map(|((place, cell), seq)| Forced {
        place: place as usize,
        value: cell.value.as_ref(),
        clock: CellClock { seq, ..clock.cell() },
    });
    forced.collect()
}

pub(crate) fn values(row: &RowChange) -> impl Iterator<Item = ValueRef<'_>> {
    row.cells.iter().map(|cell| cell.value.as_ref())
}
