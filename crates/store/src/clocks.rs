//! What is known of every row: blocks and tombstones, in three layers.
//!
//! *Staged* is what the open transaction has written; *mirrored* is what committed transactions wrote to the tail
//! and has not been folded; below is what the clock tables hold. The upper layer hides the lower.

use std::rc::Rc;

use opor_core::{PackedKey, ValueRef};
use rusqlite::Error;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::block::{BLOCK_SHIFT, Block, CellClock, Group};
use crate::catalog::Table;
use crate::colset::ColSet;
use crate::journal::{Entries, Entry, Journal};
use crate::sqlite::{Db, Stmt, failure};
use crate::tombs::{Tomb, TombId, Tombs, compact};
use crate::varint::DamagedRecord;

/// Where a block is: the table's id and the block's number.
pub(crate) type BlockId = (u32, i64);
/// A block with, in a keyed table, the packed key of its only row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) block: Block,
    pub(crate) key: Option<Box<[u8]>>,
    /// It was read from the clock table: it is written over there, unless it has been deleted since.
    pub(crate) stored: bool,
    /// The version of the commit of the tail that changed it last.
    filed: u64,
}

impl Record {
    /// As it stands in the clock table.
    pub(crate) fn stored(max_dv: u64, groups: &[u8], key: &[u8]) -> Result<Self, DamagedRecord> {
        let block = Block::decode(max_dv, groups)?;
        Ok(Self { block, key: (!key.is_empty()).then(|| key.into()), stored: true, filed: 0 })
    }

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
    /// The commit takes a version whether or not a clock changes: something was put into quarantine under it.
    pub(crate) takes_version: bool,
    /// Which commit of the tail changed which block, oldest first: what is new is at the end.
    order: Vec<(u64, BlockId)>,
    /// The newest commit of the tail that changed a tombstone.
    tombs_filed: u64,
}

impl Layer {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.tombs.is_empty() && !self.takes_version
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len() + self.tombs.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn append(&mut self, upper: &mut Self) {
        self.blocks.extend(upper.blocks.drain());
        self.tombs.extend(upper.tombs.drain());
        // It is told where it was staged, and says nothing of what is below.
        upper.takes_version = false;
    }

    /// Notes that a commit of the tail changed a block.
    fn file(&mut self, dv: u64, id: BlockId) {
        if let Some(record) = self.blocks.get_mut(&id).filter(|record| record.filed != dv) {
            record.filed = dv;
            self.order.push((dv, id));
        }
    }

    /// The blocks that commits of the tail after `base` changed.
    pub(crate) fn blocks_since(&self, base: u64) -> impl Iterator<Item = (BlockId, &Record)> {
        self.order.iter().rev().take_while(move |(dv, _)| *dv > base).filter_map(|(dv, id)| {
            // One that was changed again later is told of there.
            self.blocks.get(id).filter(|record| record.filed == *dv).map(|record| (*id, record))
        })
    }

    /// The tombstones, unless no commit of the tail after `base` changed one.
    pub(crate) fn tombs_since(&self, base: u64) -> impl Iterator<Item = (&TombId, &Option<Tomb>)> {
        self.tombs.iter().take(if self.tombs_filed > base { usize::MAX } else { 0 })
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
    /// What `staged` did to the blocks below it.
    journal: Journal,
    sql: FxHashMap<u32, ClockSql>,
    tombs: Tombs,
    /// The block read last, as it is in the clock table: neighbours are often asked for in turn.
    cached: Option<(BlockId, Record)>,
    /// The tables on record; what the tail says of others is about tables that are gone.
    pub(crate) known: FxHashSet<u32>,
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
            journal: Journal::default(),
            sql: FxHashMap::default(),
            tombs: Tombs::new(db),
            cached: None,
            known: FxHashSet::default(),
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

    /// Forgets what was derived from the clock tables, because another connection may have changed them.
    pub(crate) fn forget_tables(&mut self) {
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

    /// Makes what was staged the committed state, as a commit of the tail.
    pub(crate) fn publish(&mut self, dv: u64) {
        let Self { staged, mirror, .. } = self;
        for (id, record) in staged.blocks.drain() {
            mirror.order.push((dv, id));
            mirror.blocks.insert(id, Record { filed: dv, ..record });
        }
        if !staged.tombs.is_empty() {
            mirror.tombs_filed = dv;
            mirror.tombs.extend(staged.tombs.drain());
        }
        staged.takes_version = false;
        self.journal.clear();
    }

    /// Forgets what was staged. Blocks of the mirror may go with it: unless it was folded, the tail has to be read again.
    pub(crate) fn discard_staged(&mut self) {
        self.staged.clear();
        self.journal.clear();
    }

    /// What was staged as one record of the tail; `None` when it is too much for that.
    pub(crate) fn encode_staged(&self, dv: u64) -> Option<Vec<u8>> {
        if self.journal.is_full() {
            return None;
        }
        let mut body = Vec::with_capacity(512);
        self.journal.encode(dv, self.staged.tombs.iter(), &mut body);
        Some(body)
    }

    /// Lays a record of the tail over the mirror.
    pub(crate) fn lay(&mut self, dv: u64, bytes: &[u8]) -> Result<LaidStamp, Error> {
        let mut entries = Entries::new(dv, bytes).map_err(damaged)?;
        let mut stamp = 0;
        while let Some(entry) = entries.next().map_err(damaged)? {
            match entry {
                Entry::Key(id, key) if self.known.contains(&id.0) => self.below(id)?.key = Some(key.into()),
                Entry::Clear(id, rows) if self.known.contains(&id.0) => self.below(id)?.block.clear(rows),
                Entry::Put(id, group) if self.known.contains(&id.0) => {
                    if !group.cols.contains(ColSet::SENTINEL) {
                        stamp = group.cv.max(stamp);
                    }
                    self.below(id)?.block.put(group);
                }
                Entry::Tomb(table, key, tomb) if self.known.contains(&table) => {
                    self.mirror.tombs.insert((table, key.into()), tomb);
                    self.mirror.tombs_filed = dv;
                    continue;
                }
                _ => continue,
            }
            if let Some(id) = entries.block() {
                self.mirror.file(dv, id);
            }
        }
        Ok(LaidStamp(stamp))
    }

    /// A block of the mirror, to be changed as a record of the tail says.
    fn below(&mut self, id: BlockId) -> Result<&mut Record, Error> {
        if !self.mirror.blocks.contains_key(&id) {
            let record = self.read_block(id)?.unwrap_or_default();
            self.mirror.blocks.insert(id, record);
        }
        Ok(self.mirror.blocks.get_mut(&id).expect("it was there or has just been inserted"))
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
        Record::stored(row.integer(0).cast_unsigned(), row.blob(1), row.blob(2)).map(Some).map_err(damaged)
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
    pub(crate) fn stage(&mut self, id: BlockId) -> Result<Staged<'_>, Error> {
        if !self.staged.blocks.contains_key(&id) {
            // It comes back to the mirror when it is published. If it never is, the tail is read again.
            let cached = self.cached.take_if(|(of, _)| *of == id);
            let record = match (self.mirror.blocks.remove(&id), cached) {
                (Some(record), _) | (None, Some((_, record))) => record,
                (None, None) => self.read_block(id)?.unwrap_or_default(),
            };
            self.staged.blocks.insert(id, record);
        }
        let record = self.staged.blocks.get_mut(&id).expect("it was there or has just been inserted");
        Ok(Staged { record, journal: &mut self.journal, id })
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

    /// The causal length of a new row whose key has this tombstone, if it has one: past that, and past every one that was
    /// dropped. The tombstone may be of an earlier delete than others remember, where a later one was dropped.
    pub(crate) fn next_cl(&self, table: u32, tomb: Option<Tomb>) -> u64 {
        self.first_cl(table).max(tomb.map_or(0, |tomb| tomb.cl + 1))
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

    /// Whether there is no clock and no tombstone of a key, as far as can be told without looking for its row.
    pub(crate) fn is_unknown(&mut self, table: &Table, key: &[u8]) -> Result<bool, Error> {
        if table.rowid_is_key {
            let (block, bit) = block_of(rowid_of(key));
            return Ok(self.peek((table.id, block))?.block.rows() >> bit & 1 == 0);
        }
        Ok(self.tomb(table, key)?.is_none())
    }

    /// Records in the open transaction that a row is gone; its clocks go.
    pub(crate) fn bury(&mut self, table: &Table, key: &[u8], tomb: Tomb) -> Result<(), Error> {
        if table.rowid_is_key {
            let (block, bit) = block_of(rowid_of(key));
            self.stage((table.id, block))?.bury(bit, tomb);
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
        self.journal.clear();
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

    /// Whether anything is known of rows of a table that is not found by key, be it that they are gone; `false` is certain.
    pub(crate) fn knows_of(&mut self, table: &Table) -> Result<bool, Error> {
        let layered = |layer: &Layer| layer.blocks.keys().any(|id| id.0 == table.id);
        if layered(&self.staged) || layered(&self.mirror) || self.tombs_possible(table.id)? {
            return Ok(true);
        }
        Ok(self.db.integer(&format!("SELECT 1 FROM {} LIMIT 1", table.clock_table()))?.is_some())
    }

    /// Writes a block straight into its clock table, past the layers above, which have none of this number.
    pub(crate) fn write_below(&mut self, id: BlockId, block: Block) -> Result<(), Error> {
        let mut groups = Vec::with_capacity(64);
        block.encode(&mut groups);
        self.cached = None;
        let record = Record { block, ..Record::default() };
        let sql = self.clock_sql(id.0)?;
        record.write(&mut sql.put, id.1, &groups)?;
        if sql.end != i64::MAX {
            sql.end = sql.end.max(id.1.saturating_add(1));
        }
        Ok(())
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

/// The greatest stamp in a record of the tail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaidStamp(pub(crate) u64);

/// A block of the open transaction, to be changed: what is done to it goes on record.
#[derive(Debug)]
pub(crate) struct Staged<'a> {
    record: &'a mut Record,
    journal: &'a mut Journal,
    id: BlockId,
}

impl std::ops::Deref for Staged<'_> {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.record.block
    }
}

impl Staged<'_> {
    /// Writes a group over what was there.
    pub(crate) fn put(&mut self, group: Group) {
        self.journal.put(self.id, &group);
        self.record.block.put(group);
    }

    /// Writes rows that are new; nothing is known of them.
    pub(crate) fn put_new(&mut self, group: Group) {
        self.journal.put(self.id, &group);
        self.record.block.put_new(group);
    }

    /// Forgets rows.
    pub(crate) fn clear(&mut self, rows: u32) {
        if self.rows() & rows != 0 {
            self.journal.clear_rows(self.id, rows);
            self.record.block.clear(rows);
        }
    }

    /// Records that a row is gone.
    pub(crate) fn bury(&mut self, row: u32, tomb: Tomb) {
        let Tomb { cl, dv, seq, site } = tomb;
        self.clear(1 << row);
        let clock = CellClock { cv: cl, dv, shown_dv: dv, seq, site };
        self.put(Group::of_row(row, ColSet::sentinel(), clock));
    }

    /// Says whose clocks these are, in a keyed table.
    pub(crate) fn name(&mut self, key: &[u8]) {
        if self.record.key.is_none() {
            self.journal.key(self.id, key);
            self.record.key = Some(key.into());
        }
    }

    /// Puts another block in its place, by which the commit is none for the tail.
    pub(crate) fn replace(&mut self, block: Block) {
        self.journal.give_up();
        self.record.block = block;
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
