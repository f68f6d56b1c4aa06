//! What answers mean to a client, and what their absence means.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};
use opor_transport_kit::kind_of_status;
use opor_transport_traits::{TransportError, TransportErrorKind as Kind};

use crate::lane::{Route, Unanswered};
use crate::wire::{Complaint, number};

/// What a request that belongs to a link led to, where that is not what it asked for.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may be mended by asking again, for a while. The server may have said when.
    Passing(TransportError, Option<Duration>),
    /// The link has ended.
    Final(TransportError),
}

/// Why a dial failed, where the open was not answered.
pub(crate) fn dial_unanswered(route: &Route, unanswered: Unanswered) -> TransportError {
    match unanswered {
        Unanswered::Connect(error) => error,
        // It was there, and went away before it answered.
        Unanswered::Transit(Some(error)) => route.failure(Kind::Unreachable).with_source(error),
        Unanswered::Transit(None) => route.failure(Kind::TimedOut),
        Unanswered::Garbage(error) => route.failure(Kind::Incompatible).with_source(error),
    }
}

/// Why a dial failed, where the server answered something else than it should. The answer may repeat what we have said,
/// so no more of it is kept than its status.
pub(crate) fn dial_refused(route: &Route, status: StatusCode, headers: &HeaderMap) -> TransportError {
    let target = &route.url.public;
    match Complaint::of(headers) {
        // A link that is gone at once was dropped with its listener.
        Some(Complaint::NobodyListens | Complaint::UnknownLink) => {
            TransportError::new(Kind::Unreachable, format!("{target}: nobody takes links there"))
        }
        Some(Complaint::Version) => {
            TransportError::new(Kind::Incompatible, format!("{target} speaks another version"))
        }
        _ => {
            let again = retry_after(headers).map(|after| format!(", again after {} s", after.as_secs()));
            let about = format!("{target} answers {status}{}", again.unwrap_or_default());
            TransportError::new(kind_of_status(status), about)
        }
    }
}

/// What it means for a link that a request was not answered. Requests can be repeated, so most of it passes.
pub(crate) fn unanswered(route: &Route, unanswered: Unanswered) -> Trouble {
    let lost = || route.failure(Kind::Lost);
    match unanswered {
        Unanswered::Connect(error) => Trouble::Passing(lost().with_source(error), None),
        Unanswered::Transit(Some(error)) => Trouble::Passing(lost().with_source(error), None),
        Unanswered::Transit(None) => Trouble::Passing(lost(), None),
        Unanswered::Garbage(error) => Trouble::Final(route.failure(Kind::Incompatible).with_source(error)),
    }
}

/// What it means for a link that the server answered something else than it should.
pub(crate) fn refused(route: &Route, status: StatusCode, headers: &HeaderMap) -> Trouble {
    let target = &route.url.public;
    match Complaint::of(headers) {
        Some(Complaint::UnknownLink) => {
            return Trouble::Final(TransportError::lost(format!("{target} does not know the link any more")));
        }
        Some(Complaint::BrokenRules) => {
            let about = format!("{target} says that rules were broken");
            return Trouble::Final(TransportError::new(Kind::Incompatible, about));
        }
        _ => {}
    }
    let error = TransportError::lost(format!("{target} answers {status}"));
    match status.as_u16() {
        // 409 is ours: something newer was on its way.
        408 | 409 | 425 | 429 | 500 | 502 | 503 | 504 => Trouble::Passing(error, retry_after(headers)),
        _ => Trouble::Final(error),
    }
}

/// When the server wants to be asked again, where it says so in seconds. Dates are for people's browsers.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    number(headers, &RETRY_AFTER).map(Duration::from_secs)
}
