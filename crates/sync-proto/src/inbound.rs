//! The half of a session that takes: the log of the peer, or a snapshot of it.
//!
//! What came is applied in order, one item at a time, and acknowledged once the driver says that it is durable. The
//! credit of the peer is what is not in use of the window, so what waits here has a limit in bytes, and one in items.
//!
//! An acknowledgement overtakes nothing. What this side read of its log before it merged something goes first; credit goes at
//! once, so that it can. And what the peer acknowledges counts when all is applied that came before. So whoever drops
//! tombstones that are acknowledged does not meet changes which the peer read before it learnt of the deletes.

use std::collections::VecDeque;

use opor_core::DbVersion;

use crate::assembly::Assembly;
use crate::close::CloseReason;
use crate::config::Config;
use crate::cursor::Cursor;
use crate::event::{Ask, Event, RequestId, Work};
use crate::message::{Capabilities, Hello, Kind, Message, Offer, Resume};
use crate::outbound::ITEMS_MAX;
use crate::requests::Requests;
use crate::short::LastShort;
use crate::time::MonoMillis;
use crate::violation::Violation;

/// What the peer gives.
#[derive(Debug)]
pub(crate) struct Inbound {
    item_max: u64,
    window: u64,
    snapshots: bool,
    /// What short changesets may be told as differences from.
    last_short: LastShort,
    feed: Feed,
    /// The request that the peer has to be sent.
    ask: Option<Ask>,
    /// The request is for the log after a snapshot, and so an acknowledgement.
    ask_waits: bool,
    has_asked: bool,
    /// What the peer acknowledged, and the items that have to be applied first.
    acknowledged: VecDeque<(u64, Cursor)>,
    partial: Option<Assembly<Head>>,
    /// Since when the partial item has not grown.
    partial_since: Option<MonoMillis>,
    waiting: VecDeque<Job>,
    applying: Option<Applying>,
    /// Items that began, in all.
    items_begun: u64,
    /// Items that are durable, in all, and what of it the peer has been told.
    items_applied: u64,
    items_told: u64,
    /// Items that may be acknowledged, in all: nothing that is older waits to be sent to the peer.
    items_settled: u64,
    bytes_received: u64,
    bytes_applied: u64,
    limit_told: u64,
    /// No more credit is given for now.
    is_held: bool,
    /// Of two sides that hold each other back, this one takes a snapshot first.
    gives_way: bool,
    /// The peer does not send its log, and a snapshot of it is not asked for before the peer is released, or has not
    /// been installed since.
    waits: bool,
    credit_due: bool,
    caught_up: bool,
    behind: Option<bool>,
}

/// How the half that takes stands to the peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stance {
    /// The peer gets no credit for its log.
    pub(crate) holds: bool,
    /// This side needs a snapshot of the peer, and the peer one of this side first.
    pub(crate) waits: bool,
}

/// What is coming.
#[derive(Debug)]
enum Feed {
    /// Nothing was asked for, or the peer cannot give what was.
    Silent,
    Log,
    /// A snapshot was asked for.
    Fetching {
        resume: Option<Resume>,
    },
    Snapshot {
        offer: Offer,
        next: u64,
    },
    /// All chunks are here, and the snapshot is not installed yet.
    Installing,
}

#[derive(Debug)]
enum Head {
    Changes { cursor: Cursor, done: bool, delta: bool },
    Offer(Offer),
    Chunk { index: u64 },
}

/// What waits to be applied.
#[derive(Debug)]
enum Job {
    /// An item that took so many bytes on its way.
    Item {
        head: Head,
        len: u64,
        bytes: Vec<u8>,
    },
    Install(Offer),
}

/// What is being applied.
#[derive(Debug)]
struct Applying {
    req: RequestId,
    then: Then,
}

/// What an applied job leads to.
#[derive(Debug)]
enum Then {
    /// An acknowledgement of an item of so many bytes.
    Ack { bytes: u64, done: bool, is_of_log: bool },
    /// The log after the snapshot.
    Pull(Cursor),
}

impl Inbound {
    pub(crate) fn new(config: &Config, peer: &Hello, ask: Ask) -> Self {
        let common = config.capabilities.common(peer.capabilities);
        let mut inbound = Self {
            item_max: config.item_max as u64,
            window: config.window as u64,
            snapshots: common.has(Capabilities::SNAPSHOT),
            last_short: LastShort::default(),
            feed: Feed::Silent,
            ask: None,
            ask_waits: false,
            has_asked: false,
            acknowledged: VecDeque::new(),
            partial: None,
            partial_since: None,
            waiting: VecDeque::new(),
            applying: None,
            items_begun: 0,
            items_applied: 0,
            items_told: 0,
            items_settled: 0,
            bytes_received: 0,
            bytes_applied: 0,
            limit_told: 0,
            is_held: false,
            gives_way: config.site < peer.site,
            waits: false,
            credit_due: false,
            caught_up: false,
            behind: None,
        };
        inbound.ask(ask);
        inbound
    }

    /// Asks the peer, where nothing is coming.
    ///
    /// # Panics
    /// When something is.
    pub(crate) fn ask(&mut self, ask: Ask) {
        assert!(matches!(self.feed, Feed::Silent), "the peer is asked anew only when it is behind");
        // What is read of the log here before the first time is all later than what it acknowledges.
        self.ask_waits = self.has_asked && matches!(ask, Ask::Log(Some(_)));
        self.has_asked = true;
        self.feed = match &ask {
            Ask::Log(_) => {
                self.waits = false;
                Feed::Log
            }
            Ask::Snapshot(_) if !self.snapshots => {
                self.behind = Some(false);
                return;
            }
            Ask::Snapshot(resume) => {
                // Its chunks need credit. What else comes on it is the driver's to refuse.
                self.is_held = false;
                Feed::Fetching { resume: resume.clone() }
            }
        };
        self.ask = Some(ask);
    }

    /// A changeset begins.
    pub(crate) fn changes(
        &mut self,
        (number, len): (u64, u64),
        cursor: Cursor,
        (done, delta): (bool, bool),
        payload: &[u8],
        now: MonoMillis,
    ) -> Result<(), CloseReason> {
        match &self.feed {
            Feed::Log => self.begin((number, len), Head::Changes { cursor, done, delta }, payload, now),
            Feed::Silent | Feed::Fetching { .. } | Feed::Snapshot { .. } | Feed::Installing => {
                Err(self.out_of_phase(Kind::Changes))
            }
        }
    }

    /// A chunk begins.
    pub(crate) fn chunk(
        &mut self,
        (number, len): (u64, u64),
        index: u64,
        payload: &[u8],
        now: MonoMillis,
    ) -> Result<(), CloseReason> {
        match &mut self.feed {
            Feed::Snapshot { next, .. } => {
                if index != *next {
                    return Err(Violation::ChunkOrder { expected: *next, index }.into());
                }
                *next += 1;
                self.begin((number, len), Head::Chunk { index }, payload, now)
            }
            Feed::Silent | Feed::Log | Feed::Fetching { .. } | Feed::Installing => {
                Err(self.out_of_phase(Kind::Chunk))
            }
        }
    }

    fn begin(
        &mut self,
        (number, len): (u64, u64),
        head: Head,
        payload: &[u8],
        now: MonoMillis,
    ) -> Result<(), CloseReason> {
        if number != self.items_begun || self.partial.is_some() {
            return Err(Violation::ItemOrder { expected: self.items_begun, number }.into());
        }
        if self.items_begun - self.items_told >= ITEMS_MAX as u64 {
            return Err(Violation::TooManyItems { max: ITEMS_MAX }.into());
        }
        self.items_begun += 1;
        self.receive(payload)?;
        self.partial = Some(Assembly::begin(number, len, head, payload, self.item_max)?);
        Ok(self.grown(now)?)
    }

    /// More of the item under way.
    pub(crate) fn part(
        &mut self,
        number: u64,
        offset: u64,
        payload: &[u8],
        now: MonoMillis,
    ) -> Result<(), CloseReason> {
        if self.partial.is_none() {
            return Err(Violation::PartOrder { number, offset, at: 0 }.into());
        }
        self.receive(payload)?;
        let partial = self.partial.as_mut().expect("it was there just now");
        partial.add(number, offset, payload)?;
        Ok(self.grown(now)?)
    }

    /// Counts bytes against the credit.
    fn receive(&mut self, payload: &[u8]) -> Result<(), Violation> {
        self.bytes_received += payload.len() as u64;
        if self.bytes_received > self.limit_told {
            return Err(Violation::CreditOverrun { sent: self.bytes_received, limit: self.limit_told });
        }
        Ok(())
    }

    /// The partial item has grown; when it is whole it waits to be applied.
    fn grown(&mut self, now: MonoMillis) -> Result<(), Violation> {
        self.partial_since = Some(now);
        if !self.partial.as_ref().is_some_and(Assembly::is_whole) {
            return Ok(());
        }
        let (head, bytes) = self.partial.take().expect("it is whole").finish();
        let len = bytes.len() as u64;
        let bytes = match head {
            Head::Changes { delta, .. } => self.last_short.hear(bytes, delta)?,
            Head::Offer(_) | Head::Chunk { .. } => bytes,
        };
        self.waiting.push_back(Job::Item { head, len, bytes });
        if let Feed::Snapshot { offer, next, .. } = &self.feed
            && *next == offer.chunks
        {
            self.waiting.push_back(Job::Install(offer.clone()));
            self.feed = Feed::Installing;
        }
        Ok(())
    }

    /// The peer says that it cannot go on, or has no snapshot.
    pub(crate) fn behind(&mut self, snapshot: bool) -> Result<(), CloseReason> {
        match &self.feed {
            Feed::Log | Feed::Fetching { .. } | Feed::Snapshot { .. } if self.partial.is_none() => {
                self.feed = Feed::Silent;
                self.behind = Some(snapshot && self.snapshots);
                Ok(())
            }
            Feed::Silent | Feed::Log | Feed::Fetching { .. } | Feed::Snapshot { .. } | Feed::Installing => {
                Err(self.out_of_phase(Kind::Behind))
            }
        }
    }

    /// The peer says which snapshot comes, and its manifest begins.
    pub(crate) fn offer(
        &mut self,
        (number, len): (u64, u64),
        offer: Offer,
        payload: &[u8],
        now: MonoMillis,
    ) -> Result<(), CloseReason> {
        match &self.feed {
            Feed::Fetching { resume } => {
                let continues = resume.as_ref().is_some_and(|resume| resume.id == offer.id);
                let first_max = resume.as_ref().filter(|_| continues).map_or(0, |resume| resume.index);
                if offer.first > first_max {
                    return Err(Violation::OfferStart { first: offer.first }.into());
                }
                self.feed = Feed::Snapshot { next: offer.first, offer: offer.clone() };
                self.begin((number, len), Head::Offer(offer), payload, now)
            }
            Feed::Silent | Feed::Log | Feed::Snapshot { .. } | Feed::Installing => {
                Err(self.out_of_phase(Kind::Offer))
            }
        }
    }

    fn out_of_phase(&self, kind: Kind) -> CloseReason {
        let during = match self.feed {
            Feed::Silent => "when nothing was asked for",
            Feed::Log => "while the log comes",
            Feed::Fetching { .. } => "before a snapshot is offered",
            Feed::Snapshot { .. } => "while a snapshot comes",
            Feed::Installing => "before the snapshot is installed",
        };
        Violation::OutOfPhase { kind, during }.into()
    }

    /// The next thing to apply.
    pub(crate) fn poll_apply(&mut self, requests: &mut Requests) -> Option<(RequestId, Work)> {
        if self.applying.is_some() {
            return None;
        }
        let (work, then) = match self.waiting.pop_front()? {
            Job::Item { head, len, bytes } => {
                let is_of_log = matches!(head, Head::Changes { .. });
                let (work, done) = match head {
                    Head::Changes { cursor, done, .. } => (Work::Changes { changeset: bytes, cursor }, done),
                    Head::Offer(offer) => (Work::Offer { offer, manifest: bytes }, false),
                    Head::Chunk { index } => (Work::Chunk { index, bytes }, false),
                };
                (work, Then::Ack { bytes: len, done, is_of_log })
            }
            Job::Install(offer) => {
                let cursor = offer.cursor.clone();
                (Work::Install(offer), Then::Pull(cursor))
            }
        };
        let req = requests.next();
        self.applying = Some(Applying { req, then });
        Some((req, work))
    }

    /// What was being applied is durable.
    pub(crate) fn applied(
        &mut self,
        req: RequestId,
        version: Option<DbVersion>,
        requests: &mut Requests,
        now: MonoMillis,
    ) {
        let then = self.take_applying(req);
        // The peer may have waited for the credit that is free only now.
        self.partial_since = Some(now);
        if let Some(version) = version {
            requests.note(version);
        }
        match then {
            Then::Ack { bytes, done, is_of_log } => {
                if !is_of_log && self.items_settled == self.items_applied {
                    self.items_settled += 1;
                }
                self.items_applied += 1;
                self.bytes_applied += bytes;
                self.caught_up |= done;
            }
            Then::Pull(cursor) => {
                if version.is_none() {
                    // The snapshot may have taken the place of the database, with its numbers.
                    requests.forget_echoes();
                }
                self.feed = Feed::Silent;
                self.ask(Ask::Log(Some(cursor)));
            }
        }
    }

    /// What was being applied cannot be taken.
    pub(crate) fn rejected(&mut self, req: RequestId) {
        self.take_applying(req);
    }

    fn take_applying(&mut self, req: RequestId) -> Then {
        let applying = self.applying.take().expect("an answer belongs to what is being applied");
        assert_eq!(applying.req, req, "an answer belongs to what is being applied");
        applying.then
    }

    /// How much the peer may send in all. What came and is not durable fills the window. What has begun comes to its end even
    /// where it will be refused: the peer acknowledges nothing before.
    fn limit(&self) -> u64 {
        if self.is_held {
            let rest = self.partial.as_ref().map_or(0, Assembly::rest);
            return self.limit_told.max(self.bytes_received + rest);
        }
        self.bytes_applied.saturating_add(self.window)
    }

    /// Whether an acknowledgement waits for what is older; and whether it is the request for the log after a snapshot.
    pub(crate) fn holds_back(&self) -> (bool, bool) {
        let asks = self.ask.is_some() && self.ask_waits;
        (asks || self.items_settled < self.items_applied, asks)
    }

    /// Nothing older than what is applied waits to be sent.
    pub(crate) fn settle(&mut self) {
        self.items_settled = self.items_applied;
        self.ask_waits = false;
    }

    /// The peer has acknowledged something.
    pub(crate) fn acknowledged(&mut self, cursor: Cursor) {
        let whole = self.items_begun - u64::from(self.partial.is_some());
        match self.acknowledged.back_mut() {
            Some((after, last)) if *after == whole => *last = cursor,
            _ => self.acknowledged.push_back((whole, cursor)),
        }
    }

    /// Gives the peer no more credit than it has.
    pub(crate) const fn hold(&mut self) {
        self.is_held = true;
    }

    /// Gives credit again.
    pub(crate) const fn release(&mut self) {
        self.credit_due |= self.is_held;
        self.is_held = false;
    }

    /// Whether the peer is held back, and whether this side waits with the snapshot that it needs of the peer.
    pub(crate) const fn stance(&self) -> Stance {
        Stance { holds: self.is_held, waits: self.waits }
    }

    /// The next frame: an acknowledgement, or what is asked.
    pub(crate) fn poll_send(&mut self, count: u8) -> Option<Vec<u8>> {
        let limit = self.limit();
        if let Some(ask) = self.ask.take_if(|_| !self.ask_waits) {
            self.limit_told = limit;
            self.credit_due = false;
            return Some(match ask {
                Ask::Log(cursor) => Message::Pull { cursor, limit }.to_bytes(count),
                Ask::Snapshot(resume) => Message::Fetch { resume, limit }.to_bytes(count),
            });
        }
        let lags = self.items_settled < self.items_applied || self.is_held;
        let credit_due = std::mem::take(&mut self.credit_due) || (lags && limit > self.limit_told);
        if self.items_settled == self.items_told && !credit_due {
            return None;
        }
        self.items_told = self.items_settled;
        self.limit_told = limit;
        Some(Message::Ack { items: self.items_settled, limit }.to_bytes(count))
    }

    /// The next thing to know.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.caught_up) {
            return Some(Event::CaughtUp);
        }
        if self.acknowledged.front().is_some_and(|(after, _)| *after <= self.items_applied) {
            return self.acknowledged.pop_front().map(|(_, cursor)| Event::Acknowledged(cursor));
        }
        // The driver decides how to go on from what it holds; and a peer that offers and takes back in turns has no more
        // than one offer waiting here.
        let is_idle = self.waiting.is_empty() && self.applying.is_none();
        if self.behind == Some(true) && self.is_held && !self.gives_way {
            // The peer has to hear of the deletes here first. Its snapshot is then as if it had never missed them.
            self.waits = true;
            return None;
        }
        self.behind.take_if(|_| is_idle).map(|snapshot| Event::Behind { snapshot })
    }

    /// Since when the rest of an item is waited for. While something is applied the peer may lack the credit for it.
    pub(crate) fn waiting_since(&self) -> Option<MonoMillis> {
        let owed = self.partial.is_some() && self.applying.is_none() && self.waiting.is_empty();
        self.partial_since.filter(|_| owed)
    }

    /// Bytes and entries held: what a test of bounds looks at.
    pub(crate) fn held(&self) -> (usize, usize) {
        let waiting = self.waiting.iter().map(|job| match job {
            Job::Item { bytes, .. } => bytes.len(),
            Job::Install(_) => 0,
        });
        let partial = self.partial.as_ref().map_or(0, Assembly::held);
        (partial + waiting.sum::<usize>(), self.waiting.len())
    }
}
