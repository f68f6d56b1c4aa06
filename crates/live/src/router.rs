//! Which queries a commit may concern.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use opor_core::Value;
use opor_store::{Changes, ColumnMask, Image, Interest, RowChange, TableChanges};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::guard::{Anchor, Key, Kind, Mode, Seen, Slot};
use crate::index::{Intervals, Keys};
use crate::plan::Plan;

/// Names a query among those that are open; a later one may have the number of one that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct QueryId(pub(crate) u32);

/// Every query by what it depends on.
#[derive(Debug, Default)]
pub(crate) struct Router {
    tables: BTreeMap<Arc<str>, Readers>,
    /// Run after every commit.
    unwatched: FxHashSet<QueryId>,
    /// More has to be told than when it was last asked.
    grown: bool,
}

/// The queries that read a table.
#[derive(Debug, Default)]
struct Readers {
    /// Those that any row concerns, by the columns they read.
    open: FxHashMap<ColumnMask, FxHashSet<QueryId>>,
    /// Those that wait for rows in an index below.
    guarded: FxHashMap<ColumnMask, FxHashSet<QueryId>>,
    keys: FxHashMap<(Slot, Mode), Keys>,
    ranges: FxHashMap<(Slot, Kind), Intervals>,
    /// What all of them read, and some that have gone.
    columns: ColumnMask,
    /// The places of the columns that guards look at, and some that have gone.
    images: BTreeSet<usize>,
}

/// A query that reads a table, with the columns of it that it reads.
#[derive(Clone, Copy)]
struct Reader<'a> {
    query: QueryId,
    plan: &'a Plan,
    table: &'a str,
    columns: ColumnMask,
    parameters: &'a [Value],
}

/// What a query is, for its guards to be asked.
pub(crate) type Lookup<'a> = &'a dyn Fn(QueryId) -> Option<(&'a Plan, &'a [Value])>;

impl Router {
    pub(crate) fn add(&mut self, query: QueryId, plan: &Plan, parameters: &[Value]) {
        if plan.unwatched.is_some() {
            self.unwatched.insert(query);
        }
        for (table, columns) in &plan.tables {
            self.grown |= !self.tables.contains_key(table);
            let readers = self.tables.entry(table.clone()).or_default();
            self.grown |= readers.add(Reader { query, plan, table, columns: *columns, parameters });
        }
    }

    pub(crate) fn set_grown(&mut self) {
        self.grown = true;
    }

    /// Whether [`interests`](Self::interests) are more than they were when this was last asked.
    pub(crate) fn take_grown(&mut self) -> bool {
        std::mem::take(&mut self.grown)
    }

    pub(crate) fn remove(&mut self, query: QueryId, plan: &Plan, parameters: &[Value]) {
        self.unwatched.remove(&query);
        for (table, columns) in &plan.tables {
            let Some(readers) = self.tables.get_mut(table) else { continue };
            readers.remove(Reader { query, plan, table, columns: *columns, parameters });
            if readers.open.is_empty() && readers.guarded.is_empty() {
                self.tables.remove(table);
                // Nobody needs to be told of it, and the writer need not look.
                self.grown = true;
            }
        }
    }

    /// What has to be told for [`affected`](Self::affected) to leave nobody out.
    pub(crate) fn interests(&self) -> BTreeMap<Arc<str>, Interest> {
        let interest = |readers: &Readers| Interest {
            columns: readers.columns,
            images: readers.images.iter().copied().collect(),
        };
        self.tables.iter().map(|(table, readers)| (table.clone(), interest(readers))).collect()
    }

    /// The queries whose results may have changed; all others have the same. Not for changes of which some are unknown: they
    /// concern everybody.
    pub(crate) fn affected(&self, changes: &Changes, lookup: Lookup<'_>) -> FxHashSet<QueryId> {
        let mut affected = self.unwatched.clone();
        for (table, changes) in &changes.tables {
            let Some(readers) = self.tables.get(table) else { continue };
            let told = summary(changes);
            extend(&mut affected, &readers.open, told);
            if readers.guarded.is_empty() {
                continue;
            }
            if let Some(beyond) = changes.beyond {
                extend(&mut affected, &readers.guarded, (beyond.rows, beyond.columns));
            }
            for row in &changes.rows {
                readers.concerned(table, changes, row, lookup, &mut affected);
            }
        }
        affected
    }
}

/// Adds those that read what has changed.
fn extend(
    affected: &mut FxHashSet<QueryId>,
    readers: &FxHashMap<ColumnMask, FxHashSet<QueryId>>,
    (rows, columns): (bool, ColumnMask),
) {
    for (_, queries) in readers.iter().filter(|(mask, _)| rows || mask.intersects(columns)) {
        affected.extend(queries);
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

/// A row as it was or as it is.
#[derive(Clone, Copy)]
struct Side<'a> {
    rowid: Option<i64>,
    image: &'a Image,
    /// The places of the columns in the image.
    places: &'a [usize],
}

impl Seen for Side<'_> {
    fn value(&self, slot: Slot) -> Option<Cow<'_, Value>> {
        match slot {
            Slot::Rowid => self.rowid.map(|rowid| Cow::Owned(Value::Integer(rowid))),
            Slot::Place(place) => {
                let Image::Values(values) = self.image else { return None };
                // Not there when it was asked for after the row was written.
                let at = self.places.binary_search(&place).ok()?;
                values.get(at).map(Cow::Borrowed)
            }
        }
    }
}

impl Readers {
    /// Tells whether more has to be told than before.
    fn add(&mut self, reader: Reader<'_>) -> bool {
        let Reader { query, plan, table, columns, parameters } = reader;
        let before = (self.columns, self.images.len());
        self.columns.extend(columns);
        match plan.guards.anchors(table, parameters) {
            None => {
                self.open.entry(columns).or_default().insert(query);
            }
            Some(anchors) => {
                self.guarded.entry(columns).or_default().insert(query);
                anchors.into_iter().for_each(|anchor| self.wait(anchor, query));
                self.images.extend(plan.guards.images(table));
            }
        }
        (self.columns, self.images.len()) != before
    }

    fn wait(&mut self, anchor: Anchor, query: QueryId) {
        match anchor {
            Anchor::Equal { slot, mode, key } => {
                self.keys.entry((slot, mode)).or_default().insert(hash_of(key), query);
            }
            Anchor::Range { slot, kind, low, high } => {
                self.ranges.entry((slot, kind)).or_default().insert(low, high, query);
            }
        }
    }

    fn remove(&mut self, reader: Reader<'_>) {
        let Reader { query, plan, table, columns, parameters } = reader;
        let anchors = plan.guards.anchors(table, parameters);
        let readers = if anchors.is_some() { &mut self.guarded } else { &mut self.open };
        if let Some(queries) = readers.get_mut(&columns) {
            queries.remove(&query);
            if queries.is_empty() {
                readers.remove(&columns);
            }
        }
        for anchor in anchors.into_iter().flatten() {
            match anchor {
                Anchor::Equal { slot, mode, key } => {
                    if let Some(keys) = self.keys.get_mut(&(slot, mode)) {
                        keys.remove(hash_of(key), query);
                    }
                }
                Anchor::Range { slot, kind, low, high } => {
                    if let Some(ranges) = self.ranges.get_mut(&(slot, kind)) {
                        ranges.remove(low, high, query);
                    }
                }
            }
        }
    }

    /// Adds the guarded queries that a row may concern, as it was or as it is.
    fn concerned(
        &self,
        table: &str,
        changes: &TableChanges,
        row: &RowChange,
        lookup: Lookup<'_>,
        affected: &mut FxHashSet<QueryId>,
    ) {
        let moved = row.old != row.new;
        for (rowid, image) in [(row.old, &row.old_image), (row.new, &row.new_image)] {
            if *image == Image::Absent {
                continue;
            }
            let side = Side { rowid, image, places: &changes.images };
            self.each_waiting(&side, &mut |query| {
                if affected.contains(&query) {
                    return;
                }
                let concerns = lookup(query).is_none_or(|(plan, parameters)| {
                    let reads = plan.tables.get(table).is_none_or(|mask| mask.intersects(row.columns));
                    (moved || reads) && plan.guards.pass(table, parameters, &side)
                });
                if concerns {
                    affected.insert(query);
                }
            });
        }
    }

    /// Everybody who may be waiting for such a row, and some who are not.
    fn each_waiting(&self, row: &Side<'_>, found: &mut impl FnMut(QueryId)) {
        for ((slot, mode), keys) in &self.keys {
            match row.value(*slot).map(|value| mode.key(&value)) {
                None | Some(Key::Unsure) => keys.all(found),
                Some(key) => keys.find(hash_of(key), found),
            }
        }
        for ((slot, kind), ranges) in &self.ranges {
            match row.value(*slot) {
                Some(value) if *value == Value::Null => {}
                value => match value.and_then(|value| kind.place(&value)) {
                    Some(place) => ranges.find(place, found),
                    // How a value of another kind compares only SQLite says.
                    None => ranges.all(found),
                },
            }
        }
    }
}

/// `None` for NULL; guards that are unsure wait nowhere.
fn hash_of(key: Key) -> Option<u64> {
    match key {
        Key::Hash(hash) => Some(hash),
        Key::Null | Key::Unsure => None,
    }
}

#[cfg(test)]
mod tests;
