//! One open room: a file, the thread that writes it, and the sessions of its replicas.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opor_core::DecodeLimits;
use opor_store::{HandleError, Store, StoreHandle};
use opor_sync::{Replicator, SyncEvents};
use opor_transport_traits::{Link, Listener, TransportError, TransportErrorKind, async_trait};
use tokio::sync::{Semaphore, mpsc};

use crate::event::{HubEvent, Teller};
use crate::{HubError, HubOptions, RoomName};

/// A request holds its decoded changes while it waits; more than these and the room is not keeping up.
const WRITES_WAITING_MAX: usize = 32;

/// Reads beside each other: a long one leaves another for the rest.
const READERS: usize = 2;

/// Memory for the changes of a changeset, for each byte that it may have: compressed ones unpack to this.
const MEMORY_PER_ITEM_BYTE: usize = 8;

/// An open room.
pub(crate) struct Room {
    name: RoomName,
    store: StoreHandle,
    /// Requests that write and wait for it.
    writes: Semaphore,
    links: mpsc::Sender<Link>,
    /// There until they are sent home.
    sessions: Mutex<Option<Replicator>>,
    closed: AtomicBool,
    teller: Teller,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Room {
    /// Opens the file, which is created when it is not there.
    pub(crate) async fn open(
        name: &RoomName,
        options: &HubOptions,
        merges: &Arc<Semaphore>,
        teller: &Teller,
    ) -> Result<Self, HubError> {
        let (path, of) = (name.file_in(&options.data_dir), options.clone());
        let opening = tokio::task::spawn_blocking(move || open(&path, &of));
        let store = opening.await.map_err(|_| HubError::Closing)??;
        let (links, accepted) = mpsc::channel(1);
        let item = options.item_bytes_max;
        let limits = DecodeLimits { bytes_max: item, memory_max: item.saturating_mul(MEMORY_PER_ITEM_BYTE) };
        let sessions = Replicator::builder(store.clone(), name.as_str())
            .listen(Doorway { links: accepted, address: format!("room {name}") })
            .timeouts(options.timeouts)
            .item_max(item)
            .decode_limits(limits)
            .merge_turns(merges.clone());
        let sessions = sessions.start().await?;
        tokio::spawn(pass_on(sessions.events(), name.clone(), teller.clone()));
        teller.tell(HubEvent::RoomOpened { room: name.clone() });
        Ok(Self {
            name: name.clone(),
            store,
            writes: Semaphore::new(WRITES_WAITING_MAX),
            links,
            sessions: Mutex::new(Some(sessions)),
            closed: AtomicBool::new(false),
            teller: teller.clone(),
        })
    }

    /// Reads beside whatever is being written.
    ///
    /// # Cancel safety
    /// A job that is queued is done even when nobody waits for it any more.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Store) -> Result<T, HubError> + Send + 'static,
    ) -> Result<T, HubError> {
        self.store.read(job).await.map_err(HubError::from)?
    }

    /// Writes.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read).
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<T, HubError> + Send + 'static,
    ) -> Result<T, HubError> {
        let _place = self.writes.try_acquire().map_err(|_| HubError::Busy { room: self.name.to_string() })?;
        self.store.write(job).await.map_err(HubError::from)?
    }

    /// Hands a link to the sessions of this room; gives it back when the room is being closed.
    pub(crate) async fn join(&self, link: Link) -> Result<(), Link> {
        self.links.send(link).await.map_err(|refused| refused.0)
    }

    /// Says goodbye to all sessions; none begins any more.
    pub(crate) async fn dismiss(&self) {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sessions) = sessions {
            sessions.stop().await;
        }
    }

    /// Says goodbye to all sessions, waits for what they have under way, and closes the file.
    pub(crate) async fn close(&self) {
        self.dismiss().await;
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let store = self.store.clone();
        // A panic in there has closed it too.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;
        self.teller.tell(HubEvent::RoomClosed { room: self.name.clone() });
    }
}

impl From<HandleError> for HubError {
    fn from(error: HandleError) -> Self {
        match error {
            HandleError::Closed => Self::Closing,
            HandleError::Panicked => Self::Failed,
        }
    }
}

fn open(path: &Path, options: &HubOptions) -> Result<StoreHandle, HubError> {
    let parent = path.parent().expect("a room's file is in the data directory");
    std::fs::create_dir_all(parent).map_err(HubError::Directory)?;
    if let Some(schema) = &options.schema {
        let mut store = options.open.open(path)?;
        // A file that a crash left empty is as new as one that was not there.
        if store.replicated_tables()?.is_empty() {
            schema.create_in(&mut store)?;
        }
    }
    Ok(StoreHandle::open(path, &options.open, READERS)?)
}

/// Tells what the sessions of a room tell, until they have ended.
async fn pass_on(mut events: SyncEvents, room: RoomName, teller: Teller) {
    while let Some(event) = events.next().await {
        teller.tell(HubEvent::Session { room: room.clone(), event });
    }
}

/// Where the links of a room come in: the server has accepted them already.
#[derive(Debug)]
struct Doorway {
    links: mpsc::Receiver<Link>,
    address: String,
}

#[async_trait]
impl Listener for Doorway {
    fn address(&self) -> &str {
        &self.address
    }

    async fn accept(&mut self) -> Result<Link, TransportError> {
        let gone = || TransportError::new(TransportErrorKind::Exhausted, self.address.as_str());
        self.links.recv().await.ok_or_else(gone)
    }
}
