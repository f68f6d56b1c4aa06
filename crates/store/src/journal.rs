//! What a small commit did to blocks and tombstones, in order: one record of the tail.
//!
//! A record says what is new, not what the blocks are then. So it is laid over the blocks as the commits before it left
//! them. `docs/storage.md` draws the bytes.

use crate::block::{Group, Last, decode_group, encode_group};
use crate::clocks::BlockId;
use crate::tombs::{News, Tomb};
use crate::varint::{self, DamagedRecord, Reader};

/// A commit that did more than this goes to the clock tables at once: two pages of them, where the tail gets one on average.
const JOURNAL_BYTES_MAX: usize = 8 << 10;

/// The block that what follows is about.
const BLOCK: u8 = 0;
/// The packed key of its only row.
const KEY: u8 = 1;
/// A group was written over it.
const PUT: u8 = 2;
/// Rows were forgotten.
const CLEAR: u8 = 3;
/// A key has this tombstone now, or none.
const TOMB: u8 = 4;

/// What the open transaction did to blocks so far, as it will stand in the tail.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    bytes: Vec<u8>,
    block: Option<BlockId>,
    /// The version of the first group.
    first_dv: Option<u64>,
    last: Last,
    full: bool,
}

impl Journal {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        (self.block, self.first_dv, self.last, self.full) = (None, None, Last::default(), false);
    }

    /// Whether something happened that is not on record, because it is too much for the tail.
    pub(crate) const fn is_full(&self) -> bool {
        self.full
    }

    /// What happens from here on is not for the tail.
    pub(crate) fn give_up(&mut self) {
        self.full = true;
        self.bytes = Vec::new();
    }

    pub(crate) fn key(&mut self, id: BlockId, key: &[u8]) {
        if self.is_open_for(id) {
            self.bytes.push(KEY);
            varint::put_bytes(key, &mut self.bytes);
        }
    }

    pub(crate) fn put(&mut self, id: BlockId, group: &Group) {
        if self.is_open_for(id) {
            let dv = *self.first_dv.get_or_insert(group.dv);
            if self.last == Last::default() {
                self.last.dv = dv;
            }
            self.bytes.push(PUT);
            encode_group(group, self.last, &mut self.bytes);
            self.last = Last { dv: group.dv, cv: group.cv };
        }
    }

    pub(crate) fn clear_rows(&mut self, id: BlockId, rows: u32) {
        if self.is_open_for(id) {
            self.bytes.push(CLEAR);
            varint::put(u64::from(rows), &mut self.bytes);
        }
    }

    fn is_open_for(&mut self, id: BlockId) -> bool {
        if self.full {
            return false;
        }
        if self.bytes.len() > JOURNAL_BYTES_MAX {
            self.give_up();
            return false;
        }
        if self.block != Some(id) {
            self.block = Some(id);
            self.bytes.push(BLOCK);
            varint::put(u64::from(id.0), &mut self.bytes);
            varint::put_signed(id.1, &mut self.bytes);
        }
        true
    }

    /// The record of the commit, under the version it is filed under.
    pub(crate) fn encode<'t>(&self, dv: u64, tombs: impl Iterator<Item = News<'t>>, out: &mut Vec<u8>) {
        assert!(!self.full, "what is not whole is not written to the tail");
        varint::put(dv - self.first_dv.unwrap_or(dv).min(dv), out);
        out.extend_from_slice(&self.bytes);
        for (table, key, tomb) in tombs {
            out.push(TOMB);
            varint::put(u64::from(table), out);
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
}

/// One thing that a commit did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    Key(BlockId, &'a [u8]),
    Put(BlockId, Group),
    Clear(BlockId, u32),
    Tomb(u32, &'a [u8], Option<Tomb>),
}

/// Reads a record of the tail.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    reader: Reader<'a>,
    dv: u64,
    block: Option<BlockId>,
    last: Last,
}

impl<'a> Entries<'a> {
    /// The record that is filed under `dv`.
    pub(crate) fn new(dv: u64, bytes: &'a [u8]) -> Result<Self, DamagedRecord> {
        let mut reader = Reader(bytes);
        let first_dv = dv.checked_sub(reader.varint()?).ok_or(DamagedRecord)?;
        Ok(Self { reader, dv, block: None, last: Last { dv: first_dv, cv: 0 } })
    }

    /// The block that the last entry was about.
    pub(crate) const fn block(&self) -> Option<BlockId> {
        self.block
    }

    pub(crate) fn next(&mut self) -> Result<Option<Entry<'a>>, DamagedRecord> {
        while !self.reader.is_empty() {
            let kind = self.reader.byte()?;
            if kind == BLOCK {
                self.block = Some((self.reader.small()?, self.reader.signed()?));
                continue;
            }
            return self.entry(kind).map(Some);
        }
        Ok(None)
    }

    fn entry(&mut self, kind: u8) -> Result<Entry<'a>, DamagedRecord> {
        let Self { reader, dv, .. } = self;
        if kind == TOMB {
            let (table, key, cl) = (reader.small()?, reader.bytes()?, reader.varint()?);
            if cl == 0 {
                return Ok(Entry::Tomb(table, key, None));
            }
            let dv = dv.checked_sub(reader.varint()?).ok_or(DamagedRecord)?;
            let tomb = Tomb { cl, dv, seq: reader.varint()?, site: reader.small()? };
            return Ok(Entry::Tomb(table, key, Some(tomb)));
        }
        let id = self.block.ok_or(DamagedRecord)?;
        match kind {
            KEY => Ok(Entry::Key(id, reader.bytes()?)),
            PUT => {
                let group = decode_group(reader, self.last)?;
                if group.dv > *dv {
                    return Err(DamagedRecord);
                }
                self.last = Last { dv: group.dv, cv: group.cv };
                Ok(Entry::Put(id, group))
            }
            CLEAR => Ok(Entry::Clear(id, reader.small()?)),
            _ => Err(DamagedRecord),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::CellClock;
    use crate::colset::ColSet;

    fn group(row: u32, dv: u64, cv: u64) -> Group {
        Group::of_row(row, ColSet::one(3), CellClock { cv, dv, shown_dv: dv, seq: 0, site: 0 })
    }

    fn read(dv: u64, bytes: &[u8]) -> Result<Vec<Entry<'_>>, DamagedRecord> {
        let mut entries = Entries::new(dv, bytes)?;
        std::iter::from_fn(|| entries.next().transpose()).collect()
    }

    #[test]
    fn a_record_says_what_was_done_in_order() {
        let (one, two) = ((1, -7), (200, 1 << 40));
        let mut journal = Journal::default();
        journal.put(one, &group(4, 9, 1 << 50));
        journal.put(one, &group(5, 9, 1 << 50));
        journal.clear_rows(two, 0x8000_0001);
        journal.key(two, b"key");
        journal.put(two, &group(0, 8, 3));
        let tomb = Tomb { cl: 4, dv: 10, seq: 2, site: 7 };
        let mut bytes = Vec::new();
        let tombs = [(3, b"tomb".as_slice(), Some(tomb)), (3, b"none", None)];
        journal.encode(10, tombs.into_iter(), &mut bytes);
        let expected = [
            Entry::Put(one, group(4, 9, 1 << 50)),
            Entry::Put(one, group(5, 9, 1 << 50)),
            Entry::Clear(two, 0x8000_0001),
            Entry::Key(two, b"key"),
            Entry::Put(two, group(0, 8, 3)),
            Entry::Tomb(3, b"tomb", Some(tomb)),
            Entry::Tomb(3, b"none", None),
        ];
        assert_eq!(read(10, &bytes).as_deref(), Ok(expected.as_slice()));
        for len in 0..bytes.len() {
            // Cut short it is damaged, or ends between two entries; it never panics.
            let cut = read(10, &bytes[..len]);
            assert!(cut.is_err() || cut.is_ok_and(|cut| cut.len() < expected.len()));
        }
    }

    #[test]
    fn a_record_that_is_damaged_is_refused() {
        let damaged: [&[u8]; 5] = [b"", &[11], &[0, PUT], &[0, 9], &[0, BLOCK, 1, 2, PUT, 0x56, 0x10, 2, 0]];
        for bytes in damaged {
            assert_eq!(read(10, bytes), Err(DamagedRecord), "{bytes:?}");
        }
    }

    #[test]
    fn much_is_not_for_the_tail() {
        let mut journal = Journal::default();
        (0..10_000).for_each(|number| journal.put((1, number), &group(0, 1, 1)));
        assert!(journal.is_full());
        journal.clear();
        journal.put((1, 1), &group(0, 1, 1));
        assert!(!journal.is_full());
    }
}
