//! What the parts of a room's task share.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opor_core::{DbVersion, SiteId};
use opor_store::{OpenOptions, StoreHandle};
use opor_sync_proto::Echoes;
use opor_transport_nats::NatsOptions;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;

use crate::names::Names;
use crate::room::Settings;
use crate::status::{Counters, RoomCatchUp, RoomEvent, RoomStatus};

/// Own messages that are remembered until they come back: more are merged, which changes nothing.
const OWN_MAX: usize = 4096;

/// What outlives connections.
pub(crate) struct Shared {
    pub(crate) store: StoreHandle,
    pub(crate) site: SiteId,
    pub(crate) address: String,
    pub(crate) options: NatsOptions,
    pub(crate) names: Arc<Names>,
    pub(crate) settings: Settings,
    /// How images of snapshots are opened.
    pub(crate) open_options: OpenOptions,
    /// Where images are put together.
    pub(crate) folder: PathBuf,
    pub(crate) commits: watch::Receiver<DbVersion>,
    /// Up to where all that is here has been published, as it is kept in the database.
    pub(crate) published: watch::Sender<DbVersion>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) status: watch::Sender<RoomStatus>,
    pub(crate) events: broadcast::Sender<RoomEvent>,
    pub(crate) counters: Arc<Counters>,
    /// The versions here that merges from the room took.
    pub(crate) echoes: Arc<Mutex<Echoes>>,
    /// A lease of somebody else: its number, and since when it has been seen.
    pub(crate) lease_seen: Mutex<Option<(u64, Instant)>>,
}

impl Shared {
    /// Tells how far it is, while it is catching up.
    pub(crate) fn catching_up(&self, by: RoomCatchUp, done: u64, total: Option<u64>) {
        let now = RoomStatus::CatchingUp { by, done, total };
        self.status.send_if_modified(|status| {
            let is_news = matches!(status, RoomStatus::CatchingUp { .. }) && *status != now;
            if is_news {
                *status = now;
            }
            is_news
        });
    }

    pub(crate) fn tell(&self, event: RoomEvent) {
        // Nobody has to listen.
        let _ = self.events.send(event);
    }
}

/// What lasts as long as a connection.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    /// Whether all that was in the log has been read.
    pub(crate) caught_up: watch::Sender<bool>,
    /// A snapshot is due, or wanted by somebody whose request has this number.
    pub(crate) snapshot_due: Notify,
    pub(crate) wanted: Mutex<Option<u64>>,
    /// Messages of the log that were read since it was last looked whether a snapshot is due.
    pub(crate) unlooked: AtomicU64,
    /// Held while a snapshot is taken.
    pub(crate) taking: tokio::sync::Mutex<()>,
    /// The snapshots that were taken.
    pub(crate) taken: Mutex<BTreeSet<String>>,
    own: Mutex<BTreeSet<u64>>,
}

impl Visit {
    /// Notes a message of ours.
    pub(crate) fn published(&self, sequence: u64) {
        let mut own = locked(&self.own);
        if own.len() == OWN_MAX {
            own.pop_first();
        }
        own.insert(sequence);
    }

    /// Whether a message is ours, and known to be held.
    pub(crate) fn take_own(&self, sequence: u64) -> bool {
        locked(&self.own).remove(&sequence)
    }

    /// Waits until all that was in the log has been read.
    pub(crate) async fn until_caught_up(&self) {
        // The other end of this channel is `self`, so waiting cannot fail while somebody waits.
        let _ = self.caught_up.subscribe().wait_for(|done| *done).await;
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that runs under these locks panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
