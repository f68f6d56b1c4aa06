//! A snapshot on its way in: a file for its chunks and one for its manifest, beside the database, until it is merged.
//!
//! All of this blocks, so it runs on threads that may.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opor_core::SiteId;
use opor_store::{
    ApplyReport, ImageError, Manifest, ManifestError, OpenOptions, Progress, RestoreError, SnapshotImage,
    SnapshotReceiver, Store,
};
use opor_sync_proto::{Offer, Rejection, Resume, SnapshotId};

use crate::verdict::{Ended, in_full};
use crate::work::{Failed, opaque, refused};

/// A manifest has at most 16 MiB; what is longer is none.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// What is wrong with a snapshot that a peer sent. Nothing of it is in the database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFault {
    /// The manifest is none.
    #[error("its manifest cannot be read")]
    Manifest(#[source] ManifestError),
    /// It is of another replica than the peer.
    #[error("it is of site {site}, which is not the peer")]
    OtherSite {
        /// The site.
        site: SiteId,
    },
    /// The offer is not what the manifest says.
    #[error("its offer has another {0} than its manifest")]
    Offer(&'static str),
    /// The image is larger than is taken here.
    #[error("its image has {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// How large it is.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// It begins at a chunk before which others are missing here.
    #[error("it begins at chunk {first}, and not all before are here")]
    Gap {
        /// The chunk.
        first: u64,
    },
    /// A chunk is not what the manifest says.
    #[error("its chunk {index} is damaged")]
    Chunk {
        /// The chunk.
        index: u64,
    },
    /// All chunks are as the manifest says, and still it is no image of a replica.
    #[error("its image cannot be used: {0}")]
    Image(String),
}

impl From<SnapshotFault> for Failed {
    fn from(fault: SnapshotFault) -> Self {
        Self::Fault(fault)
    }
}

/// The files, and what is known of them. Whoever has it has them alone, in whichever process.
#[derive(Debug)]
pub(crate) struct Intake {
    chunks: PathBuf,
    manifest: PathBuf,
    /// The file of the manifest, locked.
    lock: File,
    bytes_max: u64,
    begun: Option<(SnapshotId, Part)>,
}

#[derive(Debug)]
enum Part {
    Chunks(SnapshotReceiver),
    /// Whole and checked.
    Image(SnapshotImage),
    /// It was taken out, to be merged or thrown away.
    Gone,
}

impl Intake {
    /// Opens the files of a database, and finds out which chunks are there.
    pub(crate) fn open(database: &Path, bytes_max: u64) -> Result<Self, Failed> {
        let manifest = with_suffix(database, ".opor-incoming-manifest");
        let Some(lock) = lock(&manifest).map_err(|error| failed(&error))? else {
            return Err(Failed::Here(Ended::SnapshotBusy));
        };
        let chunks = with_suffix(database, ".opor-incoming");
        let mut intake = Self { chunks, manifest, lock, bytes_max, begun: None };
        intake.find()?;
        Ok(intake)
    }

    fn find(&mut self) -> Result<(), Failed> {
        let mut bytes = Vec::new();
        let read = (&self.lock).take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| failed(&error))?;
        // What is no manifest was cut short by a crash, or is of another version.
        let Ok(manifest) = Manifest::from_bytes(&bytes) else { return Ok(()) };
        if manifest.image_bytes <= self.bytes_max {
            self.begin(name_of(&bytes), manifest)?;
        }
        Ok(())
    }

    fn begin(&mut self, id: SnapshotId, manifest: Manifest) -> Result<(), Failed> {
        let receiver = SnapshotReceiver::begin(&self.chunks, manifest).map_err(|error| failed(&error))?;
        self.begun = Some((id, Part::Chunks(receiver)));
        Ok(())
    }

    /// Where to go on.
    pub(crate) fn resume(&self) -> Option<Resume> {
        let Some((id, Part::Chunks(receiver))) = &self.begun else { return None };
        // With nothing missing the last chunk comes once more: a snapshot is never asked for without.
        let last = receiver.manifest().chunks().checked_sub(1)?;
        let index = receiver.next_missing().unwrap_or(last);
        Some(Resume { id: id.clone(), index: index.into() })
    }

    /// How many chunks are here.
    pub(crate) fn held(&self) -> u64 {
        match &self.begun {
            Some((_, Part::Chunks(receiver))) => u64::from(receiver.manifest().chunks() - receiver.missing()),
            Some((_, Part::Image(image))) => image.manifest().chunks().into(),
            Some((_, Part::Gone)) | None => 0,
        }
    }

    /// Takes an offer, with the manifest. One that is refused leaves what is here as it is.
    pub(crate) fn offered(&mut self, offer: &Offer, bytes: &[u8], peer: SiteId) -> Result<(), Failed> {
        let manifest = Manifest::from_bytes(bytes).map_err(SnapshotFault::Manifest)?;
        let differs = [
            ("name", offer.id != name_of(bytes)),
            ("number of chunks", offer.chunks != u64::from(manifest.chunks())),
            ("size", offer.bytes != manifest.image_bytes),
            ("cursor", offer.cursor != opaque(&manifest.cursor())),
        ];
        if manifest.site != peer {
            return Err(SnapshotFault::OtherSite { site: manifest.site }.into());
        }
        if let Some((what, _)) = differs.iter().find(|(_, differs)| *differs) {
            return Err(SnapshotFault::Offer(what).into());
        }
        if manifest.image_bytes > self.bytes_max {
            return Err(SnapshotFault::TooLarge { bytes: manifest.image_bytes, max: self.bytes_max }.into());
        }
        let goes_on = matches!(&self.begun, Some((id, Part::Chunks(_))) if *id == offer.id);
        if !goes_on {
            self.write_manifest(bytes).map_err(|error| failed(&error))?;
            self.begin(offer.id.clone(), manifest)?;
        }
        let Some((_, Part::Chunks(receiver))) = &self.begun else { unreachable!("it has just begun") };
        let has = |index: u64| u32::try_from(index).is_ok_and(|index| receiver.has(index));
        if (0..offer.first).all(has) { Ok(()) } else { Err(SnapshotFault::Gap { first: offer.first }.into()) }
    }

    fn write_manifest(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.lock.set_len(0)?;
        self.lock.seek(SeekFrom::Start(0))?;
        self.lock.write_all(bytes)
    }

    /// Takes a chunk; with the last one the image is checked.
    pub(crate) fn put(
        &mut self,
        index: u64,
        bytes: &[u8],
        options: &OpenOptions,
        stopping: &AtomicBool,
    ) -> Result<(), Failed> {
        let Some((_, part)) = &mut self.begun else { return Err(SnapshotFault::Chunk { index }.into()) };
        let receiver = match part {
            Part::Chunks(receiver) => receiver,
            // It was whole before this chunk came again.
            Part::Image(_) => return Ok(()),
            Part::Gone => return Err(SnapshotFault::Chunk { index }.into()),
        };
        let number = u32::try_from(index).map_err(|_| SnapshotFault::Chunk { index })?;
        receiver.put(number, bytes).map_err(|error| judged(error, index))?;
        if receiver.missing() > 0 {
            return Ok(());
        }
        let Part::Chunks(receiver) = std::mem::replace(part, Part::Gone) else {
            unreachable!("it was just looked at")
        };
        let image = receiver.finish_watched(options, &mut |_: Progress| go_on(stopping));
        *part = Part::Image(image.map_err(|error| judged(error, index))?);
        Ok(())
    }

    /// The image, once all chunks have come.
    pub(crate) fn image(&mut self) -> Option<SnapshotImage> {
        match &mut self.begun {
            Some((_, part @ Part::Image(_))) => match std::mem::replace(part, Part::Gone) {
                Part::Image(image) => Some(image),
                Part::Chunks(_) | Part::Gone => None,
            },
            _ => None,
        }
    }

    /// Removes the files.
    pub(crate) fn discard(mut self) {
        self.begun = None;
    }
}

/// Files with which nobody can go on are removed. The lock is let go of last.
impl Drop for Intake {
    fn drop(&mut self) {
        if self.begun.is_none() {
            // What cannot be removed is written over by the next snapshot.
            let _left = fs::remove_file(&self.chunks);
            let _left = fs::remove_file(&self.manifest);
        }
    }
}

/// Merges an image, in one commit; on the writer's thread.
pub(crate) fn merge(
    store: &mut Store,
    image: &SnapshotImage,
    stopping: &Arc<AtomicBool>,
) -> Result<ApplyReport, Failed> {
    store.merge_snapshot_of_peer(image, &mut |_: Progress| go_on(stopping)).map_err(|error| judged(error, 0))
}

fn go_on(stopping: &AtomicBool) -> ControlFlow<()> {
    if stopping.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Whether it is the fault of the snapshot, or of this side.
fn judged(error: RestoreError, chunk: u64) -> Failed {
    match error {
        RestoreError::ChunkDamaged { .. } | RestoreError::NoSuchChunk { .. } => {
            SnapshotFault::Chunk { index: chunk }.into()
        }
        RestoreError::Image { source, .. } => match *source {
            ImageError::Future(drift) => Failed::Rejected(Rejection::Drift, drift.to_string()),
            source => SnapshotFault::Image(in_full(&source)).into(),
        },
        RestoreError::Apply(error) => refused(*error),
        error @ (RestoreError::OwnSnapshot | RestoreError::Incomplete { .. }) => {
            SnapshotFault::Image(error.to_string()).into()
        }
        RestoreError::Cancelled => Failed::Here(Ended::Stopped),
        error => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> Failed {
    Failed::Here(Ended::Store(in_full(error)))
}

/// A manifest ends with a hash of itself.
fn name_of(manifest: &[u8]) -> SnapshotId {
    SnapshotId(manifest[manifest.len().saturating_sub(32)..].to_vec())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens a file and locks it; `None` when somebody else has it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
        // Whoever had it has removed it meanwhile.
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Elsewhere a file that is open keeps its name.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}
