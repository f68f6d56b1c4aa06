//! Merging rows that a table's own rules refuse. The clocks merge as if there were no rules, so that replicas agree; what
//! the table then shows depends on nothing but the values that won.

use std::rc::Rc;

use opor_core::{PackedKey, ValueRef};
use rusqlite::{Error, ffi};

use crate::block::CellClock;
use crate::catalog::{Column, StrictType, Table};
use crate::colset::ColSet;
use crate::conflict::{self, Mask, broken_check};
use crate::merge::{MergeSql, Merger};

/// A value that won, and its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forced<'v> {
    /// Place in [`Table::columns`].
    pub(crate) place: usize,
    pub(crate) value: ValueRef<'v>,
    pub(crate) clock: CellClock,
}

impl Merger<'_> {
    /// Inserts a row that was refused with `error`; see [`insert_row`](Self::insert_row).
    #[cold]
    pub(crate) fn force_insert(
        &mut self,
        table: &Rc<Table>,
        key: &PackedKey,
        cells: &[Forced<'_>],
        error: Error,
    ) -> Result<bool, Error> {
        self.force(table, key, cells, error, |merger, places, values| {
            merger.insert_row(table, key, places, values.iter().copied())
        })
    }

    /// Updates a row in a way that was refused with `error`; see [`update_row`](Self::update_row).
    #[cold]
    pub(crate) fn force_update(
        &mut self,
        table: &Rc<Table>,
        (key, rowid): (&PackedKey, i64),
        cells: &[Forced<'_>],
        error: Error,
    ) -> Result<(), Error> {
        self.force(table, key, cells, error, |merger, places, values| {
            merger.update_row(table, (key, rowid), places, values.iter().copied()).map(|()| true)
        })?;
        Ok(())
    }

    /// Writes what won without CHECKs, and masks in place of what columns cannot hold. Both are put on record, unless there was a
    /// row already, so that nothing is written: the record is of that row.
    fn force<'v>(
        &mut self,
        table: &'v Rc<Table>,
        key: &PackedKey,
        cells: &[Forced<'v>],
        error: Error,
        write: impl FnOnce(&mut Self, &ColSet, &[ValueRef<'v>]) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        if !self.lenient || !is_rule(&error) {
            return Err(error);
        }
        let engine = self.engine;
        let (mut places, mut values, mut records) = (ColSet::default(), Vec::new(), Vec::new());
        for Forced { place, value, clock } in cells {
            let column = &table.columns[*place];
            places.insert(*place as u32);
            if self.sql.takes(column, *value)? {
                values.push(*value);
            } else {
                values.push(column.mask.as_ref());
                records.push(Mask::of_value(table, key, column.bit, *value, clock));
            }
        }
        if !self.without_checks(|merger| write(merger, &places, &values))? {
            return Ok(false);
        }
        if broken_check(engine, table, key)?.is_some() {
            records.push(Mask::of_check(table, key));
        }
        self.violations += records.len();
        if !records.is_empty() {
            engine.uncaptured(|| conflict::save(engine, &records))?;
        }
        Ok(true)
    }

    /// Runs with CHECKs switched off. SQLite prepares every statement anew on both sides of it, so this is for the few
    /// rows that need it.
    fn without_checks<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let db = self.engine.db;
        let were_off = db.integer("PRAGMA ignore_check_constraints")? == Some(1);
        if !were_off {
            db.exec("PRAGMA ignore_check_constraints = ON")?;
        }
        let done = run(self);
        if !were_off {
            db.exec("PRAGMA ignore_check_constraints = OFF")?;
        }
        done
    }
}

/// Rules that can be stepped around. A unique index and a trigger of the user's cannot.
fn is_rule(error: &Error) -> bool {
    let code = error.sqlite_error().map_or(0, |error| error.extended_code);
    matches!(
        code,
        ffi::SQLITE_CONSTRAINT_CHECK | ffi::SQLITE_CONSTRAINT_NOTNULL | ffi::SQLITE_CONSTRAINT_DATATYPE
    )
}

impl MergeSql {
    /// Whether a column can hold a value, CHECKs aside.
    pub(crate) fn takes(&mut self, column: &Column, value: ValueRef<'_>) -> Result<bool, Error> {
        Ok(match (column.strict, value) {
            (_, ValueRef::Null) => !column.not_null,
            (None, _) | (Some(StrictType::Blob), ValueRef::Blob(_)) => true,
            (Some(StrictType::Blob), _) | (Some(_), ValueRef::Blob(_)) => false,
            (Some(StrictType::Text), _) => true,
            (Some(StrictType::Integer | StrictType::Real), ValueRef::Integer(_))
            | (Some(StrictType::Real), ValueRef::Real(_)) => true,
            (Some(StrictType::Integer), _) => self.converts("i", value)?,
            (Some(StrictType::Real), _) => self.converts("r", value)?,
        })
    }

    /// Whether SQLite makes a number of a value, which a table in memory shows.
    fn converts(&mut self, column: &str, value: ValueRef<'_>) -> Result<bool, Error> {
        let scratch = match &mut self.scratch {
            Some(scratch) => scratch,
            none => {
                let made = rusqlite::Connection::open_in_memory()?;
                made.execute_batch("CREATE TABLE scratch(i INTEGER, r REAL) STRICT")?;
                none.insert(made)
            }
        };
        let sql = format!("INSERT INTO scratch({column}) VALUES (?)");
        let stored = match value {
            ValueRef::Real(real) => scratch.prepare(&sql)?.execute([real]),
            ValueRef::Text(text) => scratch.prepare(&sql)?.execute([text]),
            _ => return Ok(false),
        };
        scratch.execute_batch("DELETE FROM scratch")?;
        Ok(stored.is_ok())
    }
}
