//! Images that somebody made up: every chunk is as the manifest says, and still nothing of them may be used.

use std::path::{Path, PathBuf};

use opor_core::{CausalLength, DbVersion, SiteId};
use rusqlite::Connection;

use super::manifest::CHUNK_BYTES;
use super::*;
use crate::ClockPolicy;
use crate::block::{Block, CellClock, Group};
use crate::colset::ColSet;

const SCHEMA: &str = "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done);
             CREATE TABLE counts(id INTEGER PRIMARY KEY NOT NULL, n);
             CREATE TABLE pairs(a, b, c, PRIMARY KEY(a, b)) WITHOUT ROWID";

pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

pub(super) fn folder() -> Folder {
    Folder(tempfile::tempdir().expect("a folder"))
}

pub(super) fn source() -> Store {
    let mut store = OpenOptions::new().site_id(SiteId::from([0xa; 16])).open_in_memory().expect("a store");
    store.execute_batch(SCHEMA).expect("tables");
    ["todos", "counts", "pairs"].iter().for_each(|table| store.replicate(table).expect("it replicates"));
    store
        .execute_batch(
            "INSERT INTO todos VALUES ('a', 1, 0), ('b', 2, 0);
             INSERT INTO counts VALUES (1, 1), (2, 2); INSERT INTO pairs VALUES (1, 1, 1), (2, 2, 2);
             DELETE FROM todos WHERE id = 'b'; DELETE FROM counts WHERE id = 2",
        )
        .expect("rows");
    store
}

/// An empty replica with the same tables.
pub(super) fn receiver() -> Store {
    let mut store = OpenOptions::new().site_id(SiteId::from([0xe; 16])).open_in_memory().expect("a store");
    store.execute_batch(SCHEMA).expect("tables");
    ["todos", "counts", "pairs"].iter().for_each(|table| store.replicate(table).expect("it replicates"));
    store
}

/// The manifest of whatever bytes there are.
pub(super) fn manifest_of(bytes: &[u8], like: &Manifest) -> Manifest {
    let hashes = bytes.chunks(CHUNK_BYTES).map(|chunk| *blake3::hash(chunk).as_bytes()).collect();
    Manifest { image_bytes: bytes.len() as u64, hashes, ..like.clone() }
}

/// Sends bytes as an image, and says what the receiver makes of them.
pub(super) fn send(bytes: &[u8], like: &Manifest, path: &Path) -> Result<SnapshotImage, RestoreError> {
    let manifest = manifest_of(bytes, like);
    let mut receiver = SnapshotReceiver::begin(partial_path(path), manifest).expect("a partial file");
    for (index, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
        let chunk = zstd::bulk::compress(chunk, 1).expect("it compresses");
        receiver.put(index as u32, &chunk).expect("as the manifest says");
    }
    receiver.finish(&OpenOptions::new())
}

/// Changes an honest image by SQL, and says what the receiver makes of it.
fn forge(sql: &str, like: impl Fn(Manifest) -> Manifest) -> ImageError {
    let folder = folder();
    let snapshot = source().snapshot().expect("a snapshot");
    let forged = folder.file("forged");
    std::fs::copy(snapshot.image.path(), &forged).expect("a copy");
    let conn = Connection::open(&forged).expect("a database");
    conn.create_collation("opor_guard", |a, b| a.cmp(b)).expect("a collation");
    conn.execute_batch(sql).expect("forged");
    conn.close().expect("closed");
    let bytes = std::fs::read(&forged).expect("the image");
    let target = folder.file("target.db");
    let outcome = send(&bytes, &like(snapshot.manifest().clone()), &target);
    assert!(!target.exists(), "nothing is there");
    match outcome {
        Err(RestoreError::Image { source, .. }) => *source,
        other => panic!("{sql}: {other:?}"),
    }
}

fn as_it_is(manifest: Manifest) -> Manifest {
    manifest
}

#[test]
fn an_honest_image_passes() {
    let folder = folder();
    let snapshot = source().snapshot().expect("a snapshot");
    let bytes = std::fs::read(snapshot.image.path()).expect("the image");
    assert_eq!(manifest_of(&bytes, snapshot.manifest()), *snapshot.manifest());
    let image = send(&bytes, snapshot.manifest(), &folder.file("a.db")).expect("it passes");
    assert_eq!(image.manifest(), snapshot.manifest());
}

#[test]
fn what_is_no_database_is_refused() {
    let folder = folder();
    let snapshot = source().snapshot().expect("a snapshot");
    let honest = std::fs::read(snapshot.image.path()).expect("the image");
    let refuse = |bytes: &[u8]| match send(bytes, snapshot.manifest(), &folder.file("a.db")) {
        Err(RestoreError::Image { source, .. }) => *source,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refuse(&[7; 5000]), ImageError::Unsound(_)));
    assert!(matches!(refuse(&honest[..honest.len() / 2]), ImageError::Unsound(_)));
    assert!(matches!(refuse(&[]), ImageError::Open(_)));
    // Random damage anywhere, under hashes that fit: refused, or harmless; never a panic, never a write.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    let (mut refused, mut passed) = (0, 0);
    for round in 0..80 {
        let mut bytes = honest.clone();
        for _ in 0..1 + next(4) {
            let at = next(bytes.len());
            bytes[at] ^= 1 << next(8);
        }
        let target = folder.file(&format!("{round}.db"));
        match send(&bytes, snapshot.manifest(), &target) {
            Err(RestoreError::Image { .. }) => refused += 1,
            Ok(image) => {
                passed += 1;
                super::lies::take(&image);
                let store = image.install(&target, &OpenOptions::new());
                // What the check lets pass can be read to the end, or says why not.
                let _said = store.map(|store| store.changes_since(DbVersion(0)).map(|changes| changes.len()));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 2 && passed > 20, "both happen: {refused} refused, {passed} passed");
}

#[test]
fn an_image_that_is_not_what_its_manifest_says_is_refused() {
    let nothing = "SELECT 1";
    let forged = forge(nothing, |manifest| Manifest { db_version: DbVersion(1), ..manifest });
    assert!(matches!(forged, ImageError::Mismatch("version")), "{forged:?}");
    let forged = forge(nothing, |manifest| Manifest { site: SiteId::from([9; 16]), ..manifest });
    assert!(matches!(forged, ImageError::Mismatch("set of sites")), "{forged:?}");
    let forged = forge(nothing, |manifest| Manifest { epoch: manifest.epoch ^ 1, ..manifest });
    assert!(matches!(forged, ImageError::Mismatch("epoch, clock or horizon")), "{forged:?}");
    let forged = forge(nothing, |manifest| Manifest { policy: ClockPolicy::Lamport, ..manifest });
    assert!(matches!(forged, ImageError::Mismatch("epoch, clock or horizon")), "{forged:?}");
    let forged = forge(nothing, |manifest| Manifest { horizon: 1, ..manifest });
    assert!(matches!(forged, ImageError::Mismatch("epoch, clock or horizon")), "{forged:?}");
    let forged = forge(nothing, |manifest| Manifest { tables: Vec::new(), ..manifest });
    assert!(matches!(forged, ImageError::Mismatch("schema")), "{forged:?}");
}

#[test]
fn an_image_that_no_opor_makes_is_refused() {
    for (sql, what) in [
        (
            "INSERT INTO crsql_site_id VALUES (x'09090909090909090909090909090909', 0)",
            "it has a site of its own",
        ),
        ("INSERT INTO opor_cursor(peer) VALUES (x'09090909090909090909090909090909')", "it has cursors"),
        ("INSERT INTO opor_incident VALUES (1, 1, 'a', 'b')", "it has incidents"),
        ("INSERT INTO opor_tail VALUES (9, x'00')", "it has a tail"),
        (
            "CREATE TRIGGER evil AFTER INSERT ON opor_cursor BEGIN DELETE FROM todos; END",
            "a trigger or a view stands on the tables of opor",
        ),
        ("DROP TABLE todos", "its tables are not those on its record"),
        ("DROP INDEX opor_guard_1", "its tables are not those on its record"),
        ("ALTER TABLE todos ADD COLUMN more", "its tables are not those on its record"),
        ("UPDATE opor_tombstone SET table_id = 77", "a tombstone has no table"),
    ] {
        let forged = forge(sql, as_it_is);
        assert!(matches!(forged, ImageError::Foreign(found) if found == what), "{sql}: {forged:?}");
    }
    let forged = forge(
        "DROP TABLE opor_meta; CREATE TABLE opor_meta(id, format); INSERT INTO opor_meta VALUES (1, 99)",
        as_it_is,
    );
    assert!(matches!(forged, ImageError::Open(OpenError::OtherFormat { found: 99, .. })), "{forged:?}");
    // A table of the store's own that is said to replicate would travel, and be written to by peers.
    let forged = forge(
        "UPDATE opor_table SET name = 'opor_cursor' WHERE id = 1;
         DROP INDEX opor_guard_1; CREATE INDEX opor_guard_1 ON opor_cursor((('' COLLATE opor_guard IS ''))) WHERE 0",
        as_it_is,
    );
    assert!(matches!(forged, ImageError::Foreign(_) | ImageError::Mismatch(_)), "{forged:?}");
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A block of one group, as SQL that puts it into a clock table.
pub(super) fn put_block(table: u32, key: &str, edit: impl Fn(&mut Group)) -> String {
    let clock = CellClock { cv: 1, dv: 1, shown_dv: 1, seq: 0, site: 1 };
    let mut group = Group::of_row(1, ColSet::one(1), clock);
    edit(&mut group);
    let block = Block { max_dv: group.dv, groups: vec![group] };
    let mut bytes = Vec::new();
    block.encode(&mut bytes);
    let (dv, bytes) = (block.max_dv, hex(&bytes));
    format!("INSERT OR REPLACE INTO opor_clock_{table} VALUES (0, {dv}, x'{bytes}', {key})")
}

#[test]
fn clocks_that_would_wedge_the_receiver_are_refused() {
    let clock = |sql: String, of: &str| {
        let forged = forge(&sql, as_it_is);
        assert!(matches!(&forged, ImageError::Clock { table } if table == of), "{sql}: {forged:?}");
    };
    clock(put_block(1, "NULL", |group| group.cv = u64::MAX >> 1), "todos");
    clock(put_block(1, "NULL", |group| group.dv = 1 << 40), "todos");
    clock(put_block(1, "NULL", |group| group.site = 0), "todos");
    clock(put_block(1, "NULL", |group| group.site = 999), "todos");
    clock(put_block(1, "NULL", |group| group.anchor = i64::MAX - 5), "todos");
    clock(put_block(1, "NULL", |group| group.shown_dv = 1 << 41), "todos");
    // A dead row where tombstones are kept by key, and a key where there is none.
    clock(put_block(1, "NULL", |group| (group.cols, group.cv) = (ColSet::sentinel(), 2)), "todos");
    clock(put_block(1, "x'010901'", |_| {}), "todos");
    clock(put_block(3, "NULL", |_| {}), "pairs");
    // A key that is cut short kills the genuine cr-sqlite.
    clock(put_block(3, "x'020b'", |_| {}), "pairs");
    clock(put_block(3, "x'010901'", |_| {}), "pairs");
    let tombs = |cl: u64, dv: u64, site: u32, key: &[u8]| {
        let body = crate::tombs::encode(dv, &[(key.into(), crate::tombs::Tomb { cl, dv, seq: 0, site })]);
        format!("UPDATE opor_tombstone SET max_db_version = {dv}, body = x'{}'", hex(&body))
    };
    clock(tombs(3, 1, 1, &[1, 9, 1]), "todos");
    clock(tombs(u64::MAX - 1, 1, 1, &[1, 9, 1]), "todos");
    clock(tombs(2, 1 << 40, 1, &[1, 9, 1]), "todos");
    clock(tombs(2, 1, 0, &[1, 9, 1]), "todos");
    clock(tombs(2, 1, 1, &[1, 0x0b]), "todos");
    // A stamp from the year 2500 would win for ever.
    let future = |cv: u64| {
        let forged = forge(&put_block(1, "NULL", |group| group.cv = cv), as_it_is);
        assert!(matches!(forged, ImageError::Future(_)), "{forged:?}");
    };
    future((1 << 53) - 1);
    let forged = forge("UPDATE opor_meta SET hlc = -1", as_it_is);
    assert!(matches!(forged, ImageError::Future(_)), "{forged:?}");
}

/// New rows of whoever takes the image begin past these.
#[test]
fn forgotten_deletes_that_would_wedge_the_receiver_are_refused() {
    let create = "CREATE TABLE opor_horizon(id INTEGER PRIMARY KEY, db_version INTEGER NOT NULL);
        CREATE TABLE opor_cut(table_id INTEGER PRIMARY KEY, cl INTEGER NOT NULL); INSERT INTO opor_horizon VALUES (1, 0);";
    let epochs = "CREATE TABLE opor_epoch(id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL);";
    for cl in [0, 3, -2, i64::MAX, CausalLength::MAX.0.cast_signed(), CausalLength::MAX.0.cast_signed() + 1] {
        let forged = forge(&format!("{create} {epochs} INSERT INTO opor_cut VALUES (1, {cl})"), as_it_is);
        let expected = "what it has forgotten is out of range";
        assert!(matches!(forged, ImageError::Foreign(what) if what == expected), "{cl}: {forged:?}");
    }
    let forged = forge(create, as_it_is);
    assert!(matches!(forged, ImageError::Sqlite(_)), "{forged:?}");
}

/// What others have forgotten is taken over with the image.
#[test]
fn what_was_learnt_is_refused_where_it_cannot_be() {
    let create =
        "CREATE TABLE opor_learnt(site BLOB PRIMARY KEY, forgotten INTEGER, at INTEGER, source BLOB)";
    for (forgotten, at) in
        [("0", "1"), ("-1", "1"), ("1 << 62", "1"), ("1", "0"), ("1", "-1"), ("1", "1 << 40")]
    {
        let row = format!("INSERT INTO opor_learnt VALUES (randomblob(16), {forgotten}, {at}, NULL)");
        let forged = forge(&format!("{create}; {row}"), as_it_is);
        let expected = "what it has learnt is out of range";
        assert!(matches!(forged, ImageError::Foreign(what) if what == expected), "{row}: {forged:?}");
    }
    let many = "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 65536) \
        INSERT INTO opor_learnt SELECT randomblob(16), 1, 1, NULL FROM n";
    let forged = forge(&format!("{create}; {many}"), as_it_is);
    assert!(matches!(forged, ImageError::Foreign("what it has learnt is out of range")), "{forged:?}");
    for sites in ["randomblob(17), 1, 1, NULL", "NULL, 1, 1, NULL", "x'01', 1, 1, randomblob(40)"] {
        let forged = forge(&format!("{create}; INSERT INTO opor_learnt VALUES ({sites})"), as_it_is);
        assert!(matches!(forged, ImageError::Open(_) | ImageError::Sqlite(_)), "{sites}: {forged:?}");
    }
    let forged = forge("CREATE TABLE opor_learnt(site BLOB PRIMARY KEY)", as_it_is);
    assert!(matches!(forged, ImageError::Open(_) | ImageError::Sqlite(_)), "{forged:?}");
}

#[test]
fn a_frame_that_decompresses_to_more_than_a_chunk_is_refused() {
    let folder = folder();
    let snapshot = source().snapshot().expect("a snapshot");
    let mut receiver =
        SnapshotReceiver::begin(folder.file("part"), snapshot.manifest().clone()).expect("a partial file");
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("it compresses");
    assert!(bomb.len() < 8192, "{} bytes that would become 64 MiB", bomb.len());
    let outcome = receiver.put(0, &bomb);
    assert!(matches!(outcome, Err(RestoreError::ChunkDamaged { index: 0 })), "{outcome:?}");
    // A frame that declares a size it does not have.
    let mut lying = snapshot.chunk(0).expect("a chunk");
    lying[4..8].fill(0xff);
    assert!(receiver.put(0, &lying).is_err_and(|error| matches!(error, RestoreError::ChunkDamaged { .. })));
    assert_eq!(std::fs::metadata(folder.file("part")).expect("the file").len(), 0, "nothing was written");
}
