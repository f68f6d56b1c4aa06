//! Who is at the other end, for people.

use std::fmt;

/// Whom a link leads to, as one line for logs and status displays: `unix:/run/hub.sock`, `wss://hub.example/sync/garden`.
///
/// It identifies nobody: a replica says who it is within the protocol, and a server knows whom it let in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(Box<str>);

impl Peer {
    /// The most characters kept: an address fits, and a peer that writes its own cannot fill a log with it.
    pub const CHARS_MAX: usize = 200;

    /// A description. Part of it may come from outside, so control characters are replaced by U+FFFD, and what is
    /// longer than [`CHARS_MAX`](Self::CHARS_MAX) is cut there. Nothing at all becomes `unknown`.
    ///
    /// Leave out what is secret: tokens, passwords, query strings that hold them.
    ///
    /// ```
    /// use opor_transport_traits::Peer;
    ///
    /// assert_eq!(Peer::new("unix:/run/hub.sock").to_string(), "unix:/run/hub.sock");
    /// assert_eq!(Peer::new("me\n2026 INFO all is well").to_string(), "me\u{fffd}2026 INFO all is well");
    /// ```
    #[must_use]
    pub fn new(description: impl AsRef<str>) -> Self {
        let description = description.as_ref();
        if description.is_empty() {
            return Self("unknown".into());
        }
        let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        Self(description.chars().take(Self::CHARS_MAX).map(clean).collect())
    }

    /// The description.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(description: &str, expected: &str) {
        assert_eq!(Peer::new(description).as_str(), expected);
    }

    #[test]
    fn what_comes_from_outside_stays_one_short_line() {
        check("memory:hub", "memory:hub");
        check("", "unknown");
        check("a\r\nb\u{7f}", "a\u{fffd}\u{fffd}b\u{fffd}");
        check(&"ü".repeat(Peer::CHARS_MAX + 1), &"ü".repeat(Peer::CHARS_MAX));
    }
}
