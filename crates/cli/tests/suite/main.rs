//! The `opor` command as people run it.

mod command;
mod lab;
mod running;
mod snapshot;
mod support;
mod sync;
mod sync_refusals;
mod watch;
#[cfg(feature = "nats")]
mod with_nats_server;
