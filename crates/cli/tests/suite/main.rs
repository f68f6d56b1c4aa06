//! The `opor` command as people run it.

mod command;
mod lab;
mod snapshot;
mod support;
