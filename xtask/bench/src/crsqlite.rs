//! The genuine cr-sqlite, when its extension is at hand.

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ffi};

/// Why the extension could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExtensionError {
    /// There is no such file.
    #[error("there is no file {}", path.display())]
    Missing { path: PathBuf },
    /// SQLite did not take it.
    #[error("{} could not be loaded: {said}", path.display())]
    NotLoaded { path: PathBuf, said: String },
    /// It is an extension, but another one.
    #[error("{} is not cr-sqlite", path.display())]
    NotCrSqlite {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

/// Loads the extension at `path` into a connection.
pub(crate) fn load(connection: &Connection, path: &Path) -> Result<(), ExtensionError> {
    let path = path.canonicalize().map_err(|_| ExtensionError::Missing { path: path.to_owned() })?;
    load_file(connection, &path).map_err(|said| ExtensionError::NotLoaded { path: path.clone(), said })?;
    let asked = connection.query_row("SELECT crsql_db_version()", [], |_| Ok(()));
    asked.map_err(|source| ExtensionError::NotCrSqlite { path, source })
}

/// Whether the extension can be loaded at all.
pub(crate) fn check(path: &Path) -> Result<(), ExtensionError> {
    let not_loaded =
        |error: rusqlite::Error| ExtensionError::NotLoaded { path: path.to_owned(), said: error.to_string() };
    let connection = Connection::open_in_memory().map_err(not_loaded)?;
    load(&connection, path)?;
    finish(&connection);
    Ok(())
}

/// Lets the extension give up its statements, without which the connection cannot be closed.
pub(crate) fn finish(connection: &Connection) {
    // Nobody could do anything about a failure.
    let _ = connection.query_row("SELECT crsql_finalize()", [], |_| Ok(()));
}

#[expect(
    unsafe_code,
    reason = "rusqlite loads extensions only with a feature, which every build of the workspace would share"
)]
fn load_file(connection: &Connection, path: &Path) -> Result<(), String> {
    let name = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| error.to_string())?;
    let mut said = std::ptr::null_mut();
    // SAFETY: the handle is open for the whole call, the name ends in NUL, and SQLite allocates the message, which is
    // copied before it is freed. The person who runs the benchmark named the code that is loaded.
    unsafe {
        let db = connection.handle();
        ffi::sqlite3_db_config(
            db,
            ffi::SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION,
            1,
            std::ptr::null_mut::<i32>(),
        );
        if ffi::sqlite3_load_extension(db, name.as_ptr(), std::ptr::null(), &raw mut said) == ffi::SQLITE_OK {
            return Ok(());
        }
        let message = (!said.is_null()).then(|| CStr::from_ptr(said).to_string_lossy().into_owned());
        ffi::sqlite3_free(said.cast());
        Err(message.unwrap_or_else(|| "SQLite said nothing".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_to_nothing_is_named() {
        let error = check(Path::new("/no/such/extension.so")).unwrap_err();
        assert!(matches!(error, ExtensionError::Missing { .. }), "{error}");
        assert_eq!(error.to_string(), "there is no file /no/such/extension.so");
    }

    #[test]
    fn a_file_that_is_no_extension_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crsqlite.so");
        std::fs::write(&path, "not a library").unwrap();
        let error = check(&path).unwrap_err();
        let ExtensionError::NotLoaded { path: named, said } = error else { panic!("{error}") };
        assert_eq!(named, path.canonicalize().unwrap());
        assert!(!said.is_empty());
    }
}
