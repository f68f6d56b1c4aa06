//! Where a dialer of the web goes.

use http::Uri;
use http::header::HeaderValue;
use opor_transport_traits::{Peer, TransportError, TransportErrorKind as Kind};

/// An address of a web server, taken apart. No `Debug` output: its query may hold a secret.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the query may hold a secret")]
#[non_exhaustive]
pub struct WebAddress {
    /// As it was given. May hold secrets in its query.
    pub uri: Uri,
    /// Path and query, as a request has them. May hold secrets.
    pub target: Uri,
    /// Host and port, as the header of that name has them.
    pub authority: HeaderValue,
    /// Without the brackets of IPv6.
    pub host: String,
    /// The one that the scheme has, where none is named.
    pub port: u16,
    /// Whether TLS is spoken.
    pub secure: bool,
    /// Without the query.
    pub public: Peer,
}

impl WebAddress {
    /// Takes an address apart, for a transport of this name whose scheme without TLS is `plain`; with TLS there is an `s` behind
    /// it.
    ///
    /// # Errors
    /// `Misconfigured`, without repeating what may be a secret.
    pub fn parse(text: &str, transport: &str, plain: &str) -> Result<Self, TransportError> {
        let wrong = |what| TransportError::new(Kind::Misconfigured, format!("{transport}: {what}"));
        let uri: Uri = text.parse().map_err(|error| wrong("not an address").with_source(error))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        let secure = match scheme.strip_prefix(plain) {
            Some("") => false,
            Some("s") => true,
            _ => return Err(wrong(&format!("an address begins with {plain}:// or {plain}s://"))),
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
        // What follows the host, and is no port that the library knows.
        let rest = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
        if uri.port_u16().is_none() && rest.contains(':') {
            return Err(wrong("a port is a number up to 65535"));
        }
        let header = HeaderValue::from_str(authority);
        let path = uri.path_and_query().cloned();
        Ok(Self {
            target: path.map_or_else(|| Uri::from_static("/"), Uri::from),
            authority: header.map_err(|error| wrong("not an address").with_source(error))?,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            secure,
            public: Peer::new(format!("{scheme}://{authority}{}", uri.path())),
            uri,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WebAddress, TransportError> {
        let plain = if text.starts_with("ws") { "ws" } else { "http" };
        WebAddress::parse(text, "pigeons", plain)
    }

    #[track_caller]
    fn goes_to(text: &str, host: &str, port: u16, secure: bool, target: &str, public: &str) {
        let address = parse(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((&*address.host, address.port, address.secure), (host, port, secure));
        assert_eq!((&*address.target.to_string(), address.public.as_str()), (target, public));
    }

    #[track_caller]
    fn is_refused(text: &str, due: &str) {
        let error = parse(text).err().expect("no address");
        assert_eq!(error.kind(), Kind::Misconfigured);
        assert_eq!(error.to_string(), format!("transport is not set up right: pigeons: {due}"));
    }

    #[test]
    fn addresses_are_taken_apart() {
        goes_to("http://hub.example", "hub.example", 80, false, "/", "http://hub.example/");
        goes_to("ws://hub.example", "hub.example", 80, false, "/", "ws://hub.example/");
        let garden = "https://hub.example/sync/garden";
        goes_to(garden, "hub.example", 443, true, "/sync/garden", garden);
        let garden = "wss://hub.example/sync/garden";
        goes_to(garden, "hub.example", 443, true, "/sync/garden", garden);
        let secret = "http://[::1]:8080/a?token=secret";
        goes_to(secret, "::1", 8080, false, "/a?token=secret", "http://[::1]:8080/a");
        let address = parse(secret).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            (address.authority.as_bytes(), address.uri.to_string().as_str()),
            (b"[::1]:8080".as_slice(), secret)
        );
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in ["ftp://hub.example", "hub.example", "unix:/run/x", "/path"] {
            let error = parse(text).err().expect("no address");
            assert_eq!(error.kind(), Kind::Misconfigured, "{text}");
            assert!(!error.to_string().contains("hub"), "{error}");
        }
        is_refused("wsss://hub.example/", "an address begins with ws:// or wss://");
        is_refused("httpx://hub.example/", "an address begins with http:// or https://");
        is_refused("http://me:secret@hub.example/", "credentials do not belong into the address");
        is_refused("ws://hub.example:70000/", "a port is a number up to 65535");
        is_refused("http:// /", "not an address");
    }
}
