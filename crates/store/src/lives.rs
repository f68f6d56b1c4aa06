//! Which keys are tombstones in the course of writes that a `ROLLBACK TO` took back.

use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::clocks::key_of;
use crate::notes::{MergeOp, Note, Notes};
use crate::replay::Replay;

/// What the writes taken back so far had made of the keys they touched; of others the clocks tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives {
    dead: FxHashMap<(u32, Box<[u8]>), bool>,
}

impl Lives {
    /// How many of the inserted rows had been deleted before, and so took a place for their sentinel.
    pub(crate) fn sentinels(
        &mut self,
        replay: &mut Replay<'_>,
        notes: &Notes,
        writes: &[Note],
    ) -> Result<u64, Error> {
        let mut sentinels = 0;
        for write in writes {
            match write {
                Note::Inserts { table, first, count } => {
                    // Of other tables it says that none of the keys was deleted before.
                    let by_key = replay.table(*table).is_some_and(|table| table.rowid_is_key);
                    for row in rows(*first, *count).take_while(|_| by_key) {
                        sentinels += u64::from(self.insert(replay, *table, &key_of(row))?);
                    }
                }
                Note::Insert { table, key, .. } => {
                    sentinels += u64::from(self.insert(replay, *table, notes.key(*key))?);
                }
                Note::Deletes { table, first, count, .. } => {
                    rows(*first, *count).for_each(|row| self.set(*table, &key_of(row), true));
                }
                Note::Delete { table, key, .. } => self.set(*table, notes.key(*key), true),
                Note::Move(moved) => {
                    self.set(moved.table, notes.key(moved.old_key), true);
                    self.set(moved.table, notes.key(moved.key), false);
                }
                Note::Merge(op) => match &**op {
                    MergeOp::Cells { table, key, .. } | MergeOp::Create { table, key, .. } => {
                        self.set(*table, key, false);
                    }
                    MergeOp::Delete { table, key, .. } => self.set(*table, key, true),
                    MergeOp::Quarantine { .. } => {}
                },
                // What it did had been taken back before the writes that follow it.
                Note::Undone { writes, .. } => sentinels += self.clone().sentinels(replay, notes, writes)?,
                Note::Updates { .. }
                | Note::UpdateKeyed { .. }
                | Note::Replace { .. }
                | Note::Relocate { .. }
                | Note::Backfill { .. }
                | Note::BackfillColumn { .. }
                | Note::SkipSeqs(_)
                | Note::AtLeast(_) => {}
            }
        }
        Ok(sentinels)
    }

    /// Whether the new row has a sentinel besides its columns.
    fn insert(&mut self, replay: &mut Replay<'_>, table: u32, key: &[u8]) -> Result<bool, Error> {
        let known = self.dead.insert((table, key.into()), false);
        let Some(of) = replay.table(table) else { return Ok(false) };
        let dead = match known {
            Some(dead) => dead,
            None => replay.clocks.tomb(&of, key)?.is_some(),
        };
        Ok(!of.columns.is_empty() && (dead || replay.clocks.first_cl(table) > 1))
    }

    fn set(&mut self, table: u32, key: &[u8], dead: bool) {
        self.dead.insert((table, key.into()), dead);
    }
}

fn rows(first: i64, count: u32) -> impl Iterator<Item = i64> {
    (0..i64::from(count)).map(move |after| first.wrapping_add(after))
}
