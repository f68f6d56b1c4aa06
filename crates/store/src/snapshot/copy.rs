//! Copies a database to a file of its own: one consistent state, without what is free or deleted.
#![expect(unsafe_code, reason = "names of file systems come from SQLite's C interface")]

use std::ffi::CStr;
use std::fs;
use std::path::Path;
use std::ptr;

use rusqlite::{Error, ffi};

use super::tick::ticking;
use crate::progress::{Halt, Phase, Reporter};
use crate::sqlite::Db;

/// Copies the main database of a connection into an empty file. Nothing is written to the database; a transaction must
/// not be open.
pub(crate) fn copy(db: Db, path: &Path, in_memory: bool, reporter: &mut Reporter<'_>) -> Result<(), Halt> {
    let name = path.to_str().ok_or_else(|| crate::sqlite::failure("the path of a snapshot is not UTF-8"))?;
    let name = if in_memory { file_uri(name) } else { name.to_owned() };
    let mut vacuum = db.prepare("VACUUM INTO ?")?;
    reporter.begin(Phase::Copy, size(db)?)?;
    let grown = || fs::metadata(path).map_or(0, |metadata| metadata.len());
    ticking(db, &mut || reporter.set(grown()), || {
        let mut run = vacuum.start();
        run.bind_text(&name)?;
        run.step().map(drop)
    })?;
    Ok(reporter.end()?)
}

/// The name of a file for a connection whose databases are else in memory, this one too.
pub(super) fn file_uri(path: &str) -> String {
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
