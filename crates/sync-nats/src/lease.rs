//! Who makes the next snapshot: whoever wins a compare-and-set on a subject of the room.
//!
//! A lease that its holder does not renew runs out. How long it has been there is measured by each replica's own clock, from
//! when it first saw it, so clocks need not agree.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::RoomError;
use crate::shared::{Shared, locked};
use crate::stream::RoomStream;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Who has it, in hex; nobody when it was given back.
    holder: Option<String>,
}

/// The right to make a snapshot.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    room: &'a RoomStream,
    holder: String,
    sequence: u64,
    renewed: Instant,
    lasts: Duration,
}

impl<'a> Lease<'a> {
    /// Takes the lease; nothing where another replica has it.
    pub(crate) async fn take(shared: &Shared, room: &'a RoomStream) -> Result<Option<Self>, RoomError> {
        let (holder, lasts) = (shared.site.to_string(), shared.settings.lease);
        let last = room.last_on(&room.names.lease).await?;
        let sequence = last.as_ref().map_or(0, |message| message.sequence);
        let other = last.and_then(|message| serde_json::from_slice::<Note>(&message.payload).ok());
        // What cannot be read is nobody's; our own is from before a crash.
        let is_taken = other.and_then(|note| note.holder).is_some_and(|other| other != holder);
        if is_taken {
            let mut seen = locked(&shared.lease_seen);
            match *seen {
                Some((known, since)) if known == sequence && since.elapsed() > lasts => {}
                Some((known, _)) if known == sequence => return Ok(None),
                _ => {
                    *seen = Some((sequence, Instant::now()));
                    return Ok(None);
                }
            }
        }
        let mut lease = Self { room, holder, sequence, renewed: Instant::now(), lasts };
        Ok(lease.note(true).await?.then_some(lease))
    }

    /// Tells the others that it goes on, where it is time; no where the lease has been lost.
    pub(crate) async fn renew(&mut self) -> Result<bool, RoomError> {
        if self.renewed.elapsed() < self.lasts / 3 { Ok(true) } else { self.note(true).await }
    }

    /// Gives the lease back.
    pub(crate) async fn give_back(mut self) -> Result<(), RoomError> {
        if self.note(false).await? {
            self.room.keep_last(&self.room.names.lease).await?;
        }
        Ok(())
    }

    async fn note(&mut self, held: bool) -> Result<bool, RoomError> {
        let note = Note { holder: held.then(|| self.holder.clone()) };
        let bytes = serde_json::to_vec(&note).expect("a text is JSON");
        let Some(sequence) = self.room.swap(&self.room.names.lease, self.sequence, bytes).await? else {
            return Ok(false);
        };
        self.sequence = sequence;
        self.renewed = Instant::now();
        Ok(true)
    }
}
