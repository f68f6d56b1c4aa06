//! The preupdate hook: notes every write to a replicated table, as SQLite makes it.
#![expect(unsafe_code, reason = "SQLite's hooks are C callbacks")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::rc::Rc;

use opor_core::{PackedKey, ValueRef};
use rusqlite::ffi;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::catalog::Table;
use crate::colset::ColSet;
use crate::engine::Engine;
use crate::notes::{KeysFull, Moved, Note, Notes, Span};
use crate::sqlite::{Db, RawValue};

/// Installs the hook. It must be done before anything is prepared: a statement prepared earlier may take shortcuts
/// that raise no event.
///
/// # Safety
/// `engine` outlives the connection.
pub(crate) unsafe fn install(db: Db, engine: *const Engine) {
    let context = engine.cast_mut().cast::<c_void>();
    // SAFETY: the handle is open; the engine outlives it by the caller's promise.
    unsafe {
        ffi::sqlite3_preupdate_hook(db.0, Some(on_change), context);
        ffi::sqlite3_set_authorizer(db.0, Some(on_prepare), context);
        ffi::sqlite3_rollback_hook(db.0, Some(on_rollback), context);
    }
}

/// A transaction that wrote nothing is rolled back without a word to the commit hook.
unsafe extern "C" fn on_rollback(engine: *mut c_void) {
    // SAFETY: `install` was given an engine that outlives the connection.
    unsafe { &*engine.cast::<Engine>() }.forget_promise();
}

/// Allows everything, and remembers which columns some statement can assign: only those need comparing when a row is
/// updated. Every statement passes here when it is prepared, triggers and foreign key actions included.
unsafe extern "C" fn on_prepare(
    engine: *mut c_void,
    action: c_int,
    table: *const c_char,
    column: *const c_char,
    _database: *const c_char,
    _trigger: *const c_char,
) -> c_int {
    // SAFETY: `install` was given an engine that outlives the connection.
    unsafe { &*engine.cast::<Engine>() }.prepared.set(true);
    if matches!(action, ffi::SQLITE_ALTER_TABLE | ffi::SQLITE_DROP_TABLE | ffi::SQLITE_CREATE_TABLE) {
        // SAFETY: `install` was given an engine that outlives the connection.
        unsafe { &*engine.cast::<Engine>() }.schema_may_move();
    }
    if action == ffi::SQLITE_PRAGMA && !table.is_null() && !column.is_null() {
        // SAFETY: `install` was given an engine that outlives the connection; the name is NUL-terminated.
        let (engine, pragma) = unsafe { (&*engine.cast::<Engine>(), CStr::from_ptr(table)) };
        let moves = [&b"journal_mode"[..], b"locking_mode"];
        if moves.iter().any(|name| pragma.to_bytes().eq_ignore_ascii_case(name)) {
            engine.wal_may_move();
        }
    }
    if action == ffi::SQLITE_UPDATE && !table.is_null() && !column.is_null() {
        // SAFETY: `install` was given an engine that outlives the connection; the names are NUL-terminated.
        let (engine, table, column) =
            unsafe { (&*engine.cast::<Engine>(), CStr::from_ptr(table), CStr::from_ptr(column)) };
        engine.assignable.borrow_mut().note(table.to_bytes(), column.to_bytes());
    }
    ffi::SQLITE_OK
}

/// The columns that statements of this connection can assign, by table. It only grows: a statement may be kept for
/// long.
#[derive(Debug, Default)]
pub(crate) struct Assignable {
    by_table: FxHashMap<Box<[u8]>, FxHashSet<Box<[u8]>>>,
    /// What that comes to for a table as it is in the catalog.
    compared: FxHashMap<u32, (Rc<Table>, Rc<Compared>)>,
    /// The one that was asked for last: statements write to one table many times in a row.
    last: Option<(Rc<Table>, Rc<Compared>)>,
}

/// What to compare when a row is updated.
#[derive(Debug)]
pub(crate) struct Compared {
    /// Ordinal and bit of columns outside the key.
    columns: Vec<(i32, u32)>,
    /// Ordinals of key columns.
    key: Vec<i32>,
}

impl Assignable {
    fn note(&mut self, table: &[u8], column: &[u8]) {
        if let Some(columns) = self.by_table.get_mut(table) {
            if columns.contains(column) {
                return;
            }
            columns.insert(column.into());
        } else {
            self.by_table.insert(table.into(), FxHashSet::from_iter([column.into()]));
        }
        self.compared.clear();
        self.last = None;
    }

    fn compared(&mut self, table: &Rc<Table>) -> Rc<Compared> {
        if let Some((of, compared)) = &self.last
            && Rc::ptr_eq(of, table)
        {
            return compared.clone();
        }
        let compared = self.find_compared(table);
        self.last = Some((table.clone(), compared.clone()));
        compared
    }

    fn find_compared(&mut self, table: &Rc<Table>) -> Rc<Compared> {
        if let Some((of, compared)) = self.compared.get(&table.id)
            && Rc::ptr_eq(of, table)
        {
            return compared.clone();
        }
        let known = self.by_table.get(table.name.as_bytes());
        let assigned = |name: &str| known.is_none_or(|columns| columns.contains(name.as_bytes()));
        let columns = table.columns.iter().filter(|column| assigned(&column.name));
        let key = table.key.iter().filter(|column| assigned(&column.name));
        let compared = Rc::new(Compared {
            columns: columns.map(|column| (column.ordinal, column.bit)).collect(),
            key: key.map(|column| column.ordinal).collect(),
        });
        self.compared.insert(table.id, (table.clone(), compared.clone()));
        compared
    }
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
    let (captures, recorder) = (engine.captures(), engine.recorder.get());
    if !captures {
        note_unnoted(engine, op, old_row, new_row);
    }
    if !captures && recorder.is_none() {
        return;
    }
    // SAFETY: SQLite hands over NUL-terminated names.
    let (main, name) = unsafe { (is_main(database), CStr::from_ptr(table)) };
    if !main {
        return;
    }
    if captures
        && !name.to_bytes().starts_with(b"opor_")
        && let Err(fault) = on_write(engine, op, name, old_row, new_row)
    {
        engine.fault.borrow_mut().get_or_insert(fault);
    }
    // By now SQLite calls back when savepoints are rolled back.
    if let Some(recorder) = recorder {
        recorder.row(engine, op, name, old_row, new_row);
    }
}

/// Whether a name is that of the main database. To measure its length and compare it would take two calls, for every row.
///
/// # Safety
/// The name is NUL-terminated.
unsafe fn is_main(name: *const c_char) -> bool {
    let name = name.cast::<u8>();
    // SAFETY: the caller's promise: the first byte that differs, which the NUL is at the latest, is the last that is read.
    c"main".to_bytes_with_nul().iter().enumerate().all(|(i, byte)| unsafe { *name.add(i) } == *byte)
}

/// What a merge wants to know of its own writes.
fn note_unnoted(engine: &Engine, op: c_int, old_row: i64, new_row: i64) {
    match op {
        ffi::SQLITE_INSERT => {
            if let Some(inserted) = &mut *engine.inserted.borrow_mut() {
                inserted.push(new_row);
            }
        }
        ffi::SQLITE_UPDATE if old_row == new_row => {}
        _ => engine.moves.set(engine.moves.get() + 1),
    }
}

fn on_write(engine: &Engine, op: c_int, name: &CStr, old_row: i64, new_row: i64) -> Result<(), String> {
    let message = |error: rusqlite::Error| format!("a write to a replicated table was not recorded: {error}");
    if !engine.enlisted.get() {
        engine.enlist().map_err(message)?;
    }
    let Some(mut table) = engine.written_table(name.to_bytes()).map_err(message)? else { return Ok(()) };
    if (Event { db: engine.db, table: &table, old_row, new_row }).width() != table.width {
        // The table was altered earlier in this transaction.
        engine.load_catalog().map_err(message)?;
        let Some(altered) = engine.written_table(name.to_bytes()).map_err(message)? else { return Ok(()) };
        table = altered;
    }
    let table = &table;
    let event = Event { db: engine.db, table, old_row, new_row };
    let keyed_inserts = match op {
        _ if table.rowid_is_key => false,
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
        ffi::SQLITE_INSERT if table.rowid_is_key => {
            event.insert_rowid(&mut notes, || engine.recursive_triggers());
            Ok(())
        }
        ffi::SQLITE_INSERT if !keyed_inserts => {
            notes.push_insert(table.id, new_row);
            Ok(())
        }
        ffi::SQLITE_INSERT => event.insert(&mut notes, || engine.recursive_triggers()),
        ffi::SQLITE_DELETE => event.delete(&mut notes),
        _ => {
            let compared = engine.assignable.borrow_mut().compared(table);
            event.update(&mut notes, &compared, || engine.keys_matter.set(true))
        }
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

    /// A row whose rowid is its key.
    fn insert_rowid(&self, notes: &mut Notes, recursive_triggers: impl Fn() -> bool) {
        let (table, row) = (self.table.id, self.new_row);
        let replaces = matches!(notes.log.last(), Some(Note::Deletes { .. }))
            && !recursive_triggers()
            && notes.take_replaced_row(table, row, self.db.total_changes());
        if replaces {
            notes.log.push(Note::Replace { table, old: row, row, key: Span::default() });
        } else {
            notes.push_insert(table, row);
        }
    }

    fn delete(&self, notes: &mut Notes) -> Result<(), Fault> {
        // SAFETY: called from within the hook.
        let blob_column = unsafe { ffi::sqlite3_preupdate_blobwrite(self.db.0) };
        if blob_column >= 0 {
            let column = self.table.columns.iter().find(|column| column.ordinal == blob_column);
            if let Some(column) = column {
                let key = if self.table.keyed { self.key(notes, Side::Old)? } else { Span::default() };
                self.push_update(notes, ColSet::one(column.bit), key);
            }
            return Ok(());
        }
        let statement = self.db.total_changes();
        if self.table.rowid_is_key {
            notes.push_delete(self.table.id, self.old_row, statement);
            return Ok(());
        }
        let key = self.key(notes, Side::Old)?;
        notes.log.push(Note::Delete { table: self.table.id, row: self.old_row, key, statement });
        Ok(())
    }

    fn push_update(&self, notes: &mut Notes, cols: ColSet, key: Span) {
        if self.table.keyed {
            notes.log.push(Note::UpdateKeyed { table: self.table.id, cols, key });
        } else {
            notes.push_update(self.table.id, self.old_row, cols);
        }
    }

    fn changed(&self, ordinal: c_int) -> Result<bool, Fault> {
        let (old, new) = (self.value(Side::Old, ordinal)?, self.value(Side::New, ordinal)?);
        // SAFETY: both values live while the hook runs.
        Ok(unsafe { !old.same(new) })
    }

    fn update(&self, notes: &mut Notes, compared: &Compared, deletes: impl Fn()) -> Result<(), Fault> {
        let table = self.table;
        let mut cols = ColSet::default();
        for (ordinal, bit) in &compared.columns {
            if self.changed(*ordinal)? {
                cols.insert(*bit);
            }
        }
        let mut moved = false;
        if table.rowid_is_key {
            moved = self.old_row != self.new_row;
        } else {
            for ordinal in &compared.key {
                moved |= self.changed(*ordinal)?;
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
        let statement = self.db.total_changes();
        let replaced = if self.table.rowid_is_key {
            notes.take_replaced_row(table, row, statement).then_some(row)
        } else {
            notes.take_replaced(table, key, statement)
        };
        let moved = Moved { table, old, old_key, row, key, replaced, cols };
        notes.log.push(Note::Move(Box::new(moved)));
        Ok(())
    }
}
