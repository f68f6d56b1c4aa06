//! How far a peer is behind what is committed here.

use std::ops::RangeInclusive;

use opor_core::DbVersion;

/// Versions here, and up to which of them the peer holds everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lag {
    newest: u64,
    held: u64,
    /// The last run of versions that merges of what the peer sent took: it holds those without saying so.
    merged: Option<RangeInclusive<u64>>,
}

impl Lag {
    pub(crate) const fn new(newest: u64, held: u64) -> Self {
        Self { newest, held, merged: None }
    }

    /// Something was committed.
    pub(crate) fn committed(&mut self, version: u64) {
        self.newest = self.newest.max(version);
    }

    /// The peer says that it holds everything up to a version.
    pub(crate) fn acknowledged(&mut self, version: u64) {
        self.held = self.held.max(version);
        self.join();
    }

    /// A merge of what the peer sent took a version.
    pub(crate) fn merged(&mut self, version: u64) {
        let run = self.merged.take().filter(|run| run.end().checked_add(1) == Some(version));
        self.merged = Some(run.map_or(version, |run| *run.start())..=version);
        self.committed(version);
        self.join();
    }

    fn join(&mut self) {
        if let Some(run) = self.merged.as_ref().filter(|run| *run.start() <= self.held.saturating_add(1)) {
            self.held = self.held.max(*run.end());
        }
    }

    /// Up to here the peer holds everything.
    pub(crate) const fn held(&self) -> DbVersion {
        DbVersion(self.held)
    }

    /// Commits that the peer may lack.
    pub(crate) const fn commits(&self) -> u64 {
        self.newest.saturating_sub(self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_sent_is_no_lag() {
        let mut lag = Lag::new(7, 5);
        assert_eq!(lag.commits(), 2);
        lag.merged(8);
        lag.merged(9);
        assert_eq!(lag.commits(), 4, "6 and 7 stand before");
        lag.acknowledged(7);
        assert_eq!(lag.commits(), 0, "8 and 9 are the peer's own");
        lag.committed(10);
        lag.merged(11);
        assert_eq!(lag.commits(), 2);
        lag.acknowledged(10);
        lag.acknowledged(3);
        assert_eq!(lag.commits(), 0);
    }
}
