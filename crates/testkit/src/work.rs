//! What sessions ask of the stores of a replica: the rules of a driver, one transaction each.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use opor_core::{Breach, Changeset, DbVersion, DecodeLimits, EncodeOptions, InvalidChange, SiteId};
use opor_store::{
    ApplyError, ApplyOptions, ApplyReport, Cursor as StoreCursor, ImageError, Manifest, ReadError,
    RestoreError, SnapshotReceiver, Store,
};
use opor_sync_proto::{Cursor, Found, Offer, Rejection, RequestId, SnapshotId, Wanted, Work};

use crate::node::{Node, Stores};

/// Something for the store to do.
#[derive(Debug)]
pub(crate) enum Job {
    LookUp(SiteId),
    /// A read; whether a log that begins before forgotten deletes is better replaced by a snapshot.
    Read(RequestId, SiteId, Wanted, bool),
    Apply(RequestId, SiteId, Work),
    /// What a peer has acknowledged, and up to where it holds everything.
    Acknowledge(SiteId, DbVersion, DbVersion),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Done {
    LookedUp {
        cursor: Option<Cursor>,
        held: DbVersion,
        is_aware: bool,
    },
    /// What was found; whether the cursor is of a history that is gone.
    Read(RequestId, Found, bool),
    Applied {
        req: RequestId,
        merged: Merged,
        is_item: bool,
    },
    Rejected(RequestId, Rejection),
    /// Nothing is taken from a peer that has not learnt of deletes that were forgotten here.
    PeerBehind,
    Acknowledged {
        is_aware: bool,
    },
}

/// The version that a merge took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Merged {
    pub(crate) version: Option<DbVersion>,
    /// The same, where all that is of it is the peer's.
    pub(crate) echo: Option<DbVersion>,
}

impl Merged {
    fn new(report: &ApplyReport) -> Self {
        Self { version: report.db_version, echo: report.db_version.filter(|_| report.is_echo()) }
    }
}

/// Why something was not merged.
#[derive(Debug)]
pub(crate) enum Refused {
    Rejected(Rejection),
    PeerBehind,
}

impl From<Rejection> for Refused {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// Does a job. Whatever it changes is durable when this returns.
pub(crate) fn run(node: &mut Node, job: Job) -> Done {
    match job {
        Job::LookUp(peer) => {
            let stores = running(node);
            let cursor = stores.writer.peer_cursor(peer).expect("cursors read");
            Done::LookedUp {
                cursor: cursor.map(|cursor| opaque(&cursor)),
                held: stores.writer.held_by(peer).expect("what peers hold reads"),
                is_aware: is_aware(&stores.writer, peer),
            }
        }
        Job::Read(req, peer, wanted, judge) => {
            let (found, is_gone) = read(running(node), peer, &wanted, judge);
            Done::Read(req, found, is_gone)
        }
        Job::Apply(req, peer, work) => {
            let is_item = !matches!(work, Work::Install(_));
            match apply(node, peer, work) {
                Ok(merged) => Done::Applied { req, merged, is_item },
                Err(Refused::Rejected(rejection)) => Done::Rejected(req, rejection),
                Err(Refused::PeerBehind) => Done::PeerBehind,
            }
        }
        Job::Acknowledge(peer, version, held) => {
            let stores = running(node);
            stores.writer.set_acknowledged_by(peer, version).expect("acknowledgements are stored");
            if held > version {
                stores.writer.set_held_by(peer, held).expect("what peers hold is stored");
            }
            Done::Acknowledged { is_aware: is_aware(&stores.writer, peer) }
        }
    }
}

fn running(node: &mut Node) -> &mut Stores {
    node.stores.as_mut().expect("jobs of a replica that crashed are gone")
}

/// Whether a peer has learnt of all deletes that were dropped from the record here.
pub(crate) fn is_aware(store: &Store, peer: SiteId) -> bool {
    store.acknowledged_by(peer).expect("acknowledgements read")
        >= store.horizon_for(peer).expect("the horizon reads")
}

fn read(stores: &mut Stores, peer: SiteId, wanted: &Wanted, judge: bool) -> (Found, bool) {
    let found = match wanted {
        Wanted::Log { cursor, changes_max, echoes, compress, standoff } => {
            // What the peer took for a cursor of this store may be none.
            let Some(mut cursor) = cursor.as_ref().map_or(Some(StoreCursor::start()), of_store) else {
                return (Found::Behind, true);
            };
            let is_start = cursor == StoreCursor::start();
            let horizon = stores.reader.horizon_for(peer).expect("the horizon reads");
            if *standoff && cursor.base < horizon || judge && is_start && horizon.0 > 0 {
                return (Found::Behind, false);
            }
            if !is_start && !cursor.is_partial() {
                cursor.base = echoes.past(cursor.base);
            }
            let batch = match stores.reader.changes_for(peer, &cursor, *changes_max) {
                Ok(batch) => batch,
                Err(ReadError::BehindHorizon { .. }) => return (Found::Behind, true),
                Err(error) => panic!("changes read: {error}"),
            };
            let options = if *compress { EncodeOptions::default() } else { EncodeOptions::RAW };
            let changes = echoes.strip(batch.changeset);
            let changeset = if changes.is_empty() { Vec::new() } else { changes.to_bytes_with(&options) };
            Found::Batch { changeset, cursor: opaque(&batch.cursor), done: batch.done }
        }
        Wanted::Snapshot { resume, .. } => {
            let resume = resume.as_ref();
            let is_given = |id: &SnapshotId| stores.given.as_ref().is_some_and(|(given, _)| given == id);
            let held = resume.filter(|resume| is_given(&resume.id));
            if held.is_none() {
                let snapshot = stores.reader.snapshot().expect("a snapshot is made");
                stores.given = Some((snapshot_id(snapshot.manifest()), snapshot));
            }
            let (id, snapshot) = stores.given.as_ref().expect("one is given now");
            let manifest = snapshot.manifest();
            let chunks = u64::from(manifest.chunks());
            let offer = Offer {
                id: id.clone(),
                chunks,
                bytes: manifest.image_bytes,
                first: held.map_or(0, |resume| resume.index.min(chunks - 1)),
                cursor: opaque(&StoreCursor::at(manifest.db_version)),
            };
            Found::Snapshot { offer, manifest: manifest.to_bytes() }
        }
        Wanted::Chunk { id, index } => match &stores.given {
            Some((given, snapshot)) if given == id => {
                let index = (*index).try_into().expect("there are not that many chunks");
                Found::Chunk(snapshot.chunk(index).expect("a chunk reads"))
            }
            _ => Found::NoSnapshot,
        },
    };
    (found, false)
}

fn apply(node: &mut Node, peer: SiteId, work: Work) -> Result<Merged, Refused> {
    match work {
        Work::Changes { changeset, cursor } => merge(&mut running(node).writer, peer, &changeset, &cursor),
        Work::Offer { offer, manifest } => {
            let manifest = Manifest::from_bytes(&manifest).map_err(|_| Rejection::Snapshot)?;
            if snapshot_id(&manifest) != offer.id {
                return Err(Rejection::Snapshot.into());
            }
            let file = node.partial_file(peer);
            let receiver =
                SnapshotReceiver::begin(file, manifest.clone()).map_err(|_| Rejection::Snapshot)?;
            node.partials.insert(peer, (offer.id, manifest));
            running(node).receivers.insert(peer, receiver);
            Ok(Merged::default())
        }
        Work::Chunk { index, bytes } => {
            // A second session with the same peer may have taken the place of this one.
            let receiver = running(node).receivers.get_mut(&peer).ok_or(Rejection::Snapshot)?;
            let index = index.try_into().map_err(|_| Rejection::Snapshot)?;
            receiver.put(index, &bytes).map_err(|_| Rejection::Snapshot)?;
            Ok(Merged::default())
        }
        Work::Install(offer) => {
            let receiver = running(node).receivers.remove(&peer).ok_or(Rejection::Snapshot)?;
            if snapshot_id(receiver.manifest()) != offer.id {
                return Err(Rejection::Snapshot.into());
            }
            node.partials.remove(&peer);
            let options = node.options().clone();
            Ok(install(&mut running(node).writer, receiver, &options, true)?)
        }
    }
}

fn install(
    store: &mut Store,
    receiver: SnapshotReceiver,
    options: &opor_store::OpenOptions,
    of_peer: bool,
) -> Result<Merged, Rejection> {
    let image = receiver.finish(options).map_err(|error| refused_image(&error))?;
    let merged = if of_peer {
        store.merge_snapshot_of_peer(&image, &mut |_| ControlFlow::Continue(()))
    } else {
        store.merge_snapshot(&image)
    };
    image.discard().expect("the file is removed");
    Ok(Merged::new(&merged.map_err(|error| refused_image(&error))?))
}

/// Merges a snapshot of another replica, past all links.
pub(crate) fn carry_snapshot(source: &mut Stores, target: &mut Node) -> Result<Option<DbVersion>, Rejection> {
    let snapshot = source.reader.snapshot().expect("a snapshot is made");
    let manifest = snapshot.manifest();
    let file = target.partial_file(manifest.site).with_extension("carried");
    let mut receiver = SnapshotReceiver::begin(file, manifest.clone()).expect("a file for chunks");
    while let Some(index) = receiver.next_missing() {
        let chunk = snapshot.chunk(index).expect("a chunk reads");
        receiver.put(index, &chunk).expect("a sound chunk");
    }
    let options = target.options().clone();
    Ok(install(&mut running(target).writer, receiver, &options, false)?.version)
}

fn merge(store: &mut Store, peer: SiteId, changeset: &[u8], cursor: &Cursor) -> Result<Merged, Refused> {
    let cursor = of_store(cursor).ok_or(Rejection::Malformed)?;
    let changeset = match changeset {
        [] => Changeset::new(),
        bytes => Changeset::from_bytes(bytes, &DecodeLimits::default()).map_err(|_| Rejection::Malformed)?,
    };
    let options = ApplyOptions { cursor: Some((peer, cursor)), from_aware: true, ..ApplyOptions::default() };
    let report = match store.apply_with(&changeset, &options) {
        Ok(report) => report,
        Err(ApplyError::PeerBehind { .. }) => return Err(Refused::PeerBehind),
        Err(error) => return Err(refused(&error).into()),
    };
    let kept = store.peer_cursor(peer).expect("cursors read");
    // A second session with the same peer may have got further meanwhile.
    let is_stored = kept.is_some_and(|kept| kept == cursor || kept.base > cursor.base || kept.is_partial());
    assert!(is_stored, "a cursor is stored with the changes that it covers: {cursor}, and not {kept:?}");
    Ok(Merged::new(&report))
}

fn refused(error: &ApplyError) -> Rejection {
    match error {
        ApplyError::Invalid(InvalidChange { breach: Breach::Drift(_), .. }) => Rejection::Drift,
        ApplyError::Malformed(_) | ApplyError::Invalid(_) => Rejection::Malformed,
        ApplyError::UnknownTable { .. }
        | ApplyError::UnknownColumn { .. }
        | ApplyError::KeyShape { .. }
        | ApplyError::Constraint { .. } => Rejection::Schema,
        error => panic!("a merge is stored: {error}: {:?}", std::error::Error::source(error)),
    }
}

fn refused_image(error: &RestoreError) -> Rejection {
    match error {
        RestoreError::Image { source, .. } if matches!(**source, ImageError::Future(_)) => Rejection::Drift,
        RestoreError::Image { .. } | RestoreError::Incomplete { .. } => Rejection::Snapshot,
        RestoreError::Apply(error) => refused(error),
        error => panic!("a snapshot is merged: {error}: {:?}", std::error::Error::source(error)),
    }
}

/// A name that stands for the manifest, and so for all chunks.
fn snapshot_id(manifest: &Manifest) -> SnapshotId {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = manifest.to_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fold);
    SnapshotId(hash.to_be_bytes().to_vec())
}

fn opaque(cursor: &StoreCursor) -> Cursor {
    Cursor::new(cursor.to_string().as_bytes()).expect("a store's cursor is short enough")
}

pub(crate) fn of_store(cursor: &Cursor) -> Option<StoreCursor> {
    cursor.as_text()?.parse().ok()
}

/// The newest clock that was ever committed for each cell.
pub(crate) type Newest = BTreeMap<(String, Vec<u8>, String), (u64, u64)>;
