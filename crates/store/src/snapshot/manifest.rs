//! What a snapshot is: whose, of which version, and the hash of each of its chunks.

use opor_core::{DbVersion, SiteId};

use crate::cursor::Cursor;
use crate::meta;
use crate::options::ClockPolicy;
use crate::sqlite::Db;
use crate::varint::{self, DamagedRecord, Reader};

/// Bytes of the image in a chunk, before compression: small enough for any transport's largest message even if it does
/// not compress, and for memory to hold a few; large enough that compression and hashes cost little.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// The most bytes an image may have: what a manifest of some 8 MiB can list.
const IMAGE_BYTES_MAX: u64 = 64 << 30;
/// The most bytes a manifest may have: the hashes of the largest image, and names of thousands of tables.
pub(crate) const MANIFEST_BYTES_MAX: usize = 16 << 20;
/// SQLite's own limit is far below.
const TABLES_MAX: u64 = 1 << 16;
/// SQLite's own limit.
const COLUMNS_MAX: u64 = 32_767;
/// cr-sqlite's limit for names.
const NAME_BYTES_MAX: usize = 2048;

const MAGIC: &[u8; 8] = b"oporsnap";
const FORMAT: u8 = 2;
/// More replicas than anybody pulls from.
const PULLED_MAX: u64 = 1 << 18;
const HASH_BYTES: usize = 32;

/// A BLAKE3 hash.
pub(crate) type Hash = [u8; HASH_BYTES];

/// Why bytes are no manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Something else altogether, cut short, or changed on the way.
    #[error("not the manifest of a snapshot, or damaged")]
    Damaged,
    /// A newer opor wrote it.
    #[error("the snapshot has format {found}, this version reads up to {supported}")]
    NewerFormat {
        /// The manifest's.
        found: u8,
        /// The newest this code knows.
        supported: u8,
    },
    /// More than this code takes.
    #[error("the snapshot declares {what} of {value}, the limit is {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        value: u64,
        /// The limit.
        max: u64,
    },
}

impl From<DamagedRecord> for ManifestError {
    fn from(_: DamagedRecord) -> Self {
        Self::Damaged
    }
}

/// A replicated table in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotTable {
    /// Its name.
    pub name: String,
    /// The columns that replicate besides the key, in table order.
    pub columns: Vec<String>,
}

/// How far the replica of a snapshot had pulled from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pulled {
    pub(crate) site: SiteId,
    /// In whose numbers this is.
    pub(crate) epoch: u64,
    /// All at or below it had been pulled.
    pub(crate) base: DbVersion,
}

/// What a snapshot is. It is small, and travels before the chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The replica it was made of.
    pub site: SiteId,
    /// The last commit of that replica it covers.
    pub db_version: DbVersion,
    /// The clock of that replica; a replica made of the snapshot has the same.
    pub policy: ClockPolicy,
    /// The tables that replicate.
    pub tables: Vec<SnapshotTable>,
    /// The size of the image, in bytes.
    pub image_bytes: u64,
    pub(crate) epoch: u64,
    /// Deletes at or below this version of the replica may be missing.
    pub(crate) horizon: u64,
    /// How far the replica had pulled from others; who is among them knows by that what it has been told.
    pub(crate) pulled: Vec<Pulled>,
    pub(crate) hashes: Vec<Hash>,
}

/// What a manifest says of the peers of a replica. A cursor of no epoch is of nobody's history for sure, and left out.
pub(crate) fn pulled(db: Db) -> Result<Vec<Pulled>, rusqlite::Error> {
    let known = |(site, cursor): (SiteId, Cursor)| {
        cursor.epoch.map(|epoch| Pulled { site, epoch, base: cursor.base })
    };
    Ok(meta::all_pulled(db)?.into_iter().filter_map(known).take(PULLED_MAX as usize).collect())
}

impl Manifest {
    /// More bytes than any chunk has, compressed.
    pub const CHUNK_BYTES_MAX: usize = super::stream::COMPRESSED_BYTES_MAX;

    /// How far a replica has pulled from the site of the image once it holds it.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        Cursor { base: self.db_version, epoch: Some(self.epoch), position: None }
    }

    /// How many chunks there are.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        // `from_bytes` and the size of images see to it.
        self.hashes.len() as u32
    }

    /// How many bytes of the image a chunk holds.
    pub(crate) fn chunk_len(&self, index: u32) -> usize {
        let start = u64::from(index) * CHUNK_BYTES as u64;
        (self.image_bytes.saturating_sub(start)).min(CHUNK_BYTES as u64) as usize
    }

    /// How many chunks an image of this size has.
    ///
    /// # Errors
    /// When it is too large.
    pub(crate) fn chunk_count(image_bytes: u64) -> Result<u32, ManifestError> {
        if image_bytes > IMAGE_BYTES_MAX {
            return Err(ManifestError::TooLarge {
                what: "an image",
                value: image_bytes,
                max: IMAGE_BYTES_MAX,
            });
        }
        Ok(image_bytes.div_ceil(CHUNK_BYTES as u64) as u32)
    }

    /// As bytes, which end with a hash of themselves.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.hashes.len() * HASH_BYTES);
        out.extend_from_slice(MAGIC);
        out.push(FORMAT);
        out.extend_from_slice(self.site.as_bytes());
        out.push(u8::from(self.policy == ClockPolicy::Hlc));
        for number in [self.db_version.0, self.epoch, self.horizon, self.image_bytes] {
            varint::put(number, &mut out);
        }
        varint::put(self.tables.len() as u64, &mut out);
        for table in &self.tables {
            varint::put_bytes(table.name.as_bytes(), &mut out);
            varint::put(table.columns.len() as u64, &mut out);
            table.columns.iter().for_each(|column| varint::put_bytes(column.as_bytes(), &mut out));
        }
        varint::put(self.pulled.len() as u64, &mut out);
        for pulled in &self.pulled {
            varint::put_bytes(pulled.site.as_bytes(), &mut out);
            varint::put(pulled.epoch, &mut out);
            varint::put(pulled.base.0, &mut out);
        }
        self.hashes.iter().for_each(|hash| out.extend_from_slice(hash));
        let hash = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&hash);
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. Memory is taken for bytes that have arrived, whatever they declare.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            let (value, max) = (bytes.len() as u64, MANIFEST_BYTES_MAX as u64);
            return Err(ManifestError::TooLarge { what: "a manifest", value, max });
        }
        let (body, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or(ManifestError::Damaged)?;
        let mut reader = Reader(body);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(ManifestError::Damaged);
        }
        let format = reader.byte()?;
        if format > FORMAT {
            return Err(ManifestError::NewerFormat { found: format, supported: FORMAT });
        }
        if format != FORMAT || blake3::hash(body) != *hash {
            return Err(ManifestError::Damaged);
        }
        Self::read(&mut reader)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ManifestError> {
        let site = SiteId::new(reader.take(16)?).map_err(|_| ManifestError::Damaged)?;
        let policy = match reader.byte()? {
            0 => ClockPolicy::Lamport,
            1 => ClockPolicy::Hlc,
            _ => return Err(ManifestError::Damaged),
        };
        let db_version = DbVersion(bounded(reader, "a version", DbVersion::MAX.0)?);
        let epoch = bounded(reader, "an epoch", DbVersion::MAX.0)?;
        let horizon = bounded(reader, "a horizon", db_version.0)?;
        let image_bytes = reader.varint()?;
        let chunks = Self::chunk_count(image_bytes)?;
        let count = bounded(reader, "a number of tables", TABLES_MAX)?;
        let tables: Result<Vec<_>, _> = (0..count).map(|_| table(reader)).collect();
        let tables = tables?;
        let count = bounded(reader, "a number of peers", PULLED_MAX)?;
        let pulled = (0..count).map(|_| peer(reader)).collect::<Result<Vec<_>, _>>()?;
        if reader.0.len() != chunks as usize * HASH_BYTES {
            return Err(ManifestError::Damaged);
        }
        let hashes = reader.0.as_chunks().0.to_vec();
        Ok(Self { site, db_version, policy, tables, image_bytes, epoch, horizon, pulled, hashes })
    }
}

fn bounded(reader: &mut Reader<'_>, what: &'static str, max: u64) -> Result<u64, ManifestError> {
    let value = reader.varint()?;
    if value <= max { Ok(value) } else { Err(ManifestError::TooLarge { what, value, max }) }
}

fn peer(reader: &mut Reader<'_>) -> Result<Pulled, ManifestError> {
    let site = SiteId::new(reader.bytes()?).map_err(|_| ManifestError::Damaged)?;
    let epoch = bounded(reader, "an epoch", DbVersion::MAX.0)?;
    let base = DbVersion(bounded(reader, "a version", DbVersion::MAX.0)?);
    Ok(Pulled { site, epoch, base })
}

fn table(reader: &mut Reader<'_>) -> Result<SnapshotTable, ManifestError> {
    let name = name(reader)?;
    let count = bounded(reader, "a number of columns", COLUMNS_MAX)?;
    // Collected one by one: a declared count takes no memory of its own.
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(self::name(reader)?);
    }
    Ok(SnapshotTable { name, columns })
}

fn name(reader: &mut Reader<'_>) -> Result<String, ManifestError> {
    let bytes = reader.bytes()?;
    if bytes.len() > NAME_BYTES_MAX {
        let (value, max) = (bytes.len() as u64, NAME_BYTES_MAX as u64);
        return Err(ManifestError::TooLarge { what: "a name", value, max });
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| ManifestError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let table = SnapshotTable { name: "todos".into(), columns: vec!["title".into(), "done".into()] };
        Manifest {
            site: SiteId::from([7; 16]),
            db_version: DbVersion(300),
            policy: ClockPolicy::Hlc,
            tables: vec![table, SnapshotTable { name: "żółw".into(), columns: Vec::new() }],
            image_bytes: CHUNK_BYTES as u64 + 5,
            epoch: 99,
            horizon: 12,
            pulled: vec![Pulled { site: SiteId::from([8; 16]), epoch: 5, base: DbVersion(1_000) }],
            hashes: vec![[1; 32], [2; 32]],
        }
    }

    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        let hash = *blake3::hash(&body).as_bytes();
        body.extend_from_slice(&hash);
        body
    }

    #[test]
    fn manifests_round_trip_and_know_the_sizes_of_their_chunks() {
        let manifest = manifest();
        assert_eq!(Manifest::from_bytes(&manifest.to_bytes()), Ok(manifest.clone()));
        assert_eq!((manifest.chunks(), manifest.chunk_len(0), manifest.chunk_len(1)), (2, CHUNK_BYTES, 5));
    }

    #[test]
    fn a_manifest_that_is_cut_or_changed_anywhere_is_refused() {
        let bytes = manifest().to_bytes();
        for len in 0..bytes.len() {
            assert_eq!(Manifest::from_bytes(&bytes[..len]), Err(ManifestError::Damaged), "cut to {len}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            let outcome = Manifest::from_bytes(&changed);
            let newer = ManifestError::NewerFormat { found: FORMAT ^ 0x40, supported: FORMAT };
            let expected = if at == MAGIC.len() { newer } else { ManifestError::Damaged };
            assert_eq!(outcome, Err(expected), "byte {at}");
        }
    }

    /// The hash is right here: whoever makes it up can hash it too.
    #[test]
    fn a_manifest_that_declares_too_much_is_refused() {
        let too_large = |manifest: &Manifest| match Manifest::from_bytes(&manifest.to_bytes()) {
            Err(ManifestError::TooLarge { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        let image = Manifest { image_bytes: u64::MAX, ..manifest() };
        assert_eq!(too_large(&image), "an image");
        assert_eq!(too_large(&Manifest { db_version: DbVersion(u64::MAX), ..manifest() }), "a version");
        assert_eq!(too_large(&Manifest { horizon: 301, ..manifest() }), "a horizon");
        let long = SnapshotTable { name: "n".repeat(3000), columns: Vec::new() };
        assert_eq!(too_large(&Manifest { tables: vec![long], ..manifest() }), "a name");
        // One hash too few, and one too many.
        for hashes in [vec![[1; 32]], vec![[1; 32]; 3]] {
            let bytes = Manifest { hashes, ..manifest() }.to_bytes();
            assert_eq!(Manifest::from_bytes(&bytes), Err(ManifestError::Damaged));
        }
        // A number of tables that are not there.
        let body = manifest().to_bytes();
        let mut body = body[..MAGIC.len() + 1 + 16 + 1].to_vec();
        [1, 1, 0, 5, 60_000].iter().for_each(|number| varint::put(*number, &mut body));
        assert_eq!(Manifest::from_bytes(&sealed(body)), Err(ManifestError::Damaged));
    }
}
