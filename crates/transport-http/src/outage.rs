//! For how long requests that fail are repeated.

use std::time::Duration;

use opor_transport_traits::TransportError;
use tokio::time::{Instant, sleep};

use crate::verdict::Trouble;

/// The first repetition comes at once: a connection that was kept alive has often just ended. Then the pauses double.
const PAUSE_LEAST: Duration = Duration::from_millis(20);

/// A person waits for the link to be back.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A row of failures, of one kind of request.
#[derive(Debug)]
pub(crate) struct Outage {
    window: Duration,
    since: Option<Instant>,
    pause: Duration,
}

impl Outage {
    /// Failures may go on for so long.
    pub(crate) fn new(window: Duration) -> Self {
        Self { window, since: None, pause: Duration::ZERO }
    }

    /// A request was answered as it should be.
    pub(crate) fn over(&mut self) {
        *self = Self::new(self.window);
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// When there is to be none.
    pub(crate) async fn bear(&mut self, trouble: Trouble) -> Result<(), TransportError> {
        let (error, wished) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Passing(error, wished) => (error, wished),
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        let left = self.window.saturating_sub(since.elapsed());
        let pause = self.pause.max(wished.unwrap_or_default());
        if pause >= left {
            return Err(error);
        }
        self.pause = (self.pause * 2).clamp(PAUSE_LEAST, PAUSE_MAX);
        sleep(pause).await;
        Ok(())
    }
}
