//! What is said before a link: the subprotocol, who is let in, and what answers mean.

use std::fmt;
use std::net::SocketAddr;

use opor_transport_traits::{TransportError, TransportErrorKind as Kind};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE,
};
use tokio_tungstenite::tungstenite::{Error, error::ProtocolError};

/// What both sides must speak: binary frames, one message each.
pub const SUBPROTOCOL: &str = "opor.v1";

/// A dialer at the door: what it asks for and what it shows. Its `Debug` output leaves out what may be secret.
#[derive(Clone, Copy)]
pub struct Knock<'a> {
    request: &'a Request,
    from: SocketAddr,
}

impl Knock<'_> {
    /// The path that it asks for: `/sync/garden`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// The query behind the path.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.request.uri().query()
    }

    /// The bearer token (RFC 6750) that it shows.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
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

/// Whether a dialer is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Welcome,
    /// It has not shown who it is: status 401.
    Unauthorized,
    /// It may not come here, whoever it is: status 403.
    Forbidden,
}

/// Answers a request for an upgrade.
#[expect(clippy::result_large_err, reason = "the library wants the answer itself")]
pub(crate) fn answer(
    request: &Request,
    mut response: Response,
    from: SocketAddr,
    judge: impl Fn(&Knock<'_>) -> Verdict,
) -> Result<Response, ErrorResponse> {
    match judge(&Knock { request, from }) {
        Verdict::Welcome => {}
        Verdict::Unauthorized => return Err(refusal(StatusCode::UNAUTHORIZED)),
        Verdict::Forbidden => return Err(refusal(StatusCode::FORBIDDEN)),
    }
    if !asks_for_us(request) {
        return Err(refusal(StatusCode::BAD_REQUEST));
    }
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

fn asks_for_us(request: &Request) -> bool {
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    offers
        .filter_map(|offer| offer.to_str().ok())
        .flat_map(|offer| offer.split(','))
        .any(|offer| offer.trim() == SUBPROTOCOL)
}

fn refusal(status: StatusCode) -> ErrorResponse {
    let mut response = ErrorResponse::new(None);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// What a failed handshake means for the dialer.
pub(crate) fn failed(error: Error, target: &str) -> TransportError {
    match error {
        // The answer may repeat what we have said, so no more of it is kept than its status.
        Error::Http(response) => {
            let status = response.status();
            TransportError::new(kind_of_status(status), format!("{target} answers {status}"))
        }
        Error::Io(error) => TransportError::new(kind_of_io(&error), target).with_source(error),
        // It was there, and went away before it answered.
        Error::Protocol(ProtocolError::HandshakeIncomplete) | Error::ConnectionClosed => {
            TransportError::new(Kind::Unreachable, target).with_source(error)
        }
        error => TransportError::new(Kind::Incompatible, target).with_source(error),
    }
}

/// With TLS 1.3 a client hears only now that its certificate was not good, or missing.
fn kind_of_io(error: &std::io::Error) -> Kind {
    #[cfg(feature = "tls")]
    return crate::tls::kind_of(error);
    #[cfg(not(feature = "tls"))]
    crate::tcp::kind_of(error)
}

fn kind_of_status(status: StatusCode) -> Kind {
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
