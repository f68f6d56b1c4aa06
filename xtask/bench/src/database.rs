//! The two sides of a comparison: a table in plain SQLite, and the same table replicated.

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use opor_store::Store;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::shape::Shape;

/// What is being measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// An ordinary table.
    Plain,
    /// The same table, replicated.
    Opor,
}

/// Where databases live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Medium {
    /// In a file, WAL, synchronous NORMAL.
    File,
    /// In memory.
    Memory,
}

/// On what a case runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) shape: &'static Shape,
    pub(crate) rows: usize,
    pub(crate) medium: Medium,
    /// An empty folder for files.
    pub(crate) folder: &'a Path,
}

impl Setting<'_> {
    /// How many rows the cases take that commit row by row.
    pub(crate) const fn commits(&self) -> usize {
        self.rows / 10
    }

    /// The rows of the table.
    pub(crate) fn all_rows(&self) -> Vec<Vec<Value>> {
        self.shape.rows(self.rows)
    }

    /// A database with these rows, inserted in one transaction.
    pub(crate) fn filled(&self, side: Side, rows: &[Vec<Value>]) -> Result<Database> {
        let database = Database::open(self, side)?;
        in_transaction(&database, || insert(&database, self.shape, rows))?;
        Ok(database)
    }
}

/// One database of either kind, with the empty table of the shape; a file is deleted when it is dropped.
#[derive(Debug)]
pub(crate) struct Database {
    kind: Kind,
    file: Option<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    Plain(Connection),
    Opor(Box<Store>),
}

impl Database {
    /// Opens a new database; both kinds get the same pragmas.
    pub(crate) fn open(setting: &Setting<'_>, side: Side) -> Result<Self> {
        let file = match setting.medium {
            Medium::File => Some(unused_name(setting.folder)),
            Medium::Memory => None,
        };
        let kind = match (side, &file) {
            (Side::Plain, Some(file)) => Kind::Plain(Connection::open(file)?),
            (Side::Plain, None) => Kind::Plain(Connection::open_in_memory()?),
            (Side::Opor, Some(file)) => Kind::Opor(Box::new(Store::open(file)?)),
            (Side::Opor, None) => Kind::Opor(Box::new(Store::open_in_memory()?)),
        };
        let mut database = Self { kind, file };
        database.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 1000;
             PRAGMA cache_size = -2000; PRAGMA mmap_size = 0; PRAGMA temp_store = DEFAULT;",
        )?;
        database.execute_batch(setting.shape.schema)?;
        if let Kind::Opor(store) = &mut database.kind {
            store.replicate(setting.shape.table)?;
        }
        Ok(database)
    }

    /// The store, on the side that has one.
    pub(crate) fn store(&mut self) -> Result<&mut Store> {
        match &mut self.kind {
            Kind::Opor(store) => Ok(store),
            Kind::Plain(_) => anyhow::bail!("a plain database has no store"),
        }
    }

    /// The bytes that the database takes when it is packed.
    pub(crate) fn packed_bytes(&self) -> Result<f64> {
        self.execute_batch("VACUUM")?;
        let pages: i64 = self.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        Ok((pages * self.page_bytes()?) as f64)
    }

    /// Empties the write-ahead log and keeps it from being emptied by itself.
    pub(crate) fn keep_wal(&self) -> Result<()> {
        self.execute_batch("PRAGMA wal_autocheckpoint = 0")?;
        let busy: i64 = self.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        anyhow::ensure!(busy == 0, "the write-ahead log could not be emptied");
        Ok(())
    }

    /// The pages in the write-ahead log.
    pub(crate) fn wal_pages(&self) -> Result<f64> {
        let mut name =
            self.file.clone().context("a database in memory has no write-ahead log")?.into_os_string();
        name.push("-wal");
        let bytes = std::fs::metadata(&name).context("could not look at the write-ahead log")?.len();
        // The file format: a header of 32 bytes, then pages, each after a header of 24 bytes.
        Ok(bytes.saturating_sub(32) as f64 / (24 + self.page_bytes()?) as f64)
    }

    fn page_bytes(&self) -> Result<i64> {
        Ok(self.query_row("PRAGMA page_size", [], |row| row.get(0))?)
    }
}

/// Plain SQL, the same on both sides.
impl Deref for Database {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match &self.kind {
            Kind::Plain(connection) => connection,
            Kind::Opor(store) => store,
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The connection still holds the file open, which Unix does not mind; what is left goes with the folder.
        if let Some(file) = &self.file {
            for ending in ["", "-wal", "-shm"] {
                let mut name = file.clone().into_os_string();
                name.push(ending);
                let _ = std::fs::remove_file(name);
            }
        }
    }
}

fn unused_name(folder: &Path) -> PathBuf {
    let names = (0_u32..).map(|number| folder.join(format!("{number}.db")));
    names.into_iter().find(|name| !name.exists()).expect("a folder holds fewer than 2^32 files")
}

/// Runs `work` between BEGIN and COMMIT.
pub(crate) fn in_transaction(connection: &Connection, work: impl FnOnce() -> Result<()>) -> Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    work()?;
    Ok(connection.execute_batch("COMMIT")?)
}

/// Inserts rows with one held statement.
pub(crate) fn insert(connection: &Connection, shape: &Shape, rows: &[Vec<Value>]) -> Result<()> {
    let mut statement = connection.prepare(&shape.insert())?;
    for row in rows {
        statement.execute(params_from_iter(row))?;
    }
    Ok(())
}

/// Sets the counter of rows, by key, with one held statement.
pub(crate) fn update(connection: &Connection, shape: &Shape, rows: &[Vec<Value>], value: i64) -> Result<()> {
    let mut statement = connection.prepare(&shape.update_by_key(shape.counter))?;
    let value = Value::Integer(value);
    for row in rows {
        let parameters = std::iter::once(&value).chain(shape.key_of(row));
        let changed = statement.execute(params_from_iter(parameters))?;
        anyhow::ensure!(changed == 1, "an update by key changed {changed} rows");
    }
    Ok(())
}

/// Deletes rows, by key, with one held statement.
pub(crate) fn delete(connection: &Connection, shape: &Shape, rows: &[Vec<Value>]) -> Result<()> {
    let mut statement = connection.prepare(&shape.delete_by_key())?;
    for row in rows {
        statement.execute(params_from_iter(shape.key_of(row)))?;
    }
    Ok(())
}
