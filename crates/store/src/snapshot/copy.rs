//! Copies a database to a file of its own: one consistent state, without what is free or deleted.
#![expect(unsafe_code, reason = "SQLite's progress callback is a C interface")]

use std::any::Any;
use std::ffi::{CStr, c_int, c_void};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::ptr;

use rusqlite::{Error, ErrorCode, ffi};

use crate::progress::{Halt, Phase, Reporter};
use crate::sqlite::Db;

/// Instructions of SQLite between two looks at the file that grows: some milliseconds of work.
const TICK: c_int = 50_000;

struct Tick<'t, 'w> {
    path: &'t Path,
    reporter: &'t mut Reporter<'w>,
    cancelled: bool,
    panic: Option<Box<dyn Any + Send>>,
}

/// Copies the main database of a connection into an empty file. Nothing is written to the database; a transaction must
/// not be open.
pub(crate) fn copy(db: Db, path: &Path, in_memory: bool, reporter: &mut Reporter<'_>) -> Result<(), Halt> {
    let name = path.to_str().ok_or_else(|| crate::sqlite::failure("the path of a snapshot is not UTF-8"))?;
    let name = if in_memory { file_uri(name) } else { name.to_owned() };
    let mut vacuum = db.prepare("VACUUM INTO ?")?;
    reporter.begin(Phase::Copy, size(db)?)?;
    let mut tick = Tick { path, reporter, cancelled: false, panic: None };
    let data = &raw mut tick;
    // SAFETY: the handle is open; `tick` lives until the callback is taken out again, below.
    unsafe { ffi::sqlite3_progress_handler(db.0, TICK, Some(on_tick), data.cast::<c_void>()) };
    let mut run = vacuum.start();
    let done = run.bind_text(&name).and_then(|()| run.step());
    drop(run);
    // SAFETY: the handle is open.
    unsafe { ffi::sqlite3_progress_handler(db.0, 0, None, ptr::null_mut()) };
    if let Some(panic) = tick.panic.take() {
        resume_unwind(panic);
    }
    match done {
        Ok(_) => Ok(tick.reporter.end()?),
        Err(error) if tick.cancelled && is_interrupt(&error) => Err(Halt::Cancelled),
        Err(error) => Err(error.into()),
    }
}

/// The name of a file for a connection whose databases are else in memory, this one too.
fn file_uri(path: &str) -> String {
    // SAFETY: the list of file systems is SQLite's own, and its entries stay.
    let vfs = unsafe { ffi::sqlite3_vfs_find(ptr::null()).as_ref() };
    // SAFETY: their names are C strings.
    let vfs = vfs.map(|vfs| unsafe { CStr::from_ptr(vfs.zName) }.to_string_lossy());
    let mut uri = "file:".to_owned();
    if !path.starts_with('/') {
        uri.push('/');
    }
    for byte in path.bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(byte.into()),
            b'\\' if cfg!(windows) => uri.push('/'),
            _ if byte.is_ascii_alphanumeric() => uri.push(byte.into()),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?vfs=");
    uri.push_str(&vfs.unwrap_or_default());
    uri
}

fn size(db: Db) -> Result<u64, Error> {
    let pages = "SELECT (page_count - freelist_count) * page_size \
                 FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
    Ok(db.integer(pages)?.unwrap_or(0).max(0).cast_unsigned())
}

fn is_interrupt(error: &Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

unsafe extern "C" fn on_tick(data: *mut c_void) -> c_int {
    // SAFETY: `copy` hands over a tick that outlives the callback, and nobody else uses it meanwhile.
    let tick = unsafe { &mut *data.cast::<Tick<'_, '_>>() };
    // A panic must not pass through SQLite's frames; it goes on once they are left.
    let told = catch_unwind(AssertUnwindSafe(|| {
        tick.reporter.set(fs::metadata(tick.path).map_or(0, |metadata| metadata.len()))
    }));
    tick.cancelled = !matches!(told, Ok(Ok(())));
    if let Err(panic) = told {
        tick.panic = Some(panic);
    }
    c_int::from(tick.cancelled)
}
