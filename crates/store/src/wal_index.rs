//! The header of a file's WAL index, which lies in memory shared by all connections: it tells, without a lock or a system
//! call, that nobody has committed.
#![expect(unsafe_code, reason = "SQLite hands out the shared memory through its file methods")]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rusqlite::ffi;

use crate::sqlite::Db;

/// The header stands there twice, 12 words each, and then the parts that only checkpoints write.
const HEADER_WORDS: usize = 12;
/// The size of the first part of the index, by which SQLite asks for it.
const REGION_BYTES: c_int = 32 * 1024;

/// Both copies of the header, which were equal. Every commit counts one of its words up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalHeader([u32; HEADER_WORDS]);

impl WalHeader {
    /// The header after so many commits.
    #[cfg(test)]
    pub(crate) fn after(commits: usize) -> Self {
        Self([commits as u32; HEADER_WORDS])
    }

    /// Whether exactly one commit lies between `before` and this.
    pub(crate) fn follows(&self, before: &Self) -> bool {
        /// Where the counter of commits stands.
        const CHANGE: usize = 2;
        self.0[CHANGE] == before.0[CHANGE].wrapping_add(1)
    }
}

/// Where the index of the main database is found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalIndex {
    file: *mut ffi::sqlite3_file,
}

impl WalIndex {
    /// `None` unless the main database is a file in WAL mode that others may use at the same time: without an index
    /// in shared memory, asking for it would make one.
    pub(crate) fn of(db: Db) -> Option<Self> {
        let says = |sql: &str| matches!(db.integer(sql), Ok(Some(1)));
        if !says("SELECT journal_mode = 'wal' FROM pragma_journal_mode")
            || !says("SELECT locking_mode = 'normal' FROM pragma_locking_mode")
        {
            return None;
        }
        let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
        // SAFETY: the handle is open; the file control fills in a pointer that lives as long as the connection.
        let code = unsafe {
            let out = (&raw mut file).cast::<c_void>();
            ffi::sqlite3_file_control(db.0, c"main".as_ptr(), ffi::SQLITE_FCNTL_FILE_POINTER, out)
        };
        (code == ffi::SQLITE_OK && !file.is_null()).then_some(Self { file })
    }

    /// The header; `None` while somebody is writing it.
    ///
    /// # Safety
    /// The connection is open.
    pub(crate) unsafe fn header(self) -> Option<WalHeader> {
        let mut region: *mut c_void = ptr::null_mut();
        // SAFETY: the file is open by the caller's promise, and in WAL mode; SQLite has mapped the region already.
        let code = unsafe {
            let methods = (*self.file).pMethods.as_ref()?;
            let map = if methods.iVersion >= 2 { methods.xShmMap } else { None };
            map?(self.file, 0, REGION_BYTES, 0, &raw mut region)
        };
        if code != ffi::SQLITE_OK || region.is_null() {
            return None;
        }
        let words = region.cast::<u32>();
        let read = |first: usize| {
            // SAFETY: the region is longer than two headers, aligned to a page, and written by other processes.
            std::array::from_fn(|i| unsafe {
                AtomicU32::from_ptr(words.add(first + i)).load(Ordering::Relaxed)
            })
        };
        let first: [u32; HEADER_WORDS] = read(0);
        fence(Ordering::Acquire);
        let second: [u32; HEADER_WORDS] = read(HEADER_WORDS);
        (first == second).then_some(WalHeader(first))
    }
}
