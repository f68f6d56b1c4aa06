//! What was done to a file without opor: found when the file is opened, or when another program has written to it.

use std::rc::Rc;

use opor_core::WallMillis;
use rusqlite::Error;

use crate::block::{BLOCK_SHIFT, Block, CellClock};
use crate::catalog::Table;
use crate::clocks::{block_of, damaged, key_of};
use crate::engine::Engine;
use crate::meta;
use crate::notes::{BackfillRows, MergeOp};
use crate::replay::{put_cells, row_cells};
use crate::tombs::Tomb;

/// Something that was done to the file without opor, as it was noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// When it was noticed.
    pub at: WallMillis,
    /// The table.
    pub table: String,
    /// What was found and what was done about it, for people.
    pub what: String,
}

/// A row that is gone: where it was, its packed key, and the causal length it goes to.
type GoneRow = (i64, Vec<u8>, u64);
/// A row's place and the clocks of its cells.
type RowClocks = (i64, Vec<(u32, CellClock)>);

impl Engine {
    /// Puts guards back where columns were added since, or where a restore from a dump left none; there it also
    /// finds out which clocks belong to which rows. Tables that are gone are forgotten.
    pub(crate) fn mend_guards(&self) -> Result<(), Error> {
        let mut unguarded = Vec::new();
        let catalog = self.catalog.borrow().clone();
        for table in catalog.tables.iter().filter(|table| !catalog.is_guarded(table)) {
            unguarded.push((table.id, table.name.to_string(), false));
        }
        if !catalog.dropped.is_empty() {
            let recorded = meta::recorded_tables(self.db)?.into_iter();
            for (id, name) in recorded.filter(|(id, _)| catalog.dropped.contains(id)) {
                if meta::is_table(self.db, &name)? {
                    unguarded.push((id, name, true));
                }
            }
        }
        if unguarded.is_empty() && self.catalog.borrow().dropped.is_empty() {
            return Ok(());
        }
        self.in_write(|| {
            for (id, name, restored) in &unguarded {
                self.uncaptured(|| meta::add_guard(self.db, *id, name))?;
                self.load_catalog()?;
                let table = self.catalog.borrow().table_by_id(*id).cloned();
                if let (true, Some(table)) = (*restored, table) {
                    self.uncaptured(|| self.match_restored(&table))?;
                }
            }
            // What is missing now was dropped.
            self.uncaptured(|| self.save_columns())
        })
    }

    /// Runs in a write transaction of its own, with the write lock held from the start.
    pub(crate) fn in_write<T>(&self, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.in_savepoint("opor_mend", || {
            self.uncaptured(|| self.db.exec("UPDATE opor_meta SET format = format"))?;
            self.enlist()?;
            run()
        })
    }

    /// A dump keeps the order of rows and numbers them anew. The same number of rows as of clocks means they belong
    /// together in order; else the rows start over, older than anything a peer has.
    fn match_restored(&self, table: &Rc<Table>) -> Result<(), Error> {
        let BackfillRows::Blocks(blocks) = self.all_rows(table)? else { return Ok(()) };
        let rowids: Vec<i64> = blocks.iter().flat_map(|(number, rows)| rows_of(*number, *rows)).collect();
        let clocks = self.all_clocks(table)?;
        if clocks.iter().map(|(rowid, _)| rowid).eq(&rowids) {
            return Ok(());
        }
        let gone = self.dead_rows(table)?;
        self.clear_clocks(table)?;
        for (rowid, tomb) in gone.into_iter().filter(|(rowid, _)| rowids.binary_search(rowid).is_err()) {
            self.clocks.borrow_mut().bury(table, &key_of(rowid), tomb)?;
        }
        if clocks.len() != rowids.len() {
            let what =
                format!("restored with {} rows and {} clocks: rows start over", rowids.len(), clocks.len());
            meta::record_incident(self.db, self.wall.now().0, &table.name, &what)?;
            return self.backfill_all(table);
        }
        for ((_, cells), rowid) in clocks.into_iter().zip(rowids) {
            let (number, bit) = block_of(rowid);
            let mut clocks = self.clocks.borrow_mut();
            put_cells(&mut clocks.stage((table.id, number))?, bit, cells);
        }
        self.fold_now()
    }

    /// The clocks of every row, by rowid.
    fn all_clocks(&self, table: &Table) -> Result<Vec<RowClocks>, Error> {
        let mut all = Vec::new();
        self.each_block(table, |number, block| {
            let rows = rows_of(number, block.live());
            all.extend(rows.map(|rowid| (rowid, row_cells(block, block_of(rowid).1))));
        })?;
        Ok(all)
    }

    /// Every block of a table that is keyed by rowid.
    fn each_block(&self, table: &Table, mut found: impl FnMut(i64, &Block)) -> Result<(), Error> {
        self.fold_now()?;
        let mut stmt = self.db.prepare(&format!(
            "SELECT block, max_db_version, groups FROM {} ORDER BY block",
            table.clock_table()
        ))?;
        let mut rows = stmt.start();
        while rows.step()? {
            let block = Block::decode(rows.integer(1).cast_unsigned(), rows.blob(2)).map_err(damaged)?;
            found(rows.integer(0), &block);
        }
        Ok(())
    }

    /// The dead rows that blocks tell of.
    fn dead_rows(&self, table: &Table) -> Result<Vec<(i64, Tomb)>, Error> {
        let mut gone = Vec::new();
        self.each_block(table, |number, block| {
            gone.extend(
                rows_of(number, block.dead())
                    .filter_map(|rowid| Some((rowid, block.tomb(block_of(rowid).1)?))),
            );
        })?;
        Ok(gone)
    }

    fn clear_clocks(&self, table: &Table) -> Result<(), Error> {
        self.clocks.borrow_mut().forget_table_blocks(table.id);
        self.db.exec(&format!("DELETE FROM {}", table.clock_table()))
    }

    /// SQLite deletes all rows of a table at a stroke when a statement has no WHERE, and asks no guard. So an empty
    /// table that has clocks was emptied without opor. Where the clocks tell the keys, the rows are deleted for peers
    /// too; elsewhere the keys are gone, and the rows come back with the next pull, which starts over.
    pub(crate) fn notice_truncation(&self) -> Result<(), Error> {
        let catalog = self.catalog.borrow().clone();
        let mut emptied = Vec::new();
        for table in &catalog.tables {
            let gone = !meta::has_rows(self.db, &table.sql_name())? && self.has_clocks(table)?;
            if gone {
                emptied.push(table.clone());
            }
        }
        if emptied.is_empty() {
            return Ok(());
        }
        self.in_write(|| emptied.iter().try_for_each(|table| self.follow_truncation(table)))
    }

    fn has_clocks(&self, table: &Table) -> Result<bool, Error> {
        let clocks = self.clocks.borrow();
        let mirrored = clocks.mirror.blocks.iter().filter(|(id, _)| id.0 == table.id);
        let (live, gone): (Vec<_>, Vec<_>) = mirrored.partition(|(_, record)| record.block.live() != 0);
        if !live.is_empty() {
            return Ok(true);
        }
        // A mirrored block without rows hides the one in the clock table. One with an empty key tells of dead rows only.
        let stored = self.db.integer(&format!(
            "SELECT count(*) FROM (SELECT 1 FROM {} WHERE key IS NOT x'' AND groups <> x'' LIMIT {})",
            table.clock_table(),
            gone.len() + 1
        ))?;
        Ok(stored.unwrap_or(0) > gone.len() as i64)
    }

    fn follow_truncation(&self, table: &Rc<Table>) -> Result<(), Error> {
        let keys = self.truncated_keys(table)?;
        let what = match &keys {
            Some(keys) => format!("emptied without opor: {} rows deleted for peers too", keys.len()),
            None => "emptied without opor: its rows come back with the next pull".to_owned(),
        };
        let Some(keys) = keys else {
            return self.uncaptured(|| {
                self.fold_now()?;
                self.clear_clocks(table)?;
                meta::restart_pulls(self.db)?;
                meta::record_incident(self.db, self.wall.now().0, &table.name, &what)
            });
        };
        let dv = self.merge_version();
        for (seq, (rowid, key, cl)) in keys.into_iter().enumerate() {
            let tomb = Tomb { cl, dv, seq: seq as u64, site: 0 };
            self.merge(MergeOp::Delete { table: table.id, row: Some(rowid), key: key.into(), tomb })?;
        }
        self.uncaptured(|| meta::record_incident(self.db, self.wall.now().0, &table.name, &what))
    }

    /// The rows that were there, where their keys can be told from their clocks.
    fn truncated_keys(&self, table: &Rc<Table>) -> Result<Option<Vec<GoneRow>>, Error> {
        if !table.rowid_is_key && !table.keyed {
            return Ok(None);
        }
        self.uncaptured(|| self.fold_now())?;
        let mut stmt = self.db.prepare(&format!("SELECT block, key FROM {}", table.clock_table()))?;
        let mut rows = stmt.start();
        let mut keys = Vec::new();
        let mut clocks = self.clocks.borrow_mut();
        while rows.step()? {
            let number = rows.integer(0);
            let block = &clocks.peek((table.id, number))?.block;
            if table.keyed {
                keys.push((0, rows.blob(1).to_vec(), gone_cl(block.cl(0))));
                continue;
            }
            for rowid in rows_of(number, block.live()) {
                keys.push((rowid, key_of(rowid), gone_cl(block.cl(block_of(rowid).1))));
            }
        }
        Ok(Some(keys))
    }
}

const fn gone_cl(cl: u64) -> u64 {
    if cl < 2 { 2 } else { cl + 1 }
}

fn rows_of(number: i64, mut rows: u32) -> impl Iterator<Item = i64> {
    std::iter::from_fn(move || {
        if rows == 0 {
            return None;
        }
        let bit = rows.trailing_zeros();
        rows &= rows - 1;
        Some((number << BLOCK_SHIFT) + i64::from(bit))
    })
}
