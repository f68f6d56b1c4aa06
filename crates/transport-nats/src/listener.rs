//! Listening.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Message as Delivered, StatusCode, Subject, Subscriber};
use futures_util::StreamExt as _;
use opor_transport_traits::{Link, Listener, Peer, TransportError, TransportErrorKind as Kind, async_trait};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use crate::address::Address;
use crate::broker::Broker;
use crate::carry::Wire;
use crate::dialer::listens_at;
use crate::link::link;
use crate::options::NatsOptions;
use crate::wire::{LinkId, Message};

/// How long a dialer has for its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many handshakes are under way at once. Each holds a subscription until its time is over.
const HANDSHAKES_MAX: usize = 512;

/// How many links wait to be accepted; further ones wait with their handshakes.
const READY_MAX: usize = 64;

/// Listeners of one name share its dialers: each dial goes to one of them.
const GROUP: &str = "opor";

/// Listens under a name at a broker. All its links share one connection.
///
/// When the connection to the broker breaks its links are lost, and the listener goes on once there is a new one.
pub struct NatsListener {
    address: Address,
    links: mpsc::Receiver<Link>,
    /// Dropped with the listener, which ends the task.
    _stop: oneshot::Sender<()>,
}

impl NatsListener {
    /// Listens at an address like `nats://host:4222/name`, or `tls://` for TLS.
    ///
    /// # Errors
    /// As [`Broker::connect`], and `Misconfigured` when the broker does not let us subscribe.
    ///
    /// # Cancel safety
    /// Dropped, it does not listen.
    pub async fn listen(address: &str, options: NatsOptions) -> Result<Self, TransportError> {
        let address = Address::parse(address)?;
        let broker = Broker::reach(&address.broker, &options).await?;
        let subject = listens_at(options.namespace(), &address.name);
        let failure = |kind| TransportError::new(kind, address.public.as_str());
        let dials = broker.client().queue_subscribe(subject, GROUP.to_owned()).await;
        let dials = dials.map_err(|error| failure(Kind::Misconfigured).with_source(error))?;
        // Whoever dials from now on is heard.
        broker.client().flush().await.map_err(|error| failure(Kind::Unreachable).with_source(error))?;
        let (ready, links) = mpsc::channel(READY_MAX);
        let (stop, stopped) = oneshot::channel();
        let door =
            Arc::new(Door { broker, options, name: address.name.clone(), ready, greeted: Mutex::default() });
        tokio::spawn(welcome_all(door, dials, stopped));
        Ok(Self { address, links, _stop: stop })
    }
}

#[async_trait]
impl Listener for NatsListener {
    fn address(&self) -> &str {
        self.address.public.as_str()
    }

    async fn accept(&mut self) -> Result<Link, TransportError> {
        let gone = || TransportError::new(Kind::Exhausted, "nats: the connection that listened has ended");
        self.links.recv().await.ok_or_else(gone)
    }
}

impl fmt::Debug for NatsListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsListener").field("address", &self.address.public).finish_non_exhaustive()
    }
}

/// What all handshakes share.
struct Door {
    broker: Broker,
    options: NatsOptions,
    name: String,
    ready: mpsc::Sender<Link>,
    /// Who has been greeted and has not answered yet; a dialer may say hello again.
    greeted: Mutex<BTreeSet<LinkId>>,
}

impl Door {
    fn greeted(&self) -> MutexGuard<'_, BTreeSet<LinkId>> {
        // Nothing that runs under the lock panics halfway through a change.
        self.greeted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn welcome_all(door: Arc<Door>, mut dials: Subscriber, mut stopped: oneshot::Receiver<()>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is not closed");
            dials.next().await.map(|dial| (dial, place))
        };
        let next = tokio::select! {
            _ = &mut stopped => break,
            next = next => next,
        };
        let Some((dial, place)) = next else { return };
        if let Some(visit) = Visit::of(&door, &dial, place) {
            drop(tokio::spawn(visit.welcome()));
        }
    }
    // Whoever says hello after this hears from the broker that nobody listens; who did before hears it from here.
    let client = door.broker.client();
    if dials.unsubscribe().await.is_err() || client.flush().await.is_err() {
        return;
    }
    while let Some(dial) = dials.next().await {
        if let Some(reply) = dial.reply {
            // One that is not told asks again.
            let _ = client.publish(reply, Message::Nobody.to_bytes()).await;
        }
    }
}

/// One handshake, in a task of its own: who is slow here is slow alone, and who fails here fails alone.
struct Visit {
    door: Arc<Door>,
    id: LinkId,
    theirs: Subject,
    _place: OwnedSemaphorePermit,
}

impl Visit {
    /// Nothing where it is no hello, or one that has been answered.
    fn of(door: &Arc<Door>, dial: &Delivered, place: OwnedSemaphorePermit) -> Option<Self> {
        let theirs = dial.reply.clone()?;
        let Ok(Message::Hello(id)) = Message::from_bytes(&dial.payload) else { return None };
        door.greeted().insert(id).then(|| Self { door: door.clone(), id, theirs, _place: place })
    }

    async fn welcome(self) {
        tokio::select! {
            biased;
            () = self.door.ready.closed() => {}
            met = timeout(HANDSHAKE_TIMEOUT, self.shake_hands()) => {
                if let Ok(Some(link)) = met {
                    // Where the listener has been dropped meanwhile, the link is dropped too, and the dialer sees it lost.
                    let _ = self.door.ready.send(link).await;
                }
            }
        }
    }

    /// A link, or nothing when the handshake fails.
    async fn shake_hands(&self) -> Option<Link> {
        let broker = self.door.broker.clone();
        let breaks = *broker.breaks().borrow();
        let ours = Subject::from(broker.client().new_inbox());
        let mut inbox = broker.client().subscribe(ours.clone()).await.ok()?;
        let welcome = Message::Welcome(self.id).to_bytes();
        broker.client().publish_with_reply(self.theirs.clone(), ours.clone(), welcome).await.ok()?;
        let answer = inbox.next().await?;
        let gone = answer.status == Some(StatusCode::NO_RESPONDERS);
        if gone || Message::from_bytes(&answer.payload) != Ok(Message::Open) {
            return None;
        }
        let keepalive = self.door.options.keepalive;
        let [a, b, c, d, ..] = self.id;
        let peer = Peer::new(format!("nats:{}#{a:02x}{b:02x}{c:02x}{d:02x}", self.door.name));
        Some(link(Wire { broker, breaks, inbox, ours, theirs: self.theirs.clone(), keepalive }, peer))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.door.greeted().remove(&self.id);
    }
}
