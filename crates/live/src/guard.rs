//! Guards: what has to be so in a row of a table for a query to see it.
//!
//! A query may be passed over at a commit if its guards reject every changed row, as it was and as it is. A guard never rejects a
//! row that SQLite would let through; where that is in doubt it passes.

mod clause;
mod column;
mod key;
mod statement;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use opor_core::Value;

pub(crate) use column::Slot;
use column::{Affinity, Column, Table};
pub(crate) use key::{Key, Mode};
use key::{compare_numbers, number_place, text_place};
pub(crate) use statement::guards;

/// Registered places of one query in one table: for more, looking at its rows costs less than keeping them.
const ANCHORS_MAX: usize = 1_000;

/// The guards of a statement.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Guards {
    /// For each table every occurrence of it; any row of a table that is not here passes.
    pub(crate) tables: BTreeMap<Arc<str>, Vec<Occurrence>>,
    /// Why tables are not there.
    pub(crate) without: BTreeMap<Arc<str>, Unguarded>,
}

/// Why every change of a table is taken to concern a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unguarded {
    /// The statement has a form in which it is not looked for conditions.
    Form,
    /// It is read elsewhere than in FROM.
    Elsewhere,
    /// A function may fail on rows that are no part of the result.
    MayFail,
    /// There is no condition that would do.
    NoCondition,
}

impl fmt::Display for Unguarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "the form of the statement is not looked into",
            Self::Elsewhere => "it is read in a subquery",
            Self::MayFail => "a function beside its conditions may fail on any row",
            Self::NoCondition => "no condition compares its columns with values",
        })
    }
}

/// One mention of a table in FROM.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Occurrence {
    condition: Condition,
    /// It may be filled with NULLs, being on the right of a LEFT JOIN.
    optional: bool,
}

/// What a row has to meet.
#[derive(Clone, Debug, PartialEq)]
enum Condition {
    All(Vec<Self>),
    Any(Vec<Self>),
    /// The column is one of these values.
    Equal {
        column: Column,
        mode: Mode,
        values: Vec<Constant>,
        or_null: bool,
    },
    /// The column lies between these.
    Range {
        column: Column,
        low: Option<Bound>,
        high: Option<Bound>,
    },
}

/// An end of a range.
#[derive(Clone, Debug, PartialEq)]
struct Bound {
    value: Constant,
    /// It is part of the range itself.
    included: bool,
}

/// A value that does not depend on rows.
#[derive(Clone, Debug, PartialEq)]
enum Constant {
    /// The place among the parameters.
    Parameter(usize),
    Literal(Value),
}

impl Constant {
    fn of<'a>(&'a self, parameters: &'a [Value]) -> &'a Value {
        match self {
            // One that is missing would be NULL in SQLite, too.
            Self::Parameter(place) => parameters.get(*place).unwrap_or(&Value::Null),
            Self::Literal(value) => value,
        }
    }
}

/// The row that a change begins or ends with.
pub(crate) trait Seen {
    /// The value of a column; `None` when it is not known.
    fn value(&self, slot: Slot) -> Option<Cow<'_, Value>>;
}

/// Where a query is found when a row changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Equal { slot: Slot, mode: Mode, key: Key },
    Range { slot: Slot, kind: Kind, low: u64, high: u64 },
}

/// What a range is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Numbers,
    Texts,
}

impl Kind {
    /// Where a value is on the line of this kind. `None` when the value is of another.
    pub(crate) fn place(self, value: &Value) -> Option<u64> {
        match (self, value) {
            (Self::Numbers, number) => number_place(number),
            (Self::Texts, Value::Text(text)) => Some(text_place(text)),
            (Self::Texts, _) => None,
        }
    }
}

impl Guards {
    /// Without any, for one reason.
    fn none(tables: impl Iterator<Item = Arc<str>>, why: Unguarded) -> Self {
        Self { tables: BTreeMap::new(), without: tables.map(|table| (table, why)).collect() }
    }

    /// Where a query with these parameters is found by changes of a table; `None` when every change of it concerns the query.
    pub(crate) fn anchors(&self, table: &str, parameters: &[Value]) -> Option<Vec<Anchor>> {
        let mut anchors = Vec::new();
        for occurrence in self.tables.get(table)? {
            anchors.extend(occurrence.anchors(parameters)?);
        }
        Some(anchors)
    }

    /// Whether a row of a table may matter.
    pub(crate) fn pass(&self, table: &str, parameters: &[Value], row: &impl Seen) -> bool {
        let passes = |occurrences: &Vec<Occurrence>| {
            occurrences.iter().any(|occurrence| occurrence.condition.passes(parameters, row))
        };
        self.tables.get(table).is_none_or(passes)
    }

    /// The places of the columns whose values are needed.
    pub(crate) fn images(&self, table: &str) -> BTreeSet<usize> {
        let mut places = BTreeSet::new();
        self.tables.get(table).into_iter().flatten().for_each(|occurrence| {
            occurrence.condition.each_column(&mut |column| {
                if let Slot::Place(place) = column.slot {
                    places.insert(place);
                }
            });
        });
        places
    }
}

/// A row of nothing but NULL.
struct Nulls;

impl Seen for Nulls {
    fn value(&self, _: Slot) -> Option<Cow<'_, Value>> {
        Some(Cow::Owned(Value::Null))
    }
}

impl Occurrence {
    fn anchors(&self, parameters: &[Value]) -> Option<Vec<Anchor>> {
        // A row that comes takes NULLs away, and one that goes brings them: they must not pass either.
        if self.optional && self.condition.passes(parameters, &Nulls) {
            return None;
        }
        self.condition.anchors(parameters).filter(|anchors| anchors.len() <= ANCHORS_MAX)
    }

    /// The condition in words.
    pub(crate) fn words(&self, parameters: &[String]) -> String {
        let mut words = String::new();
        self.condition.write(&mut words, parameters, true);
        words
    }
}

impl Condition {
    fn each_column(&self, visit: &mut impl FnMut(&Column)) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.each_column(visit)),
            Self::Equal { column, .. } | Self::Range { column, .. } => visit(column),
        }
    }

    fn passes(&self, parameters: &[Value], row: &impl Seen) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.passes(parameters, row)),
            Self::Any(parts) => parts.iter().any(|part| part.passes(parameters, row)),
            Self::Equal { column, mode, values, or_null } => {
                let Some(value) = row.value(column.slot) else { return true };
                match mode.key(&value) {
                    Key::Unsure => true,
                    Key::Null => *or_null && values.iter().any(|value| *value.of(parameters) == Value::Null),
                    key => values
                        .iter()
                        .map(|value| mode.key(value.of(parameters)))
                        .any(|wanted| wanted == key || wanted == Key::Unsure),
                }
            }
            Self::Range { column, low, high } => {
                let Some(value) = row.value(column.slot) else { return true };
                let holds = |bound: &Option<Bound>, outside: Ordering| {
                    bound.as_ref().is_none_or(|bound| bound.holds(column, parameters, &value, outside))
                };
                *value != Value::Null && holds(low, Ordering::Less) && holds(high, Ordering::Greater)
            }
        }
    }

    /// Where it is found: a row that it passes has the key or the place of one of them. `None` when there is nothing to find it by.
    fn anchors(&self, parameters: &[Value]) -> Option<Vec<Anchor>> {
        match self {
            Self::All(parts) => {
                parts.iter().filter_map(|part| part.anchors(parameters)).min_by_key(|anchors| {
                    let ranges = anchors.iter().any(|anchor| matches!(anchor, Anchor::Range { .. }));
                    (ranges, anchors.len())
                })
            }
            Self::Any(parts) => {
                let parts = parts.iter().map(|part| part.anchors(parameters));
                Some(parts.collect::<Option<Vec<_>>>()?.concat())
            }
            Self::Equal { column, mode, values, or_null } => {
                let mut anchors = Vec::with_capacity(values.len());
                for value in values {
                    match mode.key(value.of(parameters)) {
                        Key::Unsure => return None,
                        Key::Null if !or_null => {}
                        key => anchors.push(Anchor::Equal { slot: column.slot, mode: *mode, key }),
                    }
                }
                Some(anchors)
            }
            Self::Range { column, low, high } => range(column, low.as_ref(), high.as_ref(), parameters),
        }
    }
}

/// Where a range is found.
fn range(
    column: &Column,
    low: Option<&Bound>,
    high: Option<&Bound>,
    parameters: &[Value],
) -> Option<Vec<Anchor>> {
    let [low, high] = [low, high].map(|bound| bound.map(|bound| bound.value.of(parameters)));
    if [low, high].into_iter().flatten().any(|value| *value == Value::Null) {
        return Some(Vec::new());
    }
    let kinds = [low, high].map(|bound| bound.and_then(|value| kind(column, value)));
    // With only one of two it is wider, and still holds.
    let kind = kinds[0].or(kinds[1])?;
    let place = |value: Option<&Value>| value.and_then(|value| kind.place(value));
    let (low, high) = (place(low).unwrap_or(0), place(high).unwrap_or(u64::MAX));
    if low > high {
        // Places are in the order of values: what is above the one is above the other.
        return Some(Vec::new());
    }
    Some(vec![Anchor::Range { slot: column.slot, kind, low, high }])
}

/// What a column is ordered by when it is compared with a value; `None` when only SQLite knows.
fn kind(column: &Column, value: &Value) -> Option<Kind> {
    match (value, column.affinity) {
        (Value::Integer(_) | Value::Real(_), Affinity::Numeric | Affinity::Blob) => Some(Kind::Numbers),
        (Value::Text(_), Affinity::Text | Affinity::Blob) if column.binary => Some(Kind::Texts),
        _ => None,
    }
}

impl Bound {
    /// Whether a value, which is not NULL, is on this side of the bound; also when that is not known.
    fn holds(&self, column: &Column, parameters: &[Value], value: &Value, outside: Ordering) -> bool {
        let bound = self.value.of(parameters);
        if *bound == Value::Null {
            return false;
        }
        let order = match (kind(column, bound), value, bound) {
            (Some(Kind::Numbers), value, bound) => compare_numbers(value, bound),
            (Some(Kind::Texts), Value::Text(value), Value::Text(bound)) => {
                Some(value.as_bytes().cmp(bound.as_bytes()))
            }
            _ => None,
        };
        order.is_none_or(|order| order != outside && (self.included || order != Ordering::Equal))
    }
}

impl Condition {
    fn write(&self, words: &mut String, parameters: &[String], outermost: bool) {
        let (parts, between) = match self {
            Self::All(parts) => (parts, " and "),
            Self::Any(parts) => (parts, " or "),
            Self::Equal { column, values, or_null, .. } => {
                let values: Vec<String> = values.iter().map(|value| value.words(parameters)).collect();
                let equals = if *or_null { "is" } else { "=" };
                match &values[..] {
                    [value] => *words += &format!("{} {equals} {value}", column.name),
                    _ => *words += &format!("{} in ({})", column.name, values.join(", ")),
                }
                return;
            }
            Self::Range { column, low, high } => {
                let side = |bound: &Option<Bound>, sign: &str| {
                    let bound = bound.as_ref()?;
                    let equals = if bound.included { "=" } else { "" };
                    Some(format!("{} {sign}{equals} {}", column.name, bound.value.words(parameters)))
                };
                let sides: Vec<String> = [side(low, ">"), side(high, "<")].into_iter().flatten().collect();
                *words += &sides.join(" and ");
                return;
            }
        };
        if !outermost {
            words.push('(');
        }
        for (at, part) in parts.iter().enumerate() {
            *words += if at > 0 { between } else { "" };
            part.write(words, parameters, false);
        }
        if !outermost {
            words.push(')');
        }
    }
}

impl Constant {
    fn words(&self, parameters: &[String]) -> String {
        match self {
            Self::Parameter(place) => parameters.get(*place).cloned().unwrap_or_default(),
            Self::Literal(Value::Null) => "NULL".to_owned(),
            Self::Literal(Value::Integer(number)) => number.to_string(),
            Self::Literal(Value::Real(number)) => format!("{number:?}"),
            Self::Literal(Value::Text(text)) => format!("'{}'", text.replace('\'', "''")),
            Self::Literal(Value::Blob(bytes)) => format!("a blob of {} bytes", bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests;
