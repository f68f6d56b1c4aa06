//! cr-sqlite's clocks in a few maps: what `crsql_changes` must say, written from its rules and from nothing of ours.

use std::collections::BTreeMap;

use opor_core::{PackedKey, Value};

use crate::{ChangeRow, Filter, InsertMode, SHAPES, Shape, Statement};

/// A replica that keeps `Lamport` clocks the way cr-sqlite does.
#[derive(Clone, Debug)]
pub struct Model {
    site: Vec<u8>,
    tables: Vec<ModelTable>,
    db_version: i64,
    /// The version this transaction takes; not given back by ROLLBACK TO.
    pending: i64,
    /// Neither are the places within it.
    seq: i64,
    /// Whether a version is used up by a transaction that records nothing, as the genuine one does.
    burns_versions: bool,
    touched: bool,
    savepoints: Vec<Vec<ModelTable>>,
}

/// One table: its rows and what is known about every key ever seen.
#[derive(Clone, Debug, Default)]
struct ModelTable {
    rows: BTreeMap<Vec<u8>, ModelRow>,
    keys: BTreeMap<Vec<u8>, KeyClock>,
}

#[derive(Clone, Debug)]
struct ModelRow {
    key: Vec<Value>,
    rowid: i64,
    cells: Vec<Value>,
}

#[derive(Clone, Debug, Default)]
struct KeyClock {
    sentinel: Option<Clock>,
    cells: BTreeMap<usize, Clock>,
}

#[derive(Clone, Debug)]
struct Clock {
    col_version: i64,
    db_version: i64,
    seq: i64,
    site: Vec<u8>,
}

/// A statement that fails: its effects are undone, the numbers it used are not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl Model {
    /// An empty replica. `burns_versions` copies a fault of the genuine one: a transaction that records nothing still
    /// takes a version.
    #[must_use]
    pub fn new(site: &[u8], burns_versions: bool) -> Self {
        let tables = vec![ModelTable::default(); SHAPES.len()];
        let (db_version, pending, seq, touched) = (0, 0, 0, false);
        Self {
            site: site.to_vec(),
            tables,
            db_version,
            pending,
            seq,
            burns_versions,
            touched,
            savepoints: Vec::new(),
        }
    }

    /// `crsql_db_version()` outside a transaction.
    #[must_use]
    pub const fn db_version(&self) -> i64 {
        self.db_version
    }

    /// BEGIN.
    pub fn begin(&mut self) {
        self.savepoints = vec![self.tables.clone()];
        (self.pending, self.seq, self.touched) = (0, 0, false);
    }

    /// COMMIT.
    pub fn commit(&mut self) {
        let recorded = self.changes().iter().any(|row| row.db_version > self.db_version);
        if recorded || (self.burns_versions && self.touched) {
            self.db_version = self.pending;
        }
        self.savepoints.clear();
    }

    /// ROLLBACK.
    ///
    /// # Panics
    /// Outside a transaction.
    pub fn rollback(&mut self) {
        self.tables = self.savepoints.swap_remove(0);
        self.savepoints.clear();
    }

    /// SAVEPOINT.
    pub fn savepoint(&mut self) {
        self.savepoints.push(self.tables.clone());
    }

    /// ROLLBACK TO the innermost savepoint, which stays.
    ///
    /// # Panics
    /// Outside a transaction.
    pub fn rollback_to(&mut self) {
        self.tables = self.savepoints.last().expect("a savepoint is open").clone();
    }

    /// RELEASE of the innermost savepoint.
    pub fn release(&mut self) {
        self.savepoints.pop();
    }

    /// Runs one statement inside the open transaction.
    ///
    /// # Errors
    /// [`Refused`] when a key exists already or a NOT NULL column gets NULL.
    pub fn execute(&mut self, statement: &Statement) -> Result<(), Refused> {
        let before = self.tables.clone();
        let outcome = match statement {
            Statement::Insert { shape, mode, rows } => {
                rows.iter().try_for_each(|(key, cells)| self.insert(*shape, mode, key, cells))
            }
            Statement::Update { shape, filter, set } => {
                self.update_rows(*shape, filter, |key| key.to_vec(), set, false)
            }
            Statement::Move { shape, from, to, replace, set } => {
                self.update_rows(*shape, &Filter::Key(from.clone()), |_| to.clone(), set, *replace)
            }
            Statement::Shift { shape, filter, key, by } => {
                let shift = |old: &[Value]| shifted(old, *key, *by);
                self.update_rows(*shape, filter, shift, &[], false)
            }
            Statement::Delete { shape, filter } => {
                for key in self.matching(*shape, filter) {
                    self.delete(*shape, &key);
                }
                Ok(())
            }
        };
        if outcome.is_err() {
            self.tables = before;
        }
        outcome
    }

    /// The rows of a table: key and columns.
    pub fn rows(&self, shape: usize) -> impl Iterator<Item = (&[Value], &[Value])> {
        self.tables[shape].rows.values().map(|row| (&row.key[..], &row.cells[..]))
    }

    /// `crsql_changes`, listed by version, place, table, key and column.
    #[must_use]
    pub fn changes(&self) -> Vec<ChangeRow> {
        let mut changes = Vec::new();
        for (shape, table) in SHAPES.iter().zip(&self.tables) {
            for (pk, known) in &table.keys {
                let cl = known.cl();
                if let Some(clock) = &known.sentinel {
                    changes.push(clock.row(shape, pk, "-1", Value::Null, cl));
                }
                for (column, clock) in &known.cells {
                    let val = table.rows[pk].cells[*column].clone();
                    changes.push(clock.row(shape, pk, shape.columns[*column], val, cl));
                }
            }
        }
        changes.sort_by_cached_key(ChangeRow::log_order);
        changes
    }

    /// Merges one change inside the open transaction; `cid` is a known column or the sentinel, `cl` at least 1.
    ///
    /// # Panics
    /// When the table or column is unknown or the key malformed.
    pub fn apply(&mut self, change: &ChangeRow) {
        let shape = SHAPES.iter().position(|shape| shape.name == change.table).expect("a known table");
        let cl = self.tables[shape].keys.get(&change.pk).map_or(0, KeyClock::cl);
        if change.cl < cl || change.cl <= 0 {
            return;
        }
        if change.cl % 2 == 0 {
            if change.cl > cl {
                let clock = self.merged(change, change.col_version);
                self.tables[shape].rows.remove(&change.pk);
                *self.known(shape, &change.pk) = KeyClock { sentinel: Some(clock), cells: BTreeMap::new() };
            }
            return;
        }
        if change.is_sentinel() {
            if change.cl > cl {
                self.create(shape, change, change.col_version);
            }
            return;
        }
        let column = SHAPES[shape].column(&change.cid).expect("a known column");
        if change.cl > cl && (cl > 0 || change.cl > 1) {
            self.create(shape, change, change.cl);
        } else if change.cl == cl && !self.wins(shape, column, change) {
            return;
        }
        self.ensure_row(shape, &change.pk);
        let clock = self.merged(change, change.col_version);
        self.known(shape, &change.pk).cells.insert(column, clock);
        let row = self.tables[shape].rows.get_mut(&change.pk).expect("the row exists");
        row.cells[column] = change.val.clone();
    }

    fn wins(&self, shape: usize, column: usize, change: &ChangeRow) -> bool {
        let table = &self.tables[shape];
        let Some(clock) = table.keys[&change.pk].cells.get(&column) else {
            return true;
        };
        let mine = &table.rows[&change.pk].cells[column];
        match change.col_version.cmp(&clock.col_version) {
            std::cmp::Ordering::Equal => change.val.as_ref().merge_cmp(mine.as_ref()).is_gt(),
            order => order.is_gt(),
        }
    }

    /// The row is created, or goes through a delete that was missed: its clocks are zeroed, its values stay.
    fn create(&mut self, shape: usize, change: &ChangeRow, col_version: i64) {
        self.ensure_row(shape, &change.pk);
        let clock = self.merged(change, col_version);
        let known = self.known(shape, &change.pk);
        for cell in known.cells.values_mut() {
            (cell.col_version, cell.db_version) = (0, clock.db_version);
        }
        known.sentinel = Some(clock);
    }

    fn ensure_row(&mut self, shape: usize, pk: &[u8]) {
        if !self.tables[shape].rows.contains_key(pk) {
            let key = PackedKey::from_bytes(pk).expect("a well-formed key").unpack();
            let row = ModelRow { rowid: self.next_rowid(shape, &key), key, cells: SHAPES[shape].defaults() };
            self.tables[shape].rows.insert(pk.to_vec(), row);
        }
    }

    fn merged(&mut self, change: &ChangeRow, col_version: i64) -> Clock {
        self.pending = self.next_version().max(change.db_version);
        let site = change.site_id.clone().unwrap_or_else(|| self.site.clone());
        Clock { col_version, db_version: self.pending, seq: change.seq, site }
    }

    fn next_version(&self) -> i64 {
        self.pending.max(self.db_version + 1)
    }

    fn known(&mut self, shape: usize, pk: &[u8]) -> &mut KeyClock {
        self.tables[shape].keys.entry(pk.to_vec()).or_default()
    }

    /// The clock of a local write, and the place it takes.
    fn local(&mut self, col_version: i64) -> Clock {
        self.pending = self.next_version();
        self.touched = true;
        self.seq += 1;
        Clock { col_version, db_version: self.pending, seq: self.seq - 1, site: self.site.clone() }
    }

    fn insert(
        &mut self,
        shape: usize,
        mode: &InsertMode,
        key: &[Value],
        cells: &[Value],
    ) -> Result<(), Refused> {
        let breaks_not_null = refused(shape, cells.iter().enumerate());
        if breaks_not_null {
            // IGNORE skips such a row; REPLACE puts the default in place of NULL.
            match mode {
                InsertMode::Ignore => return Ok(()),
                InsertMode::Replace => {}
                InsertMode::Plain | InsertMode::Upsert(_) => return Err(Refused),
            }
        }
        let pk = packed(key);
        let exists = self.tables[shape].rows.contains_key(&pk);
        match (mode, exists) {
            (InsertMode::Plain, true) => return Err(Refused),
            (InsertMode::Ignore, true) => return Ok(()),
            (InsertMode::Upsert(columns), true) => {
                let set: Vec<_> = columns.iter().map(|i| (*i, Some(cells[*i].clone()))).collect();
                return self.update_row(shape, &pk, key, &set, false);
            }
            _ => {}
        }
        let rowid = self.next_rowid(shape, key);
        let filled = cells.iter().zip(SHAPES[shape].defaults());
        let cells =
            filled.map(|(cell, default)| if *cell == Value::Null { default } else { cell.clone() }).collect();
        self.tables[shape].rows.insert(pk.clone(), ModelRow { key: key.to_vec(), rowid, cells });
        self.record_insert(shape, &pk);
        Ok(())
    }

    fn record_insert(&mut self, shape: usize, pk: &[u8]) {
        let seen = self.tables[shape].keys.contains_key(pk);
        let columns = SHAPES[shape].columns.len();
        if seen || columns == 0 {
            self.record_creation(shape, pk, columns == 0);
        }
        for column in 0..columns {
            self.record_cell(shape, pk, column);
        }
    }

    /// A sentinel that is there becomes the next odd number; a missing one becomes 1 where it must exist.
    fn record_creation(&mut self, shape: usize, pk: &[u8], required: bool) {
        let old = self.known(shape, pk).sentinel.as_ref().map(|clock| clock.col_version);
        let clock = self.local(old.map_or(1, |version| version + 1 + version % 2));
        if old.is_some() || required {
            self.known(shape, pk).sentinel = Some(clock);
        }
    }

    fn record_cell(&mut self, shape: usize, pk: &[u8], column: usize) {
        let old = self.known(shape, pk).cells.get(&column).map_or(0, |clock| clock.col_version);
        let clock = self.local(old + 1);
        self.known(shape, pk).cells.insert(column, clock);
    }

    fn record_deletion(&mut self, shape: usize, pk: &[u8]) {
        let old = self.known(shape, pk).sentinel.as_ref().map_or(1, |clock| clock.col_version);
        let clock = self.local(old + 1);
        self.known(shape, pk).sentinel = Some(clock);
    }

    fn delete(&mut self, shape: usize, pk: &[u8]) {
        self.tables[shape].rows.remove(pk);
        self.record_deletion(shape, pk);
        self.known(shape, pk).cells.clear();
    }

    fn update_rows(
        &mut self,
        shape: usize,
        filter: &Filter,
        new_key: impl Fn(&[Value]) -> Vec<Value>,
        set: &[(usize, Option<Value>)],
        replace: bool,
    ) -> Result<(), Refused> {
        for pk in self.matching(shape, filter) {
            let key = new_key(&self.tables[shape].rows[&pk].key);
            self.update_row(shape, &pk, &key, set, replace)?;
        }
        Ok(())
    }

    fn update_row(
        &mut self,
        shape: usize,
        pk: &[u8],
        key: &[Value],
        set: &[(usize, Option<Value>)],
        replace: bool,
    ) -> Result<(), Refused> {
        let given = set.iter().filter_map(|(column, value)| Some((*column, value.as_ref()?)));
        if refused(shape, given) && !replace {
            return Err(Refused);
        }
        let new_pk = packed(key);
        let moves = new_pk != pk;
        if moves && self.tables[shape].rows.contains_key(&new_pk) && !replace {
            return Err(Refused);
        }
        (self.pending, self.touched) = (self.next_version(), true);
        if moves {
            self.move_row(shape, pk, &new_pk, key);
        }
        let defaults = SHAPES[shape].defaults();
        for (column, value) in set {
            let Some(value) = value else { continue };
            let value = if *value == Value::Null { &defaults[*column] } else { value };
            let row = self.tables[shape].rows.get_mut(&new_pk).expect("the row exists");
            if row.cells[*column] != *value {
                row.cells[*column] = value.clone();
                self.record_cell(shape, &new_pk, *column);
            }
        }
        Ok(())
    }

    /// The old key is deleted; the clocks of the columns move, unchanged, to the new one, which is created.
    fn move_row(&mut self, shape: usize, pk: &[u8], new_pk: &[u8], key: &[Value]) {
        let mut row = self.tables[shape].rows.remove(pk).expect("the row exists");
        row.key = key.to_vec();
        row.rowid = rowid_key(&SHAPES[shape], key).unwrap_or(row.rowid);
        self.tables[shape].rows.insert(new_pk.to_vec(), row);
        self.record_deletion(shape, pk);
        let moved = std::mem::take(&mut self.known(shape, pk).cells);
        self.known(shape, new_pk).cells.extend(moved);
        self.record_creation(shape, new_pk, true);
    }

    /// The keys a filter matches, in the order a scan meets them.
    fn matching(&self, shape: usize, filter: &Filter) -> Vec<Vec<u8>> {
        let matches = |row: &ModelRow| match filter {
            Filter::All => true,
            Filter::Key(key) => row.key == *key,
            Filter::From(least) => row.key[0].as_ref().merge_cmp(least.as_ref()).is_ge(),
        };
        let mut found: Vec<_> = self.tables[shape].rows.iter().filter(|(_, row)| matches(row)).collect();
        found.sort_by(|(_, a), (_, b)| {
            a.rowid.cmp(&b.rowid).then_with(|| a.key[0].as_ref().merge_cmp(b.key[0].as_ref()))
        });
        found.into_iter().map(|(pk, _)| pk.clone()).collect()
    }

    /// The rowid of a new row; 0 for every row of a table that has none.
    fn next_rowid(&self, shape: usize, key: &[Value]) -> i64 {
        let newest = self.tables[shape].rows.values().map(|row| row.rowid).max().unwrap_or(0);
        rowid_key(&SHAPES[shape], key).unwrap_or(newest + 1)
    }
}

impl KeyClock {
    fn cl(&self) -> i64 {
        let alive = i64::from(!self.cells.is_empty());
        self.sentinel.as_ref().map_or(alive, |clock| clock.col_version)
    }
}

impl Clock {
    fn row(&self, shape: &Shape, pk: &[u8], cid: &str, val: Value, cl: i64) -> ChangeRow {
        ChangeRow {
            table: shape.name.to_owned(),
            pk: pk.to_vec(),
            cid: cid.to_owned(),
            val,
            col_version: self.col_version,
            db_version: self.db_version,
            site_id: Some(self.site.clone()),
            cl,
            seq: self.seq,
        }
    }
}

fn packed(key: &[Value]) -> Vec<u8> {
    PackedKey::pack(key).as_bytes().to_vec()
}

fn rowid_key(shape: &Shape, key: &[Value]) -> Option<i64> {
    match (shape.clustered, &key[0]) {
        (false, _) => None,
        (true, Value::Integer(id)) => Some(*id),
        (true, _) => Some(0),
    }
}

fn shifted(key: &[Value], column: usize, by: i64) -> Vec<Value> {
    let mut key = key.to_vec();
    if let Value::Integer(old) = &mut key[column] {
        *old += by;
    }
    key
}

fn refused<'a>(shape: usize, cells: impl IntoIterator<Item = (usize, &'a Value)>) -> bool {
    let defaults = SHAPES[shape].defaults();
    cells.into_iter().any(|(column, value)| *value == Value::Null && defaults[column] != Value::Null)
}
