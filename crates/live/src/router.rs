//! Which queries a commit may concern.

use std::collections::BTreeMap;
use std::sync::Arc;

use opor_store::{Changes, ColumnMask, Interest, TableChanges};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::plan::Plan;

/// Names a query among those of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueryId(pub(crate) u64);

/// Every query by what it depends on.
#[derive(Debug, Default)]
pub(crate) struct Router {
    tables: BTreeMap<Arc<str>, Readers>,
    /// Run after every commit.
    unwatched: FxHashSet<QueryId>,
    all: FxHashSet<QueryId>,
    /// More has to be told than when it was last asked.
    grown: bool,
}

/// The queries that read a table.
#[derive(Debug, Default)]
struct Readers {
    queries: FxHashMap<QueryId, ColumnMask>,
    /// What all of them read, and some that have gone.
    columns: ColumnMask,
}

impl Router {
    pub(crate) fn add(&mut self, query: QueryId, plan: &Plan) {
        self.all.insert(query);
        if plan.unwatched.is_some() {
            self.unwatched.insert(query);
        }
        for (table, columns) in &plan.tables {
            self.grown |= !self.tables.contains_key(table);
            let readers = self.tables.entry(table.clone()).or_default();
            readers.queries.insert(query, *columns);
            let before = readers.columns;
            readers.columns.extend(*columns);
            self.grown |= readers.columns != before;
        }
    }

    pub(crate) fn set_grown(&mut self) {
        self.grown = true;
    }

    /// Whether [`interests`](Self::interests) are more than they were when this was last asked.
    pub(crate) fn take_grown(&mut self) -> bool {
        std::mem::take(&mut self.grown)
    }

    pub(crate) fn remove(&mut self, query: QueryId, plan: &Plan) {
        self.all.remove(&query);
        self.unwatched.remove(&query);
        for table in plan.tables.keys() {
            if let Some(readers) = self.tables.get_mut(table) {
                readers.queries.remove(&query);
                if readers.queries.is_empty() {
                    self.tables.remove(table);
                    // Nobody needs to be told of it, and the writer need not look.
                    self.grown = true;
                }
            }
        }
    }

    /// What has to be told for [`affected`](Self::affected) to leave nobody out.
    pub(crate) fn interests(&self) -> BTreeMap<Arc<str>, Interest> {
        let interest = |readers: &Readers| Interest { columns: readers.columns, images: Vec::new() };
        self.tables.iter().map(|(table, readers)| (table.clone(), interest(readers))).collect()
    }

    /// The queries whose results may have changed; all others have the same.
    pub(crate) fn affected(&self, changes: &Changes) -> FxHashSet<QueryId> {
        if changes.unknown {
            return self.all.clone();
        }
        let mut affected = self.unwatched.clone();
        for (table, changes) in &changes.tables {
            let Some(readers) = self.tables.get(table) else { continue };
            let (rows, columns) = summary(changes);
            let concerned = readers.queries.iter().filter(|(_, mask)| rows || mask.intersects(columns));
            affected.extend(concerned.map(|(query, _)| *query));
        }
        affected
    }
}

/// Whether rows came or went, and which columns of others changed.
fn summary(changes: &TableChanges) -> (bool, ColumnMask) {
    let beyond = changes.beyond.unwrap_or_default();
    changes.rows.iter().fold((beyond.rows, beyond.columns), |(rows, mut columns), row| {
        columns.extend(row.columns);
        (rows || row.old != row.new, columns)
    })
}
