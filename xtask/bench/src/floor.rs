//! A floor: a plain table, with what opor has SQLite itself do for each write, and nothing of its own. What that takes, no
//! code behind SQLite's hook can take less.
//!
//! It is the guard; a preupdate hook, which asks for the values that opor has to know; and where rows are committed one by
//! one, a short row of a log in the same transaction.
#![expect(unsafe_code, reason = "SQLite's hook is a C callback")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use anyhow::Result;
use opor_store::Store;
use rusqlite::{Connection, ffi};

use crate::shape::Shape;

/// A connection with the hook.
#[derive(Debug)]
pub(crate) struct Floor {
    // Closed before what the hook reads goes: fields are dropped in this order.
    pub(crate) connection: Connection,
    _asked: Box<Asked>,
}

/// Which values the hook asks for.
#[derive(Debug)]
struct Asked {
    /// How many columns of the key, which come first: those of a row that is deleted. None where the rowid is the key.
    key: c_int,
    /// The column that updates write.
    counter: c_int,
}

impl Floor {
    pub(crate) fn new(connection: Connection, shape: &Shape) -> Result<Self> {
        // Guards name it; their condition is false, so it compares nothing.
        connection.create_collation("opor_guard", |one, other| one.cmp(other))?;
        let counter = shape.others.iter().position(|column| column == shape.counter).unwrap_or(0);
        let asked = Box::new(Asked {
            key: if shape.rowid_is_key() { 0 } else { shape.key.len() as c_int },
            counter: (shape.key.len() + counter) as c_int,
        });
        // SAFETY: the handle is open, and what the hook reads lives until it is closed.
        unsafe {
            let context = ptr::from_ref(&*asked).cast_mut().cast::<c_void>();
            ffi::sqlite3_preupdate_hook(connection.handle(), Some(on_change), context);
        }
        Ok(Self { connection, _asked: asked })
    }

    /// Puts the guard on a table that a replicated table of the same definition has.
    pub(crate) fn guard(&self, shape: &Shape, table: &str) -> Result<()> {
        let mut store = Store::open_in_memory()?;
        store.execute_batch(&shape.schema(table))?;
        store.replicate(table)?;
        let guard = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND name GLOB 'opor_guard_*'";
        let guard: String = store.query_row(guard, [table], |row| row.get(0))?;
        // Each is the first guard of its store.
        let named = guard.replacen("opor_guard_1", &format!("opor_guard_{table}"), 1);
        Ok(self.connection.execute_batch(&named)?)
    }

    /// From now on every row that is inserted or updated adds one to a log: as long as what opor logs of it.
    pub(crate) fn keep_log(&self, table: &str) -> Result<()> {
        let mut sql = "CREATE TABLE floor_log(version INTEGER PRIMARY KEY, body BLOB);".to_owned();
        for event in ["INSERT", "UPDATE"] {
            sql += &format!(
                "CREATE TRIGGER floor_{event} AFTER {event} ON {table} BEGIN
                     INSERT INTO floor_log(body) VALUES (x'00112233445566778899aabbccddeeff');
                 END;"
            );
        }
        Ok(self.connection.execute_batch(&sql)?)
    }
}

unsafe extern "C" fn on_change(
    asked: *mut c_void,
    db: *mut ffi::sqlite3,
    op: c_int,
    _database: *const c_char,
    _table: *const c_char,
    _old_row: i64,
    _new_row: i64,
) {
    let mut value = ptr::null_mut();
    // SAFETY: `new` was given what outlives the connection; the values are asked for within the hook, on sides that this
    // kind of change has.
    unsafe {
        let asked = &*asked.cast::<Asked>();
        match op {
            ffi::SQLITE_UPDATE => {
                ffi::sqlite3_preupdate_old(db, asked.counter, &raw mut value);
                ffi::sqlite3_preupdate_new(db, asked.counter, &raw mut value);
            }
            ffi::SQLITE_DELETE => (0..asked.key).for_each(|column| {
                ffi::sqlite3_preupdate_old(db, column, &raw mut value);
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::SHAPES;

    #[test]
    fn a_write_is_guarded_and_logged() {
        for shape in &SHAPES[..3] {
            let floor = Floor::new(Connection::open_in_memory().unwrap(), shape).unwrap();
            floor.connection.execute_batch(&shape.schema(shape.table)).unwrap();
            floor.guard(shape, shape.table).unwrap();
            floor.keep_log(shape.table).unwrap();
            let row: Vec<String> = shape.row(0).iter().map(|_| "1".to_owned()).collect();
            let insert = format!("INSERT INTO {} VALUES ({})", shape.table, row.join(", "));
            floor.connection.execute_batch(&insert).unwrap();
            let update = format!("UPDATE {} SET {} = 2", shape.table, shape.counter);
            assert_eq!(floor.connection.execute(&update, []), Ok(1));
            let count = |table: &str| {
                let sql = format!("SELECT count(*) FROM {table}");
                floor.connection.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap()
            };
            assert_eq!(count("floor_log"), 2, "shape {}", shape.letter);
            assert_eq!(count("sqlite_schema WHERE name GLOB 'opor_guard_*'"), 1);
            assert_eq!(
                floor.connection.execute(&format!("DELETE FROM {} WHERE rowid = 1", shape.table), []),
                Ok(1)
            );
        }
    }
}
