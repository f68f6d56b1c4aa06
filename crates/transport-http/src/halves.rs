//! The halves of an end.

use std::fmt;
use std::sync::Arc;

use opor_transport_traits::{
    Bytes, CloseReason, Link, Peer, Received, Receiver, Sender, TransportError, async_trait,
};

use crate::limits::LIMITS;
use crate::state::LinkState;

/// The end of a link that somebody carries.
pub(crate) fn link(state: &Arc<LinkState>, peer: &Peer) -> Link {
    let sender = HttpSender { state: state.clone(), peer: peer.clone() };
    let receiver = HttpReceiver { state: state.clone(), peer: peer.clone() };
    Link::new(sender, receiver, LIMITS, peer.clone())
}

struct HttpSender {
    state: Arc<LinkState>,
    peer: Peer,
}

#[async_trait]
impl Sender for HttpSender {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        self.state.send(frame).await
    }

    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError> {
        self.state.close(reason)
    }
}

impl Drop for HttpSender {
    fn drop(&mut self) {
        self.state.drop_sender();
    }
}

struct HttpReceiver {
    state: Arc<LinkState>,
    peer: Peer,
}

#[async_trait]
impl Receiver for HttpReceiver {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        self.state.recv().await
    }
}

impl Drop for HttpReceiver {
    fn drop(&mut self) {
        self.state.drop_receiver();
    }
}

impl fmt::Debug for HttpSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSender").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl fmt::Debug for HttpReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpReceiver").field("peer", &self.peer).finish_non_exhaustive()
    }
}
