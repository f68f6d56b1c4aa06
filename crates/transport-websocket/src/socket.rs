//! The socket: how it is set up, how it is polled from two sides of one task, and what its failures mean.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::{Sink as _, Stream as _};
use opor_transport_traits::{LinkLimits, TransportError, TransportErrorKind as Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, error::ProtocolError};

/// The bytes of the largest frame: more than any changeset is cut to, and what a peer can make us hold at once.
pub const FRAME_MAX: usize = 1024 * 1024;

/// Written at once, and read at once. Each link holds that much of its own.
const BUFFER: usize = 64 * 1024;

/// The room for pongs and a close beside frames.
const CONTROL_ROOM: usize = 4 * 1024;

/// The longest header of a message.
const HEADER_MAX: usize = 14;

/// The shortest header: what an empty frame takes on the wire.
const HEADER_LEAST: usize = 2;

/// How many received frames wait to be given.
pub(crate) const QUEUED_MAX: usize = 4;

/// What the kernel is asked to buffer for each direction of a socket.
pub(crate) const KERNEL_BUFFER: u32 = 128 * 1024;

/// What both kernels buffer for one direction: Linux takes twice what it is asked for.
const KERNEL_MAX: usize = 4 * KERNEL_BUFFER as usize;

/// An empty frame is two bytes on the wire and costs much more, so the worst that can be on its way is empty frames
/// in all buffers of bytes.
const WORST: usize = (KERNEL_MAX + 2 * BUFFER) / HEADER_LEAST * LinkLimits::cost(0)
    + (QUEUED_MAX + 2) * LinkLimits::cost(FRAME_MAX);

pub(crate) const LIMITS: LinkLimits = LinkLimits::new(FRAME_MAX, WORST);

/// How a socket must be set up to become a [`link`](crate::link()): limits of messages, and bounded buffers.
#[must_use]
pub fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(BUFFER + FRAME_MAX + HEADER_MAX + CONTROL_ROOM)
        .max_message_size(Some(FRAME_MAX))
        .max_frame_size(Some(FRAME_MAX))
}

/// Whether a socket keeps the bounds that links rely on.
pub(crate) fn is_bounded(config: &WebSocketConfig) -> bool {
    let ours = socket_config();
    config.max_message_size == ours.max_message_size
        && config.max_frame_size == ours.max_frame_size
        && config.write_buffer_size == ours.write_buffer_size
        && config.max_write_buffer_size == ours.max_write_buffer_size
        && config.read_buffer_size <= ours.read_buffer_size
        && !config.accept_unmasked_frames
}

/// A socket that one task reads and writes side by side. The lock is held while it is polled, so it is never waited for.
pub(crate) struct Socket<S>(Mutex<WebSocketStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(crate) fn new(socket: WebSocketStream<S>) -> Self {
        Self(Mutex::new(socket))
    }

    fn lock(&self) -> MutexGuard<'_, WebSocketStream<S>> {
        // A panic in the library ends the task that owns the socket.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message; nothing when both sides have closed and the connection has ended.
    pub(crate) async fn next(&self) -> Option<Result<Message, Error>> {
        poll_fn(|cx| Pin::new(&mut *self.lock()).poll_next(cx)).await
    }

    /// Waits until there is room for a message.
    pub(crate) async fn room(&self) -> Result<(), Error> {
        poll_fn(|cx| Pin::new(&mut *self.lock()).poll_ready(cx)).await
    }

    /// Takes a message over; [`room`](Self::room) must have said that there is room. From here on it leaves in its
    /// place: also before the answer to a close that arrives later.
    pub(crate) fn put(&self, message: Message) -> Result<(), Error> {
        Pin::new(&mut *self.lock()).start_send(message)
    }

    /// Waits until all that was put has been written.
    pub(crate) async fn flush(&self) -> Result<(), Error> {
        poll_fn(|cx| match Pin::new(&mut *self.lock()).poll_flush(cx) {
            // All has been written, and the connection has ended in order.
            Poll::Ready(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => Poll::Ready(Ok(())),
            other => other,
        })
        .await
    }

    /// Waits until the connection below has written all it holds, and ends our side of it.
    pub(crate) async fn shutdown(&self) -> std::io::Result<()> {
        poll_fn(|cx| Pin::new(self.lock().get_mut()).poll_shutdown(cx)).await
    }
}

/// What a failure of the socket means for the link.
pub(crate) fn broken(error: Error) -> TransportError {
    let kind = match &error {
        Error::Io(_)
        | Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Kind::Lost,
        _ => Kind::Incompatible,
    };
    TransportError::new(kind, "websocket").with_source(error)
}
