//! What ours does where a golden recording shows a fault of cr-sqlite.

use opor_core::DbVersion;
use opor_store::{Cursor, Store};
use opor_tests::{ChangeRow, apply_row, changes_since};

use crate::replicas::{exec, lines, log, log_lines, memory, pull, site, table};

const FOO: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c)";

/// Pulls by SQL what is newer than `since`, as a cr-sqlite client does.
#[track_caller]
fn pull_by_sql(target: &Store, source: &Store, since: i64) {
    let rows = changes_since(source, &format!("db_version > {since}")).expect("the change log reads");
    exec(target, "BEGIN");
    rows.iter().for_each(|row| apply_row(target, row).expect("an honest change applies"));
    exec(target, "COMMIT");
}

#[test]
fn values_that_moved_to_a_new_key_reach_a_peer_that_pulls_deltas() {
    let source = memory(0xa, FOO, &["foo"]);
    let mut typed = memory(0xb, FOO, &["foo"]);
    let by_sql = memory(0xc, FOO, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES (1, 2, 3)");
    let first = source.changes(&Cursor::start(), 1000).expect("a batch");
    assert!(first.done);
    typed.apply(&first.changeset).expect("it applies");
    pull_by_sql(&by_sql, &source, 0);

    exec(&source, "UPDATE foo SET a = 2");
    let second = source.changes(&first.cursor, 1000).expect("a batch");
    typed.apply(&second.changeset).expect("it applies");
    pull_by_sql(&by_sql, &source, 1);

    assert_eq!(lines(&source, "SELECT * FROM foo"), ["2|2|3"]);
    assert_eq!(table(&typed, "foo"), table(&source, "foo"), "through cursors");
    assert_eq!(table(&by_sql, "foo"), table(&source, "foo"), "through crsql_changes");
}

#[test]
fn an_update_that_changes_nothing_takes_no_version() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 2, 3)");
    exec(&store, "UPDATE foo SET b = b");
    assert_eq!(lines(&store, "SELECT crsql_db_version()"), ["1"]);
    exec(&store, "UPDATE foo SET b = 7");
    assert_eq!(log_lines(&store), ["foo 1 c=3 v1 @1 cl1", "foo 1 b=7 v2 @2 cl1"]);
    assert_eq!(store.db_version().expect("a version"), DbVersion(2));
}

#[test]
fn a_row_deleted_inside_an_alter_is_deleted_on_peers() {
    let source = memory(0xa, FOO, &["foo"]);
    let mut peer = memory(0xb, FOO, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES (1, 2, 2), (2, 2, 2)");
    pull(&mut peer, &source);
    exec(
        &source,
        "SELECT crsql_begin_alter('foo'); DELETE FROM foo WHERE a = 2; SELECT crsql_commit_alter('foo')",
    );
    pull(&mut peer, &source);
    assert_eq!(lines(&peer, "SELECT a FROM foo"), ["1"]);
    let tombstone = log(&source).into_iter().find(|row| row.is_sentinel()).expect("a tombstone");
    assert_eq!((tombstone.cl, tombstone.col_version), (2, 2));
}

#[test]
fn what_is_written_inside_an_alter_reaches_peers() {
    for value in [7, 1] {
        let mut source = memory(0xa, FOO, &["foo"]);
        let mut peer = memory(0xb, FOO, &["foo"]);
        exec(&source, "INSERT INTO foo VALUES (1, 2, 2)");
        pull(&mut peer, &source);
        exec(
            &source,
            &format!(
                "SELECT crsql_begin_alter('foo'); UPDATE foo SET b = {value}; INSERT INTO foo VALUES (2, 2, 2); \
                 SELECT crsql_commit_alter('foo')"
            ),
        );
        pull(&mut peer, &source);
        pull(&mut source, &peer);
        let expected = [format!("1|{value}|2"), "2|2|2".to_owned()];
        assert_eq!(lines(&peer, "SELECT * FROM foo ORDER BY a"), expected);
        assert_eq!(lines(&source, "SELECT * FROM foo ORDER BY a"), expected, "and the writer keeps it");
    }
}

#[test]
fn a_plain_alter_table_is_tracked() {
    let source = memory(0xa, FOO, &["foo"]);
    let mut peer = memory(0xb, FOO, &["foo"]);
    for store in [&source, &peer] {
        exec(store, "ALTER TABLE foo ADD COLUMN d");
    }
    exec(&source, "INSERT INTO foo VALUES (1, 2, 3, 4)");
    exec(&source, "UPDATE foo SET d = 5");
    exec(&source, "UPDATE foo SET b = 6");
    let expected = ["foo 1 c=3 v1 @1 cl1", "foo 1 d=5 v2 @2 cl1", "foo 1 b=6 v2 @3 cl1"];
    assert_eq!(log_lines(&source), expected);
    pull(&mut peer, &source);
    assert_eq!(lines(&peer, "SELECT * FROM foo"), ["1|6|3|5"]);
}

#[test]
fn a_second_delivery_of_a_value_that_affinity_changed_is_a_no_op() {
    let schema = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, t TEXT, i INTEGER)";
    let store = memory(0xb, schema, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 'a', 12)");
    let change = ChangeRow {
        table: "foo".to_owned(),
        pk: vec![1, 9, 1],
        cid: "t".to_owned(),
        val: 5.into(),
        col_version: 2,
        db_version: 1,
        site_id: Some(site(0xa).as_bytes().to_vec()),
        cl: 1,
        seq: 0,
    };
    apply_row(&store, &change).expect("it applies");
    let after_first = (log(&store), store.db_version().expect("a version"));
    assert_eq!(lines(&store, "SELECT t FROM foo"), ["5"]);
    apply_row(&store, &change).expect("it applies again");
    assert_eq!((log(&store), store.db_version().expect("a version")), after_first);
}

/// A key that collates equal to one that is there but is spelt otherwise replaces it: the old spelling is deleted, the
/// new one lives, and peers end with the same row.
#[test]
fn a_row_has_one_identity_under_a_nocase_key() {
    let schema = "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, b)";
    let source = memory(0xa, schema, &["foo"]);
    let mut peer = memory(0xb, schema, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES ('x', 1)");
    pull(&mut peer, &source);
    exec(&source, "INSERT OR REPLACE INTO foo VALUES ('X', 2)");
    pull(&mut peer, &source);
    for store in [&source, &peer] {
        assert_eq!(lines(store, "SELECT * FROM foo"), ["X|2"]);
        let mut living: Vec<_> =
            log(store).into_iter().filter(|row| row.cl % 2 == 1).map(|row| row.pk).collect();
        living.dedup();
        assert_eq!(living, [b"\x01\x0b\x01X".to_vec()], "one identity lives");
    }
}
