//! Clocks for rows that were there before their table replicated: in pieces, so that memory does not grow with the table.

use std::rc::Rc;

use crate::catalog::Table;
use crate::clocks::block_of;
use crate::engine::Engine;
use crate::notes::{BackfillRows, Note};
use crate::progress::{Halt, Phase, Reporter};
use crate::replicate::read_key;

/// Rows that get their clocks at once: some 2,000 full blocks, or as many blocks as rows where keys lie far apart.
const PIECE_ROWS: usize = 1 << 16;
/// Blocks that are held in memory before they are written to the clock tables; a few megabytes.
const STAGED_MAX: usize = 1 << 14;

impl Engine {
    /// Gives clocks to every row of a table, in the open write transaction.
    pub(crate) fn backfill_watched(&self, table: &Table, reporter: &mut Reporter<'_>) -> Result<(), Halt> {
        let name = table.sql_name();
        if reporter.is_watched() {
            let count = self.db.integer(&format!("SELECT count(*) FROM {name}"))?.unwrap_or(0);
            reporter.begin(Phase::Upgrade, count.cast_unsigned())?;
        }
        let list = if table.keyed { table.key_list() } else { table.rowid_name.to_owned() };
        let mut select = self.db.prepare(&format!("SELECT {list} FROM {name} ORDER BY {list}"))?;
        let mut rows = select.start();
        let mut piece = Piece::new(table);
        while rows.step()? {
            if table.keyed {
                piece.push_key(read_key(table, &rows, 0)?);
            } else {
                piece.push_row(rows.integer(0));
            }
            reporter.add(1)?;
            if piece.count == PIECE_ROWS {
                self.backfill_piece(table, std::mem::replace(&mut piece, Piece::new(table)))?;
                self.fold_when_full(STAGED_MAX)?;
            }
        }
        self.backfill_piece(table, piece)?;
        reporter.end()?;
        Ok(())
    }

    fn backfill_piece(&self, table: &Table, piece: Piece) -> Result<(), rusqlite::Error> {
        self.notes.borrow_mut().log.push(Note::Backfill { table: table.id, rows: Rc::new(piece.rows) });
        self.replay()
    }

    /// Writes what is staged to the clock tables once it is much, in the open write transaction.
    pub(crate) fn fold_when_full(&self, staged_max: usize) -> Result<(), rusqlite::Error> {
        if self.clocks.borrow().staged.len() <= staged_max {
            return Ok(());
        }
        self.uncaptured(|| self.fold_now())?;
        // What is in the file is not replayed again, so the rows behind it need not be kept.
        if let Some(Note::Backfill { rows, .. }) = self.notes.borrow_mut().log.last_mut() {
            *rows = Rc::new(BackfillRows::Blocks(Vec::new()));
        }
        Ok(())
    }
}

struct Piece {
    rows: BackfillRows,
    count: usize,
}

impl Piece {
    fn new(table: &Table) -> Self {
        let rows =
            if table.keyed { BackfillRows::Keys(Vec::new()) } else { BackfillRows::Blocks(Vec::new()) };
        Self { rows, count: 0 }
    }

    fn push_key(&mut self, key: Vec<u8>) {
        if let BackfillRows::Keys(keys) = &mut self.rows {
            keys.push(key.into_boxed_slice());
            self.count += 1;
        }
    }

    fn push_row(&mut self, row: i64) {
        let (number, bit) = block_of(row);
        if let BackfillRows::Blocks(blocks) = &mut self.rows {
            match blocks.last_mut() {
                Some((last, mask)) if *last == number => *mask |= 1 << bit,
                _ => blocks.push((number, 1 << bit)),
            }
            self.count += 1;
        }
    }
}
