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

#[cfg(test)]
mod tests {
    use opor_store::OpenOptions;

    use super::*;

    struct Scene {
        folder: tempfile::TempDir,
        gallery: Gallery,
        events: broadcast::Receiver<SyncEvent>,
    }

    /// A gallery of a store with rows; a log of more than `far` rows is too long.
    async fn scene(far: u64) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StoreHandle::open(folder.path().join("app.db"), &OpenOptions::new(), 1).expect("a store");
        let create = |store: &mut Store| {
            store
                .execute_batch("CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title)")
                .expect("a table");
            store.replicate("todos").expect("it replicates");
        };
        store.write(create).await.expect("the handle is open");
        let images = folder.path().join("images");
        std::fs::create_dir(&images).expect("a folder");
        let rules = Rules { folder: images, keep: Duration::from_secs(600), far };
        let (told, events) = broadcast::channel(64);
        let gallery = Gallery::new(store, rules, Arc::default(), told);
        let scene = Scene { folder, gallery, events };
        scene.fill().await;
        scene
    }

    impl Scene {
        /// So many rows that they are the most of all.
        async fn fill(&self) {
            let job = |store: &mut Store| {
                let numbers =
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)";
                let insert = format!("INSERT OR REPLACE INTO todos {numbers} SELECT i, random() FROM n");
                store.execute_batch(&insert).expect("rows");
            };
            self.gallery.store.write(job).await.expect("the handle is open");
        }

        async fn offer(&self, resume: Option<Resume>) -> Offer {
            match self.gallery.offer(resume, 1 << 20).await {
                Ok(Found::Snapshot { offer, manifest }) => {
                    assert_eq!(offer.id.0, manifest[manifest.len() - 32..]);
                    offer
                }
                other => panic!("{other:?}"),
            }
        }

        async fn has(&self, id: &SnapshotId) -> bool {
            match self.gallery.chunk(id, 0).await {
                Ok(Found::Chunk(_)) => true,
                Ok(Found::NoSnapshot) => false,
                other => panic!("{other:?}"),
            }
        }

        fn files(&self) -> usize {
            std::fs::read_dir(self.folder.path().join("images")).expect("a folder").count()
        }
    }

    #[tokio::test]
    async fn an_image_is_shared_until_the_log_after_it_is_long() {
        let scene = scene(1_000).await;
        let first = scene.offer(None).await;
        assert_eq!(scene.offer(None).await, first);
        let resume = Some(Resume { id: first.id.clone(), index: 7_000 });
        assert_eq!(scene.offer(resume.clone()).await, Offer { first: first.chunks - 1, ..first.clone() });
        let unknown = Some(Resume { id: SnapshotId(vec![1]), index: 7 });
        assert_eq!(scene.offer(unknown).await, first);
        assert_eq!(scene.files(), 1);

        scene.fill().await;
        let second = scene.offer(resume).await;
        assert!(second.id != first.id && second.first == 0, "{second:?}");
        assert!(scene.has(&first.id).await, "those who have begun may go on");
        assert_eq!(scene.files(), 2);
    }

    #[tokio::test]
    async fn two_images_are_kept_and_older_ones_are_gone_for_all() {
        let mut scene = scene(1_000).await;
        let mut offers = Vec::new();
        for _ in 0..4 {
            offers.push(scene.offer(None).await);
            scene.fill().await;
        }
        assert_eq!(scene.files(), 2);
        let mut there = Vec::new();
        for offer in &offers {
            there.push(scene.has(&offer.id).await);
        }
        assert_eq!(there, [false, false, true, true]);
        let told = |events: &mut broadcast::Receiver<SyncEvent>| {
            let all = std::iter::from_fn(|| events.try_recv().ok());
            all.fold((0, 0), |(made, removed), event| match event {
                SyncEvent::ImageMade { .. } => (made + 1, removed),
                SyncEvent::ImageRemoved => (made, removed + 1),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(told(&mut scene.events), (4, 2));
    }

    #[tokio::test]
    async fn an_image_that_nobody_asks_for_goes() {
        let mut scene = scene(1_000).await;
        scene.gallery.rules.keep = Duration::ZERO;
        let offer = scene.offer(None).await;
        let (stop, asked) = watch::channel(false);
        let gallery = Arc::new(scene.gallery);
        let tidy = tokio::spawn(gallery.clone().tidy(asked));
        loop {
            match scene.events.recv().await.expect("it is told") {
                SyncEvent::ImageRemoved => break,
                other => assert!(matches!(other, SyncEvent::ImageMade { .. }), "{other:?}"),
            }
        }
        assert!(matches!(gallery.chunk(&offer.id, 0).await, Ok(Found::NoSnapshot)));
        stop.send_replace(true);
        tidy.await.expect("no panic");
    }

    #[tokio::test]
    async fn where_no_image_can_be_made_there_is_none() {
        let mut scene = scene(1_000).await;
        // A peer that takes smaller items than chunks are.
        assert!(matches!(scene.gallery.offer(None, 100_000).await, Ok(Found::NoSnapshot)));
        scene.gallery.rules.folder = scene.folder.path().join("missing");
        assert!(matches!(scene.gallery.offer(None, 1 << 20).await, Ok(Found::NoSnapshot)));
        let told = scene.events.try_recv();
        assert!(
            matches!(&told, Ok(SyncEvent::ImageFailed { reason }) if reason.contains("missing")),
            "{told:?}"
        );
        // Stopped while it is made.
        let folder = scene.folder.path().join("images");
        scene.gallery.rules.folder = folder;
        scene.gallery.stopping.store(true, Ordering::Relaxed);
        assert!(matches!(scene.gallery.offer(None, 1 << 20).await, Ok(Found::NoSnapshot)));
        assert_eq!(scene.files(), 0);
    }
}
