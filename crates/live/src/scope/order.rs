//! The order of ORDER BY, for terms whose comparison SQLite documents.

use std::cmp::Ordering;

use opor_core::Value;

/// How two values of one term compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(super) collation: Collation,
    pub(super) descending: bool,
    /// NULL stands at the other end than it would by itself.
    pub(super) nulls_moved: bool,
}

/// The collations that SQLite has by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collation {
    Binary,
    NoCase,
    RTrim,
}

impl Comparison {
    /// Reads the terms of a sorter as EXPLAIN shows them: `k(3,B,-NOCASE,-N.RTRIM)`. `None` for collations of others, and for
    /// anything that is written differently.
    pub(super) fn all_of(key: &str) -> Option<Vec<Self>> {
        let mut parts = key.strip_prefix("k(")?.strip_suffix(')')?.split(',');
        let count: usize = parts.next()?.parse().ok()?;
        let terms = parts.map(Self::of).collect::<Option<Vec<_>>>()?;
        (terms.len() == count).then_some(terms)
    }

    fn of(term: &str) -> Option<Self> {
        let (term, descending) = term.strip_prefix('-').map_or((term, false), |rest| (rest, true));
        let (term, nulls_moved) = term.strip_prefix("N.").map_or((term, false), |rest| (rest, true));
        let collation = match term {
            "B" => Collation::Binary,
            "NOCASE" => Collation::NoCase,
            "RTRIM" => Collation::RTrim,
            _ => return None,
        };
        Some(Self { collation, descending, nulls_moved })
    }

    pub(crate) fn compare(self, a: &Value, b: &Value) -> Ordering {
        let order = self.ascending(a, b);
        let null = matches!(a, Value::Null) || matches!(b, Value::Null);
        let turned = if self.nulls_moved { self.descending != null } else { self.descending };
        if turned { order.reverse() } else { order }
    }

    /// NULL before numbers before texts before blobs.
    fn ascending(self, a: &Value, b: &Value) -> Ordering {
        match (a, b) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::Real(a), Value::Real(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Value::Integer(a), Value::Real(b)) => integer_and_real(*a, *b),
            (Value::Real(a), Value::Integer(b)) => integer_and_real(*b, *a).reverse(),
            (Value::Text(a), Value::Text(b)) => self.collation.compare(a, b),
            (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
            _ => class(a).cmp(&class(b)),
        }
    }
}

fn class(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Integer(_) | Value::Real(_) => 1,
        Value::Text(_) => 2,
        Value::Blob(_) => 3,
    }
}

/// 2^63: the first real above every integer.
const ABOVE: f64 = 9_223_372_036_854_775_808.0;

/// Exactly: a large integer may lie between two reals.
fn integer_and_real(integer: i64, real: f64) -> Ordering {
    if real >= ABOVE {
        return Ordering::Less;
    }
    if real < -ABOVE {
        return Ordering::Greater;
    }
    // It fits after the checks above, and loses only what is behind the point.
    let whole = real.trunc();
    integer.cmp(&(whole as i64)).then_with(|| 0.0_f64.partial_cmp(&(real - whole)).unwrap_or(Ordering::Equal))
}

impl Collation {
    fn compare(self, a: &str, b: &str) -> Ordering {
        match self {
            Self::Binary => a.cmp(b),
            Self::RTrim => a.trim_end_matches(' ').cmp(b.trim_end_matches(' ')),
            Self::NoCase => no_case(a.as_bytes(), b.as_bytes()),
        }
    }
}

/// As SQLite does it: only A to Z are folded, and a NUL in both ends the look.
fn no_case(a: &[u8], b: &[u8]) -> Ordering {
    for (a, b) in a.iter().zip(b) {
        let order = a.to_ascii_lowercase().cmp(&b.to_ascii_lowercase());
        if order != Ordering::Equal {
            return order;
        }
        if *a == 0 {
            break;
        }
    }
    a.len().cmp(&b.len())
}

#[cfg(test)]
mod tests {
    use opor_store::rusqlite::Connection;
    use opor_store::rusqlite::types::Value as SqlValue;

    use super::*;

    fn values() -> Vec<Value> {
        let mut values = vec![Value::Null];
        values.extend([i64::MIN, -1, 0, 1, 2, (1 << 53) + 1, i64::MAX - 1, i64::MAX].map(Value::Integer));
        let reals = [f64::NEG_INFINITY, -ABOVE, -1.5, -0.0, 0.5, 1.0, 9_007_199_254_740_992.0, ABOVE, 1e300];
        values.extend(reals.map(Value::Real));
        let texts = ["", " ", "a", "A", "a ", "B", "b\0x", "b\0y", "b\0", "é", "É", "ab", "[", "_", "zz  "];
        values.extend(texts.map(Value::from));
        values.extend([&b""[..], b"a", b"a\0", b"\xff"].map(|bytes| Value::Blob(bytes.to_vec())));
        values
    }

    fn sql(value: &Value) -> SqlValue {
        match value {
            Value::Null => SqlValue::Null,
            Value::Integer(value) => SqlValue::Integer(*value),
            Value::Real(value) => SqlValue::Real(*value),
            Value::Text(text) => SqlValue::Text(text.clone()),
            Value::Blob(bytes) => SqlValue::Blob(bytes.clone()),
        }
    }

    /// Every pair in every direction, as the sorter of SQLite puts them.
    #[test]
    fn values_compare_as_sqlite_sorts_them() {
        let db = Connection::open_in_memory().expect("it opens");
        db.execute_batch("CREATE TABLE v(place INTEGER PRIMARY KEY, value)").expect("it runs");
        let values = values();
        for value in &values {
            db.execute("INSERT INTO v(value) VALUES (?)", [sql(value)]).expect("it writes");
        }
        for collation in ["BINARY", "NOCASE", "RTRIM"] {
            for direction in ["ASC", "DESC", "ASC NULLS LAST", "DESC NULLS FIRST"] {
                let order = format!("value COLLATE {collation} {direction}");
                let plan = format!("EXPLAIN SELECT place FROM v ORDER BY random(), {order}");
                let mut plan = db.prepare(&plan).expect("it is right");
                let mut plan = plan.query([]).expect("it runs");
                let key = loop {
                    let step = plan.next().expect("it runs").expect("it sorts");
                    if step.get::<_, String>(1).expect("an opcode") == "SorterOpen" {
                        break step.get::<_, String>(5).expect("a key");
                    }
                };
                let comparison = Comparison::all_of(&key).expect("it is known")[1];
                let sorted = format!("SELECT dense_rank() OVER (ORDER BY {order}) FROM v ORDER BY place");
                let mut sorted = db.prepare(&sorted).expect("it is right");
                let ranks: Vec<i64> = sorted
                    .query_map([], |row| row.get(0))
                    .expect("it runs")
                    .collect::<Result<_, _>>()
                    .expect("ranks");
                for (a, rank_a) in values.iter().zip(&ranks) {
                    for (b, rank_b) in values.iter().zip(&ranks) {
                        assert_eq!(comparison.compare(a, b), rank_a.cmp(rank_b), "{order}: {a:?} and {b:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        for key in ["", "k(1)", "k(2,B)", "k(1,MINE)", "k(1,B", "k(1,N.-B)", "3"] {
            assert_eq!(Comparison::all_of(key), None, "{key}");
        }
    }
}
