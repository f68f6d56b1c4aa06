//! Each rule of guards, and what it must not take for one.

use opor_store::{OpenOptions, Store};

use super::*;
use crate::access::Listener;
use crate::plan::{Plan, plan};

const SCHEMA: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER, r REAL, s TEXT, b, c TEXT COLLATE NOCASE, d TEXT COLLATE own,
        g AS (n + 1), st AS (n + 2) STORED, \"order\" NUMERIC);
    CREATE TABLE u(id INTEGER PRIMARY KEY, t INTEGER, s TEXT, x);
    CREATE TABLE w(k INTEGER PRIMARY KEY DESC, v) WITHOUT ROWID;
    CREATE TABLE y(k INTEGER PRIMARY KEY DESC, rowid TEXT);
    CREATE TABLE z(a ANY, i INT) STRICT;
    CREATE VIEW v AS SELECT * FROM u";

fn store() -> Store {
    let store = OpenOptions::new().open_in_memory().expect("it opens");
    store.create_collation("own", |a: &str, b: &str| a.len().cmp(&b.len())).expect("it is made");
    store.execute_batch(SCHEMA).expect("the schema");
    store
}

fn planned(sql: &str) -> Plan {
    let store = store();
    let listener = Listener::install(&store);
    let plan = plan(&store, &listener, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    listener.uninstall(&store);
    plan
}

/// The guards of a table in words; an empty text when there is none.
fn words(plan: &Plan, table: &str) -> String {
    let guards = plan.guards.tables.get(table).into_iter().flatten();
    guards.map(|guard| guard.words(&plan.parameters)).collect::<Vec<_>>().join(" | ")
}

#[track_caller]
fn check(condition: &str, expected: &str) {
    let plan = planned(&format!("SELECT * FROM t WHERE {condition}"));
    assert_eq!(words(&plan, "t"), expected, "{condition}");
}

#[track_caller]
fn check_all(sql: &str, t: &str, u: &str) {
    let plan = planned(sql);
    assert_eq!((&*words(&plan, "t"), &*words(&plan, "u")), (t, u), "{sql}");
}

#[test]
fn conditions_that_compare_a_column_with_values() {
    check("n = ?", "n = ?1");
    check("? == n", "n = ?1");
    check("n = :a AND s = :b", "n = :a and s = :b");
    check("b > ?2 AND n = ?", "b > ?2 and n = ?3");
    check("(((n))) = (5)", "n = 5");
    check("n IS ?", "n is ?1");
    check("n IS NULL OR n ISNULL", "n is NULL or n is NULL");
    check("n IS NOT DISTINCT FROM 3", "n is 3");
    check("n IN (1, ?, -3, 'x''y')", "n in (1, ?1, -3, 'x''y')");
    check("n IN ()", "n in ()");
    check("n BETWEEN ? AND 9", "n >= ?1 and n <= 9");
    check("n > 1 AND s = 'a' AND n <= 9", "n > 1 and n <= 9 and s = 'a'");
    check("1 < n AND 9 >= n", "n > 1 and n <= 9");
    check("r >= 2.5", "r >= 2.5");
    check("n = 0x10", "n = 16");
    check("n = 1 OR s = 'a' AND b = 2", "n = 1 or (s = 'a' and b = 2)");
    check("(n = 1 OR n = 2) AND length(s) = 2", "n = 1 or n = 2");
    check("c = 'a' AND s = 'b' COLLATE nocase", "c = 'a' and s = 'b'");
    check(
        "\"order\" = 1 AND [s] = 'a' AND `b` = 2 AND T.N = 3 AND main.t.r = 1.0",
        "order = 1 and s = 'a' and b = 2 and n = 3 and r = 1.0",
    );
    check(
        "rowid = 1 AND _ROWID_ > 0 AND t.oid = ? AND id = 2",
        "rowid = 1 and rowid > 0 and rowid = ?1 and id = 2",
    );
}

#[test]
fn conditions_that_are_none() {
    for condition in [
        "n = n",
        "+n = 1",
        "-n = 1",
        "n + 0 = 1",
        "NOT n = 1",
        "n <> 1",
        "n IS NOT 1",
        "n NOT IN (1)",
        "n NOTNULL",
        "n NOT BETWEEN 1 AND 2",
        "n = 1 OR length(s) = 3",
        "n = 1 OR b",
        "s LIKE 'a%'",
        "CAST(n AS TEXT) = '1'",
        "g = 1",
        "st = 1",
        "d = 'a'",
        "s = 'a' COLLATE own",
        "(n, r) = (1, 2)",
        "n IN (1, r)",
        "n = true",
        "n = \"nothing\"",
        "\"nothing\" = 'nothing'",
        "n = abs(-1)",
        "n = (SELECT 1)",
        "n = 1 AND json(s) = '{}'",
        "n = 1 AND s -> '$' = 1",
        "n = x'00'",
    ] {
        check(condition, "");
    }
}

#[test]
fn forms_that_are_not_looked_into() {
    for sql in [
        "WITH t AS (SELECT 1 AS n) SELECT * FROM t, u WHERE n = 1 AND u.x = 1",
        "WITH q AS (SELECT 1 AS m) SELECT t.id FROM t, q WHERE t.n = 1",
        "SELECT n FROM t WHERE n = 1 UNION SELECT x FROM u WHERE x = 1",
        "SELECT * FROM v AS u JOIN t ON t.n = 1 WHERE u.x = 1",
        "SELECT * FROM t RIGHT JOIN u ON t.id = u.t WHERE t.n = 1 AND u.x = 1",
        "SELECT * FROM t FULL JOIN u ON t.id = u.t WHERE t.n = 1 AND u.x = 1",
        "SELECT * FROM (t JOIN u ON 1) WHERE n = 1 AND x = 1",
        "SELECT * FROM t, u, json_each(t.s) WHERE t.n = 1 AND u.x = 1",
        "SELECT * FROM (SELECT * FROM t) AS t, (SELECT * FROM u) AS u WHERE t.n = 1 AND u.x = 1",
        "SELECT n FROM t WHERE n = 1 AND EXISTS (SELECT 1 FROM t AS o WHERE o.id > t.id)",
        "SELECT n, (SELECT max(n) FROM main.t) FROM t WHERE n = 1",
        "SELECT n FROM t WHERE n = 1 AND n IN t",
        "SELECT n FROM t WHERE n = 1 AND n IN (WITH q AS (SELECT n FROM \"T\") SELECT n FROM q)",
        "VALUES (1)",
    ] {
        let sql = sql.replace("n IN t", "n IN (SELECT n FROM t)");
        check_all(&sql, "", "");
    }
    let deep = format!("SELECT * FROM t WHERE {}n = 1{}", "(".repeat(90), ")".repeat(90));
    check_all(&deep, "n = 1", "");
    let deeper = format!("SELECT * FROM t WHERE {}n = 1{}", "(".repeat(101), ")".repeat(101));
    check_all(&deeper, "", "");
}

#[test]
fn joins_and_names() {
    check_all("SELECT * FROM t, u WHERE n = 1 AND x = 2", "n = 1", "x = 2");
    check_all("SELECT * FROM t JOIN u ON t.id = u.t AND u.s = 'a' WHERE t.n = 1", "n = 1", "s = 'a'");
    // Each value holds for whatever is equal.
    check_all("SELECT * FROM t JOIN u ON t.id = u.t WHERE t.id = ?", "id = ?1", "t = ?1");
    check_all("SELECT * FROM t, u WHERE u.t = t.id AND u.t IN (1, 2)", "id in (1, 2)", "t in (1, 2)");
    check_all("SELECT * FROM t, u WHERE u.t = t.id AND t.n = u.t AND t.n = 3", "id = 3 and n = 3", "t = 3");
    check_all("SELECT * FROM t, u WHERE t.s = u.x AND t.s = 'a'", "s = 'a'", "");
    check_all("SELECT * FROM t, u WHERE t.s IS u.s AND t.s = 'a'", "s = 'a'", "");
    check_all("SELECT * FROM t, u WHERE (t.s = u.s OR 0) AND t.s = 'a'", "s = 'a'", "");
    check_all("SELECT * FROM t, u WHERE t.id = u.t AND t.id > 5", "id > 5", "");
    check_all("SELECT * FROM t, u WHERE t.d = u.s AND u.s = 'a'", "", "s = 'a'");
    // Every time a table is joined counts.
    check_all("SELECT * FROM t AS a, t AS b WHERE a.n = 1 AND b.n = 2", "n = 1 | n = 2", "");
    check_all("SELECT * FROM t AS a, t AS b WHERE a.n = 1 AND b.n = a.n", "n = 1 | n = 1", "");
    check_all("SELECT * FROM t AS a, t AS b WHERE a.n = 1", "", "");
    check_all("SELECT * FROM t AS a, u AS t WHERE t.x = 1 AND a.n = 2", "", "x = 1");
    check_all("SELECT * FROM t, u WHERE t.id = 1 AND u.x = 2 AND u.t = (SELECT max(x) FROM u)", "id = 1", "");
    // The word may be the column or the table.
    check_all("SELECT * FROM t, u WHERE t.id = 1 AND u.x = 2 AND n = max(t, 1)", "", "x = 2");
    check_all("SELECT * FROM t, (SELECT x AS n2 FROM u) WHERE t.n = 1", "n = 1", "");
    check_all("SELECT * FROM t, (SELECT x AS n2 FROM u) WHERE n = 1", "", "");
    // What is on the right of a LEFT JOIN.
    check_all("SELECT * FROM t LEFT JOIN u ON u.t = t.id AND u.x = 1 WHERE t.n = 1", "n = 1", "");
    check_all("SELECT * FROM t LEFT JOIN u ON u.t = t.id WHERE t.n = 1 AND u.x = 2", "n = 1", "x = 2");
    check_all("SELECT * FROM t NATURAL JOIN u WHERE t.n = 1 AND u.x = 1", "n = 1", "x = 1");
    check_all("SELECT count(*) FROM t WHERE n = 1 GROUP BY s HAVING s = 'a' ORDER BY b LIMIT 1", "n = 1", "");
}

#[test]
fn rowids_and_declared_types() {
    let slot = |sql: &str, table: &str| {
        let plan = planned(sql);
        plan.guards.anchors(table, &[Value::Integer(1)])
    };
    let equal =
        |slot, mode: Mode| Some(vec![Anchor::Equal { slot, mode, key: mode.key(&Value::Integer(1)) }]);
    assert_eq!(slot("SELECT * FROM t WHERE id = ?", "t"), equal(Slot::Rowid, Mode::Numeric));
    assert_eq!(slot("SELECT * FROM w WHERE k = ?", "w"), equal(Slot::Place(0), Mode::Numeric));
    assert_eq!(slot("SELECT * FROM y WHERE k = ?", "y"), equal(Slot::Place(0), Mode::Numeric));
    assert_eq!(slot("SELECT * FROM y WHERE rowid = ?", "y"), equal(Slot::Place(1), Mode::Text));
    assert_eq!(slot("SELECT * FROM y WHERE oid = ?", "y"), equal(Slot::Rowid, Mode::Numeric));
    assert_eq!(slot("SELECT * FROM z WHERE a = ?", "z"), equal(Slot::Place(0), Mode::AsIs));
    assert_eq!(slot("SELECT * FROM t WHERE b = ?", "t"), equal(Slot::Place(4), Mode::AsIs));
    assert_eq!(
        slot("SELECT * FROM t, u WHERE t.s = u.t AND u.t = ?", "t"),
        equal(Slot::Place(3), Mode::Mixed)
    );
}

/// A row of `t`, of which only one column matters.
struct Only(Value);

impl Seen for Only {
    fn value(&self, _: Slot) -> Option<Cow<'_, Value>> {
        Some(Cow::Borrowed(&self.0))
    }
}

struct Unknown;

impl Seen for Unknown {
    fn value(&self, _: Slot) -> Option<Cow<'_, Value>> {
        None
    }
}

/// Whether rows with these values pass, when the condition has this parameter; `None` when it guards nothing with it.
#[track_caller]
fn check_rows<const N: usize>(condition: &str, parameter: impl Into<Value>, rows: [(Value, bool); N]) {
    let plan = planned(&format!("SELECT * FROM t WHERE {condition}"));
    let parameters = [parameter.into()];
    assert!(plan.guards.anchors("t", &parameters).is_some(), "{condition}");
    for (value, passes) in rows {
        let row = Only(value);
        assert_eq!(
            plan.guards.pass("t", &parameters, &row),
            passes,
            "{condition} {parameters:?}: {:?}",
            row.0
        );
    }
    assert!(plan.guards.pass("t", &parameters, &Unknown) || parameters[0] == Value::Null, "{condition}");
}

fn v(value: impl Into<Value>) -> Value {
    value.into()
}

#[test]
fn values_that_pass() {
    check_rows(
        "n = ?",
        "5",
        [(v(5), true), (v(5.0), true), (v(6), false), (v("a"), false), (Value::Null, false)],
    );
    check_rows("s = ?", 5, [(v("5"), true), (v("05"), false), (Value::Null, false)]);
    check_rows("b = ?", "5", [(v(5), false), (v("5"), true)]);
    check_rows("c = ?", "Ab", [(v("aB"), true), (v("ac"), false)]);
    check_rows("n = ?", Value::Null, [(v(0), false), (Value::Null, false)]);
    check_rows("n IS ?", Value::Null, [(v(0), false), (Value::Null, true)]);
    check_rows("n IS ?", 1, [(v(1), true), (Value::Null, false)]);
    check_rows("n IN (1, ?)", Value::Null, [(v(1), true), (v(2), false), (Value::Null, false)]);
    check_rows(
        "n > ?",
        5,
        [(v(5), false), (v(6), true), (v(5.5), true), (Value::Null, false), (v("a"), true)],
    );
    check_rows("n >= ?", 5, [(v(5), true), (v(4.9), false)]);
    check_rows(
        "n < ?",
        9_007_199_254_740_993,
        [(v(9_007_199_254_740_992.0), true), (v(9_007_199_254_740_993), false)],
    );
    check_rows("n BETWEEN ? AND 9", 5, [(v(4), false), (v(5), true), (v(9), true), (v(10), false)]);
    check_rows("n BETWEEN ? AND 9", Value::Null, [(v(5), false)]);
    check_rows("s < ?", "b", [(v("a"), true), (v("b"), false), (v("é"), false)]);
    check_rows("n = 1 OR n > ?", 5, [(v(1), true), (v(3), false), (v(6), true)]);
}

#[test]
fn parameters_that_guard_nothing() {
    for (condition, parameter) in [
        ("n = ?", v("5.5")),
        ("s = ?", v(0.1)),
        ("n > ?", v("5")),
        ("s > ?", v(5)),
        ("c > ?", v("a")),
        ("s COLLATE nocase > ?", v("a")),
        ("n > ?", Value::Blob(vec![1])),
        ("n = 1 OR s = ?", v(0.1)),
    ] {
        let plan = planned(&format!("SELECT * FROM t WHERE {condition}"));
        assert_eq!(plan.guards.anchors("t", &[parameter]), None, "{condition}");
    }
    let left = planned("SELECT * FROM t LEFT JOIN u ON u.t = t.id WHERE u.x IS ?");
    assert_eq!(left.guards.anchors("u", &[Value::Null]), None, "a row that comes takes NULLs away");
    assert_eq!(left.guards.anchors("u", &[v(1)]).map(|anchors| anchors.len()), Some(1));
    let many = vec!["1"; ANCHORS_MAX + 1].join(", ");
    assert_eq!(planned(&format!("SELECT * FROM t WHERE n IN ({many})")).guards.anchors("t", &[]), None);
}

/// Whether a row passes whose columns all have this value.
#[track_caller]
fn check_passes(sql: &str, table: &str, parameters: &[Value], row: impl Into<Value>, passes: bool) {
    let plan = planned(sql);
    assert!(plan.guards.anchors(table, parameters).is_some(), "{sql}: it is found by something");
    let row = Only(row.into());
    assert_eq!(plan.guards.pass(table, parameters, &row), passes, "{sql} {parameters:?}: {:?}", row.0);
}

#[test]
fn what_only_sqlite_can_compare_passes_beside_what_is_clear() {
    // A column without affinity is compared as a number here.
    let joined = "SELECT * FROM t, u WHERE t.n = u.x AND t.n = ?";
    check_passes(joined, "u", &[v(5)], "5.0", true);
    check_passes(joined, "u", &[v(5)], "6", false);
    // The other condition says where it is found.
    check_passes("SELECT * FROM t WHERE s = ? AND b >= '0'", "t", &[v(0.1)], "0.1", true);
    check_passes("SELECT * FROM t WHERE s = ? AND b >= '1'", "t", &[v(0.1)], "0.1", false);
    check_passes("SELECT * FROM t WHERE n > ? AND b = '3x'", "t", &[v("5")], "3x", true);
    check_passes("SELECT * FROM t WHERE c > ? AND b = 'B'", "t", &[v("a")], "B", true);
}

#[test]
fn every_mention_of_a_table_counts() {
    let sql = "SELECT * FROM t AS a, t AS b WHERE a.n = ?1 AND b.n = ?2";
    for (value, passes) in [(1, true), (2, true), (3, false)] {
        check_passes(sql, "t", &[v(1), v(2)], value, passes);
    }
    let anchors = planned(sql).guards.anchors("t", &[v(1), v(2)]);
    assert_eq!(anchors.map(|anchors| anchors.len()), Some(2));
}

#[test]
fn nothing_lies_in_an_empty_range() {
    for (condition, parameters) in [
        ("n BETWEEN ?1 AND ?2", [v(9), v(5)]),
        ("b > ?1 AND b < ?2", [v("b"), v("a")]),
        ("n > ?1 AND n < ?2", [v(9), Value::Null]),
    ] {
        let plan = planned(&format!("SELECT * FROM t WHERE {condition}"));
        assert_eq!(plan.guards.anchors("t", &parameters), Some(Vec::new()), "{condition}");
    }
}
