//! The rows that are shown, and what the last change did to them.

use std::sync::Arc;

use opor_live::{Diff, Edit};

use super::author::Author;
use super::values::Values;

/// A diff, and who is behind it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) diff: Diff<Values>,
    /// Nobody, for the first result.
    pub(crate) author: Option<Author>,
}

/// What the last change did to a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mark {
    #[default]
    Same,
    New,
    /// It has other values, or another place.
    Changed,
}

/// A row of the result.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) values: Values,
    pub(crate) mark: Mark,
}

/// The result.
#[derive(Debug, Default)]
pub(crate) struct List {
    pub(crate) columns: Option<Arc<[String]>>,
    pub(crate) rows: Vec<Row>,
    /// How many rows went with the last change.
    pub(crate) removed: usize,
}

impl List {
    /// Takes the edits of a diff.
    pub(crate) fn apply(&mut self, diff: Diff<Values>) {
        self.columns = Some(diff.columns);
        self.removed = 0;
        self.rows.iter_mut().for_each(|row| row.mark = Mark::Same);
        let row = |mark| move |values| Row { values, mark };
        for edit in diff.edits {
            let edit = match edit {
                Edit::Remove { at } => {
                    self.removed += 1;
                    Edit::Remove { at }
                }
                Edit::Move { from, to } => {
                    self.rows[from].mark = Mark::Changed;
                    Edit::Move { from, to }
                }
                Edit::Insert { at, row: values } => Edit::Insert { at, row: row(Mark::New)(values) },
                Edit::Update { at, row: values } => Edit::Update { at, row: row(Mark::Changed)(values) },
                Edit::Reset { rows } => Edit::Reset { rows: rows.into_iter().map(row(Mark::Same)).collect() },
            };
            edit.apply_to(&mut self.rows);
        }
    }

    pub(crate) fn count(&self, mark: Mark) -> usize {
        self.rows.iter().filter(|row| row.mark == mark).count()
    }
}

/// `1 row`, `3 rows`.
pub(crate) fn rows(count: usize) -> String {
    if count == 1 { "1 row".into() } else { format!("{count} rows") }
}
