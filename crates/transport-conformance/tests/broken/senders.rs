//! Senders with a flaw.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, LinkLimits, Sender, TransportError, TransportErrorKind as Kind,
    async_trait,
};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep_until};

use crate::fixture::debug;

type Inner = Box<dyn Sender>;
type Result<T = (), E = TransportError> = std::result::Result<T, E>;

/// What the memory transport takes as one frame.
pub(crate) const FRAME_MAX: usize = 1024 * 1024;

/// Polls a future once; for where there is nobody to wait.
fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// Declares a sender around another whose `close` is passed on, and whose `send` is this.
macro_rules! sender {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $value:expr),* }
     |$this:ident, $frame:ident| $send:expr) => {
        sender! { $(#[$doc])* $name { $($field: $type = $value),* }
            |$this, $frame| $send,
            |$this, reason| { $this.inner.close(reason).await }
        }
    };
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $value:expr),* }
     |$this:ident, $frame:ident| $send:expr,
     |$self:ident, $reason:ident| $close:expr) => {
        $(#[$doc])*
        pub(crate) struct $name { inner: Inner, $($field: $type),* }

        debug!($name);

        impl $name {
            pub(crate) fn around(inner: Inner) -> Inner {
                Box::new(Self { inner, $($field: $value),* })
            }
        }

        #[async_trait]
        impl Sender for $name {
            async fn send(&mut self, $frame: Bytes) -> Result {
                let $this = self;
                $send
            }

            async fn close(&mut self, $reason: CloseReason) -> Result {
                let $self = self;
                $close
            }
        }
    };
}

sender! {
    /// Keeps every other frame until the next has been sent.
    Swaps { kept: Option<Bytes> = None }
    |this, frame| {
        match this.kept.take() {
            None => this.kept = Some(frame),
            Some(kept) => {
                this.inner.send(frame).await?;
                this.inner.send(kept).await?;
            }
        }
        Ok(())
    }
}

sender! {
    /// Sends every hundredth frame again, as a retry without a memory does.
    Twice { count: u32 = 0 }
    |this, frame| {
        this.count += 1;
        if this.count.is_multiple_of(100) {
            this.inner.send(frame.clone()).await?;
        }
        this.inner.send(frame).await
    }
}

sender! {
    /// Sends large frames as two.
    Splits {}
    |this, frame| {
        let half = if frame.len() > 10_000 { 10_000 } else { 0 };
        if half > 0 {
            this.inner.send(frame.slice(..half)).await?;
        }
        this.inner.send(frame.slice(half..)).await
    }
}

sender! {
    /// Sends two frames as one.
    Joins { kept: Option<Bytes> = None }
    |this, frame| {
        match this.kept.take() {
            None => this.kept = Some(frame),
            Some(kept) => this.inner.send([kept, frame].concat().into()).await?,
        }
        Ok(())
    }
}

sender! {
    /// Sends text.
    TextOnly {}
    |this, frame| {
        let text = String::from_utf8_lossy(&frame).into_owned();
        this.inner.send(text.into()).await
    }
}

sender! {
    /// Sends nothing for a frame of nothing.
    NoEmpty {}
    |this, frame| if frame.is_empty() { Ok(()) } else { this.inner.send(frame).await }
}

sender! {
    /// Has forgotten its own header in its limit.
    LessThanSaid {}
    |this, frame| {
        if frame.len() > FRAME_MAX - 4 {
            let limits = LinkLimits::new(FRAME_MAX - 4, FRAME_MAX * 2);
            return Err(TransportError::frame_too_large(frame.len(), limits));
        }
        this.inner.send(frame).await
    }
}

sender! {
    /// Says that it sent what it cannot send.
    OversizeTaken {}
    |this, frame| if frame.len() > FRAME_MAX { Ok(()) } else { this.inner.send(frame).await }
}

sender! {
    /// Gives the link up over a frame that it refused.
    OversizeEnds { ended: bool = false }
    |this, frame| {
        if this.ended {
            return Err(TransportError::lost("refused a frame before"));
        }
        this.ended = frame.len() > FRAME_MAX;
        this.inner.send(frame).await
    }
}

sender! {
    /// Writes into a buffer that only the next frame, or the close, pushes out.
    HoldsBack { kept: Option<Bytes> = None }
    |this, frame| {
        match this.kept.replace(frame) {
            Some(kept) => this.inner.send(kept).await,
            None => Ok(()),
        }
    },
    |this, reason| {
        if let Some(kept) = this.kept.take() {
            this.inner.send(kept).await?;
        }
        this.inner.close(reason).await
    }
}

sender! {
    /// Drops what finds no room.
    DropsNewest {}
    |this, frame| poll_once(this.inner.send(frame)).unwrap_or(Ok(()))
}

sender! {
    /// Notes that it has closed, then closes.
    ClosesOnce { closed: bool = false }
    |this, frame| this.inner.send(frame).await,
    |this, reason| {
        if this.closed {
            return Ok(());
        }
        this.closed = true;
        yield_now().await;
        this.inner.close(reason).await
    }
}

sender! {
    /// Tells the peer that it closes, not why.
    ForgetsReason {}
    |this, frame| this.inner.send(frame).await,
    |this, reason| this.inner.close(CloseReason::new(reason.code())).await
}

sender! {
    /// Swallows errors.
    NeverFails {}
    |this, frame| {
        // Dropped with a shrug.
        let _ = this.inner.send(frame).await;
        Ok(())
    },
    |this, reason| {
        let _ = this.inner.close(reason).await;
        Ok(())
    }
}

sender! {
    /// Does not wake up for a loss.
    SleepsThroughLoss {}
    |this, frame| {
        match this.inner.send(frame).await {
            Err(error) if error.kind() == Kind::Lost => std::future::pending().await,
            result => result,
        }
    }
}

sender! {
    /// Blocks its thread in the middle of an async call.
    BlocksThread {}
    |this, frame| {
        this.inner.send(frame).await?;
        loop {
            std::thread::park();
        }
    }
}

sender! {
    /// Closes in order when it is dropped, so that a crash looks like a goodbye.
    ClosesOnDrop {}
    |this, frame| this.inner.send(frame).await
}

impl Drop for ClosesOnDrop {
    fn drop(&mut self) {
        // A link that is closed or lost already stays so.
        let _ = poll_once(self.inner.close(CloseReason::new(CloseCode::DONE)));
    }
}

/// Takes everything there is.
pub(crate) struct Unbounded(mpsc::UnboundedSender<Bytes>);

debug!(Unbounded);

impl Unbounded {
    pub(crate) fn around(mut inner: Inner) -> Inner {
        let (queue, mut frames) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if inner.send(frame).await.is_err() {
                    break;
                }
            }
        });
        Box::new(Self(queue))
    }
}

#[async_trait]
impl Sender for Unbounded {
    async fn send(&mut self, frame: Bytes) -> Result {
        self.0.send(frame).map_err(|_| TransportError::lost("the task has ended"))
    }

    async fn close(&mut self, _reason: CloseReason) -> Result {
        Ok(())
    }
}

/// Bounds the bytes on their way, and forgets that a frame of no bytes costs something too.
pub(crate) struct CountsBytes {
    queue: mpsc::UnboundedSender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

debug!(CountsBytes);

impl CountsBytes {
    pub(crate) const BYTES_MAX: usize = 2 * FRAME_MAX;

    pub(crate) fn around(mut inner: Inner) -> Inner {
        let (queue, mut frames) = mpsc::unbounded_channel::<Bytes>();
        let waiting: Arc<AtomicUsize> = Arc::default();
        let count = waiting.clone();
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                let len = frame.len();
                if inner.send(frame).await.is_err() {
                    break;
                }
                count.fetch_sub(len, Ordering::SeqCst);
            }
        });
        Box::new(Self { queue, waiting })
    }
}

#[async_trait]
impl Sender for CountsBytes {
    async fn send(&mut self, frame: Bytes) -> Result {
        while self.waiting.load(Ordering::SeqCst) + frame.len() > Self::BYTES_MAX {
            yield_now().await;
        }
        self.waiting.fetch_add(frame.len(), Ordering::SeqCst);
        self.queue.send(frame).map_err(|_| TransportError::lost("the task has ended"))
    }

    async fn close(&mut self, _reason: CloseReason) -> Result {
        Ok(())
    }
}

/// When a batch is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Careless {
    OnClose,
    OnDrop,
}

/// Sends what has gathered after a while, from a task; drops what has gathered when it should not.
pub(crate) struct Batches {
    queue: Arc<Mutex<Vec<Outgoing>>>,
    task: JoinHandle<()>,
    careless: Careless,
}

enum Outgoing {
    Frame(Bytes),
    Close(CloseReason),
}

debug!(Batches);

impl Batches {
    const EVERY: Duration = Duration::from_millis(100);

    pub(crate) fn around(mut inner: Inner, careless: Careless) -> Inner {
        let queue: Arc<Mutex<Vec<Outgoing>>> = Arc::default();
        let gathered = queue.clone();
        let task = tokio::spawn(async move {
            loop {
                sleep_until(Instant::now() + Self::EVERY).await;
                for outgoing in gathered.lock().await.drain(..) {
                    let result = match outgoing {
                        Outgoing::Frame(frame) => inner.send(frame).await,
                        Outgoing::Close(reason) => inner.close(reason).await,
                    };
                    if result.is_err() {
                        return;
                    }
                }
            }
        });
        Box::new(Self { queue, task, careless })
    }
}

#[async_trait]
impl Sender for Batches {
    async fn send(&mut self, frame: Bytes) -> Result {
        self.queue.lock().await.push(Outgoing::Frame(frame));
        Ok(())
    }

    async fn close(&mut self, reason: CloseReason) -> Result {
        let mut queue = self.queue.lock().await;
        if self.careless == Careless::OnClose {
            queue.clear();
        }
        queue.push(Outgoing::Close(reason));
        Ok(())
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        if self.careless == Careless::OnDrop {
            self.task.abort();
        }
    }
}
