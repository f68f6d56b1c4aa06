//! Web servers that answer as a test says.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opor_transport_traits::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::Fault;

pub(crate) type Body = UnsyncBoxBody<Bytes, Fault>;

pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(Fault::from).boxed_unsync()
}

pub(crate) fn streamed(pieces: BoxStream<'static, Result<Bytes, Fault>>) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// A server for as long as this is kept.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Web {
    pub(crate) fn url(&self) -> String {
        format!("http://{}/room?key=hidden", self.address)
    }

    /// Answers as the function does. Where that fails, the connection ends without an answer.
    pub(crate) async fn serve<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response<Body>, Fault>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let answer = Arc::new(answer);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("a socket");
                let answer = answer.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| answer(request));
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, _tasks: tasks }
    }
}
