//! What cannot be synced: a sentence that says why, and files that are as they were.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use crate::running::Hub;
use crate::support::{Run, plain, rows, todo_database, with_store};
use opor_core::{Change, Cid};
use opor_store::Store;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_string_lossy().into_owned()
}

fn replica(dir: &TempDir, name: &str) -> String {
    let file = todo_database(dir.path(), name);
    Run::opor(["init", &file, "todos"]).ok();
    file
}

#[test]
fn a_hub_that_is_not_there_or_will_not_have_us_is_named() {
    let dir = TempDir::new().expect("a directory");
    let a = replica(&dir, "a");
    with_store(&a, "INSERT INTO todos VALUES ('x', 'mine', NULL)");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    Run::opor(["sync", &a, &format!("ws://{free}/sync/garden")]).fails_with(1, "nobody answers");
    let hub = Hub::serve(&dir.path().join("rooms"), None, Some("s3cret"));
    let url = hub.url();
    Run::opor(["sync", &a, &url]).fails_with(1, "token is missing or not valid");
    Run::opor(["sync", &a, &url])
        .with_env("OPOR_TOKEN", "s3cre")
        .fails_with(1, "token is missing or not valid");
    Run::opor(["sync", "--watch", &a, &url]).fails_with(1, "token is missing or not valid");
    Run::opor(["sync", &a, &url]).with_env("OPOR_TOKEN", "").fails_with(1, "OPOR_TOKEN holds no token");
    Run::opor(["sync", &a, &url]).with_env("OPOR_TOKEN", "a\nb").fails_with(1, "2 tokens to choose from");
    Run::opor(["sync", &a, &url, "--token-file", &path(&dir, "none")]).fails_with(1, "cannot open");
    Run::opor(["sync", &a, &url]).with_env("OPOR_TOKEN", "s3cret").ok();
    let health = crate::support::curl(&format!("curl -s http://{}/healthz", hub.address));
    assert_eq!(health["status"], "ok", "no token is needed for that: {health}");
}

#[test]
fn a_file_that_has_nothing_to_sync_is_left_alone() {
    let dir = TempDir::new().expect("a directory");
    let hub = Hub::serve(&dir.path().join("rooms"), None, None);
    let url = hub.url();
    let new = path(&dir, "new.sqlite");
    Run::opor(["sync", &new, &url]).fails_with(1, "neither");
    assert!(!Path::new(&new).exists(), "nothing was made");
    assert!(!dir.path().join("rooms/garden.sqlite").exists(), "nor a room");
    Run::opor(["sync", &replica(&dir, "a"), &url]).ok();

    let private = path(&dir, "private.sqlite");
    plain(
        &private,
        "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', extra)",
    );
    plain(&private, "INSERT INTO todos VALUES ('secret', 'not for the hub', 1)");
    let before = std::fs::read(&private).expect("the file");
    Run::opor(["sync", &private, &url]).fails_with(1, "has no replicated tables; see `opor init`");
    assert_eq!(std::fs::read(&private).expect("the file"), before);
    let text = path(&dir, "text");
    std::fs::write(&text, "this is no database, it is a text of some length").expect("a file");
    Run::opor(["sync", &text, &url]).fails_with(1, "is not an SQLite database");
    Run::opor(["sync", &new, "nats://127.0.0.1/sync/garden"])
        .fails_with(1, "ends with its name, as in nats://");
    Run::opor(["sync", &new, "ws://127.0.0.1/garden"]).fails_with(1, "ends with /sync/ROOM");
}

#[test]
fn tables_that_are_not_the_same_are_named_and_what_fits_is_synced() {
    let dir = TempDir::new().expect("a directory");
    let hub = Hub::serve(&dir.path().join("rooms"), None, None);
    let a = replica(&dir, "a");
    with_store(&a, "INSERT INTO todos VALUES ('x', 'from a', NULL)");
    Run::opor(["sync", &a, &hub.url()]).ok();
    let b = path(&dir, "b.sqlite");
    plain(
        &b,
        "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', extra, more)",
    );
    plain(&b, "CREATE TABLE notes (id INTEGER PRIMARY KEY NOT NULL)");
    Run::opor(["init", &b, "todos"]).ok();
    let synced = Run::opor(["sync", &b, &hub.url()]).ok();
    assert!(synced.stdout.contains("the tables are not the same: "), "{synced:?}");
    assert!(synced.stdout.contains("\"todos\" exists in the room already"), "{synced:?}");
    assert_eq!(rows(&b), [["'x'", "'from a'", "NULL"]]);
    // What the room has no column for waits there, for whoever has one.
    with_store(&b, "UPDATE todos SET more = 1");
    Run::opor(["sync", &b, &hub.url()]).ok();
    Run::opor(["sync", &a, &hub.url()]).ok();
    assert_eq!(rows(&a), [["'x'", "'from a'", "NULL"]]);
}

/// A server that answers every request with this.
fn answering(body: &Json) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let body = body.to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _request = stream.read(&mut [0; 4096]);
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            let _gone = stream.write_all((head + &body).as_bytes());
        }
    });
    format!("ws://{address}/sync/garden")
}

#[test]
fn a_hostile_hub_makes_nothing_but_tables() {
    let dir = TempDir::new().expect("a directory");
    let victim = path(&dir, "victim.sqlite");
    let other = path(&dir, "other.sqlite");
    for statement in [
        format!("ATTACH '{other}' AS other"),
        "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL); DROP TABLE t".into(),
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END".into(),
        "CREATE TABLE opor_meta (id INTEGER PRIMARY KEY NOT NULL)".into(),
        format!("VACUUM INTO '{other}'"),
        "PRAGMA writable_schema = 1".into(),
    ] {
        let url = answering(&json!({
            "schema": ["CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL)", statement],
            "tables": ["t"], "site_id": "00", "db_version": 1,
        }));
        Run::opor(["sync", &victim, &url]).fails_with(1, "the room's schema is none that can be taken");
        assert!(!Path::new(&victim).exists() && !Path::new(&other).exists(), "{statement}: nothing was made");
    }
    let url = answering(&json!({ "schema": "all of it" }));
    Run::opor(["sync", &victim, &url]).fails_with(1, "gave no schema");
}

#[test]
fn a_change_that_the_hub_will_not_take_leaves_both_as_they_were() {
    let dir = TempDir::new().expect("a directory");
    let hub = Hub::serve(&dir.path().join("rooms"), None, None);
    let a = replica(&dir, "a");
    Run::opor(["sync", &a, &hub.url()]).ok();
    // A clock that is two hours ahead: what it stamps is from the future.
    let ahead = {
        let store = Store::open(&a).expect("a database");
        let now = store.changes_since(0.into()).expect("a log");
        assert!(now.is_empty());
        drop(store);
        with_store(&a, "INSERT INTO todos VALUES ('x', 'now', NULL)");
        let store = Store::open(&a).expect("a database");
        let log = store.changes_since(0.into()).expect("a log");
        let title = log.changes().find(|change| change.cid == Cid::from("title")).expect("a title");
        Change { col_version: (title.col_version.0 + ((2 * 3_600_000) << 9)).into(), ..title }
    };
    let options = opor_store::OpenOptions::new().drift_max_ms(10 * 3_600_000);
    let mut store = options.open(&a).expect("a database");
    store.apply(&[ahead].into_iter().collect()).expect("its own clock lets it");
    drop(store);
    Run::opor(["sync", &a, &hub.url()]).fails_with(1, "too far ahead of the time");
    let room = path(&dir, "rooms/garden.sqlite");
    assert_eq!(rows(&room), Vec::<Vec<String>>::new());
    assert_eq!(rows(&a).len(), 1);
}
