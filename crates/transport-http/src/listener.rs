//! A server of its own: for peers that reach each other directly, and for tests.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use opor_transport_kit::{Knock, Verdict, tcp};
use opor_transport_traits::{Link, Listener, Peer, TransportError, async_trait};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use crate::body::HttpBody;
use crate::caller::Caller;
use crate::handover::{Accepted, Handover, handover};
use crate::limits::NAME;
use crate::options::ServerOptions;
use crate::server::{HttpServer, Load};

/// How long the head of a request may take, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A request line and headers, with a token of 8 KiB.
const HEAD_MAX: usize = 16 * 1024;

/// Ours are six, and proxies add some.
const HEADERS_MAX: usize = 64;

/// Below the usual limit of 1,024 open files, with room for the databases. A link takes three at most.
const CONNECTIONS_MAX: usize = 768;

type Judge = dyn Fn(&Knock<'_>) -> Verdict + Send + Sync;

/// How a listener treats those who dial.
#[derive(Clone)]
pub struct ListenOptions {
    server: ServerOptions,
    judge: Arc<Judge>,
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Default for ListenOptions {
    /// Everybody is let in, over plain TCP.
    fn default() -> Self {
        Self {
            server: ServerOptions::default(),
            judge: Arc::new(|_: &Knock<'_>| Verdict::Welcome),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl ListenOptions {
    /// Times and limits.
    #[must_use]
    pub fn with_server(mut self, server: ServerOptions) -> Self {
        self.server = server;
        self
    }

    /// Asks this function who is let in, at every request. It is called on the runtime, so it must not block.
    #[must_use]
    pub fn with_judge(mut self, judge: impl Fn(&Knock<'_>) -> Verdict + Send + Sync + 'static) -> Self {
        self.judge = Arc::new(judge);
        self
    }

    /// Listens for `https://`, with the certificate of this configuration.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config.into());
        self
    }

    fn scheme(&self) -> &'static str {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return "https";
        }
        "http"
    }
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenOptions")
            .field("scheme", &self.scheme())
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Listens on a TCP port. A web server hands its requests to an [`HttpServer`] instead.
///
/// When it is dropped, nobody can open links any more. Its port stays open for the links that there are, and is closed
/// when the last one has ended.
#[derive(Debug)]
pub struct HttpListener {
    accepted: Accepted,
    server: HttpServer,
}

impl HttpListener {
    /// Listens at an address; port 0 lets the system choose one.
    ///
    /// # Errors
    /// `Misconfigured`, when the address cannot be had: it is taken, not ours, or not allowed.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO and timers.
    pub fn bind(address: SocketAddr, options: ListenOptions) -> Result<Self, TransportError> {
        let (listener, address) = tcp::listen(NAME, address, None)?;
        let (ready, accepted) = handover(format!("{}://{address}/", options.scheme()));
        let server = HttpServer::new(options.server.clone());
        tokio::spawn(welcome_all(listener, Arc::new(Door { server: server.clone(), ready, options })));
        Ok(Self { accepted, server })
    }

    /// What is held for its links.
    #[must_use]
    pub fn load(&self) -> Load {
        self.server.load()
    }
}

#[async_trait]
impl Listener for HttpListener {
    fn address(&self) -> &str {
        self.accepted.address()
    }

    async fn accept(&mut self) -> Result<Link, TransportError> {
        self.accepted.accept().await
    }
}

/// What all connections share.
struct Door {
    server: HttpServer,
    ready: Handover,
    options: ListenOptions,
}

/// Takes connections for as long as somebody listens, or a link needs them.
async fn welcome_all(listener: TcpListener, door: Arc<Door>) {
    let unused = async {
        door.ready.closed().await;
        door.server.idle().await;
    };
    let welcome = |stream, from, place| drop(tokio::spawn(door.clone().welcome(stream, from, place)));
    tokio::select! {
        biased;
        () = unused => {}
        never = tcp::accept_all(&listener, CONNECTIONS_MAX, welcome) => match never {},
    }
}

impl Door {
    /// One connection, in a task of its own: who is slow here is slow alone.
    async fn welcome(self: Arc<Self>, stream: TcpStream, from: SocketAddr, _place: OwnedSemaphorePermit) {
        if stream.set_nodelay(true).is_err() {
            return;
        }
        #[cfg(feature = "tls")]
        if let Some(acceptor) = &self.options.tls {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await {
                self.clone().serve(stream, from).await;
            }
            return;
        }
        self.serve(stream, from).await;
    }

    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin, from: SocketAddr) {
        let service = service_fn(|request| {
            let door = self.clone();
            async move { Ok::<_, Infallible>(door.answer(request, from).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        // A client that breaks off, or breaks the protocol, is its own affair.
        let _ = connection.await;
    }

    async fn answer(&self, request: Request<Incoming>, from: SocketAddr) -> Response<HttpBody> {
        if let Some(status) = (self.options.judge)(&Knock::new(&request, from)).refusal() {
            return refusal(status);
        }
        if self.ready.is_closed() && HttpServer::is_open(&request) {
            return HttpServer::nobody_listens();
        }
        let peer = Peer::new(format!("{}:{from}", self.options.scheme()));
        let caller = Caller::new(request.uri().path(), from.ip().to_string()).described(peer);
        let answered = self.server.answer(&caller, request).await;
        match answered.link.map(|link| self.ready.give(link)) {
            Some(false) => HttpServer::nobody_listens(),
            Some(true) | None => answered.response,
        }
    }
}

fn refusal(status: StatusCode) -> Response<HttpBody> {
    let mut response = Response::new(HttpBody::empty());
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
