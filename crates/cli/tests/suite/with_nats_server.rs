//! `opor sync` with rooms of a real broker.

use crate::lab::assert_converged;
use crate::running::Running;
use crate::support::{Run, rows, todo_database, with_store};
use opor_nats_server::Options;
use serde_json::json;
use tempfile::TempDir;

fn replica(dir: &TempDir, name: &str) -> String {
    let file = todo_database(dir.path(), name);
    Run::opor(["init", &file, "todos"]).ok();
    file
}

#[test]
fn replicas_that_never_meet_get_in_step_one_after_the_other() {
    let broker = Options::new().jetstream().start().expect("a broker");
    let dir = TempDir::new().expect("a directory");
    let (a, b) = (replica(&dir, "a"), replica(&dir, "b"));
    let url = format!("{}/garden", broker.url());
    with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', 1), ('y', 'call mum', NULL)");
    with_store(&b, "INSERT INTO todos VALUES ('z', 'water the plants', x'00')");
    let sync = |file: &str| Run::opor(["sync", "--json", file, &url]).ok().last_json();
    let first = sync(&a);
    assert_eq!(
        (&first["event"], &first["sent"]),
        (&json!("done"), &json!({ "rows": 2, "changes": 4 })),
        "{first}"
    );
    assert_eq!(first["received"]["rows"], 0, "{first}");
    let both = sync(&b);
    assert_eq!((&both["sent"]["rows"], &both["received"]["rows"]), (&json!(1), &json!(2)), "{both}");
    let back = sync(&a);
    assert_eq!((&back["sent"]["rows"], &back["received"]["rows"]), (&json!(0), &json!(1)), "{back}");
    assert_eq!((rows(&a), rows(&a).len()), (rows(&b), 3));
    for file in [&a, &b] {
        let nothing = sync(file);
        assert_eq!((&nothing["sent"]["changes"], &nothing["received"]["changes"]), (&json!(0), &json!(0)));
    }
    let shown = Run::opor(["sync", &a, &url]).ok().stdout;
    assert!(shown.ends_with("nothing received, nothing sent\n"), "{shown}");
}

#[test]
fn edits_travel_as_they_happen_and_a_broker_that_was_killed_is_waited_for() {
    let mut broker = Options::new().jetstream().start().expect("a broker");
    let dir = TempDir::new().expect("a directory");
    let (a, b) = (replica(&dir, "a"), replica(&dir, "b"));
    let url = format!("{}/garden", broker.url());
    let mut at_a = Running::opor(&["sync", "--watch", &a, &url], None);
    let mut at_b = Running::opor(&["sync", "--watch", &b, &url], None);
    at_a.is_live();
    at_b.is_live();
    with_store(&a, "INSERT INTO todos VALUES ('x', 'buy milk', NULL)");
    at_b.event("received");
    assert_eq!(rows(&b), rows(&a));
    broker.kill().expect("it is killed");
    at_a.event("offline");
    at_b.event("offline");
    with_store(&a, "UPDATE todos SET title = 'buy oat milk'");
    with_store(&b, "INSERT INTO todos VALUES ('y', 'call mum', 2)");
    broker.start().expect("it comes back");
    at_a.event("received");
    at_b.event("received");
    let expected = [["'x'", "'buy oat milk'", "NULL"], ["'y'", "'call mum'", "2"]];
    assert_eq!(rows(&a), expected);
    assert_eq!(rows(&b), expected);
    for (watch, signal) in [(&mut at_a, "-TERM"), (&mut at_b, "-INT")] {
        watch.signal(signal);
        assert_eq!(watch.ends(), Some(0), "{:#?}", watch.said);
        assert_eq!(watch.said.last().expect("a last word")["event"], "stopped");
    }
}

#[test]
fn what_cannot_work_is_told_and_no_secret_with_it() {
    let broker = Options::new().jetstream().arg("--auth").arg("s3cret").start().expect("a broker");
    let dir = TempDir::new().expect("a directory");
    let a = replica(&dir, "a");
    let host = format!("127.0.0.1:{}", broker.port());
    let plain = todo_database(dir.path(), "plain");
    Run::opor(["sync", &plain, &format!("nats://{host}/garden")]).fails_with(1, "has no replicated tables");
    Run::opor(["sync", &a, &format!("nats://{host}/garden")]).fails_with(1, &host);
    Run::opor(["sync", &a, &format!("nats://s3cret@{host}/garden")]).ok();
    let by_env =
        Run::opor(["sync", &a, &format!("nats://{host}/garden")]).with_env("OPOR_TOKEN", "s3cret").ok();
    assert!(by_env.stdout.contains(&format!("in step with nats://{host}/garden")), "{}", by_env.stdout);
}

#[test]
fn the_lab_converges_over_a_broker() {
    let report = Run::opor(["lab", "--transport", "nats", "--json"]).ok().json();
    assert_converged(&report);
    let text = report.to_string();
    assert!(text.contains("three edits arrived, and nobody pushed or pulled"), "{report:#}");
    let missing =
        Run::opor(["lab", "--transport", "nats"]).with_env("OPOR_NATS_SERVER", "/nowhere/nats-server");
    missing.fails_with(1, "install nats-server, or name it in OPOR_NATS_SERVER");
}
