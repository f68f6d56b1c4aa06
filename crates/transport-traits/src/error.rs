//! What can go wrong with a link, a dial or a listener.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::close::CloseReason;
use crate::link::LinkLimits;
use crate::retry;

/// What kind of failure it was: what a program decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// Nobody answers there: no route, no such name, no listener.
    Unreachable,
    /// A dial was not answered in time.
    TimedOut,
    /// The other side has too much to do and said so, or its queue of dials is full.
    Overloaded,
    /// The other side answered and will not have us: credentials, policy, no such room.
    Refused,
    /// The other side speaks something else, or breaks the rules of the transport.
    Incompatible,
    /// The link ended without a close. What was on its way may be lost.
    Lost,
    /// The link was closed in order, here or by the peer; see [`TransportError::close_reason`].
    Closed,
    /// The frame is larger than the link takes. Nothing was sent, and the link goes on.
    FrameTooLarge,
    /// What we were told to do cannot work: a malformed address, a certificate that is not there, no permission.
    Misconfigured,
    /// This machine has run out of something: sockets, memory, threads.
    Exhausted,
}

impl TransportErrorKind {
    /// The words for it.
    const fn phrase(self) -> &'static str {
        match self {
            Self::Unreachable => "nobody answers",
            Self::TimedOut => "no answer in time",
            Self::Overloaded => "peer is overloaded",
            Self::Refused => "peer refuses",
            Self::Incompatible => "peer speaks another language",
            Self::Lost => "link is lost",
            Self::Closed => "link is closed",
            Self::FrameTooLarge => "frame is too large",
            Self::Misconfigured => "transport is not set up right",
            Self::Exhausted => "this machine has run out of resources",
        }
    }
}

/// A failure of a transport. Cheap to clone, so that a link can report again what has ended it.
///
/// ```
/// use opor_transport_traits::{TransportError, TransportErrorKind};
///
/// let cause = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = TransportError::new(TransportErrorKind::Unreachable, "unix:/run/hub.sock").with_source(cause);
/// assert_eq!(error.kind(), TransportErrorKind::Unreachable);
/// assert_eq!(error.to_string(), "nobody answers: unix:/run/hub.sock");
/// assert!(error.worth_retry());
/// ```
#[derive(Clone)]
pub struct TransportError(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: TransportErrorKind,
    /// What is at fault; may be empty.
    about: Box<str>,
    reason: Option<CloseReason>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl TransportError {
    /// A failure; `about` names what is at fault (a peer, an address, a setting), without repeating kind or source. It
    /// may be empty.
    #[must_use]
    pub fn new(kind: TransportErrorKind, about: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Inner { kind, about: about.into(), reason: None, source: None }))
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.source = Some(Arc::from(source.into()));
        Self(Arc::new(inner))
    }

    /// A link that ended without a close; `about` says how.
    #[must_use]
    pub fn lost(about: impl Into<Box<str>>) -> Self {
        Self::new(TransportErrorKind::Lost, about)
    }

    /// A link that is closed, for this reason.
    #[must_use]
    pub fn closed(reason: CloseReason) -> Self {
        let inner = Inner {
            kind: TransportErrorKind::Closed,
            about: reason.to_string().into(),
            reason: Some(reason),
            source: None,
        };
        Self(Arc::new(inner))
    }

    /// A frame of `len` bytes that the link does not take.
    #[must_use]
    pub fn frame_too_large(len: usize, limits: LinkLimits) -> Self {
        let about = format!("{len} bytes, the limit is {}", limits.frame_max());
        Self::new(TransportErrorKind::FrameTooLarge, about)
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> TransportErrorKind {
        self.0.kind
    }

    /// With which reason the link was closed, when it was.
    #[must_use]
    pub fn close_reason(&self) -> Option<&CloseReason> {
        self.0.reason.as_ref()
    }

    /// Whether dialling anew, after a pause, may help. The only place where this is decided; do not match on kinds to
    /// find out.
    #[must_use]
    pub fn worth_retry(&self) -> bool {
        retry::worth_retry(self.0.kind, self.0.reason.as_ref().map(CloseReason::code))
    }
}

impl fmt::Debug for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, about, reason: _, source } = &*self.0;
        f.debug_struct("TransportError")
            .field("kind", kind)
            .field("about", about)
            .field("source", source)
            .finish()
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind.phrase())?;
        if self.0.about.is_empty() { Ok(()) } else { write!(f, ": {}", self.0.about) }
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close::CloseCode;

    #[test]
    fn display_does_not_repeat_the_source() {
        let cause = std::io::Error::other("broken pipe");
        let error = TransportError::lost("memory:hub").with_source(cause);
        assert_eq!(error.to_string(), "link is lost: memory:hub");
        assert_eq!(error.source().unwrap().to_string(), "broken pipe");
        assert_eq!(TransportError::lost("").to_string(), "link is lost");
    }

    #[test]
    fn a_clone_tells_the_same() {
        let reason = CloseReason::explained(CloseCode::GOING_AWAY, "update");
        let error = TransportError::closed(reason.clone());
        let again = error.clone().with_source(std::io::Error::other("eof"));
        assert_eq!(again.close_reason(), Some(&reason));
        assert_eq!(again.kind(), error.kind());
        assert_eq!(again.to_string(), "link is closed: going away (update)");
        assert!(error.source().is_none(), "the original is as it was");
    }

    #[test]
    fn an_oversize_frame_is_told_with_both_sizes() {
        let limits = LinkLimits::new(65_536, 1_000_000);
        let error = TransportError::frame_too_large(70_000, limits);
        assert_eq!(error.to_string(), "frame is too large: 70000 bytes, the limit is 65536");
    }
}
