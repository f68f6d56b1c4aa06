//! A transport over NATS: links between replicas that reach the same broker, though not each other.
//!
//! A [`NatsListener`] listens under a name, and a [`NatsDialer`] reaches it: `nats://broker.example/garden`. Both connect to
//! the broker; between them are two subjects that nobody else knows. Frames are cut into messages that any broker takes,
//! and are numbered, so a lost one is noticed. An end is sent no more than it receives: it tells how much
//! it has taken, and the broker never has to hold more for it than a link may have on its way. Nothing is stored, and
//! JetStream is not needed. `docs/nats.md` in the repository has the messages byte by byte.
//!
//! A peer that vanishes is noticed when something is sent to it, or by a small message now and then: the broker says that
//! nobody is there. A peer that falls silent is not noticed: the protocol above pings. When the connection to the
//! broker breaks, links over it are lost at once, though the library below makes a new one.
//!
//! It needs a tokio runtime with IO and timers, and runs one task for each link. That task goes on when a link has been
//! closed and dropped, until the peer has answered, but no longer than [`LINGER`].
//!
//! Whoever may subscribe to every subject of a broker can read what passes: give each group of replicas an account or
//! permissions of its own.
//!
//! ```no_run
//! use opor_transport_nats::{NatsDialer, NatsListener, NatsOptions};
//! use opor_transport_traits::{Bytes, Dialer, Listener, Received};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let mut listener = NatsListener::listen("nats://127.0.0.1/garden", NatsOptions::new()).await?;
//! let dialer = NatsDialer::new(listener.address(), NatsOptions::new())?;
//! let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
//!
//! let (mut phone, _from_hub) = dialled.split();
//! let (_hub, mut from_phone) = accepted.split();
//! phone.send(Bytes::from_static(b"hello")).await?;
//! assert_eq!(from_phone.recv().await?, Received::Frame(Bytes::from_static(b"hello")));
//! # Ok::<_, opor_transport_traits::TransportError>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
mod broker;
mod carry;
mod dialer;
mod flow;
mod link;
mod listener;
mod options;
mod subject;
mod wire;

/// The library below, whose client [`Broker::client`] gives.
pub use async_nats;
pub use rustls;

pub use broker::Broker;
pub use carry::LINGER;
pub use dialer::NatsDialer;
pub use listener::NatsListener;
pub use options::NatsOptions;
pub use subject::token;
