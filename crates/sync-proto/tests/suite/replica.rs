//! A model of a replica: rows with clocks, a log by version, cursors of peers. What is in it is durable.

use std::collections::BTreeMap;

use opor_core::{
    CausalLength, Change, Changeset, Cid, ColVersion, DbVersion, DecodeLimits, EncodeOptions, EqualValues,
    Incoming, LocalRow, Outcome, PackedKey, SiteId, Value, decide,
};
use opor_sync_proto::{Ask, Cursor, Echoes, Found, Offer, Rejection, Resume, SnapshotId, Wanted, Work};

/// Chunks of a snapshot have at most so many bytes.
const CHUNK_MAX: usize = 3000;

/// One cell of the only column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) value: Value,
    pub(crate) col_version: ColVersion,
    pub(crate) site: SiteId,
    /// The commit here.
    pub(crate) version: u64,
}

/// A snapshot on its way in, kept over restarts.
#[derive(Clone, Debug)]
struct Partial {
    id: SnapshotId,
    /// A hash for each chunk.
    manifest: Vec<u8>,
    bytes: Vec<u8>,
    chunks: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Replica {
    pub(crate) site: SiteId,
    pub(crate) epoch: u64,
    pub(crate) version: u64,
    pub(crate) cells: BTreeMap<i64, Cell>,
    /// How far each peer was pulled, as that peer wrote it.
    pub(crate) pulled: BTreeMap<SiteId, Cursor>,
    /// Images given out, by name.
    images: BTreeMap<SnapshotId, Vec<u8>>,
    /// By the peer that gives it.
    partials: BTreeMap<SiteId, Partial>,
    /// Changes that were left out because the peer sent them.
    pub(crate) stripped: usize,
    /// Changes that came and changed nothing.
    pub(crate) unchanged: usize,
    pub(crate) has_snapshots: bool,
}

/// A cursor: `base@epoch`, or `base@epoch:version.key` within a pull in pieces.
struct Place {
    base: u64,
    epoch: u64,
    at: Option<(u64, i64)>,
}

impl Place {
    fn cursor(&self) -> Cursor {
        let mut text = format!("{}@{}", self.base, self.epoch);
        if let Some((version, key)) = self.at {
            text.push_str(&format!(":{version}.{key}"));
        }
        Cursor::new(text.as_bytes()).unwrap()
    }

    fn of(cursor: &Cursor) -> Option<Self> {
        let text = cursor.as_text()?;
        let (head, at) = text.split_once(':').map_or((text, None), |(head, at)| (head, Some(at)));
        let (base, epoch) = head.split_once('@')?;
        let at = match at {
            None => None,
            Some(at) => {
                let (version, key) = at.split_once('.')?;
                Some((version.parse().ok()?, key.parse().ok()?))
            }
        };
        Some(Self { base: base.parse().ok()?, epoch: epoch.parse().ok()?, at })
    }
}

impl Replica {
    pub(crate) fn new(number: u8) -> Self {
        Self {
            site: SiteId::from([number; 16]),
            epoch: 1,
            version: 0,
            cells: BTreeMap::new(),
            pulled: BTreeMap::new(),
            images: BTreeMap::new(),
            partials: BTreeMap::new(),
            stripped: 0,
            unchanged: 0,
            has_snapshots: true,
        }
    }

    /// A commit of the application.
    pub(crate) fn commit(&mut self, rows: impl IntoIterator<Item = (i64, Value)>) {
        self.version += 1;
        for (key, value) in rows {
            let col_version = self.cells.get(&key).map_or(ColVersion(1), |cell| cell.col_version.next());
            let (site, version) = (self.site, self.version);
            self.cells.insert(key, Cell { value, col_version, site, version });
        }
    }

    /// Cuts the history: no earlier cursor can be continued.
    pub(crate) fn cut_history(&mut self) {
        self.epoch += 1;
    }

    /// What converges: all but the versions of this replica.
    pub(crate) fn content(&self) -> Vec<(i64, Value, ColVersion, SiteId)> {
        let cells = self.cells.iter();
        cells.map(|(key, cell)| (*key, cell.value.clone(), cell.col_version, cell.site)).collect()
    }

    /// How many chunks the snapshots have that were given out.
    pub(crate) fn image_chunks(&self) -> u64 {
        self.images.values().map(|image| image.len().div_ceil(CHUNK_MAX) as u64).sum()
    }

    /// What is asked of a peer at the beginning.
    pub(crate) fn ask(&self, peer: SiteId) -> Ask {
        Ask::Log(self.pulled.get(&peer).cloned())
    }

    /// How to go on after the peer has cut its history.
    pub(crate) fn restart(&self, peer: SiteId, snapshot: bool) -> Ask {
        if !snapshot {
            return Ask::Log(None);
        }
        let resume = |partial: &Partial| Resume { id: partial.id.clone(), index: partial.chunks };
        Ask::Snapshot(self.partials.get(&peer).map(resume))
    }

    pub(crate) fn read(&mut self, wanted: &Wanted) -> Found {
        match wanted {
            Wanted::Log { cursor, changes_max, echoes, compress, standoff: _ } => {
                self.read_log(cursor.as_ref(), *changes_max, echoes, *compress)
            }
            Wanted::Snapshot { .. } if !self.has_snapshots => Found::NoSnapshot,
            Wanted::Snapshot { resume, item_max } => self.read_snapshot(resume.as_ref(), *item_max),
            Wanted::Chunk { id, index } => {
                // It is of a history that has been cut since.
                let Some(image) = self.images.get(id) else { return Found::NoSnapshot };
                let chunk = image.chunks(CHUNK_MAX).nth(*index as usize).unwrap();
                Found::Chunk(chunk.to_vec())
            }
        }
    }

    fn read_log(&mut self, cursor: Option<&Cursor>, max: usize, echoes: &Echoes, compress: bool) -> Found {
        let start = Place { base: 0, epoch: self.epoch, at: None };
        let Some(place) = cursor.map_or(Some(start), Place::of) else { return Found::Behind };
        if place.epoch != self.epoch || place.base > self.version {
            return Found::Behind;
        }
        let mut after: Vec<_> = self.cells.iter().map(|(key, cell)| (cell.version, *key)).collect();
        after.retain(|at| at.0 > place.base && place.at.is_none_or(|from| *at > from));
        after.sort_unstable();
        let done = after.len() <= max;
        after.truncate(max);
        let at = after.last().copied().filter(|_| !done);
        let base = if done { self.version } else { place.base };
        let changeset: Changeset = after.iter().map(|(_, key)| self.change(*key)).collect();
        let before = changeset.len();
        let changeset = echoes.strip(changeset);
        self.stripped += before - changeset.len();
        let options = if compress { EncodeOptions::default() } else { EncodeOptions::RAW };
        let bytes = if changeset.is_empty() { Vec::new() } else { changeset.to_bytes_with(&options) };
        Found::Batch { changeset: bytes, cursor: Place { base, epoch: self.epoch, at }.cursor(), done }
    }

    fn change(&self, key: i64) -> Change {
        let cell = &self.cells[&key];
        Change {
            table: "t".into(),
            pk: PackedKey::pack(&[Value::Integer(key)]),
            cid: Cid::Column("v".into()),
            val: cell.value.clone(),
            col_version: cell.col_version,
            db_version: DbVersion(cell.version),
            site_id: cell.site,
            cl: CausalLength(1),
            seq: 0,
        }
    }

    fn read_snapshot(&mut self, resume: Option<&Resume>, item_max: u64) -> Found {
        assert!(item_max >= CHUNK_MAX as u64);
        let held = resume.filter(|resume| self.images.contains_key(&resume.id));
        let image = match held {
            Some(resume) => self.images[&resume.id].clone(),
            None => {
                let all: Changeset = self.cells.keys().map(|key| self.change(*key)).collect();
                let place = Place { base: self.version, epoch: self.epoch, at: None };
                let mut image = place.cursor().as_bytes().to_vec();
                image.push(0);
                image.extend(all.to_bytes_with(&EncodeOptions::RAW));
                image
            }
        };
        let end = image.iter().position(|byte| *byte == 0).unwrap();
        let cursor = Cursor::new(&image[..end]).unwrap();
        if cursor != (Place { base: Place::of(&cursor).unwrap().base, epoch: self.epoch, at: None }).cursor()
        {
            // It is of a history that has been cut since.
            self.images.clear();
            return self.read_snapshot(None, item_max);
        }
        let manifest: Vec<u8> = image.chunks(CHUNK_MAX).flat_map(hash).collect();
        let id = SnapshotId(hash(&manifest).to_vec());
        let (chunks, bytes) = (image.len().div_ceil(CHUNK_MAX) as u64, image.len() as u64);
        let first = held.map_or(0, |resume| resume.index.min(chunks - 1));
        self.images.insert(id.clone(), image);
        Found::Snapshot { offer: Offer { id, chunks, bytes, first, cursor }, manifest }
    }

    /// Stores something of a peer. `Ok` has the version it took, if it changed anything.
    pub(crate) fn apply(&mut self, peer: SiteId, work: &Work) -> Result<Option<u64>, Rejection> {
        match work {
            Work::Changes { changeset, cursor } => {
                let version = self.merge(changeset)?;
                self.pulled.insert(peer, cursor.clone());
                Ok(version)
            }
            Work::Offer { offer, manifest } => {
                let (id, manifest) = (offer.id.clone(), manifest.clone());
                if id.0 != hash(&manifest) {
                    return Err(Rejection::Snapshot);
                }
                let begun = Partial { id, manifest, bytes: Vec::new(), chunks: 0 };
                let partial = self.partials.entry(peer).or_insert_with(|| begun.clone());
                if partial.id != offer.id {
                    *partial = begun;
                }
                if partial.chunks < offer.first {
                    return Err(Rejection::Snapshot);
                }
                partial.bytes.truncate(offer.first as usize * CHUNK_MAX);
                partial.chunks = offer.first;
                Ok(None)
            }
            Work::Chunk { index, bytes } => {
                // A second session with the same peer may have taken the place of this one.
                let partial = self.partials.get_mut(&peer).ok_or(Rejection::Snapshot)?;
                let stated = partial.manifest.chunks(8).nth(*index as usize);
                if partial.chunks != *index || stated != Some(&hash(bytes)) {
                    return Err(Rejection::Snapshot);
                }
                partial.bytes.extend_from_slice(bytes);
                partial.chunks += 1;
                Ok(None)
            }
            Work::Install(offer) => {
                let partial = self.partials.remove(&peer).ok_or(Rejection::Snapshot)?;
                if partial.id != offer.id || partial.bytes.len() as u64 != offer.bytes {
                    return Err(Rejection::Snapshot);
                }
                let end = partial.bytes.iter().position(|byte| *byte == 0).unwrap();
                let version = self.merge(&partial.bytes[end + 1..])?;
                self.pulled.insert(peer, offer.cursor.clone());
                Ok(version)
            }
        }
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<Option<u64>, Rejection> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let changeset =
            Changeset::from_bytes(bytes, &DecodeLimits::default()).map_err(|_| Rejection::Malformed)?;
        let mut changed = false;
        for change in changeset.changes() {
            let [Value::Integer(key)] = change.pk.unpack()[..] else { return Err(Rejection::Schema) };
            let incoming = Incoming {
                cl: change.cl,
                sentinel: false,
                col_version: change.col_version,
                site_id: change.site_id,
                value: change.val.as_ref(),
            };
            let known = self.cells.get(&key);
            let local = LocalRow {
                cl: CausalLength(u64::from(known.is_some())),
                cell: known.map(|cell| (cell.col_version, cell.site, cell.value.as_ref())),
            };
            match decide(local, incoming, EqualValues::LargerSite) {
                Outcome::Lose | Outcome::Known | Outcome::Stale => self.unchanged += 1,
                _ => {
                    let Change { val: value, col_version, site_id: site, .. } = change;
                    self.cells.insert(key, Cell { value, col_version, site, version: self.version + 1 });
                    changed = true;
                }
            }
        }
        self.version += u64::from(changed);
        Ok(changed.then_some(self.version))
    }
}

/// FNV-1a, good enough to tell a model's chunks apart.
fn hash(bytes: &[u8]) -> [u8; 8] {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.to_be_bytes()
}
