//! Checks a received image before anything is done with it: whoever made it could have put anything in.

use std::path::{Path, PathBuf};

use opor_core::{CausalLength, Cid, ClockDrift, ColVersion, DbVersion, Hlc, Limits, PackedKey, SiteId};
use rusqlite::{Connection, Error, OpenFlags, config::DbConfig};
use rustc_hash::FxHashSet;

use super::manifest::{Manifest, SnapshotTable};
use crate::block::{Block, Group};
use crate::catalog::Table;
use crate::colset::ColSet;
use crate::conflict::{self, ConflictKind};
use crate::engine::Engine;
use crate::learnt::{LEARNT_MAX, Learnt};
use crate::meta;
use crate::options::{ClockPolicy, OpenOptions};
use crate::progress::{Halt, Phase, Reporter};
use crate::quarantine;
use crate::records;
use crate::store::{OpenError, Store};
use crate::tombs::{Tomb, TombKey, packed};

/// Changes in quarantine that are read at a time.
const QUARANTINE_PIECE: i64 = 256;

/// What is wrong with an image whose chunks are all as the manifest says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It is no database, or a damaged one.
    #[error("it is not a sound database: {0}")]
    Unsound(String),
    /// It is not an image that opor makes.
    #[error("it is not an image of a replica: {0}")]
    Foreign(&'static str),
    /// It is not what the manifest says.
    #[error("it has another {0} than the manifest says")]
    Mismatch(&'static str),
    /// A table in it cannot replicate.
    #[error("its table {table:?} cannot replicate")]
    Table {
        /// The table.
        table: String,
        /// Why not.
        #[source]
        source: crate::ReplicateError,
    },
    /// A clock in it is out of range, and would wedge whoever took it.
    #[error("a clock of its table {table:?} is out of range")]
    Clock {
        /// The table.
        table: String,
    },
    /// A stamp in it is too far in the future.
    #[error("a stamp in it is from the future")]
    Future(#[source] ClockDrift),
    /// The image could not be opened.
    #[error("it could not be opened")]
    Open(#[source] OpenError),
    /// The watcher cancelled the check.
    #[error("the check was cancelled")]
    Cancelled,
    /// SQLite failed.
    #[error("it could not be read")]
    Sqlite(#[from] Error),
}

impl From<Halt> for ImageError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Cancelled => Self::Cancelled,
            Halt::Sqlite(error) => Self::Sqlite(error),
        }
    }
}

impl From<crate::progress::Cancelled> for ImageError {
    fn from(_: crate::progress::Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Checks everything in an image that opor relies on, without writing to it.
pub(crate) fn check(
    path: &Path,
    manifest: &Manifest,
    options: &OpenOptions,
    reporter: &mut Reporter<'_>,
) -> Result<(), ImageError> {
    check_pages(path)?;
    let image = open(path, options).map_err(ImageError::Open)?;
    let engine = &image.engine;
    let catalog = engine.catalog.borrow().clone();
    reporter.begin(Phase::Check, records::count(engine.db, catalog.tables.iter().map(|table| table.id))?)?;
    let sites = check_identity(engine, manifest)?;
    check_schema(engine, manifest)?;
    check_cut(engine)?;
    let newest = engine.db_version();
    let mut stamp = engine.meta.borrow().hlc;
    for table in &catalog.tables {
        let bad = || ImageError::Clock { table: table.name.to_string() };
        records::each_block(engine.db, table.id, |stored| {
            reporter.add(1)?;
            let key = if table.keyed { stored.key.as_deref() } else { None };
            let keyed = table.keyed == stored.key.is_some() && key.is_none_or(|key| is_key(table, key));
            let dead = stored.block.dead() == 0 || table.rowid_is_key;
            let sound =
                keyed && dead && stored.block.groups.iter().all(|group| is_sound(group, newest, &sites));
            if !sound {
                return Err(bad());
            }
            stamp = stamp.max(newest_stamp(&stored.block));
            Ok::<_, ImageError>(())
        })?;
    }
    records::each_chunk(engine.db, |chunk| {
        reporter.add(1)?;
        let table =
            catalog.table_by_id(chunk.table).ok_or(ImageError::Foreign("a tombstone has no table"))?;
        let sound = |(key, tomb): &(TombKey, Tomb)| {
            is_key(table, &packed(key)) && is_sound_tomb(tomb, newest, &sites)
        };
        if !table.rowid_is_key && chunk.tombs.iter().all(sound) {
            Ok(())
        } else {
            Err(ImageError::Clock { table: table.name.to_string() })
        }
    })?;
    if catalog.quarantines {
        stamp = stamp.max(check_quarantine(engine, newest, &sites, reporter)?);
    }
    if catalog.conflicts {
        check_conflicts(engine, &sites, reporter)?;
    }
    if engine.policy() == ClockPolicy::Hlc {
        let clock = engine.hybrid.borrow();
        clock.check(Hlc::from_version(ColVersion(stamp)), engine.wall.now()).map_err(ImageError::Future)?;
    }
    Ok(reporter.end()?)
}

/// Checks what is said of deletes that are no longer on record: new rows of the receiver begin past them.
fn check_cut(engine: &Engine) -> Result<(), ImageError> {
    if engine.catalog.borrow().compacted {
        engine.db.integer("SELECT epoch FROM opor_epoch LIMIT 1")?;
    }
    let versions = 1..=engine.db_version();
    let learnt = engine.learnt.borrow();
    let is_learnt =
        |learnt: &Learnt| versions.contains(&learnt.at) && (1..=DbVersion::MAX.0).contains(&learnt.forgotten);
    if !learnt.iter().all(is_learnt) || learnt.len() as i64 >= LEARNT_MAX {
        return Err(ImageError::Foreign("what it has learnt is out of range"));
    }
    let sound = |cl: &u64| cl.is_multiple_of(2) && (2..CausalLength::MAX.0).contains(cl);
    match engine.clocks.borrow().cut_lengths.values().all(sound) {
        true => Ok(()),
        false => Err(ImageError::Foreign("what it has forgotten is out of range")),
    }
}

/// Checks what the sender could not store; the newest stamp in it.
fn check_quarantine(
    engine: &Engine,
    newest: u64,
    sites: &FxHashSet<u32>,
    reporter: &mut Reporter<'_>,
) -> Result<u64, ImageError> {
    let names = 1..=Limits::default().name_bytes_max;
    let (mut last, mut stamp, mut size) = (0, 0, (0, 0));
    loop {
        let page = quarantine::after(engine.db, last, QUARANTINE_PIECE)?;
        let Some(end) = page.last() else { break };
        last = end.id;
        for held in &page {
            reporter.add(1)?;
            let sentinel = held.cid == Cid::Sentinel;
            let sound = names.contains(&held.table.len())
                && names.contains(&held.cid.as_str().len())
                && held.cv <= if sentinel { CausalLength::MAX.0 } else { ColVersion::MAX.0 }
                && (1..=CausalLength::MAX.0).contains(&held.cl)
                && (sentinel || held.cl % 2 == 1)
                && held.seq <= DbVersion::MAX.0
                && held.dv <= newest
                && sites.contains(&held.site);
            if !sound {
                return Err(ImageError::Clock { table: held.table.to_string() });
            }
            if !sentinel {
                stamp = stamp.max(held.cv);
            }
            size = (size.0 + 1, size.1 + held.size());
        }
    }
    let noted = quarantine::summary(engine.db)?;
    if size != (noted.changes, noted.bytes) {
        return Err(ImageError::Foreign("its quarantine has another size than it says"));
    }
    Ok(stamp)
}

/// Checks the values that tables of the sender could not hold.
fn check_conflicts(
    engine: &Engine,
    sites: &FxHashSet<u32>,
    reporter: &mut Reporter<'_>,
) -> Result<(), ImageError> {
    let catalog = engine.catalog.borrow().clone();
    let mut last = None;
    loop {
        let page = conflict::after(engine.db, last.as_ref())?;
        for mask in &page {
            reporter.add(1)?;
            let table = catalog.table_by_id(mask.table);
            let table = table.ok_or(ImageError::Foreign("a conflict on record has no table"))?;
            let sound = is_key(table, &mask.key)
                && mask.cv <= ColVersion::MAX.0
                && mask.seq <= DbVersion::MAX.0
                && (mask.kind == ConflictKind::Check || sites.contains(&mask.site));
            if !sound {
                return Err(ImageError::Clock { table: table.name.to_string() });
            }
        }
        match page.into_iter().last() {
            Some(mask) => last = Some(mask),
            None => return Ok(()),
        }
    }
}

/// Opens an image as a store that cannot be written and has no site of its own.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Store, OpenError> {
    let mut options = options.clone().read_only(true).create(false);
    options.image = true;
    options.open(path)
}

/// Whether the pages are those of a sound database. Nothing in the schema is run but what SQLite trusts.
fn check_pages(path: &Path) -> Result<(), ImageError> {
    let unsound = |error: Error| ImageError::Unsound(error.to_string());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(unsound)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // A row that breaks a CHECK is sound; merges store such rows.
    conn.execute_batch("PRAGMA cell_size_check = ON; PRAGMA ignore_check_constraints = ON")
        .map_err(unsound)?;
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(unsound)?;
    if verdict == "ok" { Ok(()) } else { Err(ImageError::Unsound(verdict)) }
}

/// The ordinals there are.
fn check_identity(engine: &Engine, manifest: &Manifest) -> Result<FxHashSet<u32>, ImageError> {
    let db = engine.db;
    let foreign = |what: &'static str, sql: &str| match db.integer(sql)? {
        None => Ok(()),
        Some(_) => Err(ImageError::Foreign(what)),
    };
    foreign("it has cursors", "SELECT 1 FROM opor_cursor LIMIT 1")?;
    foreign("it has incidents", "SELECT 1 FROM opor_incident LIMIT 1")?;
    foreign("it has a tail", "SELECT 1 FROM opor_tail LIMIT 1")?;
    foreign(
        "a trigger or a view stands on the tables of opor",
        "SELECT 1 FROM main.sqlite_schema WHERE type IN ('trigger', 'view') \
         AND (tbl_name GLOB 'opor_*' OR tbl_name GLOB 'crsql_*') LIMIT 1",
    )?;
    let sites = meta::sites(db)?;
    if sites.first().is_none_or(|(ordinal, _)| *ordinal == 0) {
        return Err(ImageError::Foreign("it has a site of its own"));
    }
    let distinct: FxHashSet<SiteId> = sites.iter().map(|(_, site)| *site).collect();
    if distinct.len() != sites.len() || !distinct.contains(&manifest.site) {
        return Err(ImageError::Mismatch("set of sites"));
    }
    let (epoch, version) = (engine.meta.borrow().epoch, engine.db_version());
    if version != manifest.db_version.0 || version > DbVersion::MAX.0 {
        return Err(ImageError::Mismatch("version"));
    }
    if epoch != manifest.epoch
        || engine.policy() != manifest.policy
        || engine.horizon.get() != manifest.horizon
    {
        return Err(ImageError::Mismatch("epoch, clock or horizon"));
    }
    Ok(sites.into_iter().map(|(ordinal, _)| ordinal).collect())
}

fn check_schema(engine: &Engine, manifest: &Manifest) -> Result<(), ImageError> {
    let catalog = engine.catalog.borrow();
    if !catalog.is_recorded() {
        return Err(ImageError::Foreign("its tables are not those on its record"));
    }
    let tables: Vec<_> = catalog.tables.iter().map(|table| described(table)).collect();
    if tables != manifest.tables {
        return Err(ImageError::Mismatch("schema"));
    }
    for table in &catalog.tables {
        engine
            .check_table(&table.name)
            .map_err(|source| ImageError::Table { table: table.name.to_string(), source })?;
        if !catalog.is_guarded(table) {
            return Err(ImageError::Foreign("a table has no guard"));
        }
    }
    Ok(())
}

/// A table as a manifest describes it.
pub(crate) fn described(table: &Table) -> SnapshotTable {
    SnapshotTable {
        name: table.name.to_string(),
        columns: table.columns.iter().map(|column| column.name.to_string()).collect(),
    }
}

fn is_key(table: &Table, key: &[u8]) -> bool {
    PackedKey::from_bytes(key).is_ok_and(|key| key.column_count() == table.key.len())
}

fn is_sound(group: &Group, newest: u64, sites: &FxHashSet<u32>) -> bool {
    let max = if group.cols.contains(ColSet::SENTINEL) { CausalLength::MAX.0 } else { ColVersion::MAX.0 };
    let furthest = i64::from(group.stride).checked_mul(31).and_then(|rise| rise.checked_add(group.anchor));
    group.cv <= max.min(ColVersion::MAX.0)
        && group.dv <= newest
        && group.shown_dv <= group.dv
        && sites.contains(&group.site)
        && furthest.is_some_and(|seq| seq < DbVersion::MAX.0.cast_signed())
        && group.anchor > -DbVersion::MAX.0.cast_signed()
}

fn is_sound_tomb(tomb: &Tomb, newest: u64, sites: &FxHashSet<u32>) -> bool {
    tomb.cl.is_multiple_of(2)
        && (1..=CausalLength::MAX.0).contains(&tomb.cl)
        && tomb.dv <= newest
        && tomb.seq <= DbVersion::MAX.0
        && sites.contains(&tomb.site)
}

fn newest_stamp(block: &Block) -> u64 {
    let cells = block.groups.iter().filter(|group| !group.cols.contains(ColSet::SENTINEL));
    cells.map(|group| group.cv).max().unwrap_or(0)
}

/// Where an image is and how it is described.
pub(crate) fn reason(error: ImageError, path: &Path) -> super::RestoreError {
    match error {
        ImageError::Cancelled => super::RestoreError::Cancelled,
        source => super::RestoreError::Image { path: PathBuf::from(path), source: Box::new(source) },
    }
}
