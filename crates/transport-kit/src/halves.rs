//! The halves of an end whose link is carried by a task.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opor_transport_traits::{
    Bytes, CloseReason, Link, LinkLimits, Peer, Received, Receiver, Sender, TransportError,
    TransportErrorKind as Kind, async_trait,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::ending::Ending;

/// Commands that wait for the task: one, which is not done yet.
const COMMANDS_MAX: usize = 1;

/// What the sender asks of the task. It is done when it is answered; where the answer is dropped, nothing was done. An answer
/// that is closed means that the call was given up, and that it may as well not happen.
#[derive(Debug)]
pub enum Command {
    /// Send a frame, and answer when it has been taken over: nothing but a loss keeps it from the peer then.
    Send(Bytes, oneshot::Sender<()>),
    /// Send a close behind all frames, note it as ours in the [`Ending`], and answer.
    Close(CloseReason, oneshot::Sender<()>),
}

/// What the task that carries a link holds of it. When it is dropped, calls of both halves end with what the [`Ending`] says.
#[derive(Debug)]
pub struct Carriage {
    /// What the sender wants. It ends when the sender has been dropped.
    pub commands: mpsc::Receiver<Command>,
    /// What the receiver is given: frames, and the peer's close as the last. It is closed when the receiver has been dropped.
    pub give: mpsc::Sender<Received>,
    /// Where the task notes how the link ends, before it drops the others.
    pub ending: Arc<Ending>,
}

/// Makes an end of a link, and what the task that carries it holds. `transport` is what errors begin with; so many frames
/// wait for the receiver; `given` is told of each frame that the receiver is given.
#[must_use]
pub fn link(
    transport: &'static str,
    limits: LinkLimits,
    queued_max: usize,
    peer: Peer,
    given: impl Fn(&Bytes) + Send + 'static,
) -> (Link, Carriage) {
    let (commands, to_do) = mpsc::channel(COMMANDS_MAX);
    let (give, queue) = mpsc::channel(queued_max);
    let ending = Arc::new(Ending::new(transport));
    let sender = TaskSender { commands, limits, ending: ending.clone(), peer: peer.clone() };
    let receiver = TaskReceiver { queue, closed: None, given, ending: ending.clone(), peer: peer.clone() };
    (Link::new(sender, receiver, limits, peer), Carriage { commands: to_do, give, ending })
}

/// Takes no more commands. Calls that wait get no answer, and look up why.
pub fn refuse(commands: &mut mpsc::Receiver<Command>) {
    commands.close();
    while commands.try_recv().is_ok() {}
}

/// Waits until the receiver is dropped where that is a loss; after a close it waits for the peer, but no longer than
/// `linger`. What it was then.
///
/// # Cancel safety
/// Safe: it only waits.
pub async fn left(give: &mpsc::Sender<Received>, ending: &Ending, linger: Duration) -> TransportError {
    give.closed().await;
    if !ending.is_closed() {
        return ending.lost("the receiver was dropped");
    }
    sleep(linger).await;
    ending.lost("the peer did not answer the close")
}

struct TaskSender {
    commands: mpsc::Sender<Command>,
    limits: LinkLimits,
    ending: Arc<Ending>,
    peer: Peer,
}

impl TaskSender {
    /// Has the task do something; no means that the link has ended.
    async fn order(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> bool {
        let (answer, answered) = oneshot::channel();
        // A command that is cancelled here has been queued whole, or not at all.
        self.commands.send(command(answer)).await.is_ok() && answered.await.is_ok()
    }

    fn ended(&self) -> TransportError {
        self.ending.of_sending().unwrap_or_else(|| self.ending.gone())
    }
}

#[async_trait]
impl Sender for TaskSender {
    async fn send(&mut self, frame: Bytes) -> Result<(), TransportError> {
        if frame.len() > self.limits.frame_max() {
            return Err(TransportError::frame_too_large(frame.len(), self.limits));
        }
        if let Some(error) = self.ending.of_sending() {
            return Err(error);
        }
        match self.order(|answer| Command::Send(frame, answer)).await {
            true => Ok(()),
            false => Err(self.ended()),
        }
    }

    async fn close(&mut self, reason: CloseReason) -> Result<(), TransportError> {
        let ended = self.ending.of_sending();
        if ended.is_none() && self.order(|answer| Command::Close(reason, answer)).await {
            return Ok(());
        }
        match self.ended() {
            error if error.kind() == Kind::Closed => Ok(()),
            error => Err(error),
        }
    }
}

struct TaskReceiver<F> {
    queue: mpsc::Receiver<Received>,
    /// What has been given last, when it was a close.
    closed: Option<CloseReason>,
    given: F,
    ending: Arc<Ending>,
    peer: Peer,
}

#[async_trait]
impl<F: Fn(&Bytes) + Send + 'static> Receiver for TaskReceiver<F> {
    async fn recv(&mut self) -> Result<Received, TransportError> {
        if let Some(reason) = &self.closed {
            return Ok(Received::Closed(reason.clone()));
        }
        let Some(received) = self.queue.recv().await else {
            return Err(self.ending.of_receiving());
        };
        match &received {
            Received::Frame(frame) => (self.given)(frame),
            Received::Closed(reason) => self.closed = Some(reason.clone()),
        }
        Ok(received)
    }
}

impl fmt::Debug for TaskSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSender").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for TaskReceiver<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskReceiver").field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use opor_transport_traits::CloseCode;
    use tokio::time::Instant;

    use super::*;

    const LINGER: Duration = Duration::from_secs(30);

    fn scene() -> (Box<dyn Sender>, Box<dyn Receiver>, Carriage) {
        let limits = LinkLimits::new(1 << 16, 1 << 20);
        let (link, carriage) = link("pigeons", limits, 4, Peer::new("pigeons:roof"), |_| {});
        let (sender, receiver) = link.split();
        (sender, receiver, carriage)
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_dropped_is_a_loss_at_once_and_after_a_close_the_peer_has_its_time() {
        let (_sender, receiver, carriage) = scene();
        let begun = Instant::now();
        drop(receiver);
        let error = left(&carriage.give, &carriage.ending, LINGER).await;
        assert_eq!((error.kind(), begun.elapsed()), (Kind::Lost, Duration::ZERO));
        assert!(error.to_string().contains("pigeons: the receiver was dropped"), "{error}");
        for closes in [Ending::close, Ending::peer_closes] {
            let (_sender, receiver, carriage) = scene();
            closes(&carriage.ending, CloseReason::new(CloseCode::DONE));
            let begun = Instant::now();
            drop(receiver);
            let error = left(&carriage.give, &carriage.ending, LINGER).await;
            assert_eq!((error.kind(), begun.elapsed()), (Kind::Lost, LINGER));
        }
    }

    /// In virtual time: whoever waits for ever is found out at once.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_has_not_been_looked_at_is_refused_at_once() {
        let (mut sender, _receiver, mut carriage) = scene();
        let mut sending = sender.send(Bytes::from_static(b"hello"));
        tokio::select! {
            biased;
            _ = &mut sending => panic!("nobody has answered"),
            () = std::future::ready(()) => {}
        }
        carriage.ending.peer_closes(CloseReason::new(CloseCode::GOING_AWAY));
        refuse(&mut carriage.commands);
        // The carriage is still there, for what the peer may say.
        let sent = tokio::time::timeout(LINGER, sending).await.expect("it waits for the end of the carriage");
        assert_eq!(sent.expect_err("it was not taken over").kind(), Kind::Closed);
        drop(carriage);
    }

    #[tokio::test]
    async fn a_call_that_waits_when_the_carriage_is_dropped_ends_with_what_has_been_noted() {
        let (mut sender, mut receiver, carriage) = scene();
        let Carriage { mut commands, give, ending } = carriage;
        let dropping = async {
            let Some(Command::Send(frame, answer)) = commands.recv().await else { panic!("a frame") };
            assert_eq!(frame, "hello");
            ending.peer_closes(CloseReason::new(CloseCode::GOING_AWAY));
            refuse(&mut commands);
            drop(answer);
        };
        let (sent, ()) = tokio::join!(sender.send(Bytes::from_static(b"hello")), dropping);
        assert_eq!(sent.expect_err("it was not taken over").kind(), Kind::Closed);
        sender.close(CloseReason::new(CloseCode::DONE)).await.expect("it is closed already");
        ending.lose(TransportError::new(Kind::Incompatible, "pigeons: a crow"));
        drop(give);
        assert_eq!(receiver.recv().await.expect_err("there is no more").kind(), Kind::Incompatible);
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_can_be_seen_to_be() {
        let (mut sender, _receiver, mut carriage) = scene();
        let mut sending = sender.send(Bytes::from_static(b"hello"));
        let command = tokio::select! {
            biased;
            _ = &mut sending => panic!("nobody has answered"),
            command = carriage.commands.recv() => command,
        };
        drop(sending);
        let Some(Command::Send(_, answer)) = command else { panic!("a frame") };
        assert!(answer.is_closed());
    }
}
