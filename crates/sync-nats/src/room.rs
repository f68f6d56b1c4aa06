//! The handle of an application: a database in a room, and how it goes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opor_core::DbVersion;
use opor_store::{Commits, HandleError, OpenOptions, Store, StoreHandle};
use opor_sync_proto::Echoes;
use opor_transport_nats::NatsOptions;
use opor_transport_traits::Backoff;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::error::{Verdict, in_full};
use crate::names::{Names, ROOM_MAX};
use crate::shared::Shared;
use crate::status::{Counters, RoomCounts, RoomEvent, RoomEvents, RoomStatus};
use crate::stream::Limits;
use crate::visit;

/// Events that wait for a slow reader; older ones are told as missed.
const EVENTS_MAX: usize = 1024;

/// How often other processes that write to the file are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Messages of the log between two snapshots: a newcomer reads twice as many at most, which takes seconds.
const SNAPSHOT_AFTER: u64 = 10_000;

/// How long a replica that makes a snapshot may be silent before another may make one.
const LEASE: Duration = Duration::from_secs(30);

/// At most half a minute: a broker is made for many who come at once, and says nothing to who is not there.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(30) };

/// What an application may choose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) backoff: Backoff,
    pub(crate) snapshot_after: u64,
    pub(crate) lease: Duration,
    pub(crate) limits: Limits,
}

/// Why a room was not joined.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A name that no room can have.
    #[error("the name of a room has 1 to {ROOM_MAX} bytes, this one has {len}")]
    RoomName {
        /// Its bytes.
        len: usize,
    },
    /// The store is closed, or failed.
    #[error("store could not be asked")]
    Store(#[from] HandleError),
}

/// Keeps a database in step with all others in a room, through the stream of a broker, until it is stopped or dropped. No
/// replica has to be reached by another, or to be there when another is.
///
/// What is committed here is published; what others published is merged, and the place in the log is stored in the transaction
/// of the merge. A broker that is not reached, is restarted, loses its end or all that it has: nothing is lost,
/// because each replica publishes again what the room lacks. `docs/nats.md` in the repository says how.
///
/// Dropped, it ends at once, as in a crash. [`stop`](Self::stop) waits for what is under way.
///
/// ```no_run
/// use opor_store::{OpenOptions, StoreHandle};
/// use opor_sync_nats::{RoomLog, RoomStatus};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let store = StoreHandle::open("app.db", &OpenOptions::new(), 2)?;
/// let room = RoomLog::builder(store, "nats://broker.example", "garden").join().await?;
/// room.status().wait_for(|status| *status == RoomStatus::Live).await?;
/// room.stop().await;
/// # Ok::<_, Box<dyn std::error::Error>>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RoomLog {
    status: watch::Receiver<RoomStatus>,
    published: watch::Receiver<DbVersion>,
    events: broadcast::WeakSender<RoomEvent>,
    counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl fmt::Debug for RoomLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomLog").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

impl RoomLog {
    /// Begins to describe which database joins which room, at a broker like `nats://host:4222` or `tls://host`.
    #[must_use]
    pub fn builder(store: StoreHandle, broker: impl Into<String>, room: impl Into<String>) -> Builder {
        Builder {
            store,
            address: broker.into(),
            room: room.into(),
            options: NatsOptions::new(),
            settings: Settings {
                backoff: BACKOFF,
                snapshot_after: SNAPSHOT_AFTER,
                lease: LEASE,
                limits: Limits { replicas: 1, bytes_max: None, age_max: None },
            },
            open_options: OpenOptions::new(),
            folder: None,
            look_every: LOOK_EVERY,
        }
    }

    /// The status, to look at or to wait on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RoomStatus> {
        self.status.clone()
    }

    /// Up to which version all that is committed here is in the room's log, or came from there. It begins at 0, and again
    /// whenever this replica starts over; a version with a status of [`Live`](RoomStatus::Live) is one of the present stream.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<DbVersion> {
        self.published.clone()
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> RoomEvents {
        let receiver = self.events.upgrade().map(|events| events.subscribe());
        RoomEvents(receiver.unwrap_or_else(|| broadcast::channel(1).1))
    }

    /// What has passed since the start.
    #[must_use]
    pub fn counts(&self) -> RoomCounts {
        self.counters.now()
    }

    /// Leaves the room, and ends. What was committed and not published yet is published the next time.
    ///
    /// # Cancel safety
    /// Dropped, it ends at once, as dropping the room does.
    ///
    /// # Panics
    /// When the task of the room has panicked.
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

/// Describes which database joins which room; made by [`RoomLog::builder`].
pub struct Builder {
    store: StoreHandle,
    address: String,
    room: String,
    options: NatsOptions,
    settings: Settings,
    open_options: OpenOptions,
    folder: Option<PathBuf>,
    look_every: Duration,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("room", &self.room)
            .field("options", &self.options)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// How the broker is reached: credentials, TLS, the namespace.
    #[must_use]
    pub fn options(mut self, options: NatsOptions) -> Self {
        self.options = options;
        self
    }

    /// How long to wait before connecting again.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// After so many messages of the log a snapshot is made, and the log is trimmed to what came after the one before.
    #[must_use]
    pub const fn snapshot_after(mut self, messages: u64) -> Self {
        self.settings.snapshot_after = if messages == 0 { 1 } else { messages };
        self
    }

    /// How long a replica that makes a snapshot may be silent before another may make one.
    #[must_use]
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease;
        self
    }

    /// On how many brokers of a cluster the stream is kept; it counts where the stream is made.
    #[must_use]
    pub const fn replicas(mut self, replicas: usize) -> Self {
        self.settings.limits.replicas = replicas;
        self
    }

    /// How large the stream may become; it counts where the stream is made. One that is full takes no more until it has
    /// been trimmed.
    #[must_use]
    pub const fn stream_bytes_max(mut self, bytes: i64) -> Self {
        self.settings.limits.bytes_max = Some(bytes);
        self
    }

    /// How long messages are kept; it counts where the stream is made. Who was away for longer needs a snapshot.
    #[must_use]
    pub const fn stream_age_max(mut self, age: Duration) -> Self {
        self.settings.limits.age_max = Some(age);
        self
    }

    /// How images of snapshots are opened and checked: how far ahead a stamp may be, say. Give what the database itself is
    /// opened with.
    #[must_use]
    pub fn open_options(mut self, options: OpenOptions) -> Self {
        self.open_options = options;
        self
    }

    /// Where images of snapshots are put together: beside the database, unless told otherwise.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// How often other processes that write to the file are looked for. What the handle itself writes is noticed at
    /// once.
    #[must_use]
    pub const fn look_every(mut self, look_every: Duration) -> Self {
        self.look_every = look_every;
        self
    }

    /// Starts the tasks, on the tokio runtime that this is called on. It needs IO and timers. The broker need not be there.
    ///
    /// # Errors
    /// See [`JoinError`]; nothing has been started then.
    ///
    /// # Panics
    /// When it is not called on a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropped before it is done, nothing has been started.
    pub async fn join(self) -> Result<RoomLog, JoinError> {
        if self.room.is_empty() || self.room.len() > ROOM_MAX {
            return Err(JoinError::RoomName { len: self.room.len() });
        }
        let about = |store: &Store| (store.site_id(), store.path().map(PathBuf::from));
        let (site, path) = self.store.read(about).await?;
        let (told, commits) = watch::channel(DbVersion(0));
        let (stop, asked) = watch::channel(false);
        let (status, seen) = watch::channel(RoomStatus::Offline);
        let (published, durable) = watch::channel(DbVersion(0));
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let weak_events = events.downgrade();
        let counters = Arc::new(Counters::default());
        let written = self.store.commits();
        let shared = Arc::new(Shared {
            store: self.store.clone(),
            site,
            address: self.address,
            names: Arc::new(Names::new(self.options.namespace(), &self.room)),
            options: self.options,
            settings: self.settings,
            open_options: self.open_options,
            folder: self.folder.unwrap_or_else(|| folder_of(path.as_deref())),
            commits,
            published,
            stop: asked.clone(),
            status,
            events,
            counters: counters.clone(),
            echoes: Arc::new(Mutex::new(Echoes::default())),
            lease_seen: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_commits(self.store, written, self.look_every, told, asked));
        tasks.spawn(keep(shared));
        Ok(RoomLog { status: seen, published: durable, events: weak_events, counters, stop, tasks })
    }
}

fn folder_of(path: Option<&Path>) -> PathBuf {
    let folder = path.and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) => folder.to_owned(),
        None if path.is_some_and(|path| !path.as_os_str().is_empty()) => PathBuf::from("."),
        None => std::env::temp_dir(),
    }
}

/// Keeps in step with the room, until it is stopped or refused.
async fn keep(shared: Arc<Shared>) {
    let mut stop = shared.stop.clone();
    let mut failures = 0_u32;
    loop {
        let ended = tokio::select! {
            ended = visit::run(&shared) => ended,
            () = stopped(&mut stop) => break,
        };
        let was_live = shared.status.borrow().clone() == RoomStatus::Live;
        failures = if was_live { 0 } else { failures };
        let Err(error) = ended else { break };
        let verdict = error.verdict();
        shared.status.send_replace(match verdict {
            Verdict::Retry | Verdict::Over => RoomStatus::Offline,
            Verdict::Refused => RoomStatus::Refused { reason: in_full(&error) },
        });
        shared.tell(RoomEvent::Ended { how: Arc::new(error) });
        if verdict != Verdict::Retry {
            return;
        }
        let pause = shared.settings.backoff.pause(failures, jitter());
        failures = failures.saturating_add(1);
        tokio::select! {
            () = sleep(pause) => {}
            () = stopped(&mut stop) => break,
        }
    }
    shared.status.send_replace(RoomStatus::Offline);
}

/// Randomness of the system; without it the middle, as if there were no jitter.
fn jitter() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

/// Waits until the room is to be left, or its handle is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _gone = stop.wait_for(|stopped| *stopped).await;
}

/// Tells of commits: at once of those made with the handle, and within a while of those of other processes.
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
            () = sleep(look_every) => match store.read(Store::db_version).await {
                Ok(Ok(version)) => Some(version),
                // A busy file is looked at again; the room meets what is worse itself.
                Ok(Err(_)) => continue,
                Err(_) => None,
            },
            () = stopped(&mut stop) => None,
        };
        let Some(version) = version else { return };
        told.send_if_modified(|last| std::mem::replace(last, version) != version);
    }
}
