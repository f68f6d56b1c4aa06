//! How a server treats its links.

use std::time::Duration;

/// Proxies give a silent request up after 30 or 60 seconds.
const HOLD: Duration = Duration::from_secs(25);

/// Two requests of a client may be lost, and a short tunnel passed.
const EXPIRY: Duration = Duration::from_secs(60);

/// Below the 30 seconds after which the strictest of the usual proxies cut a silent response.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A client asks for its messages as soon as it has its id.
const CLAIM: Duration = Duration::from_secs(10);

/// The largest batch over 150 kbit/s.
const BODY: Duration = Duration::from_secs(30);

/// Each may hold two windows: 4 GiB in the worst case, which `held_max` cuts short.
const LINKS_MAX: usize = 2048;

/// A few devices behind one address, or a few tabs of one person.
const LINKS_PER_PEER_MAX: usize = 32;

/// What a small server can spare.
const HELD_MAX: usize = 256 * 1024 * 1024;

/// Times and limits of an [`HttpServer`](crate::HttpServer).
///
/// ```
/// use std::time::Duration;
/// use opor_transport_http::ServerOptions;
///
/// let options = ServerOptions::default().with_links_max(100).with_expiry(Duration::from_secs(120));
/// ```
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub(crate) hold: Duration,
    pub(crate) expiry: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) claim: Duration,
    pub(crate) body: Duration,
    pub(crate) links_max: usize,
    pub(crate) links_per_peer_max: usize,
    pub(crate) held_max: usize,
    pub(crate) compress: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            hold: HOLD,
            expiry: EXPIRY,
            keep_alive: KEEP_ALIVE,
            claim: CLAIM,
            body: BODY,
            links_max: LINKS_MAX,
            links_per_peer_max: LINKS_PER_PEER_MAX,
            held_max: HELD_MAX,
            compress: cfg!(feature = "zstd"),
        }
    }
}

impl ServerOptions {
    /// Answers a request that waits, for messages or for room, after so long at the latest: 25 seconds unless told
    /// otherwise. Proxies on the way must bear it.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Gives a link up when no request of its client has come for so long: 60 seconds unless told otherwise. Clients send
    /// one in a quarter of that time, whatever else they do.
    #[must_use]
    pub fn with_expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// Says on a silent event stream that it is there, every so often: 15 seconds unless told otherwise.
    #[must_use]
    pub fn with_keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive;
        self
    }

    /// Gives up on a client that opened a link and never asked for its messages: after 10 seconds unless told otherwise.
    #[must_use]
    pub fn with_claim(mut self, claim: Duration) -> Self {
        self.claim = claim;
        self
    }

    /// Gives up on a body that has not arrived after so long: 30 seconds unless told otherwise.
    #[must_use]
    pub fn with_body(mut self, body: Duration) -> Self {
        self.body = body;
        self
    }

    /// So many links at most: 2,048 unless told otherwise.
    #[must_use]
    pub fn with_links_max(mut self, links_max: usize) -> Self {
        self.links_max = links_max;
        self
    }

    /// So many links at most of one [`Caller`](crate::Caller): 32 unless told otherwise.
    #[must_use]
    pub fn with_links_per_peer_max(mut self, links_per_peer_max: usize) -> Self {
        self.links_per_peer_max = links_per_peer_max;
        self
    }

    /// Opens no more links while so many bytes are held for those that there are: 256 MiB unless told otherwise.
    #[must_use]
    pub fn with_held_max(mut self, held_max: usize) -> Self {
        self.held_max = held_max;
        self
    }

    /// Neither takes compressed batches nor makes them.
    #[must_use]
    pub fn without_compression(mut self) -> Self {
        self.compress = false;
        self
    }
}
