//! Walks over all the clocks of a file, piece by piece, as they are in the clock tables: nothing may be in the tail.

use rusqlite::Error;

use crate::block::Block;
use crate::clocks::damaged;
use crate::sqlite::Db;
use crate::tombs::{self, Entries, Tomb, TombKey};

/// Blocks that are read at a time: a few hundred kilobytes.
const PIECE: i64 = 1024;
/// Chunks of tombstones that are read at a time, some 40 each.
const CHUNKS: i64 = 128;

/// A block of rows: its number, its clocks, and the key of its row in a table that is found by key.
pub(crate) struct StoredBlock {
    pub(crate) number: i64,
    pub(crate) block: Block,
    pub(crate) key: Option<Box<[u8]>>,
}

/// A chunk of tombstones of one table, in the order of their keys.
pub(crate) struct StoredChunk {
    pub(crate) id: i64,
    pub(crate) table: u32,
    max_dv: u64,
    pub(crate) tombs: Vec<(TombKey, Tomb)>,
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

/// The next chunks of tombstones after an id.
pub(crate) fn chunks_after(db: Db, after: i64) -> Result<Vec<StoredChunk>, Error> {
    let mut select = db.prepare(&format!(
        "SELECT id, table_id, max_db_version, body FROM opor_tombstone WHERE id > ? ORDER BY id LIMIT {CHUNKS}"
    ))?;
    let mut rows = select.start();
    rows.bind_integer(after)?;
    let mut chunks = Vec::new();
    while rows.step()? {
        let max_dv = rows.integer(2).cast_unsigned();
        let mut entries = Entries::new(max_dv, rows.blob(3));
        let mut tombs = Vec::new();
        while let Some((key, tomb)) = entries.next().map_err(damaged)? {
            tombs.push((TombKey::from(key), tomb));
        }
        chunks.push(StoredChunk { id: rows.integer(0), table: rows.integer(1) as u32, max_dv, tombs });
    }
    Ok(chunks)
}

/// Looks at every chunk of tombstones.
pub(crate) fn each_chunk<E: From<Error>>(
    db: Db,
    mut look: impl FnMut(StoredChunk) -> Result<(), E>,
) -> Result<(), E> {
    let mut after = i64::MIN;
    loop {
        let chunks = chunks_after(db, after)?;
        match chunks.last() {
            Some(last) => after = last.id,
            None => return Ok(()),
        }
        chunks.into_iter().try_for_each(&mut look)?;
    }
}

/// Changes who made tombstones where `edit` says so; keys and versions, and so the place in the walk, stay.
pub(crate) fn edit_chunks<E: From<Error>>(
    db: Db,
    mut edit: impl FnMut(&mut [(TombKey, Tomb)]) -> Result<bool, E>,
) -> Result<(), E> {
    let mut update = db.prepare("UPDATE opor_tombstone SET body = ? WHERE id = ?")?;
    each_chunk(db, |mut stored| {
        if !edit(&mut stored.tombs)? {
            return Ok(());
        }
        let body = tombs::encode(stored.max_dv, &stored.tombs);
        let mut run = update.start();
        run.bind_blob(&body)?;
        run.bind_integer(stored.id)?;
        run.step()?;
        Ok(())
    })
}

/// How many records of any kind there are.
pub(crate) fn count(db: Db, tables: impl Iterator<Item = u32>) -> Result<u64, Error> {
    let one = |sql: String| Ok(db.integer(&sql)?.unwrap_or(0).cast_unsigned());
    let tombs: Result<u64, Error> = one("SELECT count(*) FROM opor_tombstone".to_owned());
    tables
        .map(|table| one(format!("SELECT count(*) FROM opor_clock_{table}")))
        .sum::<Result<u64, Error>>()
        .and_then(|blocks| Ok(blocks + tombs?))
}
