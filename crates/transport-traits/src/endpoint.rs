//! The two ways to get a link: to dial, and to be dialled.

use std::fmt;

use async_trait::async_trait;

use crate::error::TransportError;
use crate::link::Link;
use crate::peer::Peer;

/// Reaches one listener, as often as asked. It holds all it takes to do so: address, credentials, certificates.
#[async_trait]
pub trait Dialer: fmt::Debug + Send + Sync {
    /// Whom it dials, for logs and status displays.
    fn target(&self) -> &Peer;

    /// Opens a new link. It is done when the listener's side has answered.
    ///
    /// # Errors
    /// Any kind but `Lost`, `Closed` and `FrameTooLarge`, which are about links. Nothing is left behind, and the dialer
    /// can dial again.
    ///
    /// # Cancel safety
    /// Dropping the future gives the dial up. The listener may still return a link for it, which is lost at once.
    async fn dial(&self) -> Result<Link, TransportError>;
}

/// For those who choose a transport while they run.
#[async_trait]
impl<D: Dialer + ?Sized> Dialer for Box<D> {
    fn target(&self) -> &Peer {
        (**self).target()
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        (**self).dial().await
    }
}

/// Is reached by dialers. It listens from the moment it exists until it is dropped; the links that it returned go on
/// without it.
#[async_trait]
pub trait Listener: fmt::Debug + Send {
    /// Where it listens, in the form that dialers of this transport take: with the port, say, that the system chose.
    fn address(&self) -> &str;

    /// The next link. A dial that fails in its handshake is none: the listener waits on.
    ///
    /// # Errors
    /// The listener has failed as a whole, and every later call fails too. What a dialer does is no reason for that.
    ///
    /// # Cancel safety
    /// Safe: a link that has not been returned, a later call returns.
    async fn accept(&mut self) -> Result<Link, TransportError>;
}
