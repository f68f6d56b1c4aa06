//! What both halves of a session share.

use opor_core::DbVersion;

use crate::echo::Echoes;
use crate::event::RequestId;

/// The numbers of requests, and what the half that gives has to leave out.
#[derive(Debug)]
pub(crate) struct Requests {
    next: u64,
    /// Noted by the half that takes; nothing once versions may have been numbered anew.
    echoes: Option<Echoes>,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self { next: 0, echoes: Some(Echoes::default()) }
    }

    /// A merge of what the peer sent took this version.
    pub(crate) fn note(&mut self, version: DbVersion) {
        if let Some(echoes) = &mut self.echoes {
            echoes.note(version);
        }
    }

    /// The history here was cut: a version may now stand for something else, so nothing is left out any more.
    pub(crate) fn forget_echoes(&mut self) {
        self.echoes = None;
    }

    pub(crate) fn echoes(&self) -> Echoes {
        self.echoes.clone().unwrap_or_default()
    }

    pub(crate) fn next(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next - 1)
    }
}
