//! The `opor` command as people run it.

mod authority;
mod command;
mod lab;
mod running;
mod snapshot;
mod support;
mod sync;
mod sync_refusals;
mod tls;
mod watch;
#[cfg(feature = "nats")]
mod with_nats_server;
