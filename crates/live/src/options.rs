//! How live queries are kept.

use std::time::Duration;

/// How live queries are kept; see [`Live::start_with`](crate::Live::start_with).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveOptions {
    /// The most rows of one result; a query with more has an error in place of a result. 1,000,000 by default: past that a
    /// result does not fit in the memory of a small device.
    pub rows_max: usize,
    /// How often it is looked whether another process, or another connection, has committed. 20 ms by default; a look takes less than
    /// a microsecond. Commits of the same handle are told at once.
    pub look_for_others: Duration,
    /// Prepared statements that are kept: as many different texts of queries run without being prepared anew. 256 by default.
    pub statements_held: usize,
    /// Whether results tell the [`db_version`](opor_store::Store::db_version) of their snapshot. Off by default: it is looked up
    /// whenever a result changes.
    pub tell_commits: bool,
    /// In every so many turns, run one query for which nothing is thought to have changed, or that was asked only about the rows that
    /// changed, and count whether that was right. 0 by default: never. For those who would rather know.
    pub check_one_in: u32,
    /// When queries are asked only about the rows that changed.
    pub scoped_runs: ScopedRuns,
}

/// When a query is asked only about the rows that changed; see [`Tier::Scoped`](crate::Tier).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScopedRuns {
    /// When that takes fewer steps of SQLite's machine than to run it.
    #[default]
    WhenCheaper,
    /// Whenever it is known which rows changed. For tests, whose tables are small.
    Always,
    /// Never: every query that a commit concerns is run.
    Never,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self {
            rows_max: 1_000_000,
            look_for_others: Duration::from_millis(20),
            statements_held: 256,
            tell_commits: false,
            check_one_in: 0,
            scoped_runs: ScopedRuns::WhenCheaper,
        }
    }
}
