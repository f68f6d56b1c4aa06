//! Reads the room's log, and merges it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::Message;
use futures_util::StreamExt as _;
use opor_core::{Breach, Changeset, DbVersion, DecodeLimits, InvalidChange, SiteId};
use opor_store::{ApplyError, ApplyOptions, Store};
use opor_transport_traits::Bytes;
use tokio::time::{Instant, sleep};

use crate::bookmark::{self, Anchor, Inbox, digest};
use crate::entry::{CHANGESET_MAX, Entry, Parts, Record, SITE_HEADER};
use crate::error::{RoomError, in_full};
use crate::shared::{Shared, Visit, locked};
use crate::snapshot;
use crate::status::{Counters, RoomCatchUp, RoomEvent, Skip};
use crate::stream::RoomStream;

/// Messages that are asked for at once: some MiB of the largest, and few enough questions for many small ones.
const BATCH: usize = 64;

/// How long the broker keeps a question that nothing answers. Then it is looked whether the stream is still the same.
const EXPIRES: Duration = Duration::from_secs(10);

/// How soon what was left out is tried again: a clock that is set right, or a table that is made, is noticed within a while. Each
/// time it does not help the next one is twice as far off, because all that came after it is read again.
const AGAIN_FIRST: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(3_600);

/// Before a consumer is made anew that the broker did not keep.
const PAUSE: Duration = Duration::from_millis(250);

/// What a changeset of a room may take to decode: what one of the largest kind comes to, several times over.
const DECODE: DecodeLimits = DecodeLimits { bytes_max: 2 * CHANGESET_MAX, memory_max: 512 << 20 };

/// Reads on from a place.
pub(crate) struct Reader<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) visit: &'a Visit,
    pub(crate) room: &'a RoomStream,
    /// How far it has got.
    pub(crate) inbox: Inbox,
    /// The first message that was left out and may fit later.
    pub(crate) hole: Hole,
    /// Messages whose reading has not been noted in the database.
    pub(crate) unsaved: usize,
    /// The snapshot that could not be had, and in place of which another was asked for.
    pub(crate) asked: Option<String>,
    /// Messages that were read since it was last looked whether some were removed before.
    pub(crate) unverified: usize,
    /// Merges of which the database does not know that they need not be published.
    pub(crate) unskipped: usize,
}

/// The first message that was left out and may fit later; it is tried again at each connection, and now and then.
#[derive(Debug)]
pub(crate) struct Hole {
    /// As it was before it is tried again, until all has been read once more.
    before: Option<u64>,
    /// As it is now.
    now: Option<u64>,
    again_at: Instant,
    again_after: Duration,
}

impl Hole {
    pub(crate) fn new(before: Option<u64>) -> Self {
        Self { before, now: None, again_at: Instant::now() + AGAIN_FIRST, again_after: AGAIN_FIRST }
    }

    /// What is to be tried again by now.
    fn due(&mut self) -> bool {
        let is_due = self.now.is_some() && self.before.is_none() && Instant::now() >= self.again_at;
        if is_due {
            self.before = self.now.take();
            self.again_after = (self.again_after * 2).min(AGAIN_MAX);
            self.again_at = Instant::now() + self.again_after;
        }
        is_due
    }
}

/// What became of a changeset.
enum Outcome {
    Merged { rows: usize, changes: usize, unchanged: usize, version: Option<DbVersion>, is_echo: bool },
    Skipped(Skip, String),
}

impl Reader<'_> {
    /// Reads until something fails.
    pub(crate) async fn run(&mut self) -> Result<Infallible, RoomError> {
        loop {
            let next = self.inbox.anchor.sequence + 1;
            let from = self.hole.before.map_or(next, |hole| hole.min(next));
            let consumer = self.room.consumer(from).await?;
            let mut due = 1;
            let pending = consumer.cached_info().num_pending;
            self.shared.catching_up(RoomCatchUp::Log, 0, Some(pending));
            if pending == 0 {
                self.caught_up().await?;
            }
            'consumer: loop {
                let asked = consumer.batch().max_messages(BATCH).expires(EXPIRES).messages().await;
                let mut batch = asked.map_err(|error| RoomError::request("reading the log")(error.into()))?;
                let mut count = 0;
                while let Some(next) = batch.next().await {
                    // The broker has forgotten the consumer, or moved it: a new one goes on where this one was.
                    let Ok(message) = next else { break 'consumer };
                    let Ok(info) = message.info() else { break 'consumer };
                    if info.consumer_sequence != due {
                        break 'consumer;
                    }
                    let (sequence, pending) = (info.stream_sequence, info.pending);
                    due += 1;
                    count += 1;
                    self.take(sequence, &message).await?;
                    // More may have been published since the beginning.
                    self.shared.catching_up(RoomCatchUp::Log, due - 1, Some(due - 1 + pending));
                    if pending == 0 {
                        self.caught_up().await?;
                    }
                }
                if count == 0 {
                    self.room.extent().await?;
                    self.verify().await?;
                    self.save().await?;
                }
                if self.hole.due() {
                    break;
                }
            }
            self.room.extent().await?;
            sleep(PAUSE).await;
        }
    }

    async fn caught_up(&mut self) -> Result<(), RoomError> {
        if !*self.visit.caught_up.borrow() || self.unverified >= BATCH {
            self.verify().await?;
        }
        self.save().await?;
        if self.hole.before.take().is_some() {
            self.save_hole().await?;
        }
        if !self.visit.caught_up.send_replace(true) {
            self.shared.tell(RoomEvent::CaughtUp);
        }
        Ok(())
    }

    /// Looks whether the log was trimmed past this reader while it was slow. A record of a snapshot is there before the log is
    /// trimmed; so where its floor is not beyond the last place that was looked from, nothing was missed.
    async fn verify(&mut self) -> Result<(), RoomError> {
        let place = self.inbox.anchor.sequence;
        let newest = snapshot::newest(self.room).await?.map(|(_, record)| record);
        let is_gone = |record: &Record| {
            record.floor > self.inbox.verified && !locked(&self.visit.taken).contains(&record.id)
        };
        if let Some(record) = newest.filter(is_gone) {
            match snapshot::take(self.shared, self.visit, self.room, &record).await {
                Ok(taken) => taken.discard().await?,
                Err(error @ RoomError::Snapshot { .. }) => return self.ask_once(&record.id, &error).await,
                Err(error) => return Err(error),
            }
        }
        if self.inbox.verified != place {
            self.inbox.verified = place;
            self.unsaved += 1;
        }
        self.unverified = 0;
        Ok(())
    }

    /// Asks for another snapshot than the one that cannot be had, and goes on. It is looked for again: the place up to which
    /// nothing is missing stays where it was.
    async fn ask_once(&mut self, id: &str, error: &RoomError) -> Result<(), RoomError> {
        self.unverified = 0;
        if self.asked.as_deref() == Some(id) {
            return Ok(());
        }
        self.asked = Some(id.to_owned());
        snapshot::ask_for(self.shared, self.room, &error.to_string()).await
    }

    /// Notes in the database what was read, where nothing was stored with it.
    async fn save(&mut self) -> Result<(), RoomError> {
        if std::mem::take(&mut self.unsaved) == 0 {
            return Ok(());
        }
        let (keys, inbox) = (self.room.names.keys, self.inbox);
        let saved = self.shared.store.write(move |store| bookmark::save_inbox(store, keys, inbox)).await?;
        saved.map_err(|error| RoomError::store(&error))
    }

    async fn take(&mut self, sequence: u64, message: &Message) -> Result<(), RoomError> {
        Counters::one_more(&self.shared.counters.read);
        let anchor = Anchor { sequence, digest: digest(&message.payload) };
        let site = site_of(message);
        match Entry::parse(&message.payload) {
            Ok(Entry::Changes) if self.visit.take_own(sequence) => self.pass(anchor),
            Ok(Entry::Changes) => self.merge(anchor, site, message.payload.clone()).await?,
            Ok(Entry::Parts(_)) if self.visit.take_own(sequence) => self.pass(anchor),
            Ok(Entry::Parts(parts)) => match self.fetch(&parts).await? {
                Some(bytes) => self.merge(anchor, site, bytes).await?,
                None => {
                    self.skip(anchor, Skip::PartsMissing, "a part is gone, or another".into()).await?;
                    snapshot::ask_for(self.shared, self.room, "parts of a changeset are gone").await?;
                }
            },
            Ok(Entry::Notice(_)) if site == Some(self.shared.site) && self.visit.take_own(sequence) => {
                self.pass(anchor);
            }
            Ok(Entry::Notice(record)) => {
                if let Some(why) = self.follow(sequence, &record.id).await? {
                    self.skip(anchor, Skip::Malformed, why).await?;
                } else {
                    self.pass(anchor);
                }
            }
            Ok(Entry::Want) => {
                if site != Some(self.shared.site) {
                    *locked(&self.visit.wanted) = Some(sequence);
                }
                self.pass(anchor);
            }
            Err(crate::entry::Malformed) => self.skip(anchor, Skip::Malformed, "no entry".into()).await?,
        }
        self.unverified += 1;
        self.visit.unlooked.fetch_add(1, Ordering::Relaxed);
        self.visit.snapshot_due.notify_one();
        if self.unsaved >= BATCH {
            self.save().await?;
        }
        Ok(())
    }

    /// Goes on without storing anything.
    fn pass(&mut self, anchor: Anchor) {
        if anchor.sequence > self.inbox.anchor.sequence {
            self.inbox.anchor = anchor;
            self.unsaved += 1;
        }
    }

    async fn merge(&mut self, anchor: Anchor, site: Option<SiteId>, bytes: Bytes) -> Result<(), RoomError> {
        let sequence = anchor.sequence;
        // What is read again does not move the place back.
        let next = Inbox { anchor, ..self.inbox };
        let inbox = if sequence > self.inbox.anchor.sequence { next } else { self.inbox };
        let (keys, echoes) = (self.room.names.keys, self.shared.echoes.clone());
        let job = move |store: &mut Store| {
            // Held over the commit: whoever reads our own log meanwhile knows that this is not ours.
            let mut echoes = locked(&echoes);
            let outcome = apply(store, &bytes, keys.inbox, inbox)?;
            if let Outcome::Merged { version: Some(version), is_echo: true, .. } = outcome {
                echoes.note(version);
            }
            Ok::<_, ApplyError>(outcome)
        };
        let outcome = self.shared.store.write(job).await?.map_err(|error| RoomError::store(&error))?;
        match outcome {
            Outcome::Merged { rows, changes, unchanged, version, is_echo } => {
                self.inbox = inbox;
                self.unsaved = 0;
                self.shared.tell(RoomEvent::Merged { sequence, site, rows, changes, unchanged, version });
                self.unskipped += usize::from(is_echo && version.is_some());
                self.skip_echoes().await
            }
            Outcome::Skipped(why, detail) => self.skip(anchor, why, detail).await,
        }
    }

    /// Now and then notes what need not be published, as long as the writer waits for this reader and does not note it itself:
    /// else all that came up to a crash would be published once more.
    async fn skip_echoes(&mut self) -> Result<(), RoomError> {
        if self.unskipped < BATCH || *self.visit.caught_up.borrow() {
            return Ok(());
        }
        self.unskipped = 0;
        let (keys, life, echoes) = (self.room.names.keys, self.room.life, self.shared.echoes.clone());
        let job = move |store: &mut Store| bookmark::skip_echoes(store, keys, life, &locked(&echoes));
        self.shared.store.write(job).await?.map_err(|error| RoomError::store(&error))
    }

    async fn save_hole(&self) -> Result<(), RoomError> {
        // While it is tried again it stays where it was: a crash then forgets nothing.
        let first = self.hole.before.into_iter().chain(self.hole.now).min();
        let (keys, hole) = (self.room.names.keys, first.map(|sequence| (self.room.life, sequence)));
        let saved = self.shared.store.write(move |store| bookmark::save_hole(store, keys, hole)).await?;
        saved.map_err(|error| RoomError::store(&error))
    }

    /// Leaves a message out, and notes where, if it may fit later.
    async fn skip(&mut self, anchor: Anchor, why: Skip, detail: String) -> Result<(), RoomError> {
        let sequence = anchor.sequence;
        if why.may_fit_later() && self.hole.now.is_none_or(|hole| sequence < hole) {
            self.hole.now = Some(sequence);
            self.save_hole().await?;
        }
        self.pass(anchor);
        Counters::one_more(&self.shared.counters.skipped);
        self.shared.tell(RoomEvent::Skipped { sequence, why, detail });
        self.save().await
    }

    /// The bytes of a changeset in parts; nothing where they are gone or others.
    async fn fetch(&self, parts: &Parts) -> Result<Option<Bytes>, RoomError> {
        let mut bytes = Vec::new();
        let mut hasher = blake3::Hasher::new();
        for sequence in &parts.sequences {
            let Some(message) = self.room.message(*sequence).await? else { return Ok(None) };
            if message.subject.as_str() != self.room.names.part
                || bytes.len() + message.payload.len() > parts.bytes as usize
            {
                return Ok(None);
            }
            hasher.update(&message.payload);
            bytes.extend_from_slice(&message.payload);
        }
        let is_whole = bytes.len() as u64 == parts.bytes && *hasher.finalize().as_bytes() == parts.hash;
        Ok(is_whole.then(|| bytes.into()))
    }

    /// Takes the snapshot that a message of the log tells of, or a later one; says why if it is left out.
    async fn follow(&mut self, sequence: u64, id: &str) -> Result<Option<String>, RoomError> {
        if locked(&self.visit.taken).contains(id) {
            return Ok(None);
        }
        let newest = snapshot::newest(self.room).await?.map(|(_, record)| record);
        let Some(record) = newest.filter(|record| record.id == id || record.covers >= sequence) else {
            return Ok(Some("there is no such snapshot".into()));
        };
        match snapshot::take(self.shared, self.visit, self.room, &record).await {
            Ok(taken) => taken.discard().await.map(|()| None),
            Err(RoomError::Snapshot { doing, source }) => {
                let detail = format!("{doing}: {}", in_full(&*source));
                snapshot::ask_for(self.shared, self.room, &detail).await?;
                Ok(Some(detail))
            }
            Err(error) => Err(error),
        }
    }
}

fn site_of(message: &Message) -> Option<SiteId> {
    let site = message.headers.as_ref()?.get(SITE_HEADER)?;
    SiteId::from_hex(site.as_str()).ok()
}

fn apply(store: &mut Store, bytes: &[u8], key: SiteId, inbox: Inbox) -> Result<Outcome, ApplyError> {
    let changeset = match Changeset::from_bytes(bytes, &DECODE) {
        Ok(changeset) => changeset,
        Err(error) => return Ok(Outcome::Skipped(Skip::Malformed, in_full(&error))),
    };
    let options = ApplyOptions { cursor: Some((key, inbox.cursor())), ..ApplyOptions::default() };
    match store.apply_with(&changeset, &options) {
        Ok(report) => Ok(Outcome::Merged {
            rows: changeset.rows().len(),
            changes: changeset.len(),
            unchanged: report.unchanged,
            version: report.db_version,
            is_echo: report.is_echo(),
        }),
        Err(error) => match skip_of(&error) {
            Some(why) => Ok(Outcome::Skipped(why, in_full(&error))),
            None => Err(error),
        },
    }
}

/// What is wrong with a changeset; nothing where the store is at fault.
fn skip_of(error: &ApplyError) -> Option<Skip> {
    match error {
        ApplyError::Invalid(InvalidChange { breach: Breach::Drift(_), .. }) => Some(Skip::Drift),
        ApplyError::Malformed(_) | ApplyError::Invalid(_) => Some(Skip::Malformed),
        ApplyError::UnknownTable { .. }
        | ApplyError::UnknownColumn { .. }
        | ApplyError::KeyShape { .. }
        | ApplyError::QuarantineFull { .. }
        | ApplyError::Constraint { .. } => Some(Skip::Schema),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use opor_core::DbVersion;
    use opor_store::ApplyReport;

    #[test]
    fn what_a_merge_adds_of_its_own_is_published() {
        let report =
            ApplyReport { db_version: Some(DbVersion(7)), rows_inserted: 3, ..ApplyReport::default() };
        assert!(report.is_echo());
        assert!(!ApplyReport { rows_brought_back: 1, ..report.clone() }.is_echo());
        assert!(!ApplyReport { released: 1, ..report }.is_echo());
    }
}
