//! Merging what another replica wrote, against writing it here.

use anyhow::{Result, bail, ensure};
use opor_store::{ApplyOptions, Cursor};
use rusqlite::params_from_iter;

use crate::clock::{Stopwatch, cpu};
use crate::database::{Database, Setting, Side, in_transaction};
use crate::log::{Piece, Reader};
use crate::shape::WRITTEN;
use crate::workload::bulk;

/// Every row into an empty replica, against inserting it.
pub(crate) fn into_empty(setting: &Setting<'_>, side: Side) -> Result<f64> {
    if side == Side::Plain {
        return bulk::insert(setting, side);
    }
    let source = setting.filled(side)?;
    let (mut target, mut watch) = (Database::open(setting, side)?, Stopwatch::default());
    let merged = target.merge_all(&source, &mut watch)?;
    merged.expect(side, |merged| merged.rows_inserted, setting.rows)?;
    Ok(watch.seconds())
}

/// One cell of every row, newer than the local one, against updating it.
pub(crate) fn cells_won(setting: &Setting<'_>, side: Side) -> Result<f64> {
    if side == Side::Plain {
        return bulk::update_by_key(setting, side);
    }
    let (mut target, piece) = rival(setting, side)?;
    let (seconds, merged) = cpu(|| target.merge(&piece))?;
    merged.expect(side, |merged| merged.cells_won, setting.rows)?;
    Ok(seconds)
}

/// One cell of every row, older than the local one, against updating it.
pub(crate) fn cells_lost(setting: &Setting<'_>, side: Side) -> Result<f64> {
    if side == Side::Plain {
        return bulk::update_by_key(setting, side);
    }
    let (mut target, piece) = rival(setting, side)?;
    // Written after the rival's cells, so a later stamp.
    in_transaction(&target, || setting.chunks().try_for_each(|rows| target.update(&rows, WRITTEN + 1)))?;
    let (seconds, merged) = cpu(|| target.merge(&piece))?;
    merged.expect(side, |merged| merged.cells_lost, setting.rows)?;
    Ok(seconds)
}

/// The same changes once more, against looking every key up.
pub(crate) fn again(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let source = setting.filled(side)?;
    if side == Side::Plain {
        return look_up(setting, &source);
    }
    let (mut target, mut watch) = (Database::open(setting, side)?, Stopwatch::default());
    target.merge_all(&source, &mut Stopwatch::stopped())?;
    let merged = target.merge_all(&source, &mut watch)?;
    merged.expect(side, |merged| merged.commits, 0)?;
    Ok(watch.seconds())
}

/// Microseconds of a second delivery that a stored cursor covers, whatever its size.
pub(crate) fn covered(setting: &Setting<'_>, side: Side) -> Result<f64> {
    const TIMES: usize = 200;
    let source = setting.filled(side)?;
    let mut target = Database::open(setting, side)?;
    let (Some(source), Some(target)) = (source.store(), target.store_mut()) else {
        bail!("only opor has cursors")
    };
    let batch = source.changes(&Cursor::start(), usize::MAX)?;
    let options = ApplyOptions { cursor: Some((source.site_id(), batch.cursor)), ..ApplyOptions::default() };
    target.apply_with(&batch.changeset, &options)?;
    let (seconds, held) = cpu(|| {
        let times = std::iter::repeat_with(|| target.apply_with(&batch.changeset, &options)).take(TIMES);
        times.map(|report| Ok(usize::from(report?.held))).sum::<Result<usize>>()
    })?;
    ensure!(held == TIMES, "{held} of {TIMES} deliveries were told by their cursor");
    Ok(seconds / TIMES as f64 * 1e6)
}

/// A replica with all rows, and what another one wrote that has updated a cell of each.
pub(crate) fn rival(setting: &Setting<'_>, side: Side) -> Result<(Database, Piece)> {
    let source = setting.filled(side)?;
    let mut target = Database::open(setting, side)?;
    target.merge_all(&source, &mut Stopwatch::stopped())?;
    let before = source.version()?;
    in_transaction(&source, || setting.chunks().try_for_each(|rows| source.update(&rows, WRITTEN)))?;
    let piece = Reader::new(&source)?.since(before)?;
    ensure!(piece.len() == setting.rows, "the rival wrote {} rows", piece.len());
    Ok((target, piece))
}

fn look_up(setting: &Setting<'_>, database: &Database) -> Result<f64> {
    let mut statement = database.prepare(&database.sql.select_by_key("1"))?;
    let mut found = 0;
    // In one transaction, as a merge is: else taking the lock of the file would cost more than the lookup.
    let seconds = bulk::in_one(database, setting.chunks(), |rows| {
        for row in rows {
            found += usize::from(statement.exists(params_from_iter(setting.shape.key_of(row)))?);
        }
        Ok(())
    })?;
    ensure!(found == setting.rows, "{found} keys were found");
    Ok(seconds)
}
