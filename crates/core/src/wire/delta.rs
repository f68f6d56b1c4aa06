//! Bytes told as a difference from other bytes that the reader has too.
//!
//! The form is one zstd frame whose window begins with those other bytes, without the magic number and the checksum of
//! zstd: what is around it says what it is, and knows its length.

use std::io::{Read, Write};

/// Short bytes are searched well at little cost: a kilobyte takes some 20 us.
const LEVEL: i32 = 3;
/// zstd's number for a frame, which every frame would begin with.
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// Bytes that are no difference from those the reader has, or that come to more than they may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("difference does not come to at most {max} bytes")]
pub struct DeltaError {
    /// The most bytes it may come to.
    pub max: usize,
}

/// `bytes` as a difference from `before`; `None` where that is not shorter.
///
/// ```
/// use opor_core::{apply_delta, delta};
///
/// let (before, bytes) = (b"a changeset of the table todos, at 7", b"a changeset of the table todos, at 8");
/// let difference = delta(before, bytes).expect("they have much in common");
/// assert_eq!(apply_delta(before, &difference, 1_000).as_deref(), Ok(bytes.as_slice()));
/// ```
#[must_use]
pub fn delta(before: &[u8], bytes: &[u8]) -> Option<Vec<u8>> {
    let out = Vec::with_capacity(bytes.len() + 64);
    let frame = zstd::stream::write::Encoder::with_ref_prefix(out, LEVEL, before)
        .and_then(|mut encoder| encoder.write_all(bytes).and_then(|()| encoder.finish()))
        .expect("zstd has the level and compresses any bytes");
    let difference = frame.strip_prefix(&MAGIC)?;
    (difference.len() < bytes.len()).then(|| difference.to_vec())
}

/// The bytes that `difference` makes of `before`. Memory grows with what comes out, and no more than `max` bytes do.
///
/// # Errors
/// [`DeltaError`] where it is none, or comes to more.
pub fn apply_delta(before: &[u8], difference: &[u8], max: usize) -> Result<Vec<u8>, DeltaError> {
    let failed = DeltaError { max };
    let frame = [&MAGIC, difference].concat();
    let decoder = zstd::stream::read::Decoder::with_ref_prefix(&frame[..], before).map_err(|_| failed)?;
    let mut decoder = decoder.single_frame();
    decoder.window_log_max(super::frame::WINDOW_LOG_MAX).map_err(|_| failed)?;
    let mut bytes = Vec::new();
    let read = decoder.by_ref().take(max as u64 + 1).read_to_end(&mut bytes);
    let whole = read.is_ok_and(|read| read <= max) && decoder.finish().is_empty();
    if whole { Ok(bytes) } else { Err(failed) }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_difference_comes_to_the_bytes_it_was_made_of(
            before in vec(any::<u8>(), 0..300),
            edits in vec((any::<usize>(), any::<u8>()), 0..8),
            tail in vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = before.clone();
            for (at, byte) in edits.into_iter().filter(|_| !before.is_empty()) {
                bytes[at % before.len()] = byte;
            }
            bytes.extend(tail);
            if let Some(difference) = delta(&before, &bytes) {
                prop_assert!(difference.len() < bytes.len());
                prop_assert_eq!(apply_delta(&before, &difference, bytes.len()), Ok(bytes.clone()));
                let max = bytes.len().wrapping_sub(1);
                prop_assert_eq!(apply_delta(&before, &difference, max), Err(DeltaError { max }));
            }
        }

        #[test]
        fn any_bytes_are_a_difference_or_none(
            before in vec(any::<u8>(), 0..300),
            difference in vec(any::<u8>(), 0..300),
        ) {
            match apply_delta(&before, &difference, 1_000) {
                Ok(bytes) => prop_assert!(bytes.len() <= 1_000),
                Err(error) => prop_assert_eq!(error, DeltaError { max: 1_000 }),
            }
        }
    }

    #[test]
    fn what_was_said_before_is_not_said_again() {
        let before: Vec<u8> = (0..90_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut bytes = before.clone();
        bytes[50..66].fill(7);
        let difference = delta(&before, &bytes).expect("two thirds are the same");
        assert!(difference.len() < 40, "{} bytes", difference.len());
        assert_eq!(apply_delta(&before, &difference, 90), Ok(bytes));
        assert_eq!(delta(b"", b"short"), None);
        let trailing = [&difference[..], &[0]].concat();
        assert_eq!(apply_delta(&before, &trailing, 90), Err(DeltaError { max: 90 }));
        for len in 0..difference.len() {
            assert_eq!(apply_delta(&before, &difference[..len], 90), Err(DeltaError { max: 90 }), "{len}");
        }
    }
}
