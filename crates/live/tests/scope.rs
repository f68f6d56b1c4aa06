//! Queries that are asked only about the rows that changed give what a run of the whole query gives.

mod place;

use std::ops::Deref;
use std::sync::Arc;

use futures::executor::block_on;
use futures::{FutureExt, StreamExt};
use opor_core::Value;
use opor_live::{Live, LiveError, LiveOptions, Subscription, Tier};
use opor_store::Store;
use proptest::prelude::*;
use serde::Deserialize;

const SCHEMA: &str = "
    CREATE TABLE a(id INTEGER PRIMARY KEY, x, name TEXT COLLATE NOCASE, low AS (lower(name)));
    CREATE TABLE b(x, note TEXT COLLATE RTRIM UNIQUE, a INTEGER);
    CREATE TABLE c(\"rowid\" TEXT, y, w);
    CREATE INDEX b_a ON b(a);
    CREATE INDEX c_y ON c(y);
    CREATE TABLE other(z)";

/// Rows of any query.
#[derive(Debug, Deserialize)]
struct Any {}

struct Place {
    own: place::Place,
    live: Live,
    reader: Store,
}

impl Deref for Place {
    type Target = place::Place;

    fn deref(&self) -> &Self::Target {
        &self.own
    }
}

impl Place {
    fn new() -> Self {
        let own = place::Place::new();
        let live = Live::start_with(&own.handle, LiveOptions::default()).expect("it starts");
        let reader = Store::open(own.folder.join("a.db")).expect("it opens");
        let place = Self { own, live, reader };
        place.write(SCHEMA);
        place
    }

    #[track_caller]
    fn write(&self, sql: &str) {
        let text = sql.to_owned();
        block_on(self.handle.write(move |store| store.execute_batch(&text)))
            .expect("the writer runs")
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        block_on(self.live.settled()).expect("the database is open");
    }

    /// As [`write`](Self::write), for what may fail.
    fn try_write(&self, sql: &str) {
        let text = sql.to_owned();
        let _may_fail = block_on(self.handle.write(move |store| {
            let done = store.execute_batch(&text);
            if done.is_err() {
                let _none_is_open = store.execute_batch("ROLLBACK");
            }
        }));
        block_on(self.live.settled()).expect("the database is open");
    }

    /// Rows enough that a run is dearer than asking about a few.
    fn fill(&self) {
        self.write(
            "BEGIN;
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 90)
            INSERT INTO a(id, x, name) SELECT i, i % 7, char(65 + i % 5 + 32 * (i % 2)) || (i % 3) FROM n;
            INSERT INTO b(x, note, a) SELECT id % 5, 'n' || id, id % 40 FROM a;
            INSERT INTO c(\"rowid\", y, w) SELECT name, id % 9, x FROM a WHERE id < 60;
            COMMIT",
        );
    }

    fn subscribe(&self, sql: &str, parameters: &[i64]) -> Subscription<Any> {
        let query = parameters.iter().fold(self.live.query::<Any>(sql), |query, value| query.bind(*value));
        block_on(query.subscribe()).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn fresh(&self, sql: &str, parameters: &[i64]) -> Vec<Vec<Value>> {
        let parameters: Vec<Value> = parameters.iter().copied().map(Value::Integer).collect();
        place::fresh(&self.reader, sql, &parameters)
    }

    fn tier(&self, sql: &str) -> Tier {
        block_on(self.live.explain(sql)).unwrap_or_else(|error| panic!("{sql}: {error}")).tier
    }
}

/// A query, and if it is sorted the rank of each row in that order: a column that is the same for rows in a tie.
struct Case {
    sql: &'static str,
    parameters: &'static [i64],
    order: Option<&'static str>,
}

const fn case(sql: &'static str, parameters: &'static [i64], order: Option<&'static str>) -> Case {
    Case { sql, parameters, order }
}

const CASES: [Case; 16] = [
    case("SELECT * FROM a", &[], None),
    case("SELECT name, x FROM a WHERE x > ? OR name = 'b1'", &[2], None),
    case("SELECT x FROM a WHERE typeof(x) IN ('integer', 'text') AND x IS NOT ?1", &[3], None),
    case("SELECT id, low FROM a WHERE low >= 'b'", &[], Some("name, x DESC")),
    case("SELECT name AS x, x AS kept FROM a", &[], Some("x, kept DESC NULLS LAST")),
    case("SELECT id FROM a WHERE id % 2 = ?", &[1], Some("x NULLS LAST, name COLLATE binary")),
    case("SELECT id, x FROM a", &[], Some("2 DESC, length(name), 1")),
    case("SELECT note, x FROM b WHERE a < :a", &[30], Some("note DESC")),
    case("SELECT x FROM b", &[], Some("x COLLATE NOCASE")),
    case("SELECT c.\"rowid\", y FROM main.c WHERE w < ?", &[5], None),
    case("SELECT a.id, b.note FROM a JOIN b ON b.a = a.id WHERE a.x < ?", &[5], None),
    case("SELECT a.name, b.note, b.x FROM a, b WHERE b.a = a.id", &[], Some("a.name, b.x DESC")),
    case("SELECT p.id, q.id FROM a p INNER JOIN a q ON q.id = p.id + 1 AND q.x > p.x", &[], None),
    case("SELECT p.a, q.note FROM b p JOIN b AS q USING (a)", &[], Some("a, q.note")),
    case(
        "SELECT * FROM c JOIN b ON b.x = c.y JOIN a ON a.id = b.a WHERE c.w = ?2 AND a.x <> ?1",
        &[1, 2],
        None,
    ),
    case("SELECT a.x + b.x AS s FROM a JOIN b ON a.id = b.a", &[], Some("s DESC, a.id, b.rowid")),
];

impl Case {
    fn whole(&self) -> String {
        self.order.map_or_else(|| self.sql.to_owned(), |order| format!("{} ORDER BY {order}", self.sql))
    }

    /// The places of ties in the order, counted by SQLite: rows of equal ranks may stand in any order.
    fn ranks(&self, place: &Place) -> Option<Vec<i64>> {
        let order = self.order?;
        // A place in the result, or a name of it, means nothing in a window: both are put in by what they stand for.
        let order = match order {
            "2 DESC, length(name), 1" => "x DESC, length(name), id",
            "x, kept DESC NULLS LAST" => "name, x DESC NULLS LAST",
            "s DESC, a.id, b.rowid" => "a.x + b.x DESC, a.id, b.rowid",
            "a, q.note" => "p.a, q.note",
            other => other,
        };
        let (_, from) = self.sql.split_once(" FROM ").expect("it reads tables");
        let sql = format!("SELECT dense_rank() OVER (ORDER BY {order}) AS r FROM {from} ORDER BY r");
        let ranks = place.fresh(&sql, self.parameters);
        Some(ranks.iter().map(|row| if let Value::Integer(rank) = row[0] { rank } else { 0 }).collect())
    }

    #[track_caller]
    fn check(&self, place: &Place, subscription: &Subscription<Any>) {
        let (_, rows) = subscription.current_values().expect("it has a result");
        let mut rows: Vec<Vec<Value>> = rows.iter().map(|row| row.to_vec()).collect();
        let mut fresh = place.fresh(&self.whole(), self.parameters);
        let by_text = |row: &Vec<Value>| format!("{row:?}");
        match self.ranks(place) {
            None => {
                rows.sort_by_key(by_text);
                fresh.sort_by_key(by_text);
            }
            Some(ranks) => {
                assert_eq!((rows.len(), ranks.len()), (fresh.len(), fresh.len()), "{}", self.whole());
                for tie in ranks.chunk_by(|a, b| a == b).scan(0, |at, tie| {
                    let start = *at;
                    *at += tie.len();
                    Some(start..*at)
                }) {
                    rows[tie.clone()].sort_by_key(by_text);
                    fresh[tie].sort_by_key(by_text);
                }
            }
        }
        assert_eq!(rows, fresh, "{}", self.whole());
    }
}

/// Values of every type, few enough to meet.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => (-1..8_i64).prop_map(|value| value.to_string()),
        1 => prop::sample::select(vec![
            "NULL", "2.0", "2.5", "-0.5", "'2'", "'b'", "'B'", "'b '", "''", "x'62'", "x''", "9007199254740993",
            "9007199254740992.0",
        ])
        .prop_map(str::to_owned),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "'A0'", "'a0'", "'b1'", "'B1 '", "'b1  '", "'é'", "NULL", "'zz'", "''", "'n7'", "'n7 '",
    ])
    .prop_map(str::to_owned)
}

fn statement() -> impl Strategy<Value = String> {
    let id = 1..100_i64;
    let any = prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        4 => (id.clone(), value()).prop_map(|(id, x)| format!("UPDATE a SET x = {x} WHERE id = {id}")),
        3 => (id.clone(), name()).prop_map(|(id, name)| format!("UPDATE a SET name = {name} WHERE id = {id}")),
        2 => (id.clone(), id.clone()).prop_map(|(id, to)| format!("UPDATE OR REPLACE a SET id = {to} WHERE id = {id}")),
        2 => (id.clone(), value(), name())
            .prop_map(|(id, x, name)| format!("INSERT OR REPLACE INTO a(id, x, name) VALUES ({id}, {x}, {name})")),
        2 => (id.clone(), value()).prop_map(|(id, x)| format!("UPDATE b SET x = {x} WHERE rowid = {id}")),
        2 => (id.clone(), 0..45_i64).prop_map(|(id, a)| format!("UPDATE b SET a = {a} WHERE rowid = {id}")),
        2 => (value(), name(), 0..45_i64).prop_map(|(x, note, a)| format!("REPLACE INTO b(x, note, a) VALUES ({x}, {note}, {a})")),
        1 => (id.clone(), id.clone()).prop_map(|(id, to)| format!("UPDATE OR IGNORE b SET rowid = {to} WHERE rowid = {id}")),
        2 => (id.clone(), value(), 0..6_i64).prop_map(|(id, y, w)| format!("UPDATE c SET y = {y}, w = {w} WHERE _rowid_ = {id}")),
        1 => (name(), value(), 0..6_i64).prop_map(|(name, y, w)| format!("INSERT INTO c VALUES ({name}, {y}, {w})")),
        2 => (any, id).prop_map(|(table, id)| format!("DELETE FROM {table} WHERE _rowid_ = {id}")),
    ]
}

/// What one transaction does.
#[derive(Clone, Debug)]
struct Transaction {
    statements: Vec<String>,
    undone: bool,
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let statements = prop_oneof![
        8 => prop::collection::vec(statement(), 1..3),
        1 => prop::collection::vec(statement(), 3..6),
        1 => Just(vec!["UPDATE a SET x = coalesce(x, 0) + 1 WHERE id % 3 = 0".to_owned()]),
    ];
    (statements, prop::bool::weighted(0.1))
        .prop_map(|(statements, undone)| Transaction { statements, undone })
}

impl Transaction {
    fn sql(&self) -> String {
        let statements = self.statements.join("; ");
        if self.undone {
            let (first, _) = statements.split_once(';').unwrap_or((&statements, ""));
            format!("BEGIN; {first}; SAVEPOINT s; {statements}; ROLLBACK TO s; RELEASE s; COMMIT")
        } else {
            format!("BEGIN; {statements}; COMMIT")
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn rows_asked_about_are_the_rows_of_a_run(history in prop::collection::vec(transaction(), 30)) {
        let place = Place::new();
        place.fill();
        let subscriptions: Vec<_> = CASES
            .iter()
            .map(|case| place.subscribe(&case.whole(), case.parameters))
            .collect();
        let before = place.live.stats();
        for transaction in &history {
            place.try_write(&transaction.sql());
            for (case, subscription) in CASES.iter().zip(&subscriptions) {
                case.check(&place, subscription);
            }
        }
        let after = place.live.stats();
        let (runs, scoped) = (after.runs - before.runs, after.scoped_runs - before.scoped_runs);
        // Some transactions touch a third of a table, and are rightly not asked about.
        prop_assert!(scoped * 2 > runs, "{scoped} of {runs} asked only about rows that changed");
    }
}

#[test]
fn each_query_of_the_shape_has_a_scope() {
    let place = Place::new();
    for case in &CASES {
        assert!(matches!(place.tier(&case.whole()), Tier::Scoped { .. }), "{}", case.whole());
    }
}

#[test]
fn queries_of_other_shapes_are_run_and_it_is_said_why() {
    let place = Place::new();
    place.write(
        "CREATE TABLE k(k TEXT PRIMARY KEY, v) WITHOUT ROWID;
        CREATE TABLE hides(rowid, oid, _rowid_);
        CREATE VIEW v AS SELECT id FROM a;
        CREATE VIRTUAL TABLE f USING fts5(t)",
    );
    for (sql, why) in [
        ("SELECT count(*) FROM a", "all rows together make one"),
        ("SELECT max(x) FROM a WHERE id > 3", "all rows together make one"),
        ("SELECT max(a.x) FROM a WHERE id IN (SELECT a FROM b)", "all rows together make one"),
        ("SELECT id, (SELECT sum(a.x) FROM b) FROM a", "all rows together make one"),
        (
            "SELECT x, id FROM a GROUP BY x",
            "its groups may say something else when their rows are met in another order",
        ),
        (
            "SELECT x, group_concat(id) FROM a GROUP BY x",
            "its groups may say something else when their rows are met in another order",
        ),
        (
            "SELECT x, max(name) FROM a GROUP BY x",
            "its groups may say something else when their rows are met in another order",
        ),
        ("SELECT k FROM k", "a table has no rowids, or hides them"),
        ("SELECT * FROM hides", "a table has no rowids, or hides them"),
        ("SELECT id FROM v", "it reads something other than tables"),
        ("SELECT t FROM f", "it reads something that does not tell which rows changed"),
        ("SELECT m FROM (SELECT id AS m FROM a)", "it has a subquery in FROM or in a function of a group"),
        (
            "SELECT a.id FROM a LEFT JOIN b ON b.a = a.id WHERE b.x > 1",
            "a condition looks at what is on the right of a LEFT JOIN",
        ),
        (
            "SELECT a.id FROM a LEFT JOIN b ON b.a = a.id WHERE note IS NULL",
            "a condition looks at what is on the right of a LEFT JOIN",
        ),
        (
            "SELECT a.id FROM a RIGHT JOIN b ON b.a = a.id",
            "it has a join that is neither an inner one nor a LEFT JOIN after all of these",
        ),
        ("SELECT id FROM a LIMIT 3", "it has a LIMIT and no order"),
        ("SELECT id FROM a ORDER BY x LIMIT 1 + 2", "its LIMIT is neither a number nor a parameter"),
        ("SELECT id FROM a WHERE id = 3 ORDER BY x", "nothing is known of how it is sorted"),
        ("SELECT id, x AS n, name AS n FROM a ORDER BY n", "nothing is known of how it is sorted"),
    ] {
        assert_eq!(place.tier(sql), Tier::Run { because: why.to_owned() }, "{sql}");
    }
}

fn integers(subscription: &Subscription<i64>) -> Vec<i64> {
    subscription.current().expect("it has a result").rows
}

#[test]
fn many_rows_are_not_asked_about_and_few_are() {
    let place = Place::new();
    place.fill();
    let query = place.live.query::<i64>("SELECT x FROM a WHERE x NOT NULL ORDER BY id");
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    let scoped = || place.live.stats().scoped_runs;
    assert_eq!(scoped(), 0, "there is nothing to begin with");
    place.write("UPDATE a SET x = 100 WHERE id = 5");
    assert_eq!((scoped(), integers(&subscription)[4]), (1, 100));
    place.write("UPDATE a SET x = 7");
    assert_eq!((scoped(), integers(&subscription)), (1, vec![7; 90]));
    place.write("DELETE FROM a WHERE id = 1");
    assert_eq!((scoped(), integers(&subscription).len()), (2, 89));
    subscription.refetch();
    block_on(place.live.query::<i64>("SELECT 1").subscribe()).expect("it is asked after");
    assert_eq!(scoped(), 2, "who asks for a run gets one");
    let outside = Store::open(place.folder.join("a.db")).expect("another connection");
    outside.execute("UPDATE a SET x = 8 WHERE id = 2", []).expect("it writes");
    while integers(&subscription)[0] != 8 {
        std::thread::yield_now();
    }
    assert_eq!(scoped(), 2, "what others changed is not known");
    place.write("BEGIN; ALTER TABLE a ADD COLUMN more; UPDATE a SET x = 9 WHERE id = 2; COMMIT");
    assert_eq!((scoped(), integers(&subscription)[0]), (2, 9));
    place.write("UPDATE a SET x = 10 WHERE id = 2");
    assert_eq!((scoped(), integers(&subscription)[0]), (3, 10));
}

#[test]
fn an_error_among_the_rows_is_told_and_the_next_run_is_whole() {
    let place = Place::new();
    place.fill();
    place.write("UPDATE a SET name = '[1]'");
    let query = place.live.query::<i64>("SELECT json_extract(name, '$[0]') FROM a");
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    place.write("UPDATE a SET name = '[' WHERE id = 3");
    assert!(
        matches!(subscription.current(), Err(LiveError::Sql { message, .. }) if message.contains("JSON"))
    );
    place.write("UPDATE a SET name = '[2]' WHERE id = 4; UPDATE a SET name = '[3]' WHERE id = 3");
    assert_eq!(integers(&subscription)[2..4], [3, 2]);
    assert_eq!(place.live.stats().scoped_runs, 0);
    place.write("UPDATE a SET name = '[5]' WHERE id = 3");
    assert_eq!((place.live.stats().scoped_runs, integers(&subscription)[2]), (1, 5));
}

#[test]
fn a_join_without_an_index_is_not_asked_about_forever() {
    let place = Place::new();
    place.fill();
    // To ask about one row of `other` is to look through all of `a`, as a run does.
    place.write("INSERT INTO other VALUES (1), (2)");
    let sql = "SELECT a.x FROM other JOIN a ON a.x = z";
    assert!(matches!(place.tier(sql), Tier::Scoped { .. }));
    let query = place.live.query::<i64>(sql);
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    for z in 3..6 {
        place.write(&format!("UPDATE other SET z = {z} WHERE rowid = 2"));
        let fresh = place.fresh(sql, &[]);
        assert_eq!(integers(&subscription).len(), fresh.len());
    }
    assert_eq!(place.live.stats().scoped_runs, 0);
}

#[test]
fn the_order_of_rows_that_nobody_sorts_is_kept() {
    let place = Place::new();
    place.fill();
    let all = block_on(place.live.query::<i64>("SELECT id FROM a").subscribe()).expect("it subscribes");
    let by_index = "SELECT rowid FROM b WHERE a >= 0";
    let by_index = block_on(place.live.query::<i64>(by_index).subscribe()).expect("it subscribes");
    let was = integers(&by_index);
    assert!(!was.is_sorted(), "an index is used");
    place.write(
        "DELETE FROM a WHERE id = 40; UPDATE a SET id = 4000 WHERE id = 10; INSERT INTO a(id) VALUES (10)",
    );
    place.write("UPDATE b SET a = 1 WHERE rowid = 50; INSERT INTO b(rowid, a) VALUES (200, 0), (199, 0)");
    let expected: Vec<i64> = (1..=90).filter(|id| *id != 40).chain([4000]).collect();
    assert_eq!(integers(&all), expected, "as a look through the table gives them");
    assert_eq!(integers(&by_index), [&was[..], &[199, 200]].concat(), "what stays, and then what comes");
}

#[test]
fn a_check_knows_that_rows_stay_where_they_are() {
    let place = Place::new();
    place.fill();
    let checked = LiveOptions { check_one_in: 1, ..LiveOptions::default() };
    let live = Live::start_with(&place.handle, checked).expect("it starts");
    let sql = "SELECT rowid FROM b WHERE a >= 0";
    let subscription = block_on(live.query::<i64>(sql).subscribe()).expect("it subscribes");
    let mut told = subscription.snapshots();
    let was = block_on(told.next()).expect("it goes on").expect("a result").rows;
    let write = |sql: &str| {
        place.write(sql);
        block_on(live.settled()).expect("the database is open");
    };
    write("INSERT INTO b(rowid, a) VALUES (200, 0)");
    let kept = [&was[..], &[200]].concat();
    assert_eq!(block_on(told.next()).expect("it goes on").expect("a result").rows, kept);
    assert_ne!(place.fresh(sql, &[]).last(), Some(&vec![Value::Integer(200)]), "a run gives another order");
    let before = live.stats();
    (0..3).for_each(|_| write("INSERT INTO other VALUES (1)"));
    let after = live.stats();
    assert_eq!((after.checks, after.divergences), (before.checks + 3, 0));
    assert!(told.next().now_or_never().is_none(), "it has the same rows");
    // What is kept of the query is still that of these rows.
    write("DELETE FROM b WHERE rowid = 50; INSERT INTO b(rowid, a) VALUES (199, 0)");
    let kept: Vec<i64> = kept.into_iter().filter(|rowid| *rowid != 50).chain([199]).collect();
    assert_eq!(block_on(told.next()).expect("it goes on").expect("a result").rows, kept);
    assert_eq!((live.stats().divergences, live.stats().scoped_runs), (0, 2));
}

#[test]
fn rows_that_stay_are_the_same_rows() {
    let place = Place::new();
    place.fill();
    let subscription = place.subscribe("SELECT id, name FROM a ORDER BY name", &[]);
    let before = subscription.current_values().expect("a result").1;
    place.write("UPDATE a SET name = '!' WHERE id = 70");
    let after = subscription.current_values().expect("a result").1;
    let shared = after.iter().filter(|row| before.iter().any(|other| Arc::ptr_eq(row, other))).count();
    assert_eq!((after.len(), shared), (90, 89));
    assert_eq!(after[0][..], [Value::Integer(70), Value::from("!")]);
}
