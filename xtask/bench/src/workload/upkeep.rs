//! What is done to a database now and then: opening it, upgrading it, changing its schema, packing it.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use opor_core::{DbVersion, SiteId};
use opor_store::{OpenOptions, SnapshotReceiver, Store, partial_path};
use rusqlite::Connection;

use crate::clock::{Stopwatch, cpu};
use crate::database::{Database, Setting, Side, in_transaction};
use crate::log::Reader;
use crate::shape::WRITTEN;

/// How many columns are added, one after the other.
const ADDED: usize = 10;

/// Microseconds a row of making a full table replicate.
pub(crate) fn replicate(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let mut database = Database::unreplicated(setting, side)?;
    let (seconds, ()) = cpu(|| database.replicate(setting.shape.table))?;
    Ok(seconds * 1e6 / setting.rows as f64)
}

/// Microseconds of adding a column, with the first write and the first poll after it: what a schema change leaves to be
/// done later counts too.
pub(crate) fn add_column(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let row = [setting.shape.row(setting.rows / 2)];
    let mut watch = Stopwatch::default();
    for number in 0..ADDED {
        let before = database.version()?;
        let add = format!("ALTER TABLE {} ADD COLUMN added_{number} TEXT", setting.shape.table);
        let found = watch.run(|| {
            database.execute_batch(&add)?;
            database.update(&row, WRITTEN + number as i64)?;
            // Every row of a plain table would be read.
            if side == Side::Plain { Ok(1) } else { Ok(Reader::new(&database)?.since(before)?.len()) }
        })?;
        ensure!(found == 1, "a poll found {found} changes after a column was added");
    }
    Ok(watch.seconds() * 1e6 / ADDED as f64)
}

/// CPU seconds of VACUUM, with the first write after it: opor looks then whether its rows are where they were.
pub(crate) fn vacuum(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let row = [setting.shape.row(setting.rows / 2)];
    let work = || {
        database.execute_batch("VACUUM")?;
        database.update(&row, WRITTEN)
    };
    Ok(cpu(work)?.0)
}

/// CPU seconds until a new replica is there, from a snapshot; against moving a plain database as safely by hand.
pub(crate) fn bootstrap(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let source = setting.filled(side)?;
    let target = setting.folder.join("replica.db");
    let seconds = match source.store() {
        Some(store) => from_snapshot(store, setting, &target)?,
        None => moved_by_hand(&source, setting, &target)?,
    };
    std::fs::remove_file(&target)?;
    Ok(seconds)
}

/// As [`bootstrap`], against a mere copy of the file.
pub(crate) fn bootstrap_or_copy(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let source = setting.filled(side)?;
    let target = setting.folder.join("replica.db");
    let seconds = match source.store() {
        Some(store) => from_snapshot(store, setting, &target)?,
        None => {
            let file = source.file().context("a database in memory has no file")?;
            cpu(|| Ok(std::fs::copy(file, &target)?))?.0
        }
    };
    std::fs::remove_file(&target)?;
    Ok(seconds)
}

fn from_snapshot(store: &Store, setting: &Setting<'_>, target: &Path) -> Result<f64> {
    let (seconds, replica) = cpu(|| {
        let snapshot = store.snapshot()?;
        let mut receiver = SnapshotReceiver::begin(partial_path(target), snapshot.manifest().clone())?;
        for index in 0..snapshot.manifest().chunks() {
            receiver.put(index, &snapshot.chunk(index)?)?;
        }
        let options = OpenOptions::new();
        Ok(receiver.finish(&options)?.install(target, &options)?)
    })?;
    check_rows(&replica, setting)?;
    Ok(seconds)
}

/// A packed copy, compressed in pieces; hashes of the pieces, written elsewhere, checked, unpacked, and the database
/// checked by SQLite: what a careful person does with SQLite, zstd and BLAKE3.
fn moved_by_hand(source: &Connection, setting: &Setting<'_>, target: &Path) -> Result<f64> {
    /// As large as the chunks of a snapshot.
    const PIECE: usize = 256 << 10;
    let image = setting.folder.join("image.db");
    let (seconds, replica) = cpu(|| {
        let path = image.to_str().context("the folder has a name in UTF-8")?;
        source.execute("VACUUM INTO ?", [path])?;
        let mut file = BufWriter::new(File::create(target)?);
        for piece in std::fs::read(&image)?.chunks(PIECE) {
            let packed = zstd::bulk::compress(piece, 1)?;
            let hash = blake3::hash(&packed);
            ensure!(blake3::hash(&packed) == hash, "a piece is not what was sent");
            file.write_all(&zstd::bulk::decompress(&packed, PIECE)?)?;
        }
        file.into_inner()?.sync_all()?;
        let replica = Connection::open(target)?;
        let sound: String = replica.query_row("PRAGMA quick_check", [], |row| row.get(0))?;
        ensure!(sound == "ok", "the copy is not sound: {sound}");
        Ok(replica)
    })?;
    std::fs::remove_file(&image)?;
    check_rows(&replica, setting)?;
    Ok(seconds)
}

fn check_rows(replica: &Connection, setting: &Setting<'_>) -> Result<()> {
    let count = format!("SELECT count(*) FROM {}", setting.shape.table);
    let rows = replica.query_row(&count, [], |row| row.get::<_, i64>(0))?;
    ensure!(rows == setting.rows as i64, "the replica has {rows} rows");
    Ok(())
}

/// Microseconds a tombstone of dropping those that the only peer has acknowledged: half of the rows were deleted.
pub(crate) fn compact(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let mut database = setting.filled(side)?;
    let half = setting.rows / 2;
    in_transaction(&database, || setting.shape.chunks(0..half).try_for_each(|rows| database.delete(&rows)))?;
    let version = DbVersion(u64::try_from(database.version()?)?);
    let store = database.store_mut().context("only opor compacts")?;
    store.set_acknowledged_by(SiteId::from([9; 16]), version)?;
    let (seconds, report) = cpu(|| Ok(store.compact()?))?;
    ensure!(report.tombstones_dropped == half as u64, "{} tombstones went", report.tombstones_dropped);
    Ok(seconds * 1e6 / half as f64)
}
