//! The words of the transport: headers, and what a server complains about.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// The version of these rules, in the header [`VERSION_HEADER`] of every request.
pub(crate) const VERSION: HeaderValue = HeaderValue::from_static("1");

pub(crate) const VERSION_HEADER: HeaderName = HeaderName::from_static("opor-http");
/// The id of a link: in the answer to an open, and in every request after it.
pub(crate) const LINK: HeaderName = HeaderName::from_static("opor-link");
/// The number up to which the client has taken the server's messages.
pub(crate) const HAVE: HeaderName = HeaderName::from_static("last-event-id");
/// The number up to which the server has taken the client's messages.
pub(crate) const TAKEN: HeaderName = HeaderName::from_static("opor-taken");
/// What a server complains about.
pub(crate) const COMPLAINT: HeaderName = HeaderName::from_static("opor-complaint");
/// How long the server may hold a request before it answers, in milliseconds.
pub(crate) const HOLD: HeaderName = HeaderName::from_static("opor-hold");
/// After how long without a request the server gives a link up, in milliseconds.
pub(crate) const EXPIRY: HeaderName = HeaderName::from_static("opor-expiry");
/// How often a silent event stream says that it is there, in milliseconds.
pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("opor-keep-alive");
/// Whether the sender of this header takes batches that are compressed with zstd.
pub(crate) const SQUEEZE: HeaderName = HeaderName::from_static("opor-zstd");
/// How long the client would wait for an answer: `wait=25` (RFC 7240).
pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// Tells nginx, and those who imitate it, not to buffer a response.
pub(crate) const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(crate) const EVENTS: &str = "text/event-stream";
pub(crate) const BATCH: &str = "application/octet-stream";

/// A number in a header. Nothing where there is none, or something else stands there.
pub(crate) fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let digits = headers.get(name)?.as_bytes();
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Milliseconds in a header.
pub(crate) fn millis(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    number(headers, name).map(Duration::from_millis)
}

/// A duration as a header has it.
pub(crate) fn in_millis(duration: Duration) -> HeaderValue {
    HeaderValue::from(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// How long a client would wait: `prefer: wait=25`.
pub(crate) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(PREFER)?.to_str().ok()?.trim().strip_prefix("wait=")?;
    seconds.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

/// What a server complains about. Where the header is missing, somebody between the two has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// No such link, or it is not this client's, or it has ended.
    UnknownLink,
    /// The link has ended because the client broke the rules.
    BrokenRules,
    /// Nobody takes links here.
    NobodyListens,
    /// There are too many links in all, or too much is held for them.
    Full,
    /// There are too many links of this client.
    TooMany,
    /// The client speaks another version.
    Version,
    /// What was asked for has been confirmed, and is gone.
    Stale,
    /// The body took too long.
    TooSlow,
    /// The method means nothing here.
    Method,
}

impl Complaint {
    const ALL: [Self; 9] = [
        Self::UnknownLink,
        Self::BrokenRules,
        Self::NobodyListens,
        Self::Full,
        Self::TooMany,
        Self::Version,
        Self::Stale,
        Self::TooSlow,
        Self::Method,
    ];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::UnknownLink => "unknown-link",
            Self::BrokenRules => "broken-rules",
            Self::NobodyListens => "nobody-listens",
            Self::Full => "full",
            Self::TooMany => "too-many-links",
            Self::Version => "version",
            Self::Stale => "stale",
            Self::TooSlow => "too-slow",
            Self::Method => "method",
        }
    }

    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::UnknownLink => StatusCode::GONE,
            Self::BrokenRules | Self::Version => StatusCode::BAD_REQUEST,
            Self::NobodyListens | Self::Full => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Stale => StatusCode::CONFLICT,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The complaint of an answer.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let word = headers.get(COMPLAINT)?.to_str().ok()?;
        Self::ALL.into_iter().find(|complaint| complaint.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a header"))])
    }

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        for (text, due) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("+1", None),
            ("-1", None),
            (" 1 2", None),
            ("", None),
            ("000000000000000000001", None),
        ] {
            assert_eq!(number(&with(HAVE, text), &HAVE), due, "{text:?}");
        }
        assert_eq!(number(&HeaderMap::new(), &HAVE), None);
    }

    #[test]
    fn a_wish_to_wait_is_seconds() {
        assert_eq!(wait(&with(PREFER, "wait=25")), Some(Duration::from_secs(25)));
        assert_eq!(wait(&with(PREFER, "wait=0")), Some(Duration::ZERO));
        assert_eq!(wait(&with(PREFER, "respond-async")), None);
        assert_eq!(wait(&with(PREFER, "wait=-1")), None);
    }

    #[test]
    fn every_complaint_is_understood() {
        for complaint in Complaint::ALL {
            assert_eq!(Complaint::of(&with(COMPLAINT, complaint.word())), Some(complaint));
            assert!(!complaint.status().is_success());
        }
        assert_eq!(Complaint::of(&with(COMPLAINT, "something newer")), None);
    }
}
