//! Dialling.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use opor_transport_kit::WebAddress;
#[cfg(feature = "tls")]
use opor_transport_kit::tls;
use opor_transport_traits::{
    Bytes, Dialer, Link, Peer, TransportError, TransportErrorKind as Kind, async_trait,
};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::carry::{Carrier, leave};
use crate::event::Event;
use crate::halves::link;
use crate::lane::{Lane, Route, Unanswered};
use crate::limits::NAME;
use crate::stream::{EventStream, StreamError};
use crate::terms::Terms;
use crate::verdict::{Trouble, dial_refused, dial_unanswered};
use crate::wire::{Complaint, SQUEEZE};

/// How long a connection or an answer may take unless told otherwise: a slow line takes some seconds for its name, TCP
/// and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the first event may take unless told otherwise. It needs one round trip; what takes longer is held up.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long requests that fail are repeated unless told otherwise: a change from one network to another takes less,
/// and servers keep a link for a minute.
const RETRY_WINDOW: Duration = Duration::from_secs(30);

/// How a client receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Downstream {
    /// As a stream of events, and where that does not get through, by long polls.
    #[default]
    Auto,
    /// As a stream of events, or not at all.
    Events,
    /// By long polls: requests that the server answers when it has something.
    LongPoll,
}

/// Reaches a server at one address.
///
/// ```
/// use opor_transport_http::HttpDialer;
/// use opor_transport_traits::Dialer;
///
/// let dialer = HttpDialer::new("https://hub.example/http-sync/garden?as=phone")?.with_bearer("s3cret")?;
/// assert_eq!(dialer.target().as_str(), "https://hub.example/http-sync/garden");
/// assert!(!format!("{dialer:?}").contains("s3cret"));
/// # Ok::<(), opor_transport_traits::TransportError>(())
/// ```
#[derive(Clone)]
pub struct HttpDialer {
    route: Route,
    downstream: Downstream,
    hello_timeout: Duration,
    retry_window: Duration,
    compress: bool,
}

impl HttpDialer {
    /// A dialer for an address that begins with `http://` or `https://`. Servers of `https://` must show a certificate of
    /// the web's authorities, unless `with_tls` says otherwise. No redirect is followed.
    ///
    /// # Errors
    /// `Misconfigured`, when it is no such address, when it holds credentials, or when it is `https://` and this was
    /// built without the feature `tls`.
    pub fn new(url: &str) -> Result<Self, TransportError> {
        let url = WebAddress::parse(url, NAME, "http")?;
        if url.secure && !cfg!(feature = "tls") {
            return Err(TransportError::new(Kind::Misconfigured, "http: built without TLS"));
        }
        let route = Route {
            #[cfg(feature = "tls")]
            tls: tls::Connector::new(&url)?,
            url,
            authorization: None,
            connect_timeout: CONNECT_TIMEOUT,
        };
        Ok(Self {
            route,
            downstream: Downstream::default(),
            hello_timeout: HELLO_TIMEOUT,
            retry_window: RETRY_WINDOW,
            compress: cfg!(feature = "zstd"),
        })
    }

    /// Shows this token to the server with every request (RFC 6750).
    ///
    /// # Errors
    /// `Misconfigured`, when it holds what a header cannot.
    pub fn with_bearer(mut self, token: &str) -> Result<Self, TransportError> {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let wrong = |_| TransportError::new(Kind::Misconfigured, "http: a token that no header can hold");
        let mut value = value.map_err(wrong)?;
        value.set_sensitive(true);
        self.route.authorization = Some(value);
        Ok(self)
    }

    /// Gives a connection, or the answer to an open, up after so long: 15 seconds unless told otherwise.
    #[must_use]
    pub fn with_connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.route.connect_timeout = connect_timeout;
        self
    }

    /// Receives in this way.
    #[must_use]
    pub fn with_downstream(mut self, downstream: Downstream) -> Self {
        self.downstream = downstream;
        self
    }

    /// Takes an event stream for held up when it has not begun after so long: 5 seconds unless told otherwise.
    #[must_use]
    pub fn with_hello_timeout(mut self, hello_timeout: Duration) -> Self {
        self.hello_timeout = hello_timeout;
        self
    }

    /// Repeats requests that fail in transit for so long, before the link is lost: 30 seconds unless told otherwise.
    /// Longer than the server keeps a link is of no use.
    #[must_use]
    pub fn with_retry_window(mut self, retry_window: Duration) -> Self {
        self.retry_window = retry_window;
        self
    }

    /// Neither takes compressed batches nor makes them.
    #[must_use]
    pub fn without_compression(mut self) -> Self {
        self.compress = false;
        self
    }

    /// Checks certificates, and shows one, as this configuration says: for authorities of your own, or those of the
    /// system.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.route.tls = self.route.tls.with_config(config);
        self
    }

    /// Opens a link on the server.
    async fn open(&self, route: &Route, lane: &mut Lane) -> Result<Terms, TransportError> {
        let squeeze = self.compress.then(|| (SQUEEZE, HeaderValue::from_static("1")));
        let headers: Vec<_> = squeeze.into_iter().collect();
        let answer = lane.ask(Method::POST, &headers, Bytes::new(), route.connect_timeout).await;
        let answer = answer.map_err(|error| dial_unanswered(route, error))?;
        if answer.status() != StatusCode::CREATED {
            return Err(match answer.status().is_success() {
                true => route.failure(Kind::Incompatible),
                false => dial_refused(route, answer.status(), answer.headers()),
            });
        }
        Terms::of(answer.headers(), self.compress).ok_or_else(|| route.failure(Kind::Incompatible))
    }

    /// Begins to receive: with it the server takes the link for established.
    async fn begin(&self, carrier: &Carrier) -> Result<(Lane, Option<EventStream>), TransportError> {
        let mut lane = Lane::new(carrier.route.clone());
        if self.downstream != Downstream::LongPoll {
            match timeout(self.hello_timeout, self.hello(carrier, &mut lane)).await {
                Ok(Ok(stream)) => return Ok((lane, Some(stream))),
                Ok(Err(Hello::Refused(error))) => return Err(error),
                Ok(Err(Hello::NotThrough(error))) if self.downstream == Downstream::Events => {
                    return Err(error);
                }
                Err(_) if self.downstream == Downstream::Events => {
                    return Err(carrier.route.failure(Kind::TimedOut));
                }
                Ok(Err(Hello::NotThrough(_))) | Err(_) => {}
            }
            lane = Lane::new(carrier.route.clone());
        }
        self.first_poll(carrier, &mut lane).await?;
        Ok((lane, None))
    }

    /// A stream that has said that it gets through.
    async fn hello(&self, carrier: &Carrier, lane: &mut Lane) -> Result<EventStream, Hello> {
        let route = &*carrier.route;
        let answer = carrier.ask_events(lane, self.hello_timeout).await;
        let answer = answer.map_err(|error| Hello::NotThrough(dial_unanswered(route, error)))?;
        if answer.status() != StatusCode::OK {
            let error = dial_refused(route, answer.status(), answer.headers());
            return Err(match Complaint::of(answer.headers()) {
                Some(_) => Hello::Refused(error),
                None => Hello::NotThrough(error),
            });
        }
        let incompatible = || route.failure(Kind::Incompatible);
        let mut stream = EventStream::new(answer)
            .map_err(|violation| Hello::NotThrough(incompatible().with_source(violation.error())))?;
        loop {
            return match stream.next().await {
                Ok(Some(Event::Hello)) => Ok(stream),
                // Somebody on the way pads streams, so that they are not held up.
                Ok(Some(Event::KeepAlive)) => continue,
                Ok(Some(Event::Lost)) => Err(Hello::Refused(route.failure(Kind::Unreachable))),
                Ok(Some(Event::Batch(_))) => Err(Hello::Refused(incompatible())),
                Ok(None) => Err(Hello::NotThrough(route.failure(Kind::Unreachable))),
                Err(StreamError::Cut(error)) => {
                    Err(Hello::NotThrough(dial_unanswered(route, Unanswered::Transit(Some(error)))))
                }
                Err(StreamError::Rules(violation)) => {
                    Err(Hello::Refused(incompatible().with_source(violation.error())))
                }
            };
        }
    }

    async fn first_poll(&self, carrier: &Carrier, lane: &mut Lane) -> Result<(), TransportError> {
        let route = &*carrier.route;
        let answer = carrier.ask_at_once(lane, self.route.connect_timeout).await;
        let answer = answer.map_err(|error| dial_unanswered(route, error))?;
        if !matches!(answer.status(), StatusCode::OK | StatusCode::NO_CONTENT) {
            return Err(match answer.status().is_success() {
                true => route.failure(Kind::Incompatible),
                false => dial_refused(route, answer.status(), answer.headers()),
            });
        }
        match carrier.take_answer(answer).await {
            Ok(_) => Ok(()),
            // It was there, and went away in the middle.
            Err(Trouble::Passing(error, _)) => Err(route.failure(Kind::Unreachable).with_source(error)),
            Err(Trouble::Final(error)) => Err(route.failure(Kind::Incompatible).with_source(error)),
        }
    }
}

/// Why there is no stream.
enum Hello {
    /// The server itself says so: other ways to receive would fail as well.
    Refused(TransportError),
    /// It does not get through.
    NotThrough(TransportError),
}

#[async_trait]
impl Dialer for HttpDialer {
    fn target(&self) -> &Peer {
        &self.route.url.public
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        let route = Arc::new(self.route.clone());
        let terms = self.open(&route, &mut Lane::new(route.clone())).await?;
        // From here on the server knows of the link, and must be told when there will be none.
        let mut opened = Opened(Some((route.clone(), terms.id.clone())));
        let carrier = Carrier::new(route, terms, self.downstream, self.retry_window);
        let (lane, stream) = self.begin(&carrier).await?;
        let link = link(&carrier.state, &self.route.url.public);
        tokio::spawn(carrier.carry(lane, stream));
        opened.0 = None;
        Ok(link)
    }
}

/// A link that was opened and may not come to be.
struct Opened(Option<(Arc<Route>, HeaderValue)>);

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some((route, id)) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { leave(&route, &id).await });
        }
    }
}

impl fmt::Debug for HttpDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpDialer")
            .field("target", &self.route.url.public)
            .field("downstream", &self.downstream)
            .field("retry_window", &self.retry_window)
            .finish_non_exhaustive()
    }
}
