//! Why a link was closed in order.

use std::fmt;

/// What a close means to a program. The numbers are those of WebSocket (RFC 6455, section 7.4), so that every transport
/// can carry them, and a WebSocket one as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// The work is done; there is no reason to come back.
    pub const DONE: Self = Self(1000);
    /// The peer shuts down or restarts; come back later.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer met something that it does not understand; the same again would end the same way.
    pub const VIOLATION: Self = Self(1002);
    /// The peer does not want this link: wrong credentials, a closed room, a policy.
    pub const REFUSED: Self = Self(1008);
    /// The peer failed in a way of its own.
    pub const INTERNAL: Self = Self(1011);
    /// The peer restarts at once.
    pub const RESTART: Self = Self(1012);
    /// The peer has too much to do; come back later.
    pub const OVERLOADED: Self = Self(1013);

    /// The numbers that mean what the protocol above the transport says.
    pub const PRIVATE: std::ops::RangeInclusive<u16> = 4000..=4999;

    /// A code with a meaning of the protocol's own.
    ///
    /// # Panics
    /// When the number is not one of [`PRIVATE`](Self::PRIVATE).
    #[must_use]
    pub const fn private(number: u16) -> Self {
        assert!(
            number >= *Self::PRIVATE.start() && number <= *Self::PRIVATE.end(),
            "not a private close code"
        );
        Self(number)
    }

    /// A code as it came from a peer. Any number is one: what is unknown here may be known to the protocol.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        Self(number)
    }

    /// The number to send.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::DONE => "done",
            Self::GOING_AWAY => "going away",
            Self::VIOLATION => "protocol violation",
            Self::REFUSED => "refused",
            Self::INTERNAL => "internal failure",
            Self::RESTART => "restarting",
            Self::OVERLOADED => "overloaded",
            Self(number) => return write!(f, "code {number}"),
        };
        f.write_str(name)
    }
}

/// A code for programs and a text for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CloseReason {
    code: CloseCode,
    text: Box<str>,
}

impl CloseReason {
    /// The most bytes of the text: what fits into a close frame of WebSocket beside the code.
    pub const TEXT_MAX: usize = 123;

    /// A reason without a text.
    #[must_use]
    pub fn new(code: CloseCode) -> Self {
        Self { code, text: Box::default() }
    }

    /// A reason that says more. A text longer than [`TEXT_MAX`](Self::TEXT_MAX) bytes is cut between characters and ends
    /// with `…`: it is for people, and programs go by the code.
    ///
    /// ```
    /// use opor_transport_traits::{CloseCode, CloseReason};
    ///
    /// let reason = CloseReason::explained(CloseCode::REFUSED, "room garden is closed");
    /// assert_eq!(reason.to_string(), "refused (room garden is closed)");
    /// ```
    #[must_use]
    pub fn explained(code: CloseCode, text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        if text.len() <= Self::TEXT_MAX {
            return Self { code, text: text.into() };
        }
        let room = Self::TEXT_MAX - '…'.len_utf8();
        let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        Self { code, text: format!("{}…", &text[..end]).into() }
    }

    /// What it means to a program.
    #[must_use]
    pub const fn code(&self) -> CloseCode {
        self.code
    }

    /// What it tells people; may be empty.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() { self.code.fmt(f) } else { write!(f, "{} ({})", self.code, self.text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let fits = "x".repeat(CloseReason::TEXT_MAX);
        assert_eq!(CloseReason::explained(CloseCode::DONE, &fits).text(), fits);
        // The cut would be at byte 120, which is within the 30th of these characters of four bytes.
        let long = format!("x{}", "🌱".repeat(40));
        let reason = CloseReason::explained(CloseCode::DONE, &long);
        assert_eq!(reason.text(), format!("x{}…", "🌱".repeat(29)));
        assert!(reason.text().len() <= CloseReason::TEXT_MAX);
    }

    #[test]
    fn codes_keep_their_numbers() {
        assert_eq!(CloseCode::from_number(1001), CloseCode::GOING_AWAY);
        assert_eq!(CloseCode::private(4321).number(), 4321);
        assert_eq!(CloseCode::private(4321).to_string(), "code 4321");
    }

    #[test]
    #[should_panic = "not a private close code"]
    fn a_public_number_is_no_private_code() {
        let _ = CloseCode::private(1000);
    }
}
