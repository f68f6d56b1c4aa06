//! The tests of opor-sync-proto that need nothing but its public API.
#![expect(clippy::unwrap_used, reason = "a helper that finds something missing fails its test")]

mod codec;
mod flow;
mod golden;
mod handshake;
mod hostile;
mod lone;
mod replica;
mod rng;
mod simulator;
mod snapshots;
mod standoff;
mod timeouts;
mod world;
