//! The preupdate hook: notes every write to a replicated table, as SQLite makes it.
#![expect(unsafe_code, reason = "SQLite's hooks are C callbacks")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use opor_core::{PackedKey, ValueRef};
use rusqlite::ffi;

use crate::catalog::Table;
use crate::colset::ColSet;
use crate::engine::Engine;
use crate::notes::{KeysFull, Note, Notes, Span};
use crate::sqlite::{Db, RawValue};

/// Installs the hook. It must be done before anything is prepared: a statement prepared earlier may take shortcuts
/// that raise no event.
///
/// # Safety
/// `engine` outlives the connection.
pub(crate) unsafe fn install(db: Db, engine: *const Engine) {
    // SAFETY: the handle is open; the engine outlives it by the caller's promise.
    unsafe { ffi::sqlite3_preupdate_hook(db.0, Some(on_change), engine.cast_mut().cast::<c_void>()) };
}

unsafe extern "C" fn on_change(
    engine: *mut c_void,
    _db: *mut ffi::sqlite3,
    op: c_int,
    database: *const c_char,
    table: *const c_char,
    old_row: i64,
    new_row: i64,
) {
    // SAFETY: `install` was given an engine that outlives the connection.
    let engine = unsafe { &*engine.cast::<Engine>() };
    if !engine.captures() {
        return;
    }
    // SAFETY: SQLite hands over NUL-terminated names.
    let (database, name) = unsafe { (CStr::from_ptr(database), CStr::from_ptr(table)) };
    if database != c"main" || name.to_bytes().starts_with(b"opor_") {
        return;
    }
    if let Err(fault) = on_write(engine, op, name, old_row, new_row) {
        engine.fault.borrow_mut().get_or_insert(fault);
    }
}

fn on_write(engine: &Engine, op: c_int, name: &CStr, old_row: i64, new_row: i64) -> Result<(), String> {
    let message = |error: rusqlite::Error| format!("a write to a replicated table was not recorded: {error}");
    engine.enlist().map_err(message)?;
    let mut catalog = engine.catalog.borrow().clone();
    let Some((_, mut table)) = catalog.table_by_bytes(name.to_bytes()) else { return Ok(()) };
    let event = Event { db: engine.db, table, old_row, new_row };
    if event.width() != table.width {
        // The table was altered earlier in this transaction.
        engine.load_catalog().map_err(message)?;
        catalog = engine.catalog.borrow().clone();
        let Some((_, altered)) = catalog.table_by_bytes(name.to_bytes()) else { return Ok(()) };
        table = altered;
    }
    let event = Event { db: engine.db, table, old_row, new_row };
    let keyed_inserts = match op {
        ffi::SQLITE_INSERT => {
            let mut clocks = engine.clocks.borrow_mut();
            table.keyed || engine.keys_matter.get() || clocks.tombs_possible(table.id).map_err(message)?
        }
        _ => {
            if op == ffi::SQLITE_DELETE {
                engine.keys_matter.set(true);
            }
            false
        }
    };
    let mut notes = engine.notes.borrow_mut();
    let noted = match op {
        ffi::SQLITE_INSERT if !keyed_inserts => {
            notes.push_insert(table.id, new_row);
            Ok(())
        }
        ffi::SQLITE_INSERT => event.insert(&mut notes, || engine.recursive_triggers()),
        ffi::SQLITE_DELETE => event.delete(&mut notes),
        _ => event.update(&mut notes, || engine.keys_matter.set(true)),
    };
    noted.map_err(|fault| fault.0)
}

/// Why a write could not be noted.
struct Fault(String);

impl From<KeysFull> for Fault {
    fn from(_: KeysFull) -> Self {
        Self("one transaction wrote more than 4 GiB of primary keys".to_owned())
    }
}

#[derive(Clone, Copy)]
enum Side {
    Old,
    New,
}

/// The change that the hook is being told of.
#[derive(Clone, Copy)]
struct Event<'a> {
    db: Db,
    table: &'a Table,
    old_row: i64,
    new_row: i64,
}

impl Event<'_> {
    fn width(&self) -> c_int {
        // SAFETY: called from within the hook.
        unsafe { ffi::sqlite3_preupdate_count(self.db.0) }
    }

    fn value(&self, side: Side, ordinal: c_int) -> Result<RawValue, Fault> {
        let mut value = ptr::null_mut();
        // SAFETY: called from within the hook, for a side that this kind of change has.
        let code = unsafe {
            match side {
                Side::Old => ffi::sqlite3_preupdate_old(self.db.0, ordinal, &raw mut value),
                Side::New => ffi::sqlite3_preupdate_new(self.db.0, ordinal, &raw mut value),
            }
        };
        if code == ffi::SQLITE_OK && !value.is_null() {
            Ok(RawValue(value))
        } else {
            Err(Fault(format!("table {}: SQLite did not tell a value that was written", self.table.name)))
        }
    }

    fn key(&self, notes: &mut Notes, side: Side) -> Result<Span, Fault> {
        notes.keep_key(|out| {
            PackedKey::begin(self.table.key.len(), out);
            if self.table.rowid_is_key {
                let row = if matches!(side, Side::Old) { self.old_row } else { self.new_row };
                PackedKey::pack_column(ValueRef::Integer(row), out);
                return Ok(());
            }
            for column in &self.table.key {
                let raw = self.value(side, column.ordinal)?;
                // SAFETY: the value lives while the hook runs, and is copied here.
                let value = unsafe { raw.get() };
                let value = value.map_err(|error| Fault(format!("table {}: {error}", self.table.name)))?;
                PackedKey::pack_column(value, out);
            }
            Ok(())
        })
    }

    fn insert(&self, notes: &mut Notes, recursive_triggers: impl Fn() -> bool) -> Result<(), Fault> {
        let key = self.key(notes, Side::New)?;
        let (table, row) = (self.table.id, self.new_row);
        let replaced = if matches!(notes.log.last(), Some(Note::Delete { .. })) && !recursive_triggers() {
            notes.take_replaced(table, key, self.db.total_changes())
        } else {
            None
        };
        notes.log.push(match replaced {
            Some(old) => Note::Replace { table, old, row, key },
            None => Note::Insert { table, row, key },
        });
        Ok(())
    }

    fn delete(&self, notes: &mut Notes) -> Result<(), Fault> {
        let key = self.key(notes, Side::Old)?;
        let statement = self.db.total_changes();
        // SAFETY: called from within the hook.
        let blob_column = unsafe { ffi::sqlite3_preupdate_blobwrite(self.db.0) };
        if blob_column >= 0 {
            let column = self.table.columns.iter().find(|column| column.ordinal == blob_column);
            if let Some(column) = column {
                self.push_update(notes, ColSet::one(column.bit), key);
            }
            return Ok(());
        }
        notes.log.push(Note::Delete { table: self.table.id, row: self.old_row, key, statement });
        Ok(())
    }

    fn push_update(&self, notes: &mut Notes, cols: ColSet, key: Span) {
        if self.table.keyed {
            let note = Note::Updates { table: self.table.id, first: 0, count: 1, cols, key };
            notes.log.push(note);
        } else {
            notes.push_update(self.table.id, self.old_row, cols);
        }
    }

    fn changed(&self, ordinal: c_int) -> Result<bool, Fault> {
        let (old, new) = (self.value(Side::Old, ordinal)?, self.value(Side::New, ordinal)?);
        // SAFETY: both values live while the hook runs.
        Ok(unsafe { !old.same(new) })
    }

    fn update(&self, notes: &mut Notes, deletes: impl Fn()) -> Result<(), Fault> {
        let table = self.table;
        let mut cols = ColSet::default();
        for column in &table.columns {
            if self.changed(column.ordinal)? {
                cols.insert(column.bit);
            }
        }
        let mut moved = false;
        if table.rowid_is_key {
            moved = self.old_row != self.new_row;
        } else {
            for column in &table.key {
                moved |= self.changed(column.ordinal)?;
            }
        }
        if moved || (self.old_row != self.new_row && !table.keyed) {
            deletes();
            return self.moved(notes, cols);
        }
        if cols.is_empty() {
            return Ok(());
        }
        if table.keyed {
            let key = self.key(notes, Side::Old)?;
            self.push_update(notes, cols, key);
        } else {
            self.push_update(notes, cols, Span::default());
        }
        Ok(())
    }

    fn moved(&self, notes: &mut Notes, cols: ColSet) -> Result<(), Fault> {
        let old_key = self.key(notes, Side::Old)?;
        let key = self.key(notes, Side::New)?;
        let (table, old, row) = (self.table.id, self.old_row, self.new_row);
        if notes.key(old_key) == notes.key(key) {
            notes.log.push(Note::Relocate { table, old, row, cols });
            return Ok(());
        }
        let replaced = notes.take_replaced(table, key, self.db.total_changes());
        notes.log.push(Note::Move { table, old, old_key, row, key, replaced, cols });
        Ok(())
    }
}
