//! Frames that can tell which one they are, and whether they are whole.

use opor_transport_traits::Bytes;

use crate::breach::{Outcome, breach};

/// A numbered frame holds its number and its length before anything else.
pub(crate) const NUMBERED_LEAST: usize = 8;

const BLOCK: usize = 256;

/// A frame of `len` bytes, at least [`NUMBERED_LEAST`], that carries a number.
pub(crate) fn numbered(number: u32, len: usize) -> Bytes {
    assert!(len >= NUMBERED_LEAST, "a numbered frame has room for its number");
    let mut bytes = filled(number, len);
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    bytes.into()
}

/// The number that a frame carries, if it is as it was sent.
pub(crate) fn number_of(frame: &Bytes) -> Outcome<u32> {
    if frame.len() < NUMBERED_LEAST {
        breach!("a frame of {} bytes was given, but none so short was sent", frame.len());
    }
    let word = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let (number, len) = (word(0), word(4) as usize);
    if len != frame.len() || *frame != numbered(number, len) {
        breach!("a frame of {} bytes was given that was not sent like this", frame.len());
    }
    Ok(number)
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn filled(seed: u32, len: usize) -> Vec<u8> {
    let block: [u8; BLOCK] = std::array::from_fn(|i| (i as u32).wrapping_mul(167).wrapping_add(seed) as u8);
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(BLOCK) {
        chunk.copy_from_slice(&block[..chunk.len()]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_knows_whether_it_is_whole() {
        let frame = numbered(7, 1000);
        assert_eq!(number_of(&frame).unwrap(), 7);
        assert_eq!(
            number_of(&frame.slice(..999)).unwrap_err().what,
            "a frame of 999 bytes was given that was not sent like this"
        );
        let mut wrong = frame.to_vec();
        wrong[500] ^= 1;
        assert_eq!(
            number_of(&wrong.into()).unwrap_err().what,
            "a frame of 1000 bytes was given that was not sent like this"
        );
        assert_eq!(
            number_of(&Bytes::new()).unwrap_err().what,
            "a frame of 0 bytes was given, but none so short was sent"
        );
    }
}
