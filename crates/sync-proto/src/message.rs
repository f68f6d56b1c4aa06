//! What two sessions say to each other.

use std::fmt;

use opor_core::SiteId;

use crate::close::ByeCode;
use crate::cursor::Cursor;

/// The major version spoken; a peer that speaks no common one is refused.
pub const MAJOR: u8 = 1;
/// The minor version spoken. A newer one adds messages, which are skipped here, and fields at the end of messages,
/// which are not read here.
pub const MINOR: u8 = 0;

/// The most bytes of a room's name: twice what the hub allows.
pub const ROOM_LEN_MAX: usize = 128;
/// The most bytes of a token: a signed token with many claims takes a few hundred.
pub const TOKEN_LEN_MAX: usize = 8 << 10;
/// The most bytes that stand for a version of the schema: a number, or a hash of 256 bits.
pub const SCHEMA_LEN_MAX: usize = 32;
/// The most bytes of the words in a [`Bye`]: a sentence for a log.
pub const DETAIL_LEN_MAX: usize = 256;
/// The most bytes of a snapshot's name: a hash of 512 bits.
pub const SNAPSHOT_ID_LEN_MAX: usize = 64;

/// The smallest frame limit that a session works with: the longest [`Hello`] takes 8.5 KiB.
pub const FRAME_FLOOR: usize = 16 << 10;
/// What the head of a frame takes beside the payload, at most: that of an [`Offer`] takes 258 bytes.
pub(crate) const HEAD_LEN_MAX: usize = 288;

/// A message, borrowing its payload from the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Who I am, and what I want. The first message of each side, and said once.
    Hello(Box<Hello>),
    /// I leave, and why. The last message of a side.
    Bye(Bye),
    /// You are let in. Send me your log after this cursor, and what is committed from now on.
    Pull {
        /// Where to begin; the start of the log when there is none.
        cursor: Option<Cursor>,
        /// How many payload bytes may be sent in all, counted from the beginning of the session.
        limit: u64,
    },
    /// You are let in. Send me a snapshot.
    Fetch {
        /// An earlier one to go on with.
        resume: Option<Resume>,
        /// As in [`Message::Pull`].
        limit: u64,
    },
    /// A changeset, or the beginning of one.
    Changes {
        /// Items are numbered from 0: changesets, manifests and chunks alike.
        number: u64,
        /// How many bytes the changeset has; none where only the cursor moved.
        len: u64,
        /// Where the receiver stands once it holds this.
        cursor: Cursor,
        /// Whether the receiver then holds all that was committed when this was read.
        done: bool,
        /// Whether it is told as a difference from the last short changeset that came this way.
        delta: bool,
        /// The first bytes; more follow in [`Message::Part`] until all are there.
        payload: &'a [u8],
    },
    /// A chunk of a snapshot, or the beginning of one.
    Chunk {
        /// The number of the item.
        number: u64,
        /// How many bytes the chunk has.
        len: u64,
        /// Which chunk of the snapshot, from 0.
        index: u64,
        /// The first bytes.
        payload: &'a [u8],
    },
    /// More bytes of the item under way.
    Part {
        /// The number of the item.
        number: u64,
        /// How many of its bytes went before.
        offset: u64,
        /// The bytes.
        payload: &'a [u8],
    },
    /// What is durable here, and how much more may come.
    Ack {
        /// How many items are durable, in all.
        items: u64,
        /// How many payload bytes may be sent, in all.
        limit: u64,
    },
    /// The log after your cursor is not sent: its history is gone, or a snapshot is the shorter way. Nothing comes until you
    /// ask anew.
    Behind {
        /// Whether there is a snapshot to ask for.
        snapshot: bool,
    },
    /// The snapshot that comes after a [`Message::Fetch`], and its manifest, or the beginning of it.
    Offer {
        /// The number of the item.
        number: u64,
        /// How many bytes the manifest has.
        len: u64,
        /// Which snapshot.
        offer: Offer,
        /// The first bytes of the manifest.
        payload: &'a [u8],
    },
    /// Are you there?
    Ping {
        /// Comes back in the [`Message::Pong`].
        nonce: u64,
    },
    /// I am.
    Pong {
        /// That of the ping.
        nonce: u64,
    },
}

/// Who a side is, and what it can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest major version it speaks; the oldest is that of the frame.
    pub newest_major: u8,
    /// The replica.
    pub site: SiteId,
    /// The room to sync, 1 to [`ROOM_LEN_MAX`] bytes.
    pub room: String,
    /// What lets it in.
    pub token: Token,
    /// The version of its schema; opaque here.
    pub schema: Vec<u8>,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The largest frame it takes.
    pub frame_max: u64,
    /// The largest changeset or chunk it takes.
    pub item_max: u64,
}

/// A secret that lets its holder in. Its `Debug` form does not show it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token(pub Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

/// What a side can do, as a set of bits; unknown bits are kept and mean nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Reads changesets in the binary form.
    pub const BINARY: Self = Self(1);
    /// Reads changesets compressed with zstd.
    pub const ZSTD: Self = Self(2);
    /// Gives snapshots and takes them.
    pub const SNAPSHOT: Self = Self(4);
    /// Reads short changesets that are told as differences.
    pub const DELTA: Self = Self(8);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of either.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits of both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Why a side leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bye {
    /// For programs.
    pub code: ByeCode,
    /// For people, up to [`DETAIL_LEN_MAX`] bytes.
    pub detail: String,
}

/// The name of a snapshot, best a hash of its manifest: the same name stands for the same bytes in the same chunks. Opaque
/// here, 1 to [`SNAPSHOT_ID_LEN_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId(pub Vec<u8>);

/// Where to go on with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The snapshot, as it was offered.
    pub id: SnapshotId,
    /// The first chunk that is not held yet.
    pub index: u64,
}

/// A snapshot that is about to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub id: SnapshotId,
    /// How many chunks it has, at least one.
    pub chunks: u64,
    /// How many bytes it has, for a display of progress.
    pub bytes: u64,
    /// The chunk that comes first: where the receiver wanted to go on, or 0.
    pub first: u64,
    /// Where in the log the receiver stands once it has installed the snapshot.
    pub cursor: Cursor,
}

/// The kinds of messages, for errors and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// [`Message::Hello`].
    Hello = 1,
    /// [`Message::Bye`].
    Bye = 2,
    /// [`Message::Pull`].
    Pull = 3,
    /// [`Message::Fetch`].
    Fetch = 4,
    /// [`Message::Changes`].
    Changes = 5,
    /// [`Message::Chunk`].
    Chunk = 6,
    /// [`Message::Part`].
    Part = 7,
    /// [`Message::Ack`].
    Ack = 8,
    /// [`Message::Behind`].
    Behind = 9,
    /// [`Message::Offer`].
    Offer = 10,
    /// [`Message::Ping`].
    Ping = 11,
    /// [`Message::Pong`].
    Pong = 12,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Hello,
        Self::Bye,
        Self::Pull,
        Self::Fetch,
        Self::Changes,
        Self::Chunk,
        Self::Part,
        Self::Ack,
        Self::Behind,
        Self::Offer,
        Self::Ping,
        Self::Pong,
    ];

    /// The kind of this number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

impl Message<'_> {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Bye(_) => Kind::Bye,
            Self::Pull { .. } => Kind::Pull,
            Self::Fetch { .. } => Kind::Fetch,
            Self::Changes { .. } => Kind::Changes,
            Self::Chunk { .. } => Kind::Chunk,
            Self::Part { .. } => Kind::Part,
            Self::Ack { .. } => Kind::Ack,
            Self::Behind { .. } => Kind::Behind,
            Self::Offer { .. } => Kind::Offer,
            Self::Ping { .. } => Kind::Ping,
            Self::Pong { .. } => Kind::Pong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest heads there can be leave the room for the payload that the sender counts on.
    #[test]
    fn no_head_is_longer_than_its_limit() {
        let cursor = Cursor::new(&[7; Cursor::LEN_MAX]).unwrap();
        let id = SnapshotId(vec![7; SNAPSHOT_ID_LEN_MAX]);
        let most = u64::MAX;
        let offer = Offer { id, chunks: most, bytes: most, first: most, cursor: cursor.clone() };
        let payload = &[1; 1000];
        let (number, len) = (most, most);
        let longest = [
            Message::Changes { number, len, cursor, done: true, delta: true, payload },
            Message::Chunk { number, len, index: most, payload },
            Message::Offer { number, len, offer, payload },
            Message::Part { number, offset: most, payload },
        ];
        for message in longest {
            // The length of a payload may take as many bytes as any number.
            let head = message.to_bytes(255).len() - payload.len() + 8;
            assert!(head <= HEAD_LEN_MAX, "{:?}: {head}", message.kind());
        }
    }
}
