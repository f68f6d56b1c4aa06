//! Where the next rows of a changeset are. Rows travel in the order in which they stand in the sender's table, and mostly
//! stand here in the same: so after a row that was found by its key the next ones are read along with it, which is much
//! less work than looking each of them up. A guess that is wrong costs little, and is made less and less often.

use opor_core::{PackedKey, RowChange};
use rusqlite::Error;

use crate::catalog::Table;
use crate::engine::Engine;
use crate::merge::MergeSql;
use crate::sqlite::{Run, held};

/// Rows that are read along at once; twice as many save nothing more.
const AHEAD: usize = 32;
/// Fewer rows than this are looked up one by one: preparing a statement for them would take longer.
const AHEAD_MIN: usize = 16;
/// A guess that tells fewer places than this was not worth its statement.
const GAIN_MIN: usize = 2;
/// After so many guesses in a row that told little, one is made for each 2^10 rows.
const MISSES_MAX: u32 = 10;

/// The places of the next rows, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Neighbours<'a> {
    /// The rows whose places are known.
    rows: &'a [RowChange],
    /// Their rowids, the last row's first.
    rowids: Vec<i64>,
    /// How many rows had been moved or deleted when they were read.
    moves: u64,
    /// Guesses in a row that told little.
    misses: u32,
    /// For how many rows no guess is made.
    wait: u32,
}

impl<'a> Neighbours<'a> {
    /// The rowid of a row, if it is known and nothing was moved or deleted since.
    pub(crate) fn take(&mut self, engine: &Engine, row: &RowChange) -> Option<i64> {
        let (first, rest) = self.rows.split_first()?;
        if !std::ptr::eq(first, row) || engine.moves.get() != self.moves {
            self.rows = &[];
            self.rowids.clear();
            self.missed();
            return None;
        }
        self.rows = rest;
        self.rowids.pop()
    }

    /// Whether to read along now; called for every row that is merged by itself.
    pub(crate) fn is_time(&mut self, rows: &[RowChange]) -> bool {
        if self.wait > 0 {
            self.wait -= 1;
            return false;
        }
        self.rows.is_empty() && rows.len() >= AHEAD_MIN
    }

    /// Reads rows of a table after `last`, a rowid, as long as they are the next rows of the changeset.
    pub(crate) fn read(
        &mut self,
        engine: &Engine,
        sql: &mut MergeSql,
        table: &Table,
        rows: &'a [RowChange],
        last: i64,
    ) -> Result<(), Error> {
        let stmt = held(&mut sql.after, table.id, || {
            let (rowid, keys, name) = (table.rowid_name, table.key_list(), table.sql_name());
            engine.db.prepare(&format!(
                "SELECT {rowid}, {keys} FROM {name} NOT INDEXED WHERE {rowid} > ? ORDER BY {rowid}"
            ))
        })?;
        let mut run = stmt.start();
        run.bind_integer(last)?;
        self.rowids.clear();
        for row in &rows[..rows.len().min(AHEAD)] {
            let fits = row.table == rows[0].table && row.key.column_count() == table.key.len();
            if !fits || !run.step()? || !has_key(&run, &row.key) {
                break;
            }
            self.rowids.push(run.integer(0));
        }
        self.rows = &rows[..self.rowids.len()];
        self.rowids.reverse();
        self.moves = engine.moves.get();
        if self.rowids.len() < GAIN_MIN {
            self.missed();
        } else {
            self.misses = 0;
        }
        Ok(())
    }

    fn missed(&mut self) {
        self.wait = 1 << self.misses;
        self.misses = (self.misses + 1).min(MISSES_MAX);
    }
}

/// Whether the columns from the second on are a key, to the bit: then this is the row that has it, whatever the table
/// takes for equal.
fn has_key(run: &Run<'_>, key: &PackedKey) -> bool {
    key.packed_columns().zip(1..).all(|(column, place)| run.holds(place, column))
}
