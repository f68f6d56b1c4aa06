//! Live queries on real files: what is told, to whom, and when nothing is.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::executor::block_on;
use futures::{FutureExt, StreamExt};
use opor_core::{SiteId, Value};
use opor_live::{Diff, Edit, Live, LiveError, LiveOptions};
use opor_store::{OpenOptions, Origin, Store, StoreHandle};
use serde::Deserialize;

const SCHEMA: &str =
    "CREATE TABLE todos(id INTEGER PRIMARY KEY, title TEXT, done INTEGER DEFAULT 0, note TEXT);
    CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT);
    CREATE VIEW open_todos AS SELECT id, title FROM todos WHERE done = 0";

/// A database in a folder of its own.
struct Place {
    folder: PathBuf,
    handle: StoreHandle,
    live: Live,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

impl Place {
    fn new() -> Self {
        Self::with(LiveOptions::default())
    }

    fn with(options: LiveOptions) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("opor-live-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let options_of_store = OpenOptions::new().site_id(SiteId::from([1; 16]));
        let handle = StoreHandle::open(folder.join("a.db"), &options_of_store, 1).expect("it opens");
        let live = Live::start_with(&handle, options).expect("it starts");
        let place = Self { folder, handle, live };
        place.write(SCHEMA);
        place
    }

    #[track_caller]
    fn write(&self, sql: &str) {
        let sql = sql.to_owned();
        block_on(self.handle.write(move |store| store.execute_batch(&sql)))
            .expect("the writer runs")
            .expect("the SQL is right");
    }

    fn settle(&self) {
        block_on(self.live.settled()).expect("the database is open");
    }
}

type Pair = (i64, String);

fn rows(diff: Option<Result<Diff<Pair>, LiveError>>) -> Vec<Edit<Pair>> {
    diff.expect("it goes on").expect("there is a result").edits
}

fn pair(id: i64, title: &str) -> Pair {
    (id, title.to_owned())
}

#[test]
fn a_diff_tells_what_changed_where_and_who_did_it() {
    let place = Place::new();
    place.write("INSERT INTO todos(id, title) VALUES (1, 'a'), (2, 'b')");
    let query = place.live.query::<Pair>("SELECT id, title FROM todos ORDER BY title").key(["id"]);
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    let mut diffs = subscription.diffs();
    let first = block_on(diffs.next());
    assert_eq!(rows(first), [Edit::Reset { rows: vec![pair(1, "a"), pair(2, "b")] }]);
    place.write("UPDATE todos SET title = 'c' WHERE id = 1");
    let moved = block_on(diffs.next()).expect("it goes on").expect("there is a result");
    assert_eq!(moved.origin, Some(Origin::Local));
    assert_eq!(moved.edits, [Edit::Move { from: 0, to: 1 }, Edit::Update { at: 1, row: pair(1, "c") }]);
    place
        .write("BEGIN; DELETE FROM todos WHERE id = 2; INSERT INTO todos(id, title) VALUES (3, 'x'); COMMIT");
    let both = rows(block_on(diffs.next()));
    assert_eq!(both, [Edit::Remove { at: 0 }, Edit::Insert { at: 1, row: pair(3, "x") }]);
}

#[test]
fn who_is_slow_gets_one_diff_for_all() {
    let place = Place::new();
    let query = place.live.query::<Pair>("SELECT id, title FROM todos ORDER BY id").key(["id"]);
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    let mut diffs = subscription.diffs();
    block_on(diffs.next());
    for id in 0..50 {
        place.write(&format!("INSERT INTO todos(id, title) VALUES ({id}, 'x')"));
        place.settle();
    }
    place.write("DELETE FROM todos WHERE id > 0");
    place.settle();
    assert_eq!(rows(block_on(diffs.next())), [Edit::Insert { at: 0, row: pair(0, "x") }]);
    assert!(diffs.next().now_or_never().is_none(), "there is nothing more");
}

#[test]
fn what_does_not_concern_a_query_does_not_run_it_and_what_does_not_change_it_wakes_nobody() {
    let place = Place::new();
    place.write("INSERT INTO todos(id, title) VALUES (1, 'a')");
    let query = place.live.query::<Pair>("SELECT id, title FROM open_todos");
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    let mut snapshots = subscription.snapshots();
    block_on(snapshots.next());
    let before = place.live.stats();
    place.write(
        "UPDATE todos SET note = 'n'; INSERT INTO people VALUES (1, 'p'); UPDATE todos SET title = title",
    );
    place.write("BEGIN; UPDATE todos SET title = 'z'; ROLLBACK; BEGIN; SAVEPOINT s; DELETE FROM todos; ROLLBACK TO s; COMMIT");
    place.settle();
    let after = place.live.stats();
    assert_eq!(after.runs, before.runs, "no column that it reads has changed");
    place.write("INSERT INTO todos(id, title, done) VALUES (2, 'b', 1)");
    place.settle();
    assert_eq!(place.live.stats().updates, before.updates);
    assert!(snapshots.next().now_or_never().is_none(), "its result is the same");
    place.write("UPDATE todos SET done = 0");
    let snapshot = block_on(snapshots.next()).expect("it goes on").expect("there is a result");
    assert_eq!(snapshot.rows, [pair(1, "a"), pair(2, "b")]);
}

#[test]
fn writes_of_others_and_of_peers_are_seen() {
    let place = Place::new();
    block_on(place.handle.write(|store| store.replicate("people").expect("it replicates"))).expect("it runs");
    let query = place.live.query::<String>("SELECT name FROM people ORDER BY id");
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    let mut snapshots = subscription.snapshots();
    block_on(snapshots.next());
    let other = Store::open(place.folder.join("a.db")).expect("another connection");
    other.execute("INSERT INTO people VALUES (1, 'other')", []).expect("it writes");
    let seen = block_on(snapshots.next()).expect("it goes on").expect("there is a result");
    assert_eq!((seen.rows, seen.origin), (vec!["other".to_owned()], Some(Origin::Mixed)));

    let peer = OpenOptions::new().site_id(SiteId::from([2; 16]));
    let mut peer = peer.open_in_memory().expect("a peer");
    peer.execute_batch(SCHEMA).expect("the schema");
    peer.replicate("people").expect("it replicates");
    for id in 2..20_002 {
        peer.execute("INSERT INTO people VALUES (?, 'peer')", [id]).expect("it writes");
    }
    let batch = peer.changes(&opor_store::Cursor::at(opor_core::DbVersion(0)), usize::MAX).expect("it reads");
    let options =
        opor_store::ApplyOptions { cursor: Some((peer.site_id(), batch.cursor)), ..Default::default() };
    block_on(
        place.handle.write(move |store| store.apply_with(&batch.changeset, &options).expect("it merges")),
    )
    .expect("it runs");
    let merged = block_on(snapshots.next()).expect("it goes on").expect("there is a result");
    assert_eq!((merged.rows.len(), merged.origin), (20_001, Some(Origin::Peer(peer.site_id()))));
    assert!(snapshots.next().now_or_never().is_none(), "a changeset is one update");
}

#[test]
fn what_is_no_live_query_is_refused_and_others_go_on() {
    let place = Place::new();
    let refused =
        |sql: &str| block_on(place.live.query::<Value1>(sql).subscribe()).expect_err("it is refused");
    for sql in [
        "DELETE FROM todos",
        "INSERT INTO todos(title) VALUES ('x') RETURNING id",
        "CREATE TABLE t(a)",
        "ATTACH 'x.db' AS x",
        "BEGIN",
        "PRAGMA user_version",
        "EXPLAIN SELECT 1",
        "",
        "-- nothing",
    ] {
        assert_eq!(refused(sql), LiveError::NotReadOnly, "{sql}");
    }
    assert_eq!(refused("SELECT 1; SELECT 2"), LiveError::SeveralStatements);
    for (sql, function) in [
        ("SELECT random()", "random"),
        ("SELECT id FROM todos WHERE note > date('now')", "date"),
        ("SELECT strftime('%Y')", "strftime"),
        ("SELECT datetime()", "datetime"),
        ("SELECT CURRENT_TIMESTAMP", "current_timestamp"),
        ("SELECT crsql_db_version()", "crsql_db_version"),
    ] {
        assert_eq!(refused(sql), LiveError::NonDeterministic { function: function.to_owned() }, "{sql}");
    }
    assert!(matches!(refused("SELECT nothing FROM todos"), LiveError::Sql { offset: Some(7), .. }));
    assert_eq!(
        refused("SELECT id FROM todos WHERE id = ?1 AND title = :t"),
        LiveError::MissingParameter { parameter: "?1".to_owned() }
    );
    let unknown = block_on(place.live.query::<Value1>("SELECT 1").bind_named("x", 1).subscribe());
    assert_eq!(
        unknown.expect_err("it is refused"),
        LiveError::UnknownParameter { parameter: "x".to_owned() }
    );
    let key = block_on(place.live.query::<Value1>("SELECT id FROM todos").key(["nope"]).subscribe());
    assert_eq!(key.expect_err("it is refused"), LiveError::UnknownKeyColumn { column: "nope".to_owned() });
    let date = place.live.query::<Value1>("SELECT id FROM todos WHERE note > date(?)").bind("now");
    assert!(matches!(block_on(date.subscribe()), Err(LiveError::NonDeterministic { .. })));
    let dates = place.live.query::<Value1>("SELECT date(note, '+1 day') FROM todos");
    block_on(dates.subscribe()).expect("dates of the database are deterministic");
    place.settle();
}

#[derive(Debug, Deserialize)]
struct Value1;

#[test]
fn a_query_that_fails_midway_says_so_and_comes_back() {
    let place = Place::new();
    place.write("INSERT INTO todos(id, title) VALUES (1, '[1]'), (2, '[2]')");
    let failing = place.live.query::<i64>("SELECT json_extract(title, '$[0]') FROM todos ORDER BY id");
    let failing = block_on(failing.subscribe()).expect("it subscribes");
    let fine =
        block_on(place.live.query::<i64>("SELECT count(*) FROM todos").subscribe()).expect("it subscribes");
    place.write("UPDATE todos SET title = 'no JSON' WHERE id = 2; INSERT INTO todos(title) VALUES ('[3]')");
    place.settle();
    assert!(matches!(failing.current(), Err(LiveError::Sql { message, .. }) if message.contains("JSON")));
    assert_eq!(fine.current().expect("it has a result").rows, [3]);
    place.write("UPDATE todos SET title = '[7]' WHERE id = 2");
    place.settle();
    assert_eq!(failing.current().expect("it has a result").rows, [1, 7, 3]);
}

#[test]
fn a_key_that_is_not_unique_is_an_error_of_the_subscription() {
    let place = Place::new();
    place.write("INSERT INTO todos(id, title) VALUES (1, 'a'), (2, 'b')");
    let sql = "SELECT id, title FROM todos ORDER BY id";
    let keyed = block_on(place.live.query::<Pair>(sql).key(["title"]).subscribe()).expect("it subscribes");
    let other = block_on(place.live.query::<Pair>(sql).subscribe()).expect("it subscribes");
    let mut diffs = keyed.diffs();
    block_on(diffs.next());
    place.write("UPDATE todos SET title = 'a'");
    let error = block_on(diffs.next()).expect("it goes on").expect_err("both have one key");
    assert_eq!(error, LiveError::DuplicateKey { first: 0, second: 1 });
    place.settle();
    assert_eq!(other.current().expect("it has a result").rows.len(), 2);
    place.write("UPDATE todos SET title = 'c' WHERE id = 1");
    assert_eq!(rows(block_on(diffs.next())).len(), 1, "the diff leads from the last result there was");
}

/// SQLite's authorizer names a column that USING compares nowhere, nor a table of which that is all that is read.
#[test]
fn columns_that_a_join_compares_by_name_count() {
    let place = Place::new();
    place.write(
        "INSERT INTO todos(id, title) VALUES (1, 'a'), (2, 'b'); CREATE TABLE tags(title TEXT, tag TEXT)",
    );
    place.write("INSERT INTO tags VALUES ('a', 'x')");
    place.write("CREATE VIEW tagged AS SELECT tag FROM tags NATURAL JOIN todos");
    let using = "SELECT tag FROM tags JOIN todos USING (title)";
    for sql in [using, "SELECT tag FROM tags NATURAL JOIN todos", "SELECT tag FROM tagged"] {
        let subscription = block_on(place.live.query::<String>(sql).subscribe()).expect("it subscribes");
        let seen = |wanted: &[&str]| {
            place.settle();
            assert_eq!(subscription.current().expect("a result").rows, wanted, "{sql}");
        };
        seen(&["x"]);
        place.write("UPDATE todos SET title = 'c' WHERE id = 1");
        seen(&[]);
        place.write("UPDATE tags SET title = 'c'");
        seen(&["x"]);
        place.write("DELETE FROM todos WHERE id = 1");
        seen(&[]);
        place.write("INSERT INTO todos(id, title) VALUES (1, 'a'); UPDATE tags SET title = 'a'");
        seen(&["x"]);
    }
}

#[test]
fn the_schema_may_move() {
    let place = Place::new();
    place.write("INSERT INTO todos(id, title) VALUES (1, 'a')");
    let all = block_on(place.live.query::<Star>("SELECT * FROM todos").subscribe()).expect("it subscribes");
    let people =
        block_on(place.live.query::<i64>("SELECT count(*) FROM people").subscribe()).expect("it subscribes");
    assert_eq!(all.current_values().expect("a result").0.len(), 4);
    place.write("ALTER TABLE todos ADD COLUMN colour TEXT DEFAULT 'red'");
    place.settle();
    let (columns, values) = all.current_values().expect("a result");
    assert_eq!((columns.len(), &values[0][4]), (5, &Value::from("red")));
    place.write("UPDATE todos SET colour = 'blue'");
    place.settle();
    assert_eq!(all.current_values().expect("a result").1[0][4], Value::from("blue"));
    place.write("DROP TABLE people");
    place.settle();
    assert!(
        matches!(people.current(), Err(LiveError::Sql { message, .. }) if message.contains("no such table"))
    );
    place.write("CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO people VALUES (1, 'x')");
    place.settle();
    assert_eq!(people.current().expect("it is back").rows, [1]);
}

#[derive(Debug, Deserialize)]
struct Star {}

#[test]
fn queries_of_one_moment_agree() {
    let place = Place::new();
    place.write("INSERT INTO people VALUES (1, 'x'); INSERT INTO todos(id, title) VALUES (1, 'x')");
    let total = |sql: &str| block_on(place.live.query::<i64>(sql).subscribe()).expect("it subscribes");
    let (a, b) = (total("SELECT count(*) FROM people"), total("SELECT count(*) FROM todos"));
    let writer = {
        let handle = place.handle.clone();
        std::thread::spawn(move || {
            for _ in 0..300 {
                let sql = "BEGIN; INSERT INTO people(name) VALUES ('y'); INSERT INTO todos(title) VALUES ('y'); COMMIT";
                block_on(handle.write(move |store| store.execute_batch(sql)))
                    .expect("runs")
                    .expect("is right");
            }
        })
    };
    let mut moments = 0;
    while !writer.is_finished() {
        let (a, b) = place.live.together(|_| (a.current(), b.current()));
        let (a, b) = (a.expect("a result"), b.expect("a result"));
        assert_eq!(a.rows, b.rows, "a transaction is seen whole");
        moments += 1;
    }
    writer.join().expect("the writer ends");
    assert!(moments > 0);
    place.settle();
    assert_eq!(a.current().expect("a result").rows, [301]);
}

#[test]
fn the_same_query_is_run_once_and_forgotten_with_its_last_subscriber() {
    let place = Place::new();
    let query = place.live.query::<i64>("SELECT count(*) FROM todos WHERE id > ?").bind(3);
    let first = block_on(query.clone().subscribe()).expect("it subscribes");
    let second = block_on(query.subscribe()).expect("it subscribes");
    assert_eq!(place.live.stats().queries, 1);
    drop(first);
    place.write("INSERT INTO todos(id) VALUES (9)");
    place.settle();
    assert_eq!(second.current().expect("a result").rows, [1]);
    drop(second);
    place.write("INSERT INTO todos(id) VALUES (10)");
    place.settle();
    assert_eq!(place.live.stats().queries, 0);
}

#[test]
fn a_query_is_let_go_of_and_asked_for_again_at_once() {
    let place = Place::new();
    let ask = |id: i64| {
        let query = place.live.query::<i64>("SELECT id FROM todos WHERE id = ?").bind(id);
        block_on(query.subscribe()).expect("it subscribes")
    };
    let other = ask(2);
    for _ in 0..100 {
        drop(ask(1));
        let again = ask(1);
        assert_eq!(again.current().expect("a result").rows, [0; 0]);
    }
    let again = ask(1);
    place.write("INSERT INTO todos(id) VALUES (1), (2)");
    place.settle();
    assert_eq!(place.live.stats().queries, 2);
    assert_eq!([again, other].map(|open| open.current().expect("a result").rows), [[1], [2]]);
    place.write("DELETE FROM todos");
    place.settle();
    assert_eq!(place.live.stats().queries, 0);
    assert_eq!(ask(1).current().expect("a result").rows, [0; 0], "the statement is planned again");
}

#[test]
fn a_token_of_a_query_that_has_gone_is_nobody_elses() {
    let place = Place::new();
    let subscribe = |sql: &str| block_on(place.live.query::<i64>(sql).subscribe()).expect("it subscribes");
    let first = subscribe("SELECT 1");
    let token = first.current().expect("a result").token;
    drop(first);
    block_on(place.live.explain("SELECT 1")).expect("the thread is there");
    block_on(place.live.explain("SELECT 1")).expect("the thread is there");
    assert_eq!(place.live.stats().queries, 0);
    let second = subscribe("SELECT 2");
    let start = block_on(second.diffs_from(token).next()).expect("it goes on").expect("a result");
    assert_eq!(start.edits, [Edit::Reset { rows: vec![2] }]);
    assert_ne!(start.token, token);
}

#[test]
fn a_statement_that_makes_sense_again_does_so_for_all_its_queries() {
    let place = Place::new();
    let ask = |id: i64| {
        block_on(place.live.query::<i64>("SELECT id FROM people WHERE id >= ?").bind(id).subscribe())
    };
    let early = ask(1).expect("it subscribes");
    for _ in 0..20 {
        place.write("DROP TABLE people");
        place.settle();
        assert!(matches!(early.current(), Err(LiveError::Sql { .. })));
        assert!(matches!(ask(2), Err(LiveError::Sql { message, .. }) if message.contains("no such table")));
        place.write("CREATE TABLE people(id INTEGER PRIMARY KEY); INSERT INTO people VALUES (1), (2)");
        // Whether or not the thread has seen it yet.
        let late = ask(2).expect("it subscribes");
        place.settle();
        assert_eq!(early.current().expect("it is back").rows, [1, 2]);
        place.write("INSERT INTO people VALUES (3)");
        place.settle();
        assert_eq!(early.current().expect("a result").rows, [1, 2, 3]);
        assert_eq!(late.current().expect("a result").rows, [2, 3]);
    }
}

#[test]
fn more_parameters_than_a_key_has_columns() {
    let place = Place::new();
    let sql = format!("SELECT {}", vec!["?"; 300].join(" + "));
    let query = (0..300).fold(place.live.query::<i64>(sql), |query, value| query.bind(value));
    let [first, second] =
        [query.clone(), query].map(|query| block_on(query.subscribe()).expect("it subscribes"));
    assert_eq!((first.current().expect("a result").rows, place.live.stats().queries), (vec![44_850], 1));
    drop(second);
}

#[test]
fn tokens_refetches_and_states() {
    let place = Place::new();
    let query = place.live.query::<i64>("SELECT count(*) FROM todos");
    let subscription = block_on(query.clone().subscribe()).expect("it subscribes");
    let token = subscription.current().expect("a result").token;
    let mut resumed = subscription.diffs_from(token);
    assert!(resumed.next().now_or_never().is_none(), "it has the result already");
    place.write("INSERT INTO todos(id) VALUES (1)");
    let diff = block_on(resumed.next()).expect("it goes on").expect("a result");
    assert_eq!(diff.edits.len(), 1);
    block_on(subscription.changed(token)).expect("it has changed");
    let mut stale = subscription.diffs_from(token);
    let anew = block_on(stale.next()).expect("it goes on").expect("a result");
    assert_eq!(anew.edits, [Edit::Reset { rows: vec![1] }]);

    let runs = place.live.stats().runs;
    subscription.refetch();
    let _other = block_on(place.live.query::<i64>("SELECT 1").subscribe()).expect("it is asked after");
    assert_eq!(place.live.stats().runs, runs + 2);

    let mut states = query.states();
    let state = block_on(states.next()).expect("it goes on");
    assert!(state.loading && state.data.is_none());
    let state = block_on(states.next()).expect("it goes on");
    assert_eq!((state.loading, state.data.as_deref()), (false, Some(&vec![1])));
    place.write("DROP VIEW open_todos; DROP TABLE todos");
    let state = block_on(states.next()).expect("it goes on");
    assert_eq!(state.data.as_deref(), Some(&vec![1]), "the last there was");
    assert!(state.error.is_some());
}

#[test]
fn closing_the_database_ends_the_streams() {
    let place = Place::new();
    let subscription = block_on(place.live.query::<i64>("SELECT 1").subscribe()).expect("it subscribes");
    let mut snapshots = subscription.snapshots();
    block_on(snapshots.next());
    place.handle.clone().close();
    assert!(block_on(snapshots.next()).is_none());
    assert_eq!(subscription.current().expect_err("it is closed"), LiveError::Closed);
    let after = block_on(place.live.query::<i64>("SELECT 2").subscribe());
    assert_eq!(after.expect_err("it is closed"), LiveError::Closed);
}

#[test]
fn a_result_that_is_too_large_is_an_error() {
    let place = Place::with(LiveOptions { rows_max: 2, ..LiveOptions::default() });
    let subscription =
        block_on(place.live.query::<i64>("SELECT id FROM todos").subscribe()).expect("it subscribes");
    place.write("INSERT INTO todos(id) VALUES (1), (2), (3)");
    place.settle();
    assert_eq!(subscription.current().expect_err("it has three"), LiveError::TooLarge { rows_max: 2 });
}

#[test]
fn every_query_can_be_checked_now_and_then() {
    let place = Place::with(LiveOptions { check_one_in: 1, ..LiveOptions::default() });
    let _kept =
        block_on(place.live.query::<i64>("SELECT count(*) FROM todos").subscribe()).expect("it subscribes");
    for id in 0..10 {
        place.write(&format!("INSERT INTO people VALUES ({id}, 'x')"));
        place.settle();
    }
    let stats = place.live.stats();
    assert!(stats.checks > 0, "{stats:?}");
    assert_eq!(stats.divergences, 0);
}

#[test]
fn who_does_not_wait_for_the_answer_or_gets_an_error_has_not_subscribed() {
    let place = Place::new();
    let failing = place.live.query::<i64>("SELECT json_extract('no JSON', '$[0]')");
    assert!(matches!(block_on(failing.subscribe()), Err(LiveError::Sql { .. })));
    for text in ["early", "late"] {
        let mut asking = place.live.query::<String>("SELECT ?1").bind(text).subscribe().boxed();
        assert!(asking.as_mut().now_or_never().is_none_or(|answer| answer.is_ok()));
        if text == "late" {
            // By then the answer is there.
            block_on(place.live.explain("SELECT 1")).expect("the thread is there");
        }
        drop(asking);
    }
    block_on(place.live.explain("SELECT 1")).expect("the thread is there");
    block_on(place.live.explain("SELECT 1")).expect("the thread is there");
    assert_eq!(place.live.stats().queries, 0);
}

#[test]
fn a_file_that_could_not_be_read_and_can_again_brings_every_result_back() {
    let place = Place::new();
    place.write("INSERT INTO todos(id, title) VALUES (1, 'a')");
    let query = |sql: &str| block_on(place.live.query::<i64>(sql).subscribe()).expect("it subscribes");
    let (todos, people) = (query("SELECT count(*) FROM todos"), query("SELECT count(*) FROM people"));
    let mut told = people.snapshots();
    block_on(told.next());
    let other = Store::open(place.folder.join("a.db")).expect("another connection");
    let schema_version: i64 =
        other.query_row("PRAGMA schema_version", [], |row| row.get(0)).expect("a version");
    let damage = format!(
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_schema VALUES ('table', 'bad', 'bad', 0, 'CREATE TABLE ,');
        PRAGMA schema_version = {}",
        schema_version + 1
    );
    other.execute_batch(&damage).expect("the schema is damaged");
    assert!(matches!(block_on(told.next()), Some(Err(LiveError::Sql { .. }))), "it cannot be read");
    let mend = format!(
        "INSERT INTO todos(id) VALUES (2); DELETE FROM sqlite_schema WHERE name = 'bad'; PRAGMA schema_version = {}",
        schema_version + 2
    );
    other.execute_batch(&mend).expect("the schema is as it was");
    let back = block_on(told.next()).expect("it goes on").expect("it is back");
    assert_eq!(back.rows, [0], "nobody has written to its table");
    assert_eq!(todos.current().expect("it is back").rows, [2]);
}

#[test]
fn what_could_not_be_read_is_read_again_though_nothing_was_written() {
    let place = Place::new();
    let path = place.folder.join("locked.db");
    let other = Store::open(&path).expect("it opens");
    // With a log in place of a journal nobody can lock readers out.
    other
        .execute_batch("PRAGMA journal_mode = DELETE; CREATE TABLE t(n); INSERT INTO t VALUES (1)")
        .expect("a table");
    let options = OpenOptions::new().busy_timeout(Duration::ZERO);
    let handle = StoreHandle::open(&path, &options, 1).expect("it opens");
    let live = Live::start(&handle).expect("it starts");
    let subscription = block_on(live.query::<i64>("SELECT n FROM t").subscribe()).expect("it subscribes");
    let mut told = subscription.snapshots();
    assert_eq!(block_on(told.next()).expect("it goes on").expect("a result").rows, [1]);
    for _ in 0..3 {
        other.execute_batch("BEGIN EXCLUSIVE").expect("nobody reads or writes");
        subscription.refetch();
        let error = block_on(told.next()).expect("it goes on").expect_err("nobody can read");
        assert!(matches!(&error, LiveError::Sql { message, .. } if message.contains("locked")), "{error:?}");
        // No commit comes of it that could call anybody.
        other.execute_batch("ROLLBACK").expect("it ends");
        let back = block_on(told.next()).expect("it goes on").expect("it can be read");
        assert_eq!(back.rows, [1]);
    }
    drop((told, subscription, live));
    handle.close();
}

#[test]
fn columns_past_the_63rd_count_as_one() {
    let place = Place::new();
    let columns: Vec<String> = (0..70).map(|number| format!("c{number}")).collect();
    place.write(&format!("CREATE TABLE wide({}); INSERT INTO wide(c0) VALUES (1)", columns.join(", ")));
    let query =
        |sql: &str| block_on(place.live.query::<Option<i64>>(sql).subscribe()).expect("it subscribes");
    let (late, guarded) = (query("SELECT c66 FROM wide"), query("SELECT c0 FROM wide WHERE c66 = 5"));
    let runs = |sql: &str| {
        let before = place.live.stats();
        place.write(sql);
        place.settle();
        place.live.stats().runs - before.runs
    };
    assert_eq!(runs("UPDATE wide SET c66 = 5"), 2);
    assert_eq!(late.current().expect("a result").rows, [Some(5)]);
    assert_eq!(guarded.current().expect("a result").rows, [Some(1)]);
    assert_eq!(runs("UPDATE wide SET c2 = 5, c62 = 5"), 0);
    assert_eq!(runs("UPDATE wide SET c69 = 5"), 2, "nobody tells them apart");
    assert_eq!(runs("UPDATE wide SET c66 = 6"), 2);
    assert_eq!(late.current().expect("a result").rows, [Some(6)]);
    assert_eq!(guarded.current().expect("a result").rows, []);
}

#[test]
fn the_order_in_which_rows_lie_is_part_of_a_result() {
    let place = Place::new();
    place.write(
        "CREATE TABLE w(place INTEGER PRIMARY KEY, name TEXT) WITHOUT ROWID; INSERT INTO w VALUES (1, 'a'), (2, 'b');
        CREATE TABLE x(id INTEGER PRIMARY KEY, name TEXT, rank INTEGER, long TEXT);
        CREATE INDEX by_rank ON x(rank, name); INSERT INTO x VALUES (1, 'a', 1, 'l'), (2, 'b', 2, 'l')",
    );
    let names = |sql: &str| block_on(place.live.query::<String>(sql).subscribe()).expect("it subscribes");
    let (w, x) = (names("SELECT name FROM w"), names("SELECT name FROM x LIMIT 1"));
    let count =
        block_on(place.live.query::<i64>("SELECT count(*) FROM x").subscribe()).expect("it subscribes");
    let runs = place.live.stats().runs;
    place.write("UPDATE x SET rank = 3 WHERE id = 1");
    place.settle();
    assert_eq!(x.current().expect("a result").rows, ["b"]);
    assert_eq!(place.live.stats().runs, runs + 1, "who only counts rows need not know");
    place.write("UPDATE w SET place = 3 WHERE place = 1");
    place.settle();
    assert_eq!(w.current().expect("a result").rows, ["b", "a"]);
    assert_eq!(count.current().expect("a result").rows, [2]);
}
