//! Dialling and listening under names.

use std::fmt;

use opor_transport_traits::{Dialer, Link, Listener, Peer, TransportError, async_trait};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::network::{Knock, MemoryNetwork, unreachable};

/// A dial that waits to be accepted. Dropped, it has failed.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) dialler: Link,
    pub(crate) accepted: Link,
    pub(crate) answer: oneshot::Sender<Link>,
}

/// Reaches the listener of one name; made by [`MemoryNetwork::dialer`].
#[derive(Clone)]
pub struct MemoryDialer {
    network: MemoryNetwork,
    from: Box<str>,
    to: Box<str>,
    target: Peer,
}

/// Listens under a name; made by [`MemoryNetwork::listen`]. Dropping it frees the name.
pub struct MemoryListener {
    network: MemoryNetwork,
    name: Box<str>,
    dials: mpsc::Receiver<Dialled>,
}

impl MemoryDialer {
    pub(crate) fn new(network: MemoryNetwork, from: Box<str>, to: Box<str>) -> Self {
        let target = Peer::new(format!("memory:{to}"));
        Self { network, from, to, target }
    }
}

impl MemoryListener {
    pub(crate) fn new(network: MemoryNetwork, name: Box<str>, dials: mpsc::Receiver<Dialled>) -> Self {
        Self { network, name, dials }
    }
}

#[async_trait]
impl Dialer for MemoryDialer {
    fn target(&self) -> &Peer {
        &self.target
    }

    async fn dial(&self) -> Result<Link, TransportError> {
        let latency = self.network.latency();
        if !latency.is_zero() {
            sleep(latency).await;
        }
        let Knock { listener, dialled, answered } = self.network.wire(&self.from, &self.to)?;
        // The listener is dropped, now or while the dial waits: then nobody listens.
        listener.send(dialled).await.map_err(|_| unreachable(&self.to))?;
        answered.await.map_err(|_| unreachable(&self.to))
    }
}

#[async_trait]
impl Listener for MemoryListener {
    fn address(&self) -> &str {
        &self.name
    }

    async fn accept(&mut self) -> Result<Link, TransportError> {
        loop {
            let dialled = self.dials.recv().await;
            let Dialled { dialler, accepted, answer } =
                dialled.expect("the network keeps a sender as long as the listener is there");
            // A dial that has been given up takes no answer, and its link is none.
            if answer.send(dialler).is_ok() {
                return Ok(accepted);
            }
        }
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        self.network.forget(&self.name);
    }
}

impl fmt::Debug for MemoryDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDialer").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}

impl fmt::Debug for MemoryListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryListener").field("name", &self.name).finish_non_exhaustive()
    }
}
