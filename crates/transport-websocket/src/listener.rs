//! Listening.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opor_transport_kit::{Knock, Verdict, tcp};
use opor_transport_traits::{Link, Listener, Peer, TransportError, TransportErrorKind as Kind, async_trait};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::accept_hdr_async_with_config;

use crate::handshake::answer;
use crate::link::{NAME, link};
use crate::socket::{KERNEL_BUFFER, socket_config};

/// How long a dialer has for its handshake unless told otherwise.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many handshakes are under way at once unless told otherwise. Each holds a socket and some KiB until its time is over.
const HANDSHAKES_MAX: usize = 512;

/// How many links wait to be accepted; further ones wait with their handshakes.
const READY_MAX: usize = 64;

type Judge = dyn Fn(&Knock<'_>) -> Verdict + Send + Sync;

/// How a listener treats those who dial.
#[derive(Clone)]
pub struct ListenOptions {
    handshake_timeout: Duration,
    handshakes_max: usize,
    judge: Arc<Judge>,
    #[cfg(feature = "tls")]
    tls: Option<tokio_rustls::TlsAcceptor>,
}

impl Default for ListenOptions {
    /// Everybody is let in, over plain TCP.
    fn default() -> Self {
        Self {
            handshake_timeout: HANDSHAKE_TIMEOUT,
            handshakes_max: HANDSHAKES_MAX,
            judge: Arc::new(|_: &Knock<'_>| Verdict::Welcome),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl ListenOptions {
    /// Gives up on a dialer that has not completed its handshake after so long.
    #[must_use]
    pub fn with_handshake_timeout(mut self, handshake_timeout: Duration) -> Self {
        self.handshake_timeout = handshake_timeout;
        self
    }

    /// Has so many handshakes under way at once, but one at least. Further dialers wait until one is over; each holds a socket
    /// and some KiB until then.
    #[must_use]
    pub fn with_handshakes_max(mut self, handshakes_max: usize) -> Self {
        self.handshakes_max = handshakes_max.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Asks this function who is let in, before the upgrade. It is called on the runtime, so it must not block.
    #[must_use]
    pub fn with_judge(mut self, judge: impl Fn(&Knock<'_>) -> Verdict + Send + Sync + 'static) -> Self {
        self.judge = Arc::new(judge);
        self
    }

    /// Listens for `wss://`, with the certificate of this configuration.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config.into());
        self
    }

    fn scheme(&self) -> &'static str {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return "wss";
        }
        "ws"
    }
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenOptions")
            .field("scheme", &self.scheme())
            .field("handshake_timeout", &self.handshake_timeout)
            .finish_non_exhaustive()
    }
}

/// Listens on a TCP port and does the upgrade itself: for peers that reach each other directly. A web server hands its
/// sockets to [`link`] instead.
#[derive(Debug)]
pub struct WebSocketListener {
    address: String,
    links: mpsc::Receiver<Link>,
    task: JoinHandle<()>,
}

impl WebSocketListener {
    /// Listens at an address; port 0 lets the system choose one.
    ///
    /// # Errors
    /// `Misconfigured`, when the address cannot be had: it is taken, not ours, or not allowed.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO.
    pub fn bind(address: SocketAddr, options: ListenOptions) -> Result<Self, TransportError> {
        let (listener, address) = tcp::listen(NAME, address, Some(KERNEL_BUFFER))?;
        Ok(Self::over(listener, address, options))
    }

    fn over(listener: TcpListener, address: SocketAddr, options: ListenOptions) -> Self {
        let address = format!("{}://{address}/", options.scheme());
        let (ready, links) = mpsc::channel(READY_MAX);
        let task = tokio::spawn(welcome_all(listener, ready, options));
        Self { address, links, task }
    }
}

#[async_trait]
impl Listener for WebSocketListener {
    fn address(&self) -> &str {
        &self.address
    }

    async fn accept(&mut self) -> Result<Link, TransportError> {
        let gone = || TransportError::new(Kind::Exhausted, "websocket: the runtime that listened has ended");
        self.links.recv().await.ok_or_else(gone)
    }
}

impl Drop for WebSocketListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn welcome_all(listener: TcpListener, ready: mpsc::Sender<Link>, options: ListenOptions) {
    let welcome = |stream, from, place| {
        let visit = Visit { ready: ready.clone(), options: options.clone(), from, _place: place };
        drop(tokio::spawn(visit.welcome(stream)));
    };
    match tcp::accept_all(&listener, options.handshakes_max, welcome).await {}
}

/// One handshake, in a task of its own: who is slow here is slow alone, and who fails here fails alone.
struct Visit {
    ready: mpsc::Sender<Link>,
    options: ListenOptions,
    from: SocketAddr,
    _place: OwnedSemaphorePermit,
}

impl Visit {
    async fn welcome(self, stream: TcpStream) {
        tokio::select! {
            biased;
            () = self.ready.closed() => {}
            upgraded = timeout(self.options.handshake_timeout, self.upgrade(stream)) => {
                if let Ok(Some(link)) = upgraded {
                    // Where the listener has been dropped meanwhile, the link is dropped too, and the dialer sees it lost.
                    let _ = self.ready.send(link).await;
                }
            }
        }
    }

    /// A link, or nothing when the handshake fails.
    async fn upgrade(&self, stream: TcpStream) -> Option<Link> {
        stream.set_nodelay(true).ok()?;
        #[cfg(feature = "tls")]
        if let Some(acceptor) = &self.options.tls {
            return self.shake_hands(acceptor.accept(stream).await.ok()?).await;
        }
        self.shake_hands(stream).await
    }

    async fn shake_hands<S>(&self, stream: S) -> Option<Link>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        #[expect(clippy::result_large_err, reason = "the library wants the answer itself")]
        let callback =
            |request: &_, response| answer(request, response, self.from, |knock| (self.options.judge)(knock));
        let socket = accept_hdr_async_with_config(stream, callback, Some(socket_config())).await.ok()?;
        link(socket, Peer::new(format!("{}:{}", self.options.scheme(), self.from))).ok()
    }
}
