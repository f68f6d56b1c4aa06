//! Rows of replicated tables, walked by key or rowid, and what is known of each.

use std::rc::Rc;

use opor_core::{PackedKey, Value};
use rusqlite::Error;

use crate::block::CellClock;
use crate::catalog::Table;
use crate::engine::Engine;
use crate::replay::row_cells;
use crate::replicate::read_key;
use crate::sqlite::{Stmt, quote};

/// Rows that are read at a time.
const PAGE: usize = 2048;

/// Where a row is.
#[derive(Clone, Debug)]
pub(crate) struct RowPlace {
    /// 0 in a table that is found by key.
    pub(crate) rowid: i64,
    pub(crate) key: PackedKey,
}

impl Engine {
    /// The next rows of a table after one.
    pub(crate) fn rows_after(&self, table: &Table, after: Option<&RowPlace>) -> Result<Vec<RowPlace>, Error> {
        let (name, list) = (table.sql_name(), table.key_list());
        let (what, order) =
            if table.keyed { ("0", list.as_str()) } else { (table.rowid_name, table.rowid_name) };
        let condition = match after {
            None => String::new(),
            Some(_) if table.keyed => {
                let marks = vec!["?"; table.key.len()].join(", ");
                format!("WHERE ({list}) > ({marks})")
            }
            Some(_) => format!("WHERE {order} > ?"),
        };
        let sql = format!("SELECT {what}, {list} FROM {name} {condition} ORDER BY {order} LIMIT {PAGE}");
        let mut select = self.db.prepare(&sql)?;
        let mut rows = select.start();
        match after {
            Some(after) if table.keyed => after.key.columns().try_for_each(|column| rows.bind(column))?,
            Some(after) => rows.bind_integer(after.rowid)?,
            None => {}
        }
        let mut page = Vec::new();
        while rows.step()? {
            let key = PackedKey::from_packed(&read_key(table, &rows, 1)?);
            page.push(RowPlace { rowid: rows.integer(0), key });
        }
        Ok(page)
    }

    /// What is known of a row.
    pub(crate) fn row_clocks(&self, table: &Rc<Table>, row: &RowPlace) -> Result<RowClocks, Error> {
        let mut clocks = self.clocks.borrow_mut();
        let (id, bit) = clocks.place_of(table, row.rowid, row.key.as_bytes())?;
        let block = &clocks.peek(id)?.block;
        Ok(RowClocks { cl: block.cl(bit), cells: row_cells(block, bit) })
    }
}

/// The clocks of a row.
#[derive(Debug)]
pub(crate) struct RowClocks {
    /// The causal length; 0 when there are no clocks.
    pub(crate) cl: u64,
    /// By bit, the sentinel included.
    pub(crate) cells: Vec<(u32, CellClock)>,
}

impl RowClocks {
    /// The oldest and the newest version in which something was written to the row, as it is.
    pub(crate) fn versions(&self) -> (u64, u64) {
        let versions = || self.cells.iter().map(|(_, clock)| clock.dv);
        (versions().min().unwrap_or(0), versions().max().unwrap_or(0))
    }
}

/// Reads the values of rows of one table, many times.
#[derive(Debug)]
pub(crate) struct RowValues {
    select: Stmt,
}

impl RowValues {
    pub(crate) fn new(engine: &Engine, table: &Table) -> Result<Self, Error> {
        let columns: Vec<_> = table.columns.iter().map(|column| quote(&column.name)).collect();
        let columns = if columns.is_empty() { "1".to_owned() } else { columns.join(", ") };
        let (name, condition) = (table.sql_name(), table.key_condition());
        Ok(Self { select: engine.db.prepare(&format!("SELECT {columns} FROM {name} WHERE {condition}"))? })
    }

    /// The values of a row in table order; `None` when it is not there.
    pub(crate) fn read(&mut self, table: &Table, key: &PackedKey) -> Result<Option<Vec<Value>>, Error> {
        let mut row = self.select.start();
        key.columns().try_for_each(|column| row.bind(column))?;
        if !row.step()? {
            return Ok(None);
        }
        let values = (0..table.columns.len() as i32).map(|i| row.value(i).to_owned());
        Ok(Some(values.collect()))
    }
}

/// Asks for rows of one table by key, many times.
#[derive(Debug)]
pub(crate) struct RowLookup {
    find: Stmt,
    key_columns: usize,
}

impl RowLookup {
    pub(crate) fn new(engine: &Engine, table: &Table) -> Result<Self, Error> {
        let sql = format!("SELECT 1 FROM {} WHERE {}", table.sql_name(), table.key_condition());
        Ok(Self { find: engine.db.prepare(&sql)?, key_columns: table.key.len() })
    }

    /// Whether there is a row of this key.
    pub(crate) fn has(&mut self, key: &PackedKey) -> Result<bool, Error> {
        if self.key_columns != key.column_count() {
            return Ok(false);
        }
        let mut row = self.find.start();
        key.columns().try_for_each(|column| row.bind(column))?;
        row.step()
    }
}
