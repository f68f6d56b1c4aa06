//! Every way SQL can change a row is captured, with the clocks cr-sqlite would give; what is undone leaves no trace.

use opor_core::DbVersion;

use crate::replicas::{exec, full_dump, lines, log_lines, memory, pull, table};

const FOO: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c)";

/// Runs `sql` on a fresh table `foo` and compares the whole log; then a peer must end with the same rows.
#[track_caller]
fn check(schema: &str, sql: &str, expected: &[&str]) {
    let mut store = memory(0xa, schema, &["foo"]);
    exec(&store, sql);
    assert_eq!(log_lines(&store), expected, "{sql}");
    let mut peer = memory(0xb, schema, &["foo"]);
    pull(&mut peer, &store);
    assert_eq!(table(&peer, "foo"), table(&store, "foo"), "on a peer: {sql}");
    let before = full_dump(&store);
    assert_eq!(pull(&mut store, &peer).db_version, None, "the echo is no news");
    assert_eq!(full_dump(&store), before);
}

#[test]
fn inserts_in_every_form() {
    let row = ["foo 1 b=2 v1 @1 cl1", "foo 1 c=3 v1 @1 cl1"];
    check(FOO, "INSERT INTO foo VALUES (1, 2, 3)", &row);
    check(FOO, "INSERT INTO foo SELECT 1, 2, 3", &row);
    check(FOO, "REPLACE INTO foo VALUES (1, 2, 3)", &row);
    check(FOO, "INSERT INTO foo(c, a, b) VALUES (3, 1, 2) RETURNING *", &row);
    check(FOO, "WITH x(a, b, c) AS (VALUES (1, 2, 3)) INSERT INTO foo SELECT * FROM x", &row);
    check(FOO, "INSERT INTO foo DEFAULT VALUES", &["foo 1 b=NULL v1 @1 cl1", "foo 1 c=NULL v1 @1 cl1"]);
}

#[test]
fn replace_of_a_living_row_rewrites_every_column() {
    let expected = ["foo 1 b=2 v2 @2 cl1", "foo 1 c=4 v2 @2 cl1"];
    check(FOO, "INSERT INTO foo VALUES (1, 2, 3); REPLACE INTO foo VALUES (1, 2, 4)", &expected);
    let sql = "INSERT INTO foo VALUES (1, 2, 3), (2, 2, 3); BEGIN; REPLACE INTO foo VALUES (1, 2, 4); \
               REPLACE INTO foo VALUES (1, 5, 5); DELETE FROM foo WHERE a = 2; COMMIT";
    check(FOO, sql, &["foo 1 b=5 v3 @2 cl1", "foo 1 c=5 v3 @2 cl1", "foo 2 -1=NULL v2 @2 cl2"]);
}

#[test]
fn upsert_updates_only_what_changed() {
    let sql = "INSERT INTO foo VALUES (1, 2, 3); \
               INSERT INTO foo VALUES (1, 9, 3) ON CONFLICT DO UPDATE SET b = excluded.b, c = excluded.c";
    check(FOO, sql, &["foo 1 c=3 v1 @1 cl1", "foo 1 b=9 v2 @2 cl1"]);
    let sql = "INSERT INTO foo VALUES (1, 2, 3); INSERT INTO foo VALUES (1, 9, 9) ON CONFLICT DO NOTHING";
    check(FOO, sql, &["foo 1 b=2 v1 @1 cl1", "foo 1 c=3 v1 @1 cl1"]);
}

#[test]
fn a_delete_without_where_leaves_a_tombstone_for_each_row() {
    let sql = "INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3); DELETE FROM foo";
    let expected = ["foo 1 -1=NULL v2 @2 cl2", "foo 2 -1=NULL v2 @2 cl2", "foo 3 -1=NULL v2 @2 cl2"];
    check(FOO, sql, &expected);
}

#[test]
fn a_statement_prepared_before_the_table_was_replicated_is_captured() {
    let mut store = memory(0xa, FOO, &[]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1)");
    store.replicate("foo").expect("it replicates");
    exec(&store, "INSERT INTO foo VALUES (2, 2, 2)");
    {
        let mut delete = store.prepare("DELETE FROM foo").expect("a statement");
        assert_eq!(delete.execute([]), Ok(2));
        exec(&store, "INSERT INTO foo VALUES (3, 3, 3)");
        assert_eq!(delete.execute([]), Ok(1));
    }
    let tombstones = lines(&store, "SELECT pk FROM crsql_changes WHERE cl = 2 ORDER BY pk");
    assert_eq!(tombstones, ["x'010901'", "x'010902'", "x'010903'"]);
}

#[test]
fn updates_of_the_rowid_are_key_updates() {
    let sql = "INSERT INTO foo VALUES (1, 2, 3); UPDATE foo SET rowid = 7";
    let expected =
        ["foo 7 b=2 v1 @1 cl1", "foo 7 c=3 v1 @1 cl1", "foo 1 -1=NULL v2 @2 cl2", "foo 7 -1=NULL v1 @2 cl1"];
    check(FOO, sql, &expected);
}

#[test]
fn type_changes_are_changes() {
    let sql = "INSERT INTO foo VALUES (1, 1, '1'); UPDATE foo SET b = 1.0, c = x'31'";
    check(FOO, sql, &["foo 1 b=1.0 v2 @2 cl1", "foo 1 c=x'31' v2 @2 cl1"]);
}

#[test]
fn nested_savepoints_keep_what_is_kept() {
    let sql = "BEGIN; INSERT INTO foo VALUES (1, 1, 1); SAVEPOINT x; INSERT INTO foo VALUES (2, 2, 2); SAVEPOINT y; \
               UPDATE foo SET b = 9; DELETE FROM foo WHERE a = 1; ROLLBACK TO y; INSERT INTO foo VALUES (3, 3, 3); \
               RELEASE y; ROLLBACK TO x; UPDATE foo SET c = 5; RELEASE x; COMMIT";
    check(FOO, sql, &["foo 1 b=1 v1 @1 cl1", "foo 1 c=5 v2 @1 cl1"]);
}

#[test]
fn savepoints_through_the_transaction_type() {
    let mut store = memory(0xa, FOO, &["foo"]);
    let mut transaction = store.transaction().expect("a transaction");
    transaction.execute("INSERT INTO foo VALUES (1, 1, 1)", []).expect("an insert");
    {
        let savepoint = transaction.savepoint().expect("a savepoint");
        savepoint.execute("INSERT INTO foo VALUES (2, 2, 2)", []).expect("an insert");
        // Dropped without a commit: rolled back.
    }
    let mut kept = transaction.savepoint().expect("a savepoint");
    kept.execute("INSERT INTO foo VALUES (3, 3, 3)", []).expect("an insert");
    kept.savepoint().expect("a nested savepoint").execute("DELETE FROM foo", []).expect("a delete");
    kept.commit().expect("released");
    transaction.commit().expect("committed");
    let expected =
        ["foo 1 b=1 v1 @1 cl1", "foo 1 c=1 v1 @1 cl1", "foo 3 b=3 v1 @1 cl1", "foo 3 c=3 v1 @1 cl1"];
    assert_eq!(log_lines(&store), expected);
}

#[test]
fn rolled_back_work_leaves_no_trace() {
    let mut store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1)");
    let before = full_dump(&store);
    exec(&store, "BEGIN; DELETE FROM foo; INSERT INTO foo VALUES (2, 2, 2); UPDATE foo SET b = 3; ROLLBACK");
    assert_eq!(full_dump(&store), before);
    let transaction = store.transaction().expect("a transaction");
    transaction.execute("DELETE FROM foo", []).expect("a delete");
    drop(transaction);
    assert_eq!(full_dump(&store), before);
    exec(&store, "BEGIN; SAVEPOINT x; DELETE FROM foo; ROLLBACK TO x; COMMIT");
    assert_eq!(full_dump(&store), before, "a transaction that ends with nothing to say");
}

#[test]
fn a_statement_that_fails_half_way_leaves_no_trace() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (5, 5, 5)");
    let before = full_dump(&store);
    let fails = "INSERT INTO foo VALUES (3, 3, 3), (4, 4, 4), (5, 0, 0)";
    let error = opor_tests::run(&store, fails).expect_err("the key exists");
    assert_eq!(opor_tests::message(&error), "UNIQUE constraint failed: foo.a");
    assert_eq!(full_dump(&store), before);

    exec(&store, "BEGIN; INSERT INTO foo VALUES (1, 1, 1)");
    opor_tests::run(&store, fails).expect_err("the key exists");
    exec(&store, "COMMIT");
    let keys = lines(&store, "SELECT DISTINCT pk FROM crsql_changes ORDER BY pk");
    assert_eq!(keys, ["x'010901'", "x'010905'"], "only what was committed");

    exec(&store, "BEGIN; UPDATE foo SET b = 7");
    opor_tests::run(&store, &fails.replace("INSERT", "INSERT OR FAIL")).expect_err("the key exists");
    exec(&store, "COMMIT");
    assert_eq!(table(&store, "foo").len(), 4, "OR FAIL keeps the rows before the failure");
    assert_eq!(lines(&store, "SELECT count(DISTINCT pk) FROM crsql_changes"), ["4"]);

    let before = full_dump(&store);
    exec(&store, "BEGIN; UPDATE foo SET b = 8");
    opor_tests::run(&store, "INSERT OR ROLLBACK INTO foo VALUES (9, 9, 9), (5, 0, 0)")
        .expect_err("it exists");
    assert!(store.is_autocommit(), "OR ROLLBACK ends the transaction");
    assert_eq!(full_dump(&store), before);
}

#[test]
fn foreign_key_actions_are_captured() {
    let schema = "PRAGMA foreign_keys = on; CREATE TABLE lists(id INTEGER PRIMARY KEY NOT NULL, name); \
                  CREATE TABLE items(id INTEGER PRIMARY KEY NOT NULL, \
                  list INTEGER REFERENCES lists(id) ON DELETE CASCADE ON UPDATE SET NULL)";
    let mut store = memory(0xa, schema, &["lists", "items"]);
    let mut peer = memory(0xb, schema, &["lists", "items"]);
    exec(
        &store,
        "INSERT INTO lists VALUES (1, 'a'), (2, 'b'); INSERT INTO items VALUES (1, 1), (2, 1), (3, 2)",
    );
    pull(&mut peer, &store);
    exec(&store, "DELETE FROM lists WHERE id = 1");
    exec(&store, "UPDATE lists SET id = 7 WHERE id = 2");
    let dead = lines(&store, "SELECT \"table\", pk FROM crsql_changes WHERE cl = 2 ORDER BY 1, 2");
    assert_eq!(dead, ["items|x'010901'", "items|x'010902'", "lists|x'010901'", "lists|x'010902'"]);
    pull(&mut peer, &store);
    for name in ["lists", "items"] {
        assert_eq!(table(&peer, name), table(&store, name));
    }
    assert_eq!(lines(&peer, "SELECT * FROM items"), ["3|NULL"]);
    assert_eq!(pull(&mut store, &peer).db_version, None);
}

/// A child that arrives before its parent, or without it, is stored: merges do not enforce foreign keys.
#[test]
fn a_merge_may_bring_a_child_before_its_parent() {
    let schema = "PRAGMA foreign_keys = on; CREATE TABLE lists(id INTEGER PRIMARY KEY NOT NULL, name); \
                  CREATE TABLE items(id INTEGER PRIMARY KEY NOT NULL, list INTEGER REFERENCES lists(id))";
    let store = memory(0xa, schema, &["lists", "items"]);
    let mut peer = memory(0xb, schema, &["lists", "items"]);
    exec(&store, "INSERT INTO lists VALUES (1, 'a'); INSERT INTO items VALUES (1, 1)");
    let all = store.changes_since(DbVersion(0)).expect("the changes");
    let child: opor_core::Changeset = all.changes().filter(|change| &*change.table == "items").collect();
    peer.apply(&child).expect("the child applies alone");
    assert_eq!(lines(&peer, "SELECT * FROM items"), ["1|1"]);
    pull(&mut peer, &store);
    assert_eq!(lines(&peer, "PRAGMA foreign_key_check"), Vec::<String>::new());
    let refused = opor_tests::run(&peer, "INSERT INTO items VALUES (2, 99)");
    assert!(refused.is_err(), "local writes are still checked");
}

#[test]
fn what_user_triggers_write_is_captured() {
    let schema = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c); \
                  CREATE TABLE log(id INTEGER PRIMARY KEY NOT NULL, what); \
                  CREATE TRIGGER t1 AFTER INSERT ON foo BEGIN INSERT INTO log(what) VALUES ('new ' || new.a); END; \
                  CREATE TRIGGER t2 AFTER UPDATE OF b ON foo BEGIN UPDATE foo SET c = new.b * 10 WHERE a = new.a; END; \
                  CREATE TRIGGER t3 BEFORE DELETE ON foo BEGIN DELETE FROM log; END";
    let store = memory(0xa, schema, &["foo", "log"]);
    exec(&store, "INSERT INTO foo VALUES (1, 2, 3)");
    assert_eq!(lines(&store, "SELECT val FROM crsql_changes WHERE \"table\" = 'log'"), ["new 1"]);
    exec(&store, "UPDATE foo SET b = 5");
    assert_eq!(
        lines(&store, "SELECT cid, val FROM crsql_changes WHERE db_version = 2 ORDER BY cid"),
        ["b|5", "c|50"]
    );
    exec(&store, "DELETE FROM foo");
    let dead = lines(&store, "SELECT \"table\" FROM crsql_changes WHERE cl = 2 ORDER BY 1");
    assert_eq!(dead, ["foo", "log"]);
}

#[test]
fn tables_without_rowid_strict_tables_and_generated_columns() {
    let schema = "CREATE TABLE foo(k TEXT PRIMARY KEY NOT NULL, b, c) WITHOUT ROWID";
    let sql = "INSERT INTO foo VALUES ('x', 1, 1), ('y', 1, 1); UPDATE foo SET b = 2 WHERE k = 'x'; \
               DELETE FROM foo WHERE k = 'y'; REPLACE INTO foo VALUES ('x', 2, 3)";
    check(schema, sql, &["foo 'y' -1=NULL v2 @3 cl2", "foo 'x' b=2 v3 @4 cl1", "foo 'x' c=3 v2 @4 cl1"]);

    let schema = "CREATE TABLE foo(k INTEGER PRIMARY KEY NOT NULL, i INTEGER, r REAL, t TEXT) STRICT";
    let sql = "INSERT INTO foo VALUES (1, 1, 2, 't'); UPDATE foo SET r = 3";
    check(schema, sql, &["foo 1 i=1 v1 @1 cl1", "foo 1 t=t v1 @1 cl1", "foo 1 r=3.0 v2 @2 cl1"]);

    let schema = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, g AS (b + 1), b, s AS (b * 2) STORED)";
    let sql = "INSERT INTO foo(a, b) VALUES (1, 5); UPDATE foo SET b = 6";
    check(schema, sql, &["foo 1 b=6 v2 @2 cl1"]);
}

#[test]
fn last_insert_rowid_and_changes_are_the_applications_own() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (41, 1, 1)");
    assert_eq!(store.last_insert_rowid(), 41);
    assert_eq!(lines(&store, "SELECT last_insert_rowid(), changes(), total_changes()"), ["41|1|1"]);
    let changed = store.execute("UPDATE foo SET b = 2, c = 2", []).expect("an update");
    assert_eq!(changed, 1);
    assert_eq!(lines(&store, "SELECT last_insert_rowid(), changes()"), ["41|1"]);
}

#[test]
fn writes_to_temporary_and_attached_tables_of_the_same_name_are_not_replicated() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "ATTACH ':memory:' AS other; CREATE TABLE other.foo(a INTEGER PRIMARY KEY NOT NULL, b, c)");
    exec(&store, "INSERT INTO other.foo VALUES (1, 1, 1); UPDATE other.foo SET b = 2; DELETE FROM other.foo");
    assert_eq!(log_lines(&store), Vec::<String>::new());
    exec(
        &store,
        "CREATE TEMP TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c); INSERT INTO temp.foo VALUES (9, 9, 9)",
    );
    exec(&store, "INSERT INTO main.foo VALUES (2, 2, 2)");
    assert_eq!(log_lines(&store), ["foo 2 b=2 v1 @1 cl1", "foo 2 c=2 v1 @1 cl1"]);
}
