//! Links over sockets.

use opor_transport_kit::link as halves;
use opor_transport_traits::{Link, Peer, TransportError, TransportErrorKind as Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;

use crate::carry::carry;
use crate::socket::{LIMITS, QUEUED_MAX, Socket, is_bounded};

/// What errors begin with.
pub(crate) const NAME: &str = "websocket";

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
    let (link, carriage) = halves(NAME, LIMITS, QUEUED_MAX, peer, |_| {});
    tokio::spawn(carry(Socket::new(socket), carriage));
    Ok(link)
}
