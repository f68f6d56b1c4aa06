//! Publishes what was committed here.

use std::sync::Arc;
use std::time::Duration;

use opor_core::{Changeset, DbVersion, EncodeOptions};
use opor_store::{Cursor, ReadError, Store};
use opor_transport_traits::Bytes;
use tokio::time::sleep;

use crate::bookmark::{self, Anchor, Outbox, digest};
use crate::entry::{CHANGESET_MAX, Parts};
use crate::error::RoomError;
use crate::shared::{Shared, Visit, locked};
use crate::snapshot;
use crate::status::{Counters, RoomEvent};
use crate::stream::RoomStream;

/// About how many changes are in one changeset, unless one commit has more.
const CHANGES_MAX: usize = 16_384;

/// How soon a place that moved without a message is noted: what came from the room is looked at again after a crash else.
const SAVE_AFTER: Duration = Duration::from_millis(200);

/// Tries to publish parts that are removed while they are published, which takes a snapshot each time.
const PARTS_TRIES: u32 = 5;

/// What is to be published next.
enum Found {
    Piece(Piece),
    /// Our own log has been cut where it was not published.
    Cut,
    /// A single row is too large.
    TooLarge(usize),
}

struct Piece {
    /// Empty where nothing is left to tell.
    bytes: Vec<u8>,
    size: Size,
    cursor: Cursor,
    done: bool,
}

/// How much a changeset holds.
#[derive(Clone, Copy)]
struct Size {
    rows: usize,
    changes: usize,
}

impl Size {
    fn of(changes: &Changeset) -> Self {
        Self { rows: changes.rows().len(), changes: changes.len() }
    }
}

/// Why publishing went on no further.
pub(crate) enum Stopped {
    /// Our own log has been cut where it was not published: only a snapshot brings the room in step.
    Cut,
}

/// Publishes on from a place.
pub(crate) struct Writer<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) visit: &'a Visit,
    pub(crate) room: &'a RoomStream,
    pub(crate) outbox: Outbox,
    /// Whether the place has moved since it was noted in the database.
    pub(crate) unsaved: bool,
}

impl Writer<'_> {
    /// Publishes whatever is committed, until something fails.
    pub(crate) async fn run(&mut self) -> Result<Stopped, RoomError> {
        let mut commits = self.shared.commits.clone();
        loop {
            commits.mark_unchanged();
            if let Some(stopped) = self.publish_all().await? {
                return Ok(stopped);
            }
            tokio::select! {
                changed = commits.changed() => if changed.is_err() { return Err(RoomError::StoreClosed) },
                () = sleep(SAVE_AFTER), if self.unsaved => {
                    self.save().await?;
                }
            }
        }
    }

    /// Goes on from the place in the database.
    pub(crate) async fn reload(&mut self) -> Result<(), RoomError> {
        let keys = self.room.names.keys;
        let known = self.shared.store.read(move |store| bookmark::load(store, keys)).await?;
        let known = known.map_err(|error| RoomError::store(&error))?;
        if let Some(outbox) = known.outbox.filter(|outbox| outbox.life == self.room.life) {
            self.outbox = outbox;
        }
        Ok(())
    }

    /// Publishes what there is.
    async fn publish_all(&mut self) -> Result<Option<Stopped>, RoomError> {
        // What came from the room need not be read to be left out; after a catch-up that is everything.
        let past = locked(&self.shared.echoes).past(self.outbox.version);
        self.unsaved |= past != self.outbox.version;
        self.outbox.version = past;
        let mut cursor = Cursor::at(past);
        let mut most = CHANGES_MAX;
        let mut told = false;
        loop {
            let piece = match self.read(cursor, most).await? {
                Found::Piece(piece) => piece,
                Found::Cut => return Ok(Some(Stopped::Cut)),
                Found::TooLarge(bytes) if most == 1 => {
                    return Err(RoomError::RowTooLarge { bytes, max: CHANGESET_MAX });
                }
                Found::TooLarge(_) => {
                    most = (most / 4).max(1);
                    continue;
                }
            };
            if !piece.bytes.is_empty() {
                self.outbox.anchor = self.publish(&piece.cursor, piece.size, piece.bytes.into()).await?;
                told = true;
            }
            if piece.done {
                self.unsaved |= self.outbox.version != piece.cursor.base;
                self.outbox.version = piece.cursor.base;
                if told {
                    self.save().await?;
                }
                return Ok(None);
            }
            cursor = piece.cursor;
        }
    }

    async fn read(&self, cursor: Cursor, most: usize) -> Result<Found, RoomError> {
        let echoes = self.shared.echoes.clone();
        let job = move |store: &Store| {
            let batch = match store.changes(&cursor, most) {
                Ok(batch) => batch,
                Err(ReadError::BehindHorizon { .. }) => return Ok(Found::Cut),
                Err(error) => return Err(RoomError::store(&error)),
            };
            let changes = locked(&echoes).strip(batch.changeset);
            let bytes = if changes.is_empty() {
                Vec::new()
            } else {
                changes.to_bytes_with(&EncodeOptions::default())
            };
            if bytes.len() > CHANGESET_MAX {
                return Ok(Found::TooLarge(bytes.len()));
            }
            Ok(Found::Piece(Piece {
                bytes,
                size: Size::of(&changes),
                cursor: batch.cursor,
                done: batch.done,
            }))
        };
        self.shared.store.read(job).await?
    }

    /// Publishes a changeset that is not of a place in the log.
    pub(crate) async fn publish_changes(
        &mut self,
        cursor: &Cursor,
        changes: &Changeset,
    ) -> Result<(), RoomError> {
        if !changes.is_empty() {
            self.outbox.anchor = self
                .publish(cursor, Size::of(changes), changes.to_bytes_with(&EncodeOptions::default()).into())
                .await?;
        }
        Ok(())
    }

    async fn publish(&self, cursor: &Cursor, size: Size, bytes: Bytes) -> Result<Anchor, RoomError> {
        // The content is in it too: after a restore from a backup, other content may have the same version.
        let id = format!("{}:{cursor}:{:016x}", self.shared.site, digest(&bytes));
        let most = self.room.broker.piece_max();
        let payload = if bytes.len() <= most { bytes } else { self.publish_parts(&id, &bytes, most).await? };
        let anchor_digest = digest(&payload);
        let ack = self.room.publish(&self.room.names.log, &id, payload).await?;
        self.visit.published(ack.sequence);
        Counters::one_more(&self.shared.counters.published);
        let Size { rows, changes } = size;
        let (sequence, is_duplicate) = (ack.sequence, ack.duplicate);
        self.shared.tell(RoomEvent::Published {
            version: cursor.base,
            sequence,
            rows,
            changes,
            is_duplicate,
        });
        Ok(Anchor { sequence, digest: anchor_digest })
    }

    /// Publishes the parts of a changeset; what tells of them is still to be published.
    async fn publish_parts(&self, id: &str, bytes: &Bytes, most: usize) -> Result<Bytes, RoomError> {
        for attempt in 0..PARTS_TRIES {
            let mut sequences = Vec::new();
            for (number, from) in (0..bytes.len()).step_by(most).enumerate() {
                let part = bytes.slice(from..bytes.len().min(from + most));
                let id = format!("{id}:{attempt}:{number}");
                sequences.push(self.room.publish(&self.room.names.part, &id, part).await?.sequence);
            }
            // A snapshot that was made meanwhile may be followed by one that removes the first parts before they are told
            // of.
            let covered = snapshot::newest(self.room).await?.map_or(0, |(_, record)| record.covers);
            if sequences.first().is_some_and(|first| *first > covered) {
                let parts =
                    Parts { bytes: bytes.len() as u64, hash: *blake3::hash(bytes).as_bytes(), sequences };
                return Ok(parts.to_bytes().into());
            }
        }
        let why = "parts were removed while they were published, over and over";
        Err(RoomError::request("publishing a large changeset")(why.into()))
    }

    /// Notes the place in the database.
    pub(crate) async fn save(&mut self) -> Result<(), RoomError> {
        let (keys, outbox) = (self.room.names.keys, self.outbox);
        let saved = self.shared.store.write(move |store| bookmark::save_outbox(store, keys, outbox)).await?;
        saved.map_err(|error| RoomError::store(&error))?;
        self.unsaved = false;
        self.shared.published.send_replace(self.outbox.version);
        Ok(())
    }

    /// Takes it that everything up to this version has been published.
    pub(crate) async fn move_to(&mut self, version: DbVersion) -> Result<(), RoomError> {
        self.outbox.version = version;
        self.save().await
    }
}
