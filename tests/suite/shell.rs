//! The stock `sqlite3` shell, which knows nothing of opor: its writes are refused or noticed, never lost; its dumps restore.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::replicas::{Folder, exec, file, lines, memory, pull, reopen, table};

const FOO: &str = "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c)";

/// Whether the shell is there. A machine that runs the whole suite must have it.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn has_shell() -> bool {
    let there = Command::new("sqlite3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        assert!(std::env::var_os("CI").is_none(), "sqlite3, the shell, is missing: apt-get install sqlite3");
        eprintln!("SKIPPED: sqlite3, the shell, is missing");
    }
    there
}

/// Runs SQL in the shell.
#[track_caller]
fn shell(path: &Path, sql: &str) -> Output {
    let mut command = Command::new("sqlite3");
    command.arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the shell starts");
    child.stdin.take().expect("its input is piped").write_all(sql.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// What the shell wrote is refused, or is in the change log and reaches a peer.
#[track_caller]
fn refused_or_noticed(open: bool, sql: &str) {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut store = Some(file(&path, 0xa, FOO, &["foo"]));
    let mut peer = memory(0xb, FOO, &["foo"]);
    exec(store.as_ref().expect("open"), "INSERT INTO foo VALUES ('x', 1, 1), ('y', 2, 2), ('z', 3, 3)");
    pull(&mut peer, store.as_ref().expect("open"));
    let before = table(store.as_ref().expect("open"), "foo");
    if !open {
        store = None;
    }
    let output = shell(&path, sql);
    let mut store = store.unwrap_or_else(|| reopen(&path, 0xa));
    let after = table(&store, "foo");
    if output.status.success() {
        assert_ne!(after, before, "the shell wrote: {sql}");
    } else {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(after, before, "refused: {words}");
    }
    if output.status.success() && after.is_empty() {
        // Emptied at a stroke, which asks no guard. The keys are gone, so the rows come back from whoever has them.
        pull(&mut store, &peer);
        assert_eq!(table(&store, "foo"), before, "nothing is lost");
        let incidents = store.incidents().expect("the incidents");
        let told: Vec<_> = incidents.iter().map(|incident| (&*incident.table, &*incident.what)).collect();
        assert_eq!(told, [("foo", "emptied without opor: its rows come back with the next pull")]);
    }
    let after = table(&store, "foo");
    pull(&mut peer, &store);
    assert_eq!(table(&peer, "foo"), after, "a peer has what is here after: {sql}");
    // And nothing is confused afterwards: both sides write and stay equal.
    exec(&store, "UPDATE foo SET c = 'here'; INSERT INTO foo VALUES ('new', 4, 4)");
    exec(&peer, "UPDATE foo SET b = 'there'");
    pull(&mut peer, &store);
    pull(&mut store, &peer);
    assert_eq!(table(&peer, "foo"), table(&store, "foo"), "after both wrote on");
}

const WRITES: &[&str] = &[
    "INSERT INTO foo VALUES ('w', 9, 9);",
    "UPDATE foo SET b = 99 WHERE a = 'x';",
    "DELETE FROM foo WHERE a = 'y';",
    "DELETE FROM foo;",
    "UPDATE foo SET a = 'moved' WHERE a = 'z';",
    "BEGIN; DELETE FROM foo WHERE a = 'z'; INSERT INTO foo VALUES ('q', 7, 7); COMMIT;",
    "REPLACE INTO foo VALUES ('x', 50, 51);",
];

#[test]
fn a_write_by_the_stock_shell_while_the_file_is_open_is_refused_or_noticed() {
    if has_shell() {
        WRITES.iter().for_each(|sql| refused_or_noticed(true, sql));
    }
}

#[test]
fn a_write_by_the_stock_shell_while_the_file_is_closed_is_refused_or_noticed() {
    if has_shell() {
        WRITES.iter().for_each(|sql| refused_or_noticed(false, sql));
    }
}

#[test]
fn the_stock_shell_reads_and_finds_the_file_sound() {
    if !has_shell() {
        return;
    }
    let folder = Folder::new();
    let path = folder.file("a.db");
    let store = file(&path, 0xa, FOO, &["foo"]);
    exec(&store, "INSERT INTO foo VALUES ('x', 1, 1)");
    let output = shell(&path, "SELECT * FROM foo; PRAGMA quick_check;");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "x|1|1\nok\n");
}

/// `.dump` numbers the rows anew. The restored file is usable: each row belongs to its own clocks.
#[test]
fn a_dump_restores_with_clocks_that_fit() {
    if !has_shell() {
        return;
    }
    let folder = Folder::new();
    let (path, copy) = (folder.file("a.db"), folder.file("copy.db"));
    let store = file(&path, 0xa, FOO, &["foo"]);
    for n in 0..50 {
        exec(&store, &format!("INSERT INTO foo VALUES ('key {n}', {n}, 0)"));
    }
    exec(&store, "DELETE FROM foo WHERE b % 2 = 0; UPDATE foo SET c = b WHERE b % 3 = 0");
    let dump = shell(&path, ".dump");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let restored = shell(&copy, &String::from_utf8(dump.stdout).expect("a dump is text"));
    let complaints = String::from_utf8_lossy(&restored.stderr).into_owned();
    let errors: Vec<_> = complaints.lines().filter(|line| line.contains("error")).collect();
    assert!(matches!(errors.as_slice(), [one, ..] if one.contains("opor_guard")), "{complaints}");

    let mut copied = reopen(&copy, 0xa);
    assert_eq!(copied.site_id(), store.site_id());
    let versions = "SELECT pk, cid, val, col_version, cl FROM crsql_changes ORDER BY pk, cid";
    assert_eq!(lines(&copied, versions), lines(&store, versions));
    exec(&copied, "UPDATE foo SET b = -1 WHERE a = 'key 7'; DELETE FROM foo WHERE a = 'key 9'");
    let mut peer = memory(0xb, FOO, &["foo"]);
    pull(&mut peer, &store);
    pull(&mut peer, &copied);
    assert_eq!(table(&peer, "foo"), table(&copied, "foo"));
    assert_eq!(pull(&mut copied, &peer).db_version, None);
}
