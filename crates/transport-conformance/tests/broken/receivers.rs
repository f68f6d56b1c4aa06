//! Receivers with a flaw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opor_transport_memory::MemoryNetwork;
use opor_transport_traits::{
    Bytes, CloseCode, CloseReason, Received, Receiver, TransportError, TransportErrorKind as Kind,
    async_trait,
};
use tokio::sync::mpsc;
use tokio::task::yield_now;

use crate::fixture::debug;

type Inner = Box<dyn Receiver>;
type Result<T = Received, E = TransportError> = std::result::Result<T, E>;

/// Declares a receiver around another whose `recv` is this.
macro_rules! receiver {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $value:expr),* }
     |$this:ident| $recv:expr) => {
        $(#[$doc])*
        pub(crate) struct $name { inner: Inner, $($field: $type),* }

        debug!($name);

        impl $name {
            pub(crate) fn around(inner: Inner) -> Inner {
                Box::new(Self { inner, $($field: $value),* })
            }
        }

        #[async_trait]
        impl Receiver for $name {
            async fn recv(&mut self) -> Result {
                let $this = self;
                $recv
            }
        }
    };
}

receiver! {
    /// Waits for something else when it has a frame in its hands.
    Forgetful {}
    |this| {
        let received = this.inner.recv().await?;
        yield_now().await;
        Ok(received)
    }
}

receiver! {
    /// Has one more after the close: the last frame again.
    Afterwards { last: Option<Bytes> = None, closed: bool = false }
    |this| {
        if let Some(last) = this.last.take_if(|_| this.closed) {
            return Ok(Received::Frame(last));
        }
        let received = this.inner.recv().await?;
        match &received {
            Received::Frame(frame) => this.last = Some(frame.clone()),
            Received::Closed(_) => this.closed = true,
        }
        Ok(received)
    }
}

receiver! {
    /// Swallows errors.
    LossIsClose {}
    |this| Ok(this.inner.recv().await.unwrap_or(Received::Closed(CloseReason::new(CloseCode::DONE))))
}

receiver! {
    /// Waits on where nothing can come any more.
    Silent {}
    |this| {
        match this.inner.recv().await {
            Err(_) => std::future::pending().await,
            received => received,
        }
    }
}

receiver! {
    /// Reports a loss once.
    Recovers { told: bool = false }
    |this| {
        let received = this.inner.recv().await;
        if received.is_err() && std::mem::replace(&mut this.told, true) {
            return Ok(Received::Closed(CloseReason::new(CloseCode::DONE)));
        }
        received
    }
}

receiver! {
    /// Panics at the third frame.
    Panics { count: u32 = 0 }
    |this| {
        this.count += 1;
        assert!(this.count < 3, "no more than two");
        this.inner.recv().await
    }
}

/// Loses every link of the network when its own has ended.
pub(crate) struct EndsAll {
    inner: Inner,
    network: MemoryNetwork,
}

debug!(EndsAll);

impl EndsAll {
    pub(crate) fn around(inner: Inner, network: MemoryNetwork) -> Inner {
        Box::new(Self { inner, network })
    }
}

#[async_trait]
impl Receiver for EndsAll {
    async fn recv(&mut self) -> Result {
        let received = self.inner.recv().await;
        if !matches!(received, Ok(Received::Frame(_))) {
            self.network.cut("phone", "hub-0");
        }
        received
    }
}

/// Reads ahead, and forgets all but the newest when the wire is cut.
pub(crate) struct KeepsNewest {
    ahead: mpsc::UnboundedReceiver<Bytes>,
    cut: Arc<AtomicBool>,
}

debug!(KeepsNewest);

impl KeepsNewest {
    pub(crate) fn around(mut inner: Inner, cut: Arc<AtomicBool>) -> Inner {
        let (tell, ahead) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Received::Frame(frame)) = inner.recv().await {
                if tell.send(frame).is_err() {
                    break;
                }
            }
        });
        Box::new(Self { ahead, cut })
    }
}

#[async_trait]
impl Receiver for KeepsNewest {
    async fn recv(&mut self) -> Result {
        let mut frame = self.ahead.recv().await;
        if self.cut.load(Ordering::SeqCst) {
            while let Ok(newer) = self.ahead.try_recv() {
                frame = Some(newer);
            }
        }
        frame.map(Received::Frame).ok_or_else(|| TransportError::new(Kind::Lost, "cut"))
    }
}
