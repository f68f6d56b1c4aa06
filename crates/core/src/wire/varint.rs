//! Variable-length integers, and a reader that never goes past the bytes it was given.

use super::DecodeError;

/// Appends an integer, seven bits a byte, the lowest first; the high bit of a byte says that more follow.
pub(super) fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes, their length first.
pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Folds the sign into the lowest bit, so that small numbers of either sign are short.
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

/// How far `actual` is from `predicted`, wrapping, as a short unsigned number.
pub(super) const fn distance(predicted: u64, actual: u64) -> u64 {
    zigzag(actual.wrapping_sub(predicted).cast_signed())
}

/// The inverse of [`distance`].
pub(super) const fn travel(predicted: u64, distance: u64) -> u64 {
    predicted.wrapping_add(unzigzag(distance).cast_unsigned())
}

/// Bytes still to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn remaining(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(byte)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.array_ref().copied()
    }

    pub(super) fn array_ref<const N: usize>(&mut self) -> Result<&'a [u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// Nothing may be left.
    pub(super) const fn check_end(&self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    }

    /// An integer written by [`write()`]; only its shortest form is one.
    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(first.into());
        }
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if byte == 0 || bits << shift >> shift != bits {
                return Err(DecodeError::Varint);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }

    /// A length or a count. One that memory could not hold is longer than the bytes that are there.
    pub(super) fn length(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)
    }

    /// Bytes written by [`write_bytes`].
    pub(super) fn prefixed(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.length()?;
        self.bytes(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write(value, &mut out);
        out
    }

    #[track_caller]
    fn check(value: u64, expected: &[u8]) {
        assert_eq!(written(value), expected);
        let mut reader = Reader::new(expected);
        assert_eq!(reader.varint(), Ok(value));
        assert!(reader.is_empty());
    }

    #[test]
    fn integers_have_one_known_form() {
        check(0, &[0]);
        check(127, &[0x7f]);
        check(128, &[0x80, 1]);
        check(300, &[0xac, 2]);
        check(u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }

    #[test]
    fn other_forms_are_refused() {
        let longer = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1];
        for bytes in [&[0x80, 0][..], &[0xff, 0x80, 0], &longer] {
            assert_eq!(Reader::new(bytes).varint(), Err(DecodeError::Varint), "{bytes:?}");
        }
        let past_64_bits = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert_eq!(Reader::new(&past_64_bits).varint(), Err(DecodeError::Varint));
        assert_eq!(Reader::new(&[0x80]).varint(), Err(DecodeError::Truncated));
        assert_eq!(Reader::new(&[]).varint(), Err(DecodeError::Truncated));
    }

    #[test]
    fn small_numbers_of_either_sign_are_short() {
        assert_eq!([0, -1, 1, -2].map(zigzag), [0, 1, 2, 3]);
        assert_eq!(zigzag(i64::MIN), u64::MAX);
        assert_eq!(distance(5, 4), 1);
        assert_eq!(distance(u64::MAX, 0), 2);
    }

    proptest! {
        #[test]
        fn every_integer_comes_back(value: u64, predicted: u64) {
            let bytes = written(value);
            prop_assert_eq!(Reader::new(&bytes).varint(), Ok(value));
            prop_assert_eq!(zigzag(unzigzag(value)), value);
            prop_assert_eq!(travel(predicted, distance(predicted, value)), value);
        }
    }
}
