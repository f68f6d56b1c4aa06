//! What sessions ask of the store, as jobs for its threads.

use opor_core::{Breach, Changeset, DbVersion, DecodeLimits, EncodeOptions, InvalidChange, SiteId};
use opor_store::{
    ApplyError, ApplyOptions, Cursor as StoreCursor, HandleError, ReadError, Store, StoreHandle,
};
use opor_sync_proto::{Cursor, Found, Rejection, Wanted, Work};

use crate::verdict::Ended;

/// What is known of a peer that wants in.
pub(crate) struct Known {
    pub(crate) cursor: Option<Cursor>,
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
}

/// Why work could not be done.
pub(crate) enum Failed {
    /// What the peer sent cannot be taken.
    Rejected(Rejection),
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
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    Failed::Here(Ended::Store(text))
}

/// Looks a peer up.
pub(crate) async fn look_up(store: StoreHandle, peer: SiteId) -> Result<Known, Failed> {
    let job = move |store: &Store| {
        let cursor = store.peer_cursor(peer)?.map(|cursor| opaque(&cursor));
        Ok(Known { cursor, is_aware: is_aware(store, peer)? })
    };
    store.read(job).await?.map_err(|error: opor_store::StoreError| failed(&error))
}

/// Notes what a peer holds; says whether it has now learnt of all deletes that were dropped, and the version.
pub(crate) async fn acknowledged(
    store: StoreHandle,
    peer: SiteId,
    cursor: Cursor,
) -> Result<Option<(DbVersion, bool)>, Failed> {
    // It is one of this store, as the session checks; what is none tells nothing.
    let Some(cursor) = of_store(&cursor) else { return Ok(None) };
    let job = move |store: &mut Store| {
        store.set_acknowledged_by(peer, cursor.base)?;
        is_aware(store, peer)
    };
    let is_aware = store.write(job).await?.map_err(|error| failed(&error))?;
    Ok(Some((cursor.base, is_aware)))
}

fn is_aware(store: &Store, peer: SiteId) -> Result<bool, opor_store::StoreError> {
    Ok(store.acknowledged_by(peer)? >= store.horizon()?)
}

/// Reads what the session wants, and says how much it is. There are no snapshots to give.
pub(crate) async fn read(store: StoreHandle, wanted: Wanted) -> Result<(Found, Size), Failed> {
    let nothing = |found| Ok((found, Size::default()));
    let Wanted::Log { cursor, changes_max, echoes, compress } = wanted else {
        return nothing(Found::NoSnapshot);
    };
    // What the peer took for a cursor of this store may be none.
    let Some(cursor) = cursor.as_ref().map_or(Some(StoreCursor::start()), of_store) else {
        return nothing(Found::Behind);
    };
    let job = move |store: &Store| {
        let batch = match store.changes(&cursor, changes_max) {
            Ok(batch) => batch,
            Err(ReadError::BehindHorizon { .. }) => return nothing(Found::Behind),
            Err(error) => return Err(failed(&error)),
        };
        let options = if compress { EncodeOptions::default() } else { EncodeOptions::RAW };
        let changes = echoes.strip(batch.changeset);
        let changeset = if changes.is_empty() { Vec::new() } else { changes.to_bytes_with(&options) };
        let size = Size::of(&changes);
        Ok((Found::Batch { changeset, cursor: opaque(&batch.cursor), done: batch.done }, size))
    };
    store.read(job).await?
}

/// Stores what came, and the cursor with it.
pub(crate) async fn apply(
    store: StoreHandle,
    peer: SiteId,
    work: Work,
    limits: DecodeLimits,
) -> Result<Merged, Failed> {
    let Work::Changes { changeset, cursor } = work else {
        // Nothing of a snapshot comes unasked for.
        return Err(Failed::Rejected(Rejection::Snapshot));
    };
    let cursor = of_store(&cursor).ok_or(Failed::Rejected(Rejection::Malformed))?;
    let job = move |store: &mut Store| {
        let changeset = match &*changeset {
            [] => Changeset::new(),
            bytes => {
                Changeset::from_bytes(bytes, &limits).map_err(|_| Failed::Rejected(Rejection::Malformed))?
            }
        };
        let options = ApplyOptions { cursor: Some((peer, cursor)), ..ApplyOptions::default() };
        let report = store.apply_with(&changeset, &options).map_err(refused)?;
        let Size { rows, changes } = Size::of(&changeset);
        Ok(Merged {
            rows,
            changes,
            unchanged: report.unchanged,
            quarantined: report.quarantined,
            violations: report.violations,
            version: report.db_version,
        })
    };
    store.write(job).await?
}

fn refused(error: ApplyError) -> Failed {
    match error {
        ApplyError::Invalid(InvalidChange { breach: Breach::Drift(_), .. }) => {
            Failed::Rejected(Rejection::Drift)
        }
        ApplyError::Malformed(_) | ApplyError::Invalid(_) => Failed::Rejected(Rejection::Malformed),
        ApplyError::UnknownTable { .. }
        | ApplyError::UnknownColumn { .. }
        | ApplyError::KeyShape { .. }
        | ApplyError::QuarantineFull { .. }
        | ApplyError::Constraint { .. } => Failed::Rejected(Rejection::Schema),
        error => failed(&error),
    }
}

fn opaque(cursor: &StoreCursor) -> Cursor {
    Cursor::new(cursor.to_string().as_bytes()).expect("a store's cursor is short enough")
}

fn of_store(cursor: &Cursor) -> Option<StoreCursor> {
    cursor.as_text()?.parse().ok()
}
