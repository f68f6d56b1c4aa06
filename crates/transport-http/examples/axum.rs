//! The server half within a web server of axum, and a replica's two ends of it: `cargo run --example axum`.
//!
//! The web server decides who asks and for which room. The transport sees nothing of either.

use std::error::Error;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use opor_transport_http::{Caller, Handover, HttpDialer, HttpServer, ServerOptions, handover};
use opor_transport_traits::{Bytes, CloseCode, CloseReason, Dialer as _, Listener as _, Received};
use tokio::net::TcpListener;

/// What all requests share. A server with many rooms finds the handover of a room by its name.
#[derive(Clone)]
struct Hub {
    server: HttpServer,
    garden: Handover,
}

/// Who shows this token.
fn authenticate(headers: &HeaderMap) -> Option<&'static str> {
    let shown = headers.get(AUTHORIZATION)?.to_str().ok()?;
    (shown == "Bearer s3cret").then_some("anna")
}

async fn http_sync(State(hub): State<Hub>, Path(room): Path<String>, request: Request) -> Response {
    let Some(who) = authenticate(request.headers()) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    if room != "garden" {
        return StatusCode::NOT_FOUND.into_response();
    }
    // axum's bodies have another type of error, which any server half takes.
    let answered = hub.server.answer(&Caller::new(room, who), request).await;
    match answered.link.map(|link| hub.garden.give(link)) {
        Some(false) => HttpServer::nobody_listens().map(Body::new),
        Some(true) | None => answered.response.map(Body::new),
    }
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), Box<dyn Error>> {
    let (garden, mut links) = handover("/http-sync/garden");
    let hub = Hub { server: HttpServer::new(ServerOptions::default()), garden };
    let router = Router::new().route("/http-sync/{room}", any(http_sync)).with_state(hub);

    // hyper with hyper-util serves it, or whatever serves the rest of the router.
    let port = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/http-sync/garden", port.local_addr()?);
    tokio::spawn(serve(port, router));

    let dialer = HttpDialer::new(&url)?.with_bearer("s3cret")?;
    // `links` is a listener: a Replicator takes it as it is.
    let (dialled, accepted) = tokio::try_join!(dialer.dial(), links.accept())?;
    let ((mut phone, mut from_hub), (_hub, mut from_phone)) = (dialled.split(), accepted.split());
    phone.send(Bytes::from_static(b"hello")).await?;
    phone.close(CloseReason::new(CloseCode::DONE)).await?;
    assert_eq!(from_phone.recv().await?, Received::Frame(Bytes::from_static(b"hello")));
    assert_eq!(from_hub.recv().await?, Received::Closed(CloseReason::new(CloseCode::DONE)));

    let error = HttpDialer::new(&url)?.dial().await.expect_err("it shows no token");
    assert!(!error.worth_retry(), "{error}");
    Ok(())
}

async fn serve(port: TcpListener, router: Router) {
    use hyper_util::rt::{TokioIo, TokioTimer};
    use hyper_util::service::TowerToHyperService;

    while let Ok((stream, _)) = port.accept().await {
        let service = TowerToHyperService::new(router.clone());
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { drop(connection.await) });
    }
}
