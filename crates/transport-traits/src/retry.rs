//! Whether dialling anew may help: decided here and nowhere else.

use crate::close::CloseCode;
use crate::error::TransportErrorKind as Kind;

/// Yes where time may mend it, no where the same again would end the same way. The close code counts when the link was
/// closed.
pub(crate) const fn worth_retry(kind: Kind, code: Option<CloseCode>) -> bool {
    match kind {
        Kind::Unreachable | Kind::TimedOut | Kind::Overloaded | Kind::Lost | Kind::Exhausted => true,
        Kind::Refused | Kind::Incompatible | Kind::FrameTooLarge | Kind::Misconfigured => false,
        Kind::Closed => match code {
            Some(code) => peer_wants_us_back(code),
            None => false,
        },
    }
}

/// A code that is not known here is the protocol's to judge; without its word the peer is left alone.
const fn peer_wants_us_back(code: CloseCode) -> bool {
    matches!(code, CloseCode::GOING_AWAY | CloseCode::INTERNAL | CloseCode::RESTART | CloseCode::OVERLOADED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_judged() {
        for (kind, expected) in [
            (Kind::Unreachable, true),
            (Kind::TimedOut, true),
            (Kind::Overloaded, true),
            (Kind::Refused, false),
            (Kind::Incompatible, false),
            (Kind::Lost, true),
            (Kind::Closed, false),
            (Kind::FrameTooLarge, false),
            (Kind::Misconfigured, false),
            (Kind::Exhausted, true),
        ] {
            assert_eq!(worth_retry(kind, None), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_close_is_judged_by_its_code() {
        for (code, expected) in [
            (CloseCode::DONE, false),
            (CloseCode::GOING_AWAY, true),
            (CloseCode::VIOLATION, false),
            (CloseCode::REFUSED, false),
            (CloseCode::INTERNAL, true),
            (CloseCode::RESTART, true),
            (CloseCode::OVERLOADED, true),
            (CloseCode::private(4000), false),
            (CloseCode::from_number(1006), false),
        ] {
            assert_eq!(worth_retry(Kind::Closed, Some(code)), expected, "{code}");
        }
    }
}
