//! What sessions ask of the store, as jobs for its threads.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use opor_core::{Breach, Changeset, DbVersion, DecodeLimits, EncodeOptions, InvalidChange, SiteId};
use opor_store::{
    ApplyError, ApplyOptions, ApplyReport, Cursor as StoreCursor, HandleError, ReadError, Store, StoreError,
    StoreHandle,
};
use opor_sync_proto::{Cursor, Echoes, Found, Offer, Rejection};
use tokio::task::spawn_blocking;

use crate::intake::{self, Intake, SnapshotFault};
use crate::verdict::{Ended, in_full};

/// What is known of a peer that wants in.
pub(crate) struct Known {
    pub(crate) cursor: Option<Cursor>,
    /// Up to where it holds the log here.
    pub(crate) held: DbVersion,
    /// Whether it has learnt of all deletes that were dropped from the record here.
    pub(crate) is_aware: bool,
}

/// How much a changeset holds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    pub(crate) changes: usize,
}

impl Size {
    fn of(changeset: &Changeset) -> Self {
        Self { rows: changeset.rows().len(), changes: changeset.len() }
    }
}

/// What a merge did.
pub(crate) struct Merged {
    pub(crate) rows: usize,
    pub(crate) changes: usize,
    pub(crate) unchanged: usize,
    /// Changes that cannot be stored here, which are kept for later.
    pub(crate) quarantined: usize,
    /// Rules of tables that the merge broke.
    pub(crate) violations: usize,
    pub(crate) version: Option<DbVersion>,
    /// The version, where all that is of it is the peer's.
    pub(crate) echo: Option<DbVersion>,
}

impl Merged {
    fn new(rows: usize, changes: usize, report: &ApplyReport) -> Self {
        Self {
            rows,
            changes,
            unchanged: report.unchanged,
            quarantined: report.quarantined,
            violations: report.violations,
            version: report.db_version,
            echo: report.db_version.filter(|_| report.is_echo()),
        }
    }
}

/// Why work could not be done.
#[derive(Debug)]
pub(crate) enum Failed {
    /// What the peer sent cannot be taken, and why.
    Rejected(Rejection, String),
    /// The snapshot that the peer sent is not sound.
    Fault(SnapshotFault),
    /// The peer has not learnt of deletes that are no longer on record here, so that nothing of it is taken now.
    Behind(String),
    /// This side failed.
    Here(Ended),
}

impl From<HandleError> for Failed {
    fn from(error: HandleError) -> Self {
        Self::Here(match error {
            HandleError::Closed => Ended::StoreClosed,
            HandleError::Panicked => Ended::Store(error.to_string()),
        })
    }
}

fn failed(error: &dyn std::error::Error) -> Failed {
    Failed::Here(Ended::Store(in_full(error)))
}

/// Looks a peer up. It waits in the queue of the writer, so that what an earlier session with the same peer has asked to
/// be stored is there.
pub(crate) async fn look_up(store: StoreHandle, peer: SiteId) -> Result<Known, Failed> {
    let job = move |store: &mut Store| {
        let cursor = store.peer_cursor(peer)?.map(|cursor| opaque(&cursor));
        let held = store.held_by(peer)?;
        Ok(Known { cursor, held, is_aware: is_aware(store, peer)? })
    };
    store.write(job).await?.map_err(|error: StoreError| failed(&error))
}

/// Notes what a peer holds; says whether it has now learnt of all deletes that were dropped, and the version.
pub(crate) async fn acknowledged(
    store: StoreHandle,
    peer: SiteId,
    version: DbVersion,
    held: DbVersion,
) -> Result<(DbVersion, bool), Failed> {
    let job = move |store: &mut Store| {
        store.set_acknowledged_by(peer, version)?;
        // What it sent itself right after that.
        if held > version {
            store.set_held_by(peer, held)?;
        }
        is_aware(store, peer)
    };
    let is_aware = store.write(job).await?.map_err(|error| failed(&error))?;
    Ok((version, is_aware))
}

fn is_aware(store: &Store, peer: SiteId) -> Result<bool, StoreError> {
    Ok(store.acknowledged_by(peer)? >= store.horizon_for(peer)?)
}

/// A piece of the log that the session wants.
pub(crate) struct Piece {
    pub(crate) peer: SiteId,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) changes_max: usize,
    pub(crate) echoes: Echoes,
    pub(crate) compress: bool,
    /// Whether a log of more rows than these is better replaced by a snapshot.
    pub(crate) far: Option<u64>,
    /// Both sides hold each other back, so that a cursor which does not tell of forgotten deletes is of no use.
    pub(crate) standoff: bool,
}

/// Reads a piece of the log; says too whether it was refused for good, not for its length.
pub(crate) async fn read_log(store: StoreHandle, piece: Piece) -> Result<(Found, bool, Size), Failed> {
    let Piece { peer, cursor, changes_max, echoes, compress, far, standoff } = piece;
    let Some(mut cursor) = cursor.as_ref().map_or(Some(StoreCursor::start()), of_store) else {
        return Ok((Found::Behind, true, Size::default()));
    };
    let told = cursor.base;
    // The start is a place of its own: it is before the horizon, and still no delete is missed there.
    if !cursor.is_partial() && cursor != StoreCursor::start() {
        // What the peer sent need not be read to be left out; after a catch-up that is everything.
        cursor.base = echoes.past(cursor.base);
    }
    let job = move |store: &Store| {
        let behind = |error| match error {
            ReadError::BehindHorizon { .. } => Ok((Found::Behind, true, Size::default())),
            error => Err(failed(&error)),
        };
        if standoff && told < store.horizon_for(peer).map_err(|error| failed(&error))? {
            return Ok((Found::Behind, false, Size::default()));
        }
        if let Some(rows) = far {
            match is_far(store, peer, &cursor, rows) {
                Ok(false) => {}
                Ok(true) => return Ok((Found::Behind, false, Size::default())),
                Err(error) => return behind(error),
            }
        }
        let batch = match store.changes_for(peer, &cursor, changes_max) {
            Ok(batch) => batch,
            Err(error) => return behind(error),
        };
        let options = if compress { EncodeOptions::default() } else { EncodeOptions::RAW };
        let changes = echoes.strip(batch.changeset);
        let changeset = if changes.is_empty() { Vec::new() } else { changes.to_bytes_with(&options) };
        let size = Size::of(&changes);
        Ok((Found::Batch { changeset, cursor: opaque(&batch.cursor), done: batch.done }, false, size))
    };
    store.read(job).await?
}

/// Whether a peer should begin with a snapshot: much is missing there, or it begins with nothing where deletes were
/// forgotten, of which the log does not tell.
fn is_far(store: &Store, peer: SiteId, cursor: &StoreCursor, rows: u64) -> Result<bool, ReadError> {
    let forgotten = || store.horizon_for(peer).map(|horizon| horizon.0 > 0);
    if *cursor == StoreCursor::start() && forgotten().unwrap_or(false) {
        return Ok(true);
    }
    store.is_far_behind_for(peer, cursor, rows)
}

/// Stores changes that came, and the cursor with them.
pub(crate) async fn apply(
    store: StoreHandle,
    peer: SiteId,
    changeset: Vec<u8>,
    cursor: Cursor,
    limits: DecodeLimits,
) -> Result<Merged, Failed> {
    let malformed = |what: &str| Failed::Rejected(Rejection::Malformed, what.to_owned());
    let cursor = of_store(&cursor).ok_or_else(|| malformed("its cursor is none"))?;
    let job = move |store: &mut Store| {
        let changeset = match &*changeset {
            [] => Changeset::new(),
            bytes => Changeset::from_bytes(bytes, &limits).map_err(|error| malformed(&error.to_string()))?,
        };
        let options =
            ApplyOptions { cursor: Some((peer, cursor)), from_aware: true, ..ApplyOptions::default() };
        let report = store.apply_with(&changeset, &options).map_err(refused)?;
        let Size { rows, changes } = Size::of(&changeset);
        Ok(Merged::new(rows, changes, &report))
    };
    store.write(job).await?
}

/// Stores the offer of a snapshot.
pub(crate) async fn take_offer(
    mut intake: Intake,
    peer: SiteId,
    offer: Offer,
    manifest: Vec<u8>,
) -> (Option<Intake>, Result<(), Failed>) {
    blocking(move || {
        let taken = intake.offered(&offer, &manifest, peer);
        (Some(intake), taken)
    })
    .await
}

/// Stores a chunk. What is damaged takes the files with it.
pub(crate) async fn take_chunk(
    mut intake: Intake,
    store: StoreHandle,
    index: u64,
    bytes: Vec<u8>,
    stopping: Arc<AtomicBool>,
) -> (Option<Intake>, Result<(), Failed>) {
    blocking(move || match intake.put(index, &bytes, store.options(), &stopping) {
        Err(fault @ Failed::Fault(_)) => {
            intake.discard();
            (None, Err(fault))
        }
        taken => (Some(intake), taken),
    })
    .await
}

async fn blocking(
    job: impl FnOnce() -> (Option<Intake>, Result<(), Failed>) + Send + 'static,
) -> (Option<Intake>, Result<(), Failed>) {
    match spawn_blocking(job).await {
        Ok(done) => done,
        Err(error) => (None, Err(Failed::Here(Ended::Store(error.to_string())))),
    }
}

/// Merges a snapshot that is whole, with the cursor, in one commit. The files go, unless trying again later may help.
pub(crate) async fn install(
    mut intake: Intake,
    store: StoreHandle,
    stopping: Arc<AtomicBool>,
) -> Result<Merged, Failed> {
    let Some(image) = intake.image() else {
        return Err(SnapshotFault::Image("it is not whole".to_owned()).into());
    };
    let merged = store.write(move |store: &mut Store| intake::merge(store, &image, &stopping)).await;
    let keep = matches!(
        merged,
        Ok(Err(Failed::Here(_) | Failed::Rejected(Rejection::Schema | Rejection::Drift, _)))
            | Err(HandleError::Closed)
    );
    if !keep {
        // What is not removed now is removed by the next who looks.
        let _gone = spawn_blocking(move || intake.discard()).await;
    }
    let report = merged??;
    let rows = report.rows_inserted + report.rows_updated + report.rows_deleted;
    let changes = report.cells_won + report.rows_inserted + report.rows_deleted;
    Ok(Merged { unchanged: 0, ..Merged::new(rows, changes, &report) })
}

/// Who is to blame for changes that were not applied.
pub(crate) fn refused(error: ApplyError) -> Failed {
    let rejection = match &error {
        ApplyError::Invalid(InvalidChange { breach: Breach::Drift(_), .. }) => Rejection::Drift,
        ApplyError::Malformed(_) | ApplyError::Invalid(_) => Rejection::Malformed,
        ApplyError::UnknownTable { .. }
        | ApplyError::UnknownColumn { .. }
        | ApplyError::KeyShape { .. }
        | ApplyError::QuarantineFull { .. }
        | ApplyError::Constraint { .. } => Rejection::Schema,
        // It has credit from before history was cut here. In a new session it has none until it has learnt of that.
        ApplyError::PeerBehind { .. } => return Failed::Behind(in_full(&error)),
        _ => return failed(&error),
    };
    Failed::Rejected(rejection, in_full(&error))
}

/// A cursor of a store as one of the protocol.
pub(crate) fn opaque(cursor: &StoreCursor) -> Cursor {
    Cursor::new(cursor.to_string().as_bytes()).expect("a store's cursor is short enough")
}

/// What a peer took for a cursor of this store, if it is one.
pub(crate) fn of_store(cursor: &Cursor) -> Option<StoreCursor> {
    cursor.as_text()?.parse().ok()
}
