//! What the open transaction has written, in order, as the hook saw it.
//!
//! Notes are cheap to take and say nothing of clocks; [`replay`](crate::replay) turns them into clocks at COMMIT, or
//! earlier when somebody asks. A `ROLLBACK TO` cuts the list back, and what had been replayed is replayed again.

use std::rc::Rc;

use crate::block::CellClock;
use crate::colset::ColSet;
use crate::tombs::Tomb;

/// With so much room for notes at most it is kept from one transaction to the next: 5 KiB.
const KEPT_NOTES: usize = 128;
/// The same, of keys.
const KEPT_KEY_BYTES: usize = 8 << 10;

/// A packed key in [`Notes::keys`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

/// One thing that happened to a replicated table. A transaction may hold millions, so what is large is behind a pointer.
#[derive(Clone, Debug)]
pub(crate) enum Note {
    /// Rows with neighbouring rowids were inserted, and no key of theirs can have a tombstone.
    Inserts { table: u32, first: i64, count: u32 },
    /// A row was inserted.
    Insert { table: u32, row: i64, key: Span },
    /// Columns of rows with neighbouring rowids changed, each row in a change of its own.
    Updates { table: u32, first: i64, count: u32, cols: ColSet },
    /// Columns of a row that is found by key changed.
    UpdateKeyed { table: u32, cols: ColSet, key: Span },
    /// Rows with neighbouring rowids, which are their keys, were deleted; `statement` tells statements apart.
    Deletes { table: u32, first: i64, count: u32, statement: i64 },
    /// A row was deleted.
    Delete { table: u32, row: i64, key: Span, statement: i64 },
    /// A live row was written over by REPLACE.
    Replace { table: u32, old: i64, row: i64, key: Span },
    /// The key of a row changed, possibly onto that of a live row that REPLACE removed.
    Move(Box<Moved>),
    /// A row got another rowid, and kept its key.
    Relocate { table: u32, old: i64, row: i64, cols: ColSet },
    /// A table that had rows began to replicate: the rows, in the order in which they are numbered.
    Backfill { table: u32, rows: Rc<BackfillRows> },
    /// A column that was renamed, for these rows.
    BackfillColumn { table: u32, bit: u32, rows: Rc<BackfillRows> },
    /// Places in the commit that are used up without a write.
    SkipSeqs(u64),
    /// What a `ROLLBACK TO` took back, for the places it had used up stay used: `places`, and one for each insert among
    /// `writes` of a key that had been deleted before. That is known when it is replayed.
    Undone { places: u64, writes: Rc<[Self]> },
    /// What a merge did to a row.
    Merge(Box<MergeOp>),
    /// The commit takes at least this version.
    AtLeast(u64),
}

/// A row whose key changed.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    pub(crate) table: u32,
    pub(crate) old: i64,
    pub(crate) old_key: Span,
    pub(crate) row: i64,
    pub(crate) key: Span,
    /// The row that REPLACE removed to make place for it.
    pub(crate) replaced: Option<i64>,
    pub(crate) cols: ColSet,
}

/// What a merge did to the clocks of a row; the row itself is written already.
#[derive(Clone, Debug)]
pub(crate) enum MergeOp {
    /// Cells took these clocks.
    Cells { table: u32, row: i64, key: Box<[u8]>, cells: Vec<(ColSet, CellClock)> },
    /// The row exists again: its cells start over, and the sentinel takes this clock.
    Create { table: u32, row: i64, key: Box<[u8]>, sentinel: CellClock },
    /// The row is gone.
    Delete { table: u32, row: Option<i64>, key: Box<[u8]>, tomb: Tomb },
    /// Something that cannot be stored here was put aside.
    Quarantine { dv: u64 },
}

/// Rows that had values before they had clocks.
#[derive(Debug)]
pub(crate) enum BackfillRows {
    /// Blocks with the rows in them.
    Blocks(Vec<(i64, u32)>),
    /// The packed keys of a keyed table.
    Keys(Vec<Box<[u8]>>),
}

impl Note {
    /// Whether how many places it takes depends on what was deleted before.
    const fn inserts(&self) -> bool {
        matches!(self, Self::Inserts { .. } | Self::Insert { .. } | Self::Undone { .. })
    }

    /// Whether it says that a row is there or gone.
    const fn tells_of_lives(&self) -> bool {
        let deletes = matches!(self, Self::Deletes { .. } | Self::Delete { .. });
        self.inserts() || deletes || matches!(self, Self::Move(_) | Self::Merge(_))
    }
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    level: i32,
    len: usize,
    keys: usize,
    replayed: usize,
    baked: usize,
}

/// The notes of the open transaction.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) log: Vec<Note>,
    keys: Vec<u8>,
    marks: Vec<Mark>,
    /// How many notes have been turned into staged clocks.
    pub(crate) replayed: usize,
    /// How many of those have been written to the file: replaying starts after them.
    pub(crate) baked: usize,
}

impl Notes {
    pub(crate) fn key(&self, span: Span) -> &[u8] {
        &self.keys[span.start as usize..span.end as usize]
    }

    /// Keeps a key that `pack` appends to the buffer.
    ///
    /// # Errors
    /// What `pack` says, or that one transaction wrote more than 4 GiB of keys.
    pub(crate) fn keep_key<E: From<KeysFull>>(
        &mut self,
        pack: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Span, E> {
        let start = self.keys.len();
        pack(&mut self.keys)?;
        match (u32::try_from(start), u32::try_from(self.keys.len())) {
            (Ok(start), Ok(end)) => Ok(Span { start, end }),
            _ => Err(KeysFull.into()),
        }
    }

    pub(crate) fn push_insert(&mut self, table: u32, row: i64) {
        if let Some(Note::Inserts { table: last, first, count }) = self.open_note()
            && *last == table
            && *count < u32::MAX
            && first.checked_add(i64::from(*count)) == Some(row)
        {
            *count += 1;
            return;
        }
        self.log.push(Note::Inserts { table, first: row, count: 1 });
    }

    pub(crate) fn push_update(&mut self, table: u32, row: i64, cols: ColSet) {
        if let Some(Note::Updates { table: last, first, count, cols: same, .. }) = self.open_note()
            && *last == table
            && *count < u32::MAX
            && first.checked_add(i64::from(*count)) == Some(row)
            && *same == cols
        {
            *count += 1;
            return;
        }
        self.log.push(Note::Updates { table, first: row, count: 1, cols });
    }

    /// A row whose rowid is its key was deleted.
    pub(crate) fn push_delete(&mut self, table: u32, row: i64, statement: i64) {
        if let Some(Note::Deletes { table: last, first, count, statement: by }) = self.open_note()
            && *last == table
            && *by == statement
            && *count < u32::MAX
            && first.checked_add(i64::from(*count)) == Some(row)
        {
            *count += 1;
            return;
        }
        self.log.push(Note::Deletes { table, first: row, count: 1, statement });
    }

    /// The last note, when it may still grow: not when it has been replayed or a savepoint stands behind it.
    fn open_note(&mut self) -> Option<&mut Note> {
        let floor = self.marks.last().map_or(0, |mark| mark.len).max(self.replayed);
        if self.log.len() > floor { self.log.last_mut() } else { None }
    }

    /// Takes back the delete of `key` that REPLACE made earlier in this statement, and tells the row it was in.
    pub(crate) fn take_replaced(&mut self, table: u32, key: Span, statement: i64) -> Option<i64> {
        let floor = self.replayed;
        let deletes = self.log[floor..].iter().enumerate().rev().map_while(|(i, note)| match note {
            Note::Delete { table: of, row, key, statement: by } if *of == table && *by == statement => {
                Some((i + floor, *row, *key))
            }
            _ => None,
        });
        let (place, row, _) = deletes.into_iter().find(|(_, _, old)| self.key(*old) == self.key(key))?;
        self.log.remove(place);
        // A statement journal may have marked the list after the delete.
        self.marks.iter_mut().filter(|mark| mark.len > place).for_each(|mark| mark.len -= 1);
        Some(row)
    }

    /// As [`take_replaced`](Self::take_replaced), where the rowid is the key.
    pub(crate) fn take_replaced_row(&mut self, table: u32, row: i64, statement: i64) -> bool {
        for place in (self.replayed..self.log.len()).rev() {
            let Note::Deletes { table: of, first, count, statement: by } = self.log[place] else {
                return false;
            };
            if of != table || by != statement {
                return false;
            }
            let before = row.wrapping_sub(first);
            if (0..i64::from(count)).contains(&before) {
                self.split_deletes(place, before as u32);
                return true;
            }
        }
        false
    }

    /// Takes one row out of a run of deletes.
    fn split_deletes(&mut self, place: usize, before: u32) {
        let Note::Deletes { table, first, count, statement } = self.log[place] else { return };
        let part = |first, count| (count > 0).then_some(Note::Deletes { table, first, count, statement });
        let parts = [part(first, before), part(first + i64::from(before) + 1, count - before - 1)];
        let parts: Vec<Note> = parts.into_iter().flatten().collect();
        let (now, was) = (parts.len(), 1);
        self.log.splice(place..=place, parts);
        // A statement journal may have marked the list after the deletes.
        for mark in self.marks.iter_mut().filter(|mark| mark.len > place) {
            mark.len = mark.len + now - was;
        }
    }

    /// A savepoint of this depth begins.
    pub(crate) fn mark(&mut self, level: i32) {
        self.marks.retain(|mark| mark.level < level);
        self.marks.push(Mark {
            level,
            len: self.log.len(),
            keys: self.keys.len(),
            replayed: self.replayed,
            baked: self.baked,
        });
    }

    /// Savepoints of this depth and deeper end.
    pub(crate) fn release(&mut self, level: i32) {
        self.marks.retain(|mark| mark.level < level);
    }

    /// Back to the savepoint of this depth, which stays. `true` when replayed notes were undone.
    pub(crate) fn rollback_to(&mut self, level: i32, seqs: impl Fn(&Note) -> u64) -> bool {
        // A savepoint older than the first note has no mark: nothing had been written then.
        let mark = self.marks.iter().rfind(|mark| mark.level == level).copied().unwrap_or(Mark {
            level,
            len: 0,
            keys: 0,
            replayed: 0,
            baked: 0,
        });
        self.marks.retain(|other| other.level <= level);
        let undone = self.log.split_off(mark.len);
        let places: u64 = undone.iter().map(seqs).sum();
        if undone.iter().any(Note::inserts) {
            let writes = undone.into_iter().filter(Note::tells_of_lives).collect();
            self.log.push(Note::Undone { places, writes });
        } else {
            self.keys.truncate(mark.keys);
            if places > 0 {
                self.log.push(Note::SkipSeqs(places));
            }
        }
        if let Some(own) = self.marks.iter_mut().rfind(|other| other.level == level) {
            (own.len, own.keys) = (self.log.len(), self.keys.len());
        }
        let undone = self.replayed > mark.replayed;
        self.baked = mark.baked;
        if undone {
            self.replayed = mark.baked;
        }
        undone
    }

    /// Forgets all of them, and keeps the memory of a small transaction for the next.
    pub(crate) fn clear(&mut self) {
        if self.log.capacity() > KEPT_NOTES || self.keys.capacity() > KEPT_KEY_BYTES {
            *self = Self::default();
            return;
        }
        self.log.clear();
        self.keys.clear();
        self.marks.clear();
        (self.replayed, self.baked) = (0, 0);
    }
}

/// One transaction wrote more than 4 GiB of keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeysFull;
