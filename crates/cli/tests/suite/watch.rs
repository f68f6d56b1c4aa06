//! `opor watch` as people run it: a process that reads, others that write.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use opor_store::{OpenOptions, Store};
use rusqlite::Connection;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::running::{Hub, Running};
use crate::support::{Run, plain, todo_database, with_store};

const LIST: &str = "SELECT id, title FROM todos ORDER BY title, id";

/// A database with a todo list that replicates, and a table that does not.
fn database(dir: &TempDir, name: &str) -> String {
    let file = todo_database(dir.path(), name);
    plain(&file, "CREATE TABLE plain(id INTEGER PRIMARY KEY, v)");
    Run::opor(["init", &file, "todos"]).ok();
    file
}

fn watch(file: &str, sql: &str, more: &[&str]) -> Running {
    Running::opor(&[&["watch", file, sql], more].concat(), None)
}

/// What a reader of the stream has: the rows after every edit so far.
#[track_caller]
fn fold(said: &[Json]) -> Vec<Json> {
    let mut rows: Vec<Json> = Vec::new();
    let place =
        |edit: &Json, name: &str| usize::try_from(edit[name].as_u64().expect("a place")).expect("a place");
    for event in said {
        if event["event"] == "reset" {
            rows = event["rows"].as_array().expect("rows").clone();
        }
        for edit in event["edits"].as_array().into_iter().flatten() {
            match edit["op"].as_str() {
                Some("remove") => drop(rows.remove(place(edit, "at"))),
                Some("insert") => rows.insert(place(edit, "at"), edit["row"].clone()),
                Some("update") => rows[place(edit, "at")] = edit["row"].clone(),
                Some("move") => {
                    let row = rows.remove(place(edit, "from"));
                    rows.insert(place(edit, "to"), row);
                }
                _ => panic!("an edit of another kind: {edit}"),
            }
        }
    }
    rows
}

/// What the query gives now, two columns of texts.
fn fresh(file: &str, sql: &str) -> Vec<Json> {
    let db = Connection::open(file).expect("a database");
    let mut select = db.prepare(sql).expect("SQL");
    let names: Vec<String> = select.column_names().into_iter().map(str::to_owned).collect();
    let row = |row: &rusqlite::Row<'_>| {
        Ok(
            json!({ names[0].as_str(): row.get::<_, String>(0)?, names[1].as_str(): row.get::<_, String>(1)? }),
        )
    };
    select.query_map([], row).expect("rows").collect::<Result<_, _>>().expect("rows")
}

fn version(file: &str) -> u64 {
    Store::open(file).expect("a store").db_version().expect("a version").0
}

#[test]
fn what_another_process_writes_comes_as_edits() {
    let dir = TempDir::new().expect("a directory");
    let file = database(&dir, "a");
    with_store(&file, "INSERT INTO todos VALUES ('x', 'b', NULL), ('z', 'z', NULL)");
    let mut run = watch(&file, LIST, &["--key", "id"]);
    let first = run.event("reset");
    assert_eq!(first["columns"], json!(["id", "title"]));
    assert_eq!(first["rows"], json!([{ "id": "x", "title": "b" }, { "id": "z", "title": "z" }]));
    assert_eq!((&first["origin"], &first["commit"]), (&Json::Null, &json!(version(&file))));

    with_store(&file, "INSERT INTO todos VALUES ('y', 'a', NULL)");
    let diff = run.event("diff");
    let row = json!({ "id": "y", "title": "a" });
    assert_eq!(diff["edits"], json!([{ "op": "insert", "at": 0, "row": row }]));
    assert_eq!((&diff["origin"], &diff["commit"]), (&json!("local"), &json!(version(&file))));
    assert_ne!(diff["token"], first["token"]);

    // Another column, and then one transaction of several statements.
    with_store(&file, "UPDATE todos SET extra = 7");
    with_store(
        &file,
        "BEGIN; UPDATE todos SET title = 'c' WHERE id = 'y'; DELETE FROM todos WHERE id = 'x'; COMMIT",
    );
    let diff = run.event("diff");
    let row = json!({ "id": "y", "title": "c" });
    let both = json!([{ "op": "remove", "at": 1 }, { "op": "update", "at": 0, "row": row }]);
    assert_eq!((&diff["edits"], &diff["commit"]), (&both, &json!(version(&file))), "{:#?}", run.said);
    run.signal("-INT");
    assert_eq!(run.ends(), Some(0));
    assert_eq!(run.said.last(), Some(&json!({ "event": "stopped" })));
    assert_eq!(run.said.len(), 4, "what does not change the result is not told: {:#?}", run.said);
}

#[test]
fn a_connection_without_opor_is_followed_in_every_journal_mode() {
    for mode in ["wal", "delete"] {
        let dir = TempDir::new().expect("a directory");
        let file = database(&dir, "a");
        plain(&file, &format!("PRAGMA journal_mode = {mode}"));
        let mut run = watch(&file, "SELECT v FROM plain ORDER BY v", &[]);
        run.event("reset");
        for n in 0..3 {
            plain(&file, &format!("INSERT INTO plain(v) VALUES ({n})"));
            let diff = run.event("diff");
            assert_eq!(diff["edits"], json!([{ "op": "insert", "at": n, "row": { "v": n } }]), "{mode}");
            assert_eq!(diff["origin"], "local", "nobody else writes a table that does not replicate");
        }
        run.signal("-TERM");
        assert_eq!(run.ends(), Some(0));
    }
}

/// Marsaglia's xorshift: the same numbers every time.
fn dice(state: &mut u64, sides: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % sides
}

#[test]
fn folded_diffs_equal_a_fresh_query_after_many_writes() {
    let dir = TempDir::new().expect("a directory");
    let file = database(&dir, "a");
    let limited = "SELECT id, title FROM todos WHERE title > 'd' ORDER BY title DESC, id LIMIT 7";
    let grouped = "SELECT title, group_concat(id ORDER BY id) AS ids FROM todos GROUP BY title";
    let queries = [(LIST, vec!["--key", "id"]), (limited, vec![]), (grouped, vec!["--key", "title"])];
    let mut runs: Vec<_> = queries.iter().map(|(sql, more)| (*sql, watch(&file, sql, more))).collect();
    for (_, run) in &mut runs {
        run.event("reset");
    }
    let store = Store::open(&file).expect("a store");
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..300 {
        let statements = 1 + dice(&mut state, 4);
        let mut sql = String::from("BEGIN;");
        for _ in 0..statements {
            let (id, title) = (dice(&mut state, 30), char::from(b'a' + dice(&mut state, 9) as u8));
            sql += &match dice(&mut state, 5) {
                0 | 1 => format!("INSERT OR REPLACE INTO todos(id, title) VALUES ('{id}', '{title}');"),
                2 => format!("DELETE FROM todos WHERE id = '{id}';"),
                3 => format!("UPDATE todos SET title = '{title}' WHERE id < '{id}';"),
                _ => format!("UPDATE todos SET title = '{title}' WHERE id = '{id}';"),
            };
        }
        store.execute_batch(&sql).expect("SQL runs");
        store.execute_batch(if dice(&mut state, 4) == 0 { "ROLLBACK" } else { "COMMIT" }).expect("it ends");
    }
    store.execute_batch("INSERT OR REPLACE INTO todos(id, title) VALUES ('last', 'zz')").expect("SQL runs");
    for (sql, run) in &mut runs {
        let expected = fresh(&file, sql);
        assert!(expected.len() > 1, "{sql}");
        // The last write concerns each of them, so each comes to its end.
        while fold(&run.said) != expected {
            run.until(|event| event["event"] != "stopped");
        }
        run.signal("-TERM");
        assert_eq!(run.ends(), Some(0));
        assert_eq!(fold(&run.said), expected, "nothing comes after that");
        assert!(run.said.iter().all(|event| event["event"] != "error"), "{:#?}", run.said);
    }
}

#[test]
fn what_a_peer_wrote_comes_while_syncing_with_who_wrote_it() {
    let dir = TempDir::new().expect("a directory");
    let hub = Hub::serve(&dir.path().join("rooms"), None, None);
    let (a, b) = (database(&dir, "a"), database(&dir, "b"));
    let mut at_a = Running::opor(&["sync", "--watch", &a, &hub.url()], None);
    let mut at_b = Running::opor(&["sync", "--watch", &b, &hub.url()], None);
    at_a.is_live();
    at_b.is_live();
    let mut run = watch(&b, LIST, &["--key", "id"]);
    run.event("reset");
    with_store(&a, "BEGIN; INSERT INTO todos VALUES ('x', 'one', NULL), ('y', 'two', NULL); COMMIT");
    let diff = run.event("diff");
    let site = |file: &str| Store::open(file).expect("a store").site_id().to_string();
    assert_eq!(diff["origin"], json!(site(&a)), "{diff}");
    assert_eq!(diff["edits"].as_array().map(Vec::len), Some(2), "a transaction comes whole: {diff}");
    with_store(&b, "UPDATE todos SET title = 'three' WHERE id = 'x'");
    let diff = run.event("diff");
    assert_eq!(diff["origin"], "local", "{diff}");
    for n in 0..50 {
        with_store(&a, &format!("INSERT INTO todos VALUES ('{n}', 'x', NULL)"));
    }
    with_store(&a, "DELETE FROM todos WHERE id = 'y'");
    let ended = |rows: &[Json]| rows.len() == 51 && !rows.iter().any(|row| row["id"] == "y");
    while !ended(&fold(&run.said)) {
        run.event("diff");
    }
    assert_eq!(fold(&run.said), fresh(&b, LIST));
    assert_eq!(fold(&run.said), fresh(&a, LIST));
}

#[test]
fn parameters_are_bound_by_order_and_by_name() {
    let dir = TempDir::new().expect("a directory");
    let file = database(&dir, "a");
    let sql = "SELECT ? AS a, ? AS b, ? AS c, :d AS d, @e AS e, 1e999 AS f, 1 AS a";
    let values =
        ["--param", "-3", "--param", "'3'", "--param", "x'00ff'", "--param", "d=NULL", "--param", "@e=a=b"];
    let mut run = watch(&file, sql, &values);
    let row = json!({ "a": -3, "b": "3", "c": { "blob": "00ff" }, "d": null, "e": "a=b", "f": { "real": "inf" }, "a:1": 1 });
    assert_eq!(run.event("reset")["rows"], json!([row]));
    for (values, code, reason) in [
        (vec!["--param", "x'0'"], 2, "even number of hex digits"),
        (vec!["--param", "'a"], 2, "quote"),
        (vec!["--param", "1e999"], 2, "larger than any"),
        (vec!["--param", "d=1", "--param", ":d=2"], 1, "parameter :d is given twice"),
        (vec!["--param", "1"], 1, "parameter ?2 has no value"),
        (vec!["--param", "z=1"], 1, "no parameter z"),
        (vec!["--param=1"; 6], 1, "no parameter ?6"),
    ] {
        Run::opor([&["watch", &file, sql], &values[..]].concat()).fails_with(code, reason);
    }
}

/// What a run says that ends by itself with an error.
fn refused(args: &[&str]) -> (String, String, Option<i32>) {
    let run = Command::new(env!("CARGO_BIN_EXE_opor")).args(args).stdin(Stdio::null()).output();
    let output = run.expect("opor runs");
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn a_query_that_is_none_is_refused_with_the_place() {
    let dir = TempDir::new().expect("a directory");
    let file = database(&dir, "a");
    let (stdout, stderr, code) = refused(&["watch", &file, "SELECT id,\n  nope\nFROM todos"]);
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    assert_eq!(stderr, "opor: no such column: nope\n    nope\n    ^\n");
    let (stdout, stderr, code) = refused(&["watch", "--json", &file, "SELECT FROM"]);
    assert_eq!(code, Some(1));
    let event: Json = serde_json::from_str(&stdout).expect("one event");
    assert_eq!((&event["event"], &event["offset"]), (&json!("error"), &json!(7)), "{event}");
    assert!(stderr.ends_with("\n  SELECT FROM\n         ^\n"), "{stderr}");
    let fails = |sql: &str, reason| Run::opor(["watch", &file, sql]).fails_with(1, reason);
    fails("DELETE FROM todos", "a live query only reads");
    fails("SELECT 1; SELECT 2", "one statement");
    fails("SELECT random()", "random gives another result every time");
    Run::opor(["watch", &file, "SELECT id FROM todos", "--key", "nope"]).fails_with(1, "no column \"nope\"");
    Run::opor(["watch", &file]).fails_with(2, "SQL");
    with_store(&file, "INSERT INTO todos(id, title) VALUES ('x', 'same'), ('y', 'same')");
    let mut run = watch(&file, LIST, &["--key", "title"]);
    let error = run.event("error");
    assert_eq!(error["message"], "two rows of the result have the same key: rows 0 and 1");
    with_store(&file, "DELETE FROM todos WHERE id = 'x'");
    assert_eq!(run.event("reset")["rows"], json!([{ "id": "y", "title": "same" }]), "it goes on");
}

#[test]
fn what_opor_has_not_opened_is_left_alone() {
    let dir = TempDir::new().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    std::fs::write(path("text"), "just some text, long enough to be read").expect("a file");
    let file = todo_database(dir.path(), "plain");
    let before = std::fs::read(&file).expect("the file");
    let fails = |file: &str, reason| Run::opor(["watch", file, "SELECT 1"]).fails_with(1, reason);
    fails(&path("missing"), "does not exist");
    fails(&path("text"), "is not an SQLite database");
    fails(&path(""), "is a directory");
    fails(&file, "has never been opened by opor");
    fails("file:memory?mode=memory", "cannot begin with file:");
    assert!(!dir.path().join("missing").exists());
    assert_eq!(std::fs::read(&file).expect("the file"), before);
}

#[test]
fn a_schema_that_moves_is_told_and_followed() {
    let dir = TempDir::new().expect("a directory");
    let file = database(&dir, "a");
    let mut run = watch(&file, "SELECT * FROM plain", &[]);
    run.event("reset");
    with_store(&file, "ALTER TABLE plain ADD COLUMN w DEFAULT 5; INSERT INTO plain(v) VALUES (1)");
    let reset = run.until(|event| event["rows"][0]["v"] == 1);
    assert_eq!(reset["columns"], json!(["id", "v", "w"]));
    with_store(&file, "DROP TABLE plain");
    assert_eq!(run.event("error")["message"], "no such table: plain");
    with_store(&file, "CREATE TABLE plain(v)");
    let reset = run.event("reset");
    assert_eq!((&reset["columns"], &reset["rows"]), (&json!(["v"]), &json!([])));
}

#[test]
fn a_reader_that_leaves_ends_it_though_nothing_changes() {
    let dir = TempDir::new().expect("a directory");
    let file = database(&dir, "a");
    for json in [&["--json"][..], &[]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_opor"));
        command.args(["watch", &file, LIST]).args(json);
        let mut child: Child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("opor starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        assert_ne!(line, "");
        drop(stdout);
        let mut stderr = String::new();
        child.stderr.take().expect("its errors").read_to_string(&mut stderr).expect("text");
        assert_eq!((child.wait().expect("it ends").code(), stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn lines_are_for_people_and_harmless() {
    let dir = TempDir::new().expect("a directory");
    let file = database(&dir, "a");
    with_store(&file, "INSERT INTO todos VALUES ('x', 'a' || char(27) || '[2J', x'00ff')");
    let mut command = Command::new(env!("CARGO_BIN_EXE_opor"));
    command.args(["watch", &file, "SELECT id, title, extra FROM todos ORDER BY id", "--key", "id"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("opor starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!(next(), "id  title       extra");
    next();
    assert_eq!(next(), "x   a\\u{1b}[2J  x'00ff'");
    assert!(next().starts_with("1 row, commit 1 at "));
    with_store(&file, "INSERT INTO todos VALUES ('y', 'b', char(8238))");
    assert!(next().starts_with("commit 2 by local at "));
    assert_eq!(next(), "+ 1  id='y' title='b' extra='\\u{202e}'");
    with_store(&file, "DELETE FROM todos WHERE id = 'x'");
    next();
    assert_eq!(next(), "- 0  id='x' title='a\\u{1b}[2J' extra=x'00ff'");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(killed.expect("kill runs").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn watching_writes_nothing() {
    let dir = TempDir::new().expect("a directory");
    let file = database(&dir, "a");
    let before = std::fs::read(&file).expect("the file");
    let mut run = watch(&file, LIST, &[]);
    run.event("reset");
    run.signal("-TERM");
    assert_eq!(run.ends(), Some(0));
    assert_eq!(std::fs::read(&file).expect("the file"), before);
    // It can be read while it cannot be written.
    let held = OpenOptions::new().open(&file).expect("a store");
    held.execute_batch("BEGIN IMMEDIATE; INSERT INTO todos VALUES ('x', 'held', NULL)")
        .expect("it holds the lock");
    let mut run = watch(&file, LIST, &[]);
    assert_eq!(run.event("reset")["rows"], json!([]));
    held.execute_batch("COMMIT").expect("it commits");
    assert_eq!(run.event("diff")["edits"].as_array().map(Vec::len), Some(1));
}
