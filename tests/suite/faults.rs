//! Faults that were known for a while, each as the test that showed it.

use opor_core::Value;

use opor_store::{ClockPolicy, OpenOptions};

use crate::replicas::{Folder, exec, file, lines, memory, pull, reopen, site, table};

const FOO: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c)";

/// Text that is not UTF-8 travels as a blob of the same bytes: one such value must not hold up all others.
#[test]
fn text_that_is_not_utf8_does_not_hold_up_the_log() {
    let store = memory(0xa, FOO, &["foo"]);
    let mut peer = memory(0xb, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES (1, CAST(x'61ff62' AS TEXT), 'fine'), (2, 'two', 2)");
    pull(&mut peer, &store);
    assert_eq!(lines(&peer, "SELECT a, b, c FROM foo"), ["1|x'61ff62'|fine", "2|two|2"]);
    let log = lines(&store, "SELECT pk, cid, val FROM crsql_changes WHERE cid = 'b'");
    assert_eq!(log, ["x'010901'|b|x'61ff62'", "x'010902'|b|two"]);
    // What comes back is what is there: nothing is written, and a later edit goes on as ever.
    let mut store = store;
    assert_eq!(pull(&mut store, &peer).db_version, None);
    assert_eq!(lines(&store, "SELECT typeof(b) FROM foo"), ["text", "text"]);
    exec(&peer, "UPDATE foo SET b = 'mended' WHERE a = 1");
    pull(&mut store, &peer);
    assert_eq!(table(&store, "foo"), table(&peer, "foo"));
}

/// With counts of edits it does not, as in cr-sqlite.
#[test]
fn a_row_that_moves_onto_a_newer_one_wins_at_peers_too() {
    let [store, mut peer] = [0xa, 0xb].map(|byte| {
        let options = OpenOptions::new().clock(ClockPolicy::Hlc).site_id(site(byte));
        let mut store = options.open_in_memory().expect("a store in memory");
        exec(&store, FOO);
        store.replicate("foo").expect("a table that can replicate");
        store
    });
    exec(&store, "INSERT INTO foo VALUES (1, 'old', 'old'), (2, 'moved', 'moved')");
    exec(&store, "UPDATE foo SET b = 'newer' WHERE a = 1; UPDATE foo SET b = 'newest' WHERE a = 1");
    pull(&mut peer, &store);
    exec(&store, "UPDATE OR REPLACE foo SET a = 1 WHERE a = 2");
    pull(&mut peer, &store);
    assert_eq!(lines(&store, "SELECT a, b FROM foo"), ["1|moved"]);
    assert_eq!(lines(&peer, "SELECT a, b FROM foo"), ["1|moved"]);
}

#[test]
fn a_promised_version_ends_with_the_transaction_that_asked_for_it() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(&store, "BEGIN; SELECT crsql_next_db_version(50); ROLLBACK");
    assert_eq!(exec(&store, "SELECT crsql_next_db_version()"), [[Value::Integer(1)]]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1)");
    assert_eq!(lines(&store, "SELECT DISTINCT db_version FROM crsql_changes"), ["1"]);
}

#[test]
fn a_table_that_another_program_dropped_is_told_of() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let schema = format!("{FOO}; CREATE TABLE bar(a INTEGER PRIMARY KEY NOT NULL, b)");
    let store = file(&path, 0xa, &schema, &["foo", "bar"]);
    exec(&store, "INSERT INTO foo VALUES (1, 1, 1); INSERT INTO bar VALUES (1, 1)");
    drop(store);
    let plain = rusqlite_connection(&path);
    plain.execute_batch("DROP TABLE foo").expect("nothing prevents it");
    drop(plain);
    let store = reopen(&path, 0xa);
    let incidents = store.incidents().expect("the incidents");
    let told: Vec<_> = incidents.iter().map(|incident| (&*incident.table, &*incident.what)).collect();
    assert_eq!(told, [("foo", "dropped: it does not replicate any more, and peers keep its rows")]);
    assert_eq!(lines(&store, "SELECT DISTINCT \"table\" FROM crsql_changes"), ["bar"]);
    assert_eq!(store.replicated_tables().expect("the tables"), ["bar"]);
}

fn rusqlite_connection(path: &std::path::Path) -> opor_store::rusqlite::Connection {
    opor_store::rusqlite::Connection::open(path).expect("plain SQLite opens it")
}
