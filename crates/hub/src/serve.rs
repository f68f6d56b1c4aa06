//! Serving a router on a socket, with the limits that keep slow clients from holding it.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower_service::Service;

use crate::connection::Connection;

/// A request line and headers fit in one packet; a client that takes longer is stalled or hostile.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Below the usual limit of 1,024 open files, with room for the databases. A connection that has become a session is not
/// among them.
const CONNECTIONS_MAX: usize = 768;
/// Requests in progress have this long to finish once the shutdown began.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Accepting fails when files run out; trying again at once would only spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How many connections wait for us to take them from the kernel: a burst of reconnects.
const BACKLOG: u32 = 1024;
/// What the kernel is asked to buffer for each direction; Linux takes twice that, and so does the peer's. Links over
/// WebSocket count on 512 KiB in all.
const KERNEL_BUFFER: u32 = 128 << 10;

/// Listens at an address, with buffers as small as sync sessions want them: a peer that does not receive then costs a
/// bounded amount. Port 0 lets the system choose one.
///
/// # Errors
/// When the address cannot be had.
///
/// # Panics
/// Outside of a tokio runtime with IO.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections inherit the buffers.
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    // A restart must not wait for the connections of its predecessor to time out. On Windows it would mean something else.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` on `listener` until `shutdown` is ready, then lets requests in progress finish. Sync sessions are not
/// requests: they go on until [`Hub::close`](crate::Hub::close). Those over HTTP are carried by requests: [`Hub::dismiss`](crate::Hub::dismiss)
/// ends them, and comes before `shutdown`.
///
/// # Cancel safety
/// Dropping the future stops accepting and abandons the connections without waiting for them.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepting = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            Some(_ended) = connections.join_next(), if !connections.is_empty() => continue,
            next = accepting => next,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let connection = connection(stream, from, router.clone(), stopped.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    stop.send_replace(true);
    // The rest is abandoned: whatever has been acknowledged by then is stored.
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await;
}

/// Answers the requests of one connection, until it ends or becomes a session.
async fn connection(stream: TcpStream, from: SocketAddr, router: Router, mut stopped: watch::Receiver<bool>) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let about = Connection::new(from);
    let socket = TokioIo::new(about.watch(stream));
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(about.clone());
        router.clone().call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(socket, service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // A client that breaks off, or breaks the protocol, is its own affair.
    tokio::select! {
        _ended = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ended = connection.await;
}
