//! The halves of an end.

use std::fmt;
use std::sync::Arc;

use opor_transport_traits::{
    Bytes, CloseReason, Link, Peer, Received, Receiver, Sender, TransportError, TransportErrorKind as Kind,
    async_trait,
};
use tokio::sync::{mpsc, oneshot};

use crate::carry::{Command, Wire, carry};
use crate::ending::{Ending, gone};
use crate::flow::Flow;
use crate::wire::{FRAME_MAX, LIMITS};

/// Commands that wait for the task: one, which is not done yet.
const COMMANDS_MAX: usize = 1;

/// Makes a link of two subjects.
pub(crate) fn link(wire: Wire, peer: Peer) -> Link {
    let (commands, to_do) = mpsc::channel(COMMANDS_MAX);
    // Bounded by what the peer may send before it is given; see `flow.rs`.
    let (give, given) = mpsc::unbounded_channel();
    let (ending, flow) = (Arc::new(Ending::default()), Arc::new(Flow::default()));
    tokio::spawn(carry(wire, to_do, give, ending.clone(), flow.clone()));
    let sender = NatsSender { commands, ending: ending.clone(), peer: peer.clone() };
    let receiver = NatsReceiver { given, closed: None, ending, flow, peer: peer.clone() };
    Link::new(sender, receiver, LIMITS, peer)
}

struct NatsSender {
    commands: mpsc::Sender<Command>,
    ending: Arc<Ending>,
    peer: Peer,
}

impl NatsSender {
    /// Has the task do something; no means that the link has ended.
    async fn order(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> bool {
        let (answer, answered) = oneshot::channel();
        // A command that is cancelled here has been queued whole, or not at all.
        self.commands.send(command(answer)).await.is_ok() && answered.await.is_ok()
    }
}

#[async_trait]
impl Sender for NatsSender {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        if frame.len() > FRAME_MAX {
            return Err(TransportError::frame_too_large(frame.len(), LIMITS));
        }
        if let Some(error) = self.ending.of_sending() {
            return Err(error);
        }
        match self.order(|answer| Command::Send(frame, answer)).await {
            true => Ok(()),
            false => Err(self.ending.of_sending().unwrap_or_else(gone)),
        }
    }

    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError> {
        let ended = self.ending.of_sending();
        if ended.is_none() && self.order(|answer| Command::Close(reason, answer)).await {
            return Ok(());
        }
        match self.ending.of_sending().unwrap_or_else(gone) {
            error if error.kind() == Kind::Closed => Ok(()),
            error => Err(error),
        }
    }
}

struct NatsReceiver {
    given: mpsc::UnboundedReceiver<Received>,
    /// What has been given last, when it was a close.
    closed: Option<CloseReason>,
    ending: Arc<Ending>,
    flow: Arc<Flow>,
    peer: Peer,
}

#[async_trait]
impl Receiver for NatsReceiver {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        if let Some(reason) = &self.closed {
            return Ok(Received::Closed(reason.clone()));
        }
        let Some(received) = self.given.recv().await else {
            return Err(self.ending.of_receiving());
        };
        match &received {
            Received::Frame(frame) => self.flow.give(frame.len()),
            Received::Closed(reason) => self.closed = Some(reason.clone()),
        }
        Ok(received)
    }
}

impl fmt::Debug for NatsSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSender").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl fmt::Debug for NatsReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsReceiver").field("peer", &self.peer).finish_non_exhaustive()
    }
}
