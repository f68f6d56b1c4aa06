//! The handle of an application: what is synced with whom, and how it goes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opor_core::{DbVersion, DecodeLimits};
use opor_store::{Commits, HandleError, Store, StoreError, StoreHandle, remove_abandoned_images};
use opor_sync_proto::{
    Capabilities, Config, ConfigError, Hello, MonoMillis, Refusal, Role, Session, Timeouts, Token,
};
use opor_transport_traits::{Backoff, Dialer, Listener};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::{JoinSet, spawn_blocking};

use crate::gallery::{Gallery, Rules};
use crate::peers::{keep, serve};
use crate::status::{PeerHandle, SyncEvent, SyncEvents, SyncStatus};

/// Events that wait for a slow reader; older ones are told as missed. A catch-up of a gigabyte has about as many.
const EVENTS_MAX: usize = 1024;

/// How often other processes that write to the file are looked for: soon for a person who waits, and rare beside what the
/// question costs, which is a hop to a reader's thread.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Sessions of one listener at once. What each holds is bounded, and so is this.
const SESSIONS_MAX: usize = 1024;

/// Rows of the log above which a snapshot may be given instead. Below, some seconds of catching up show the first rows
/// at once, while an image has to be made, sent and merged whole before one is seen.
const SNAPSHOT_ROWS: u64 = 250_000;

/// The largest image that is taken. Chunks compress, so a peer could fill a disk with little traffic.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

/// How long an image is kept that nobody asks for: a peer that was cut off has come back by then, and others that were
/// away as long share it.
const IMAGE_KEEP: Duration = Duration::from_secs(600);

/// Who is let in.
pub(crate) type AdmitRule = dyn Fn(&Hello) -> Result<(), Refusal> + Send + Sync;

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) store: StoreHandle,
    /// For sessions that are dialled.
    pub(crate) config: Config,
    pub(crate) backoff: Backoff,
    pub(crate) admit: Box<AdmitRule>,
    pub(crate) decode_limits: DecodeLimits,
    pub(crate) merge_turns: Option<Arc<Semaphore>>,
    pub(crate) commits: watch::Receiver<DbVersion>,
    pub(crate) stop: watch::Receiver<bool>,
    /// The same, for work that blocks.
    pub(crate) stopping: Arc<AtomicBool>,
    pub(crate) gallery: Arc<Gallery>,
    /// Held by the session that takes a snapshot.
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) snapshot_bytes_max: u64,
    pub(crate) sessions_max: usize,
    events: broadcast::Sender<SyncEvent>,
}

impl Shared {
    pub(crate) fn tell(&self, event: SyncEvent) {
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    /// For a session that is accepted.
    pub(crate) fn responder(&self) -> Config {
        Config { role: Role::Responder, ..self.config.clone() }
    }
}

/// Waits until syncing is to stop, or its handle is gone.
///
/// # Cancel safety
/// Safe: the wish to stop stays.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _gone = stop.wait_for(|stopped| *stopped).await;
}

/// Why syncing did not start.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting with which no session works.
    #[error("sync is not set up right")]
    Config(#[from] ConfigError),
    /// The store is closed, or failed.
    #[error("store could not be asked")]
    Store(#[from] HandleError),
    /// The store could not say how far it is.
    #[error("store could not be read")]
    Read(#[source] Arc<StoreError>),
}

/// Keeps a database in step with its peers, until it is stopped or dropped.
///
/// Each peer has a task of its own: it dials, runs a session, and dials again after a pause when that ends. A listener
/// has one too, and one for each session it accepts. What one peer brings goes on to the others: a merge is a commit.
///
/// Dropped, it ends at once, as in a crash: nothing that was acknowledged is lost. [`stop`](Self::stop) says goodbye.
///
/// ```
/// use opor_store::{OpenOptions, StoreHandle};
/// use opor_sync::{Replicator, SyncStatus};
/// use opor_transport_memory::MemoryNetwork;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let folder = tempfile::tempdir()?;
/// let network = MemoryNetwork::new();
/// let mut replicas = Vec::new();
/// for name in ["hub", "phone"] {
///     let store = StoreHandle::open(folder.path().join(name), &OpenOptions::new(), 1)?;
///     let create = |store: &mut opor_store::Store| {
///         store.execute_batch("CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title TEXT)")?;
///         store.replicate("todos")?;
///         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
///     };
///     store.write(create).await?.expect("the table is new");
///     replicas.push(store);
/// }
/// let hub = Replicator::builder(replicas[0].clone(), "garden").listen(network.listen("hub")?).start().await?;
/// let phone =
///     Replicator::builder(replicas[1].clone(), "garden").peer(network.dialer("phone", "hub")).start().await?;
///
/// let mut status = phone.peers()[0].status();
/// status.wait_for(SyncStatus::is_live).await?;
/// phone.stop().await;
/// hub.stop().await;
/// # Ok::<_, Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Replicator {
    peers: Vec<PeerHandle>,
    events: broadcast::WeakSender<SyncEvent>,
    stop: watch::Sender<bool>,
    stopping: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Drop for Replicator {
    fn drop(&mut self) {
        // Tasks end with the set; what blocks has to be told.
        self.stopping.store(true, Ordering::Relaxed);
    }
}

impl fmt::Debug for Replicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicator").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl Replicator {
    /// Begins to describe what is to be synced: a database, with those in this room.
    #[must_use]
    pub fn builder(store: StoreHandle, room: impl Into<String>) -> Builder {
        // The site id is asked of the store at the start.
        let mut config = Config::new(opor_core::SiteId::from([0; 16]), room);
        config.capabilities = config.capabilities.with(Capabilities::SNAPSHOT);
        Builder {
            store,
            config,
            backoff: Backoff::default(),
            look_every: LOOK_EVERY,
            snapshots: Snapshots::default(),
            sessions_max: SESSIONS_MAX,
            admit: Box::new(|_| Ok(())),
            decode_limits: DecodeLimits::default(),
            merge_turns: None,
            dialers: Vec::new(),
            listeners: Vec::new(),
        }
    }

    /// The peers that are dialled, in the order in which they were named.
    #[must_use]
    pub fn peers(&self) -> &[PeerHandle] {
        &self.peers
    }

    /// What happens from now on, with whichever peer.
    #[must_use]
    pub fn events(&self) -> SyncEvents {
        let receiver = self.events.upgrade().map(|events| events.subscribe());
        SyncEvents(receiver.unwrap_or_else(|| broadcast::channel(1).1))
    }

    /// Says goodbye to all peers, waits for what the store is doing for them, and ends.
    ///
    /// What was committed and not sent yet travels the next time; nothing that was acknowledged is lost. A snapshot that
    /// is being made or merged is given up; chunks of one that has not come whole stay, to go on with.
    ///
    /// # Cancel safety
    /// Dropped, it ends at once, as dropping the replicator does.
    ///
    /// # Panics
    /// When a task of a peer has panicked.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        self.stopping.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Describes what is to be synced; made by [`Replicator::builder`].
pub struct Builder {
    store: StoreHandle,
    config: Config,
    backoff: Backoff,
    look_every: Duration,
    snapshots: Snapshots,
    sessions_max: usize,
    admit: Box<AdmitRule>,
    decode_limits: DecodeLimits,
    merge_turns: Option<Arc<Semaphore>>,
    dialers: Vec<Box<dyn Dialer>>,
    listeners: Vec<Box<dyn Listener>>,
}

/// Settings for snapshots.
struct Snapshots {
    folder: Option<PathBuf>,
    keep: Duration,
    rows: u64,
    bytes_max: u64,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { folder: None, keep: IMAGE_KEEP, rows: SNAPSHOT_ROWS, bytes_max: SNAPSHOT_BYTES_MAX }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("room", &self.config.room)
            .field("dialers", &self.dialers)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Keeps in step with whoever this dialer reaches.
    #[must_use]
    pub fn peer(mut self, dialer: impl Dialer + 'static) -> Self {
        self.dialers.push(Box::new(dialer));
        self
    }

    /// Keeps in step with whoever dials in.
    #[must_use]
    pub fn listen(mut self, listener: impl Listener + 'static) -> Self {
        self.listeners.push(Box::new(listener));
        self
    }

    /// What lets this replica in at its peers.
    #[must_use]
    pub fn token(mut self, token: impl Into<Vec<u8>>) -> Self {
        self.config.token = Token(token.into());
        self
    }

    /// Who that dials in is let in. Without a rule everybody is who asks for the room. It is asked on the runtime, so it
    /// must not block.
    #[must_use]
    pub fn admit(mut self, rule: impl Fn(&Hello) -> Result<(), Refusal> + Send + Sync + 'static) -> Self {
        self.admit = Box::new(rule);
        self
    }

    /// How long to wait before dialling again.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long peers are waited for.
    #[must_use]
    pub const fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.config.timeouts = timeouts;
        self
    }

    /// About how many changes travel at once.
    #[must_use]
    pub const fn changes_max(mut self, changes_max: usize) -> Self {
        self.config.changes_max = changes_max;
        self
    }

    /// The largest changeset that is taken, in bytes, and so the largest row. A peer may have as much under way that is not
    /// durable here; what it makes this side hold is bounded by that.
    #[must_use]
    pub const fn item_max(mut self, bytes: usize) -> Self {
        self.config.item_max = bytes;
        self.config.window = bytes;
        self
    }

    /// What a changeset may take when it is unpacked.
    #[must_use]
    pub const fn decode_limits(mut self, limits: DecodeLimits) -> Self {
        self.decode_limits = limits;
        self
    }

    /// A merge waits for one of these permits, and holds it while it unpacks and stores: for programs with many databases,
    /// whose merges together would take too much memory.
    #[must_use]
    pub fn merge_turns(mut self, turns: Arc<Semaphore>) -> Self {
        self.merge_turns = Some(turns);
        self
    }

    /// How often other processes that write to the file are looked for. What the handle itself writes is noticed at
    /// once.
    #[must_use]
    pub const fn look_every(mut self, look_every: Duration) -> Self {
        self.look_every = look_every;
        self
    }

    /// Neither gives snapshots nor takes them. A replica that needs one is then told
    /// [`Ended::SnapshotNeeded`](crate::Ended::SnapshotNeeded).
    #[must_use]
    pub const fn without_snapshots(mut self) -> Self {
        self.config.capabilities.0 &= !Capabilities::SNAPSHOT.0;
        self
    }

    /// A peer that asks for a log of more than about so many rows, which are at least half of all, is given a snapshot
    /// instead; 250,000 by default. Who has missed deletes that are no longer on record is given one whatever this says.
    #[must_use]
    pub const fn snapshot_rows(mut self, rows: u64) -> Self {
        self.snapshots.rows = rows;
        self
    }

    /// The largest image that is taken, in bytes; 4 GiB by default.
    #[must_use]
    pub const fn snapshot_bytes_max(mut self, bytes_max: u64) -> Self {
        self.snapshots.bytes_max = bytes_max;
        self
    }

    /// Where images are made for peers, in place of beside the database. Two at most, each about as large as that.
    #[must_use]
    pub fn image_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.snapshots.folder = Some(folder.into());
        self
    }

    /// How long an image is kept that no peer asks for; ten minutes by default.
    #[must_use]
    pub const fn image_keep(mut self, keep: Duration) -> Self {
        self.snapshots.keep = keep;
        self
    }

    /// How many sessions a listener has at once; 1024 by default. Further peers are told that it is busy, and come again.
    #[must_use]
    pub const fn sessions_max(mut self, sessions_max: usize) -> Self {
        self.sessions_max = sessions_max;
        self
    }

    /// Starts the tasks, on the tokio runtime that this is called on. It needs a timer.
    ///
    /// # Errors
    /// See [`StartError`]; nothing has been started then.
    ///
    /// # Panics
    /// When it is not called on a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing has been started.
    pub async fn start(mut self) -> Result<Replicator, StartError> {
        self.config.site = self.store.read(Store::site_id).await?;
        Session::new(self.config.clone(), MonoMillis(0))?;
        let version = self.store.read(Store::db_version).await?;
        let (told, commits) = watch::channel(version.map_err(|error| StartError::Read(Arc::new(error)))?);
        let (stop, asked) = watch::channel(false);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let weak_events = events.downgrade();
        let written = self.store.commits();
        let stopping = Arc::new(AtomicBool::new(false));
        let folder = self.snapshots.folder.unwrap_or_else(|| folder_of(self.store.path()));
        let rules = Rules { folder, keep: self.snapshots.keep, far: self.snapshots.rows };
        let abandoned = rules.folder.clone();
        // A folder that cannot be read has no image that could be in the way.
        spawn_blocking(move || remove_abandoned_images(&abandoned));
        let gallery = Gallery::new(self.store.clone(), rules, stopping.clone(), events.clone());
        let shared = Arc::new(Shared {
            store: self.store.clone(),
            config: self.config,
            backoff: self.backoff,
            admit: self.admit,
            decode_limits: self.decode_limits,
            merge_turns: self.merge_turns,
            commits,
            stop: asked.clone(),
            stopping: stopping.clone(),
            gallery: Arc::new(gallery),
            turns: Arc::new(Semaphore::new(1)),
            snapshot_bytes_max: self.snapshots.bytes_max,
            sessions_max: self.sessions_max,
            events,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(shared.gallery.clone().tidy(asked.clone()));
        tasks.spawn(watch_commits(self.store, written, self.look_every, told, asked));
        let mut peers = Vec::new();
        for dialer in self.dialers {
            let (status, seen) = watch::channel(SyncStatus::Connecting);
            let (ended, last_end) = watch::channel(None);
            peers.push(PeerHandle { target: dialer.target().clone(), status: seen, last_end });
            tasks.spawn(keep(shared.clone(), dialer, status, ended));
        }
        for listener in self.listeners {
            tasks.spawn(serve(shared.clone(), listener));
        }
        Ok(Replicator { peers, events: weak_events, stop, stopping, tasks })
    }
}

fn folder_of(database: &Path) -> PathBuf {
    match database.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Tells sessions of commits: at once of those made with the handle, and within a while of those of other processes.
async fn watch_commits(
    store: StoreHandle,
    mut written: Commits,
    look_every: Duration,
    told: watch::Sender<DbVersion>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let version = tokio::select! {
            version = written.next() => version,
            () = tokio::time::sleep(look_every) => match store.read(Store::db_version).await {
                Ok(Ok(version)) => Some(version),
                // A busy file is looked at again; sessions meet what is worse themselves.
                Ok(Err(_)) => continue,
                Err(_) => None,
            },
            () = stopped(&mut stop) => None,
        };
        let Some(version) = version else { return };
        told.send_if_modified(|last| std::mem::replace(last, version) != version);
    }
}
