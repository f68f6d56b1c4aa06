//! What a statement reads, as SQLite itself says when it prepares it.
#![expect(unsafe_code, reason = "the authorizer is a C callback")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int, c_void};

use opor_store::Store;
use opor_store::rusqlite::ffi;

/// What was reported while one statement was prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Tables and columns of the main database; the column is empty where the rows were needed and no value of them.
    pub(crate) reads: BTreeSet<(String, String)>,
    /// Names of functions, in lower case.
    pub(crate) functions: BTreeSet<String>,
    /// Views that were looked through.
    pub(crate) views: BTreeSet<String>,
    /// It would do something other than read.
    pub(crate) writes: bool,
}

/// Listens to what statements of one connection read. It stays installed: installing it makes SQLite prepare everything anew.
pub(crate) struct Listener {
    // Boxed: SQLite keeps its address.
    heard: Box<RefCell<Option<Access>>>,
}

impl Listener {
    /// Listens on a connection that only reads, and on which nothing else has an authorizer that matters.
    pub(crate) fn install(store: &Store) -> Self {
        let heard = Box::new(RefCell::new(None));
        let context: *const RefCell<Option<Access>> = &raw const *heard;
        // SAFETY: the handle is open; `uninstall` runs before the box goes, or the connection is closed by then.
        unsafe {
            ffi::sqlite3_set_authorizer(store.handle(), Some(on_access), context.cast_mut().cast::<c_void>());
        }
        Self { heard }
    }

    /// Stops listening, before this goes away.
    pub(crate) fn uninstall(self, store: &Store) {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_set_authorizer(store.handle(), None, std::ptr::null_mut()) };
    }

    /// What is read by whatever `prepare` prepares. Anything but reading is refused there.
    pub(crate) fn hear<T>(&self, prepare: impl FnOnce() -> T) -> (T, Access) {
        *self.heard.borrow_mut() = Some(Access::default());
        let done = prepare();
        (done, self.heard.take().unwrap_or_default())
    }
}

unsafe extern "C" fn on_access(
    context: *mut c_void,
    action: c_int,
    first: *const c_char,
    second: *const c_char,
    database: *const c_char,
    within: *const c_char,
) -> c_int {
    // SAFETY: `install` was given a box that outlives the authorizer.
    let heard = unsafe { &*context.cast::<RefCell<Option<Access>>>() };
    let Ok(mut heard) = heard.try_borrow_mut() else { return ffi::SQLITE_OK };
    let Some(access) = &mut *heard else { return ffi::SQLITE_OK };
    let text = |name: *const c_char| {
        // SAFETY: SQLite hands over NUL-terminated names, or nothing.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    };
    match action {
        ffi::SQLITE_SELECT | ffi::SQLITE_RECURSIVE => {}
        ffi::SQLITE_FUNCTION => {
            access.functions.extend(text(second).map(|name| name.to_ascii_lowercase()));
        }
        ffi::SQLITE_READ => {
            // A subquery or a common table expression has no database.
            if text(database).is_none_or(|database| database == "main") {
                access.reads.extend(text(first).map(|table| (table, text(second).unwrap_or_default())));
            }
        }
        _ => {
            access.writes = true;
            return ffi::SQLITE_DENY;
        }
    }
    access.views.extend(text(within));
    ffi::SQLITE_OK
}
