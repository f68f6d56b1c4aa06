//! Snapshots: a consistent image of a replica, from which another starts or with which it catches up.
//!
//! The sender copies the database as it is at one moment, takes out what is its own, and hands out the image in chunks
//! ([`Snapshot`]). The receiver checks each chunk before it uses it and carries on where it stopped
//! ([`SnapshotReceiver`]), checks the whole image ([`SnapshotImage`]), and then makes a new replica of it or merges it
//! into the one there is.

mod check;
mod copy;
mod entries;
mod forgotten;
mod image;
#[cfg(test)]
mod lies;
mod manifest;
mod merge;
mod receive;
mod regular;
mod stream;
mod strip;
#[cfg(test)]
mod tests;
mod tick;
mod transfer;
mod unheard;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Error;
use tempfile::NamedTempFile;

pub use check::ImageError;
pub use image::remove_abandoned_images;
pub use manifest::{Manifest, ManifestError, SnapshotTable};
pub use receive::{RestoreError, SnapshotImage, SnapshotReceiver, partial_path};
pub use stream::{SnapshotReader, StreamError};

use crate::options::OpenOptions;
use crate::progress::{Cancelled, Halt, Phase, Reporter, Watcher};
use crate::store::{OpenError, Store};
use image::{image_file, read_chunk};
use manifest::CHUNK_BYTES;

/// Fast, and on images nearly as small as slower levels: pages of clocks and text compress at once or not at all.
const LEVEL: i32 = 1;

/// Why a snapshot could not be made. The database is as before, and no file is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A transaction is open, whose writes may yet be rolled back.
    #[error("a snapshot cannot be made while a transaction is open")]
    InTransaction,
    /// The image would be larger than a snapshot can be.
    #[error("the database is too large for a snapshot")]
    TooLarge(#[source] ManifestError),
    /// The image could not be written, or read back.
    #[error("the image could not be written in {}", folder.display())]
    Io {
        /// Where it was to be.
        folder: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The copy could not be opened.
    #[error("the image could not be opened")]
    Open(#[source] OpenError),
    /// The watcher cancelled it.
    #[error("the snapshot was cancelled")]
    Cancelled,
    /// SQLite failed.
    #[error("the database could not be copied")]
    Sqlite(#[from] Error),
}

impl From<Halt> for SnapshotError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Cancelled => Self::Cancelled,
            Halt::Sqlite(error) => Self::Sqlite(error),
        }
    }
}

impl From<Cancelled> for SnapshotError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// An image of a replica, ready to be sent; the file behind it goes when this is dropped.
///
/// Chunks can be asked for in any order and any number of times, and by several threads at once; so a transfer that broke
/// off goes on at the chunk where it stopped.
///
/// ```
/// use opor_store::{OpenOptions, Snapshot, SnapshotReceiver, Store, partial_path};
///
/// # let folder = std::env::temp_dir().join(format!("opor-doc-snapshot-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let mut desk = Store::open_in_memory()?;
/// desk.execute_batch("CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title TEXT)")?;
/// desk.replicate("todos")?;
/// desk.execute("INSERT INTO todos VALUES ('a', 'buy milk')", [])?;
/// let snapshot = desk.snapshot()?;
///
/// // Elsewhere: the manifest first, then whatever chunks are missing.
/// let file = folder.join("phone.db");
/// let mut receiver = SnapshotReceiver::begin(partial_path(&file), snapshot.manifest().clone())?;
/// while let Some(index) = receiver.next_missing() {
///     receiver.put(index, &snapshot.chunk(index)?)?;
/// }
/// let phone = receiver.finish(&OpenOptions::new())?.install(&file, &OpenOptions::new())?;
/// assert_ne!(phone.site_id(), desk.site_id());
/// let title: String = phone.query_row("SELECT title FROM todos", [], |row| row.get(0))?;
/// assert_eq!(title, "buy milk");
/// // The next pull goes on where the image ends.
/// let cursor = phone.peer_cursor(desk.site_id())?.expect("the image says how far it goes");
/// assert!(desk.changes(&cursor, 100)?.changeset.is_empty());
/// # drop(phone);
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Snapshot {
    manifest: Manifest,
    image: NamedTempFile,
}

impl Snapshot {
    /// What the snapshot is; it travels before the chunks.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// One chunk, compressed. Memory is a chunk and its compressed form.
    ///
    /// # Errors
    /// When the image cannot be read.
    ///
    /// # Panics
    /// When there is no chunk of this number; see [`Manifest::chunks`].
    pub fn chunk(&self, index: u32) -> io::Result<Vec<u8>> {
        assert!(index < self.manifest.chunks(), "the snapshot has {} chunks", self.manifest.chunks());
        let mut bytes = vec![0; self.manifest.chunk_len(index)];
        read_chunk(self.image.as_file(), index, &mut bytes)?;
        zstd::bulk::compress(&bytes, LEVEL)
    }
}

impl Store {
    /// Makes an image of what is committed now, from which another replica can start.
    ///
    /// The image is a file beside the database (in the folder for temporary files when that is in memory), about as
    /// large as the database; it goes with the [`Snapshot`]. Others write meanwhile. See
    /// [`snapshot_watched`](Self::snapshot_watched) for what it holds.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn snapshot(&self) -> Result<Snapshot, SnapshotError> {
        self.make_snapshot(&self.image_folder(), &mut Reporter::silent())
    }

    /// As [`snapshot`](Self::snapshot), and tells a watcher how far it is.
    ///
    /// In it are the tables that replicate, their clocks, tombstones and indexes, and the schema. The manifest says how far
    /// this replica has pulled from others. Not in it are the
    /// identity of this replica, its cursors and what it knows of peers, its incidents, and the rows of tables that do
    /// not replicate. Memory does not grow with the database. SQLite's progress callback on this connection is replaced.
    ///
    /// # Errors
    /// See [`SnapshotError`]; the database is as before in any case.
    pub fn snapshot_watched(&self, watcher: &mut Watcher<'_>) -> Result<Snapshot, SnapshotError> {
        self.make_snapshot(&self.image_folder(), &mut Reporter::to(watcher))
    }

    /// As [`snapshot_watched`](Self::snapshot_watched), with the image in a folder of choice.
    ///
    /// # Errors
    /// See [`SnapshotError`]; the database is as before in any case.
    pub fn snapshot_in(&self, folder: &Path, watcher: &mut Watcher<'_>) -> Result<Snapshot, SnapshotError> {
        let folder = std::path::absolute(folder)
            .map_err(|source| SnapshotError::Io { folder: folder.to_owned(), source })?;
        self.make_snapshot(&folder, &mut Reporter::to(watcher))
    }

    fn make_snapshot(&self, folder: &Path, reporter: &mut Reporter<'_>) -> Result<Snapshot, SnapshotError> {
        if !self.is_autocommit() {
            return Err(SnapshotError::InTransaction);
        }
        self.engine.look_around()?;
        let io = |source| SnapshotError::Io { folder: folder.to_owned(), source };
        let image = image_file(folder).map_err(io)?;
        let file = image.as_file();
        copy::copy(self.engine.db, image.path(), self.is_memory, reporter)?;
        let copy = OpenOptions::new().create(false).open(image.path()).map_err(SnapshotError::Open)?;
        // Before they are taken out; they are of the same moment as the rest.
        let pulled = manifest::pulled(copy.engine.db)?;
        strip::strip(&copy.engine, reporter)?;
        let mut manifest = describe(&copy, self.site_id(), pulled, file).map_err(|error| match error {
            Undescribed::TooLarge(error) => SnapshotError::TooLarge(error),
            Undescribed::Io(error) => io(error),
            Undescribed::Sqlite(error) => SnapshotError::Sqlite(error),
        })?;
        drop(copy);
        reporter.begin(Phase::Hash, manifest.image_bytes)?;
        let mut bytes = vec![0; CHUNK_BYTES];
        for index in 0..manifest.chunks() {
            let chunk = &mut bytes[..manifest.chunk_len(index)];
            read_chunk(file, index, chunk).map_err(io)?;
            manifest.hashes[index as usize] = *blake3::hash(chunk).as_bytes();
            reporter.add(chunk.len() as u64)?;
        }
        reporter.end()?;
        Ok(Snapshot { manifest, image })
    }

    /// Where the image is made: on the disk of the database, which has room for it or should have.
    fn image_folder(&self) -> PathBuf {
        match self.path().filter(|path| !self.is_memory && !path.is_empty()).map(Path::new) {
            Some(path) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                // SQLite would take a relative name that begins with `file:` for a URI.
                let folder = folder.unwrap_or(Path::new("."));
                std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
            }
            None => std::env::temp_dir(),
        }
    }
}

enum Undescribed {
    TooLarge(ManifestError),
    Io(io::Error),
    Sqlite(Error),
}

/// The manifest of a stripped copy, without its hashes.
fn describe(
    copy: &Store,
    site: opor_core::SiteId,
    pulled: Vec<manifest::Pulled>,
    file: &File,
) -> Result<Manifest, Undescribed> {
    let engine = &copy.engine;
    engine.in_snapshot(|| engine.refresh()).map_err(Undescribed::Sqlite)?;
    let image_bytes = file.metadata().map_err(Undescribed::Io)?.len();
    let chunks = Manifest::chunk_count(image_bytes).map_err(Undescribed::TooLarge)?;
    let catalog = engine.catalog.borrow();
    let tables = catalog.tables.iter().map(|table| check::described(table));
    Ok(Manifest {
        site,
        db_version: opor_core::DbVersion(engine.db_version()),
        policy: engine.policy(),
        tables: tables.collect(),
        image_bytes,
        epoch: engine.meta.borrow().epoch,
        horizon: engine.horizon.get(),
        pulled,
        hashes: vec![[0; 32]; chunks as usize],
    })
}
