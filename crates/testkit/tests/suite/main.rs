//! The simulator on this workspace: many seeds, and that it can be trusted.
//!
//! `OPOR_SEED` repeats one run, `OPOR_OPS` changes how many operations there are; `cargo xtask sim` has more choices.

mod seeds;
mod trust;
