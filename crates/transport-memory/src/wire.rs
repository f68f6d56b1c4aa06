//! What lies between the two ends of a link: a queue each way, and how the link ended.
//!
//! One lock guards it all. It is held for a few assignments and never while waiting.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opor_transport_traits::{Bytes, CloseReason, LinkLimits, Received, TransportError};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::conditions::Conditions;

/// A megabyte is more than a session sends at once; two of them on their way keep a receiver busy.
pub(crate) const LIMITS: LinkLimits =
    LinkLimits::new(1024 * 1024, 2 * (1024 * 1024 + LinkLimits::FRAME_COST));

/// Which end: the one that dialled or the one that accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Dialler = 0,
    Listener = 1,
}

impl Side {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Listener,
            Self::Listener => Self::Dialler,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Wire {
    names: [Box<str>; 2],
    conditions: Arc<Conditions>,
    state: Mutex<State>,
    signals: [Signals; 2],
}

/// What the ends wait for; one of each for the lane that begins at an end. A half is used by one task at a time, so at
/// most one waits, and a signal that nobody waits for is kept for the next.
#[derive(Debug, Default)]
struct Signals {
    /// There is room in the lane, or its sender must look why there will be none.
    room: Notify,
    /// There is something in the lane, or its receiver must look why there will be nothing.
    data: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By the side that sends.
    lanes: [Lane; 2],
    lost: Option<TransportError>,
    /// A partition holds everything up.
    held: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Queued>,
    /// What the frames in the queue count.
    cost: usize,
    /// The sending end sends no more: it closed, or it answered the close of the other.
    closed: Option<CloseReason>,
    /// The receiving end was given the close.
    given: Option<CloseReason>,
    /// The receiving end closed and went away; what is sent goes nowhere.
    abandoned: bool,
}

#[derive(Debug)]
struct Queued {
    /// When it arrives; at once if `None`.
    due: Option<Instant>,
    what: Received,
}

/// What there is for a receiver.
pub(crate) enum Taken {
    Done(Result<Received, TransportError>),
    /// Something that arrives then.
    Later(Instant),
    /// Nothing yet.
    Nothing,
}

impl Wire {
    pub(crate) fn new(names: [Box<str>; 2], conditions: Arc<Conditions>) -> Self {
        Self { names, conditions, state: Mutex::default(), signals: Default::default() }
    }

    /// The name of an end.
    pub(crate) fn name(&self, side: Side) -> &str {
        &self.names[side as usize]
    }

    /// Whether it lies between these two.
    pub(crate) fn connects(&self, one: &str, other: &str) -> bool {
        let [a, b] = [&*self.names[0], &*self.names[1]];
        (a, b) == (one, other) || (b, a) == (one, other)
    }

    /// Takes a frame over, if there is room; otherwise `None`, and [`room`](Self::room) says when to try again.
    pub(crate) fn offer(&self, side: Side, frame: &Bytes) -> Option<Result<(), TransportError>> {
        if frame.len() > LIMITS.frame_max() {
            return Some(Err(TransportError::frame_too_large(frame.len(), LIMITS)));
        }
        let mut state = self.state();
        if let Some(error) = state.end_of_sending(side) {
            return Some(Err(error));
        }
        let cost = LinkLimits::cost(frame.len());
        if state.lane(side).cost + cost > LIMITS.in_flight_max() {
            return None;
        }
        if self.conditions.breaks_now() {
            // The sender learns of it as of any loss: later, by another call. This frame is the first that is missing.
            self.lose_locked(state, TransportError::lost("memory: the link broke under a frame"));
            return Some(Ok(()));
        }
        let queued = Queued { due: self.arrival(), what: Received::Frame(frame.clone()) };
        let lane = state.lane(side);
        lane.cost += cost;
        lane.queue.push_back(queued);
        self.signals[side as usize].data.notify_one();
        Some(Ok(()))
    }

    /// Waits until a frame may find room, or none ever will.
    pub(crate) async fn room(&self, side: Side) {
        self.signals[side as usize].room.notified().await;
    }

    /// Ends the sending from this side. A close needs no room: there is one at most.
    pub(crate) fn close(&self, side: Side, reason: CloseReason) -> Result<(), TransportError> {
        let mut state = self.state();
        if state.lane(side).closed.is_some() {
            return Ok(());
        }
        if let Some(error) = &state.lost {
            return Err(error.clone());
        }
        self.put_close(&mut state, side, reason);
        Ok(())
    }

    /// The next thing for the receiver at this side.
    pub(crate) fn take(&self, side: Side) -> Taken {
        let mut state = self.state();
        let lost = state.lost.clone();
        let held = state.held;
        let lane = state.lane(side.other());
        if let Some(reason) = &lane.given {
            return Taken::Done(Ok(Received::Closed(reason.clone())));
        }
        if let Some(error) = lost {
            return Taken::Done(Err(error));
        }
        let Some(next) = lane.queue.front().filter(|_| !held) else { return Taken::Nothing };
        if let Some(due) = next.due.filter(|due| *due > Instant::now()) {
            return Taken::Later(due);
        }
        let next = lane.queue.pop_front().expect("the lane has a first entry").what;
        match &next {
            Received::Frame(frame) => {
                lane.cost -= LinkLimits::cost(frame.len());
                self.signals[side.other() as usize].room.notify_one();
            }
            Received::Closed(reason) => {
                lane.given = Some(reason.clone());
                if state.lane(side).closed.is_none() {
                    self.put_close(&mut state, side, reason.clone());
                }
            }
        }
        Taken::Done(Ok(next))
    }

    /// Waits until there may be something to take.
    pub(crate) async fn data(&self, side: Side) {
        self.signals[side.other() as usize].data.notified().await;
    }

    /// The sender of this side is gone.
    pub(crate) fn drop_sender(&self, side: Side) {
        let mut state = self.state();
        if state.lane(side).closed.is_none() {
            self.lose_locked(state, self.left(side));
        }
    }

    /// The receiver of this side is gone.
    pub(crate) fn drop_receiver(&self, side: Side) {
        let mut state = self.state();
        if state.lane(side.other()).given.is_some() {
            return;
        }
        if state.lane(side).closed.is_none() {
            self.lose_locked(state, self.left(side));
            return;
        }
        let lane = state.lane(side.other());
        lane.abandoned = true;
        lane.queue = VecDeque::new();
        lane.cost = 0;
        self.signals[side.other() as usize].room.notify_one();
    }

    /// Loses the link; what was on its way is gone.
    pub(crate) fn lose(&self, error: TransportError) {
        self.lose_locked(self.state(), error);
    }

    /// Holds everything up, or lets it go on.
    pub(crate) fn hold(&self, held: bool) {
        self.state().held = held;
        for signals in &self.signals {
            signals.data.notify_one();
        }
    }

    fn left(&self, side: Side) -> TransportError {
        TransportError::lost(format!("memory:{} dropped its end", self.name(side)))
    }

    fn put_close(&self, state: &mut State, side: Side, reason: CloseReason) {
        let due = self.arrival();
        let lane = state.lane(side);
        lane.closed = Some(reason.clone());
        if !lane.abandoned {
            lane.queue.push_back(Queued { due, what: Received::Closed(reason) });
        }
        self.signals[side as usize].data.notify_one();
        // A send that waits at this side has lost its chance.
        self.signals[side as usize].room.notify_one();
    }

    fn lose_locked(&self, mut state: MutexGuard<'_, State>, error: TransportError) {
        if state.lost.is_some() {
            return;
        }
        state.lost = Some(error);
        for lane in &mut state.lanes {
            lane.queue = VecDeque::new();
            lane.cost = 0;
        }
        drop(state);
        for signals in &self.signals {
            signals.room.notify_one();
            signals.data.notify_one();
        }
    }

    fn arrival(&self) -> Option<Instant> {
        let latency = self.conditions.latency();
        (!latency.is_zero()).then(|| Instant::now() + latency)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lane(&mut self, side: Side) -> &mut Lane {
        &mut self.lanes[side as usize]
    }

    /// Why nothing can be sent from this side, if nothing can.
    fn end_of_sending(&mut self, side: Side) -> Option<TransportError> {
        if let Some(reason) = &self.lane(side).closed {
            return Some(TransportError::closed(reason.clone()));
        }
        if let Some(error) = &self.lost {
            return Some(error.clone());
        }
        if self.lane(side).abandoned {
            // It went away after it had closed; our receiver is still to be given that.
            return self.lane(side.other()).closed.clone().map(TransportError::closed);
        }
        None
    }
}
