//! The halves of an end.

use std::fmt;
use std::sync::Arc;

use opor_transport_traits::{
    Bytes, CloseReason, Link, Peer, Received, Receiver, Sender, TransportError, async_trait,
};
use tokio::time::sleep_until;

use crate::wire::{LIMITS, Side, Taken, Wire};

/// The end of a wire at this side.
pub(crate) fn end(wire: &Arc<Wire>, side: Side) -> Link {
    let peer = Peer::new(format!("memory:{}", wire.name(side.other())));
    let sender = MemorySender(Half { wire: wire.clone(), side });
    let receiver = MemoryReceiver(Half { wire: wire.clone(), side });
    Link::new(sender, receiver, LIMITS, peer)
}

struct MemorySender(Half);

struct MemoryReceiver(Half);

struct Half {
    wire: Arc<Wire>,
    side: Side,
}

#[async_trait]
impl Sender for MemorySender {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        let Half { wire, side } = &self.0;
        loop {
            // The frame is in the queue or it is not: nothing is between, so cancelling loses nothing.
            if let Some(result) = wire.offer(*side, &frame) {
                return result;
            }
            wire.room(*side).await;
        }
    }

    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError> {
        self.0.wire.close(self.0.side, reason)
    }
}

#[async_trait]
impl Receiver for MemoryReceiver {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        let Half { wire, side } = &self.0;
        loop {
            match wire.take(*side) {
                Taken::Done(result) => return result,
                Taken::Nothing => wire.data(*side).await,
                Taken::Later(due) => tokio::select! {
                    () = wire.data(*side) => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }
}

impl Drop for MemorySender {
    fn drop(&mut self) {
        self.0.wire.drop_sender(self.0.side);
    }
}

impl Drop for MemoryReceiver {
    fn drop(&mut self) {
        self.0.wire.drop_receiver(self.0.side);
    }
}

impl fmt::Debug for MemorySender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe(f, "MemorySender")
    }
}

impl fmt::Debug for MemoryReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe(f, "MemoryReceiver")
    }
}

impl Half {
    fn describe(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        f.debug_struct(name)
            .field("of", &self.wire.name(self.side))
            .field("peer", &self.wire.name(self.side.other()))
            .finish()
    }
}
