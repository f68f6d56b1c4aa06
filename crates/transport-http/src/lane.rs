//! The client's connections: one request at a time each, and a new connection when the old one has ended.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
#[cfg(feature = "tls")]
use opor_transport_kit::tls;
use opor_transport_kit::{WebAddress, tcp};
use opor_transport_traits::{Bytes, TransportError, TransportErrorKind as Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::wire::{VERSION, VERSION_HEADER};

/// The most bytes of the head of an answer, and what is read at once.
const HEAD_MAX: usize = 64 * 1024;

/// How a server is reached, and what every request shows.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) url: WebAddress,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) connect_timeout: Duration,
    #[cfg(feature = "tls")]
    pub(crate) tls: tls::Connector,
}

/// Why a request was not answered.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// There is no connection.
    Connect(TransportError),
    /// The connection ended, or went silent. Whether the server has seen the request is not known.
    Transit(Option<hyper::Error>),
    /// What came is no HTTP.
    Garbage(hyper::Error),
}

impl Route {
    pub(crate) fn failure(&self, kind: Kind) -> TransportError {
        TransportError::new(kind, self.url.public.as_str())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, TransportError> {
        let connecting = async {
            let stream = tcp::connect(&self.url.host, self.url.port, None).await;
            let stream = stream.map_err(|error| self.failure(tcp::kind_of(&error)).with_source(error))?;
            #[cfg(feature = "tls")]
            if self.url.secure {
                let stream = self.tls.connect(stream).await;
                let stream = stream.map_err(|error| self.failure(tls::kind_of(&error)).with_source(error))?;
                return self.speak(stream).await;
            }
            self.speak(stream).await
        };
        let connected = timeout(self.connect_timeout, connecting).await;
        connected.unwrap_or_else(|elapsed| Err(self.failure(Kind::TimedOut).with_source(elapsed)))
    }

    async fn speak<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, TransportError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let spoken = http1::Builder::new().max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream)).await;
        let (requests, connection) =
            spoken.map_err(|error| self.failure(Kind::Unreachable).with_source(error))?;
        // It ends when the sender of requests is dropped. How it ends, requests tell.
        tokio::spawn(async move { drop(connection.await) });
        Ok(requests)
    }

    fn request(
        &self,
        method: Method,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.url.target.clone();
        let all = request.headers_mut();
        all.insert(HOST, self.url.authority.clone());
        all.insert(VERSION_HEADER, VERSION);
        if let Some(authorization) = &self.authorization {
            all.insert(AUTHORIZATION, authorization.clone());
        }
        all.extend(headers.iter().cloned());
        request
    }
}

/// One connection to a server, as long as it lasts.
pub(crate) struct Lane {
    pub(crate) route: Arc<Route>,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Lane {
    pub(crate) fn new(route: Arc<Route>) -> Self {
        Self { route, open: None }
    }

    /// Sends a request and waits for the head of the answer. The body of the answer before must have been read, or
    /// dropped.
    ///
    /// # Cancel safety
    /// The connection is given up. The server may have seen the request.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        patience: Duration,
    ) -> Result<Response<Incoming>, Unanswered> {
        let asking = async {
            let mut requests = match self.still_open().await {
                Some(requests) => requests,
                None => self.route.connect().await.map_err(Unanswered::Connect)?,
            };
            let answer = requests.send_request(self.route.request(method, headers, body)).await;
            let answer = answer.map_err(|error| match error.is_parse() {
                true => Unanswered::Garbage(error),
                false => Unanswered::Transit(Some(error)),
            })?;
            self.open = Some(requests);
            Ok(answer)
        };
        timeout(patience, asking).await.unwrap_or(Err(Unanswered::Transit(None)))
    }

    /// The connection of the request before, if it can take another.
    async fn still_open(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let mut requests = self.open.take()?;
        requests.ready().await.ok().map(|()| requests)
    }
}
