//! Bytes as text: hex is written; hex, and base64 of either alphabet, padded or not, is read.

use std::fmt;

const HEX: &[u8; 16] = b"0123456789abcdef";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Bytes that print as lower-case hex.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        for chunk in self.0.chunks(32) {
            for (pair, byte) in text.chunks_exact_mut(2).zip(chunk) {
                pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            f.write_str(std::str::from_utf8(&text[..chunk.len() * 2]).expect("hex digits are UTF-8"))?;
        }
        Ok(())
    }
}

impl serde::Serialize for Hex<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads bytes from text. Text that is both hex and base64 is hex, because hex is what opor writes: a peer that writes
/// base64 of keys without padding can meet this, if all digits happen to be hex and their number is even.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    decode_hex(text).or_else(|| decode_base64(text))
}

/// Reads hex digits of either case.
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Writes base64 of the standard alphabet, padded.
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = BASE64[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= group.len() { digit.into() } else { '=' });
        }
    }
    text
}

/// Reads base64. Padding may be left out but not wrong, and the bits that no byte uses are zero.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if padding > 0 && (padding > 2 || !text.len().is_multiple_of(4)) {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.as_bytes().chunks(4) {
        let mut bits = 0;
        for byte in group {
            bits = bits << 6 | base64_digit(*byte)?;
        }
        let spare = group.len() * 6 % 8;
        if group.len() == 1 || bits & ((1 << spare) - 1) != 0 {
            return None;
        }
        let octets = (bits >> spare).to_be_bytes();
        bytes.extend_from_slice(&octets[4 - group.len() * 6 / 8..]);
    }
    Some(bytes)
}

fn base64_digit(byte: u8) -> Option<u32> {
    let digit = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    };
    Some(digit.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&[u8]>) {
        assert_eq!(decode(text).as_deref(), expected, "{text:?}");
    }

    #[test]
    fn known_texts() {
        check("", Some(b""));
        check("00fF", Some(b"\x00\xff"));
        check("Zg==", Some(b"f"));
        check("Zg", Some(b"f"));
        check("Zm8=", Some(b"fo"));
        check("Zm9v", Some(b"foo"));
        check("-_-_", Some(b"\xfb\xff\xbf"));
        check("+/+/", Some(b"\xfb\xff\xbf"));
        assert_eq!(encode_base64(b"fo"), "Zm8=");
        assert_eq!(encode_base64(b"\xfb\xff\xbf"), "+/+/");
    }

    #[test]
    fn hex_wins_where_a_text_is_both() {
        check("abcd", Some(b"\xab\xcd"));
        check("abc", Some(b"\x69\xb7"));
        assert_eq!(decode_base64("abcd").as_deref(), Some(&b"\x69\xb7\x1d"[..]));
    }

    #[test]
    fn malformed_texts() {
        for text in ["a", "Zg=", "Zg===", "====", "=", "Z=g=", "Zh==", "Zm9=", "Zm 8", "é", "0g1", "Zm9vY"] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes: Vec<u8>) {
            let base64 = encode_base64(&bytes);
            prop_assert_eq!(decode_hex(&Hex(&bytes).to_string()), Some(bytes.clone()));
            prop_assert_eq!(decode_base64(&base64), Some(bytes.clone()));
            let bare = base64.trim_end_matches('=').replace('+', "-").replace('/', "_");
            prop_assert_eq!(decode_base64(&bare), Some(bytes));
        }
    }
}
