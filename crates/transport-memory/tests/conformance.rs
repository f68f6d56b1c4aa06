//! The memory transport keeps the contract, with and without latency.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use opor_transport_conformance::{Cut, Endpoint, Fixture, FixtureError};
use opor_transport_memory::MemoryNetwork;
use opor_transport_traits::{Dialer, async_trait};

#[derive(Default)]
struct Memory {
    network: MemoryNetwork,
    listeners: AtomicU32,
}

impl Memory {
    fn with_latency(latency: Duration) -> Self {
        let memory = Self::default();
        memory.network.set_latency(latency);
        memory
    }

    fn hub(&self) -> String {
        format!("hub-{}", self.listeners.fetch_add(1, Ordering::Relaxed))
    }
}

#[async_trait]
impl Fixture for Memory {
    async fn endpoint(&self) -> Result<Endpoint, FixtureError> {
        let hub = self.hub();
        Ok(Endpoint::new(self.network.listen(&*hub)?, self.network.dialer("phone", hub)))
    }

    async fn nobody(&self) -> Result<Arc<dyn Dialer>, FixtureError> {
        Ok(Arc::new(self.network.dialer("phone", "nobody")))
    }

    async fn cuttable(&self) -> Result<Option<(Endpoint, Cut)>, FixtureError> {
        let hub = self.hub();
        let endpoint = Endpoint::new(self.network.listen(&*hub)?, self.network.dialer("phone", &*hub));
        let network = self.network.clone();
        Ok(Some((endpoint, Cut::new(move || network.cut("phone", &hub)))))
    }
}

mod plain {
    use super::Memory;

    opor_transport_conformance::suite!(Memory::default());
}

mod with_latency {
    use std::time::Duration;

    use super::Memory;

    opor_transport_conformance::suite!(Memory::with_latency(Duration::from_millis(3)));
}
