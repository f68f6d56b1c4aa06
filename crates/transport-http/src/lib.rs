//! A transport over plain HTTP/1.1, for networks that let nothing else through: `http://`, and `https://` with the feature
//! `tls`, which is on by default.
//!
//! An [`HttpDialer`] reaches an [`HttpListener`], or any web server that hands its requests to an [`HttpServer`]. Frames go
//! up in the bodies of requests. They come down as a stream of events, or where a proxy holds that up, as answers to long
//! polls. All messages are numbered, so requests that fail in transit are repeated, and nothing is lost or taken twice for
//! it. `docs/http.md` in the repository draws the requests.
//!
//! A link is not tied to a connection. When requests fail, the client repeats them for 30 seconds
//! ([`HttpDialer::with_retry_window`]), and the link goes on. After that it is lost. A request that is not answered at all
//! is given up after the server's hold and 30 seconds more. The server gives a link up when no request of its client has
//! come for 60 seconds ([`ServerOptions::with_expiry`]); clients send one every 15 seconds at least. A link that was closed
//! and dropped goes on until the peer has answered, but no longer than [`LINGER`].
//!
//! It needs a tokio runtime with IO and timers, and runs one task for each link at either end. Each end holds up to 1 MiB
//! for each direction, and that is also what one round trip carries. A frame has up to [`FRAME_MAX`] bytes.
//!
//! Tokens and the ids of links appear in no error, description or `Debug` output of this crate. Ids travel in a header, so
//! that they are in no log of a proxy either.
//!
//! ```
//! use opor_transport_http::{HttpDialer, HttpListener, ListenOptions};
//! use opor_transport_traits::{Bytes, CloseCode, CloseReason, Dialer, Listener, Received};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let mut listener = HttpListener::bind(([127, 0, 0, 1], 0).into(), ListenOptions::default())?;
//! let dialer = HttpDialer::new(listener.address())?;
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

mod batch;
mod body;
mod caller;
mod carry;
mod dialer;
mod downward;
mod event;
mod gauge;
mod halves;
mod handover;
mod lane;
mod limits;
mod listener;
mod options;
mod outage;
mod receive;
mod registry;
mod server;
mod state;
mod stream;
mod terms;
mod verdict;
mod wire;

#[cfg(feature = "tls")]
pub use rustls;

pub use body::HttpBody;
pub use caller::Caller;
pub use carry::LINGER;
pub use dialer::{Downstream, HttpDialer};
pub use handover::{Accepted, Handover, handover};
pub use limits::FRAME_MAX;
pub use listener::{HttpListener, ListenOptions};
pub use opor_transport_kit::{Knock, Verdict};
pub use options::ServerOptions;
pub use server::{Answered, HttpServer, Load};
