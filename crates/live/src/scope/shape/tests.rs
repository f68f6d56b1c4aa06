//! Shapes that are recognised, and those that are not.

use super::*;

#[track_caller]
fn occurrences(sql: &str) -> Vec<(String, String)> {
    let shape = shape(sql, &|_| false).expect("it has the shape");
    shape.occurrences.into_iter().map(|one| (one.qualifier.to_owned(), one.table)).collect()
}

fn pair(qualifier: &str, table: &str) -> (String, String) {
    (qualifier.to_owned(), table.to_owned())
}

#[test]
fn tables_are_found_with_their_names() {
    assert_eq!(occurrences("select * from t"), [pair("t", "t")]);
    let sql = r#"SELECT a.x -- FROM nothing
        FROM main."a b" a INNER JOIN [c] AS "d""e" ON (a.x = "d""e".y) AND 1, c /* WHERE */ JOIN f USING (x);"#;
    let expected = [pair("a", "a b"), pair("\"d\"\"e\"", "c"), pair("c", "c"), pair("f", "f")];
    assert_eq!(occurrences(sql), expected);
}

#[test]
fn clauses_are_cut_where_they_end() {
    let sql = "SELECT ALL a, trim(b) FROM t WHERE a IN (1, 2) OR b = 'ORDER BY' ORDER BY 2 DESC, \
        a COLLATE nocase NULLS LAST, (a + b) * 2 ; ";
    let shape = shape(sql, &|_| false).expect("it has the shape");
    assert_eq!((shape.columns, &*shape.from), ("a, trim(b)", "t"));
    assert_eq!(shape.filter.as_deref(), Some("a IN (1, 2) OR b = 'ORDER BY'"));
    let (order, terms) = shape.order.expect("it has an order");
    assert_eq!(order, "2 DESC, a COLLATE nocase NULLS LAST, (a + b) * 2");
    let name = Term::Name { name: "a".to_owned(), text: "a" };
    assert_eq!(terms, [Term::Place(2), name, Term::Expression("(a + b) * 2")]);
}

#[test]
fn other_shapes_are_refused_with_the_reason() {
    for (sql, why) in [
        ("WITH x AS (SELECT 1) SELECT * FROM t", Unscoped::CommonTable),
        ("VALUES (1)", Unscoped::Compound),
        ("SELECT 1", Unscoped::NoTable),
        ("SELECT a FROM t UNION SELECT a FROM u", Unscoped::Compound),
        ("SELECT DISTINCT * FROM t", Unscoped::Bare),
        ("SELECT DISTINCT a FROM t GROUP BY a", Unscoped::Distinct),
        ("SELECT a FROM t WHERE a IS DISTINCT FROM 1", Unscoped::Distinct),
        ("SELECT a FROM t HAVING a > 1", Unscoped::Groups),
        ("SELECT count(DISTINCT a) FROM t", Unscoped::Groups),
        ("SELECT count(*) FILTER (WHERE a) FROM t", Unscoped::Groups),
        ("SELECT a FROM t LIMIT 1", Unscoped::Limit),
        ("SELECT row_number() OVER () FROM t", Unscoped::Window),
        ("SELECT a FROM (SELECT 1)", Unscoped::Subquery),
        ("SELECT a FROM t WHERE EXISTS (WITH x AS (SELECT 1) SELECT * FROM x)", Unscoped::CommonTable),
        ("SELECT a FROM t LEFT JOIN u JOIN v", Unscoped::OtherJoin),
        ("SELECT a FROM t LEFT JOIN u, v", Unscoped::OtherJoin),
        ("SELECT a FROM t RIGHT JOIN u", Unscoped::OtherJoin),
        ("SELECT a FROM t NATURAL LEFT JOIN u", Unscoped::OtherJoin),
        ("SELECT a FROM t CROSS JOIN u", Unscoped::OtherJoin),
        ("SELECT a FROM t NATURAL JOIN u", Unscoped::OtherJoin),
        ("SELECT a FROM json_each(1)", Unscoped::NoTable),
        ("SELECT a FROM temp.t", Unscoped::NoTable),
        ("SELECT a FROM t INDEXED BY i", Unscoped::NoTable),
        ("SELECT a FROM (t JOIN u)", Unscoped::NoTable),
        ("SELECT 1 FROM t, T", Unscoped::SameName),
        ("SELECT a FROM t ORDER BY (2)", Unscoped::Order),
        ("SELECT a FROM t ORDER BY +2", Unscoped::Order),
        ("SELECT a FROM t ORDER BY (a)", Unscoped::Order),
        ("SELECT a FROM t ORDER BY likely(a)", Unscoped::Order),
        ("SELECT a FROM t ORDER BY a + ?", Unscoped::Order),
        ("SELECT a FROM t WHERE 'x", Unscoped::NotUnderstood),
    ] {
        assert_eq!(shape(sql, &|name| name == "a").map(|_| ()), Err(why), "{sql}");
    }
}

#[track_caller]
fn keys(sql: &str) -> Result<Vec<String>, Unscoped> {
    shape(sql, &|name| ["a", "b"].contains(&name)).map(|shape| shape.groups.expect("it groups").keys)
}

#[test]
fn what_groups_are_told_by_is_found() {
    for (sql, expected) in [
        ("SELECT a, count(*) FROM t GROUP BY a", &["a"][..]),
        ("SELECT t.a, max(b) AS m FROM t GROUP BY T.\"A\" HAVING m > 1 AND count(*) < ?", &["T.\"A\""]),
        ("SELECT lower(a) AS n, sum(b + 1) FROM t GROUP BY n ORDER BY 2", &["lower(a)"]),
        ("SELECT lower(a) a, sum(b) FROM t GROUP BY a", &["a"]),
        ("SELECT count(*) * 2, a + b FROM t GROUP BY 2", &["a + b"]),
        ("SELECT DISTINCT a, b || 'x' AS y FROM t ORDER BY y", &["a", "b || 'x'"]),
        ("SELECT a FROM t GROUP BY a COLLATE nocase", &["a COLLATE nocase"]),
        ("SELECT CASE a WHEN 1 THEN 'one' ELSE max(a, 3) END FROM t GROUP BY a", &["a"]),
    ] {
        assert_eq!(keys(sql), Ok(expected.iter().map(|key| (*key).to_owned()).collect()), "{sql}");
    }
}

#[test]
fn groups_that_depend_on_the_order_of_their_rows_are_refused() {
    for sql in [
        "SELECT b FROM t GROUP BY a",
        "SELECT a + b * 2 FROM t GROUP BY a + b",
        "SELECT t.b FROM t GROUP BY a",
        "SELECT * FROM t GROUP BY a",
        "SELECT a, group_concat(b) FROM t GROUP BY a",
        "SELECT a, sum(DISTINCT b) FROM t GROUP BY a",
        "SELECT a, count(*) FROM t GROUP BY a HAVING b > 1",
        "SELECT a, count(*) FROM t GROUP BY a ORDER BY b",
        "SELECT end, count(*) FROM t GROUP BY a",
        "SELECT a, match FROM t GROUP BY a",
        "SELECT a, \"b\" FROM t GROUP BY a",
        "SELECT count(*) FROM t GROUP BY \"a\"",
        "SELECT count(*) FROM t GROUP BY 2 COLLATE nocase",
        "SELECT a, count(*) FROM t GROUP BY likely(2)",
        "SELECT a, count(*) FROM t GROUP BY coalesce(a, ?)",
        "SELECT a, 1 FROM t GROUP BY 2",
        "SELECT a, count(*) AS n FROM t GROUP BY c",
    ] {
        assert_eq!(keys(sql), Err(Unscoped::Bare), "{sql}");
    }
}

#[test]
fn parameters_keep_their_numbers_in_another_place() {
    let sql =
        "SELECT ?, :x FROM t JOIN u ON u.a = ? WHERE b = ?9 OR b = :x AND c = ? ORDER BY a LIMIT ? OFFSET @y";
    let shape = shape(sql, &|_| false).expect("it has the shape");
    assert_eq!((shape.columns, &*shape.from), ("?, :x", "t JOIN u ON u.a = ?3"));
    assert_eq!(shape.filter.as_deref(), Some("b = ?9 OR b = ?2 AND c = ?10"));
    let limit = Limit { rows: Bound::Parameter(11), skipped: Bound::Parameter(12) };
    assert_eq!((shape.limit, shape.parameters), (Some(limit), 12));
}

#[test]
fn tables_of_subqueries_are_told_from_qualifiers() {
    let sql =
        "SELECT a FROM t AS x WHERE EXISTS (SELECT t.b FROM \"U\", main.W WHERE x.a = 1) AND a IN main.v";
    let words = shape(sql, &|_| false).expect("it has the shape").inner_words.expect("there are some");
    let has = |word: &str| words.contains(word);
    assert_eq!((has("u"), has("v"), has("w")), (true, true, true));
    assert_eq!((has("t"), has("b"), has("x"), has("a"), has("main")), (false, false, false, false, false));
}
