//! Where a replica is in the room's log and in its own, as the database keeps it: a cursor of a peer that is none.
//!
//! A cursor has a base, an epoch and a position. Here the epoch is the life of the stream, the base a sequence number of it (or a
//! version of our own), and the position tells a message that must be in the stream: so a stream that lost its end, or
//! was made anew, is found out.

use opor_core::{Changeset, DbVersion, SiteId};
use opor_store::{ApplyError, ApplyOptions, Cursor, Store, StoreError};
use opor_sync_proto::Echoes;

use crate::names::Keys;

/// A message that is in the stream, as far as this replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) sequence: u64,
    pub(crate) digest: u64,
}

/// How far the room's log has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inbox {
    /// Which stream it was: when it was made.
    pub(crate) life: u64,
    /// The last message that was read; its digest is 0 when it is not known what was in it.
    pub(crate) anchor: Anchor,
    /// Up to here nothing was removed from the log before it was read. It follows the last message that was read, and is
    /// kept with it: what was removed in between must be looked for after a crash too.
    pub(crate) verified: u64,
}

/// How far our own log has been published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outbox {
    pub(crate) life: u64,
    /// Everything up to here is in the stream, or came from it.
    pub(crate) version: DbVersion,
    /// The last message of ours; sequence 0 when there was none yet.
    pub(crate) anchor: Anchor,
}

/// All that is kept of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bookmarks {
    pub(crate) inbox: Option<Inbox>,
    pub(crate) outbox: Option<Outbox>,
    /// The first message that was left out and may fit later, of that life.
    pub(crate) hole: Option<(u64, u64)>,
}

impl Outbox {
    /// Nothing has been published, to any stream.
    pub(crate) const NOTHING: Self = Self { life: 0, version: DbVersion(0), anchor: Anchor::NOWHERE };
}

impl Anchor {
    /// A place before everything.
    pub(crate) const NOWHERE: Self = Self { sequence: 0, digest: 0 };
}

impl Inbox {
    pub(crate) fn cursor(self) -> Cursor {
        pack(self.anchor.sequence, self.life, self.anchor.digest, self.verified)
    }
}

/// What tells a message from others.
pub(crate) fn digest(payload: &[u8]) -> u64 {
    let hash = blake3::hash(payload);
    let (head, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    // Never 0, which stands for a message that is not known.
    u64::from_le_bytes(*head).max(1)
}

pub(crate) fn load(store: &Store, keys: Keys) -> Result<Bookmarks, StoreError> {
    let inbox = store.peer_cursor(keys.inbox)?.and_then(|cursor| unpack(&cursor));
    let outbox = store.peer_cursor(keys.outbox)?.and_then(|cursor| unpack(&cursor));
    let hole = store.peer_cursor(keys.hole)?.and_then(|cursor| unpack(&cursor));
    Ok(Bookmarks {
        inbox: inbox.map(|(sequence, life, digest, verified)| Inbox {
            life,
            anchor: Anchor { sequence, digest },
            verified,
        }),
        outbox: outbox.map(|(version, life, digest, sequence)| Outbox {
            life,
            version: DbVersion(version),
            anchor: Anchor { sequence, digest },
        }),
        hole: hole.filter(|(sequence, ..)| *sequence > 0).map(|(sequence, life, ..)| (life, sequence)),
    })
}

pub(crate) fn save_inbox(store: &mut Store, keys: Keys, inbox: Inbox) -> Result<(), ApplyError> {
    save(store, keys.inbox, inbox.cursor())
}

/// Notes where reading begins, and before it that all that the room lacks is to be published, where `starts_over`. If the place
/// in the log were noted first, or alone, a crash would forget that there is something to publish.
pub(crate) fn begin(
    store: &mut Store,
    keys: Keys,
    inbox: Inbox,
    starts_over: bool,
) -> Result<(), ApplyError> {
    if starts_over {
        save_outbox(store, keys, Outbox::NOTHING)?;
    }
    save_inbox(store, keys, inbox)
}

/// # Durability
/// As durable as a commit. It also tells compaction that these deletes have been published.
pub(crate) fn save_outbox(store: &mut Store, keys: Keys, outbox: Outbox) -> Result<(), ApplyError> {
    let Outbox { life, version, anchor } = outbox;
    save(store, keys.outbox, pack(version.0, life, anchor.digest, anchor.sequence))?;
    for key in [keys.inbox, keys.outbox, keys.hole] {
        store.set_acknowledged_by(key, version).map_err(|StoreError { .. }| ApplyError::Cancelled)?;
    }
    Ok(())
}

/// Notes how much of our own log need not be published, because merges of what came from that stream took the versions that
/// follow what has been. Does nothing before a replica has been published to that stream.
///
/// # Durability
/// As durable as a commit; a crash before it repeats messages, which changes nothing.
pub(crate) fn skip_echoes(
    store: &mut Store,
    keys: Keys,
    life: u64,
    echoes: &Echoes,
) -> Result<(), ApplyError> {
    let known = load(store, keys).map_err(|StoreError { .. }| ApplyError::Cancelled)?;
    let Some(outbox) = known.outbox.filter(|outbox| outbox.life == life) else { return Ok(()) };
    let version = echoes.past(outbox.version);
    if version > outbox.version { save_outbox(store, keys, Outbox { version, ..outbox }) } else { Ok(()) }
}

/// Notes that a message was left out, or with `None` that none is.
pub(crate) fn save_hole(store: &mut Store, keys: Keys, hole: Option<(u64, u64)>) -> Result<(), ApplyError> {
    let (life, sequence) = hole.unwrap_or((0, 0));
    save(store, keys.hole, pack(sequence, life, 0, 0))
}

fn save(store: &mut Store, key: SiteId, cursor: Cursor) -> Result<(), ApplyError> {
    let options = ApplyOptions { cursor: Some((key, cursor)), ..ApplyOptions::default() };
    store.apply_with(&Changeset::new(), &options).map(drop)
}

/// The text form is the only way to make a cursor of parts.
fn pack(base: u64, life: u64, digest: u64, place: u64) -> Cursor {
    let place = place.cast_signed();
    format!("{base}@{life}:{digest}.0.{place}").parse().expect("parts of a cursor make a cursor")
}

fn unpack(cursor: &Cursor) -> Option<(u64, u64, u64, u64)> {
    let text = cursor.to_string();
    let (base, rest) = text.split_once('@')?;
    let (life, position) = rest.split_once(':')?;
    let mut parts = position.splitn(3, '.');
    let digest = parts.next()?.parse().ok()?;
    let place: i64 = parts.nth(1)?.parse().ok()?;
    Some((base.parse().ok()?, life.parse().ok()?, digest, place.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Names;

    #[test]
    fn bookmarks_come_back_as_they_were_kept() {
        let mut store = Store::open_in_memory().expect("a store");
        let keys = Names::new("opor", "garden").keys;
        assert_eq!(load(&store, keys).expect("it reads"), Bookmarks::default());
        let anchor = Anchor { sequence: 1 << 52, digest: u64::MAX };
        let inbox = Inbox { life: DbVersion::MAX.0, anchor, verified: (1 << 52) - 1 };
        let anchor = Anchor { sequence: 9, digest: digest(b"message") };
        let outbox = Outbox { life: 7, version: DbVersion(3), anchor };
        save_inbox(&mut store, keys, inbox).expect("kept");
        save_outbox(&mut store, keys, outbox).expect("kept");
        save_hole(&mut store, keys, Some((7, 4))).expect("kept");
        let all = Bookmarks { inbox: Some(inbox), outbox: Some(outbox), hole: Some((7, 4)) };
        assert_eq!(load(&store, keys).expect("it reads"), all);
        save_hole(&mut store, keys, None).expect("kept");
        assert_eq!(load(&store, keys).expect("it reads").hole, None);
    }

    /// A trigger of somebody else stands for the crash in between.
    #[test]
    fn that_all_is_to_be_published_is_noted_before_where_reading_begins() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("app.db");
        let mut store = Store::open(&file).expect("a store");
        let keys = Names::new("opor", "garden").keys;
        let anchor = Anchor { sequence: 9, digest: digest(b"message") };
        let outbox = Outbox { life: 7, version: DbVersion(3), anchor };
        let before = Inbox { life: 7, anchor, verified: 9 };
        begin(&mut store, keys, before, false).expect("kept");
        save_outbox(&mut store, keys, outbox).expect("kept");
        let crash = |when: &str, key: SiteId| {
            format!(
                "CREATE TRIGGER crash BEFORE {when} ON opor_cursor WHEN new.peer = x'{key}' \
                 BEGIN SELECT RAISE(ABORT, 'crash'); END"
            )
        };
        let other = rusqlite::Connection::open(&file).expect("a database");
        let now = Inbox { life: 7, anchor: Anchor::NOWHERE, verified: 0 };
        other.execute_batch(&crash("UPDATE", keys.outbox)).expect("a trigger");
        begin(&mut store, keys, now, true).expect_err("it crashes at the first");
        let kept = load(&store, keys).expect("it reads");
        assert_eq!((kept.inbox, kept.outbox), (Some(before), Some(outbox)), "as if it had not begun");

        other.execute_batch("DROP TRIGGER crash").expect("dropped");
        other.execute_batch(&crash("UPDATE", keys.inbox)).expect("a trigger");
        begin(&mut store, keys, now, true).expect_err("it crashes at the second");
        let kept = load(&store, keys).expect("it reads");
        assert_eq!((kept.inbox, kept.outbox), (Some(before), Some(Outbox::NOTHING)), "it knows what to do");

        other.execute_batch("DROP TRIGGER crash").expect("dropped");
        begin(&mut store, keys, now, true).expect("kept");
        assert_eq!(load(&store, keys).expect("it reads").inbox, Some(now));
    }

    #[test]
    fn what_came_from_a_stream_is_noted_as_far_as_nothing_of_our_own_is_before_it() {
        let mut store = Store::open_in_memory().expect("a store");
        let keys = Names::new("opor", "garden").keys;
        let version =
            |store: &Store| load(store, keys).expect("it reads").outbox.map(|outbox| outbox.version.0);
        let mut echoes = Echoes::default();
        for version in [4, 5, 6, 8, 9] {
            echoes.note(DbVersion(version));
        }
        skip_echoes(&mut store, keys, 7, &echoes).expect("it asks");
        assert_eq!(version(&store), None, "it has never been here");
        let anchor = Anchor { sequence: 9, digest: digest(b"message") };
        let outbox = Outbox { life: 7, version: DbVersion(3), anchor };
        save_outbox(&mut store, keys, outbox).expect("kept");
        skip_echoes(&mut store, keys, 8, &echoes).expect("it asks");
        assert_eq!(version(&store), Some(3), "they came from another stream");
        skip_echoes(&mut store, keys, 7, &echoes).expect("it asks");
        let kept = load(&store, keys).expect("it reads").outbox;
        assert_eq!(kept, Some(Outbox { version: DbVersion(6), ..outbox }), "7 is our own");
    }
}
