//! The replicated tables as they are in the schema now: columns, keys, and the ids that clocks use for them.

use std::rc::Rc;
use std::sync::Arc;

use opor_core::{Cid, PackedColumn, PackedKey, Value, ValueRef};
use rusqlite::Error;
use rustc_hash::FxHashMap;

use crate::checks::checks_of;
use crate::colset::ColSet;
use crate::conflict::CONFLICT_TABLE;
use crate::horizon::HORIZON_TABLE;
use crate::learnt::LEARNT_TABLE;
use crate::meta;
use crate::quarantine::QUARANTINE_TABLE;
use crate::sqlite::{Db, Stmt, quote};

/// A replicated table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) id: u32,
    pub(crate) name: Arc<str>,
    /// Its definition, which tells whether it is still as it was read.
    sql: Arc<str>,
    /// WITHOUT ROWID: rows are found by their key, not by a rowid.
    pub(crate) keyed: bool,
    /// The rowid is the primary key (`INTEGER PRIMARY KEY`).
    pub(crate) rowid_is_key: bool,
    /// A name for the rowid that no column hides; empty when there is none.
    pub(crate) rowid_name: &'static str,
    /// The key, in PRIMARY KEY order.
    pub(crate) key: Vec<KeyColumn>,
    /// What replicates besides the key, in table order.
    pub(crate) columns: Vec<Column>,
    /// The expressions of its CHECK constraints.
    pub(crate) checks: Vec<String>,
    /// Places in `columns` of those that need a value in every row.
    pub(crate) filled: Vec<usize>,
    /// The bits of all `columns`, or the sentinel's where there are none.
    pub(crate) all: ColSet,
    /// Every column of the table, generated ones included: what the preupdate hook counts.
    pub(crate) width: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyColumn {
    pub(crate) name: Arc<str>,
    pub(crate) ordinal: i32,
    affinity: Affinity,
}

impl KeyColumn {
    /// Whether a value is stored as it is; NULL is no part of a key.
    pub(crate) fn keeps(&self, value: ValueRef<'_>) -> bool {
        self.affinity.keeps(value)
    }
}

/// What a column does to the type of a value, by SQLite's rules for declared types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || declared.is_empty() || declared == "ANY" {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// Whether a value is stored as it is.
    fn keeps(self, value: ValueRef<'_>) -> bool {
        let whole = |real: f64| real.fract() == 0.0 && real.abs() < 9.3e18;
        match (self, value) {
            (_, ValueRef::Null) => false,
            (Self::Blob, _) | (_, ValueRef::Blob(_)) => true,
            (Self::Text, value) => matches!(value, ValueRef::Text(_)),
            (_, ValueRef::Text(text)) => text.trim().parse::<f64>().is_err(),
            (Self::Real, value) => matches!(value, ValueRef::Real(_)),
            (Self::Integer | Self::Numeric, ValueRef::Real(real)) => !whole(real),
            (Self::Integer | Self::Numeric, _) => true,
        }
    }

    /// The neutral value.
    fn filler(self) -> Value {
        match self {
            Self::Integer | Self::Numeric => Value::Integer(0),
            Self::Text => Value::Text(String::new()),
            Self::Blob => Value::Blob(Vec::new()),
            Self::Real => Value::Real(0.0),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: Arc<str>,
    /// Its bit in a [`ColSet`].
    pub(crate) bit: u32,
    pub(crate) ordinal: i32,
    /// Whether it stores some values as another type.
    pub(crate) converts: bool,
    /// What a row created without a value for a NOT NULL column without a default gets.
    pub(crate) filler: Option<Value>,
    /// What the table shows in place of a value that the column cannot hold.
    pub(crate) mask: Value,
    pub(crate) not_null: bool,
    /// The only type it holds, in a STRICT table.
    pub(crate) strict: Option<StrictType>,
    affinity: Affinity,
}

impl Column {
    /// Whether a value is stored as it is; `false` may be wrong.
    pub(crate) fn keeps(&self, value: ValueRef<'_>) -> bool {
        if value == ValueRef::Null { !self.not_null } else { self.affinity.keeps(value) }
    }
}

/// The types of STRICT tables, but ANY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StrictType {
    Integer,
    Real,
    Text,
    Blob,
}

impl StrictType {
    fn of(declared: &str) -> Option<Self> {
        match &*declared.to_ascii_uppercase() {
            "INT" | "INTEGER" => Some(Self::Integer),
            "REAL" => Some(Self::Real),
            "TEXT" => Some(Self::Text),
            "BLOB" => Some(Self::Blob),
            _ => None,
        }
    }
}

impl Table {
    pub(crate) fn column_by_bit(&self, bit: u32) -> Option<&Column> {
        self.columns.iter().find(|column| column.bit == bit)
    }

    fn is_recorded(&self, columns: &[(String, u32)]) -> bool {
        let same =
            |column: &Column| columns.iter().any(|(name, bit)| *bit == column.bit && **name == *column.name);
        columns.len() == self.columns.len() && self.columns.iter().all(same)
    }

    /// Whether a key has the shape of this table's: every column stores its value as it is.
    pub(crate) fn fits(&self, key: &PackedKey) -> bool {
        let kept = |(column, value): (&KeyColumn, PackedColumn<'_>)| match value {
            PackedColumn::Null => false,
            PackedColumn::Integer(value) => column.affinity.keeps(ValueRef::Integer(value)),
            _ if self.rowid_is_key => false,
            PackedColumn::Real(value) => column.affinity.keeps(ValueRef::Real(value)),
            PackedColumn::Text(_) if column.affinity == Affinity::Text => true,
            PackedColumn::Text(text) => {
                column.affinity.keeps(ValueRef::Text(std::str::from_utf8(text).unwrap_or_default()))
            }
            PackedColumn::Blob(bytes) => column.affinity.keeps(ValueRef::Blob(bytes)),
        };
        key.column_count() == self.key.len() && self.key.iter().zip(key.packed_columns()).all(kept)
    }

    /// Whether rows of another table of this name can be in this as they are, and their clocks beside them.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        !self.sql.is_empty()
            && self.sql == other.sql
            && self.columns == other.columns
            && self.key == other.key
    }

    /// Whether a column is made of others.
    pub(crate) fn has_generated(&self) -> bool {
        self.width as usize != self.key.len() + self.columns.len()
    }

    /// The table's name in SQL, so that no temporary table of the same name stands before it.
    pub(crate) fn sql_name(&self) -> String {
        format!("main.{}", quote(&self.name))
    }

    /// Places in `columns` of those that need a value in every row and are not among `places`.
    pub(crate) fn fillers<'t>(&'t self, places: &'t ColSet) -> impl Iterator<Item = usize> {
        self.filled.iter().copied().filter(|place| !places.contains(*place as u32))
    }

    pub(crate) fn clock_table(&self) -> String {
        format!("opor_clock_{}", self.id)
    }

    /// `"a" = ? AND "b" = ?` over the key.
    pub(crate) fn key_condition(&self) -> String {
        let terms: Vec<_> = self.key.iter().map(|column| format!("{} = ?", quote(&column.name))).collect();
        terms.join(" AND ")
    }

    pub(crate) fn key_list(&self) -> String {
        let names: Vec<_> = self.key.iter().map(|column| quote(&column.name)).collect();
        names.join(", ")
    }
}

/// All replicated tables. Cheap to clone; replaced when the schema moves.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) tables: Vec<Rc<Table>>,
    by_name: FxHashMap<Box<[u8]>, usize>,
    by_id: FxHashMap<u32, usize>,
    /// `PRAGMA schema_version` at which this was read.
    pub(crate) schema_version: i64,
    /// Columns that got an id, or lost theirs, and are not yet on record.
    pub(crate) unsaved: Vec<ColumnChange>,
    /// Tables on record that the schema no longer has.
    pub(crate) dropped: Vec<u32>,
    /// Tables that bear another name than the one on record.
    pub(crate) renamed: Vec<(u32, String)>,
    /// The definitions of guards, by table.
    guards: FxHashMap<u32, String>,
    /// Whether the log has ever been cut.
    pub(crate) compacted: bool,
    /// Whether there is a place for what others have forgotten.
    pub(crate) learns: bool,
    /// Whether something has ever been in quarantine.
    pub(crate) quarantines: bool,
    /// Whether a merge has ever broken a rule of a table.
    pub(crate) conflicts: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum ColumnChange {
    Added { table: u32, bit: u32, name: Arc<str>, renamed: bool },
    Retired { table: u32, bit: u32 },
}

impl Catalog {
    pub(crate) fn table(&self, name: &str) -> Option<&Rc<Table>> {
        self.table_by_bytes(name.as_bytes()).map(|(_, table)| table)
    }

    pub(crate) fn table_by_bytes(&self, name: &[u8]) -> Option<(usize, &Rc<Table>)> {
        self.by_name.get(name).map(|place| (*place, &self.tables[*place]))
    }

    pub(crate) fn table_by_id(&self, id: u32) -> Option<&Rc<Table>> {
        self.by_id.get(&id).map(|place| &self.tables[*place])
    }

    /// Whether the guard of a table covers all its columns.
    pub(crate) fn is_guarded(&self, table: &Table) -> bool {
        let mut columns: Vec<(i32, &str)> = table.key.iter().map(|key| (key.ordinal, &*key.name)).collect();
        columns.extend(table.columns.iter().map(|column| (column.ordinal, &*column.name)));
        columns.sort_unstable();
        let guard = meta::guard_sql(table.id, &table.name, columns.into_iter().map(|(_, name)| name));
        self.guards.get(&table.id).is_some_and(|made| made.strip_prefix("CREATE INDEX ") == Some(&guard))
    }

    /// Whether the record says all of this.
    pub(crate) fn is_recorded(&self) -> bool {
        self.unsaved.is_empty() && self.dropped.is_empty() && self.renamed.is_empty()
    }

    /// A catalog that must be read before it is used.
    pub(crate) fn unknown() -> Self {
        Self { schema_version: -1, ..Self::default() }
    }

    /// Reads the catalog as the current transaction sees it. What `previous` knows of tables that are as they were is
    /// taken over.
    pub(crate) fn load(db: Db, previous: &Self) -> Result<Self, Error> {
        let schema_version = db.integer("PRAGMA main.schema_version")?.unwrap_or(0);
        let mut catalog = Self { schema_version, ..Self::default() };
        let definitions = Definitions::read(db)?;
        catalog.compacted = definitions.tables.contains_key(HORIZON_TABLE);
        catalog.learns = definitions.tables.contains_key(LEARNT_TABLE);
        catalog.quarantines = definitions.tables.contains_key(QUARANTINE_TABLE);
        catalog.conflicts = definitions.tables.contains_key(CONFLICT_TABLE);
        let mut columns = recorded_columns(db)?;
        let mut shapes = ShapeReader::new(db)?;
        for (id, recorded) in meta::recorded_tables(db)? {
            let known = columns.remove(&id).unwrap_or_default();
            // A table is the one its guard stands on; it may bear another name by now.
            let Some((name, guard)) = definitions.guarded.get(&id) else {
                catalog.dropped.push(id);
                continue;
            };
            catalog.guards.insert(id, guard.clone());
            if *name != recorded {
                catalog.renamed.push((id, name.clone()));
            }
            let sql = definitions.tables.get(name).cloned().unwrap_or_default();
            let same = |table: &&Rc<Table>| table.sql == sql && table.is_recorded(&known.0);
            if let Some(table) = previous.table_by_id(id).filter(same) {
                catalog.add(table.clone());
                continue;
            }
            match shapes.read(name)? {
                Some(shape) if !shape.key.is_empty() => {
                    let table = shape.bind((id, sql), known, &mut catalog.unsaved);
                    catalog.add(Rc::new(table));
                }
                _ => catalog.dropped.push(id),
            }
        }
        Ok(catalog)
    }

    fn add(&mut self, table: Rc<Table>) {
        let place = self.tables.len();
        self.by_name.insert(table.name.as_bytes().into(), place);
        self.by_id.insert(table.id, place);
        self.tables.push(table);
    }
}

/// The schema, as far as it concerns replicated tables.
#[derive(Debug, Default)]
struct Definitions {
    /// The definition of each table, by name.
    tables: FxHashMap<String, Arc<str>>,
    /// By the number of a guard, the table it stands on and its definition.
    guarded: FxHashMap<u32, (String, String)>,
}

impl Definitions {
    fn read(db: Db) -> Result<Self, Error> {
        let mut stmt = db.prepare(
            "SELECT type, name, tbl_name, sql FROM main.sqlite_schema \
             WHERE type = 'table' OR (type = 'index' AND name GLOB 'opor_guard_[0-9]*')",
        )?;
        let mut rows = stmt.start();
        let mut definitions = Self::default();
        while rows.step()? {
            if rows.text(0)? == "table" {
                let sql = rows.text(3).map_or_else(|_| "".into(), Arc::from);
                definitions.tables.insert(rows.text(1)?.to_owned(), sql);
            } else if let Ok(id) = rows.text(1)?["opor_guard_".len()..].parse() {
                definitions.guarded.insert(id, (rows.text(2)?.to_owned(), rows.text(3)?.to_owned()));
            }
        }
        Ok(definitions)
    }
}

/// Per table the live columns on record, and the next free bit.
type Recorded = FxHashMap<u32, (Vec<(String, u32)>, u32)>;

fn recorded_columns(db: Db) -> Result<Recorded, Error> {
    let mut stmt = db.prepare("SELECT table_id, bit, name, live FROM opor_column ORDER BY table_id, bit")?;
    let mut rows = stmt.start();
    let mut columns = Recorded::default();
    while rows.step()? {
        let entry = columns.entry(rows.integer(0) as u32).or_default();
        let bit = rows.integer(1) as u32;
        entry.1 = entry.1.max(bit);
        if rows.integer(3) != 0 {
            entry.0.push((rows.text(2)?.to_owned(), bit));
        }
    }
    Ok(columns)
}

/// A table as `PRAGMA table_xinfo` describes it.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) key: Vec<KeyColumn>,
    pub(crate) key_nullable: bool,
    pub(crate) columns: Vec<ShapeColumn>,
    pub(crate) without_rowid: bool,
    pub(crate) rowid_is_key: bool,
    rowid_name: &'static str,
    width: i32,
    strict: bool,
}

#[derive(Debug)]
pub(crate) struct ShapeColumn {
    pub(crate) name: String,
    pub(crate) ordinal: i32,
    pub(crate) not_null: bool,
    pub(crate) has_default: bool,
    affinity: Affinity,
    strict: Option<StrictType>,
}

/// The statements that tell of tables, for reading many.
struct ShapeReader {
    table: Stmt,
    columns: Stmt,
    key_index: Stmt,
}

impl ShapeReader {
    fn new(db: Db) -> Result<Self, Error> {
        Ok(Self {
            table: db.prepare(
                "SELECT name, wr, strict FROM pragma_table_list(?) WHERE schema = 'main' AND type = 'table'",
            )?,
            columns: db.prepare(
                "SELECT cid, name, type, \"notnull\", dflt_value IS NOT NULL, pk, hidden \
                 FROM pragma_table_xinfo(?, 'main') ORDER BY cid",
            )?,
            key_index: db.prepare("SELECT 1 FROM pragma_index_list(?, 'main') WHERE origin = 'pk'")?,
        })
    }

    fn has_key_index(&mut self, table: &str) -> Result<bool, Error> {
        let mut row = self.key_index.start();
        row.bind_text(table)?;
        row.step()
    }

    fn read(&mut self, table: &str) -> Result<Option<Shape>, Error> {
        let mut rows = self.table.start();
        rows.bind_text(table)?;
        if !rows.step()? {
            return Ok(None);
        }
        let name = rows.text(0)?.to_owned();
        let (without_rowid, strict) = (rows.integer(1) != 0, rows.integer(2) != 0);
        drop(rows);
        let mut shape = Shape {
            name,
            key: Vec::new(),
            key_nullable: false,
            columns: Vec::new(),
            without_rowid,
            rowid_is_key: false,
            rowid_name: "",
            width: 0,
            strict,
        };
        shape.read_columns(self)?;
        Ok(Some(shape))
    }
}

impl Shape {
    /// `None` when there is no such table in the main database; views and virtual tables are not tables here.
    pub(crate) fn read(db: Db, table: &str) -> Result<Option<Self>, Error> {
        ShapeReader::new(db)?.read(table)
    }

    fn read_columns(&mut self, reader: &mut ShapeReader) -> Result<(), Error> {
        let mut rows = reader.columns.start();
        rows.bind_text(&self.name)?;
        let (mut key, mut names, mut key_type) = (Vec::new(), Vec::new(), String::new());
        while rows.step()? {
            self.width += 1;
            let name = rows.text(1)?.to_owned();
            names.push(name.to_ascii_lowercase());
            let ordinal = rows.integer(0) as i32;
            let (not_null, pk, hidden) = (rows.integer(3) != 0, rows.integer(5), rows.integer(6));
            if pk > 0 {
                rows.text(2)?.clone_into(&mut key_type);
                self.key_nullable |= !not_null && !self.without_rowid;
                let affinity = Affinity::of(rows.text(2)?);
                key.push((pk, KeyColumn { name: name.into(), ordinal, affinity }));
            } else if hidden == 0 {
                let affinity = Affinity::of(rows.text(2)?);
                let has_default = rows.integer(4) != 0;
                let strict = if self.strict { StrictType::of(rows.text(2)?) } else { None };
                self.columns.push(ShapeColumn { name, ordinal, not_null, has_default, affinity, strict });
            }
        }
        key.sort_by_key(|(place, _)| *place);
        self.key = key.into_iter().map(|(_, column)| column).collect();
        drop(rows);
        // `INTEGER PRIMARY KEY DESC` is an ordinary key with an index of its own.
        let single = self.key.len() == 1 && key_type.eq_ignore_ascii_case("INTEGER");
        self.rowid_is_key = !self.without_rowid && single && !reader.has_key_index(&self.name)?;
        let free = |alias: &&str| !names.iter().any(|name| name == alias);
        self.rowid_name = ["rowid", "_rowid_", "oid"].into_iter().find(free).unwrap_or("");
        Ok(())
    }

    /// Gives columns their ids: those on record keep theirs, new ones get the next.
    fn bind(
        self,
        (id, sql): (u32, Arc<str>),
        recorded: (Vec<(String, u32)>, u32),
        unsaved: &mut Vec<ColumnChange>,
    ) -> Table {
        let (live, mut last_bit) = recorded;
        let retired = |(name, _): &&(String, u32)| !self.columns.iter().any(|column| column.name == *name);
        let gone: Vec<u32> = live.iter().filter(retired).map(|(_, bit)| *bit).collect();
        let renamed = !gone.is_empty();
        unsaved.extend(gone.into_iter().map(|bit| ColumnChange::Retired { table: id, bit }));
        let mut all = ColSet::default();
        let mut columns = Vec::with_capacity(self.columns.len());
        for column in self.columns {
            let known = live.iter().find(|(name, _)| *name == column.name).map(|(_, bit)| *bit);
            let name: Arc<str> = column.name.into();
            let bit = known.unwrap_or_else(|| {
                last_bit += 1;
                unsaved.push(ColumnChange::Added { table: id, bit: last_bit, name: name.clone(), renamed });
                last_bit
            });
            all.insert(bit);
            let filler = (column.not_null && !column.has_default).then(|| column.affinity.filler());
            let converts = column.affinity != Affinity::Blob;
            let not_null = column.not_null;
            let mask = if not_null { column.affinity.filler() } else { Value::Null };
            let (ordinal, strict) = (column.ordinal, column.strict);
            let affinity = column.affinity;
            columns.push(Column { name, bit, ordinal, converts, filler, mask, not_null, strict, affinity });
        }
        if columns.is_empty() {
            all = ColSet::sentinel();
        }
        let filled = |(place, column): (usize, &Column)| column.filler.is_some().then_some(place);
        let filled = columns.iter().enumerate().filter_map(filled).collect();
        let checks = checks_of(&sql);
        Table {
            id,
            name: self.name.into(),
            sql,
            keyed: self.without_rowid,
            rowid_is_key: self.rowid_is_key,
            rowid_name: self.rowid_name,
            key: self.key,
            columns,
            checks,
            filled,
            all,
            width: self.width,
        }
    }

    /// Whether a column bears the name that sentinels travel under.
    pub(crate) fn has_sentinel_name(&self) -> bool {
        self.columns.iter().any(|column| column.name == Cid::SENTINEL)
    }

    pub(crate) fn has_rowid_name(&self) -> bool {
        !self.rowid_name.is_empty()
    }
}
