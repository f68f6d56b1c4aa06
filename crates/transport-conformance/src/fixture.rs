//! What the kit must know of a transport to test it.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opor_transport_traits::{Dialer, Listener, async_trait};

/// Why a fixture could not set something up. Any error will do: the case fails with its text.
pub type FixtureError = Box<dyn Error + Send + Sync>;

/// A transport under test. One fixture serves one case; several of them run at once, in threads of one process, so they
/// must not share addresses.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// A listener, and a dialer that reaches it. May be called several times; each endpoint is another one.
    ///
    /// # Errors
    /// Whatever stands in the way.
    async fn endpoint(&self) -> Result<Endpoint, FixtureError>;

    /// A dialer to a place where nobody listens.
    ///
    /// # Errors
    /// Whatever stands in the way.
    async fn nobody(&self) -> Result<Arc<dyn Dialer>, FixtureError>;

    /// An endpoint whose wire can be cut, if the transport or the test can do so: a proxy between the two that is
    /// stopped, say. Without it, the cases about loss drop one end, and see the other only.
    ///
    /// # Errors
    /// Whatever stands in the way.
    async fn cuttable(&self) -> Result<Option<(Endpoint, Cut)>, FixtureError> {
        Ok(None)
    }

    /// Somebody who reaches the listener at that address and behaves in this manner. It is there when this returns: whoever
    /// dials afterwards comes after it. Nobody accepts meanwhile. `None` means that nobody can: the transport
    /// has no handshake, or no bytes that could be wrong. Cases about handshakes then give up ordinary dials.
    ///
    /// # Errors
    /// Whatever stands in the way.
    async fn stranger(&self, address: &str, manner: Manner) -> Result<Option<Stranger>, FixtureError> {
        let _ = (address, manner);
        Ok(None)
    }

    /// What no description, error or debug output may show: the passwords and tokens that the fixture uses.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// After how long a case is taken to hang.
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// The longest case takes about a second; a machine that is thirty times slower still passes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listener and a dialer that reaches it.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) listener: Box<dyn Listener>,
    pub(crate) dialer: Arc<dyn Dialer>,
}

impl Endpoint {
    /// Puts the two together.
    #[must_use]
    pub fn new(listener: impl Listener + 'static, dialer: impl Dialer + 'static) -> Self {
        Self::boxed(Box::new(listener), Arc::new(dialer))
    }

    /// As [`new`](Self::new), for parts whose type is not known.
    #[must_use]
    pub fn boxed(listener: Box<dyn Listener>, dialer: Arc<dyn Dialer>) -> Self {
        Self { listener, dialer }
    }

    /// The parts.
    #[must_use]
    pub fn into_parts(self) -> (Box<dyn Listener>, Arc<dyn Dialer>) {
        (self.listener, self.dialer)
    }
}

/// How a stranger behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Connects and goes away in the middle of it.
    Leaves,
    /// Says what it should not.
    Babbles,
    /// Says nothing, and stays.
    Stalls,
    /// Completes the handshake, then sends what the rules of the transport forbid, and stays.
    BreaksRules,
}

/// A stranger; it stays until dropped.
pub struct Stranger(#[expect(dead_code, reason = "kept for its drop")] Box<dyn Any + Send>);

impl Stranger {
    /// Keeps the connection, or whatever stands for it.
    #[must_use]
    pub fn new(connection: impl Any + Send) -> Self {
        Self(Box::new(connection))
    }
}

impl fmt::Debug for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stranger").finish_non_exhaustive()
    }
}

/// Cuts the wire of an endpoint: all its links are lost.
pub struct Cut(Box<dyn FnOnce() + Send>);

impl Cut {
    /// Keeps what to do.
    #[must_use]
    pub fn new(cut: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(cut))
    }

    pub(crate) fn now(self) {
        (self.0)();
    }
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cut").finish_non_exhaustive()
    }
}
