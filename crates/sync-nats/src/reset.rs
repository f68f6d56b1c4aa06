//! Starting over with a room: what it lacks of all that this replica holds is published.

use std::sync::Arc;
use std::time::Duration;

use opor_core::{Changeset, DbVersion};
use opor_store::{ApplyOptions, Cursor, Store};
use tokio::time::sleep;

use crate::error::RoomError;
use crate::outbox::Writer;
use crate::shared::{Shared, Visit};
use crate::snapshot::{self, Made, Scratch};
use crate::stream::RoomStream;

/// Up to so many changes are published as they are; more go into a snapshot, which one replica makes for all.
const SMALL: usize = 4096;

/// Changes that are compared at a time.
const PIECE_CHANGES: usize = 16_384;

/// How often it is looked whether the snapshot that another replica makes is there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Publishes what the room lacks; `scratch` is the snapshot that was merged on the way in.
pub(crate) async fn publish_missing(
    shared: &Arc<Shared>,
    visit: &Visit,
    room: &RoomStream,
    writer: &mut Writer<'_>,
    scratch: Option<Scratch>,
) -> Result<(), RoomError> {
    if let Some(scratch) = scratch {
        return publish_beyond(shared, writer, scratch).await;
    }
    if is_small(shared).await? {
        // The log of this replica is published from its start, less what came from the room.
        return writer.move_to(DbVersion(0)).await;
    }
    // One that was merged before this connection, or was not taken for it, is taken now.
    publish_whole(shared, visit, room, writer, None).await
}

/// Publishes all that this replica holds as a snapshot, or what one lacks that is there and has not been `seen`.
pub(crate) async fn publish_whole(
    shared: &Arc<Shared>,
    visit: &Visit,
    room: &RoomStream,
    writer: &mut Writer<'_>,
    seen: Option<u64>,
) -> Result<(), RoomError> {
    let mut seen = seen;
    loop {
        if let Some((sequence, record)) = snapshot::newest(room).await?
            && Some(sequence) != seen
        {
            match snapshot::take(shared, visit, room, &record).await {
                Ok(taken) => return publish_beyond(shared, writer, taken.open(shared).await?).await,
                // One that cannot be had is replaced.
                Err(RoomError::Snapshot { .. }) => seen = Some(sequence),
                Err(error) => return Err(error),
            }
        }
        if let Made::Done { version } = snapshot::make(shared, visit, room, true).await? {
            return writer.move_to(version).await;
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn is_small(shared: &Shared) -> Result<bool, RoomError> {
    let job = |store: &Store| store.changes(&Cursor::start(), SMALL).map(|batch| batch.done);
    shared.store.read(job).await?.map_err(|error| RoomError::store(&error))
}

/// Publishes what a snapshot lacks: all that this replica holds is merged into it, and what that changes is published.
async fn publish_beyond(
    shared: &Arc<Shared>,
    writer: &mut Writer<'_>,
    mut scratch: Scratch,
) -> Result<(), RoomError> {
    let mut cursor = Cursor::start();
    loop {
        let job = move |store: &Store| {
            let batch = store.changes(&cursor, PIECE_CHANGES).map_err(|error| RoomError::store(&error))?;
            let lacking = lacking(&mut scratch, batch.changeset)?;
            Ok::<_, RoomError>((scratch, lacking, batch.cursor, batch.done))
        };
        let (back, lacking, next, done) = shared.store.read(job).await??;
        scratch = back;
        writer.publish_changes(&next, &lacking).await?;
        if done {
            return writer.move_to(next.base).await;
        }
        cursor = next;
    }
}

/// What of the changes is news to the image.
fn lacking(scratch: &mut Scratch, changes: Changeset) -> Result<Changeset, RoomError> {
    let before = scratch.store.db_version().map_err(|error| RoomError::store(&error))?;
    match scratch.store.apply_with(&changes, &ApplyOptions::default()) {
        Ok(report) if report.db_version.is_none() => Ok(Changeset::new()),
        Ok(_) => scratch.store.changes_since(before).map_err(|error| RoomError::store(&error)),
        // A table that the image does not have, say: others may have it.
        Err(_) => Ok(changes),
    }
}
