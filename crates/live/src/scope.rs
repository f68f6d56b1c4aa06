//! Asking SQLite about the rows that changed, in place of running a query anew.
//!
//! A query of the right shape gets two more statements beside its own. The *full* one gives the same rows with columns that nobody sees: the
//! rowid of each table's row that made the row of the result, and what it is sorted by. A *scoped* one for each table in FROM gives
//! of these the rows that one row of that table makes. When a few rows change, all rows of the result that were made of one of them go, and
//! what the scoped statements give comes in their place. SQLite evaluates every expression; here rows are only told apart,
//! and sorted by comparisons that SQLite documents.
//!
//! Nothing here decides *whether* a query is concerned. Whatever is not certain is an [`Unscoped`], and the query is run anew.

mod order;
mod shape;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use opor_store::rusqlite::{Error, OptionalExtension};
use opor_store::{ColumnMask, Store};

use crate::access::{Access, Listener};
use order::Comparison;
use shape::{Shape, Term};
pub(crate) use step::{Asked, Kept};

/// Names by which SQLite knows the rowid where no column has them.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// The statements that ask about some rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scope {
    full: String,
    occurrences: Vec<ScopedTable>,
    order: Vec<SortTerm>,
    /// Columns that are seen; after them come the rowids, and then what it is sorted by beyond that.
    width: usize,
    hidden_terms: usize,
    /// The number of the parameter for a rowid.
    rowid_parameter: usize,
}

/// A table in FROM.
#[derive(Clone, Debug, PartialEq)]
struct ScopedTable {
    name: Arc<str>,
    /// Updates of other columns say nothing about the result.
    columns: ColumnMask,
    sql: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct SortTerm {
    value: Place,
    comparison: Comparison,
}

/// Where the value of a term is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Seen(usize),
    Hidden(usize),
}

/// Why a query is run anew, in place of asking only about the rows that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unscoped {
    Unwatched,
    CommonTable,
    Compound,
    Distinct,
    Groups,
    Window,
    Limit,
    Subquery,
    OtherJoin,
    SameName,
    NoTable,
    NoRowid,
    Order,
    NotUnderstood,
}

impl fmt::Display for Unscoped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unwatched => "it reads something that does not tell which rows changed",
            Self::CommonTable => "it has a common table expression",
            Self::Compound => "it is made of several SELECTs",
            Self::Distinct => "it has DISTINCT",
            Self::Groups => "rows of its result are made of several rows of a table",
            Self::Window => "it has a window function",
            Self::Limit => "it has a LIMIT",
            Self::Subquery => "it has a subquery",
            Self::OtherJoin => "it has a join that is not an inner one",
            Self::SameName => "two of its tables go by the same name",
            Self::NoTable => "it reads something other than tables",
            Self::NoRowid => "a table has no rowids, or hides them",
            Self::Order => "nothing is known of how it is sorted",
            Self::NotUnderstood => "its shape is not understood",
        })
    }
}

impl From<Error> for Unscoped {
    /// A statement that was put together here and that SQLite refuses.
    fn from(_: Error) -> Self {
        Self::NotUnderstood
    }
}

/// What is known of a statement when its scope is looked for.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) sql: &'a str,
    pub(crate) columns: &'a [String],
    pub(crate) parameters: usize,
    pub(crate) access: &'a Access,
    pub(crate) tables: &'a BTreeMap<Arc<str>, ColumnMask>,
    pub(crate) unwatched: bool,
}

impl Scope {
    /// Finds the statements that ask about some rows, and has SQLite confirm that they read the same.
    pub(crate) fn of(store: &Store, listener: &Listener, known: &Known<'_>) -> Result<Self, Unscoped> {
        if known.unwatched {
            return Err(Unscoped::Unwatched);
        }
        let shape = shape::shape(known.sql)?;
        let mut tables = Vec::new();
        let mut hidden = Vec::new();
        for occurrence in &shape.occurrences {
            let is_it = |(name, _): &(&Arc<str>, _)| name.eq_ignore_ascii_case(&occurrence.table);
            let (name, columns) = known.tables.iter().find(is_it).ok_or(Unscoped::NoTable)?;
            hidden.push(format!("{}.{}", occurrence.qualifier, rowid_name(store, name)?));
            tables.push((name.clone(), *columns));
        }
        let rowids = hidden.clone();
        let places = places(&shape, known.columns, &mut hidden)?;
        let rowid_parameter = known.parameters + 1;
        let full = composed(&shape, &hidden, None, shape.order.as_ref().map(|(text, _)| (*text).to_owned()));
        let scoped =
            |rowid: &String| composed(&shape, &hidden, Some(format!("{rowid} = ?{rowid_parameter}")), None);
        let scoped: Vec<String> = rowids.iter().map(scoped).collect();
        confirm(store, listener, known, &full, known.parameters)?;
        for sql in &scoped {
            confirm(store, listener, known, sql, rowid_parameter)?;
        }
        let order = places.into_iter().zip(comparisons(store, &shape, &hidden)?);
        let tables = tables.into_iter().zip(scoped);
        Ok(Self {
            full,
            occurrences: tables.map(|((name, columns), sql)| ScopedTable { name, columns, sql }).collect(),
            order: order.map(|(value, comparison)| SortTerm { value, comparison }).collect(),
            width: known.columns.len(),
            hidden_terms: hidden.len() - rowids.len(),
            rowid_parameter,
        })
    }
}

/// How the rowid of a table is written, if it has one.
fn rowid_name(store: &Store, table: &str) -> Result<&'static str, Unscoped> {
    let sql =
        "SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND name = ? AND type = 'table' AND wr = 0";
    if !store.prepare_cached(sql)?.exists([table])? {
        return Err(Unscoped::NoRowid);
    }
    let mut columns = store.prepare_cached("SELECT lower(name) FROM pragma_table_xinfo(?, 'main')")?;
    let columns: BTreeSet<String> =
        columns.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?;
    ROWID_NAMES.into_iter().find(|name| !columns.contains(*name)).ok_or(Unscoped::NoRowid)
}

/// Where the values of the terms of ORDER BY are; those that are not seen are added to `hidden`.
fn places(shape: &Shape<'_>, columns: &[String], hidden: &mut Vec<String>) -> Result<Vec<Place>, Unscoped> {
    let rowids = hidden.len();
    let Some((_, terms)) = &shape.order else { return Ok(Vec::new()) };
    let mut hide = |text: &str| {
        hidden.push(text.to_owned());
        Place::Hidden(hidden.len() - 1 - rowids)
    };
    let place = |term: &Term<'_>| match term {
        Term::Place(number) => {
            let seen = number.checked_sub(1).filter(|seen| *seen < columns.len());
            seen.map(Place::Seen).ok_or(Unscoped::Order)
        }
        Term::Name { name, text } => {
            // A name alone stands for a column of the result first, and then for one of a table.
            let mut named =
                columns.iter().enumerate().filter(|(_, column)| column.eq_ignore_ascii_case(name));
            match (named.next(), named.next()) {
                (Some((seen, _)), None) => Ok(Place::Seen(seen)),
                (None, _) => Ok(hide(text)),
                (Some(_), Some(_)) => Err(Unscoped::Order),
            }
        }
        Term::Expression(text) => Ok(hide(text)),
    };
    terms.iter().map(place).collect()
}

fn composed(shape: &Shape<'_>, hidden: &[String], and: Option<String>, order: Option<String>) -> String {
    let Shape { columns, from, .. } = shape;
    let mut sql = format!("SELECT {columns}, {} FROM {from}", hidden.join(", "));
    let filter = shape.filter.map(|filter| format!("({filter})"));
    let conditions: Vec<String> = filter.into_iter().chain(and).collect();
    if !conditions.is_empty() {
        sql.push_str(" WHERE ");
        sql.push_str(&conditions.join(" AND "));
    }
    if let Some(order) = order {
        sql.push_str(" ORDER BY ");
        sql.push_str(&order);
    }
    sql
}

/// That a statement put together here reads the same tables with the same functions, has the same columns to be seen, and makes every
/// row of its result from one row of each table.
fn confirm(
    store: &Store,
    listener: &Listener,
    known: &Known<'_>,
    sql: &str,
    parameters: usize,
) -> Result<(), Unscoped> {
    let (prepared, access) = listener.hear(|| {
        let stmt = store.prepare(sql)?;
        let columns: Vec<String> = stmt.column_names().into_iter().map(str::to_owned).collect();
        Ok::<_, Error>((columns, stmt.parameter_count()))
    });
    let (columns, count) = prepared?;
    let tables = |access: &Access| -> BTreeSet<String> {
        access.reads.iter().map(|(table, _)| table.to_ascii_lowercase()).collect()
    };
    let watched: BTreeSet<String> = known.tables.keys().map(|table| table.to_ascii_lowercase()).collect();
    let same = columns.get(..known.columns.len()) == Some(known.columns)
        && count == parameters
        && tables(&access) == watched
        && tables(known.access) == watched
        && access.functions == known.access.functions
        && access.views.is_empty();
    if !same {
        return Err(Unscoped::NotUnderstood);
    }
    let aggregates = find_step(store, sql, |opcode, _| opcode.starts_with("Agg").then_some(()))?;
    if aggregates.is_some() { Err(Unscoped::Groups) } else { Ok(()) }
}

/// How the terms of ORDER BY compare, as SQLite says of a sorter that it makes for them.
fn comparisons(store: &Store, shape: &Shape<'_>, hidden: &[String]) -> Result<Vec<Comparison>, Unscoped> {
    let Some((order, terms)) = &shape.order else { return Ok(Vec::new()) };
    let encoding: String = store.query_row("PRAGMA main.encoding", [], |row| row.get(0))?;
    if encoding != "UTF-8" {
        // Texts compare by their bytes, which are others.
        return Err(Unscoped::Order);
    }
    // No index is in an order that begins by chance, so there is a sorter, and it has all terms.
    let sql = composed(shape, hidden, None, Some(format!("random(), {order}")));
    let key = find_step(store, &sql, |opcode, key| (opcode == "SorterOpen").then(|| key.map(str::to_owned)))?;
    let mut comparisons = key.flatten().and_then(|key| Comparison::all_of(&key)).ok_or(Unscoped::Order)?;
    if comparisons.len() != terms.len() + 1 {
        return Err(Unscoped::Order);
    }
    comparisons.remove(0);
    Ok(comparisons)
}

/// The first step of the program that SQLite makes of a statement for which `wanted` gives something, by its opcode and P4.
fn find_step<T>(
    store: &Store,
    sql: &str,
    wanted: impl Fn(&str, Option<&str>) -> Option<T>,
) -> Result<Option<T>, Error> {
    let mut program = store.prepare(&format!("EXPLAIN {sql}"))?;
    let mut steps = program.raw_query();
    while let Some(step) = steps.next()? {
        let opcode: String = step.get("opcode")?;
        let p4: Option<String> = step.get("p4").optional()?.flatten();
        if let Some(found) = wanted(&opcode, p4.as_deref()) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
