//! Snapshots of a room in the object store: made when the log has grown, taken by who is behind it.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::object_store::{self, ObjectMetadata, ObjectStore};
use opor_core::{DbVersion, SiteId};
use opor_store::{
    ApplyOptions, ApplyReport, Cursor, Manifest, OpenOptions, RestoreError, Snapshot, SnapshotImage,
    SnapshotReceiver, Store,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::bookmark::{self, Bookmarks};
use crate::entry::{Entry, Record};
use crate::error::RoomError;
use crate::lease::Lease;
use crate::shared::{Shared, Visit, locked};
use crate::status::{RoomCatchUp, RoomEvent};
use crate::stream::RoomStream;

/// Chunks in one object: some MiB, so that a transfer that broke off has little to repeat and memory holds one with ease.
const CHUNKS_A_PIECE: u32 = 16;

/// The most bytes that a piece may have: chunks of 256 KiB that did not compress, and their lengths.
const PIECE_MAX: u64 = CHUNKS_A_PIECE as u64 * (257 << 10);

/// The most bytes that a manifest may have.
const MANIFEST_MAX: u64 = 16 << 20;

/// Changes that are read from an image at a time.
const PIECE_CHANGES: usize = 16_384;

/// How long an object may take: some MiB over a poor line.
const OBJECT_TIMEOUT: Duration = Duration::from_secs(120);

/// How a snapshot went that was to be made.
pub(crate) enum Made {
    /// It is in the object store.
    Done { version: DbVersion },
    /// Another replica makes one.
    Busy,
}

/// The newest snapshot of the room, and the number of the message that tells of it.
pub(crate) async fn newest(room: &RoomStream) -> Result<Option<(u64, Record)>, RoomError> {
    let Some(message) = room.last_on(&room.names.snapshot).await? else { return Ok(None) };
    // Who writes nonsense there, or what cannot be yet, is written over by the next snapshot.
    let record = Record::parse(&message.payload).ok();
    Ok(record.filter(|record| record.covers < message.sequence).map(|record| (message.sequence, record)))
}

/// Asks the others for a snapshot.
pub(crate) async fn ask_for(shared: &Shared, room: &RoomStream, detail: &str) -> Result<(), RoomError> {
    shared.tell(RoomEvent::SnapshotWanted { detail: detail.to_owned() });
    let id = format!("{}:want:{}", shared.site, random_id()?);
    room.publish(&room.names.log, &id, Entry::want().into()).await.map(drop)
}

/// Makes snapshots when they are due, until something fails.
pub(crate) async fn keep_making(
    shared: &Arc<Shared>,
    visit: &Visit,
    room: &RoomStream,
) -> Result<Infallible, RoomError> {
    visit.until_caught_up().await;
    // Counting costs a question, so it is done at the beginning and now and then.
    let look_every = (shared.settings.snapshot_after / 4).max(1);
    visit.unlooked.store(look_every, Ordering::Relaxed);
    loop {
        let wanted = *locked(&visit.wanted);
        if wanted.is_some() || visit.unlooked.load(Ordering::Relaxed) >= look_every {
            visit.unlooked.store(0, Ordering::Relaxed);
            if is_due(shared, room, wanted).await? {
                match make(shared, visit, room, false).await {
                    Ok(_made) => {}
                    // Without one the log grows; the room goes on.
                    Err(error @ RoomError::Snapshot { .. }) => {
                        shared.tell(RoomEvent::SnapshotFailed { how: Arc::new(error) });
                    }
                    Err(error) => return Err(error),
                }
            }
            locked(&visit.wanted).take_if(|now| Some(*now) == wanted);
        }
        visit.snapshot_due.notified().await;
    }
}

async fn is_due(shared: &Shared, room: &RoomStream, wanted: Option<u64>) -> Result<bool, RoomError> {
    let record = newest(room).await?.map(|(_, record)| record);
    if wanted.is_some_and(|wanted| record.as_ref().is_none_or(|record| record.covers < wanted)) {
        return Ok(true);
    }
    let kept = record.map_or(0, |record| record.kept);
    Ok(room.log_len().await?.saturating_sub(kept) >= shared.settings.snapshot_after)
}

/// Makes a snapshot, has the others know of it, and trims the log to what came after the one before. With `notice` it holds
/// what the log does not, and everybody has to take it.
pub(crate) async fn make(
    shared: &Arc<Shared>,
    visit: &Visit,
    room: &RoomStream,
    notice: bool,
) -> Result<Made, RoomError> {
    let Some(mut lease) = Lease::take(shared, room).await? else { return Ok(Made::Busy) };
    let before = room.last_on(&room.names.snapshot).await?.map_or(0, |message| message.sequence);
    let old = newest(room).await?.map(|(_, record)| record);
    if let Some(old) = &old {
        hold(shared, visit, room, old).await?;
    }
    let (snapshot, covers) = image(shared, room).await?;
    let id = random_id()?;
    let bucket = bucket(room).await?;
    if !upload(room, &bucket, &id, snapshot.clone(), &mut lease).await? {
        remove(room, &bucket, &id, pieces_of(&snapshot)).await;
        return Ok(Made::Busy);
    }
    let version = snapshot.manifest().db_version;
    let len = room.log_len().await?;
    let record = Record {
        id: id.clone(),
        site: shared.site.to_string(),
        version: version.0,
        covers,
        floor: old.as_ref().map_or(0, |old| old.covers.min(covers)),
        pieces: pieces_of(&snapshot),
        kept: len.saturating_sub(old.as_ref().map_or(0, |old| old.kept)),
        previous: old.as_ref().map(Record::as_previous),
    };
    if room.swap(&room.names.snapshot, before, record.to_bytes()).await?.is_none() {
        remove(room, &bucket, &id, record.pieces).await;
        return Ok(Made::Busy);
    }
    // Whoever made it has it.
    locked(&visit.taken).insert(id.clone());
    if notice {
        let id = format!("{}:snapshot:{id}", shared.site);
        let ack = room.publish(&room.names.log, &id, record.notice().into()).await?;
        visit.published(ack.sequence);
    }
    tidy(room, &bucket, &record, old.as_ref()).await?;
    lease.give_back().await?;
    shared.tell(RoomEvent::SnapshotMade { covers, floor: record.floor });
    Ok(Made::Done { version })
}

/// Sees to it that this replica holds what the log does not reach back to: some of it may have been removed before it was read
/// here, and then it is in the snapshot alone. One that cannot be had is replaced by what there is.
async fn hold(
    shared: &Arc<Shared>,
    visit: &Visit,
    room: &RoomStream,
    record: &Record,
) -> Result<(), RoomError> {
    let (keys, life) = (room.names.keys, room.life);
    let known = shared.store.read(move |store| bookmark::load(store, keys)).await?;
    let inbox = known.map_err(|error| RoomError::store(&error))?.inbox.filter(|inbox| inbox.life == life);
    let is_gone = record.floor > inbox.map_or(0, |inbox| inbox.verified);
    if !is_gone || locked(&visit.taken).contains(&record.id) {
        return Ok(());
    }
    match take(shared, visit, room, record).await {
        Ok(taken) => taken.discard().await,
        Err(RoomError::Snapshot { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The image of what is committed now, and how much of the log is surely in it.
async fn image(shared: &Arc<Shared>, room: &RoomStream) -> Result<(Arc<Snapshot>, u64), RoomError> {
    let (keys, life) = (room.names.keys, room.life);
    let job = move |store: &Store| {
        // Read before the image is made: what is merged between the two is in the image as well.
        let known = bookmark::load(store, keys).map_err(|error| RoomError::store(&error))?;
        let inbox = known.inbox.filter(|inbox| inbox.life == life);
        let snapshot = store.snapshot().map_err(RoomError::snapshot("making the image"))?;
        Ok::<_, RoomError>((Arc::new(snapshot), inbox.map_or(0, |inbox| inbox.anchor.sequence)))
    };
    shared.store.read(job).await?
}

fn pieces_of(snapshot: &Snapshot) -> u32 {
    snapshot.manifest().chunks().div_ceil(CHUNKS_A_PIECE)
}

/// Puts all of it into the object store; no where the lease was lost meanwhile.
async fn upload(
    room: &RoomStream,
    bucket: &ObjectStore,
    id: &str,
    snapshot: Arc<Snapshot>,
    lease: &mut Lease<'_>,
) -> Result<bool, RoomError> {
    for piece in 0..pieces_of(&snapshot) {
        if !lease.renew().await? {
            return Ok(false);
        }
        let snapshot = snapshot.clone();
        let bytes = blocking(move || piece_of(&snapshot, piece)).await?;
        put(room, bucket, &piece_name(room, id, piece), &bytes).await?;
    }
    put(room, bucket, &manifest_name(room, id), &snapshot.manifest().to_bytes()).await?;
    lease.renew().await
}

/// The chunks of a piece, each after its length.
fn piece_of(snapshot: &Snapshot, piece: u32) -> Result<Vec<u8>, RoomError> {
    let first = piece * CHUNKS_A_PIECE;
    let mut bytes = Vec::new();
    for index in first..snapshot.manifest().chunks().min(first + CHUNKS_A_PIECE) {
        let chunk = snapshot.chunk(index).map_err(RoomError::snapshot("reading the image"))?;
        bytes.extend((chunk.len() as u32).to_le_bytes());
        bytes.extend(chunk);
    }
    Ok(bytes)
}

/// Takes the snapshot away that nobody reads any more, and what it and a later one cover.
async fn tidy(
    room: &RoomStream,
    bucket: &ObjectStore,
    record: &Record,
    old: Option<&Record>,
) -> Result<(), RoomError> {
    room.keep_last(&room.names.snapshot).await?;
    if record.floor > 0 {
        room.trim(&room.names.log, record.floor).await?;
    }
    let Some(older) = old.and_then(|old| old.previous.as_ref()) else { return Ok(()) };
    // Parts lie before what tells of them: they stay for one snapshot more.
    if older.covers > 0 {
        room.trim(&room.names.part, older.covers).await?;
    }
    remove(room, bucket, &older.id, older.pieces).await;
    Ok(())
}

/// Removes the objects of a snapshot. One that stays costs room and nothing else.
async fn remove(room: &RoomStream, bucket: &ObjectStore, id: &str, pieces: u32) {
    for piece in 0..pieces {
        let _ = bucket.delete(piece_name(room, id, piece)).await;
    }
    let _ = bucket.delete(manifest_name(room, id)).await;
}

/// Fetches a snapshot, checks it, and merges it. One at a time: the chunks lie in one file, where they are found again when
/// this was interrupted.
pub(crate) async fn take(
    shared: &Arc<Shared>,
    visit: &Visit,
    room: &RoomStream,
    record: &Record,
) -> Result<Taken, RoomError> {
    let _alone = visit.taking.lock().await;
    let bucket = bucket(room).await?;
    let bytes = get(&bucket, &manifest_name(room, &record.id), MANIFEST_MAX).await?;
    let manifest = Manifest::from_bytes(&bytes).map_err(RoomError::snapshot("reading the manifest"))?;
    let partial = shared.folder.join(format!(".opor-room-{}.partial", room.names.keys.inbox));
    let mut receiver = blocking(move || {
        SnapshotReceiver::begin(partial, manifest).map_err(RoomError::snapshot("putting the image together"))
    })
    .await?;
    let chunks = receiver.missing();
    let (bytes, all) = (receiver.manifest().image_bytes, u64::from(receiver.manifest().chunks()).max(1));
    while let Some(index) = receiver.next_missing() {
        let piece = index / CHUNKS_A_PIECE;
        let piece_bytes = get(&bucket, &piece_name(room, &record.id, piece), PIECE_MAX).await?;
        receiver = blocking(move || put_piece(receiver, piece, &piece_bytes)).await?;
        let held = all - u64::from(receiver.missing());
        shared.catching_up(RoomCatchUp::Snapshot, bytes_of(bytes, held, all), Some(bytes));
    }
    let options = shared.open_options.clone();
    let image =
        blocking(move || receiver.finish(&options).map_err(RoomError::snapshot("checking the image")))
            .await?;
    let (taken, report) = merge(shared, room, record, image).await?;
    locked(&visit.taken).insert(record.id.clone());
    let rows = report.rows_inserted + report.rows_updated + report.rows_deleted;
    let changes = report.cells_won + report.rows_inserted + report.rows_deleted;
    let (site, covers) = (record.site(), record.covers);
    shared.tell(RoomEvent::SnapshotTaken { site, covers, rows, changes, chunks });
    Ok(taken)
}

/// So many bytes of all are in so many chunks of all.
fn bytes_of(bytes: u64, held: u64, all: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(held) / u128::from(all)).unwrap_or(bytes)
}

fn put_piece(
    mut receiver: SnapshotReceiver,
    piece: u32,
    mut bytes: &[u8],
) -> Result<SnapshotReceiver, RoomError> {
    let failed = RoomError::snapshot("putting the image together");
    let first = piece * CHUNKS_A_PIECE;
    for index in first..receiver.manifest().chunks().min(first + CHUNKS_A_PIECE) {
        let cut_short = || failed(RestoreError::ChunkDamaged { index });
        let (len, rest) = bytes.split_first_chunk().ok_or_else(cut_short)?;
        let len = u32::from_le_bytes(*len) as usize;
        let (chunk, rest) = rest.split_at_checked(len).ok_or_else(cut_short)?;
        receiver.put(index, chunk).map_err(&failed)?;
        bytes = rest;
    }
    Ok(receiver)
}

async fn merge(
    shared: &Arc<Shared>,
    room: &RoomStream,
    record: &Record,
    image: SnapshotImage,
) -> Result<(Taken, ApplyReport), RoomError> {
    let (keys, life, covers) = (room.names.keys, room.life, record.covers);
    let (echoes, folder, options) =
        (shared.echoes.clone(), shared.folder.clone(), shared.open_options.clone());
    let job = move |store: &mut Store| {
        let maker = image.manifest().site;
        let known = bookmark::load(store, keys).map_err(|error| RoomError::store(&error))?;
        // What we published before the image was made is in it: so a row of ours that it has no more was deleted there.
        let held = held_by(&known, life, covers);
        if let Some(held) = held {
            store.set_acknowledged_by(maker, held).map_err(|error| RoomError::store(&error))?;
        }
        let mut echoes = locked(&echoes);
        match store.merge_snapshot_holding(&image, held.unwrap_or_default()) {
            Ok(report) => {
                if let Some(version) = report.db_version.filter(|_| report.is_echo()) {
                    echoes.note(version);
                }
                Ok((Taken::Image(image), report))
            }
            // Made by this replica, which was restored from a backup since, or never lost anything.
            Err(RestoreError::OwnSnapshot) => {
                let opened = merge_own(store, image, &folder, &options)?;
                Ok((Taken::Opened(Box::new(opened)), ApplyReport::default()))
            }
            Err(error) => Err(RoomError::snapshot("merging the image")(error)),
        }
    };
    shared.store.write(job).await?
}

/// What of our log is in the image, of what was published.
fn held_by(known: &Bookmarks, life: u64, covers: u64) -> Option<DbVersion> {
    let (inbox, outbox) = (known.inbox?, known.outbox?);
    // What was merged from the log lies behind the place in our own log too: all of it has to be in the image.
    let is_read = inbox.life == life && inbox.anchor.sequence <= covers;
    let is_in = is_read && outbox.life == life && (1..=covers).contains(&outbox.anchor.sequence);
    is_in.then_some(outbox.version)
}

/// Merges an image of this replica itself, as if another had made it.
fn merge_own(
    store: &mut Store,
    image: SnapshotImage,
    folder: &Path,
    options: &OpenOptions,
) -> Result<Scratch, RoomError> {
    let scratch = Scratch::open(image, folder, options)?;
    let mut cursor = Cursor::start();
    loop {
        let batch = scratch.store.changes(&cursor, PIECE_CHANGES);
        let batch = batch.map_err(RoomError::snapshot("reading the image"))?;
        let applied = store.apply_with(&batch.changeset, &ApplyOptions::default());
        applied.map_err(RoomError::snapshot("merging the image"))?;
        if batch.done {
            return Ok(scratch);
        }
        cursor = batch.cursor;
    }
}

/// A snapshot that has been merged.
pub(crate) enum Taken {
    Image(SnapshotImage),
    Opened(Box<Scratch>),
}

impl Taken {
    /// Removes what is left of it.
    pub(crate) async fn discard(self) -> Result<(), RoomError> {
        blocking(move || match self {
            Self::Image(image) => image.discard().map_err(RoomError::snapshot("removing the image")),
            Self::Opened(_) => Ok(()),
        })
        .await
    }

    /// As a replica of its own, which is thrown away afterwards.
    pub(crate) async fn open(self, shared: &Shared) -> Result<Scratch, RoomError> {
        let (folder, options) = (shared.folder.clone(), shared.open_options.clone());
        blocking(move || match self {
            Self::Image(image) => Scratch::open(image, &folder, &options),
            Self::Opened(scratch) => Ok(*scratch),
        })
        .await
    }
}

/// A replica in a folder of its own, both gone when dropped.
pub(crate) struct Scratch {
    pub(crate) store: Store,
    // Dropped last: the store has files in it.
    _folder: TempDir,
}

impl Scratch {
    fn open(image: SnapshotImage, folder: &Path, options: &OpenOptions) -> Result<Self, RoomError> {
        let scratch = tempfile::Builder::new().prefix(".opor-room-").tempdir_in(folder);
        let scratch = scratch.map_err(RoomError::snapshot("opening the image"))?;
        // What is merged into it is our own, whatever the time.
        let options = options.clone().drift_max_ms(u64::MAX);
        let store = image.install(scratch.path().join("replica"), &options);
        Ok(Self { store: store.map_err(RoomError::snapshot("opening the image"))?, _folder: scratch })
    }
}

/// The bucket of snapshots; it is made where it is not there.
async fn bucket(room: &RoomStream) -> Result<ObjectStore, RoomError> {
    let failed = |error| RoomError::snapshot::<async_nats::Error>("opening the object store")(error);
    if let Ok(bucket) = room.context.get_object_store(&room.names.bucket).await {
        return Ok(bucket);
    }
    let config = object_store::Config {
        bucket: room.names.bucket.clone(),
        max_bytes: -1,
        num_replicas: room.stream.cached_info().config.num_replicas,
        ..object_store::Config::default()
    };
    room.context.create_object_store(config).await.map_err(|error| failed(error.into()))
}

async fn put(room: &RoomStream, bucket: &ObjectStore, name: &str, mut bytes: &[u8]) -> Result<(), RoomError> {
    let chunk_size = Some(room.broker.piece_max());
    let meta = ObjectMetadata { name: name.to_owned(), chunk_size, ..ObjectMetadata::default() };
    let done = timeout(OBJECT_TIMEOUT, bucket.put(meta, &mut bytes)).await;
    let done = done.map_err(RoomError::snapshot("putting an object"))?;
    done.map(drop).map_err(RoomError::snapshot("putting an object"))
}

/// The bytes of an object, and no more than so many.
async fn get(bucket: &ObjectStore, name: &str, most: u64) -> Result<Vec<u8>, RoomError> {
    let read = async {
        let mut object = bucket.get(name).await.map_err(RoomError::snapshot("finding an object"))?;
        let mut bytes = Vec::new();
        let mut some = (&mut object).take(most + 1);
        some.read_to_end(&mut bytes).await.map_err(RoomError::snapshot("reading an object"))?;
        if bytes.len() as u64 > most {
            return Err(RoomError::snapshot("reading an object")("it is larger than it may be"));
        }
        Ok(bytes)
    };
    timeout(OBJECT_TIMEOUT, read).await.map_err(RoomError::snapshot("reading an object"))?
}

fn piece_name(room: &RoomStream, id: &str, piece: u32) -> String {
    format!("{}/{id}/{piece:05}", room.names.room)
}

fn manifest_name(room: &RoomStream, id: &str) -> String {
    format!("{}/{id}/manifest", room.names.room)
}

/// Runs what reads and writes files where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RoomError> + Send + 'static,
) -> Result<T, RoomError> {
    let done = spawn_blocking(work).await;
    done.map_err(RoomError::snapshot("working on files"))?
}

fn random_id() -> Result<String, RoomError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(RoomError::snapshot("choosing a name"))?;
    Ok(SiteId::from(id).to_string())
}
