//! A reader that never goes past the bytes it was given, and takes no memory on the word of a length.

use super::DecodeError;
use crate::message::Kind;

/// Bytes of a message still to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    kind: Kind,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(kind: Kind, rest: &'a [u8]) -> Self {
        Self { kind, rest }
    }

    pub(super) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) const fn range(&self, field: &'static str) -> DecodeError {
        DecodeError::Range { kind: self.kind, field }
    }

    const fn truncated(&self) -> DecodeError {
        DecodeError::Truncated { kind: Some(self.kind) }
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(self.truncated())?;
        self.rest = rest;
        Ok(byte)
    }

    /// An integer; only its shortest form is one.
    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (byte == 0 && shift > 0) || bits << shift >> shift != bits {
                return Err(DecodeError::Varint { kind: self.kind });
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { kind: self.kind })
    }

    /// Bytes with their length before them, up to `max`.
    pub(super) fn string(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.varint()?;
        let len = usize::try_from(len).ok().filter(|len| *len <= max).ok_or(self.range(field))?;
        let (string, rest) = self.rest.split_at_checked(len).ok_or(self.truncated())?;
        self.rest = rest;
        Ok(string)
    }

    pub(super) fn text(&mut self, field: &'static str, max: usize) -> Result<String, DecodeError> {
        let bytes = self.string(field, max)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| self.range(field))?.to_owned())
    }
}
