//! Building blocks for whoever writes a transport. None has to be used: the contract is in `opor-transport-traits`, and
//! that is all that a transport has to keep.
//!
//! - [`link`] makes the two halves of an end, for a task that carries the link. They keep what the contract says of
//!   cancelling, of closing twice and of what ends a call; the task is handed a [`Carriage`], and does what it is told.
//! - [`Ending`] is how a link ends, told in one way to both halves.
//! - With the feature `tcp`, [`tcp`] opens sockets whose buffers are bounded.
//! - With the feature `web`, [`WebAddress`] takes addresses apart, a [`Knock`] is what a judge looks at, and
//!   [`kind_of_status`] is what an answer means.
//! - With the feature `tls`, [`tls`] is how servers are trusted.
//!
//! It knows no protocol, and none of the transports that use it.
//!
//! ```
//! use opor_transport_kit::{Command, link};
//! use opor_transport_traits::{Bytes, LinkLimits, Peer, TransportErrorKind};
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let (link, mut carriage) = link("pigeons", LinkLimits::new(1 << 16, 1 << 20), 4, Peer::new("pigeons:roof"), |_| {});
//! let (mut sender, mut receiver) = link.split();
//! let task = async move {
//!     let Some(Command::Send(frame, done)) = carriage.commands.recv().await else { panic!("a frame") };
//!     assert_eq!(frame, "hello");
//!     // Only now has it been sent.
//!     done.send(()).expect("the sender waits");
//!     carriage.ending.lose(carriage.ending.lost("a hawk"));
//!     // The receiver waits as long as anybody could still hand it a frame.
//!     drop(carriage);
//! };
//! let (sent, ()) = tokio::join!(sender.send(Bytes::from_static(b"hello")), task);
//! sent.expect("it was taken over");
//! assert_eq!(receiver.recv().await.expect_err("the carriage is gone").kind(), TransportErrorKind::Lost);
//! # }); Ok::<(), std::io::Error>(())
//! ```

#[cfg(feature = "web")]
mod address;
#[cfg(feature = "web")]
mod door;
mod ending;
mod halves;
#[cfg(feature = "tcp")]
pub mod tcp;
#[cfg(feature = "tls")]
pub mod tls;

#[cfg(feature = "web")]
pub use http;

#[cfg(feature = "web")]
pub use address::WebAddress;
#[cfg(feature = "web")]
pub use door::{Knock, Verdict, kind_of_status};
pub use ending::Ending;
pub use halves::{Carriage, Command, left, link, refuse};
