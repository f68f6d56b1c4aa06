//! Files of images: where they are made, how chunks are read from them, and what becomes of those that nobody has any more.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

use super::manifest::CHUNK_BYTES;

const PREFIX: &str = ".opor-snapshot-";

/// A new file for an image. It is locked as long as it is held, where locks do not keep SQLite out.
pub(super) fn image_file(folder: &Path) -> io::Result<NamedTempFile> {
    let image = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
    if cfg!(unix) {
        // Where the file system has no locks, nobody takes the file for abandoned either.
        let _ = image.as_file().try_lock();
    }
    Ok(image)
}

/// Removes images that processes left in a folder when they died. Those that somebody still holds stay. Says how many
/// went. Where locks would keep SQLite out of a file, as on Windows, it removes none.
///
/// # Errors
/// When the folder cannot be read. A file that cannot be opened or removed is left.
pub fn remove_abandoned_images(folder: &Path) -> io::Result<usize> {
    if !cfg!(unix) {
        return Ok(0);
    }
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !entry.file_type()?.is_file() {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        match file.try_lock() {
            Ok(()) => removed += usize::from(fs::remove_file(&path).is_ok()),
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
    Ok(removed)
}

/// Reads a chunk from its place, whoever else reads.
#[cfg(unix)]
pub(super) fn read_chunk(file: &File, index: u32, bytes: &mut [u8]) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    file.read_exact_at(bytes, place(index))
}

/// Reads a chunk from its place, one reader after the other: the file has one position for all.
#[cfg(not(unix))]
pub(super) fn read_chunk(mut file: &File, index: u32, bytes: &mut [u8]) -> io::Result<()> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    use std::sync::{Mutex, PoisonError};

    static POSITION: Mutex<()> = Mutex::new(());
    let _alone = POSITION.lock().unwrap_or_else(PoisonError::into_inner);
    file.seek(SeekFrom::Start(place(index)))?;
    file.read_exact(bytes)
}

fn place(index: u32) -> u64 {
    u64::from(index) * CHUNK_BYTES as u64
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_held_stays_and_an_abandoned_one_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = image_file(folder.path()).expect("an image");
        let abandoned = folder.path().join(".opor-snapshot-left");
        let other = folder.path().join("app.db");
        fs::write(&abandoned, b"x").expect("a file");
        fs::write(&other, b"x").expect("a file");
        assert_eq!(remove_abandoned_images(folder.path()).expect("the folder reads"), 1);
        assert!(held.path().exists() && other.exists() && !abandoned.exists());
        drop(held);
        assert_eq!(remove_abandoned_images(folder.path()).expect("the folder reads"), 0);
    }
}
