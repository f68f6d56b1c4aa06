//! The contract of a transport as tests: one case for each sentence of [`opor_transport_traits::contract`].
//!
//! Whoever writes a transport describes it in a [`Fixture`] and writes [`suite!`] in a test file. That makes one `#[test]`
//! for each sentence, with its name. `docs/writing-a-transport.md` in the repository goes through it step by step.
//!
//! Each case runs on a tokio runtime of its own (several threads, timers, IO), under a watchdog: what hangs fails, and
//! says what it was waiting for. Some cases find out whether a call waits by giving it a quarter of a second; a slow
//! machine can make such a case see less than there is, never more.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use opor_transport_conformance::{Endpoint, Fixture, FixtureError};
//! use opor_transport_traits::{Dialer, async_trait};
//! use opor_transport_memory::MemoryNetwork;
//!
//! struct Memory(MemoryNetwork);
//!
//! #[async_trait]
//! impl Fixture for Memory {
//!     async fn endpoint(&self) -> Result<Endpoint, FixtureError> {
//!         Ok(Endpoint::new(self.0.listen("hub")?, self.0.dialer("phone", "hub")))
//!     }
//!
//!     async fn nobody(&self) -> Result<Arc<dyn Dialer>, FixtureError> {
//!         Ok(Arc::new(self.0.dialer("phone", "nobody")))
//!     }
//! }
//!
//! opor_transport_conformance::suite!(Memory(MemoryNetwork::new()));
//! # fn main() {}
//! ```

mod breach;
mod case;
mod cases;
mod expect;
mod fixture;
mod flood;
mod payload;
mod run;
mod scene;

pub use case::{CASES, Case};
pub use fixture::{Cut, Endpoint, Fixture, FixtureError, Manner, Stranger};
pub use run::{Failure, FailureKind, check};

#[doc(hidden)]
pub use run::check_or_panic;
