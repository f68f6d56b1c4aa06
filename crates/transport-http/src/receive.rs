//! How a client's end receives: it follows a stream of events, or polls.

use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderValue};
use hyper::{Method, Response, StatusCode};
use opor_transport_traits::{Bytes, TransportError};
use tokio::time::{Instant, sleep, timeout};

use crate::batch::Batch;
use crate::body::{self, BodyError};
use crate::carry::{BREATH, Carrier, MARGIN, against_rules};
use crate::dialer::Downstream;
use crate::event::Event;
use crate::lane::{Lane, Unanswered};
use crate::limits::BATCH_MAX;
use crate::outage::Outage;
use crate::state::Violation;
use crate::stream::EventStream;
use crate::verdict::{Trouble, refused, unanswered};
use crate::wire::{BATCH, EVENTS, PREFER};

/// After so many event streams that ended without anything, somebody on the way is taken to be against them.
const BARREN_MAX: u32 = 3;

impl Carrier {
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

    /// Receives until the peer's close.
    pub(crate) async fn receive_all(
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
