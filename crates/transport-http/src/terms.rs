//! What a client and a server have agreed on.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderValue};

use crate::wire::{EXPIRY, HOLD, KEEP_ALIVE, LINK, SQUEEZE, millis};

/// A link as its client knows it.
#[derive(Clone)]
pub(crate) struct Terms {
    /// The id: whoever has it, and the credentials of the client, has the link.
    pub(crate) id: HeaderValue,
    /// How long the server may hold a request.
    pub(crate) hold: Duration,
    /// How often the client shows that it is there.
    pub(crate) heartbeat: Duration,
    /// After how long a silent event stream is taken for dead.
    pub(crate) silence: Duration,
    /// Whether the server takes compressed batches.
    pub(crate) squeeze: bool,
}

/// How many requests may be lost before a server gives a link up.
const HEARTBEATS: u32 = 4;

/// How many signs of life may be missing before a stream is taken for dead.
const KEEP_ALIVES: u32 = 3;

/// A server cannot make a client ask more often, whatever it says.
const LEAST: Duration = Duration::from_millis(50);

/// Nor wait longer.
const MOST: Duration = Duration::from_secs(300);

impl Terms {
    /// The terms in the answer to an open. Nothing, when it is none of ours.
    pub(crate) fn of(headers: &HeaderMap, squeeze: bool) -> Option<Self> {
        let within = |duration: Duration| duration.clamp(LEAST, MOST);
        let mut id = headers.get(LINK)?.clone();
        id.set_sensitive(true);
        Some(Self {
            id,
            hold: within(millis(headers, &HOLD)?),
            heartbeat: within(millis(headers, &EXPIRY)? / HEARTBEATS),
            silence: within(millis(headers, &KEEP_ALIVE)?.saturating_mul(KEEP_ALIVES)),
            squeeze: squeeze && headers.contains_key(SQUEEZE),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(hold: &str, expiry: &str, keep_alive: &str) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).expect("a header");
        HeaderMap::from_iter([
            (LINK, value("abc")),
            (HOLD, value(hold)),
            (EXPIRY, value(expiry)),
            (KEEP_ALIVE, value(keep_alive)),
        ])
    }

    #[test]
    fn terms_are_read_and_kept_within_bounds() {
        let terms = Terms::of(&headers("25000", "60000", "15000"), true).expect("terms");
        let seconds = [terms.hold, terms.heartbeat, terms.silence].map(|time| time.as_secs());
        assert_eq!(seconds, [25, 15, 45]);
        assert!(!terms.squeeze, "the server did not offer it");
        for extreme in ["0", "18446744073709551615"] {
            let terms = Terms::of(&headers(extreme, extreme, extreme), true).expect("terms");
            for time in [terms.hold, terms.heartbeat, terms.silence] {
                assert!((LEAST..=MOST).contains(&time), "{time:?}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_of_ours_has_no_terms() {
        assert!(Terms::of(&headers("x", "1", "1"), true).is_none());
        let mut without = headers("1", "1", "1");
        without.remove(LINK);
        assert!(Terms::of(&without, true).is_none());
    }
}
