//! Where the record of deletes begins, once compaction has cut it: which cursors are too old, and what a key without a
//! tombstone may have been through. Owns the tables `opor_horizon`, `opor_epoch`, `opor_cut` and `opor_mark`, which the
//! first compaction makes.

use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::cursor::Cursor;
use crate::engine::Engine;
use crate::learnt::{self, Learnt, Reader};
use crate::meta;
use crate::sqlite::Db;

/// Shows in the schema that the log has been cut.
pub(crate) const HORIZON_TABLE: &str = "opor_horizon";
/// All four.
pub(crate) const TABLES: [&str; 4] = [HORIZON_TABLE, "opor_epoch", "opor_cut", "opor_mark"];
/// Past epochs that are remembered. A peer that has been away for more compactions than these starts over, even if it
/// missed nothing.
const EPOCHS_MAX: i64 = 1024;
/// Marks that are remembered: a year of one an hour.
const MARKS_MAX: i64 = 9_000;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS opor_horizon(id INTEGER PRIMARY KEY CHECK(id = 1), db_version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS opor_epoch(id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS opor_cut(table_id INTEGER PRIMARY KEY, cl INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS opor_mark(at_ms INTEGER PRIMARY KEY, db_version INTEGER NOT NULL);
INSERT OR IGNORE INTO opor_horizon VALUES (1, 0);
";

/// What compaction has cut off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    /// Tombstones at or below this version may be gone.
    pub(crate) horizon: u64,
    /// By table, the longest causal length among the tombstones that are gone.
    pub(crate) lengths: FxHashMap<u32, u64>,
    /// What others have forgotten, as far as it was learnt from snapshots.
    pub(crate) learnt: Vec<Learnt>,
}

impl Engine {
    /// Reads what has been cut, when the file may have changed.
    pub(crate) fn refresh_cut(&self) -> Result<(), Error> {
        if !self.cut_stale.get() {
            return Ok(());
        }
        let mut cut = if self.catalog.borrow().compacted { load(self.db)? } else { Cut::default() };
        if self.catalog.borrow().learns {
            cut.learnt = learnt::load(self.db)?;
        }
        *self.learnt.borrow_mut() = cut.learnt;
        self.clocks.borrow_mut().cut_lengths.clone_from(&cut.lengths);
        self.horizon.set(cut.horizon);
        self.cut_stale.set(false);
        Ok(())
    }

    /// Whether a cursor relies on deletes that are no longer on record, or is none of this replica's.
    pub(crate) fn is_behind(&self, cursor: &Cursor, reader: Reader) -> Result<bool, Error> {
        let (base, horizon) = (cursor.base.0, self.horizon_of(reader));
        if base > self.db_version() {
            return Ok(true);
        }
        match cursor.epoch {
            // Who starts from nothing misses no delete; who is in the middle of such a pull may.
            None if base == 0 && cursor.position.is_none() => Ok(false),
            None => Ok(base < horizon),
            Some(epoch) if epoch == self.meta.borrow().epoch => Ok(false),
            Some(epoch) => Ok(base < horizon || !self.is_past_epoch(epoch)?),
        }
    }

    /// Whether a place that somebody else remembers is one of the log here.
    pub(crate) fn is_of_history(&self, epoch: u64, base: u64) -> Result<bool, Error> {
        let is_known = epoch == self.meta.borrow().epoch || self.is_past_epoch(epoch)?;
        Ok(is_known && base <= self.db_version())
    }

    fn is_past_epoch(&self, epoch: u64) -> Result<bool, Error> {
        if !self.catalog.borrow().compacted {
            return Ok(false);
        }
        let mut stmt = self.db.prepare("SELECT 1 FROM opor_epoch WHERE epoch = ?")?;
        let mut row = stmt.start();
        row.bind_integer(epoch.cast_signed())?;
        row.step()
    }
}

fn load(db: Db) -> Result<Cut, Error> {
    let horizon =
        db.integer("SELECT db_version FROM opor_horizon WHERE id = 1")?.unwrap_or(0).cast_unsigned();
    let mut stmt = db.prepare("SELECT table_id, cl FROM opor_cut")?;
    let mut rows = stmt.start();
    let mut lengths = FxHashMap::default();
    while rows.step()? {
        lengths.insert(rows.integer(0) as u32, rows.integer(1).cast_unsigned());
    }
    Ok(Cut { horizon, lengths, learnt: Vec::new() })
}

/// Makes the tables.
pub(crate) fn create(db: Db) -> Result<(), Error> {
    db.exec(CREATE)?;
    learnt::create(db)
}

/// Moves the horizon up, and begins a new epoch: cursors of past ones hold from the horizon on.
pub(crate) fn advance(db: Db, horizon: u64) -> Result<(), Error> {
    db.prepare("UPDATE opor_horizon SET db_version = max(db_version, ?)")?.run(&[horizon.cast_signed()])?;
    begin_epoch(db)
}

/// Begins a new epoch, and puts the present one on record.
pub(crate) fn begin_epoch(db: Db) -> Result<(), Error> {
    db.exec("INSERT INTO opor_epoch(epoch) SELECT epoch FROM opor_meta WHERE id = 1")?;
    db.prepare("DELETE FROM opor_epoch WHERE id <= (SELECT max(id) FROM opor_epoch) - ?")?
        .run(&[EPOCHS_MAX])?;
    meta::new_epoch(db)
}

/// Records that tombstones of a table of up to this causal length are gone.
pub(crate) fn save_length(db: Db, table: u32, cl: u64) -> Result<(), Error> {
    let mut stmt = db.prepare(
        "INSERT INTO opor_cut(table_id, cl) VALUES (?, ?) ON CONFLICT(table_id) DO UPDATE SET cl = max(cl, excluded.cl)",
    )?;
    stmt.run(&[i64::from(table), cl.cast_signed()])
}

/// Notes which version there is at this time.
pub(crate) fn save_mark(db: Db, at_ms: u64, db_version: u64) -> Result<(), Error> {
    db.prepare("INSERT OR REPLACE INTO opor_mark(at_ms, db_version) VALUES (?, ?)")?
        .run(&[at_ms.cast_signed(), db_version.cast_signed()])?;
    db.prepare(
        "DELETE FROM opor_mark WHERE at_ms <= (SELECT at_ms FROM opor_mark ORDER BY at_ms DESC LIMIT 1 OFFSET ? + 0)",
    )?
    .run(&[MARKS_MAX])
}

/// The newest version that is known to have been there by this time.
pub(crate) fn marked_by(db: Db, at_ms: u64) -> Result<u64, Error> {
    let mut stmt = db.prepare("SELECT max(db_version) FROM opor_mark WHERE at_ms <= ?")?;
    let mut row = stmt.start();
    row.bind_integer(at_ms.cast_signed())?;
    Ok(if row.step()? { row.integer(0).cast_unsigned() } else { 0 })
}

/// Forgets the marks, which are of this replica alone. For a copy that others look at: by the past epochs they see which of
/// their cursors are of this history.
pub(crate) fn forget_marks(db: Db) -> Result<(), Error> {
    if meta::is_table(db, HORIZON_TABLE)? { db.exec("DELETE FROM opor_mark") } else { Ok(()) }
}

/// Forgets the past epochs as well; what is cut stays cut. For a copy that becomes another replica.
pub(crate) fn forget_cursors(db: Db) -> Result<(), Error> {
    if meta::is_table(db, HORIZON_TABLE)? {
        db.exec("DELETE FROM opor_epoch; DELETE FROM opor_mark")?;
    }
    Ok(())
}

/// Versions start over, so nothing is cut.
pub(crate) fn restart(db: Db) -> Result<(), Error> {
    if meta::is_table(db, HORIZON_TABLE)? {
        db.exec("UPDATE opor_horizon SET db_version = 0; DELETE FROM opor_cut")?;
    }
    learnt::restart(db)?;
    forget_cursors(db)
}
