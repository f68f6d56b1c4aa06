//! What is known of every row: blocks and tombstones, in three layers.
//!
//! *Staged* is what the open transaction has written; *mirrored* is what committed transactions wrote to the tail
//! and has not been folded; below is what the clock tables hold. The upper layer hides the lower.

use std::rc::Rc;

use opor_core::{PackedKey, ValueRef};
use rusqlite::Error;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::block::{BLOCK_SHIFT, Block, CellClock, Group};
use crate::buried::Buried;
use crate::catalog::Table;
use crate::clock_table::{ClockSql, Record};
use crate::colset::ColSet;
use crate::journal::{Entries, Entry, Journal};
use crate::sqlite::{Db, failure};
use crate::tombs::{Tomb, TombId, Tombs, compact};
use crate::varint::DamagedRecord;

/// Where a block is: the table's id and the block's number.
pub(crate) type BlockId = (u32, i64);

/// One layer of changes over the clock tables.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    /// A record without groups says the block is gone.
    pub(crate) blocks: FxHashMap<BlockId, Record>,
    pub(crate) tombs: Buried,
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
        self.tombs.append(&mut upper.tombs);
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
        self.tombs.by_key().iter().take(if self.tombs_filed > base { usize::MAX } else { 0 })
    }
}

/// From this many blocks on one statement reads them all.
const RANGE_MIN: i64 = 4;

/// All three layers.
#[derive(Debug)]
pub(crate) struct Clocks {
    pub(crate) db: Db,
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
    /// Reads blocks one by one, as a measure of reading many.
    #[cfg(test)]
    pub(crate) one_by_one: bool,
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
            #[cfg(test)]
            one_by_one: false,
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

    /// Lets the tombstones of the upper layers be found by key.
    pub(crate) fn settle_tombs(&mut self) {
        self.mirror.tombs.settle();
        self.staged.tombs.settle();
    }

    /// Forgets a table that is gone.
    pub(crate) fn forget_table(&mut self, table: u32) {
        for layer in [&mut self.staged, &mut self.mirror] {
            layer.blocks.retain(|id, _| id.0 != table);
            layer.tombs.forget_table(table);
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
            mirror.tombs.append(&mut staged.tombs);
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
                    self.mirror.tombs.set((table, key.into()), tomb);
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

    fn clock_sql(&mut self, table: u32) -> &mut ClockSql {
        let db = self.db;
        self.sql.entry(table).or_insert_with(|| ClockSql::new(db, table))
    }

    fn read_block(&mut self, id: BlockId) -> Result<Option<Record>, Error> {
        let sql = self.clock_sql(id.0);
        if id.1 >= sql.end {
            return Ok(None);
        }
        let mut row = sql.get()?.start();
        row.bind_integer(id.1)?;
        if !row.step()? {
            return Ok(None);
        }
        Record::stored(row.integer(0).cast_unsigned(), row.blob(1), row.blob(2)).map(Some).map_err(damaged)
    }

    /// Learns where the clock table ends, so that a bulk insert need not look for blocks that cannot exist.
    pub(crate) fn learn_end(&mut self, table: u32) -> Result<(), Error> {
        self.clock_sql(table).learn_end()
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

    /// As [`stage`](Self::stage), with the tombstones that the open transaction has written.
    pub(crate) fn stage_with_tombs(&mut self, id: BlockId) -> Result<(Staged<'_>, &mut Buried), Error> {
        self.stage(id)?;
        let Self { staged, journal, .. } = self;
        let record = staged.blocks.get_mut(&id).expect("it has just been staged");
        Ok((Staged { record, journal, id }, &mut staged.tombs))
    }

    /// Reads blocks that are about to be staged, from the first to the last of these numbers. To read them one by one takes
    /// eight times as long.
    pub(crate) fn stage_range(&mut self, table: u32, first: i64, last: i64) -> Result<(), Error> {
        if last.saturating_sub(first) < RANGE_MIN {
            return Ok(());
        }
        #[cfg(test)]
        if self.one_by_one {
            return Ok(());
        }
        self.cached = None;
        let sql = self.clock_sql(table);
        if first >= sql.end {
            return Ok(());
        }
        let mut rows = sql.range()?.start();
        rows.bind_integer(first)?;
        rows.bind_integer(last)?;
        let mut found = Vec::new();
        while rows.step()? {
            let record = Record::stored(rows.integer(1).cast_unsigned(), rows.blob(2), rows.blob(3));
            found.push(((table, rows.integer(0)), record.map_err(damaged)?));
        }
        drop(rows);
        self.staged.blocks.reserve(found.len());
        for (id, record) in found {
            // What the mirror holds is newer.
            if !self.mirror.blocks.contains_key(&id) {
                self.staged.blocks.entry(id).or_insert(record);
            }
        }
        Ok(())
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
        tombs.possible(table, || mirror.tombs.names(table) || staged.tombs.names(table))
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
            return Ok(tomb);
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
        self.expect_tombs(table.id);
        self.staged.tombs.bury(table.id, key, tomb);
        Ok(())
    }

    /// From now on a key of this table may have a tombstone.
    pub(crate) fn expect_tombs(&mut self, table: u32) {
        self.tombs.expect(table);
    }

    /// Takes the tombstone of a key away in the open transaction. Where the rowid is the key there is nothing to do:
    /// the row's new clocks hide it.
    pub(crate) fn unbury(&mut self, table: &Table, key: &[u8]) {
        if !table.rowid_is_key {
            self.staged.tombs.set((table.id, compact(key)), None);
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
        let mut ids: Vec<BlockId> = layer.blocks.keys().copied().collect();
        ids.sort_unstable();
        let mut groups = Vec::new();
        // Neighbouring blocks that are gone, by the number after the last.
        let mut gone: Option<(BlockId, i64)> = None;
        for id in ids {
            let record = &layer.blocks[&id];
            let sql = self.clock_sql(id.0);
            // A keyed row that another gave way to keeps its place, or that other could not be found.
            if record.block.groups.is_empty() && (record.key.is_none() || !sql.exists(id.1 + 1)?) {
                match &mut gone {
                    Some(((table, _), end)) if (*table, *end) == id && record.key.is_none() => *end += 1,
                    _ => self.delete_blocks(gone.replace((id, id.1.saturating_add(1))))?,
                }
                continue;
            }
            groups.clear();
            record.block.encode(&mut groups);
            sql.write(id.1, record, &groups)?;
        }
        self.delete_blocks(gone)?;
        self.tombs.write(&layer.tombs)
    }

    fn delete_blocks(&mut self, gone: Option<(BlockId, i64)>) -> Result<(), Error> {
        match gone {
            Some(((table, first), end)) => self.clock_sql(table).delete(first, end - 1),
            None => Ok(()),
        }
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
        self.clock_sql(id.0).write(id.1, &record, &groups)
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
