//! Random queries of every shape that is asked only about the rows that changed, on small tables where most things meet.

mod place;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::executor::block_on;
use opor_core::{SiteId, Value};
use opor_live::{Live, LiveOptions, ScopedRuns, Subscription, Tier};
use opor_store::{OpenOptions, Store};
use proptest::prelude::*;
use serde::Deserialize;

/// Rows of any query.
#[derive(Debug, Deserialize)]
struct Any {}

const SCHEMA: &str = "
    CREATE TABLE p(id INTEGER PRIMARY KEY, x INTEGER, s TEXT COLLATE NOCASE, r);
    CREATE TABLE c(k INTEGER UNIQUE, p INTEGER, n, s TEXT COLLATE RTRIM);
    CREATE TABLE m(id TEXT PRIMARY KEY NOT NULL, x INTEGER, n INTEGER);
    SELECT crsql_as_crr('m')";

const INDEXES: [&str; 5] = [
    "",
    "CREATE INDEX c_p ON c(p)",
    "CREATE INDEX p_x ON p(x); CREATE INDEX c_p ON c(p, n)",
    "CREATE INDEX p_s ON p(s, x); CREATE INDEX c_n ON c(n DESC)",
    "CREATE INDEX p_x ON p(x DESC, id); CREATE INDEX c_s ON c(s)",
];

struct Place {
    own: place::Place,
    live: Live,
    reader: Store,
    peer: Store,
}

impl Place {
    fn new(indexes: &str, scoped_runs: ScopedRuns) -> Self {
        let own = place::Place::new();
        let options = LiveOptions { scoped_runs, check_one_in: 1, ..LiveOptions::default() };
        let live = Live::start_with(&own.handle, options).expect("it starts");
        let reader = Store::open(own.folder.join("a.db")).expect("it opens");
        let peer = OpenOptions::new().site_id(SiteId::from([2; 16])).open_in_memory().expect("a peer");
        peer.execute_batch(SCHEMA).expect("a schema");
        let place = Self { own, live, reader, peer };
        place.write(SCHEMA);
        place.write(indexes);
        place
    }

    /// Writes what may fail, in part or as a whole.
    fn write(&self, sql: &str) {
        let text = sql.to_owned();
        let _may_fail = block_on(self.own.handle.write(move |store| {
            for statement in text.split(';') {
                let _may_fail = store.execute_batch(statement);
            }
            let _none_is_open = store.execute_batch("ROLLBACK");
        }));
        block_on(self.live.settled()).expect("the database is open");
    }

    /// What the peer wrote is merged.
    fn merge(&mut self, sql: &str) {
        let _may_fail = self.peer.execute_batch(sql);
        let changes = self.peer.changeset().expect("it reads");
        block_on(self.own.handle.write(move |store| store.apply_changeset(&changes).map(|_| ())))
            .expect("the writer runs")
            .expect("it merges");
        block_on(self.live.settled()).expect("the database is open");
    }

    fn fresh(&self, sql: &str) -> Vec<Vec<Value>> {
        place::fresh(&self.reader, sql, &[])
    }
}

/// A query in parts. What it is sorted by is among its columns, so that rows that look the same may stand for each other.
#[derive(Clone, Debug)]
struct Asked {
    /// The columns, named `c0` and on.
    columns: Vec<String>,
    distinct: bool,
    /// FROM, WHERE, GROUP BY and HAVING.
    body: String,
    grouped: bool,
    order: Vec<String>,
    limit: Option<(i64, i64)>,
}

impl Asked {
    fn unsorted(&self) -> String {
        let columns = self.columns.iter().enumerate().map(|(at, column)| format!("{column} AS c{at}"));
        let columns: Vec<String> = columns.collect();
        let distinct = if self.distinct { "DISTINCT " } else { "" };
        format!("SELECT {distinct}{} FROM {}", columns.join(", "), self.body)
    }

    fn order(&self) -> String {
        if self.order.is_empty() { String::new() } else { format!(" ORDER BY {}", self.order.join(", ")) }
    }

    fn whole(&self) -> String {
        let limit = self.limit.map(|_| " LIMIT ? OFFSET ?").unwrap_or_default();
        format!("{}{}{limit}", self.unsorted(), self.order())
    }

    fn subscribe(&self, live: &Live) -> Subscription<Any> {
        let mut query = live.query::<Any>(self.whole());
        if let Some((rows, skipped)) = self.limit {
            query = query.bind(rows).bind(skipped);
        }
        block_on(query.subscribe()).unwrap_or_else(|error| panic!("{}: {error}", self.whole()))
    }

    /// A row as far as it is certain: which of equal values stands for a group is as open as it is in SQLite.
    fn certain(&self, row: &[Value]) -> String {
        if !self.grouped && !self.distinct {
            return format!("{row:?}");
        }
        let certain = |(value, column): (&Value, &String)| match value {
            Value::Text(text) if ["p.s", "q.s"].contains(&&**column) => text.to_ascii_lowercase(),
            Value::Text(text) if ["s", "c.s", "d.s"].contains(&&**column) => {
                text.trim_end_matches(' ').to_owned()
            }
            Value::Real(real) if real.trunc() == *real => format!("{:?}", Value::Integer(*real as i64)),
            value => format!("{value:?}"),
        };
        let all: Vec<String> = row.iter().zip(&self.columns).map(certain).collect();
        all.join(", ")
    }

    /// That the rows are some that SQLite could give.
    fn check(&self, place: &Place, subscription: &Subscription<Any>) -> Result<(), String> {
        let (_, rows) = subscription.current_values().map_err(|error| error.to_string())?;
        let order = if self.order.is_empty() { "1".to_owned() } else { self.order.join(", ") };
        let ranked = format!(
            "SELECT *, dense_rank() OVER (ORDER BY {order}) AS rank FROM ({}) ORDER BY rank",
            self.unsorted()
        );
        let mut ranks = Vec::new();
        let mut all: BTreeMap<String, (usize, Value)> = BTreeMap::new();
        for mut row in place.fresh(&ranked) {
            let rank = row.pop().expect("a rank");
            all.entry(self.certain(&row)).or_insert((0, rank.clone())).0 += 1;
            ranks.push(rank);
        }
        let (limit, skipped) = self.limit.unwrap_or((-1, 0));
        let skipped = usize::try_from(skipped).unwrap_or(0).min(ranks.len());
        let end = usize::try_from(limit).map_or(ranks.len(), |limit| (skipped + limit).min(ranks.len()));
        let mut found = Vec::new();
        for row in &rows {
            let (count, rank) =
                all.get_mut(&self.certain(row)).ok_or_else(|| format!("{row:?} is not there"))?;
            *count = count.checked_sub(1).ok_or_else(|| format!("{row:?} is there too often"))?;
            found.push(rank.clone());
        }
        if found != ranks[skipped..end] {
            return Err(format!("{rows:?} have the ranks {found:?} and not {:?}", &ranks[skipped..end]));
        }
        Ok(())
    }
}

/// What is read, and the columns of it that may be named; those of the left side before the others.
struct From {
    text: &'static str,
    left: &'static [&'static str],
    right: &'static [&'static str],
}

const FROMS: [From; 10] = [
    From { text: "p", left: &["p.id", "p.x", "p.s", "p.r"], right: &[] },
    From { text: "c", left: &["k", "c.p", "n", "s"], right: &[] },
    From { text: "m", left: &["m.id", "m.x", "m.n"], right: &[] },
    From { text: "p JOIN c ON c.p = p.x", left: &["p.x", "p.s", "p.r", "c.n", "c.s", "c.k"], right: &[] },
    From { text: "p AS p, p AS q WHERE q.x = p.id", left: &["p.x", "q.s", "p.s", "q.id"], right: &[] },
    From { text: "p LEFT JOIN c ON c.p = p.x", left: &["p.id", "p.x", "p.s"], right: &["c.n", "c.k", "c.s"] },
    From { text: "p LEFT JOIN c ON c.p = p.x AND c.n > 1", left: &["p.id", "p.s"], right: &["c.k", "c.n"] },
    From {
        text: "p LEFT OUTER JOIN c ON c.p = p.x LEFT JOIN c AS d ON d.k = c.n",
        left: &["p.id", "p.x"],
        right: &["c.n", "d.n", "d.s"],
    },
    From {
        text: "m LEFT JOIN m AS o ON o.n = m.x AND o.x <> m.n",
        left: &["m.id", "m.x"],
        right: &["o.id", "o.n"],
    },
    From {
        text: "p JOIN m ON m.x = p.x LEFT JOIN c ON c.p = m.n AND c.k >= p.id",
        left: &["p.id", "m.id", "p.s"],
        right: &["c.k", "c.n"],
    },
];

const SUBQUERIES: [&str; 6] = [
    "EXISTS (SELECT 1 FROM c AS e WHERE e.p = $ AND e.n IS NOT NULL)",
    "NOT EXISTS (SELECT * FROM c AS e WHERE e.k = $)",
    "$ IN (SELECT e.p FROM c AS e WHERE e.n > 1)",
    "$ NOT IN (SELECT x FROM m)",
    "(SELECT count(*) FROM m AS e WHERE e.x = $) < 2",
    "$ IN (SELECT max(e.x) FROM p AS e GROUP BY e.s)",
];

fn condition(column: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        3 => Just(String::new()),
        2 => (0..6_i64).prop_map(move |value| format!("{column} < {value}")),
        1 => Just(format!("{column} IS NOT 'a'")),
        1 => Just(format!("{column} IS NULL OR {column} > 1")),
        3 => prop::sample::select(SUBQUERIES.to_vec()).prop_map(move |sub| sub.replace('$', column)),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let pick = || any::<prop::sample::Index>();
    let from = (0..FROMS.len()).prop_flat_map(move |which| {
        let from = &FROMS[which];
        let left = prop::sample::select(from.left.to_vec()).prop_flat_map(condition);
        (Just(which), left)
    });
    let columns = (pick(), pick(), pick());
    let directions = prop::collection::vec(
        prop::sample::select(vec!["", " DESC", " DESC NULLS LAST", " COLLATE NOCASE"]),
        2,
    );
    let limit = prop::option::weighted(0.6, (0..9_i64, prop::sample::select(vec![0_i64, 0, 0, 1, 3])));
    let kinds = (0..10_usize, any::<bool>(), 0..7_usize, 0..3_usize);
    (from, columns, directions, limit, kinds).prop_map(
        |((which, condition), (one, two, three), directions, limit, (kind, sorted, function, having))| {
            let from = &FROMS[which];
            let all: Vec<&str> = from.left.iter().chain(from.right).copied().collect();
            let (one, two, three) = (*one.get(&all), *two.get(&all), *three.get(&all));
            let joined = if from.text.contains(" WHERE ") { "AND" } else { "WHERE" };
            let mut body = from.text.to_owned();
            if !condition.is_empty() {
                body = format!("{body} {joined} ({condition})");
            }
            let (grouped, distinct) = (kind < 4, kind == 4);
            let mut columns = vec![one.to_owned(), two.to_owned()];
            if grouped {
                let functions = [
                    "count(*)".to_owned(),
                    format!("count({three})"),
                    format!("sum({three})"),
                    format!("max({three})"),
                    format!("count(DISTINCT {three})"),
                    format!("min({three})"),
                    format!("total({three}) FILTER (WHERE {three} > 1)"),
                ];
                columns[1] = functions[function].clone();
                let key: &str = ["", "lower(", "coalesce(", ""][kind];
                if kind == 3 {
                    columns.push(two.to_owned());
                    body = format!("{body} GROUP BY {one}, {two}");
                } else if key.is_empty() {
                    body = format!("{body} GROUP BY c0");
                } else {
                    let key = if kind == 1 { format!("lower({one})") } else { format!("coalesce({one}, 1)") };
                    body = format!("{body} GROUP BY {key}");
                    columns[0] = key;
                }
                if having == 0 {
                    body = format!("{body} HAVING count(*) > 1");
                }
            }
            let mut order = Vec::new();
            if sorted || limit.is_some() {
                let places = [format!("c0{}", directions[0]), format!("c1{}", directions[1])];
                order.extend(places.into_iter().take(1 + usize::from(function % 2 == 0)));
            }
            Asked { columns, distinct, body, grouped, order, limit }
        },
    )
}

/// Few values, of which several are equal in one collation or as numbers.
fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "NULL", "0", "1", "1", "2", "2", "3", "4", "5", "1.0", "2.5", "'a'", "'A'", "'a '", "'b'", "'2'",
        "x'61'",
    ])
}

fn statement() -> impl Strategy<Value = String> {
    let id = || 1..16_i64;
    let small =
        || prop_oneof![8 => (0..6_i64).prop_map(|value| value.to_string()), 1 => Just("NULL".to_owned())];
    prop_oneof![
        3 => (id(), small(), value(), value())
            .prop_map(|(id, x, s, r)| format!("REPLACE INTO p VALUES ({id}, {x}, {s}, {r})")),
        2 => (id(), small()).prop_map(|(id, x)| format!("UPDATE p SET x = {x} WHERE id = {id}")),
        2 => (id(), value()).prop_map(|(id, s)| format!("UPDATE p SET s = {s} WHERE id = {id}")),
        1 => (id(), value()).prop_map(|(id, r)| format!("UPDATE p SET r = {r} WHERE x = {id}")),
        1 => (id(), id()).prop_map(|(id, to)| format!("UPDATE OR REPLACE p SET id = {to} WHERE id = {id}")),
        3 => (small(), small(), value(), value())
            .prop_map(|(k, p, n, s)| format!("REPLACE INTO c VALUES ({k}, {p}, {n}, {s})")),
        2 => (id(), small()).prop_map(|(id, p)| format!("UPDATE c SET p = {p} WHERE rowid = {id}")),
        2 => (id(), value()).prop_map(|(id, n)| format!("UPDATE c SET n = {n} WHERE rowid = {id}")),
        1 => (id(), id()).prop_map(|(id, to)| format!("UPDATE OR IGNORE c SET rowid = {to} WHERE rowid = {id}")),
        1 => (id(), small()).prop_map(|(id, k)| format!("UPDATE OR REPLACE c SET k = {k} WHERE rowid = {id}")),
        2 => (id(), small(), small()).prop_map(|(id, x, n)| of_peer(id, &x, &n)),
        1 => (id(), prop::sample::select(vec!["p", "c", "m"]))
            .prop_map(|(id, table)| format!("DELETE FROM {table} WHERE _rowid_ = {id}")),
        1 => (0..6_i64).prop_map(|x| format!("DELETE FROM p WHERE x = {x}")),
    ]
}

fn of_peer(id: i64, x: &str, n: &str) -> String {
    format!(
        "INSERT INTO m VALUES ('{id}', {x}, {n}) ON CONFLICT DO UPDATE SET x = excluded.x, n = excluded.n"
    )
}

#[derive(Clone, Debug)]
enum Deed {
    Commit { statements: Vec<String>, undone: bool },
    Merge(String),
}

fn deed() -> impl Strategy<Value = Deed> {
    let small = || (0..6_i64).prop_map(|value| value.to_string());
    let commit = (prop::collection::vec(statement(), 1..4), prop::bool::weighted(0.15))
        .prop_map(|(statements, undone)| Deed::Commit { statements, undone });
    let merge = (1..16_i64, small(), small()).prop_map(|(id, x, n)| Deed::Merge(of_peer(id, &x, &n)));
    prop_oneof![9 => commit, 1 => merge]
}

impl Deed {
    fn done(&self, place: &mut Place) {
        match self {
            Self::Merge(sql) => place.merge(sql),
            Self::Commit { statements, undone } => {
                let all = statements.join("; ");
                place.write(&if *undone {
                    format!("BEGIN; {}; SAVEPOINT s; {all}; ROLLBACK TO s; RELEASE s; COMMIT", statements[0])
                } else {
                    format!("BEGIN; {all}; COMMIT")
                });
            }
        }
    }
}

/// As many cases as `OPOR_OPS` asks for, each of some hundred checks.
fn cases() -> u32 {
    const CHECKS: u32 = 600;
    let asked = std::env::var("OPOR_OPS").ok().and_then(|ops| ops.parse::<u32>().ok());
    asked.map_or(24, |ops| (ops / CHECKS).max(1))
}

#[test]
fn every_shape_gives_what_sqlite_could_give() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    });
    let (runs, scoped, queries, shaped) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let strategy = (
        prop::sample::select(INDEXES.to_vec()),
        prop::collection::vec(statement(), 40),
        prop::collection::vec(asked(), 1..30),
        prop::collection::vec(deed(), 1..30),
    );
    let done = runner.run(&strategy, |(indexes, filled, asked, deeds)| {
        let mut place = Place::new(indexes, ScopedRuns::Always);
        place.write(&format!("BEGIN; {}; COMMIT", filled.join("; ")));
        let open: Vec<_> = asked.iter().map(|asked| asked.subscribe(&place.live)).collect();
        for asked in &asked {
            let tier = block_on(place.live.explain(asked.whole())).expect("it is right").tier;
            queries.fetch_add(1, Ordering::Relaxed);
            shaped.fetch_add(u64::from(matches!(tier, Tier::Scoped { .. })), Ordering::Relaxed);
        }
        let before = place.live.stats();
        for deed in &deeds {
            deed.done(&mut place);
            for (asked, open) in asked.iter().zip(&open) {
                let checked = asked.check(&place, open);
                prop_assert!(
                    checked.is_ok(),
                    "{}\n{:?}\nafter {deed:?}: {checked:?}",
                    asked.whole(),
                    asked.limit
                );
            }
        }
        let after = place.live.stats();
        prop_assert_eq!(after.divergences, 0);
        runs.fetch_add(after.runs - before.runs, Ordering::Relaxed);
        scoped.fetch_add(after.scoped_runs - before.scoped_runs, Ordering::Relaxed);
        Ok(())
    });
    done.unwrap_or_else(|error| panic!("{error}"));
    let [runs, scoped, queries, shaped] = [runs, scoped, queries, shaped].map(AtomicU64::into_inner);
    assert!(shaped * 10 > queries * 8, "{shaped} of {queries} have a shape");
    assert!(scoped * 2 > runs, "{scoped} of {runs} asked only about rows that changed");
}

/// A place with 200 rows in `p` and 100 in `c`, and what asking about rows that changed did to a query there.
fn filled() -> Place {
    let place = Place::new(INDEXES[1], ScopedRuns::Always);
    place.write(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
        INSERT INTO p SELECT i, i % 10, 'n' || (i % 4), i FROM n",
    );
    place.write("INSERT INTO c SELECT id, id % 50, id % 3, s FROM p WHERE id <= 100");
    place
}

/// Writes, and tells whether the query was only asked about rows: when it is the only one.
fn asks(place: &Place, sql: &str) -> bool {
    let before = place.live.stats();
    place.write(sql);
    let after = place.live.stats();
    assert_eq!(after.runs - before.runs, 1, "{sql} concerns the query");
    assert_eq!(after.divergences, 0, "{sql}");
    after.scoped_runs > before.scoped_runs
}

fn rows(subscription: &Subscription<Any>) -> Vec<Vec<Value>> {
    let (_, rows) = subscription.current_values().expect("a result");
    rows.iter().map(|row| row.to_vec()).collect()
}

fn firsts(subscription: &Subscription<Any>) -> Vec<Value> {
    let (_, rows) = subscription.current_values().expect("a result");
    rows.iter().map(|row| row[0].clone()).collect()
}

#[test]
fn rows_beyond_a_limit_are_known_until_they_are_used_up() {
    let place = filled();
    let query = place.live.query::<Any>("SELECT id FROM p ORDER BY r LIMIT ?1 OFFSET :skipped");
    let query = query.bind(10).bind_named("skipped", 2);
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    let expected = |first: i64| (first + 2..first + 12).map(Value::Integer).collect::<Vec<_>>();
    assert_eq!(firsts(&subscription), expected(1));
    for gone in 1..=16 {
        assert!(asks(&place, &format!("DELETE FROM p WHERE id = {gone}")), "{gone}");
        assert_eq!(firsts(&subscription), expected(gone + 1));
    }
    assert!(!asks(&place, "DELETE FROM p WHERE id = 17"), "what comes next is not known");
    assert_eq!(firsts(&subscription), expected(18));
    assert!(asks(&place, "UPDATE p SET r = 18.5 WHERE id = 200"), "it comes from far behind");
    assert_eq!(
        firsts(&subscription)[..2],
        [Value::Integer(19), Value::Integer(20)],
        "{:?}",
        firsts(&subscription)
    );
    assert!(asks(&place, "UPDATE p SET r = 1000 WHERE id = 190"), "behind all that is known");
    assert!(asks(&place, "UPDATE p SET r = 0 WHERE id IN (198, 199)"));
    assert_eq!(firsts(&subscription)[..2], [Value::Integer(18), Value::Integer(200)]);
    // What went behind all that is known must not be taken for what comes next.
    for _ in 0..40 {
        place.write("UPDATE p SET r = 2000 WHERE id = (SELECT id FROM p ORDER BY r LIMIT 1)");
        let fresh = place.fresh("SELECT id FROM p ORDER BY r LIMIT 10 OFFSET 2").concat();
        assert_eq!(firsts(&subscription), fresh);
    }
    assert_eq!(place.live.stats().divergences, 0);
}

#[test]
fn limits_that_are_no_numbers_are_left_to_sqlite() {
    let place = filled();
    for (value, rows) in [(Value::from("3"), 3), (Value::Integer(-1), 200), (Value::Real(2.0), 2)] {
        let query =
            place.live.query::<Any>("SELECT id FROM p ORDER BY r DESC, id LIMIT ?").bind(value.clone());
        let subscription = block_on(query.subscribe()).expect("it subscribes");
        assert_eq!(firsts(&subscription).len(), rows);
        assert!(!asks(&place, &format!("UPDATE p SET r = {} WHERE id = 1", 300 + rows)), "{value:?}");
        assert_eq!(
            (firsts(&subscription)[0].clone(), firsts(&subscription).len()),
            (Value::Integer(1), rows)
        );
        drop(subscription);
        // It is let go of before the next one is counted.
        block_on(place.live.explain("SELECT 1")).expect("it is right");
    }
    let query = place.live.query::<Any>("SELECT id FROM p ORDER BY r LIMIT ?").bind("many");
    let refused = block_on(query.subscribe()).map(|_| ()).expect_err("SQLite refuses it");
    assert_eq!(refused.to_string(), "datatype mismatch");
}

#[test]
fn groups_that_rows_leave_and_come_to_are_asked_for() {
    let place = filled();
    let sql = "SELECT x, count(*), max(r) FROM p GROUP BY x HAVING count(*) > 1";
    let subscription = block_on(place.live.query::<Any>(sql).subscribe()).expect("it subscribes");
    let group = |x: i64| rows(&subscription).into_iter().find(|row| row[0] == Value::Integer(x));
    let is = |x: i64, count: i64, max: i64| Some([x, count, max].map(Value::Integer).to_vec());
    assert_eq!(group(3), is(3, 20, 193));
    assert!(asks(&place, "UPDATE p SET x = 4 WHERE id = 193"));
    assert_eq!((group(3), group(4)), (is(3, 19, 183), is(4, 21, 194)));
    assert!(asks(&place, "UPDATE p SET x = 77 WHERE id IN (1)"));
    assert_eq!(group(77), None, "of one row there is none");
    assert!(asks(&place, "UPDATE p SET x = 77 WHERE id = 2"));
    assert_eq!((group(77), rows(&subscription).len()), (is(77, 2, 2), 11));
    assert!(asks(&place, "DELETE FROM p WHERE x = 77"));
    assert_eq!((group(77), rows(&subscription).len()), (None, 10));
}

#[test]
fn a_group_that_depends_on_the_order_of_its_rows_is_not_asked_for() {
    let place = filled();
    let sql = "SELECT s, count(*), min(r) FROM p GROUP BY s";
    let subscription = block_on(place.live.query::<Any>(sql).subscribe()).expect("it subscribes");
    let as_sqlite = || assert_eq!(rows(&subscription), place.fresh(sql));
    assert!(asks(&place, "UPDATE p SET s = 'n2' WHERE id = 1"));
    as_sqlite();
    assert!(!asks(&place, "UPDATE p SET s = 'N2' WHERE id = 2"), "n2 and N2 are one group");
    as_sqlite();
    assert!(asks(&place, "UPDATE p SET s = 'n3' WHERE id = 4"), "another group");
    as_sqlite();
    assert!(!asks(&place, "UPDATE p SET r = -1.0 WHERE id = 4"), "integers and reals");
    as_sqlite();
}

#[test]
fn a_row_without_a_partner_comes_and_goes_with_them() {
    let place = filled();
    let sql = "SELECT p.id, c.k FROM p LEFT JOIN c ON c.p = p.id WHERE p.id < 190 ORDER BY p.id, c.k";
    let subscription = block_on(place.live.query::<Any>(sql).subscribe()).expect("it subscribes");
    let of = |id: i64| -> Vec<Value> {
        let all = rows(&subscription).into_iter();
        all.filter(|row| row[0] == Value::Integer(id)).map(|row| row[1].clone()).collect()
    };
    let integers = |values: &[i64]| values.iter().copied().map(Value::Integer).collect::<Vec<_>>();
    assert_eq!((of(7), of(60)), (integers(&[7, 57]), vec![Value::Null]));
    assert!(asks(&place, "DELETE FROM c WHERE k = 57"));
    assert_eq!(of(7), integers(&[7]));
    assert!(asks(&place, "UPDATE c SET p = 60 WHERE k = 7"));
    assert_eq!((of(7), of(60)), (vec![Value::Null], integers(&[7])));
    assert!(asks(&place, "INSERT INTO c(k, p) VALUES (1000, 60)"));
    assert_eq!(of(60), integers(&[7, 1000]));
    assert!(asks(&place, "UPDATE p SET id = 500 WHERE id = 60"));
    assert_eq!((of(60), of(500)), (vec![], vec![]), "it is filtered");
}

#[test]
fn what_a_subquery_reads_runs_the_query() {
    let place = filled();
    let sql = "SELECT id, (SELECT count(*) FROM c WHERE c.p = p.id) FROM p WHERE x IN (SELECT n FROM c)";
    let subscription = block_on(place.live.query::<Any>(sql).subscribe()).expect("it subscribes");
    let as_sqlite = || assert_eq!(rows(&subscription), place.fresh(sql));
    assert!(asks(&place, "UPDATE p SET x = 2 WHERE id = 9"));
    as_sqlite();
    assert!(!asks(&place, "UPDATE c SET p = 9 WHERE k = 3"));
    as_sqlite();
    assert!(!asks(&place, "INSERT INTO c(n) VALUES (9)"));
    as_sqlite();
    // A table that is within and without.
    drop(subscription);
    block_on(place.live.explain("SELECT 1")).expect("it is right");
    let sql = "SELECT id FROM p WHERE x = (SELECT max(x) FROM p)";
    let subscription = block_on(place.live.query::<Any>(sql).subscribe()).expect("it subscribes");
    assert!(!asks(&place, "UPDATE p SET x = 1000 WHERE id = 5"));
    assert_eq!(firsts(&subscription), [Value::Integer(5)]);
}

#[test]
fn it_is_said_what_is_asked_about() {
    let place = filled();
    let words = |sql: &str| {
        let told = block_on(place.live.explain(sql)).expect("it is right").to_string();
        told.lines().last().unwrap_or_default().to_owned()
    };
    for (sql, expected) in [
        ("SELECT id FROM p", "the rows that changed"),
        ("SELECT DISTINCT x FROM p", "the groups of the rows that changed"),
        ("SELECT id FROM p LEFT JOIN c ON c.p = id", "the rows that changed, and what they are joined to"),
        (
            "SELECT id FROM p ORDER BY x LIMIT 5",
            "the rows that changed, as far as its LIMIT and some rows more reach",
        ),
        (
            "SELECT id FROM p WHERE EXISTS (SELECT 1 FROM c WHERE c.p = p.id)",
            "the rows that changed; it is run as a whole when c changes, which a subquery reads",
        ),
    ] {
        assert_eq!(words(sql), format!("asks only about {expected}"), "{sql}");
    }
}
