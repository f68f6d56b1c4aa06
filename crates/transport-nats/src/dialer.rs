//! Dialling.

use std::fmt;
use std::time::Duration;

use async_nats::{StatusCode, Subject, Subscriber};
use futures_util::StreamExt as _;
use opor_transport_traits::{Dialer, Link, Peer, TransportError, TransportErrorKind as Kind, async_trait};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::address::Address;
use crate::broker::Broker;
use crate::carry::Wire;
use crate::link::link;
use crate::options::NatsOptions;
use crate::subject::token;
use crate::wire::{LinkId, Message};

/// How long to wait for an answer before a dial says hello again. The first hello may have gone to a listener that had
/// just been dropped; then the broker knows better by now.
const HELLO_AGAIN: Duration = Duration::from_secs(1);

/// Reaches the listener of one name, at one broker.
///
/// Each dial makes a connection of its own, which ends with its link.
///
/// ```
/// use opor_transport_nats::{NatsDialer, NatsOptions};
/// use opor_transport_traits::Dialer;
///
/// let dialer = NatsDialer::new("nats://broker.example/garden", NatsOptions::new().with_token("s3cret"))?;
/// assert_eq!(dialer.target().as_str(), "nats://broker.example:4222/garden");
/// assert!(!format!("{dialer:?}").contains("s3cret"));
/// # Ok::<(), opor_transport_traits::TransportError>(())
/// ```
#[derive(Clone)]
pub struct NatsDialer {
    address: Address,
    options: NatsOptions,
}

impl NatsDialer {
    /// A dialer for an address like `nats://host:4222/name`, or `tls://` for TLS.
    ///
    /// # Errors
    /// `Misconfigured`, when it is no such address, or when it holds credentials.
    pub fn new(address: &str, options: NatsOptions) -> Result<Self, TransportError> {
        Ok(Self { address: Address::parse(address)?, options })
    }

    fn failure(&self, kind: Kind) -> TransportError {
        TransportError::new(kind, self.address.public.as_str())
    }

    async fn connect(&self) -> Result<Link, TransportError> {
        let broken = |error| self.failure(Kind::Unreachable).with_source(error);
        let broker = Broker::reach(&self.address.broker, &self.options).await?;
        let breaks = *broker.breaks().borrow();
        let ours = Subject::from(broker.client().new_inbox());
        let mut inbox = broker.client().subscribe(ours.clone()).await.map_err(broken)?;
        let theirs = self.shake_hands(&broker, &ours, &mut inbox).await?;
        let open = Message::Open.to_bytes();
        let opened = broker.client().publish_with_reply(theirs.clone(), ours.clone(), open).await;
        opened.map_err(|error| self.failure(Kind::Unreachable).with_source(error))?;
        let keepalive = self.options.keepalive;
        let wire = Wire { broker, breaks, inbox, ours, theirs, keepalive };
        Ok(link(wire, self.address.public.clone()))
    }

    /// Says hello until somebody answers; where the other end receives.
    async fn shake_hands(
        &self,
        broker: &Broker,
        ours: &Subject,
        inbox: &mut Subscriber,
    ) -> Result<Subject, TransportError> {
        let id = link_id().map_err(|error| self.failure(Kind::Exhausted).with_source(error))?;
        let to = Subject::from(listens_at(self.options.namespace(), &self.address.name));
        let hello = Message::Hello(id).to_bytes();
        let mut again = interval(HELLO_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = inbox.next() => message,
                _ = again.tick() => {
                    let said =
                        broker.client().publish_with_reply(to.clone(), ours.clone(), hello.clone()).await;
                    said.map_err(|error| self.failure(Kind::Unreachable).with_source(error))?;
                    continue;
                }
            };
            let Some(message) = message else { return Err(self.failure(Kind::Unreachable)) };
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                return Err(self.failure(Kind::Unreachable));
            }
            match (Message::from_bytes(&message.payload), message.reply) {
                (Ok(Message::Welcome(whom)), Some(theirs)) if whom == id => return Ok(theirs),
                (Ok(Message::Nobody), _) => return Err(self.failure(Kind::Unreachable)),
                _ => return Err(self.failure(Kind::Incompatible)),
            }
        }
    }
}

/// The subject at which a listener of this name hears dialers.
pub(crate) fn listens_at(namespace: &str, name: &str) -> String {
    format!("{namespace}.dial.{}", token(name))
}

fn link_id() -> Result<LinkId, getrandom::Error> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(id)
}

#[async_trait]
impl Dialer for NatsDialer {
    fn target(&self) -> &Peer {
        &self.address.public
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        let dialled = timeout(self.options.connect_timeout, self.connect()).await;
        dialled.unwrap_or_else(|elapsed| Err(self.failure(Kind::TimedOut).with_source(elapsed)))
    }
}

impl fmt::Debug for NatsDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsDialer")
            .field("target", &self.address.public)
            .field("options", &self.options)
            .finish()
    }
}
