//! Where a dialer goes.

use opor_transport_traits::{Peer, TransportError, TransportErrorKind as Kind};
use tokio_tungstenite::tungstenite::http::Uri;

/// An address of a server, taken apart.
#[derive(Clone)]
pub(crate) struct Url {
    /// As a request has it. May hold secrets in its query.
    pub(crate) uri: Uri,
    /// Without the brackets of IPv6.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) secure: bool,
    /// Without the query.
    pub(crate) public: Peer,
}

impl Url {
    /// # Errors
    /// `Misconfigured`, without repeating what may be a secret.
    pub(crate) fn parse(text: &str) -> Result<Self, TransportError> {
        let uri: Uri = text.parse().map_err(|error| wrong("not an address").with_source(error))?;
        let secure = match uri.scheme_str() {
            Some("ws") => false,
            Some("wss") => true,
            _ => return Err(wrong("an address begins with ws:// or wss://")),
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(wrong("credentials do not belong into the address"));
        }
        let host = uri.host().unwrap_or_default();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(wrong("an address names a host"));
        }
        // The library has no port where the text has one that is none.
        if uri.port_u16().is_none()
            && authority.ends_with(|c: char| c == ':' || c.is_ascii_digit())
            && has_port(authority)
        {
            return Err(wrong("a port is a number up to 65535"));
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let scheme = if secure { "wss" } else { "ws" };
        let public = Peer::new(format!("{scheme}://{authority}{}", uri.path()));
        Ok(Self { host: host.to_owned(), port, secure, public, uri })
    }
}

/// Whether something follows a colon after the host.
fn has_port(authority: &str) -> bool {
    authority.rsplit_once(']').map_or(authority, |(_, rest)| rest).contains(':')
}

fn wrong(what: &str) -> TransportError {
    TransportError::new(Kind::Misconfigured, format!("websocket: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes_to(text: &str, host: &str, port: u16, secure: bool, public: &str) {
        let url = Url::parse(text).expect("an address");
        assert_eq!((&*url.host, url.port, url.secure, url.public.as_str()), (host, port, secure, public));
    }

    #[track_caller]
    fn is_refused(text: &str, due: &str) {
        let error = Url::parse(text).err().expect("no address");
        assert_eq!(error.kind(), Kind::Misconfigured);
        assert_eq!(error.to_string(), format!("transport is not set up right: websocket: {due}"));
    }

    #[test]
    fn addresses_are_taken_apart() {
        goes_to("ws://hub.example", "hub.example", 80, false, "ws://hub.example/");
        goes_to("wss://hub.example/sync/garden", "hub.example", 443, true, "wss://hub.example/sync/garden");
        goes_to("ws://[::1]:8080/a?token=secret", "::1", 8080, false, "ws://[::1]:8080/a");
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in ["http://hub.example", "hub.example", "unix:/run/x", "/path"] {
            let error = Url::parse(text).err().expect("no address");
            assert_eq!(error.kind(), Kind::Misconfigured, "{text}");
            assert!(!error.to_string().contains("hub"), "{error}");
        }
        is_refused("https://hub.example/", "an address begins with ws:// or wss://");
        is_refused("ws://me:secret@hub.example/", "credentials do not belong into the address");
        is_refused("ws://hub.example:70000/", "a port is a number up to 65535");
        is_refused("ws:// /", "not an address");
    }
}
