//! The JSON form of a changeset: an array of objects, one for each change, in the order of the commits.
//!
//! ```json
//! [{"table":"todos","pk":"010901","cid":"title","val":"buy milk","col_version":1,"db_version":3,
//!   "site_id":"07070707070707070707070707070707","cl":1,"seq":0}]
//! ```
//!
//! | SQLite | written | also read |
//! |---|---|---|
//! | NULL | `null` | |
//! | INTEGER | a number without point or exponent, all 64 bits | |
//! | REAL | a number with point or exponent, which reads back as the same bits | |
//! | REAL, infinite or NaN | `{"real":"7ff8000000000000"}`, its bits in hex | any real |
//! | TEXT | a string; always, whatever it looks like | |
//! | BLOB | `{"blob":"00ff"}`, in hex | base64; Node's `{"type":"Buffer","data":[0,255]}` |
//! | `pk`, `site_id` | a string of hex | base64; Node's Buffer |
//!
//! Base64 is of either alphabet, padded or not; text that is hex as well is hex. JavaScript writes the number 1.0 as
//! `1`, which is an INTEGER here; where that matters a client writes `{"real":"3ff0000000000000"}`. An integer that 64
//! bits cannot hold is refused, not rounded. Fields of other names are ignored.

mod read;
mod write;

use crate::{KeyError, SiteIdError};

/// Why text is not a changeset in JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// More bytes than [`DecodeLimits::bytes_max`](crate::DecodeLimits::bytes_max).
    #[error("changeset of {len} bytes of JSON, the limit is {max}")]
    TooLarge {
        /// How many there are.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Needs more memory than [`DecodeLimits::memory_max`](crate::DecodeLimits::memory_max).
    #[error("changeset needs more than {max} bytes of memory, the limit")]
    TooMuchMemory {
        /// The limit.
        max: usize,
    },
    /// Not UTF-8, so not JSON.
    #[error("changeset is not UTF-8 at byte {at}")]
    NotUtf8 {
        /// The first byte that is not.
        at: usize,
    },
    /// Not JSON.
    #[error("changeset is not JSON at line {line}, column {column}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// JSON of another kind.
    #[error("changeset is not an array")]
    NotAnArray,
    /// A change that is not an object.
    #[error("change {index} is not an object")]
    NotAnObject {
        /// Which change, from 0.
        index: usize,
    },
    /// A field that is not as it must be.
    #[error("field {field} of change {index} is refused")]
    Field {
        /// Which change, from 0.
        index: usize,
        /// The field.
        field: &'static str,
        /// What is wrong.
        #[source]
        fault: FieldFault,
    },
}

/// What is wrong with a field of a change in JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldFault {
    /// It is not there.
    #[error("it is missing")]
    Missing,
    /// It is there twice.
    #[error("it is there twice")]
    Duplicate,
    /// It is of another type.
    #[error("it is not {expected}")]
    WrongType {
        /// What it must be.
        expected: &'static str,
    },
    /// A counter below 0.
    #[error("it is negative")]
    Negative,
    /// An integer or a real that 64 bits cannot hold.
    #[error("it is a number out of range")]
    NumberRange,
    /// A string with half of a surrogate pair.
    #[error("it is a malformed string")]
    Text,
    /// A string that is neither hex nor base64.
    #[error("it is neither hex nor base64")]
    NotBytes,
    /// Bytes that are not a packed key.
    #[error("it is not a key")]
    Key(#[source] KeyError),
    /// Bytes that are not a site id.
    #[error("it is not a site id")]
    Site(#[source] SiteIdError),
}
