//! Takes in a snapshot chunk by chunk, resumes where it stopped, and makes a replica of it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use opor_core::SiteId;
use rusqlite::{Connection, Error, OpenFlags};
use tempfile::TempPath;

use super::check::{self, ImageError};
use super::image::read_chunk;
use super::manifest::{CHUNK_BYTES, Manifest};
use super::stream::COMPRESSED_BYTES_MAX;
use super::strip;
use crate::apply::ApplyError;
use crate::cursor::Cursor;
use crate::horizon;
use crate::meta;
use crate::options::OpenOptions;
use crate::progress::{Reporter, Watcher};
use crate::sqlite::Db;
use crate::store::{OpenError, Store};

/// Why a snapshot could not be taken in. No database has changed. Chunks that were good stay in the partial file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// There is no chunk of this number.
    #[error("the snapshot has {chunks} chunks, and none is number {index}")]
    NoSuchChunk {
        /// The number.
        index: u32,
        /// How many there are.
        chunks: u32,
    },
    /// A chunk is not what the manifest says. It was not used; ask for it again.
    #[error("chunk {index} is damaged")]
    ChunkDamaged {
        /// The chunk.
        index: u32,
    },
    /// Chunks are missing.
    #[error("{missing} chunks are missing")]
    Incomplete {
        /// How many.
        missing: u32,
    },
    /// The image as a whole cannot be used.
    #[error("the image in {} cannot be used", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<ImageError>,
    },
    /// Something is where the new database, or a file that belongs to it, would be.
    #[error("{} exists already", path.display())]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// The site id that was asked for has written something in the snapshot. Take another.
    #[error("site {site} is known in the snapshot, so a new replica cannot have its id")]
    SiteTaken {
        /// The site.
        site: SiteId,
    },
    /// The image was made of this very replica.
    #[error("the snapshot was made of this replica")]
    OwnSnapshot,
    /// A transaction is open.
    #[error("a snapshot cannot be merged while a transaction is open")]
    InTransaction,
    /// A piece of the image was refused.
    #[error("the snapshot was not merged")]
    Apply(#[source] Box<ApplyError>),
    /// Changes could not be read from the image.
    #[error("the image could not be read")]
    Read(#[source] crate::ReadError),
    /// The watcher cancelled it.
    #[error("the restore was cancelled")]
    Cancelled,
    /// The new database could not be opened.
    #[error("the new database could not be opened")]
    Open(#[source] OpenError),
    /// A file could not be read or written.
    #[error("{} could not be written", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// SQLite failed.
    #[error("the image could not be made a database")]
    Sqlite(#[from] Error),
}

/// Where the image of a database is put together: beside it, so that it can be moved into place in one step.
#[must_use]
pub fn partial_path(database: impl AsRef<Path>) -> PathBuf {
    with_suffix(database.as_ref(), ".opor-partial")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Puts an image together from chunks, in any order; see [`Snapshot`](super::Snapshot) for an example.
///
/// A chunk is checked against its hash before it is written. Whatever happens, the file holds the chunks that arrived;
/// [`begin`](Self::begin) finds them again. Memory is two chunks, and a byte for each.
#[derive(Debug)]
pub struct SnapshotReceiver {
    file: File,
    path: PathBuf,
    manifest: Manifest,
    have: Vec<bool>,
    missing: u32,
}

impl SnapshotReceiver {
    /// Begins to take in a snapshot, or goes on: chunks that the file at `partial` has and that are as the manifest says
    /// need not be sent again.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn begin(partial: impl Into<PathBuf>, manifest: Manifest) -> Result<Self, RestoreError> {
        let path = partial.into();
        let named = |source| RestoreError::Io { path: path.clone(), source };
        // What a process that died while it made a replica of the image left beside it belongs to no image.
        for suffix in ["-journal", "-wal", "-shm"] {
            remove_if_there(&with_suffix(&path, suffix)).map_err(named)?;
        }
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(named)?;
        let have = vec![false; manifest.chunks() as usize];
        let missing = manifest.chunks();
        let mut receiver = Self { file, path: path.clone(), manifest, have, missing };
        receiver.find_chunks().map_err(named)?;
        Ok(receiver)
    }

    fn find_chunks(&mut self) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        if len > self.manifest.image_bytes {
            self.file.set_len(self.manifest.image_bytes)?;
        }
        let mut bytes = vec![0; CHUNK_BYTES];
        for index in 0..self.manifest.chunks() {
            let chunk = &mut bytes[..self.manifest.chunk_len(index)];
            let end = u64::from(index) * CHUNK_BYTES as u64 + chunk.len() as u64;
            if end > len {
                break;
            }
            read_chunk(&self.file, index, chunk)?;
            self.note(index, blake3::hash(chunk) == self.manifest.hashes[index as usize]);
        }
        Ok(())
    }

    fn note(&mut self, index: u32, good: bool) {
        let have = &mut self.have[index as usize];
        if good && !*have {
            *have = true;
            self.missing -= 1;
        }
    }

    /// What the snapshot is.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many chunks are missing.
    #[must_use]
    pub const fn missing(&self) -> u32 {
        self.missing
    }

    /// Whether a chunk is there.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        self.have.get(index as usize).copied().unwrap_or(false)
    }

    /// The first chunk that is missing.
    #[must_use]
    pub fn next_missing(&self) -> Option<u32> {
        let place = self.have.iter().position(|have| !have)?;
        Some(place as u32)
    }

    /// Takes a chunk. One that is there already is left alone.
    ///
    /// # Errors
    /// [`RestoreError::NoSuchChunk`]; [`RestoreError::ChunkDamaged`] when it does not decompress to exactly the bytes that
    /// the manifest has the hash of, whatever size it declares; or that the file could not be written.
    pub fn put(&mut self, index: u32, chunk: &[u8]) -> Result<(), RestoreError> {
        let chunks = self.manifest.chunks();
        if index >= chunks {
            return Err(RestoreError::NoSuchChunk { index, chunks });
        }
        if self.has(index) {
            return Ok(());
        }
        let damaged = RestoreError::ChunkDamaged { index };
        if chunk.len() > COMPRESSED_BYTES_MAX {
            return Err(damaged);
        }
        // The buffer is as large as the chunk must be: what would be more does not fit, and is an error.
        let mut bytes = vec![0; self.manifest.chunk_len(index)];
        match zstd::bulk::decompress_to_buffer(chunk, bytes.as_mut_slice()) {
            Ok(len) if len == bytes.len() => {}
            _ => return Err(damaged),
        }
        if blake3::hash(&bytes) != self.manifest.hashes[index as usize] {
            return Err(damaged);
        }
        self.write(index, &bytes).map_err(|source| RestoreError::Io { path: self.path.clone(), source })?;
        self.note(index, true);
        Ok(())
    }

    fn write(&mut self, index: u32, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(u64::from(index) * CHUNK_BYTES as u64))?;
        self.file.write_all(bytes)
    }

    /// Checks the whole image, once no chunk is missing. The options say how far ahead a stamp may be, and what time it is.
    ///
    /// # Errors
    /// [`RestoreError::Incomplete`], and [`RestoreError::Image`] when the sender made something else than an image of a
    /// replica; the partial file stays as it is.
    pub fn finish(self, options: &OpenOptions) -> Result<SnapshotImage, RestoreError> {
        self.finish_reporting(options, &mut Reporter::silent())
    }

    /// As [`finish`](Self::finish), and tells a watcher how far it is.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), or [`RestoreError::Cancelled`].
    pub fn finish_watched(
        self,
        options: &OpenOptions,
        watcher: &mut Watcher<'_>,
    ) -> Result<SnapshotImage, RestoreError> {
        self.finish_reporting(options, &mut Reporter::to(watcher))
    }

    fn finish_reporting(
        self,
        options: &OpenOptions,
        reporter: &mut Reporter<'_>,
    ) -> Result<SnapshotImage, RestoreError> {
        let Self { file, path, manifest, missing, .. } = self;
        if missing > 0 {
            return Err(RestoreError::Incomplete { missing });
        }
        file.sync_all().map_err(|source| RestoreError::Io { path: path.clone(), source })?;
        // Closed before SQLite opens it: on POSIX, closing a file lets go of every lock the process has on it.
        drop(file);
        check::check(&path, &manifest, options, reporter).map_err(|error| check::reason(error, &path))?;
        Ok(SnapshotImage { path, manifest })
    }
}

/// An image that has arrived whole and has passed every check. The file stays until the image is installed or discarded.
#[derive(Debug)]
pub struct SnapshotImage {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
}

impl SnapshotImage {
    /// What the snapshot is.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Makes the image a new replica, at a path where nothing is yet and on the same disk, and opens it.
    ///
    /// The replica has a site id of its own, an epoch of its own, and a cursor for the sender: the next pull goes on
    /// where the image ends. The file appears in one step, complete.
    ///
    /// # Errors
    /// See [`RestoreError`]; nothing is at `target` then.
    ///
    /// # Durability
    /// The database is on the disk when this returns.
    pub fn install(self, target: impl AsRef<Path>, options: &OpenOptions) -> Result<Store, RestoreError> {
        let target = target.as_ref();
        // A log that belonged to a database of this name would be taken for the new one's.
        for suffix in ["", "-wal", "-journal"] {
            let path = with_suffix(target, suffix);
            if path.symlink_metadata().is_ok() {
                return Err(RestoreError::Exists { path });
            }
        }
        self.adopt(options.site)?;
        let named = |path: &Path, source| RestoreError::Io { path: path.to_owned(), source };
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(|e| named(&self.path, e))?;
        let mut path = TempPath::try_from_path(self.path.clone()).map_err(|e| named(&self.path, e))?;
        // Should it not get there, it stays where it is.
        path.disable_cleanup(true);
        path.persist_noclobber(target).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => RestoreError::Exists { path: target.to_owned() },
            _ => named(target, error.error),
        })?;
        sync_folder(target).map_err(|e| named(target, e))?;
        options.clone().create(false).open(target).map_err(RestoreError::Open)
    }

    #[expect(unsafe_code, reason = "the store's own tables are written through a borrowed handle")]
    fn adopt(&self, site: Option<SiteId>) -> Result<(), RestoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags)?;
        // SAFETY: the connection outlives every use of the handle here.
        let db = Db(unsafe { conn.handle() });
        if let Some(site) = site
            && strip::knows(db, site)?
        {
            return Err(RestoreError::SiteTaken { site });
        }
        let Manifest { site: sender, db_version, epoch, .. } = self.manifest;
        let cursor = Cursor { base: db_version, epoch: Some(epoch), position: None };
        db.exec("BEGIN IMMEDIATE")?;
        meta::save_own_site(db, site)?;
        horizon::forget_cursors(db)?;
        meta::new_epoch(db)?;
        meta::save_pulled(db, sender, &cursor)?;
        // All there is has come from the sender, so the sender has it.
        meta::save_acknowledged(db, sender, db_version.0)?;
        db.exec("COMMIT; PRAGMA journal_mode = WAL")?;
        conn.close().map_err(|(_, error)| error.into())
    }

    /// Removes the file.
    ///
    /// # Errors
    /// When the system does.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts the name of a new file on the disk.
fn sync_folder(path: &Path) -> io::Result<()> {
    // Only here are folders files that can be flushed.
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}
