//! The handle of an application: what is synced with whom, and how it goes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opor_core::{DbVersion, DecodeLimits};
use opor_store::{Commits, HandleError, Store, StoreHandle};
use opor_sync_proto::{Config, ConfigError, Hello, MonoMillis, Refusal, Role, Session, Timeouts, Token};
use opor_transport_traits::{Dialer, Listener};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::peers::{keep, serve};
use crate::status::{PeerHandle, SyncEvent, SyncEvents, SyncStatus};

/// Events that wait for a slow reader; older ones are told as missed. A catch-up of a gigabyte has about as many.
const EVENTS_MAX: usize = 1024;

/// How often other processes that write to the file are looked for: soon for a person who waits, and rare beside what the
/// question costs, which is a hop to a reader's thread.
const LOOK_EVERY: Duration = Duration::from_millis(500);

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
/// status.wait_for(|status| *status == SyncStatus::Live).await?;
/// phone.stop().await;
/// hub.stop().await;
/// # Ok::<_, Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Replicator {
    peers: Vec<PeerHandle>,
    events: broadcast::WeakSender<SyncEvent>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
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
        let config = Config::new(opor_core::SiteId::from([0; 16]), room);
        Builder {
            store,
            config,
            backoff: Backoff::default(),
            look_every: LOOK_EVERY,
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
    /// What was committed and not sent yet travels the next time; nothing that was acknowledged is lost.
    ///
    /// # Cancel safety
    /// Dropped, it ends at once, as dropping the replicator does.
    ///
    /// # Panics
    /// When a task of a peer has panicked.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
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
    admit: Box<AdmitRule>,
    decode_limits: DecodeLimits,
    merge_turns: Option<Arc<Semaphore>>,
    dialers: Vec<Box<dyn Dialer>>,
    listeners: Vec<Box<dyn Listener>>,
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
        let (told, commits) = watch::channel(DbVersion(0));
        let (stop, asked) = watch::channel(false);
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let weak_events = events.downgrade();
        let written = self.store.commits();
        let shared = Arc::new(Shared {
            store: self.store.clone(),
            config: self.config,
            backoff: self.backoff,
            admit: self.admit,
            decode_limits: self.decode_limits,
            merge_turns: self.merge_turns,
            commits,
            stop: asked.clone(),
            events,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_commits(self.store, written, self.look_every, told, asked));
        let mut peers = Vec::new();
        for dialer in self.dialers {
            let (status, seen) = watch::channel(SyncStatus::Connecting);
            peers.push(PeerHandle { target: dialer.target().clone(), status: seen });
            tasks.spawn(keep(shared.clone(), dialer, status));
        }
        for listener in self.listeners {
            tasks.spawn(serve(shared.clone(), listener));
        }
        Ok(Replicator { peers, events: weak_events, stop, tasks })
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
