//! What is done to a database now and then: opening it, upgrading it, changing its schema, packing it.

use anyhow::{Context as _, Result, ensure};
use opor_core::{DbVersion, SiteId};
use opor_store::{OpenOptions, SnapshotReceiver, partial_path};

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

/// CPU seconds until a new replica is there, from a snapshot; against copying the file.
pub(crate) fn bootstrap(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let source = setting.filled(side)?;
    let target = setting.folder.join("replica.db");
    let Some(store) = source.store() else {
        let file = source.file().context("a database in memory has no file")?;
        let (seconds, _) = cpu(|| Ok(std::fs::copy(file, &target)?))?;
        std::fs::remove_file(&target)?;
        return Ok(seconds);
    };
    let (seconds, replica) = cpu(|| {
        let snapshot = store.snapshot()?;
        let mut receiver = SnapshotReceiver::begin(partial_path(&target), snapshot.manifest().clone())?;
        for index in 0..snapshot.manifest().chunks() {
            receiver.put(index, &snapshot.chunk(index)?)?;
        }
        let options = OpenOptions::new();
        Ok(receiver.finish(&options)?.install(&target, &options)?)
    })?;
    let count = format!("SELECT count(*) FROM {}", setting.shape.table);
    let rows = replica.query_row(&count, [], |row| row.get::<_, i64>(0))?;
    ensure!(rows == setting.rows as i64, "the replica has {rows} rows");
    drop(replica);
    std::fs::remove_file(&target)?;
    Ok(seconds)
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
