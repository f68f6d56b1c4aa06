//! What the thread has done so far, in numbers.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Counts since live queries were started; see [`Live::stats`](crate::Live::stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveStats {
    /// Different queries that are open: the same statement with the same parameters is one.
    pub queries: usize,
    /// How often all results were brought to a newer commit.
    pub turns: u64,
    /// How often a query was run because something may have changed for it.
    pub runs: u64,
    /// How often of these it was asked only about the rows that changed; see [`Tier`](crate::Tier).
    pub scoped_runs: u64,
    /// How often its result was another, and whoever waits for it was woken.
    pub updates: u64,
    /// How often a query was run although nothing should have changed; see [`LiveOptions::check_one_in`](crate::LiveOptions).
    pub checks: u64,
    /// How often it had changed all the same. It should be 0: more is a fault of opor, and worth a report.
    pub divergences: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    queries: AtomicUsize,
    turns: AtomicU64,
    runs: AtomicU64,
    scoped_runs: AtomicU64,
    updates: AtomicU64,
    checks: AtomicU64,
    divergences: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> LiveStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LiveStats {
            queries: self.queries.load(Ordering::Relaxed),
            turns: load(&self.turns),
            runs: load(&self.runs),
            scoped_runs: load(&self.scoped_runs),
            updates: load(&self.updates),
            checks: load(&self.checks),
            divergences: load(&self.divergences),
        }
    }

    pub(crate) fn open(&self, queries: usize) {
        self.queries.store(queries, Ordering::Relaxed);
    }

    pub(crate) fn ran(&self, runs: usize, updates: usize) {
        self.runs.fetch_add(runs as u64, Ordering::Relaxed);
        self.updates.fetch_add(updates as u64, Ordering::Relaxed);
    }

    pub(crate) fn scoped(&self) {
        self.scoped_runs.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a turn, and says whether a check is due in it.
    pub(crate) fn turn(&self, check_one_in: u32) -> Option<u64> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        (check_one_in > 0 && turn.is_multiple_of(u64::from(check_one_in))).then_some(turn)
    }

    pub(crate) fn checked(&self, agrees: bool) {
        self.checks.fetch_add(1, Ordering::Relaxed);
        self.divergences.fetch_add(u64::from(!agrees), Ordering::Relaxed);
    }
}
