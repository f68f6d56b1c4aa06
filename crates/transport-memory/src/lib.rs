//! A transport between replicas of one process: a network of names, over bounded queues.
//!
//! A [`MemoryNetwork`] is an address book. [`MemoryListener`]s stand in it under their names, and [`MemoryDialer`]s reach
//! them. For tests it has switches: latency, partitions that heal, cut wires, and links that fail at random but the same
//! way for the same seed.
//!
//! There is no switch that loses single frames. A link either delivers everything in order or is lost: that is the
//! [contract](opor_transport_traits::contract), and what a lossy network looks like through TCP. So loss is modelled as
//! links that stall ([`MemoryNetwork::partition`]) or break ([`MemoryNetwork::break_links`]).
//!
//! It needs a tokio runtime with a timer when there is latency, and no runtime otherwise. It starts no tasks.
//!
//! ```
//! use opor_transport_memory::MemoryNetwork;
//! use opor_transport_traits::{Bytes, CloseCode, CloseReason, Dialer, Listener, Received};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let network = MemoryNetwork::new();
//! let mut listener = network.listen("hub")?;
//! let dialer = network.dialer("phone", "hub");
//! let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
//! assert_eq!(accepted.peer().as_str(), "memory:phone");
//!
//! let (mut phone, mut from_hub) = dialled.split();
//! let (_hub, mut from_phone) = accepted.split();
//! phone.send(Bytes::from_static(b"hello")).await?;
//! phone.close(CloseReason::new(CloseCode::DONE)).await?;
//!
//! assert_eq!(from_phone.recv().await?, Received::Frame(Bytes::from_static(b"hello")));
//! assert_eq!(from_phone.recv().await?, Received::Closed(CloseReason::new(CloseCode::DONE)));
//! // The hub's end has answered.
//! assert_eq!(from_hub.recv().await?, Received::Closed(CloseReason::new(CloseCode::DONE)));
//! # Ok::<_, opor_transport_traits::TransportError>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod conditions;
mod endpoint;
mod halves;
mod network;
mod wire;

pub use endpoint::{MemoryDialer, MemoryListener};
pub use network::MemoryNetwork;
