//! Who knocks at the door of a web server, who is let in, and what the answers of servers mean.

use std::fmt;
use std::net::SocketAddr;

use http::header::{AUTHORIZATION, HeaderMap};
use http::{Request, StatusCode, Uri};
use opor_transport_traits::TransportErrorKind as Kind;

/// Somebody at the door: what it asks for and what it shows. Its `Debug` output leaves out what may be secret.
#[derive(Clone, Copy)]
pub struct Knock<'a> {
    uri: &'a Uri,
    headers: &'a HeaderMap,
    from: SocketAddr,
}

impl<'a> Knock<'a> {
    /// A request that comes from there.
    #[must_use]
    pub fn new<B>(request: &'a Request<B>, from: SocketAddr) -> Self {
        Self { uri: request.uri(), headers: request.headers(), from }
    }

    /// The path that it asks for: `/sync/garden`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The query behind the path.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The bearer token (RFC 6750) that it shows.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// Where it comes from.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        self.from
    }
}

impl fmt::Debug for Knock<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Knock").field("path", &self.path()).field("from", &self.from).finish_non_exhaustive()
    }
}

/// Whether somebody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Welcome,
    /// It has not shown who it is: status 401.
    Unauthorized,
    /// It may not come here, whoever it is: status 403.
    Forbidden,
}

impl Verdict {
    /// The status of the refusal, if it is one.
    #[must_use]
    pub const fn refusal(self) -> Option<StatusCode> {
        match self {
            Self::Welcome => None,
            Self::Unauthorized => Some(StatusCode::UNAUTHORIZED),
            Self::Forbidden => Some(StatusCode::FORBIDDEN),
        }
    }
}

/// What it means for a dial that a server, or a proxy before it, answers with this status, where it should not.
#[must_use]
pub fn kind_of_status(status: StatusCode) -> Kind {
    match status.as_u16() {
        // Who we are, what we may, and rooms that are not there, or not any more.
        401 | 402 | 403 | 404 | 407 | 410 | 451 => Kind::Refused,
        429 | 503 => Kind::Overloaded,
        408 | 504 => Kind::TimedOut,
        // A proxy whose server is away, or a server that has failed.
        500 | 502 => Kind::Unreachable,
        // It is somewhere else.
        300..=399 => Kind::Misconfigured,
        _ => Kind::Incompatible,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knock_tells_what_is_shown_and_not_to_everybody() {
        let request = Request::builder().uri("/sync/garden?as=phone").header(AUTHORIZATION, "bearer s3cret ");
        let request = request.body(()).expect("a request");
        let from = SocketAddr::from(([127, 0, 0, 1], 9));
        let knock = Knock::new(&request, from);
        assert_eq!((knock.path(), knock.query()), ("/sync/garden", Some("as=phone")));
        assert_eq!((knock.bearer(), knock.from()), (Some("s3cret"), from));
        let shown = format!("{knock:?}");
        assert!(shown.contains("garden") && !shown.contains("s3cret") && !shown.contains("phone"), "{shown}");
        let request =
            Request::builder().header(AUTHORIZATION, "Basic bWU6czNjcmV0").body(()).expect("a request");
        assert_eq!(Knock::new(&request, from).bearer(), None);
    }
}
