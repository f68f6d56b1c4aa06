//! A place in the log of a replica, as that replica wrote it.

use std::fmt;

/// How far a pull has got; opaque bytes that mean something to the replica that gave them, and to no other.
///
/// It says which history it is of (the epoch), so that a replica can tell a cursor that it cannot continue any more.
/// In the protocol the absence of a cursor is the start of the log.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor(Box<[u8]>);

/// Bytes that cannot be a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cursor has {len} bytes, the limit is 1 to {}", Cursor::LEN_MAX)]
pub struct CursorLength {
    /// How many there are.
    pub len: usize,
}

impl Cursor {
    /// The most bytes of a cursor: the longest text form of the store's has 94.
    pub const LEN_MAX: usize = 128;

    /// A cursor from the bytes that a replica gave.
    ///
    /// # Errors
    /// [`CursorLength`] when there are none or too many.
    pub fn new(bytes: &[u8]) -> Result<Self, CursorLength> {
        match bytes.len() {
            1..=Self::LEN_MAX => Ok(Self(bytes.into())),
            len => Err(CursorLength { len }),
        }
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, where the replica that gave it writes text, as the store does.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({})", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_bytes_and_not_too_many() {
        let longest = [b'x'; Cursor::LEN_MAX];
        assert_eq!(Cursor::new(&longest).map(|cursor| cursor.as_bytes().to_vec()), Ok(longest.to_vec()));
        assert_eq!(Cursor::new(b""), Err(CursorLength { len: 0 }));
        assert_eq!(Cursor::new(&[0; Cursor::LEN_MAX + 1]), Err(CursorLength { len: Cursor::LEN_MAX + 1 }));
        assert_eq!(
            Cursor::new(b"7@3").map(|cursor| cursor.as_text().map(str::to_owned)),
            Ok(Some("7@3".into()))
        );
        assert_eq!(Cursor::new(&[0xff]).map(|cursor| cursor.as_text().is_none()), Ok(true));
    }
}
