//! Where a dialer goes.

use hyper::Uri;
use hyper::header::HeaderValue;
use opor_transport_traits::{Peer, TransportError, TransportErrorKind as Kind};

/// An address of a server, taken apart.
#[derive(Clone)]
pub(crate) struct Url {
    /// Path and query, as a request has them. May hold secrets.
    pub(crate) target: Uri,
    /// Host and port, as the header of that name has them.
    pub(crate) authority: HeaderValue,
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
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("an address begins with http:// or https://")),
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
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let scheme = if secure { "https" } else { "http" };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = path.parse().map_err(|error| wrong("not an address").with_source(error))?;
        let header = HeaderValue::from_str(authority);
        Ok(Self {
            target,
            authority: header.map_err(|error| wrong("not an address").with_source(error))?,
            host: host.to_owned(),
            port,
            secure,
            public: Peer::new(format!("{scheme}://{authority}{}", uri.path())),
        })
    }
}

fn wrong(what: &str) -> TransportError {
    TransportError::new(Kind::Misconfigured, format!("http: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes_to(text: &str, host: &str, port: u16, secure: bool, target: &str, public: &str) {
        let url = Url::parse(text).expect("an address");
        assert_eq!((&*url.host, url.port, url.secure), (host, port, secure));
        assert_eq!((&*url.target.to_string(), url.public.as_str()), (target, public));
    }

    #[track_caller]
    fn is_refused(text: &str, due: &str) {
        let error = Url::parse(text).err().expect("no address");
        assert_eq!(error.kind(), Kind::Misconfigured);
        assert_eq!(error.to_string(), format!("transport is not set up right: http: {due}"));
    }

    #[test]
    fn addresses_are_taken_apart() {
        goes_to("http://hub.example", "hub.example", 80, false, "/", "http://hub.example/");
        let garden = "https://hub.example/sync/garden";
        goes_to(garden, "hub.example", 443, true, "/sync/garden", garden);
        let secret = "http://[::1]:8080/a?token=secret";
        goes_to(secret, "::1", 8080, false, "/a?token=secret", "http://[::1]:8080/a");
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for text in ["ws://hub.example", "hub.example", "unix:/run/x", "/path"] {
            let error = Url::parse(text).err().expect("no address");
            assert_eq!(error.kind(), Kind::Misconfigured, "{text}");
            assert!(!error.to_string().contains("hub"), "{error}");
        }
        is_refused("wss://hub.example/", "an address begins with http:// or https://");
        is_refused("http://me:secret@hub.example/", "credentials do not belong into the address");
        is_refused("http://hub.example:70000/", "a port is a number up to 65535");
        is_refused("http:// /", "not an address");
    }
}
