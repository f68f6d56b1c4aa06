//! Dialers and listeners with a flaw.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opor_transport_memory::MemoryNetwork;
use opor_transport_traits::{
    Bytes, Dialer, Link, Listener, Peer, Received, TransportError, TransportErrorKind as Kind, async_trait,
};
use tokio::task::yield_now;

use crate::fixture::{debug, rebuilt};

type InnerDialer = Arc<dyn Dialer>;
type InnerListener = Box<dyn Listener>;
type Result<T = Link, E = TransportError> = std::result::Result<T, E>;

/// What nobody should see.
pub(crate) const TOKEN: &str = "s3cret-t0ken";

/// What a dialer says first.
pub(crate) const HELLO: Bytes = Bytes::from_static(b"hello");

/// What no transport with this handshake ever sends; a sound one would check.
pub(crate) const FORBIDDEN: Bytes = Bytes::from_static(b"forbidden");

/// Says that it was refused where nobody was there to refuse it.
pub(crate) struct SaysRefused(InnerDialer);

impl SaysRefused {
    pub(crate) fn around(inner: InnerDialer) -> InnerDialer {
        Arc::new(Self(inner))
    }
}

#[async_trait]
impl Dialer for SaysRefused {
    fn target(&self) -> &Peer {
        self.0.target()
    }

    async fn dial(&self) -> Result {
        self.0.dial().await.map_err(|error| TransportError::new(Kind::Refused, error.to_string()))
    }
}

/// Dials one at a time, and takes a dial that was given up for one that goes on.
pub(crate) struct Busy {
    inner: InnerDialer,
    busy: AtomicBool,
}

impl Busy {
    pub(crate) fn around(inner: InnerDialer) -> InnerDialer {
        Arc::new(Self { inner, busy: AtomicBool::new(false) })
    }
}

#[async_trait]
impl Dialer for Busy {
    fn target(&self) -> &Peer {
        self.inner.target()
    }

    async fn dial(&self) -> Result {
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(TransportError::new(Kind::Exhausted, "another dial is under way"));
        }
        let link = self.inner.dial().await;
        self.busy.store(false, Ordering::SeqCst);
        link
    }
}

/// Has its token in its debug output.
pub(crate) struct ShowsToken(InnerDialer);

impl ShowsToken {
    pub(crate) fn around(inner: InnerDialer) -> InnerDialer {
        Arc::new(Self(inner))
    }
}

impl fmt::Debug for ShowsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShowsToken").field("token", &TOKEN).finish_non_exhaustive()
    }
}

#[async_trait]
impl Dialer for ShowsToken {
    fn target(&self) -> &Peer {
        self.0.target()
    }

    async fn dial(&self) -> Result {
        self.0.dial().await
    }
}

/// Says hello before anything else.
pub(crate) struct SaysHello(InnerDialer);

impl SaysHello {
    pub(crate) fn around(inner: InnerDialer) -> InnerDialer {
        Arc::new(Self(inner))
    }
}

#[async_trait]
impl Dialer for SaysHello {
    fn target(&self) -> &Peer {
        self.0.target()
    }

    async fn dial(&self) -> Result {
        let link = self.0.dial().await?;
        let (limits, peer) = (link.limits(), link.peer().clone());
        let (mut sender, receiver) = link.split();
        sender.send(HELLO).await?;
        Ok(Link::new(sender, receiver, limits, peer))
    }
}

/// How a listener waits for hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// What goes wrong with one dial is an error of the listener.
    FailsListener,
    /// It waits for one dial before it looks at the next.
    OneByOne,
}

pub(crate) struct ShakesHands {
    inner: InnerListener,
    how: Handshake,
}

impl ShakesHands {
    pub(crate) fn around(inner: InnerListener, how: Handshake) -> InnerListener {
        Box::new(Self { inner, how })
    }
}

#[async_trait]
impl Listener for ShakesHands {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn accept(&mut self) -> Result {
        loop {
            let link = self.inner.accept().await?;
            let (limits, peer) = (link.limits(), link.peer().clone());
            let (sender, mut receiver) = link.split();
            match (receiver.recv().await, self.how) {
                (Ok(Received::Frame(hello)), _) if hello == HELLO => {
                    return Ok(Link::new(sender, receiver, limits, peer));
                }
                (Err(error), Handshake::FailsListener) => return Err(error),
                (_, Handshake::FailsListener) => {
                    return Err(TransportError::new(Kind::Incompatible, "no hello"));
                }
                (_, Handshake::OneByOne) => {}
            }
        }
    }
}

/// Waits for something else when it has a link in its hands.
pub(crate) struct ForgetfulListener(InnerListener);

impl ForgetfulListener {
    pub(crate) fn around(inner: InnerListener) -> InnerListener {
        Box::new(Self(inner))
    }
}

#[async_trait]
impl Listener for ForgetfulListener {
    fn address(&self) -> &str {
        self.0.address()
    }

    async fn accept(&mut self) -> Result {
        let link = self.0.accept().await?;
        yield_now().await;
        Ok(link)
    }
}

/// Takes two links and gives each the sender of the other.
pub(crate) struct MixesUp {
    inner: InnerListener,
    next: Option<Link>,
}

impl MixesUp {
    pub(crate) fn around(inner: InnerListener) -> InnerListener {
        Box::new(Self { inner, next: None })
    }
}

#[async_trait]
impl Listener for MixesUp {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn accept(&mut self) -> Result {
        if let Some(next) = self.next.take() {
            return Ok(next);
        }
        let (one, other) = (self.inner.accept().await?, self.inner.accept().await?);
        let mut wrong = None;
        let other = rebuilt(other, |sender, receiver| {
            let (limits, peer) = (one.limits(), one.peer().clone());
            let (others, mine) = one.split();
            wrong = Some(Link::new(sender, mine, limits, peer));
            (others, receiver)
        });
        self.next = Some(other);
        Ok(wrong.expect("it was put together just now"))
    }
}

/// Goes on accepting when it is dropped.
pub(crate) struct ListensOn(Option<InnerListener>);

impl ListensOn {
    pub(crate) fn around(inner: InnerListener) -> InnerListener {
        Box::new(Self(Some(inner)))
    }
}

#[async_trait]
impl Listener for ListensOn {
    fn address(&self) -> &str {
        self.0.as_ref().expect("it is there until the drop").address()
    }

    async fn accept(&mut self) -> Result {
        self.0.as_mut().expect("it is there until the drop").accept().await
    }
}

impl Drop for ListensOn {
    fn drop(&mut self) {
        let mut inner = self.0.take().expect("it is there until the drop");
        tokio::spawn(async move {
            let mut links = Vec::new();
            while let Ok(link) = inner.accept().await {
                links.push(link);
            }
        });
    }
}

/// Loses its links when it is dropped.
pub(crate) struct TakesAlong {
    inner: InnerListener,
    network: MemoryNetwork,
}

impl TakesAlong {
    pub(crate) fn around(inner: InnerListener, network: MemoryNetwork) -> InnerListener {
        Box::new(Self { inner, network })
    }
}

#[async_trait]
impl Listener for TakesAlong {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn accept(&mut self) -> Result {
        self.inner.accept().await
    }
}

impl Drop for TakesAlong {
    fn drop(&mut self) {
        self.network.cut("phone", self.inner.address());
    }
}

debug!(SaysRefused, Busy, SaysHello, ShakesHands, ForgetfulListener, MixesUp, ListensOn, TakesAlong);
