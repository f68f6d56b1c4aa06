//! Links between replicas, the connections that are made on them, and the sessions at their ends.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use opor_core::{DbVersion, SiteId};
use opor_sync_proto::{MonoMillis, Session};

/// What happens to the next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    Drop,
    Duplicate,
    Swap,
}

/// A way between two replicas, the first of which dials.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [usize; 2],
    pub(crate) is_cut: bool,
    /// Frames vanish, in both directions, and nobody is told.
    pub(crate) is_mute: bool,
    /// The connection that the dialling end uses, or is not done with yet.
    pub(crate) conn: Option<u64>,
    /// What happens to the next frame to each end.
    pub(crate) mishap: [Option<Mishap>; 2],
    /// Frames ever sent to each end.
    pub(crate) frames: [u64; 2],
    /// Jobs that each end ever had for its store.
    pub(crate) jobs: [u64; 2],
    /// Connections ever tried.
    pub(crate) tries: u64,
    /// Connections since the last one on which both ends caught up.
    pub(crate) failures: u32,
}

/// One connection. Its ends learn of its loss at different times, so an end may still hold on to an old one.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) link: usize,
    pub(crate) ends: [usize; 2],
    pub(crate) sides: [Option<Side>; 2],
    /// Frames on their way to each end, and when the last of them arrives.
    pub(crate) flight: [VecDeque<Vec<u8>>; 2],
    pub(crate) arrival: [MonoMillis; 2],
    /// What the stores still do for each end. It is done even when the session has ended.
    pub(crate) jobs: [u32; 2],
    /// Whether something has gone wrong that may end its sessions.
    pub(crate) faulted: bool,
    /// Which ends have had all that the other had.
    pub(crate) caught_up: [bool; 2],
    /// Whether the dialling end is done with it.
    pub(crate) left: bool,
}

/// A session at one end.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) session: Session,
    /// The replica at the other end, once it has said so.
    pub(crate) peer: Option<SiteId>,
    pub(crate) wake: Option<MonoMillis>,
    /// A commit is told of only after the merge that it may be of.
    pub(crate) applying: bool,
    pub(crate) commit_due: bool,
    pub(crate) reading: bool,
    pub(crate) sending: bool,
    pub(crate) acknowledging: bool,
    /// The last acknowledgement that is not noted yet; earlier ones need not be.
    pub(crate) acknowledged: Option<DbVersion>,
    pub(crate) lag: Lag,
    /// Whether the log of the peer was asked for from the start.
    pub(crate) from_start: bool,
    /// Whether it has been looked at how much the peer asks for.
    pub(crate) judged: bool,
    /// Items that were stored for this session.
    pub(crate) durable: u64,
}

impl Side {
    pub(crate) const fn new(session: Session) -> Self {
        Self {
            session,
            peer: None,
            wake: None,
            applying: false,
            commit_due: false,
            reading: false,
            sending: false,
            acknowledging: false,
            acknowledged: None,
            lag: Lag::new(0),
            from_start: false,
            judged: false,
            durable: 0,
        }
    }
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) conn: u64,
    pub(crate) side: usize,
}

impl End {
    pub(crate) const fn other(self) -> Self {
        Self { conn: self.conn, side: 1 - self.side }
    }
}

/// Up to which version of a replica the peer holds everything, as `opor-sync` counts it.
#[derive(Debug)]
pub(crate) struct Lag {
    held: u64,
    /// The last run of versions that merges of what the peer sent took.
    merged: Option<RangeInclusive<u64>>,
}

impl Lag {
    pub(crate) const fn new(held: u64) -> Self {
        Self { held, merged: None }
    }

    pub(crate) fn acknowledged(&mut self, version: u64) {
        self.held = self.held.max(version);
        self.join();
    }

    pub(crate) fn merged(&mut self, version: u64) {
        let run = self.merged.take().filter(|run| run.end() + 1 == version);
        self.merged = Some(run.map_or(version, |run| *run.start())..=version);
        self.join();
    }

    fn join(&mut self) {
        if let Some(run) = self.merged.as_ref().filter(|run| *run.start() <= self.held + 1) {
            self.held = self.held.max(*run.end());
        }
    }

    pub(crate) const fn held(&self) -> DbVersion {
        DbVersion(self.held)
    }
}
