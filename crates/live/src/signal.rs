//! Wakes everybody who waits, and holds no lock while it does: who is woken may drop what waits, there and then.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};

use rustc_hash::FxHashMap;

/// Those who wait for one thing. Where nobody does, it is one word.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Option<Box<Wakers>>);

#[derive(Debug)]
enum Wakers {
    One(u64, Waker),
    Many(FxHashMap<u64, Waker>),
}

/// What can be waited for: it keeps those who wait beside what they wait for, under one lock.
pub(crate) trait Awaited {
    /// Changes who waits, under the lock.
    fn waiting<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T;
}

impl Waiting {
    /// Takes everybody out, to be woken when the lock is free.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(crate) fn wake(self) {
        match self.0.map(|wakers| *wakers) {
            None => {}
            Some(Wakers::One(_, waker)) => waker.wake(),
            Some(Wakers::Many(wakers)) => wakers.into_values().for_each(Waker::wake),
        }
    }

    /// Has somebody wait; gives the waker that was there for him.
    fn insert(&mut self, number: u64, waker: Waker) -> Option<Waker> {
        let Some(wakers) = &mut self.0 else {
            self.0 = Some(Box::new(Wakers::One(number, waker)));
            return None;
        };
        match &mut **wakers {
            Wakers::One(other, there) if *other == number => Some(std::mem::replace(there, waker)),
            Wakers::One(other, there) => {
                let both = [(*other, there.clone()), (number, waker)];
                **wakers = Wakers::Many(both.into_iter().collect());
                None
            }
            Wakers::Many(wakers) => wakers.insert(number, waker),
        }
    }

    fn remove(&mut self, number: u64) -> Option<Self> {
        let wakers = &mut **self.0.as_mut()?;
        match wakers {
            Wakers::One(other, _) => (*other == number).then(|| self.take()),
            Wakers::Many(wakers) => {
                let waker = wakers.remove(&number)?;
                if wakers.is_empty() {
                    self.0 = None;
                }
                Some(Self(Some(Box::new(Wakers::One(number, waker)))))
            }
        }
    }
}

/// Somebody's place among those who wait, given up when this is dropped.
struct Place<'a, A: Awaited> {
    on: &'a A,
    number: u64,
}

impl<A: Awaited> Drop for Place<'_, A> {
    fn drop(&mut self) {
        // A waker may hold on to anything: it goes when the lock is free again.
        let gone = self.on.waiting(|waiting| waiting.remove(self.number));
        drop(gone);
    }
}

/// Waits until there is something. It is looked for at once, and whenever there is a signal.
pub(crate) async fn until<T, A: Awaited>(on: &A, look: impl Fn() -> Option<T>) -> T {
    // Of the whole process: a place that was given up must not be taken for another.
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let place = Place { on, number: NUMBERS.fetch_add(1, Ordering::Relaxed) };
    poll_fn(|context| {
        if let Some(found) = look() {
            return Poll::Ready(found);
        }
        let waker = context.waker().clone();
        let before = on.waiting(|waiting| waiting.insert(place.number, waker));
        drop(before);
        // It may have come before the waker was there.
        look().map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
