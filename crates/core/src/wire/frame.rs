//! What surrounds the body: magic, version, flags, checksum, compression.

use std::borrow::Cow;
use std::io::Read;

use super::varint::{self, Reader};
use super::{DecodeError, DecodeLimits, EncodeOptions};

const MAGIC: [u8; 3] = *b"opc";
/// The version written, and the newest that is read.
pub(super) const VERSION: u8 = 1;
const COMPRESSED: u8 = 1;
const HEADER_LEN: usize = 5;
/// Where the body begins, after the header and the checksum.
const BODY_AT: usize = HEADER_LEN + 4;
/// A frame may ask for 8 MiB of window: what the highest ordinary level of zstd uses, and little enough to give anyone.
pub(super) const WINDOW_LOG_MAX: u32 = 23;

/// An empty body, with room for the header before it.
pub(super) fn begin(capacity: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(BODY_AT + capacity);
    buffer.resize(BODY_AT, 0);
    buffer
}

/// Puts the header before a body that was begun with [`begin`]; the body is compressed when the options say so.
pub(super) fn seal(mut buffer: Vec<u8>, options: &EncodeOptions) -> Vec<u8> {
    let body = &buffer[BODY_AT..];
    let compressed = if body.len() > options.compress_above { compress(body, options.level) } else { None };
    let flags = if compressed.is_some() { COMPRESSED } else { 0 };
    buffer = compressed.unwrap_or(buffer);
    buffer[..MAGIC.len()].copy_from_slice(&MAGIC);
    buffer[MAGIC.len()..HEADER_LEN].copy_from_slice(&[VERSION, flags]);
    let checksum = checksum(&buffer[..HEADER_LEN], &buffer[BODY_AT..]);
    buffer[HEADER_LEN..BODY_AT].copy_from_slice(&checksum.to_le_bytes());
    buffer
}

/// Checks the header and gives the body.
pub(super) fn open<'a>(bytes: &'a [u8], limits: &DecodeLimits) -> Result<Cow<'a, [u8]>, DecodeError> {
    check_len(bytes.len() as u64, limits)?;
    let mut reader = Reader::new(bytes);
    if reader.array().map_err(|_| DecodeError::NotAChangeset)? != MAGIC {
        return Err(DecodeError::NotAChangeset);
    }
    let version = reader.byte()?;
    if version != VERSION {
        return Err(DecodeError::UnsupportedVersion { version });
    }
    let flags = reader.byte()?;
    if flags & !COMPRESSED != 0 {
        return Err(DecodeError::UnknownFlags { flags });
    }
    let stated = u32::from_le_bytes(reader.array()?);
    let found = checksum(&bytes[..HEADER_LEN], reader.remaining());
    if found != stated {
        return Err(DecodeError::Checksum { stated, found });
    }
    if flags & COMPRESSED == 0 {
        return Ok(Cow::Borrowed(reader.remaining()));
    }
    let len = reader.varint()?;
    check_len(len, limits)?;
    decompress(reader.remaining(), len).map(Cow::Owned)
}

const fn check_len(len: u64, limits: &DecodeLimits) -> Result<(), DecodeError> {
    if len > limits.bytes_max as u64 {
        return Err(DecodeError::TooLarge { len, max: limits.bytes_max });
    }
    Ok(())
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

/// The length and the frame, after room for the header; or nothing when that is no shorter.
fn compress(body: &[u8], level: i32) -> Option<Vec<u8>> {
    let frame = zstd::bulk::compress(body, level).expect("zstd has the level and compresses any bytes");
    let mut buffer = begin(frame.len() + 10);
    varint::write(body.len() as u64, &mut buffer);
    buffer.extend_from_slice(&frame);
    (buffer.len() < BODY_AT + body.len()).then_some(buffer)
}

/// Decompresses one frame of `len` bytes. Memory grows with what comes out, and no more than `len` comes out.
fn decompress(frame: &[u8], len: u64) -> Result<Vec<u8>, DecodeError> {
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(frame).map_err(|_| DecodeError::Compression)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(|_| DecodeError::Compression)?;
    let mut body = Vec::new();
    let read = decoder.by_ref().take(len.saturating_add(1)).read_to_end(&mut body);
    let whole = read.is_ok_and(|read| read as u64 == len) && decoder.finish().is_empty();
    if whole { Ok(body) } else { Err(DecodeError::Compression) }
}
