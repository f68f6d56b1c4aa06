//! Whether an index came over as its rows say. Its entries are copied beside the rows, so they are whatever the sender has put
//! there; but SQLite has put them in order here.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use opor_core::ValueRef;
use rusqlite::Error;

use crate::catalog::Table;
use crate::meta;
use crate::sqlite::{Db, Run, quote};

/// The keys of rows with their rowids, in any order, as one number: two sets that differ have the same with a chance of one in
/// 2^64, for nobody outside knows how they are hashed.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    state: RandomState,
    sum: u64,
    count: u64,
    /// The key that was added last, and room for the next.
    last: Vec<u8>,
    next: Vec<u8>,
    /// Whether two keys that were added one after the other, or a key with a real, may be one and the same to SQLite.
    pub(super) doubtful: bool,
}

impl Keys {
    /// As many keys as none, hashed in the same way.
    fn emptied(&self) -> Self {
        Self { state: self.state.clone(), ..Self::default() }
    }

    /// Adds a row whose key stands in these columns.
    pub(super) fn add(&mut self, row: &Run<'_>, rowid: i64, columns: std::ops::Range<i32>) {
        let mut key = std::mem::take(&mut self.next);
        key.clear();
        for column in columns {
            let (kind, bytes): (u8, &[u8]) = match row.value(column) {
                ValueRef::Integer(value) => {
                    key.push(1);
                    key.extend_from_slice(&value.to_le_bytes());
                    continue;
                }
                ValueRef::Text(text) => (2, text.as_bytes()),
                ValueRef::Blob(bytes) => (3, bytes),
                ValueRef::Null | ValueRef::Real(_) => {
                    self.doubtful = true;
                    (4, &[])
                }
            };
            key.push(kind);
            key.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            key.extend_from_slice(bytes);
        }
        self.doubtful |= self.count > 0 && key == self.last;
        let mut hasher = self.state.build_hasher();
        hasher.write_i64(rowid);
        hasher.write(&key);
        self.sum = self.sum.wrapping_add(hasher.finish());
        self.count += 1;
        self.next = std::mem::replace(&mut self.last, key);
    }

    /// Whether an index on the key of a table has just these entries, and no key twice. `false` may be wrong.
    pub(super) fn are_in(&self, db: Db, table: &Table, index: &str) -> Result<bool, Error> {
        if self.doubtful || !meta::is_binary_index(db, index)? {
            return Ok(false);
        }
        let (rowid, list, name) = (table.rowid_name, table.key_list(), table.sql_name());
        let sql = format!("SELECT {rowid}, {list} FROM {name} INDEXED BY {}", quote(index));
        let Ok(mut stmt) = db.prepare(&sql) else { return Ok(false) };
        let (mut found, mut entries) = (self.emptied(), stmt.start());
        while entries.step()? {
            let rowid = entries.integer(0);
            found.add(&entries, rowid, 1..1 + table.key.len() as i32);
            if found.doubtful {
                return Ok(false);
            }
        }
        Ok((found.count, found.sum) == (self.count, self.sum))
    }
}
