//! Whether to connect again, and what to tell the peer's transport: decided here and nowhere else.

use opor_sync_proto::{Bye, ByeCode, CloseReason, Refusal, Rejection};
use opor_transport_traits::{CloseCode, TransportError};

use crate::intake::SnapshotFault;

/// How an attempt ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// No link came about, or it failed.
    #[error("link failed")]
    Link(#[source] TransportError),
    /// The session ended.
    #[error("session ended")]
    Session(#[source] CloseReason),
    /// The store could not do what was asked of it.
    #[error("store failed: {0}")]
    Store(String),
    /// What the peer sent cannot be stored here. Nothing of it is.
    #[error("what the peer sent was refused here: {why}")]
    Rejected {
        /// Of which kind it is.
        rejection: Rejection,
        /// What the store says.
        why: String,
    },
    /// The peer sent a snapshot that is not sound. Nothing of it is in the database.
    #[error("peer sent a snapshot that is not sound")]
    Snapshot(#[source] SnapshotFault),
    /// The peer has dropped history that this replica needs, and one of the two does not do snapshots.
    #[error("peer has dropped history that this replica needs; it has to start from a snapshot")]
    SnapshotNeeded,
    /// The peer has dropped history that this replica needs, and has no snapshot to give now.
    #[error("peer has no snapshot to give now")]
    NoSnapshot,
    /// This replica has dropped deletes from its record that the peer has not learnt of, so nothing more was taken from the
    /// peer. It learns of them in the next session.
    #[error("peer has to learn of deletes first: {why}")]
    PeerBehind {
        /// How far it is.
        why: String,
    },
    /// Another process is taking a snapshot into this database.
    #[error("another process takes a snapshot into this database")]
    SnapshotBusy,
    /// The next part of a snapshot did not come.
    #[error("the next part of a snapshot was waited for for {after_ms} ms")]
    SnapshotStalled {
        /// The limit.
        after_ms: u64,
    },
    /// Syncing was stopped while something long was done for it.
    #[error("syncing was stopped")]
    Stopped,
    /// The handle of the store has been closed.
    #[error("store is closed")]
    StoreClosed,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Time may mend it.
    Retry,
    /// The same again would end the same way.
    Refused,
    /// There is nothing to sync any more.
    Over,
}

impl Ended {
    /// Whether it ended as it should: this side or the peer was shut down, and said so.
    #[must_use]
    pub const fn is_goodbye(&self) -> bool {
        matches!(
            self,
            Self::Session(CloseReason::Shutdown | CloseReason::Peer(Bye { code: ByeCode::Shutdown, .. }))
        )
    }

    /// Whether to connect again. Transports judge their errors, and the protocol its reasons.
    pub(crate) fn verdict(&self) -> Verdict {
        let again = match self {
            Self::Link(error) => error.worth_retry(),
            Self::Session(reason) => !reason.is_final(),
            Self::Store(_) => true,
            Self::Rejected { rejection, .. } => !CloseReason::Rejected(*rejection).is_final(),
            Self::Snapshot(_) | Self::NoSnapshot | Self::SnapshotBusy | Self::SnapshotStalled { .. } => true,
            Self::PeerBehind { .. } => true,
            Self::SnapshotNeeded => false,
            Self::Stopped => return Verdict::Over,
            Self::StoreClosed => return Verdict::Over,
        };
        if again { Verdict::Retry } else { Verdict::Refused }
    }

    /// Whether something was refused, or failed for another reason than the link: the same again soon would most likely end
    /// the same way, however far the session had got before.
    pub(crate) const fn is_setback(&self) -> bool {
        match self {
            Self::Link(_) | Self::Stopped | Self::StoreClosed | Self::PeerBehind { .. } => false,
            Self::Session(reason) => match reason {
                CloseReason::LinkClosed | CloseReason::Shutdown | CloseReason::Timeout(_) => false,
                CloseReason::Peer(bye) => !matches!(bye.code, ByeCode::Shutdown | ByeCode::Timeout),
                _ => true,
            },
            Self::Store(_) | Self::Rejected { .. } | Self::Snapshot(_) | Self::SnapshotNeeded => true,
            Self::NoSnapshot | Self::SnapshotBusy | Self::SnapshotStalled { .. } => true,
        }
    }

    /// The reason and its causes, on one line.
    pub(crate) fn in_full(&self) -> String {
        in_full(self)
    }
}

/// An error and its causes, on one line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// With what code a link is closed, for a peer that has not got the goodbye of the session.
pub(crate) const fn close_code(reason: &CloseReason) -> CloseCode {
    match reason {
        CloseReason::Shutdown | CloseReason::Timeout(_) => CloseCode::GOING_AWAY,
        CloseReason::Refused(Refusal::Busy) => CloseCode::OVERLOADED,
        CloseReason::Refused(_) | CloseReason::Rejected(Rejection::Schema) | CloseReason::TooLarge { .. } => {
            CloseCode::REFUSED
        }
        CloseReason::StoreFailed | CloseReason::Violation(_) | CloseReason::Rejected(_) => {
            CloseCode::INTERNAL
        }
        CloseReason::LinkClosed | CloseReason::Peer(_) => CloseCode::DONE,
    }
}

#[cfg(test)]
mod tests {
    use opor_transport_traits::{CloseReason as LinkClose, TransportErrorKind};

    use super::*;

    #[track_caller]
    fn check(ended: Ended, expected: Verdict) {
        assert_eq!(ended.verdict(), expected, "{}", ended.in_full());
    }

    fn bye(code: ByeCode) -> Ended {
        Ended::Session(CloseReason::Peer(Bye { code, detail: String::new() }))
    }

    #[test]
    fn each_end_is_judged_by_those_who_know() {
        check(Ended::Link(TransportError::lost("wire")), Verdict::Retry);
        check(Ended::Link(TransportError::new(TransportErrorKind::Refused, "hub")), Verdict::Refused);
        check(bye(ByeCode::Shutdown), Verdict::Retry);
        check(bye(ByeCode::Token), Verdict::Refused);
        check(Ended::Session(CloseReason::LinkClosed), Verdict::Retry);
        check(Ended::Store("disk is full".into()), Verdict::Retry);
        check(Ended::SnapshotNeeded, Verdict::Refused);
        check(Ended::NoSnapshot, Verdict::Retry);
        check(Ended::Snapshot(SnapshotFault::Chunk { index: 3 }), Verdict::Retry);
        let rejected = |rejection| Ended::Rejected { rejection, why: "no such table".into() };
        check(rejected(Rejection::Schema), Verdict::Refused);
        check(rejected(Rejection::Drift), Verdict::Retry);
        check(Ended::PeerBehind { why: "2 of 3".into() }, Verdict::Retry);
        check(Ended::StoreClosed, Verdict::Over);
    }

    #[test]
    fn a_refusal_is_a_setback_and_the_end_of_a_link_is_none() {
        let drift = Ended::Rejected { rejection: Rejection::Drift, why: "an hour ahead".into() };
        for setback in
            [drift, bye(ByeCode::Drift), bye(ByeCode::Malformed), Ended::Store("disk is full".into())]
        {
            assert!(setback.is_setback(), "{}", setback.in_full());
        }
        let lost = Ended::Link(TransportError::lost("wire"));
        for none in
            [lost, bye(ByeCode::Shutdown), bye(ByeCode::Timeout), Ended::Session(CloseReason::LinkClosed)]
        {
            assert!(!none.is_setback(), "{}", none.in_full());
        }
    }

    #[test]
    fn only_a_shutdown_is_a_goodbye() {
        assert!(bye(ByeCode::Shutdown).is_goodbye());
        assert!(Ended::Session(CloseReason::Shutdown).is_goodbye());
        for other in [bye(ByeCode::Token), Ended::Session(CloseReason::LinkClosed), Ended::StoreClosed] {
            assert!(!other.is_goodbye(), "{}", other.in_full());
        }
    }

    #[test]
    fn a_code_says_the_same_as_the_reason() {
        let violation = opor_sync_proto::Rejection::Malformed;
        for reason in [
            CloseReason::Shutdown,
            CloseReason::StoreFailed,
            CloseReason::Refused(Refusal::Busy),
            CloseReason::Refused(Refusal::Token),
            CloseReason::Rejected(violation),
            CloseReason::Rejected(Rejection::Schema),
        ] {
            let closed = TransportError::closed(LinkClose::new(close_code(&reason)));
            assert_eq!(closed.worth_retry(), !reason.is_final(), "{reason}");
        }
    }
}
