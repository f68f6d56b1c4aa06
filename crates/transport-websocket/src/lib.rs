//! A transport over WebSocket (RFC 6455): `ws://`, and `wss://` with the feature `tls`, which is on by default.
//!
//! A [`WebSocketDialer`] reaches a [`WebSocketListener`], or any server that speaks the subprotocol [`SUBPROTOCOL`] and hands
//! its sockets to [`link()`]. A frame is one binary message, and a close is a close frame with code and text. Text
//! messages break the rules, and so do messages of more than [`FRAME_MAX`] bytes: the link ends with `Incompatible`, and
//! the peer is told why in a close frame where that still reaches it. Pings are answered while this end receives.
//!
//! It needs a tokio runtime with IO and timers, and runs one task for each link. That task goes on when a link has been
//! closed and dropped, until the peer has answered, but no longer than [`LINGER`]. A peer that falls silent is not
//! noticed: the protocol above pings.
//!
//! The sockets that it opens get small kernel buffers, so that a peer that does not receive costs a bounded amount. That
//! also bounds how much one link carries over a long distance: a few hundred KiB for each round trip.
//!
//! Tokens appear in no error, description or `Debug` output of this crate. The library below it writes whole requests to
//! the `log` facade at level `trace`; leave that level off where tokens are used.
//!
//! ```
//! use opor_transport_traits::{Bytes, CloseCode, CloseReason, Dialer, Listener, Received};
//! use opor_transport_websocket::{ListenOptions, WebSocketDialer, WebSocketListener};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let mut listener = WebSocketListener::bind(([127, 0, 0, 1], 0).into(), ListenOptions::default())?;
//! let dialer = WebSocketDialer::new(listener.address())?;
//! let (dialled, accepted) = tokio::try_join!(dialer.dial(), listener.accept())?;
//!
//! let (mut phone, mut from_hub) = dialled.split();
//! let (_hub, mut from_phone) = accepted.split();
//! phone.send(Bytes::from_static(b"hello")).await?;
//! phone.close(CloseReason::new(CloseCode::DONE)).await?;
//!
//! assert_eq!(from_phone.recv().await?, Received::Frame(Bytes::from_static(b"hello")));
//! assert_eq!(from_phone.recv().await?, Received::Closed(CloseReason::new(CloseCode::DONE)));
//! assert_eq!(from_hub.recv().await?, Received::Closed(CloseReason::new(CloseCode::DONE)));
//! # Ok::<_, opor_transport_traits::TransportError>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod carry;
mod dialer;
mod handshake;
mod link;
mod listener;
mod socket;

/// The library below, whose types [`link()`] and [`socket_config`] use.
pub use tokio_tungstenite;

#[cfg(feature = "tls")]
pub use rustls;

pub use carry::LINGER;
pub use dialer::WebSocketDialer;
pub use handshake::SUBPROTOCOL;
pub use link::link;
pub use listener::{ListenOptions, WebSocketListener};
pub use opor_transport_kit::{Knock, Verdict};
pub use socket::{FRAME_MAX, socket_config};
