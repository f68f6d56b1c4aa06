//! One connection to a room: what was missed first, then reading, publishing and snapshots side by side.

use std::convert::Infallible;
use std::sync::Arc;

use opor_store::Store;
use opor_sync_proto::Echoes;

use crate::bookmark::{self, Anchor, Bookmarks, Inbox, Outbox, digest};
use crate::error::RoomError;
use crate::inbox::{Hole, Reader};
use crate::outbox::{Stopped, Writer};
use crate::reset;
use crate::shared::{Shared, Visit, locked};
use crate::snapshot::{self, Scratch};
use crate::status::{Counters, ResetReason, RoomCatchUp, RoomEvent, RoomStatus};
use crate::stream::{Extent, RoomStream};

/// Runs until something fails.
///
/// # Cancel safety
/// When it is dropped the connection ends, as in a crash. Each piece of work of the store is a transaction, with the place
/// in the log in it.
pub(crate) async fn run(shared: &Arc<Shared>) -> Result<(), RoomError> {
    shared.status.send_replace(RoomStatus::Connecting);
    let limits = shared.settings.limits;
    let names = shared.names.clone();
    let room = RoomStream::open(&shared.address, &shared.options, names, limits, shared.site).await?;
    Counters::one_more(&shared.counters.connects);
    let mut breaks = room.broker.breaks();
    let breaks_before = *breaks.borrow();
    let broken = async {
        let _closed = breaks.wait_for(|now| *now != breaks_before).await;
        let lost = opor_transport_traits::TransportError::lost("nats: the connection to the broker broke");
        Err(RoomError::Broker(lost))
    };
    tokio::select! {
        ended = stay(shared, &room) => ended,
        ended = broken => ended,
    }
}

async fn stay(shared: &Arc<Shared>, room: &RoomStream) -> Result<(), RoomError> {
    shared.status.send_replace(RoomStatus::CatchingUp { by: RoomCatchUp::Log, done: 0, total: None });
    shared.tell(RoomEvent::Open);
    let keys = room.names.keys;
    let known = shared.store.read(move |store| bookmark::load(store, keys)).await?;
    let known = known.map_err(|error| RoomError::store(&error))?;
    let extent = room.extent().await?;
    let start = compare(room, extent, &known).await?;
    if let Some(why) = start.why {
        // What came from a stream that is no more has to be published to this one.
        *locked(&shared.echoes) = Echoes::default();
        shared.tell(RoomEvent::Reset { why });
    }
    let visit = Visit::default();
    let (mut reader, scratch) = enter(shared, &visit, room, extent, &known, start).await?;
    let outbox = known.outbox.filter(|_| start.why.is_none()).unwrap_or(Outbox::NOTHING);
    let outbox = Outbox { life: room.life, ..outbox };
    shared.published.send_replace(outbox.version);
    let mut writer = Writer { shared, visit: &visit, room, outbox, unsaved: false };
    let writing = publishing(&visit, &mut writer, start.why.is_some(), scratch);
    let making = snapshot::keep_making(shared, &visit, room);
    tokio::try_join!(reader.run(), writing, making).map(|_never| ())
}

/// Publishes what the room lacks, then whatever is committed.
async fn publishing(
    visit: &Visit,
    writer: &mut Writer<'_>,
    is_reset: bool,
    scratch: Option<Scratch>,
) -> Result<Infallible, RoomError> {
    let (shared, room) = (writer.shared, writer.room);
    // What others deleted is known before anything is published that it may concern.
    visit.until_caught_up().await;
    match is_reset {
        true => reset::publish_missing(shared, visit, room, writer, scratch).await?,
        // The reader has noted meanwhile what need not be published.
        false => writer.reload().await?,
    }
    loop {
        shared.status.send_replace(RoomStatus::Live);
        match writer.run().await? {
            Stopped::Cut => {
                shared.tell(RoomEvent::Reset { why: ResetReason::OwnHistoryCut });
                let seen = snapshot::newest(room).await?.map(|(sequence, _)| sequence);
                reset::publish_whole(shared, visit, room, writer, seen).await?;
            }
        }
    }
}

/// How a replica begins with a room.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// Why all that the room lacks is to be published; nothing where it goes on as it was.
    why: Option<ResetReason>,
    /// Whether the log is read from its beginning.
    reads_anew: bool,
}

/// Compares what this replica knows of the room with what is there.
async fn compare(room: &RoomStream, extent: Extent, known: &Bookmarks) -> Result<Start, RoomError> {
    let anew = |why| Ok(Start { why: Some(why), reads_anew: true });
    let Some(inbox) = known.inbox else { return anew(ResetReason::FirstVisit) };
    if inbox.life != room.life {
        return anew(ResetReason::OtherStream);
    }
    let outbox = known.outbox.filter(|outbox| outbox.life == room.life);
    for anchor in [Some(inbox.anchor), outbox.map(|outbox| outbox.anchor)].into_iter().flatten() {
        if !is_there(room, extent, anchor).await? {
            return anew(ResetReason::LostEnd);
        }
    }
    // The log is read on where an earlier visit was cut short; it had not come to publishing.
    let why = outbox.is_none().then_some(ResetReason::Interrupted);
    Ok(Start { why, reads_anew: false })
}

/// Whether a message is still in the stream, or may have been removed since. Another one in its place means that the stream
/// has lost its end, and has grown again.
async fn is_there(room: &RoomStream, extent: Extent, anchor: Anchor) -> Result<bool, RoomError> {
    if anchor.sequence > extent.last {
        return Ok(false);
    }
    if anchor.sequence == 0 || anchor.digest == 0 {
        return Ok(true);
    }
    let message = room.message(anchor.sequence).await?;
    Ok(message.is_none_or(|message| digest(&message.payload) == anchor.digest))
}

/// Where to begin to read, and what a snapshot on the way had: at the bookmark, or behind a snapshot where the log does not reach back that far.
async fn enter<'a>(
    shared: &'a Arc<Shared>,
    visit: &'a Visit,
    room: &'a RoomStream,
    extent: Extent,
    known: &Bookmarks,
    start: Start,
) -> Result<(Reader<'a>, Option<Scratch>), RoomError> {
    let newest = snapshot::newest(room).await?.map(|(_, record)| record);
    let forgotten = if room.forgets { extent.first.saturating_sub(1) } else { 0 };
    let floor = newest.as_ref().map_or(0, |record| record.floor).max(forgotten);
    let beginning = Inbox { life: room.life, anchor: Anchor::NOWHERE, verified: 0 };
    let mut inbox = known.inbox.filter(|_| !start.reads_anew).unwrap_or(beginning);
    let hole = known.hole.filter(|(life, _)| *life == room.life && !start.reads_anew);
    let hole = hole.map(|(_, sequence)| sequence);
    let is_behind = inbox.anchor.sequence < floor;
    // A hole that is out of reach is in the snapshot; and so is all that one who starts over would read.
    let wants = is_behind || start.reads_anew || hole.is_some_and(|hole| hole <= floor);
    let mut scratch = None;
    if let Some(record) = newest.filter(|record| wants && record.covers >= floor) {
        match snapshot::take(shared, visit, room, &record).await {
            Ok(taken) => {
                // Another snapshot may be taken before this one is compared with what is here.
                match start.why.is_some() {
                    true => scratch = Some(taken.open(shared).await?),
                    false => taken.discard().await?,
                }
                if record.covers > inbox.anchor.sequence {
                    inbox.anchor = Anchor { sequence: record.covers, digest: 0 };
                }
                inbox.verified = inbox.anchor.sequence;
            }
            Err(error @ RoomError::Snapshot { .. }) if is_behind => {
                snapshot::ask_for(shared, room, &error.to_string()).await?;
                return Err(error);
            }
            // The log reaches back to where we are: it has everything, unless something was removed before it was read. The
            // reader looks for that when it has caught up.
            Err(RoomError::Snapshot { .. }) => {}
            Err(error) => return Err(error),
        }
    } else if is_behind {
        let detail = "the log does not reach back to where this replica is, and there is no snapshot";
        snapshot::ask_for(shared, room, detail).await?;
        return Err(RoomError::snapshot("looking for one")(detail));
    }
    let keys = room.names.keys;
    // Noted even where nothing was read: it says that this replica was here.
    let starts_over = start.why.is_some();
    let note = move |store: &mut Store| bookmark::begin(store, keys, inbox, starts_over);
    let noted = shared.store.write(note).await?;
    noted.map_err(|error| RoomError::store(&error))?;
    let reader = Reader {
        shared,
        visit,
        room,
        inbox,
        hole: Hole::new(hole),
        unsaved: 0,
        asked: None,
        unverified: 0,
        unskipped: 0,
    };
    Ok((reader, scratch))
}
