//! Random schemas, and what is in one.

use opor_core::Value;
use opor_tests::{Rng, quote, rows_of};
use rusqlite::Connection;

/// A table or a view, as it is now.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    pub(super) view: bool,
    pub(super) strict: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) computed: bool,
}

/// Tables that are no business of random statements.
pub(super) const OWN_TABLES: &str = "CREATE TABLE beat(n INTEGER PRIMARY KEY);
    CREATE TABLE noise(n INTEGER PRIMARY KEY, m)";
pub(super) const TABLES: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// Everything but the tables' contents.
pub(super) fn random_schema(rng: &mut Rng) -> Vec<String> {
    let mut all: Vec<String> = TABLES.iter().map(|name| table(rng, name)).collect();
    all.extend((0..rng.below(6)).map(|_| index(rng)));
    all.extend((0..rng.below(3)).map(|_| trigger(rng)));
    all.extend((0..2).map(|_| view(rng)));
    all
}

/// A table; those after the first may refer to it.
pub(super) fn table(rng: &mut Rng, name: &str) -> String {
    let strict = rng.chance(20);
    let mut parts: Vec<String> = Vec::new();
    let (mut tail, mut primary) = (Vec::new(), "");
    match rng.below(8) {
        0..3 => parts.push("id INTEGER PRIMARY KEY NOT NULL".to_owned()),
        3 => parts.push("id INTEGER PRIMARY KEY DESC NOT NULL".to_owned()),
        4 => parts.push("id TEXT NOT NULL PRIMARY KEY COLLATE NOCASE".to_owned()),
        5 => {
            parts.push("id INT NOT NULL PRIMARY KEY".to_owned());
            tail.push("WITHOUT ROWID");
        }
        6 => {
            parts.push("id TEXT NOT NULL".to_owned());
            primary = "PRIMARY KEY(b, id)";
            tail.push("WITHOUT ROWID");
        }
        _ => parts.push(format!("id {}", if strict { "ANY" } else { "" })),
    }
    let mut columns = vec!["a", "b", "c", "d"];
    columns.truncate(3 + rng.below(2));
    for column in &columns {
        parts.push(format!("{column} {}", declaration(rng, strict)));
        if rng.chance(12) {
            let kind = *rng.pick(&["VIRTUAL", "STORED"]);
            let of = *rng.pick(&["a || '!'", "a + 1", "typeof(a)"]);
            let declared = if strict { "ANY" } else { "" };
            parts.push(format!("g{column} {declared} GENERATED ALWAYS AS ({of}) {kind}"));
        }
    }
    if name != TABLES[0] && rng.chance(40) {
        let deleted = *rng.pick(&["CASCADE", "SET NULL", "NO ACTION"]);
        let target = TABLES[0];
        let declared = if strict { "ANY" } else { "" };
        parts.push(format!(
            "p {declared} REFERENCES {target}(id) ON DELETE {deleted} ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED"
        ));
    }
    if !primary.is_empty() {
        parts.push(primary.to_owned());
    }
    if strict {
        tail.push("STRICT");
    }
    format!("CREATE TABLE {name}({}) {}", parts.join(", "), tail.join(", "))
}

fn declaration(rng: &mut Rng, strict: bool) -> String {
    let mut text = if strict {
        *rng.pick(&["INTEGER", "TEXT", "REAL", "BLOB", "ANY", "ANY"])
    } else {
        *rng.pick(&["INTEGER", "TEXT", "REAL", "BLOB", "NUMERIC", "", "VARCHAR(9)", "TEXT", "INT"])
    }
    .to_owned();
    if rng.chance(25) {
        text += *rng.pick(&[" COLLATE NOCASE", " COLLATE RTRIM"]);
    }
    if rng.chance(15) {
        text += " DEFAULT 1";
    }
    if rng.chance(8) {
        text += " UNIQUE";
    }
    text
}

pub(super) fn index(rng: &mut Rng) -> String {
    let columns = *rng.pick(&["a", "b, a", "c DESC, b", "b COLLATE NOCASE", "lower(b)", "a, b, c", "c, id"]);
    let partial = *rng.pick(&["", "", "", " WHERE a > 1", " WHERE b IS NOT NULL"]);
    let unique = if rng.chance(10) { "UNIQUE " } else { "" };
    let (name, table) = (rng.below(8), *rng.pick(&TABLES));
    format!("CREATE {unique}INDEX i{name} ON {table}({columns}){partial}")
}

pub(super) fn trigger(rng: &mut Rng) -> String {
    let (table, other) = (*rng.pick(&TABLES), *rng.pick(&TABLES));
    let (name, event) =
        (rng.below(4), *rng.pick(&["AFTER INSERT", "AFTER UPDATE", "AFTER DELETE", "BEFORE UPDATE OF b"]));
    let body = match rng.below(3) {
        0 => format!("UPDATE {other} SET c = 7 WHERE a = 2 AND c IS NOT 7"),
        1 => format!("DELETE FROM {other} WHERE a = 5 AND b = 'gone'"),
        _ => format!("INSERT OR IGNORE INTO {other}(id, a, b) VALUES ('9', 4, 'by trigger')"),
    };
    format!("CREATE TRIGGER r{name} {event} ON {table} BEGIN {body}; END")
}

pub(super) fn view(rng: &mut Rng) -> String {
    let (name, x, y) = (rng.below(3), *rng.pick(&TABLES), *rng.pick(&TABLES));
    let body = match rng.below(4) {
        0 => format!("SELECT id, a, b FROM {x} WHERE c IS NOT NULL"),
        1 => format!("SELECT x.id, x.a, y.b FROM {x} x LEFT JOIN {y} y ON x.a = y.a"),
        2 => format!("SELECT a AS id, count(*) AS a, max(b) AS b FROM {x} GROUP BY a"),
        _ => format!("SELECT id, a, b FROM {x} UNION SELECT id, b, c FROM {y}"),
    };
    format!("CREATE VIEW v{name} AS {body}")
}

/// A value out of few, so that they meet: equal in one collation or affinity and not in another.
pub(super) fn value(rng: &mut Rng) -> Value {
    const TEXTS: [&str; 10] = ["a", "A", "a ", "b", "B", "1", "1.0", "gone", "", "[1, 2]"];
    match rng.below(20) {
        0..10 => Value::Integer(rng.below(7) as i64 - 1),
        10..15 => Value::from(*rng.pick(&TEXTS)),
        15..17 => Value::Real(*rng.pick(&[1.0, 2.5, -0.5, 3.0])),
        17 => Value::Blob(vec![b'a']),
        _ => Value::Null,
    }
}

/// What there is to read and to write.
pub(super) fn tables(conn: &Connection) -> Vec<Table> {
    let sql = "SELECT name, type = 'view', strict FROM pragma_table_list WHERE schema = 'main' AND name GLOB '[tv][0-9]*' ORDER BY name";
    let names = rows_of(conn, sql, []).expect("the schema reads");
    let mut tables = Vec::new();
    for row in names {
        let [Value::Text(name), Value::Integer(view), Value::Integer(strict)] = &row[..] else {
            panic!("a name and flags: {row:?}")
        };
        // A view of a table that is gone has no columns.
        let columns =
            rows_of(conn, &format!("SELECT name, hidden > 1 FROM pragma_table_xinfo({})", quote(name)), []);
        let columns: Vec<Column> = columns
            .unwrap_or_default()
            .iter()
            .map(|row| {
                let [Value::Text(name), Value::Integer(computed)] = &row[..] else { panic!("{row:?}") };
                Column { name: name.clone(), computed: *computed == 1 }
            })
            .collect();
        if !columns.is_empty() {
            tables.push(Table { name: name.clone(), columns, view: *view == 1, strict: *strict == 1 });
        }
    }
    tables
}
