//! One query as its subscribers see it, beside a plain run of the same.

use std::collections::BTreeMap;
use std::fmt;

use futures::executor::block_on;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use opor_core::Value;
use opor_live::{Diff, Live, LiveError, Subscription, Tier};
use opor_tests::{Rng, sql_value};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::queries::Asked;

/// A row as it is.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Cells(Vec<Cell>);

#[derive(Clone, Debug, PartialEq)]
struct Cell(Value);

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of SQLite")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Integer(value))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Real(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::from(value))
            }

            fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
                Ok(Value::Blob(value.to_vec()))
            }
        }
        deserializer.deserialize_any(Any).map(Cell)
    }
}

/// What a query gives: the names of its columns, and its rows in their order.
type Outcome = Result<(Vec<String>, Vec<Cells>), LiveError>;

/// Runs a query on a connection of rusqlite's.
fn fresh(conn: &Connection, asked: &Asked) -> Outcome {
    run(conn, asked).map_err(bare)
}

/// Where an error is in the text is told only when a statement is prepared, not when SQLite prepares it anew by itself.
fn bare(error: LiveError) -> LiveError {
    match error {
        LiveError::Sql { message, .. } => LiveError::Sql { message, offset: None },
        other => other,
    }
}

fn run(conn: &Connection, asked: &Asked) -> Outcome {
    let mut stmt = conn.prepare_cached(&asked.sql)?;
    let parameters = rusqlite::params_from_iter(asked.parameters.iter().map(sql_value));
    let mut rows = stmt.query(parameters)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let statement: &rusqlite::Statement<'_> = row.as_ref();
        let width = statement.column_count();
        let cell = |place| -> Result<Cell, rusqlite::Error> {
            Ok(Cell(match row.get_ref(place)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(value) => Value::Integer(value),
                ValueRef::Real(value) => Value::Real(value),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
            }))
        };
        all.push(Cells((0..width).map(cell).collect::<Result<_, _>>()?));
    }
    drop(rows);
    // SQLite may have prepared it anew when it began to run.
    let columns = stmt.column_names().into_iter().map(str::to_owned).collect();
    Ok((columns, all))
}

/// A query, the stream of its diffs, and the same with a key.
pub(super) struct Follower {
    pub(super) asked: Asked,
    last: Outcome,
    subscription: Subscription<Cells>,
    plain: Fold,
    keyed: Option<Fold>,
}

/// Diffs put one on the other.
struct Fold {
    diffs: BoxStream<'static, Result<Diff<Cells>, LiveError>>,
    rows: Vec<Cells>,
}

impl Follower {
    /// Subscribes; `None` when the query is refused, as a plain connection refuses it.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn new(
        live: &Live,
        conn: &Connection,
        asked: Asked,
        rng: &mut Rng,
    ) -> Result<Option<Self>, String> {
        let query = || {
            let query = live.query::<Cells>(asked.sql.clone());
            asked.parameters.iter().fold(query, |query, value| query.bind(value.clone()))
        };
        let wanted = fresh(conn, &asked);
        let subscription = match (block_on(query().subscribe()), wanted) {
            (Ok(subscription), Ok(_)) => subscription,
            (Err(found), Err(wanted)) if bare(found.clone()) == wanted => return Ok(None),
            (found, wanted) => {
                return Err(format!("subscribing gives {:?}, and not {wanted:?}", found.map(|_| "a result")));
            }
        };
        // Half of them are followed by a key, whether it is one or not.
        let keyed = rng.chance(50).then(|| block_on(query().key(["k"]).subscribe()).ok()).flatten();
        let fold =
            |subscription: &Subscription<Cells>| Fold { diffs: subscription.diffs(), rows: Vec::new() };
        let mut follower = Self {
            last: Err(LiveError::Closed),
            plain: fold(&subscription),
            keyed: keyed.as_ref().map(fold),
            subscription,
            asked,
        };
        follower.meet(live, conn, true)?;
        Ok(Some(follower))
    }

    /// Compares what was told with a plain run. When `exact`, whoever has the same result as before must not have been woken.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn meet(&mut self, live: &Live, conn: &Connection, exact: bool) -> Result<(), String> {
        let wanted = fresh(conn, &self.asked);
        let found = self.subscription.current_values();
        let found = found.map_err(bare).map(|(columns, rows)| {
            let row = |row: &opor_live::Row| Cells(row.iter().cloned().map(Cell).collect());
            (columns.to_vec(), rows.iter().map(row).collect::<Vec<_>>())
        });
        // Nothing but the order of ties, and which of equal values stands for a group, is open where rows are asked about.
        let agrees =
            found == wanted || (found.is_ok() && certain(&found) == certain(&wanted) && self.is_scoped(live));
        if !agrees {
            return Err(format!("the result is {found:?}\nand should be  {wanted:?}"));
        }
        let moved = found != self.last;
        self.plain.take(&found, None, moved, exact)?;
        if let Some(keyed) = &mut self.keyed {
            let twice = found.as_ref().ok().and_then(|(columns, rows)| not_unique(columns, rows));
            keyed.take(&found, twice, moved, exact).map_err(|fault| format!("by key: {fault}"))?;
        }
        self.last = found;
        Ok(())
    }
}

impl Follower {
    fn is_scoped(&self, live: &Live) -> bool {
        let explained = block_on(live.explain(self.asked.sql.clone()));
        explained.is_ok_and(|explained| matches!(explained.tier, Tier::Scoped { .. }))
    }
}

/// A result as far as it is certain in any order: 1 and 1.0 are equal, and so are texts in some collations.
fn certain(outcome: &Outcome) -> Option<(&[String], Vec<String>)> {
    let (columns, rows) = outcome.as_ref().ok()?;
    let certain = |cell: &Cell| match &cell.0 {
        Value::Text(text) => format!("{:?}", text.trim_end_matches(' ').to_ascii_lowercase()),
        Value::Real(real) if real.trunc() == *real => format!("{:?}", Value::Integer(*real as i64)),
        value => format!("{value:?}"),
    };
    let mut rows: Vec<String> =
        rows.iter().map(|row| row.0.iter().map(certain).collect::<Vec<_>>().join(", ")).collect();
    rows.sort_unstable();
    Some((columns, rows))
}

impl Fold {
    fn take(
        &mut self,
        wanted: &Outcome,
        refused: Option<LiveError>,
        moved: bool,
        exact: bool,
    ) -> Result<(), String> {
        let mut items = 0;
        while let Some(item) = self.diffs.next().now_or_never() {
            items += 1;
            match item.ok_or("the stream has ended")? {
                Ok(diff) => diff.edits.into_iter().for_each(|edit| edit.apply_to(&mut self.rows)),
                Err(error) => {
                    let expected = wanted.as_ref().err().or(refused.as_ref());
                    let error = bare(error);
                    if expected != Some(&error) {
                        return Err(format!("the stream tells {error:?}, and not {expected:?}"));
                    }
                }
            }
        }
        if (exact && items != usize::from(moved)) || (moved && items == 0) {
            return Err(format!(
                "it was told of {items} results, and its result {}",
                if moved { "moved" } else { "is the same" }
            ));
        }
        match wanted {
            Ok((_, rows)) if refused.is_none() && *rows != self.rows => {
                Err(format!("the diffs lead to {:?}\nand should lead to {rows:?}", self.rows))
            }
            _ => Ok(()),
        }
    }
}

/// The error of a key that two rows share.
fn not_unique(columns: &[String], rows: &[Cells]) -> Option<LiveError> {
    let Some(key) = columns.iter().position(|column| column.eq_ignore_ascii_case("k")) else {
        return Some(LiveError::UnknownKeyColumn { column: "k".to_owned() });
    };
    let mut seen = BTreeMap::new();
    rows.iter().enumerate().find_map(|(second, row)| {
        let first = seen.insert(format!("{:?}", row.0[key]), second);
        first.map(|first| LiveError::DuplicateKey { first, second })
    })
}
