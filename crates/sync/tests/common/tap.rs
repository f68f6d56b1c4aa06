//! A dialler that looks at the messages its links bring, counts them, and holds them up or loses the link at one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use opor_sync_proto::{Decoded, Kind, decode};
use opor_transport_traits::{
    Bytes, CloseReason, Dialer, Link, Peer, Received, Receiver, Sender, TransportError, async_trait,
};
use tokio::sync::watch;

/// What is done at a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It passes.
    Open,
    /// It waits.
    Shut,
    /// The link is lost.
    Lost,
}

/// What the tap sees and does.
#[derive(Clone, Debug)]
pub(crate) struct Tap {
    counts: Arc<Mutex<BTreeMap<Kind, u64>>>,
    at: (Kind, u64),
    gate: watch::Sender<Gate>,
    reached: watch::Sender<bool>,
}

impl Tap {
    /// Counts, and shuts the gate before the message of this kind and number, counted from 1 over all links.
    pub(crate) fn at(kind: Kind, number: u64) -> Self {
        let (gate, _) = watch::channel(Gate::Shut);
        Self { counts: Arc::default(), at: (kind, number), gate, reached: watch::channel(false).0 }
    }

    /// Counts.
    pub(crate) fn open() -> Self {
        Self::at(Kind::Bye, u64::MAX)
    }

    pub(crate) fn set(&self, gate: Gate) {
        self.gate.send_replace(gate);
    }

    /// Waits until something waits at the gate.
    pub(crate) async fn reached(&self) {
        let reached = self.reached.subscribe().wait_for(|reached| *reached).await.map(|_| ());
        super::within("the gate to be reached", async { reached }).await.expect("it is reached");
    }

    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.counts.lock().expect("no panic").get(&kind).copied().unwrap_or(0)
    }

    pub(crate) fn on(&self, dialer: impl Dialer + 'static) -> TappedDialer {
        TappedDialer { dialer: Box::new(dialer), tap: self.clone() }
    }

    async fn pass(&self, frame: &[u8]) -> Result<(), TransportError> {
        let Ok(Decoded::Message(message)) = decode(frame) else { return Ok(()) };
        let kind = message.kind();
        if (kind, self.count(kind) + 1) == self.at {
            self.reached.send_replace(true);
            let mut gate = self.gate.subscribe();
            if *gate.wait_for(|gate| *gate != Gate::Shut).await.expect("the tap is there") == Gate::Lost {
                self.set(Gate::Open);
                return Err(TransportError::lost("tap"));
            }
        }
        *self.counts.lock().expect("no panic").entry(kind).or_default() += 1;
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct TappedDialer {
    dialer: Box<dyn Dialer>,
    tap: Tap,
}

#[async_trait]
impl Dialer for TappedDialer {
    fn target(&self) -> &Peer {
        self.dialer.target()
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        let link = self.dialer.dial().await?;
        let (limits, peer) = (link.limits(), link.peer().clone());
        let (sender, receiver) = link.split();
        let receiver = TappedReceiver { receiver, tap: self.tap.clone(), held: None, lost: false };
        Ok(Link::new(PlainSender(sender), receiver, limits, peer))
    }
}

#[derive(Debug)]
struct PlainSender(Box<dyn Sender>);

#[async_trait]
impl Sender for PlainSender {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        self.0.send(frame).await
    }

    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError> {
        self.0.close(reason).await
    }
}

#[derive(Debug)]
struct TappedReceiver {
    receiver: Box<dyn Receiver>,
    tap: Tap,
    /// A frame that waits; a call that is given up must not lose it.
    held: Option<Bytes>,
    lost: bool,
}

#[async_trait]
impl Receiver for TappedReceiver {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        if self.lost {
            return Err(TransportError::lost("tap"));
        }
        if self.held.is_none() {
            match self.receiver.recv().await? {
                Received::Frame(frame) => self.held = Some(frame),
                closed @ Received::Closed(_) => return Ok(closed),
            }
        }
        let frame = self.held.clone().expect("it was just put there");
        if let Err(error) = self.tap.pass(&frame).await {
            self.lost = true;
            return Err(error);
        }
        self.held = None;
        Ok(Received::Frame(frame))
    }
}
