//! The links of a server: by id, within limits, until they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use data_encoding::HEXLOWER;
use opor_transport_traits::{Link, TransportError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::caller::Caller;
use crate::gauge::Gauge;
use crate::halves::link;
use crate::options::ServerOptions;
use crate::state::{Carried, LinkState};
use crate::wire::Complaint;

/// Nobody guesses 128 bits.
const ID_LEN: usize = 16;

/// How long a link that was closed and dropped here goes on for its client to take what is left and to answer.
const LINGER: std::time::Duration = std::time::Duration::from_secs(30);

/// The links that there are.
pub(crate) struct Registry {
    links: Mutex<Links>,
    /// How many there are.
    count: watch::Sender<usize>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) options: ServerOptions,
}

#[derive(Default)]
struct Links {
    by_id: HashMap<Box<str>, Arc<Entry>>,
    by_caller: HashMap<Box<str>, usize>,
}

/// One link, as its server sees it.
pub(crate) struct Entry {
    pub(crate) state: Arc<LinkState>,
    caller: Caller,
    /// The end that is handed out when the client shows that it knows its id.
    unclaimed: Mutex<Option<Link>>,
    seen: Mutex<Instant>,
    /// Whether the client takes compressed batches.
    pub(crate) squeeze: bool,
    /// The newest request that sends.
    pub(crate) sending: Turn,
    /// The newest request that receives.
    pub(crate) receiving: Turn,
}

/// Of several requests of a kind the newest counts: the older ones are those that a proxy or a client has given up.
pub(crate) struct Turn(watch::Sender<u64>);

impl Turn {
    fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Ends the turn of an older request, and begins one.
    pub(crate) fn take(&self) -> Until {
        let mut mine = 0;
        self.0.send_modify(|newest| {
            *newest += 1;
            mine = *newest;
        });
        Until { newest: self.0.subscribe(), mine }
    }
}

/// The turn of one request.
pub(crate) struct Until {
    newest: watch::Receiver<u64>,
    mine: u64,
}

impl Until {
    /// Waits until a newer request has the turn.
    pub(crate) async fn over(&mut self) {
        let mine = self.mine;
        let _ = self.newest.wait_for(|newest| *newest != mine).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics with one of these locks held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn new(options: ServerOptions) -> Arc<Self> {
        let count = watch::Sender::new(0);
        Arc::new(Self { links: Mutex::default(), count, gauge: Arc::default(), options })
    }

    /// Opens a link, and gives it an id.
    pub(crate) fn open(self: &Arc<Self>, caller: &Caller, squeeze: bool) -> Result<Box<str>, Complaint> {
        let mut bytes = [0; ID_LEN];
        // A system without randomness can open no link.
        getrandom::fill(&mut bytes).map_err(|_| Complaint::Full)?;
        let id: Box<str> = HEXLOWER.encode(&bytes).into();
        let state = LinkState::new(self.gauge.clone());
        let entry = Arc::new(Entry {
            unclaimed: Mutex::new(Some(link(&state, &caller.peer))),
            state,
            caller: caller.clone(),
            seen: Mutex::new(Instant::now()),
            squeeze,
            sending: Turn::new(),
            receiving: Turn::new(),
        });
        {
            let mut links = lock(&self.links);
            if links.by_id.len() >= self.options.links_max || self.gauge.now() >= self.options.held_max {
                return Err(Complaint::Full);
            }
            if let Some(counted) = &caller.counted {
                let of_caller = links.by_caller.entry(counted.clone()).or_default();
                if *of_caller >= self.options.links_per_peer_max {
                    return Err(Complaint::TooMany);
                }
                *of_caller += 1;
            }
            links.by_id.insert(id.clone(), entry.clone());
            self.count.send_replace(links.by_id.len());
        }
        tokio::spawn(watch_over(self.clone(), id.clone(), entry));
        Ok(id)
    }

    /// The link of this id, if it is this caller's.
    pub(crate) fn find(&self, caller: &Caller, id: &str) -> Option<Arc<Entry>> {
        let entry = lock(&self.links).by_id.get(id).cloned()?;
        (entry.caller.place == caller.place && entry.caller.who == caller.who).then(|| {
            // A client that sends and never asks for its messages must not put off its end.
            if lock(&entry.unclaimed).is_none() {
                *lock(&entry.seen) = Instant::now();
            }
            entry
        })
    }

    fn remove(&self, id: &str) {
        let mut links = lock(&self.links);
        let Some(entry) = links.by_id.remove(id) else { return };
        if let Some(counted) = &entry.caller.counted
            && let Some(count) = links.by_caller.get_mut(counted)
        {
            *count -= 1;
            if *count == 0 {
                links.by_caller.remove(counted);
            }
        }
        self.count.send_replace(links.by_id.len());
        drop(links);
        // An end that nobody has claimed is dropped after the lock.
        drop(lock(&entry.unclaimed).take());
    }

    pub(crate) fn len(&self) -> usize {
        *self.count.borrow()
    }

    /// Ends all links that there are.
    pub(crate) fn lose_all(&self) {
        let entries: Vec<_> = lock(&self.links).by_id.values().cloned().collect();
        for entry in entries {
            entry.state.lose(TransportError::lost("http: the server has ended"));
        }
    }

    /// Waits until there is no link.
    pub(crate) async fn empty(&self) {
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

impl Entry {
    /// The end to be handed out, the first time.
    pub(crate) fn claim(&self) -> Option<Link> {
        let claimed = lock(&self.unclaimed).take();
        if claimed.is_some() {
            *lock(&self.seen) = Instant::now();
        }
        claimed
    }

    /// When the link is given up, unless something comes before, and how that is told.
    fn deadline(&self, options: &ServerOptions) -> (Instant, &'static str) {
        let seen = *lock(&self.seen);
        if lock(&self.unclaimed).is_some() {
            return (
                seen + options.claim.min(options.expiry),
                "http: the client never asked for its messages",
            );
        }
        (seen + options.expiry, "http: no sign of life from the client in time")
    }
}

/// Waits for the end of a link, or gives it up, and forgets it then.
async fn watch_over(registry: Arc<Registry>, id: Box<str>, entry: Arc<Entry>) {
    let carried = Carried(entry.state.clone());
    let lingering = async {
        entry.state.left().await;
        tokio::time::sleep(LINGER).await;
        TransportError::lost("http: the peer did not answer the close")
    };
    let silent = async {
        loop {
            let (deadline, how) = entry.deadline(&registry.options);
            if deadline <= Instant::now() {
                return TransportError::lost(how);
            }
            sleep_until(deadline).await;
        }
    };
    tokio::select! {
        () = entry.state.ended() => {}
        error = silent => entry.state.lose(error),
        error = lingering => entry.state.lose(error),
    }
    drop(carried);
    registry.remove(&id);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opor_transport_traits::{CloseCode, CloseReason};

    use super::*;

    fn caller(who: &str, counted: Option<&str>) -> Caller {
        Caller::new("garden", who).counted_by(counted.map(Into::into))
    }

    #[tokio::test]
    async fn links_are_counted_by_what_the_caller_says() {
        let registry = Registry::new(ServerOptions::default().with_links_per_peer_max(2));
        for who in ["anna", "ben"] {
            registry.open(&caller(who, Some("10.0.0.1")), false).expect("there is a place");
        }
        let third = registry.open(&caller("cora", Some("10.0.0.1")), false);
        assert_eq!(third.err(), Some(Complaint::TooMany));
        for _ in 0..3 {
            registry.open(&caller("anna", None), false).expect("these are not counted");
        }
        let ids: Vec<_> = lock(&registry.links).by_id.keys().cloned().collect();
        ids.iter().for_each(|id| registry.remove(id));
        assert!(lock(&registry.links).by_caller.is_empty(), "what has ended counts no more");
    }

    #[tokio::test]
    async fn while_much_is_held_no_link_is_opened() {
        let registry = Registry::new(ServerOptions::default());
        let most = registry.options.held_max;
        registry.gauge.add(most);
        assert_eq!(registry.open(&caller("anna", Some("10.0.0.1")), false).err(), Some(Complaint::Full));
        assert!(lock(&registry.links).by_caller.is_empty(), "it is not counted either");
        registry.gauge.sub(1);
        registry.open(&caller("anna", Some("10.0.0.1")), false).expect("there is a place");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_answer_a_close_is_waited_for_so_long() {
        let (registry, anna) = (Registry::new(ServerOptions::default()), caller("anna", None));
        let id = registry.open(&anna, false).expect("there is a place");
        let link = registry.find(&anna, &id).and_then(|entry| entry.claim()).expect("it is claimed");
        let (mut sender, receiver) = link.split();
        sender.close(CloseReason::new(CloseCode::DONE)).await.expect("the link is up");
        drop((sender, receiver));
        let begun = Instant::now();
        tokio::time::timeout(10 * LINGER, registry.empty()).await.expect("it ends");
        assert_eq!(begun.elapsed(), LINGER);
    }

    #[tokio::test]
    async fn who_never_asks_for_messages_cannot_put_off_the_end() {
        let options = ServerOptions::default().with_claim(Duration::from_millis(20));
        let (registry, anna) = (Registry::new(options), caller("anna", None));
        let id = registry.open(&anna, false).expect("there is a place");
        let busy = async {
            while registry.find(&anna, &id).is_some() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), busy).await.expect("it ends all the same");
        assert_eq!(registry.len(), 0);
    }
}
