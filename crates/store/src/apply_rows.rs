//! The rows of a changeset, one after the other: into their tables, or into quarantine where they cannot be stored.

use std::rc::Rc;

use opor_core::{Changeset, Cid, Clock, ColVersion, RowChange, Validation};
use rusqlite::{Error, ErrorCode};

use crate::apply::{ApplyError, ApplyOptions, ApplyReport, MergeEvent, MergeEventKind};
use crate::batch::{self, BATCH};
use crate::catalog::Table;
use crate::engine::Engine;
use crate::merge::{IncomingCell, IncomingClock, IncomingRow, MergeSql, Merger, Place};
use crate::neighbours::Neighbours;
use crate::options::ClockPolicy;
use crate::progress::Reporter;
use crate::quarantine::{Arrival, QuarantineLimits, QuarantineReason, Ward};
use crate::whole::{Layout, Whole};

/// The place of a column that is not here.
const UNKNOWN: usize = usize::MAX;

/// Rows that are checked at once, before they are merged: few enough to be in the cache still.
const CHECKED_AHEAD: usize = 512;
/// How many are at least known to be sound, unless there are no more: enough for batches and for reading along.
const CHECKED_MIN: usize = 64;

/// A changeset beside the schema.
struct Plan {
    /// `None`: it cannot be stored.
    tables: Vec<Option<Rc<Table>>>,
    /// By table and column index of the changeset, the place in `Table::columns`.
    columns: Vec<Vec<usize>>,
    /// By table index, whether a column is unknown.
    partial: Vec<bool>,
    ordinals: Vec<u32>,
}

impl Engine {
    /// How much may be kept of what cannot be stored.
    pub(crate) fn quarantine_limits(&self, options: &ApplyOptions) -> QuarantineLimits {
        if options.refuse_unstorable {
            return QuarantineLimits::NONE;
        }
        self.limits.get().unwrap_or_else(|| match self.policy() {
            ClockPolicy::Hlc => QuarantineLimits::default(),
            ClockPolicy::Lamport => QuarantineLimits::NONE,
        })
    }

    fn plan(&self, changeset: &Changeset, keeps: bool) -> Result<Plan, ApplyError> {
        let (mut tables, mut columns, mut partial) = (Vec::new(), Vec::new(), Vec::new());
        for header in changeset.tables() {
            let name = || header.name.to_string();
            let table = self.table(&header.name);
            if table.is_none() && !keeps {
                return Err(ApplyError::UnknownTable { table: name() });
            }
            let mut places = Vec::with_capacity(header.columns.len());
            for column in &header.columns {
                let own =
                    table.as_ref().and_then(|table| table.columns.iter().position(|own| own.name == *column));
                // What travels as a sentinel is no column anywhere.
                if own.is_none() && (!keeps || **column == *Cid::SENTINEL) {
                    return Err(ApplyError::UnknownColumn { table: name(), column: column.to_string() });
                }
                places.push(own.unwrap_or(UNKNOWN));
            }
            partial.push(places.contains(&UNKNOWN));
            columns.push(places);
            tables.push(table);
        }
        let ordinals: Result<Vec<_>, _> = changeset.sites().iter().map(|site| self.ordinal(*site)).collect();
        Ok(Plan { tables, columns, partial, ordinals: ordinals? })
    }

    /// Quarantine, made if there is none yet.
    fn open_ward(&self, limits: QuarantineLimits) -> Result<Ward, Error> {
        let ward = self.uncaptured(|| Ward::open(self.db, limits))?;
        if !self.catalog.borrow().quarantines {
            self.load_catalog()?;
        }
        Ok(ward)
    }

    /// Merges the rows within the open transaction, and checks those that have not been checked just before. Tells the
    /// largest version of those.
    #[expect(clippy::too_many_arguments, reason = "two call sites; the parts of one merge")]
    pub(crate) fn merge_rows(
        &self,
        changeset: &Changeset,
        checks: &mut Validation<'_>,
        options: &ApplyOptions,
        limits: QuarantineLimits,
        sql: &mut MergeSql,
        direct: bool,
        report: &mut ApplyReport,
        reporter: &mut Reporter<'_>,
    ) -> Result<ColVersion, ApplyError> {
        sql.follow_schema(self.catalog.borrow().schema_version);
        let keeps = limits != QuarantineLimits::NONE;
        let mut rows = Rows {
            engine: self,
            changeset,
            plan: self.plan(changeset, keeps)?,
            events: options.events,
            dv: self.merge_version(),
            merger: Merger {
                engine: self,
                sql,
                direct,
                watch: self.watch(options)?,
                lenient: keeps,
                violations: 0,
                found: None,
            },
            neighbours: Neighbours::default(),
            layout: Layout::default(),
            triggered: vec![None; changeset.tables().len()],
            last_was_new: false,
            singly: 0,
            limits,
            ward: None,
            changed: false,
            report,
        };
        // One buffer serves all rows.
        let (mut cells, mut left) = (Vec::new(), changeset.rows());
        let (mut checked, mut newest) = (0, ColVersion(0));
        while !left.is_empty() {
            if checked < left.len().min(CHECKED_MIN) {
                newest = checks.check(CHECKED_AHEAD - checked)?;
                if direct {
                    self.check_drift(changeset, newest)?;
                }
                checked = left.len().min(CHECKED_AHEAD);
            }
            let done = rows.some(&left[..checked], &mut cells)?;
            (left, checked) = (&left[done..], checked - done);
            reporter.add(done as u64)?;
        }
        if let Some(ward) = rows.ward {
            self.uncaptured(|| ward.close(self.db))?;
        }
        if rows.changed {
            report.db_version = Some(opor_core::DbVersion(rows.dv));
        }
        Ok(newest)
    }
}

/// The rows of one changeset as they are merged.
struct Rows<'a> {
    engine: &'a Engine,
    changeset: &'a Changeset,
    plan: Plan,
    events: bool,
    dv: u64,
    merger: Merger<'a>,
    layout: Layout,
    /// By table index, whether it has triggers, once that was asked.
    triggered: Vec<Option<bool>>,
    neighbours: Neighbours<'a>,
    /// Whether the row before was a new one, written at once.
    last_was_new: bool,
    /// How many of the next rows are not to be tried as a batch.
    singly: usize,
    limits: QuarantineLimits,
    /// Quarantine, once something has gone there.
    ward: Option<Ward>,
    changed: bool,
    report: &'a mut ApplyReport,
}

impl<'a> Rows<'a> {
    /// Merges the first row, or the first few; tells how many.
    fn some(
        &mut self,
        rows: &'a [RowChange],
        cells: &mut Vec<IncomingCell<'a>>,
    ) -> Result<usize, ApplyError> {
        let inserted = self.insert_batch(rows)?;
        if (1..BATCH).contains(&inserted) {
            // What stands against the next one is found out there.
            self.row(&rows[inserted], cells)?;
            return Ok(inserted + 1);
        }
        if inserted == 0 {
            self.look_ahead(rows)?;
            self.row(&rows[0], cells)?;
        }
        Ok(inserted.max(1))
    }

    /// Inserts as many rows as make a batch, if all of them are new as far as clocks tell and written at once each. Tells
    /// how many were inserted; the next one is then to be merged by itself.
    fn insert_batch(&mut self, rows: &'a [RowChange]) -> Result<usize, ApplyError> {
        let Some(batch) = rows.get(..BATCH).filter(|_| self.singly == 0 && self.last_was_new) else {
            self.singly = self.singly.saturating_sub(1);
            return Ok(0);
        };
        let of = batch[0].table as usize;
        let Some(table) = self.plan.tables[of].clone().filter(|table| !table.keyed && !self.plan.partial[of])
        else {
            return Ok(0);
        };
        if !self.layout.fits(&table, &batch[0], &self.plan.columns[of])
            || !self.batches(&table, of, rows.len())
        {
            return Ok(0);
        }
        let mut clocks = Vec::with_capacity(BATCH);
        for (i, row) in batch.iter().enumerate() {
            let alike = row.table == batch[0].table && self.layout.is_of(&table, row);
            let clock = if alike { self.new_clock(&table, row)? } else { None };
            let Some(clock) = clock else {
                self.singly = i;
                return Ok(0);
            };
            clocks.push(clock.cell());
        }
        let rowids = self.merger.insert_batch(&table, &self.layout.places, batch)?;
        self.merger.record_groups(&table, &self.layout.bits, rowids.iter().copied().zip(clocks))?;
        for row in &batch[..rowids.len()] {
            self.inserted(&table, row);
        }
        Ok(rowids.len())
    }

    /// The clock of a row of the present columns that may be inserted unseen.
    fn new_clock(&self, table: &Rc<Table>, row: &RowChange) -> Result<Option<IncomingClock>, ApplyError> {
        if !table.fits(&row.key) || !self.engine.clocks.borrow_mut().is_unknown(table, row.key.as_bytes())? {
            return Ok(None);
        }
        Ok(self.whole_clock(row))
    }

    /// Whether rows of a table and of the present columns are inserted in batches.
    fn batches(&mut self, table: &Table, of: usize, ahead: usize) -> bool {
        self.merger.batches(table, &self.layout.places, ahead) && !self.is_triggered(table, of)
    }

    /// Learns where the next rows are, if the one before was found by its key and they may stand after it.
    fn look_ahead(&mut self, rows: &'a [RowChange]) -> Result<(), ApplyError> {
        let of = rows[0].table as usize;
        let Some((found, last)) = self.merger.found else { return Ok(()) };
        let Some(table) = self.plan.tables[of].as_ref().filter(|table| table.id == found) else {
            return Ok(());
        };
        if table.keyed || table.rowid_is_key || !self.neighbours.is_time(rows) {
            return Ok(());
        }
        let table = table.clone();
        // What triggers do to keys nobody tells.
        if !self.is_triggered(&table, of) {
            self.neighbours.read(self.engine, self.merger.sql, &table, rows, last)?;
        }
        Ok(())
    }

    fn is_triggered(&mut self, table: &Table, of: usize) -> bool {
        #[cfg(test)]
        if self.engine.one_by_one.get() {
            return true;
        }
        // When that cannot be found out, rows go one by one, and one of them shows why.
        let asked = || batch::has_triggers(self.engine.db, table).unwrap_or(true);
        *self.triggered[of].get_or_insert_with(asked)
    }

    fn inserted(&mut self, table: &Table, row: &RowChange) {
        self.last_was_new = true;
        self.changed = true;
        self.report.rows_inserted += 1;
        self.report.cells_won += row.cells.len();
        if self.events {
            let (table, key) = (table.name.clone(), row.key.clone());
            self.report.events.push(MergeEvent { table, key, kind: MergeEventKind::Inserted });
        }
    }

    fn row(&mut self, row: &'a RowChange, cells: &mut Vec<IncomingCell<'a>>) -> Result<(), ApplyError> {
        let Some(table) = self.plan.tables[row.table as usize].clone() else {
            return self.put_aside(row, QuarantineReason::UnknownTable);
        };
        if !table.fits(&row.key) {
            return self.misfit(&table, row);
        }
        if self.plan.partial[row.table as usize] && self.has_unknown(row) {
            return self.row_in_part(&table, row);
        }
        self.merge(&table, row, cells).or_else(|failed| self.failed(&table, row, failed))?;
        if self.merger.violations > 0 {
            self.note_violations(&table, row);
        }
        Ok(())
    }

    #[cold]
    fn misfit(&mut self, table: &Table, row: &RowChange) -> Result<(), ApplyError> {
        if self.limits == QuarantineLimits::NONE {
            return Err(ApplyError::KeyShape { table: table.name.to_string(), key: row.key.clone() });
        }
        self.put_aside(row, QuarantineReason::KeyShape)
    }

    #[cold]
    fn note_violations(&mut self, table: &Table, row: &RowChange) {
        self.report.violations += std::mem::take(&mut self.merger.violations);
        if self.events {
            let (table, key) = (table.name.clone(), row.key.clone());
            self.report.events.push(MergeEvent { table, key, kind: MergeEventKind::RuleBroken });
        }
    }

    fn has_unknown(&self, row: &RowChange) -> bool {
        let places = &self.plan.columns[row.table as usize];
        row.cells.iter().any(|cell| places[cell.column as usize] == UNKNOWN)
    }

    /// A row with cells of columns that are not here: the others are merged.
    #[cold]
    fn row_in_part(&mut self, table: &Rc<Table>, row: &RowChange) -> Result<(), ApplyError> {
        let places = &self.plan.columns[row.table as usize];
        let is_known = |cell: &&opor_core::Cell| places[cell.column as usize] != UNKNOWN;
        let (known, unknown): (Vec<_>, Vec<_>) = row.cells.iter().partition(is_known);
        let part = |cells: Vec<&opor_core::Cell>, sentinel| RowChange {
            table: row.table,
            key: row.key.clone(),
            cl: row.cl,
            sentinel,
            cells: cells.into_iter().cloned().collect(),
        };
        let (known, unknown) = (part(known, row.sentinel), part(unknown, None));
        if known.sentinel.is_some() || !known.cells.is_empty() {
            let merged = self.merge(table, &known, &mut Vec::new());
            merged.or_else(|failed| self.failed(table, &known, failed))?;
            if self.merger.violations > 0 {
                self.note_violations(table, row);
            }
        }
        // A row that has been deleted or created again since needs none of it.
        if self.engine.row_cl(table, &row.key)? > row.cl.0 {
            self.report.unchanged += unknown.cells.len();
            return Ok(());
        }
        self.put_aside(&unknown, QuarantineReason::UnknownColumn)
    }

    /// What becomes of a row that was not merged.
    #[cold]
    fn failed(&mut self, table: &Table, row: &RowChange, failed: Failed) -> Result<(), ApplyError> {
        let source = match failed {
            Failed::Refused(source) => source,
            Failed::Apply(error) => return Err(error),
        };
        if self.limits == QuarantineLimits::NONE {
            let (table, key) = (table.name.to_string(), row.key.clone());
            return Err(ApplyError::Constraint { table, key, source });
        }
        self.put_aside(row, QuarantineReason::Refused)
    }

    /// Puts a row into quarantine.
    #[cold]
    fn put_aside(&mut self, row: &RowChange, reason: QuarantineReason) -> Result<(), ApplyError> {
        let engine = self.engine;
        let header = &self.changeset.tables()[row.table as usize];
        let cells = row
            .cells
            .iter()
            .map(|cell| (&header.columns[cell.column as usize], &cell.value, self.clock(&cell.clock)));
        let arrival = Arrival {
            table: &header.name,
            key: &row.key,
            cl: row.cl.0,
            sentinel: row.sentinel.as_ref().map(|clock| self.clock(clock)),
            cells: cells.collect(),
            reason,
        };
        let ward = match &mut self.ward {
            Some(ward) => ward,
            none => none.insert(engine.open_ward(self.limits)?),
        };
        let put = engine.uncaptured(|| ward.put(engine, &arrival))?;
        let put = put.map_err(|_| ApplyError::QuarantineFull { table: header.name.to_string() })?;
        self.report.quarantined += put.kept;
        self.report.cells_lost += put.lost;
        self.report.unchanged += put.known;
        if put.kept > 0 {
            self.changed = true;
            engine.note_quarantine(self.dv, self.merger.direct)?;
            if self.events {
                let kind = MergeEventKind::Quarantined { reason };
                let (table, key) = (header.name.clone(), row.key.clone());
                self.report.events.push(MergeEvent { table, key, kind });
            }
        }
        Ok(())
    }

    fn merge<'r>(
        &mut self,
        table: &Rc<Table>,
        row: &'r RowChange,
        cells: &mut Vec<IncomingCell<'r>>,
    ) -> Result<(), Failed> {
        self.last_was_new = false;
        let rowid = self.neighbours.take(self.engine, row);
        if let Some(rowid) = rowid {
            self.merger.found = Some((table.id, rowid));
        }
        let place = rowid.map(Place::Row);
        let place = if self.layout.fits(table, row, &self.plan.columns[row.table as usize])
            && let Some(clock) = self.whole_clock(row)
        {
            match self.merger.merge_whole(table, row, &self.layout, clock, place)? {
                Whole::Inserted => {
                    self.inserted(table, row);
                    return Ok(());
                }
                Whole::Known => {
                    self.report.unchanged += row.cells.len();
                    return Ok(());
                }
                Whole::Won => {
                    self.changed = true;
                    self.report.rows_updated += 1;
                    self.report.cells_won += row.cells.len();
                    return Ok(());
                }
                Whole::Lost => {
                    self.report.cells_lost += row.cells.len();
                    return Ok(());
                }
                Whole::Other(place) => Some(place),
            }
        } else {
            place
        };
        let incoming = self.incoming(row, std::mem::take(cells));
        let outcome = self.merger.merge(table, &incoming, place)?;
        self.changed |= outcome.deleted || outcome.created || !outcome.won.is_empty();
        self.report.count(&outcome);
        if self.events {
            let events = &mut self.report.events;
            let told = self.engine.report_events(self.changeset, table, &incoming, row, outcome, events);
            told.map_err(Failed::Apply)?;
        }
        *cells = incoming.cells;
        Ok(())
    }

    /// The clock of the first cell of a row, when its site wrote all of its cells at once, one after the other.
    fn whole_clock(&self, row: &RowChange) -> Option<IncomingClock> {
        let first = row.cells.first().filter(|_| row.cl.0 == 1 && row.sentinel.is_none())?.clock;
        let mut next = first.seq;
        let follows = |cell: &opor_core::Cell| {
            let clock = &cell.clock;
            next += 1;
            clock.col_version == first.col_version && clock.site == first.site && clock.seq == next - 1
        };
        row.cells.iter().all(follows).then(|| self.clock(&first))
    }

    fn clock(&self, clock: &Clock) -> IncomingClock {
        IncomingClock {
            cv: clock.col_version.0,
            seq: clock.seq,
            site: self.changeset.sites()[clock.site as usize],
            ordinal: self.plan.ordinals[clock.site as usize],
            dv: self.dv,
        }
    }

    fn incoming<'r>(&self, row: &'r RowChange, mut cells: Vec<IncomingCell<'r>>) -> IncomingRow<'r> {
        let columns = &self.plan.columns[row.table as usize];
        cells.clear();
        cells.extend(row.cells.iter().map(|cell| IncomingCell {
            column: columns[cell.column as usize],
            value: cell.value.as_ref(),
            clock: self.clock(&cell.clock),
        }));
        IncomingRow {
            key: &row.key,
            cl: row.cl.0,
            sentinel: row.sentinel.as_ref().map(|clock| self.clock(clock)),
            cells,
        }
    }
}

/// Why a row was not merged.
enum Failed {
    /// The table's own rules refuse it; nothing of it is stored.
    Refused(Error),
    Apply(ApplyError),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => Self::Refused(error),
            _ => Self::Apply(ApplyError::Sqlite(error)),
        }
    }
}
