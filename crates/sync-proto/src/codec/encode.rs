//! Messages to bytes.

use super::{DELTA, DONE, SNAPSHOT};
use crate::message::{Hello, MAJOR, MINOR, Message};

impl Message<'_> {
    /// The frame, which is the one of this number that its side sends; numbers begin at 0 and wrap.
    #[must_use]
    pub fn to_bytes(&self, count: u8) -> Vec<u8> {
        let mut out = vec![MAJOR << 4 | MINOR, self.kind() as u8, count];
        match self {
            Self::Hello(hello) => write_hello(hello, &mut out),
            Self::Bye(bye) => {
                write(bye.code.number(), &mut out);
                write_string(bye.detail.as_bytes(), &mut out);
            }
            Self::Pull { cursor, limit } => {
                write_string(cursor.as_ref().map_or(&[], |cursor| cursor.as_bytes()), &mut out);
                write(*limit, &mut out);
            }
            Self::Fetch { resume, limit } => {
                write_string(resume.as_ref().map_or(&[], |resume| &resume.id.0), &mut out);
                write(resume.as_ref().map_or(0, |resume| resume.index), &mut out);
                write(*limit, &mut out);
            }
            Self::Changes { number, len, cursor, done, delta, payload } => {
                out.reserve(payload.len());
                write(*number, &mut out);
                write(*len, &mut out);
                write_string(cursor.as_bytes(), &mut out);
                out.push(if *done { DONE } else { 0 } | if *delta { DELTA } else { 0 });
                write_string(payload, &mut out);
            }
            Self::Chunk { number, len, index, payload } => {
                out.reserve(payload.len());
                write(*number, &mut out);
                write(*len, &mut out);
                write(*index, &mut out);
                write_string(payload, &mut out);
            }
            Self::Part { number, offset, payload } => {
                out.reserve(payload.len());
                write(*number, &mut out);
                write(*offset, &mut out);
                write_string(payload, &mut out);
            }
            Self::Ack { items, limit } => {
                write(*items, &mut out);
                write(*limit, &mut out);
            }
            Self::Behind { snapshot } => out.push(if *snapshot { SNAPSHOT } else { 0 }),
            Self::Offer { number, len, offer, payload } => {
                out.reserve(payload.len());
                write(*number, &mut out);
                write(*len, &mut out);
                write_string(&offer.id.0, &mut out);
                write(offer.chunks, &mut out);
                write(offer.bytes, &mut out);
                write(offer.first, &mut out);
                write_string(offer.cursor.as_bytes(), &mut out);
                write_string(payload, &mut out);
            }
            Self::Ping { nonce } | Self::Pong { nonce } => write(*nonce, &mut out),
        }
        out
    }
}

fn write_hello(hello: &Hello, out: &mut Vec<u8>) {
    out.push(hello.newest_major);
    write_string(hello.site.as_bytes(), out);
    write_string(hello.room.as_bytes(), out);
    write_string(&hello.token.0, out);
    write_string(&hello.schema, out);
    write(hello.capabilities.0, out);
    write(hello.frame_max, out);
    write(hello.item_max, out);
}

/// Appends an integer, seven bits a byte, the lowest first; the high bit of a byte says that more follow.
fn write(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes, their length first.
fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    write(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
