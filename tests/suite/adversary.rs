//! Attempts to lose a clock, a row or a value.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opor_core::{Changeset, DbVersion, WallMillis};
use opor_store::{ApplyOptions, ClockPolicy, Cursor, OpenOptions, Store};
use opor_tests::{Rng, run};

use crate::replicas::{
    Folder, exec, file, full_dump, lines, log, log_lines, memory, pull, reopen, site, table,
};

const FOO: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c)";
const TWO: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c); \
                   CREATE TABLE bar(a INTEGER PRIMARY KEY NOT NULL, b, c)";

/// A store with hybrid clocks whose wall clock the test moves.
fn hybrid(byte: u8, schema: &str, tables: &[&str]) -> (Store, Arc<AtomicU64>) {
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let clock = wall.clone();
    let options = OpenOptions::new()
        .clock(ClockPolicy::Hlc)
        .site_id(site(byte))
        .wall_clock(Arc::new(move || WallMillis(clock.load(Ordering::Relaxed))));
    let mut store = options.open_in_memory().expect("a store in memory");
    exec(&store, schema);
    tables.iter().for_each(|table| store.replicate(table).expect("it replicates"));
    (store, wall)
}

/// A peer made now gets what is here, and has nothing to say back.
#[track_caller]
fn assert_whole(store: &mut Store, schema: &str, names: &[&str]) {
    let mut peer = memory(0xe, schema, names);
    pull(&mut peer, store);
    for name in names {
        assert_eq!(table(&peer, name), table(store, name), "{:#?}", log_lines(store));
    }
    assert_eq!(pull(store, &peer).db_version, None, "the echo is no news");
}

// --- capture -------------------------------------------------------------------------------------------------------

#[test]
fn a03_an_update_after_a_column_was_renamed_reaches_peers_that_pull_deltas() {
    let source = memory(0xa, FOO, &["foo"]);
    let mut peer = memory(0xb, FOO, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2)");
    let first = source.changes(&Cursor::start(), 1000).expect("a batch");
    peer.apply(&first.changeset).expect("it applies");
    exec(&source, "ALTER TABLE foo RENAME COLUMN b TO d");
    exec(&peer, "ALTER TABLE foo RENAME COLUMN b TO d");
    exec(&source, "UPDATE foo SET d = 7 WHERE a = 1");
    let second = source.changes(&first.cursor, 1000).expect("a batch");
    peer.apply(&second.changeset).expect("it applies");
    assert_eq!(table(&peer, "foo"), table(&source, "foo"), "{:#?}", log_lines(&source));
}

#[test]
fn a04_two_connections_record_a_renamed_column_once() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let one = file(&path, 0xa, FOO, &["foo"]);
    let two = reopen(&path, 0xa);
    exec(&one, "INSERT INTO foo VALUES (1, 1, 1); ALTER TABLE foo RENAME COLUMN b TO d");
    assert_eq!(log_lines(&two).len(), 1, "the schema is read");
    exec(&one, "UPDATE foo SET d = 5; UPDATE foo SET d = 6");
    exec(&one, "UPDATE foo SET d = 7");
    let before = lines(&one, "SELECT col_version, db_version FROM crsql_changes WHERE cid = 'd'");
    exec(&two, "INSERT INTO foo VALUES (2, 2, 2)");
    let after =
        lines(&one, "SELECT col_version, db_version FROM crsql_changes WHERE cid = 'd' AND pk = x'010901'");
    assert_eq!(after, before);
}

#[test]
fn a05_a_key_that_looks_like_a_rowid_and_is_none() {
    let schema = "CREATE TABLE foo(a INTEGER PRIMARY KEY DESC NOT NULL, b)";
    let mut store = memory(0xa, schema, &["foo"]);
    let mut peer = memory(0xb, schema, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (100, 'x'), (200, 'y')");
    pull(&mut peer, &store);
    exec(&store, "DELETE FROM foo WHERE a = 100");
    pull(&mut peer, &store);
    assert_eq!(table(&peer, "foo"), table(&store, "foo"));
    assert_whole(&mut store, schema, &["foo"]);
}

#[test]
fn a06_foreign_key_actions_are_seen_though_other_columns_were_assigned_before() {
    let schema = "PRAGMA foreign_keys = on; CREATE TABLE lists(id INTEGER PRIMARY KEY NOT NULL, name); \
                  CREATE TABLE items(id INTEGER PRIMARY KEY NOT NULL, name, \
                  list INTEGER REFERENCES lists(id) ON DELETE SET NULL ON UPDATE CASCADE)";
    let mut store = memory(0xa, schema, &["lists", "items"]);
    let mut peer = memory(0xb, schema, &["lists", "items"]);
    exec(
        &store,
        "INSERT INTO lists VALUES (1, 'a'), (2, 'b'); INSERT INTO items VALUES (1, 'x', 1), (2, 'y', 2)",
    );
    exec(&store, "UPDATE items SET name = 'z'");
    pull(&mut peer, &store);
    exec(&store, "UPDATE lists SET id = 7 WHERE id = 1");
    exec(&store, "DELETE FROM lists WHERE id = 2");
    pull(&mut peer, &store);
    assert_eq!(lines(&peer, "SELECT * FROM items"), ["1|z|7", "2|z|NULL"]);
    assert_whole(&mut store, schema, &["lists", "items"]);
}

#[test]
fn a07_text_that_is_not_utf8_in_a_key_that_was_taken_back() {
    let schema = "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c)";
    let store = memory(0xa, schema, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES ('x', 1, 1); DELETE FROM foo");
    exec(&store, "BEGIN; INSERT INTO foo VALUES ('ok', 1, 1); SAVEPOINT s");
    exec(&store, "INSERT INTO foo VALUES (CAST(x'ff' AS TEXT), 1, 1); ROLLBACK TO s; RELEASE s");
    exec(&store, "COMMIT");
    assert_eq!(lines(&store, "SELECT a FROM foo"), ["ok"]);
}

// --- transactions --------------------------------------------------------------------------------------------------

#[test]
fn b01_unreplicate_taken_back_to_a_savepoint() {
    let mut store = memory(0xa, TWO, &["foo", "bar"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1); INSERT INTO bar VALUES (1, 1, 1)");
    exec(&store, "BEGIN; SAVEPOINT s; SELECT crsql_as_table('bar'); ROLLBACK TO s; RELEASE s");
    exec(&store, "INSERT INTO foo VALUES (2, 2, 2); INSERT INTO bar VALUES (2, 2, 2); COMMIT");
    assert_eq!(lines(&store, "SELECT count(*) FROM crsql_changes"), ["8"], "{:#?}", log_lines(&store));
    assert_whole(&mut store, TWO, &["foo", "bar"]);
}

#[test]
fn b02_a_savepoint_after_unreplicate_counts_earlier_writes_once() {
    let store = memory(0xa, TWO, &["foo", "bar"]);
    exec(
        &store,
        "INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2); DELETE FROM foo WHERE a = 2; INSERT INTO foo VALUES (2, 2, 2)",
    );
    exec(
        &store,
        "BEGIN; UPDATE foo SET b = 5 WHERE a = 1; DELETE FROM foo WHERE a = 2; SELECT crsql_as_table('bar'); SAVEPOINT s",
    );
    exec(&store, "INSERT INTO foo VALUES (9, 9, 9)");
    log(&store);
    exec(&store, "ROLLBACK TO s; RELEASE s; COMMIT");
    assert_eq!(log_lines(&store), ["foo 1 c=1 v1 @1 cl1", "foo 1 b=5 v2 @4 cl1", "foo 2 -1=NULL v4 @4 cl4"]);
}

#[test]
fn b03_busy_after_a_large_commit_then_a_savepoint() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let store = file(&path, 0xa, FOO, &["foo"]);
    exec(
        &store,
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 100 FROM n WHERE i < 20000) INSERT INTO foo SELECT i, i, i FROM n",
    );
    assert_eq!(lines(&store, "PRAGMA journal_mode = delete"), ["delete"]);
    let reader = rusqlite::Connection::open(&path).expect("a connection without opor");
    exec(&store, "PRAGMA busy_timeout = 0");
    run(&reader, "BEGIN; SELECT * FROM foo").expect("a read transaction");
    exec(&store, "BEGIN; UPDATE foo SET b = -1");
    run(&store, "COMMIT").expect_err("a reader holds the file");
    exec(&store, "SAVEPOINT s; INSERT INTO foo VALUES (7, 7, 7)");
    log(&store);
    exec(&store, "ROLLBACK TO s; RELEASE s");
    drop(reader);
    exec(&store, "COMMIT");
    assert_eq!(
        lines(&store, "SELECT DISTINCT cid, col_version, db_version FROM crsql_changes ORDER BY 1"),
        ["b|2|2", "c|1|1"]
    );
    let log_before = log(&store);
    drop(store);
    assert_eq!(log(&reopen(&path, 0xa)), log_before);
}

#[test]
fn b04_a_site_met_in_a_savepoint_that_was_rolled_back() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut store = file(&path, 0xa, FOO, &["foo"]);
    let peer = memory(0xb, FOO, &["foo"]);
    exec(&peer, "INSERT INTO foo VALUES (1, 1, 1)");
    let changes = peer.changes_since(DbVersion(0)).expect("the changes");
    exec(&store, "BEGIN; INSERT INTO foo VALUES (9, 9, 9); SAVEPOINT s");
    store.apply(&changes).expect("it applies");
    exec(&store, "ROLLBACK TO s; RELEASE s");
    store.apply(&changes).expect("it applies again");
    exec(&store, "COMMIT");
    let before = log(&store);
    drop(store);
    assert_eq!(log(&reopen(&path, 0xa)), before);
}

#[test]
fn b05_a_refused_apply_in_a_transaction_forgets_its_site() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let schema = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b CHECK (b < 10), c)";
    let mut store = file(&path, 0xa, schema, &["foo"]);
    let bad = memory(0xb, FOO, &["foo"]);
    exec(&bad, "INSERT INTO foo VALUES (1, 99, 1)");
    let other = memory(0xc, FOO, &["foo"]);
    exec(&other, "INSERT INTO foo VALUES (2, 2, 2)");
    exec(&store, "BEGIN; INSERT INTO foo VALUES (9, 9, 9)");
    store.apply(&bad.changes_since(DbVersion(0)).expect("the changes")).expect_err("CHECK");
    pull(&mut store, &other);
    exec(&bad, "UPDATE foo SET b = 1");
    pull(&mut store, &bad);
    exec(&store, "COMMIT");
    drop(store);
    let sites = lines(&reopen(&path, 0xa), "SELECT DISTINCT pk, hex(site_id) FROM crsql_changes ORDER BY pk");
    let hex = |byte: &str| byte.repeat(16);
    assert_eq!(
        sites,
        [
            format!("x'010901'|{}", hex("0B")),
            format!("x'010902'|{}", hex("0C")),
            format!("x'010909'|{}", hex("0A"))
        ]
    );
}

#[test]
fn b06_a_setting_rolled_back() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "BEGIN; SELECT crsql_config_set('merge-equal-values', 1); ROLLBACK");
    assert_eq!(lines(&store, "SELECT crsql_config_get('merge-equal-values')"), ["0"]);
}

#[test]
fn b07_replicate_rolled_back_and_done_again() {
    for undo in ["ROLLBACK", "ROLLBACK TO s; RELEASE s; COMMIT"] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let mut store = file(&path, 0xa, TWO, &["foo"]);
        exec(&store, "INSERT INTO foo VALUES (1, 1, 1); INSERT INTO bar VALUES (1, 1, 1)");
        exec(&store, "BEGIN; INSERT INTO foo VALUES (2, 2, 2); SAVEPOINT s");
        store.replicate("bar").expect("it replicates");
        exec(&store, "INSERT INTO bar VALUES (2, 2, 2)");
        assert_eq!(log(&store).len(), 8);
        exec(&store, undo);
        exec(&store, "INSERT INTO bar VALUES (3, 3, 3)");
        assert_eq!(lines(&store, "SELECT count(*) FROM crsql_changes WHERE \"table\" = 'bar'"), ["0"]);
        store.replicate("bar").expect("it replicates");
        exec(&store, "UPDATE bar SET b = 5");
        let before = log(&store);
        drop(store);
        let mut store = reopen(&path, 0xa);
        assert_eq!(log(&store), before);
        assert_whole(&mut store, TWO, &["foo", "bar"]);
    }
}

#[test]
fn b08_reading_in_the_middle_and_rolling_back_to_a_savepoint() {
    let mut store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2)");
    exec(
        &store,
        "BEGIN; UPDATE foo SET b = 5; SAVEPOINT x; DELETE FROM foo WHERE a = 1; SAVEPOINT y; REPLACE INTO foo VALUES (1, 7, 7)",
    );
    log(&store);
    exec(&store, "ROLLBACK TO y; UPDATE foo SET a = 9 WHERE a = 2");
    log(&store);
    exec(
        &store,
        "ROLLBACK TO y; RELEASE y; ROLLBACK TO x; RELEASE x; UPDATE foo SET c = 6 WHERE a = 2; COMMIT",
    );
    assert_eq!(
        log_lines(&store),
        ["foo 1 c=1 v1 @1 cl1", "foo 1 b=5 v2 @2 cl1", "foo 2 b=5 v2 @2 cl1", "foo 2 c=6 v2 @2 cl1"]
    );
    assert_whole(&mut store, FOO, &["foo"]);
}

#[test]
fn b09_pieces_within_an_open_transaction_miss_nothing() {
    let source = memory(0xa, FOO, &["foo"]);
    // One row a block.
    for n in 0..30 {
        exec(&source, &format!("INSERT INTO foo VALUES ({}, {n}, 0)", n * 100));
    }
    exec(
        &source,
        "WITH RECURSIVE n(i) AS (SELECT 100000 UNION ALL SELECT i + 100 FROM n WHERE i < 110000) INSERT INTO foo SELECT i, i, i FROM n",
    );
    exec(&source, "BEGIN; UPDATE foo SET b = 1000 WHERE a < 2000");
    let mut target = memory(0xb, FOO, &["foo"]);
    let mut cursor = Cursor::start();
    for _ in 0..1000 {
        let batch = source.changes(&cursor, 7).expect("a batch");
        target.apply(&batch.changeset).expect("it applies");
        cursor = batch.cursor;
        if batch.done {
            break;
        }
    }
    assert_eq!(table(&target, "foo"), table(&source, "foo"));
}

// --- schema --------------------------------------------------------------------------------------------------------

#[test]
fn c01_statements_of_a_merge_follow_a_dropped_column() {
    let schema = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c, d)";
    let source = memory(0xa, schema, &["foo"]);
    let mut peer = memory(0xb, schema, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES (1, 1, 1, 1)");
    pull(&mut peer, &source);
    exec(&source, "UPDATE foo SET c = 2");
    pull(&mut peer, &source);
    for store in [&source, &peer] {
        exec(
            store,
            "SELECT crsql_begin_alter('foo'); ALTER TABLE foo DROP COLUMN b; SELECT crsql_commit_alter('foo')",
        );
    }
    exec(&source, "UPDATE foo SET d = 3");
    pull(&mut peer, &source);
    assert_eq!(table(&peer, "foo"), table(&source, "foo"));
}

#[test]
fn c02_statements_of_a_merge_follow_a_renamed_column_and_table() {
    let source = memory(0xa, FOO, &["foo"]);
    let mut peer = memory(0xb, FOO, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES (1, 1, 1)");
    pull(&mut peer, &source);
    exec(&source, "UPDATE foo SET b = 2");
    pull(&mut peer, &source);
    for store in [&source, &peer] {
        exec(store, "ALTER TABLE foo RENAME COLUMN b TO d; ALTER TABLE foo RENAME TO bar");
    }
    exec(&source, "UPDATE bar SET d = 3; INSERT INTO bar VALUES (2, 2, 2)");
    pull(&mut peer, &source);
    assert_eq!(table(&peer, "bar"), table(&source, "bar"));
}

#[test]
fn c03_a_table_that_takes_over_the_number_of_another() {
    let source = memory(0xa, TWO, &["foo", "bar"]);
    let mut peer = memory(0xb, TWO, &["foo"]);
    exec(
        &source,
        "INSERT INTO foo VALUES (1, 'foo', 1); INSERT INTO bar VALUES (1, 'bar', 1), (2, 'bar', 2)",
    );
    let all = source.changes_since(DbVersion(0)).expect("the changes");
    let of = |name: &str| -> Changeset { all.changes().filter(|change| &*change.table == name).collect() };
    peer.apply(&of("foo")).expect("it applies");
    peer.unreplicate("foo").expect("a plain table");
    peer.replicate("bar").expect("it replicates");
    peer.apply(&of("bar")).expect("it applies");
    assert_eq!(table(&peer, "bar"), table(&source, "bar"));
    assert_eq!(lines(&peer, "SELECT * FROM foo"), ["1|foo|1"]);
}

#[test]
fn c04_a_table_made_anew_is_replicated_at_once() {
    let mut store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1)");
    exec(
        &store,
        "CREATE TABLE new_foo(a INTEGER PRIMARY KEY NOT NULL, b, c, d); INSERT INTO new_foo SELECT *, 0 FROM foo; DROP TABLE foo; ALTER TABLE new_foo RENAME TO foo",
    );
    store.replicate("foo").expect("it replicates");
    exec(&store, "UPDATE foo SET d = 5");
    assert_whole(&mut store, "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c, d)", &["foo"]);
}

#[test]
fn c05_two_tables_swap_names() {
    let mut store = memory(0xa, TWO, &["foo", "bar"]);
    exec(&store, "INSERT INTO foo VALUES (1, 'foo', 1); INSERT INTO bar VALUES (1, 'bar', 1)");
    exec(
        &store,
        "ALTER TABLE foo RENAME TO tmp; ALTER TABLE bar RENAME TO foo; ALTER TABLE tmp RENAME TO bar",
    );
    exec(&store, "INSERT INTO foo VALUES (2, 'new', 2)");
    exec(&store, "INSERT INTO bar VALUES (2, 'new', 2)");
    assert_eq!(store.replicated_tables().expect("the list").len(), 2);
    assert_whole(&mut store, TWO, &["foo", "bar"]);
}

#[test]
fn c06_a_table_dropped_while_its_clocks_are_in_the_tail() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let store = file(&path, 0xa, TWO, &["foo", "bar"]);
    exec(
        &store,
        "INSERT INTO bar VALUES (1, 1, 1), (2, 2, 2); DELETE FROM bar WHERE a = 2; DROP TABLE bar; INSERT INTO foo VALUES (1, 1, 1)",
    );
    drop(store);
    let mut store = reopen(&path, 0xa);
    for n in 2..300 {
        exec(&store, &format!("INSERT INTO foo VALUES ({n}, 1, 1)"));
    }
    assert_whole(&mut store, FOO, &["foo"]);
}

#[test]
fn c07_tombstones_of_a_dropped_table_do_not_pass_to_another() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let store = file(&path, 0xa, TWO, &["foo", "bar"]);
    exec(
        &store,
        "INSERT INTO bar VALUES (1, 1, 1), (2, 2, 2); DELETE FROM bar WHERE a = 2; DROP TABLE bar; INSERT INTO foo VALUES (1, 1, 1)",
    );
    exec(&store, "CREATE TABLE baz(a INTEGER PRIMARY KEY NOT NULL, b, c)");
    let mut store = store;
    store.replicate("baz").expect("it replicates");
    exec(&store, "INSERT INTO baz VALUES (7, 7, 7)");
    let expected = ["baz 7 b=7 v1 @5 cl1", "baz 7 c=7 v1 @5 cl1"];
    let of_baz = |store: &Store| {
        log_lines(store).into_iter().filter(|line| line.starts_with("baz")).collect::<Vec<_>>()
    };
    assert_eq!(of_baz(&store).len(), expected.len());
    drop(store);
    let store = reopen(&path, 0xa);
    assert_eq!(of_baz(&store).len(), expected.len(), "{:#?}", log_lines(&store));
}

#[test]
fn c08_names_in_another_case() {
    let mut store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO FOO VALUES (1, 1, 1)");
    store.replicate("FOO").expect("it does already");
    exec(
        &store,
        "SELECT crsql_begin_alter('Foo'); ALTER TABLE fOO ADD COLUMN d; SELECT crsql_commit_alter('Foo')",
    );
    exec(&store, "UPDATE Foo SET D = 3");
    assert_eq!(log(&store).len(), 3);
    store.unreplicate("FOO").expect("a plain table");
    assert_eq!(store.replicated_tables().expect("the list"), Vec::<String>::new());
}

#[test]
fn c09_the_last_column_outside_the_key_is_dropped() {
    let store = memory(0xa, "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b)", &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1), (2, 2)");
    exec(
        &store,
        "SELECT crsql_begin_alter('foo'); ALTER TABLE foo DROP COLUMN b; SELECT crsql_commit_alter('foo')",
    );
    exec(&store, "INSERT INTO foo VALUES (3)");
    let mut store = store;
    assert_whole(&mut store, "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL)", &["foo"]);
}

// --- hybrid clocks -------------------------------------------------------------------------------------------------

#[test]
fn d02_a_key_and_a_value_changed_by_one_statement() {
    let (store, wall) = hybrid(0xa, FOO, &["foo"]);
    let (mut peer, peer_wall) = hybrid(0xb, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 'old', 1)");
    peer_wall.fetch_add(5_000, Ordering::Relaxed);
    exec(&peer, "INSERT INTO foo VALUES (2, 'between', 1)");
    wall.fetch_add(10_000, Ordering::Relaxed);
    exec(&store, "UPDATE foo SET a = 2, b = 'last'");
    pull(&mut peer, &store);
    assert_eq!(lines(&peer, "SELECT b FROM foo"), ["last"]);
}

#[test]
fn d03_an_update_in_the_transaction_that_replicates() {
    let (mut store, _) = hybrid(0xa, FOO, &[]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1); BEGIN");
    store.replicate("foo").expect("it replicates");
    exec(&store, "UPDATE foo SET b = 0; COMMIT");
    let (mut peer, _) = hybrid(0xb, FOO, &[]);
    exec(&peer, "INSERT INTO foo VALUES (1, 1, 1)");
    peer.replicate("foo").expect("it replicates");
    pull(&mut peer, &store);
    pull(&mut store, &peer);
    assert_eq!(
        (lines(&store, "SELECT b FROM foo"), lines(&peer, "SELECT b FROM foo")),
        (vec!["0".to_owned()], vec!["0".to_owned()])
    );
}

#[test]
fn d04_an_update_after_a_merge_in_the_same_transaction() {
    let (mut store, wall) = hybrid(0xa, FOO, &["foo"]);
    let (mut peer, peer_wall) = hybrid(0xb, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 'z', 1)");
    pull(&mut peer, &store);
    exec(&peer, "DELETE FROM foo; INSERT INTO foo VALUES (1, 'y', 2)");
    let sentinel: Changeset = peer
        .changes_since(DbVersion(0))
        .expect("changes")
        .changes()
        .filter(|change| change.cid == opor_core::Cid::from("-1"))
        .collect();
    wall.fetch_add(20_000, Ordering::Relaxed);
    peer_wall.fetch_add(20_000, Ordering::Relaxed);
    exec(&store, "BEGIN");
    store.apply(&sentinel).expect("it applies");
    exec(&store, "UPDATE foo SET b = 'a'; COMMIT");
    pull(&mut peer, &store);
    pull(&mut store, &peer);
    assert_eq!(lines(&peer, "SELECT b FROM foo"), ["a"], "the last write wins");
    assert_eq!(table(&store, "foo"), table(&peer, "foo"));
}

// --- second batch ---------------------------------------------------------------------------------------------------

#[test]
fn e01_two_connections_past_many_folds() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut one = file(&path, 0xa, TWO, &["foo", "bar"]);
    let two = reopen(&path, 0xa);
    let mut rng = Rng::new(11);
    for n in 0..700 {
        let store = if rng.below(2) == 0 { &one } else { &two };
        let key = rng.below(40) * 17;
        let sql = match rng.below(6) {
            0 => format!("DELETE FROM foo WHERE a = {key}"),
            1 => format!("UPDATE foo SET b = {n} WHERE a = {key}"),
            2 => format!("UPDATE OR REPLACE foo SET a = {} WHERE a = {key}", rng.below(40) * 17),
            3 => format!("INSERT OR REPLACE INTO bar VALUES ({key}, {n}, 1)"),
            4 => format!(
                "BEGIN; INSERT OR IGNORE INTO foo VALUES ({key}, {n}, 1); UPDATE bar SET c = {n} WHERE a < {key}; COMMIT"
            ),
            _ => format!("INSERT OR REPLACE INTO foo VALUES ({key}, {n}, 1)"),
        };
        exec(store, &sql);
        if n % 97 == 0 {
            assert_eq!(log(&one), log(&two), "{n}");
        }
    }
    let last = log(&one);
    assert_eq!(last, log(&two));
    drop(two);
    assert_whole(&mut one, TWO, &["foo", "bar"]);
    drop(one);
    assert_eq!(log(&reopen(&path, 0xa)), last);
}

#[test]
fn e03_wide_tables() {
    for width in [62, 63, 64, 65, 70, 128, 200] {
        let columns: Vec<_> = (0..width).map(|n| format!("c{n}")).collect();
        let schema = format!("CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, {})", columns.join(", "));
        let folder = Folder::new();
        let path = folder.file("a.db");
        let mut store = file(&path, 0xa, &schema, &["foo"]);
        let mut peer = memory(0xb, &schema, &["foo"]);
        let values = vec!["1"; width].join(", ");
        for key in 1..40 {
            exec(&store, &format!("INSERT INTO foo VALUES ({key}, {values})"));
        }
        pull(&mut peer, &store);
        for n in (0..width).step_by(7).chain([width - 1]) {
            exec(
                &store,
                &format!("UPDATE foo SET c{n} = {n} + a, c{} = 'x' WHERE a % 3 = {}", width / 2, n % 3),
            );
            exec(&peer, &format!("UPDATE foo SET c{} = 'peer' WHERE a % 5 = {}", (n + 3) % width, n % 5));
        }
        exec(
            &store,
            "DELETE FROM foo WHERE a % 11 = 0; SAVEPOINT s; DELETE FROM foo; ROLLBACK TO s; RELEASE s",
        );
        pull(&mut peer, &store);
        pull(&mut store, &peer);
        pull(&mut peer, &store);
        assert_eq!(table(&peer, "foo"), table(&store, "foo"), "{width}");
        let before = log(&store);
        drop(store);
        let mut store = reopen(&path, 0xa);
        assert_eq!(log(&store), before, "{width}");
        assert_whole(&mut store, &schema, &["foo"]);
    }
}

#[test]
fn e04_rowids_at_the_ends() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut store = file(&path, 0xa, FOO, &["foo"]);
    let keys = [
        i64::MIN,
        i64::MIN + 1,
        i64::MIN + 31,
        i64::MIN + 32,
        -33,
        -32,
        -1,
        0,
        31,
        32,
        i64::MAX - 32,
        i64::MAX - 1,
        i64::MAX,
    ];
    for key in keys {
        exec(&store, &format!("INSERT INTO foo VALUES ({key}, 1, 1)"));
    }
    exec(&store, "UPDATE foo SET b = 2");
    exec(&store, "UPDATE foo SET a = a + 2 WHERE a BETWEEN -40 AND 40 AND a % 2 = 0");
    exec(&store, &format!("DELETE FROM foo WHERE a IN ({}, {}, -1)", i64::MIN, i64::MAX));
    exec(&store, &format!("INSERT INTO foo VALUES ({}, 5, 5)", i64::MAX));
    let before = log(&store);
    for size in [1, 3, 1000] {
        let mut target = memory(0xb, FOO, &["foo"]);
        let mut cursor = Cursor::start();
        loop {
            let batch = store.changes(&cursor, size).expect("a batch");
            target.apply(&batch.changeset).expect("it applies");
            cursor = batch.cursor.to_string().parse().expect("its own text");
            if batch.done {
                break;
            }
        }
        assert_eq!(table(&target, "foo"), table(&store, "foo"));
    }
    // Folded, reopened, and again.
    exec(
        &store,
        "WITH RECURSIVE n(i) AS (SELECT 1000000 UNION ALL SELECT i + 100 FROM n WHERE i < 1010000) INSERT INTO foo SELECT i, i, i FROM n",
    );
    drop(store);
    store = reopen(&path, 0xa);
    assert_eq!(log(&store)[..before.len()].len(), before.len());
    assert_whole(&mut store, FOO, &["foo"]);
}

#[test]
fn e05_replace_that_hits_several_rows() {
    let schema = "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c)";
    let mut store = memory(0xa, schema, &["foo"]);
    let mut peer = memory(0xb, schema, &["foo"]);
    exec(
        &store,
        "INSERT INTO foo(rowid, a, b, c) VALUES (1, 'x', 1, 1), (2, 'y', 2, 2), (3, 'z', 3, 3), (4, 'w', 4, 4)",
    );
    pull(&mut peer, &store);
    exec(&store, "REPLACE INTO foo(rowid, a, b, c) VALUES (2, 'z', 9, 9)");
    pull(&mut peer, &store);
    assert_eq!(table(&peer, "foo"), table(&store, "foo"));
    exec(&store, "UPDATE OR REPLACE foo SET rowid = 1, a = 'w', b = 7 WHERE a = 'z'");
    pull(&mut peer, &store);
    assert_eq!(table(&peer, "foo"), table(&store, "foo"));
    exec(&store, "UPDATE OR REPLACE foo SET rowid = 50; INSERT INTO foo VALUES ('new', 1, 1)");
    pull(&mut peer, &store);
    assert_eq!(table(&peer, "foo"), table(&store, "foo"));
    assert_whole(&mut store, schema, &["foo"]);
}

#[test]
fn e06_update_or_replace_of_every_key() {
    for recursive in ["on", "off"] {
        for (schema, sql) in [
            (FOO, "UPDATE OR REPLACE foo SET a = a + 1"),
            (FOO, "UPDATE OR REPLACE foo SET a = a / 2, b = a"),
            (
                FOO,
                "BEGIN; UPDATE OR REPLACE foo SET a = a - 1; DELETE FROM foo WHERE a = 2; REPLACE INTO foo VALUES (2, 2, 2), (3, 3, 3), (2, 4, 4); COMMIT",
            ),
            (
                "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c)",
                "UPDATE OR REPLACE foo SET a = 'k' || (b % 2)",
            ),
            (
                "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c) WITHOUT ROWID",
                "UPDATE OR REPLACE foo SET a = 'k' || (b % 2)",
            ),
            (
                "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c) WITHOUT ROWID",
                "BEGIN; UPDATE foo SET a = a || 'x'; UPDATE foo SET b = 9 WHERE a = '1x'; DELETE FROM foo WHERE a = '2x'; INSERT INTO foo VALUES ('2x', 5, 5); COMMIT",
            ),
        ] {
            let mut store = memory(0xa, schema, &["foo"]);
            let mut peer = memory(0xb, schema, &["foo"]);
            exec(
                &store,
                &format!(
                    "PRAGMA recursive_triggers = {recursive}; INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)"
                ),
            );
            pull(&mut peer, &store);
            exec(&peer, "UPDATE foo SET c = 'peer' WHERE a = 3");
            exec(&store, sql);
            for _ in 0..2 {
                pull(&mut peer, &store);
                pull(&mut store, &peer);
            }
            assert_eq!(table(&peer, "foo"), table(&store, "foo"), "{schema} {sql}");
            assert_whole(&mut store, schema, &["foo"]);
        }
    }
}

#[test]
fn e07_triggers_that_write_everywhere() {
    let schema = format!(
        "{TWO}; CREATE TRIGGER t1 AFTER DELETE ON foo BEGIN INSERT INTO bar VALUES (old.a, old.b, 'gone'); END; \
         CREATE TRIGGER t2 AFTER INSERT ON foo BEGIN DELETE FROM bar WHERE a = new.a; END; \
         CREATE TRIGGER t3 BEFORE UPDATE ON foo BEGIN UPDATE bar SET c = new.b WHERE a = 100; END; \
         CREATE TRIGGER t4 AFTER DELETE ON bar WHEN old.a = 7 BEGIN INSERT INTO bar VALUES (7, 'phoenix', 1); END"
    );
    let mut store = memory(0xa, &schema, &["foo", "bar"]);
    exec(
        &store,
        "INSERT INTO bar VALUES (100, 0, 0), (7, 7, 7); INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2)",
    );
    exec(
        &store,
        "DELETE FROM foo WHERE a = 1; INSERT INTO foo VALUES (1, 5, 5); UPDATE foo SET b = 8; DELETE FROM bar WHERE a = 7",
    );
    exec(
        &store,
        "BEGIN; SAVEPOINT s; DELETE FROM foo; ROLLBACK TO s; REPLACE INTO foo VALUES (2, 6, 6); DELETE FROM bar; COMMIT",
    );
    assert_whole(&mut store, TWO, &["foo", "bar"]);
}

#[test]
fn e08_cascades_within_an_apply_in_a_transaction() {
    let schema = "PRAGMA foreign_keys = on; CREATE TABLE lists(id INTEGER PRIMARY KEY NOT NULL, name); \
                  CREATE TABLE items(id INTEGER PRIMARY KEY NOT NULL, list INTEGER REFERENCES lists(id) ON DELETE CASCADE)";
    let names = ["lists", "items"];
    let mut writer = memory(0xa, schema, &names);
    let mut here = memory(0xb, schema, &names);
    let mut there = memory(0xc, schema, &names);
    exec(&writer, "INSERT INTO lists VALUES (1, 'a')");
    pull(&mut here, &writer);
    pull(&mut there, &writer);
    exec(&here, "INSERT INTO items VALUES (1, 1)");
    pull(&mut there, &here);
    exec(&writer, "DELETE FROM lists");
    exec(&here, "BEGIN");
    pull(&mut here, &writer);
    exec(&here, "COMMIT");
    pull(&mut there, &writer);
    for _ in 0..2 {
        let new = here.changes_since(DbVersion(2)).expect("what is new");
        there.apply(&new).expect("it applies");
        writer.apply(&new).expect("it applies");
    }
    assert_eq!(table(&here, "items"), table(&there, "items"));
}

#[test]
fn e09_alter_within_a_transaction_rolled_back_or_not() {
    for end in ["COMMIT", "ROLLBACK"] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let store = file(&path, 0xa, FOO, &["foo"]);
        exec(&store, "INSERT INTO foo VALUES (1, 1, 1)");
        exec(
            &store,
            "BEGIN; UPDATE foo SET b = 2; SELECT crsql_begin_alter('foo'); ALTER TABLE foo ADD COLUMN d DEFAULT 4; UPDATE foo SET d = 5; SELECT crsql_commit_alter('foo'); UPDATE foo SET c = 3",
        );
        exec(&store, end);
        exec(&store, "INSERT INTO foo(a, b, c) VALUES (2, 2, 2)");
        let before = log(&store);
        assert_eq!(before.len(), if end == "COMMIT" { 6 } else { 4 }, "{:#?}", log_lines(&store));
        drop(store);
        let mut store = reopen(&path, 0xa);
        assert_eq!(log(&store), before);
        let schema = if end == "COMMIT" {
            "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c, d DEFAULT 4)"
        } else {
            FOO
        };
        assert_whole(&mut store, schema, &["foo"]);
    }
}

#[test]
fn e10_an_alter_that_fails_or_is_rolled_back_within_a_savepoint() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1)");
    exec(
        &store,
        "BEGIN; UPDATE foo SET b = 2; SAVEPOINT s; ALTER TABLE foo ADD COLUMN d; UPDATE foo SET d = 1; ROLLBACK TO s; UPDATE foo SET c = 2",
    );
    exec(
        &store,
        "SAVEPOINT t; ALTER TABLE foo RENAME TO bar; UPDATE bar SET b = 7; ROLLBACK TO t; UPDATE foo SET b = 8; COMMIT",
    );
    assert_eq!(log_lines(&store), ["foo 1 c=2 v2 @2 cl1", "foo 1 b=8 v3 @2 cl1"]);
}

#[test]
fn e11_unreplicate_and_replicate_again() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut store = file(&path, 0xa, TWO, &["foo", "bar"]);
    let mut peer = memory(0xb, TWO, &["foo", "bar"]);
    exec(
        &store,
        "INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2); DELETE FROM foo WHERE a = 2; INSERT INTO bar VALUES (1, 1, 1)",
    );
    pull(&mut peer, &store);
    for round in 0..3 {
        store.unreplicate("foo").expect("a plain table");
        exec(&store, &format!("INSERT OR REPLACE INTO foo VALUES ({}, 'plain', 1)", 10 + round));
        store.replicate("foo").expect("it replicates");
        exec(&store, "UPDATE foo SET c = c + 1; UPDATE bar SET c = c + 1");
        if round == 1 {
            drop(store);
            store = reopen(&path, 0xa);
        }
        let mut fresh = memory(0xc, TWO, &["foo", "bar"]);
        pull(&mut fresh, &store);
        assert_eq!(table(&fresh, "foo"), table(&store, "foo"), "{round} {:#?}", log_lines(&store));
        pull(&mut peer, &store);
        pull(&mut store, &peer);
        assert_eq!(table(&peer, "bar"), table(&store, "bar"));
    }
}

#[test]
fn e12_an_apply_taken_back_leaves_no_trace() {
    for schema in [
        FOO,
        "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c)",
        "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c) WITHOUT ROWID",
    ] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let mut store = file(&path, 0xa, schema, &["foo"]);
        let mut peer = memory(0xb, schema, &["foo"]);
        exec(&store, "INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)");
        pull(&mut peer, &store);
        exec(
            &peer,
            "UPDATE foo SET b = 9 WHERE a = 1; DELETE FROM foo WHERE a = 2; INSERT INTO foo VALUES (4, 4, 4); DELETE FROM foo WHERE a = 3; INSERT INTO foo VALUES (3, 7, 7)",
        );
        let first = full_dump(&store);
        exec(&store, "BEGIN");
        pull(&mut store, &peer);
        log(&store);
        exec(&store, "ROLLBACK");
        assert_eq!(full_dump(&store), first, "{schema}");
        exec(&store, "BEGIN; UPDATE foo SET c = 5 WHERE a = 1; SAVEPOINT s");
        pull(&mut store, &peer);
        exec(&store, "UPDATE foo SET b = 10; ROLLBACK TO s; RELEASE s; COMMIT");
        assert_eq!(
            lines(&store, "SELECT cid, val, col_version FROM crsql_changes WHERE col_version > 1"),
            ["c|5|2"]
        );
        pull(&mut store, &peer);
        pull(&mut peer, &store);
        assert_eq!(table(&peer, "foo"), table(&store, "foo"));
        let before = log(&store);
        drop(store);
        assert_eq!(log(&reopen(&path, 0xa)), before);
    }
}

#[test]
fn e14_keyed_rows_deleted_and_inserted_across_merges() {
    let schema = "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c) WITHOUT ROWID";
    let mut stores: Vec<_> = (0xa..0xd).map(|byte| memory(byte, schema, &["foo"])).collect();
    let mut rng = Rng::new(5);
    for n in 0..400 {
        let at = rng.below(3);
        let key = rng.below(6);
        let sql = match rng.below(5) {
            0 => format!("DELETE FROM foo WHERE a = 'k{key}'"),
            1 => format!("UPDATE foo SET b = {n} WHERE a = 'k{key}'"),
            2 => format!("UPDATE OR REPLACE foo SET a = 'k{}' WHERE a = 'k{key}'", rng.below(6)),
            _ => format!("INSERT OR REPLACE INTO foo VALUES ('k{key}', {n}, 1)"),
        };
        exec(&stores[at], &sql);
        let from = rng.below(3);
        if from != at && n % 3 == 0 {
            let changes = stores[from].changes_since(DbVersion(0)).expect("changes");
            stores[at].apply(&changes).expect("it applies");
        }
    }
    for _ in 0..3 {
        for at in 0..3 {
            for from in 0..3 {
                let changes = stores[from].changes_since(DbVersion(0)).expect("changes");
                stores[at].apply(&changes).expect("it applies");
            }
        }
    }
    for store in &stores[1..] {
        assert_eq!(table(store, "foo"), table(&stores[0], "foo"));
    }
}

#[test]
fn e15_options_and_events_do_not_change_the_outcome() {
    let mut source = memory(0xa, FOO, &["foo"]);
    let mut plain = memory(0xb, FOO, &["foo"]);
    let mut told = memory(0xb, FOO, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES (1, 1, 1), (2, 'x', 2), (3, 3, 3); DELETE FROM foo WHERE a = 3");
    for store in [&plain, &told] {
        exec(store, "INSERT INTO foo VALUES (1, 2, 0), (2, 1, x'00'), (3, 3, 3)");
    }
    let changes = source.changes_since(DbVersion(0)).expect("changes");
    let one = plain.apply(&changes).expect("it applies");
    let options = ApplyOptions { events: true, without_triggers: true, ..ApplyOptions::default() };
    let two = told.apply_with(&changes, &options).expect("it applies");
    assert_eq!(
        (one.cells_won, one.cells_lost, one.rows_deleted),
        (two.cells_won, two.cells_lost, two.rows_deleted)
    );
    assert_eq!(log(&plain), log(&told));
    pull(&mut source, &told);
    assert_eq!(table(&source, "foo"), table(&told, "foo"));
}

#[test]
fn e16_a_trigger_that_ignores_a_merged_row_does_not_stop_sync() {
    let mut store = memory(
        0xa,
        &format!(
            "{FOO}; CREATE TRIGGER t BEFORE INSERT ON foo WHEN new.a = 13 BEGIN SELECT RAISE(IGNORE); END"
        ),
        &["foo"],
    );
    let peer = memory(0xb, FOO, &["foo"]);
    exec(&peer, "INSERT INTO foo VALUES (12, 1, 1), (13, 1, 1), (14, 1, 1)");
    let changes = peer.changes_since(DbVersion(0)).expect("changes");
    store.apply(&changes).expect("the other rows apply");
    assert_eq!(lines(&store, "SELECT a FROM foo"), ["12", "14"]);
}

#[test]
fn e17_a_trigger_that_replaces_what_it_is_told() {
    let schema = format!(
        "{FOO}; CREATE TRIGGER t AFTER INSERT ON foo BEGIN UPDATE foo SET c = upper(new.b) WHERE a = new.a; END"
    );
    let mut store = memory(0xa, &schema, &["foo"]);
    let mut peer = memory(0xb, &schema, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 'x', 0)");
    exec(&peer, "INSERT INTO foo VALUES (2, 'y', 0)");
    for _ in 0..2 {
        pull(&mut peer, &store);
        pull(&mut store, &peer);
    }
    assert_eq!(table(&peer, "foo"), table(&store, "foo"));
}

#[test]
fn a01_a_table_renamed_within_a_transaction_that_has_written() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "BEGIN; INSERT INTO foo VALUES (1, 1, 1); ALTER TABLE foo RENAME TO bar");
    exec(&store, "INSERT INTO bar VALUES (2, 2, 2); UPDATE bar SET b = 9 WHERE a = 1; COMMIT");
    assert_eq!(
        log_lines(&store),
        ["bar 1 c=1 v1 @1 cl1", "bar 2 b=2 v1 @1 cl1", "bar 2 c=2 v1 @1 cl1", "bar 1 b=9 v2 @1 cl1"]
    );
}

#[test]
fn a02_columns_swapped_within_an_alter_keep_their_updates() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1); UPDATE foo SET b = 2, c = 2");
    exec(
        &store,
        "SELECT crsql_begin_alter('foo'); UPDATE foo SET b = 3; ALTER TABLE foo DROP COLUMN b; \
         ALTER TABLE foo ADD COLUMN d; UPDATE foo SET c = 9; SELECT crsql_commit_alter('foo')",
    );
    assert_eq!(lines(&store, "SELECT cid, val, col_version FROM crsql_changes WHERE cid = 'c'"), ["c|9|3"]);
}

#[test]
fn d01_a_write_after_a_key_change_in_one_transaction_has_its_own_stamp() {
    let (store, wall) = hybrid(0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, 'old', 1)");
    let old: i64 =
        lines(&store, "SELECT col_version FROM crsql_changes WHERE cid = 'b'")[0].parse().expect("a number");
    wall.fetch_add(10_000, Ordering::Relaxed);
    exec(&store, "BEGIN; UPDATE foo SET a = 2; UPDATE foo SET b = 'new'; COMMIT");
    let new: i64 =
        lines(&store, "SELECT col_version FROM crsql_changes WHERE cid = 'b'")[0].parse().expect("a number");
    assert!(new > old + (9_000 << 9), "{old} {new}");
}
