//! How a link ends: shared by its halves and the task that carries it.

use std::sync::OnceLock;

use opor_transport_traits::{CloseReason, TransportError};
use tokio::sync::watch;

/// What has been set stays, and it is set before a queue ends because of it.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    /// We have closed.
    ours: OnceLock<CloseReason>,
    /// The peer has closed, or has answered. The task waits for it while it writes.
    theirs: watch::Sender<Option<CloseReason>>,
    lost: OnceLock<TransportError>,
}

impl Ending {
    /// Notes our close; the first one stands.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.ours.get_or_init(|| reason);
    }

    /// Notes the peer's close.
    pub(crate) fn peer_closes(&self, reason: CloseReason) {
        self.theirs.send_replace(Some(reason));
    }

    /// Notes a loss; the first one stands.
    pub(crate) fn lose(&self, error: TransportError) {
        self.lost.get_or_init(|| error);
    }

    /// Why nothing can be sent, if nothing can. A close counts for more than a loss after it.
    pub(crate) fn of_sending(&self) -> Option<TransportError> {
        if let Some(reason) = self.ours.get() {
            return Some(TransportError::closed(reason.clone()));
        }
        let theirs = self.theirs.borrow().clone();
        theirs.map(TransportError::closed).or_else(|| self.lost.get().cloned())
    }

    /// Why nothing more can be received. The task may also have ended without a word, with its runtime.
    pub(crate) fn of_receiving(&self) -> TransportError {
        self.lost.get().cloned().unwrap_or_else(gone)
    }

    /// The reason of our close.
    pub(crate) fn ours(&self) -> Option<&CloseReason> {
        self.ours.get()
    }

    /// Whether either side has closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.ours.get().is_some() || self.theirs.borrow().is_some()
    }

    /// Waits until the peer has closed.
    pub(crate) async fn peer_closed(&self) {
        // The other end of this channel is `self`, so waiting cannot fail while somebody waits.
        let _ = self.theirs.subscribe().wait_for(Option::is_some).await;
    }
}

pub(crate) fn gone() -> TransportError {
    TransportError::lost("websocket: the runtime that carried the link has ended")
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
        let ending = Ending::default();
        assert!(ending.of_sending().is_none() && !ending.is_closed());
        ending.lose(TransportError::lost("first"));
        ending.lose(TransportError::lost("second"));
        let lost = ending.of_sending().expect("it has ended").to_string();
        assert_eq!(lost, TransportError::lost("first").to_string());
        assert!(!ending.is_closed(), "a loss is none");
        ending.peer_closes(reason("theirs"));
        is_closed_with(&ending, "theirs");
        ending.close(reason("ours"));
        ending.close(reason("again"));
        is_closed_with(&ending, "ours");
        assert_eq!(ending.of_receiving().to_string(), TransportError::lost("first").to_string());
    }
}
