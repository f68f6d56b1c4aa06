//! Conditions of a WHERE clause, read as guards.

use opor_core::Value;
use opor_store::Store;
use opor_store::rusqlite;
use sqlite3_parser::ast::{Expr, Literal, Operator, UnaryOperator};

use super::column::{Affinity, Column, Table, is_rowid};
use super::key::Mode;
use super::statement::unquoted;
use super::{Bound, Condition, Constant};

/// Digits of an integer literal that surely fits.
const DIGITS_MAX: usize = 18;

/// Something in FROM.
#[derive(Debug)]
pub(super) struct Item {
    /// What it is called in the statement.
    pub(super) name: String,
    /// `None` when it is none that is stored.
    pub(super) table: Option<Table>,
    /// On the right of a LEFT JOIN.
    pub(super) optional: bool,
}

/// A column of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) item: usize,
    pub(super) column: Column,
}

/// Columns that are equal in every row of the result.
#[derive(Debug, Default)]
struct Class(Vec<Place>);

/// Where names and numbers of a statement are looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    pub(super) store: &'a Store,
    pub(super) items: &'a [Item],
}

impl Scope<'_> {
    /// What each item has to meet, given conditions that every row of the result meets.
    pub(super) fn conditions(self, clauses: &[&Expr<'_>]) -> Vec<Vec<Condition>> {
        let mut flat = Vec::new();
        clauses.iter().for_each(|clause| flatten(clause, &mut flat));
        let classes = self.classes(&flat);
        let mut conditions = vec![Vec::new(); self.items.len()];
        for clause in flat {
            if let Some((place, condition)) = self.equal(clause) {
                let alone = Class(vec![place.clone()]);
                let class = classes.iter().find(|class| class.0.contains(&place)).unwrap_or(&alone);
                let mode = Mode::of(class.0.iter().map(|place| place.column.affinity));
                for place in &class.0 {
                    conditions[place.item].push(condition.clone().on(&place.column, mode));
                }
                continue;
            }
            for (item, conditions) in conditions.iter_mut().enumerate() {
                conditions.extend(self.condition(clause, item));
            }
        }
        conditions.iter_mut().for_each(join_ranges);
        conditions
    }

    /// Columns that `=` makes equal.
    fn classes(self, clauses: &[&Expr<'_>]) -> Vec<Class> {
        let mut classes: Vec<Class> = Vec::new();
        for clause in clauses {
            let Expr::Binary(left, Operator::Equals, right) = clause else { continue };
            let (Some(left), Some(right)) = (self.place(left), self.place(right)) else { continue };
            // A number is shown as a text there, and texts that differ may stand for one number.
            let shown = [left.column.affinity, right.column.affinity];
            if shown == [Affinity::Text, Affinity::Blob] || shown == [Affinity::Blob, Affinity::Text] {
                continue;
            }
            let mut merged = Class(Vec::new());
            classes.retain_mut(|class| {
                let apart = !class.0.contains(&left) && !class.0.contains(&right);
                if !apart {
                    merged.0.append(&mut class.0);
                }
                apart
            });
            for place in [left, right] {
                if !merged.0.contains(&place) {
                    merged.0.push(place);
                }
            }
            classes.push(merged);
        }
        classes
    }

    /// What a row of an item has to meet for the condition to be true.
    fn condition(self, expr: &Expr<'_>, item: usize) -> Option<Condition> {
        match bare(expr) {
            Expr::Binary(left, Operator::And, right) => {
                match (self.condition(left, item), self.condition(right, item)) {
                    (Some(left), Some(right)) => {
                        let mut parts = vec![left, right];
                        join_ranges(&mut parts);
                        Some(Condition::All(parts))
                    }
                    (left, right) => left.or(right),
                }
            }
            Expr::Binary(left, Operator::Or, right) => {
                Some(Condition::Any(vec![self.condition(left, item)?, self.condition(right, item)?]))
            }
            expr => {
                let (place, condition) = self.equal(expr).or_else(|| self.range(expr))?;
                let mode = Mode::of([place.column.affinity].into_iter());
                (place.item == item).then(|| condition.on(&place.column, mode))
            }
        }
    }

    /// A column that is compared with values, and how.
    fn equal(self, expr: &Expr<'_>) -> Option<(Place, Condition)> {
        let (place, values, or_null) = match bare(expr) {
            Expr::Binary(left, operator @ (Operator::Equals | Operator::Is), right) => {
                let (place, value) = match self.place(left) {
                    Some(place) => (place, self.constant(right)?),
                    None => (self.place(right)?, self.constant(left)?),
                };
                (place, vec![value], *operator == Operator::Is)
            }
            Expr::IsNull(column) => (self.place(column)?, vec![Constant::Literal(Value::Null)], true),
            Expr::InList { lhs, not: false, rhs } => {
                let values = rhs.unwrap_or_default().iter().map(|value| self.constant(value));
                (self.place(lhs)?, values.collect::<Option<_>>()?, false)
            }
            _ => return None,
        };
        let column = place.column.clone();
        Some((place, Condition::Equal { column, mode: Mode::AsIs, values, or_null }))
    }

    fn range(self, expr: &Expr<'_>) -> Option<(Place, Condition)> {
        let (place, low, high) = match bare(expr) {
            Expr::Between { lhs, not: false, start, end } => {
                let place = self.place(lhs)?;
                let bound = |value| Some(Bound { value: self.constant(value)?, included: true });
                (place, bound(start), bound(end))
            }
            Expr::Binary(left, operator, right) => {
                let place = self.place(left);
                let (upward, included) = match operator {
                    Operator::Greater => (true, false),
                    Operator::GreaterEquals => (true, true),
                    Operator::Less => (false, false),
                    Operator::LessEquals => (false, true),
                    _ => return None,
                };
                let upward = upward == place.is_some();
                let (place, value) = match place {
                    Some(place) => (place, self.constant(right)?),
                    None => (self.place(right)?, self.constant(left)?),
                };
                let bound = Some(Bound { value, included });
                if upward { (place, bound, None) } else { (place, None, bound) }
            }
            _ => return None,
        };
        let mut place = place;
        // Another collation than the column's may be asked for.
        place.column.binary &= !collates(expr);
        let column = place.column.clone();
        (low.is_some() || high.is_some()).then_some((place, Condition::Range { column, low, high }))
    }

    /// The column that an expression is.
    fn place(self, expr: &Expr<'_>) -> Option<Place> {
        match bare(expr) {
            Expr::Collate(inner, name) => is_known(name).then(|| self.place(inner)).flatten(),
            Expr::Id(id) => self.unqualified(&unquoted(id.0)),
            Expr::Name(name) => self.unqualified(&unquoted(name.0)),
            Expr::Qualified(table, column) => self.qualified(&unquoted(table.0), &unquoted(column.0)),
            Expr::DoublyQualified(schema, table, column)
                if unquoted(schema.0).eq_ignore_ascii_case("main") =>
            {
                self.qualified(&unquoted(table.0), &unquoted(column.0))
            }
            _ => None,
        }
    }

    fn unqualified(self, name: &str) -> Option<Place> {
        let mut with = None;
        for (item, known) in self.items.iter().enumerate() {
            // Nobody knows the columns of what is not stored.
            if known.table.as_ref()?.has(name) && with.replace(item).is_some() {
                return None;
            }
        }
        let item = match with {
            Some(item) => item,
            None if self.items.len() == 1 && is_rowid(name) => 0,
            None => return None,
        };
        Some(Place { item, column: self.items[item].table.as_ref()?.column(name)? })
    }

    fn qualified(self, table: &str, column: &str) -> Option<Place> {
        let mut called =
            (0..self.items.len()).filter(|item| self.items[*item].name.eq_ignore_ascii_case(table));
        let item = called.next()?;
        if called.next().is_some() {
            return None;
        }
        Some(Place { item, column: self.items[item].table.as_ref()?.column(column)? })
    }

    /// The value that an expression is.
    fn constant(self, expr: &Expr<'_>) -> Option<Constant> {
        let literal = match bare(expr) {
            Expr::Collate(inner, name) => return is_known(name).then(|| self.constant(inner)).flatten(),
            // All have been numbered.
            Expr::Variable(number) => {
                return Some(Constant::Parameter(number.parse::<usize>().ok()?.checked_sub(1)?));
            }
            Expr::Unary(UnaryOperator::Negative, Expr::Literal(Literal::Numeric(digits))) => {
                self.number(&format!("-{digits}"))?
            }
            Expr::Literal(Literal::Numeric(digits)) => self.number(digits)?,
            // What stands in double quotes is a name, and no literal.
            Expr::Literal(Literal::String(text)) => Value::Text(unquoted(text)),
            Expr::Literal(Literal::Null) => Value::Null,
            _ => return None,
        };
        Some(Constant::Literal(literal))
    }

    /// A number as SQLite reads it.
    fn number(self, text: &str) -> Option<Value> {
        let digits = text.trim_start_matches('-');
        if digits.len() <= DIGITS_MAX && digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return text.parse().ok().map(Value::Integer);
        }
        let number = self.store.query_row(&format!("SELECT {text}"), [], |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Integer(number) => Some(Value::Integer(number)),
                rusqlite::types::ValueRef::Real(number) => Some(Value::Real(number)),
                _ => None,
            })
        });
        number.ok().flatten()
    }
}

impl Condition {
    /// The same on another column.
    fn on(self, to: &Column, how: Mode) -> Self {
        match self {
            Self::Equal { values, or_null, .. } => {
                Self::Equal { column: to.clone(), mode: how, values, or_null }
            }
            other => other,
        }
    }
}

/// What is between parentheses.
fn bare<'a, 'b>(mut expr: &'a Expr<'b>) -> &'a Expr<'b> {
    while let Expr::Parenthesized(inner) = expr
        && let [only] = &inner[..]
    {
        expr = only;
    }
    expr
}

/// Conditions that all have to be true.
fn flatten<'a, 'b>(expr: &'a Expr<'b>, flat: &mut Vec<&'a Expr<'b>>) {
    match bare(expr) {
        Expr::Binary(left, Operator::And, right) => {
            flatten(left, flat);
            flatten(right, flat);
        }
        expr => flat.push(expr),
    }
}

/// Whether a collation is one of SQLite's own.
fn is_known(name: &str) -> bool {
    let name = unquoted(name);
    ["binary", "nocase", "rtrim"].iter().any(|known| known.eq_ignore_ascii_case(&name))
}

/// Whether a comparison has a collation of its own.
fn collates(expr: &Expr<'_>) -> bool {
    match bare(expr) {
        Expr::Collate(..) => true,
        Expr::Binary(left, _, right) => collates(left) || collates(right),
        Expr::Between { lhs, start, end, .. } => collates(lhs) || collates(start) || collates(end),
        _ => false,
    }
}

/// Two ends of one range become one condition.
fn join_ranges(conditions: &mut Vec<Condition>) {
    let mut joined: Vec<Condition> = Vec::with_capacity(conditions.len());
    for condition in conditions.drain(..) {
        if let Condition::Range { column, low, high } = &condition {
            let open = joined.iter_mut().find_map(|other| match other {
                Condition::Range { column: other, low: own_low, high: own_high }
                    if other == column
                        && (own_low.is_none() || low.is_none())
                        && (own_high.is_none() || high.is_none()) =>
                {
                    Some((own_low, own_high))
                }
                _ => None,
            });
            if let Some((own_low, own_high)) = open {
                *own_low = own_low.take().or_else(|| low.clone());
                *own_high = own_high.take().or_else(|| high.clone());
                continue;
            }
        }
        joined.push(condition);
    }
    *conditions = joined;
}
