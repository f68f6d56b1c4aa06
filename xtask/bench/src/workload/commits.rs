//! One row, one commit: what an application does as somebody types.

use anyhow::Result;

use crate::clock::Stopwatch;
use crate::database::{Database, Setting, Side};
use crate::shape::{Row, WRITTEN, shuffle};

/// Insert row by row into an empty table.
pub(crate) fn insert(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = Database::open(setting, side)?;
    database.keep_log()?;
    each(setting.shape.chunks(0..setting.commits()), |rows| database.insert(rows))
}

/// Update rows of a full table, in random order.
pub(crate) fn update(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    database.keep_log()?;
    each(picked(setting), |rows| database.update(rows, WRITTEN))
}

/// Pages in the write-ahead log per commit of an insert.
pub(crate) fn insert_pages(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = Database::open(setting, side)?;
    database.keep_wal()?;
    each(setting.shape.chunks(0..setting.commits()), |rows| database.insert(rows))?;
    Ok(database.wal_pages()? / setting.commits() as f64)
}

/// Pages in the write-ahead log per commit of an update.
pub(crate) fn update_pages(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    database.keep_wal()?;
    each(picked(setting), |rows| database.update(rows, WRITTEN))?;
    Ok(database.wal_pages()? / setting.commits() as f64)
}

/// CPU seconds of writing rows, each in a transaction of its own; making them is not counted.
pub(crate) fn each(
    rows: impl Iterator<Item = Vec<Row>>,
    mut write: impl FnMut(&[Row]) -> Result<()>,
) -> Result<f64> {
    let mut watch = Stopwatch::default();
    for rows in rows {
        watch.run(|| write(&rows))?;
    }
    Ok(watch.seconds())
}

/// A tenth of the rows, picked at random.
fn picked(setting: &Setting<'_>) -> impl Iterator<Item = Vec<Row>> {
    let mut indexes: Vec<u32> = (0..setting.rows as u32).collect();
    shuffle(&mut indexes);
    indexes.truncate(setting.commits());
    setting.shape.chunks(indexes.into_iter().map(|index| index as usize))
}
