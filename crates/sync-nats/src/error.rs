//! What can go wrong with a room, and whether to try again: decided here and nowhere else.

use opor_store::HandleError;
use opor_transport_traits::TransportError;

/// What the library below fails with.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an attempt failed, or a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoomError {
    /// The broker was not reached, or the connection broke.
    #[error("broker is not reached")]
    Broker(#[source] TransportError),
    /// The broker has no JetStream, or this account may not use it.
    #[error("the broker at {address} has no JetStream for this account")]
    NoJetStream {
        /// Where.
        address: String,
    },
    /// The broker is too old for what a room needs.
    #[error("nats-server {found} is too old for rooms, {least} is the least")]
    TooOld {
        /// Its version.
        found: String,
        /// The version it takes.
        least: &'static str,
    },
    /// The stream is there and is set up so that messages would be lost.
    #[error("stream {stream} {what}")]
    UnfitStream {
        /// Its name.
        stream: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The broker did not do what was asked.
    #[error("the broker failed while {doing}")]
    Request {
        /// What was asked.
        doing: &'static str,
        /// What it said.
        #[source]
        source: Cause,
    },
    /// A single row is larger than a message of the log can be, even in parts.
    #[error("a row of {bytes} bytes is too large to be published, the limit is {max}")]
    RowTooLarge {
        /// Its size as a changeset.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A snapshot could not be made or taken.
    #[error("the snapshot failed while {doing}")]
    Snapshot {
        /// What was done.
        doing: &'static str,
        /// How it failed.
        #[source]
        source: Cause,
    },
    /// The store could not do what was asked of it.
    #[error("store failed: {0}")]
    Store(String),
    /// The handle of the store has been closed.
    #[error("store is closed")]
    StoreClosed,
    /// The stream was made anew, or lost its end, while it was being read.
    #[error("the stream is not what it was")]
    StreamChanged,
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

impl RoomError {
    pub(crate) fn request(doing: &'static str) -> impl Fn(Cause) -> Self {
        move |source| Self::Request { doing, source }
    }

    pub(crate) fn snapshot<E: Into<Cause>>(doing: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Snapshot { doing, source: source.into() }
    }

    pub(crate) fn store(error: &dyn std::error::Error) -> Self {
        Self::Store(in_full(error))
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let again = match self {
            Self::Broker(error) => error.worth_retry(),
            Self::NoJetStream { .. }
            | Self::TooOld { .. }
            | Self::UnfitStream { .. }
            | Self::RowTooLarge { .. } => false,
            Self::Request { .. } | Self::Snapshot { .. } | Self::Store(_) | Self::StreamChanged => true,
            Self::StoreClosed => return Verdict::Over,
        };
        if again { Verdict::Retry } else { Verdict::Refused }
    }
}

impl From<HandleError> for RoomError {
    fn from(error: HandleError) -> Self {
        match error {
            HandleError::Closed => Self::StoreClosed,
            HandleError::Panicked => Self::Store(error.to_string()),
        }
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

#[cfg(test)]
mod tests {
    use opor_transport_traits::TransportErrorKind as Kind;

    use super::*;

    #[test]
    fn each_end_is_judged() {
        let broker = |kind| RoomError::Broker(TransportError::new(kind, "nats://broker"));
        for (error, expected) in [
            (broker(Kind::Unreachable), Verdict::Retry),
            (broker(Kind::Refused), Verdict::Refused),
            (RoomError::NoJetStream { address: "nats://broker".into() }, Verdict::Refused),
            (RoomError::UnfitStream { stream: "s".into(), what: "drops" }, Verdict::Refused),
            (RoomError::StreamChanged, Verdict::Retry),
            (RoomError::Store("disk is full".into()), Verdict::Retry),
            (RoomError::StoreClosed, Verdict::Over),
        ] {
            assert_eq!(error.verdict(), expected, "{error}");
        }
    }
}
