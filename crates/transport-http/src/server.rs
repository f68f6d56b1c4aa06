//! The server half: answers the requests of clients, whoever received them.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use hyper::body::Body;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use opor_transport_traits::{Bytes, Link, TransportError};
use tokio::time::{Instant, sleep_until, timeout};

use crate::batch::Batch;
use crate::body::{self, BodyError, HttpBody};
use crate::caller::Caller;
use crate::downward::{events, poll};
use crate::limits::BATCH_MAX;
use crate::options::ServerOptions;
use crate::registry::{Entry, Registry};
use crate::state::Violation;
use crate::wire::{
    COMPLAINT, Complaint, EVENTS, EXPIRY, HAVE, HOLD, KEEP_ALIVE, LINK, SQUEEZE, TAKEN, VERSION,
    VERSION_HEADER, in_millis, number, wait,
};

/// How long a client that was sent away stays away, in seconds.
const RETRY_SECONDS: u32 = 5;

/// Answers the requests of clients, and hands out the links that they open. A web server hands requests to it once it knows
/// who asks: `examples/axum.rs` does so. Clones answer for the same links.
///
/// Links need no listening server, but clients need somebody who hands in their requests: links whose clients are not
/// heard expire.
#[derive(Clone)]
pub struct HttpServer(Arc<Registry>);

/// What to answer, and a link where the request has completed one.
#[derive(Debug)]
pub struct Answered {
    /// Goes to the client as it is.
    pub response: Response<HttpBody>,
    /// An end of a new link. Dropped, the link is lost.
    pub link: Option<Link>,
}

/// What a server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Links, with those that are about to open or to end.
    pub links: usize,
    /// Bytes of messages that wait to be received or to be confirmed, each with
    /// [`LinkLimits::FRAME_COST`](opor_transport_traits::LinkLimits::FRAME_COST), and of bodies that are read.
    pub held: usize,
    /// The most there ever were at once.
    pub held_most: usize,
}

impl HttpServer {
    /// A server without links.
    #[must_use]
    pub fn new(options: ServerOptions) -> Self {
        Self(Registry::new(options))
    }

    /// What is held now.
    #[must_use]
    pub fn load(&self) -> Load {
        Load { links: self.0.len(), held: self.0.gauge.now(), held_most: self.0.gauge.most() }
    }

    /// The answer where nobody takes links: the room is closed, say. Dialers take it as `Unreachable`, and come back.
    #[must_use]
    pub fn nobody_listens() -> Response<HttpBody> {
        complain(Complaint::NobodyListens)
    }

    /// Whether a request is to open a link. Others belong to links that there are.
    #[must_use]
    pub fn is_open<B>(request: &Request<B>) -> bool {
        request.method() == Method::POST && !request.headers().contains_key(LINK)
    }

    /// The id of the link that a request belongs to, or that an answer has opened. It is a secret of the client.
    #[must_use]
    pub fn link_id(headers: &HeaderMap) -> Option<&str> {
        headers.get(LINK)?.to_str().ok()
    }

    /// Gives up all links that there are: their clients see them lost, and requests that wait are answered.
    pub fn lose_all(&self) {
        self.0.lose_all();
    }

    /// Waits until there is no link. Links end only while requests of their clients are answered, or after a time.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn idle(&self) {
        self.0.empty().await;
    }

    /// Answers one request. It looks at the method, the headers and the body, and neither at the path nor at
    /// credentials: whoever calls it has decided by them.
    ///
    /// It waits for the body, and for room or for messages, within the times of the options. Bodies are read up to the
    /// largest batch. The size of headers is up to whoever received them.
    ///
    /// # Cancel safety
    /// Safe for the link: a client whose request was dropped asks again. A link that was about to be handed out is lost.
    ///
    /// # Panics
    /// Outside of a tokio runtime with timers.
    pub async fn answer<B>(&self, caller: &Caller, request: Request<B>) -> Answered
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        match self.try_answer(caller, request).await {
            Ok(answered) => answered,
            Err(complaint) => complain(complaint).into(),
        }
    }

    async fn try_answer<B>(&self, caller: &Caller, request: Request<B>) -> Result<Answered, Complaint>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        let (head, body) = request.into_parts();
        if head.headers.get(VERSION_HEADER) != Some(&VERSION) {
            return Err(Complaint::Version);
        }
        let id = match head.headers.get(LINK) {
            None if head.method == Method::POST => return self.open(caller, &head.headers).map(Into::into),
            None => return Err(Complaint::UnknownLink),
            Some(id) => id.to_str().map_err(|_| Complaint::UnknownLink)?,
        };
        let entry = self.0.find(caller, id).ok_or(Complaint::UnknownLink)?;
        match head.method {
            Method::GET => self.receive(&entry, &head.headers).await,
            Method::POST => self.send(&entry, &head.headers, body).await.map(Into::into),
            Method::DELETE => {
                entry.state.lose(TransportError::lost("http: the client has left"));
                Ok(respond(StatusCode::NO_CONTENT, HttpBody::empty()).into())
            }
            _ => Err(Complaint::Method),
        }
    }

    fn open(&self, caller: &Caller, headers: &HeaderMap) -> Result<Response<HttpBody>, Complaint> {
        let options = &self.0.options;
        let squeeze = options.compress && headers.contains_key(SQUEEZE);
        let id = self.0.open(caller, squeeze)?;
        let mut response = respond(StatusCode::CREATED, HttpBody::empty());
        let headers = response.headers_mut();
        let mut id = HeaderValue::from_str(&id).expect("hex digits");
        id.set_sensitive(true);
        headers.insert(LINK, id);
        headers.insert(HOLD, in_millis(options.hold));
        headers.insert(EXPIRY, in_millis(options.expiry));
        headers.insert(KEEP_ALIVE, in_millis(options.keep_alive));
        if squeeze {
            headers.insert(SQUEEZE, HeaderValue::from_static("1"));
        }
        Ok(response)
    }

    /// Takes messages of the client, as many as there is room for within the time. The answer says how many that were,
    /// and the client sends the rest again.
    async fn send<B>(
        &self,
        entry: &Entry,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Response<HttpBody>, Complaint>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
    {
        confirm(entry, headers)?;
        if body.is_end_stream() {
            // A sign of life, or a confirmation alone: no reason to end the turn of one that sends.
            return Ok(taken(entry));
        }
        let mut turn = entry.sending.take();
        let mut held = Held { registry: &self.0, bytes: 0 };
        let taking = async {
            let bytes =
                match timeout(self.0.options.body, body::read(body, BATCH_MAX, |len| held.add(len))).await {
                    Err(_) => return Err(Complaint::TooSlow),
                    Ok(Err(BodyError::TooLarge)) => {
                        return Err(broken(entry, Violation("a body that is too large")));
                    }
                    // Nobody is there to read the answer.
                    Ok(Err(BodyError::Broken(_))) => return Err(Complaint::TooSlow),
                    Ok(Ok(bytes)) => bytes,
                };
            if bytes.is_empty() {
                return Ok(());
            }
            let batch = Batch::decode(bytes);
            let batch = batch.map_err(|error| broken(entry, Violation(error.phrase())))?;
            take(entry, batch, Instant::now() + self.0.options.hold).await
        };
        tokio::select! {
            outcome = taking => outcome?,
            // Somebody has sent the same again, and takes over.
            () = turn.over() => {}
        }
        Ok(taken(entry))
    }

    async fn receive(&self, entry: &Arc<Entry>, headers: &HeaderMap) -> Result<Answered, Complaint> {
        let have = number(headers, &HAVE).unwrap_or(0);
        // A request that was overtaken by a newer one must not end it.
        if have < entry.state.confirmed() {
            return Err(Complaint::Stale);
        }
        entry.state.confirm(have).map_err(|violation| broken(entry, violation))?;
        let turn = entry.receiving.take();
        let link = entry.claim();
        let wants_events = headers.get(ACCEPT).is_some_and(|accept| accept == EVENTS);
        let response = if wants_events {
            events(entry.clone(), have, turn, self.0.options.keep_alive)
        } else {
            let options = &self.0.options;
            let hold = wait(headers).unwrap_or(options.hold).min(options.hold);
            poll(entry, have, turn, hold).await?
        };
        Ok(Answered { response, link })
    }
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer").field("load", &self.load()).finish_non_exhaustive()
    }
}

impl From<Response<HttpBody>> for Answered {
    fn from(response: Response<HttpBody>) -> Self {
        Self { response, link: None }
    }
}

/// Takes messages until there is no room for one in time.
async fn take(entry: &Entry, batch: Batch, until: Instant) -> Result<(), Complaint> {
    let taking = async {
        for (number, message) in batch.messages() {
            entry.state.take_in_time(number, &message).await?;
        }
        Ok(())
    };
    tokio::select! {
        outcome = taking => outcome.map_err(|violation| broken(entry, violation)),
        () = sleep_until(until) => Ok(()),
    }
}

/// Notes what the client says that it has.
fn confirm(entry: &Entry, headers: &HeaderMap) -> Result<(), Complaint> {
    match number(headers, &HAVE) {
        Some(have) => entry.state.confirm(have).map_err(|violation| broken(entry, violation)),
        None => Ok(()),
    }
}

/// Ends the link of a client that broke the rules.
fn broken(entry: &Entry, violation: Violation) -> Complaint {
    entry.state.lose(violation.error());
    Complaint::BrokenRules
}

fn taken(entry: &Entry) -> Response<HttpBody> {
    let mut response = respond(StatusCode::OK, HttpBody::empty());
    response.headers_mut().insert(TAKEN, HeaderValue::from(entry.state.taken()));
    response
}

fn complain(complaint: Complaint) -> Response<HttpBody> {
    let mut response = respond(complaint.status(), HttpBody::empty());
    let headers = response.headers_mut();
    headers.insert(COMPLAINT, HeaderValue::from_static(complaint.word()));
    match complaint {
        Complaint::Full | Complaint::TooMany | Complaint::NobodyListens => {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
        }
        Complaint::Method => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
        }
        _ => {}
    }
    response
}

pub(crate) fn respond(status: StatusCode, body: HttpBody) -> Response<HttpBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Counts the bytes of a body until it is done with.
struct Held<'a> {
    registry: &'a Registry,
    bytes: usize,
}

impl Held<'_> {
    fn add(&mut self, bytes: usize) {
        self.registry.gauge.add(bytes);
        self.bytes += bytes;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.registry.gauge.sub(self.bytes);
    }
}
