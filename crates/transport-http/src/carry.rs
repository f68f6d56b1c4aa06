//! The task behind a client's end: it sends, receives, and shows that it is there, until the link ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use opor_transport_traits::{Bytes, TransportError};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::batch::{Batch, encode};
use crate::body::{self, BodyError};
use crate::dialer::Downstream;
use crate::event::Event;
use crate::lane::{Lane, Route, Unanswered};
use crate::limits::{BATCH_MAX, WINDOW};
use crate::outage::Outage;
use crate::state::{Carried, LinkState, Outgoing, Violation};
use crate::stream::EventStream;
use crate::terms::Terms;
use crate::verdict::{Trouble, refused, unanswered};
use crate::wire::{BATCH, EVENTS, HAVE, LINK, PREFER, TAKEN, number};

/// How long a link that was closed and dropped here goes on for the server to take what is left and to answer.
pub const LINGER: Duration = Duration::from_secs(30);

/// What a request may take beside the time for which the server holds it: its body over a slow line.
const MARGIN: Duration = Duration::from_secs(30);

/// How long what has been taken may stay untold. Until then the server keeps it.
const TELL_AFTER: Duration = Duration::from_millis(500);

/// How much may stay untold: so little that a server seldom waits for it.
const UNTOLD_MAX: usize = WINDOW / 4;

/// How long the last word to a server may take. Without it the server keeps the link until it expires.
const FAREWELL: Duration = Duration::from_secs(5);

/// Before the same is asked again where an answer brought nothing, and came sooner than it should.
const BREATH: Duration = Duration::from_millis(100);

/// After so many event streams that ended without anything, somebody on the way is taken to be against them.
const BARREN_MAX: u32 = 3;

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
    fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        [(LINK, self.terms.id.clone()), (HAVE, HeaderValue::from(self.state.tell_taken()))]
    }

    /// Asks for a stream of events.
    pub(crate) async fn ask_events(
        &self,
        lane: &mut Lane,
        patience: Duration,
    ) -> Result<Response<Incoming>, Unanswered> {
        let [link, have] = self.headers();
        let headers = [link, have, (ACCEPT, HeaderValue::from_static(EVENTS))];
        lane.ask(Method::GET, &headers, Bytes::new(), patience).await
    }

    /// Asks for messages that are there.
    pub(crate) async fn ask_at_once(
        &self,
        lane: &mut Lane,
        patience: Duration,
    ) -> Result<Response<Incoming>, Unanswered> {
        let [link, have] = self.headers();
        let accept = (ACCEPT, HeaderValue::from_static(BATCH));
        let headers = [link, have, accept, (PREFER, HeaderValue::from_static("wait=0"))];
        lane.ask(Method::GET, &headers, Bytes::new(), patience).await
    }

    /// Asks for messages, and has the server wait for them as long as it likes.
    async fn ask_patiently(&self, lane: &mut Lane) -> Result<Response<Incoming>, Unanswered> {
        let [link, have] = self.headers();
        let headers = [link, have, (ACCEPT, HeaderValue::from_static(BATCH))];
        lane.ask(Method::GET, &headers, Bytes::new(), self.terms.hold + MARGIN).await
    }

    /// Takes what an answer with messages holds; says whether it held something new.
    pub(crate) async fn take_answer(&self, response: Response<Incoming>) -> Result<bool, Trouble> {
        match response.status() {
            StatusCode::NO_CONTENT => return Ok(false),
            StatusCode::OK => {}
            status => return Err(refused(&self.route, status, response.headers())),
        }
        let read = timeout(MARGIN, body::read(response.into_body(), BATCH_MAX, |_| {})).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(BodyError::TooLarge)) => {
                return Err(against_rules(Violation("an answer that is too large")));
            }
            Ok(Err(BodyError::Broken(error))) => {
                return Err(self.passing("an answer was cut").with_source(error));
            }
            Err(_) => return Err(self.passing("an answer took too long").into()),
        };
        let batch = Batch::decode(bytes).map_err(|error| against_rules(Violation(error.phrase())))?;
        let before = self.state.taken();
        self.take(batch).await?;
        Ok(self.state.taken() > before)
    }

    async fn take(&self, batch: Batch) -> Result<(), Trouble> {
        for (number, message) in batch.messages() {
            self.state.take_in_time(number, &message).await.map_err(against_rules)?;
        }
        Ok(())
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

    fn lost(&self, how: &str) -> TransportError {
        TransportError::lost(format!("{}: {how}", self.route.url.public))
    }

    fn passing(&self, how: &str) -> Passing {
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

    /// Receives until the peer's close.
    async fn receive_all(
        &self,
        mut lane: Lane,
        mut stream: Option<EventStream>,
    ) -> Result<(), TransportError> {
        let mut polling = stream.is_none();
        let mut outage = Outage::new(self.retry_window);
        let mut barren = 0;
        while !self.state.peer_has_closed() {
            if polling {
                match self.poll(&mut lane).await {
                    Ok(()) => outage.over(),
                    Err(trouble) => outage.bear(trouble).await?,
                }
                continue;
            }
            let mut fruitful = false;
            let ended = self.follow(&mut lane, stream.take(), &mut fruitful).await;
            if fruitful {
                outage.over();
                barren = 0;
            } else {
                barren += 1;
            }
            polling = self.downstream == Downstream::Auto && barren >= BARREN_MAX;
            if let Err(trouble) = ended {
                outage.bear(trouble).await?;
            }
        }
        Ok(())
    }

    async fn poll(&self, lane: &mut Lane) -> Result<(), Trouble> {
        let begun = Instant::now();
        let answer = self.ask_patiently(lane).await;
        let answer = answer.map_err(|error| unanswered(&self.route, error))?;
        if !self.take_answer(answer).await? && begun.elapsed() < BREATH {
            sleep(BREATH).await;
        }
        Ok(())
    }

    /// Follows a stream of events until the peer's close; any other end is trouble. Says whether it brought something.
    async fn follow(
        &self,
        lane: &mut Lane,
        stream: Option<EventStream>,
        fruitful: &mut bool,
    ) -> Result<(), Trouble> {
        let mut stream = match stream {
            Some(stream) => stream,
            None => {
                let answer = self.ask_events(lane, self.terms.silence).await;
                let answer = answer.map_err(|error| unanswered(&self.route, error))?;
                if answer.status() != StatusCode::OK {
                    return Err(refused(&self.route, answer.status(), answer.headers()));
                }
                EventStream::new(answer).map_err(against_rules)?
            }
        };
        loop {
            let event = match timeout(self.terms.silence, stream.next()).await {
                Ok(Ok(Some(event))) => event,
                Ok(Ok(None)) => return Err(self.passing("the event stream ended").into()),
                Ok(Err(trouble)) => return Err(trouble.of_link(&self.route)),
                Err(_) => return Err(self.passing("the event stream fell silent").into()),
            };
            match event {
                Event::Hello => {}
                Event::KeepAlive => *fruitful = true,
                Event::Lost => return Err(Trouble::Final(self.lost("the other end is lost"))),
                Event::Batch(batch) => {
                    *fruitful = true;
                    self.take(batch).await?;
                    if self.state.peer_has_closed() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Trouble that passes.
struct Passing(TransportError);

impl Passing {
    fn with_source(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Trouble {
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
