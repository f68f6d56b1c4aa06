//! Snapshots, restores and compaction as people run them.

use std::fs;
use std::path::Path;

use crate::support::{self, Run, todo_database};
use serde_json::json;
use tempfile::TempDir;

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_string_lossy().into_owned()
}

/// A database of some rows, and a snapshot of it.
fn database_and_snapshot(dir: &Path) -> (String, String) {
    let (a, snapshot) = (todo_database(dir, "a"), path(dir, "a.snapshot"));
    Run::opor(["init", &a, "todos"]).ok();
    support::with_store(
        &a,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 9000) \
         INSERT INTO todos SELECT hex(randomblob(16)), i, 0 FROM n",
    );
    let made = Run::opor(["snapshot", "--json", &a, &snapshot]).ok().json();
    assert_eq!((&made["tables"], &made["db_version"]), (&json!(["todos"]), &json!(1)), "{made}");
    let bytes = fs::metadata(&snapshot).expect("the snapshot").len();
    assert_eq!(made["bytes"], bytes, "{made}");
    assert!(bytes < made["image_bytes"].as_u64().expect("a number"), "{made}");
    (a, snapshot)
}

#[test]
fn a_new_replica_is_made_of_a_snapshot_and_another_catches_up() {
    let dir = TempDir::new().expect("a directory");
    let (a, snapshot) = database_and_snapshot(dir.path());
    let b = path(dir.path(), "b.db");
    let made = Run::opor(["restore", &snapshot, &b]).ok();
    assert!(made.stdout.starts_with("made") && made.stdout.contains("up to commit 1"), "{made:?}");
    assert_eq!(support::rows(&b), support::rows(&a));
    let (of_a, of_b) =
        (Run::opor(["status", "--json", &a]).ok().json(), Run::opor(["status", "--json", &b]).ok().json());
    assert_ne!(of_a["site_id"], of_b["site_id"], "a replica of its own");
    assert_eq!(of_b["peers"][0]["site_id"], of_a["site_id"]);
    assert_eq!(of_b["peers"][0]["acknowledged"], 1);
    Run::opor(["restore", &snapshot, &b]).fails_with(1, "exists; --merge merges");

    support::with_store(&b, "INSERT INTO todos VALUES ('own', 'mine', 1)");
    support::with_store(&a, "INSERT INTO todos VALUES ('theirs', 'new', 1)");
    let human = Run::opor(["snapshot", &a, &snapshot]).ok();
    assert!(human.stdout.contains("written") && human.stdout.contains("tables  todos"), "{human:?}");
    let merged = Run::opor(["restore", "--merge", "--json", &snapshot, &b]).ok().json();
    assert_eq!(
        (&merged["merged"]["rows_inserted"], &merged["db_version"]),
        (&json!(1), &json!(3)),
        "{merged}"
    );
    assert_eq!(support::rows(&b).len(), 9002, "what was written here is kept");
    let names: Vec<_> = fs::read_dir(dir.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("partial")), "{names:?}");
    let fresh = path(dir.path(), "fresh.db");
    Run::opor(["restore", "--merge", &snapshot, &fresh]).fails_with(1, "leave --merge out");
}

#[test]
fn a_restore_that_broke_off_goes_on_and_a_damaged_one_makes_nothing() {
    let dir = TempDir::new().expect("a directory");
    let (a, snapshot) = database_and_snapshot(dir.path());
    let (b, cut) = (path(dir.path(), "b.db"), path(dir.path(), "cut"));
    let bytes = fs::read(&snapshot).expect("the snapshot");
    fs::write(&cut, &bytes[..bytes.len() - bytes.len() / 3]).expect("a file");
    Run::opor(["restore", &cut, &b]).fails_with(1, "ends in the middle");
    assert!(!Path::new(&b).exists(), "there is never half a database");
    let partial = format!("{b}.opor-partial");
    assert!(fs::metadata(&partial).expect("what was good is kept").len() > 100_000);

    let mut damaged = bytes.clone();
    let last = damaged.len() - 40;
    damaged[last] ^= 1;
    fs::write(&cut, &damaged).expect("a file");
    Run::opor(["restore", &cut, &b]).fails_with(1, "is damaged");
    fs::write(&cut, b"something else").expect("a file");
    Run::opor(["restore", &cut, &b]).fails_with(1, "not the manifest of a snapshot");
    assert!(!Path::new(&b).exists());
    Run::opor(["restore", &snapshot, &b]).ok();
    assert_eq!(support::rows(&b), support::rows(&a));
    assert!(!Path::new(&partial).exists());
}

#[test]
fn deletes_are_dropped_once_they_are_acknowledged_or_old() {
    let dir = TempDir::new().expect("a directory");
    let a = todo_database(dir.path(), "a");
    Run::opor(["init", &a, "todos"]).ok();
    support::with_store(&a, "INSERT INTO todos VALUES ('x', 1, 1), ('y', 1, 1)");
    support::with_store(&a, "DELETE FROM todos WHERE id = 'x'");
    let human = Run::opor(["gc", &a]).ok();
    assert!(human.stdout.contains("0 dropped, 1 kept (no peer is known"), "{human:?}");
    // The compaction before knows that the delete is older than now.
    let report = Run::opor(["gc", "--json", "--older-than", "0s", "--vacuum", &a]).ok().json();
    assert_eq!((&report["tombstones_dropped"], &report["horizon"]), (&json!(1), &json!(2)), "{report}");
    assert!(report["bytes_after"].as_u64() <= report["bytes_before"].as_u64(), "{report}");
    assert_eq!(support::rows(&a).len(), 1);
    Run::opor(["gc", "--older-than", "soon", &a]).fails_with(2, "such as 30d");
    Run::opor(["changes", &a, "--since", "1"]).fails_with(1, "behind the horizon");
    Run::opor(["changes", &a]).ok();
}
