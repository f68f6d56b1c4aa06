//! The HTTP transport with real sockets: the contract, proxies, strangers on both sides, and replicas.

#[cfg(feature = "tls")]
mod certificate;
mod conformance;
#[path = "../../examples/axum.rs"]
mod example;
mod proxies;
mod proxy;
mod replicas;
mod servers;
mod strangers;
mod web;

use std::error::Error;
use std::time::Duration;

type Fault = Box<dyn Error + Send + Sync>;
type Outcome = Result<(), Fault>;

/// Far more than any test takes: one that hangs ends here.
const WATCHDOG: Duration = Duration::from_secs(60);

#[test]
fn the_example_does_what_it_says() {
    example::main().expect("its assertions hold, and nothing fails");
}
