//! A link of two subjects.

use std::sync::Arc;

use opor_transport_kit::link as halves;
use opor_transport_traits::{Link, Peer};

use crate::carry::{Wire, carry};
use crate::flow::Flow;
use crate::wire::{FRAMES_IN_FLIGHT_MAX, LIMITS};

/// What errors begin with.
const NAME: &str = "nats";

/// All frames that the peer may send before the receiver is given some, and its close: so there is always room.
const QUEUED_MAX: usize = FRAMES_IN_FLIGHT_MAX as usize + 1;

/// Makes a link of two subjects.
pub(crate) fn link(wire: Wire, peer: Peer) -> Link {
    let flow = Arc::new(Flow::default());
    let counting = flow.clone();
    let (link, carriage) = halves(NAME, LIMITS, QUEUED_MAX, peer, move |frame| counting.give(frame.len()));
    tokio::spawn(carry(wire, carriage, flow));
    link
}
