//! Several processes on one file: nothing is lost, versions have no holes, and a killed writer leaves a sound file.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use opor_core::DbVersion;
use opor_store::Store;
use opor_tests::changes_since;
use serde_json::{Value as Json, json};

use crate::replicas::{Folder, exec, file, lines, log, memory, pull, reopen, table};

const SCHEMA: &str =
    "PRAGMA journal_mode = wal; CREATE TABLE rows(id INTEGER PRIMARY KEY NOT NULL, word TEXT)";

/// The helper program with a replica of its own on the same file.
struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    #[track_caller]
    fn spawn(path: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peer"));
        command.arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the helper starts");
        let stdin = child.stdin.take().expect("its input is piped");
        let stdout = BufReader::new(child.stdout.take().expect("its output is piped")).lines();
        Self { child, stdin, stdout }
    }

    #[track_caller]
    fn send(&mut self, command: &Json) {
        writeln!(self.stdin, "{command}").expect("the helper listens");
    }

    /// The next answer; `None` once the helper is gone.
    #[track_caller]
    fn answer(&mut self) -> Option<Json> {
        let line = self.stdout.next()?.ok()?;
        let answer: Json = serde_json::from_str(&line).ok()?;
        assert!(answer.get("error").is_none(), "the helper failed: {answer}");
        Some(answer)
    }

    #[track_caller]
    fn ask(&mut self, command: &Json) -> Json {
        self.send(command);
        self.answer().expect("the helper answers")
    }

    fn kill(mut self) -> Vec<Json> {
        self.child.kill().expect("the helper is killed");
        let mut rest = Vec::new();
        while let Some(answer) = self.answer() {
            rest.push(answer);
        }
        self.child.wait().expect("the helper is gone");
        rest
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Each row has its own commit, commits are numbered without holes, and a peer gets every row.
#[track_caller]
fn assert_sound(store: &Store, rows: usize) {
    assert_eq!(lines(store, "PRAGMA integrity_check"), ["ok"]);
    assert_eq!(table(store, "rows").len(), rows);
    let mut versions: Vec<_> = log(store).iter().map(|row| row.db_version).collect();
    versions.dedup();
    assert_eq!(versions, (1..=rows as i64).collect::<Vec<_>>(), "one version a commit, none missing");
    let mut peer = memory(0xc, "CREATE TABLE rows(id INTEGER PRIMARY KEY NOT NULL, word TEXT)", &["rows"]);
    pull(&mut peer, store);
    assert_eq!(table(&peer, "rows"), table(store, "rows"));
}

#[test]
fn writers_in_several_processes_lose_nothing() {
    let folder = Folder::new();
    let path = folder.file("shared.db");
    let store = file(&path, 0xb, SCHEMA, &["rows"]);
    let mut helpers: Vec<_> = (0..3).map(|_| Process::spawn(&path)).collect();
    let each = 60_i64;
    for (index, helper) in helpers.iter_mut().enumerate() {
        helper.send(&json!({"hammer": {"first": index as i64 * each, "count": each}}));
    }
    for id in 1000..1000 + each {
        exec(&store, &format!("INSERT INTO rows VALUES ({id}, 'mine')"));
    }
    for helper in &mut helpers {
        let answers: Vec<_> = (0..=each).map(|_| helper.answer().expect("an answer a commit")).collect();
        assert_eq!(answers.last(), Some(&json!({"done": each})));
    }
    assert_sound(&store, 4 * each as usize);
}

#[test]
fn writers_in_several_threads_lose_nothing() {
    let folder = Folder::new();
    let path = folder.file("shared.db");
    let store = file(&path, 0xb, SCHEMA, &["rows"]);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let path = &path;
            scope.spawn(move || {
                let store = reopen(path, 0xb);
                for id in thread * 100..thread * 100 + 50 {
                    exec(&store, &format!("INSERT INTO rows VALUES ({id}, 'thread {thread}')"));
                }
            });
        }
    });
    assert_sound(&store, 150);
}

#[test]
fn another_process_sees_each_commit_and_its_version() {
    let folder = Folder::new();
    let path = folder.file("shared.db");
    let store = file(&path, 0xb, SCHEMA, &["rows"]);
    let mut helper = Process::spawn(&path);
    for id in 1..=20 {
        exec(&store, &format!("INSERT INTO rows VALUES ({}, 'mine')", 2 * id));
        let seen = helper.ask(&json!({"since": 2 * id - 2}));
        assert_eq!(seen["changes"].as_array().map(Vec::len), Some(1), "{seen}");
        helper.ask(&json!({"sql": format!("INSERT INTO rows VALUES ({}, 'theirs')", 2 * id + 1)}));
        assert_eq!(store.db_version().expect("a version"), DbVersion(2 * id));
        let mine = changes_since(&store, &format!("db_version > {}", 2 * id - 1)).expect("the log reads");
        assert_eq!(mine.len(), 1, "{mine:?}");
    }
}

#[test]
fn a_killed_writer_loses_nothing_it_acknowledged() {
    let folder = Folder::new();
    let path = folder.file("killed.db");
    let mut next = 0;
    drop(file(&path, 0xb, SCHEMA, &["rows"]));
    for round in 0..6 {
        let mut helper = Process::spawn(&path);
        helper.send(&json!({"hammer": {"first": next, "count": 1_000_000}}));
        let wanted = 7 * (round + 1);
        let mut acknowledged: Vec<_> =
            (0..wanted).map(|_| helper.answer().expect("an answer a commit")).collect();
        acknowledged.extend(helper.kill());
        let last = acknowledged.iter().filter_map(|answer| answer["committed"].as_i64()).max();

        let store = reopen(&path, 0xb);
        let there = table(&store, "rows").len() as i64;
        let acknowledged = last.expect("something was acknowledged") + 1;
        assert!(there >= acknowledged, "acknowledged {acknowledged}, there are {there}");
        assert_sound(&store, there as usize);
        next = there;
    }
}

#[test]
fn a_table_made_by_another_process_is_known_here() {
    let folder = Folder::new();
    let path = folder.file("shared.db");
    let store = file(&path, 0xb, SCHEMA, &["rows"]);
    let mut helper = Process::spawn(&path);
    helper.ask(&json!({"sql": "CREATE TABLE late(id INTEGER PRIMARY KEY NOT NULL, v)"}));
    helper.ask(&json!({"replicate": "late"}));
    exec(&store, "INSERT INTO late VALUES (1, 'here')");
    let seen = helper.ask(&json!({"since": 0}));
    assert_eq!(seen["changes"][0]["table"], "late", "{seen}");
    helper.ask(&json!({"sql": "UPDATE late SET v = 'there'"}));
    assert_eq!(lines(&store, "SELECT val, col_version FROM crsql_changes"), ["there|2"]);
}
