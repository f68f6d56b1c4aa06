//! What a program sees of a room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opor_core::{DbVersion, SiteId};
use tokio::sync::broadcast;

use crate::error::RoomError;

/// How it stands with the room; the words are those of a session with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomStatus {
    /// The broker is not reached; the next attempt comes by itself, unless the room was stopped.
    Offline,
    /// The broker is being connected to.
    Connecting,
    /// What was missed is being read.
    CatchingUp {
        /// In which way, and so what is counted.
        by: RoomCatchUp,
        /// How much has been read.
        done: u64,
        /// How much there is in all, as far as the broker has told by now.
        total: Option<u64>,
    },
    /// All that was in the room's log is durable here, and what is committed travels at once.
    Live,
    /// The room cannot be joined as things are; no further attempt is made.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A way to catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomCatchUp {
    /// The room's log; counted in messages, own ones and others that bring nothing new among them.
    Log,
    /// A snapshot; counted in bytes of the image.
    Snapshot,
}

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RoomEvent {
    /// The room's log is open.
    Open,
    /// All that this replica holds is compared with what the room has, and what that lacks is published.
    Reset {
        /// Why.
        why: ResetReason,
    },
    /// A message of the log is durable here.
    Merged {
        /// Its number in the stream.
        sequence: u64,
        /// Who says to have published it.
        site: Option<SiteId>,
        /// In how many rows.
        rows: usize,
        /// How many changes it brought.
        changes: usize,
        /// How many of them were known here.
        unchanged: usize,
        /// The version that the merge took here, if it changed anything.
        version: Option<DbVersion>,
    },
    /// A message of the log was left out. Others are not affected.
    Skipped {
        /// Its number in the stream.
        sequence: u64,
        /// Why.
        why: Skip,
        /// In words.
        detail: String,
    },
    /// All that was in the log when it was opened is durable here.
    CaughtUp,
    /// What was committed here up to this version is in the room's log, or came from there.
    Published {
        /// The version.
        version: DbVersion,
        /// The number of the message in the stream.
        sequence: u64,
        /// How many rows are in it.
        rows: usize,
        /// How many changes are in it.
        changes: usize,
        /// The broker had it already.
        is_duplicate: bool,
    },
    /// A snapshot was made and is in the object store.
    SnapshotMade {
        /// Everything in the log up to here is in it.
        covers: u64,
        /// Everything in the log up to here has been removed from there.
        floor: u64,
    },
    /// A snapshot was due and could not be made. It is tried again when the log has grown further.
    SnapshotFailed {
        /// How.
        how: Arc<RoomError>,
    },
    /// A snapshot was merged here.
    SnapshotTaken {
        /// Who made it.
        site: SiteId,
        /// Everything in the log up to here was in it.
        covers: u64,
        /// How many rows it changed here.
        rows: usize,
        /// How many values, new rows and deletes it brought.
        changes: usize,
        /// Chunks that had to be fetched.
        chunks: u32,
    },
    /// A snapshot that is needed cannot be had; others are asked for one.
    SnapshotWanted {
        /// Why.
        detail: String,
    },
    /// An attempt failed, or the connection ended.
    Ended {
        /// How.
        how: Arc<RoomError>,
    },
    /// So many events were not read in time, and are gone.
    Missed(u64),
}

/// Why a replica starts over with a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetReason {
    /// It was never here.
    FirstVisit,
    /// The stream is another one than the last time: the broker was wiped, or the stream was made anew.
    OtherStream,
    /// The stream has lost its end, as brokers may at a power cut.
    LostEnd,
    /// An earlier start over was cut short.
    Interrupted,
    /// Our own log has been cut where it was not published yet.
    OwnHistoryCut,
}

/// Why a message was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Skip {
    /// It is none of a room's log, or is damaged.
    Malformed,
    /// A stamp is too far ahead of the time here. Tried again later.
    Drift,
    /// A table or column is not here, or has other rules. Tried again later.
    Schema,
    /// Its parts are not in the stream any more.
    PartsMissing,
}

impl Skip {
    /// Whether the same message may fit another time.
    pub(crate) const fn may_fit_later(self) -> bool {
        matches!(self, Self::Drift | Self::Schema)
    }
}

/// The events since it was made.
#[derive(Debug)]
pub struct RoomEvents(pub(crate) broadcast::Receiver<RoomEvent>);

impl RoomEvents {
    /// The next event; `None` once the room has been left.
    ///
    /// # Cancel safety
    /// Safe: what has not been returned, a later call returns.
    pub async fn next(&mut self) -> Option<RoomEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(RoomEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// What has passed since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomCounts {
    /// Messages of the log that were read, own ones too.
    pub read: u64,
    /// Messages that were published.
    pub published: u64,
    /// Messages that were left out.
    pub skipped: u64,
    /// Connections to the broker.
    pub connects: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) read: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) connects: AtomicU64,
}

impl Counters {
    pub(crate) fn one_more(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> RoomCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RoomCounts {
            read: of(&self.read),
            published: of(&self.published),
            skipped: of(&self.skipped),
            connects: of(&self.connects),
        }
    }
}
