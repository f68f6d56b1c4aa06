//! The address book, and the switches for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use opor_transport_traits::{TransportError, TransportErrorKind as Kind};
use tokio::sync::{mpsc, oneshot};

use crate::conditions::Conditions;
use crate::endpoint::{Dialled, MemoryDialer, MemoryListener};
use crate::halves;
use crate::wire::{Side, Wire};

/// Dials that may wait for `accept`; further ones wait for a place. As many as a burst of reconnects in a test.
const DIALS_WAITING_MAX: usize = 64;

/// Names, those who listen under them, and the links between them. Cheap to clone: clones are the same network.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    book: Mutex<Book>,
    conditions: Arc<Conditions>,
}

#[derive(Debug, Default)]
struct Book {
    listeners: BTreeMap<Box<str>, mpsc::Sender<Dialled>>,
    /// Pairs of names that do not reach each other, the smaller name first.
    partitions: BTreeSet<(Box<str>, Box<str>)>,
    wires: Vec<Weak<Wire>>,
    /// At how many wires those that are gone are looked for: so that each dial costs the same.
    prune_at: usize,
}

impl MemoryNetwork {
    /// A network of nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens under a name, until the listener is dropped.
    ///
    /// # Errors
    /// `Misconfigured`, when somebody listens under that name.
    pub fn listen(&self, name: impl Into<Box<str>>) -> Result<MemoryListener, TransportError> {
        let name = name.into();
        let mut book = self.book();
        if book.listeners.contains_key(&name) {
            return Err(TransportError::new(Kind::Misconfigured, format!("memory:{name} is taken")));
        }
        let (sender, dials) = mpsc::channel(DIALS_WAITING_MAX);
        book.listeners.insert(name.clone(), sender);
        Ok(MemoryListener::new(self.clone(), name, dials))
    }

    /// A dialer for `from` that reaches whoever listens as `to`. Neither has to be there yet.
    #[must_use]
    pub fn dialer(&self, from: impl Into<Box<str>>, to: impl Into<Box<str>>) -> MemoryDialer {
        MemoryDialer::new(self.clone(), from.into(), to.into())
    }

    /// Lets what is sent from now on take so long. The order stays. A dial takes as long.
    pub fn set_latency(&self, latency: Duration) {
        self.0.conditions.set_latency(latency);
    }

    /// Separates two names until [`heal`](Self::heal): links between them stall, and dials fail with `Unreachable`.
    /// Nothing is lost by that, and nobody is told.
    pub fn partition(&self, one: &str, other: &str) {
        let mut book = self.book();
        book.partitions.insert(ordered(one, other));
        book.each_between(one, other, |wire| wire.hold(true));
    }

    /// Ends the partition of two names: what was held up goes on.
    pub fn heal(&self, one: &str, other: &str) {
        let mut book = self.book();
        book.partitions.remove(&ordered(one, other));
        book.each_between(one, other, |wire| wire.hold(false));
    }

    /// Loses all links between two names; what is on its way is gone. They can dial again.
    pub fn cut(&self, one: &str, other: &str) {
        let lost = TransportError::lost("memory: the wire was cut");
        self.book().each_between(one, other, |wire| wire.lose(lost.clone()));
    }

    /// From now on one frame in so many breaks its link instead of arriving: the frame and all behind it are gone. The
    /// same seed breaks at the same frames, as long as frames are sent in the same order.
    pub fn break_links(&self, seed: u64, one_in: NonZeroU32) {
        self.0.conditions.set_breaks(seed, one_in);
    }

    /// Ends what [`break_links`](Self::break_links) began.
    pub fn mend_links(&self) {
        self.0.conditions.clear_breaks();
    }

    pub(crate) fn latency(&self) -> Duration {
        self.0.conditions.latency()
    }

    /// A new wire, what to hand to the listener, and where the dialler's end will come.
    pub(crate) fn wire(&self, from: &str, to: &str) -> Result<Knock, TransportError> {
        let mut book = self.book();
        let listener = book.listeners.get(to).filter(|_| !book.partitions.contains(&ordered(from, to)));
        let Some(listener) = listener.cloned() else { return Err(unreachable(to)) };
        let wire = Arc::new(Wire::new([from.into(), to.into()], self.0.conditions.clone()));
        book.remember(&wire);
        let (answer, answered) = oneshot::channel();
        let [dialler, accepted] = [Side::Dialler, Side::Listener].map(|side| halves::end(&wire, side));
        Ok(Knock { listener, dialled: Dialled { dialler, accepted, answer }, answered })
    }

    /// Frees a name.
    pub(crate) fn forget(&self, name: &str) {
        self.book().listeners.remove(name);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing that runs under the lock panics halfway through a change.
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A dial on its way to the listener.
pub(crate) struct Knock {
    pub(crate) listener: mpsc::Sender<Dialled>,
    pub(crate) dialled: Dialled,
    pub(crate) answered: oneshot::Receiver<opor_transport_traits::Link>,
}

pub(crate) fn unreachable(name: &str) -> TransportError {
    TransportError::new(Kind::Unreachable, format!("memory:{name}"))
}

fn ordered(one: &str, other: &str) -> (Box<str>, Box<str>) {
    (one.min(other).into(), one.max(other).into())
}

impl Book {
    fn remember(&mut self, wire: &Arc<Wire>) {
        if self.wires.len() >= self.prune_at {
            self.wires.retain(|wire| wire.strong_count() > 0);
            self.prune_at = 2 * self.wires.len() + 16;
        }
        self.wires.push(Arc::downgrade(wire));
    }

    fn each_between(&self, one: &str, other: &str, act: impl Fn(&Wire)) {
        let wires = self.wires.iter().filter_map(Weak::upgrade);
        wires.filter(|wire| wire.connects(one, other)).for_each(|wire| act(&wire));
    }
}
