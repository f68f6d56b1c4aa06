//! How much is on its way: each end counts what it sent and what was received, and tells the other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::wire::{FRAMES_IN_FLIGHT_MAX, LIMITS, Totals};

/// The counts of one end.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    counts: Mutex<Counts>,
    /// The peer has received more, so there may be room.
    room: Notify,
    /// More was received here than the peer knows.
    due: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    sent: Totals,
    /// Of what was sent: what the peer has received.
    credited: Totals,
    /// What has arrived here.
    arrived: Totals,
    /// Of what has arrived: what the receiver was given.
    given: Totals,
    /// Of that: what the peer knows.
    told: Totals,
}

/// A peer that sends more than it may, or says that it got more than there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdrawn;

impl Flow {
    /// Takes room for a frame, if there is.
    pub(crate) fn take_room(&self, len: usize) -> bool {
        let mut counts = self.counts();
        let mut sent = counts.sent;
        sent.add(len);
        let fits = sent.since(counts.credited).is_some_and(Totals::is_allowed);
        if fits {
            counts.sent = sent;
        }
        fits
    }

    /// Waits until there may be more room.
    pub(crate) async fn more_room(&self) {
        self.room.notified().await;
    }

    /// The peer has received so much.
    pub(crate) fn credit(&self, totals: Totals) -> Result<(), Overdrawn> {
        let mut counts = self.counts();
        if counts.sent.since(totals).is_none() || totals.since(counts.credited).is_none() {
            return Err(Overdrawn);
        }
        counts.credited = totals;
        self.room.notify_one();
        Ok(())
    }

    /// A frame has arrived.
    pub(crate) fn arrive(&self, len: usize) -> Result<(), Overdrawn> {
        let mut counts = self.counts();
        counts.arrived.add(len);
        let waiting = counts.arrived.since(counts.told);
        if waiting.is_some_and(Totals::is_allowed) { Ok(()) } else { Err(Overdrawn) }
    }

    /// The receiver was given a frame.
    pub(crate) fn give(&self, len: usize) {
        let mut counts = self.counts();
        counts.given.add(len);
        if counts.is_due() {
            self.due.notify_one();
        }
    }

    /// Waits until the peer should be told what was received.
    pub(crate) async fn credit_due(&self) {
        self.due.notified().await;
    }

    /// What to tell the peer.
    pub(crate) fn tell(&self) -> Totals {
        let mut counts = self.counts();
        counts.told = counts.given;
        counts.told
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Nothing that runs under the lock panics halfway through a change.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// A quarter of what may be on its way: seldom enough to cost little, and what is left always has room for the largest
    /// frame.
    fn is_due(&self) -> bool {
        let untold = self.given.since(self.told).unwrap_or_default();
        untold.bytes >= LIMITS.in_flight_max() as u64 / 4 || untold.frames >= FRAMES_IN_FLIGHT_MAX / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::FRAME_MAX;

    #[test]
    fn room_comes_back_when_the_peer_has_received() {
        let (from, to) = (Flow::default(), Flow::default());
        let mut sent = 0;
        while from.take_room(FRAME_MAX) {
            to.arrive(FRAME_MAX).expect("within the limits");
            sent += 1;
        }
        assert_eq!(sent, 3, "a fourth would be beyond 4 MiB with what frames cost");
        to.give(FRAME_MAX);
        from.credit(to.tell()).expect("it was sent");
        assert!(from.take_room(FRAME_MAX));
    }

    #[test]
    fn who_takes_more_than_there_is_is_found_out() {
        let flow = Flow::default();
        assert_eq!(flow.credit(Totals { bytes: 1, frames: 1 }), Err(Overdrawn));
        let arrived: Result<(), _> = (0..5).try_for_each(|_| flow.arrive(FRAME_MAX));
        assert_eq!(arrived, Err(Overdrawn));
    }

    #[test]
    fn what_is_not_told_yet_leaves_room_for_the_largest_frame() {
        let (from, to) = (Flow::default(), Flow::default());
        // As much as may go untold: a byte less than is due.
        for _ in 0..LIMITS.in_flight_max() / 4 / 4096 - 1 {
            assert!(from.take_room(4096));
            to.give(4096);
        }
        assert!(!to.counts().is_due());
        assert!(from.take_room(FRAME_MAX));
    }
}
