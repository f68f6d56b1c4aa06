//! One end of a link: what waits to be confirmed, what waits to be received, and how it ends.
//!
//! No IO happens here. The halves, the requests of the client and the answers of the server all work on this.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opor_transport_traits::{Bytes, CloseReason, Received, TransportError, TransportErrorKind as Kind};
use tokio::sync::watch;

use crate::batch::Message;
use crate::gauge::Gauge;
use crate::limits::{FRAME_MAX, LIMITS, WINDOW};

/// Shared by the halves of an end and whatever carries it. The lock is never held while something is awaited.
#[derive(Debug)]
pub(crate) struct LinkState {
    inner: Mutex<Inner>,
    /// Told at every change. Few wait at once: a half each, and a request each way.
    changed: watch::Sender<()>,
    gauge: Arc<Gauge>,
}

#[derive(Debug, Default)]
struct Inner {
    outbox: Queue,
    /// The number of the last message that the peer has confirmed.
    confirmed: u64,
    inbox: Queue,
    /// The number of the last message of the peer that has been taken.
    taken: u64,
    /// What has been taken and not been told yet.
    untold: usize,
    /// We have closed.
    ours: Option<CloseReason>,
    /// The peer has closed, or has answered.
    theirs: Option<CloseReason>,
    lost: Option<TransportError>,
    sender_gone: bool,
    receiver_gone: bool,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    cost: usize,
}

impl Queue {
    /// A frame of any size finds room in an empty queue.
    fn has_room(&self, cost: usize) -> bool {
        self.messages.is_empty() || self.cost + cost <= WINDOW
    }

    fn push(&mut self, message: Message, gauge: &Gauge) {
        self.cost += message.cost();
        gauge.add(message.cost());
        self.messages.push_back(message);
    }

    fn pop(&mut self, gauge: &Gauge) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.cost -= message.cost();
        gauge.sub(message.cost());
        Some(message)
    }

    fn clear(&mut self, gauge: &Gauge) {
        while self.pop(gauge).is_some() {}
    }
}

/// What there is to carry.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// Messages, and the number of the first.
    Some(u64, Vec<Message>),
    /// Our close and all before it has gone, as far as the caller says.
    Done,
    Lost(TransportError),
}

/// What became of a message of the peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It waits to be received, or had been taken before, or nobody misses it.
    Yes,
    /// There is no room for it yet.
    Full,
}

/// The peer broke the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

impl Violation {
    pub(crate) fn error(self) -> TransportError {
        TransportError::new(Kind::Incompatible, format!("http: {}", self.0))
    }
}

impl Inner {
    /// Why nothing can be sent, if nothing can. A close counts for more than a loss after it.
    fn no_sending(&self) -> Option<TransportError> {
        let closed = self.ours.as_ref().or(self.theirs.as_ref());
        closed.cloned().map(TransportError::closed).or_else(|| self.lost.clone())
    }

    fn is_closed(&self) -> bool {
        self.ours.is_some() || self.theirs.is_some()
    }

    /// Both sides have closed, and the peer knows all we had to say.
    fn is_finished(&self) -> bool {
        self.ours.is_some() && self.theirs.is_some() && self.outbox.messages.is_empty()
    }

    /// The number of the last message that was put into the outbox.
    fn last(&self) -> u64 {
        self.confirmed + self.outbox.messages.len() as u64
    }
}

impl LinkState {
    pub(crate) fn new(gauge: Arc<Gauge>) -> Arc<Self> {
        Arc::new(Self { inner: Mutex::default(), changed: watch::Sender::new(()), gauge })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics with the lock held, unless an invariant of ours is broken.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_replace(());
    }

    /// Waits until there is an answer.
    async fn until<T>(&self, mut ask: impl FnMut(&mut Inner) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(answer) = ask(&mut self.lock()) {
                return answer;
            }
            // The other end of this channel is `self`, so waiting cannot fail while somebody waits.
            let _ = changed.changed().await;
        }
    }

    // For the halves.

    pub(crate) async fn send(&self, frame: Bytes) -> Result<(), TransportError> {
        if frame.len() > FRAME_MAX {
            return Err(TransportError::frame_too_large(frame.len(), LIMITS));
        }
        let message = Message::Frame(frame);
        self.until(|inner| {
            if let Some(error) = inner.no_sending() {
                return Some(Err(error));
            }
            // Put there whole when it is polled, or not at all.
            inner.outbox.has_room(message.cost()).then(|| {
                inner.outbox.push(message.clone(), &self.gauge);
                Ok(())
            })
        })
        .await?;
        self.tell();
        Ok(())
    }

    /// Closes. There is always room for that.
    pub(crate) fn close(&self, reason: CloseReason) -> Result<(), TransportError> {
        {
            let mut inner = self.lock();
            if inner.is_closed() {
                return Ok(());
            }
            if let Some(error) = &inner.lost {
                return Err(error.clone());
            }
            inner.ours = Some(reason.clone());
            inner.outbox.push(Message::Close(reason), &self.gauge);
        }
        self.tell();
        Ok(())
    }

    pub(crate) async fn recv(&self) -> Result<Received, TransportError> {
        let received = self
            .until(|inner| match inner.inbox.messages.front() {
                // The close stays: it is what every later call gets.
                Some(Message::Close(reason)) => Some(Ok(Received::Closed(reason.clone()))),
                Some(Message::Frame(_)) => match inner.inbox.pop(&self.gauge) {
                    Some(Message::Frame(frame)) => Some(Ok(Received::Frame(frame))),
                    _ => None,
                },
                None => inner.lost.clone().map(Err),
            })
            .await;
        self.tell();
        received
    }

    pub(crate) fn drop_sender(&self) {
        self.drop_half("http: the sender was dropped", |inner| inner.sender_gone = true);
    }

    pub(crate) fn drop_receiver(&self) {
        self.drop_half("http: the receiver was dropped", |inner| {
            inner.receiver_gone = true;
            inner.inbox.clear(&self.gauge);
        });
    }

    fn drop_half(&self, how: &str, note: impl FnOnce(&mut Inner)) {
        let closed = {
            let mut inner = self.lock();
            note(&mut inner);
            inner.is_closed()
        };
        if closed { self.tell() } else { self.lose(TransportError::lost(how)) }
    }

    // For what carries the link.

    /// Notes a loss; the first one stands, and none comes after the end.
    pub(crate) fn lose(&self, error: TransportError) {
        {
            let mut inner = self.lock();
            if inner.lost.is_some() || inner.is_finished() {
                return;
            }
            inner.lost = Some(error);
            inner.outbox.clear(&self.gauge);
        }
        self.tell();
    }

    /// Messages after this number, or the end; waits for either. As many as `bytes` of a batch hold, but one at least.
    pub(crate) async fn outgoing(&self, after: u64, bytes: usize) -> Outgoing {
        self.until(|inner| {
            if let Some(error) = &inner.lost {
                return Some(Outgoing::Lost(error.clone()));
            }
            let after = after.max(inner.confirmed);
            let skip = (after - inner.confirmed) as usize;
            let mut room = bytes;
            let waiting = inner.outbox.messages.iter().skip(skip);
            let messages: Vec<_> = waiting
                .enumerate()
                .take_while(|(index, message)| {
                    let fits = *index == 0 || message.encoded_len() <= room;
                    room = room.saturating_sub(message.encoded_len());
                    fits
                })
                .map(|(_, message)| message.clone())
                .collect();
            if !messages.is_empty() {
                return Some(Outgoing::Some(after + 1, messages));
            }
            inner.ours.is_some().then_some(Outgoing::Done)
        })
        .await
    }

    /// The peer has taken everything up to this number.
    pub(crate) fn confirm(&self, number: u64) -> Result<(), Violation> {
        {
            let mut inner = self.lock();
            if number > inner.last() {
                // Of a link that is lost nothing is kept that could be confirmed.
                return if inner.lost.is_some() {
                    Ok(())
                } else {
                    Err(Violation("what was never sent is confirmed"))
                };
            }
            if number <= inner.confirmed {
                return Ok(());
            }
            while inner.confirmed < number {
                inner.outbox.pop(&self.gauge);
                inner.confirmed += 1;
            }
        }
        self.tell();
        Ok(())
    }

    /// The number up to which the peer has confirmed.
    pub(crate) fn confirmed(&self) -> u64 {
        self.lock().confirmed
    }

    /// The number up to which the peer's messages have been taken.
    pub(crate) fn taken(&self) -> u64 {
        self.lock().taken
    }

    /// Takes a message of the peer, if there is room for it. One that was taken before is not taken again.
    pub(crate) fn take(&self, number: u64, message: &Message) -> Result<Taken, Violation> {
        let mut inner = self.lock();
        if inner.lost.is_some() || number <= inner.taken {
            return Ok(Taken::Yes);
        }
        if number > inner.taken + 1 {
            return Err(Violation("messages are missing"));
        }
        if inner.theirs.is_some() {
            return Err(Violation("messages follow a close"));
        }
        // Where the receiver is gone, the link has been closed, and nobody misses what comes.
        if !inner.receiver_gone
            && !inner.inbox.has_room(message.cost())
            && matches!(message, Message::Frame(_))
        {
            return Ok(Taken::Full);
        }
        inner.taken = number;
        inner.untold += message.cost();
        if let Message::Close(reason) = message {
            inner.theirs = Some(reason.clone());
            if inner.ours.is_none() {
                inner.ours = Some(reason.clone());
                inner.outbox.push(Message::Close(reason.clone()), &self.gauge);
            }
        }
        if !inner.receiver_gone {
            inner.inbox.push(message.clone(), &self.gauge);
        }
        drop(inner);
        self.tell();
        Ok(Taken::Yes)
    }

    /// Takes a message, and waits until there is room for it.
    ///
    /// # Cancel safety
    /// Safe: the message is taken when this returns, or it is not.
    pub(crate) async fn take_in_time(&self, number: u64, message: &Message) -> Result<(), Violation> {
        let mut changed = self.changed.subscribe();
        while self.take(number, message)? == Taken::Full {
            let _ = changed.changed().await;
        }
        Ok(())
    }

    /// The number up to which the peer's messages have been taken, to be told.
    pub(crate) fn tell_taken(&self) -> u64 {
        let mut inner = self.lock();
        inner.untold = 0;
        inner.taken
    }

    /// Whether something has been taken and not been told.
    pub(crate) fn is_untold(&self) -> bool {
        self.lock().untold > 0
    }

    /// Waits until so many bytes have been taken and not been told.
    pub(crate) async fn untold(&self, bytes: usize) {
        self.until(|inner| (inner.untold >= bytes).then_some(())).await;
    }

    /// Waits for the loss.
    pub(crate) async fn lost(&self) -> TransportError {
        self.until(|inner| inner.lost.clone()).await
    }

    /// Waits until both sides have closed and nothing is left to tell, or the link is lost.
    pub(crate) async fn ended(&self) {
        self.until(|inner| (inner.lost.is_some() || inner.is_finished()).then_some(())).await;
    }

    /// Whether the peer has closed, or has answered.
    pub(crate) fn peer_has_closed(&self) -> bool {
        self.lock().theirs.is_some()
    }

    /// Waits until both halves have been dropped of a link that was closed.
    pub(crate) async fn left(&self) {
        self.until(|inner| (inner.sender_gone && inner.receiver_gone && inner.is_closed()).then_some(()))
            .await;
    }
}

impl Drop for LinkState {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        inner.outbox.clear(&self.gauge);
        inner.inbox.clear(&self.gauge);
    }
}

/// Held by the task that carries a link: when its runtime ends, nobody waits for ever.
#[derive(Debug)]
pub(crate) struct Carried(pub(crate) Arc<LinkState>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.lose(TransportError::lost("http: the runtime that carried the link has ended"));
    }
}
