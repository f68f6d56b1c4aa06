//! Walks over all the clocks of a file, piece by piece, as they are in the clock tables: nothing may be in the tail.

use rusqlite::Error;

use crate::block::Block;
use crate::clocks::{Tomb, damaged, decode_tomb, encode_tomb};
use crate::sqlite::Db;

/// Records that are read at a time: a few hundred kilobytes.
const PIECE: i64 = 1024;

/// A block of rows: its number, its clocks, and the key of its row in a table that is found by key.
pub(crate) struct StoredBlock {
    pub(crate) number: i64,
    pub(crate) block: Block,
    pub(crate) key: Option<Box<[u8]>>,
}

/// A tombstone: its table, its key, and what remains of the row.
pub(crate) struct StoredTomb {
    pub(crate) table: u32,
    pub(crate) key: Box<[u8]>,
    pub(crate) tomb: Tomb,
}

/// The next blocks of a clock table after a number.
pub(crate) fn blocks_after(db: Db, table: u32, after: i64) -> Result<Vec<StoredBlock>, Error> {
    let mut select = db.prepare(&format!(
        "SELECT block, max_db_version, groups, key FROM opor_clock_{table} WHERE block > ? ORDER BY block LIMIT {PIECE}"
    ))?;
    let mut rows = select.start();
    rows.bind_integer(after)?;
    let mut blocks = Vec::new();
    while rows.step()? {
        let block = Block::decode(rows.integer(1).cast_unsigned(), rows.blob(2)).map_err(damaged)?;
        let key = rows.blob(3);
        let key = (!key.is_empty()).then(|| key.into());
        blocks.push(StoredBlock { number: rows.integer(0), block, key });
    }
    Ok(blocks)
}

/// Whether there is a block of this number.
pub(crate) fn has_block(db: Db, table: u32, number: i64) -> Result<bool, Error> {
    let mut find = db.prepare(&format!("SELECT 1 FROM opor_clock_{table} WHERE block = ?"))?;
    let mut row = find.start();
    row.bind_integer(number)?;
    row.step()
}

/// Looks at every block of a clock table.
pub(crate) fn each_block<E: From<Error>>(
    db: Db,
    table: u32,
    mut look: impl FnMut(StoredBlock) -> Result<(), E>,
) -> Result<(), E> {
    let mut after = i64::MIN;
    loop {
        let blocks = blocks_after(db, table, after)?;
        match blocks.last() {
            Some(last) => after = last.number,
            None => return Ok(()),
        }
        blocks.into_iter().try_for_each(&mut look)?;
    }
}

/// Changes the groups of blocks where `edit` says so; versions, and so the place in the walk, stay.
pub(crate) fn edit_blocks<E: From<Error>>(
    db: Db,
    table: u32,
    mut edit: impl FnMut(&mut Block) -> Result<bool, E>,
) -> Result<(), E> {
    let mut update = db.prepare(&format!("UPDATE opor_clock_{table} SET groups = ? WHERE block = ?"))?;
    let mut groups = Vec::new();
    each_block(db, table, |mut stored| {
        if !edit(&mut stored.block)? {
            return Ok(());
        }
        groups.clear();
        stored.block.encode(&mut groups);
        let mut run = update.start();
        run.bind_blob(&groups)?;
        run.bind_integer(stored.number)?;
        run.step()?;
        Ok(())
    })
}

/// The next tombstones after an id, with their ids.
fn tombs_after(db: Db, after: i64) -> Result<Vec<(i64, StoredTomb)>, Error> {
    let mut select = db.prepare(&format!(
        "SELECT id, max_db_version, body FROM opor_tombstone WHERE id > ? ORDER BY id LIMIT {PIECE}"
    ))?;
    let mut rows = select.start();
    rows.bind_integer(after)?;
    let mut tombs = Vec::new();
    while rows.step()? {
        let (table, tomb, key) =
            decode_tomb(rows.integer(1).cast_unsigned(), rows.blob(2)).map_err(damaged)?;
        tombs.push((rows.integer(0), StoredTomb { table, key: key.into(), tomb }));
    }
    Ok(tombs)
}

/// Looks at every tombstone.
pub(crate) fn each_tomb<E: From<Error>>(
    db: Db,
    mut look: impl FnMut(i64, StoredTomb) -> Result<(), E>,
) -> Result<(), E> {
    let mut after = i64::MIN;
    loop {
        let tombs = tombs_after(db, after)?;
        match tombs.last() {
            Some((last, _)) => after = *last,
            None => return Ok(()),
        }
        tombs.into_iter().try_for_each(|(id, stored)| look(id, stored))?;
    }
}

/// Changes who made tombstones where `edit` says so.
pub(crate) fn edit_tombs<E: From<Error>>(
    db: Db,
    mut edit: impl FnMut(&mut Tomb) -> Result<bool, E>,
) -> Result<(), E> {
    let mut update = db.prepare("UPDATE opor_tombstone SET body = ? WHERE id = ?")?;
    let mut body = Vec::new();
    each_tomb(db, |id, mut stored| {
        if !edit(&mut stored.tomb)? {
            return Ok(());
        }
        body.clear();
        encode_tomb(stored.table, &stored.tomb, &stored.key, &mut body);
        let mut run = update.start();
        run.bind_blob(&body)?;
        run.bind_integer(id)?;
        run.step()?;
        Ok(())
    })
}

/// The oldest tombstones up to a version.
pub(crate) fn tombs_up_to(db: Db, version: u64, count: usize) -> Result<Vec<StoredTomb>, Error> {
    let mut select = db.prepare(
        "SELECT max_db_version, body FROM opor_tombstone WHERE max_db_version <= ? ORDER BY max_db_version LIMIT ? + 0",
    )?;
    let mut rows = select.start();
    rows.bind_integer(version.cast_signed())?;
    rows.bind_integer(count as i64)?;
    let mut tombs = Vec::new();
    while rows.step()? {
        let (table, tomb, key) =
            decode_tomb(rows.integer(0).cast_unsigned(), rows.blob(1)).map_err(damaged)?;
        tombs.push(StoredTomb { table, key: key.into(), tomb });
    }
    Ok(tombs)
}

/// How many records of any kind there are.
pub(crate) fn count(db: Db, tables: impl Iterator<Item = u32>) -> Result<u64, Error> {
    let one = |sql: String| Ok(db.integer(&sql)?.unwrap_or(0).cast_unsigned());
    let tombs: Result<u64, Error> = one("SELECT count(*) FROM opor_tombstone".to_owned());
    tables.map(|table| one(format!("SELECT count(*) FROM opor_clock_{table}"))).sum::<Result<u64, Error>>().and_then(
        |blocks| Ok(blocks + tombs?),
    )
}

/// How many tombstones there are up to a version.
pub(crate) fn count_tombs_up_to(db: Db, version: u64) -> Result<u64, Error> {
    let mut count = db.prepare("SELECT count(*) FROM opor_tombstone WHERE max_db_version <= ?")?;
    let mut row = count.start();
    row.bind_integer(version.cast_signed())?;
    row.step()?;
    Ok(row.integer(0).cast_unsigned())
}
