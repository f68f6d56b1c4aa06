//! What two ends say to each other, byte by byte. `docs/nats.md` draws it.

use opor_transport_traits::{Bytes, CloseCode, CloseReason, LinkLimits};

/// The version of all that is in this file.
const VERSION: u8 = 1;

/// The largest frame. A megabyte is more than a session sends at once.
pub(crate) const FRAME_MAX: usize = 1024 * 1024;

/// Bytes that may be on their way to an end that does not receive: some frames of the largest size, and what a line of
/// 100 ms carries at 40 MB/s.
const IN_FLIGHT_MAX: usize = 4 * 1024 * 1024;

/// Frames that may be on their way, however small: far below what the library queues for a subscription before it drops
/// messages, and enough to keep a line busy.
pub(crate) const FRAMES_IN_FLIGHT_MAX: u64 = 1024;

pub(crate) const LIMITS: LinkLimits = LinkLimits::new(FRAME_MAX, IN_FLIGHT_MAX);

/// The most bytes of a frame that one message carries: brokers take messages of 1 MiB by default, and ask for less than half
/// of that.
pub(crate) const PIECE_MAX: usize = 448 * 1024;

/// What a message has before the bytes of its piece.
pub(crate) const PIECE_HEAD: usize = 6;

/// Tells the dials of one dialer apart.
pub(crate) type LinkId = [u8; 16];

/// A message, to an end or to a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// To a listener: a dialer wants a link; it receives at the reply subject.
    Hello(LinkId),
    /// To the dialer: it is welcome; the other end receives at the reply subject.
    Welcome(LinkId),
    /// To the listener's end: the dialer has heard the welcome.
    Open,
    /// To the dialer: nobody listens here any more.
    Nobody,
    /// A piece of a frame; pieces are numbered from 0.
    Piece { number: u32, is_last: bool, bytes: Bytes },
    /// So much has been received in all.
    Credit(Totals),
    /// The end of what this side sends; numbered with the pieces.
    Close { number: u32, reason: CloseReason },
    /// This end is gone without a close.
    Gone,
    /// Is anybody there? Where nobody is, the broker says so.
    Ping,
}

/// What has passed in one direction since the link was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) bytes: u64,
    pub(crate) frames: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, len: usize) {
        self.bytes += len as u64;
        self.frames += 1;
    }

    /// What lies between two counts, unless `earlier` is ahead.
    pub(crate) fn since(self, earlier: Self) -> Option<Self> {
        let bytes = self.bytes.checked_sub(earlier.bytes)?;
        Some(Self { bytes, frames: self.frames.checked_sub(earlier.frames)? })
    }

    /// Whether so much may be on its way.
    pub(crate) fn is_allowed(self) -> bool {
        let cost = self.frames.saturating_mul(LinkLimits::FRAME_COST as u64).saturating_add(self.bytes);
        self.frames <= FRAMES_IN_FLIGHT_MAX && cost <= IN_FLIGHT_MAX as u64
    }
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Message {
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Hello(id) => {
                out.extend([1, VERSION]);
                out.extend(id);
            }
            Self::Welcome(id) => {
                out.extend([2, VERSION]);
                out.extend(id);
            }
            Self::Open => out.push(3),
            Self::Nobody => out.push(4),
            Self::Piece { number, is_last, bytes } => {
                out.reserve(PIECE_HEAD + bytes.len());
                out.extend([5, u8::from(*is_last)]);
                out.extend(number.to_le_bytes());
                out.extend(&**bytes);
            }
            Self::Credit(totals) => {
                out.push(6);
                out.extend(totals.bytes.to_le_bytes());
                out.extend(totals.frames.to_le_bytes());
            }
            Self::Close { number, reason } => {
                out.push(7);
                out.extend(number.to_le_bytes());
                out.extend(reason.code().number().to_le_bytes());
                out.extend(reason.text().as_bytes());
            }
            Self::Gone => out.push(8),
            Self::Ping => out.push(9),
        }
        out.into()
    }

    pub(crate) fn from_bytes(message: &Bytes) -> Result<Self, Malformed> {
        let (kind, rest) = message.split_first().ok_or(Malformed)?;
        match kind {
            1 => Ok(Self::Hello(id(rest)?)),
            2 => Ok(Self::Welcome(id(rest)?)),
            3 => empty(rest, Self::Open),
            4 => empty(rest, Self::Nobody),
            5 => {
                let (last, rest) = rest.split_first().filter(|(last, _)| **last < 2).ok_or(Malformed)?;
                let (number, _) = rest.split_first_chunk().ok_or(Malformed)?;
                let number = u32::from_le_bytes(*number);
                Ok(Self::Piece { number, is_last: *last == 1, bytes: message.slice(PIECE_HEAD..) })
            }
            6 => {
                let (bytes, frames) = rest.split_first_chunk().ok_or(Malformed)?;
                let frames: [u8; 8] = frames.try_into().map_err(|_| Malformed)?;
                let (bytes, frames) = (u64::from_le_bytes(*bytes), u64::from_le_bytes(frames));
                Ok(Self::Credit(Totals { bytes, frames }))
            }
            7 => {
                let (number, rest) = rest.split_first_chunk().ok_or(Malformed)?;
                let (code, text) = rest.split_first_chunk().ok_or(Malformed)?;
                let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
                let code = CloseCode::from_number(u16::from_le_bytes(*code));
                let reason = CloseReason::explained(code, text);
                Ok(Self::Close { number: u32::from_le_bytes(*number), reason })
            }
            8 => empty(rest, Self::Gone),
            9 => empty(rest, Self::Ping),
            _ => Err(Malformed),
        }
    }
}

fn id(rest: &[u8]) -> Result<LinkId, Malformed> {
    match rest.split_first() {
        Some((&VERSION, id)) => id.try_into().map_err(|_| Malformed),
        _ => Err(Malformed),
    }
}

fn empty(rest: &[u8], message: Message) -> Result<Message, Malformed> {
    if rest.is_empty() { Ok(message) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Message> {
        vec![
            Message::Hello([1; 16]),
            Message::Welcome([2; 16]),
            Message::Open,
            Message::Nobody,
            Message::Piece { number: 7, is_last: false, bytes: Bytes::from_static(b"abc") },
            Message::Piece { number: u32::MAX, is_last: true, bytes: Bytes::new() },
            Message::Credit(Totals { bytes: 1 << 40, frames: 9 }),
            Message::Close { number: 3, reason: CloseReason::explained(CloseCode::GOING_AWAY, "grüße") },
            Message::Gone,
            Message::Ping,
        ]
    }

    #[test]
    fn messages_round_trip() {
        for message in all() {
            assert_eq!(Message::from_bytes(&message.to_bytes()), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for message in all() {
            let bytes = message.to_bytes();
            for len in 0..bytes.len() {
                // What is cut in the bytes of a piece or in a text is still a message, another one.
                let cut = Message::from_bytes(&bytes.slice(..len));
                assert_ne!(cut, Ok(message.clone()), "{message:?} cut to {len}");
            }
        }
        for wrong in [&b""[..], b"\x00", b"\x0a", b"\x03x", b"\x05\x02\0\0\0\0", b"\x01\x02", b"PING"] {
            assert_eq!(Message::from_bytes(&Bytes::copy_from_slice(wrong)), Err(Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_on_its_way_is_bounded_by_bytes_and_by_frames() {
        let totals = |bytes, frames| Totals { bytes, frames };
        assert!(totals(FRAME_MAX as u64, 1).is_allowed());
        assert!(!totals(IN_FLIGHT_MAX as u64, 1).is_allowed());
        assert!(!totals(0, FRAMES_IN_FLIGHT_MAX + 1).is_allowed());
        assert_eq!(totals(5, 2).since(totals(3, 1)), Some(totals(2, 1)));
        assert_eq!(totals(5, 2).since(totals(6, 1)), None);
    }
}
