//! Where a broker is, and under what name a replica listens there.

use opor_transport_traits::{Peer, TransportError, TransportErrorKind as Kind};

/// The port that brokers listen on unless told otherwise.
const PORT: u16 = 4222;

/// The most bytes of a name: subjects stay far below what brokers take in one line, 4 KiB.
const NAME_MAX: usize = 128;

/// An address taken apart: `nats://host:port/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// With port, without name.
    pub(crate) broker: String,
    pub(crate) name: String,
    pub(crate) secure: bool,
    pub(crate) public: Peer,
}

impl Address {
    /// # Errors
    /// `Misconfigured`, without repeating what may be a secret.
    pub(crate) fn parse(text: &str) -> Result<Self, TransportError> {
        let (secure, rest) = match (text.strip_prefix("nats://"), text.strip_prefix("tls://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(wrong("an address begins with nats:// or tls://")),
        };
        let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(wrong("credentials do not belong into the address"));
        }
        if name.is_empty() || name.len() > NAME_MAX || name.contains(['?', '#']) {
            return Err(wrong("an address ends with the name of a listener: nats://host/name"));
        }
        let broker = broker(authority, secure)?;
        let public = Peer::new(format!("{broker}/{name}"));
        Ok(Self { broker, name: name.to_owned(), secure, public })
    }
}

/// The address of a broker alone, with its port.
pub(crate) fn broker(authority: &str, secure: bool) -> Result<String, TransportError> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
    if host.is_empty() || !host.chars().all(is_host) {
        return Err(wrong("an address names a host"));
    }
    let port = match port {
        None => PORT,
        Some(port) => port.parse().map_err(|_| wrong("a port is a number up to 65535"))?,
    };
    Ok(format!("{}://{host}:{port}", if secure { "tls" } else { "nats" }))
}

fn wrong(what: &str) -> TransportError {
    TransportError::new(Kind::Misconfigured, format!("nats: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes_to(text: &str, broker: &str, name: &str) {
        let address = Address::parse(text).expect("an address");
        assert_eq!((&*address.broker, &*address.name), (broker, name));
        assert_eq!(address.public.as_str(), format!("{broker}/{name}"));
    }

    #[track_caller]
    fn is_refused(text: &str, due: &str) {
        let error = Address::parse(text).expect_err("no address");
        assert_eq!(error.to_string(), format!("transport is not set up right: nats: {due}"));
    }

    #[test]
    fn addresses_are_taken_apart() {
        goes_to("nats://broker.example/garden", "nats://broker.example:4222", "garden");
        goes_to("tls://broker.example:443/a/b", "tls://broker.example:443", "a/b");
        goes_to("nats://[::1]:4000/x", "nats://[::1]:4000", "x");
        goes_to("nats://[::1]/x", "nats://[::1]:4222", "x");
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        is_refused("ws://broker/garden", "an address begins with nats:// or tls://");
        is_refused("nats://me:secret@broker/x", "credentials do not belong into the address");
        is_refused("nats://broker/", "an address ends with the name of a listener: nats://host/name");
        is_refused("nats://broker", "an address ends with the name of a listener: nats://host/name");
        is_refused("nats://broker:70000/x", "a port is a number up to 65535");
        is_refused("nats://bro ker/x", "an address names a host");
    }
}
