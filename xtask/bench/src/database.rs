//! The sides of a comparison: the same table in plain SQLite, kept by hand, in cr-sqlite, and in opor.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use opor_store::Store;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::crsqlite;
use crate::floor::Floor;
use crate::shape::{Row, Shape};
use crate::statements::Statements;

/// What is being measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Side {
    /// An ordinary table.
    Plain,
    /// An ordinary table with columns for merging, and the statements that a person would write; see
    /// [`crate::statements`].
    ByHand,
    /// The same table, replicated by the genuine cr-sqlite.
    CrSqlite,
    /// The same table, replicated by opor.
    Opor,
    /// An ordinary table, with what opor has SQLite do for each write; see [`crate::floor`].
    Floor,
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
    /// How many tables of the shape there are; rows are in the first.
    pub(crate) tables: usize,
    pub(crate) medium: Medium,
    /// A folder for files; what filled databases it holds is used again.
    pub(crate) folder: &'a Path,
    /// The extension of cr-sqlite.
    pub(crate) crsqlite: Option<&'a Path>,
}

impl Setting<'_> {
    /// How many rows the cases take that commit row by row.
    pub(crate) const fn commits(&self) -> usize {
        self.rows / 10
    }

    /// Every row of the table, some at a time.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = Vec<Row>> {
        self.shape.chunks(0..self.rows)
    }

    /// A database with all rows, inserted in one transaction. A file is filled once and then copied.
    pub(crate) fn filled(&self, side: Side) -> Result<Database> {
        if self.medium == Medium::Memory {
            return self.fill(Database::open(self, side)?);
        }
        let (rows, tables, letter) = (self.rows, self.tables, self.shape.letter);
        let pattern = self.folder.join(format!("{side:?}-{letter}-{rows}-{tables}.filled"));
        if !pattern.exists() {
            let mut filled = self.fill(Database::open(self, side)?)?;
            let file = filled.file.take().context("a database on disk has a file")?;
            // The last connection to a file empties the write-ahead log when it closes.
            drop(filled);
            std::fs::rename(&file, &pattern).context("could not keep a filled database")?;
        }
        let file = unused_name(self.folder);
        std::fs::copy(&pattern, &file).context("could not copy a filled database")?;
        Database::connect(self, side, Some(file))
    }

    fn fill(&self, database: Database) -> Result<Database> {
        in_transaction(&database, || self.chunks().try_for_each(|rows| database.insert(&rows)))?;
        Ok(database)
    }
}

/// One database of any side, with the tables of the shape; a file is deleted when it is dropped.
#[derive(Debug)]
pub(crate) struct Database {
    kind: Kind,
    pub(crate) sql: Statements,
    file: Option<PathBuf>,
}

#[derive(Debug)]
enum Kind {
    Sql(Connection),
    Opor(Box<Store>),
    Floor(Floor),
}

/// The clock of the tables kept by hand. One for all, as if all had the same time: who writes later wins.
static STAMP: AtomicI64 = AtomicI64::new(1);

/// The next stamp of a table kept by hand.
pub(crate) fn stamp() -> i64 {
    STAMP.fetch_add(1, Ordering::Relaxed)
}

impl Database {
    /// A new database with empty tables, which replicate.
    pub(crate) fn open(setting: &Setting<'_>, side: Side) -> Result<Self> {
        let file = (setting.medium == Medium::File).then(|| unused_name(setting.folder));
        let mut database = Self::connect(setting, side, file)?;
        for table in database.tables(setting) {
            database.execute_batch(&database.sql.shape.schema(&table))?;
            database.replicate(&table)?;
        }
        Ok(database)
    }

    /// A database with all rows in an ordinary table, in the hands of a side that could replicate it.
    pub(crate) fn unreplicated(setting: &Setting<'_>, side: Side) -> Result<Self> {
        let mut plain = setting.filled(Side::Plain)?;
        let file = plain.file.take().context("a table in memory cannot change hands")?;
        drop(plain);
        Self::connect(setting, side, Some(file))
    }

    /// Opens a file, or memory; every side gets the same pragmas.
    fn connect(setting: &Setting<'_>, side: Side, file: Option<PathBuf>) -> Result<Self> {
        let sql = Statements { shape: setting.shape, side };
        let database = Self { kind: Kind::open(setting, side, file.as_deref())?, sql, file };
        database.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 1000;
             PRAGMA cache_size = -2000; PRAGMA mmap_size = 0; PRAGMA temp_store = DEFAULT;",
        )?;
        Ok(database)
    }

    /// One more connection to the file, up to the first answer from it; it is closed again by the caller.
    pub(crate) fn open_again(&self, setting: &Setting<'_>) -> Result<Self> {
        let file = self.file.as_deref().context("a database in memory cannot be opened twice")?;
        let kind = Kind::open(setting, self.sql.side, Some(file))?;
        let again = Self { kind, sql: self.sql, file: None };
        again.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        Ok(again)
    }

    /// Makes a table replicate.
    pub(crate) fn replicate(&mut self, table: &str) -> Result<()> {
        match &mut self.kind {
            Kind::Sql(connection) => Ok(connection.execute_batch(&self.sql.replicate(table))?),
            Kind::Opor(store) => Ok(store.replicate(table)?),
            Kind::Floor(floor) => floor.guard(self.sql.shape, table),
        }
    }

    fn tables(&self, setting: &Setting<'_>) -> Vec<String> {
        let first = self.sql.shape.table;
        let others = (1..setting.tables).map(|number| format!("{first}_{number}"));
        std::iter::once(first.to_owned()).chain(others).collect()
    }

    /// The file, of a database that is not in memory.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The store, on the side that has one.
    pub(crate) const fn store(&self) -> Option<&Store> {
        match &self.kind {
            Kind::Opor(store) => Some(store),
            Kind::Sql(_) | Kind::Floor(_) => None,
        }
    }

    /// As [`store`](Self::store), to merge.
    pub(crate) const fn store_mut(&mut self) -> Option<&mut Store> {
        match &mut self.kind {
            Kind::Opor(store) => Some(store),
            Kind::Sql(_) | Kind::Floor(_) => None,
        }
    }

    /// Inserts rows with one held statement.
    pub(crate) fn insert(&self, rows: &[Row]) -> Result<()> {
        self.write(&self.sql.insert(), rows.iter().map(|row| row.iter()))
    }

    /// Sets the counter of rows, by key, with one held statement.
    pub(crate) fn update(&self, rows: &[Row], value: i64) -> Result<()> {
        let sql = self.sql.update_by_key(&[self.sql.shape.counter]);
        let value = Value::Integer(value);
        self.write(&sql, rows.iter().map(|row| std::iter::once(&value).chain(self.sql.shape.key_of(row))))
    }

    /// Deletes rows, by key, with one held statement.
    pub(crate) fn delete(&self, rows: &[Row]) -> Result<()> {
        self.write(&self.sql.delete_by_key(), rows.iter().map(|row| self.sql.shape.key_of(row).iter()))
    }

    /// Runs one statement for every list of parameters; each must change one row.
    pub(crate) fn write<'v, P>(&self, sql: &str, rows: impl IntoIterator<Item = P>) -> Result<()>
    where
        P: Iterator<Item = &'v Value>,
    {
        let mut statement = self.prepare(sql)?;
        let stamp_place = self.sql.stamped().then(|| statement.parameter_count());
        for parameters in rows {
            for (value, place) in parameters.zip(1..) {
                statement.raw_bind_parameter(place, value)?;
            }
            if let Some(place) = stamp_place {
                statement.raw_bind_parameter(place, stamp())?;
            }
            let changed = statement.raw_execute()?;
            anyhow::ensure!(changed == 1, "{changed} rows were changed by {sql}");
        }
        Ok(())
    }

    /// Runs one statement with these parameters; the stamp is added where there is one.
    pub(crate) fn write_once(&self, sql: &str, parameters: &[Value]) -> Result<usize> {
        let stamp = self.sql.stamped().then(|| Value::Integer(stamp()));
        Ok(self.execute(sql, params_from_iter(parameters.iter().chain(&stamp)))?)
    }

    /// On the side that is the floor of commits: has each write logged in a table of its own.
    pub(crate) fn keep_log(&self) -> Result<()> {
        match &self.kind {
            Kind::Floor(floor) => floor.keep_log(self.sql.shape.table),
            Kind::Sql(_) | Kind::Opor(_) => Ok(()),
        }
    }

    /// Empties the page cache. The SQLite that is built here has one cache for all connections, and what one of them
    /// keeps another cannot use: with a second full database open, a large transaction reads every page anew.
    pub(crate) fn let_go_of_pages(&self) -> Result<()> {
        Ok(self.execute_batch("PRAGMA shrink_memory")?)
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

impl Kind {
    fn open(setting: &Setting<'_>, side: Side, file: Option<&Path>) -> Result<Self> {
        if side == Side::Opor {
            let store = file.map_or_else(Store::open_in_memory, Store::open)?;
            return Ok(Self::Opor(Box::new(store)));
        }
        let connection = file.map_or_else(Connection::open_in_memory, Connection::open)?;
        if side == Side::Floor {
            return Ok(Self::Floor(Floor::new(connection, setting.shape)?));
        }
        if side == Side::CrSqlite {
            crsqlite::load(&connection, setting.crsqlite.context("cr-sqlite is not at hand")?)?;
        }
        Ok(Self::Sql(connection))
    }
}

/// Plain SQL, the same on every side.
impl Deref for Database {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match &self.kind {
            Kind::Sql(connection) => connection,
            Kind::Opor(store) => store,
            Kind::Floor(floor) => &floor.connection,
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.sql.side == Side::CrSqlite {
            crsqlite::finish(self);
        }
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
