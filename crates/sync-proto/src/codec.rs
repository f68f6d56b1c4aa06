//! Messages as bytes.
//!
//! A frame is a version byte (`major << 4 | minor`), a byte for the kind, a byte that counts frames, and the fields. A number is a varint: LEB128
//! in its shortest form. A *string* is the varint of its length, and the bytes. `docs/protocol.md` draws every message.

mod decode;
mod encode;
mod reader;

use crate::message::{Kind, MAJOR};

pub(crate) use decode::count_of;
pub use decode::{Decoded, decode};

/// The bit of [`Changes`](crate::Message::Changes) that says that nothing committed is missing any more.
const DONE: u8 = 1;
/// The bit of [`Changes`](crate::Message::Changes) that says that the changeset is told as a difference.
const DELTA: u8 = 2;
/// The bit of [`Behind`](crate::Message::Behind) that says that there is a snapshot.
const SNAPSHOT: u8 = 1;

/// Why a frame is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written in a major version that is not spoken here.
    #[error("frame is of protocol version {major}, only {MAJOR} is spoken here")]
    Major {
        /// The version.
        major: u8,
    },
    /// A kind that does not exist in the version the frame claims.
    #[error("frame is of the unknown kind {kind}")]
    Kind {
        /// The number of the kind.
        kind: u8,
    },
    /// The bytes end too early.
    #[error("{kind:?} ends too early")]
    Truncated {
        /// What they begin; nothing when not even that is there.
        kind: Option<Kind>,
    },
    /// Bytes are left over.
    #[error("{kind:?} has {count} bytes too many")]
    Trailing {
        /// The message.
        kind: Kind,
        /// How many.
        count: usize,
    },
    /// An integer of more than 64 bits or not in its shortest form.
    #[error("{kind:?} has a malformed integer")]
    Varint {
        /// The message.
        kind: Kind,
    },
    /// A field with a value or a length that it cannot have.
    #[error("{kind:?} has a {field} out of range")]
    Range {
        /// The message.
        kind: Kind,
        /// The field.
        field: &'static str,
    },
}
