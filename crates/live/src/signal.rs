//! Wakes everybody who waits, and holds no lock while it does: who is woken may drop what waits, there and then.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use rustc_hash::FxHashMap;

#[derive(Debug, Default)]
pub(crate) struct Signal(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    wakers: FxHashMap<u64, Waker>,
    next: u64,
}

/// Somebody's place among those who wait, given up when this is dropped.
struct Place<'a> {
    signal: &'a Signal,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // A waker may hold on to anything: it goes when the lock is free again.
        let gone = self.signal.lock().wakers.remove(&self.number);
        drop(gone);
    }
}

impl Signal {
    pub(crate) fn notify(&self) {
        let wakers = std::mem::take(&mut self.lock().wakers);
        wakers.into_values().for_each(Waker::wake);
    }

    /// Waits until there is something. It is looked for at once, and whenever there is a signal.
    pub(crate) async fn until<T>(&self, look: impl Fn() -> Option<T>) -> T {
        let number = {
            let mut waiting = self.lock();
            waiting.next += 1;
            waiting.next
        };
        let place = Place { signal: self, number };
        poll_fn(|context| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            let before = place.signal.lock().wakers.insert(number, context.waker().clone());
            drop(before);
            // It may have come before the waker was there.
            look().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under the lock panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
