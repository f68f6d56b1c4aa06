//! What the thread that runs queries and those who wait for them share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opor_store::CommitSeq;

use crate::error::LiveError;
use crate::live::Desk;
use crate::result::ResultSet;
use crate::router::QueryId;
use crate::signal::{Awaited, Waiting, until};
use crate::worker::Command;

/// What a query gives at present.
pub(crate) type Outcome = Result<Arc<ResultSet>, LiveError>;

/// One query with its parameters, for all who subscribed to it; it is let go of with the last of them.
#[derive(Debug)]
pub(crate) struct Shared {
    desk: Arc<Desk>,
    pub(crate) id: QueryId,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    outcome: Given,
    /// Counts outcomes, errors included.
    turn: u64,
    waiting: Waiting,
}

/// An outcome in few bytes: there is one for each query.
#[derive(Clone, Debug)]
enum Given {
    /// It has not been run, or the database is closed.
    Nothing,
    Result(Arc<ResultSet>),
    Error(Arc<LiveError>),
}

impl From<Outcome> for Given {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(result) => Self::Result(result),
            Err(LiveError::Closed) => Self::Nothing,
            Err(error) => Self::Error(Arc::new(error)),
        }
    }
}

impl Given {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Nothing => Err(LiveError::Closed),
            Self::Result(result) => Ok(result.clone()),
            Self::Error(error) => Err(LiveError::clone(error)),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.desk.ask(Command::Released { query: self.id });
    }
}

impl Awaited for Shared {
    fn waiting<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        change(&mut lock(&self.state).waiting)
    }
}

impl Shared {
    /// One that has not been run.
    pub(crate) fn new(desk: Arc<Desk>, id: QueryId) -> Self {
        let state = State { outcome: Given::Nothing, turn: 0, waiting: Waiting::default() };
        Self { desk, id, state: Mutex::new(state) }
    }

    pub(crate) const fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// Which outcome it is at; 0 before the first.
    pub(crate) fn turn(&self) -> u64 {
        lock(&self.state).turn
    }

    /// What it gives, and which outcome that is.
    pub(crate) fn now(&self) -> (Outcome, u64) {
        let state = lock(&self.state);
        (state.outcome.outcome(), state.turn)
    }

    /// Puts another outcome in place, and wakes nobody yet.
    pub(crate) fn replace(&self, outcome: Outcome) {
        let given = Given::from(outcome);
        let mut state = lock(&self.state);
        state.turn += 1;
        let before = std::mem::replace(&mut state.outcome, given);
        drop(state);
        // Many rows take long to be let go of.
        drop(before);
    }

    pub(crate) fn wake(&self) {
        self.waiting(Waiting::take).wake();
    }

    /// Waits for the outcome after this one.
    pub(crate) async fn after(&self, turn: u64) -> (Outcome, u64) {
        until(self, || self.newer(turn)).await
    }

    fn newer(&self, turn: u64) -> Option<(Outcome, u64)> {
        let state = lock(&self.state);
        (state.turn > turn).then(|| (state.outcome.outcome(), state.turn))
    }
}

/// How far the queries are, all together.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Held while the outcomes of one commit are put in place: who holds it sees all queries at one commit.
    at: Mutex<At>,
    moved: Mutex<Waiting>,
}

#[derive(Clone, Copy, Debug, Default)]
struct At {
    seq: CommitSeq,
    closed: bool,
}

impl Awaited for Progress {
    fn waiting<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        change(&mut lock(&self.moved))
    }
}

impl Progress {
    /// Puts the outcomes of one commit in place.
    pub(crate) fn advance(&self, seq: CommitSeq, outcomes: Vec<(Arc<Shared>, Outcome)>) {
        let mut at = lock(&self.at);
        outcomes.iter().for_each(|(shared, outcome)| shared.replace(outcome.clone()));
        at.seq = at.seq.max(seq);
        drop(at);
        outcomes.iter().for_each(|(shared, _)| shared.wake());
        self.waiting(Waiting::take).wake();
    }

    /// Puts errors in place.
    pub(crate) fn fail(&self, outcomes: Vec<(Arc<Shared>, Outcome)>) {
        self.advance(CommitSeq(0), outcomes);
    }

    pub(crate) fn close(&self) {
        lock(&self.at).closed = true;
        self.waiting(Waiting::take).wake();
    }

    /// Looks at several queries at one commit.
    pub(crate) fn together<T>(&self, look: impl FnOnce(CommitSeq) -> T) -> T {
        let at = lock(&self.at);
        look(at.seq)
    }

    /// Waits until everything up to a commit is in the results.
    pub(crate) async fn reached(&self, seq: CommitSeq) -> Result<(), LiveError> {
        until(self, || self.is_at(seq)).await
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
