//! `opor lab` from start to end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::{self, Run};
use serde_json::Value as Json;
use tempfile::TempDir;

const CHINOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/chinook.sqlite");

#[track_caller]
pub(crate) fn assert_converged(report: &Json) {
    assert_eq!(report["converged"], true, "{report:#}");
    let steps = report["steps"].as_array().expect("steps");
    let checks: Vec<&Json> =
        steps.iter().flat_map(|step| step["checks"].as_array().expect("checks")).collect();
    assert!(checks.len() >= 5, "{report:#}");
    assert!(checks.iter().all(|check| check["holds"] == true), "{checks:#?}");
}

#[test]
fn the_tour_converges_and_explains_itself() {
    let report = Run::opor(["lab", "--json"]).ok().json();
    assert_converged(&report);
    let text = report.to_string();
    for told in
        ["wins: the later write wins", "causal length of the row from 1 to 2", "cursors are what they were"]
    {
        assert!(text.contains(told), "{told}: {report:#}");
    }
    let shown = Run::opor(["lab"]).ok().stdout;
    assert!(shown.contains("✓ converged"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no colour without a terminal");
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    assert!(shown.lines().all(|line| line == line.trim_end()), "{shown}");
}

#[test]
fn a_real_database_converges_table_by_table() {
    let before = fs::read(CHINOOK).expect("the database");
    let report = Run::opor(["lab", "--json", "--db", CHINOOK]).ok().json();
    assert_converged(&report);
    let tables = report["tables"].as_array().expect("tables");
    assert_eq!(tables.len(), 11);
    assert!(
        tables.iter().all(|table| table["differing"] == 0 && table["edits"].as_u64() > Some(8)),
        "{tables:#?}"
    );
    assert_eq!(tables.iter().filter_map(|table| table["rows_before"].as_u64()).sum::<u64>(), 15_607);
    let edits = tables.iter().filter_map(|table| table["both"].as_u64());
    assert!(edits.sum::<u64>() > 20, "many rows are edited on both sides: {tables:#?}");
    assert_eq!(report["not_covered"], Json::Array(Vec::new()));
    assert_eq!(fs::read(CHINOOK).expect("the database"), before, "the original is only read");
    let around =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data")).expect("its directory");
    let names = around.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    assert_eq!(
        names.filter(|name| name.starts_with("chinook.sqlite")).count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn linked_peers_converge_without_a_push_or_a_pull() {
    let report = Run::opor(["lab", "--transport", "ws", "--json"]).ok().json();
    assert_converged(&report);
    let text = report.to_string();
    for told in [
        "three edits arrived, and nobody pushed or pulled",
        "wins: the later write wins",
        "nothing is sent twice: nobody had a reason to commit",
        "only the new row travels: one commit each",
    ] {
        assert!(text.contains(told), "{told}: {report:#}");
    }
    for absent in ["/push", "/pull"] {
        assert!(!text.contains(absent), "{absent}: {report:#}");
    }
    let report = Run::opor(["lab", "--transport", "ws", "--json", "--db", CHINOOK]).ok().json();
    assert_converged(&report);
    let tables = report["tables"].as_array().expect("tables");
    assert!(tables.len() == 11 && tables.iter().all(|table| table["differing"] == 0), "{tables:#?}");
}

#[test]
fn what_a_real_database_cannot_do_is_said() {
    let dir = TempDir::new().expect("a directory");
    let file = dir.path().join("odd.sqlite").to_string_lossy().into_owned();
    support::plain(
        &file,
        "CREATE TABLE good (id INTEGER PRIMARY KEY NOT NULL, name TEXT CHECK (length(name) < 4), n INTEGER); \
         CREATE TABLE \"odd name\"\"\" (k BLOB PRIMARY KEY NOT NULL, v, g AS (length(k)) STORED) WITHOUT ROWID; \
         CREATE TABLE nokey (a); \
         CREATE TABLE empty (id TEXT PRIMARY KEY NOT NULL, v ANY) STRICT; \
         CREATE VIEW v AS SELECT * FROM good; \
         CREATE TRIGGER tr AFTER UPDATE ON good BEGIN UPDATE good SET n = n + 1 WHERE id <> new.id; END; \
         INSERT INTO good VALUES (1, 'abc', 5), (2, 'abc', 6), (3, NULL, NULL), (4, 'x', 1); \
         INSERT INTO \"odd name\"\"\" (k, v) VALUES (x'00', 1), (x'01', 'a'), (x'02', NULL), (x'', x'ff'), (x'05', 2.5);",
    );
    let report = Run::opor(["lab", "--json", "--db", &file]).ok().json();
    assert_converged(&report);
    let mut left_out: Vec<String> = report["not_covered"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|left| {
            format!("{} {}", left["what"].as_str().unwrap_or(""), left["name"].as_str().unwrap_or(""))
        })
        .collect();
    left_out.sort();
    assert_eq!(left_out, ["table nokey", "trigger tr", "view v"]);
    let shown = Run::opor(["lab", "--db", &file]).ok().stdout;
    assert!(shown.contains("Not covered: table nokey"), "{shown}");
}

/// A lab whose servers stay up; its report is the first line.
struct Staying {
    child: std::process::Child,
    report: Json,
}

impl Staying {
    fn start(dir: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_opor"))
            .args(["lab", "--json", "--stay", "--dir", dir])
            .stdout(Stdio::piped())
            .spawn()
            .expect("opor starts");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let report = serde_json::from_str(&line).expect("JSON");
        Self { child, report }
    }

    fn url(&self, name: &str) -> &str {
        self.report["servers"][name]["url"].as_str().expect("an address")
    }

    /// Ends it with ctrl-c.
    fn interrupt(mut self, code: i32) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status().expect("kill runs");
        assert!(sent.success());
        let status = self.child.wait().expect("it ends");
        assert_eq!(status.code(), Some(code));
    }
}

/// A test that fails leaves no servers behind.
impl Drop for Staying {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_curl_commands_work_and_cursors_survive_a_restart() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("lab").to_string_lossy().into_owned();
    let lab = Staying::start(&path);
    assert_converged(&lab.report);
    let mut pulls = 0;
    for step in lab.report["curl"].as_array().expect("steps") {
        for command in step["commands"].as_array().expect("commands") {
            let answer = support::curl(command.as_str().expect("text"));
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            pulls += usize::from(answer.get("received").is_some());
        }
    }
    assert_eq!(pulls, 8, "each of four rounds has two pulls");
    let todos = |lab: &Staying, name: &str| support::curl(&format!("curl {}/todos", lab.url(name)));
    assert_eq!(todos(&lab, "alice"), todos(&lab, "bob"));
    let tea = |todo: &Json| todo["id"] == "tea";
    assert!(!todos(&lab, "bob").as_array().expect("rows").iter().any(tea), "the delete won");

    support::curl(&format!("curl -d '{{\"id\":\"last\",\"title\":\"kept\"}}' {}/add", lab.url("alice")));
    let status =
        |lab: &Staying| ["alice", "bob"].map(|name| support::curl(&format!("curl {}/status", lab.url(name))));
    let before = status(&lab);
    assert!(
        before[0]["pulled_to"].as_u64() > Some(0) && before[0]["acknowledged"].as_u64() > Some(0),
        "{before:?}"
    );
    lab.interrupt(0);

    Run::opor(["lab", "--dir", &path]).fails_with(1, "holds the files of an earlier lab");
    let lab = Staying::start(&path);
    assert_eq!(lab.report["converged"], false, "alice has written since");
    assert_eq!(status(&lab), before);
    let post = |name: &str, action: &str| support::curl(&format!("curl -X POST {}/{action}", lab.url(name)));
    assert_eq!(post("bob", "pull")["received"], 0, "what was pulled is not pulled again");
    assert_eq!(post("alice", "push")["sent"], 2, "only the write of before the restart");
    assert_eq!(post("bob", "pull")["rows_inserted"], 1);
    assert_eq!(todos(&lab, "alice"), todos(&lab, "bob"));
    lab.interrupt(1);
}

#[test]
fn a_peer_refuses_what_it_does_not_understand() {
    let dir = TempDir::new().expect("a directory");
    let lab = Staying::start(&dir.path().join("lab").to_string_lossy());
    let alice = lab.url("alice").to_owned();
    for (request, kind) in [
        ("-d '{' URL/add", "malformed"),
        ("-d '{\"id\":\"x\"}' URL/add", "malformed"),
        ("-d '{\"id\":\"milk\",\"title\":\"again\"}' URL/add", "id_taken"),
        ("-d '{\"id\":\"nothing\"}' URL/delete", "unknown_todo"),
        ("-d '{\"id\":\"nothing\",\"done\":true}' URL/edit", "unknown_todo"),
        ("-d '{\"id\":\"milk\",\"colour\":1}' URL/edit", "malformed"),
        ("URL/nowhere", "unknown_endpoint"),
        ("URL/push", "method"),
    ] {
        let answer = support::curl(&format!("curl {}", request.replace("URL", &alice)));
        assert_eq!(answer["error"]["kind"], kind, "{request}: {answer}");
    }
    lab.interrupt(0);
}

#[test]
fn a_lab_that_nobody_reads_does_not_claim_success() {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_opor"))
        .arg("lab")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("opor starts");
    drop(lab.stdout.take());
    let output = lab.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), b"".as_slice()));
}

#[test]
fn ports_can_be_chosen_and_a_taken_one_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    Run::opor(["lab", "--port", &port]).fails_with(1, &format!("cannot listen on port {port}"));
}
