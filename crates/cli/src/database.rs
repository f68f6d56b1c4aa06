//! Database files named on the command line: what they are, before anything is done to them.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use opor_core::Value;
use opor_store::Store;
use rusqlite::{Connection, OpenFlags};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or an empty file.
    New,
    /// A database that opor has not been used on.
    Plain,
    /// A database with the tables of opor, or of cr-sqlite, in it.
    Replicated,
}

/// Looks at a path without changing anything.
///
/// # Errors
/// When it is no database, or cannot be read.
pub(crate) fn kind(path: &Path) -> anyhow::Result<Kind> {
    // SQLite would take such a name for an URI.
    ensure!(
        !path.to_string_lossy().starts_with("file:"),
        "{}: a name cannot begin with file:",
        path.display()
    );
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Kind::New),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    ensure!(!file.metadata()?.is_dir(), "{} is a directory, not a database", path.display());
    let mut head = Vec::new();
    file.by_ref()
        .take(16)
        .read_to_end(&mut head)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if head.is_empty() {
        return Ok(Kind::New);
    }
    ensure!(head == MAGIC, "{} is not an SQLite database", path.display());
    let known = "SELECT count(*) FROM sqlite_schema WHERE name IN ('opor_meta', 'crsql_site_id')";
    let count: i64 = read_only(path)?
        .query_row(known, [], |row| row.get(0))
        .with_context(|| format!("{} is not an SQLite database that can be read", path.display()))?;
    Ok(if count > 0 { Kind::Replicated } else { Kind::Plain })
}

/// Opens a database that opor has been used on.
///
/// # Errors
/// When it is anything else: opening would turn it into one.
pub(crate) fn open_replicated(path: &Path) -> anyhow::Result<Store> {
    match kind(path)? {
        Kind::New => bail!("{} does not exist or is empty; `opor init` makes a database", path.display()),
        Kind::Plain => bail!("{} has no replicated tables yet; see `opor init`", path.display()),
        Kind::Replicated => open(path),
    }
}

/// Opens or creates a database.
pub(crate) fn open(path: &Path) -> anyhow::Result<Store> {
    Store::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// A plain connection that cannot write.
pub(crate) fn read_only(path: &Path) -> anyhow::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).with_context(|| format!("cannot open {}", path.display()))
}

/// An identifier as SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The tables of an application: not those of SQLite, opor or cr-sqlite, not virtual ones or what is behind them.
pub(crate) fn user_tables(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut select = db.prepare(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'opor\\_%' ESCAPE '\\' \
         AND name NOT LIKE 'crsql\\_%' ESCAPE '\\' AND name NOT LIKE '%\\_\\_crsql\\_%' ESCAPE '\\' \
         ORDER BY name",
    )?;
    select.query_map([], |row| row.get(0))?.collect()
}

/// The statements that make a table and its indexes, the table first.
pub(crate) fn statements(db: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut select = db.prepare(
        "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 AND type IN ('table', 'index') AND sql IS NOT NULL \
         ORDER BY type = 'index', rowid",
    )?;
    select.query_map([table], |row| row.get(0))?.collect()
}

/// How many rows a table has.
pub(crate) fn row_count(db: &Connection, table: &str) -> rusqlite::Result<u64> {
    let count: i64 =
        db.query_row(&format!("SELECT count(*) FROM {}", quoted(table)), [], |row| row.get(0))?;
    Ok(count.cast_unsigned())
}

/// The files of a database that exist, with their sizes: the database, its WAL.
pub(crate) fn files(path: &Path) -> Vec<(PathBuf, u64)> {
    let with_suffix = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let names = ["", "-wal"].map(with_suffix);
    names.into_iter().filter_map(|name| Some((name.clone(), std::fs::metadata(&name).ok()?.len()))).collect()
}

/// A value as an SQL literal, for people.
pub(crate) fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::Integer(v) => v.to_string(),
        Value::Real(v) => format!("{v:?}"),
        Value::Text(v) => format!("'{}'", v.replace('\'', "''")),
        Value::Blob(v) => format!("x'{}'", hex(v)),
    }
}

/// Bytes in hex, at most 32 of them.
fn hex(bytes: &[u8]) -> String {
    let mut text: String = bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > 32 {
        text.push('…');
    }
    text
}
