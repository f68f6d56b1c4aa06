//! What is done to a database now and then: opening it, upgrading it, changing its schema, packing it.

use anyhow::Result;

use crate::clock::{Stopwatch, cpu};
use crate::database::{Database, Setting, Side};
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
        anyhow::ensure!(found == 1, "a poll found {found} changes after a column was added");
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
