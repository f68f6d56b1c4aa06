//! What is known of every row: blocks and tombstones, in three layers.
//!
//! *Staged* is what the open transaction has written; *mirrored* is what committed transactions wrote to the tail
//! and has not been folded; below is what the clock tables hold. The upper layer hides the lower.

use std::rc::Rc;

use opor_core::{PackedKey, ValueRef};
use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::block::{BLOCK_SHIFT, Block};
use crate::catalog::Table;
use crate::sqlite::{Db, Stmt, failure};
use crate::tombs::{Tomb, TombId, Tombs, compact};
use crate::varint::{self, DamagedRecord, Reader};

/// Where a block is: the table's id and the block's number.
pub(crate) type BlockId = (u32, i64);
/// A block with, in a keyed table, the packed key of its only row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) block: Block,
    pub(crate) key: Option<Box<[u8]>>,
    /// It was read from the clock table: it is written over there, unless it has been deleted since.
    pub(crate) stored: bool,
}

impl Record {
    /// Runs a statement that writes the record; `groups` are its encoded groups.
    fn write(&self, stmt: &mut Stmt, block: i64, groups: &[u8]) -> Result<(), Error> {
        let mut run = stmt.start();
        run.bind_integer(self.block.max_dv.cast_signed())?;
        run.bind_blob(groups)?;
        match &self.key {
            Some(key) => run.bind_blob(key)?,
            // Marks blocks that tell of dead rows only.
            None if self.block.live() == 0 => run.bind_blob(&[])?,
            None => run.bind(ValueRef::Null)?,
        }
        run.bind_integer(block)?;
        run.step()?;
        Ok(())
    }
}

/// One layer of changes over the clock tables.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    /// A record without groups says the block is gone.
    pub(crate) blocks: FxHashMap<BlockId, Record>,
    /// `None` says the tombstone is gone.
    pub(crate) tombs: FxHashMap<TombId, Option<Tomb>>,
}

impl Layer {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.tombs.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len() + self.tombs.len()
    }

    pub(crate) fn clear(&mut self) {
        self.blocks = FxHashMap::default();
        self.tombs = FxHashMap::default();
    }

    fn append(&mut self, upper: &mut Self) {
        self.blocks.extend(upper.blocks.drain());
        self.tombs.extend(upper.tombs.drain());
    }

    /// As one record of the tail; `dv` is the version it is filed under.
    pub(crate) fn encode(&self, dv: u64, out: &mut Vec<u8>) {
        varint::put(self.blocks.len() as u64, out);
        let mut groups = Vec::with_capacity(256);
        for ((table, number), record) in &self.blocks {
            varint::put(u64::from(*table), out);
            varint::put_signed(*number, out);
            varint::put(dv.saturating_sub(record.block.max_dv), out);
            varint::put_bytes(record.key.as_deref().unwrap_or_default(), out);
            groups.clear();
            record.block.encode(&mut groups);
            varint::put_bytes(&groups, out);
        }
        for ((table, key), tomb) in &self.tombs {
            varint::put(u64::from(*table), out);
            varint::put_bytes(key, out);
            match tomb {
                None => varint::put(0, out),
                Some(tomb) => {
                    varint::put(tomb.cl, out);
                    varint::put(dv.saturating_sub(tomb.dv), out);
                    varint::put(tomb.seq, out);
                    varint::put(u64::from(tomb.site), out);
                }
            }
        }
    }

    /// Lays a record of the tail over this layer.
    pub(crate) fn decode(&mut self, dv: u64, bytes: &[u8]) -> Result<(), DamagedRecord> {
        let mut reader = Reader(bytes);
        for _ in 0..reader.varint()? {
            let id = (reader.small()?, reader.signed()?);
            let max_dv = dv.checked_sub(reader.varint()?).ok_or(DamagedRecord)?;
            let key = reader.bytes()?;
            let block = Block::decode(max_dv, reader.bytes()?)?;
            let key = (!key.is_empty()).then(|| key.into());
            self.blocks.insert(id, Record { block, key, stored: false });
        }
        while !reader.is_empty() {
            let id = (reader.small()?, reader.bytes()?.into());
            let cl = reader.varint()?;
            let tomb = if cl == 0 {
                None
            } else {
                let dv = dv.checked_sub(reader.varint()?).ok_or(DamagedRecord)?;
                Some(Tomb { cl, dv, seq: reader.varint()?, site: reader.small()? })
            };
            self.tombs.insert(id, tomb);
        }
        Ok(())
    }
}

/// The statements on one clock table.
#[derive(Debug)]
struct ClockSql {
    get: Stmt,
    put: Stmt,
    update: Stmt,
    delete: Stmt,
    /// No block at or above this number is in the clock table.
    end: i64,
}

impl ClockSql {
    fn exists(&mut self, block: i64) -> Result<bool, Error> {
        let mut row = self.get.start();
        row.bind_integer(block)?;
        row.step()
    }
}

/// All three layers.
#[derive(Debug)]
pub(crate) struct Clocks {
    db: Db,
    pub(crate) staged: Layer,
    pub(crate) mirror: Layer,
    sql: FxHashMap<u32, ClockSql>,
    tombs: Tombs,
    /// The block read last, as it is in the clock table: neighbours are often asked for in turn.
    cached: Option<(BlockId, Record)>,
    /// Mixed into hashes of keys, so that nobody outside can make keys collide.
    pub(crate) hash_seed: u64,
    /// By table, the longest causal length among tombstones that compaction has dropped.
    pub(crate) cut_lengths: FxHashMap<u32, u64>,
}

/// The rowid that a packed key of one integer is.
pub(crate) fn rowid_of(key: &[u8]) -> i64 {
    let bytes = key.get(2..).unwrap_or_default();
    bytes.iter().fold(0, |value: u64, byte| value << 8 | u64::from(*byte)).cast_signed()
}

/// The packed key of a rowid that is the key.
pub(crate) fn key_of(rowid: i64) -> Vec<u8> {
    let mut key = Vec::with_capacity(10);
    PackedKey::begin(1, &mut key);
    PackedKey::pack_column(ValueRef::Integer(rowid), &mut key);
    key
}

pub(crate) const fn block_of(row: i64) -> (i64, u32) {
    (row >> BLOCK_SHIFT, (row & ((1 << BLOCK_SHIFT) - 1)) as u32)
}

impl Clocks {
    pub(crate) fn new(db: Db) -> Self {
        Self {
            db,
            staged: Layer::default(),
            mirror: Layer::default(),
            sql: FxHashMap::default(),
            tombs: Tombs::new(db),
            cached: None,
            hash_seed: 0,
            cut_lengths: FxHashMap::default(),
        }
    }

    /// Lets go of every statement, before the connection closes or a clock table is dropped.
    pub(crate) fn finalize(&mut self) {
        self.sql.clear();
        self.tombs.finalize();
        self.cached = None;
    }

    /// Forgets what was derived from the file, because another connection may have changed it.
    pub(crate) fn forget_file(&mut self) {
        self.mirror.clear();
        self.cached = None;
        self.tombs.forget_file();
        self.sql.values_mut().for_each(|sql| sql.end = i64::MAX);
    }

    /// Forgets the blocks of a table, which are about to be written anew.
    pub(crate) fn forget_table_blocks(&mut self, table: u32) {
        self.staged.blocks.retain(|id, _| id.0 != table);
        self.mirror.blocks.retain(|id, _| id.0 != table);
        self.cached = None;
    }

    /// How many entries of the file the upper layers may hide.
    pub(crate) fn layered(&self) -> usize {
        self.mirror.len() + self.staged.len()
    }

    /// Forgets a table that is gone.
    pub(crate) fn forget_table(&mut self, table: u32) {
        for layer in [&mut self.staged, &mut self.mirror] {
            layer.blocks.retain(|id, _| id.0 != table);
            layer.tombs.retain(|id, _| id.0 != table);
        }
    }

    /// Makes what was staged the committed state.
    pub(crate) fn publish(&mut self) {
        let Self { staged, mirror, .. } = self;
        mirror.append(staged);
    }

    fn clock_sql(&mut self, table: u32) -> Result<&mut ClockSql, Error> {
        let db = self.db;
        match self.sql.entry(table) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let name = format!("opor_clock_{table}");
                Ok(entry.insert(ClockSql {
                    get: db.prepare(&format!("SELECT max_db_version, groups, key FROM {name} WHERE block = ?"))?,
                    put: db.prepare(&format!(
                        "INSERT OR REPLACE INTO {name}(max_db_version, groups, key, block) VALUES (?, ?, ?, ?)"
                    ))?,
                    update: db.prepare(&format!(
                        "UPDATE {name} SET max_db_version = ?, groups = ?, key = ? WHERE block = ?"
                    ))?,
                    delete: db.prepare(&format!("DELETE FROM {name} WHERE block = ?"))?,
                    end: i64::MAX,
                }))
            }
        }
    }

    fn read_block(&mut self, id: BlockId) -> Result<Option<Record>, Error> {
        let sql = self.clock_sql(id.0)?;
        if id.1 >= sql.end {
            return Ok(None);
        }
        let mut row = sql.get.start();
        row.bind_integer(id.1)?;
        if !row.step()? {
            return Ok(None);
        }
        let block = Block::decode(row.integer(0).cast_unsigned(), row.blob(1)).map_err(damaged)?;
        let key = row.blob(2);
        Ok(Some(Record { block, key: (!key.is_empty()).then(|| key.into()), stored: true }))
    }

    /// Learns where the clock table ends, so that a bulk insert need not look for blocks that cannot exist.
    pub(crate) fn learn_end(&mut self, table: u32) -> Result<(), Error> {
        if self.clock_sql(table)?.end == i64::MAX {
            let max = self.db.prepare(&format!("SELECT max(block), count(*) > 0 FROM (SELECT block FROM opor_clock_{table} ORDER BY block DESC LIMIT 1)"));
            let mut max = max?;
            let mut row = max.start();
            let end =
                if row.step()? && row.integer(1) != 0 { row.integer(0).saturating_add(1) } else { i64::MIN };
            drop(row);
            self.clock_sql(table)?.end = end;
        }
        Ok(())
    }

    /// A block, to be read; one that does not exist is empty.
    pub(crate) fn peek(&mut self, id: BlockId) -> Result<&Record, Error> {
        let layered = self.staged.blocks.contains_key(&id) || self.mirror.blocks.contains_key(&id);
        if !layered && self.cached.as_ref().is_none_or(|(of, _)| *of != id) {
            let record = self.read_block(id)?.unwrap_or_default();
            self.cached = Some((id, record));
        }
        let upper = self.staged.blocks.get(&id).or_else(|| self.mirror.blocks.get(&id));
        Ok(upper.or(self.cached.as_ref().map(|(_, record)| record)).expect("one of the three holds it"))
    }

    /// A block, to be changed in the open transaction.
    pub(crate) fn stage(&mut self, id: BlockId) -> Result<&mut Record, Error> {
        if !self.staged.blocks.contains_key(&id) {
            let record = match self.mirror.blocks.get(&id) {
                Some(record) => record.clone(),
                None => self.read_block(id)?.unwrap_or_default(),
            };
            self.staged.blocks.insert(id, record);
        }
        Ok(self.staged.blocks.get_mut(&id).expect("it was there or has just been inserted"))
    }

    /// Where a row of a keyed table is, or would be: its block number, and whether it is there.
    pub(crate) fn keyed_place(&mut self, table: u32, key: &[u8]) -> Result<(i64, bool), Error> {
        let mut place = hash_key(self.hash_seed, table, key);
        loop {
            let id = (table, place);
            let layered = self.staged.blocks.get(&id).or_else(|| self.mirror.blocks.get(&id));
            let found = match layered {
                Some(record) => record.key.clone(),
                None => self.read_block(id)?.and_then(|record| record.key),
            };
            match found {
                None => return Ok((place, false)),
                Some(found) if *found == *key => return Ok((place, true)),
                Some(_) => place += 1,
            }
        }
    }

    /// The causal length of a new row whose key has no tombstone: past every one that was dropped, which a peer may
    /// still have.
    pub(crate) fn first_cl(&self, table: u32) -> u64 {
        self.cut_lengths.get(&table).map_or(1, |cl| cl + 1)
    }

    /// Whether a key of this table may have a tombstone, here or dropped; `false` is certain.
    pub(crate) fn tombs_possible(&mut self, table: u32) -> Result<bool, Error> {
        if self.cut_lengths.contains_key(&table) {
            return Ok(true);
        }
        let Self { tombs, mirror, staged, .. } = self;
        tombs.possible(table, || mirror.tombs.keys().chain(staged.tombs.keys()).any(|id| id.0 == table))
    }

    /// The tombstone of a key.
    pub(crate) fn tomb(&mut self, table: &Table, key: &[u8]) -> Result<Option<Tomb>, Error> {
        if table.rowid_is_key {
            let (block, bit) = block_of(rowid_of(key));
            return Ok(self.peek((table.id, block))?.block.tomb(bit));
        }
        if !self.tombs_possible(table.id)? {
            return Ok(None);
        }
        let id = (table.id, compact(key));
        if let Some(tomb) = self.staged.tombs.get(&id).or_else(|| self.mirror.tombs.get(&id)) {
            return Ok(*tomb);
        }
        self.tombs.stored(id.0, &id.1)
    }

    /// Records in the open transaction that a row is gone; its clocks go.
    pub(crate) fn bury(&mut self, table: &Table, key: &[u8], tomb: Tomb) -> Result<(), Error> {
        if table.rowid_is_key {
            let (block, bit) = block_of(rowid_of(key));
            self.stage((table.id, block))?.block.bury(bit, tomb);
            return Ok(());
        }
        self.tombs.expect(table.id);
        self.staged.tombs.insert((table.id, compact(key)), Some(tomb));
        Ok(())
    }

    /// Takes the tombstone of a key away in the open transaction. Where the rowid is the key there is nothing to do:
    /// the row's new clocks hide it.
    pub(crate) fn unbury(&mut self, table: &Table, key: &[u8]) {
        if !table.rowid_is_key {
            self.staged.tombs.insert((table.id, compact(key)), None);
        }
    }

    /// Writes the mirror and what is staged into the clock tables; the tail is then empty.
    pub(crate) fn fold(&mut self) -> Result<(), Error> {
        self.cached = None;
        let mut layer = std::mem::take(&mut self.mirror);
        if layer.is_empty() {
            layer = std::mem::take(&mut self.staged);
        }
        layer.append(&mut self.staged);
        let result = self.write_layer(&layer);
        // The transaction may still fail and be retried, so what was written stays in hand until it is over.
        self.staged = layer;
        result
    }

    fn write_layer(&mut self, layer: &Layer) -> Result<(), Error> {
        let db = self.db;
        let mut ids: Vec<BlockId> = layer.blocks.keys().copied().collect();
        ids.sort_unstable();
        let mut groups = Vec::new();
        for id in ids {
            let record = &layer.blocks[&id];
            let sql = self.clock_sql(id.0)?;
            // A keyed row that another gave way to keeps its place, or that other could not be found.
            if record.block.groups.is_empty() && (record.key.is_none() || !sql.exists(id.1 + 1)?) {
                sql.delete.run(&[id.1])?;
                continue;
            }
            groups.clear();
            record.block.encode(&mut groups);
            // Replacing a row costs twice as much as updating it.
            let updated = record.stored && {
                record.write(&mut sql.update, id.1, &groups)?;
                db.changes() > 0
            };
            if !updated {
                record.write(&mut sql.put, id.1, &groups)?;
            }
            if sql.end != i64::MAX {
                sql.end = sql.end.max(id.1.saturating_add(1));
            }
        }
        self.tombs.write(layer.tombs.iter())
    }

    /// The block and bit of a row of a table.
    pub(crate) fn place_of(
        &mut self,
        table: &Rc<Table>,
        rowid: i64,
        key: &[u8],
    ) -> Result<(BlockId, u32), Error> {
        if table.keyed {
            return Ok(((table.id, self.keyed_place(table.id, key)?.0), 0));
        }
        let (block, bit) = block_of(rowid);
        Ok(((table.id, block), bit))
    }
}

pub(crate) fn damaged(error: DamagedRecord) -> Error {
    failure(error.to_string())
}

/// 56 bits, never negative: SQLite then stores the rowid in at most 8 bytes, and probing cannot overflow.
fn hash_key(seed: u64, table: u32, key: &[u8]) -> i64 {
    fn mix(a: u64, b: u64) -> u64 {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    }
    let mut hash = mix(seed ^ 0x9e37_79b9_7f4a_7c15, u64::from(table) ^ 0xd6e8_feb8_6659_fd93);
    for chunk in key.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word), 0xa076_1d64_78bd_642f ^ seed);
    }
    (mix(hash ^ key.len() as u64, 0xe703_7ed1_a0b4_28db) >> 8).cast_signed()
}
