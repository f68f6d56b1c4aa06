//! Images that pass every check, and still lie: what of them could be taken over as it is? Each is merged into an empty
//! replica, and into one that merges row by row. Both must end alike, or the first must refuse; nothing of it may harm.

use opor_core::{DbVersion, SiteId};
use rusqlite::Connection;

use super::tests::{folder, hex, manifest_of, put_block, send};
use super::*;
use crate::ClockPolicy;
use crate::block::{Block, CellClock, Group};
use crate::colset::ColSet;
use crate::tombs::{Tomb, encode};

const SCHEMA: &str = "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done);
    CREATE INDEX todos_title ON todos(title);
    CREATE TABLE counts(id INTEGER PRIMARY KEY NOT NULL, n INTEGER);
    CREATE TABLE pairs(a, b, c, PRIMARY KEY(a, b)) WITHOUT ROWID";

fn replica(byte: u8, policy: ClockPolicy) -> Store {
    let options = OpenOptions::new().site_id(SiteId::from([byte; 16])).clock(policy);
    let mut store = options.open_in_memory().expect("a store");
    store.execute_batch(SCHEMA).expect("tables");
    ["todos", "counts", "pairs"].iter().for_each(|table| store.replicate(table).expect("it replicates"));
    store
}

fn sender(policy: ClockPolicy) -> Store {
    let store = replica(0xa, policy);
    store
        .execute_batch(
            "INSERT INTO todos VALUES ('gap', 0, 0), ('a', 1, 0), ('b', 2, 0), ('c', 3, 1);
             INSERT INTO counts VALUES (1, 1), (2, 2), (40, 40); INSERT INTO pairs VALUES (1, 1, 1);
             DELETE FROM todos WHERE id = 'gap'; DELETE FROM counts WHERE id = 2",
        )
        .expect("rows");
    store
}

fn rows(store: &Store, sql: &str) -> Vec<String> {
    let mut stmt = store.prepare(sql).expect("sound SQL");
    let columns = stmt.column_count();
    let read = |row: &rusqlite::Row<'_>| {
        let values: Result<Vec<_>, _> =
            (0..columns).map(|i| row.get::<_, rusqlite::types::Value>(i)).collect();
        Ok(format!("{:?}", values?))
    };
    stmt.query_map([], read).expect("it runs").map(|row| row.expect("a row")).collect()
}

/// Tables and the whole log.
fn content(store: &Store) -> Vec<String> {
    let mut all = rows(store, "SELECT id, title, done FROM todos ORDER BY id");
    all.extend(rows(store, "SELECT id, n, typeof(n) FROM counts ORDER BY id"));
    all.extend(rows(store, "SELECT a, b, c FROM pairs ORDER BY a, b"));
    let mut log = rows(
        store,
        "SELECT \"table\", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes",
    );
    log.sort();
    all.extend(log);
    all
}

/// Merges an image into a new replica, which must be sound then, or as before; `None`: it was refused.
#[track_caller]
fn merge(image: &SnapshotImage, slow: bool) -> (Result<Vec<String>, RestoreError>, Vec<String>) {
    let mut store = replica(0xb, ClockPolicy::Hlc);
    if slow {
        for table in ["todos", "counts", "pairs"] {
            let sql =
                format!("CREATE TRIGGER slow_{table} AFTER INSERT ON {table} WHEN 0 BEGIN SELECT 1; END");
            store.execute_batch(&sql).expect("a trigger");
        }
    }
    let merged = store.merge_snapshot(image);
    assert_eq!(rows(&store, "PRAGMA integrity_check"), ["[Text(\"ok\")]"]);
    assert_eq!(
        rows(&store, "SELECT name FROM pragma_database_list WHERE name <> 'temp'"),
        ["[Text(\"main\")]"],
        "it is let go of"
    );
    let rowids = rows(&store, "SELECT rowid FROM todos ORDER BY rowid");
    match merged {
        Ok(_) => {
            let content = content(&store);
            // Everything can be told to others, and written to.
            let mut other = replica(0xc, ClockPolicy::Hlc);
            other.apply(&store.changes_since(DbVersion(0)).expect("the log reads")).expect("it applies");
            store
                .execute_batch("UPDATE todos SET title = 9; UPDATE counts SET n = 9; DELETE FROM todos")
                .expect("writes");
            (Ok(content), rowids)
        }
        Err(error) => {
            assert_eq!(content(&store), [""; 0], "nothing is stored");
            assert_eq!(store.peer_cursor(SiteId::from([0xa; 16])).expect("read"), None);
            (Err(error), rowids)
        }
    }
}

/// Has an image merged, whatever comes of it.
pub(super) fn take(image: &SnapshotImage) {
    let mut store = super::tests::receiver();
    let merged = store.merge_snapshot(image);
    assert_eq!(rows(&store, "PRAGMA integrity_check"), ["[Text(\"ok\")]"], "{merged:?}");
    if merged.is_err() {
        assert_eq!(rows(&store, "SELECT 1 FROM crsql_changes"), [""; 0], "nothing is stored");
    }
    store.execute_batch("UPDATE todos SET title = 9; UPDATE counts SET n = 9").expect("it goes on");
}

/// What becomes of an image that SQL has changed.
#[track_caller]
fn forge(policy: ClockPolicy, sql: &str) -> SnapshotImage {
    let folder = folder();
    let snapshot = sender(policy).snapshot().expect("a snapshot");
    let forged = folder.file("forged");
    std::fs::copy(snapshot.image.path(), &forged).expect("a copy");
    let conn = Connection::open(&forged).expect("a database");
    conn.create_collation("opor_guard", |a, b| a.cmp(b)).expect("a collation");
    conn.execute_batch("PRAGMA writable_schema = ON").expect("allowed");
    conn.execute_batch(sql).expect("forged");
    conn.close().expect("closed");
    let bytes = std::fs::read(&forged).expect("the image");
    let path = folder.file("target.db");
    let image = send(&bytes, snapshot.manifest(), &path).unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    assert_eq!(manifest_of(&bytes, snapshot.manifest()), image.manifest);
    // It is merged after the folder is gone, so it goes where nobody removes it before.
    let kept = tempfile::NamedTempFile::new().expect("a file").into_temp_path().keep().expect("kept");
    std::fs::rename(&image.path, &kept).expect("moved");
    SnapshotImage { path: kept, manifest: image.manifest }
}

/// Gives the pages of tables, or indexes, to others; what they had goes with the table `lie`.
fn swap(pairs: &[(&str, &str)]) -> String {
    let give = |to: &str, of: &str| {
        let root = format!("(SELECT rootpage FROM roots WHERE name = '{of}')");
        format!("UPDATE main.sqlite_schema SET rootpage = {root} WHERE name = '{to}';")
    };
    let swaps: String = pairs.iter().map(|(one, other)| give(one, other) + &give(other, one)).collect();
    format!(
        "CREATE TEMP TABLE roots AS SELECT name, rootpage FROM main.sqlite_schema; {swaps} \
         PRAGMA writable_schema = RESET; DROP TABLE lie"
    )
}

/// Both ways end alike; whether the tables `todos` were moved whole.
#[track_caller]
fn alike(sql: &str) -> bool {
    let image = forge(ClockPolicy::Hlc, sql);
    let ((fast, rowids), (slow, _)) = (merge(&image, false), merge(&image, true));
    image.discard().expect("the file goes");
    assert_eq!(fast.expect("it merges"), slow.expect("it merges"), "{sql}");
    rowids.first().is_some_and(|first| first == "[Integer(2)]")
}

/// Groups as a block that stands in a clock table.
fn put_groups(table: u32, number: i64, groups: Vec<Group>) -> String {
    let block = Block { max_dv: groups.iter().map(|group| group.dv).max().unwrap_or(0), groups };
    let mut bytes = Vec::new();
    block.encode(&mut bytes);
    let (dv, bytes) = (block.max_dv, hex(&bytes));
    format!("INSERT OR REPLACE INTO opor_clock_{table} VALUES ({number}, {dv}, x'{bytes}', NULL)")
}

fn group(row: u32, cols: ColSet, cv: u64) -> Group {
    Group::of_row(row, cols, CellClock { cv, dv: 1, shown_dv: 1, seq: 0, site: 1 })
}

#[test]
fn an_honest_image_is_taken_over_as_it_is() {
    assert!(alike("SELECT 1"), "the rowids are the sender's");
}

#[test]
fn rows_and_clocks_that_do_not_belong_together_are_merged_one_by_one() {
    for sql in [
        // A clock without a row, rows without a clock: inside a block, before all, after all.
        "DELETE FROM todos WHERE id = 'b'; DELETE FROM counts WHERE id = 40",
        "DELETE FROM todos; DELETE FROM counts",
        "INSERT INTO todos VALUES ('ghost', 1, 1); INSERT INTO counts VALUES (41, 1)",
        "INSERT INTO todos(rowid, id) VALUES (-7, 'ghost'); INSERT INTO counts VALUES (-7, 1)",
        "INSERT INTO todos(rowid, id) VALUES (9223372036854775807, 'ghost'); INSERT INTO counts VALUES (9223372036854775807, 1)",
        "INSERT INTO todos(rowid, id) VALUES (1, 'ghost'); INSERT INTO counts VALUES (2, 1)",
        "DELETE FROM opor_clock_1; DELETE FROM opor_clock_2",
        // Clocks of some cells, while the others have values.
        &format!("{}; {}", put_block(1, "NULL", |_| {}), put_groups(2, 0, vec![group(1, ColSet::one(1), 0)])),
        // A clock under no version, which no walk over the log tells of.
        &put_block(1, "NULL", |group| (group.dv, group.shown_dv) = (0, 0)),
        // Columns that are not there.
        &put_block(1, "NULL", |group| group.cols.insert(9)),
    ] {
        assert!(!alike(sql), "{sql}");
    }
}

#[test]
fn groups_that_contradict_each_other_are_merged_one_by_one() {
    let sentinel = |row, cl| group(row, ColSet::sentinel(), cl);
    let value = |row| group(row, ColSet::one(1), 1);
    for groups in [
        vec![value(1), sentinel(1, 2)],
        vec![sentinel(1, 2), value(1)],
        vec![sentinel(1, 2), sentinel(1, 3), value(1)],
        vec![value(1), sentinel(1, 3), sentinel(1, 2)],
    ] {
        // With the row, and without.
        for and in ["SELECT 1", "DELETE FROM counts WHERE id = 1"] {
            // The merge row by row refuses some of them: then the other does.
            let image = forge(ClockPolicy::Hlc, &format!("{}; {and}", put_groups(2, 0, groups.clone())));
            let ((fast, _), (slow, _)) = (merge(&image, false), merge(&image, true));
            image.discard().expect("the file goes");
            let told =
                |outcome: Result<Vec<String>, RestoreError>| outcome.map_err(|error| format!("{error:?}"));
            assert_eq!(told(fast), told(slow), "{groups:?}, {and}");
        }
    }
    // Rows that no rowid stands for.
    let image = forge(ClockPolicy::Hlc, &put_groups(2, 1 << 60, vec![sentinel(1, 2)]));
    let ((fast, _), (slow, _)) = (merge(&image, false), merge(&image, true));
    image.discard().expect("the file goes");
    assert_eq!(fast.expect("it merges"), slow.expect("it merges"));
}

#[test]
fn indexes_that_lie_are_built_anew() {
    let guard = "(('' COLLATE opor_guard IS \"id\" IS \"title\" IS \"done\"))";
    for sql in [
        "DROP INDEX todos_title; CREATE INDEX todos_title ON todos(done);
         UPDATE sqlite_schema SET sql = 'CREATE INDEX todos_title ON todos(title)' WHERE name = 'todos_title'",
        &format!(
            "DROP INDEX opor_guard_1; CREATE INDEX opor_guard_1 ON \"todos\"{guard} WHERE 1;
             UPDATE sqlite_schema SET sql = replace(sql, ' WHERE 1', ' WHERE 0') WHERE name = 'opor_guard_1'"
        ),
        // The index of the key is another table's.
        &format!(
            "CREATE TABLE lie(id TEXT PRIMARY KEY, x); INSERT INTO lie VALUES ('a', 1), ('z', 1), ('y', 1); {}",
            swap(&[("sqlite_autoindex_todos_1", "sqlite_autoindex_lie_1")]),
        ),
    ] {
        assert!(alike(sql), "{sql}");
    }
}

/// An index that is not what the rows say hides it from everybody who does not look.
#[test]
fn two_rows_of_one_key_are_refused() {
    let lie = "CREATE TABLE lie(id TEXT NOT NULL, title, done); CREATE INDEX lie_id ON lie(id);
               INSERT INTO lie(rowid, id, title, done) VALUES (2, 'a', 1, 0), (3, 'a', 2, 0), (4, 'c', 3, 1)";
    // The index says otherwise, or the same.
    for pairs in [&[("todos", "lie")][..], &[("todos", "lie"), ("sqlite_autoindex_todos_1", "lie_id")]] {
        let image = forge(ClockPolicy::Hlc, &format!("{lie}; {}", swap(pairs)));
        let (outcome, _) = merge(&image, false);
        match outcome {
            Err(RestoreError::Image { source, path }) => {
                assert!(
                    matches!(&*source, ImageError::Unsound(what) if what.contains("UNIQUE")),
                    "{source:?}"
                );
                assert_eq!(path, image.path);
            }
            other => panic!("{other:?}"),
        }
        image.discard().expect("the file goes");
    }
}

#[test]
fn values_that_a_merge_would_not_store_as_they_are_are_merged_one_by_one() {
    assert!(!alike("UPDATE todos SET title = CAST(x'ff' AS TEXT) WHERE id = 'a'"), "it is merged as a blob");
    // A real where the column makes an integer of it.
    alike(&format!(
        "CREATE TABLE lie(id INTEGER PRIMARY KEY NOT NULL, n); INSERT INTO lie VALUES (1, 1.0), (40, 40); {}",
        swap(&[("counts", "lie")]),
    ));
    // A key that cannot travel fails the merge, whichever way it goes.
    let image = forge(ClockPolicy::Hlc, "UPDATE todos SET id = CAST(x'ff' AS TEXT) WHERE id = 'a'");
    for slow in [false, true] {
        let (outcome, _) = merge(&image, slow);
        assert!(matches!(outcome, Err(RestoreError::Read(_))), "{outcome:?}");
    }
    image.discard().expect("the file goes");
}

#[test]
fn a_tombstone_of_a_row_that_is_there_deletes_it() {
    let key = opor_core::PackedKey::pack(&["a".into()]);
    let tomb = |cl| {
        let tomb = Tomb { cl, dv: 1, seq: 0, site: 1 };
        let body = encode(1, &[(crate::tombs::compact(key.as_bytes()), tomb)]);
        format!("UPDATE opor_tombstone SET max_db_version = 1, body = x'{}'", hex(&body))
    };
    assert!(!alike(&format!("{}; SELECT 1", tomb(2))), "the first row has gone");
}

/// Counts of edits are no stamps, and nobody looks whether they are from the future before they meet a hybrid clock.
#[test]
fn stamps_from_the_future_are_refused_by_the_one_who_has_a_clock() {
    let image = forge(ClockPolicy::Lamport, &put_groups(2, 1, vec![group(8, ColSet::one(1), (1 << 53) - 1)]));
    for slow in [false, true] {
        match merge(&image, slow).0 {
            Err(RestoreError::Apply(error)) => {
                assert!(matches!(*error, crate::ApplyError::Invalid(_)), "{error:?}")
            }
            other => panic!("{other:?}"),
        }
    }
    image.discard().expect("the file goes");
}
