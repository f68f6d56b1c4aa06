//! One clock table: what a record of it is, and the statements on it.

use opor_core::ValueRef;
use rusqlite::Error;

use crate::block::Block;
use crate::sqlite::{Db, Stmt, once};
use crate::varint::DamagedRecord;

/// A block with, in a keyed table, the packed key of its only row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) block: Block,
    pub(crate) key: Option<Box<[u8]>>,
    /// It was read from the clock table: it is written over there, unless it has been deleted since.
    pub(crate) stored: bool,
    /// The version of the commit of the tail that changed it last.
    pub(crate) filed: u64,
}

impl Record {
    /// As it stands in the clock table.
    pub(crate) fn stored(max_dv: u64, groups: &[u8], key: &[u8]) -> Result<Self, DamagedRecord> {
        let block = Block::decode(max_dv, groups)?;
        Ok(Self { block, key: (!key.is_empty()).then(|| key.into()), stored: true, filed: 0 })
    }

    /// Runs a statement that writes the record; `groups` are its encoded groups.
    fn write(&self, stmt: &mut Stmt, block: i64, groups: &[u8]) -> Result<(), Error> {
        let mut run = stmt.start();
        run.bind_integer(self.block.max_dv.cast_signed())?;
        run.bind_blob(groups)?;
        match &self.key {
            Some(key) => run.bind_blob(key)?,
            // Marks blocks that tell of dead rows only.
            None if self.block.live() == 0 => run.bind_blob(&[])?,
            None => run.bind(ValueRef::Null)?,
        }
        run.bind_integer(block)?;
        run.step()?;
        Ok(())
    }
}

/// The statements on one clock table.
#[derive(Debug)]
pub(crate) struct ClockSql {
    db: Db,
    table: u32,
    get: Option<Stmt>,
    range: Option<Stmt>,
    put: Option<Stmt>,
    update: Option<Stmt>,
    delete: Option<Stmt>,
    /// No block at or above this number is in the clock table.
    pub(crate) end: i64,
}

impl ClockSql {
    pub(crate) fn new(db: Db, table: u32) -> Self {
        Self { db, table, get: None, range: None, put: None, update: None, delete: None, end: i64::MAX }
    }

    pub(crate) fn get(&mut self) -> Result<&mut Stmt, Error> {
        let (db, id) = (self.db, self.table);
        let sql = || format!("SELECT max_db_version, groups, key FROM opor_clock_{id} WHERE block = ?");
        once(&mut self.get, || db.prepare(&sql()))
    }

    /// Parameters: the first block and the last.
    pub(crate) fn range(&mut self) -> Result<&mut Stmt, Error> {
        let (db, id) = (self.db, self.table);
        let sql = || {
            format!(
                "SELECT block, max_db_version, groups, key FROM opor_clock_{id} WHERE block BETWEEN ? AND ?"
            )
        };
        once(&mut self.range, || db.prepare(&sql()))
    }

    pub(crate) fn exists(&mut self, block: i64) -> Result<bool, Error> {
        let mut row = self.get()?.start();
        row.bind_integer(block)?;
        row.step()
    }

    /// Writes a record, over the one that is there or as a new one.
    pub(crate) fn write(&mut self, block: i64, record: &Record, groups: &[u8]) -> Result<(), Error> {
        let (db, id) = (self.db, self.table);
        // Replacing a row costs twice as much as updating it.
        if record.stored {
            let sql = || {
                format!("UPDATE opor_clock_{id} SET max_db_version = ?, groups = ?, key = ? WHERE block = ?")
            };
            record.write(once(&mut self.update, || db.prepare(&sql()))?, block, groups)?;
            if db.changes() > 0 {
                return Ok(());
            }
        }
        let sql = || {
            format!(
                "INSERT OR REPLACE INTO opor_clock_{id}(max_db_version, groups, key, block) VALUES (?, ?, ?, ?)"
            )
        };
        record.write(once(&mut self.put, || db.prepare(&sql()))?, block, groups)?;
        if self.end != i64::MAX {
            self.end = self.end.max(block.saturating_add(1));
        }
        Ok(())
    }

    /// Deletes the blocks from the first to the last of these numbers.
    pub(crate) fn delete(&mut self, first: i64, last: i64) -> Result<(), Error> {
        let (db, id) = (self.db, self.table);
        let sql = || format!("DELETE FROM opor_clock_{id} WHERE block BETWEEN ? AND ?");
        once(&mut self.delete, || db.prepare(&sql()))?.run(&[first, last])
    }

    /// See [`end`](Self::end).
    pub(crate) fn learn_end(&mut self) -> Result<(), Error> {
        if self.end == i64::MAX {
            let sql = format!("SELECT block FROM opor_clock_{} ORDER BY block DESC LIMIT 1", self.table);
            self.end = self.db.integer(&sql)?.map_or(i64::MIN, |last| last.saturating_add(1));
        }
        Ok(())
    }
}
