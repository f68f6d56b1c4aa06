//! A stream of events as a client reads it.

use std::collections::VecDeque;

use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use opor_transport_traits::TransportError;

use crate::carry::against_rules;
use crate::event::{Event, Parser};
use crate::lane::Route;
use crate::state::Violation;
use crate::verdict::Trouble;
use crate::wire::EVENTS;

/// An answer that brings events for as long as it lasts.
pub(crate) struct EventStream {
    body: Incoming,
    parser: Parser,
    events: VecDeque<Event>,
}

/// Why a stream ended.
#[derive(Debug)]
pub(crate) enum StreamError {
    /// The connection ended in the middle.
    Cut(hyper::Error),
    Rules(Violation),
}

impl StreamError {
    pub(crate) fn of_link(self, route: &Route) -> Trouble {
        match self {
            Self::Cut(error) => {
                let lost = TransportError::lost(format!("{}: the event stream was cut", route.url.public));
                Trouble::Passing(lost.with_source(error), None)
            }
            Self::Rules(violation) => against_rules(violation),
        }
    }
}

impl EventStream {
    /// Reads an answer with status 200.
    pub(crate) fn new(answer: Response<Incoming>) -> Result<Self, Violation> {
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with(EVENTS)) {
            return Err(Violation("an answer that is no event stream"));
        }
        Ok(Self { body: answer.into_body(), parser: Parser::default(), events: VecDeque::new() })
    }

    /// The next event; nothing at the end.
    ///
    /// # Cancel safety
    /// Safe: what has been read is kept.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, StreamError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(StreamError::Cut)?;
            let Ok(data) = frame.into_data() else { continue };
            self.parser.feed(&data, &mut self.events).map_err(StreamError::Rules)?;
        }
    }
}
