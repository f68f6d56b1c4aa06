//! Where a database is synced with: an address, and what it takes to reach it.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use hyper::Uri;
use opor_hub::RoomName;
use opor_transport_http::HttpDialer;
use opor_transport_traits::Dialer;
use opor_transport_websocket::WebSocketDialer;

use crate::trust::Trust;

/// The other side.
pub(crate) struct Remote {
    /// Without what may be secret.
    pub(crate) shown: String,
    pub(crate) room: RoomName,
    /// Where a hub keeps the schema of the room; other kinds of remotes have none.
    pub(crate) schema: Option<Uri>,
    /// Who may vouch for it; nobody needs to where the address is one without TLS.
    pub(crate) trust: Option<Trust>,
    scheme: Scheme,
    url: String,
}

/// The transports that are built in. Another one is a variant here, a line in [`Scheme::of`] and one in
/// [`Remote::dialer`].
#[derive(Clone, Copy, Debug)]
enum Scheme {
    WebSocket { secure: bool },
    Http { secure: bool },
}

impl Scheme {
    const fn is_secure(self) -> bool {
        let (Self::WebSocket { secure } | Self::Http { secure }) = self;
        secure
    }

    fn of(scheme: Option<&str>) -> anyhow::Result<Self> {
        match scheme {
            Some("ws") => Ok(Self::WebSocket { secure: false }),
            Some("wss") => Ok(Self::WebSocket { secure: true }),
            Some("http") => Ok(Self::Http { secure: false }),
            Some("https") => Ok(Self::Http { secure: true }),
            Some(scheme @ "nats") => {
                bail!("{scheme}:// is not built in; use ws://, wss://, http:// or https://")
            }
            _ => bail!(
                "an address begins with ws://, wss://, http:// or https://, as in ws://127.0.0.1:8787/sync/garden"
            ),
        }
    }
}

impl Remote {
    /// Takes an address apart.
    ///
    /// # Errors
    /// When it is none, or of a kind that is not built in. What may be a secret is not repeated.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().context("the address cannot be understood")?;
        let scheme = Scheme::of(uri.scheme_str())?;
        let authority = uri.authority().context("the address names no host")?;
        let wanted = || "the address of a room ends with /sync/ROOM";
        let (base, room) = uri.path().rsplit_once("/sync/").with_context(wanted)?;
        let room = RoomName::new(room).with_context(wanted)?;
        let http = if scheme.is_secure() { "https" } else { "http" };
        let schema = format!("{http}://{authority}{base}/rooms/{room}/schema");
        let url = match scheme {
            Scheme::WebSocket { .. } => url.to_owned(),
            // People name a room in one way; a hub has another path for each transport.
            Scheme::Http { .. } => {
                let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
                format!("{http}://{authority}{base}/http-sync/{room}{query}")
            }
        };
        Ok(Self {
            shown: format!("{}://{authority}{}", uri.scheme_str().unwrap_or_default(), uri.path()),
            schema: Some(schema.parse().context("the address cannot be understood")?),
            trust: None,
            room,
            scheme,
            url,
        })
    }

    /// Trusts the authorities of this file, or of the usual ones, where the address is one with TLS.
    ///
    /// # Errors
    /// When there is a file, and it cannot be used or is of no use.
    pub(crate) fn trusting(mut self, ca: Option<&Path>) -> anyhow::Result<Self> {
        if self.scheme.is_secure() {
            self.trust = Some(Trust::of(ca)?);
        } else {
            ensure!(ca.is_none(), "--ca is for addresses with TLS: wss://, https:// or tls://");
        }
        Ok(self)
    }

    /// Reaches it.
    ///
    /// # Errors
    /// When the address or the token cannot work.
    pub(crate) fn dialer(&self, token: Option<&str>) -> anyhow::Result<Box<dyn Dialer>> {
        match self.scheme {
            Scheme::WebSocket { .. } => {
                let mut dialer = WebSocketDialer::new(&self.url)?;
                if let Some(trust) = &self.trust {
                    dialer = dialer.with_tls(trust.config());
                }
                if let Some(token) = token {
                    dialer = dialer.with_bearer(token)?;
                }
                Ok(Box::new(dialer))
            }
            Scheme::Http { .. } => {
                let mut dialer = HttpDialer::new(&self.url)?;
                if let Some(trust) = &self.trust {
                    dialer = dialer.with_tls(trust.config());
                }
                if let Some(token) = token {
                    dialer = dialer.with_bearer(token)?;
                }
                Ok(Box::new(dialer))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn goes_to(url: &str, room: &str, schema: &str) {
        let remote = Remote::parse(url).expect("an address");
        assert_eq!((remote.room.as_str(), &*remote.schema.expect("a hub").to_string()), (room, schema));
    }

    #[track_caller]
    fn is_refused(url: &str, why: &str) {
        let error = Remote::parse(url).err().expect("no address");
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }

    #[test]
    fn an_address_names_a_hub_and_a_room() {
        goes_to("ws://127.0.0.1:8787/sync/garden", "garden", "http://127.0.0.1:8787/rooms/garden/schema");
        goes_to("wss://hub.example/opor/sync/a-b", "a-b", "https://hub.example/opor/rooms/a-b/schema");
        goes_to("ws://[::1]:1/sync/r?as=phone", "r", "http://[::1]:1/rooms/r/schema");
        goes_to("http://hub:1/sync/r", "r", "http://hub:1/rooms/r/schema");
        goes_to("https://hub.example/opor/sync/r", "r", "https://hub.example/opor/rooms/r/schema");
        let dialled = Remote::parse("https://hub/a/sync/r?as=phone").expect("an address").url;
        assert_eq!(dialled, "https://hub/a/http-sync/r?as=phone");
        let shown = Remote::parse("ws://hub/sync/r?token=secret").expect("an address").shown;
        assert_eq!(shown, "ws://hub/sync/r");
    }

    #[test]
    fn what_is_none_is_refused_with_the_mend() {
        is_refused("nats://hub/sync/r", "nats:// is not built in");
        is_refused("https://hub/http-sync/r", "ends with /sync/ROOM");
        is_refused("ftp://hub/sync/r", "begins with ws://, wss://, http:// or https://");
        is_refused("garden", "begins with ws://, wss://, http:// or https://");
        is_refused("ws://hub/garden", "ends with /sync/ROOM");
        is_refused("ws://hub/sync/", "ends with /sync/ROOM");
        is_refused("ws://hub/sync/a.b", "letters, digits, _ and - are allowed");
        is_refused("ws://hub/sync/a/b", "ends with /sync/ROOM");
    }
}
