//! Names as parts of subjects.

use std::fmt::Write as _;

/// One token of a subject for any text: letters, digits, `-` and `_` stand for themselves, every other byte for `=` and two
/// hex digits. Two texts never have one token.
#[must_use]
pub fn token(text: &str) -> String {
    let mut token = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            token.push(byte.into());
        } else {
            write!(token, "={byte:02x}").expect("writing to a string does not fail");
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_means_something_in_a_subject_is_left() {
        for (text, expected) in [
            ("garden", "garden"),
            ("Garden-2_b", "Garden-2_b"),
            ("a.b", "a=2eb"),
            ("*", "=2a"),
            (">", "=3e"),
            ("a b\r\n", "a=20b=0d=0a"),
            ("=2a", "=3d2a"),
            ("ü", "=c3=bc"),
        ] {
            assert_eq!(token(text), expected);
        }
    }
}
