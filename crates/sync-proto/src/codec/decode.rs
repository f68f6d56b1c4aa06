//! Bytes to messages.

use opor_core::SiteId;

use super::reader::Reader;
use super::{DELTA, DONE, DecodeError, SNAPSHOT};
use crate::close::ByeCode;
use crate::cursor::Cursor;
use crate::message::{
    Bye, Capabilities, DETAIL_LEN_MAX, FRAME_FLOOR, Hello, Kind, MAJOR, MINOR, Message, Offer, ROOM_LEN_MAX,
    Resume, SCHEMA_LEN_MAX, SNAPSHOT_ID_LEN_MAX, SnapshotId, TOKEN_LEN_MAX, Token,
};

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A message that is known here.
    Message(Message<'a>),
    /// One of a newer minor version that is not; to be skipped.
    Newer {
        /// The number of its kind.
        kind: u8,
    },
}

/// Reads a frame. Memory is taken for bytes that are there only, and payloads are borrowed.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(frame: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let [version, number, _, body @ ..] = frame else { return Err(DecodeError::Truncated { kind: None }) };
    let (major, minor) = (version >> 4, version & 0xf);
    let newer = minor > MINOR;
    let kind = match (Kind::of(*number), major) {
        // A goodbye reads the same in every version, so that whoever refuses another version can say so.
        (Some(Kind::Bye), _) => return bye(body),
        (_, major) if major != MAJOR => return Err(DecodeError::Major { major }),
        (Some(kind), _) => kind,
        (None, _) if newer => return Ok(Decoded::Newer { kind: *number }),
        (None, _) => return Err(DecodeError::Kind { kind: *number }),
    };
    let mut reader = Reader::new(kind, body);
    let message = read(kind, &mut reader, newer)?;
    match reader.remaining() {
        count if count > 0 && !newer => Err(DecodeError::Trailing { kind, count }),
        _ => Ok(Decoded::Message(message)),
    }
}

/// A goodbye of any version: what a newer one may have added at its end is not read.
fn bye(body: &[u8]) -> Result<Decoded<'_>, DecodeError> {
    let mut reader = Reader::new(Kind::Bye, body);
    let code = ByeCode::of(reader.varint()?);
    let detail = reader.text("detail", DETAIL_LEN_MAX)?;
    Ok(Decoded::Message(Message::Bye(Bye { code, detail })))
}

/// The number of a frame that could be read.
pub(crate) fn count_of(frame: &[u8]) -> u8 {
    frame[2]
}

fn read<'a>(kind: Kind, reader: &mut Reader<'a>, newer: bool) -> Result<Message<'a>, DecodeError> {
    Ok(match kind {
        Kind::Hello => Message::Hello(Box::new(hello(reader)?)),
        Kind::Bye => unreachable!("a goodbye is read before the version is looked at"),
        Kind::Pull => Message::Pull { cursor: optional_cursor(reader)?, limit: reader.varint()? },
        Kind::Fetch => Message::Fetch { resume: resume(reader)?, limit: reader.varint()? },
        Kind::Changes => {
            let (number, len, cursor) = (reader.varint()?, reader.varint()?, cursor(reader)?);
            let flags = flags(reader, DONE | DELTA, newer)?;
            let (done, delta) = (flags & DONE != 0, flags & DELTA != 0);
            Message::Changes { number, len, cursor, done, delta, payload: payload(reader, len)? }
        }
        Kind::Chunk => {
            let (number, len, index) = (reader.varint()?, reader.varint()?, reader.varint()?);
            Message::Chunk { number, len, index, payload: payload(reader, len)? }
        }
        Kind::Part => {
            let (number, offset) = (reader.varint()?, reader.varint()?);
            Message::Part { number, offset, payload: payload(reader, u64::MAX)? }
        }
        Kind::Ack => Message::Ack { items: reader.varint()?, limit: reader.varint()? },
        Kind::Behind => Message::Behind { snapshot: flags(reader, SNAPSHOT, newer)? != 0 },
        Kind::Offer => {
            let (number, len, offer) = (reader.varint()?, reader.varint()?, offer(reader)?);
            Message::Offer { number, len, offer, payload: payload(reader, len)? }
        }
        Kind::Ping => Message::Ping { nonce: reader.varint()? },
        Kind::Pong => Message::Pong { nonce: reader.varint()? },
    })
}

fn hello(reader: &mut Reader<'_>) -> Result<Hello, DecodeError> {
    let newest_major = reader.byte()?;
    if newest_major < MAJOR {
        return Err(reader.range("newest version"));
    }
    let site = reader.string("site", SiteId::LEN)?;
    let site = SiteId::new(site).map_err(|_| reader.range("site"))?;
    let room = reader.text("room", ROOM_LEN_MAX)?;
    if room.is_empty() {
        return Err(reader.range("room"));
    }
    let token = Token(reader.string("token", TOKEN_LEN_MAX)?.to_vec());
    let schema = reader.string("schema", SCHEMA_LEN_MAX)?.to_vec();
    let capabilities = Capabilities(reader.varint()?);
    let frame_max = at_least_the_floor(reader, "frame limit")?;
    let item_max = at_least_the_floor(reader, "item limit")?;
    Ok(Hello { newest_major, site, room, token, schema, capabilities, frame_max, item_max })
}

fn at_least_the_floor(reader: &mut Reader<'_>, field: &'static str) -> Result<u64, DecodeError> {
    match reader.varint()? {
        max if max < FRAME_FLOOR as u64 => Err(reader.range(field)),
        max => Ok(max),
    }
}

/// A byte of flags, of which only `known` may be set; a newer version may set more.
fn flags(reader: &mut Reader<'_>, known: u8, newer: bool) -> Result<u8, DecodeError> {
    match reader.byte()? {
        flags if flags & !known != 0 && !newer => Err(reader.range("flag")),
        flags => Ok(flags & known),
    }
}

fn cursor(reader: &mut Reader<'_>) -> Result<Cursor, DecodeError> {
    optional_cursor(reader)?.ok_or(reader.range("cursor"))
}

/// No bytes stand for no cursor.
fn optional_cursor(reader: &mut Reader<'_>) -> Result<Option<Cursor>, DecodeError> {
    Ok(Cursor::new(reader.string("cursor", Cursor::LEN_MAX)?).ok())
}

fn snapshot_id(reader: &mut Reader<'_>) -> Result<SnapshotId, DecodeError> {
    Ok(SnapshotId(reader.string("snapshot", SNAPSHOT_ID_LEN_MAX)?.to_vec()))
}

/// No name stands for no earlier snapshot; then there is no place in it either.
fn resume(reader: &mut Reader<'_>) -> Result<Option<Resume>, DecodeError> {
    let (id, index) = (snapshot_id(reader)?, reader.varint()?);
    match (id.0.is_empty(), index) {
        (true, 0) => Ok(None),
        (true, _) => Err(reader.range("index")),
        (false, index) => Ok(Some(Resume { id, index })),
    }
}

fn offer(reader: &mut Reader<'_>) -> Result<Offer, DecodeError> {
    let (id, chunks, bytes, first) =
        (snapshot_id(reader)?, reader.varint()?, reader.varint()?, reader.varint()?);
    if id.0.is_empty() {
        return Err(reader.range("snapshot"));
    }
    if first >= chunks {
        return Err(reader.range("index"));
    }
    Ok(Offer { id, chunks, bytes, first, cursor: cursor(reader)? })
}

/// The payload, no longer than the item.
fn payload<'a>(reader: &mut Reader<'a>, len: u64) -> Result<&'a [u8], DecodeError> {
    reader.string("payload", usize::try_from(len).unwrap_or(usize::MAX))
}
