//! What no honest peer does.

use crate::codec::DecodeError;
use crate::message::Kind;

/// What a peer did that no honest one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame larger than this side said it takes.
    #[error("frame of {len} bytes, the limit is {max}")]
    FrameTooLarge {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A frame that is not a message.
    #[error("frame is not a message")]
    Malformed(#[source] DecodeError),
    /// A frame that is not the next one: lost, repeated or swapped on its way.
    #[error("frame {count} came, {expected} was due (counted up to 255)")]
    FrameOrder {
        /// The number due.
        expected: u8,
        /// The number that came.
        count: u8,
    },
    /// A message that cannot come now.
    #[error("{kind:?} cannot come {during}")]
    OutOfPhase {
        /// The message.
        kind: Kind,
        /// The state.
        during: &'static str,
    },
    /// A larger changeset or chunk than this side takes.
    #[error("item of {len} bytes, the limit is {max}")]
    ItemTooLarge {
        /// Its length.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// A changeset told as a difference that is none.
    #[error("changeset is told as a difference that is none")]
    Difference,
    /// An item out of order: lost, repeated or invented.
    #[error("item {number} came, {expected} was due")]
    ItemOrder {
        /// The item due.
        expected: u64,
        /// The item that came.
        number: u64,
    },
    /// A part that does not continue the item under way.
    #[error("part of item {number} at {offset} does not continue where {at} bytes are there")]
    PartOrder {
        /// The item it names.
        number: u64,
        /// The place it names.
        offset: u64,
        /// How many bytes of the item under way are there.
        at: u64,
    },
    /// More bytes of an item than were announced, or a part without any.
    #[error("item of {len} bytes does not end there")]
    ItemLength {
        /// What was announced.
        len: u64,
    },
    /// More bytes than were allowed.
    #[error("{sent} payload bytes came, {limit} were allowed")]
    CreditOverrun {
        /// How many came.
        sent: u64,
        /// How many were allowed.
        limit: u64,
    },
    /// More items than may be under way.
    #[error("more than {max} items are under way")]
    TooManyItems {
        /// How many may be.
        max: usize,
    },
    /// An acknowledgement of what was not sent.
    #[error("{items} items are acknowledged, {sent} were sent")]
    AckAhead {
        /// What is acknowledged.
        items: u64,
        /// What was sent.
        sent: u64,
    },
    /// An acknowledgement or a credit that takes back an earlier one.
    #[error("an acknowledgement goes back")]
    AckBack,
    /// A pong that no ping asked for.
    #[error("pong {nonce} answers no ping")]
    Pong {
        /// Its nonce.
        nonce: u64,
    },
    /// A snapshot asked for, or sent, by a side that said it does not do that, or sent to one.
    #[error("snapshots were not agreed on")]
    NoSnapshots,
    /// A snapshot that begins elsewhere than it was asked to.
    #[error("snapshot is offered from chunk {first}")]
    OfferStart {
        /// Where it begins.
        first: u64,
    },
    /// A chunk out of order.
    #[error("chunk {index} came, {expected} was due")]
    ChunkOrder {
        /// The chunk due.
        expected: u64,
        /// The chunk that came.
        index: u64,
    },
}
