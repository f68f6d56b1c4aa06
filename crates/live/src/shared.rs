//! What the thread that runs queries and those who wait for them share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opor_store::CommitSeq;

use crate::error::LiveError;
use crate::result::ResultSet;
use crate::router::QueryId;
use crate::signal::Signal;

/// What a query gives at present.
pub(crate) type Outcome = Result<Arc<ResultSet>, LiveError>;

/// One query with its parameters, for all who subscribed to it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: QueryId,
    state: Mutex<State>,
    changed: Signal,
}

#[derive(Debug)]
struct State {
    outcome: Outcome,
    /// Counts outcomes, errors included.
    turn: u64,
}

impl Shared {
    /// One that has not been run.
    pub(crate) fn new(id: QueryId) -> Self {
        let state = State { outcome: Err(LiveError::Closed), turn: 0 };
        Self { id, state: Mutex::new(state), changed: Signal::default() }
    }

    /// Which outcome it is at; 0 before the first.
    pub(crate) fn turn(&self) -> u64 {
        lock(&self.state).turn
    }

    /// What it gives, and which outcome that is.
    pub(crate) fn now(&self) -> (Outcome, u64) {
        let state = lock(&self.state);
        (state.outcome.clone(), state.turn)
    }

    /// Puts another outcome in place, and wakes nobody yet.
    pub(crate) fn replace(&self, outcome: Outcome) {
        let mut state = lock(&self.state);
        state.turn += 1;
        state.outcome = outcome;
    }

    pub(crate) fn wake(&self) {
        self.changed.notify();
    }

    /// Waits for the outcome after this one.
    pub(crate) async fn after(&self, turn: u64) -> (Outcome, u64) {
        self.changed.until(|| self.newer(turn)).await
    }

    fn newer(&self, turn: u64) -> Option<(Outcome, u64)> {
        let state = lock(&self.state);
        (state.turn > turn).then(|| (state.outcome.clone(), state.turn))
    }
}

/// How far the queries are, all together.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Held while the outcomes of one commit are put in place: who holds it sees all queries at one commit.
    at: Mutex<At>,
    moved: Signal,
}

#[derive(Clone, Copy, Debug, Default)]
struct At {
    seq: CommitSeq,
    closed: bool,
}

impl Progress {
    /// Puts the outcomes of one commit in place.
    pub(crate) fn advance(&self, seq: CommitSeq, outcomes: Vec<(Arc<Shared>, Outcome)>) {
        let mut at = lock(&self.at);
        outcomes.iter().for_each(|(shared, outcome)| shared.replace(outcome.clone()));
        at.seq = at.seq.max(seq);
        drop(at);
        outcomes.iter().for_each(|(shared, _)| shared.wake());
        self.moved.notify();
    }

    /// Puts errors in place.
    pub(crate) fn fail(&self, outcomes: Vec<(Arc<Shared>, Outcome)>) {
        self.advance(CommitSeq(0), outcomes);
    }

    pub(crate) fn close(&self) {
        lock(&self.at).closed = true;
        self.moved.notify();
    }

    /// Looks at several queries at one commit.
    pub(crate) fn together<T>(&self, look: impl FnOnce(CommitSeq) -> T) -> T {
        let at = lock(&self.at);
        look(at.seq)
    }

    /// Waits until everything up to a commit is in the results.
    pub(crate) async fn reached(&self, seq: CommitSeq) -> Result<(), LiveError> {
        self.moved.until(|| self.is_at(seq)).await
    }

    fn is_at(&self, seq: CommitSeq) -> Option<Result<(), LiveError>> {
        let at = lock(&self.at);
        if at.seq >= seq {
            return Some(Ok(()));
        }
        at.closed.then_some(Err(LiveError::Closed))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
