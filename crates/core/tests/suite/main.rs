//! The tests of opor-core that need nothing but its public API.

mod fixture;
mod generate;
mod golden;
mod hostile;
mod json;
mod limits;
mod malformed;
mod merge_laws;
mod round_trips;
mod wire_sizes;
