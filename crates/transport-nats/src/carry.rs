//! The task that carries a link: it receives and publishes side by side until both sides have closed, or the link is lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{StatusCode, Subject, Subscriber};
use futures_util::StreamExt as _;
use opor_transport_kit::{Carriage, Command, Ending, left, refuse};
use opor_transport_traits::{Bytes, CloseReason, Received, TransportError, TransportErrorKind as Kind};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::broker::Broker;
use crate::flow::Flow;
use crate::wire::{FRAME_MAX, Message};

/// How long a link that was closed and dropped here goes on for the peer to take what is left and to answer: enough for
/// the few MiB that may be on their way over a poor line.
pub const LINGER: Duration = Duration::from_secs(30);

/// How long the last words may take to reach the broker.
const FAREWELL: Duration = Duration::from_secs(1);

/// Two subjects at a broker.
pub(crate) struct Wire {
    pub(crate) broker: Broker,
    /// How often the connection had broken when the link was made.
    pub(crate) breaks: u64,
    pub(crate) inbox: Subscriber,
    /// Where this end receives.
    pub(crate) ours: Subject,
    /// Where the peer receives.
    pub(crate) theirs: Subject,
    pub(crate) keepalive: Duration,
}

/// Carries a link until it ends.
pub(crate) async fn carry(wire: Wire, carriage: Carriage, flow: Arc<Flow>) {
    let Wire { broker, breaks, mut inbox, ours, theirs, keepalive } = wire;
    let Carriage { mut commands, give, ending } = carriage;
    let mut out = Out { broker, ours, theirs, number: 0 };
    let mut breaking = out.broker.breaks();
    let outcome = {
        // A loss is noted before the other side of the task is dropped, and with it the answers that somebody waits for.
        let reading = ending.noting(read_all(&mut inbox, &give, &ending, &flow));
        let writing = ending.noting(write_all(&mut out, &mut commands, &ending, &flow, keepalive));
        let left = ending.noting(async { Err(left(&give, &ending, LINGER).await) });
        let broken = ending.noting(async {
            let _closed = breaking.wait_for(|now| *now != breaks).await;
            Err(ending.lost("the connection to the broker broke"))
        });
        tokio::select! {
            outcome = async { tokio::try_join!(reading, writing).map(|_| ()) } => outcome,
            outcome = left => outcome,
            outcome = broken => outcome,
        }
    };
    // Who finds a queue at its end looks up why.
    drop((give, commands));
    let farewell = async {
        if outcome.is_err() {
            out.say(&Message::Gone).await?;
        }
        out.broker.client().flush().await.map_err(failed)
    };
    // Told as far as the broker still listens; the link has ended either way.
    let _ = timeout(FAREWELL, farewell).await;
    // Not before the broker has our last word: whoever says something in between would be told that nobody is here.
    drop(inbox);
}

/// Reads until the peer has closed.
async fn read_all(
    inbox: &mut Subscriber,
    give: &mpsc::Sender<Received>,
    ending: &Ending,
    flow: &Flow,
) -> Result<(), TransportError> {
    let breach = |what: &str| TransportError::new(Kind::Incompatible, format!("nats: {what}"));
    let mut next = 0_u32;
    let mut frame = Vec::new();
    while let Some(message) = inbox.next().await {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(TransportError::lost("nats: the peer is gone"));
        }
        let parsed = Message::from_bytes(&message.payload).map_err(|_| breach("a message that is none"))?;
        match parsed {
            Message::Piece { number, .. } | Message::Close { number, .. } if number != next => {
                return Err(TransportError::lost("nats: messages were lost on the way"));
            }
            Message::Piece { is_last, bytes, .. } => {
                next = next.wrapping_add(1);
                if frame.len() + bytes.len() > FRAME_MAX {
                    return Err(breach("a frame beyond the limit"));
                }
                if !is_last {
                    frame.extend(&*bytes);
                    continue;
                }
                // A frame in one piece is not copied.
                let whole = match frame.is_empty() {
                    true => bytes,
                    false => {
                        frame.extend(&*bytes);
                        std::mem::take(&mut frame).into()
                    }
                };
                flow.arrive(whole.len()).map_err(|_| breach("more on its way than is allowed"))?;
                // Where the receiver has been dropped, the link has been closed (otherwise it is lost), and nobody
                // misses what comes. The peer is let go on.
                let len = whole.len();
                match give.try_send(Received::Frame(whole)) {
                    Ok(()) => {}
                    Err(TrySendError::Closed(_)) => flow.give(len),
                    Err(TrySendError::Full(_)) => return Err(breach("more on its way than is allowed")),
                }
            }
            Message::Credit(totals) => {
                flow.credit(totals).map_err(|_| breach("credit for what was not sent"))?;
            }
            Message::Close { reason, .. } => {
                ending.peer_closes(reason.clone());
                // As above.
                let _ = give.try_send(Received::Closed(reason));
                return Ok(());
            }
            Message::Gone => return Err(TransportError::lost("nats: the peer dropped its end")),
            // What a handshake has left over.
            Message::Ping | Message::Welcome(_) | Message::Open | Message::Nobody => {}
            Message::Hello(_) => return Err(breach("a greeting on an open link")),
        }
    }
    Err(TransportError::lost("nats: the connection to the broker has ended"))
}

/// Publishes what is sent until both sides have closed; the answer to the peer's close is ours.
async fn write_all(
    out: &mut Out,
    commands: &mut mpsc::Receiver<Command>,
    ending: &Ending,
    flow: &Flow,
    keepalive: Duration,
) -> Result<(), TransportError> {
    let mut pings = interval(keepalive);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A send that waits for room.
    let mut waiting: Option<(Bytes, oneshot::Sender<()>)> = None;
    loop {
        // A send that has been given up may as well not happen.
        waiting.take_if(|(_, answer)| answer.is_closed());
        if let Some((frame, answer)) = waiting.take_if(|(frame, _)| flow.take_room(frame.len())) {
            out.send(&frame).await?;
            // Who does not wait any more needs no answer.
            let _ = answer.send(());
        }
        let has_closed = ending.ours().is_some();
        tokio::select! {
            biased;
            () = ending.peer_closed() => break,
            () = flow.credit_due() => out.say(&Message::Credit(flow.tell())).await?,
            () = flow.more_room(), if waiting.is_some() => {}
            () = given_up(&mut waiting), if waiting.is_some() => {}
            _ = pings.tick() => out.say(&Message::Ping).await?,
            command = commands.recv(), if waiting.is_none() && !has_closed => match command {
                None => return Err(TransportError::lost("nats: the sender was dropped")),
                Some(Command::Send(frame, answer)) => waiting = Some((frame, answer)),
                Some(Command::Close(reason, answer)) => {
                    out.close(&reason).await?;
                    ending.close(reason);
                    // Who does not wait any more needs no answer.
                    let _ = answer.send(());
                    commands.close();
                }
            }
        }
    }
    // Calls that wait get no answer, and look up why.
    drop(waiting);
    refuse(commands);
    if ending.ours().is_none()
        && let Some(reason) = ending.theirs()
    {
        out.close(&reason).await?;
    }
    Ok(())
}

/// Waits until nobody waits for the send any more.
async fn given_up(waiting: &mut Option<(Bytes, oneshot::Sender<()>)>) {
    if let Some((_, answer)) = waiting {
        answer.closed().await;
    }
}

/// What this end says.
struct Out {
    broker: Broker,
    ours: Subject,
    theirs: Subject,
    /// That of the next piece.
    number: u32,
}

impl Out {
    /// The reply subject is where the broker says that nobody listens.
    async fn say(&self, message: &Message) -> Result<(), TransportError> {
        let (to, from) = (self.theirs.clone(), self.ours.clone());
        self.broker.client().publish_with_reply(to, from, message.to_bytes()).await.map_err(failed)
    }

    async fn send(&mut self, frame: &Bytes) -> Result<(), TransportError> {
        let most = self.broker.piece_max();
        let mut from = 0;
        loop {
            let to = frame.len().min(from + most);
            let is_last = to == frame.len();
            let number = self.next_number();
            self.say(&Message::Piece { number, is_last, bytes: frame.slice(from..to) }).await?;
            if is_last {
                return Ok(());
            }
            from = to;
        }
    }

    async fn close(&mut self, reason: &CloseReason) -> Result<(), TransportError> {
        let number = self.next_number();
        self.say(&Message::Close { number, reason: reason.clone() }).await
    }

    fn next_number(&mut self) -> u32 {
        let number = self.number;
        self.number = number.wrapping_add(1);
        number
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(error: E) -> TransportError {
    TransportError::lost("nats: the broker could not be told").with_source(error)
}
