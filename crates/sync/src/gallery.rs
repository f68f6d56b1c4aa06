//! The images that are given to peers: made when one is asked for, shared by all sessions, and few.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opor_store::{Cursor as StoreCursor, Manifest, ReadError, Snapshot, Store, StoreHandle};
use opor_sync_proto::{Found, Offer, Resume, SnapshotId};
use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::replicator::stopped;
use crate::status::SyncEvent;
use crate::verdict::{Ended, in_full};
use crate::work::{Failed, opaque};

/// Images on disk at once: the one that is given, and the one before it, which peers may still be taking.
const IMAGES_MAX: usize = 2;

/// Chunks that are read and compressed at once, for all sessions: that keeps some fast links busy, and the memory of
/// however many sessions at a few megabytes.
const CHUNKS_AT_ONCE: usize = 4;

/// How images are kept.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Where they are made.
    pub(crate) folder: PathBuf,
    /// How long one is kept that nobody asks for.
    pub(crate) keep: Duration,
    /// A log of more rows than these is too long; see [`Store::is_far_behind`].
    pub(crate) far: u64,
}

/// The images there are.
pub(crate) struct Gallery {
    store: StoreHandle,
    rules: Rules,
    stopping: Arc<AtomicBool>,
    events: broadcast::Sender<SyncEvent>,
    /// The newest last.
    images: Mutex<Vec<Kept>>,
    /// Whoever holds it looks for an image or makes one; the others wait for it, and share it.
    making: tokio::sync::Mutex<()>,
    reading: Semaphore,
    changed: Notify,
}

struct Kept {
    image: Arc<Image>,
    used: Instant,
}

struct Image {
    snapshot: Snapshot,
    manifest: Vec<u8>,
    id: SnapshotId,
}

impl Image {
    fn cursor(&self) -> StoreCursor {
        self.snapshot.manifest().cursor()
    }
}

impl Gallery {
    pub(crate) fn new(
        store: StoreHandle,
        rules: Rules,
        stopping: Arc<AtomicBool>,
        events: broadcast::Sender<SyncEvent>,
    ) -> Self {
        Self {
            store,
            rules,
            stopping,
            events,
            images: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            reading: Semaphore::new(CHUNKS_AT_ONCE),
            changed: Notify::new(),
        }
    }

    /// A log of more rows than these is too long.
    pub(crate) const fn far(&self) -> u64 {
        self.rules.far
    }

    /// A snapshot: the one that the peer has begun to take, if it still fits; else the newest that does; else a new one.
    pub(crate) async fn offer(&self, resume: Option<Resume>, item_max: u64) -> Result<Found, Failed> {
        if item_max < Manifest::CHUNK_BYTES_MAX as u64 {
            return Ok(Found::NoSnapshot);
        }
        let _alone = self.making.lock().await;
        let image = match self.fitting(resume.as_ref()).await? {
            Some(image) => image,
            None => match self.make().await {
                Ok(image) => image,
                Err(reason) => {
                    self.tell(SyncEvent::ImageFailed { reason });
                    return Ok(Found::NoSnapshot);
                }
            },
        };
        let chunks = u64::from(image.snapshot.manifest().chunks());
        if image.manifest.len() as u64 > item_max || chunks == 0 {
            return Ok(Found::NoSnapshot);
        }
        let held = resume.filter(|resume| resume.id == image.id).map_or(0, |resume| resume.index);
        let offer = Offer {
            id: image.id.clone(),
            chunks,
            bytes: image.snapshot.manifest().image_bytes,
            first: held.min(chunks - 1),
            cursor: opaque(&image.cursor()),
        };
        Ok(Found::Snapshot { offer, manifest: image.manifest.clone() })
    }

    /// A chunk of an image, unless that is gone.
    pub(crate) async fn chunk(&self, id: &SnapshotId, index: u64) -> Result<Found, Failed> {
        let Some(image) = self.find(id) else { return Ok(Found::NoSnapshot) };
        let _turn = self.reading.acquire().await.expect("it is never closed");
        let chunk = spawn_blocking(move || {
            // The session asks for those that the offer has.
            let index = u32::try_from(index).expect("an image has fewer chunks");
            image.snapshot.chunk(index)
        });
        match chunk.await {
            Ok(Ok(chunk)) => Ok(Found::Chunk(chunk)),
            Ok(Err(error)) => Err(Failed::Here(Ended::Store(in_full(&error)))),
            Err(error) => Err(Failed::Here(Ended::Store(error.to_string()))),
        }
    }

    fn find(&self, id: &SnapshotId) -> Option<Arc<Image>> {
        let mut images = self.images();
        let kept = images.iter_mut().find(|kept| kept.image.id == *id)?;
        kept.used = Instant::now();
        Some(kept.image.clone())
    }

    /// An image from whose cursor a peer can go on, and need not be sent to another image at once.
    async fn fitting(&self, resume: Option<&Resume>) -> Result<Option<Arc<Image>>, Failed> {
        let mut images: Vec<_> = self.images().iter().rev().map(|kept| kept.image.clone()).collect();
        images.sort_by_key(|image| resume.is_none_or(|resume| resume.id != image.id));
        for image in images {
            let (cursor, far) = (image.cursor(), self.rules.far);
            let fits = self.store.read(move |store| store.is_far_behind(&cursor, far)).await?;
            match fits {
                Ok(false) => return Ok(self.find(&image.id)),
                // It may still do for those who are taking it.
                Ok(true) => {}
                Err(ReadError::BehindHorizon { .. }) => self.remove(|kept| kept.image.id == image.id),
                Err(error) => return Err(Failed::Here(Ended::Store(in_full(&error)))),
            }
        }
        Ok(None)
    }

    /// Makes an image, on a thread and a connection of its own: nobody else has to wait for it.
    async fn make(&self) -> Result<Arc<Image>, String> {
        let (folder, stopping) = (self.rules.folder.clone(), self.stopping.clone());
        let job = move |store: &Store| {
            store.snapshot_in(&folder, &mut |_| match stopping.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        };
        let made = self.store.aside(job).await.map_err(|error| in_full(&error))?;
        let snapshot = made.map_err(|error| in_full(&error))?.map_err(|error| in_full(&error))?;
        let manifest = snapshot.manifest().to_bytes();
        // The manifest ends with a hash of itself.
        let id = SnapshotId(manifest[manifest.len() - 32..].to_vec());
        self.tell(SyncEvent::ImageMade { bytes: snapshot.manifest().image_bytes });
        let image = Arc::new(Image { snapshot, manifest, id });
        let kept = Kept { image: image.clone(), used: Instant::now() };
        let mut images = self.images();
        images.push(kept);
        let surplus = images.len().saturating_sub(IMAGES_MAX);
        let removed: Vec<_> = images.drain(..surplus).collect();
        drop(images);
        self.changed.notify_one();
        removed.iter().for_each(|_| self.tell(SyncEvent::ImageRemoved));
        Ok(image)
    }

    /// Removes images that nobody has asked for in a while, until syncing stops.
    pub(crate) async fn tidy(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            let next = self.images().iter().map(|kept| kept.used + self.rules.keep).min();
            tokio::select! {
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let now = Instant::now();
                    self.remove(|kept| kept.used + self.rules.keep <= now);
                }
                () = self.changed.notified() => {}
                () = stopped(&mut stop) => return,
            }
        }
    }

    fn remove(&self, goes: impl Fn(&Kept) -> bool) {
        let removed: Vec<Kept> = self.images().extract_if(.., |kept| goes(kept)).collect();
        removed.iter().for_each(|_| self.tell(SyncEvent::ImageRemoved));
    }

    fn tell(&self, event: SyncEvent) {
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    fn images(&self) -> MutexGuard<'_, Vec<Kept>> {
        // Nothing under the lock panics halfway through a change.
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
