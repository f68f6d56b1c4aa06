//! Reading what changed: the walk over blocks and tombstones by version, and the rows behind them.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use opor_core::{CausalLength, Cell, Changeset, Clock, ColVersion, DbVersion, PackedKey, RowChange, Value};
use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::block::{BLOCK_SHIFT, CellClock};
use crate::catalog::{Catalog, Table};
use crate::clock_table::Record;
use crate::clocks::{BlockId, damaged, key_of};
use crate::colset::ColSet;
use crate::conflict::{Masks, masked};
use crate::cursor::{Cursor, Position};
use crate::engine::Engine;
use crate::learnt::Reader;
use crate::quarantine::{self, Held, Lives};
use crate::replicate::read_key;
use crate::sqlite::{Db, Run, Stmt, held, quote};
use crate::tombs::{Entries, Tomb, TombKey, packed};

/// The number under which the walk files tombstones: before every table, so that a key that was given up is free when
/// a row takes it.
const TOMBS: u32 = 0;
/// The number under which the walk files what is in quarantine: after every table.
const QUARANTINE: u32 = u32::MAX;

/// A piece of so many bytes of keys and values ends, however few changes it has: rows of many megabytes must not be read by
/// the thousand. It is well above what the usual piece of 50,000 changes takes.
const PIECE_BYTES: usize = 16 << 20;

/// Why changes could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The cursor is of another epoch: history it relies on has been cut. Start over, or take a snapshot.
    #[error("cursor {cursor} is behind the horizon: the history it continues is gone")]
    BehindHorizon {
        /// The cursor.
        cursor: Cursor,
    },
    /// SQLite failed, or the file is damaged.
    #[error("changes could not be read")]
    Sqlite(#[from] Error),
}

/// A piece of a pull.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The changes.
    pub changeset: Changeset,
    /// Where the next piece starts, once these are applied.
    pub cursor: Cursor,
    /// Whether this piece was the last: everything committed when it was read is held.
    pub done: bool,
}

/// One stop of the walk.
#[derive(Debug)]
enum Stop {
    Block(BlockId, Record),
    /// The tombstones of a chunk, or those of one commit that is not in the file yet; with their tables.
    Tombs(Vec<(u32, TombKey, Tomb)>),
    /// A change that cannot be stored here, and that peers may be able to.
    Quarantined(Box<Held>),
}

impl Engine {
    /// The answer to a poll that finds nothing, without a look at any table.
    pub(crate) fn nothing_new(&self, cursor: &Cursor) -> Result<Option<Batch>, Error> {
        let epoch = self.meta.borrow().epoch;
        let at_end = cursor.base.0 == self.db_version() && cursor.epoch.is_none_or(|of| of == epoch);
        if !at_end || !self.is_current()? {
            return Ok(None);
        }
        let cursor = Cursor { base: cursor.base, epoch: Some(epoch), position: None };
        Ok(Some(Batch { changeset: Changeset::new(), cursor, done: true }))
    }

    /// What the tail holds after `cursor`, without a transaction around it: nobody commits meanwhile, or `None`.
    pub(crate) fn batch_of_tail(
        &self,
        cursor: &Cursor,
        reader: Reader,
        changes_max: usize,
    ) -> Result<Option<Batch>, ReadError> {
        let Some(header) = self.current_header() else { return Ok(None) };
        if cursor.position.is_some() || !self.is_layered_since(cursor.base.0) {
            return Ok(None);
        }
        let batch = self.walk(cursor, reader, changes_max);
        // What was read belongs together only if all of it is of one commit.
        if self.current_header() == Some(header) { batch.map(Some) } else { Ok(None) }
    }

    /// The next piece after `cursor`, within a read transaction.
    pub(crate) fn batch(
        &self,
        cursor: &Cursor,
        reader: Reader,
        changes_max: usize,
    ) -> Result<Batch, ReadError> {
        self.refresh()?;
        self.replay()?;
        self.walk(cursor, reader, changes_max)
    }

    fn walk(&self, cursor: &Cursor, reader: Reader, changes_max: usize) -> Result<Batch, ReadError> {
        let epoch = self.meta.borrow().epoch;
        if self.is_behind(cursor, reader)? {
            return Err(ReadError::BehindHorizon { cursor: *cursor });
        }
        let catalog = self.catalog.borrow().clone();
        let base = cursor.base.0;
        let done = Cursor { base: DbVersion(self.db_version()), epoch: Some(epoch), position: None };
        if base == self.db_version() && self.clocks.borrow().staged.is_empty() {
            return Ok(Batch { changeset: Changeset::new(), cursor: done, done: true });
        }
        let mut rows = RowReader::new(self, base);
        let mut position = cursor.position;
        loop {
            // Stops hold a row or more each, so this many are enough, unless all their rows turn out unchanged.
            let room = changes_max.saturating_sub(rows.changes).clamp(1, 4096);
            let stops = self.stops(&catalog, base, position, room, catalog.quarantines)?;
            let last = stops.len() < room;
            for (at, stop) in stops {
                if rows.changes >= changes_max || (rows.bytes >= PIECE_BYTES && changes_max != usize::MAX) {
                    let cursor = Cursor { base: cursor.base, epoch: Some(epoch), position };
                    return Ok(Batch { changeset: rows.finish(), cursor, done: false });
                }
                rows.read(&catalog, stop)?;
                position = Some(at);
            }
            if last {
                return Ok(Batch { changeset: rows.finish(), cursor: done, done: true });
            }
        }
    }

    /// The next `count` stops of the walk after `from`, oldest first; `aside`: also those of quarantine.
    fn stops(
        &self,
        catalog: &Catalog,
        base: u64,
        from: Option<Position>,
        count: usize,
        aside: bool,
    ) -> Result<Vec<(Position, Stop)>, Error> {
        self.clocks.borrow_mut().settle_tombs();
        let mut stops = Vec::new();
        if !self.is_layered_since(base) {
            let left_out = self.left_out.borrow();
            for table in catalog.tables.iter().filter(|table| !left_out.contains(&table.id)) {
                self.stored_blocks(table, base, from, count, &mut stops)?;
            }
            self.stored_tombs(base, from, count, &mut stops)?;
        }
        if aside {
            self.quarantined_stops(base, from, count, &mut stops)?;
        }
        self.layered_stops(base, from, &mut stops);
        stops.sort_unstable_by_key(|(at, _)| *at);
        stops.truncate(count);
        Ok(stops)
    }

    fn stored_blocks(
        &self,
        table: &Table,
        base: u64,
        from: Option<Position>,
        count: usize,
        stops: &mut Vec<(Position, Stop)>,
    ) -> Result<(), Error> {
        let (dv, place) = resume(table.id, base, from);
        // A bare parameter as the limit would have SQLite prepare the statement anew for every value.
        let mut sql = self.read_sql.borrow_mut();
        let stmt = held(&mut sql.stops, table.id, || {
            self.db.prepare(&format!(
                "SELECT max_db_version, block, groups, key FROM {} \
                 WHERE (max_db_version, block) > (?, ?) ORDER BY max_db_version, block LIMIT ? + 0",
                table.clock_table(),
            ))
        })?;
        let mut rows = stmt.start();
        rows.bind_integer(dv)?;
        rows.bind_integer(place)?;
        rows.bind_integer(count as i64 + self.clocks.borrow().layered() as i64)?;
        let clocks = self.clocks.borrow();
        while rows.step()? {
            let id = (table.id, rows.integer(1));
            if clocks.staged.blocks.contains_key(&id) || clocks.mirror.blocks.contains_key(&id) {
                continue;
            }
            let max_dv = rows.integer(0).cast_unsigned();
            let record = Record::stored(max_dv, rows.blob(2), rows.blob(3)).map_err(damaged)?;
            let at = Position { dv: max_dv, table: table.id, place: id.1 };
            stops.push((at, Stop::Block(id, record)));
        }
        Ok(())
    }

    fn stored_tombs(
        &self,
        base: u64,
        from: Option<Position>,
        count: usize,
        stops: &mut Vec<(Position, Stop)>,
    ) -> Result<(), Error> {
        let (dv, place) = resume(TOMBS, base, from);
        let mut sql = self.read_sql.borrow_mut();
        let stmt = held(&mut sql.stops, TOMBS, || {
            self.db.prepare(
                "SELECT max_db_version, id, table_id, body FROM opor_tombstone \
                 WHERE (max_db_version, id) > (?, ?) ORDER BY max_db_version, id LIMIT ? + 0",
            )
        })?;
        let mut rows = stmt.start();
        rows.bind_integer(dv)?;
        rows.bind_integer(place)?;
        rows.bind_integer(count as i64 + self.clocks.borrow().layered() as i64)?;
        let clocks = self.clocks.borrow();
        while rows.step()? {
            let (dv, table) = (rows.integer(0).cast_unsigned(), rows.integer(2) as u32);
            let mut entries = Entries::new(dv, rows.blob(3));
            let (staged, mirror) = (clocks.staged.tombs.by_key(), clocks.mirror.tombs.by_key());
            let mut tombs = Vec::new();
            while let Some((key, tomb)) = entries.next().map_err(damaged)? {
                if tomb.dv > base {
                    let id = (table, TombKey::from(key));
                    if !staged.contains_key(&id) && !mirror.contains_key(&id) {
                        tombs.push((table, id.1, tomb));
                    }
                }
            }
            stops.push((Position { dv, table: TOMBS, place: rows.integer(1) }, Stop::Tombs(tombs)));
        }
        Ok(())
    }

    fn quarantined_stops(
        &self,
        base: u64,
        from: Option<Position>,
        count: usize,
        stops: &mut Vec<(Position, Stop)>,
    ) -> Result<(), Error> {
        let mut sql = self.read_sql.borrow_mut();
        let stmt = held(&mut sql.stops, QUARANTINE, || quarantine::walk(self.db))?;
        let found = quarantine::newer_than(stmt, resume(QUARANTINE, base, from), count as i64)?;
        stops.extend(found.into_iter().map(|held| {
            let at = Position { dv: held.dv, table: QUARANTINE, place: held.id };
            (at, Stop::Quarantined(Box::new(held)))
        }));
        Ok(())
    }

    fn layered_stops(&self, base: u64, from: Option<Position>, stops: &mut Vec<(Position, Stop)>) {
        let clocks = self.clocks.borrow();
        let wanted = |at: &Position| at.dv > base && from.is_none_or(|from| *at > from);
        let staged = clocks.staged.blocks.iter().map(|(id, record)| (*id, record));
        let lower = clocks.mirror.blocks_since(base).filter(|(id, _)| !clocks.staged.blocks.contains_key(id));
        for (id, record) in staged.chain(lower) {
            let at = Position { dv: record.block.max_dv, table: id.0, place: id.1 };
            if !record.block.groups.is_empty() && wanted(&at) {
                stops.push((at, Stop::Block(id, record.clone())));
            }
        }
        let staged = clocks.staged.tombs.by_key();
        let lower = clocks.mirror.tombs_since(base).filter(|(id, _)| !staged.contains_key(*id));
        let mut tombs: BTreeMap<Position, Vec<_>> = BTreeMap::new();
        for (id, tomb) in staged.iter().chain(lower) {
            let Some(tomb) = tomb else { continue };
            // Before every chunk of this version: in whichever it is filed later, a walk that is here finds it.
            let at = Position { dv: tomb.dv, table: TOMBS, place: 0 };
            if wanted(&at) {
                tombs.entry(at).or_default().push((id.0, id.1.clone(), *tomb));
            }
        }
        stops.extend(tombs.into_iter().map(|(at, tombs)| (at, Stop::Tombs(tombs))));
    }

    /// Every clock after `since`: what `crsql_changes` lists. It shows what the tables here hold, and no quarantine.
    pub(crate) fn entries(&self, since: u64, table: Option<&str>) -> Result<Vec<Entry>, Error> {
        self.refresh()?;
        self.replay()?;
        let catalog = self.catalog.borrow().clone();
        let mut entries = Vec::new();
        let wanted = |id: u32| match (table, catalog.table_by_id(id)) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(name), Some(table)) => *name == *table.name,
        };
        for (_, stop) in self.stops(&catalog, since, None, usize::MAX >> 2, false)? {
            match stop {
                Stop::Block(id, record) if wanted(id.0) => {
                    let record = Rc::new(record);
                    let dead = record.block.dead();
                    record.block.cells_since(since, |row, bit, clock| {
                        let cl = record.block.cl(row);
                        let what = if dead >> row & 1 == 1 {
                            Of::Tomb(key_of((id.1 << BLOCK_SHIFT) + i64::from(row)).into())
                        } else {
                            Of::Cell { number: id.1, row, bit, record: record.clone() }
                        };
                        entries.push(Entry { table: id.0, clock, cl, what });
                    });
                }
                Stop::Tombs(tombs) => {
                    for (id, key, Tomb { cl, dv, seq, site }) in
                        tombs.into_iter().filter(|tomb| wanted(tomb.0))
                    {
                        let clock = CellClock { cv: cl, dv, shown_dv: dv, seq, site };
                        let what = Of::Tomb(packed(&key).into());
                        entries.push(Entry { table: id, clock, cl, what });
                    }
                }
                Stop::Block(..) | Stop::Quarantined(_) => {}
            }
        }
        entries.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(entries)
    }
}

/// From where on the walk reads one table.
pub(crate) fn resume(table: u32, base: u64, from: Option<Position>) -> (i64, i64) {
    match from {
        None => (base.cast_signed(), i64::MAX),
        Some(from) if table == from.table => (from.dv.cast_signed(), from.place),
        Some(from) if table < from.table => (from.dv.cast_signed(), i64::MAX),
        // Tables after the one the walk stopped in have not been read at that version yet.
        Some(from) => (from.dv.cast_signed() - 1, i64::MAX),
    }
}

/// One row of `crsql_changes`, before its value is read.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) table: u32,
    pub(crate) clock: CellClock,
    pub(crate) cl: u64,
    pub(crate) what: Of,
}

#[derive(Clone, Debug)]
pub(crate) enum Of {
    Cell { number: i64, row: u32, bit: u32, record: Rc<Record> },
    Tomb(Box<[u8]>),
}

impl Entry {
    fn order(&self) -> (u64, u64, u32, i64, u32, u32, &[u8]) {
        let (shown, seq) = (self.clock.shown_dv, self.clock.seq);
        match &self.what {
            Of::Cell { number, row, bit, .. } => (shown, seq, self.table, *number, *row, *bit, &[]),
            Of::Tomb(key) => (shown, seq, self.table, i64::MIN, 0, 0, key),
        }
    }
}

/// Turns stops into rows of a changeset.
struct RowReader<'e> {
    engine: &'e Engine,
    base: u64,
    changeset: Changeset,
    changes: usize,
    /// Of keys, texts and blobs.
    bytes: usize,
    tables: FxHashMap<u32, TableReader>,
    sites: FxHashMap<u32, u32>,
    lives: Lives,
    masks: Masks,
}

/// The statements that reading holds; one set a connection.
#[derive(Debug, Default)]
pub(crate) struct ReadSql {
    /// By table, and [`TOMBS`]: the walk.
    stops: FxHashMap<u32, Stmt>,
    /// By table, as it was when the statement was prepared: its rows.
    rows: FxHashMap<u32, (Rc<Table>, Stmt)>,
    transaction: Option<[Stmt; 3]>,
}

impl ReadSql {
    /// `BEGIN`, `COMMIT` and `ROLLBACK`.
    fn transaction(&mut self, db: Db) -> Result<&mut [Stmt; 3], Error> {
        if self.transaction.is_none() {
            self.transaction = Some([db.prepare("BEGIN")?, db.prepare("COMMIT")?, db.prepare("ROLLBACK")?]);
        }
        Ok(self.transaction.as_mut().expect("it has just been set"))
    }
}

impl Engine {
    /// Runs within a read transaction, its own or the open one.
    pub(crate) fn in_snapshot<T, E: From<Error>>(&self, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if !self.db.is_autocommit() {
            return run();
        }
        self.before_snapshot();
        self.read_sql.borrow_mut().transaction(self.db)?[0].run(&[])?;
        let result = run();
        self.after_snapshot();
        let ended = self.read_sql.borrow_mut().transaction(self.db)?[1].run(&[]);
        if ended.is_err() {
            // Nothing was written, so nothing is lost; but the connection must not stay inside.
            self.read_sql.borrow_mut().transaction(self.db)?[2].run(&[])?;
        }
        result
    }
}

struct TableReader {
    table: Rc<Table>,
    stmt: Stmt,
    index: u32,
    /// By place in `Table::columns`, the column's index in the changeset, once it is in there.
    columns: Vec<Option<u32>>,
    /// By bit, the place in `Table::columns`.
    places: Vec<u32>,
}

impl<'e> RowReader<'e> {
    fn new(engine: &'e Engine, base: u64) -> Self {
        Self {
            engine,
            base,
            changeset: Changeset::new(),
            changes: 0,
            bytes: 0,
            tables: FxHashMap::default(),
            sites: FxHashMap::default(),
            lives: Lives::default(),
            masks: Masks::default(),
        }
    }

    /// The changeset; the statements go back to where they are held.
    fn finish(self) -> Changeset {
        let mut sql = self.engine.read_sql.borrow_mut();
        for (id, reader) in self.tables {
            sql.rows.insert(id, (reader.table, reader.stmt));
        }
        self.changeset
    }

    fn read(&mut self, catalog: &Catalog, stop: Stop) -> Result<(), Error> {
        match stop {
            Stop::Tombs(tombs) => {
                for (table, key, tomb) in tombs {
                    if let Some(table) = catalog.table_by_id(table) {
                        self.push_tomb(table, &packed(&key), tomb)?;
                    }
                }
                Ok(())
            }
            Stop::Block(id, record) => match catalog.table_by_id(id.0) {
                Some(table) => self.push_block(&table.clone(), id.1, &record),
                None => Ok(()),
            },
            Stop::Quarantined(held) => {
                if !self.lives.is_over(self.engine, &held)? {
                    self.changeset.push(held.change(self.engine)?);
                    self.changes += 1;
                }
                Ok(())
            }
        }
    }

    fn clock(&mut self, clock: CellClock) -> Result<Clock, Error> {
        let site = match self.sites.get(&clock.site) {
            Some(site) => *site,
            None => {
                let site = self.changeset.site_index(self.engine.site_of(clock.site)?);
                self.sites.insert(clock.site, site);
                site
            }
        };
        let (col_version, db_version) = (ColVersion(clock.cv), DbVersion(clock.dv));
        Ok(Clock { col_version, db_version, seq: clock.seq, site })
    }

    fn push_tomb(&mut self, table: &Table, key: &[u8], tomb: Tomb) -> Result<(), Error> {
        let Tomb { cl, dv, seq, site } = tomb;
        let sentinel = self.clock(CellClock { cv: cl, dv, shown_dv: dv, seq, site })?;
        let table = self.changeset.table_index(&table.name);
        let key = PackedKey::from_packed(key);
        let (cl, cells) = (CausalLength(cl), Vec::new());
        self.bytes += key.as_bytes().len();
        self.changeset.push_row(RowChange { table, key, cl, sentinel: Some(sentinel), cells });
        self.changes += 1;
        Ok(())
    }

    fn table(&mut self, table: &Rc<Table>) -> Result<TableReader, Error> {
        if let Some(reader) = self.tables.remove(&table.id) {
            return Ok(reader);
        }
        let index = self.changeset.table_index(&table.name);
        let widest = table.columns.iter().map(|column| column.bit).max().unwrap_or(0);
        let mut places = vec![u32::MAX; widest as usize + 1];
        for (place, column) in table.columns.iter().enumerate() {
            places[column.bit as usize] = place as u32;
        }
        let held = self.engine.read_sql.borrow_mut().rows.remove(&table.id);
        let stmt = match held {
            Some((of, stmt)) if Rc::ptr_eq(&of, table) => stmt,
            _ => self.engine.db.prepare(&row_sql(table, "BETWEEN ? AND ?"))?,
        };
        let columns = vec![None; table.columns.len()];
        Ok(TableReader { table: table.clone(), stmt, index, columns, places })
    }

    fn push_block(&mut self, table: &Rc<Table>, number: i64, record: &Record) -> Result<(), Error> {
        let mut found: Vec<(u32, u32, CellClock)> = Vec::with_capacity(64);
        let dead = record.block.dead();
        let mut gone = Vec::new();
        record.block.cells_since(self.base, |row, bit, clock| {
            let to = if dead >> row & 1 == 1 { &mut gone } else { &mut found };
            to.push((row, bit, clock));
        });
        gone.sort_unstable_by_key(|(row, ..)| *row);
        for (row, _, CellClock { cv: cl, dv, seq, site, .. }) in gone {
            let key = key_of((number << BLOCK_SHIFT) + i64::from(row));
            self.push_tomb(table, &key, Tomb { cl, dv, seq, site })?;
        }
        if found.is_empty() {
            return Ok(());
        }
        found.sort_unstable_by_key(|(row, bit, _)| (*row, *bit));
        let mut reader = self.table(table)?;
        let result = self.push_rows(table, number, record, &found, &mut reader);
        self.tables.insert(table.id, reader);
        result
    }

    fn push_rows(
        &mut self,
        table: &Table,
        number: i64,
        record: &Record,
        found: &[(u32, u32, CellClock)],
        reader: &mut TableReader,
    ) -> Result<(), Error> {
        let start = number << BLOCK_SHIFT;
        let TableReader { stmt, index, columns, places, .. } = reader;
        let key = record.key.as_ref().filter(|_| table.keyed).map(|key| PackedKey::from_packed(key));
        let mut rows = stmt.start();
        if let Some(key) = &key {
            key.columns().try_for_each(|column| rows.bind(column))?;
        } else {
            rows.bind_integer(start + i64::from(found[0].0))?;
            rows.bind_integer(start + i64::from(found[found.len() - 1].0))?;
        }
        let mut rest = found;
        while rows.step()? {
            let row = if table.keyed { 0 } else { (rows.integer(0) - start) as u32 };
            // A clock whose row is not there was left by a write that was not captured.
            let skipped = rest.iter().take_while(|(of, ..)| *of < row).count();
            rest = &rest[skipped..];
            let count = rest.iter().take_while(|(of, ..)| *of == row).count();
            let (cells, tail) = rest.split_at(count);
            rest = tail;
            if cells.is_empty() {
                continue;
            }
            let cl = CausalLength(record.block.cl(row));
            let key = PackedKey::from_packed(&read_key(table, &rows, 1)?);
            let masks = self.masks.of(self.engine, table, key.as_bytes())?;
            self.bytes += key.as_bytes().len();
            let mut change =
                RowChange { table: *index, key, cl, sentinel: None, cells: Vec::with_capacity(count) };
            for (_, bit, known) in cells {
                let clock = self.clock(*known)?;
                if *bit == ColSet::SENTINEL {
                    change.sentinel = Some(clock);
                    continue;
                }
                let place = places.get(*bit as usize).copied().unwrap_or(u32::MAX);
                // The column has been dropped since.
                let Some(column) = columns.get_mut(place as usize) else { continue };
                let name = &table.columns[place as usize].name;
                let column = column.get_or_insert_with(|| self.changeset.column_index(*index, name));
                let value = match masked(&masks, *bit, known) {
                    Some(value) => value.clone(),
                    None => rows.value(1 + table.key.len() as i32 + place as i32).to_owned(),
                };
                self.bytes += match &value {
                    Value::Text(text) => text.len(),
                    Value::Blob(blob) => blob.len(),
                    Value::Null | Value::Integer(_) | Value::Real(_) => 0,
                };
                change.cells.push(Cell { column: *column, value, clock });
            }
            self.changes += change.cells.len() + usize::from(change.sentinel.is_some());
            self.changeset.push_row(change);
        }
        Ok(())
    }
}

/// `SELECT rowid, key.., columns..` of rows found by rowid (or, in a keyed table, by key).
fn row_sql(table: &Table, by_rowid: &str) -> String {
    let columns = table.columns.iter().map(|column| quote(&column.name));
    let list: Vec<_> = table.key.iter().map(|column| quote(&column.name)).chain(columns).collect();
    let list = list.join(", ");
    let name = table.sql_name();
    if table.keyed {
        return format!("SELECT 0, {list} FROM {name} WHERE {}", table.key_condition());
    }
    let rowid = table.rowid_name;
    format!("SELECT {rowid}, {list} FROM {name} WHERE {rowid} {by_rowid} ORDER BY {rowid}")
}

/// A row: its packed key, and its values in table order.
type RowValues = (Vec<u8>, Vec<Value>);

/// Reads the values behind entries, one row at a time.
#[derive(Debug, Default)]
pub(crate) struct EntryReader {
    statements: FxHashMap<u32, Stmt>,
    held: Option<(BlockId, u32, Option<RowValues>)>,
    masks: Masks,
}

/// A row of `crsql_changes`.
#[derive(Clone, Debug)]
pub(crate) struct ChangeRow {
    pub(crate) table: Arc<str>,
    pub(crate) key: Vec<u8>,
    /// `None` for the sentinel.
    pub(crate) column: Option<Arc<str>>,
    pub(crate) value: Value,
}

impl EntryReader {
    /// `None` when the row, or the column, is no longer there.
    pub(crate) fn read(&mut self, engine: &Engine, entry: &Entry) -> Result<Option<ChangeRow>, Error> {
        let catalog = engine.catalog.borrow().clone();
        let Some(table) = catalog.table_by_id(entry.table) else { return Ok(None) };
        let (number, row, bit, record) = match &entry.what {
            Of::Tomb(key) => {
                let (table, key) = (table.name.clone(), key.to_vec());
                return Ok(Some(ChangeRow { table, key, column: None, value: Value::Null }));
            }
            Of::Cell { number, row, bit, record } => (*number, *row, *bit, record),
        };
        let id = (entry.table, number);
        if !matches!(&self.held, Some((held, of, _)) if *held == id && *of == row) {
            let values = self.fetch(engine, table, number, row, record)?;
            self.held = Some((id, row, values));
        }
        let Some((_, _, Some((key, values)))) = &self.held else { return Ok(None) };
        let (name, key) = (table.name.clone(), key.clone());
        if bit == ColSet::SENTINEL {
            return Ok(Some(ChangeRow { table: name, key, column: None, value: Value::Null }));
        }
        let Some(place) = table.columns.iter().position(|column| column.bit == bit) else { return Ok(None) };
        let column = Some(table.columns[place].name.clone());
        let masks = self.masks.of(engine, table, &key)?;
        let value = masked(&masks, bit, &entry.clock).unwrap_or(&values[place]).clone();
        Ok(Some(ChangeRow { table: name, key, column, value }))
    }

    fn fetch(
        &mut self,
        engine: &Engine,
        table: &Table,
        number: i64,
        row: u32,
        record: &Record,
    ) -> Result<Option<RowValues>, Error> {
        let stmt = match self.statements.entry(table.id) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(engine.db.prepare(&row_sql(table, "= ?"))?)
            }
        };
        let key = record.key.as_ref().filter(|_| table.keyed).map(|key| PackedKey::from_packed(key));
        let mut run: Run<'_> = stmt.start();
        if let Some(key) = &key {
            key.columns().try_for_each(|column| run.bind(column))?;
        } else {
            run.bind_integer((number << BLOCK_SHIFT) + i64::from(row))?;
        }
        if !run.step()? {
            return Ok(None);
        }
        let key = read_key(table, &run, 1)?;
        let first = 1 + table.key.len() as i32;
        let values = (0..table.columns.len() as i32).map(|i| run.value(first + i).to_owned()).collect();
        Ok(Some((key, values)))
    }
}
