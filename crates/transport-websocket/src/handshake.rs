//! What is said before a link: the subprotocol, who is let in, and what answers mean.

use std::net::SocketAddr;

use opor_transport_kit::{Knock, Verdict, kind_of_status};
use opor_transport_traits::{TransportError, TransportErrorKind as Kind};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::http::header::{
    CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE,
};
use tokio_tungstenite::tungstenite::{Error, error::ProtocolError};

/// What both sides must speak: binary frames, one message each.
pub const SUBPROTOCOL: &str = "opor.v1";

/// Answers a request for an upgrade.
#[expect(clippy::result_large_err, reason = "the library wants the answer itself")]
pub(crate) fn answer(
    request: &Request,
    mut response: Response,
    from: SocketAddr,
    judge: impl Fn(&Knock<'_>) -> Verdict,
) -> Result<Response, ErrorResponse> {
    if let Some(status) = judge(&Knock::new(request, from)).refusal() {
        return Err(refusal(status));
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
    return opor_transport_kit::tls::kind_of(error);
    #[cfg(not(feature = "tls"))]
    opor_transport_kit::tcp::kind_of(error)
}
