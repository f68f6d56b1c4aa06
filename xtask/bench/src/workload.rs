//! The workloads: each a function that prepares a database of one side, and measures one thing on it.
//!
//! Where the sides are compared as a ratio a workload gives CPU seconds; else bytes, pages or microseconds.

pub(crate) mod bulk;
pub(crate) mod commits;
pub(crate) mod growth;
pub(crate) mod live;
pub(crate) mod live_merge;
pub(crate) mod memory;
pub(crate) mod merge;
pub(crate) mod read;
pub(crate) mod size;
pub(crate) mod sync;
pub(crate) mod upkeep;
pub(crate) mod wire;
pub(crate) mod worst;
