//! One column of values, or of one part of the keys: heads in one stream, payloads in another.

use super::DecodeError;
use super::varint::{self, Reader};
use crate::{Value, ValueRef};

const SIMPLE: u8 = 0;
const INTEGER: u8 = 1;
const DELTA: u8 = 2;
const REAL: u8 = 3;
const TEXT: u8 = 4;
const BLOB: u8 = 5;
const UUID: u8 = 6;

const NULL: u64 = 0;
const SAME: u64 = 1;

/// The largest argument in the head itself means that the rest follows.
const ARGUMENT_MORE: u64 = 31;

/// Powers of ten by which a real may be a short decimal; each is exact.
const SCALES: [f64; 5] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0];
/// A decimal below this takes 7 bytes at most, where the real itself takes 8.
const DECIMAL_MAX: f64 = (1_u64 << 48) as f64;

/// A column being written.
#[derive(Debug, Default)]
pub(super) struct ColumnWriter<'a> {
    heads: Vec<u8>,
    payload: Vec<u8>,
    integer: i64,
    last: Option<ValueRef<'a>>,
}

impl<'a> ColumnWriter<'a> {
    pub(super) fn write(&mut self, value: ValueRef<'a>) {
        match value {
            ValueRef::Null => return self.head(SIMPLE, NULL),
            ValueRef::Integer(v) => return self.integer(v),
            value if self.last == Some(value) => return self.head(SIMPLE, SAME),
            ValueRef::Real(v) => self.real(v),
            ValueRef::Text(v) => self.text(v),
            ValueRef::Blob(v) => {
                self.head(BLOB, v.len() as u64);
                self.payload.extend_from_slice(v);
            }
        }
        self.last = Some(value);
    }

    /// Both streams.
    pub(super) fn finish(&self, out: &mut Vec<u8>) {
        varint::write_bytes(&self.heads, out);
        varint::write_bytes(&self.payload, out);
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len() + self.payload.len()
    }

    fn head(&mut self, kind: u8, argument: u64) {
        self.heads.push((argument.min(ARGUMENT_MORE) as u8) << 3 | kind);
        if argument >= ARGUMENT_MORE {
            varint::write(argument - ARGUMENT_MORE, &mut self.heads);
        }
    }

    fn integer(&mut self, value: i64) {
        let absolute = varint::zigzag(value);
        let delta = varint::zigzag(value.wrapping_sub(self.integer));
        self.integer = value;
        if delta < absolute { self.head(DELTA, delta) } else { self.head(INTEGER, absolute) }
    }

    fn real(&mut self, value: f64) {
        if let Some((scale, n)) = decimal(value) {
            self.head(REAL, scale as u64 + 1);
            varint::write(varint::zigzag(n), &mut self.payload);
        } else {
            self.head(REAL, 0);
            self.payload.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }

    fn text(&mut self, value: &str) {
        if let Some(uuid) = parse_uuid(value.as_bytes()) {
            self.head(UUID, 0);
            self.payload.extend_from_slice(&uuid);
        } else {
            self.head(TEXT, value.len() as u64);
            self.payload.extend_from_slice(value.as_bytes());
        }
    }
}

/// A value as read: borrowed, and a UUID still as bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decoded<'a> {
    Plain(ValueRef<'a>),
    Uuid(&'a [u8; 16]),
}

impl Decoded<'_> {
    /// Hands the value to `f`, a UUID as its text.
    pub(super) fn with<T>(self, f: impl FnOnce(ValueRef<'_>) -> T) -> T {
        match self {
            Self::Plain(value) => f(value),
            Self::Uuid(uuid) => {
                let text = format_uuid(uuid);
                f(ValueRef::Text(std::str::from_utf8(&text).expect("hex and hyphens are UTF-8")))
            }
        }
    }

    pub(super) fn to_value(self) -> Value {
        self.with(|value| value.to_owned())
    }
}

/// A column being read.
#[derive(Debug)]
pub(super) struct ColumnReader<'a> {
    heads: Reader<'a>,
    payload: Reader<'a>,
    integer: i64,
    last: Option<Decoded<'a>>,
}

impl<'a> ColumnReader<'a> {
    pub(super) fn new(body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let heads = Reader::new(body.prefixed()?);
        let payload = Reader::new(body.prefixed()?);
        Ok(Self { heads, payload, integer: 0, last: None })
    }

    pub(super) fn read(&mut self) -> Result<Decoded<'a>, DecodeError> {
        let (kind, argument) = self.head()?;
        let unknown = || DecodeError::ValueKind { kind, argument };
        let value = match kind {
            SIMPLE if argument == NULL => return Ok(Decoded::Plain(ValueRef::Null)),
            SIMPLE if argument == SAME => return self.last.ok_or_else(unknown),
            INTEGER => return Ok(self.integer(varint::unzigzag(argument))),
            DELTA => return Ok(self.integer(self.integer.wrapping_add(varint::unzigzag(argument)))),
            REAL => Decoded::Plain(ValueRef::Real(self.real(argument)?.ok_or_else(unknown)?)),
            TEXT => {
                let text = std::str::from_utf8(self.payload(argument)?);
                Decoded::Plain(ValueRef::Text(text.map_err(|_| DecodeError::NotUtf8 { what: "value" })?))
            }
            BLOB => Decoded::Plain(ValueRef::Blob(self.payload(argument)?)),
            UUID if argument == 0 => Decoded::Uuid(self.payload.array_ref()?),
            _ => return Err(unknown()),
        };
        self.last = Some(value);
        Ok(value)
    }

    /// Nothing may be left once every row has been read.
    pub(super) fn check_end(&self) -> Result<(), DecodeError> {
        self.heads.check_end()?;
        self.payload.check_end()
    }

    fn head(&mut self) -> Result<(u8, u64), DecodeError> {
        let byte = self.heads.byte()?;
        let mut argument = u64::from(byte >> 3);
        if argument == ARGUMENT_MORE {
            argument = self.heads.varint()?.checked_add(ARGUMENT_MORE).ok_or(DecodeError::Varint)?;
        }
        Ok((byte & 7, argument))
    }

    const fn integer(&mut self, value: i64) -> Decoded<'a> {
        self.integer = value;
        Decoded::Plain(ValueRef::Integer(value))
    }

    fn real(&mut self, argument: u64) -> Result<Option<f64>, DecodeError> {
        let Some(scale) = argument.checked_sub(1) else {
            return Ok(Some(f64::from_bits(u64::from_le_bytes(self.payload.array()?))));
        };
        let Some(power) = usize::try_from(scale).ok().and_then(|scale| SCALES.get(scale)) else {
            return Ok(None);
        };
        Ok(Some(varint::unzigzag(self.payload.varint()?) as f64 / power))
    }

    fn payload(&mut self, len: u64) -> Result<&'a [u8], DecodeError> {
        self.payload.bytes(usize::try_from(len).map_err(|_| DecodeError::Truncated)?)
    }
}

/// The scale and the digits of a real that is a short decimal, such as a price. Only where the division gives back
/// exactly the same bits: not for -0.0, infinities or NaN.
fn decimal(value: f64) -> Option<(usize, i64)> {
    SCALES.iter().enumerate().find_map(|(scale, power)| {
        let scaled = value * power;
        // To the nearest integer; a cast saturates, and makes 0 of NaN and of -0.0, which the comparison then finds.
        let digits = (scaled + 0.5_f64.copysign(scaled)) as i64;
        let exact = scaled.abs() < DECIMAL_MAX && (digits as f64 / power).to_bits() == value.to_bits();
        exact.then_some((scale, digits))
    })
}

const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// Where the two digits of each byte of a UUID begin.
const UUID_DIGITS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The bytes of a UUID in the one form that [`format_uuid`] writes.
fn parse_uuid(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.try_into().ok()?;
    if UUID_HYPHENS.iter().any(|&at| text[at] != b'-') {
        return None;
    }
    let mut uuid = [0; 16];
    let mut worst = 0;
    for (byte, at) in uuid.iter_mut().zip(UUID_DIGITS) {
        let (high, low) = (HEX_VALUES[usize::from(text[at])], HEX_VALUES[usize::from(text[at + 1])]);
        worst |= high | low;
        *byte = high << 4 | low & 15;
    }
    (worst < 16).then_some(uuid)
}

fn format_uuid(uuid: &[u8; 16]) -> [u8; 36] {
    let mut text = [b'-'; 36];
    for (byte, at) in uuid.iter().zip(UUID_DIGITS) {
        text[at] = HEX_DIGITS[usize::from(byte >> 4)];
        text[at + 1] = HEX_DIGITS[usize::from(byte & 15)];
    }
    text
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The value of each lower-case hex digit; 255 for what is none.
const HEX_VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut value = 0;
    while value < 16 {
        values[HEX_DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    fn written(values: &[Value]) -> Vec<u8> {
        let mut writer = ColumnWriter::default();
        values.iter().for_each(|value| writer.write(value.as_ref()));
        let mut out = Vec::new();
        writer.finish(&mut out);
        out
    }

    #[track_caller]
    fn check(values: &[Value], expected: &[u8]) {
        let bytes = written(values);
        assert_eq!(bytes, expected);
        let mut reader = ColumnReader::new(&mut Reader::new(&bytes)).expect("two streams");
        for value in values {
            assert_eq!(&reader.read().expect("a value").to_value(), value);
        }
        assert_eq!(reader.check_end(), Ok(()));
    }

    #[test]
    fn values_have_known_bytes() {
        check(&[Value::Null, 0.into(), 15.into(), 16.into()], &[4, 0x00, 0x01, 0xf1, 0x12, 0]);
        check(&["ab".into(), "ab".into()], &[2, 0x14, 0x08, 2, b'a', b'b']);
        check(&[Value::Blob(vec![7])], &[1, 0x0d, 1, 7]);
        check(&[12.34.into()], &[1, 0x1b, 2, 0xa4, 0x13]);
        check(&[(-0.0).into()], &[1, 0x03, 8, 0, 0, 0, 0, 0, 0, 0, 0x80]);
        check(
            &["00112233-4455-6677-8899-aabbccddeeff".into()],
            &[
                1, 0x06, 16, 0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd,
                0xee, 0xff,
            ],
        );
    }

    #[test]
    fn only_the_canonical_form_is_a_uuid() {
        for text in [
            "00112233-4455-6677-8899-AABBCCDDEEFF",
            "00112233-4455-6677-8899-aabbccddeef",
            "0011223-34455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeefg",
            "é112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(written(&[text.into()])[0..2], [written(&[text.into()])[0], 0xfc], "{text}");
        }
    }

    #[test]
    fn decimals_are_exact_or_not_decimals() {
        assert_eq!(decimal(0.1), Some((1, 1)));
        assert_eq!(decimal(-19.99), Some((2, -1999)));
        assert_eq!(decimal(1.0), Some((0, 1)));
        assert_eq!(decimal(0.0), Some((0, 0)));
        for real in [-0.0, 1.0 / 3.0, f64::NAN, f64::INFINITY, 1e300, 5e-324, 0.00001] {
            assert_eq!(decimal(real), None, "{real}");
        }
    }

    #[test]
    fn unknown_kinds_are_refused() {
        for (heads, kind, argument) in
            [(0x07, 7, 0), (0x10, 0, 2), (0x08, 0, 1), (0x0e, 6, 1), (0x33, 3, 6), (0x43, 3, 8)]
        {
            let bytes = [1, heads, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let mut reader = ColumnReader::new(&mut Reader::new(&bytes)).expect("two streams");
            assert_eq!(reader.read().unwrap_err(), DecodeError::ValueKind { kind, argument });
        }
    }
}
