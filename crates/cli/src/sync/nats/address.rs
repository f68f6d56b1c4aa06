//! Where a room of a broker is: `nats://HOST:PORT/ROOM`, and what lets us in there.

use std::fmt;

use anyhow::{Context, anyhow, ensure};
use opor_hub::RoomName;
use opor_transport_nats::NatsOptions;

use crate::trust::Trust;

/// The other side.
pub(crate) struct Address {
    /// Without what may be secret.
    pub(crate) shown: String,
    /// The address of the broker, without credentials.
    pub(crate) broker: String,
    pub(crate) room: RoomName,
    pub(crate) options: NatsOptions,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("shown", &self.shown).finish_non_exhaustive()
    }
}

/// Whether an address is one of a broker.
pub(crate) fn is_one(url: &str) -> bool {
    url.starts_with("nats://") || url.starts_with("tls://")
}

impl Address {
    /// Takes an address apart. Credentials in it, NAME:PASSWORD@ or TOKEN@, go before the `token`.
    ///
    /// # Errors
    /// When it is none. What may be a secret is not repeated.
    pub(crate) fn parse(url: &str, token: Option<&str>) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_once("://").context("an address begins with nats:// or tls://")?;
        let wanted =
            || "the address of a room at a broker ends with its name, as in nats://127.0.0.1:4222/garden";
        let (authority, room) = rest.rsplit_once('/').with_context(wanted)?;
        let room = RoomName::new(room).with_context(wanted)?;
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        ensure!(!host.contains('/'), wanted());
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        ensure!(!host.is_empty() && host.chars().all(is_host), "the address names no host");
        let options = match (userinfo, token) {
            (Some(userinfo), _) => credentials(userinfo)?,
            (None, Some(token)) => NatsOptions::new().with_token(token),
            (None, None) => NatsOptions::new(),
        };
        let broker = format!("{scheme}://{host}");
        Ok(Self { shown: format!("{broker}/{room}"), broker, room, options })
    }

    /// Trusts these, where TLS is used.
    pub(crate) fn trusting(mut self, trust: &Trust) -> Self {
        self.options = self.options.with_tls(trust.config());
        self
    }
}

fn credentials(userinfo: &str) -> anyhow::Result<NatsOptions> {
    let part = |text| {
        let plain = unescaped(text).filter(|plain| !plain.is_empty());
        plain.ok_or_else(|| anyhow!("the credentials in the address are empty or badly escaped"))
    };
    Ok(match userinfo.split_once(':') {
        Some((name, password)) => NatsOptions::new().with_user(part(name)?, part(password)?),
        None => NatsOptions::new().with_token(part(userinfo)?),
    })
}

/// Undoes `%40` and the like; nothing where that makes no text.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match byte {
            b'%' => bytes.push(u8::try_from(hex(rest.next())? * 16 + hex(rest.next())?).ok()?),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_refused(url: &str, why: &str) {
        let error = Address::parse(url, None).expect_err("no address");
        assert!(format!("{error:#}").contains(why), "{error:#}");
        assert!(!format!("{error:#}").contains("s3cret"), "{error:#}");
    }

    #[test]
    fn an_address_names_a_broker_and_a_room() {
        let address = Address::parse("nats://127.0.0.1:4222/garden", None).expect("an address");
        assert_eq!((&*address.broker, address.room.as_str()), ("nats://127.0.0.1:4222", "garden"));
        let address = Address::parse("tls://ann:s3cret%40@[::1]:1/r", Some("other")).expect("an address");
        assert_eq!(address.shown, "tls://[::1]:1/r");
        assert!(format!("{:?}", address.options).contains("\"user\""), "{:?}", address.options);
        let address = Address::parse("nats://host/r", Some("s3cret")).expect("an address");
        assert!(format!("{:?}", address.options).contains("\"token\""), "{:?}", address.options);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescaped("a%40b%3a"), Some("a@b:".to_owned()));
        assert_eq!(unescaped("%4"), None);
        assert_eq!(unescaped("%+f"), None);
        assert_eq!(unescaped("%ff"), None);
    }

    #[test]
    fn what_is_none_is_refused_with_the_mend() {
        is_refused("nats://host", "ends with its name");
        is_refused("nats://host/", "ends with its name");
        is_refused("nats://s3cret@host/a.b", "letters, digits, _ and - are allowed");
        is_refused("nats:///garden", "names no host");
        is_refused("nats://u:s3cret%zz@host/garden", "badly escaped");
        is_refused("nats://u:@host/garden", "empty");
    }
}
