//! The `opor` command as people run it: real files, the real binary.

use std::fs;

use crate::support::{self, Run, todo_database};
use serde_json::json;
use tempfile::TempDir;

#[test]
fn a_table_is_replicated_written_and_moved_to_another_file() {
    let dir = TempDir::new().expect("a directory");
    let (a, b) = (todo_database(dir.path(), "a"), todo_database(dir.path(), "b"));
    for file in [&a, &b] {
        let listed = Run::opor(["init", "--json", file]).ok().json();
        assert_eq!(listed["tables"][0]["state"], "possible", "{listed}");
        let made = Run::opor(["init", "--json", file, "todos"]).ok().json();
        assert_eq!(made["tables"][0]["state"], "replicated", "{made}");
    }
    support::with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', NULL), ('y', 'it''s', x'00ff')");
    let changes = Run::opor(["changes", "--json", &a]).ok();
    assert_eq!(changes.json().as_array().map(Vec::len), Some(4));

    let applied = Run::opor(["apply", "--json", &b]).with_input(&changes.stdout).ok().json();
    assert_eq!((&applied["rows_inserted"], &applied["changes"]), (&json!(2), &json!(4)), "{applied}");
    let again = Run::opor(["apply", "--json", &b, "-"]).with_input(&changes.stdout).ok().json();
    assert_eq!((&again["rows_inserted"], &again["db_version"]), (&json!(0), &json!(null)), "{again}");
    assert_eq!(support::rows(&b), support::rows(&a));
    assert_eq!(support::rows(&b).len(), 2);

    let status = Run::opor(["status", "--json", &b]).ok().json();
    assert_eq!(status["db_version"], applied["db_version"], "{status}");
    assert_eq!(status["tables"], json!([{ "table": "todos", "rows": 2, "replicated": true }]));
    assert_eq!((&status["clock"], &status["peers"]), (&json!("hlc"), &json!([])));
}

#[test]
fn the_binary_form_travels_as_well() {
    let dir = TempDir::new().expect("a directory");
    let (a, b) = (todo_database(dir.path(), "a"), todo_database(dir.path(), "b"));
    Run::opor(["init", &a, "todos"]).ok();
    Run::opor(["init", &b, "todos"]).ok();
    support::with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', 2.5)");
    let out = dir.path().join("changes.opc").to_string_lossy().into_owned();
    Run::opor(["changes", &a, "--binary", "-o", &out]).ok();
    let applied = Run::opor(["apply", &b, &out]).ok();
    assert!(
        applied.stdout.contains("merged 2 changes") && applied.stdout.contains("1 inserted"),
        "{applied:?}"
    );
    assert_eq!(support::rows(&b), support::rows(&a));

    let mut bytes = fs::read(&out).expect("the file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&out, &bytes).expect("a damaged file");
    Run::opor(["apply", &b, &out]).fails_with(1, "checksum");
    assert_eq!(support::rows(&b).len(), 1);
}

#[test]
fn changes_can_be_narrowed_and_read_by_people() {
    let dir = TempDir::new().expect("a directory");
    let file = todo_database(dir.path(), "a");
    Run::opor(["init", &file, "todos"]).ok();
    support::with_store(&file, "INSERT INTO todos VALUES ('x', 'one', NULL)");
    support::with_store(&file, "UPDATE todos SET title = char(27) || '[31mtwo'");
    let all = Run::opor(["changes", &file]).ok().stdout;
    assert!(all.contains("'x'") && all.contains("title") && all.ends_with("2 changes\n"), "{all}");
    assert!(
        all.contains("\\u{1b}[31mtwo") && !all.contains('\u{1b}'),
        "stored text is shown, not obeyed: {all}"
    );
    assert!(all.lines().all(|line| line.chars().count() <= 100), "{all}");
    let later = Run::opor(["changes", "--json", "--since", "1", &file]).ok().json();
    assert_eq!(later.as_array().map(Vec::len), Some(1), "{later}");
    assert_eq!(later[0]["cid"], "title");
    Run::opor(["changes", &file, "--table", "nothing"]).fails_with(1, "no replicated table \"nothing\"");
    Run::opor(["changes", &file, "--since", "18446744073709551615"]).fails_with(2, "since");
}

#[test]
fn tables_that_cannot_replicate_are_named_with_the_reason() {
    let dir = TempDir::new().expect("a directory");
    let file = todo_database(dir.path(), "a");
    support::plain(
        &file,
        "CREATE TABLE nokey (a); CREATE TABLE extra (id INTEGER PRIMARY KEY NOT NULL, u UNIQUE)",
    );
    let before = fs::read(&file).expect("the file");
    let listed = Run::opor(["init", &file]).ok().stdout;
    for line in ["nokey", "extra", "todos"] {
        assert!(listed.contains(line), "{listed}");
    }
    assert!(
        listed.contains("cannot") && listed.contains("primary key") && listed.contains("could"),
        "{listed}"
    );
    Run::opor(["init", &file, "todos", "nokey"]).fails_with(1, "primary key");
    Run::opor(["init", &file, "missing"]).fails_with(1, "no table \"missing\"");
    assert_eq!(fs::read(&file).expect("the file"), before, "looking and failing change nothing");
}

#[test]
fn a_new_file_is_made_and_a_clock_chosen() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("new.sqlite").to_string_lossy().into_owned();
    Run::opor(["init", &file, "todos"]).fails_with(1, "has no table \"todos\"");
    assert!(!dir.path().join("new.sqlite").exists(), "a mistake makes no file");
    Run::opor(["init", &file, "--clock", "lamport"]).ok();
    assert_eq!(Run::opor(["status", "--json", &file]).ok().json()["clock"], "lamport");
}

#[test]
fn what_is_no_database_is_a_sentence() {
    let dir = TempDir::new().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    fs::write(path("text"), "just some text, long enough to be read").expect("a file");
    fs::write(path("torn"), [b"SQLite format 3\0".as_slice(), &[0xff; 200]].concat()).expect("a file");
    let plain = todo_database(dir.path(), "plain");
    for command in ["changes", "status"] {
        Run::opor([command, &path("text")]).fails_with(1, "is not an SQLite database");
        Run::opor([command, &path("torn")]).fails_with(1, "is not an SQLite database");
        Run::opor([command, &path("missing")]).fails_with(1, "does not exist");
        Run::opor([command, &path("")]).fails_with(1, "is a directory");
        Run::opor([command, &plain]).fails_with(1, "no replicated tables");
        Run::opor([command, "file:memory?mode=memory"]).fails_with(1, "cannot begin with file:");
    }
    assert!(!dir.path().join("missing").exists(), "looking makes no file");
    Run::opor(["lab", "--db", &path("text")]).fails_with(1, "is not an SQLite database");
    Run::opor(["lab", "--db", &path("missing")]).fails_with(1, "does not exist");
    Run::opor(["init", &path("text"), "t"]).fails_with(1, "is not an SQLite database");
    Run::opor(["nonsense"]).fails_with(2, "nonsense");
}

#[test]
fn a_changeset_that_is_refused_changes_nothing() {
    let dir = TempDir::new().expect("a directory");
    let (a, b) = (todo_database(dir.path(), "a"), todo_database(dir.path(), "b"));
    Run::opor(["init", &a, "todos"]).ok();
    Run::opor(["init", &b, "todos"]).ok();
    support::with_store(&a, "INSERT INTO todos VALUES ('x', 'one', NULL)");
    let good = Run::opor(["changes", "--json", &a]).ok().stdout;
    let refused = |input: &str, reason| Run::opor(["apply", &b]).with_input(input).fails_with(1, reason);
    refused("", "not a changeset");
    refused("[{]", "not a changeset");
    refused("opc", "not a changeset");
    refused("[{\"table\":\"todos\"}]", "field pk of change 0");
    refused(&good.replace("\"todos\"", "\"nothing\""), "table \"nothing\" is not replicated here");
    refused(&good.replace("\"cl\":1", "\"cl\":18446744073709551615"), "");
    let far = support::with_col_version(&good, u64::MAX);
    refused(&far, "");
    let far = support::with_col_version(&good, 8_563_000_000_000_000);
    refused(&far, "ahead of local time");
    assert_eq!(support::rows(&b), Vec::<Vec<String>>::new());
    Run::opor(["apply", &b]).with_input(&good).ok();
    assert_eq!(support::rows(&b).len(), 1, "a good one still works");
}

#[test]
fn what_cannot_be_stored_is_kept_when_asked_and_told() {
    let dir = TempDir::new().expect("a directory");
    let (a, b) = (todo_database(dir.path(), "a"), todo_database(dir.path(), "b"));
    Run::opor(["init", &a, "todos"]).ok();
    Run::opor(["init", &b, "todos"]).ok();
    support::with_store(&a, "INSERT INTO todos VALUES ('x', 'one', NULL)");
    let good = Run::opor(["changes", "--json", &a]).ok().stdout;
    let other = good.replace("\"todos\"", "\"notes\"");
    Run::opor(["apply", &b]).with_input(&other).fails_with(1, "is not replicated here");
    let report = Run::opor(["apply", "--keep", "--json", &b]).with_input(&other).ok().json();
    assert_eq!(report["quarantined"], report["changes"]);
    let status = Run::opor(["status", "--json", &b]).ok().json();
    assert_eq!(status["quarantine"][0]["table"], "notes");
    assert_eq!(status["quarantine"][0]["changes"], report["changes"]);
    assert_eq!(status["conflicts"], serde_json::json!([]));
    let shown = Run::opor(["status", &b]).ok().stdout;
    assert!(shown.contains("changes of notes: the table does not replicate here"), "{shown}");
}
