//! Dialling.

use std::fmt;
use std::time::Duration;

#[cfg(feature = "tls")]
use opor_transport_kit::tls;
use opor_transport_kit::{WebAddress, tcp};
use opor_transport_traits::{Dialer, Link, Peer, TransportError, TransportErrorKind as Kind, async_trait};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, HeaderValue, SEC_WEBSOCKET_PROTOCOL};

use crate::handshake::{SUBPROTOCOL, failed};
use crate::link::{NAME, link};
use crate::socket::{KERNEL_BUFFER, socket_config};

/// How long a dial may take unless told otherwise: a slow line takes some seconds for its name, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Reaches a server at one address.
///
/// ```
/// use opor_transport_traits::Dialer;
/// use opor_transport_websocket::WebSocketDialer;
///
/// let dialer = WebSocketDialer::new("wss://hub.example/sync/garden?as=phone")?.with_bearer("s3cret")?;
/// assert_eq!(dialer.target().as_str(), "wss://hub.example/sync/garden");
/// assert!(!format!("{dialer:?}").contains("s3cret"));
/// # Ok::<(), opor_transport_traits::TransportError>(())
/// ```
#[derive(Clone)]
pub struct WebSocketDialer {
    url: WebAddress,
    authorization: Option<HeaderValue>,
    connect_timeout: Duration,
    #[cfg(feature = "tls")]
    tls: tls::Connector,
}

impl WebSocketDialer {
    /// A dialer for an address that begins with `ws://` or `wss://`. Servers of `wss://` must show a certificate of the
    /// web's authorities, unless `with_tls` says otherwise.
    ///
    /// # Errors
    /// `Misconfigured`, when it is no such address, when it holds credentials, or when it is `wss://` and this was built
    /// without the feature `tls`.
    pub fn new(url: &str) -> Result<Self, TransportError> {
        let url = WebAddress::parse(url, NAME, "ws")?;
        if url.secure && !cfg!(feature = "tls") {
            return Err(TransportError::new(Kind::Misconfigured, "websocket: built without TLS"));
        }
        Ok(Self {
            #[cfg(feature = "tls")]
            tls: tls::Connector::new(&url)?,
            url,
            authorization: None,
            connect_timeout: CONNECT_TIMEOUT,
        })
    }

    /// Shows this token to the server (RFC 6750).
    ///
    /// # Errors
    /// `Misconfigured`, when it holds what a header cannot.
    pub fn with_bearer(mut self, token: &str) -> Result<Self, TransportError> {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let wrong =
            |_| TransportError::new(Kind::Misconfigured, "websocket: a token that no header can hold");
        let mut value = value.map_err(wrong)?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// Gives a dial up after so long.
    #[must_use]
    pub fn with_connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// Checks certificates, and shows one, as this configuration says: for authorities of your own, or those of the
    /// system.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, config: std::sync::Arc<rustls::ClientConfig>) -> Self {
        self.tls = self.tls.with_config(config);
        self
    }

    fn failure(&self, kind: Kind) -> TransportError {
        TransportError::new(kind, self.url.public.as_str())
    }

    fn request(&self) -> Result<Request, TransportError> {
        let request = self.url.uri.clone().into_client_request();
        let mut request = request.map_err(|error| self.failure(Kind::Misconfigured).with_source(error))?;
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(request)
    }

    async fn connect(&self) -> Result<Link, TransportError> {
        let stream = tcp::connect(&self.url.host, self.url.port, Some(KERNEL_BUFFER)).await;
        let stream = stream.map_err(|error| self.failure(tcp::kind_of(&error)).with_source(error))?;
        #[cfg(feature = "tls")]
        if self.url.secure {
            let stream = self.tls.connect(stream).await;
            return self
                .upgrade(stream.map_err(|error| self.failure(tls::kind_of(&error)).with_source(error))?)
                .await;
        }
        self.upgrade(stream).await
    }

    async fn upgrade<S>(&self, stream: S) -> Result<Link, TransportError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let upgraded = client_async_with_config(self.request()?, stream, Some(socket_config())).await;
        let (socket, _) = upgraded.map_err(|error| failed(error, self.url.public.as_str()))?;
        link(socket, self.url.public.clone())
    }
}

#[async_trait]
impl Dialer for WebSocketDialer {
    fn target(&self) -> &Peer {
        &self.url.public
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        let dialled = timeout(self.connect_timeout, self.connect()).await;
        dialled.unwrap_or_else(|elapsed| Err(self.failure(Kind::TimedOut).with_source(elapsed)))
    }
}

impl fmt::Debug for WebSocketDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketDialer")
            .field("target", &self.url.public)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}
