//! The task that carries a link: it reads and writes side by side until both sides have closed, or the link is lost.

use std::time::Duration;

use opor_transport_kit::{Carriage, Command, Ending, left, refuse};
use opor_transport_traits::{CloseCode, CloseReason, Received, TransportError, TransportErrorKind as Kind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::socket::{Socket, broken};

/// How long a link that was closed and dropped here goes on for the peer to take what is left and to answer: enough for
/// the few MiB that may be on their way over a poor line.
pub const LINGER: Duration = Duration::from_secs(30);

/// How long a peer that broke the rules has to take the reason.
const FAREWELL: Duration = Duration::from_secs(1);

/// Carries a link until it ends.
pub(crate) async fn carry<S: AsyncRead + AsyncWrite + Unpin>(socket: Socket<S>, carriage: Carriage) {
    let Carriage { mut commands, give, ending } = carriage;
    let outcome = {
        // A loss is noted before the other side of the task is dropped, and with it the answers that somebody waits for.
        let reading = ending.noting(read_all(&socket, &give, &ending));
        let writing = ending.noting(write_all(&socket, &mut commands, &ending));
        let left = ending.noting(async { Err(left(&give, &ending, LINGER).await) });
        tokio::select! {
            outcome = async {
                tokio::try_join!(reading, writing)?;
                // The library takes a server's answer for written when TLS has taken it over. How the connection
                // ends does not matter any more.
                let _ = socket.shutdown().await;
                Ok(())
            } => outcome,
            outcome = left => outcome,
        }
    };
    // Who finds a queue at its end looks up why.
    drop((give, commands));
    if let Err(error) = outcome
        && error.kind() == Kind::Incompatible
    {
        // Told as far as the peer still listens; the link is lost either way.
        let _ = timeout(FAREWELL, reproach(&socket)).await;
    }
}

/// Reads until the peer has closed, then until the connection ends.
async fn read_all<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &Socket<S>,
    give: &mpsc::Sender<Received>,
    ending: &Ending,
) -> Result<(), TransportError> {
    loop {
        // Nothing is read before there is a place for it. Where the receiver has been dropped, the link has been closed
        // (otherwise it is lost), and nobody misses what is read.
        let place = give.reserve().await.ok();
        let received = next(socket, ending).await?;
        let closed = matches!(received, Received::Closed(_));
        if let Some(place) = place {
            place.send(received);
        }
        if closed {
            break;
        }
    }
    // The server ends the connection, and the client waits for that. How it ends does not matter any more.
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

/// The next frame or the peer's close, which is noted at once: nothing may be put on the socket after it.
async fn next<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &Socket<S>,
    ending: &Ending,
) -> Result<Received, TransportError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(frame))) => return Ok(Received::Frame(frame)),
            Some(Ok(Message::Close(frame))) => {
                let reason = reason_of(frame, ending.ours());
                ending.peer_closes(reason.clone());
                return Ok(Received::Closed(reason));
            }
            // The library answers pings.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                return Err(TransportError::new(Kind::Incompatible, "websocket: a text message"));
            }
            Some(Err(error)) => return Err(broken(error)),
            None => return Err(TransportError::lost("websocket: the connection has ended")),
        }
    }
}

/// Writes what is sent until we close, or until the peer has: then what has been taken over, and the answer.
async fn write_all<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &Socket<S>,
    commands: &mut mpsc::Receiver<Command>,
    ending: &Ending,
) -> Result<(), TransportError> {
    let mut flushed = true;
    loop {
        let command = tokio::select! {
            biased;
            () = ending.peer_closed() => break,
            command = commands.recv() => command,
            result = flush(socket), if !flushed => {
                result.map_err(broken)?;
                flushed = true;
                continue;
            }
        };
        let Some(command) = command else {
            return Err(TransportError::lost("websocket: the sender was dropped"));
        };
        tokio::select! {
            biased;
            () = ending.peer_closed() => break,
            result = socket.room() => result.map_err(broken)?,
        }
        match command {
            // A send that has been given up may as well not happen.
            Command::Send(_, answer) if answer.is_closed() => {}
            Command::Send(frame, answer) => {
                socket.put(Message::Binary(frame)).map_err(broken)?;
                flushed = false;
                // Who does not wait any more needs no answer.
                let _ = answer.send(());
            }
            Command::Close(reason, answer) => {
                socket.put(Message::Close(Some(frame_of(&reason)))).map_err(broken)?;
                ending.close(reason);
                let _ = answer.send(());
                break;
            }
        }
    }
    refuse(commands);
    socket.flush().await.map_err(broken)
}

/// Flushes after those who may send more have had a turn: their frames then leave together.
async fn flush<S: AsyncRead + AsyncWrite + Unpin>(socket: &Socket<S>) -> Result<(), Error> {
    yield_now().await;
    socket.flush().await
}

/// Tells a peer that it broke the rules.
async fn reproach<S: AsyncRead + AsyncWrite + Unpin>(socket: &Socket<S>) -> Result<(), Error> {
    let reason =
        CloseReason::explained(CloseCode::VIOLATION, "against the rules of opor's WebSocket transport");
    socket.room().await?;
    socket.put(Message::Close(Some(frame_of(&reason))))?;
    socket.flush().await?;
    Ok(socket.shutdown().await?)
}

/// A reason as WebSocket carries it. Numbers that may not be on the wire (RFC 6455, section 7.4) become an internal failure.
fn frame_of(reason: &CloseReason) -> CloseFrame {
    let code = WireCode::from(reason.code().number());
    let code = if code.is_allowed() { code } else { WireCode::from(CloseCode::INTERNAL.number()) };
    CloseFrame { code, reason: reason.text().into() }
}

/// The reason that a peer gave. An answer to our close may come without one; a close may too, and is then the number that
/// RFC 6455 keeps for that.
fn reason_of(frame: Option<CloseFrame>, ours: Option<&CloseReason>) -> CloseReason {
    const NO_CODE: CloseCode = CloseCode::from_number(1005);
    match frame {
        Some(frame) => {
            CloseReason::explained(CloseCode::from_number(frame.code.into()), frame.reason.as_str())
        }
        None => ours.cloned().unwrap_or_else(|| CloseReason::new(NO_CODE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_the_wire() {
        for reason in
            [CloseReason::new(CloseCode::DONE), CloseReason::explained(CloseCode::private(4321), "grüße")]
        {
            assert_eq!(reason_of(Some(frame_of(&reason)), None), reason);
        }
    }

    #[test]
    fn numbers_that_may_not_be_sent_become_an_internal_failure() {
        for number in [0, 999, 1005, 1006, 1015, 2000, 5000] {
            let reason = CloseReason::explained(CloseCode::from_number(number), "why");
            let due = CloseReason::explained(CloseCode::INTERNAL, "why");
            assert_eq!(reason_of(Some(frame_of(&reason)), None), due, "{number}");
        }
    }

    #[test]
    fn a_close_without_a_code_is_an_answer_or_a_close_for_no_reason() {
        let ours = CloseReason::explained(CloseCode::GOING_AWAY, "update");
        assert_eq!(reason_of(None, Some(&ours)), ours);
        assert_eq!(reason_of(None, None).code().number(), 1005);
    }
}
