//! The memory transport with one flaw put around it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use opor_transport_conformance::{Cut, Endpoint, FailureKind, Fixture, FixtureError, Manner, Stranger};
use opor_transport_memory::MemoryNetwork;
use opor_transport_traits::{
    Bytes, Dialer, Link, Listener, Peer, Receiver, Sender, TransportError, async_trait,
};
use tokio::sync::Mutex;

use crate::{endpoints, receivers, shared};

/// What a hang is given: it would never end, so this may be short. A breach is reported as soon as it is seen.
const HANG_AFTER: Duration = Duration::from_secs(3);

type ChangeLink = Arc<dyn Fn(Link) -> Link + Send + Sync>;
type ChangeDialer = Arc<dyn Fn(Arc<dyn Dialer>) -> Arc<dyn Dialer> + Send + Sync>;
type ChangeListener = Arc<dyn Fn(Box<dyn Listener>) -> Box<dyn Listener> + Send + Sync>;

/// A fixture with a flaw.
pub(crate) struct Flawed {
    network: MemoryNetwork,
    listeners: AtomicU32,
    patience: Duration,
    link: ChangeLink,
    dialer: ChangeDialer,
    listener: ChangeListener,
    /// Set when the wire is cut.
    cut: Arc<AtomicBool>,
    handshake: bool,
}

/// A link put together anew from the halves of another.
pub(crate) fn rebuilt(
    link: Link,
    change: impl FnOnce(Box<dyn Sender>, Box<dyn Receiver>) -> (Box<dyn Sender>, Box<dyn Receiver>),
) -> Link {
    let (limits, peer) = (link.limits(), link.peer().clone());
    let (sender, receiver) = link.split();
    let (sender, receiver) = change(sender, receiver);
    Link::new(sender, receiver, limits, peer)
}

impl Flawed {
    pub(crate) fn links(link: impl Fn(Link) -> Link + Send + Sync + 'static) -> Self {
        Self {
            network: MemoryNetwork::new(),
            listeners: AtomicU32::new(0),
            patience: Duration::from_secs(30),
            link: Arc::new(link),
            dialer: Arc::new(|dialer| dialer),
            listener: Arc::new(|listener| listener),
            cut: Arc::default(),
            handshake: false,
        }
    }

    pub(crate) fn senders(
        change: impl Fn(Box<dyn Sender>) -> Box<dyn Sender> + Send + Sync + 'static,
    ) -> Self {
        Self::links(move |link| rebuilt(link, |sender, receiver| (change(sender), receiver)))
    }

    pub(crate) fn receivers(
        change: impl Fn(Box<dyn Receiver>) -> Box<dyn Receiver> + Send + Sync + 'static,
    ) -> Self {
        Self::links(move |link| rebuilt(link, |sender, receiver| (sender, change(receiver))))
    }

    pub(crate) fn dialers(
        change: impl Fn(Arc<dyn Dialer>) -> Arc<dyn Dialer> + Send + Sync + 'static,
    ) -> Self {
        Self { dialer: Arc::new(change), ..Self::links(|link| link) }
    }

    pub(crate) fn listeners(
        change: impl Fn(Box<dyn Listener>) -> Box<dyn Listener> + Send + Sync + 'static,
    ) -> Self {
        Self { listener: Arc::new(change), ..Self::links(|link| link) }
    }

    /// All links of an endpoint share one queue, as frames over one connection would.
    pub(crate) fn one_queue() -> Self {
        let queue = Arc::new(Mutex::new(()));
        Self::links(move |link| shared::through(link, queue.clone()))
    }

    /// Receivers read ahead, and keep only the newest frame when the wire is cut.
    pub(crate) fn keeps_newest() -> Self {
        let cut: Arc<AtomicBool> = Arc::default();
        let seen = cut.clone();
        let flawed = Self::receivers(move |receiver| receivers::KeepsNewest::around(receiver, seen.clone()));
        Self { cut, ..flawed }
    }

    pub(crate) fn takes_links_along() -> Self {
        let flawed = Self::links(|link| link);
        let network = flawed.network.clone();
        let listener: ChangeListener =
            Arc::new(move |listener| endpoints::TakesAlong::around(listener, network.clone()));
        Self { listener, ..flawed }
    }

    pub(crate) fn ends_all_with_one() -> Self {
        let network = MemoryNetwork::new();
        let shared = network.clone();
        let flawed = Self::receivers(move |receiver| receivers::EndsAll::around(receiver, shared.clone()));
        Self { network, ..flawed }
    }

    /// Dialers say hello first, and the listener waits for it in this way.
    pub(crate) fn shakes_hands(how: endpoints::Handshake) -> Self {
        Self {
            dialer: Arc::new(endpoints::SaysHello::around),
            listener: Arc::new(move |listener| endpoints::ShakesHands::around(listener, how)),
            handshake: true,
            ..Self::links(|link| link)
        }
    }

    /// With the patience that fits what is expected.
    pub(crate) fn expecting(mut self, kind: FailureKind) -> Self {
        if kind == FailureKind::Hung {
            self.patience = HANG_AFTER;
        }
        self
    }

    fn new_endpoint(&self) -> Result<(Endpoint, String), FixtureError> {
        let hub = format!("hub-{}", self.listeners.fetch_add(1, Ordering::Relaxed));
        let listener =
            ChangingListener { inner: Box::new(self.network.listen(&*hub)?), link: self.link.clone() };
        let dialer =
            ChangingDialer { inner: Arc::new(self.network.dialer("phone", &*hub)), link: self.link.clone() };
        let endpoint = Endpoint::boxed((self.listener)(Box::new(listener)), (self.dialer)(Arc::new(dialer)));
        Ok((endpoint, hub))
    }
}

#[async_trait]
impl Fixture for Flawed {
    async fn endpoint(&self) -> Result<Endpoint, FixtureError> {
        Ok(self.new_endpoint()?.0)
    }

    async fn nobody(&self) -> Result<Arc<dyn Dialer>, FixtureError> {
        Ok((self.dialer)(Arc::new(self.network.dialer("phone", "nobody"))))
    }

    async fn cuttable(&self) -> Result<Option<(Endpoint, Cut)>, FixtureError> {
        self.cut.store(false, Ordering::SeqCst);
        let (endpoint, hub) = self.new_endpoint()?;
        let (network, cut) = (self.network.clone(), self.cut.clone());
        let cut = move || {
            cut.store(true, Ordering::SeqCst);
            network.cut("phone", &hub);
        };
        Ok(Some((endpoint, Cut::new(cut))))
    }

    async fn stranger(&self, address: &str, manner: Manner) -> Result<Option<Stranger>, FixtureError> {
        if !self.handshake {
            return Ok(None);
        }
        let dialer = self.network.dialer("stranger", address);
        let mut dial = Box::pin(async move { dialer.dial().await });
        // It knocks now; it gets in when it is accepted, so that has to be waited for in a task.
        let knocked = std::future::poll_fn(|context| Poll::Ready(dial.as_mut().poll(context))).await;
        assert!(knocked.is_pending(), "nobody accepts yet");
        let task = tokio::spawn(async move {
            let (mut sender, receiver) = dial.await?.split();
            match manner {
                Manner::Leaves => drop(sender),
                Manner::Babbles => sender.send(Bytes::from_static(b"how do you do")).await?,
                Manner::Stalls => std::future::pending().await,
                Manner::BreaksRules => {
                    sender.send(endpoints::HELLO).await?;
                    sender.send(endpoints::FORBIDDEN).await?;
                    std::future::pending().await
                }
            }
            drop(receiver);
            Ok::<_, TransportError>(())
        });
        Ok(Some(Stranger::new(task)))
    }

    fn secrets(&self) -> Vec<String> {
        vec![endpoints::TOKEN.to_owned()]
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

/// Cannot set anything up.
pub(crate) struct Failing;

#[async_trait]
impl Fixture for Failing {
    async fn endpoint(&self) -> Result<Endpoint, FixtureError> {
        let network = MemoryNetwork::new();
        let _first = network.listen("hub")?;
        Ok(Endpoint::new(network.listen("hub")?, network.dialer("phone", "hub")))
    }

    async fn nobody(&self) -> Result<Arc<dyn Dialer>, FixtureError> {
        Err("nobody is nowhere".into())
    }
}

struct ChangingListener {
    inner: Box<dyn Listener>,
    link: ChangeLink,
}

struct ChangingDialer {
    inner: Arc<dyn Dialer>,
    link: ChangeLink,
}

#[async_trait]
impl Listener for ChangingListener {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn accept(&mut self) -> Result<Link, TransportError> {
        Ok((self.link)(self.inner.accept().await?))
    }
}

#[async_trait]
impl Dialer for ChangingDialer {
    fn target(&self) -> &Peer {
        self.inner.target()
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        Ok((self.link)(self.inner.dial().await?))
    }
}

/// Flawed parts say no more than that.
macro_rules! debug {
    ($($name:ident),* $(,)?) => {
        $(
            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(stringify!($name))
                }
            }
        )*
    };
}
pub(crate) use debug;

debug!(ChangingListener, ChangingDialer);
