//! What a program sees of its sessions.

use std::sync::Arc;

use opor_core::{DbVersion, SiteId};
use opor_transport_traits::Peer;
use tokio::sync::{broadcast, watch};

use crate::verdict::Ended;

/// How it stands with a peer that is dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncStatus {
    /// There is no link; the next attempt comes by itself, unless syncing was stopped.
    Offline,
    /// It is being dialled, or the sides introduce themselves.
    Connecting,
    /// Both let each other in, and what was missed is on its way.
    CatchingUp {
        /// In which way, and so what is counted.
        by: CatchUp,
        /// How much is durable here.
        done: u64,
        /// How much there is in all, where that is known.
        total: Option<u64>,
    },
    /// All that the peer had is durable here, and what is committed at either side travels at once.
    Live {
        /// Commits here that the peer has not acknowledged; what it sent itself does not count.
        lag: u64,
    },
    /// The peer cannot be synced with as things are; it is not dialled any more.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A way to catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// The log of the peer; counted in changes, and how many there are nobody knows beforehand.
    Log,
    /// A snapshot; counted in bytes of the image.
    Snapshot,
}

impl SyncStatus {
    /// Whether what is committed travels at once.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Live { .. })
    }
}

/// A peer that is dialled.
#[derive(Clone, Debug)]
pub struct PeerHandle {
    pub(crate) target: Peer,
    pub(crate) status: watch::Receiver<SyncStatus>,
    pub(crate) last_end: watch::Receiver<Option<Arc<Ended>>>,
}

impl PeerHandle {
    /// Whom it dials.
    #[must_use]
    pub const fn target(&self) -> &Peer {
        &self.target
    }

    /// The status, to look at or to wait on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<SyncStatus> {
        self.status.clone()
    }

    /// How the last attempt or session ended, when one has. It is known before the status says so.
    #[must_use]
    pub fn last_end(&self) -> Option<Arc<Ended>> {
        self.last_end.borrow().clone()
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SyncEvent {
    /// A session is open.
    Open {
        /// The other end of the link.
        peer: Peer,
        /// The replica there.
        site: SiteId,
    },
    /// What the peer wrote is durable here.
    Merged {
        /// From whom.
        site: SiteId,
        /// In how many rows there were changes.
        rows: usize,
        /// How many changes came; for a snapshot how many of them were taken.
        changes: usize,
        /// How many of them were known here.
        unchanged: usize,
        /// The version that the merge took here, if it changed anything.
        version: Option<DbVersion>,
    },
    /// Some of what the peer wrote cannot be stored here yet. It is kept, passed on to others, and stored once it can be;
    /// see [`Store::quarantine`](opor_store::Store::quarantine).
    Quarantined {
        /// From whom.
        site: SiteId,
        /// How many changes.
        changes: usize,
    },
    /// What the peer wrote breaks rules of tables here, together with what is here. It is merged all the same; see
    /// [`Store::conflicts`](opor_store::Store::conflicts).
    Conflict {
        /// From whom.
        site: SiteId,
        /// How many rules, row by row.
        violations: usize,
    },
    /// A piece of the log was read and is on its way to the peer. What the peer holds, [`Acknowledged`](Self::Acknowledged)
    /// tells.
    Sending {
        /// To whom.
        site: SiteId,
        /// In how many rows there are changes.
        rows: usize,
        /// How many changes there are.
        changes: usize,
    },
    /// All that the peer had committed when it last read is durable here.
    CaughtUp {
        /// The peer.
        site: SiteId,
    },
    /// The peer holds what was committed here up to this version.
    Acknowledged {
        /// The peer.
        site: SiteId,
        /// The version.
        version: DbVersion,
    },
    /// A snapshot of the peer is on its way.
    SnapshotBegun {
        /// The peer.
        site: SiteId,
        /// How large the image is.
        bytes: u64,
        /// How many chunks it has.
        chunks: u64,
        /// How many of them are here from an earlier attempt.
        held: u64,
    },
    /// A snapshot of the peer was merged; [`Merged`](Self::Merged) says what that changed.
    SnapshotInstalled {
        /// The peer.
        site: SiteId,
    },
    /// An image of this replica was made, to be given to peers.
    ImageMade {
        /// How large it is.
        bytes: u64,
    },
    /// No image could be made; whoever asked is told that there is none.
    ImageFailed {
        /// Why.
        reason: String,
    },
    /// An image was removed: nobody had asked for it for a while, or a newer one takes its place.
    ImageRemoved,
    /// A dial failed, or a session ended.
    Ended {
        /// The other end.
        peer: Peer,
        /// How.
        how: Arc<Ended>,
    },
    /// A listener failed as a whole; it takes no more links.
    ListenerFailed {
        /// Where it listened.
        address: String,
        /// How.
        how: Arc<Ended>,
    },
    /// So many events were not read in time, and are gone.
    Missed(u64),
}

/// The events since it was made.
#[derive(Debug)]
pub struct SyncEvents(pub(crate) broadcast::Receiver<SyncEvent>);

impl SyncEvents {
    /// The next event; `None` once syncing has ended.
    ///
    /// # Cancel safety
    /// Safe: what has not been returned, a later call returns.
    pub async fn next(&mut self) -> Option<SyncEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(SyncEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
