//! Takes out of a copied database what belongs to the replica it was copied from, and to nobody else.

use opor_core::SiteId;
use rusqlite::Error;

use crate::block::Block;
use crate::conflict;
use crate::engine::Engine;
use crate::horizon;
use crate::learnt::{self, LEARNT_TABLE};
use crate::meta;
use crate::progress::{Halt, Phase, Reporter};
use crate::quarantine;
use crate::records;
use crate::sqlite::{Db, quote};

/// The store's own tables, besides the clock tables.
const OWN_TABLES: [&str; 10] = [
    "opor_meta",
    "opor_table",
    "opor_column",
    "opor_tail",
    "opor_tombstone",
    "opor_incident",
    "opor_cursor",
    "crsql_site_id",
    "crsql_master",
    "crsql_tracked_peers",
];

/// Makes a copy nobody's: the site it was is a site like the others, cursors are gone, and tables that do not replicate
/// are empty. They keep their definitions, because the schema (and `user_version`, which migrations go by) is one
/// whole.
///
/// The copy is a file of its own that is thrown away when this fails.
pub(crate) fn strip(copy: &Engine, reporter: &mut Reporter<'_>) -> Result<(), Halt> {
    let db = copy.db;
    db.exec("PRAGMA secure_delete = ON; PRAGMA synchronous = OFF")?;
    copy.in_write(|| copy.uncaptured(|| copy.fold_now()))?;
    let tables: Vec<u32> = copy.catalog.borrow().tables.iter().map(|table| table.id).collect();
    reporter.begin(Phase::Strip, records::count(db, tables.iter().copied())?)?;
    db.set_triggers(false);
    db.set_foreign_keys(false);
    db.exec("BEGIN IMMEDIATE")?;
    let emptied = copy.uncaptured(|| -> Result<bool, Halt> {
        learnt::tell_own(db)?;
        give_up_site(db, &tables, reporter)?;
        db.exec("DELETE FROM opor_cursor; DELETE FROM opor_incident; DELETE FROM crsql_tracked_peers")?;
        horizon::forget_marks(db)?;
        Ok(empty_local_tables(copy)?)
    })?;
    db.exec("COMMIT")?;
    reporter.end()?;
    if emptied {
        // Pages keep copies of what was there, even where SQLite is told to overwrite what it deletes. A file that is
        // packed anew does not.
        db.exec("VACUUM")?;
    }
    Ok(())
}

/// Ordinal 0 is whoever has the file; the site that had it gets an ordinal like every other.
fn give_up_site(db: Db, tables: &[u32], reporter: &mut Reporter<'_>) -> Result<(), Halt> {
    let ordinal = meta::free_ordinal(db)?;
    for table in tables {
        records::edit_blocks(db, *table, |block| {
            reporter.add(1)?;
            Ok::<_, Halt>(rename_site(block, ordinal))
        })?;
    }
    records::edit_chunks(db, |tombs| {
        reporter.add(1)?;
        let mut own = false;
        for (_, tomb) in tombs.iter_mut().filter(|(_, tomb)| tomb.site == 0) {
            tomb.site = ordinal;
            own = true;
        }
        Ok::<_, Halt>(own)
    })?;
    if meta::is_table(db, quarantine::QUARANTINE_TABLE)? {
        quarantine::rename_site(db, 0, ordinal)?;
    }
    if meta::is_table(db, conflict::CONFLICT_TABLE)? {
        conflict::rename_site(db, 0, ordinal)?;
    }
    Ok(meta::move_own_site(db, ordinal)?)
}

fn rename_site(block: &mut Block, ordinal: u32) -> bool {
    let mut own = false;
    for group in block.groups.iter_mut().filter(|group| group.site == 0) {
        group.site = ordinal;
        own = true;
    }
    own
}

/// Whether there was something to remove.
fn empty_local_tables(copy: &Engine) -> Result<bool, Error> {
    let db = copy.db;
    let indexes = drop_virtual_tables(db)?;
    let mut emptied = !indexes.is_empty();
    for table in meta::ordinary_tables(db)?.iter().filter(|table| !belongs(copy, table)) {
        let name = format!("main.{}", quote(table));
        emptied |= meta::has_rows(db, &name)?;
        db.exec(&format!("DELETE FROM {name}"))?;
    }
    // What ANALYZE found out holds samples of values.
    for table in ["sqlite_stat1", "sqlite_stat4"] {
        if meta::is_table(db, table)? {
            emptied = true;
            db.exec(&format!("DELETE FROM {table}"))?;
        }
    }
    // Counters tell how many rows there were.
    if meta::is_table(db, "sqlite_sequence")? {
        for table in meta::counted_tables(db)?.iter().filter(|table| !belongs(copy, table)) {
            meta::delete_counter(db, table)?;
        }
    }
    indexes.iter().try_for_each(|(name, sql)| remake_virtual_table(db, name, sql))?;
    Ok(emptied)
}

/// Whether a table replicates or is the store's own.
fn belongs(copy: &Engine, table: &str) -> bool {
    let clock = table.strip_prefix("opor_clock_").and_then(|id| id.parse::<u32>().ok());
    OWN_TABLES.contains(&table)
        || horizon::TABLES.contains(&table)
        || table == LEARNT_TABLE
        || quarantine::TABLES.contains(&table)
        || table == conflict::CONFLICT_TABLE
        || clock.is_some_and(|id| copy.catalog.borrow().table_by_id(id).is_some())
        || copy.table(table).is_some()
}

/// Drops virtual tables, and what is behind them, where their module is there to do it. Where it is not, the tables
/// behind them are emptied like others.
fn drop_virtual_tables(db: Db) -> Result<Vec<(String, String)>, Error> {
    let mut dropped = Vec::new();
    for (name, sql) in meta::virtual_tables(db)? {
        if db.exec(&format!("DROP TABLE main.{}", quote(&name))).is_ok() {
            dropped.push((name, sql));
        }
    }
    Ok(dropped)
}

/// Full-text indexes over tables that replicate are filled again; others are empty.
fn remake_virtual_table(db: Db, name: &str, sql: &str) -> Result<(), Error> {
    db.exec(sql)?;
    let words = sql.to_ascii_lowercase();
    if words.contains("fts5") || words.contains("fts4") {
        let name = quote(name);
        // An index without content has nothing to be rebuilt from, and says so.
        let _ = db.exec(&format!("INSERT INTO main.{name}({name}) VALUES ('rebuild')"));
    }
    Ok(())
}

/// Whether a site has written something that a stripped copy holds.
pub(crate) fn knows(db: Db, site: SiteId) -> Result<bool, Error> {
    Ok(meta::sites(db)?.iter().any(|(_, known)| *known == site))
}
