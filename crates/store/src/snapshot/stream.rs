//! A snapshot as one stream of bytes: a file, a pipe, an object in a store.
//!
//! ```text
//! stream = length of the manifest (4 bytes, little-endian), manifest, chunk*
//! chunk  = length (4 bytes, little-endian), a frame of zstd
//! ```

use std::io::{self, ErrorKind, Read, Write};

use super::Snapshot;
use super::manifest::{CHUNK_BYTES, MANIFEST_BYTES_MAX, Manifest, ManifestError};

/// More than a chunk that does not compress takes: zstd adds less than a hundredth.
pub(crate) const COMPRESSED_BYTES_MAX: usize = CHUNK_BYTES + CHUNK_BYTES / 64;

/// Why a stream could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// It does not begin with a manifest that this code can read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It ends too early. What has been read is good.
    #[error("the snapshot ends in the middle")]
    Truncated,
    /// It declares a chunk larger than any can be.
    #[error("chunk {index} declares {declared} bytes, the limit is {}", COMPRESSED_BYTES_MAX)]
    ChunkTooLarge {
        /// The chunk.
        index: u32,
        /// What it declares.
        declared: u32,
    },
    /// Reading failed.
    #[error("the snapshot could not be read")]
    Io(#[source] io::Error),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Io(error) }
    }
}

impl Snapshot {
    /// Writes the whole snapshot, chunk by chunk; memory is that of [`chunk`](Self::chunk).
    ///
    /// # Errors
    /// When the image cannot be read, or `out` does not take it.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let manifest = self.manifest().to_bytes();
        out.write_all(&length(manifest.len())?)?;
        out.write_all(&manifest)?;
        for index in 0..self.manifest().chunks() {
            let chunk = self.chunk(index)?;
            out.write_all(&length(chunk.len())?)?;
            out.write_all(&chunk)?;
        }
        out.flush()
    }
}

fn length(len: usize) -> io::Result<[u8; 4]> {
    let len = u32::try_from(len).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    Ok(len.to_le_bytes())
}

/// Reads a snapshot from a stream: the manifest, then chunk after chunk.
#[derive(Debug)]
pub struct SnapshotReader<R> {
    source: R,
    manifest: Manifest,
    next: u32,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads the manifest.
    ///
    /// # Errors
    /// See [`StreamError`]. A length that is declared takes no memory before the bytes have come.
    pub fn new(mut source: R) -> Result<Self, StreamError> {
        let declared = read_length(&mut source)?;
        if declared as usize > MANIFEST_BYTES_MAX {
            // Whatever this is, it is no snapshot.
            return Err(ManifestError::Damaged.into());
        }
        let manifest = Manifest::from_bytes(&read(&mut source, declared)?)?;
        Ok(Self { source, manifest, next: 0 })
    }

    /// What the snapshot is.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The next chunk and its number; `None` after the last.
    ///
    /// # Errors
    /// See [`StreamError`].
    pub fn next_chunk(&mut self) -> Result<Option<(u32, Vec<u8>)>, StreamError> {
        if self.next == self.manifest.chunks() {
            return Ok(None);
        }
        let index = self.next;
        let declared = read_length(&mut self.source)?;
        if declared as usize > COMPRESSED_BYTES_MAX {
            return Err(StreamError::ChunkTooLarge { index, declared });
        }
        let chunk = read(&mut self.source, declared)?;
        self.next += 1;
        Ok(Some((index, chunk)))
    }
}

fn read_length(source: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    source.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read(source: &mut impl Read, len: u32) -> Result<Vec<u8>, StreamError> {
    let mut bytes = Vec::new();
    let read = source.take(u64::from(len)).read_to_end(&mut bytes)?;
    if read == len as usize { Ok(bytes) } else { Err(StreamError::Truncated) }
}
