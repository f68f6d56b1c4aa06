//! A seeded simulator of opor replicas: real stores in memory, real sessions, bad links, crashes and wrong clocks, in
//! virtual time.
//!
//! A [`Plan`] says how many replicas there are, who is linked with whom, and how much goes wrong. Its [`Step`]s follow from
//! its seed, and [`run()`] plays them. It checks at every moment that transactions are whole, that what was acknowledged is
//! there, that queues are bounded and that no healthy link is closed; and at the end, when all faults are mended, that
//! replicas come to rest and are equal, tables and logs. The same steps are the same run, on every machine.
//!
//! A run that fails is made shorter with [`shrink()`], and printed and read again as a [`Replay`].
//!
//! Test tables of your own with a [`Schema`]; see [`run()`] for an example. `cargo xtask sim` runs as many seeds as you like.

mod act;
mod check;
mod drive;
mod event;
mod failure;
mod generate;
mod ledger;
mod network;
mod node;
mod plan;
mod replay;
mod rng;
mod run;
mod schema;
mod shrink;
mod tally;
mod trace;
mod work;
mod world;

pub use event::{Event, Step, StepError};
pub use failure::{Failure, Invariant};
pub use plan::{Clocks, Faults, Plan, PlanError, Topology};
pub use replay::{Replay, ReplayError};
pub use rng::Rng;
pub use run::{Report, run};
pub use schema::Schema;
pub use shrink::{Shrunk, shrink};
pub use tally::Tally;
