//! The store's own tables: their definitions, and the only text of most of their queries.

use opor_core::{SiteId, WallMillis};
use rusqlite::Error;

use crate::catalog::{Catalog, Table};
use crate::colset::ColSet;
use crate::cursor::{Cursor, CursorError};
use crate::horizon;
use crate::options::ClockPolicy;
use crate::repair::Incident;
use crate::sqlite::{Db, failure, quote};

/// The layout this code writes. A file with a larger number is refused.
pub(crate) const FORMAT: i64 = 4;

/// Tombstones, in chunks of neighbouring keys of one table.
pub(crate) const TOMBSTONES: &str = "
CREATE TABLE opor_tombstone(
    id INTEGER PRIMARY KEY, table_id INTEGER NOT NULL, first BLOB NOT NULL, max_db_version INTEGER NOT NULL,
    body BLOB NOT NULL);
CREATE UNIQUE INDEX opor_tombstone_key ON opor_tombstone(table_id, first);
CREATE INDEX opor_tombstone_version ON opor_tombstone(max_db_version);
";

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS crsql_site_id(site_id BLOB NOT NULL, ordinal INTEGER PRIMARY KEY);
CREATE UNIQUE INDEX IF NOT EXISTS crsql_site_id_site_id ON crsql_site_id(site_id);
CREATE TABLE IF NOT EXISTS crsql_master(\"key\" TEXT PRIMARY KEY, \"value\" ANY);
CREATE TABLE IF NOT EXISTS crsql_tracked_peers(
    site_id BLOB NOT NULL, version INTEGER NOT NULL, seq INTEGER DEFAULT 0, tag INTEGER, event INTEGER,
    PRIMARY KEY(site_id, tag, event)) STRICT;
CREATE TABLE opor_meta(
    id INTEGER PRIMARY KEY CHECK(id = 1), format INTEGER NOT NULL, policy INTEGER NOT NULL,
    db_version INTEGER NOT NULL, hlc INTEGER NOT NULL, epoch INTEGER NOT NULL, hash_seed INTEGER NOT NULL,
    merge_equal_values INTEGER NOT NULL);
CREATE TABLE opor_table(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL);
CREATE TABLE opor_column(
    table_id INTEGER NOT NULL, bit INTEGER NOT NULL, name TEXT NOT NULL, live INTEGER NOT NULL,
    PRIMARY KEY(table_id, bit)) WITHOUT ROWID;
CREATE TABLE opor_tail(db_version INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE opor_incident(
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, table_name TEXT NOT NULL, what TEXT NOT NULL);
CREATE TABLE opor_cursor(
    peer BLOB PRIMARY KEY NOT NULL, pulled TEXT, acknowledged INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
";

/// The only row of `opor_meta`, with `db_version` brought up to the tail's.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) policy: ClockPolicy,
    pub(crate) db_version: u64,
    /// Nothing in the clock tables is newer than this.
    pub(crate) folded: u64,
    pub(crate) hlc: u64,
    pub(crate) epoch: u64,
    pub(crate) hash_seed: u64,
    pub(crate) merge_equal_values: bool,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            policy: ClockPolicy::Lamport,
            db_version: 0,
            folded: 0,
            hlc: 0,
            epoch: 0,
            hash_seed: 0,
            merge_equal_values: false,
        }
    }
}

impl Meta {
    pub(crate) fn load(db: Db) -> Result<Self, Error> {
        let mut stmt = db.prepare(
            "SELECT policy, db_version, hlc, epoch, hash_seed, merge_equal_values FROM opor_meta WHERE id = 1",
        )?;
        let mut row = stmt.start();
        if !row.step()? {
            return Err(failure("opor_meta is empty"));
        }
        Ok(Self {
            policy: if row.integer(0) == 1 { ClockPolicy::Hlc } else { ClockPolicy::Lamport },
            db_version: row.integer(1).cast_unsigned(),
            folded: row.integer(1).cast_unsigned(),
            hlc: row.integer(2).cast_unsigned(),
            epoch: row.integer(3).cast_unsigned(),
            hash_seed: row.integer(4).cast_unsigned(),
            merge_equal_values: row.integer(5) != 0,
        })
    }
}

/// The format of the file; 0 when it has none of the store's tables yet.
pub(crate) fn format(db: Db) -> Result<i64, Error> {
    let exists =
        db.integer("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'opor_meta'")?;
    match exists {
        None => Ok(0),
        Some(_) => Ok(db.integer("SELECT format FROM opor_meta WHERE id = 1")?.unwrap_or(0)),
    }
}

/// Makes the store's tables, in the open transaction.
pub(crate) fn create(db: Db, policy: ClockPolicy, site: Option<SiteId>) -> Result<(), Error> {
    db.exec(TABLES)?;
    db.exec(TOMBSTONES)?;
    let mut insert = db.prepare(
        "INSERT INTO opor_meta(id, format, policy, db_version, hlc, epoch, hash_seed, merge_equal_values) \
         VALUES (1, ?, ?, 0, 0, abs(random() % 4503599627370496), random(), ?)",
    )?;
    let hlc = i64::from(policy == ClockPolicy::Hlc);
    insert.run(&[FORMAT, hlc, hlc])?;
    db.exec("INSERT OR IGNORE INTO crsql_master VALUES ('crsqlite_version', 160300)")?;
    save_own_site(db, site)
}

/// Gives the database its own site id: the one that is asked for, or a random one unless it has one already.
pub(crate) fn save_own_site(db: Db, site: Option<SiteId>) -> Result<(), Error> {
    match site {
        Some(site) => {
            let mut insert =
                db.prepare("INSERT OR REPLACE INTO crsql_site_id(site_id, ordinal) VALUES (?, 0)")?;
            let mut run = insert.start();
            run.bind_blob(site.as_bytes())?;
            run.step()?;
        }
        None => {
            // A random UUID of version 4, as cr-sqlite makes it; an id already there is kept.
            db.exec(
                "INSERT OR IGNORE INTO crsql_site_id(site_id, ordinal) SELECT unhex( \
                    hex(randomblob(6)) || '4' || substr(hex(randomblob(2)), 2) || \
                    substr('89AB', 1 + abs(random() % 4), 1) || substr(hex(randomblob(8)), 2)), 0",
            )?;
        }
    }
    Ok(())
}

pub(crate) fn own_site(db: Db) -> Result<SiteId, Error> {
    site_of(db, 0)
}

pub(crate) fn site_of(db: Db, ordinal: u32) -> Result<SiteId, Error> {
    let mut stmt = db.prepare("SELECT site_id FROM crsql_site_id WHERE ordinal = ?")?;
    let mut row = stmt.start();
    row.bind_integer(i64::from(ordinal))?;
    if !row.step()? {
        return Err(failure(format!("crsql_site_id has no site with ordinal {ordinal}")));
    }
    SiteId::new(row.blob(0)).map_err(|error| failure(error.to_string()))
}

/// The ordinal of a site; it gets the next when it is new.
pub(crate) fn ordinal(db: Db, site: SiteId) -> Result<u32, Error> {
    let mut find = db.prepare("SELECT ordinal FROM crsql_site_id WHERE site_id = ?")?;
    let mut row = find.start();
    row.bind_blob(site.as_bytes())?;
    if row.step()? {
        return Ok(row.integer(0) as u32);
    }
    let mut insert = db.prepare(
        "INSERT INTO crsql_site_id(site_id, ordinal) SELECT ?, max(ordinal) + 1 FROM crsql_site_id RETURNING ordinal",
    )?;
    let mut row = insert.start();
    row.bind_blob(site.as_bytes())?;
    row.step()?;
    let ordinal = row.integer(0) as u32;
    while row.step()? {}
    Ok(ordinal)
}

/// An ordinal that no site has.
pub(crate) fn free_ordinal(db: Db) -> Result<u32, Error> {
    Ok(db.integer("SELECT max(ordinal) + 1 FROM crsql_site_id")?.unwrap_or(1) as u32)
}

/// Gives this replica's site another ordinal: there is no own site then.
pub(crate) fn move_own_site(db: Db, ordinal: u32) -> Result<(), Error> {
    db.prepare("UPDATE crsql_site_id SET ordinal = ? WHERE ordinal = 0")?.run(&[i64::from(ordinal)])
}

/// Every site with its ordinal.
pub(crate) fn sites(db: Db) -> Result<Vec<(u32, SiteId)>, Error> {
    let mut stmt = db.prepare("SELECT ordinal, site_id FROM crsql_site_id ORDER BY ordinal")?;
    let mut rows = stmt.start();
    let mut sites = Vec::new();
    while rows.step()? {
        let site = SiteId::new(rows.blob(1)).map_err(|error| failure(error.to_string()))?;
        let ordinal = u32::try_from(rows.integer(0)).map_err(|_| failure("an ordinal is out of range"))?;
        sites.push((ordinal, site));
    }
    Ok(sites)
}

/// Begins an epoch of this file's own.
pub(crate) fn new_epoch(db: Db) -> Result<(), Error> {
    db.exec("UPDATE opor_meta SET epoch = abs(random() % 4503599627370496) WHERE id = 1")
}

/// Tables that are not virtual, nor SQLite's own.
pub(crate) fn ordinary_tables(db: Db) -> Result<Vec<String>, Error> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT GLOB 'sqlite_*'";
    texts(db, sql)
}

/// Virtual tables and their definitions.
pub(crate) fn virtual_tables(db: Db) -> Result<Vec<(String, String)>, Error> {
    let mut stmt =
        db.prepare("SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND rootpage = 0")?;
    let mut rows = stmt.start();
    let mut tables = Vec::new();
    while rows.step()? {
        tables.push((rows.text(0)?.to_owned(), rows.text(1)?.to_owned()));
    }
    Ok(tables)
}

/// The tables that SQLite counts keys of.
pub(crate) fn counted_tables(db: Db) -> Result<Vec<String>, Error> {
    texts(db, "SELECT name FROM main.sqlite_sequence WHERE typeof(name) = 'text'")
}

/// Has the keys of a table counted from the start.
pub(crate) fn delete_counter(db: Db, table: &str) -> Result<(), Error> {
    let mut delete = db.prepare("DELETE FROM main.sqlite_sequence WHERE name = ?")?;
    let mut run = delete.start();
    run.bind_text(table)?;
    run.step()?;
    Ok(())
}

fn texts(db: Db, sql: &str) -> Result<Vec<String>, Error> {
    let mut stmt = db.prepare(sql)?;
    let mut rows = stmt.start();
    let mut texts = Vec::new();
    while rows.step()? {
        texts.push(rows.text(0)?.to_owned());
    }
    Ok(texts)
}

/// The last version in the clock tables.
pub(crate) fn folded_version(db: Db) -> Result<u64, Error> {
    Ok(db.integer("SELECT db_version FROM opor_meta WHERE id = 1")?.unwrap_or(0).cast_unsigned())
}

pub(crate) fn save_fold(db: Db, db_version: u64, hlc: u64) -> Result<(), Error> {
    let mut update = db.prepare("UPDATE opor_meta SET db_version = ?, hlc = max(hlc, ?) WHERE id = 1")?;
    update.run(&[db_version.cast_signed(), hlc.cast_signed()])
}

pub(crate) fn save_merge_equal_values(db: Db, on: bool) -> Result<(), Error> {
    db.prepare("UPDATE opor_meta SET merge_equal_values = ? WHERE id = 1")?.run(&[i64::from(on)])
}

/// Records a table and makes its clock table.
pub(crate) fn add_table(db: Db, name: &str) -> Result<u32, Error> {
    let mut insert = db.prepare("INSERT INTO opor_table(name) VALUES (?) RETURNING id")?;
    let mut row = insert.start();
    row.bind_text(name)?;
    row.step()?;
    let id = row.integer(0) as u32;
    while row.step()? {}
    drop(row);
    db.exec(&format!(
        "DROP TABLE IF EXISTS opor_clock_{id}; \
         CREATE TABLE opor_clock_{id}(block INTEGER PRIMARY KEY, max_db_version INTEGER NOT NULL, \
             groups BLOB NOT NULL, key BLOB); \
         CREATE INDEX opor_clock_{id}_version ON opor_clock_{id}(max_db_version)"
    ))?;
    add_guard(db, id, name)?;
    Ok(id)
}

/// The tables on record, with the names they are recorded under.
pub(crate) fn recorded_tables(db: Db) -> Result<Vec<(u32, String)>, Error> {
    let mut stmt = db.prepare("SELECT id, name FROM opor_table ORDER BY id")?;
    let mut rows = stmt.start();
    let mut tables = Vec::new();
    while rows.step()? {
        tables.push((rows.integer(0) as u32, rows.text(1)?.to_owned()));
    }
    Ok(tables)
}

pub(crate) fn is_table(db: Db, name: &str) -> Result<bool, Error> {
    let mut stmt = db.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?")?;
    let mut row = stmt.start();
    row.bind_text(name)?;
    row.step()
}

pub(crate) fn has_rows(db: Db, sql_name: &str) -> Result<bool, Error> {
    Ok(db.integer(&format!("SELECT 1 FROM {sql_name} LIMIT 1"))?.is_some())
}

/// Whether a trigger stands on a table, be it a temporary one.
pub(crate) fn has_trigger(db: Db, table: &str) -> Result<bool, Error> {
    let mut find = db.prepare(
        "SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
         UNION ALL SELECT 1 FROM sqlite_temp_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE",
    )?;
    let mut row = find.start();
    row.bind_text(table)?;
    row.step()
}

/// The indexes of a table, and whether each is that of the primary key.
pub(crate) fn indexes(db: Db, table: &str) -> Result<Vec<(String, bool)>, Error> {
    let mut list = db.prepare("SELECT name, origin = 'pk' FROM pragma_index_list(?, 'main')")?;
    let mut rows = list.start();
    rows.bind_text(table)?;
    let mut indexes = Vec::new();
    while rows.step()? {
        indexes.push((rows.text(0)?.to_owned(), rows.integer(1) != 0));
    }
    Ok(indexes)
}

/// Whether an index tells values apart by their bytes.
pub(crate) fn is_binary_index(db: Db, index: &str) -> Result<bool, Error> {
    let mut others =
        db.prepare("SELECT 1 FROM pragma_index_xinfo(?, 'main') WHERE key AND upper(coll) IS NOT 'BINARY'")?;
    let mut row = others.start();
    row.bind_text(index)?;
    Ok(!row.step()?)
}

/// Whether the guard of a table is empty, as it should be; `false` may be wrong.
pub(crate) fn is_guard_empty(db: Db, id: u32) -> Result<bool, Error> {
    let sql = format!("SELECT sum(ncell) FROM dbstat WHERE name = '{}'", guard_name(id));
    // Not every build of SQLite has this table.
    let Ok(mut entries) = db.prepare(&sql) else { return Ok(false) };
    let mut row = entries.start();
    Ok(row.step()? && matches!(row.value(0), opor_core::ValueRef::Integer(0)))
}

/// What the guard of a table is called.
pub(crate) fn guard_name(id: u32) -> String {
    format!("opor_guard_{id}")
}

/// What the definition of a column says of a default, as it is written there.
pub(crate) fn default_of(db: Db, table: &str, column: &str) -> Result<Option<String>, Error> {
    let mut find = db.prepare("SELECT dflt_value FROM pragma_table_info(?, 'main') WHERE name = ?")?;
    let mut row = find.start();
    row.bind_text(table)?;
    row.bind_text(column)?;
    Ok(if row.step()? { row.text(0).ok().map(str::to_owned) } else { None })
}

/// Notes something that was done to the file without opor; `opor status` shows it.
pub(crate) fn record_incident(db: Db, at_ms: u64, table: &str, what: &str) -> Result<(), Error> {
    let mut stmt = db.prepare("INSERT INTO opor_incident(at_ms, table_name, what) VALUES (?, ?, ?)")?;
    let mut run = stmt.start();
    run.bind_integer(at_ms.cast_signed())?;
    run.bind_text(table)?;
    run.bind_text(what)?;
    run.step()?;
    Ok(())
}

/// What was done to the file without opor, oldest first.
pub(crate) fn incidents(db: Db) -> Result<Vec<Incident>, Error> {
    let mut stmt = db.prepare("SELECT at_ms, table_name, what FROM opor_incident ORDER BY id")?;
    let mut rows = stmt.start();
    let mut incidents = Vec::new();
    while rows.step()? {
        incidents.push(Incident {
            at: WallMillis(rows.integer(0).cast_unsigned()),
            table: rows.text(1)?.to_owned(),
            what: rows.text(2)?.to_owned(),
        });
    }
    Ok(incidents)
}

/// Has the next pull from every peer start over.
pub(crate) fn restart_pulls(db: Db) -> Result<(), Error> {
    db.exec("UPDATE opor_cursor SET pulled = NULL")
}

/// How deep a guard's expression nests for one pair of brackets: SQLite allows 1,000 by default, and 2,000 columns.
const GUARD_DEPTH_MAX: usize = 100;

/// Puts the guard on a table: an index that is always empty, on an expression over every column with a collation that
/// only a connection of opor has. A program that writes to the table without opor, which would leave no trace in the
/// clocks, is refused ("no such collation sequence: opor_guard"). The condition is constant, so nothing is evaluated,
/// where a trigger would cost half the write; and SQLite keeps its table's name right through `ALTER TABLE .. RENAME`.
pub(crate) fn add_guard(db: Db, id: u32, table: &str) -> Result<(), Error> {
    let columns = column_names(db, table)?;
    let guard = guard_sql(id, table, columns.iter().map(String::as_str));
    db.exec(&format!("DROP INDEX IF EXISTS main.opor_guard_{id}; CREATE INDEX main.{guard}"))
}

/// The guard of a table as it is now, from the name of the index on: SQLite keeps these very words.
pub(crate) fn guard_sql<'a>(id: u32, table: &str, columns: impl Iterator<Item = &'a str>) -> String {
    let columns: Vec<String> = columns.map(quote).collect();
    let chains = columns.chunks(GUARD_DEPTH_MAX);
    let chains = chains.map(|names| format!("('' COLLATE opor_guard IS {})", names.join(" IS ")));
    let chains = chains.collect::<Vec<_>>().join(" IS ");
    format!("opor_guard_{id} ON {}({chains}) WHERE 0", quote(table))
}

/// The columns of a table, but for generated ones, in the order of the table.
fn column_names(db: Db, table: &str) -> Result<Vec<String>, Error> {
    let mut columns = Vec::new();
    let mut stmt = db.prepare("SELECT name FROM pragma_table_info(?, 'main')")?;
    let mut rows = stmt.start();
    rows.bind_text(table)?;
    while rows.step()? {
        columns.push(rows.text(0)?.to_owned());
    }
    Ok(columns)
}

/// Has the guard stand on no column while a table is altered, so that columns can be dropped.
pub(crate) fn loosen_guard(db: Db, id: u32, table: &str) -> Result<(), Error> {
    db.exec(&format!(
        "DROP INDEX IF EXISTS main.opor_guard_{id}; \
         CREATE INDEX main.opor_guard_{id} ON {}(('' COLLATE opor_guard IS '')) WHERE 0",
        quote(table),
    ))
}

pub(crate) fn rename_table(db: Db, id: u32, name: &str) -> Result<(), Error> {
    let mut update = db.prepare("UPDATE opor_table SET name = ? WHERE id = ?")?;
    let mut run = update.start();
    run.bind_text(name)?;
    run.bind_integer(i64::from(id))?;
    run.step()?;
    Ok(())
}

/// Forgets a table that is gone; its clock table stays, empty, until the file is next opened.
pub(crate) fn forget_table(db: Db, id: u32) -> Result<(), Error> {
    db.prepare("DELETE FROM opor_table WHERE id = ?")?.run(&[i64::from(id)])?;
    db.prepare("DELETE FROM opor_column WHERE table_id = ?")?.run(&[i64::from(id)])?;
    db.exec(&format!("DELETE FROM opor_clock_{id}"))
}

/// A clock table in the genuine cr-sqlite's layout, if there is one.
pub(crate) fn genuine_clock_table(db: Db) -> Result<Option<String>, Error> {
    let mut stmt = db.prepare(
        "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name LIKE '%\\_\\_crsql\\_clock' ESCAPE '\\'",
    )?;
    let mut row = stmt.start();
    Ok(if row.step()? { Some(row.text(0)?.to_owned()) } else { None })
}

/// Whether [`drop_orphans`] has something to do.
pub(crate) fn has_orphans(db: Db) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name GLOB 'opor_clock_[0-9]*' \
               AND CAST(substr(name, 12) AS INTEGER) NOT IN (SELECT id FROM opor_table)";
    Ok(db.integer(sql)?.is_some())
}

/// Drops the clock tables of tables that are gone.
pub(crate) fn drop_orphans(db: Db) -> Result<(), Error> {
    let mut names = Vec::new();
    {
        let mut stmt = db.prepare(
            "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name GLOB 'opor_clock_[0-9]*' \
             AND CAST(substr(name, 12) AS INTEGER) NOT IN (SELECT id FROM opor_table)",
        )?;
        let mut rows = stmt.start();
        while rows.step()? {
            names.push(rows.text(0)?.to_owned());
        }
    }
    names.iter().try_for_each(|name| db.exec(&format!("DROP TABLE {name}")))
}

pub(crate) fn add_column(db: Db, table: u32, bit: u32, name: &str) -> Result<(), Error> {
    let mut insert =
        db.prepare("INSERT OR REPLACE INTO opor_column(table_id, bit, name, live) VALUES (?, ?, ?, 1)")?;
    let mut run = insert.start();
    run.bind_integer(i64::from(table))?;
    run.bind_integer(i64::from(bit))?;
    run.bind_text(name)?;
    run.step()?;
    Ok(())
}

/// The columns of a table that are gone.
pub(crate) fn retired_columns(db: Db, table: u32) -> Result<ColSet, Error> {
    let mut stmt = db.prepare("SELECT bit FROM opor_column WHERE table_id = ? AND live = 0")?;
    let mut rows = stmt.start();
    rows.bind_integer(i64::from(table))?;
    let mut retired = ColSet::default();
    while rows.step()? {
        retired.insert(rows.integer(0) as u32);
    }
    Ok(retired)
}

pub(crate) fn retire_column(db: Db, table: u32, bit: u32) -> Result<(), Error> {
    let mut update = db.prepare("UPDATE opor_column SET live = 0 WHERE table_id = ? AND bit = ?")?;
    update.run(&[i64::from(table), i64::from(bit)])
}

/// Removes a table from the record with everything known of it.
pub(crate) fn remove_table(db: Db, table: &Table) -> Result<(), Error> {
    forget_table(db, table.id)?;
    db.exec(&format!("DROP TABLE {}; DROP INDEX IF EXISTS main.opor_guard_{}", table.clock_table(), table.id))
}

/// How far this replica has pulled from a peer.
pub(crate) fn pulled(db: Db, peer: SiteId) -> Result<Option<Cursor>, Error> {
    let mut stmt = db.prepare("SELECT pulled FROM opor_cursor WHERE peer = ? AND pulled IS NOT NULL")?;
    let mut row = stmt.start();
    row.bind_blob(peer.as_bytes())?;
    if !row.step()? {
        return Ok(None);
    }
    row.text(0)?.parse().map(Some).map_err(|error: CursorError| failure(error.to_string()))
}

/// How far this replica has pulled from each peer that it has pulled from.
pub(crate) fn all_pulled(db: Db) -> Result<Vec<(SiteId, Cursor)>, Error> {
    let mut stmt =
        db.prepare("SELECT peer, pulled FROM opor_cursor WHERE pulled IS NOT NULL ORDER BY peer")?;
    let mut rows = stmt.start();
    let mut all = Vec::new();
    while rows.step()? {
        let peer = SiteId::new(rows.blob(0)).map_err(|error| failure(error.to_string()))?;
        all.push((peer, rows.text(1)?.parse().map_err(|error: CursorError| failure(error.to_string()))?));
    }
    Ok(all)
}

pub(crate) fn save_pulled(db: Db, peer: SiteId, cursor: &Cursor) -> Result<(), Error> {
    let mut stmt = db.prepare(
        "INSERT INTO opor_cursor(peer, pulled) VALUES (?, ?) ON CONFLICT(peer) DO UPDATE SET pulled = excluded.pulled",
    )?;
    let text = cursor.to_string();
    let mut run = stmt.start();
    run.bind_blob(peer.as_bytes())?;
    run.bind_text(&text)?;
    run.step()?;
    Ok(())
}

/// How much of this replica's log a peer has acknowledged.
pub(crate) fn acknowledged(db: Db, peer: SiteId) -> Result<u64, Error> {
    let mut stmt = db.prepare("SELECT acknowledged FROM opor_cursor WHERE peer = ?")?;
    let mut row = stmt.start();
    row.bind_blob(peer.as_bytes())?;
    Ok(if row.step()? { row.integer(0).cast_unsigned() } else { 0 })
}

/// How much of this replica's log every known peer has acknowledged; 0 when none is known.
pub(crate) fn acknowledged_by_all(db: Db) -> Result<u64, Error> {
    Ok(db.integer("SELECT min(acknowledged) FROM opor_cursor")?.unwrap_or(0).max(0).cast_unsigned())
}

pub(crate) fn save_acknowledged(db: Db, peer: SiteId, version: u64) -> Result<(), Error> {
    let mut stmt = db.prepare(
        "INSERT INTO opor_cursor(peer, acknowledged) VALUES (?, ?) \
         ON CONFLICT(peer) DO UPDATE SET acknowledged = max(acknowledged, excluded.acknowledged)",
    )?;
    let mut run = stmt.start();
    run.bind_blob(peer.as_bytes())?;
    run.bind_integer(version.cast_signed())?;
    run.step()?;
    Ok(())
}

/// Up to which version here a peer holds everything: by what it has acknowledged, and because it sent it.
pub(crate) fn held(db: Db, peer: SiteId) -> Result<u64, Error> {
    let mut stmt = db.prepare("SELECT max(acknowledged, held) FROM opor_cursor WHERE peer = ?")?;
    let mut row = stmt.start();
    row.bind_blob(peer.as_bytes())?;
    Ok(if row.step()? { row.integer(0).cast_unsigned() } else { 0 })
}

/// Notes that; it never goes back.
pub(crate) fn save_held(db: Db, peer: SiteId, version: u64) -> Result<(), Error> {
    let mut stmt = db.prepare("UPDATE opor_cursor SET held = max(held, ?2) WHERE peer = ?1")?;
    let mut run = stmt.start();
    run.bind_blob(peer.as_bytes())?;
    run.bind_integer(version.cast_signed())?;
    run.step()?;
    Ok(())
}

/// A version here has come from a peer, all of it: where the peer holds everything before, it holds that too.
///
/// It has not acknowledged it: its cursor is where it was, and compaction must leave what is after that.
pub(crate) fn note_sent(db: Db, peer: SiteId, version: u64) -> Result<(), Error> {
    let mut stmt =
        db.prepare("UPDATE opor_cursor SET held = ?2 WHERE peer = ?1 AND max(acknowledged, held) = ?2 - 1")?;
    let mut run = stmt.start();
    run.bind_blob(peer.as_bytes())?;
    run.bind_integer(version.cast_signed())?;
    run.step()?;
    Ok(())
}

/// The peers on record.
pub(crate) fn peers(db: Db) -> Result<Vec<SiteId>, Error> {
    let mut stmt = db.prepare("SELECT peer FROM opor_cursor ORDER BY peer")?;
    let mut rows = stmt.start();
    let mut peers = Vec::new();
    while rows.step()? {
        peers.push(SiteId::new(rows.blob(0)).map_err(|error| failure(error.to_string()))?);
    }
    Ok(peers)
}

/// Removes the tombstones of a table.
pub(crate) fn remove_tombs(db: Db, table: u32) -> Result<(), Error> {
    db.prepare("DELETE FROM opor_tombstone WHERE table_id = ?")?.run(&[i64::from(table)])
}

/// Starts the count of versions over, under a new epoch: cursors of peers into the old one are refused.
pub(crate) fn restart_versions(db: Db) -> Result<(), Error> {
    horizon::restart(db)?;
    db.exec("UPDATE opor_meta SET db_version = 0 WHERE id = 1")?;
    new_epoch(db)
}

/// Whether nothing replicates.
pub(crate) fn is_unused(catalog: &Catalog) -> bool {
    catalog.tables.is_empty()
}
