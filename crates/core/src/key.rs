//! Packed primary keys: cr-sqlite's encoding of the key columns of a row as one blob.

use std::fmt;

use crate::bytes_text::Hex;
use crate::{Value, ValueRef};

const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const NULL: u8 = 5;

/// The primary key of a row in cr-sqlite's packing, well formed by construction.
///
/// One byte counts the columns; then for each, in PRIMARY KEY order, a byte `(width << 3) | type` and the payload.
/// An integer is the fewest big-endian bytes that hold it when it is not negative (0 takes none) and 8 bytes when it
/// is; a real 8 bytes; text and blob a length of `width` bytes and then the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedKey(Box<[u8]>);

/// A key column as it is packed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PackedColumn<'a> {
    /// NULL.
    Null,
    /// An integer.
    Integer(i64),
    /// A real.
    Real(f64),
    /// The bytes of text, which are UTF-8.
    Text(&'a [u8]),
    /// A blob.
    Blob(&'a [u8]),
}

/// Why bytes are not a packed key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No bytes at all.
    #[error("packed key is empty")]
    Empty,
    /// More bytes than [`PackedKey::LEN_MAX`].
    #[error("packed key has {len} bytes, the limit is {}", PackedKey::LEN_MAX)]
    TooLong {
        /// How many bytes there were.
        len: usize,
    },
    /// The bytes end inside a column.
    #[error("packed key ends inside column {column}")]
    Truncated {
        /// Which column, from 0.
        column: usize,
    },
    /// A type or width that does not exist.
    #[error("column {column} of the packed key has the unknown type byte {byte:#04x}")]
    UnknownType {
        /// Which column, from 0.
        column: usize,
        /// The byte.
        byte: u8,
    },
    /// Text that is not UTF-8.
    #[error("column {column} of the packed key is text that is not UTF-8")]
    NotUtf8 {
        /// Which column, from 0.
        column: usize,
    },
}

impl PackedKey {
    /// The most bytes accepted from outside: far above any sensible key, far below what hurts.
    pub const LEN_MAX: usize = 1 << 20;

    /// Packs key columns, in PRIMARY KEY order.
    ///
    /// # Panics
    /// When there are more than 255 columns, which no packed key can say.
    #[must_use]
    pub fn pack(columns: &[Value]) -> Self {
        let mut out = Vec::with_capacity(16);
        Self::begin(columns.len(), &mut out);
        for column in columns {
            Self::pack_column(column.as_ref(), &mut out);
        }
        Self(out.into_boxed_slice())
    }

    /// Starts a key of `columns` columns in a caller's buffer; follow with [`pack_column`](Self::pack_column).
    ///
    /// # Panics
    /// When there are more than 255 columns.
    pub fn begin(columns: usize, out: &mut Vec<u8>) {
        out.push(u8::try_from(columns).expect("a packed key has at most 255 columns"));
    }

    /// Appends one column to a key started with [`begin`](Self::begin).
    pub fn pack_column(column: ValueRef<'_>, out: &mut Vec<u8>) {
        match column {
            ValueRef::Null => out.push(NULL),
            ValueRef::Integer(v) => push_int(INTEGER, v.cast_unsigned(), out),
            ValueRef::Real(v) => {
                out.push(REAL);
                out.extend_from_slice(&v.to_bits().to_be_bytes());
            }
            ValueRef::Text(v) => push_bytes(TEXT, v.as_bytes(), out),
            ValueRef::Blob(v) => push_bytes(BLOB, v, out),
        }
    }

    /// Checks bytes from outside and takes them as a key.
    ///
    /// As in cr-sqlite, bytes after the last column are ignored and an integer may be padded with zeros; here the key
    /// is then packed again, so that one row never has two keys.
    ///
    /// # Errors
    /// [`KeyError`]; nothing else is accepted, so [`unpack`](Self::unpack) cannot fail later.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() > Self::LEN_MAX {
            return Err(KeyError::TooLong { len: bytes.len() });
        }
        let (&count, mut rest) = bytes.split_first().ok_or(KeyError::Empty)?;
        let mut packed = Vec::with_capacity(bytes.len());
        packed.push(count);
        for column in 0..usize::from(count) {
            let value;
            (value, rest) = read_column(rest, column)?;
            Self::pack_column(value, &mut packed);
        }
        Ok(Self(packed.into_boxed_slice()))
    }

    /// Takes bytes that this crate packed, without checking them again.
    #[must_use]
    pub fn from_packed(bytes: &[u8]) -> Self {
        debug_assert_eq!(Self::from_bytes(bytes).as_ref().map(Self::as_bytes), Ok(bytes), "packed here");
        Self(bytes.into())
    }

    /// The packed bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many columns the key has.
    #[must_use]
    pub fn column_count(&self) -> usize {
        usize::from(self.0[0])
    }

    /// The key columns, in PRIMARY KEY order.
    pub fn columns(&self) -> impl Iterator<Item = ValueRef<'_>> {
        let mut rest = &self.0[1..];
        (0..self.column_count()).map(move |column| {
            let (value, tail) =
                read_column(rest, column).expect("a packed key is well formed by construction");
            rest = tail;
            value
        })
    }

    /// As [`columns`](Self::columns), for who hands them on as bytes: checking text once more takes longer than the rest.
    pub fn packed_columns(&self) -> impl Iterator<Item = PackedColumn<'_>> {
        let mut rest = &self.0[1..];
        (0..self.column_count()).map(move |column| {
            let (value, tail) =
                read_packed(rest, column).expect("a packed key is well formed by construction");
            rest = tail;
            value
        })
    }

    /// The key columns, owned.
    #[must_use]
    pub fn unpack(&self) -> Vec<Value> {
        self.columns().map(ValueRef::to_owned).collect()
    }
}

/// `(1, 'a')`: for people, in messages and tables.
impl fmt::Display for PackedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, column) in self.columns().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            match column {
                ValueRef::Null => f.write_str("NULL")?,
                ValueRef::Integer(v) => write!(f, "{v}")?,
                ValueRef::Real(v) => write!(f, "{v:?}")?,
                ValueRef::Text(v) => write!(f, "'{v}'")?,
                ValueRef::Blob(v) => write!(f, "x'{}'", Hex(v))?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PackedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedKey({self})")
    }
}

fn push_int(kind: u8, value: u64, out: &mut Vec<u8>) {
    let skipped = value.leading_zeros() / 8;
    let mut bytes = [0; 9];
    bytes[0] = ((8 - skipped) as u8) << 3 | kind;
    bytes[1..].copy_from_slice(&(u128::from(value) << (8 * skipped)).to_be_bytes()[8..]);
    // All nine are copied in a few instructions; as many as are needed would take a call.
    out.extend_from_slice(&bytes);
    out.truncate(out.len() - skipped as usize);
}

fn push_bytes(kind: u8, bytes: &[u8], out: &mut Vec<u8>) {
    push_int(kind, bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn read_uint(bytes: &[u8], width: usize, column: usize) -> Result<(u64, &[u8]), KeyError> {
    let (head, tail) = bytes.split_at_checked(width).ok_or(KeyError::Truncated { column })?;
    let mut word = [0; 8];
    word[8 - width..].copy_from_slice(head);
    Ok((u64::from_be_bytes(word), tail))
}

fn read_column(bytes: &[u8], column: usize) -> Result<(ValueRef<'_>, &[u8]), KeyError> {
    let (packed, rest) = read_packed(bytes, column)?;
    let value = match packed {
        PackedColumn::Null => ValueRef::Null,
        PackedColumn::Integer(value) => ValueRef::Integer(value),
        PackedColumn::Real(value) => ValueRef::Real(value),
        PackedColumn::Text(text) => {
            ValueRef::Text(std::str::from_utf8(text).map_err(|_| KeyError::NotUtf8 { column })?)
        }
        PackedColumn::Blob(bytes) => ValueRef::Blob(bytes),
    };
    Ok((value, rest))
}

fn read_packed(bytes: &[u8], column: usize) -> Result<(PackedColumn<'_>, &[u8]), KeyError> {
    let (&byte, rest) = bytes.split_first().ok_or(KeyError::Truncated { column })?;
    let width = usize::from(byte >> 3);
    let unknown = KeyError::UnknownType { column, byte };
    if width > 8 {
        return Err(unknown);
    }
    match byte & 7 {
        INTEGER => {
            let (value, rest) = read_uint(rest, width, column)?;
            Ok((PackedColumn::Integer(value.cast_signed()), rest))
        }
        REAL => {
            let (bits, rest) = read_uint(rest, 8, column)?;
            Ok((PackedColumn::Real(f64::from_bits(bits)), rest))
        }
        kind @ (TEXT | BLOB) => {
            let (len, rest) = read_uint(rest, width, column)?;
            let len = usize::try_from(len).map_err(|_| KeyError::Truncated { column })?;
            let (payload, rest) = rest.split_at_checked(len).ok_or(KeyError::Truncated { column })?;
            let value = if kind == TEXT { PackedColumn::Text(payload) } else { PackedColumn::Blob(payload) };
            Ok((value, rest))
        }
        NULL => Ok((PackedColumn::Null, rest)),
        _ => Err(unknown),
    }
}
