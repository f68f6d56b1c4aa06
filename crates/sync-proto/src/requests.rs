//! What both halves of a session share.

use opor_core::DbVersion;

use crate::echo::Echoes;
use crate::event::RequestId;

/// The numbers of requests, and what the half that gives has to leave out.
#[derive(Debug)]
pub(crate) struct Requests {
    next: u64,
    /// Noted by the half that takes.
    echoes: Echoes,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self { next: 0, echoes: Echoes::default() }
    }

    /// A merge of what the peer sent took this version.
    pub(crate) fn note(&mut self, version: DbVersion) {
        self.echoes.note(version);
    }

    /// The history here was cut: a version may now stand for something else, so what was noted is left out no more. What comes from
    /// now on is.
    pub(crate) fn forget_echoes(&mut self) {
        self.echoes = Echoes::default();
    }

    pub(crate) fn echoes(&self) -> Echoes {
        self.echoes.clone()
    }

    pub(crate) fn next(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next - 1)
    }
}
