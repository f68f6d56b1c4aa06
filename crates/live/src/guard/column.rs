//! What a table's columns are like, as far as guards need to know.
#![expect(unsafe_code, reason = "only a C function tells the collation of a column")]

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::Arc;

use opor_store::Store;
use opor_store::rusqlite::{Error, OptionalExtension, ffi};

/// How SQLite converts what is compared with a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Affinity {
    /// Nothing is converted.
    Blob,
    /// To text.
    Text,
    /// To a number, if it looks like one: INTEGER, REAL and NUMERIC.
    Numeric,
}

/// Where the value of a column is found in a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Slot {
    /// It is the rowid.
    Rowid,
    /// In the images, under its place in the table.
    Place(usize),
}

/// A column, or the rowid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) slot: Slot,
    pub(crate) name: Arc<str>,
    pub(crate) affinity: Affinity,
    /// Its texts are in the order of their bytes.
    pub(crate) binary: bool,
}

/// A table that is stored.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// As in the schema.
    pub(crate) name: Arc<str>,
    /// Its columns by name, in their order; those that cannot be in a guard have none.
    columns: Vec<(Arc<str>, Option<Column>)>,
    has_rowid: bool,
}

/// Names of the rowid, where no column has them.
const ROWIDS: [&str; 3] = ["rowid", "_rowid_", "oid"];

impl Table {
    /// The table of a name; `None` when it is none that is stored, or not of a kind that guards know.
    ///
    /// # Errors
    /// Of SQLite, when the schema cannot be read.
    pub(crate) fn named(store: &Store, name: &str) -> Result<Option<Self>, Error> {
        let Some((name, without_rowid, strict)) = store
            .prepare_cached(
                "SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND lower(name) = lower(?)",
            )?
            .query_row([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, bool>(1)?, row.get::<_, bool>(2)?)))
            .optional()?
        else {
            return Ok(None);
        };
        let by_bytes: bool = store
            .prepare_cached("SELECT encoding = 'UTF-8' FROM pragma_encoding")?
            .query_row([], |row| row.get(0))?;
        let alias = rowid_alias(store, &name, without_rowid)?;
        let mut stmt = store
            .prepare_cached("SELECT name, type, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid")?;
        let mut rows = stmt.query([&name])?;
        let mut columns = Vec::new();
        while let Some(row) = rows.next()? {
            let (column, declared, hidden): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let place = columns.len();
            let slot = if alias == Some(place) { Slot::Rowid } else { Slot::Place(place) };
            let column: Arc<str> = column.into();
            let known = match collation(store, &name, &column).as_deref() {
                // Computed from others, or hidden.
                _ if hidden != 0 => None,
                Some(collation @ ("BINARY" | "NOCASE" | "RTRIM")) => Some(Column {
                    slot,
                    name: column.clone(),
                    affinity: affinity(&declared, strict),
                    binary: by_bytes && collation == "BINARY",
                }),
                // Of the application: what is equal there nobody else knows.
                _ => None,
            };
            columns.push((column, known));
        }
        Ok(Some(Self { name: name.into(), columns, has_rowid: !without_rowid }))
    }

    /// Whether there is a column of this name, guarded or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|(column, _)| column.eq_ignore_ascii_case(name))
    }

    /// The column of a name, or the rowid; `None` when no guard can be made of it.
    pub(crate) fn column(&self, name: &str) -> Option<Column> {
        if let Some((_, column)) = self.columns.iter().find(|(column, _)| column.eq_ignore_ascii_case(name)) {
            return column.clone();
        }
        let is_rowid = self.has_rowid && is_rowid(name);
        is_rowid.then(|| Column {
            slot: Slot::Rowid,
            name: "rowid".into(),
            affinity: Affinity::Numeric,
            binary: false,
        })
    }
}

/// Whether a name stands for the rowid where there is no such column.
pub(crate) fn is_rowid(name: &str) -> bool {
    ROWIDS.iter().any(|rowid| rowid.eq_ignore_ascii_case(name))
}

/// The place of the column that is another name for the rowid.
fn rowid_alias(store: &Store, table: &str, without_rowid: bool) -> Result<Option<usize>, Error> {
    if without_rowid {
        return Ok(None);
    }
    // A primary key that is no alias has an index of its own, also `INTEGER PRIMARY KEY DESC`.
    let indexed = store
        .prepare_cached("SELECT 1 FROM pragma_index_list(?, 'main') WHERE origin = 'pk'")?
        .exists([table])?;
    if indexed {
        return Ok(None);
    }
    let place = store
        .prepare_cached("SELECT cid FROM pragma_table_xinfo(?, 'main') WHERE pk > 0")?
        .query_row([table], |row| row.get::<_, u32>(0))
        .optional()?;
    Ok(place.map(|place| place as usize))
}

/// The affinity of a declared type; see "Determination Of Column Affinity" in SQLite's documentation.
fn affinity(declared: &str, strict: bool) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |part: &str| declared.contains(part);
    if has("INT") {
        Affinity::Numeric
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        Affinity::Text
    } else if has("BLOB") || declared.is_empty() || (strict && declared == "ANY") {
        Affinity::Blob
    } else {
        Affinity::Numeric
    }
}

/// The collation of a column, in upper case.
fn collation(store: &Store, table: &str, column: &str) -> Option<String> {
    let (table, column) = (CString::new(table).ok()?, CString::new(column).ok()?);
    let mut collation: *const c_char = ptr::null();
    // SAFETY: the handle is open, the names end in NUL, and SQLite writes to the one place it is given.
    let code = unsafe {
        ffi::sqlite3_table_column_metadata(
            store.handle(),
            c"main".as_ptr(),
            table.as_ptr(),
            column.as_ptr(),
            ptr::null_mut(),
            &raw mut collation,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    if code != ffi::SQLITE_OK || collation.is_null() {
        return None;
    }
    // SAFETY: SQLite gave a NUL-terminated name, which lives until the schema changes.
    let name = unsafe { CStr::from_ptr(collation) };
    Some(name.to_str().ok()?.to_ascii_uppercase())
}
