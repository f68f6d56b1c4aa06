//! The task behind a client's end: it sends, receives, and shows that it is there, until the link ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use opor_transport_traits::{Bytes, TransportError};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::batch::encode;
use crate::dialer::Downstream;
use crate::lane::{Lane, Route};
use crate::limits::{BATCH_MAX, WINDOW};
use crate::outage::Outage;
use crate::state::{Carried, LinkState, Outgoing, Violation};
use crate::stream::EventStream;
use crate::terms::Terms;
use crate::verdict::{Trouble, refused, unanswered};
use crate::wire::{BATCH, HAVE, LINK, TAKEN, number};

/// How long a link that was closed and dropped here goes on for the server to take what is left and to answer.
pub const LINGER: Duration = Duration::from_secs(30);

/// What a request may take beside the time for which the server holds it: its body over a slow line.
pub(crate) const MARGIN: Duration = Duration::from_secs(30);

/// How long what has been taken may stay untold. Until then the server keeps it.
const TELL_AFTER: Duration = Duration::from_millis(500);

/// How much may stay untold: so little that a server seldom waits for it.
const UNTOLD_MAX: usize = WINDOW / 4;

/// How long the last word to a server may take. Without it the server keeps the link until it expires.
const FAREWELL: Duration = Duration::from_secs(5);

/// Before the same is asked again where an answer brought nothing, and came sooner than it should.
pub(crate) const BREATH: Duration = Duration::from_millis(100);

/// What a client's end works with.
pub(crate) struct Carrier {
    pub(crate) state: Arc<LinkState>,
    pub(crate) route: Arc<Route>,
    pub(crate) terms: Terms,
    pub(crate) downstream: Downstream,
    pub(crate) retry_window: Duration,
    /// When the last request was begun.
    asked: Mutex<Instant>,
}

impl Carrier {
    pub(crate) fn new(
        route: Arc<Route>,
        terms: Terms,
        downstream: Downstream,
        retry_window: Duration,
    ) -> Self {
        let state = LinkState::new(Arc::default());
        Self { state, route, terms, downstream, retry_window, asked: Mutex::new(Instant::now()) }
    }

    /// The headers of a request of this link: its id, and how far the server's messages have been taken.
    pub(crate) fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        [(LINK, self.terms.id.clone()), (HAVE, HeaderValue::from(self.state.tell_taken()))]
    }

    /// Carries the link until it ends. `stream` is what the dial has begun to read, `lane` where it did so.
    pub(crate) async fn carry(self, lane: Lane, stream: Option<EventStream>) {
        let _carried = Carried(self.state.clone());
        let lingering = async {
            self.state.left().await;
            sleep(LINGER).await;
            self.lost("the peer did not answer the close")
        };
        let ended = tokio::select! {
            ended = async { tokio::try_join!(self.send_all(), self.receive_all(lane, stream)) } => ended.err(),
            error = self.show_life() => Some(error),
            error = self.state.lost() => Some(error),
            error = lingering => Some(error),
        };
        match ended {
            // The server learns that its close has arrived, and forgets the link.
            None => drop(timeout(FAREWELL, self.post(&mut self.lane(), Bytes::new())).await),
            Some(error) => {
                self.state.lose(error);
                leave(&self.route, &self.terms.id).await;
            }
        }
    }

    fn lane(&self) -> Lane {
        Lane::new(self.route.clone())
    }

    pub(crate) fn lost(&self, how: &str) -> TransportError {
        TransportError::lost(format!("{}: {how}", self.route.url.public))
    }

    pub(crate) fn passing(&self, how: &str) -> Passing {
        Passing(self.lost(how))
    }

    /// Sends until our close has been taken. One request is under way at a time, and the next one begins with what the
    /// server has not taken.
    async fn send_all(&self) -> Result<(), TransportError> {
        let (mut lane, mut outage) = (self.lane(), Outage::new(self.retry_window));
        loop {
            // Those who may send more have a turn: their frames then leave together.
            yield_now().await;
            let confirmed = self.state.confirmed();
            let (first, messages) = match self.state.outgoing(confirmed, BATCH_MAX - 64).await {
                Outgoing::Some(first, messages) => (first, messages),
                Outgoing::Done => return Ok(()),
                Outgoing::Lost(error) => return Err(error),
            };
            let begun = Instant::now();
            match self.post(&mut lane, encode(first, &messages, self.terms.squeeze)).await {
                Ok(taken) => {
                    self.state.confirm(taken).map_err(Violation::error)?;
                    outage.over();
                    // Somebody else has sent the same at the same time: a proxy that repeats requests.
                    if taken <= confirmed && begun.elapsed() < BREATH {
                        sleep(BREATH).await;
                    }
                }
                Err(trouble) => outage.bear(trouble).await?,
            }
        }
    }

    /// Posts a batch, or nothing; how far the server has taken our messages.
    async fn post(&self, lane: &mut Lane, batch: Bytes) -> Result<u64, Trouble> {
        let [link, have] = self.headers();
        let headers = [link, have, (CONTENT_TYPE, HeaderValue::from_static(BATCH))];
        let answer = lane.ask(Method::POST, &headers, batch, self.terms.hold + MARGIN).await;
        let answer = answer.map_err(|error| unanswered(&self.route, error))?;
        if answer.status() != StatusCode::OK {
            return Err(refused(&self.route, answer.status(), answer.headers()));
        }
        // Without the number somebody between the two has answered.
        number(answer.headers(), &TAKEN).ok_or_else(|| self.passing("an answer that is none of ours").into())
    }

    /// Tells what has been taken when there is much of it or it is a while ago, and that we are there when nothing else
    /// does.
    async fn show_life(&self) -> TransportError {
        let (mut lane, mut outage) = (self.lane(), Outage::new(self.retry_window));
        loop {
            let a_while_ago = async {
                loop {
                    self.state.untold(1).await;
                    sleep(TELL_AFTER).await;
                    // Other requests may have told it meanwhile.
                    if self.state.is_untold() {
                        break;
                    }
                }
            };
            let silent = async {
                loop {
                    let due =
                        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) + self.terms.heartbeat;
                    if due <= Instant::now() {
                        break;
                    }
                    sleep_until(due).await;
                }
            };
            tokio::select! {
                () = self.state.untold(UNTOLD_MAX) => {}
                () = a_while_ago => {}
                () = silent => {}
            }
            loop {
                match self.post(&mut lane, Bytes::new()).await {
                    Ok(taken) => match self.state.confirm(taken) {
                        Ok(()) => break outage.over(),
                        Err(violation) => return violation.error(),
                    },
                    Err(trouble) => {
                        if let Err(error) = outage.bear(trouble).await {
                            return error;
                        }
                    }
                }
            }
        }
    }
}

/// Trouble that passes.
pub(crate) struct Passing(TransportError);

impl Passing {
    pub(crate) fn with_source(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Trouble {
        Self(self.0.with_source(source)).into()
    }
}

impl From<Passing> for Trouble {
    fn from(passing: Passing) -> Self {
        Self::Passing(passing.0, None)
    }
}

pub(crate) fn against_rules(violation: Violation) -> Trouble {
    Trouble::Final(violation.error())
}

/// Tells a server that nobody is there any more, as far as it still listens.
pub(crate) async fn leave(route: &Arc<Route>, id: &HeaderValue) {
    let mut lane = Lane::new(route.clone());
    let _ = lane.ask(Method::DELETE, &[(LINK, id.clone())], Bytes::new(), FAREWELL).await;
}
