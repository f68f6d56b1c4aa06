//! The binary form of a changeset.
//!
//! ```text
//! +-------+---------+-------+----------+----------------------------------------------------+
//! | "opc" | version | flags | CRC-32   | the body; or, with flag 1, its length as a varint  |
//! | 3     | 1       | 1     | 4, LE    | and the body as one zstd frame                     |
//! +-------+---------+-------+----------+----------------------------------------------------+
//! ```
//!
//! The CRC-32 (ISO-HDLC, as in zip) covers everything but itself, as sent. A varint is LEB128 in its shortest form; a
//! *string* is a varint of its length and the bytes; signed numbers are zigzag. The body:
//!
//! ```text
//! body     = sites tables stream(rows) stream(col_version) stream(db_version) stream(seq) stream(site)
//!            (for each table: column * (key columns + columns))
//! sites    = count string*
//! tables   = count (name: string, key columns: varint, count, column name: string*)*
//! column   = stream(heads) stream(payload)
//! stream   = string
//! rows     = (shape << 1 | repeated: varint, [definition], [repetitions - 2: varint])*
//! definition (only where shape is the next unused number)
//!          = table, key columns, cl, (cells << 1 | has sentinel), [flags of the sentinel], (column << 4 | flags)*
//! ```
//!
//! A *shape* is what rows have in common: table, number of key columns, causal length, which columns, and which parts
//! of each clock are not as predicted. Flags 1, 2, 4, 8 say that `col_version`, `db_version`, `seq`, `site` differ from
//! the prediction: the same as in the change before, `seq` one more, and the `col_version` of a sentinel its causal
//! length (before the first change: all 0, and `seq` 0 comes next). What differs is in its stream, as the distance from
//! the prediction; a site as its index. So rows of one commit cost nothing but keys and values.
//!
//! A *column* holds, in row order, one key column or one column of values of a table. A head is a byte `argument << 3 |
//! kind`, an argument of 31 or more being 31 and a varint of the rest:
//!
//! | kind | argument | payload |
//! |---|---|---|
//! | 0 | 0 NULL; 1 the same as the last value that was not NULL or an integer | - |
//! | 1 | an integer | - |
//! | 2 | an integer, less the integer before it in this column (at first 0) | - |
//! | 3 | a real: 0 | the 8 bytes of it, little-endian |
//! |   | 1 to 5: the real nearest to n / 10^(argument - 1) | n, a varint |
//! | 4 | text: its length | its bytes |
//! | 5 | blob: its length | its bytes |
//! | 6 | text that is a UUID in canonical lower-case form: 0 | its 16 bytes |
//!
//! Rows without any change are left out. Every stream must be read to its end, and nothing may follow the body.

mod column;
mod decode;
mod delta;
mod encode;
mod frame;
mod varint;

pub use delta::{DeltaError, apply_delta, delta};

use crate::KeyError;

/// How a changeset is written.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    /// A body of more bytes than this is compressed, if that makes it shorter; `usize::MAX` never compresses.
    pub compress_above: usize,
    /// The level of zstd.
    pub level: i32,
}

impl EncodeOptions {
    /// Never compresses.
    pub const RAW: Self = Self { compress_above: usize::MAX, level: 1 };
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { compress_above: 1 << 10, level: 1 }
    }
}

/// How much a decoder takes from a peer that may be hostile.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    /// The most bytes of input, and the most after decompression. No memory is taken on the word of a length: only
    /// for bytes that are there.
    pub bytes_max: usize,
    /// The most bytes of memory for the changeset; a cell of one byte on the wire takes about 70.
    pub memory_max: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { bytes_max: 256 << 20, memory_max: 1 << 30 }
    }
}

/// Why bytes are not a changeset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes begin otherwise.
    #[error("not a changeset")]
    NotAChangeset,
    /// Written by a newer opor, in a form unknown here.
    #[error("changeset format {version} is unknown, the newest known is {}", frame::VERSION)]
    UnsupportedVersion {
        /// The version it claims.
        version: u8,
    },
    /// A flag that no version known here sets.
    #[error("changeset has the unknown flags {flags:#04x}")]
    UnknownFlags {
        /// All flags.
        flags: u8,
    },
    /// The bytes are not those that were sent.
    #[error("changeset has the checksum {found:08x} and says {stated:08x}")]
    Checksum {
        /// What it says.
        stated: u32,
        /// What its bytes have.
        found: u32,
    },
    /// More bytes than [`DecodeLimits::bytes_max`].
    #[error("changeset of {len} bytes, the limit is {max}")]
    TooLarge {
        /// How many there are, or how many it says it has when decompressed.
        len: u64,
        /// The limit.
        max: usize,
    },
    /// Needs more memory than [`DecodeLimits::memory_max`].
    #[error("changeset needs more than {max} bytes of memory, the limit")]
    TooMuchMemory {
        /// The limit.
        max: usize,
    },
    /// The compressed part is not one zstd frame of the length it states.
    #[error("compressed changeset is not one frame of its stated length")]
    Compression,
    /// The bytes end too early.
    #[error("changeset ends too early")]
    Truncated,
    /// Bytes are left over.
    #[error("changeset has {count} bytes too many")]
    TrailingBytes {
        /// How many, in the first place that has any.
        count: usize,
    },
    /// An integer of more than 64 bits or not in its shortest form.
    #[error("changeset has a malformed integer")]
    Varint,
    /// A table, column, site or shape that it does not declare.
    #[error("changeset mentions {what} {index} of {count}")]
    IndexRange {
        /// What is numbered.
        what: &'static str,
        /// The number.
        index: u64,
        /// How many there are.
        count: usize,
    },
    /// A table or site declared twice, or a column twice in its table or in one row.
    #[error("changeset has the same {what} twice")]
    Duplicate {
        /// What there is twice.
        what: &'static str,
    },
    /// A name or a value that is not UTF-8.
    #[error("changeset has a {what} that is not UTF-8")]
    NotUtf8 {
        /// What it is.
        what: &'static str,
    },
    /// A site id of no or more than 16 bytes.
    #[error("changeset has a malformed site id")]
    Site(#[source] crate::SiteIdError),
    /// A value of a kind that does not exist, or the repetition of nothing.
    #[error("changeset has a value of unknown kind {kind} and argument {argument}")]
    ValueKind {
        /// The kind.
        kind: u8,
        /// The argument.
        argument: u64,
    },
    /// A row in which nothing changed.
    #[error("changeset has a row without any change")]
    EmptyRow,
    /// A row whose key is too long or has more columns than a key can have.
    #[error("changeset has a malformed key")]
    Key(#[source] KeyError),
}
