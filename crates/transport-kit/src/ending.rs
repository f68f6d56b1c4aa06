//! How a link ends: shared by its halves and the task that carries it.

use std::sync::OnceLock;

use opor_transport_traits::{CloseReason, TransportError};
use tokio::sync::watch;

/// How a link ends. What has been set stays, and it has to be set before a queue ends because of it: who finds a queue at
/// its end looks up why.
#[derive(Debug)]
pub struct Ending {
    /// The name of the transport, which errors begin with.
    transport: &'static str,
    /// We have closed.
    ours: OnceLock<CloseReason>,
    /// The peer has closed, or has answered. The task waits for it while it writes.
    theirs: watch::Sender<Option<CloseReason>>,
    lost: OnceLock<TransportError>,
}

impl Ending {
    /// That of a link that has not ended.
    #[must_use]
    pub fn new(transport: &'static str) -> Self {
        let (ours, lost) = (OnceLock::new(), OnceLock::new());
        Self { transport, ours, theirs: watch::Sender::default(), lost }
    }

    /// Notes our close; the first one stands.
    pub fn close(&self, reason: CloseReason) {
        self.ours.get_or_init(|| reason);
    }

    /// Notes the peer's close, or its answer to ours.
    pub fn peer_closes(&self, reason: CloseReason) {
        self.theirs.send_replace(Some(reason));
    }

    /// Notes a loss; the first one stands.
    pub fn lose(&self, error: TransportError) {
        self.lost.get_or_init(|| error);
    }

    /// A loss for this reason, which is not noted.
    #[must_use]
    pub fn lost(&self, how: &str) -> TransportError {
        TransportError::lost(format!("{}: {how}", self.transport))
    }

    /// Does some work of the task, and notes its failure as the loss before anything else can be dropped for it.
    ///
    /// # Errors
    /// That of the work.
    ///
    /// # Cancel safety
    /// That of the work.
    pub async fn noting<T>(
        &self,
        work: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, TransportError> {
        let done = work.await;
        if let Err(error) = &done {
            self.lose(error.clone());
        }
        done
    }

    /// Why nothing can be sent, if nothing can. A close counts for more than a loss after it.
    #[must_use]
    pub fn of_sending(&self) -> Option<TransportError> {
        if let Some(reason) = self.ours.get() {
            return Some(TransportError::closed(reason.clone()));
        }
        self.theirs().map(TransportError::closed).or_else(|| self.lost.get().cloned())
    }

    /// Why nothing more can be received. The task may also have ended without a word, with its runtime.
    #[must_use]
    pub fn of_receiving(&self) -> TransportError {
        self.lost.get().cloned().unwrap_or_else(|| self.gone())
    }

    /// The reason of our close.
    #[must_use]
    pub fn ours(&self) -> Option<&CloseReason> {
        self.ours.get()
    }

    /// The reason of the peer's close, or of its answer.
    #[must_use]
    pub fn theirs(&self) -> Option<CloseReason> {
        self.theirs.borrow().clone()
    }

    /// Whether either side has closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ours.get().is_some() || self.theirs.borrow().is_some()
    }

    /// Waits until the peer has closed.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn peer_closed(&self) {
        // The other end of this channel is `self`, so waiting cannot fail while somebody waits.
        let _ = self.theirs.subscribe().wait_for(Option::is_some).await;
    }

    /// The task has ended without a word.
    pub(crate) fn gone(&self) -> TransportError {
        self.lost("the runtime that carried the link has ended")
    }
}

#[cfg(test)]
mod tests {
    use opor_transport_traits::CloseCode;

    use super::*;

    #[track_caller]
    fn is_closed_with(ending: &Ending, text: &str) {
        let error = ending.of_sending().expect("it has ended");
        assert_eq!(error.to_string(), TransportError::closed(reason(text)).to_string());
    }

    fn reason(text: &str) -> CloseReason {
        CloseReason::explained(CloseCode::DONE, text)
    }

    #[test]
    fn a_close_counts_for_more_than_a_loss_and_ours_for_more_than_theirs() {
        let ending = Ending::new("pigeons");
        assert!(ending.of_sending().is_none() && !ending.is_closed());
        ending.lose(ending.lost("first"));
        ending.lose(ending.lost("second"));
        let lost = ending.of_sending().expect("it has ended").to_string();
        assert_eq!(lost, TransportError::lost("pigeons: first").to_string());
        assert!(!ending.is_closed(), "a loss is none");
        ending.peer_closes(reason("theirs"));
        is_closed_with(&ending, "theirs");
        ending.close(reason("ours"));
        ending.close(reason("again"));
        is_closed_with(&ending, "ours");
        assert_eq!(ending.of_receiving().to_string(), lost);
    }
}
