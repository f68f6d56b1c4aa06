//! What merges did that a table's rules forbid: values that a column cannot hold, which the table shows another for, and
//! rows that break a CHECK. Owns the table `opor_conflict`, which the first of them makes.

use std::sync::Arc;

use opor_core::{PackedKey, Value, ValueRef};
use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::block::CellClock;
use crate::catalog::Table;
use crate::colset::ColSet;
use crate::engine::Engine;
use crate::merge::MergeSql;
use crate::quarantine::Lives;
use crate::replicate::read_key;
use crate::sqlite::{Db, Run, Stmt, failure, held, quote};
use crate::store::{Store, StoreError};

/// Shows in the schema that a merge has broken a rule of a table.
pub(crate) const CONFLICT_TABLE: &str = "opor_conflict";
/// Records that are read at a time.
const PAGE: i64 = 1024;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS opor_conflict(
    table_id INTEGER NOT NULL, pk BLOB NOT NULL, bit INTEGER NOT NULL, kind INTEGER NOT NULL, val ANY,
    col_version INTEGER NOT NULL, site INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY(table_id, pk, bit)) STRICT, WITHOUT ROWID;
";
const RECORD: &str = "table_id, pk, bit, kind, val, col_version, site, seq";

/// What rule of a table stands broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ConflictKind {
    /// NULL won in a column that is NOT NULL. The table shows 0, '' or x'' there.
    NotNull,
    /// A value won whose type a column of a STRICT table does not hold. The table shows NULL there, or 0, '' or x''.
    Type,
    /// A row breaks a CHECK. It is in the table as it was merged.
    Check,
    /// A row refers to one that is not there. It is in the table as it was merged.
    ForeignKey,
}

impl ConflictKind {
    const fn code(self) -> i64 {
        match self {
            Self::NotNull => 1,
            Self::Type => 2,
            Self::Check => 3,
            Self::ForeignKey => 4,
        }
    }

    fn from_code(code: i64) -> Result<Self, Error> {
        let stored = [Self::NotNull, Self::Type, Self::Check];
        let found = stored.into_iter().find(|kind| kind.code() == code);
        found.ok_or_else(|| failure("a conflict on record is of no known kind"))
    }

    /// As `opor_conflicts` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotNull => "not null",
            Self::Type => "type",
            Self::Check => "check",
            Self::ForeignKey => "foreign key",
        }
    }
}

/// A rule of a table that stands broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The table.
    pub table: Arc<str>,
    /// The row; not told for a foreign key of a table `WITHOUT ROWID`.
    pub key: Option<PackedKey>,
    /// The rule.
    pub kind: ConflictKind,
    /// The column, where it is about one value.
    pub column: Option<Arc<str>>,
    /// What was merged, where the table shows something else. It is what peers are told.
    pub value: Option<Value>,
    /// The expression of the CHECK, or the table that is referred to.
    pub detail: Option<String>,
}

/// A record; one of a CHECK has the bit of the sentinel.
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    pub(crate) table: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) bit: u32,
    pub(crate) kind: ConflictKind,
    pub(crate) value: Value,
    pub(crate) cv: u64,
    pub(crate) site: u32,
    pub(crate) seq: u64,
}

impl Mask {
    fn read(row: &Run<'_>) -> Result<Self, Error> {
        let number = |column| {
            u64::try_from(row.integer(column)).map_err(|_| failure("a conflict on record is damaged"))
        };
        let small = |column| {
            u32::try_from(row.integer(column)).map_err(|_| failure("a conflict on record is damaged"))
        };
        Ok(Self {
            table: small(0)?,
            key: row.blob(1).into(),
            bit: small(2)?,
            kind: ConflictKind::from_code(row.integer(3))?,
            value: row.value(4).to_owned(),
            cv: number(5)?,
            site: small(6)?,
            seq: number(7)?,
        })
    }

    /// Whether this is the value of a cell with such a clock. One that was written over since has another.
    pub(crate) fn is_of(&self, bit: u32, clock: &CellClock) -> bool {
        self.bit == bit
            && self.kind != ConflictKind::Check
            && self.cv == clock.cv
            && self.site == clock.site
            && self.seq == clock.seq
    }
}

/// Puts the conflicts of a row on record; those of the same cells are replaced.
pub(crate) fn save(engine: &Engine, masks: &[Mask]) -> Result<(), Error> {
    let db = engine.db;
    db.exec(CREATE)?;
    if !engine.catalog.borrow().conflicts {
        engine.load_catalog()?;
    }
    let mut insert = db.prepare(&format!(
        "INSERT OR REPLACE INTO opor_conflict({RECORD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    ))?;
    for mask in masks {
        let mut run = insert.start();
        run.bind_integer(i64::from(mask.table))?;
        run.bind_blob(&mask.key)?;
        run.bind_integer(i64::from(mask.bit))?;
        run.bind_integer(mask.kind.code())?;
        run.bind(mask.value.as_ref())?;
        for number in [mask.cv, u64::from(mask.site), mask.seq] {
            run.bind_integer(number.cast_signed())?;
        }
        run.step()?;
    }
    Ok(())
}

/// The next records after one.
pub(crate) fn after(db: Db, last: Option<&Mask>) -> Result<Vec<Mask>, Error> {
    let sql = format!(
        "SELECT {RECORD} FROM opor_conflict WHERE (table_id, pk, bit) > (?, ?, ?) \
         ORDER BY table_id, pk, bit LIMIT {PAGE}"
    );
    let mut stmt = db.prepare(&sql)?;
    let mut rows = stmt.start();
    rows.bind_integer(last.map_or(-1, |mask| i64::from(mask.table)))?;
    rows.bind_blob(last.map_or(&[], |mask| &mask.key))?;
    rows.bind_integer(last.map_or(-1, |mask| i64::from(mask.bit)))?;
    let mut masks = Vec::new();
    while rows.step()? {
        masks.push(Mask::read(&rows)?);
    }
    Ok(masks)
}

/// The row goes through a delete that was missed: its cells start over, and what is on record of them goes with them.
pub(crate) fn begin_again(engine: &Engine, table: &Table, key: &[u8]) -> Result<(), Error> {
    of_key(engine, "UPDATE opor_conflict SET col_version = 0 WHERE table_id = ? AND pk = ?", table, key, None)
}

/// Drops what is on record of a row that is not there any more, before there is another of this key.
pub(crate) fn bury(engine: &Engine, table: &Table, key: &[u8]) -> Result<(), Error> {
    of_key(engine, "DELETE FROM opor_conflict WHERE table_id = ? AND pk = ?", table, key, None)
}

/// Drops what is on record of a cell that is written over by one that counts from 0: their clocks may be the same.
pub(crate) fn write_over(engine: &Engine, table: &Table, key: &[u8], bit: u32) -> Result<(), Error> {
    let sql = "DELETE FROM opor_conflict WHERE table_id = ? AND pk = ? AND bit = ?";
    of_key(engine, sql, table, key, Some(bit))
}

fn of_key(engine: &Engine, sql: &str, table: &Table, key: &[u8], bit: Option<u32>) -> Result<(), Error> {
    if !engine.catalog.borrow().conflicts {
        return Ok(());
    }
    let mut stmt = engine.db.prepare(sql)?;
    let mut run = stmt.start();
    run.bind_integer(i64::from(table.id))?;
    run.bind_blob(key)?;
    bit.map_or(Ok(()), |bit| run.bind_integer(i64::from(bit)))?;
    engine.uncaptured(|| run.step())?;
    Ok(())
}

pub(crate) fn remove(db: Db, mask: &Mask) -> Result<(), Error> {
    let mut delete = db.prepare("DELETE FROM opor_conflict WHERE table_id = ? AND pk = ? AND bit = ?")?;
    let mut run = delete.start();
    run.bind_integer(i64::from(mask.table))?;
    run.bind_blob(&mask.key)?;
    run.bind_integer(i64::from(mask.bit))?;
    run.step()?;
    Ok(())
}

/// Gives what a site wrote to another ordinal.
pub(crate) fn rename_site(db: Db, from: u32, to: u32) -> Result<(), Error> {
    db.prepare("UPDATE opor_conflict SET site = ? WHERE site = ?")?.run(&[i64::from(to), i64::from(from)])
}

/// Whether something of a table is on record.
pub(crate) fn has_any(db: Db, table: u32) -> Result<bool, Error> {
    let mut any = db.prepare("SELECT 1 FROM opor_conflict WHERE table_id = ? LIMIT 1")?;
    let mut row = any.start();
    row.bind_integer(i64::from(table))?;
    row.step()
}

/// Forgets a table that is gone.
pub(crate) fn forget_table(db: Db, table: u32) -> Result<(), Error> {
    db.prepare("DELETE FROM opor_conflict WHERE table_id = ?")?.run(&[i64::from(table)])
}

/// Looks values up that tables show something else for.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    find: FxHashMap<(), Stmt>,
}

impl Masks {
    /// The records of a row; none, at no cost, in a file that never had any.
    pub(crate) fn of(&mut self, engine: &Engine, table: &Table, key: &[u8]) -> Result<Vec<Mask>, Error> {
        if !engine.catalog.borrow().conflicts {
            return Ok(Vec::new());
        }
        let find = held(&mut self.find, (), || engine.db.prepare(&find_sql()))?;
        read(find, table, key)
    }
}

/// The records of a row, where it is asked for once. The file has some.
pub(crate) fn of_row(db: Db, table: &Table, key: &[u8]) -> Result<Vec<Mask>, Error> {
    read(&mut db.prepare(&find_sql())?, table, key)
}

fn find_sql() -> String {
    format!("SELECT {RECORD} FROM opor_conflict WHERE table_id = ? AND pk = ?")
}

fn read(find: &mut Stmt, table: &Table, key: &[u8]) -> Result<Vec<Mask>, Error> {
    let mut rows = find.start();
    rows.bind_integer(i64::from(table.id))?;
    rows.bind_blob(key)?;
    let mut masks = Vec::new();
    while rows.step()? {
        masks.push(Mask::read(&rows)?);
    }
    Ok(masks)
}

/// The value of a cell, where the table shows something else.
pub(crate) fn masked<'m>(masks: &'m [Mask], bit: u32, clock: &CellClock) -> Option<&'m Value> {
    masks.iter().find(|mask| mask.is_of(bit, clock)).map(|mask| &mask.value)
}

/// The first CHECK that a row breaks. An expression that cannot be evaluated by itself counts as broken.
pub(crate) fn broken_check<'t>(
    engine: &Engine,
    table: &'t Table,
    key: &PackedKey,
) -> Result<Option<&'t str>, Error> {
    for check in &table.checks {
        // A line break ends a comment that the expression may end with.
        let sql =
            format!("SELECT 1 FROM {} WHERE {} AND NOT ({check}\n)", table.sql_name(), table.key_condition());
        let Ok(mut stmt) = engine.db.prepare(&sql) else { return Ok(Some(check)) };
        let mut row = stmt.start();
        key.columns().try_for_each(|column| row.bind(column))?;
        if row.step()? {
            return Ok(Some(check));
        }
    }
    Ok(None)
}

impl Engine {
    /// What stands broken now.
    pub(crate) fn conflicts(&self) -> Result<Vec<Conflict>, Error> {
        self.refresh()?;
        self.replay()?;
        let catalog = self.catalog.borrow().clone();
        let mut found = Vec::new();
        if catalog.conflicts {
            self.each_standing(|table, mask, detail| {
                if mask.kind == ConflictKind::Check {
                    return;
                }
                let column = table.column_by_bit(mask.bit).map(|column| column.name.clone());
                let value = Some(mask.value);
                let (table, key) = (table.name.clone(), Some(PackedKey::from_packed(&mask.key)));
                found.push(Conflict { table, key, kind: mask.kind, column, value, detail });
            })?;
        }
        for table in &catalog.tables {
            if catalog.conflicts {
                self.broken_rows(table, &mut found)?;
            }
            self.dangling(table, &mut found)?;
        }
        Ok(found)
    }

    /// The records that still hold. Others are left for [`sweep`](Self::sweep_conflicts).
    fn each_standing(&self, mut stands: impl FnMut(&Table, Mask, Option<String>)) -> Result<(), Error> {
        let mut last = None;
        loop {
            let page = after(self.db, last.as_ref())?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some(end.clone());
            for mask in page {
                let Some(table) = self.catalog.borrow().table_by_id(mask.table).cloned() else { continue };
                if let Some(detail) = self.standing(&table, &mask)? {
                    stands(&table, mask, detail);
                }
            }
        }
    }

    /// Whether a record still holds, and which CHECK it is of.
    fn standing(&self, table: &std::rc::Rc<Table>, mask: &Mask) -> Result<Option<Option<String>>, Error> {
        let key = PackedKey::from_bytes(&mask.key).map_err(|error| failure(error.to_string()))?;
        if !table.fits(&key) {
            return Ok(None);
        }
        if mask.kind == ConflictKind::Check {
            return Ok(broken_check(self, table, &key)?.map(|check| Some(check.to_owned())));
        }
        let clock = Lives::default().cell(self, table, &key, mask.bit)?;
        Ok(clock.is_some_and(|clock| mask.is_of(mask.bit, &clock)).then_some(None))
    }

    /// Shows values that their columns can hold by now, and drops records that do not hold any more; in the open write
    /// transaction.
    pub(crate) fn sweep_conflicts(&self) -> Result<(), Error> {
        let mut last = None;
        loop {
            let page = after(self.db, last.as_ref())?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some(end.clone());
            for mask in page {
                let table = self.catalog.borrow().table_by_id(mask.table).cloned();
                let stands = match &table {
                    Some(table) => self.standing(table, &mask)?.is_some() && !self.unmask(table, &mask)?,
                    None => false,
                };
                if !stands {
                    remove(self.db, &mask)?;
                }
            }
        }
    }

    /// Whether the column takes the value now.
    fn unmask(&self, table: &Table, mask: &Mask) -> Result<bool, Error> {
        let Some(column) = table.column_by_bit(mask.bit).filter(|_| mask.kind != ConflictKind::Check) else {
            return Ok(false);
        };
        if !MergeSql::default().takes(column, mask.value.as_ref())? {
            return Ok(false);
        }
        let key = PackedKey::from_packed(&mask.key);
        let sql = format!(
            "UPDATE {} SET {} = ? WHERE {}",
            table.sql_name(),
            quote(&column.name),
            table.key_condition()
        );
        let mut update = self.db.prepare(&sql)?;
        let mut run = update.start();
        run.bind(mask.value.as_ref())?;
        key.columns().try_for_each(|column| run.bind(column))?;
        // A rule that stands in the way leaves it as it is.
        Ok(run.step().is_ok())
    }

    /// Rows that break a CHECK, as the table is now: a row that has moved to another key has no record under that.
    fn broken_rows(&self, table: &Table, found: &mut Vec<Conflict>) -> Result<(), Error> {
        for check in &table.checks {
            let (keys, name) = (table.key_list(), table.sql_name());
            let sql = format!("SELECT {keys} FROM {name} WHERE NOT ({check}\n) ORDER BY {keys}");
            let conflict = |key| Conflict {
                table: table.name.clone(),
                key,
                kind: ConflictKind::Check,
                column: None,
                value: None,
                detail: Some(check.clone()),
            };
            let Ok(mut select) = self.db.prepare(&sql) else {
                found.push(conflict(None));
                continue;
            };
            let mut rows = select.start();
            while rows.step()? {
                found.push(conflict(Some(PackedKey::from_packed(&read_key(table, &rows, 0)?))));
            }
        }
        Ok(())
    }

    /// Rows that refer to rows that are not there: SQLite's own check, as the table is now.
    fn dangling(&self, table: &Table, found: &mut Vec<Conflict>) -> Result<(), Error> {
        let mut refers = self.db.prepare("SELECT 1 FROM pragma_foreign_key_list(?, 'main') LIMIT 1")?;
        let mut row = refers.start();
        row.bind_text(&table.name)?;
        if !row.step()? {
            return Ok(());
        }
        drop(row);
        let conflict = |key, detail: &str| Conflict {
            table: table.name.clone(),
            key,
            kind: ConflictKind::ForeignKey,
            column: None,
            value: None,
            detail: Some(detail.to_owned()),
        };
        let mut check = self.db.prepare("SELECT rowid, parent FROM pragma_foreign_key_check(?, 'main')")?;
        let mut rows = check.start();
        rows.bind_text(&table.name)?;
        let mut key_of = self.db.prepare(&format!(
            "SELECT {} FROM {} WHERE {} = ?",
            table.key_list(),
            table.sql_name(),
            if table.keyed { "1" } else { table.rowid_name },
        ))?;
        loop {
            match rows.step() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // The reference itself is wrong, for instance to columns that are not unique.
                Err(error) => {
                    found.push(conflict(None, &error.to_string()));
                    return Ok(());
                }
            }
            let parent = rows.text(1)?.to_owned();
            let mut key = None;
            if !table.keyed {
                let mut row = key_of.start();
                row.bind_integer(rows.integer(0))?;
                if row.step()? {
                    key = Some(PackedKey::from_packed(&read_key(table, &row, 0)?));
                }
            }
            found.push(conflict(key, &parent));
        }
    }
}

impl Store {
    /// The rules of replicated tables that stand broken, because what replicas wrote apart breaks them together. Every
    /// replica shows the same, whatever came first. The same as the table `opor_conflicts` in SQL.
    ///
    /// CHECKs and foreign keys are checked here and now, with a look at every row of tables that have some.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn conflicts(&self) -> Result<Vec<Conflict>, StoreError> {
        Ok(self.engine.in_snapshot(|| self.engine.conflicts())?)
    }
}

impl Mask {
    /// The record of a row that breaks a CHECK.
    pub(crate) fn of_check(table: &Table, key: &PackedKey) -> Self {
        Self {
            table: table.id,
            key: key.as_bytes().into(),
            bit: ColSet::SENTINEL,
            kind: ConflictKind::Check,
            value: Value::Null,
            cv: 0,
            site: 0,
            seq: 0,
        }
    }

    /// The record of a value that its column cannot hold.
    pub(crate) fn of_value(
        table: &Table,
        key: &PackedKey,
        bit: u32,
        value: ValueRef<'_>,
        clock: &CellClock,
    ) -> Self {
        let kind = if value == ValueRef::Null { ConflictKind::NotNull } else { ConflictKind::Type };
        Self {
            table: table.id,
            key: key.as_bytes().into(),
            bit,
            kind,
            value: value.to_owned(),
            cv: clock.cv,
            site: clock.site,
            seq: clock.seq,
        }
    }
}
