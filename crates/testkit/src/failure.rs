//! What a run found wrong.

use std::fmt;

use opor_sync_proto::MonoMillis;

/// What must hold in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Invariant {
    /// In the end all replicas have the same tables and the same log.
    Convergence,
    /// What a replica has acknowledged it holds, for ever; what was committed is in the end everywhere.
    NothingLost,
    /// What was never committed is nowhere.
    NothingInvented,
    /// A transaction is visible as a whole or not at all.
    WholeTransactions,
    /// A query of the schema that must find nothing found something.
    Schema,
    /// A session that has ended says nothing any more.
    ClosedMeansSilent,
    /// A session ends only because of a fault.
    HealthyLinkStaysOpen,
    /// In the end all links are up, and nothing is under way.
    ComesToRest,
    /// What a session holds, and what it has under way, has a limit.
    Bounds,
    /// An acknowledgement follows durability.
    AckAfterDurability,
    /// The cursor of a peer is what was stored with its changes.
    Cursor,
    /// What an honest replica sends is taken.
    HonestIsTaken,
    /// Nothing panics.
    NoPanic,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Convergence => "all replicas end up equal",
            Self::NothingLost => "no acknowledged change is lost",
            Self::NothingInvented => "nothing is there that was not committed",
            Self::WholeTransactions => "transactions are visible as a whole",
            Self::Schema => "a query of the schema never finds anything",
            Self::ClosedMeansSilent => "closed means silent",
            Self::HealthyLinkStaysOpen => "no healthy link is closed",
            Self::ComesToRest => "replicas come to rest, connected",
            Self::Bounds => "queues are bounded",
            Self::AckAfterDurability => "an acknowledgement follows durability",
            Self::Cursor => "a cursor is stored with what it covers",
            Self::HonestIsTaken => "what an honest replica sends is taken",
            Self::NoPanic => "nothing panics",
        })
    }
}

/// Something that must hold and did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {detail} (at {at})")]
pub struct Failure {
    /// What.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
    /// When.
    pub at: MonoMillis,
}
