//! How long work tells how far it is, and how it is stopped.

use std::fmt;
use std::ops::ControlFlow;

use rusqlite::Error;

/// Units of work between two calls of a watcher: often enough that a person sees movement and a cancel is obeyed within
/// milliseconds, rarely enough that the calls cost nothing beside the work.
const STEP: u64 = 1024;

/// What a long call is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// A populated table gets its clocks; counted in rows.
    Upgrade,
    /// Changes are merged; counted in rows.
    Merge,
    /// A snapshot copies the database; counted in bytes, and the total is an estimate.
    Copy,
    /// A snapshot takes out what is this replica's own; counted in records.
    Strip,
    /// Chunks of a snapshot are hashed; counted in bytes.
    Hash,
    /// A received image is checked; counted in records.
    Check,
    /// Rows that a peer deleted and has forgotten are looked for; counted in rows.
    Prune,
    /// A compaction looks for what can go; counted in records.
    Survey,
    /// A compaction drops it; counted in records.
    Sweep,
}

/// How far a long call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is busy with. A call may go through several phases, each counted from 0.
    pub phase: Phase,
    /// Units of the phase that are done.
    pub done: u64,
    /// Units of the phase in all, as far as is known; never below `done`.
    pub total: u64,
}

/// What a long call reports to. `Break` cancels the call: it gives up at the next safe place, and says so in its error.
///
/// It is called on the thread that does the work, in the middle of it, so it must not use the store.
pub type Watcher<'w> = dyn FnMut(Progress) -> ControlFlow<()> + 'w;

/// The watcher of a long call cancelled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub(crate) struct Cancelled;

/// Why a long piece of work ended early.
#[derive(Debug)]
pub(crate) enum Halt {
    Cancelled,
    Sqlite(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Cancelled> for Halt {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Counts work and tells the watcher, if there is one.
pub(crate) struct Reporter<'w> {
    watcher: Option<&'w mut Watcher<'w>>,
    now: Progress,
    /// The count at which the watcher is told again.
    next: u64,
}

impl fmt::Debug for Reporter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").field("now", &self.now).finish_non_exhaustive()
    }
}

impl<'w> Reporter<'w> {
    pub(crate) fn to(watcher: &'w mut Watcher<'w>) -> Self {
        Self { watcher: Some(watcher), ..Self::silent() }
    }

    /// Nobody watches, and nothing is ever cancelled.
    pub(crate) fn silent() -> Self {
        Self { watcher: None, now: Progress { phase: Phase::Merge, done: 0, total: 0 }, next: 0 }
    }

    /// Whether counting ahead is worth anything.
    pub(crate) fn is_watched(&self) -> bool {
        self.watcher.is_some()
    }

    /// A phase begins.
    pub(crate) fn begin(&mut self, phase: Phase, total: u64) -> Result<(), Cancelled> {
        self.now = Progress { phase, done: 0, total };
        self.tell()
    }

    /// So much more is done.
    pub(crate) fn add(&mut self, units: u64) -> Result<(), Cancelled> {
        self.now.done += units;
        if self.now.done < self.next { Ok(()) } else { self.tell() }
    }

    /// So much more is done, in one go that took a while.
    pub(crate) fn batch(&mut self, units: u64) -> Result<(), Cancelled> {
        self.now.done += units;
        self.tell()
    }

    /// So much is done.
    pub(crate) fn set(&mut self, done: u64) -> Result<(), Cancelled> {
        self.now.done = done;
        self.tell()
    }

    /// The phase is over.
    pub(crate) fn end(&mut self) -> Result<(), Cancelled> {
        self.now.done = self.now.done.max(self.now.total);
        self.tell()
    }

    fn tell(&mut self) -> Result<(), Cancelled> {
        self.next = self.now.done + STEP;
        self.now.total = self.now.total.max(self.now.done);
        match self.watcher.as_mut().map(|watcher| watcher(self.now)) {
            Some(ControlFlow::Break(())) => Err(Cancelled),
            Some(ControlFlow::Continue(())) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_told_at_the_ends_and_now_and_then() {
        let mut seen = Vec::new();
        let mut watcher = |progress: Progress| {
            seen.push((progress.done, progress.total));
            ControlFlow::Continue(())
        };
        let mut reporter = Reporter::to(&mut watcher);
        reporter.begin(Phase::Merge, 2500).expect("not cancelled");
        (0..2500).for_each(|_| reporter.add(1).expect("not cancelled"));
        reporter.end().expect("not cancelled");
        assert_eq!(seen, [(0, 2500), (1024, 2500), (2048, 2500), (2500, 2500)]);
    }

    #[test]
    fn a_break_cancels_and_a_total_that_was_too_small_grows() {
        let mut seen = Vec::new();
        let mut watcher = |progress: Progress| {
            seen.push((progress.done, progress.total));
            if progress.done > 1000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let mut reporter = Reporter::to(&mut watcher);
        assert_eq!(reporter.begin(Phase::Merge, 10), Ok(()));
        assert_eq!(reporter.add(5000), Err(Cancelled));
        assert_eq!(seen, [(0, 10), (5000, 5000)]);
    }
}
