//! TCP sockets, with bounded buffers where that is wanted.

use std::convert::Infallible;
use std::io::{Error, ErrorKind, Result as IoResult};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opor_transport_traits::{TransportError, TransportErrorKind as Kind};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

/// How many connections wait for us to take them from the kernel: a burst of reconnects.
const BACKLOG: u32 = 1024;

/// How long to wait when the system cannot give us a connection, for want of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket for an address. With a size the kernel is asked for buffers of it, of which Linux makes twice as much.
fn socket(address: SocketAddr, kernel_buffer: Option<u32>) -> IoResult<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(bytes) = kernel_buffer {
        socket.set_send_buffer_size(bytes)?;
        socket.set_recv_buffer_size(bytes)?;
    }
    Ok(socket)
}

/// Listens at an address, for a transport of this name; the address with the port that the system chose. Connections inherit
/// the buffers.
///
/// # Errors
/// `Misconfigured`, when the address cannot be had: it is taken, not ours, or not allowed.
///
/// # Panics
/// Outside of a tokio runtime with IO.
pub fn listen(
    transport: &str,
    address: SocketAddr,
    kernel_buffer: Option<u32>,
) -> Result<(TcpListener, SocketAddr), TransportError> {
    let failed = |error| {
        TransportError::new(Kind::Misconfigured, format!("{transport}: listening at {address}"))
            .with_source(error)
    };
    let listener = bind(address, kernel_buffer).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn bind(address: SocketAddr, kernel_buffer: Option<u32>) -> IoResult<TcpListener> {
    let socket = socket(address, kernel_buffer)?;
    // A restart must not wait for the connections of its predecessor to time out. On Windows it would mean something else.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections, so many at once as there are places: each holds its place until it is dropped. It never ends, whatever
/// becomes of one connection.
///
/// # Cancel safety
/// Safe: it takes no more then.
pub async fn accept_all(
    listener: &TcpListener,
    places_max: usize,
    mut welcome: impl FnMut(TcpStream, SocketAddr, OwnedSemaphorePermit),
) -> Infallible {
    let places = Arc::new(Semaphore::new(places_max));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is not closed");
        match listener.accept().await {
            Ok((stream, from)) => welcome(stream, from, place),
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Connects to the first address of a host that answers.
///
/// # Errors
/// That of the last address; [`kind_of`] says what it means.
///
/// # Cancel safety
/// Dropped, it does not connect.
pub async fn connect(host: &str, port: u16, kernel_buffer: Option<u32>) -> IoResult<TcpStream> {
    let addresses =
        lookup_host((host, port)).await.map_err(|error| Error::new(ErrorKind::NotFound, error))?;
    connect_to_one_of(addresses, kernel_buffer).await
}

async fn connect_to_one_of(
    addresses: impl Iterator<Item = SocketAddr>,
    kernel_buffer: Option<u32>,
) -> IoResult<TcpStream> {
    let mut failure = Error::new(ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match connect_to(address, kernel_buffer).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn connect_to(address: SocketAddr, kernel_buffer: Option<u32>) -> IoResult<TcpStream> {
    let stream = socket(address, kernel_buffer)?.connect(address).await?;
    stream.set_nodelay(true)?;
    // Where nobody listens on a port of this machine, the kernel may choose the same port for us, and we reach ourselves.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// What it means that a connection could not be made, or ended before it was answered.
#[must_use]
pub fn kind_of(error: &Error) -> Kind {
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

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn addresses_are_tried_one_after_the_other() -> IoResult<()> {
        runtime().block_on(async {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            // Bound, so that it is nobody else's, and not listening.
            let silent = socket(any, None)?;
            silent.bind(any)?;
            let there = bind(any, None)?;
            let addresses = [silent.local_addr()?, there.local_addr()?];
            let stream = connect_to_one_of(addresses.into_iter(), None).await?;
            assert_eq!(stream.peer_addr()?, there.local_addr()?);
            let refused = connect_to_one_of(addresses.into_iter().take(1), None).await;
            assert_eq!(refused.expect_err("nobody listens").kind(), ErrorKind::ConnectionRefused);
            Ok(())
        })
    }

    #[test]
    fn an_address_that_is_taken_is_told() {
        runtime().block_on(async {
            let (_listener, address) = listen("pigeons", ([127, 0, 0, 1], 0).into(), None).expect("a port");
            let error = listen("pigeons", address, None).expect_err("it is taken");
            assert_eq!(error.kind(), Kind::Misconfigured);
            assert!(error.to_string().contains(&format!("pigeons: listening at {address}")), "{error}");
        });
    }

    /// That connections wait in the kernel while there is no place, and are taken when there is.
    #[test]
    fn so_many_are_let_in_as_there_are_places() {
        runtime().block_on(async {
            let (listener, address) =
                listen("pigeons", ([127, 0, 0, 1], 0).into(), Some(8192)).expect("a port");
            let (let_in, mut guests) = tokio::sync::mpsc::unbounded_channel();
            let welcoming = accept_all(&listener, 2, |stream, from, place| {
                let _ = let_in.send((stream, from, place));
            });
            let visiting = async {
                let mut streams = Vec::new();
                for _ in 0..3 {
                    streams.push(connect("127.0.0.1", address.port(), Some(8192)).await.expect("it listens"));
                }
                let first = guests.recv().await.expect("the first");
                let second = guests.recv().await.expect("the second");
                assert_eq!(first.1, streams[0].local_addr().expect("an address"));
                assert!(guests.try_recv().is_err(), "there are two places");
                drop(first);
                let third = guests.recv().await.expect("the third");
                assert_eq!(third.1, streams[2].local_addr().expect("an address"));
                drop(second);
            };
            tokio::select! {
                never = welcoming => match never {},
                () = visiting => {}
            }
        });
    }

    #[cfg(unix)]
    #[test]
    fn too_many_open_files_pass() {
        for number in [23, 24] {
            assert_eq!(kind_of(&Error::from_raw_os_error(number)), Kind::Exhausted);
        }
    }
}
