//! The rows that come from the tables in FROM, and which of them a change takes away and brings.

use std::sync::Arc;

use opor_core::Value;
use opor_store::rusqlite::{self, CachedStatement, StatementStatus};
use opor_store::{Changes, ColumnMask, TableChanges};
use rustc_hash::FxHashSet;

use super::step::Asked;
use crate::error::LiveError;
use crate::result::Row;
use crate::run::{bind, value};

/// What it costs to begin and end a statement, in steps of SQLite's machine, beside those that are counted. `cargo xtask bench live-scope`: one
/// row takes 1.4 to 3.7 us, and a step of a long run some 0.08 us, so this is at the upper end.
pub(super) const STEPS_TO_ASK: u64 = 45;

/// Up to here a short list is looked through from end to end, which is faster than halving it.
const LOOKED_THROUGH: usize = 8;

/// Stands for the rowid of a row that is not there, on the right of a LEFT JOIN. A row that has it is not followed.
pub(super) const NO_ROW: i64 = i64::MIN;

/// The statements that ask about rows, each by the rowid of one table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    pub(super) tables: Vec<ScopedTable>,
    /// Asks by the rowids of all tables that are required; there is one if some are not.
    pub(super) unit: Option<String>,
    /// So many tables stand before the first LEFT JOIN.
    pub(super) required: usize,
    /// Columns that are seen; after them come the rowids, and then other values.
    pub(super) width: usize,
    pub(super) terms: usize,
    /// Of the query; those of the rowids come after them.
    pub(super) parameters: usize,
}

/// A table in FROM.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ScopedTable {
    pub(super) name: Arc<str>,
    /// Updates of other columns say nothing about the result.
    pub(super) columns: ColumnMask,
    /// It stands on the right of a LEFT JOIN.
    pub(super) optional: bool,
    pub(super) sql: String,
}

/// A row that comes.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) row: Row,
    pub(super) rowids: Box<[i64]>,
    pub(super) terms: Box<[Value]>,
}

/// How many steps asking may still take.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) left: u64,
    /// There were not as many as it took.
    pub(super) exceeded: bool,
}

impl Budget {
    /// `None` when it is used up.
    pub(super) fn spend(&mut self, stmt: &CachedStatement<'_>) -> Option<()> {
        let steps = u64::from(stmt.reset_status(StatementStatus::VmStep).unsigned_abs());
        let left = self.left.checked_sub(STEPS_TO_ASK + steps);
        self.exceeded |= left.is_none();
        self.left = left?;
        Some(())
    }
}

/// Rows that go, by their places, and rows that come.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub(super) gone: Vec<usize>,
    pub(super) comes: Vec<Entry>,
}

/// The rowids that changes have touched, in ascending order; `None` when they are not all known.
fn touched(changes: &TableChanges, columns: ColumnMask) -> Option<Vec<i64>> {
    if changes.beyond.is_some() {
        return None;
    }
    let concern = changes.rows.iter();
    let concern = concern.filter(|row| row.old != row.new || row.columns.intersects(columns));
    let mut rowids: Vec<i64> = concern.flat_map(|row| row.old.into_iter().chain(row.new)).collect();
    rowids.sort_unstable();
    rowids.dedup();
    Some(rowids)
}

/// Whether a table that may have any of its rows read has changed.
pub(super) fn concerns(changes: &Changes, table: &str, columns: ColumnMask) -> bool {
    let Some(changes) = changes.tables.get(table) else { return false };
    let moved = |row: &opor_store::RowChange| row.old != row.new || row.columns.intersects(columns);
    changes.beyond.is_some() || changes.rows.iter().any(moved)
}

impl Source {
    /// For each table in FROM the rowids that were touched; `None` when they are not all known.
    pub(super) fn changed(&self, changes: &Changes) -> Option<Vec<Vec<i64>>> {
        if changes.unknown {
            return None;
        }
        let changed = |table: &ScopedTable| match changes.tables.get(&table.name) {
            None => Some(Vec::new()),
            Some(changes) => touched(changes, table.columns),
        };
        self.tables.iter().map(changed).collect()
    }

    /// Which of the rows go that are made of rows with the rowids `held`, and which come; `None` when that takes more steps than allowed.
    pub(super) fn moves(
        &self,
        asked: Asked<'_>,
        held: &[i64],
        changed: &[Vec<i64>],
        budget: &mut Budget,
    ) -> Result<Option<Moves>, LiveError> {
        let mut comes = Comes::default();
        for (table, rowids) in self.tables.iter().zip(changed).filter(|(table, _)| !table.optional) {
            let by_rowid = rowids.iter().map(std::slice::from_ref);
            let done = self.ask(asked, &table.sql, by_rowid, budget, &mut |entry| comes.push(entry))?;
            if done.is_none() || comes.entries.len() > asked.rows_max {
                return Ok(None);
            }
        }
        let held = || held.chunks_exact(self.tables.len()).enumerate();
        let Some(unit) = &self.unit else {
            let gone = held().filter(|(_, rowids)| is_made_of(rowids, changed)).map(|(at, _)| at).collect();
            return Ok(Some(Moves { gone, comes: comes.entries }));
        };
        // Of a row on the left all that it is joined to goes and comes together: without any of it there is one row.
        let (required, optional) = changed.split_at(self.required);
        let mut units: FxHashSet<Box<[i64]>> = FxHashSet::default();
        let mut meet = |rowids: &[i64]| {
            let left = &rowids[..self.required];
            if !is_made_of(left, required) && !units.contains(left) {
                units.insert(left.into());
            }
        };
        for (table, rowids) in self.tables.iter().zip(changed).filter(|(table, _)| table.optional) {
            let by_rowid = rowids.iter().map(std::slice::from_ref);
            if self.ask(asked, &table.sql, by_rowid, budget, &mut |entry| meet(&entry.rowids))?.is_none() {
                return Ok(None);
            }
        }
        for (_, rowids) in held().filter(|(_, rowids)| is_made_of(&rowids[self.required..], optional)) {
            meet(rowids);
        }
        let by_unit = units.iter().map(|unit| &**unit);
        let done = self.ask(asked, unit, by_unit, budget, &mut |entry| comes.push(entry))?;
        if done.is_none() || comes.entries.len() > asked.rows_max {
            return Ok(None);
        }
        let goes = |rowids: &[i64]| {
            let left = &rowids[..self.required];
            is_made_of(left, required) || units.contains(left)
        };
        let gone = held().filter(|(_, rowids)| goes(rowids)).map(|(at, _)| at).collect();
        Ok(Some(Moves { gone, comes: comes.entries }))
    }

    /// Runs a statement once for each of these lists of rowids; `None` when that takes more steps than allowed.
    fn ask<'i>(
        &self,
        asked: Asked<'_>,
        sql: &str,
        by: impl Iterator<Item = &'i [i64]>,
        budget: &mut Budget,
        found: &mut impl FnMut(Entry),
    ) -> Result<Option<()>, LiveError> {
        let mut by = by.peekable();
        if by.peek().is_none() {
            return Ok(Some(()));
        }
        let mut stmt = asked.store.prepare_cached(sql)?;
        bind(&mut stmt, asked.parameters)?;
        stmt.reset_status(StatementStatus::VmStep);
        for rowids in by {
            for (at, rowid) in rowids.iter().enumerate() {
                stmt.raw_bind_parameter(self.parameters + 1 + at, rowid)?;
            }
            let mut rows = stmt.raw_query();
            let mut count = 0;
            while let Some(row) = rows.next()? {
                found(self.entry(row)?);
                count += 1;
                if count > asked.rows_max {
                    return Ok(None);
                }
            }
            drop(rows);
            if budget.spend(&stmt).is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn entry(&self, row: &rusqlite::Row<'_>) -> Result<Entry, LiveError> {
        let mut rowids = Vec::with_capacity(self.tables.len());
        self.rowids(row, &mut rowids)?;
        Ok(Entry {
            row: values(row, 0, self.width)?.into(),
            terms: values(row, self.width + self.tables.len(), self.terms)?.into(),
            rowids: rowids.into(),
        })
    }

    /// Adds the rowids that a row is made of.
    pub(super) fn rowids(&self, row: &rusqlite::Row<'_>, rowids: &mut Vec<i64>) -> Result<(), LiveError> {
        for (at, table) in self.tables.iter().enumerate() {
            let rowid: Option<i64> = row.get(self.width + at)?;
            match rowid {
                Some(NO_ROW) if table.optional => return Err(not_followed()),
                None if !table.optional => return Err(not_followed()),
                rowid => rowids.push(rowid.unwrap_or(NO_ROW)),
            }
        }
        Ok(())
    }
}

/// A row that cannot be told from others. Nobody sees this: the query is run.
fn not_followed() -> LiveError {
    LiveError::Sql { message: "a row has a rowid that stands for something else".to_owned(), offset: None }
}

/// So many values of a row.
pub(super) fn values(row: &rusqlite::Row<'_>, from: usize, count: usize) -> Result<Vec<Value>, LiveError> {
    (from..from + count).map(|at| value(row.get_ref(at)?)).collect()
}

/// Rows that come, each once: one that is made of several changed rows is found through each of them.
#[derive(Default)]
struct Comes {
    entries: Vec<Entry>,
    seen: FxHashSet<Box<[i64]>>,
}

impl Comes {
    fn push(&mut self, entry: Entry) {
        // A row of one table alone is found once.
        if entry.rowids.len() == 1 || self.seen.insert(entry.rowids.clone()) {
            self.entries.push(entry);
        }
    }
}

fn is_made_of(rowids: &[i64], changed: &[Vec<i64>]) -> bool {
    rowids.iter().zip(changed).any(|(rowid, changed)| {
        if changed.len() <= LOOKED_THROUGH {
            changed.contains(rowid)
        } else {
            changed.binary_search(rowid).is_ok()
        }
    })
}
