//! `opor serve` and `opor sync` as people run them: real processes, real files, real signals.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::running::{Hub, Running};
use crate::support::{Run, rows, todo_database, with_store};
use opor_core::{CausalLength, Cid, ColVersion, DbVersion, PackedKey, SiteId, Value};
use opor_store::{OpenOptions, Store};
use serde_json::json;
use tempfile::TempDir;

/// A change log without what each replica numbers on its own.
type Log = BTreeMap<(String, PackedKey, Cid), (Value, ColVersion, CausalLength, SiteId)>;

fn log(file: &str) -> Log {
    let store = OpenOptions::new().read_only(true).open(file).expect("a database");
    let changes = store.changes_since(DbVersion(0)).expect("its log");
    let entry = |change: opor_core::Change| {
        let key = (change.table.to_string(), change.pk, change.cid);
        (key, (change.val, change.col_version, change.cl, change.site_id))
    };
    changes.changes().map(entry).collect()
}

fn replica(dir: &Path, name: &str) -> String {
    let file = todo_database(dir, name);
    Run::opor(["init", &file, "todos"]).ok();
    file
}

fn rooms(dir: &TempDir) -> PathBuf {
    dir.path().join("rooms")
}

/// What was written here up to the last commit that the hub has acknowledged is in the room.
#[track_caller]
fn holds_what_it_acknowledged(room: &str, file: &str, watch: &mut Running) -> u64 {
    watch.catch_up();
    let acknowledged = watch.said.iter().filter(|event| event["event"] == "acknowledged");
    let acknowledged = acknowledged.filter_map(|event| event["db_version"].as_u64()).max().unwrap_or(0);
    let store = Store::open(file).expect("a database");
    let written = store.changes_since(DbVersion(0)).expect("its log");
    let due: Vec<_> = written
        .changes()
        .filter(|change| change.db_version.0 <= acknowledged)
        .map(|change| change.pk)
        .collect();
    let there: Vec<_> = log(room).into_keys().map(|(_, key, _)| key).collect();
    let lost: Vec<_> = due.iter().filter(|key| !there.contains(key)).collect();
    assert!(lost.is_empty(), "acknowledged up to {acknowledged}, and lost: {lost:?}");
    due.len() as u64
}

#[test]
fn three_replicas_and_a_hub_converge() {
    let dir = TempDir::new().expect("a directory");
    let hub = Hub::serve(&rooms(&dir), None, None);
    let url = hub.url();
    let (a, b) = (replica(dir.path(), "a"), replica(dir.path(), "b"));
    let c = dir.path().join("c.sqlite").to_string_lossy().into_owned();
    with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', 1), ('y', 'call mum', NULL)");
    with_store(&b, "INSERT INTO todos VALUES ('z', 'water the plants', x'00')");
    let sync = |file: &str| Run::opor(["sync", "--json", file, &url]).ok().last_json();

    let first = sync(&a);
    assert_eq!(first["sent"], json!({ "rows": 2, "changes": 4 }), "{first}");
    // What is merged while the log is being read for its sender may come back once. It changes nothing.
    let received = |summary: &serde_json::Value| summary["received"]["rows"].as_u64().expect("a count");
    assert_eq!(first["event"], json!("done"), "{first}");
    assert!([0, 2].contains(&received(&first)), "{first}");
    assert_eq!(rows(&a).len(), 2);
    let both = sync(&b);
    assert_eq!(both["sent"]["rows"], json!(1), "{both}");
    assert!([2, 3].contains(&received(&both)), "{both}");
    // A file that is not there yet gets the tables of the room, and its rows.
    let new = Run::opor(["sync", &c, &url]).ok();
    assert!(new.stdout.contains("has the tables of the room now: todos"), "{new:?}");
    assert!(new.stdout.ends_with("6 changes in 3 rows received, nothing sent\n"), "{new:?}");
    sync(&a);
    assert_eq!((rows(&a), rows(&c)), (rows(&b), rows(&b)));

    // The same cell, different cells of one row, and a delete, all apart from each other.
    with_store(&a, "UPDATE todos SET title = 'oat milk' WHERE id = 'x'; DELETE FROM todos WHERE id = 'y'");
    with_store(&b, "UPDATE todos SET title = 'soy milk', extra = 2 WHERE id = 'x'");
    with_store(
        &c,
        "UPDATE todos SET title = 'ask mum' WHERE id = 'y'; INSERT INTO todos VALUES ('w', 'new', 0)",
    );
    for file in [&a, &b, &c, &a, &b] {
        sync(file);
    }
    let room = rooms(&dir).join("garden.sqlite").to_string_lossy().into_owned();
    assert_eq!(rows(&a).len(), 3, "one was deleted, one is new: {:?}", rows(&a));
    assert!(rows(&a).iter().any(|row| row == &["'x'", "'soy milk'", "2"]), "{:?}", rows(&a));
    for file in [&b, &c, &room] {
        assert_eq!((rows(file), log(file)), (rows(&a), log(&a)), "{file}");
    }
    let nothing = sync(&c);
    assert_eq!((&nothing["sent"]["changes"], &nothing["received"]["changes"]), (&json!(0), &json!(0)));
}

#[test]
fn edits_of_other_processes_travel_as_they_happen() {
    let dir = TempDir::new().expect("a directory");
    let hub = Hub::serve(&rooms(&dir), None, Some("s3cret"));
    let (a, b) = (replica(dir.path(), "a"), replica(dir.path(), "b"));
    let token = dir.path().join("token").to_string_lossy().into_owned();
    std::fs::write(&token, "s3cret\n").expect("a file");
    let mut at_a = Running::opor(&["sync", "--watch", &a, &hub.url(), "--token-file", &token], None);
    let mut at_b = Running::opor(&["sync", "--watch", &b, &hub.url()], Some("s3cret"));
    at_a.is_live();
    at_b.is_live();
    with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', NULL)");
    let received = at_b.event("received");
    assert_eq!((&received["rows"], &received["changes"]), (&json!(1), &json!(2)), "{received}");
    assert_eq!(rows(&b), rows(&a));
    with_store(&b, "UPDATE todos SET title = 'buy oat milk'");
    at_a.event("received");
    assert_eq!(rows(&a), [["'x'", "'buy oat milk'", "NULL"]]);

    for (watch, signal) in [(&mut at_a, "-TERM"), (&mut at_b, "-INT")] {
        watch.signal(signal);
        assert_eq!(watch.ends(), Some(0), "{:#?}", watch.said);
        let last = watch.said.last().expect("a last word").clone();
        assert_eq!((&last["event"], &last["received"]["rows"]), (&json!("stopped"), &json!(1)), "{last}");
    }
}

#[test]
fn where_no_websocket_gets_through_plain_requests_do() {
    let dir = TempDir::new().expect("a directory");
    let mut hub = Hub::serve(&rooms(&dir), None, Some("s3cret"));
    let url = hub.url().replacen("ws://", "http://", 1);
    let (a, b) = (replica(dir.path(), "a"), replica(dir.path(), "b"));
    let mut at_a = Running::opor(&["sync", "--watch", &a, &url], Some("s3cret"));
    let mut at_b = Running::opor(&["sync", "--watch", &b, &url], Some("s3cret"));
    at_a.is_live();
    at_b.is_live();
    with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', NULL)");
    let received = at_b.event("received");
    assert_eq!((&received["rows"], &received["changes"]), (&json!(1), &json!(2)), "{received}");
    with_store(&b, "UPDATE todos SET title = 'buy oat milk'");
    at_a.event("received");
    assert_eq!(rows(&a), [["'x'", "'buy oat milk'", "NULL"]]);
    at_a.signal("-TERM");
    assert_eq!(at_a.ends(), Some(0), "{:#?}", at_a.said);
    Run::opor(["sync", &b, &url]).fails_with(1, "token");

    hub.run.signal("-TERM");
    assert_eq!(hub.run.ends(), Some(0), "{:#?}", hub.run.said);
    let goodbyes: Vec<_> = hub.run.said.iter().filter(|event| event["event"] == "session_ended").collect();
    assert!(goodbyes.len() == 2 && goodbyes.iter().all(|event| event["goodbye"] == true), "{goodbyes:#?}");
    let offline = at_b.event("offline");
    assert_eq!(offline["why"], "the hub said goodbye", "{offline}");
    at_b.signal("-TERM");
    assert_eq!(at_b.ends(), Some(0), "{:#?}", at_b.said);
    assert_eq!(log(&b), log(&a));
}

#[test]
fn a_hub_that_is_killed_loses_nothing_it_acknowledged() {
    let dir = TempDir::new().expect("a directory");
    let data = rooms(&dir);
    let mut hub = Hub::serve(&data, None, None);
    let (a, b) = (replica(dir.path(), "a"), replica(dir.path(), "b"));
    let mut at_a = Running::opor(&["sync", "--watch", &a, &hub.url()], None);
    let mut at_b = Running::opor(&["sync", "--watch", &b, &hub.url()], None);
    at_a.is_live();
    at_b.is_live();
    let room = data.join("garden.sqlite").to_string_lossy().into_owned();
    let mut before = 0;
    for round in 0..3 {
        let base = Store::open(&a).expect("a database").db_version().expect("its version").0;
        // Small commits, one after the other, so that some are under way whenever it is killed.
        for n in 0..40 {
            with_store(&a, &format!("INSERT INTO todos VALUES ('{round}-{n}', 'x', NULL)"));
        }
        with_store(
            &a,
            &format!(
                "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 2000) \
                 INSERT INTO todos SELECT '{round}/' || i, hex(randomblob(100)), i FROM n"
            ),
        );
        at_a.until(|event| event["event"] == "acknowledged" && event["db_version"].as_u64() > Some(base));
        hub.run.kill();
        let due = holds_what_it_acknowledged(&room, &a, &mut at_a);
        assert!(due > before, "something was acknowledged in each round: {due}");
        before = due;
        hub.again(&data);
    }
    with_store(&a, "INSERT INTO todos VALUES ('last', 'one', NULL)");
    while rows(&b).len() < 3 * 2040 + 1 {
        at_b.event("received");
    }
    assert_eq!(rows(&b), rows(&a));
    assert_eq!(log(&b), log(&a));
    let check =
        Store::open(&room).expect("the room").query_row("PRAGMA integrity_check", [], |row| row.get(0));
    assert_eq!(check, Ok("ok".to_owned()));
    let offline = |watch: &Running| watch.said.iter().filter(|event| event["event"] == "offline").count();
    at_a.catch_up();
    assert!(offline(&at_a) >= 3 && offline(&at_b) >= 3, "both noticed each time");
}

#[test]
fn a_hub_that_is_told_to_stop_finishes_and_comes_back() {
    let dir = TempDir::new().expect("a directory");
    let data = rooms(&dir);
    let mut hub = Hub::serve(&data, None, None);
    let (a, b) = (replica(dir.path(), "a"), replica(dir.path(), "b"));
    let mut at_a = Running::opor(&["sync", "--watch", &a, &hub.url()], None);
    let mut at_b = Running::opor(&["sync", "--watch", &b, &hub.url()], None);
    at_a.is_live();
    at_b.is_live();
    for n in 0..30 {
        with_store(&a, &format!("INSERT INTO todos VALUES ('{n}', 'x', NULL)"));
    }
    at_a.until(|event| event["event"] == "acknowledged" && event["db_version"].as_u64() > Some(0));
    hub.run.signal("-TERM");
    assert_eq!(hub.run.ends(), Some(0), "{:#?}", hub.run.said);
    let last: Vec<_> = hub.run.said.iter().rev().take(2).map(|event| event["event"].clone()).collect();
    assert_eq!(last, ["stopped", "room_closed"], "{:#?}", hub.run.said);
    let goodbyes = hub.run.said.iter().filter(|event| event["event"] == "session_ended");
    assert!(goodbyes.clone().all(|event| event["goodbye"] == true), "{:#?}", hub.run.said);
    assert_eq!(goodbyes.count(), 2);
    let room = data.join("garden.sqlite");
    assert!(!room.with_extension("sqlite-wal").exists(), "the file is closed");
    assert!(holds_what_it_acknowledged(&room.to_string_lossy(), &a, &mut at_a) > 0);

    hub.again(&data);
    at_b.is_live();
    while rows(&b).len() < 30 {
        at_b.event("received");
    }
    assert_eq!(rows(&b), rows(&a));
    assert!(at_b.said.iter().any(|event| event["why"] == "the hub said goodbye"), "{:#?}", at_b.said);
}

#[test]
fn whoever_watches_waits_for_a_hub_that_is_not_there_yet() {
    let dir = TempDir::new().expect("a directory");
    let data = rooms(&dir);
    let mut hub = Hub::serve(&data, None, None);
    hub.run.signal("-INT");
    assert_eq!(hub.run.ends(), Some(0));
    let a = replica(dir.path(), "a");
    let mut at_a = Running::opor(&["sync", "--watch", &a, &hub.url()], None);
    at_a.event("offline");
    hub.again(&data);
    at_a.is_live();
    let elsewhere = dir.path().join("elsewhere").to_string_lossy().into_owned();
    let taken = ["serve", "--data", &elsewhere, "--listen", &hub.address];
    Run::opor(taken).fails_with(1, "cannot listen on");
}
