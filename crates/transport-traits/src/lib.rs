//! What carries frames between two replicas, and what whoever uses it may rely on.
//!
//! A [`Dialer`] reaches a [`Listener`]; both then hold an end of a [`Link`], which is a [`Sender`] and a [`Receiver`].
//! Frames are bytes: nothing here knows what they mean. They are [`Bytes`], because a hub sends one changeset to many
//! peers, and then clones a handle; and because that is what libraries for WebSocket, HTTP and NATS take and give. Nothing
//! here needs a runtime; a transport says which one it needs.
//!
//! The [`contract`] is written sentence by sentence. Each sentence is a case of the kit `opor-transport-conformance`,
//! under the same name.
//!
//! ```
//! use opor_transport_traits::{Bytes, CloseCode, CloseReason, Dialer, Received, TransportError};
//!
//! /// Asks one question and hangs up, over any transport.
//! async fn ask(dialer: &dyn Dialer, question: Bytes) -> Result<Bytes, TransportError> {
//!     let (mut sender, mut receiver) = dialer.dial().await?.split();
//!     sender.send(question).await?;
//!     let answer = match receiver.recv().await? {
//!         Received::Frame(answer) => answer,
//!         Received::Closed(reason) => return Err(TransportError::closed(reason)),
//!     };
//!     sender.close(CloseReason::new(CloseCode::DONE)).await?;
//!     Ok(answer)
//! }
//! ```

mod backoff;
mod close;
pub mod contract;
mod endpoint;
mod error;
mod link;
mod peer;
mod retry;

pub use async_trait::async_trait;
pub use bytes::Bytes;

pub use backoff::Backoff;
pub use close::{CloseCode, CloseReason};
pub use endpoint::{Dialer, Listener};
pub use error::{TransportError, TransportErrorKind};
pub use link::{Link, LinkLimits, Received, Receiver, Sender};
pub use peer::Peer;
