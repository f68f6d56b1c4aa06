//! The hand-over between the connection that commits and the feeds.

#[cfg(test)]
mod explorer;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use std::collections::BTreeMap;

use super::{Changes, CommitSeq, Interest, Woken};
use crate::wal_index::WalHeader;

/// How long a feed waits for a commit that others can see already to be published. That takes microseconds, unless the job that
/// committed goes on without ending its transaction's bookkeeping; then the feed says it does not know.
const PUBLISH_WAIT: Duration = Duration::from_millis(50);

/// Every feed of one handle.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    /// Counts changes of `boxes` and what they watch.
    generation: AtomicU64,
    any: AtomicBool,
    boxes: Mutex<Boxes>,
}

#[derive(Debug, Default)]
struct Boxes {
    boxes: Vec<Arc<Mailbox>>,
    /// What one of them watches, merged.
    watch: Arc<Watch>,
    seq: u64,
    closed: bool,
    published: Option<WalHeader>,
}

/// What some feed is interested in.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) generation: u64,
    pub(crate) tables: BTreeMap<Arc<str>, Interest>,
}

impl Feeds {
    /// Whether anybody listens; a change of it moves the generation.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn watched(&self) -> Arc<Watch> {
        self.lock().watch.clone()
    }

    pub(crate) fn add(self: &Arc<Self>) -> Arc<Mailbox> {
        let mut boxes = self.lock();
        let mailbox = Arc::new(Mailbox::default());
        // Whatever is going on, the first snapshot cannot know what it missed.
        mailbox.lock().waiting.unknown = true;
        mailbox.lock().waiting.seq = CommitSeq(boxes.seq);
        mailbox.lock().published = boxes.published;
        mailbox.lock().closed = boxes.closed;
        boxes.boxes.push(mailbox.clone());
        self.any.store(true, Ordering::Release);
        self.moved(&mut boxes);
        mailbox
    }

    pub(crate) fn remove(&self, mailbox: &Arc<Mailbox>) {
        let mut boxes = self.lock();
        boxes.boxes.retain(|other| !Arc::ptr_eq(other, mailbox));
        self.any.store(!boxes.boxes.is_empty(), Ordering::Release);
        self.moved(&mut boxes);
    }

    pub(crate) fn watch(&self, mailbox: &Mailbox, interests: BTreeMap<Arc<str>, Interest>) {
        let mut boxes = self.lock();
        mailbox.lock().interests = interests;
        self.moved(&mut boxes);
    }

    fn moved(&self, boxes: &mut Boxes) {
        let mut tables: BTreeMap<Arc<str>, Interest> = BTreeMap::default();
        for mailbox in &boxes.boxes {
            for (table, interest) in &mailbox.lock().interests {
                let own = tables.entry(table.clone()).or_default();
                own.columns.extend(interest.columns);
                own.images.extend(&interest.images);
            }
        }
        for interest in tables.values_mut() {
            interest.images.sort_unstable();
            interest.images.dedup();
        }
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        boxes.watch = Arc::new(Watch { generation, tables });
    }

    /// A commit is about to become visible.
    pub(crate) fn begin_commit(&self) {
        self.lock().boxes.iter().for_each(|mailbox| mailbox.lock().in_flight = true);
    }

    /// It was rolled back after all.
    pub(crate) fn end_commit(&self) {
        for mailbox in &self.lock().boxes {
            mailbox.lock().in_flight = false;
            mailbox.ready.notify_all();
        }
    }

    /// A commit is visible. `before` is the header that it found, and `after` the one it left, when nobody else has
    /// committed since.
    pub(crate) fn publish(&self, mut changes: Changes, before: Option<WalHeader>, after: Option<WalHeader>) {
        let mut boxes = self.lock();
        boxes.seq += 1;
        changes.seq = CommitSeq(boxes.seq);
        boxes.published = after;
        for mailbox in &boxes.boxes {
            let mut state = mailbox.lock();
            state.waiting.append(&changes);
            // Somebody else has committed between.
            state.waiting.unknown |= before.is_none() || state.published != before;
            state.published = after;
            state.in_flight = false;
            state.called = true;
            drop(state);
            mailbox.ready.notify_all();
        }
    }

    pub(crate) fn seq(&self) -> CommitSeq {
        CommitSeq(self.lock().seq)
    }

    pub(crate) fn close(&self) {
        let mut boxes = self.lock();
        boxes.closed = true;
        for mailbox in &boxes.boxes {
            mailbox.lock().closed = true;
            mailbox.ready.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Boxes> {
        // Nothing under the lock panics halfway through a change.
        self.boxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits for one feed.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
struct State {
    interests: BTreeMap<Arc<str>, Interest>,
    waiting: Changes,
    /// The header behind the last commit in `waiting`; `None` when it is not known.
    published: Option<WalHeader>,
    /// The header of the snapshot that was taken last.
    taken_at: Option<WalHeader>,
    /// A commit may be visible that has not been published.
    in_flight: bool,
    /// Something has been published that was not taken.
    called: bool,
    /// Somebody wants the reader to look up. Only the wait that it ends resets it: what it is about is not in here.
    woken: bool,
    closed: bool,
}

impl State {
    fn take_at(&mut self, at: WalHeader) -> Option<Changes> {
        if self.published != Some(at) {
            return None;
        }
        self.taken_at = Some(at);
        Some(self.take())
    }

    fn take(&mut self) -> Changes {
        let seq = self.waiting.seq;
        self.called = false;
        std::mem::replace(&mut self.waiting, Changes { seq, ..Changes::default() })
    }
}

impl Mailbox {
    pub(crate) fn wake(&self) {
        self.lock().woken = true;
        self.ready.notify_all();
    }

    pub(crate) fn seq(&self) -> CommitSeq {
        self.lock().waiting.seq
    }

    pub(crate) fn taken_at(&self) -> Option<WalHeader> {
        self.lock().taken_at
    }

    pub(crate) fn wait(&self, limit: Duration) -> Woken {
        let waits = |state: &mut State| !state.called && !state.woken && !state.closed;
        let waited = self.ready.wait_timeout_while(self.lock(), limit, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut state.woken) | state.called {
            return Woken::Called;
        }
        if state.closed { Woken::Closed } else { Woken::TimedOut }
    }

    /// All that was committed up to a snapshot that has this header; `None` if something lies between the two.
    pub(crate) fn take_at(&self, at: WalHeader) -> Option<Changes> {
        let mut state = self.lock();
        if state.published != Some(at) {
            let waits = |state: &mut State| state.in_flight && !state.closed;
            let waited = self.ready.wait_timeout_while(state, PUBLISH_WAIT, waits);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.take_at(at)
    }

    pub(crate) fn take_all(&self) -> Changes {
        self.lock().take()
    }

    /// A snapshot with this header has been begun for which anything may have changed, after `seq` had been taken: the next
    /// ones count from it.
    pub(crate) fn caught_up_at(&self, at: Option<WalHeader>, seq: CommitSeq) {
        let mut state = self.lock();
        state.taken_at = at;
        // What was published meanwhile may be newer than the snapshot.
        if state.waiting.seq == seq && !state.in_flight {
            state.published = at;
        }
    }

    /// Puts back what could not be used.
    pub(crate) fn give_back(&self, mut changes: Changes) {
        let mut state = self.lock();
        changes.append(&state.waiting);
        state.waiting = changes;
        state.called = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
