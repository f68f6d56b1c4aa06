//! TCP sockets with bounded buffers.

use std::io::{Error, ErrorKind, Result as IoResult};
use std::net::SocketAddr;

use opor_transport_traits::TransportErrorKind as Kind;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use crate::socket::KERNEL_BUFFER;

/// How many connections wait for us to take them from the kernel: a burst of reconnects.
const BACKLOG: u32 = 1024;

fn socket(address: SocketAddr) -> IoResult<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    Ok(socket)
}

/// Listens at an address. Connections inherit the buffers.
pub(crate) fn listen(address: SocketAddr) -> IoResult<TcpListener> {
    let socket = socket(address)?;
    // A restart must not wait for the connections of its predecessor to time out. On Windows it would mean something else.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connects to the first address of a host that answers.
pub(crate) async fn connect(host: &str, port: u16) -> IoResult<TcpStream> {
    let addresses =
        lookup_host((host, port)).await.map_err(|error| Error::new(ErrorKind::NotFound, error))?;
    connect_to_one_of(addresses).await
}

async fn connect_to_one_of(addresses: impl Iterator<Item = SocketAddr>) -> IoResult<TcpStream> {
    let mut failure = Error::new(ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match connect_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn connect_to(address: SocketAddr) -> IoResult<TcpStream> {
    let stream = socket(address)?.connect(address).await?;
    stream.set_nodelay(true)?;
    // Where nobody listens on a port of this machine, the kernel may choose the same port for us, and we reach ourselves.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// What it means that a connection could not be made, or ended before it was answered.
pub(crate) fn kind_of(error: &Error) -> Kind {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported => Kind::Misconfigured,
        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::OutOfMemory => Kind::Exhausted,
        // Too many open files, of this process or of the system: kinds that std has no name for.
        _ if is_out_of_files(error) => Kind::Exhausted,
        _ => Kind::Unreachable,
    }
}

fn is_out_of_files(error: &Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_later_tries_may_mend_is_told_from_what_they_cannot() {
        for (kind, due) in [
            (ErrorKind::PermissionDenied, Kind::Misconfigured),
            (ErrorKind::InvalidInput, Kind::Misconfigured),
            (ErrorKind::AddrInUse, Kind::Exhausted),
            (ErrorKind::AddrNotAvailable, Kind::Exhausted),
            (ErrorKind::ConnectionRefused, Kind::Unreachable),
            (ErrorKind::NotFound, Kind::Unreachable),
        ] {
            assert_eq!(kind_of(&kind.into()), due, "{kind}");
        }
    }

    #[tokio::test]
    async fn addresses_are_tried_one_after_the_other() -> IoResult<()> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        // Bound, so that it is nobody else's, and not listening.
        let silent = socket(any)?;
        silent.bind(any)?;
        let there = listen(any)?;
        let addresses = [silent.local_addr()?, there.local_addr()?];
        let stream = connect_to_one_of(addresses.into_iter()).await?;
        assert_eq!(stream.peer_addr()?, there.local_addr()?);
        let refused = connect_to_one_of(addresses.into_iter().take(1)).await;
        assert_eq!(refused.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn too_many_open_files_pass() {
        for number in [23, 24] {
            assert_eq!(kind_of(&Error::from_raw_os_error(number)), Kind::Exhausted);
        }
    }
}
