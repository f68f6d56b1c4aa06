//! From notes to clocks: what each write means by cr-sqlite's rules, with its numbering.

use std::rc::Rc;

use rusqlite::Error;

use crate::block::{BLOCK_SHIFT, Block, CellClock, Group};
use crate::catalog::{Catalog, Table};
use crate::clocks::{BlockId, Clocks, Staged, block_of};
use crate::colset::ColSet;
use crate::conflict::{self, masked};
use crate::lives::Lives;
use crate::notes::{BackfillRows, MergeOp, Note, Notes};
use crate::tombs::Tomb;

/// Where the open transaction stands in its numbering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbering {
    /// The version the next write takes.
    pub(crate) dv: u64,
    /// The place within the commit that it takes.
    pub(crate) seq: u64,
    /// The newest version something was written under; 0 while nothing was.
    pub(crate) used: u64,
    /// The hybrid clock's stamp of this transaction; `None` where versions are counted.
    pub(crate) stamp: Option<u64>,
}

impl Numbering {
    /// What a cell at version `cv` goes to; `own` says this transaction wrote it last.
    fn next_cv(&self, cv: u64, own: bool) -> u64 {
        match self.stamp {
            None => cv + 1,
            // Written by this transaction already; a cell that only moved in it still has its older stamp.
            Some(stamp) if own && cv >= stamp => cv,
            Some(stamp) => stamp.max(cv + 1),
        }
    }

    fn first_cv(&self) -> u64 {
        self.stamp.unwrap_or(1)
    }

    const fn take_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq - 1
    }

    const fn local(&self, cv: u64, seq: u64) -> CellClock {
        CellClock { cv, dv: self.dv, shown_dv: self.dv, seq, site: 0 }
    }
}

/// How many places in the commit a note uses up, but for those of sentinels of rows that were deleted before.
pub(crate) fn seqs_of(catalog: &Catalog, note: &Note) -> u64 {
    let width = |id: u32| catalog.table_by_id(id).map_or(0, |table| u64::from(table.all.len()));
    match note {
        Note::Inserts { table, count, .. } => u64::from(*count) * width(*table),
        Note::Insert { table, .. } => width(*table),
        Note::Updates { count, cols, .. } => u64::from(*count) * u64::from(cols.len()),
        Note::UpdateKeyed { cols, .. } => u64::from(cols.len()),
        Note::Delete { .. } => 1,
        Note::Deletes { count, .. } => u64::from(*count),
        // One for the sentinel, be there one or not; all that a table of keys alone has.
        Note::Replace { table, .. } => {
            1 + catalog.table_by_id(*table).map_or(0, |table| table.columns.len() as u64)
        }
        Note::Move(moved) => 2 + u64::from(moved.cols.len()),
        Note::SkipSeqs(seqs) => *seqs,
        Note::Undone { places, .. } => *places,
        Note::Relocate { cols, .. } => u64::from(cols.len()),
        Note::Backfill { .. } | Note::BackfillColumn { .. } | Note::Merge(_) | Note::AtLeast(_) => 0,
    }
}

/// Replays notes into the staged layer.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) clocks: &'a mut Clocks,
    pub(crate) numbering: &'a mut Numbering,
}

impl Replay<'_> {
    pub(crate) fn note(&mut self, notes: &Notes, note: &Note) -> Result<(), Error> {
        self.play(notes, note)?;
        let used = match note {
            Note::SkipSeqs(_) | Note::Undone { .. } | Note::AtLeast(_) => 0,
            Note::BackfillColumn { .. } => self.renamed_dv(),
            _ => self.numbering.dv,
        };
        self.numbering.used = self.numbering.used.max(used);
        Ok(())
    }

    /// cr-sqlite files a renamed column under the version there is, not under a new one.
    fn renamed_dv(&self) -> u64 {
        (self.numbering.dv - 1).max(1)
    }

    fn play(&mut self, notes: &Notes, note: &Note) -> Result<(), Error> {
        match note {
            Note::Inserts { table, first, count } => match self.table(*table) {
                Some(table) => self.inserts(&table, *first, *count),
                None => Ok(()),
            },
            Note::Insert { table, row, key } => match self.table(*table) {
                Some(table) => self.insert(&table, *row, notes.key(*key)),
                None => Ok(()),
            },
            Note::Updates { table, first, count, cols } => match self.table(*table) {
                Some(table) => self.updates(&table, *first, *count, cols),
                None => Ok(()),
            },
            Note::UpdateKeyed { table, cols, key } => match self.table(*table) {
                Some(table) => self.update_keyed(&table, notes.key(*key), cols),
                None => Ok(()),
            },
            Note::Deletes { table, first, count, .. } => match self.table(*table) {
                Some(table) => self.deletes(&table, *first, *count),
                None => Ok(()),
            },
            Note::Delete { table, row, key, .. } => match self.table(*table) {
                Some(table) => self.delete(&table, *row, notes.key(*key)),
                None => Ok(()),
            },
            Note::Replace { table, old, row, key } => match self.table(*table) {
                Some(table) => self.replace(&table, *old, *row, notes.key(*key)),
                None => Ok(()),
            },
            Note::Move(moved) => match self.table(moved.table) {
                Some(table) => {
                    let (old_key, key) = (notes.key(moved.old_key), notes.key(moved.key));
                    self.move_row(&table, (moved.old, old_key), (moved.row, key), moved.replaced, &moved.cols)
                }
                None => Ok(()),
            },
            Note::Relocate { table, old, row, cols } => match self.table(*table) {
                Some(table) => self.relocate(&table, *old, *row, cols),
                None => Ok(()),
            },
            Note::Backfill { table, rows } => match self.table(*table) {
                Some(table) => self.backfill(&table, &table.all, rows, 1, self.numbering.dv),
                None => Ok(()),
            },
            Note::BackfillColumn { table, bit, rows } => match self.table(*table) {
                Some(table) => {
                    let dv = self.renamed_dv();
                    let sentinel = *bit == ColSet::SENTINEL;
                    let cv = if sentinel { 1 } else { self.numbering.first_cv() };
                    self.backfill(&table, &ColSet::one(*bit), rows, cv, dv)
                }
                None => Ok(()),
            },
            Note::SkipSeqs(seqs) => {
                self.numbering.seq += seqs;
                Ok(())
            }
            Note::Undone { places, writes } => {
                let sentinels = Lives::default().sentinels(self, notes, writes)?;
                self.numbering.seq += places + sentinels;
                Ok(())
            }
            Note::AtLeast(dv) => {
                self.numbering.dv = self.numbering.dv.max(*dv);
                Ok(())
            }
            Note::Merge(op) => self.play_merge(op),
        }
    }

    /// A table that was dropped later in the transaction has no clocks to keep.
    pub(crate) fn table(&self, id: u32) -> Option<Rc<Table>> {
        self.catalog.table_by_id(id).cloned()
    }

    fn inserts(&mut self, table: &Table, first: i64, count: u32) -> Result<(), Error> {
        self.clocks.learn_end(table.id)?;
        let cl = self.clocks.first_cl(table.id);
        let bare = table.columns.is_empty();
        // Rows of a longer life say so, before their columns.
        let sentinel = cl > 1 && !bare;
        let stride = table.all.len() + u32::from(sentinel);
        let cv = if bare { cl } else { self.numbering.first_cv() };
        let dv = self.numbering.dv;
        for (number, rows) in block_masks(first, count) {
            let mut block = self.clocks.stage((table.id, number))?;
            if block.groups.is_empty() || block.dead() & rows == 0 {
                if !block.groups.is_empty() {
                    block.clear(rows);
                }
                let anchor =
                    self.numbering.seq.cast_signed() - i64::from(stride) * i64::from(rows.trailing_zeros());
                let group =
                    Group { rows, cols: table.all.clone(), cv, dv, shown_dv: dv, anchor, stride, site: 0 };
                if sentinel {
                    block.put_new(Group { cols: ColSet::sentinel(), cv: cl, ..group.clone() });
                }
                block.put_new(Group { anchor: anchor + i64::from(sentinel), ..group });
                self.numbering.seq += u64::from(rows.count_ones()) * u64::from(stride);
                continue;
            }
            let bits = (0..u32::BITS).filter(|bit| rows >> bit & 1 == 1);
            for bit in bits {
                let cl = block.tomb(bit).map_or(cl, |tomb| cl.max(tomb.cl + 1));
                insert_row(self.numbering, table, &mut block, bit, cl);
            }
        }
        Ok(())
    }

    fn stage_row(&mut self, table: &Rc<Table>, row: i64, key: &[u8]) -> Result<(Staged<'_>, u32), Error> {
        let (id, bit) = self.clocks.place_of(table, row, key)?;
        let mut block = self.clocks.stage(id)?;
        if table.keyed {
            block.name(key);
        }
        Ok((block, bit))
    }

    fn insert(&mut self, table: &Rc<Table>, row: i64, key: &[u8]) -> Result<(), Error> {
        let tomb = self.clocks.tomb(table, key)?;
        if tomb.is_some() {
            self.clocks.unbury(table, key);
        }
        let mut numbering = *self.numbering;
        let cl = self.clocks.next_cl(table.id, tomb);
        let (mut block, bit) = self.stage_row(table, row, key)?;
        insert_row(&mut numbering, table, &mut block, bit, cl);
        *self.numbering = numbering;
        Ok(())
    }

    fn updates(&mut self, table: &Table, first: i64, count: u32, cols: &ColSet) -> Result<(), Error> {
        let stride = cols.len();
        let seq = self.numbering.seq.cast_signed();
        self.stage_blocks_of(table, first, count)?;
        for (number, rows) in block_masks(first, count) {
            let start = number << BLOCK_SHIFT;
            let anchor = seq + i64::from(stride) * start.wrapping_sub(first);
            self.bump((table.id, number), rows, cols, anchor, stride)?;
        }
        self.numbering.seq += u64::from(count) * u64::from(stride);
        Ok(())
    }

    /// Reads the blocks of rows with neighbouring rowids at once.
    fn stage_blocks_of(&mut self, table: &Table, first: i64, count: u32) -> Result<(), Error> {
        let last = first.saturating_add(i64::from(count.saturating_sub(1)));
        self.clocks.stage_range(table.id, first >> BLOCK_SHIFT, last >> BLOCK_SHIFT)
    }

    fn update_keyed(&mut self, table: &Rc<Table>, key: &[u8], cols: &ColSet) -> Result<(), Error> {
        self.stage_row(table, 0, key)?;
        let (id, bit) = self.clocks.place_of(table, 0, key)?;
        self.bump(id, 1 << bit, cols, self.numbering.seq.cast_signed(), 0)?;
        self.numbering.seq += u64::from(cols.len());
        Ok(())
    }

    /// Raises the versions of `cols` in `rows` of one block. Cells that were at one version go on as one group.
    fn bump(&mut self, id: BlockId, rows: u32, cols: &ColSet, anchor: i64, stride: u32) -> Result<(), Error> {
        let numbering = *self.numbering;
        let mut block = self.clocks.stage(id)?;
        let dv = numbering.dv;
        let mut first: Option<Vec<(u32, u64, u64)>> = None;
        let mut same = true;
        for bit in cols.iter() {
            let mut versions = Vec::new();
            block.versions(rows, bit, &mut versions);
            match &first {
                None => first = Some(versions),
                Some(first) if *first == versions => {}
                Some(_) => {
                    same = false;
                    break;
                }
            }
        }
        let put = |block: &mut Staged<'_>, rows, cols: ColSet, cv, anchor| {
            block.put(Group { rows, cols, cv, dv, shown_dv: dv, anchor, stride, site: 0 });
        };
        if same {
            for (hit, cv, own_dv) in first.into_iter().flatten() {
                put(&mut block, hit, cols.clone(), numbering.next_cv(cv, own_dv == dv), anchor);
            }
            return Ok(());
        }
        for (rank, bit) in cols.iter().enumerate() {
            let mut versions = Vec::new();
            block.versions(rows, bit, &mut versions);
            for (hit, cv, own_dv) in versions {
                let cv = numbering.next_cv(cv, own_dv == dv);
                put(&mut block, hit, ColSet::one(bit), cv, anchor + rank as i64);
            }
        }
        Ok(())
    }

    fn relocate(&mut self, table: &Rc<Table>, old: i64, row: i64, cols: &ColSet) -> Result<(), Error> {
        let (mut block, bit) = self.stage_row(table, old, &[])?;
        let cells = row_cells(&block, bit);
        block.clear(1 << bit);
        let (mut block, bit) = self.stage_row(table, row, &[])?;
        block.clear(1 << bit);
        put_cells(&mut block, bit, cells);
        self.updates(table, row, 1, cols)
    }

    /// Gives clocks to rows that were there before. They are the oldest there can be: what peers wrote since wins.
    fn backfill(
        &mut self,
        table: &Rc<Table>,
        cols: &ColSet,
        rows: &BackfillRows,
        cv: u64,
        dv: u64,
    ) -> Result<(), Error> {
        let stride = cols.len();
        let clock = |seq: u64| CellClock { cv, dv, shown_dv: dv, seq, site: 0 };
        match rows {
            BackfillRows::Keys(keys) => {
                for key in keys {
                    let seq = self.numbering.seq;
                    self.numbering.seq += u64::from(stride);
                    let (mut block, bit) = self.stage_row(table, 0, key)?;
                    if !has_any(&block, bit, cols) {
                        block.put(Group::of_row(bit, cols.clone(), clock(seq)));
                    }
                }
            }
            BackfillRows::Blocks(blocks) => {
                for (number, rows) in blocks {
                    let mut block = self.clocks.stage((table.id, *number))?;
                    let mut left = *rows;
                    while left != 0 {
                        let bit = left.trailing_zeros();
                        left &= left - 1;
                        if !has_any(&block, bit, cols) {
                            block.put(Group::of_row(bit, cols.clone(), clock(self.numbering.seq)));
                        }
                        self.numbering.seq += u64::from(stride);
                    }
                }
            }
        }
        Ok(())
    }

    fn delete(&mut self, table: &Rc<Table>, row: i64, key: &[u8]) -> Result<(), Error> {
        let seq = self.numbering.take_seq();
        let (mut block, bit) = self.stage_row(table, row, key)?;
        let cl = deleted_cl(&block, bit);
        block.clear(1 << bit);
        self.clocks.bury(table, key, Tomb { cl, dv: self.numbering.dv, seq, site: 0 })
    }

    /// If `log` begins with deletes of rows of one table that are found by rowid and go by key, replays them, and tells how
    /// many they were.
    pub(crate) fn deletes_of_keys(&mut self, notes: &Notes, log: &[Note]) -> Result<Option<usize>, Error> {
        let Some(Note::Delete { table: id, .. }) = log.first() else { return Ok(None) };
        let by_key = |table: &Rc<Table>| !table.keyed && !table.rowid_is_key;
        if !self.catalog.table_by_id(*id).is_some_and(by_key) {
            return Ok(None);
        }
        let row = |note: &Note| match note {
            Note::Delete { table, row, .. } if table == id => Some(*row),
            _ => None,
        };
        let count = log.iter().take_while(|note| row(note).is_some()).count();
        let block = |note: &Note| row(note).map_or(0, |row| block_of(row).0);
        for near in log[..count].chunk_by(|one, next| (0..2).contains(&(block(next) - block(one)))) {
            self.clocks.stage_range(*id, block(&near[0]), block(&near[near.len() - 1]))?;
            let mut rest = near;
            while let Some(first) = rest.first() {
                let (number, mut rows) = (block(first), 0_u32);
                let here = rest.iter().take_while(|note| {
                    let bit = row(note).map_or(0, |row| 1 << block_of(row).1);
                    // A row comes twice when what brought it back was not noted.
                    let once = rows & bit == 0;
                    rows |= bit;
                    once && block(note) == number
                });
                let (here, after) = rest.split_at(here.count());
                self.deletes_in_block(notes, (*id, number), here)?;
                rest = after;
            }
        }
        self.clocks.expect_tombs(*id);
        self.numbering.used = self.numbering.used.max(self.numbering.dv);
        Ok(Some(count))
    }

    fn deletes_in_block(&mut self, notes: &Notes, id: BlockId, deletes: &[Note]) -> Result<(), Error> {
        let (mut block, tombs) = self.clocks.stage_with_tombs(id)?;
        // The rows of most tables have no sentinel.
        let plain = !block.groups.iter().any(|group| group.cols.contains(ColSet::SENTINEL));
        let mut rows = 0;
        for note in deletes {
            let Note::Delete { row, key, .. } = note else { continue };
            let (_, bit) = block_of(*row);
            rows |= 1 << bit;
            let cl = if plain { 2 } else { deleted_cl(&block, bit) };
            let tomb = Tomb { cl, dv: self.numbering.dv, seq: self.numbering.take_seq(), site: 0 };
            tombs.bury(id.0, notes.key(*key), tomb);
        }
        block.clear(rows);
        Ok(())
    }

    /// Deletes rows whose rowids are their keys.
    fn deletes(&mut self, table: &Table, first: i64, count: u32) -> Result<(), Error> {
        let dv = self.numbering.dv;
        self.stage_blocks_of(table, first, count)?;
        for (number, rows) in block_masks(first, count) {
            let mut block = self.clocks.stage((table.id, number))?;
            let mut before = Vec::new();
            block.versions(rows, ColSet::SENTINEL, &mut before);
            block.clear(rows);
            let anchor = self.numbering.seq.cast_signed() - i64::from(rows.trailing_zeros());
            for (rows, sentinel, _) in before.into_iter().filter(|(rows, ..)| *rows != 0) {
                let (cols, cv) = (ColSet::sentinel(), if sentinel == 0 { 2 } else { sentinel + 1 });
                block.put(Group { rows, cols, cv, dv, shown_dv: dv, anchor, stride: 1, site: 0 });
            }
            self.numbering.seq += u64::from(rows.count_ones());
        }
        Ok(())
    }

    /// REPLACE of a live row is, to cr-sqlite, an insert on a key that has clocks: every column goes up by one, and
    /// an explicit sentinel by two. One place in the commit is used up even without a sentinel.
    fn replace(&mut self, table: &Rc<Table>, old: i64, row: i64, key: &[u8]) -> Result<(), Error> {
        let (mut block, bit) = self.stage_row(table, old, key)?;
        let cells = row_cells(&block, bit);
        if old != row {
            block.clear(1 << bit);
        }
        let seq = self.numbering.take_seq();
        let mut clocks = Vec::with_capacity(cells.len());
        if let Some((_, sentinel)) = cells.iter().find(|(bit, _)| *bit == ColSet::SENTINEL) {
            clocks.push((ColSet::SENTINEL, self.numbering.local(sentinel.cv + 2, seq)));
        }
        for column in &table.columns {
            let known = cells.iter().find(|(bit, _)| *bit == column.bit).map(|(_, clock)| clock);
            let own = known.is_some_and(|clock| clock.dv == self.numbering.dv && clock.site == 0);
            let cv = self.numbering.next_cv(known.map_or(0, |clock| clock.cv), own);
            let seq = self.numbering.take_seq();
            clocks.push((column.bit, self.numbering.local(cv, seq)));
        }
        let (mut block, bit) = self.stage_row(table, row, key)?;
        put_cells(&mut block, bit, clocks);
        Ok(())
    }

    /// A new key is, to cr-sqlite, the old row deleted and a new one created to which the clocks of the columns move
    /// unchanged. Their version here is new all the same, so that a peer that pulls what is new receives them.
    fn move_row(
        &mut self,
        table: &Rc<Table>,
        (old, old_key): (i64, &[u8]),
        (row, key): (i64, &[u8]),
        replaced: Option<i64>,
        cols: &ColSet,
    ) -> Result<(), Error> {
        let replaced = match replaced {
            None => Vec::new(),
            Some(replaced) => {
                let (mut block, bit) = self.stage_row(table, replaced, key)?;
                let cells = row_cells(&block, bit);
                block.clear(1 << bit);
                cells
            }
        };
        let (mut block, bit) = self.stage_row(table, old, old_key)?;
        let mut cells = row_cells(&block, bit);
        let cl = deleted_cl(&block, bit);
        block.clear(1 << bit);
        let seq = self.numbering.take_seq();
        let dv = self.numbering.dv;
        self.clocks.bury(table, old_key, Tomb { cl, dv, seq, site: 0 })?;
        let tomb = self.clocks.tomb(table, key)?;
        if tomb.is_some() {
            self.clocks.unbury(table, key);
        }
        let replaced_cl =
            replaced.iter().find(|(bit, _)| *bit == ColSet::SENTINEL).map(|(_, clock)| clock.cv);
        let cl = match replaced_cl {
            Some(cl) if tomb.is_none() => cl + 2,
            _ => self.clocks.next_cl(table.id, tomb),
        };
        cells.retain(|(bit, _)| *bit != ColSet::SENTINEL);
        cells.iter_mut().for_each(|(_, clock)| clock.dv = dv);
        // A peer compares the value that moves here with the one it replaces: the newer of the two must be the moved.
        // Counts of edits stay what cr-sqlite makes of them.
        for (bit, clock) in cells.iter_mut().filter(|_| self.numbering.stamp.is_some()) {
            let before = replaced.iter().find(|(of, _)| of == bit).map(|(_, before)| before.cv);
            if let Some(before) = before.filter(|before| *before >= clock.cv) {
                *clock = self.numbering.local(self.numbering.next_cv(before, false), clock.seq);
            }
        }
        if self.catalog.conflicts {
            // What the row shows is what goes on. The value that it could not show stays behind, and its clock must not tell of another.
            let masks = conflict::of_row(self.clocks.db, table, old_key)?;
            for (bit, clock) in &mut cells {
                if masked(&masks, *bit, clock).is_some() {
                    *clock = self.numbering.local(self.numbering.next_cv(clock.cv, false), clock.seq);
                }
            }
        }
        let seq = self.numbering.take_seq();
        cells.push((ColSet::SENTINEL, self.numbering.local(cl, seq)));
        // What the replaced row had and the moved one never got is a change too.
        for (bit, clock) in replaced {
            if !cells.iter().any(|(known, _)| *known == bit) {
                let cv = self.numbering.next_cv(clock.cv, false);
                let seq = self.numbering.take_seq();
                cells.push((bit, self.numbering.local(cv, seq)));
            }
        }
        let (mut block, bit) = self.stage_row(table, row, key)?;
        block.clear(1 << bit);
        put_cells(&mut block, bit, cells);
        let (id, bit) = self.clocks.place_of(table, row, key)?;
        self.bump(id, 1 << bit, cols, self.numbering.seq.cast_signed(), 0)?;
        self.numbering.seq += u64::from(cols.len());
        Ok(())
    }

    /// Takes what a merge did to the clocks of a row.
    pub(crate) fn merge(&mut self, op: &MergeOp) -> Result<(), Error> {
        self.play_merge(op)?;
        self.numbering.used = self.numbering.used.max(self.numbering.dv);
        Ok(())
    }

    fn play_merge(&mut self, op: &MergeOp) -> Result<(), Error> {
        match op {
            MergeOp::Cells { table, row, key, cells } => {
                let Some(table) = self.table(*table) else { return Ok(()) };
                self.numbering.dv = cells.iter().fold(self.numbering.dv, |dv, (_, clock)| dv.max(clock.dv));
                let (mut block, bit) = self.stage_row(&table, *row, key)?;
                for (cols, clock) in cells {
                    block.put(Group::of_row(bit, cols.clone(), *clock));
                }
            }
            MergeOp::Create { table, row, key, sentinel } => {
                let Some(table) = self.table(*table) else { return Ok(()) };
                self.numbering.dv = self.numbering.dv.max(sentinel.dv);
                if self.clocks.tomb(&table, key)?.is_some() {
                    self.clocks.unbury(&table, key);
                }
                let (mut block, bit) = self.stage_row(&table, *row, key)?;
                let mut cells = row_cells(&block, bit);
                cells.retain(|(bit, _)| *bit != ColSet::SENTINEL);
                for (_, clock) in &mut cells {
                    *clock = CellClock { cv: 0, dv: sentinel.dv, shown_dv: sentinel.dv, ..*clock };
                }
                cells.push((ColSet::SENTINEL, *sentinel));
                put_cells(&mut block, bit, cells);
            }
            MergeOp::Delete { table, row, key, tomb } => {
                let Some(table) = self.table(*table) else { return Ok(()) };
                self.numbering.dv = self.numbering.dv.max(tomb.dv);
                if let Some(row) = row {
                    let (mut block, bit) = self.stage_row(&table, *row, key)?;
                    block.clear(1 << bit);
                }
                self.clocks.bury(&table, key, *tomb)?;
            }
            MergeOp::Quarantine { dv } => {
                self.numbering.dv = self.numbering.dv.max(*dv);
                self.clocks.staged.takes_version = true;
            }
        }
        Ok(())
    }
}

/// Gives a new row its clocks. One that may have been deleted before gets a sentinel that says which life it is in, as
/// every row of a table of keys alone does.
fn insert_row(numbering: &mut Numbering, table: &Table, block: &mut Staged<'_>, bit: u32, cl: u64) {
    let bare = table.columns.is_empty();
    block.clear(1 << bit);
    if bare || cl > 1 {
        let seq = numbering.take_seq();
        block.put(Group::of_row(bit, ColSet::sentinel(), numbering.local(cl, seq)));
    }
    if !bare {
        let clock = numbering.local(numbering.first_cv(), numbering.seq);
        numbering.seq += u64::from(table.all.len());
        block.put(Group::of_row(bit, table.all.clone(), clock));
    }
}

/// Every effective cell of a row, the sentinel included.
pub(crate) fn row_cells(block: &Block, row: u32) -> Vec<(u32, CellClock)> {
    let mut cells: Vec<(u32, CellClock)> = Vec::new();
    for group in block.groups.iter().rev().filter(|group| group.rows >> row & 1 == 1) {
        for bit in group.cols.iter() {
            if !cells.iter().any(|(known, _)| *known == bit) {
                cells.push((bit, group.clock(row, bit)));
            }
        }
    }
    cells.sort_unstable_by_key(|(bit, _)| *bit);
    cells
}

/// Writes the cells of one row; neighbours whose clocks follow one another share a group.
pub(crate) fn put_cells(block: &mut Staged<'_>, row: u32, mut cells: Vec<(u32, CellClock)>) {
    cells.sort_unstable_by_key(|(bit, _)| *bit);
    let mut open: Option<(ColSet, CellClock)> = None;
    for (bit, clock) in cells {
        if let Some((cols, first)) = &mut open {
            let follows = CellClock { seq: first.seq + u64::from(cols.len()), ..*first } == clock;
            if follows && !cols.contains(ColSet::SENTINEL) {
                cols.insert(bit);
                continue;
            }
            block.put(Group::of_row(row, cols.clone(), *first));
        }
        open = Some((ColSet::one(bit), clock));
    }
    if let Some((cols, first)) = open {
        block.put(Group::of_row(row, cols, first));
    }
}

/// Whether a cell of these has a clock already, which a backfill leaves alone.
fn has_any(block: &Block, row: u32, cols: &ColSet) -> bool {
    cols.iter().any(|bit| block.cell(row, bit).is_some())
}

fn deleted_cl(block: &Block, row: u32) -> u64 {
    block.cell(row, ColSet::SENTINEL).map_or(2, |sentinel| sentinel.cv + 1)
}

/// The blocks that `count` rows from `first` on lie in, with the rows of each.
fn block_masks(first: i64, count: u32) -> impl Iterator<Item = (i64, u32)> {
    let end = i128::from(first) + i128::from(count);
    let last_block = ((end - 1) >> BLOCK_SHIFT) as i64;
    ((first >> BLOCK_SHIFT)..=last_block).map(move |number| {
        let start = i128::from(number) << BLOCK_SHIFT;
        let from = (i128::from(first) - start).max(0) as u32;
        let to = (end - start).min(1 << BLOCK_SHIFT) as u32;
        let below = |bit: u32| if bit == 32 { u32::MAX } else { (1 << bit) - 1 };
        (number, below(to) & !below(from))
    })
}

#[cfg(test)]
mod tests;
