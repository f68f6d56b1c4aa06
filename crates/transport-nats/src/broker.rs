//! A connection to a broker, and when it breaks.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerInfo};
use opor_transport_traits::{TransportError, TransportErrorKind as Kind};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::address::broker;
use crate::options::{Credentials, NatsOptions};
use crate::wire::{PIECE_HEAD, PIECE_MAX};

/// The least that a broker must take as one message: enough for the largest frame in a thousand pieces.
const MESSAGE_LEAST: usize = 1024 + PIECE_HEAD;

/// How often the broker is asked whether it is there, while nothing comes from it: below the 30 s after which routers forget a
/// connection. One that does not answer twice is taken to be gone.
const PING_EVERY: Duration = Duration::from_secs(20);

/// The first version that tells who publishes to a subject that nobody listens to.
const VERSION_LEAST: (i64, i64, i64) = (2, 2, 0);

/// A connection to a broker. Cheap to clone; it ends when the last clone and all that uses it are gone.
///
/// When it breaks it is made anew, by the library below. What was on its way is lost then, so whoever cannot do without
/// watches [`breaks`](Self::breaks).
#[derive(Clone)]
pub struct Broker {
    client: Client,
    breaks: watch::Receiver<u64>,
    address: Arc<str>,
}

impl Broker {
    /// Connects to a broker at an address like `nats://host:4222` or `tls://host`.
    ///
    /// # Errors
    /// `Unreachable`, `TimedOut`, `Refused` when the credentials are not good, `Incompatible` when it is another kind of server
    /// or too old, `Misconfigured` for addresses, files and certificates.
    ///
    /// # Cancel safety
    /// Dropped, the connection is given up.
    pub async fn connect(address: &str, options: &NatsOptions) -> Result<Self, TransportError> {
        let wrong = |what| TransportError::new(Kind::Misconfigured, format!("nats: {what}"));
        let (secure, rest) = match (address.strip_prefix("nats://"), address.strip_prefix("tls://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(wrong("an address begins with nats:// or tls://")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(wrong("credentials do not belong into the address"));
        }
        Self::reach(&broker(authority, secure)?, options).await
    }

    /// Connects to an address that has been checked.
    pub(crate) async fn reach(address: &str, options: &NatsOptions) -> Result<Self, TransportError> {
        let failure = |kind| TransportError::new(kind, address);
        let (broken, breaks) = watch::channel(0);
        let config = prepare(address, options, broken).await?;
        let connected = timeout(options.connect_timeout, config.connect(address)).await;
        let connected = connected.map_err(|elapsed| failure(Kind::TimedOut).with_source(elapsed))?;
        let client = connected.map_err(|error| failure(kind_of(&error)).with_source(error))?;
        let broker = Self { client, breaks, address: address.into() };
        broker.check()?;
        Ok(broker)
    }

    fn check(&self) -> Result<(), TransportError> {
        let info = self.info();
        let too_old =
            |what: String| TransportError::new(Kind::Incompatible, format!("{}: {what}", self.address));
        if !info.headers || !self.is_at_least(VERSION_LEAST) {
            return Err(too_old(format!("nats-server {} is too old, 2.2.0 is the least", info.version)));
        }
        if info.max_payload < MESSAGE_LEAST {
            return Err(too_old(format!("takes messages of {} bytes at most", info.max_payload)));
        }
        Ok(())
    }

    /// The client of the library below.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// What the server says of itself.
    #[must_use]
    pub fn info(&self) -> ServerInfo {
        self.client.server_info()
    }

    /// Whether the server is of this version or newer.
    #[must_use]
    pub fn is_at_least(&self, (major, minor, patch): (i64, i64, i64)) -> bool {
        self.client.is_server_compatible(major, minor, patch)
    }

    /// How often the connection has broken.
    #[must_use]
    pub fn breaks(&self) -> watch::Receiver<u64> {
        self.breaks.clone()
    }

    /// Where it leads, without credentials.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The most bytes of something that one message carries, beside a head of up to 64 KiB where the broker takes
    /// messages of the default size.
    #[must_use]
    pub fn piece_max(&self) -> usize {
        PIECE_MAX.min((self.client.max_payload() - PIECE_HEAD) / 2)
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn prepare(
    address: &str,
    options: &NatsOptions,
    broken: watch::Sender<u64>,
) -> Result<ConnectOptions, TransportError> {
    let wrong = || TransportError::new(Kind::Misconfigured, address);
    let tls = options.tls_config().map_err(|error| wrong().with_source(error))?;
    let config = ConnectOptions::new()
        .name("opor")
        .connection_timeout(options.connect_timeout)
        .ping_interval(PING_EVERY)
        .tls_client_config(tls)
        .require_tls(address.starts_with("tls://"))
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected | Event::Closed | Event::SlowConsumer(_)) {
                broken.send_modify(|breaks| *breaks += 1);
            }
            std::future::ready(())
        });
    Ok(match &options.credentials {
        Credentials::Nothing => config,
        Credentials::Token(token) => config.token(token.clone()),
        Credentials::User { name, password } => config.user_and_password(name.clone(), password.clone()),
        Credentials::File(path) => {
            config.credentials_file(path).await.map_err(|error| wrong().with_source(error))?
        }
    })
}

/// What it means that the broker was not reached.
fn kind_of(error: &ConnectError) -> Kind {
    match error.kind() {
        ConnectErrorKind::ServerParse => Kind::Misconfigured,
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Kind::Refused,
        ConnectErrorKind::TimedOut => Kind::TimedOut,
        ConnectErrorKind::Tls => Kind::Misconfigured,
        // Either we trust the wrong ones, or it is not the one it should be.
        ConnectErrorKind::Io if is_not_trusted(error) => Kind::Misconfigured,
        ConnectErrorKind::Dns | ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => Kind::Unreachable,
    }
}

/// Whether a connection ended because nobody vouches for the certificate of the broker: the library below has no kind for that.
fn is_not_trusted(error: &ConnectError) -> bool {
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let cause = io.and_then(|io| io.get_ref()?.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}
