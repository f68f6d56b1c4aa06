//! The simulator's own table: every transaction leaves some rows in it, which nobody ever touches again.
//!
//! So a look at it says which transactions a replica has, in what order they came, and whether they are whole.

use opor_store::Store;
use opor_store::rusqlite::{Connection, Error, params};

/// Its name.
pub(crate) const TABLE: &str = "testkit_ledger";

/// What a transaction has there at most.
pub(crate) const PARTS_MAX: u64 = 3;

const CREATE: &str = "CREATE TABLE testkit_ledger(tx INTEGER NOT NULL, part INTEGER NOT NULL, parts INTEGER, \
                      PRIMARY KEY(tx, part))";

/// Some rows of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) tx: u64,
    /// How many rows there are.
    pub(crate) count: u64,
    /// How many there should be.
    pub(crate) parts: u64,
}

pub(crate) fn create(store: &mut Store) {
    store.execute_batch(CREATE).expect("the table is new");
    store.replicate(TABLE).expect("a table that can replicate");
}

/// Leaves the rows of a transaction, in the one that is open.
pub(crate) fn enter(conn: &Connection, tx: u64, parts: u64) -> Result<(), Error> {
    let mut insert = conn.prepare("INSERT INTO testkit_ledger VALUES (?, ?, ?)")?;
    (0..parts).try_for_each(|part| {
        insert.execute(params![tx.cast_signed(), part.cast_signed(), parts.cast_signed()]).map(drop)
    })
}

/// What has come since a place, which is moved on.
pub(crate) fn new_entries(conn: &Connection, since: &mut i64) -> Result<Vec<Entry>, Error> {
    let sql = "SELECT tx, count(*), max(parts), max(rowid) FROM testkit_ledger WHERE rowid > ? GROUP BY tx";
    let mut select = conn.prepare(sql)?;
    let mut rows = select.query([*since])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        entries.push(Entry { tx: number(0)?, count: number(1)?, parts: number(2)? });
        *since = row.get::<_, i64>(3)?.max(*since);
    }
    Ok(entries)
}

/// How many rows of a transaction are there.
pub(crate) fn count(conn: &Connection, tx: u64) -> Result<u64, Error> {
    let mut select = conn.prepare("SELECT count(*) FROM testkit_ledger WHERE tx = ?")?;
    select.query_row([tx.cast_signed()], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned)
}
