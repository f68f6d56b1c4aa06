//! The door: a peer that has shown no token in its request shows one in its hello, before its room is touched.

use std::time::Duration;

use opor_sync_proto::{Bye, ByeCode, Decoded, Message, Refusal, decode};
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Link, Received, Receiver, Sender, TransportError, async_trait,
};
use tokio::time::timeout;

use crate::HubError;
use crate::access::Tokens;

/// So long the goodbye may take: who does not take it by then is left without.
const FAREWELL: Duration = Duration::from_secs(2);

/// Waits for the hello of a peer and looks at its token. Who has none of ours is told so, and gone.
///
/// The link that is returned gives the hello once more, to the session.
///
/// # Errors
/// `Unauthorized`, also for what is no hello and for a hello that does not come in time.
pub(crate) async fn let_in(link: Link, tokens: &Tokens, wait: Duration) -> Result<Link, HubError> {
    let (limits, peer) = (link.limits(), link.peer().clone());
    let (sender, mut receiver) = link.split();
    let received = timeout(wait, receiver.recv()).await;
    let Ok(Ok(Received::Frame(frame))) = received else {
        turn_away(sender, receiver, ByeCode::Timeout, "hello did not come in time").await;
        return Err(HubError::Unauthorized);
    };
    let shown = match decode(&frame) {
        Ok(Decoded::Message(Message::Hello(hello))) => tokens.has(&hello.token.0),
        // A newer version of the protocol, or none at all: the session would not let it in either.
        _ => false,
    };
    if shown {
        let receiver = Again { frame: Some(frame), receiver };
        return Ok(Link::new(sender, receiver, limits, peer));
    }
    turn_away(sender, receiver, ByeCode::Token, &Refusal::Token.to_string()).await;
    Err(HubError::Unauthorized)
}

/// Tells the peer of a link why it is not let in, as far as it listens.
pub(crate) async fn refuse(link: Link, error: &HubError) {
    let code = match error {
        HubError::Closing => ByeCode::Shutdown,
        HubError::Full { .. } | HubError::Busy { .. } | HubError::Overloaded => ByeCode::Busy,
        HubError::UnknownRoom { .. } | HubError::TooManyRooms { .. } => ByeCode::Room,
        _ => ByeCode::StoreFailed,
    };
    let (sender, receiver) = link.split();
    turn_away(sender, receiver, code, &error.to_string()).await;
}

async fn turn_away(
    mut sender: Box<dyn Sender>,
    mut receiver: Box<dyn Receiver>,
    code: ByeCode,
    detail: &str,
) {
    let close = CloseReason::explained(close_code(code), detail);
    let bye = Message::Bye(Bye { code, detail: detail.chars().take(60).collect() }).to_bytes(0);
    let goodbye = async {
        // Whatever fails here has ended the link, which is what is wanted.
        if sender.send(Bytes::from(bye)).await.is_ok() && sender.close(close).await.is_ok() {
            while let Ok(Received::Frame(_)) = receiver.recv().await {}
        }
    };
    let _left_without = timeout(FAREWELL, goodbye).await;
}

const fn close_code(code: ByeCode) -> CloseCode {
    match code {
        ByeCode::Shutdown | ByeCode::Timeout => CloseCode::GOING_AWAY,
        ByeCode::Busy => CloseCode::OVERLOADED,
        ByeCode::StoreFailed => CloseCode::INTERNAL,
        _ => CloseCode::REFUSED,
    }
}

/// Gives one frame again, before what follows it.
#[derive(Debug)]
struct Again {
    frame: Option<Bytes>,
    receiver: Box<dyn Receiver>,
}

#[async_trait]
impl Receiver for Again {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        match self.frame.take() {
            Some(frame) => Ok(Received::Frame(frame)),
            None => self.receiver.recv().await,
        }
    }
}

/// Keeps something for as long as the link is received from: a place among the sessions, the room.
#[derive(Debug)]
pub(crate) struct Keeping<T> {
    receiver: Box<dyn Receiver>,
    _kept: T,
}

impl<T> Keeping<T> {
    pub(crate) fn new(receiver: Box<dyn Receiver>, kept: T) -> Self {
        Self { receiver, _kept: kept }
    }
}

#[async_trait]
impl<T: std::fmt::Debug + Send> Receiver for Keeping<T> {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        self.receiver.recv().await
    }
}
