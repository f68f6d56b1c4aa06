//! Why sessions end.

use opor_core::SiteId;

use crate::codec::DecodeError;
use crate::message::{Bye, DETAIL_LEN_MAX, MAJOR};
use crate::violation::Violation;

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The driver asked for it.
    #[error("session was shut down here")]
    Shutdown,
    /// The link is gone.
    #[error("link was closed")]
    LinkClosed,
    /// The store of this side failed.
    #[error("store of this replica failed")]
    StoreFailed,
    /// The peer was not let in.
    #[error("peer is refused")]
    Refused(#[source] Refusal),
    /// The peer broke the protocol.
    #[error("peer broke the protocol")]
    Violation(#[source] Violation),
    /// What the peer sent cannot be stored here.
    #[error("what the peer sent cannot be stored here")]
    Rejected(#[source] Rejection),
    /// The smallest changeset there is, or a chunk of a snapshot, is larger than what the peer takes.
    #[error("changeset of {len} bytes cannot be made smaller, the limit of the peer is {max}")]
    TooLarge {
        /// How large it is.
        len: u64,
        /// What the peer takes.
        max: u64,
    },
    /// The peer was silent, or made no progress, for too long.
    #[error("peer was waited for too long")]
    Timeout(#[source] Timeout),
    /// The peer left.
    #[error("peer left ({:?}): {}", .0.code, .0.detail)]
    Peer(Bye),
}

/// Why a peer is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No major version in common.
    #[error("protocol version {major} is not spoken here, only {MAJOR}")]
    Version {
        /// The one the peer offers.
        major: u8,
    },
    /// The peer has the site id of this replica: it is this replica, or a copy of its file.
    #[error("peer has the site id of this replica, {site}")]
    OwnSite {
        /// The site id.
        site: SiteId,
    },
    /// The peer is in another room.
    #[error("peer is in another room")]
    Room,
    /// No encoding of changesets in common.
    #[error("no encoding of changesets in common")]
    Encoding,
    /// The token is missing, malformed, expired or forged.
    #[error("token is not valid")]
    Token,
    /// The token is fine, but does not let into this room.
    #[error("room is not open to the peer")]
    Forbidden,
    /// The schemas cannot be synced.
    #[error("schema of the peer does not fit")]
    Schema,
    /// There is no room for another session now.
    #[error("too many sessions, try later")]
    Busy,
}

/// Why what a peer sent cannot be stored; the driver knows more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Bytes that are no changeset, or break a limit.
    #[error("changeset is malformed or breaks a limit")]
    Malformed,
    /// A stamp too far ahead of the time here.
    #[error("a stamp is too far ahead of the time here")]
    Drift,
    /// A table, a column or a rule of the schema that does not fit.
    #[error("changeset does not fit the schema here")]
    Schema,
    /// A manifest, a chunk or a snapshot that is damaged, or too large.
    #[error("snapshot is damaged or too large")]
    Snapshot,
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Timeout {
    /// The handshake.
    #[error("handshake did not end in {after_ms} ms")]
    Handshake {
        /// The limit.
        after_ms: u64,
    },
    /// Any frame.
    #[error("nothing was heard for {after_ms} ms")]
    Idle {
        /// The limit.
        after_ms: u64,
    },
    /// An acknowledgement, the rest of an item, or a link that takes a frame.
    #[error("{what} was waited for for {after_ms} ms")]
    Stalled {
        /// What did not come.
        what: &'static str,
        /// The limit.
        after_ms: u64,
    },
}

/// Why a side leaves, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByeCode {
    /// It shuts down; connect again later.
    Shutdown,
    /// No common version.
    Version,
    /// Connected to itself.
    OwnSite,
    /// Another room.
    Room,
    /// No common encoding.
    Encoding,
    /// The token is not valid.
    Token,
    /// The room is not open to the peer.
    Forbidden,
    /// The schemas do not fit.
    Schema,
    /// Too many sessions; connect again later.
    Busy,
    /// The other side broke the protocol.
    Violation,
    /// Its store failed; connect again later.
    StoreFailed,
    /// It was sent something malformed.
    Malformed,
    /// It was sent a stamp from the future.
    Drift,
    /// It has something that is too large for the other side.
    TooLarge,
    /// It waited too long.
    Timeout,
    /// A code of a newer version.
    Other(u64),
}

impl ByeCode {
    /// Every code known here, with its number.
    pub const ALL: [(Self, u64); 15] = [
        (Self::Shutdown, 0),
        (Self::Version, 1),
        (Self::OwnSite, 2),
        (Self::Room, 3),
        (Self::Encoding, 4),
        (Self::Token, 5),
        (Self::Forbidden, 6),
        (Self::Schema, 7),
        (Self::Busy, 8),
        (Self::Violation, 9),
        (Self::StoreFailed, 10),
        (Self::Malformed, 11),
        (Self::Drift, 12),
        (Self::TooLarge, 13),
        (Self::Timeout, 14),
    ];

    pub(crate) fn of(number: u64) -> Self {
        let known = Self::ALL.into_iter().find(|(_, of)| *of == number);
        known.map_or(Self::Other(number), |(code, _)| code)
    }

    pub(crate) fn number(self) -> u64 {
        if let Self::Other(number) = self {
            return number;
        }
        let known = Self::ALL.into_iter().find(|(code, _)| *code == self);
        known.map(|(_, number)| number).expect("every known code is in the table")
    }

    /// Whether connecting again as before would end the same way.
    const fn is_final(self) -> bool {
        match self {
            Self::Version
            | Self::OwnSite
            | Self::Room
            | Self::Encoding
            | Self::Token
            | Self::Forbidden
            | Self::Schema
            | Self::TooLarge => true,
            Self::Shutdown
            | Self::Busy
            | Self::Violation
            | Self::StoreFailed
            | Self::Malformed
            | Self::Drift
            | Self::Timeout
            | Self::Other(_) => false,
        }
    }
}

impl Refusal {
    const fn code(&self) -> ByeCode {
        match self {
            Self::Version { .. } => ByeCode::Version,
            Self::OwnSite { .. } => ByeCode::OwnSite,
            Self::Room => ByeCode::Room,
            Self::Encoding => ByeCode::Encoding,
            Self::Token => ByeCode::Token,
            Self::Forbidden => ByeCode::Forbidden,
            Self::Schema => ByeCode::Schema,
            Self::Busy => ByeCode::Busy,
        }
    }
}

impl CloseReason {
    /// Whether connecting again, with the same token, room and program, would end the same way: a person has to act.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code().is_final(),
            Self::Peer(bye) => bye.code.is_final(),
            Self::TooLarge { .. } | Self::Rejected(Rejection::Schema) => true,
            Self::Shutdown
            | Self::LinkClosed
            | Self::StoreFailed
            | Self::Violation(_)
            | Self::Rejected(Rejection::Malformed | Rejection::Drift | Rejection::Snapshot)
            | Self::Timeout(_) => false,
        }
    }

    /// What to say to the peer; nothing when it left first or cannot hear.
    pub(crate) fn farewell(&self) -> Option<Bye> {
        let (code, detail) = match self {
            Self::Shutdown => (ByeCode::Shutdown, self.to_string()),
            Self::StoreFailed => (ByeCode::StoreFailed, self.to_string()),
            Self::Refused(refusal) => (refusal.code(), refusal.to_string()),
            Self::Violation(Violation::Malformed(error)) => (ByeCode::Violation, error.to_string()),
            Self::Violation(violation) => (ByeCode::Violation, violation.to_string()),
            Self::Rejected(rejection) => (rejection.code(), rejection.to_string()),
            Self::TooLarge { .. } => (ByeCode::TooLarge, self.to_string()),
            Self::Timeout(timeout) => (ByeCode::Timeout, timeout.to_string()),
            Self::LinkClosed | Self::Peer(_) => return None,
        };
        assert!(detail.len() <= DETAIL_LEN_MAX, "every detail is a short sentence");
        Some(Bye { code, detail })
    }
}

impl Rejection {
    const fn code(self) -> ByeCode {
        match self {
            Self::Malformed | Self::Snapshot => ByeCode::Malformed,
            Self::Drift => ByeCode::Drift,
            Self::Schema => ByeCode::Schema,
        }
    }
}

impl From<Violation> for CloseReason {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Refusal> for CloseReason {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<DecodeError> for CloseReason {
    fn from(error: DecodeError) -> Self {
        Self::Violation(Violation::Malformed(error))
    }
}
