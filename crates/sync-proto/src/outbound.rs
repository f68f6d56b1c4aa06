//! The half of a session that gives: the log of this replica, or a snapshot of it, to the peer.
//!
//! One item is in hand at a time: it is read, cut into frames, sent, and only then is the next one read. So however
//! slow the peer is, what waits here is one item.
//!
//! What is read and not sent is older than what is merged meanwhile, and the peer must not hear of that first: the other half
//! holds its acknowledgements back as long as [`Outbound::is_owed`] says so.

use std::collections::VecDeque;

use crate::close::CloseReason;
use crate::config::Config;
use crate::cursor::Cursor;
use crate::event::{Found, RequestId, Wanted};
use crate::inbound::Stance;
use crate::message::{HEAD_LEN_MAX, Hello, Kind, Message, Offer, Resume};
use crate::requests::Requests;
use crate::short::LastShort;
use crate::time::MonoMillis;
use crate::violation::Violation;

/// Items under way, sent and not yet acknowledged. Enough to keep a link busy with single commits while the peer
/// stores them; the bytes are limited by the credit.
pub(crate) const ITEMS_MAX: usize = 64;

/// What the peer gets.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// What the peer says it takes, and what this side holds at once.
    item_max: u64,
    payload_max: usize,
    changes_max: usize,
    compress: bool,
    snapshots: bool,
    /// What short changesets are told as differences from, where the peer reads that.
    last_short: Option<LastShort>,
    source: Source,
    reading: Option<RequestId>,
    /// Whether it is read only to see what the cursor of the peer is worth.
    looks: bool,
    /// Whether the peer has asked for a snapshot.
    gave_snapshot: bool,
    item: Option<Item>,
    /// For each item sent and not acknowledged: where the peer stands once it holds it; none for what is of a snapshot.
    unacked: VecDeque<Option<Cursor>>,
    items_sent: u64,
    items_acked: u64,
    bytes_sent: u64,
    limit: u64,
    /// Since when the peer owes an acknowledgement or credit.
    waiting_since: Option<MonoMillis>,
    acknowledged: Option<Cursor>,
}

/// Where items come from.
#[derive(Debug)]
enum Source {
    /// The peer asked for nothing, or has to ask anew.
    Idle {
        told: Told,
    },
    Log(Log),
    /// A snapshot was asked for and is being looked for.
    Opening {
        resume: Option<Resume>,
    },
    Snapshot {
        offer: Offer,
        next: u64,
    },
}

/// What the peer has to be told before it asks anew.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Nothing: it has not asked yet, or has all it asked for.
    Nothing,
    /// That it is behind; still to be told.
    Due { snapshot: bool },
    /// That it is behind.
    Behind,
}

#[derive(Debug)]
struct Log {
    /// Up to where the log was read.
    cursor: Option<Cursor>,
    /// What the peer says it holds, until a read has shown that it is of the history here.
    held: Option<Cursor>,
    /// Whether it has been looked at whether that is enough for one that is held back and holds back itself.
    is_weighed: bool,
    /// Whether there may be more to read.
    more: bool,
    /// How many changes to read at most: fewer after a piece that was too large for the peer.
    changes_max: usize,
    /// The credit there was when an item was put back for want of it. With more the log is read again.
    short_of: Option<u64>,
    /// Whether the peer has been told once that it has all.
    caught_up: bool,
    /// Since when the peer does not know that the cursor moved.
    untold_since: Option<MonoMillis>,
}

/// What is being sent.
#[derive(Debug)]
struct Item {
    head: Head,
    bytes: Vec<u8>,
    sent: usize,
    begun: bool,
    /// Where the log was before it was read, and whether the peer had been told once that it has all.
    before: (Option<Cursor>, bool),
}

#[derive(Debug)]
enum Head {
    Changes { cursor: Cursor, done: bool },
    Offer(Offer),
    Chunk { index: u64 },
}

impl Outbound {
    pub(crate) fn new(config: &Config, peer: &Hello) -> Self {
        let frame_max = peer.frame_max.min(config.frame_max as u64) as usize;
        let common = config.capabilities.common(peer.capabilities);
        Self {
            item_max: peer.item_max.min(config.item_max as u64),
            payload_max: frame_max - HEAD_LEN_MAX,
            changes_max: config.changes_max,
            compress: common.has(crate::Capabilities::ZSTD),
            snapshots: common.has(crate::Capabilities::SNAPSHOT),
            last_short: peer.capabilities.has(crate::Capabilities::DELTA).then(LastShort::default),
            source: Source::Idle { told: Told::Nothing },
            reading: None,
            looks: false,
            gave_snapshot: false,
            item: None,
            unacked: VecDeque::new(),
            items_sent: 0,
            items_acked: 0,
            bytes_sent: 0,
            limit: 0,
            waiting_since: None,
            acknowledged: None,
        }
    }

    /// The peer asks for the log.
    pub(crate) fn pull(&mut self, cursor: Option<Cursor>, limit: u64) -> Result<(), CloseReason> {
        self.check_idle(Kind::Pull)?;
        self.raise(limit)?;
        self.source = Source::Log(Log {
            held: cursor.clone(),
            is_weighed: false,
            cursor,
            more: true,
            changes_max: self.changes_max,
            short_of: None,
            caught_up: false,
            untold_since: None,
        });
        Ok(())
    }

    /// The peer asks for a snapshot.
    pub(crate) fn fetch(&mut self, resume: Option<Resume>, limit: u64) -> Result<(), CloseReason> {
        if !self.snapshots {
            return Err(Violation::NoSnapshots.into());
        }
        self.check_idle(Kind::Fetch)?;
        self.raise(limit)?;
        self.source = Source::Opening { resume };
        self.gave_snapshot = true;
        Ok(())
    }

    /// A peer asks once, and again only when it is told to, or has the whole snapshot.
    fn check_idle(&self, kind: Kind) -> Result<(), Violation> {
        let during = match &self.source {
            Source::Idle { told: Told::Nothing | Told::Behind } => return Ok(()),
            Source::Idle { told: Told::Due { .. } } | Source::Log(_) => "while the log is sent",
            Source::Opening { .. } | Source::Snapshot { .. } => "while a snapshot is sent",
        };
        Err(Violation::OutOfPhase { kind, during })
    }

    /// Credit never shrinks.
    fn raise(&mut self, limit: u64) -> Result<(), Violation> {
        if limit < self.limit {
            return Err(Violation::AckBack);
        }
        self.limit = limit;
        Ok(())
    }

    /// The peer says what is durable there.
    pub(crate) fn ack(&mut self, items: u64, limit: u64, now: MonoMillis) -> Result<(), CloseReason> {
        if items > self.items_sent {
            return Err(Violation::AckAhead { items, sent: self.items_sent }.into());
        }
        if items < self.items_acked {
            return Err(Violation::AckBack.into());
        }
        let progress = items > self.items_acked || limit > self.limit;
        self.raise(limit)?;
        let covered = (items - self.items_acked) as usize;
        if let Some(cursor) = self.unacked.drain(..covered).flatten().last() {
            self.acknowledged = Some(cursor);
        }
        self.items_acked = items;
        if progress {
            self.waiting_since = self.owed().then_some(now);
        }
        Ok(())
    }

    /// Whether the peer owes something: an acknowledgement, or credit for what is in hand.
    fn owed(&self) -> bool {
        !self.unacked.is_empty() || self.item.is_some()
    }

    /// Something was committed here.
    pub(crate) fn commit(&mut self) {
        if let Source::Log(log) = &mut self.source {
            log.more = true;
        }
    }

    /// What the store found.
    pub(crate) fn read(
        &mut self,
        req: RequestId,
        found: Found,
        requests: &mut Requests,
        now: MonoMillis,
    ) -> Result<(), CloseReason> {
        assert_eq!(self.reading.take(), Some(req), "an answer belongs to the read that is under way");
        match (&mut self.source, found) {
            (Source::Log(_), Found::Batch { changeset, cursor, done }) => {
                self.batch(changeset, cursor, done, now)
            }
            (Source::Log(_), Found::Behind) => {
                requests.forget_echoes();
                // What is acknowledged from now on is of a history that is gone.
                self.unacked.iter_mut().for_each(|cursor| *cursor = None);
                self.source = Source::Idle { told: Told::Due { snapshot: self.snapshots } };
                Ok(())
            }
            (Source::Opening { resume }, Found::Snapshot { offer, manifest }) => {
                let continues = resume.as_ref().is_some_and(|resume| resume.id == offer.id);
                let first_max = resume.as_ref().filter(|_| continues).map_or(0, |resume| resume.index);
                assert!(offer.first <= first_max, "a snapshot begins where the peer can go on, or at 0");
                assert!(offer.first < offer.chunks, "a snapshot has a chunk to send");
                self.source = Source::Snapshot { next: offer.first, offer: offer.clone() };
                self.take_in_hand(Head::Offer(offer), manifest, (None, false), now)
            }
            (Source::Opening { .. }, Found::NoSnapshot | Found::Behind)
            | (Source::Snapshot { .. }, Found::NoSnapshot | Found::Behind) => {
                self.source = Source::Idle { told: Told::Due { snapshot: false } };
                Ok(())
            }
            (Source::Snapshot { next, .. }, Found::Chunk(bytes)) => {
                let head = Head::Chunk { index: *next };
                *next += 1;
                self.take_in_hand(head, bytes, (None, false), now)
            }
            (source, found) => panic!("{found:?} is no answer to what was read for {source:?}"),
        }
    }

    fn batch(
        &mut self,
        changeset: Vec<u8>,
        cursor: Cursor,
        done: bool,
        now: MonoMillis,
    ) -> Result<(), CloseReason> {
        let Source::Log(log) = &mut self.source else { unreachable!("a batch is of the log") };
        if let Some(held) = log.held.take() {
            self.acknowledged.get_or_insert(held);
        }
        if std::mem::take(&mut self.looks) {
            log.more = true;
            return Ok(());
        }
        if changeset.len() as u64 > self.item_max && log.changes_max > 1 {
            // The cursor stays, so the same changes are read again, fewer at a time.
            log.changes_max /= 2;
            log.more = true;
            return Ok(());
        }
        log.changes_max = log.changes_max.saturating_mul(2).min(self.changes_max);
        log.more |= !done;
        let before = (log.cursor.replace(cursor.clone()), log.caught_up);
        let first_end = done && !log.caught_up;
        log.caught_up |= done;
        if changeset.is_empty() && !first_end {
            log.untold_since.get_or_insert(now);
            return Ok(());
        }
        log.untold_since = None;
        self.take_in_hand(Head::Changes { cursor, done }, changeset, before, now)
    }

    fn take_in_hand(
        &mut self,
        head: Head,
        bytes: Vec<u8>,
        before: (Option<Cursor>, bool),
        now: MonoMillis,
    ) -> Result<(), CloseReason> {
        let (len, max) = (bytes.len() as u64, self.item_max);
        if len > max {
            return Err(CloseReason::TooLarge { len, max });
        }
        self.waiting_since.get_or_insert(now);
        self.item = Some(Item { head, bytes, sent: 0, begun: false, before });
        Ok(())
    }

    /// Whether there is something of the log that was read and is not sent as a whole.
    pub(crate) fn is_owed(&self) -> bool {
        let in_hand = self.item.as_ref().is_some_and(|item| matches!(item.head, Head::Changes { .. }));
        in_hand || (self.reading.is_some() && !self.looks && matches!(self.source, Source::Log(_)))
    }

    /// Puts what is in hand of the log back, to be read anew, if nothing of it is sent and there is no credit for it; or in any
    /// case, for a peer that takes nothing of what was read before.
    pub(crate) fn put_back(&mut self, whatever: bool) {
        let Source::Log(log) = &mut self.source else { return };
        let credit = self.limit - self.bytes_sent;
        let (payload_max, limit) = (self.payload_max, self.limit);
        let goes = |item: &mut Item| {
            let is_short = item.bytes.len().min(payload_max) as u64 > credit;
            !item.begun && matches!(item.head, Head::Changes { .. }) && (whatever || is_short)
        };
        let Some(item) = self.item.take_if(goes) else { return };
        (log.cursor, log.caught_up) = item.before;
        (log.more, log.short_of) = (true, Some(limit).filter(|_| !whatever));
        if self.unacked.is_empty() {
            self.waiting_since = None;
        }
    }

    /// Whether another item may be under way.
    fn has_room(&self) -> bool {
        self.unacked.len() < ITEMS_MAX
    }

    /// What has to be read next. Nothing is read for a peer that takes nothing now: it may for long. But its cursor is looked
    /// at: two replicas that hold each other back until they hear what the other holds would wait for ever. Where they do,
    /// the want of a cursor is looked at too.
    pub(crate) fn poll_read(
        &mut self,
        requests: &mut Requests,
        stance: Stance,
    ) -> Option<(RequestId, Wanted)> {
        // What is committed here before the snapshot of the peer is merged, the peer would not take.
        let is_silent = stance.waits && (self.gave_snapshot || !stance.holds);
        let looks = matches!(self.source, Source::Log(_)) && (is_silent || self.limit == self.bytes_sent);
        let standoff = looks && stance.holds;
        let is_unchecked = |log: &Log| log.held.is_some() || (standoff && !log.is_weighed);
        let is_idle = match &self.source {
            Source::Log(log) => {
                (looks && !is_unchecked(log)) || log.short_of.is_some_and(|limit| self.limit <= limit)
            }
            Source::Idle { .. } | Source::Opening { .. } | Source::Snapshot { .. } => {
                self.limit == self.bytes_sent
            }
        };
        if self.reading.is_some() || self.item.is_some() || !self.has_room() || is_idle {
            return None;
        }
        let wanted = match &mut self.source {
            Source::Log(log) if log.more => {
                (log.more, log.short_of) = (false, None);
                log.is_weighed |= standoff;
                Wanted::Log {
                    cursor: log.cursor.clone(),
                    changes_max: if looks { 1 } else { log.changes_max },
                    echoes: requests.echoes(),
                    compress: self.compress,
                    standoff,
                }
            }
            Source::Opening { resume } => {
                Wanted::Snapshot { resume: resume.clone(), item_max: self.item_max }
            }
            Source::Snapshot { offer, next } if *next < offer.chunks => {
                Wanted::Chunk { id: offer.id.clone(), index: *next }
            }
            Source::Idle { .. } | Source::Log(_) | Source::Snapshot { .. } => return None,
        };
        let req = requests.next();
        (self.reading, self.looks) = (Some(req), looks);
        Some((req, wanted))
    }

    /// The next frame.
    pub(crate) fn poll_send(&mut self, count: u8, now: MonoMillis) -> Option<Vec<u8>> {
        match &mut self.source {
            Source::Idle { told: told @ Told::Due { .. } } => {
                let Told::Due { snapshot } = std::mem::replace(told, Told::Behind) else {
                    unreachable!("it is due")
                };
                Some(Message::Behind { snapshot }.to_bytes(count))
            }
            Source::Idle { .. } | Source::Log(_) | Source::Opening { .. } | Source::Snapshot { .. } => {
                self.poll_part(count, now)
            }
        }
    }

    /// The next part of the item in hand, if there is credit for it.
    fn poll_part(&mut self, count: u8, now: MonoMillis) -> Option<Vec<u8>> {
        let item = self.item.as_mut()?;
        let is_affordable = |item: &Item| {
            let payload = self.payload_max.min(item.bytes.len() - item.sent);
            payload as u64 <= self.limit - self.bytes_sent
        };
        if !is_affordable(item) {
            return None;
        }
        let mut is_delta = false;
        if let (Head::Changes { .. }, false, Some(last)) = (&item.head, item.begun, &mut self.last_short) {
            // Not before: what is put back the peer never hears.
            (item.bytes, is_delta) = last.tell(std::mem::take(&mut item.bytes));
        }
        let end = item.bytes.len().min(item.sent + self.payload_max);
        let payload = &item.bytes[item.sent..end];
        let (number, len) = (self.items_sent, item.bytes.len() as u64);
        let message = match &item.head {
            _ if item.begun => Message::Part { number, offset: item.sent as u64, payload },
            Head::Changes { cursor, done } => {
                let (cursor, done, delta) = (cursor.clone(), *done, is_delta);
                Message::Changes { number, len, cursor, done, delta, payload }
            }
            Head::Offer(offer) => Message::Offer { number, len, offer: offer.clone(), payload },
            Head::Chunk { index } => Message::Chunk { number, len, index: *index, payload },
        };
        let frame = message.to_bytes(count);
        self.bytes_sent += payload.len() as u64;
        item.sent = end;
        item.begun = true;
        if self.unacked.is_empty() {
            // A long item over a slow link is progress; with others unacknowledged only an acknowledgement is.
            self.waiting_since = Some(now);
        }
        if item.sent == item.bytes.len() {
            self.finish_item();
        }
        Some(frame)
    }

    fn finish_item(&mut self) {
        let item = self.item.take().expect("its last part was sent just now");
        self.items_sent += 1;
        self.unacked.push_back(match item.head {
            Head::Changes { cursor, .. } => Some(cursor),
            Head::Offer(_) | Head::Chunk { .. } => None,
        });
        if let Source::Snapshot { offer, next, .. } = &self.source
            && *next == offer.chunks
        {
            self.source = Source::Idle { told: Told::Nothing };
        }
    }

    /// Up to where the peer holds the log, if it said so since the last call.
    pub(crate) fn poll_acknowledged(&mut self) -> Option<Cursor> {
        self.acknowledged.take()
    }

    /// When the peer has to be told that its cursor moved.
    pub(crate) fn tell_at(&self, after_ms: u64) -> Option<MonoMillis> {
        match &self.source {
            Source::Log(log) if self.reading.is_none() && self.item.is_none() && self.has_room() => {
                log.untold_since.map(|since| since + after_ms)
            }
            _ => None,
        }
    }

    /// Takes the moved cursor in hand, as an item without changes.
    pub(crate) fn tell(&mut self, now: MonoMillis) {
        let Source::Log(log) = &mut self.source else { return };
        log.untold_since = None;
        let (cursor, done) = (log.cursor.clone(), !log.more);
        if let Some(cursor) = cursor {
            let before = (log.cursor.clone(), log.caught_up);
            let taken = self.take_in_hand(Head::Changes { cursor, done }, Vec::new(), before, now);
            assert_eq!(taken, Ok(()), "an item without bytes is never too large");
        }
    }

    /// Since when the peer owes an acknowledgement or credit.
    pub(crate) fn waiting_since(&self) -> Option<MonoMillis> {
        self.waiting_since.filter(|_| self.owed())
    }

    /// Bytes and entries held: what a test of bounds looks at.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.item.as_ref().map_or(0, |item| item.bytes.len()), self.unacked.len())
    }
}
