//! Inserting rows that are new many at a time. A statement costs as much to begin and to end as a narrow row costs to
//! insert, so a first sync takes a third less in this way.

use std::rc::Rc;

use opor_core::{RowChange, Value, ValueRef};
use rusqlite::{Error, ErrorCode, ffi};

use crate::catalog::Table;
use crate::colset::ColSet;
use crate::merge::{Merger, bind_key, insert_names};
use crate::sqlite::{Db, failure};
use crate::whole::values;

/// Rows in one statement. Twice as many save two instructions in a hundred more, and take twice as long to prepare.
pub(crate) const BATCH: usize = 16;
/// What a batch binds at most: wide rows gain little, and the program of the statement grows with it.
const PARAMETERS_MAX: usize = 512;

/// Whether inserting into a table can run triggers, which would follow the conflict clause of the statement.
pub(crate) fn has_triggers(db: Db, table: &Table) -> Result<bool, Error> {
    let mut found = db.prepare(
        "SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
         UNION ALL SELECT 1 FROM temp.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE",
    )?;
    let mut row = found.start();
    row.bind_text(&table.name)?;
    row.step()
}

impl Merger<'_> {
    /// Inserts rows with values for the columns at these places, in their order, up to the first that cannot be inserted
    /// just so: there is a row of its key already, or it breaks a rule. Tells the rowids of those before it.
    ///
    /// It must be [`BATCH`] rows of a table with rowids and without triggers.
    pub(crate) fn insert_batch(
        &mut self,
        table: &Rc<Table>,
        places: &ColSet,
        rows: &[RowChange],
    ) -> Result<Vec<i64>, Error> {
        let of = (table.id, places.clone());
        if !self.sql.insert_batch.contains_key(&of) {
            // OR FAIL keeps the rows before the one that fails, without a journal of the statement.
            let names = insert_names(table, places);
            let marks = format!("({})", vec!["?"; names.len()].join(", "));
            let sql = format!(
                "INSERT OR FAIL INTO {}({}) VALUES {}",
                table.sql_name(),
                names.join(", "),
                vec![marks; BATCH].join(", ")
            );
            self.sql.insert_batch.insert(of.clone(), self.engine.db.prepare(&sql)?);
        }
        let stmt = self.sql.insert_batch.get_mut(&of).expect("it was there or has just been inserted");
        let mut run = stmt.start();
        for row in rows {
            bind_key(&mut run, &row.key)?;
            values(row).try_for_each(|value| run.bind(value))?;
            for place in table.fillers(places) {
                run.bind(table.columns[place].filler.as_ref().map_or(ValueRef::Null, Value::as_ref))?;
            }
        }
        // The hook is told of a row once nothing stands against it.
        let (done, inserted) = self.engine.collecting(|| run.step());
        match done {
            Ok(_) if inserted.len() == rows.len() => Ok(inserted),
            Ok(_) => Err(failure("inserting rows inserted other rows")),
            Err(error) if is_refused(&error) && inserted.len() < rows.len() => Ok(inserted),
            Err(error) => Err(error),
        }
    }

    /// Whether a batch of rows with these columns is worth its statement.
    pub(crate) fn batches(&self, table: &Table, places: &ColSet, rows_ahead: usize) -> bool {
        /// Preparing the statement takes as long as inserting some fifty rows.
        const ROWS_AHEAD_MIN: usize = 4 * BATCH;
        let values = table.key.len() + places.len() as usize + table.fillers(places).count();
        let fits = values * BATCH <= PARAMETERS_MAX;
        fits && (rows_ahead >= ROWS_AHEAD_MIN
            || self.sql.insert_batch.contains_key(&(table.id, places.clone())))
    }
}

/// Whether a row was refused, and nothing worse happened.
fn is_refused(error: &Error) -> bool {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => true,
        _ => error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_MISMATCH),
    }
}

#[cfg(test)]
mod tests;
