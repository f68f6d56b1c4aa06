//! What a session is told before it begins.

use opor_core::SiteId;

use crate::message::{Capabilities, FRAME_FLOOR, ROOM_LEN_MAX, SCHEMA_LEN_MAX, TOKEN_LEN_MAX, Token};

/// Who says hello first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Says hello at once. Both sides may.
    Initiator,
    /// Says hello only to a peer that it lets in, so that others learn nothing. At most one side can.
    Responder,
}

/// How a session behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica.
    pub site: SiteId,
    /// Who says hello first.
    pub role: Role,
    /// The room to sync. A responder without one takes that of the peer; the driver then judges it.
    pub room: Option<String>,
    /// What lets this replica in at the peer.
    pub token: Token,
    /// The version of the schema here, opaque.
    pub schema: Vec<u8>,
    /// What this side can do.
    pub capabilities: Capabilities,
    /// The largest frame that the transport carries.
    pub frame_max: usize,
    /// The largest changeset or chunk that is taken, and the largest that is sent: a changeset is read and merged
    /// whole.
    pub item_max: usize,
    /// How many payload bytes the peer may have under way: received, and not yet durable. At least
    /// [`item_max`](Self::item_max), so that an item can always come to its end.
    pub window: usize,
    /// About how many changes are read at once; a commit of fewer travels as one changeset.
    pub changes_max: usize,
    /// How long the peer is waited for.
    pub timeouts: Timeouts,
}

/// How long the peer is waited for, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For the handshake, from the first moment until both sides are let in.
    pub handshake_ms: u64,
    /// After so much silence a ping is sent.
    pub keepalive_ms: u64,
    /// After so much silence the session ends.
    pub idle_ms: u64,
    /// For an acknowledgement, for the next part of an item, and for the link to take a frame.
    pub stall_ms: u64,
    /// How long a cursor that moved without any change may stay untold: what the peer wrote itself is not sent back.
    pub cursor_ms: u64,
}

impl Timeouts {
    /// Three round trips over a bad mobile link, and a token that is checked against a slow server.
    pub const HANDSHAKE_MS: u64 = 15_000;
    /// Below the 30 s after which some proxies and NATs forget a silent connection.
    pub const KEEPALIVE_MS: u64 = 20_000;
    /// Three pings.
    pub const IDLE_MS: u64 = 60_000;
    /// Longer than a phone takes to merge the largest changeset, short enough that a dead peer is let go of.
    pub const STALL_MS: u64 = 300_000;
    /// Rare beside the commits of a busy peer, and what it costs to lose is to read that much again.
    pub const CURSOR_MS: u64 = 10_000;
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake_ms: Self::HANDSHAKE_MS,
            keepalive_ms: Self::KEEPALIVE_MS,
            idle_ms: Self::IDLE_MS,
            stall_ms: Self::STALL_MS,
            cursor_ms: Self::CURSOR_MS,
        }
    }
}

impl Config {
    /// The default of [`frame_max`](Self::frame_max): small beside what a socket buffers, large beside the head of a
    /// frame.
    pub const FRAME_MAX: usize = 64 << 10;
    /// The default of [`item_max`](Self::item_max): a piece of the log has a few megabytes, and a row with a large blob
    /// must fit.
    pub const ITEM_MAX: usize = 64 << 20;
    /// The default of [`changes_max`](Self::changes_max): at 48 bytes a row some 2 MB, merged in well under a second.
    pub const CHANGES_MAX: usize = 50_000;

    /// The defaults, for a room.
    #[must_use]
    pub fn new(site: SiteId, room: impl Into<String>) -> Self {
        Self {
            site,
            role: Role::Initiator,
            room: Some(room.into()),
            token: Token::default(),
            schema: Vec::new(),
            capabilities: Capabilities::BINARY.with(Capabilities::ZSTD).with(Capabilities::DELTA),
            frame_max: Self::FRAME_MAX,
            item_max: Self::ITEM_MAX,
            window: Self::ITEM_MAX,
            changes_max: Self::CHANGES_MAX,
            timeouts: Timeouts::default(),
        }
    }

    /// The defaults of a side that waits for the peer to say who it is and which room it wants.
    #[must_use]
    pub fn responder(site: SiteId) -> Self {
        Self { role: Role::Responder, room: None, ..Self::new(site, "") }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        match &self.room {
            None if self.role == Role::Initiator => return Err(ConfigError::NoRoom),
            Some(room) if room.is_empty() || room.len() > ROOM_LEN_MAX => {
                return Err(ConfigError::Room { len: room.len() });
            }
            _ => {}
        }
        for (what, got, max) in [
            ("token", self.token.0.len(), TOKEN_LEN_MAX),
            ("schema version", self.schema.len(), SCHEMA_LEN_MAX),
        ] {
            if got > max {
                return Err(ConfigError::TooLong { what, len: got, max });
            }
        }
        for (what, got, min) in [
            ("frame limit", self.frame_max, FRAME_FLOOR),
            ("item limit", self.item_max, FRAME_FLOOR),
            ("window", self.window, self.item_max),
            ("number of changes", self.changes_max, 1),
        ] {
            if got < min {
                return Err(ConfigError::TooSmall { what, got, min });
            }
        }
        Ok(())
    }
}

/// A configuration that no session can work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An initiator has to say which room it wants.
    #[error("the initiator of a session needs a room")]
    NoRoom,
    /// A name of no room.
    #[error("room name has {len} bytes, the limit is 1 to {ROOM_LEN_MAX}")]
    Room {
        /// Its length.
        len: usize,
    },
    /// Something longer than the protocol carries.
    #[error("{what} has {len} bytes, the limit is {max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A limit with which nothing could be sent.
    #[error("{what} is {got}, at least {min} is needed")]
    TooSmall {
        /// Which.
        what: &'static str,
        /// What it is.
        got: usize,
        /// What it has to be at least.
        min: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), expected: Result<(), ConfigError>) {
        let mut config = Config::new(SiteId::from([1; 16]), "todos");
        change(&mut config);
        assert_eq!(config.check(), expected);
    }

    #[test]
    fn a_session_needs_room_for_its_frames() {
        let too_small = |what, got, min| Err(ConfigError::TooSmall { what, got, min });
        check(|_| {}, Ok(()));
        check(|config| config.frame_max = 1000, too_small("frame limit", 1000, FRAME_FLOOR));
        check(|config| config.item_max = 0, too_small("item limit", 0, FRAME_FLOOR));
        check(|config| config.window -= 1, too_small("window", Config::ITEM_MAX - 1, Config::ITEM_MAX));
        check(|config| config.changes_max = 0, too_small("number of changes", 0, 1));
    }

    #[test]
    fn names_and_secrets_have_limits() {
        check(|config| config.room = None, Err(ConfigError::NoRoom));
        check(|config| (config.role, config.room) = (Role::Responder, None), Ok(()));
        check(|config| config.room = Some(String::new()), Err(ConfigError::Room { len: 0 }));
        check(|config| config.room = Some("r".repeat(129)), Err(ConfigError::Room { len: 129 }));
        let long = |what, len, max| Err(ConfigError::TooLong { what, len, max });
        check(|config| config.token = Token(vec![0; 9000]), long("token", 9000, TOKEN_LEN_MAX));
        check(|config| config.schema = vec![0; 33], long("schema version", 33, SCHEMA_LEN_MAX));
    }
}
