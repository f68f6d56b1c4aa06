//! Many changes, grouped by table and row: what is sent and applied as one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{CausalLength, Change, Cid, ColVersion, DbVersion, PackedKey, SiteId, Value};

/// Changes that travel and are applied together, grouped by row.
///
/// Names and sites are held once; rows point to them by index, and every index is in range. Within a row at most one
/// cell stands for a column. The order of rows is the order in which they were pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changeset {
    tables: Vec<TableHeader>,
    sites: Vec<SiteId>,
    rows: Vec<RowChange>,
}

/// A table that a [`Changeset`] mentions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableHeader {
    /// The table.
    pub name: Arc<str>,
    /// The columns that cells point to, in order of first mention; not the schema.
    pub columns: Vec<Arc<str>>,
}

/// What changed in one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// Index into [`Changeset::tables`].
    pub table: u32,
    /// The primary key.
    pub key: PackedKey,
    /// The causal length of the row on the sender.
    pub cl: CausalLength,
    /// The clock of the sentinel, when the row itself changed.
    pub sentinel: Option<Clock>,
    /// The cells that changed.
    pub cells: Vec<Cell>,
}

/// One cell of a [`RowChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Index into [`TableHeader::columns`].
    pub column: u32,
    /// The value.
    pub value: Value,
    /// When and by whom.
    pub clock: Clock,
}

/// When, where and by whom a cell was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The version of the cell; of a sentinel, the causal length it sets.
    pub col_version: ColVersion,
    /// The commit on the sender.
    pub db_version: DbVersion,
    /// The place within that commit.
    pub seq: u64,
    /// Index into [`Changeset::sites`].
    pub site: u32,
}

impl Changeset {
    /// An empty changeset.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it holds no change at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many changes it holds: rows of `crsql_changes`.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.iter().map(|row| row.cells.len() + usize::from(row.sentinel.is_some())).sum()
    }

    /// The tables mentioned.
    #[must_use]
    pub fn tables(&self) -> &[TableHeader] {
        &self.tables
    }

    /// The sites mentioned.
    #[must_use]
    pub fn sites(&self) -> &[SiteId] {
        &self.sites
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[RowChange] {
        &self.rows
    }

    /// The index of a table, adding it when it is new.
    pub fn table_index(&mut self, name: &str) -> u32 {
        let found = self.tables.iter().rposition(|table| &*table.name == name);
        found.unwrap_or_else(|| {
            self.tables.push(TableHeader { name: name.into(), columns: Vec::new() });
            self.tables.len() - 1
        }) as u32
    }

    /// The index of a column of a table, adding it when it is new.
    ///
    /// # Panics
    /// When `table` did not come from [`table_index`](Self::table_index) of this changeset.
    pub fn column_index(&mut self, table: u32, name: &str) -> u32 {
        let columns = &mut self.tables[table as usize].columns;
        let found = columns.iter().position(|column| &**column == name);
        found.unwrap_or_else(|| {
            columns.push(name.into());
            columns.len() - 1
        }) as u32
    }

    /// The index of a site, adding it when it is new.
    pub fn site_index(&mut self, site: SiteId) -> u32 {
        let found = self.sites.iter().rposition(|known| *known == site);
        found.unwrap_or_else(|| {
            self.sites.push(site);
            self.sites.len() - 1
        }) as u32
    }

    /// Appends a row.
    ///
    /// # Panics
    /// When an index in it is not from this changeset, or two cells are of one column.
    pub fn push_row(&mut self, row: RowChange) {
        let columns = self.tables[row.table as usize].columns.len();
        let sites = self.sites.len();
        let in_range = |clock: &Clock| (clock.site as usize) < sites;
        assert!(row.sentinel.iter().all(in_range), "a sentinel's site is of this changeset");
        assert!(
            row.cells.iter().all(|cell| (cell.column as usize) < columns && in_range(&cell.clock)),
            "a cell's column and site are of this changeset",
        );
        assert!(distinct_columns(&row.cells), "a row has one cell for a column");
        self.rows.push(row);
    }

    /// Appends one change. It joins the last row when that has the same table, key and causal length and holds
    /// nothing for the column yet; else it starts a row.
    pub fn push(&mut self, change: Change) {
        let table = self.table_index(&change.table);
        let site = self.site_index(change.site_id);
        let clock =
            Clock { col_version: change.col_version, db_version: change.db_version, seq: change.seq, site };
        let column = match &change.cid {
            Cid::Sentinel => None,
            Cid::Column(name) => Some(self.column_index(table, name)),
        };
        let joins = self.rows.last().is_some_and(|row| {
            row.table == table
                && row.cl == change.cl
                && row.key == change.pk
                && match column {
                    None => row.sentinel.is_none(),
                    Some(column) => row.cells.iter().all(|cell| cell.column != column),
                }
        });
        if !joins {
            self.rows.push(RowChange {
                table,
                key: change.pk,
                cl: change.cl,
                sentinel: None,
                cells: Vec::new(),
            });
        }
        let row = self.rows.last_mut().expect("a row was there or has just been pushed");
        match column {
            None => row.sentinel = Some(clock),
            Some(column) => row.cells.push(Cell { column, value: change.val, clock }),
        }
    }

    /// A changeset from parts that were checked where they were read: every index is in range, and names, sites and
    /// the columns of a row are distinct.
    pub(crate) const fn from_parts(
        tables: Vec<TableHeader>,
        sites: Vec<SiteId>,
        rows: Vec<RowChange>,
    ) -> Self {
        Self { tables, sites, rows }
    }

    /// The changes one by one: row by row, the sentinel of a row before its cells.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.rows.iter().flat_map(move |row| {
            let sentinel = row.sentinel.map(|clock| self.change(row, Cid::Sentinel, Value::Null, clock));
            let cells = row.cells.iter().map(move |cell| {
                let name = &self.tables[row.table as usize].columns[cell.column as usize];
                self.change(row, Cid::Column(name.clone()), cell.value.clone(), cell.clock)
            });
            sentinel.into_iter().chain(cells)
        })
    }

    fn change(&self, row: &RowChange, cid: Cid, val: Value, clock: Clock) -> Change {
        Change {
            table: self.tables[row.table as usize].name.clone(),
            pk: row.key.clone(),
            cid,
            val,
            col_version: clock.col_version,
            db_version: clock.db_version,
            site_id: self.sites[clock.site as usize],
            cl: row.cl,
            seq: clock.seq,
        }
    }
}

/// Whether no two cells are of one column; cells in the order of columns, the common case, take one pass.
fn distinct_columns(cells: &[Cell]) -> bool {
    cells.is_sorted_by(|a, b| a.column < b.column) || {
        let mut columns: Vec<u32> = cells.iter().map(|cell| cell.column).collect();
        columns.sort_unstable();
        columns.is_sorted_by(|a, b| a < b)
    }
}

/// Groups changes in any order by table and key; rows come in order of first mention. Of two changes to one cell at
/// one causal length both are kept, in two rows.
impl FromIterator<Change> for Changeset {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        let mut places: BTreeMap<(Arc<str>, PackedKey), usize> = BTreeMap::new();
        let mut groups: Vec<Vec<Change>> = Vec::new();
        for change in changes {
            let place = *places.entry((change.table.clone(), change.pk.clone())).or_insert_with(|| {
                groups.push(Vec::new());
                groups.len() - 1
            });
            groups[place].push(change);
        }
        let mut changeset = Self::new();
        groups.into_iter().flatten().for_each(|change| changeset.push(change));
        changeset
    }
}
