//! Links whose halves, or all of whom, share what they should not.

use std::sync::{Arc, OnceLock};

use opor_transport_traits::{
    Bytes, CloseReason, Link, LinkLimits, Received, Receiver, Sender, TransportError, async_trait,
};
use tokio::sync::Mutex;

use crate::fixture::{debug, rebuilt};
use crate::senders::{CountsBytes, FRAME_MAX};

type Result<T, E = TransportError> = std::result::Result<T, E>;

/// One lock for both halves, held while either waits.
pub(crate) fn one_lock(link: Link) -> Link {
    rebuilt(link, |sender, receiver| {
        let lock = Arc::new(Mutex::new(()));
        (
            Box::new(LockedSender { inner: sender, lock: lock.clone() }),
            Box::new(LockedReceiver { inner: receiver, lock, held: true }),
        )
    })
}

/// A send holds a lock while it waits, and a receive begins only when no send is under way.
pub(crate) fn writing_stops_reading(link: Link) -> Link {
    rebuilt(link, |sender, receiver| {
        let lock = Arc::new(Mutex::new(()));
        (
            Box::new(LockedSender { inner: sender, lock: lock.clone() }),
            Box::new(LockedReceiver { inner: receiver, lock, held: false }),
        )
    })
}

/// Every send of every link goes through one gate, which a send that waits keeps shut.
pub(crate) fn through(link: Link, lock: Arc<Mutex<()>>) -> Link {
    rebuilt(link, |sender, receiver| (Box::new(LockedSender { inner: sender, lock }), receiver))
}

/// What is on its way is bounded by its bytes, honestly, and by nothing else.
pub(crate) fn counts_bytes(link: Link) -> Link {
    let (limits, peer) = (link.limits(), link.peer().clone());
    // Its own bytes, those of the link within, and what the frames of either cost where they are not tiny.
    let in_flight_max = CountsBytes::BYTES_MAX + limits.in_flight_max() + FRAME_MAX;
    let limits = LinkLimits::new(limits.frame_max(), in_flight_max);
    let (sender, receiver) = link.split();
    Link::new(CountsBytes::around(sender), receiver, limits, peer)
}

struct LockedSender {
    inner: Box<dyn Sender>,
    lock: Arc<Mutex<()>>,
}

struct LockedReceiver {
    inner: Box<dyn Receiver>,
    lock: Arc<Mutex<()>>,
    /// Whether the lock is kept while waiting.
    held: bool,
}

#[async_trait]
impl Sender for LockedSender {
    async fn send(&mut self, frame: Bytes) -> Result<()> {
        let _guard = self.lock.lock().await;
        self.inner.send(frame).await
    }

    async fn close(&mut self, reason: CloseReason) -> Result<()> {
        let _guard = self.lock.lock().await;
        self.inner.close(reason).await
    }
}

#[async_trait]
impl Receiver for LockedReceiver {
    async fn recv(&mut self) -> Result<Received> {
        let guard = self.lock.lock().await;
        if !self.held {
            drop(guard);
            return self.inner.recv().await;
        }
        self.inner.recv().await
    }
}

/// Frames are sent in two calls and put together again. A first part without its second stays in the way.
pub(crate) fn in_parts(link: Link) -> Link {
    rebuilt(link, |sender, receiver| {
        (Box::new(PartsSender(sender)), Box::new(PartsReceiver { inner: receiver, first: None }))
    })
}

struct PartsSender(Box<dyn Sender>);

struct PartsReceiver {
    inner: Box<dyn Receiver>,
    first: Option<Bytes>,
}

#[async_trait]
impl Sender for PartsSender {
    async fn send(&mut self, frame: Bytes) -> Result<()> {
        let half = frame.len() / 2;
        self.0.send(frame.slice(..half)).await?;
        self.0.send(frame.slice(half..)).await
    }

    async fn close(&mut self, reason: CloseReason) -> Result<()> {
        self.0.close(reason).await
    }
}

#[async_trait]
impl Receiver for PartsReceiver {
    async fn recv(&mut self) -> Result<Received> {
        loop {
            match (self.inner.recv().await?, self.first.take()) {
                (Received::Frame(second), Some(first)) => {
                    return Ok(Received::Frame([first, second].concat().into()));
                }
                (Received::Frame(first), None) => self.first = Some(first),
                (closed @ Received::Closed(_), _) => return Ok(closed),
            }
        }
    }
}

/// Its receiver gives nothing more once its sender has closed.
pub(crate) fn deaf_after_close(link: Link) -> Link {
    rebuilt(link, |sender, receiver| {
        let closed = Arc::new(OnceLock::new());
        (
            Box::new(TellingSender { inner: sender, closed: closed.clone() }),
            Box::new(DeafReceiver { inner: receiver, closed }),
        )
    })
}

struct TellingSender {
    inner: Box<dyn Sender>,
    closed: Arc<OnceLock<CloseReason>>,
}

struct DeafReceiver {
    inner: Box<dyn Receiver>,
    closed: Arc<OnceLock<CloseReason>>,
}

#[async_trait]
impl Sender for TellingSender {
    async fn send(&mut self, frame: Bytes) -> Result<()> {
        self.inner.send(frame).await
    }

    async fn close(&mut self, reason: CloseReason) -> Result<()> {
        self.inner.close(reason.clone()).await?;
        // The first reason stands.
        let _ = self.closed.set(reason);
        Ok(())
    }
}

#[async_trait]
impl Receiver for DeafReceiver {
    async fn recv(&mut self) -> Result<Received> {
        match self.closed.get() {
            Some(reason) => Ok(Received::Closed(reason.clone())),
            None => self.inner.recv().await,
        }
    }
}

/// A dropped sender is only gone when the receiver is too.
pub(crate) fn half_open(link: Link) -> Link {
    rebuilt(link, |sender, receiver| {
        let sender = Arc::new(Mutex::new(sender));
        let kept = sender.clone();
        (Box::new(SharedSender(sender)), Box::new(KeepingReceiver { inner: receiver, _sender: kept }))
    })
}

struct SharedSender(Arc<Mutex<Box<dyn Sender>>>);

struct KeepingReceiver {
    inner: Box<dyn Receiver>,
    _sender: Arc<Mutex<Box<dyn Sender>>>,
}

#[async_trait]
impl Sender for SharedSender {
    async fn send(&mut self, frame: Bytes) -> Result<()> {
        self.0.lock().await.send(frame).await
    }

    async fn close(&mut self, reason: CloseReason) -> Result<()> {
        self.0.lock().await.close(reason).await
    }
}

#[async_trait]
impl Receiver for KeepingReceiver {
    async fn recv(&mut self) -> Result<Received> {
        self.inner.recv().await
    }
}

debug!(
    LockedSender,
    LockedReceiver, PartsSender, PartsReceiver, TellingSender, DeafReceiver, SharedSender, KeepingReceiver
);
