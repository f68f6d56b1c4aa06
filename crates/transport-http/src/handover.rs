//! From where links are made to where they are accepted.

use opor_transport_traits::{Link, Listener, TransportError, TransportErrorKind as Kind, async_trait};
use tokio::sync::mpsc;

/// How many links wait to be accepted. A session is begun in much less time than a link takes to open.
const WAITING_MAX: usize = 64;

/// Makes a [`Listener`] out of a place where links appear: of a web server that hands requests to an
/// [`HttpServer`](crate::HttpServer), say. `address` is where dialers find it.
#[must_use]
pub fn handover(address: impl Into<String>) -> (Handover, Accepted) {
    let (links, waiting) = mpsc::channel(WAITING_MAX);
    (Handover(links), Accepted { address: address.into(), links: waiting })
}

/// Where links are put in. Clones put them into the same place.
#[derive(Clone, Debug)]
pub struct Handover(mpsc::Sender<Link>);

impl Handover {
    /// Puts a link in. It is lost, and this says no, when too many wait already, or when nobody listens any more.
    #[must_use]
    pub fn give(&self, link: Link) -> bool {
        self.0.try_send(link).is_ok()
    }

    /// Whether nobody listens any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until nobody listens any more.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Where links come out. It ends when every [`Handover`] to it has been dropped.
#[derive(Debug)]
pub struct Accepted {
    address: String,
    links: mpsc::Receiver<Link>,
}

#[async_trait]
impl Listener for Accepted {
    fn address(&self) -> &str {
        &self.address
    }

    async fn accept(&mut self) -> Result<Link, TransportError> {
        let gone = || TransportError::new(Kind::Exhausted, "http: the server that listened has ended");
        self.links.recv().await.ok_or_else(gone)
    }
}
