//! How much was committed after a cursor, roughly and quickly.

use opor_core::SiteId;
use rusqlite::Error;

use crate::block::BLOCK_SHIFT;
use crate::cursor::Cursor;
use crate::engine::Engine;
use crate::learnt::Reader;
use crate::read::{ReadError, resume};
use crate::sqlite::Db;
use crate::store::Store;

/// Tombstones in a chunk, about.
const TOMBS_A_CHUNK: u64 = 40;

impl Store {
    /// Whether the log after a cursor holds more than about so many rows, and these are at least half of all there are:
    /// then a snapshot is the shorter way.
    ///
    /// Records of clocks are counted, not rows, so it takes a millisecond for a million rows; and where there are few,
    /// no longer than it takes to find that out. A record that holds one new row among old ones counts whole.
    ///
    /// The cursor may be anybody's: see [`is_far_behind_for`](Self::is_far_behind_for).
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn is_far_behind(&self, cursor: &Cursor, rows: u64) -> Result<bool, ReadError> {
        self.engine.look_around()?;
        self.engine.in_snapshot(|| self.engine.is_far_behind(cursor, Reader::Anybody, rows))
    }

    /// As [`is_far_behind`](Self::is_far_behind), for the cursor of a peer. What this replica learnt from that peer of forgotten
    /// deletes does not put the peer behind.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn is_far_behind_for(&self, peer: SiteId, cursor: &Cursor, rows: u64) -> Result<bool, ReadError> {
        self.engine.look_around()?;
        self.engine.in_snapshot(|| self.engine.is_far_behind(cursor, Reader::Peer(peer), rows))
    }
}

impl Engine {
    fn is_far_behind(&self, cursor: &Cursor, reader: Reader, rows: u64) -> Result<bool, ReadError> {
        self.refresh()?;
        if self.is_behind(cursor, reader)? {
            return Err(ReadError::BehindHorizon { cursor: *cursor });
        }
        // What is not in the clock tables yet is never much.
        let catalog = self.catalog.borrow().clone();
        let (mut newer, mut all) = (0, 0);
        for table in &catalog.tables {
            let rows_a_record = if table.keyed { 1 } else { 1 << BLOCK_SHIFT };
            let (dv, place) = resume(table.id, cursor.base.0, cursor.position);
            let after = "WHERE (max_db_version, block) > (?, ?)";
            newer += rows_a_record * count(self.db, &table.clock_table(), after, Some((dv, place)))?;
        }
        let (dv, place) = resume(0, cursor.base.0, cursor.position);
        let after = "WHERE (max_db_version, id) > (?, ?)";
        newer += TOMBS_A_CHUNK * count(self.db, "opor_tombstone", after, Some((dv, place)))?;
        if newer <= rows {
            return Ok(false);
        }
        for table in &catalog.tables {
            let rows_a_record = if table.keyed { 1 } else { 1 << BLOCK_SHIFT };
            all += rows_a_record * count(self.db, &table.clock_table(), "", None)?;
        }
        all += TOMBS_A_CHUNK * count(self.db, "opor_tombstone", "", None)?;
        Ok(newer >= all / 2)
    }
}

fn count(db: Db, table: &str, condition: &str, after: Option<(i64, i64)>) -> Result<u64, Error> {
    let mut select = db.prepare(&format!("SELECT count(*) FROM {table} {condition}"))?;
    let mut row = select.start();
    if let Some((dv, place)) = after {
        row.bind_integer(dv)?;
        row.bind_integer(place)?;
    }
    Ok(if row.step()? { row.integer(0).max(0).cast_unsigned() } else { 0 })
}

#[cfg(test)]
mod tests {
    use opor_core::DbVersion;

    use super::*;

    fn insert(store: &Store, from: i64, to: i64) {
        let numbers =
            format!("WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})");
        store
            .execute_batch(&format!("INSERT INTO todos {numbers} SELECT i, 'todo' FROM n"))
            .expect("rows are written");
    }

    #[track_caller]
    fn check(store: &Store, base: u64, rows: u64, expected: bool) {
        let far = store.is_far_behind(&Cursor::at(DbVersion(base)), rows).expect("it counts");
        assert_eq!(far, expected, "after {base}, {rows} rows");
    }

    #[test]
    fn far_is_both_much_and_most_of_it() {
        for table in [
            "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title)",
            "CREATE TABLE todos(id PRIMARY KEY NOT NULL, title) WITHOUT ROWID",
        ] {
            let mut store = Store::open_in_memory().expect("a store");
            store.execute_batch(table).expect("a table");
            store.replicate("todos").expect("it replicates");
            check(&store, 0, 0, false);
            insert(&store, 1, 4_000);
            insert(&store, 4_001, 5_000);
            check(&store, 0, 3_000, true);
            check(&store, 0, 6_000, false);
            // A fifth of the rows, however many they are.
            check(&store, 1, 100, false);
            check(&store, 2, 0, false);
        }
    }

    #[test]
    fn a_cursor_of_another_history_is_named() {
        let store = Store::open_in_memory().expect("a store");
        let cursor = "7@77".parse().expect("a cursor");
        let far = store.is_far_behind(&cursor, 0);
        assert!(matches!(far, Err(ReadError::BehindHorizon { cursor: named }) if named == cursor), "{far:?}");
    }
}
