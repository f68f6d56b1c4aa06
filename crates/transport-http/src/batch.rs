//! What travels: messages with numbers, several at a time, as bytes.
//!
//! ```text
//! +--------+----------+      +-----+----------+---------------------------------------+
//! | format | first    |      | tag | length   | 1 frame:  the bytes                   |
//! | 1      | 8, LE    |  and | 1   | 4, LE    | 2 close:  the code, 2 bytes LE; text  |  any number of times
//! +--------+----------+      +-----+----------+---------------------------------------+
//! ```
//!
//! In format 0 this is all. In format 1 all that follows the first byte is one zstd frame. Messages of one direction are
//! numbered from 1, and `first` is the number of the first one here.

use opor_transport_traits::{Bytes, CloseCode, CloseReason, LinkLimits};

use crate::limits::{BATCH_MAX, FRAME_MAX};

const PLAIN: u8 = 0;
const SQUEEZED: u8 = 1;

const FRAME: u8 = 1;
const CLOSE: u8 = 2;

/// The format and the number.
const HEAD: usize = 1 + 8;

/// The tag and the length.
const ITEM_HEAD: usize = 1 + 4;

/// The longest close.
const CLOSE_MAX: usize = 2 + CloseReason::TEXT_MAX;

/// What one end says to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Frame(Bytes),
    Close(CloseReason),
}

impl Message {
    /// What it counts against the limits of a link.
    pub(crate) fn cost(&self) -> usize {
        LinkLimits::cost(match self {
            Self::Frame(frame) => frame.len(),
            Self::Close(reason) => reason.text().len(),
        })
    }

    /// Its length within a batch.
    pub(crate) fn encoded_len(&self) -> usize {
        ITEM_HEAD
            + match self {
                Self::Frame(frame) => frame.len(),
                Self::Close(reason) => 2 + reason.text().len(),
            }
    }
}

/// Why bytes are no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchError {
    /// It ends within something, or what it holds has another shape.
    Malformed,
    /// It is, or would become, larger than a batch may be, or holds a frame larger than a link takes.
    TooLarge,
    /// It is compressed in a way that is not known here.
    Format,
}

impl BatchError {
    pub(crate) const fn phrase(self) -> &'static str {
        match self {
            Self::Malformed => "a batch that is malformed",
            Self::TooLarge => "a batch or a frame that is too large",
            Self::Format => "a batch of an unknown format",
        }
    }
}

/// Makes a batch; `squeeze` says whether the peer takes compressed ones.
pub(crate) fn encode(first: u64, messages: &[Message], squeeze: bool) -> Bytes {
    let len = HEAD + messages.iter().map(Message::encoded_len).sum::<usize>();
    let mut batch = Vec::with_capacity(len);
    batch.push(PLAIN);
    batch.extend_from_slice(&first.to_le_bytes());
    for message in messages {
        let len = (message.encoded_len() - ITEM_HEAD) as u32;
        match message {
            Message::Frame(frame) => {
                batch.push(FRAME);
                batch.extend_from_slice(&len.to_le_bytes());
                batch.extend_from_slice(frame);
            }
            Message::Close(reason) => {
                batch.push(CLOSE);
                batch.extend_from_slice(&len.to_le_bytes());
                batch.extend_from_slice(&reason.code().number().to_le_bytes());
                batch.extend_from_slice(reason.text().as_bytes());
            }
        }
    }
    match squeeze.then(|| zstd::squeeze(&batch[1..])).flatten() {
        Some(squeezed) => [&[SQUEEZED], &squeezed[..]].concat().into(),
        None => batch.into(),
    }
}

/// A batch that has been checked as a whole: its messages can be taken one by one, and none of them is a surprise.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    first: u64,
    items: Bytes,
    count: u64,
}

impl Batch {
    /// Checks bytes that came from a peer.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, BatchError> {
        if bytes.len() > BATCH_MAX {
            return Err(BatchError::TooLarge);
        }
        let content = match bytes.first() {
            None => return Err(BatchError::Malformed),
            Some(&PLAIN) => bytes.slice(1..),
            Some(&SQUEEZED) => zstd::unsqueeze(&bytes[1..])?,
            Some(_) => return Err(BatchError::Format),
        };
        let Some((first, items)) = content.split_first_chunk() else { return Err(BatchError::Malformed) };
        let first = u64::from_le_bytes(*first);
        let count = check(items)?;
        let last = first.checked_add(count);
        if first == 0 || last.is_none() {
            return Err(BatchError::Malformed);
        }
        Ok(Self { first, items: content.slice(content.len() - items.len()..), count })
    }

    /// The number of the last message; one less than the first, where there is none.
    pub(crate) fn last(&self) -> u64 {
        self.first + self.count - 1
    }

    /// The messages with their numbers.
    pub(crate) fn messages(self) -> impl Iterator<Item = (u64, Message)> {
        let (mut at, mut number) = (0, self.first);
        std::iter::from_fn(move || {
            let (tag, range) = item(&self.items, at)?;
            at = range.end;
            number += 1;
            Some((number - 1, message(tag, &self.items, range)))
        })
    }
}

/// The tag of the item at an offset, and where its content is.
fn item(items: &[u8], at: usize) -> Option<(u8, std::ops::Range<usize>)> {
    let (head, _) = items.get(at..)?.split_first_chunk::<ITEM_HEAD>()?;
    let [tag, len @ ..] = *head;
    let start = at + ITEM_HEAD;
    let end = start.checked_add(u32::from_le_bytes(len) as usize)?;
    (end <= items.len()).then_some((tag, start..end))
}

/// How many items there are.
fn check(items: &[u8]) -> Result<u64, BatchError> {
    let (mut at, mut count) = (0, 0);
    while at < items.len() {
        let (tag, range) = item(items, at).ok_or(BatchError::Malformed)?;
        match tag {
            FRAME if range.len() > FRAME_MAX => return Err(BatchError::TooLarge),
            FRAME => {}
            CLOSE if range.len() < 2 || range.len() > CLOSE_MAX => return Err(BatchError::Malformed),
            // It is the last message of its direction.
            CLOSE if range.end < items.len() => return Err(BatchError::Malformed),
            CLOSE => {}
            _ => return Err(BatchError::Malformed),
        }
        at = range.end;
        count += 1;
    }
    Ok(count)
}

/// A message of an item that has been checked.
fn message(tag: u8, items: &Bytes, range: std::ops::Range<usize>) -> Message {
    let content = &items[range.clone()];
    match (tag, content) {
        (CLOSE, [low, high, text @ ..]) => {
            let code = CloseCode::from_number(u16::from_le_bytes([*low, *high]));
            Message::Close(CloseReason::explained(code, String::from_utf8_lossy(text)))
        }
        // A small frame must not keep a large batch in memory.
        _ if content.len() < items.len() / 2 => Message::Frame(Bytes::copy_from_slice(content)),
        _ => Message::Frame(items.slice(range)),
    }
}

#[cfg(feature = "zstd")]
mod zstd {
    use super::{BATCH_MAX, BatchError, Bytes};

    /// Fewer bytes fit into one packet with the headers around them.
    const LEAST: usize = 1024;

    /// The fastest ordinary level: what is large is changesets, which the protocol has compressed already.
    const LEVEL: i32 = 1;

    /// A zstd frame, where it saves an eighth.
    pub(super) fn squeeze(content: &[u8]) -> Option<Vec<u8>> {
        if content.len() < LEAST {
            return None;
        }
        let squeezed = zstd::bulk::compress(content, LEVEL).ok()?;
        (squeezed.len() < content.len() - content.len() / 8).then_some(squeezed)
    }

    /// What a zstd frame holds, if that is no more than a batch may be.
    pub(super) fn unsqueeze(squeezed: &[u8]) -> Result<Bytes, BatchError> {
        match zstd::bulk::decompress(squeezed, BATCH_MAX - 1) {
            Ok(content) => Ok(content.into()),
            Err(_)
                if zstd::zstd_safe::get_frame_content_size(squeezed)
                    .is_ok_and(|len| len > Some(BATCH_MAX as u64 - 1)) =>
            {
                Err(BatchError::TooLarge)
            }
            Err(_) => Err(BatchError::Malformed),
        }
    }
}

#[cfg(not(feature = "zstd"))]
mod zstd {
    use super::{BatchError, Bytes};

    pub(super) fn squeeze(_content: &[u8]) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn unsqueeze(_squeezed: &[u8]) -> Result<Bytes, BatchError> {
        Err(BatchError::Format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: impl Into<Vec<u8>>) -> Message {
        Message::Frame(content.into().into())
    }

    fn close(text: &str) -> Message {
        Message::Close(CloseReason::explained(CloseCode::GOING_AWAY, text))
    }

    #[track_caller]
    fn survives(first: u64, messages: &[Message]) {
        for squeeze in [false, true] {
            let batch = Batch::decode(encode(first, messages, squeeze)).expect("a batch");
            assert_eq!((batch.first, batch.last()), (first, first + messages.len() as u64 - 1));
            let given: Vec<_> = batch.messages().collect();
            let due: Vec<_> = (first..).zip(messages.iter().cloned()).collect();
            assert_eq!(given, due);
        }
    }

    #[track_caller]
    fn is_refused(bytes: impl Into<Vec<u8>>, due: BatchError) {
        assert_eq!(Batch::decode(bytes.into().into()).err(), Some(due));
    }

    /// A plain batch of these items.
    fn plain(first: u64, items: &[u8]) -> Vec<u8> {
        [&[PLAIN], &first.to_le_bytes()[..], items].concat()
    }

    #[test]
    fn messages_survive_the_wire() {
        survives(1, &[]);
        survives(7, &[frame([]), frame(*b"x"), frame([]), close("grüße")]);
        survives(1 << 60, &[frame(vec![0xff; FRAME_MAX]), frame([1; 100])]);
        survives(1, &[frame(vec![7; 3000]), frame(vec![8; 3000])]);
        survives(1, &[close("")]);
    }

    #[test]
    fn what_ends_too_early_is_malformed_at_every_byte() {
        let whole = encode(3, &[frame(*b"abc"), close("bye")], false);
        for len in 0..whole.len() {
            match Batch::decode(whole.slice(..len)) {
                Err(error) => assert_eq!(error, BatchError::Malformed, "{len} bytes"),
                // Where an item ends, it is a batch of fewer.
                Ok(batch) => assert!(len == HEAD || len == HEAD + 8, "{len} bytes made {batch:?}"),
            }
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        is_refused([2, 0, 0], BatchError::Format);
        is_refused(plain(0, &[]), BatchError::Malformed);
        is_refused(plain(u64::MAX, &[FRAME, 0, 0, 0, 0]), BatchError::Malformed);
        is_refused(plain(1, &[3, 0, 0, 0, 0]), BatchError::Malformed);
        is_refused(plain(1, &[CLOSE, 1, 0, 0, 0, 0]), BatchError::Malformed);
        is_refused(plain(1, &[FRAME, 0xff, 0xff, 0xff, 0xff]), BatchError::Malformed);
        // Nothing follows a close.
        is_refused(plain(1, &[CLOSE, 2, 0, 0, 0, 0, 0, FRAME, 0, 0, 0, 0]), BatchError::Malformed);
        let long = [&[CLOSE], &(CLOSE_MAX as u32 + 1).to_le_bytes()[..], &[b'x'; CLOSE_MAX + 1]].concat();
        is_refused(plain(1, &long), BatchError::Malformed);
        let large = [&[FRAME], &(FRAME_MAX as u32 + 1).to_le_bytes()[..], &vec![0; FRAME_MAX + 1]].concat();
        is_refused(plain(1, &large), BatchError::TooLarge);
        is_refused(vec![0; BATCH_MAX + 1], BatchError::TooLarge);
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn what_shrinks_is_compressed_and_nothing_else() {
        let text = frame("a row like the others; ".repeat(1000));
        let squeezed = encode(1, std::slice::from_ref(&text), true);
        assert_eq!(squeezed[0], SQUEEZED);
        assert!(squeezed.len() < 1000, "{} bytes", squeezed.len());
        assert_eq!(encode(1, &[text], false)[0], PLAIN);
        let mut noise = vec![0; 4096];
        getrandom::fill(&mut noise).expect("the system is random");
        assert_eq!(encode(1, &[frame(noise)], true)[0], PLAIN);
        assert_eq!(encode(1, &[frame([0; 100])], true)[0], PLAIN, "a packet does not get smaller");
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn a_bomb_does_not_go_off() {
        for len in [BATCH_MAX, 1 << 26] {
            let bomb = ::zstd::bulk::compress(&vec![0; len], 19).expect("zeros shrink");
            assert!(bomb.len() < 10_000);
            is_refused([&[SQUEEZED], &bomb[..]].concat(), BatchError::TooLarge);
        }
        // One that does not say how large it is.
        let silent = ::zstd::stream::encode_all(std::io::repeat(0).take(1 << 26), 3);
        let silent = silent.expect("zeros shrink");
        is_refused([&[SQUEEZED], &silent[..]].concat(), BatchError::Malformed);
        is_refused([SQUEEZED, 1, 2, 3], BatchError::Malformed);

        use std::io::Read as _;
    }
}
