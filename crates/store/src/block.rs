//! Block clocks: the clocks of 32 neighbouring rows in one small record.
//!
//! A [`Group`] says of a set of rows and a set of columns that they were written by one site in one commit; later
//! groups hide earlier ones. `docs/storage.md` draws the bytes.

use crate::colset::ColSet;
use crate::tombs::Tomb;
use crate::varint::{self, DamagedRecord, Reader};

/// 2^5 rows are in a block: a bulk insert then costs about a byte a row, and a block in which every cell was written
/// alone still decodes in a microsecond.
pub(crate) const BLOCK_SHIFT: u32 = 5;

/// The clock of one cell, or of a sentinel (then `cv` is the causal length).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CellClock {
    pub(crate) cv: u64,
    pub(crate) dv: u64,
    /// The version shown to readers of `crsql_changes`; older than `dv` after the row moved to another key.
    pub(crate) shown_dv: u64,
    pub(crate) seq: u64,
    pub(crate) site: u32,
}

/// Rows times columns with one clock; `seq` of row `r`, column `c` is `anchor + stride * r + rank of c`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) rows: u32,
    pub(crate) cols: ColSet,
    pub(crate) cv: u64,
    pub(crate) dv: u64,
    pub(crate) shown_dv: u64,
    pub(crate) anchor: i64,
    pub(crate) stride: u32,
    pub(crate) site: u32,
}

impl Group {
    pub(crate) fn clock(&self, row: u32, col: u32) -> CellClock {
        let line = self.anchor + i64::from(self.stride) * i64::from(row);
        CellClock {
            cv: self.cv,
            dv: self.dv,
            shown_dv: self.shown_dv,
            seq: (line + i64::from(self.cols.rank(col))).max(0).cast_unsigned(),
            site: self.site,
        }
    }

    /// A group of one row, whose first column has `clock.seq`.
    pub(crate) fn of_row(row: u32, cols: ColSet, clock: CellClock) -> Self {
        Self {
            rows: 1 << row,
            cols,
            cv: clock.cv,
            dv: clock.dv,
            shown_dv: clock.shown_dv,
            anchor: clock.seq.cast_signed(),
            stride: 0,
            site: clock.site,
        }
    }

    fn covers(&self, row: u32, col: u32) -> bool {
        self.rows >> row & 1 == 1 && self.cols.contains(col)
    }

    /// Joins `next`'s rows when one line describes the seqs of both.
    fn absorb(&mut self, next: &Self) -> bool {
        let same = self.cv == next.cv
            && self.dv == next.dv
            && self.site == next.site
            && self.shown_dv == next.shown_dv
            && self.rows & next.rows == 0
            && self.cols == next.cols;
        if !same {
            return false;
        }
        let (own, new) = (self.rows.trailing_zeros(), next.rows.trailing_zeros());
        let at = |group: &Self, row: u32| group.anchor + i64::from(group.stride) * i64::from(row);
        // One row has no slope of its own and takes whichever fits.
        let (single, next_single) = (self.rows.is_power_of_two(), next.rows.is_power_of_two());
        if next_single && !single && at(self, new) == at(next, new) {
            self.rows |= next.rows;
            return true;
        }
        if !next_single || !single || new <= own {
            let parallel =
                !single && !next_single && self.stride == next.stride && self.anchor == next.anchor;
            if parallel {
                self.rows |= next.rows;
            }
            return parallel;
        }
        let rise = at(next, new) - at(self, own);
        let run = i64::from(new - own);
        let Ok(stride) = u32::try_from(rise / run) else { return false };
        if rise % run != 0 {
            return false;
        }
        self.anchor = at(self, own) - i64::from(stride) * i64::from(own);
        self.stride = stride;
        self.rows |= next.rows;
        true
    }
}

/// The clocks of the rows of one block; later groups hide earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) groups: Vec<Group>,
    /// The newest `dv` ever in the block: where it stands in the index.
    pub(crate) max_dv: u64,
}

impl Block {
    /// The clock of a cell.
    pub(crate) fn cell(&self, row: u32, col: u32) -> Option<CellClock> {
        self.groups.iter().rev().find(|group| group.covers(row, col)).map(|group| group.clock(row, col))
    }

    /// Whether `clock` is that of the first of these columns in a row, and the others were written with it. `false`
    /// may be wrong when they were written with yet others.
    pub(crate) fn has_written(&self, row: u32, cols: &ColSet, clock: &CellClock) -> bool {
        let over = |group: &&Group| group.rows >> row & 1 == 1 && group.cols.intersects(cols);
        self.groups.iter().rev().find(over).is_some_and(|group| {
            group.cols == *cols
                && group.cv == clock.cv
                && group.site == clock.site
                && group.anchor + i64::from(group.stride) * i64::from(row) == clock.seq.cast_signed()
        })
    }

    /// The least and the greatest version of these cells of a row; `None` when one of them has no clock.
    pub(crate) fn versions_of(&self, row: u32, cols: &ColSet) -> Option<(u64, u64)> {
        let over = |group: &&Group| group.rows >> row & 1 == 1 && group.cols.intersects(cols);
        let newest = self.groups.iter().rev().find(over)?;
        if cols.is_subset(&newest.cols) {
            return Some((newest.cv, newest.cv));
        }
        cols.iter().try_fold((u64::MAX, 0), |(least, greatest), col| {
            let cv = self.cell(row, col)?.cv;
            Some((least.min(cv), greatest.max(cv)))
        })
    }

    /// The causal length of a row: its sentinel's, 1 when only its cells are known, 0 when nothing is.
    pub(crate) fn cl(&self, row: u32) -> u64 {
        match self.cell(row, ColSet::SENTINEL) {
            Some(sentinel) => sentinel.cv,
            None => u64::from(self.rows() >> row & 1),
        }
    }

    /// The rows that have any clock.
    pub(crate) fn rows(&self) -> u32 {
        self.groups.iter().fold(0, |rows, group| rows | group.rows)
    }

    /// The rows of which only a tombstone is left: their sentinel's causal length is even. Where keys are not rowids
    /// there are none, and tombstones are found by key.
    pub(crate) fn dead(&self) -> u32 {
        let dead =
            self.groups.iter().filter(|group| group.cv & 1 == 0 && group.cols.contains(ColSet::SENTINEL));
        dead.fold(0, |rows, group| rows | group.rows)
    }

    /// The rows that are there.
    pub(crate) fn live(&self) -> u32 {
        self.rows() & !self.dead()
    }

    /// What is left of a row that is gone.
    pub(crate) fn tomb(&self, row: u32) -> Option<Tomb> {
        let CellClock { cv: cl, dv, seq, site, .. } = self.cell(row, ColSet::SENTINEL)?;
        (cl & 1 == 0).then_some(Tomb { cl, dv, seq, site })
    }

    /// Writes a group over what was there.
    pub(crate) fn put(&mut self, group: Group) {
        self.max_dv = self.max_dv.max(group.dv);
        let mut emptied = false;
        for old in &mut self.groups {
            if old.rows & group.rows != 0 && old.cols.is_subset(&group.cols) {
                old.rows &= !group.rows;
                emptied |= old.rows == 0;
            }
        }
        if emptied {
            self.groups.retain(|old| old.rows != 0);
        }
        if self.groups.last_mut().is_some_and(|last| last.absorb(&group)) {
            return;
        }
        self.groups.push(group);
    }

    /// Writes rows that are new; nothing is known of them.
    pub(crate) fn put_new(&mut self, group: Group) {
        self.max_dv = self.max_dv.max(group.dv);
        if !self.groups.last_mut().is_some_and(|last| last.absorb(&group)) {
            self.groups.push(group);
        }
    }

    /// Forgets rows.
    pub(crate) fn clear(&mut self, rows: u32) {
        self.groups.iter_mut().for_each(|group| group.rows &= !rows);
        self.groups.retain(|group| group.rows != 0);
    }

    /// The distinct versions of one column among `rows`, with the rows that have each; rows without a clock have 0.
    pub(crate) fn versions(&self, rows: u32, col: u32, out: &mut Vec<(u32, u64, u64)>) {
        let mut left = rows;
        for group in self.groups.iter().rev() {
            let hit = group.rows & left;
            if hit != 0 && group.cols.contains(col) {
                out.push((hit, group.cv, if group.site == 0 { group.dv } else { 0 }));
                left &= !hit;
                if left == 0 {
                    return;
                }
            }
        }
        out.push((left, 0, 0));
    }

    /// Every effective cell with `dv > since`: the row, the column and its clock.
    pub(crate) fn cells_since(&self, since: u64, mut found: impl FnMut(u32, u32, CellClock)) {
        for (i, group) in self.groups.iter().enumerate() {
            if group.dv <= since {
                continue;
            }
            let later = &self.groups[i + 1..];
            for col in group.cols.iter() {
                let mut rows = group.rows;
                for newer in later {
                    if newer.rows & rows != 0 && newer.cols.contains(col) {
                        rows &= !newer.rows;
                    }
                }
                while rows != 0 {
                    let row = rows.trailing_zeros();
                    rows &= rows - 1;
                    found(row, col, group.clock(row, col));
                }
            }
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.groups.len() * 16);
        let mut last = Last { dv: self.max_dv, cv: 0 };
        for group in &self.groups {
            encode_group(group, last, out);
            last = Last { dv: group.dv, cv: group.cv };
        }
    }

    pub(crate) fn decode(max_dv: u64, bytes: &[u8]) -> Result<Self, DamagedRecord> {
        let mut reader = Reader(bytes);
        let mut groups = Vec::new();
        let mut last = Last { dv: max_dv, cv: 0 };
        while !reader.is_empty() {
            let group = decode_group(&mut reader, last)?;
            last = Last { dv: group.dv, cv: group.cv };
            groups.push(group);
        }
        Ok(Self { groups, max_dv })
    }
}

/// SQLite's own limit.
const COLUMNS_MAX: u32 = 32_767;

const FOREIGN_SITE: u8 = 1;
const ONE_ROW: u8 = 2;
const ALL_ROWS: u8 = 4;
const FIRST_VERSION: u8 = 8;
const SAME_VERSION: u8 = 16;
const MOVED: u8 = 32;
/// Of several rows: the stride is the number of columns. Of one row: its seq is 0.
const PLAIN_SEQ: u8 = 64;
const WIDE: u8 = 128;
/// One cell, which no other two flags can say: then a byte has the row and the low bits of the column, and with
/// [`WIDE`] the rest of the column follows.
const ONE_CELL: u8 = ONE_ROW | ALL_ROWS;
/// How many bits of a lone column stand beside the row.
const CELL_COLUMN_BITS: u32 = 3;

/// The versions of the group before, which those of the next are told as differences from: groups stand in the order in
/// which they were written, so the differences are small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) dv: u64,
    pub(crate) cv: u64,
}

pub(crate) fn encode_group(group: &Group, last: Last, out: &mut Vec<u8>) {
    let one = group.rows.is_power_of_two();
    let column = if one { group.cols.only() } else { None };
    let natural = group.stride == group.cols.len();
    let first_seq = group.anchor + i64::from(group.stride) * i64::from(group.rows.trailing_zeros());
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let flags = flag(group.site != 0, FOREIGN_SITE)
        | flag(one, ONE_ROW)
        | flag(group.rows == u32::MAX || column.is_some(), ALL_ROWS)
        | flag(group.cv == 1, FIRST_VERSION)
        | flag(group.cv != 1 && group.cv == last.cv, SAME_VERSION)
        | flag(group.shown_dv != group.dv, MOVED)
        | flag(if one { first_seq == 0 } else { natural }, PLAIN_SEQ)
        | flag(column.map_or(group.cols.narrow().is_none(), |column| column >> CELL_COLUMN_BITS != 0), WIDE);
    out.push(flags);
    if let Some(column) = column {
        let low = column & ((1 << CELL_COLUMN_BITS) - 1);
        out.push((group.rows.trailing_zeros() << CELL_COLUMN_BITS | low) as u8);
        if flags & WIDE != 0 {
            varint::put(u64::from(column >> CELL_COLUMN_BITS), out);
        }
    } else {
        encode_rows_and_cols(group, flags, out);
    }
    varint::put_signed(group.dv.cast_signed() - last.dv.cast_signed(), out);
    if flags & MOVED != 0 {
        varint::put_signed(group.dv.cast_signed() - group.shown_dv.cast_signed(), out);
    }
    if flags & (FIRST_VERSION | SAME_VERSION) == 0 {
        varint::put_signed(group.cv.wrapping_sub(last.cv).cast_signed(), out);
    }
    if flags & FOREIGN_SITE != 0 {
        varint::put(u64::from(group.site), out);
    }
    if !one && !natural {
        varint::put(u64::from(group.stride), out);
    }
    if !(one && first_seq == 0) {
        varint::put_signed(first_seq, out);
    }
}

fn encode_rows_and_cols(group: &Group, flags: u8, out: &mut Vec<u8>) {
    if let Some(low) = group.cols.narrow() {
        varint::put(low, out);
    } else {
        varint::put(group.cols.words().count() as u64, out);
        group.cols.words().for_each(|word| varint::put(word, out));
    }
    if flags & ONE_ROW != 0 {
        out.push(group.rows.trailing_zeros() as u8);
    } else if group.rows != u32::MAX {
        out.extend_from_slice(&group.rows.to_le_bytes());
    }
}

/// Reads what [`encode_rows_and_cols`] and its caller wrote.
fn decode_rows_and_cols(reader: &mut Reader<'_>, flags: u8) -> Result<(u32, ColSet), DamagedRecord> {
    let on = |bit: u8| flags & bit != 0;
    if flags & ONE_CELL == ONE_CELL {
        let byte = u32::from(reader.byte()?);
        let high = if on(WIDE) { reader.small()? } else { 0 };
        if high > COLUMNS_MAX >> CELL_COLUMN_BITS {
            return Err(DamagedRecord);
        }
        let column = high << CELL_COLUMN_BITS | byte & ((1 << CELL_COLUMN_BITS) - 1);
        return Ok((1 << (byte >> CELL_COLUMN_BITS), ColSet::one(column)));
    }
    let cols = decode_cols(reader, on(WIDE))?;
    let rows = if on(ONE_ROW) {
        1u32.checked_shl(u32::from(reader.byte()?)).ok_or(DamagedRecord)?
    } else if on(ALL_ROWS) {
        u32::MAX
    } else {
        u32::from_le_bytes(reader.take(4)?.try_into().expect("four bytes were taken"))
    };
    Ok((rows, cols))
}

pub(crate) fn decode_group(reader: &mut Reader<'_>, last: Last) -> Result<Group, DamagedRecord> {
    let flags = reader.byte()?;
    let on = |bit: u8| flags & bit != 0;
    let (rows, cols) = decode_rows_and_cols(reader, flags)?;
    let dv = last.dv.checked_add_signed(reader.signed()?).ok_or(DamagedRecord)?;
    let shown_dv = if on(MOVED) { dv.wrapping_sub(reader.signed()?.cast_unsigned()) } else { dv };
    let cv = if on(FIRST_VERSION) {
        1
    } else if on(SAME_VERSION) {
        last.cv
    } else {
        last.cv.wrapping_add(reader.signed()?.cast_unsigned())
    };
    let site = if on(FOREIGN_SITE) { reader.small()? } else { 0 };
    let stride = if on(ONE_ROW) {
        0
    } else if on(PLAIN_SEQ) {
        cols.len()
    } else {
        reader.small()?
    };
    if rows == 0 || cols.is_empty() {
        return Err(DamagedRecord);
    }
    let line = i64::from(stride) * i64::from(rows.trailing_zeros());
    let first_seq = if on(ONE_ROW) && on(PLAIN_SEQ) { 0 } else { reader.signed()? };
    let anchor = first_seq.checked_sub(line).ok_or(DamagedRecord)?;
    Ok(Group { rows, cols, cv, dv, shown_dv, anchor, stride, site })
}

fn decode_cols(reader: &mut Reader<'_>, wide: bool) -> Result<ColSet, DamagedRecord> {
    if !wide {
        return Ok(ColSet::from_low(reader.varint()?));
    }
    let words = reader.varint()?;
    let mut cols = ColSet::default();
    if words > u64::from(COLUMNS_MAX / 64) + 1 {
        return Err(DamagedRecord);
    }
    for i in 0..words as u32 {
        let word = reader.varint()?;
        (0..64).filter(|bit| word >> bit & 1 == 1).for_each(|bit| cols.insert(i * 64 + bit));
    }
    Ok(cols)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(rows: u32, col: u32, dv: u64, cv: u64, seq: i64) -> Group {
        let cols = ColSet::one(col);
        Group { rows, cols, cv, dv, shown_dv: dv, anchor: seq, stride: 0, site: 0 }
    }

    #[track_caller]
    fn round_trip(block: &Block) -> usize {
        let mut bytes = Vec::new();
        block.encode(&mut bytes);
        assert_eq!(Block::decode(block.max_dv, &bytes).as_ref(), Ok(block));
        for len in 0..bytes.len() {
            // A record cut short is damaged, or ends between two groups; it never panics.
            let cut = Block::decode(block.max_dv, &bytes[..len]);
            assert!(cut.is_err() || cut.is_ok_and(|cut| cut.groups.len() < block.groups.len()));
        }
        bytes.len()
    }

    #[test]
    fn every_kind_of_group_round_trips() {
        let mut block = Block::default();
        let mut wide = ColSet::one(0);
        [3, 63, 64, 190].iter().for_each(|bit| wide.insert(*bit));
        block.put(Group { stride: 3, anchor: -90, ..group(u32::MAX, 1, 5, 1, 0) });
        block.put(Group { cols: wide, ..group(0b1010, 1, 6, 1 << 52, 7) });
        block.put(Group { site: 9, shown_dv: 2, ..group(1 << 31, 2, 7, 1 << 52, 0) });
        block.put(Group { cv: 0, ..group(1, 3, 4, 0, 99_999_999_999) });
        block.put(group(1 << 30, 7, 8, 5, 0));
        block.put(group(1 << 30, 8, 8, 5, 3));
        block.put(group(1 << 30, 1_900, 8, 1, 0));
        assert_eq!(block.groups.len(), 7);
        round_trip(&block);
    }

    #[test]
    fn later_groups_hide_earlier_ones_and_covered_ones_go() {
        let mut block = Block::default();
        block.put(group(0b111, 1, 1, 1, 0));
        block.put(group(0b010, 1, 2, 2, 5));
        assert_eq!(block.cell(1, 1).map(|clock| (clock.cv, clock.dv, clock.seq)), Some((2, 2, 5)));
        assert_eq!(block.cell(0, 1).map(|clock| (clock.cv, clock.dv)), Some((1, 1)));
        let mut seen = Vec::new();
        block.cells_since(0, |row, col, clock| seen.push((row, col, clock.cv)));
        seen.sort_unstable();
        assert_eq!(seen, [(0, 1, 1), (1, 1, 2), (2, 1, 1)]);
        block.put(group(0b101, 1, 3, 7, 0));
        assert_eq!(block.groups.len(), 2, "nothing is left of the first group");
        block.clear(0b010);
        assert_eq!((block.live(), block.cl(1), block.cl(0)), (0b101, 0, 1));
        block.put(group(0b001, ColSet::SENTINEL, 4, 2, 0));
        assert_eq!((block.live(), block.dead(), block.cl(0)), (0b100, 0b001, 2));
    }

    #[test]
    fn rows_in_line_share_a_group_and_keep_their_seqs() {
        let mut block = Block::default();
        for row in 0..32_u32 {
            block.put(group(1 << row, 2, 1, 1, i64::from(row) * 4 + 3));
        }
        assert_eq!(block.groups.len(), 1);
        assert_eq!(block.cell(17, 2).map(|clock| clock.seq), Some(17 * 4 + 3));
        block.put(group(1 << 9, 2, 1, 1, 1));
        assert_eq!(block.cell(9, 2).map(|clock| clock.seq), Some(1));
        assert_eq!(block.cell(10, 2).map(|clock| clock.seq), Some(43));
        assert!(round_trip(&block) < 24);
    }

    #[test]
    fn a_cell_written_alone_takes_few_bytes() {
        let mut block = Block::default();
        for row in 0..32_u32 {
            block.put(group(
                1 << row,
                2,
                1_000_000 + u64::from(row) * 100,
                900_000_000_000_000 + u64::from(row) * 51_200,
                0,
            ));
        }
        assert!(round_trip(&block) <= 32 * 8, "eight bytes a cell");
    }
}
