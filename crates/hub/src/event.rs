//! What a hub tells of itself.

use std::sync::Arc;

use opor_sync::SyncEvent;
use tokio::sync::broadcast;

use crate::RoomName;

/// Events that wait for a slow reader; older ones are told as missed.
const EVENTS_MAX: usize = 1024;

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum HubEvent {
    /// A room was opened.
    RoomOpened {
        /// Which.
        room: RoomName,
    },
    /// A room was closed: nobody had used it for a while, or its place was needed.
    RoomClosed {
        /// Which.
        room: RoomName,
    },
    /// A session of a room has something to tell.
    Session {
        /// The room.
        room: RoomName,
        /// What.
        event: SyncEvent,
    },
    /// A peer was not let in.
    Refused {
        /// The other end.
        peer: Arc<str>,
        /// The room it wanted.
        room: RoomName,
        /// Why.
        why: Arc<str>,
    },
    /// So many events were not read in time, and are gone.
    Missed(u64),
}

/// The events since it was made.
#[derive(Debug)]
pub struct HubEvents(broadcast::Receiver<HubEvent>);

impl HubEvents {
    /// The next event; `None` once the hub is gone.
    ///
    /// # Cancel safety
    /// Safe: what has not been returned, a later call returns.
    pub async fn next(&mut self) -> Option<HubEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(HubEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Where events go.
#[derive(Clone, Debug)]
pub(crate) struct Teller(broadcast::Sender<HubEvent>);

impl Teller {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(EVENTS_MAX).0)
    }

    pub(crate) fn tell(&self, event: HubEvent) {
        // Nobody has to listen.
        let _ = self.0.send(event);
    }

    pub(crate) fn events(&self) -> HubEvents {
        HubEvents(self.0.subscribe())
    }
}
