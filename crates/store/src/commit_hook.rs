//! A virtual table that holds nothing: SQLite calls its transaction methods when a transaction that has touched it
//! commits, rolls back or passes a savepoint.
#![expect(unsafe_code, reason = "a virtual table module is a table of C callbacks")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use rusqlite::{Error, ffi};

use crate::engine::Engine;
use crate::sqlite::Db;

#[repr(C)]
struct Vtab {
    base: ffi::sqlite3_vtab,
    engine: *const Engine,
}

#[repr(C)]
struct Cursor {
    base: ffi::sqlite3_vtab_cursor,
}

static MODULE: Module = Module(ffi::sqlite3_module {
    // 2 is the first version with savepoint methods.
    iVersion: 2,
    // No xCreate: the table exists without being created, and only so.
    xCreate: None,
    xConnect: Some(connect),
    xBestIndex: Some(best_index),
    xDisconnect: Some(disconnect),
    xDestroy: Some(disconnect),
    xOpen: Some(open),
    xClose: Some(close),
    xFilter: Some(filter),
    xNext: Some(next),
    xEof: Some(eof),
    xColumn: Some(column),
    xRowid: Some(rowid),
    xUpdate: Some(update),
    xBegin: Some(begin),
    xSync: Some(sync),
    xCommit: Some(commit),
    xRollback: Some(rollback),
    xFindFunction: None,
    xRename: None,
    xSavepoint: Some(savepoint),
    xRelease: Some(release),
    xRollbackTo: Some(rollback_to),
    xShadowName: None,
    xIntegrity: None,
});

struct Module(ffi::sqlite3_module);

// SAFETY: the module is never written to.
unsafe impl Sync for Module {}

/// Registers the table as `opor_commit_hook`.
///
/// # Safety
/// `engine` outlives the connection.
pub(crate) unsafe fn install(db: Db, engine: *const Engine) -> Result<(), Error> {
    // SAFETY: the handle is open, the module is static, and the engine outlives the connection.
    let code = unsafe {
        ffi::sqlite3_create_module_v2(
            db.0,
            c"opor_commit_hook".as_ptr(),
            &raw const MODULE.0,
            engine.cast_mut().cast::<c_void>(),
            None,
        )
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(db.error(code)) }
}

/// # Safety
/// `vtab` was made by `connect`, whose engine outlives the connection.
unsafe fn engine<'a>(vtab: *mut ffi::sqlite3_vtab) -> &'a Engine {
    // SAFETY: the caller's promise.
    unsafe { &*(*vtab.cast::<Vtab>()).engine }
}

unsafe extern "C" fn connect(
    db: *mut ffi::sqlite3,
    engine: *mut c_void,
    _argc: c_int,
    _argv: *const *const c_char,
    out: *mut *mut ffi::sqlite3_vtab,
    _error: *mut *mut c_char,
) -> c_int {
    // SAFETY: SQLite hands over an open handle and a place for the table.
    unsafe {
        let code = ffi::sqlite3_declare_vtab(db, c"CREATE TABLE x(empty)".as_ptr());
        if code != ffi::SQLITE_OK {
            return code;
        }
        // Else OR IGNORE would not ignore what `update` says.
        let code = ffi::sqlite3_vtab_config(db, ffi::SQLITE_VTAB_CONSTRAINT_SUPPORT, 1 as c_int);
        if code != ffi::SQLITE_OK {
            return code;
        }
        let vtab = Box::new(Vtab { base: std::mem::zeroed(), engine: engine.cast::<Engine>() });
        *out = Box::into_raw(vtab).cast();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn disconnect(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: made by `connect`, and disconnected once.
    drop(unsafe { Box::from_raw(vtab.cast::<Vtab>()) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn best_index(_vtab: *mut ffi::sqlite3_vtab, _info: *mut ffi::sqlite3_index_info) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn open(_vtab: *mut ffi::sqlite3_vtab, out: *mut *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: SQLite hands over a place for the cursor; all-zero is a valid base.
    unsafe { *out = Box::into_raw(Box::new(Cursor { base: std::mem::zeroed() })).cast() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: made by `open`, and closed once.
    drop(unsafe { Box::from_raw(cursor.cast::<Cursor>()) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn filter(
    _cursor: *mut ffi::sqlite3_vtab_cursor,
    _number: c_int,
    _text: *const c_char,
    _argc: c_int,
    _argv: *mut *mut ffi::sqlite3_value,
) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn next(_cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn eof(_cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    1
}

unsafe extern "C" fn column(
    _cursor: *mut ffi::sqlite3_vtab_cursor,
    _context: *mut ffi::sqlite3_context,
    _column: c_int,
) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn rowid(_cursor: *mut ffi::sqlite3_vtab_cursor, _rowid: *mut i64) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn update(
    _vtab: *mut ffi::sqlite3_vtab,
    _argc: c_int,
    _argv: *mut *mut ffi::sqlite3_value,
    _rowid: *mut i64,
) -> c_int {
    ffi::SQLITE_CONSTRAINT_VTAB
}

unsafe extern "C" fn begin(_vtab: *mut ffi::sqlite3_vtab) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn sync(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: made by `connect`.
    let engine = unsafe { engine(vtab) };
    match engine.before_commit() {
        Ok(()) => ffi::SQLITE_OK,
        Err(error) => {
            let (code, message) = match error {
                Error::SqliteFailure(code, message) => (code.extended_code, message),
                other => (ffi::SQLITE_ERROR, Some(other.to_string())),
            };
            // SAFETY: the table is alive; SQLite frees the message.
            unsafe { set_message(vtab, message.as_deref().unwrap_or("the change log could not be written")) };
            code
        }
    }
}

/// # Safety
/// `vtab` is alive.
pub(crate) unsafe fn set_message(vtab: *mut ffi::sqlite3_vtab, message: &str) {
    let Ok(text) = CString::new(message.replace('\0', " ")) else { return };
    // SAFETY: the caller's promise; the message was allocated by SQLite or is null.
    unsafe {
        ffi::sqlite3_free((*vtab).zErrMsg.cast::<c_void>());
        (*vtab).zErrMsg = ffi::sqlite3_mprintf(c"%s".as_ptr(), text.as_ptr());
        if (*vtab).zErrMsg.is_null() {
            (*vtab).zErrMsg = ptr::null_mut();
        }
    }
}

unsafe extern "C" fn commit(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: made by `connect`.
    unsafe { engine(vtab) }.after_commit();
    ffi::SQLITE_OK
}

unsafe extern "C" fn rollback(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: made by `connect`.
    unsafe { engine(vtab) }.after_rollback();
    ffi::SQLITE_OK
}

unsafe extern "C" fn savepoint(vtab: *mut ffi::sqlite3_vtab, level: c_int) -> c_int {
    // SAFETY: made by `connect`.
    unsafe { engine(vtab) }.savepoint(level);
    ffi::SQLITE_OK
}

unsafe extern "C" fn release(vtab: *mut ffi::sqlite3_vtab, level: c_int) -> c_int {
    // SAFETY: made by `connect`.
    unsafe { engine(vtab) }.release(level);
    ffi::SQLITE_OK
}

unsafe extern "C" fn rollback_to(vtab: *mut ffi::sqlite3_vtab, level: c_int) -> c_int {
    // SAFETY: made by `connect`.
    unsafe { engine(vtab) }.rollback_to(level);
    ffi::SQLITE_OK
}

#[cfg(test)]
mod tests {
    use crate::Store;

    #[test]
    fn enlisting_is_no_change_and_gives_no_rowid() {
        let mut store = Store::open_in_memory().expect("a store");
        store.execute_batch("CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title)").expect("a table");
        store.replicate("todos").expect("it replicates");
        store.execute("INSERT INTO todos VALUES (7, 'a')", []).expect("a row");
        let before = store.total_changes();
        assert_eq!(store.execute("UPDATE todos SET title = 'b'", []), Ok(1));
        assert_eq!(store.last_insert_rowid(), 7);
        // The row itself, and what the commit puts on record.
        let added = store.total_changes() - before;
        assert_eq!(store.execute("INSERT INTO opor_commit_hook DEFAULT VALUES", []).map_err(|_| ()), Err(()));
        assert_eq!(added, 2);
    }
}
