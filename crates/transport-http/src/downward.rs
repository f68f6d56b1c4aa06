//! What a server sends: as a stream of events, or as the answer to a poll.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use opor_transport_traits::Bytes;
use tokio::time::sleep;

use crate::batch::encode;
use crate::body::HttpBody;
use crate::event;
use crate::limits::{BATCH_MAX, EVENT_BATCH};
use crate::registry::{Entry, Until};
use crate::server::respond;
use crate::state::Outgoing;
use crate::wire::{BATCH, BUFFERING, Complaint, EVENTS};

/// A stream of events that goes on until the link ends, or the client asks for another.
pub(crate) fn events(entry: Arc<Entry>, have: u64, turn: Until, keep_alive: Duration) -> Response<HttpBody> {
    let events = Events { entry, have, turn, keep_alive, at: At::Hello };
    let stream = unfold(events, |mut events| async move {
        let piece = events.next().await?;
        Some((piece, events))
    });
    let mut response = respond(StatusCode::OK, HttpBody::stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENTS));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    response
}

/// Waits for messages, but not for ever.
pub(crate) async fn poll(
    entry: &Entry,
    have: u64,
    mut turn: Until,
    hold: Duration,
) -> Result<Response<HttpBody>, Complaint> {
    let outgoing = tokio::select! {
        biased;
        outgoing = entry.state.outgoing(have, BATCH_MAX - 64) => Some(outgoing),
        () = sleep(hold) => None,
        () = turn.over() => None,
    };
    match outgoing {
        Some(Outgoing::Some(first, messages)) => {
            let batch = encode(first, &messages, entry.squeeze);
            let mut response = respond(StatusCode::OK, HttpBody::whole(batch));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(BATCH));
            Ok(response)
        }
        Some(Outgoing::Done) | None => Ok(respond(StatusCode::NO_CONTENT, HttpBody::empty())),
        Some(Outgoing::Lost(_)) => Err(Complaint::UnknownLink),
    }
}

/// A stream of events, as far as it has got.
struct Events {
    entry: Arc<Entry>,
    have: u64,
    turn: Until,
    keep_alive: Duration,
    at: At,
}

enum At {
    Hello,
    Messages,
    End,
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        match self.at {
            At::Hello => {
                self.at = At::Messages;
                return Some(event::HELLO);
            }
            At::Messages => {}
            At::End => return None,
        }
        tokio::select! {
            biased;
            () = self.turn.over() => None,
            outgoing = self.entry.state.outgoing(self.have, EVENT_BATCH) => match outgoing {
                Outgoing::Some(first, messages) => {
                    self.have = first + messages.len() as u64 - 1;
                    Some(event::of_batch(self.have, &encode(first, &messages, self.entry.squeeze)))
                }
                Outgoing::Done => None,
                Outgoing::Lost(_) => {
                    self.at = At::End;
                    Some(event::LOST)
                }
            },
            () = sleep(self.keep_alive) => Some(event::KEEP_ALIVE),
        }
    }
}
