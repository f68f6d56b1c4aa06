//! Which tables of an image are regular: every row has its clocks and every clock its row, and each value is as a merge would
//! store it. Such a table means the same wherever it is, and can be moved as it is. Nothing else is wrong with others, as far
//! as this goes; they are merged row by row, which judges each change by itself.

use std::collections::VecDeque;
use std::rc::Rc;

use opor_core::{Limits, Value, ValueRef};
use rusqlite::Error;

use super::entries::Keys;
use crate::block::{BLOCK_SHIFT, Block, CellClock};
use crate::catalog::{Column, Table};
use crate::clocks::block_of;
use crate::colset::ColSet;
use crate::conflict;
use crate::engine::Engine;
use crate::meta;
use crate::progress::{Halt, Reporter};
use crate::records::{self, StoredBlock};
use crate::sqlite::{Db, Run, quote};

/// A regular table of an image, and what it holds.
#[derive(Debug)]
pub(super) struct Regular {
    pub(super) table: Rc<Table>,
    pub(super) rows: u64,
    /// Rows of which a tombstone is left among the clocks.
    pub(super) dead: u64,
    /// Values that have a clock.
    pub(super) cells: u64,
    /// The newest clock of a value.
    pub(super) stamp: u64,
    /// The first and the last rowid, where there are rows.
    pub(super) ends: Option<(i64, i64)>,
    /// The keys of its rows, unless they are the rowids.
    pub(super) keys: Keys,
    /// Whether the index that guards it is empty for certain.
    pub(super) guard_is_empty: bool,
}

impl Regular {
    /// Looks at every row of a table and at its clocks; `None` when it is not regular. Memory is a page of blocks.
    pub(super) fn find(
        image: &Engine,
        table: &Rc<Table>,
        reporter: &mut Reporter<'_>,
    ) -> Result<Option<Self>, Halt> {
        let known = Self {
            table: table.clone(),
            rows: 0,
            dead: 0,
            cells: 0,
            stamp: 0,
            ends: None,
            keys: Keys::default(),
            guard_is_empty: meta::is_guard_empty(image.db, table.id)?,
        };
        let plain = !table.keyed && !table.has_generated() && !table.rowid_name.is_empty();
        if !plain || breaks_a_rule(image, table)? {
            return Ok(None);
        }
        let blocks = Blocks { db: image.db, table: table.id, after: i64::MIN, page: VecDeque::new() };
        let defaults = defaults(image.db, table)?;
        let open = Open { number: i64::MIN, live: 0, lacking: Vec::new() };
        Look { known, blocks, open, defaults }.look(image.db, reporter)
    }
}

/// Whether a row breaks a rule of its table: that is on record where it was merged, and has to be here.
fn breaks_a_rule(image: &Engine, table: &Table) -> Result<bool, Error> {
    if image.catalog.borrow().conflicts && conflict::has_any(image.db, table.id)? {
        return Ok(true);
    }
    for check in &table.checks {
        // A line break ends a comment that the expression may end with.
        let sql = format!("SELECT 1 FROM {} WHERE NOT ({check}\n) LIMIT 1", table.sql_name());
        let Ok(mut broken) = image.db.prepare(&sql) else { return Ok(true) };
        // One that cannot be evaluated is left to the merge.
        if !matches!(broken.start().step(), Ok(false)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What each column of a row has that was inserted without a value for it; `None` where that is not certain.
fn defaults(db: Db, table: &Table) -> Result<Vec<Option<Value>>, Error> {
    let of = |column: &Column| {
        let Some(text) = meta::default_of(db, &table.name, &column.name)? else {
            return Ok(Some(column.filler.clone().unwrap_or(Value::Null)));
        };
        if !is_literal(&text) {
            return Ok(None);
        }
        let mut stmt = db.prepare(&format!("SELECT {text}"))?;
        let mut row = stmt.start();
        row.step()?;
        let value = row.value(0);
        Ok(column.keeps(value).then(|| value.to_owned()))
    };
    table.columns.iter().map(of).collect()
}

/// Whether the text of a default is a number, a text in quotes or NULL, and no more.
fn is_literal(text: &str) -> bool {
    let quoted = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let number = text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte))
        && text.parse::<f64>().is_ok();
    text.eq_ignore_ascii_case("null")
        || number
        || quoted.is_some_and(|inner| !inner.replace("''", "").contains('\''))
}

/// The blocks of a table in the order of its rows.
struct Blocks {
    db: Db,
    table: u32,
    after: i64,
    page: VecDeque<StoredBlock>,
}

impl Blocks {
    fn next(&mut self) -> Result<Option<StoredBlock>, Error> {
        if self.page.is_empty() {
            self.page = records::blocks_after(self.db, self.table, self.after)?.into();
            self.after = self.page.back().map_or(self.after, |last| last.number);
        }
        Ok(self.page.pop_front())
    }
}

/// The block that rows are compared with.
struct Open {
    number: i64,
    /// Rows that are there by their clocks, and have not come yet.
    live: u32,
    /// By place in [`Table::columns`], rows whose value has no clock; empty when all have.
    lacking: Vec<u32>,
}

struct Look {
    known: Regular,
    blocks: Blocks,
    open: Open,
    defaults: Vec<Option<Value>>,
}

impl Look {
    fn look(mut self, db: Db, reporter: &mut Reporter<'_>) -> Result<Option<Regular>, Halt> {
        let table = self.known.table.clone();
        let keys = table.key.iter().map(|column| &column.name);
        let names = keys.chain(table.columns.iter().map(|column| &column.name));
        let list: Vec<_> = names.map(|name| quote(name)).collect();
        let (rowid, list, name) = (table.rowid_name, list.join(", "), table.sql_name());
        let mut stmt = db.prepare(&format!("SELECT {rowid}, {list} FROM {name} ORDER BY {rowid}"))?;
        let mut rows = stmt.start();
        while rows.step()? {
            reporter.add(1)?;
            let rowid = rows.integer(0);
            if !self.take(rowid)? || !self.holds(&table, block_of(rowid).1, &rows) {
                return Ok(None);
            }
            if !table.rowid_is_key {
                self.known.keys.add(&rows, rowid, 1..1 + table.key.len() as i32);
            }
            self.known.rows += 1;
            self.known.ends = Some((self.known.ends.map_or(rowid, |(first, _)| first), rowid));
        }
        loop {
            if self.open.live != 0 {
                return Ok(None);
            }
            match self.blocks.next()? {
                Some(block) if self.begin(&block) => {}
                Some(_) => return Ok(None),
                None => return Ok(Some(self.known)),
            }
        }
    }

    /// Turns to a row; whether it has clocks, and those before it have rows.
    fn take(&mut self, rowid: i64) -> Result<bool, Error> {
        let (number, bit) = block_of(rowid);
        while self.open.number < number {
            if self.open.live != 0 {
                return Ok(false);
            }
            match self.blocks.next()? {
                Some(block) if self.begin(&block) => {}
                _ => return Ok(false),
            }
        }
        let known = self.open.number == number && self.open.live >> bit & 1 == 1;
        self.open.live &= !(1 << bit);
        Ok(known)
    }

    /// Turns to a block; whether it is regular.
    fn begin(&mut self, stored: &StoredBlock) -> bool {
        let table = self.known.table.clone();
        // A number beyond them would stand for other rows.
        let in_range = block_of(stored.number << BLOCK_SHIFT).0 == stored.number;
        let Some(dead) = dead_rows(&table, &stored.block).filter(|_| in_range) else { return false };
        let live = stored.block.rows() & !dead;
        self.open = Open { number: stored.number, live, lacking: Vec::new() };
        self.known.dead += u64::from(dead.count_ones());
        self.count(&table, &stored.block, live);
        true
    }

    fn count(&mut self, table: &Table, block: &Block, live: u32) {
        // Rows that were written as a whole, and nothing since.
        if let [group] = &*block.groups
            && group.cols == table.all
            && !table.columns.is_empty()
        {
            self.known.cells += u64::from(live.count_ones() * table.all.len());
            self.known.stamp = self.known.stamp.max(group.cv);
            return;
        }
        let mut lacking = vec![live; table.columns.len()];
        block.cells_since(0, |row, bit, CellClock { cv, .. }| {
            if let Some(place) = table.columns.iter().position(|column| column.bit == bit) {
                lacking[place] &= !(1 << row);
                self.known.cells += 1;
                self.known.stamp = self.known.stamp.max(cv);
            }
        });
        if lacking.iter().any(|rows| *rows != 0) {
            self.open.lacking = lacking;
        }
    }

    /// Whether a merge would store the values of a row as they are.
    fn holds(&self, table: &Table, bit: u32, row: &Run<'_>) -> bool {
        let of_key = |(column, at): (&crate::catalog::KeyColumn, i32)| {
            row.key_value(at).is_ok_and(|value| column.keeps(value))
        };
        let first = 1 + table.key.len() as i32;
        let holds = |(place, column): (usize, &Column)| {
            // Text that is not UTF-8 is merged as a blob.
            let Ok(value) = row.key_value(first + place as i32) else { return false };
            let lacks = self.open.lacking.get(place).is_some_and(|rows| rows >> bit & 1 == 1);
            let is_default =
                || self.defaults[place].as_ref().is_some_and(|value_of| value == value_of.as_ref());
            column.keeps(value) && len(value) <= Limits::default().value_bytes_max && (!lacks || is_default())
        };
        (table.rowid_is_key || table.key.iter().zip(1..).all(of_key))
            && table.columns.iter().enumerate().all(holds)
    }
}

const fn len(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(text) => text.len(),
        ValueRef::Blob(bytes) => bytes.len(),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
    }
}

/// The rows of a block of which only a tombstone is left; `None` when the groups contradict each other, or say what no walk
/// over the log tells.
fn dead_rows(table: &Table, block: &Block) -> Option<u32> {
    let (mut sentinels, mut dead, mut written) = (0, 0, 0);
    for group in &block.groups {
        if group.dv == 0 {
            return None;
        }
        if group.cols.contains(ColSet::SENTINEL) {
            if group.cols != ColSet::sentinel() || sentinels & group.rows != 0 || group.cv == 0 {
                return None;
            }
            sentinels |= group.rows;
            dead |= if group.cv.is_multiple_of(2) { group.rows } else { 0 };
        } else {
            written |= group.rows;
            if !group.cols.is_subset(&table.all) {
                return None;
            }
        }
    }
    let sound = block.max_dv > 0 && dead & written == 0 && (dead == 0 || table.rowid_is_key);
    sound.then_some(dead)
}
