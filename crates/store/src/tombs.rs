//! Tombstones: what remains of deleted rows, in sorted chunks.
//!
//! A chunk is one record with the tombstones of neighbouring keys of one table. Chunks divide the keys of a table
//! among them: each begins at its `first` and ends where the next begins. Deleting many rows then costs a few bytes
//! each, and looking one up costs one seek. `docs/storage.md` draws the bytes. Where the rowid is the key there are
//! none: there a [`Block`](crate::block::Block) tells of its dead rows itself.

use std::borrow::Cow;

use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::buried::Buried;
use crate::clocks::damaged;
use crate::sqlite::{Db, Stmt};
use crate::varint::{self, DamagedRecord, Reader};

/// The most tombstones in a chunk: one that is looked up has some twenty before it, which takes a microsecond.
const CHUNK_MAX: usize = 40;
/// How many a chunk gets when it is divided, so that it has room for more.
const CHUNK_FILL: usize = 32;
/// A chunk with more bytes takes no further key, so that most chunks fit a page beside others.
const CHUNK_BYTES_MAX: usize = 2_000;

/// What remains of a deleted row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tomb {
    pub(crate) cl: u64,
    pub(crate) dv: u64,
    pub(crate) seq: u64,
    pub(crate) site: u32,
}

/// A packed key as tombstones hold it: a UUID in text form takes 17 bytes.
pub(crate) type TombKey = Box<[u8]>;
/// A row that is gone: the table's id and its key.
pub(crate) type TombId = (u32, TombKey);

/// The statements on tombstones, and which tables have some.
#[derive(Debug)]
pub(crate) struct Tombs {
    db: Db,
    sql: Option<TombSql>,
    /// Tables that have had a tombstone since the file was last read; others need no look-up.
    possible: FxHashMap<u32, bool>,
}

#[derive(Debug)]
struct TombSql {
    chunk: Stmt,
    next: Stmt,
    insert: Stmt,
    update: Stmt,
    delete: Stmt,
    any: Stmt,
}

/// A chunk as it is in the file.
struct Chunk {
    id: i64,
    max_dv: u64,
    body: Vec<u8>,
}

impl Tombs {
    pub(crate) fn new(db: Db) -> Self {
        Self { db, sql: None, possible: FxHashMap::default() }
    }

    /// Lets go of every statement.
    pub(crate) fn finalize(&mut self) {
        self.sql = None;
        self.possible.clear();
    }

    /// Forgets what was derived from the file.
    pub(crate) fn forget_file(&mut self) {
        self.possible.clear();
    }

    fn sql(&mut self) -> Result<&mut TombSql, Error> {
        if self.sql.is_none() {
            let db = self.db;
            self.sql = Some(TombSql {
                chunk: db.prepare(
                    "SELECT id, max_db_version, body FROM opor_tombstone \
                     WHERE table_id = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                )?,
                next: db.prepare(
                    "SELECT first FROM opor_tombstone WHERE table_id = ? AND first > ? ORDER BY first LIMIT 1",
                )?,
                insert: db.prepare(
                    "INSERT INTO opor_tombstone(table_id, first, max_db_version, body) VALUES (?, ?, ?, ?)",
                )?,
                update: db
                    .prepare("UPDATE opor_tombstone SET max_db_version = ?, body = ? WHERE id = ?")?,
                delete: db.prepare("DELETE FROM opor_tombstone WHERE id = ?")?,
                any: db.prepare("SELECT 1 FROM opor_tombstone WHERE table_id = ? LIMIT 1")?,
            });
        }
        Ok(self.sql.as_mut().expect("it has just been set"))
    }

    /// Whether a key of this table may have a tombstone; `false` is certain. `layered` tells of those not in the file.
    pub(crate) fn possible(&mut self, table: u32, layered: impl FnOnce() -> bool) -> Result<bool, Error> {
        if let Some(known) = self.possible.get(&table) {
            return Ok(*known);
        }
        let possible = layered() || {
            let mut any = self.sql()?.any.start();
            any.bind_integer(i64::from(table))?;
            any.step()?
        };
        self.possible.insert(table, possible);
        Ok(possible)
    }

    /// From now on a key of this table may have one.
    pub(crate) fn expect(&mut self, table: u32) {
        self.possible.insert(table, true);
    }

    /// The tombstone of a key, as the file has it.
    pub(crate) fn stored(&mut self, table: u32, key: &[u8]) -> Result<Option<Tomb>, Error> {
        let mut chunk = self.sql()?.chunk.start();
        chunk.bind_integer(i64::from(table))?;
        chunk.bind_blob(key)?;
        if !chunk.step()? {
            return Ok(None);
        }
        let mut entries = Entries::new(chunk.integer(1).cast_unsigned(), chunk.blob(2));
        while let Some((found, tomb)) = entries.next().map_err(damaged)? {
            if found >= key {
                return Ok((found == key).then_some(tomb));
            }
        }
        Ok(None)
    }

    fn chunk(&mut self, table: u32, key: &[u8]) -> Result<Option<Chunk>, Error> {
        let mut chunk = self.sql()?.chunk.start();
        chunk.bind_integer(i64::from(table))?;
        chunk.bind_blob(key)?;
        if !chunk.step()? {
            return Ok(None);
        }
        let max_dv = chunk.integer(1).cast_unsigned();
        Ok(Some(Chunk { id: chunk.integer(0), max_dv, body: chunk.blob(2).to_vec() }))
    }

    /// Where the chunk that holds `key` ends; `None` when it is the last.
    fn chunk_end(&mut self, table: u32, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut next = self.sql()?.next.start();
        next.bind_integer(i64::from(table))?;
        next.bind_blob(key)?;
        Ok(if next.step()? { Some(next.blob(0).to_vec()) } else { None })
    }

    /// Writes tombstones, and takes away those that are `None`.
    pub(crate) fn write(&mut self, tombs: &Buried) -> Result<(), Error> {
        let mut news: Vec<News<'_>> = tombs.iter().collect();
        // Rows are often deleted in the order of their keys.
        if !news.is_sorted_by(|(table, key, _), (next, next_key, _)| (table, *key) < (next, *next_key)) {
            // The first bytes as a number settle nearly every comparison. The order of equal ones stays: the last counts.
            news.sort_by_cached_key(|(table, key, _)| (*table, head(key), *key));
            let mut last = 0;
            for place in 1..news.len() {
                let same = (news[last].0, news[last].1) == (news[place].0, news[place].1);
                last += usize::from(!same);
                news[last] = news[place];
            }
            news.truncate(last + 1);
        }
        let mut rest = &news[..];
        while let Some((table, key, _)) = rest.first() {
            let chunk = self.chunk(*table, key)?;
            let end = self.chunk_end(*table, key)?;
            let within =
                |(of, key, _): &News<'_>| of == table && end.as_ref().is_none_or(|end| *key < &**end);
            let (part, after) = rest.split_at(rest.iter().take_while(|tomb| within(tomb)).count());
            self.write_chunk(*table, chunk, part)?;
            rest = after;
        }
        Ok(())
    }

    fn write_chunk(&mut self, table: u32, chunk: Option<Chunk>, news: &[News<'_>]) -> Result<(), Error> {
        // It never goes back: a walk that has passed the older version would miss what stands under it.
        let newest = news.iter().filter_map(|(_, _, tomb)| tomb.map(|tomb| tomb.dv)).max();
        let max_dv = newest.into_iter().chain(chunk.as_ref().map(|chunk| chunk.max_dv)).max().unwrap_or(0);
        if chunk.is_none() && news.iter().all(|(_, _, tomb)| tomb.is_some()) {
            let at =
                |place: usize| news[place].2.map(|tomb| (news[place].1, tomb)).expect("none is taken away");
            return self.write_pieces(table, None, max_dv, news.len(), at);
        }
        let merged = merge(chunk.as_ref(), news).map_err(damaged)?;
        let at = |place: usize| (&*merged[place].0, merged[place].1);
        self.write_pieces(table, chunk.map(|chunk| chunk.id), max_dv, merged.len(), at)
    }

    /// Writes `count` tombstones, in the order of their keys, in place of the chunk with this id or as new ones.
    fn write_pieces<'k>(
        &mut self,
        table: u32,
        mut id: Option<i64>,
        max_dv: u64,
        count: usize,
        at: impl Fn(usize) -> (&'k [u8], Tomb),
    ) -> Result<(), Error> {
        let fill = if count <= CHUNK_MAX { CHUNK_MAX } else { CHUNK_FILL };
        // The lowest chunk begins before every key.
        let mut first: &[u8] = &[];
        let mut written = 0;
        while written < count {
            let mut piece = Writer::new(max_dv);
            let from = written;
            while written < count.min(from + fill) && piece.out.len() < CHUNK_BYTES_MAX {
                let (key, tomb) = at(written);
                piece.push(key, &tomb);
                written += 1;
            }
            match id.take() {
                Some(id) => {
                    let mut update = self.sql()?.update.start();
                    update.bind_integer(max_dv.cast_signed())?;
                    update.bind_blob(&piece.out)?;
                    update.bind_integer(id)?;
                    update.step()?;
                }
                None => {
                    let mut insert = self.sql()?.insert.start();
                    insert.bind_integer(i64::from(table))?;
                    insert.bind_blob(first)?;
                    insert.bind_integer(max_dv.cast_signed())?;
                    insert.bind_blob(&piece.out)?;
                    insert.step()?;
                }
            }
            if written < count {
                let (last, next) = (at(written - 1).0, at(written).0);
                first = &next[..=shared(last, next)];
            }
        }
        match id {
            Some(emptied) => self.sql()?.delete.run(&[emptied]),
            None => Ok(()),
        }
    }
}

/// The body of a chunk, for tombstones in the order of their keys.
pub(crate) fn encode(max_dv: u64, tombs: &[(TombKey, Tomb)]) -> Vec<u8> {
    let mut writer = Writer::new(max_dv);
    tombs.iter().for_each(|(key, tomb)| writer.push(key, tomb));
    writer.out
}

/// A tombstone that is written: its table, its key, and `None` when it is taken away.
pub(crate) type News<'a> = (u32, &'a [u8], Option<Tomb>);

/// A tombstone that stays, or is new.
type Kept<'a> = (Cow<'a, [u8]>, Tomb);

/// What a chunk holds once `news` are in it.
fn merge<'a>(chunk: Option<&Chunk>, news: &[News<'a>]) -> Result<Vec<Kept<'a>>, DamagedRecord> {
    let mut merged = Vec::with_capacity(news.len() + CHUNK_MAX);
    let mut news = news.iter().peekable();
    if let Some(chunk) = chunk {
        let mut entries = Entries::new(chunk.max_dv, &chunk.body);
        while let Some((key, tomb)) = entries.next()? {
            while let Some((_, new, at)) = news.next_if(|(_, new, _)| *new < key) {
                merged.extend(at.map(|tomb| (Cow::Borrowed(*new), tomb)));
            }
            match news.next_if(|(_, new, _)| *new == key) {
                Some((_, new, at)) => merged.extend(at.map(|tomb| (Cow::Borrowed(*new), tomb))),
                None => merged.push((Cow::Owned(key.to_vec()), tomb)),
            }
        }
    }
    for (_, new, at) in news {
        merged.extend(at.map(|tomb| (Cow::Borrowed(*new), tomb)));
    }
    Ok(merged)
}

/// The first eight bytes as a number; shorter keys end in zeros.
fn head(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    let len = key.len().min(8);
    head[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(head)
}

/// Eight bytes from a place on, if there are so many.
fn word(key: &[u8], from: usize) -> Option<u64> {
    key.get(from..from + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
}

/// How many bytes two keys begin with alike.
fn shared(a: &[u8], b: &[u8]) -> usize {
    let mut same = 0;
    while let (Some(one), Some(other)) = (word(a, same), word(b, same)) {
        if one != other {
            return same + ((one ^ other).trailing_zeros() / 8) as usize;
        }
        same += 8;
    }
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}

/// The row was deleted for the first time.
const FIRST_DELETE: u8 = 1;
/// The version is that of the tombstone before.
const SAME_VERSION: u8 = 2;
const FOREIGN_SITE: u8 = 4;
/// The place in the commit is one more than that of the tombstone before.
const NEXT_SEQ: u8 = 8;

struct Writer<'k> {
    out: Vec<u8>,
    key: &'k [u8],
    dv: u64,
    seq: u64,
}

impl<'k> Writer<'k> {
    fn new(max_dv: u64) -> Self {
        Self { out: Vec::with_capacity(CHUNK_BYTES_MAX), key: &[], dv: max_dv, seq: 0 }
    }

    fn push(&mut self, key: &'k [u8], tomb: &Tomb) {
        let next_seq = tomb.seq == self.seq.wrapping_add(1);
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        self.out.push(
            flag(tomb.cl == 2, FIRST_DELETE)
                | flag(tomb.dv == self.dv, SAME_VERSION)
                | flag(tomb.site != 0, FOREIGN_SITE)
                | flag(next_seq, NEXT_SEQ),
        );
        let shared = shared(self.key, key);
        varint::put(shared as u64, &mut self.out);
        varint::put_bytes(&key[shared..], &mut self.out);
        if tomb.cl != 2 {
            varint::put(tomb.cl, &mut self.out);
        }
        if tomb.dv != self.dv {
            varint::put_signed(tomb.dv.wrapping_sub(self.dv).cast_signed(), &mut self.out);
        }
        if tomb.site != 0 {
            varint::put(u64::from(tomb.site), &mut self.out);
        }
        if !next_seq {
            varint::put(tomb.seq, &mut self.out);
        }
        (self.key, self.dv, self.seq) = (key, tomb.dv, tomb.seq);
    }
}

/// The tombstones of a chunk, in the order of their keys.
#[derive(Debug)]
pub(crate) struct Entries<'b> {
    reader: Reader<'b>,
    key: Vec<u8>,
    dv: u64,
    seq: u64,
}

impl<'b> Entries<'b> {
    pub(crate) fn new(max_dv: u64, body: &'b [u8]) -> Self {
        Self { reader: Reader(body), key: Vec::with_capacity(64), dv: max_dv, seq: 0 }
    }

    /// The next key with its tombstone. Not an iterator: the key is overwritten by the next.
    pub(crate) fn next(&mut self) -> Result<Option<(&[u8], Tomb)>, DamagedRecord> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let flags = self.reader.byte()?;
        let on = |bit: u8| flags & bit != 0;
        let shared = usize::try_from(self.reader.varint()?).map_err(|_| DamagedRecord)?;
        if shared > self.key.len() {
            return Err(DamagedRecord);
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(self.reader.bytes()?);
        let cl = if on(FIRST_DELETE) { 2 } else { self.reader.varint()? };
        if !on(SAME_VERSION) {
            self.dv = self.dv.wrapping_add(self.reader.signed()?.cast_unsigned());
        }
        let site = if on(FOREIGN_SITE) { self.reader.small()? } else { 0 };
        self.seq = if on(NEXT_SEQ) { self.seq.wrapping_add(1) } else { self.reader.varint()? };
        Ok(Some((&self.key, Tomb { cl, dv: self.dv, seq: self.seq, site })))
    }
}

/// A key that is one UUID in lower-case text form: one column, text, 36 bytes.
const UUID_PREFIX: [u8; 3] = [1, 0x0b, 36];
/// Stands before the 16 bytes of such a UUID. No packed key begins so: none has 0 columns.
const UUID_MARK: u8 = 0;

/// A packed key as tombstones hold it.
pub(crate) fn compact(key: &[u8]) -> TombKey {
    let mut out = Vec::with_capacity(key.len());
    compact_into(key, &mut out);
    out.into()
}

/// As [`compact`], behind what there is.
pub(crate) fn compact_into(key: &[u8], out: &mut Vec<u8>) {
    match key.strip_prefix(&UUID_PREFIX).and_then(parse_uuid) {
        Some(uuid) => {
            out.push(UUID_MARK);
            out.extend_from_slice(&uuid);
        }
        None => out.extend_from_slice(key),
    }
}

/// The packed key again.
pub(crate) fn packed(key: &[u8]) -> Cow<'_, [u8]> {
    let Some(uuid) = key.strip_prefix(&[UUID_MARK]).filter(|uuid| uuid.len() == 16) else {
        return Cow::Borrowed(key);
    };
    let mut key = Vec::with_capacity(39);
    key.extend_from_slice(&UUID_PREFIX);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            key.push(b'-');
        }
        key.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
    }
    Cow::Owned(key)
}

fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != 36 || [8, 13, 18, 23].iter().any(|dash| text[*dash] != b'-') {
        return None;
    }
    let mut digits =
        text.iter().enumerate().filter(|(i, _)| !matches!(i, 8 | 13 | 18 | 23)).map(|(_, c)| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        });
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    Some(uuid)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;

    fn entries(max_dv: u64, body: &[u8]) -> Result<Vec<(Vec<u8>, Tomb)>, DamagedRecord> {
        let mut entries = Entries::new(max_dv, body);
        let mut all = Vec::new();
        while let Some((key, tomb)) = entries.next()? {
            all.push((key.to_vec(), tomb));
        }
        Ok(all)
    }

    fn tomb() -> impl Strategy<Value = Tomb> {
        (1..40_u64, 0..50_u64, 0..9_u64, 0..3_u32).prop_map(|(cl, dv, seq, site)| Tomb {
            cl: cl * 2,
            dv,
            seq,
            site,
        })
    }

    #[test]
    fn a_uuid_takes_seventeen_bytes_and_comes_back() {
        let mut key = UUID_PREFIX.to_vec();
        key.extend_from_slice(b"0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0");
        assert_eq!(compact(&key).len(), 17);
        assert_eq!(*packed(&compact(&key)), *key);
        key[10] = b'F';
        assert_eq!(*compact(&key), *key, "upper case is another text");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_bytes_cut_short_are_damage(
            tombs in prop::collection::btree_map(prop::collection::vec(0..4_u8, 0..6), tomb(), 1..30)
        ) {
            let mut writer = Writer::new(50);
            tombs.iter().for_each(|(key, tomb)| writer.push(key, tomb));
            let read = entries(50, &writer.out).expect("it was just written");
            prop_assert_eq!(&read.into_iter().collect::<BTreeMap<_, _>>(), &tombs);
            for len in 0..writer.out.len() {
                let cut = entries(50, &writer.out[..len]);
                prop_assert!(cut.is_err() || cut.is_ok_and(|cut| cut.len() < tombs.len()));
            }
        }

        #[test]
        fn chunks_hold_what_a_map_holds(
            rounds in prop::collection::vec(
                prop::collection::btree_map(
                    (1..3_u32, prop::collection::vec(0..5_u8, 0..4)), prop::option::weighted(0.7, tomb()), 1..120),
                1..8),
            // Rows are deleted in this order, from a place on, or none of them is fresh.
            turn in prop::option::of(0..120_usize),
        ) {
            let conn = Connection::open_in_memory().expect("a database in memory");
            conn.execute_batch(crate::meta::TOMBSTONES).expect("the table");
            #[expect(unsafe_code, reason = "the handle of a connection that outlives it")]
            // SAFETY: the connection outlives the statements.
            let mut store = Tombs::new(Db(unsafe { conn.handle() }));
            let mut model = BTreeMap::new();
            let mut top = 0;
            for (round, tombs) in rounds.into_iter().enumerate() {
                // Versions grow from commit to commit.
                let raise = |tomb: Tomb| Tomb { dv: tomb.dv + 50 * round as u64, ..tomb };
                let mut tombs: Vec<(TombId, Option<Tomb>)> = tombs
                    .into_iter()
                    .map(|((table, key), tomb)| ((table, key.into()), tomb.map(raise)))
                    .collect();
                if let Some(turn) = turn {
                    let turn = turn % tombs.len();
                    tombs.rotate_left(turn);
                }
                let mut buried = Buried::default();
                for (id, tomb) in &tombs {
                    // What is not fresh is older, and is written over.
                    let before = Tomb { cl: 99, dv: 0, seq: 0, site: 0 };
                    buried.set(id.clone(), if turn.is_some() { Some(before) } else { *tomb });
                }
                for (id, tomb) in tombs.iter().filter(|_| turn.is_some()) {
                    match tomb {
                        Some(tomb) => buried.bury(id.0, &id.1, *tomb),
                        None => buried.set(id.clone(), None),
                    }
                }
                store.write(&buried).expect("it is written");
                for (id, tomb) in tombs {
                    top = top.max(tomb.map_or(0, |tomb| tomb.dv));
                    model.insert(id, tomb);
                }
                for ((table, key), tomb) in &model {
                    prop_assert_eq!(store.stored(*table, key).expect("it is read"), *tomb);
                }
            }
            let mut all = conn.prepare("SELECT table_id, max_db_version, body FROM opor_tombstone").expect("prepared");
            let mut rows = all.query([]).expect("rows");
            let mut found = BTreeMap::new();
            while let Some(row) = rows.next().expect("a row") {
                let (table, max_dv, body): (u32, i64, Vec<u8>) =
                    (row.get(0).expect("id"), row.get(1).expect("version"), row.get(2).expect("body"));
                let max_dv = max_dv.cast_unsigned();
                prop_assert!(max_dv <= top);
                let chunk = entries(max_dv, &body).expect("it decodes");
                prop_assert!(!chunk.is_empty() && chunk.len() <= CHUNK_MAX);
                for (key, tomb) in chunk {
                    prop_assert!(tomb.dv <= max_dv, "a walk by version would miss it");
                    let twice = found.insert((table, TombKey::from(key)), tomb);
                    prop_assert_eq!(twice, None, "in one chunk only");
                }
            }
            let left: BTreeMap<_, _> = model.into_iter().filter_map(|(id, tomb)| Some((id, tomb?))).collect();
            prop_assert_eq!(found, left);
            drop(rows);
            drop(all);
            store.finalize();
        }
    }
}
