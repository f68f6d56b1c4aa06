//! The halves of an end.

use std::fmt;
use std::sync::Arc;

use opor_transport_traits::{
    Bytes, CloseReason, Link, Peer, Received, Receiver, Sender, TransportError, TransportErrorKind as Kind,
    async_trait,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;

use crate::carry::{Command, carry};
use crate::ending::{Ending, gone};
use crate::socket::{FRAME_MAX, LIMITS, QUEUED_MAX, Socket, is_bounded};

/// Commands that wait for the task: one, which is not done yet.
const COMMANDS_MAX: usize = 1;

/// Makes a link of a socket that has been upgraded already, by a web server say. The socket must be set up with
/// [`socket_config`](crate::socket_config), and the handshake must have agreed on
/// [`SUBPROTOCOL`](crate::SUBPROTOCOL).
///
/// What may be on its way is bounded as [`LinkLimits`](opor_transport_traits::LinkLimits) says when the kernel buffers no
/// more than 512 KiB for each direction, at both ends together, of the socket; that is up to whoever opened it.
///
/// # Errors
/// `Misconfigured`, when the socket has other limits.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn link<S>(socket: WebSocketStream<S>, peer: Peer) -> Result<Link, TransportError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if !is_bounded(socket.get_config()) {
        return Err(TransportError::new(Kind::Misconfigured, "websocket: a socket with other limits"));
    }
    let (commands, to_do) = mpsc::channel(COMMANDS_MAX);
    let (give, given) = mpsc::channel(QUEUED_MAX);
    let ending = Arc::new(Ending::default());
    tokio::spawn(carry(Socket::new(socket), to_do, give, ending.clone()));
    let sender = WebSocketSender { commands, ending: ending.clone(), peer: peer.clone() };
    let receiver = WebSocketReceiver { given, closed: None, ending, peer: peer.clone() };
    Ok(Link::new(sender, receiver, LIMITS, peer))
}

struct WebSocketSender {
    commands: mpsc::Sender<Command>,
    ending: Arc<Ending>,
    peer: Peer,
}

impl WebSocketSender {
    /// Has the task do something; no means that the link has ended.
    async fn order(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> bool {
        let (answer, answered) = oneshot::channel();
        // A command that is cancelled here has been queued whole, or not at all.
        self.commands.send(command(answer)).await.is_ok() && answered.await.is_ok()
    }
}

#[async_trait]
impl Sender for WebSocketSender {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        if frame.len() > FRAME_MAX {
            return Err(TransportError::frame_too_large(frame.len(), LIMITS));
        }
        if let Some(error) = self.ending.of_sending() {
            return Err(error);
        }
        match self.order(|answer| Command::Send(frame, answer)).await {
            true => Ok(()),
            false => Err(self.ending.of_sending().unwrap_or_else(gone)),
        }
    }

    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError> {
        let ended = self.ending.of_sending();
        if ended.is_none() && self.order(|answer| Command::Close(reason, answer)).await {
            return Ok(());
        }
        match self.ending.of_sending().unwrap_or_else(gone) {
            error if error.kind() == Kind::Closed => Ok(()),
            error => Err(error),
        }
    }
}

struct WebSocketReceiver {
    given: mpsc::Receiver<Received>,
    /// What has been given last, when it was a close.
    closed: Option<CloseReason>,
    ending: Arc<Ending>,
    peer: Peer,
}

#[async_trait]
impl Receiver for WebSocketReceiver {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        if let Some(reason) = &self.closed {
            return Ok(Received::Closed(reason.clone()));
        }
        let Some(received) = self.given.recv().await else {
            return Err(self.ending.of_receiving());
        };
        if let Received::Closed(reason) = &received {
            self.closed = Some(reason.clone());
        }
        Ok(received)
    }
}

impl fmt::Debug for WebSocketSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketSender").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl fmt::Debug for WebSocketReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketReceiver").field("peer", &self.peer).finish_non_exhaustive()
    }
}
