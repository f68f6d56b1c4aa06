//! Serving a router on a socket, with the time limits that keep slow clients from holding it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// A request line and headers fit in one packet; a client that takes longer is stalled or hostile.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// Below the usual limit of 1,024 open files, with room for the databases.
const CONNECTIONS_MAX: usize = 768;
/// Requests in progress have this long to finish once the shutdown began.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Accepting fails when files run out; trying again at once would only spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Serves `router` on `listener` until `shutdown` is ready, then lets requests in progress finish.
///
/// # Cancel safety
/// Dropping the future stops accepting and abandons the connections without waiting for them.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepting = async {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            next = accepting => next,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let connection = graceful.watch(connection(stream, &router));
        tokio::spawn(async move {
            // A client that breaks off, or breaks the protocol, is its own affair.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    // The rest is abandoned: whatever has been acknowledged by then is stored.
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
}

fn connection(
    stream: TcpStream,
    router: &Router,
) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()))
}
