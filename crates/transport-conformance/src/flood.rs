//! A task that sends, whether or not anybody receives.

use std::time::Duration;

use opor_transport_traits::{Bytes, CloseReason, Sender, TransportError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::breach::Outcome;
use crate::payload::{NUMBERED_LEAST, numbered};

/// After so long without a frame taken, a sender is taken to wait for room. Too short only makes it look full too early.
pub(crate) const QUIET: Duration = Duration::from_millis(250);

/// Frames of one size, numbered from 0, sent one after the other by a task.
pub(crate) struct Flood {
    sent: watch::Receiver<u32>,
    task: JoinHandle<Flooded>,
}

/// What is left when a flood has ended.
pub(crate) struct Flooded {
    pub(crate) sender: Box<dyn Sender>,
    /// How many were sent.
    pub(crate) sent: u32,
    /// How the last call ended.
    pub(crate) outcome: Result<(), TransportError>,
}

impl Flood {
    /// Begins to send `count` frames of `len` bytes. Frames too short for a number are empty of meaning.
    pub(crate) fn start(mut sender: Box<dyn Sender>, len: usize, count: u32) -> Self {
        let (tell, sent) = watch::channel(0);
        let task = tokio::spawn(async move {
            for number in 0..count {
                let frame =
                    if len < NUMBERED_LEAST { Bytes::from(vec![0; len]) } else { numbered(number, len) };
                if let Err(error) = sender.send(frame).await {
                    return Flooded { sender, sent: number, outcome: Err(error) };
                }
                tell.send_replace(number + 1);
            }
            Flooded { sender, sent: count, outcome: Ok(()) }
        });
        Self { sent, task }
    }

    /// Waits until the flood waits for room, or is over and has had time to travel; how many frames were sent until then.
    pub(crate) async fn until_quiet(&mut self) -> u32 {
        let mut over = false;
        while let Ok(change) = timeout(QUIET, self.sent.changed()).await {
            if change.is_err() {
                over = true;
                break;
            }
        }
        if over {
            sleep(QUIET).await;
        }
        *self.sent.borrow()
    }

    /// Waits for the end.
    pub(crate) async fn finish(self) -> Outcome<Flooded> {
        Ok(self.task.await?)
    }

    /// Waits for the end, then closes. The sender comes back, so that it is dropped later.
    pub(crate) async fn then_close(self, reason: CloseReason) -> Outcome<Flooded> {
        let mut flooded = self.finish().await?;
        flooded.sender.close(reason).await?;
        Ok(flooded)
    }

    /// Drops the sender where it is.
    pub(crate) async fn abandon(self) {
        self.task.abort();
        // The task has dropped its sender when it has been waited for; how it ended does not matter.
        let _ = self.task.await;
    }
}
