//! The tests of opor-core that need nothing but its public API.

mod fixture;
mod wire_sizes;
