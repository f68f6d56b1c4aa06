//! Tables come and go and change their shape; the clocks go with them.

use opor_core::DbVersion;
use opor_tests::{message, run};

use crate::replicas::{Folder, exec, file, lines, log_lines, memory, pull, reopen, table};

const FOO: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b)";

#[test]
fn a_dropped_table_leaves_the_rest_working() {
    let store =
        memory(0xa, &format!("{FOO}; CREATE TABLE bar(a INTEGER PRIMARY KEY NOT NULL, b)"), &["foo", "bar"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1); INSERT INTO bar VALUES (1, 1)");
    exec(&store, "DROP TABLE foo");
    assert_eq!(log_lines(&store), ["bar 1 b=1 v1 @2 cl1"]);
    assert_eq!(store.replicated_tables().expect("the list"), ["bar"]);
    exec(&store, "INSERT INTO bar VALUES (2, 2)");
    assert_eq!(store.db_version().expect("a version"), DbVersion(3), "versions go on");
    assert_eq!(store.changes_since(DbVersion(0)).expect("the changes").len(), 2);
}

#[test]
fn a_table_made_again_under_an_old_name_starts_afresh() {
    let mut store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 'old'); DELETE FROM foo; INSERT INTO foo VALUES (2, 'old')");
    exec(&store, "DROP TABLE foo; CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, z)");
    exec(&store, "INSERT INTO foo VALUES ('x', 'plain')");
    assert_eq!(log_lines(&store), Vec::<String>::new(), "it does not replicate until asked to");
    store.replicate("foo").expect("it replicates");
    let values = lines(&store, "SELECT cid, val, col_version, cl FROM crsql_changes");
    assert_eq!(values, ["z|plain|1|1"]);
    assert!(store.db_version().expect("a version") > DbVersion(3), "versions never go back");
}

#[test]
fn a_rolled_back_drop_changes_nothing() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1)");
    let before = log_lines(&store);
    exec(&store, "BEGIN; DROP TABLE foo; ROLLBACK");
    assert_eq!(log_lines(&store), before);
    exec(&store, "UPDATE foo SET b = 2");
    assert_eq!(log_lines(&store), ["foo 1 b=2 v2 @2 cl1"]);
}

#[test]
fn an_added_column_says_nothing_about_rows_at_the_default() {
    for alter in [
        "ALTER TABLE foo ADD COLUMN c DEFAULT 5",
        "SELECT crsql_begin_alter('foo'); \
                   ALTER TABLE foo ADD COLUMN c DEFAULT 5; SELECT crsql_commit_alter('foo')",
    ] {
        let store = memory(0xa, FOO, &["foo"]);
        exec(&store, "INSERT INTO foo VALUES (1, 1), (2, 2)");
        exec(&store, alter);
        assert_eq!(log_lines(&store), ["foo 1 b=1 v1 @1 cl1", "foo 2 b=2 v1 @1 cl1"], "{alter}");
        exec(&store, "UPDATE foo SET c = 6 WHERE a = 1; INSERT INTO foo(a, b) VALUES (3, 3)");
        let added =
            lines(&store, "SELECT pk, val, col_version FROM crsql_changes WHERE cid = 'c' ORDER BY pk");
        assert_eq!(added, ["x'010901'|6|1", "x'010903'|5|1"], "{alter}");
        let mut peer = memory(0xb, FOO, &["foo"]);
        exec(&peer, "ALTER TABLE foo ADD COLUMN c DEFAULT 5");
        pull(&mut peer, &store);
        assert_eq!(table(&peer, "foo"), table(&store, "foo"), "{alter}");
    }
}

#[test]
fn a_dropped_column_takes_its_clocks() {
    let schema = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c, d)";
    {
        let store = memory(0xa, schema, &["foo"]);
        exec(&store, "INSERT INTO foo VALUES (1, 'b', 'c', 'd'); UPDATE foo SET d = 'e'");
        let alter = "ALTER TABLE foo DROP COLUMN b";
        let sql = format!("SELECT crsql_begin_alter('foo'); {alter}; SELECT crsql_commit_alter('foo')");
        // Without the two calls the guard stands in the way, and nothing happens.
        let refused = opor_tests::run(&store, alter).expect_err("the guard covers the column").to_string();
        assert!(refused.contains("opor_guard"), "{refused}");
        exec(&store, &sql);
        assert_eq!(
            log_lines(&store),
            ["foo 1 c=c v1 @1 cl1", "foo 1 d=e v2 @2 cl1"],
            "values stay with their columns"
        );
        exec(&store, "UPDATE foo SET c = 'x'");
        assert_eq!(log_lines(&store), ["foo 1 d=e v2 @2 cl1", "foo 1 c=x v2 @3 cl1"]);
    }
}

#[test]
fn a_renamed_table_and_column_keep_replicating() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1); ALTER TABLE foo RENAME COLUMN b TO c");
    exec(&store, "UPDATE foo SET c = 2; INSERT INTO foo VALUES (2, 2)");
    assert_eq!(
        lines(&store, "SELECT pk, cid, val FROM crsql_changes ORDER BY pk"),
        ["x'010901'|c|2", "x'010902'|c|2"]
    );
    exec(&store, "ALTER TABLE foo RENAME TO bar; UPDATE bar SET c = 3 WHERE a = 1");
    let rows = lines(&store, "SELECT DISTINCT \"table\", cid FROM crsql_changes");
    assert_eq!(rows, ["bar|c"]);
    let mut peer = memory(0xb, "CREATE TABLE bar(a INTEGER PRIMARY KEY NOT NULL, c)", &["bar"]);
    pull(&mut peer, &store);
    assert_eq!(table(&peer, "bar"), table(&store, "bar"));
}

#[test]
fn a_populated_table_is_upgraded_in_one_version() {
    let mut store = memory(0xa, FOO, &[]);
    exec(&store, "INSERT INTO foo VALUES (1, 'x'), (2, NULL), (3, 'z')");
    store.replicate("foo").expect("it replicates");
    store.replicate("foo").expect("asking again is no error");
    let expected = ["foo 1 b=x v1 @1 cl1", "foo 2 b=NULL v1 @1 cl1", "foo 3 b=z v1 @1 cl1"];
    assert_eq!(log_lines(&store), expected);
    store.unreplicate("foo").expect("it is a plain table again");
    assert_eq!(log_lines(&store), Vec::<String>::new());
    assert_eq!(table(&store, "foo").len(), 3, "its rows stay");
    exec(&store, "INSERT INTO foo VALUES (4, 'plain')");
    assert_eq!(log_lines(&store), Vec::<String>::new());
}

#[test]
fn tables_that_cannot_replicate_are_refused_by_name() {
    let mut store = memory(
        0xa,
        "CREATE TABLE nokey(a, b); CREATE TABLE nullable(a TEXT PRIMARY KEY, b); CREATE VIEW v AS SELECT 1; \
         CREATE TABLE \"odd \"\" name;\"(a INTEGER PRIMARY KEY NOT NULL, \"b\"\"\")",
        &[],
    );
    for name in
        ["nokey", "nullable", "v", "missing", "sqlite_schema", "crsql_changes", "foo; DROP TABLE nokey"]
    {
        let error = store.replicate(name).expect_err("it cannot replicate");
        assert!(error.to_string().contains(name), "{error} names {name}");
    }
    assert_eq!(store.replicated_tables().expect("the list"), Vec::<String>::new());
    store.replicate("odd \" name;").expect("any name SQLite allows");
    exec(&store, "INSERT INTO \"odd \"\" name;\" VALUES (1, 2)");
    assert_eq!(log_lines(&store), ["odd \" name; 1 b\"=2 v1 @1 cl1"]);
}

#[test]
fn a_refused_upgrade_keeps_the_transaction_it_was_in() {
    let store = memory(0xa, &format!("{FOO}; CREATE TABLE nokey(a, b)"), &["foo"]);
    exec(&store, "BEGIN; INSERT INTO foo VALUES (1, 1)");
    let error = run(&store, "SELECT crsql_as_crr('nokey')").expect_err("it has no key");
    assert!(message(&error).starts_with("Table nokey has no primary key"), "{error}");
    exec(&store, "COMMIT");
    assert_eq!(log_lines(&store), ["foo 1 b=1 v1 @1 cl1"]);
}

#[test]
fn other_connections_follow_a_schema_change() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let one = file(&path, 0xa, FOO, &["foo"]);
    let two = reopen(&path, 0xa);
    exec(&two, "INSERT INTO foo VALUES (1, 1)");
    exec(&one, "ALTER TABLE foo ADD COLUMN c");
    exec(&two, "INSERT INTO foo(a, b, c) VALUES (2, 2, 3)");
    exec(
        &one,
        "SELECT crsql_begin_alter('foo'); ALTER TABLE foo DROP COLUMN b; SELECT crsql_commit_alter('foo')",
    );
    exec(&two, "UPDATE foo SET c = 4 WHERE a = 1");
    let rows = lines(&one, "SELECT pk, cid, val FROM crsql_changes ORDER BY pk");
    assert_eq!(rows, ["x'010901'|c|4", "x'010902'|c|3"]);
    assert_eq!(log_lines(&two), log_lines(&one));
    exec(&one, "DROP TABLE foo");
    assert_eq!(log_lines(&two), Vec::<String>::new());
}

/// The genuine one breaks at 500: it reads the change log through one union of all tables.
#[test]
fn hundreds_of_tables() {
    let store = memory(0xa, "BEGIN", &[]);
    for n in 0..501 {
        exec(&store, &format!("CREATE TABLE t{n}(a INTEGER PRIMARY KEY NOT NULL, b)"));
        exec(&store, &format!("SELECT crsql_as_crr('t{n}')"));
    }
    exec(&store, "COMMIT; INSERT INTO t0 VALUES (1, 'first'); INSERT INTO t500 VALUES (1, 'last')");
    assert_eq!(log_lines(&store), ["t0 1 b=first v1 @1 cl1", "t500 1 b=last v1 @2 cl1"]);
}
