//! Guards against SQLite itself: a query that is passed over has the result that it had.

mod place;

use std::sync::atomic::{AtomicU64, Ordering};

use futures::executor::block_on;
use opor_core::Value;
use opor_live::{Live, LiveOptions, Subscription};
use opor_store::rusqlite::params_from_iter;
use place::{Place, fresh, sql_value};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Any {}

fn write(place: &Place, sql: String, values: Vec<Value>) -> bool {
    let values: Vec<_> = values.iter().map(sql_value).collect();
    block_on(place.handle.write(move |store| store.execute(&sql, params_from_iter(values)).is_ok()))
        .expect("the writer runs")
}

/// Values that are near each other under some conversion or collation.
fn value() -> impl Strategy<Value = Value> {
    let near = [
        Value::Null,
        Value::Integer(0),
        Value::Integer(1),
        Value::Integer(5),
        Value::Integer(9_007_199_254_740_992),
        Value::Integer(9_007_199_254_740_993),
        Value::Integer(i64::MAX),
        Value::Real(-0.0),
        Value::Real(5.0),
        Value::Real(5.5),
        Value::Real(0.1 + 0.2),
        Value::Real(0.3),
        Value::Real(9_007_199_254_740_992.0),
        Value::Real(9_223_372_036_854_775_808.0),
        Value::Real(1e20),
        "5".into(),
        "05".into(),
        " 5".into(),
        "5.0".into(),
        "5.5".into(),
        "0.3".into(),
        "1e20".into(),
        "1.0e+20".into(),
        "a".into(),
        "A".into(),
        "a ".into(),
        "ab".into(),
        "abcdefghi".into(),
        "abcdefghj".into(),
        "é".into(),
        "É".into(),
        "".into(),
        "9007199254740993".into(),
        Value::Blob(vec![b'a']),
        Value::Blob(Vec::new()),
    ];
    prop::sample::select(near.to_vec())
}

const TYPES: [&str; 9] = [
    "INTEGER",
    "REAL",
    "NUMERIC",
    "TEXT",
    "",
    "BLOB",
    "TEXT COLLATE NOCASE",
    "TEXT COLLATE RTRIM",
    "COLLATE NOCASE",
];

#[derive(Clone, Debug)]
struct Asked {
    sql: String,
    values: Vec<Value>,
}

/// A condition on a column of an item, with one value for each parameter.
fn atom(item: &'static str) -> BoxedStrategy<(String, Vec<Value>)> {
    let column = prop::sample::select(vec!["c0", "c1", "id"]);
    let one = prop::sample::select(vec![
        "= ?",
        "IS ?",
        "> ?",
        "<= ?",
        "BETWEEN ? AND 'b'",
        "BETWEEN 1 AND ?",
        "IN (?, 1)",
        "IS NULL",
        "= ? COLLATE NOCASE",
        "COLLATE RTRIM = ?",
        "IN (?, ?)",
        "= 5",
        "= '5'",
    ]);
    (column, one, value(), value())
        .prop_map(move |(column, test, a, b)| {
            let wanted = test.matches('?').count();
            (format!("{item}.{column} {test}"), vec![a, b].into_iter().take(wanted).collect())
        })
        .boxed()
}

fn condition(item: &'static str) -> BoxedStrategy<(String, Vec<Value>)> {
    let two = |sign: &'static str| {
        (atom(item), atom(item)).prop_map(move |((a, mut values), (b, more))| {
            values.extend(more);
            (format!("({a} {sign} {b})"), values)
        })
    };
    prop_oneof![4 => atom(item), 1 => two("AND"), 1 => two("OR")].boxed()
}

fn asked() -> impl Strategy<Value = Asked> {
    let single = condition("a")
        .prop_map(|(text, values)| Asked { sql: format!("SELECT * FROM t AS a WHERE {text}"), values });
    let from = prop::sample::select(vec![
        "t AS a JOIN u AS b ON a.c0 = b.c0",
        "t AS a, u AS b WHERE a.c0 = b.c1 AND",
        "t AS a JOIN t AS b ON a.c0 = b.c1",
        "t AS a LEFT JOIN u AS b ON a.c0 = b.c0",
        "u AS a LEFT JOIN t AS b ON a.c1 = b.c0",
    ]);
    let joined = (from, condition("a"), prop::option::of(condition("b"))).prop_map(
        |(from, (text, mut values), other)| {
            let (more, rest) = other.unwrap_or_default();
            values.extend(rest);
            let and = if more.is_empty() { "" } else { " AND " };
            let clause = if from.ends_with("AND") { "" } else { " WHERE" };
            Asked { sql: format!("SELECT a.*, b.* FROM {from}{clause} {text}{and}{more}"), values }
        },
    );
    prop_oneof![single, joined]
}

#[derive(Clone, Debug)]
enum Write {
    Insert(&'static str, i64, Value, Value),
    Update(&'static str, i64, &'static str, Value),
    Rename(&'static str, i64, i64),
    Delete(&'static str, i64),
}

fn writes() -> impl Strategy<Value = Write> {
    let table = || prop::sample::select(vec!["t", "u"]);
    let column = prop::sample::select(vec!["c0", "c1"]);
    prop_oneof![
        3 => (table(), 0..8_i64, value(), value()).prop_map(|(table, id, a, b)| Write::Insert(table, id, a, b)),
        3 => (table(), 0..8_i64, column, value()).prop_map(|(table, id, column, a)| Write::Update(table, id, column, a)),
        1 => (table(), 0..8_i64, 0..8_i64).prop_map(|(table, id, to)| Write::Rename(table, id, to)),
        1 => (table(), 0..8_i64).prop_map(|(table, id)| Write::Delete(table, id)),
    ]
}

fn subscribe(live: &Live, asked: &Asked) -> Subscription<Any> {
    let mut query = live.query::<Any>(asked.sql.clone());
    for value in &asked.values {
        query = query.bind(value.clone());
    }
    block_on(query.subscribe()).unwrap_or_else(|error| panic!("{asked:?}: {error}"))
}

fn history(types: &[usize], asked: &[Asked], writes: &[Write], without_rowid: bool) -> (u64, u64) {
    let place = Place::new();
    let kind = if without_rowid { " WITHOUT ROWID" } else { "" };
    for (at, table) in ["t", "u"].into_iter().enumerate() {
        let [a, b] = [types[2 * at], types[2 * at + 1]].map(|kind| TYPES[kind]);
        let sql = format!("CREATE TABLE {table}(id INTEGER PRIMARY KEY, c0 {a}, c1 {b}){kind}");
        assert!(write(&place, sql, Vec::new()));
    }
    let live = Live::start_with(&place.handle, LiveOptions::default()).expect("it starts");
    let open: Vec<_> = asked.iter().map(|asked| subscribe(&live, asked)).collect();
    let before = live.stats();
    let mut commits = 0;
    for write in writes {
        let written = match write.clone() {
            Write::Insert(table, id, a, b) => self::write(
                &place,
                format!("INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)"),
                vec![Value::Integer(id), a, b],
            ),
            Write::Update(table, id, column, a) => self::write(
                &place,
                format!("UPDATE {table} SET {column} = ? WHERE id >= ?"),
                vec![a, Value::Integer(id)],
            ),
            Write::Rename(table, id, to) => self::write(
                &place,
                format!("UPDATE OR IGNORE {table} SET id = ?2 WHERE id = ?1"),
                vec![id.into(), to.into()],
            ),
            Write::Delete(table, id) => {
                self::write(&place, format!("DELETE FROM {table} WHERE id = ?"), vec![id.into()])
            }
        };
        commits += u64::from(written);
        block_on(live.settled()).expect("the database is open");
        for (open, asked) in open.iter().zip(asked) {
            let live = open.current_values().map(|(_, rows)| rows).expect("a result");
            let live: Vec<Vec<Value>> = live.iter().map(|row| row.to_vec()).collect();
            let (sql, values) = (asked.sql.clone(), asked.values.clone());
            let fresh = block_on(place.handle.read(move |store| fresh(store, &sql, &values)));
            let fresh = fresh.expect("readers run");
            assert_eq!(
                live,
                fresh,
                "{asked:?} after {write:?}, {:?}",
                block_on(block_on_explain(&place, asked))
            );
        }
    }
    let after = live.stats();
    (commits * asked.len() as u64, after.runs - before.runs)
}

async fn block_on_explain(place: &Place, asked: &Asked) -> String {
    let live = Live::start(&place.handle).expect("it starts");
    live.explain(asked.sql.clone()).await.expect("it is right").to_string()
}

#[test]
fn a_query_that_is_passed_over_has_the_result_that_it_had() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let (all, ran) = (AtomicU64::new(0), AtomicU64::new(0));
    let strategy = (
        prop::collection::vec(0..TYPES.len(), 4),
        prop::collection::vec(asked(), 1..12),
        prop::collection::vec(writes(), 1..30),
        any::<bool>(),
    );
    let run = runner.run(&strategy, |(types, asked, writes, without_rowid)| {
        let (chances, runs) = history(&types, &asked, &writes, without_rowid);
        all.fetch_add(chances, Ordering::Relaxed);
        ran.fetch_add(runs, Ordering::Relaxed);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
    let (all, ran) = (all.into_inner(), ran.into_inner());
    assert!(ran * 2 < all, "{ran} of {all}: most commits concern few queries");
    assert!(ran * 50 > all, "{ran} of {all}: some concern some");
}

#[test]
fn a_commit_runs_the_queries_whose_rows_it_touches() {
    let place = Place::new();
    let made = write(
        &place,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, list INTEGER, at REAL, note TEXT)".to_owned(),
        Vec::new(),
    );
    assert!(made);
    let live = Live::start(&place.handle).expect("it starts");
    let equal = (0..500)
        .map(|list| Asked { sql: "SELECT id FROM t WHERE list = ?".to_owned(), values: vec![list.into()] });
    let range = (0..500).map(|at| Asked {
        sql: "SELECT id FROM t WHERE at >= ?1 AND at < ?1 + 1".to_owned().replace("?1 + 1", "?2"),
        values: vec![at.into(), (at + 1).into()],
    });
    let open: Vec<_> = equal.chain(range).map(|asked| subscribe(&live, &asked)).collect();
    let runs = |sql: &str| {
        let before = live.stats().runs;
        assert!(write(&place, sql.to_owned(), Vec::new()), "{sql}");
        block_on(live.settled()).expect("the database is open");
        live.stats().runs - before
    };
    assert_eq!(runs("INSERT INTO t VALUES (1, 7, 9.5, 'a')"), 2);
    assert_eq!(runs("UPDATE t SET note = 'b'"), 0, "nobody reads it");
    assert_eq!(runs("UPDATE t SET list = 8"), 2, "it leaves one and comes to another");
    assert_eq!(runs("UPDATE t SET list = 1000, at = 1000"), 2);
    assert_eq!(runs("INSERT INTO t VALUES (2, NULL, NULL, NULL)"), 0);
    assert_eq!(runs("UPDATE t SET at = 'a text'"), 500, "only SQLite compares it with numbers");
    let explained =
        block_on(live.explain("SELECT id FROM t WHERE list = ?")).expect("it is right").to_string();
    assert!(explained.contains("\n  t, columns id, list; rows with list = ?1\n"), "{explained}");
    drop(open);
    assert_eq!(runs("DELETE FROM t"), 0);
}
