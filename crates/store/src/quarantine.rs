//! Changes that cannot be stored here yet: kept, told to peers like all others, and merged once they can be. Owns the
//! tables `opor_quarantine` and `opor_quarantine_size`, which the first such change makes.

use std::rc::Rc;
use std::sync::Arc;

use opor_core::{Change, Cid, ColVersion, DbVersion, Incoming, LocalRow, Outcome, PackedKey, Value, decide};
use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::block::CellClock;
use crate::catalog::Table;
use crate::clocks::rowid_of;
use crate::engine::Engine;
use crate::merge::IncomingClock;
use crate::notes::MergeOp;
use crate::sqlite::{Db, Run, Stmt, failure, held};

/// Shows in the schema that something is, or was, in quarantine.
pub(crate) const QUARANTINE_TABLE: &str = "opor_quarantine";
/// Both.
pub(crate) const TABLES: [&str; 2] = [QUARANTINE_TABLE, "opor_quarantine_size"];
/// What a change takes besides its texts and bytes: counters, and entries in two indexes.
const OVERHEAD_BYTES: u64 = 64;
/// Records that are read at a time.
const PAGE: i64 = 1024;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS opor_quarantine(
    id INTEGER PRIMARY KEY, table_name TEXT NOT NULL, pk BLOB NOT NULL, cid TEXT NOT NULL, val ANY,
    col_version INTEGER NOT NULL, db_version INTEGER NOT NULL, site INTEGER NOT NULL, cl INTEGER NOT NULL,
    seq INTEGER NOT NULL, why INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS opor_quarantine_cell ON opor_quarantine(table_name, pk, cid);
CREATE INDEX IF NOT EXISTS opor_quarantine_version ON opor_quarantine(db_version);
CREATE TABLE IF NOT EXISTS opor_quarantine_size(
    id INTEGER PRIMARY KEY CHECK(id = 1), changes INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO opor_quarantine_size VALUES (1, 0, 0);
";

const RECORD: &str = "id, table_name, pk, cid, val, col_version, db_version, site, cl, seq, why";

/// How much may be in quarantine. What comes beyond it is refused, whole changeset and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineLimits {
    /// The most changes.
    pub changes_max: u64,
    /// The most bytes: of names, keys and values, and 64 for each change.
    pub bytes_max: u64,
}

impl QuarantineLimits {
    /// Nothing is kept: a changeset with a change that cannot be stored is refused.
    pub const NONE: Self = Self { changes_max: 0, bytes_max: 0 };
}

/// 100,000 changes and 64 MiB: an old replica among new ones gets by for long, and nobody fills its disk.
impl Default for QuarantineLimits {
    fn default() -> Self {
        Self { changes_max: 100_000, bytes_max: 64 << 20 }
    }
}

/// Why a change cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum QuarantineReason {
    /// There is no such table, or it does not replicate here.
    UnknownTable,
    /// The table has no such column.
    UnknownColumn,
    /// The key does not fit the table.
    KeyShape,
    /// The table refused the row, by a rule that opor cannot step around: a unique index, a trigger that aborts.
    Refused,
}

impl QuarantineReason {
    const fn code(self) -> i64 {
        match self {
            Self::UnknownTable => 1,
            Self::UnknownColumn => 2,
            Self::KeyShape => 3,
            Self::Refused => 4,
        }
    }

    fn from_code(code: i64) -> Result<Self, Error> {
        let all = [Self::UnknownTable, Self::UnknownColumn, Self::KeyShape, Self::Refused];
        let found = all.into_iter().find(|reason| reason.code() == code);
        found.ok_or_else(|| failure("a record in quarantine has no known reason"))
    }
}

/// A change in quarantine.
#[derive(Clone, Debug, PartialEq)]
pub struct QuarantinedChange {
    /// Its number; later ones have greater numbers.
    pub id: i64,
    /// The change. Its `db_version` is that of the commit in which it came here.
    pub change: Change,
    /// Why it is there.
    pub reason: QuarantineReason,
}

/// What is in quarantine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// How many changes.
    pub changes: u64,
    /// How many bytes, as [`QuarantineLimits`] counts them.
    pub bytes: u64,
    /// By table and reason, how many.
    pub tables: Vec<(String, QuarantineReason, u64)>,
}

/// A change as it is kept; the site is an ordinal.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) id: i64,
    pub(crate) table: Arc<str>,
    pub(crate) key: PackedKey,
    pub(crate) cid: Cid,
    pub(crate) value: Value,
    pub(crate) cv: u64,
    pub(crate) dv: u64,
    pub(crate) site: u32,
    pub(crate) cl: u64,
    pub(crate) seq: u64,
    pub(crate) reason: QuarantineReason,
}

impl Held {
    fn read(row: &Run<'_>) -> Result<Self, Error> {
        let counter = |column| {
            u64::try_from(row.integer(column)).map_err(|_| failure("a record in quarantine is damaged"))
        };
        let key = PackedKey::from_bytes(row.blob(2)).map_err(|error| failure(error.to_string()))?;
        Ok(Self {
            id: row.integer(0),
            table: row.text(1)?.into(),
            key,
            cid: Cid::from(row.text(3)?),
            value: row.value(4).to_owned(),
            cv: counter(5)?,
            dv: counter(6)?,
            site: u32::try_from(row.integer(7)).map_err(|_| failure("an ordinal is out of range"))?,
            cl: counter(8)?,
            seq: counter(9)?,
            reason: QuarantineReason::from_code(row.integer(10))?,
        })
    }

    /// The bytes it counts for.
    pub(crate) fn size(&self) -> u64 {
        size(&self.table, &self.key, &self.cid, &self.value)
    }

    /// As it travels.
    pub(crate) fn change(self, engine: &Engine) -> Result<Change, Error> {
        Ok(Change {
            table: self.table,
            pk: self.key,
            cid: self.cid,
            val: self.value,
            col_version: ColVersion(self.cv),
            db_version: DbVersion(self.dv),
            site_id: engine.site_of(self.site)?,
            cl: opor_core::CausalLength(self.cl),
            seq: self.seq,
        })
    }
}

fn size(table: &str, key: &PackedKey, cid: &Cid, value: &Value) -> u64 {
    let bytes = table.len() + key.as_bytes().len() + cid.as_str().len() + value.payload_len();
    bytes as u64 + OVERHEAD_BYTES
}

/// The changes to one row that cannot be stored.
pub(crate) struct Arrival<'a> {
    pub(crate) table: &'a Arc<str>,
    pub(crate) key: &'a PackedKey,
    pub(crate) cl: u64,
    pub(crate) sentinel: Option<IncomingClock>,
    pub(crate) cells: Vec<(&'a Arc<str>, &'a Value, IncomingClock)>,
    pub(crate) reason: QuarantineReason,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Put {
    pub(crate) kept: usize,
    pub(crate) lost: usize,
    pub(crate) known: usize,
}

/// There is no room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full;

/// Quarantine as one merge adds to it.
#[derive(Debug)]
pub(crate) struct Ward {
    limits: QuarantineLimits,
    size: Size,
    swept: bool,
    of_row: Stmt,
    insert: Stmt,
    delete: Stmt,
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    changes: u64,
    bytes: u64,
}

impl Size {
    fn load(db: Db) -> Result<Self, Error> {
        let mut stmt = db.prepare("SELECT changes, bytes FROM opor_quarantine_size WHERE id = 1")?;
        let mut row = stmt.start();
        if !row.step()? {
            return Ok(Self::default());
        }
        Ok(Self { changes: row.integer(0).cast_unsigned(), bytes: row.integer(1).cast_unsigned() })
    }

    fn save(self, db: Db) -> Result<(), Error> {
        db.prepare("UPDATE opor_quarantine_size SET changes = ?, bytes = ? WHERE id = 1")?
            .run(&[self.changes.cast_signed(), self.bytes.cast_signed()])
    }

    const fn remove(&mut self, held: u64) {
        self.changes = self.changes.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(held);
    }
}

impl Ward {
    /// Makes the tables when they are missing, in the open write transaction.
    pub(crate) fn open(db: Db, limits: QuarantineLimits) -> Result<Self, Error> {
        db.exec(CREATE)?;
        Ok(Self {
            limits,
            size: Size::load(db)?,
            swept: false,
            of_row: row_stmt(db)?,
            insert: db.prepare(
                "INSERT INTO opor_quarantine(table_name, pk, cid, val, col_version, db_version, site, cl, seq, why) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?,
            delete: db.prepare("DELETE FROM opor_quarantine WHERE id = ?")?,
        })
    }

    /// Merges the changes to one row into what is kept of it, by the rule that merges tables: the longest causal length
    /// stands, and within it the newest of each cell.
    pub(crate) fn put(&mut self, engine: &Engine, row: &Arrival<'_>) -> Result<Result<Put, Full>, Error> {
        let mut held = read_row(&mut self.of_row, row.table, row.key)?;
        let mut put = Put::default();
        let count = row.cells.len() + usize::from(row.sentinel.is_some());
        let longest = held.iter().map(|held| held.cl).max().unwrap_or(0);
        if row.cl < longest || (row.cl == longest && row.cl.is_multiple_of(2)) {
            put.known = count;
            return Ok(Ok(put));
        }
        if row.cl > longest {
            held.drain(..).try_for_each(|held| self.remove(&held))?;
        }
        let sentinel = row.sentinel.iter().map(|clock| (Cid::Sentinel, &Value::Null, clock));
        let cells =
            row.cells.iter().map(|(name, value, clock)| (Cid::Column((*name).clone()), *value, clock));
        for (cid, value, clock) in sentinel.chain(cells) {
            let before = held.iter().find(|held| held.cid == cid);
            match outcome(engine, row.cl, before, &cid, value, clock)? {
                Outcome::Known | Outcome::Stale => put.known += 1,
                Outcome::Lose => put.lost += 1,
                _ => {
                    if let Some(before) = before {
                        self.remove(before)?;
                    }
                    if !self.has_room(engine, size(row.table, row.key, &cid, value))? {
                        return Ok(Err(Full));
                    }
                    self.add(row, &cid, value, clock)?;
                    put.kept += 1;
                }
            }
        }
        Ok(Ok(put))
    }

    /// Whether there is room for so many bytes more; what the present lives of rows have overtaken is dropped for it.
    fn has_room(&mut self, engine: &Engine, bytes: u64) -> Result<bool, Error> {
        let fits = |size: Size, limits: QuarantineLimits| {
            size.changes < limits.changes_max && size.bytes.saturating_add(bytes) <= limits.bytes_max
        };
        if !fits(self.size, self.limits) && !std::mem::replace(&mut self.swept, true) {
            self.size.save(engine.db)?;
            sweep(engine)?;
            self.size = Size::load(engine.db)?;
        }
        Ok(fits(self.size, self.limits))
    }

    fn add(
        &mut self,
        row: &Arrival<'_>,
        cid: &Cid,
        value: &Value,
        clock: &IncomingClock,
    ) -> Result<(), Error> {
        let mut run = self.insert.start();
        run.bind_text(row.table)?;
        run.bind_blob(row.key.as_bytes())?;
        run.bind_text(cid.as_str())?;
        run.bind(value.as_ref())?;
        for counter in [clock.cv, clock.dv, u64::from(clock.ordinal), row.cl, clock.seq] {
            run.bind_integer(counter.cast_signed())?;
        }
        run.bind_integer(row.reason.code())?;
        run.step()?;
        drop(run);
        self.size.changes += 1;
        self.size.bytes += size(row.table, row.key, cid, value);
        Ok(())
    }

    pub(crate) fn remove(&mut self, held: &Held) -> Result<(), Error> {
        self.delete.run(&[held.id])?;
        self.size.remove(held.size());
        Ok(())
    }

    /// Puts the size on record; without, limits would count wrong.
    pub(crate) fn close(self, db: Db) -> Result<(), Error> {
        self.size.save(db)
    }
}

/// What the merge rule says of a change and what is kept of its cell, within one life of the row.
fn outcome(
    engine: &Engine,
    cl: u64,
    before: Option<&Held>,
    cid: &Cid,
    value: &Value,
    clock: &IncomingClock,
) -> Result<Outcome, Error> {
    let Some(before) = before else { return Ok(Outcome::Win) };
    let cell = (ColVersion(before.cv), engine.site_of(before.site)?, before.value.as_ref());
    let cl = opor_core::CausalLength(cl);
    let incoming = Incoming {
        cl,
        sentinel: *cid == Cid::Sentinel,
        col_version: ColVersion(clock.cv),
        site_id: clock.site,
        value: value.as_ref(),
    };
    Ok(decide(LocalRow { cl, cell: Some(cell) }, incoming, engine.equal_values()))
}

/// The next records of the walk by version.
pub(crate) fn newer_than(stmt: &mut Stmt, (dv, id): (i64, i64), count: i64) -> Result<Vec<Held>, Error> {
    let mut rows = stmt.start();
    rows.bind_integer(dv)?;
    rows.bind_integer(id)?;
    rows.bind_integer(count)?;
    read_all(rows)
}

/// What [`newer_than`] runs.
pub(crate) fn walk(db: Db) -> Result<Stmt, Error> {
    db.prepare(&format!(
        "SELECT {RECORD} FROM opor_quarantine WHERE (db_version, id) > (?, ?) ORDER BY db_version, id LIMIT ? + 0"
    ))
}

/// The next records after a number.
pub(crate) fn after(db: Db, id: i64, count: i64) -> Result<Vec<Held>, Error> {
    let sql = format!("SELECT {RECORD} FROM opor_quarantine WHERE id > ? ORDER BY id LIMIT ?");
    let mut stmt = db.prepare(&sql)?;
    let mut rows = stmt.start();
    rows.bind_integer(id)?;
    rows.bind_integer(count)?;
    read_all(rows)
}

/// The next records of a table, in the order of their keys.
pub(crate) fn of_table(db: Db, table: &str, after: Option<&Held>) -> Result<Vec<Held>, Error> {
    let mut stmt = db.prepare(&format!(
        "SELECT {RECORD} FROM opor_quarantine WHERE table_name = ? AND (pk, cid) > (?, ?) ORDER BY pk, cid LIMIT {PAGE}"
    ))?;
    let mut rows = stmt.start();
    rows.bind_text(table)?;
    rows.bind_blob(after.map_or(&[], |held| held.key.as_bytes()))?;
    rows.bind_text(after.map_or("", |held| held.cid.as_str()))?;
    read_all(rows)
}

/// The records of a row.
pub(crate) fn of_row(db: Db, table: &str, key: &PackedKey) -> Result<Vec<Held>, Error> {
    read_row(&mut row_stmt(db)?, table, key)
}

fn row_stmt(db: Db) -> Result<Stmt, Error> {
    db.prepare(&format!("SELECT {RECORD} FROM opor_quarantine WHERE table_name = ? AND pk = ? ORDER BY cid"))
}

fn read_row(stmt: &mut Stmt, table: &str, key: &PackedKey) -> Result<Vec<Held>, Error> {
    let mut rows = stmt.start();
    rows.bind_text(table)?;
    rows.bind_blob(key.as_bytes())?;
    read_all(rows)
}

fn read_all(mut rows: Run<'_>) -> Result<Vec<Held>, Error> {
    let mut held = Vec::new();
    while rows.step()? {
        held.push(Held::read(&rows)?);
    }
    Ok(held)
}

/// The tables that records are of.
pub(crate) fn tables(db: Db) -> Result<Vec<String>, Error> {
    let mut stmt = db.prepare("SELECT DISTINCT table_name FROM opor_quarantine ORDER BY table_name")?;
    let mut rows = stmt.start();
    let mut names = Vec::new();
    while rows.step()? {
        names.push(rows.text(0)?.to_owned());
    }
    Ok(names)
}

/// What is there.
pub(crate) fn summary(db: Db) -> Result<Quarantine, Error> {
    let Size { changes, bytes } = Size::load(db)?;
    let mut stmt = db.prepare(
        "SELECT table_name, why, count(*) FROM opor_quarantine GROUP BY table_name, why ORDER BY table_name, why",
    )?;
    let mut rows = stmt.start();
    let mut tables = Vec::new();
    while rows.step()? {
        let reason = QuarantineReason::from_code(rows.integer(1))?;
        tables.push((rows.text(0)?.to_owned(), reason, rows.integer(2).cast_unsigned()));
    }
    Ok(Quarantine { changes, bytes, tables })
}

/// Gives what a site wrote to another ordinal.
pub(crate) fn rename_site(db: Db, from: u32, to: u32) -> Result<(), Error> {
    let mut update = db.prepare("UPDATE opor_quarantine SET site = ? WHERE site = ?")?;
    update.run(&[i64::from(to), i64::from(from)])
}

/// Drops all records of a table; how many there were.
pub(crate) fn discard(db: Db, table: &str) -> Result<u64, Error> {
    let mut size = Size::load(db)?;
    let mut delete = db.prepare("DELETE FROM opor_quarantine WHERE id = ?")?;
    let (mut last, mut count) = (None::<Held>, 0);
    loop {
        let page = of_table(db, table, last.as_ref())?;
        for held in &page {
            delete.run(&[held.id])?;
            size.remove(held.size());
            count += 1;
        }
        match page.into_iter().last() {
            Some(held) => last = Some(held),
            None => break,
        }
    }
    size.save(db)?;
    Ok(count)
}

/// Drops records of rows that have been deleted, or created again, since.
pub(crate) fn sweep(engine: &Engine) -> Result<(), Error> {
    let db = engine.db;
    let mut size = Size::load(db)?;
    let mut delete = db.prepare("DELETE FROM opor_quarantine WHERE id = ?")?;
    let mut lives = Lives::default();
    let mut last = i64::MIN;
    loop {
        let page = after(db, last, PAGE)?;
        let Some(end) = page.last() else { break };
        last = end.id;
        for held in &page {
            if lives.is_over(engine, held)? {
                delete.run(&[held.id])?;
                size.remove(held.size());
            }
        }
    }
    size.save(db)
}

/// Tells which records are of a life of their row that is over.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    find: FxHashMap<u32, Stmt>,
}

impl Lives {
    /// Whether the row has been deleted, or created again, since. Nobody needs such a record: it loses to what is known.
    pub(crate) fn is_over(&mut self, engine: &Engine, held: &Held) -> Result<bool, Error> {
        match engine.table(&held.table) {
            Some(table) if table.fits(&held.key) => Ok(self.cl(engine, &table, &held.key)? > held.cl),
            _ => Ok(false),
        }
    }

    /// The causal length of a row; 0 when it was never seen.
    pub(crate) fn cl(&mut self, engine: &Engine, table: &Rc<Table>, key: &PackedKey) -> Result<u64, Error> {
        let rowid = self.place(engine, table, key)?;
        let mut clocks = engine.clocks.borrow_mut();
        if let Some(rowid) = rowid {
            let (id, bit) = clocks.place_of(table, rowid, key.as_bytes())?;
            let block = &clocks.peek(id)?.block;
            if block.live() >> bit & 1 == 1 {
                return Ok(block.cl(bit));
            }
        }
        Ok(clocks.tomb(table, key.as_bytes())?.map_or(0, |tomb| tomb.cl))
    }

    /// The clock of a cell of a living row.
    pub(crate) fn cell(
        &mut self,
        engine: &Engine,
        table: &Rc<Table>,
        key: &PackedKey,
        bit: u32,
    ) -> Result<Option<CellClock>, Error> {
        let Some(rowid) = self.place(engine, table, key)? else { return Ok(None) };
        let mut clocks = engine.clocks.borrow_mut();
        let (id, row) = clocks.place_of(table, rowid, key.as_bytes())?;
        Ok(clocks.peek(id)?.block.cell(row, bit))
    }

    /// Where a row is, or would be.
    fn place(&mut self, engine: &Engine, table: &Table, key: &PackedKey) -> Result<Option<i64>, Error> {
        if table.rowid_is_key {
            return Ok(Some(rowid_of(key.as_bytes())));
        }
        if table.keyed {
            return Ok(Some(0));
        }
        let stmt = held(&mut self.find, table.id, || {
            let (name, condition) = (table.sql_name(), table.key_condition());
            engine.db.prepare(&format!("SELECT {} FROM {name} WHERE {condition}", table.rowid_name))
        })?;
        let mut row = stmt.start();
        key.columns().try_for_each(|column| row.bind(column))?;
        Ok(row.step()?.then(|| row.integer(0)))
    }
}

impl Engine {
    /// Has the commit take a version though no clock may change: something was put into quarantine under it.
    pub(crate) fn note_quarantine(&self, dv: u64, direct: bool) -> Result<(), Error> {
        let op = MergeOp::Quarantine { dv };
        if direct { self.merge_directly(&op) } else { self.merge(op) }
    }
}
