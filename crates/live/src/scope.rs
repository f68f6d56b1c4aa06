//! Asking SQLite about the rows that changed, in place of running a query anew.
//!
//! A query of the right shape gets more statements beside its own. The *full* one gives the same rows with columns that nobody sees: the
//! rowid of each table's row that made the row of the result, and what it is sorted by. A *scoped* one for each table in FROM gives
//! of these the rows that one row of that table makes. When a few rows change, all rows of the result that were made of one of them go, and
//! what the scoped statements give comes in their place. SQLite evaluates every expression; here rows are only told apart,
//! and sorted by comparisons that SQLite documents.
//!
//! What stands on the right of a LEFT JOIN goes and comes with the row on its left ([`source`]). Where rows are grouped, the rows that the
//! groups are made of are followed in this way, and of the groups those are asked for that a row left or came to ([`groups`]). With a
//! LIMIT some rows more than are seen are kept ([`held`]). What a subquery reads is not followed: when it changes, the query is run.
//!
//! Nothing here decides *whether* a query is concerned. Whatever is not certain is an [`Unscoped`], and the query is run anew.

mod confirm;
mod groups;
mod held;
mod order;
mod shape;
mod source;
mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use opor_store::rusqlite::Error;
use opor_store::{ColumnMask, Store};

use crate::access::{Access, Listener};
use confirm::{Composed, Functions, ROWID_NAMES, comparisons, confirm, rowid_name};
use groups::Groups;
use order::Comparison;
use shape::{Limit, Shape, Term};
use source::{ScopedTable, Source};
pub(crate) use step::{Asked, Kept};

/// Functions that tell whether a group says the same in whatever order its rows are met.
const UNIFORM_FUNCTIONS: [&str; 5] = ["min", "max", "total", "quote", "typeof"];

/// The statements that ask about some rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scope {
    /// Gives the whole result.
    full: String,
    /// The rows that the result is, or that its groups are made of.
    source: Source,
    groups: Option<Groups>,
    limit: Option<Limit>,
    order: Vec<SortTerm>,
    /// Columns that are seen; after them come the rowids, if rows are not grouped, and then other values.
    width: usize,
    hidden_terms: usize,
    /// What subqueries read: when it changes, any row may.
    aside: Vec<(Arc<str>, ColumnMask)>,
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
    Bare,
    Window,
    Limit,
    LimitNotKnown,
    Subquery,
    OtherJoin,
    RightSide,
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
            Self::Distinct => "it has DISTINCT in a place where it is not understood",
            Self::Groups => "all rows together make one",
            Self::Bare => "its groups may say something else when their rows are met in another order",
            Self::Window => "it has a window function",
            Self::Limit => "it has a LIMIT and no order",
            Self::LimitNotKnown => "its LIMIT is neither a number nor a parameter",
            Self::Subquery => "it has a subquery in FROM or in a function of a group",
            Self::OtherJoin => {
                "it has a join that is neither an inner one nor a LEFT JOIN after all of these"
            }
            Self::RightSide => "a condition looks at what is on the right of a LEFT JOIN",
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
    /// The columns of the tables.
    pub(crate) names: &'a BTreeMap<Arc<str>, Vec<String>>,
    pub(crate) unwatched: bool,
}

impl Scope {
    /// Finds the statements that ask about some rows, and has SQLite confirm that they read the same.
    pub(crate) fn of(store: &Store, listener: &Listener, known: &Known<'_>) -> Result<Self, Unscoped> {
        if known.unwatched {
            return Err(Unscoped::Unwatched);
        }
        let is_column = |name: &str| {
            let is_it = |column: &str| column.eq_ignore_ascii_case(name);
            known.names.values().flatten().any(|column| is_it(column)) || ROWID_NAMES.into_iter().any(is_it)
        };
        let shape = shape::shape(known.sql, &is_column)?;
        if shape.parameters != known.parameters {
            return Err(Unscoped::NotUnderstood);
        }
        Finder { store, listener, known, shape: &shape }.scope()
    }

    /// What it is asked about, in words.
    pub(crate) fn about(&self) -> String {
        let mut about = match &self.groups {
            Some(_) => "the groups of the rows that changed",
            None if self.source.unit.is_some() => "the rows that changed, and what they are joined to",
            None => "the rows that changed",
        }
        .to_owned();
        if self.limit.is_some() {
            about.push_str(", as far as its LIMIT and some rows more reach");
        }
        let aside: Vec<&str> = self.aside.iter().map(|(table, _)| &**table).collect();
        if !aside.is_empty() {
            about.push_str(&format!(
                "; it is run as a whole when {} changes, which a subquery reads",
                aside.join(" or ")
            ));
        }
        about
    }
}

/// Finds the scope of a statement.
struct Finder<'a> {
    store: &'a Store,
    listener: &'a Listener,
    known: &'a Known<'a>,
    shape: &'a Shape<'a>,
}

impl Finder<'_> {
    fn scope(&self) -> Result<Scope, Unscoped> {
        let shape = self.shape;
        let mut tables = Vec::new();
        let mut rowids = Vec::new();
        for occurrence in &shape.occurrences {
            let is_it = |(name, _): &(&Arc<str>, _)| name.eq_ignore_ascii_case(&occurrence.table);
            let (name, columns) = self.known.tables.iter().find(is_it).ok_or(Unscoped::NoTable)?;
            rowids.push(format!("{}.{}", occurrence.qualifier, rowid_name(self.store, name)?));
            tables.push((name.clone(), *columns));
        }
        let aside = self.aside()?;
        self.left_only()?;
        let keys = shape.groups.as_ref().map(|groups| &groups.keys[..]);
        let mut hidden = keys.map_or_else(|| rowids.clone(), <[String]>::to_vec);
        let before_order = if keys.is_some() { 0 } else { rowids.len() };
        let places = places(shape, self.known.columns, before_order, &mut hidden)?;
        let order = self.order(places, &hidden)?;
        let limit = shape.limit.map(|_| self.next_parameter());
        let order_clause =
            shape.order.as_ref().map(|(text, _)| format!(" ORDER BY {text}")).unwrap_or_default();
        let limit_clause = limit.map(|parameter| format!(" LIMIT ?{parameter}")).unwrap_or_default();
        let full = format!("{}{order_clause}{limit_clause}", self.composed(&hidden, &[]));
        let full_parameters = limit.unwrap_or(self.known.parameters);
        let grouped = keys.is_some();
        self.confirm(&full, full_parameters, self.shown(grouped, &hidden))?;
        let hidden_terms = hidden.len() - before_order;
        let groups = shape.groups.as_ref().map(|groups| self.groups(groups, &rowids, &hidden)).transpose()?;
        let source = match keys {
            None => self.source(&tables, &rowids, &hidden, true)?,
            Some(keys) => {
                let hidden: Vec<String> = rowids.iter().chain(keys).cloned().collect();
                self.source(&tables, &rowids, &hidden, false)?
            }
        };
        Ok(Scope {
            full,
            source,
            groups,
            limit: shape.limit,
            order,
            width: self.known.columns.len(),
            hidden_terms,
            aside,
        })
    }

    fn next_parameter(&self) -> usize {
        self.known.parameters + 1
    }

    /// The tables that subqueries read. A table in FROM is among them if a word in a subquery may be its name.
    fn aside(&self) -> Result<Vec<(Arc<str>, ColumnMask)>, Unscoped> {
        let occurs = |table: &str| {
            self.shape.occurrences.iter().any(|occurrence| occurrence.table.eq_ignore_ascii_case(table))
        };
        let Some(words) = &self.shape.inner_words else {
            let all = self.known.tables.keys().all(|table| occurs(table));
            return if all { Ok(Vec::new()) } else { Err(Unscoped::NotUnderstood) };
        };
        let read = self.known.tables.iter();
        let read = read.filter(|(table, _)| !occurs(table) || words.contains(&table.to_ascii_lowercase()));
        Ok(read.map(|(table, columns)| (table.clone(), *columns)).collect())
    }

    /// That WHERE, and ON of inner joins, can be told without what is on the right of a LEFT JOIN: then they are the same for all that a row on
    /// the left is joined to. And that each ON looks at nothing that comes after it.
    fn left_only(&self) -> Result<(), Unscoped> {
        let shape = self.shape;
        if shape.occurrences.iter().all(|occurrence| !occurrence.optional) {
            return Ok(());
        }
        if shape.unsure_names {
            return Err(Unscoped::RightSide);
        }
        let filter = shape.filter.as_ref().map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
        let understood = shape.parts.iter().all(|part| {
            let without_the_rest = format!("SELECT 1 FROM {part}{filter}");
            self.store.prepare(&without_the_rest).is_ok()
        });
        if understood { Ok(()) } else { Err(Unscoped::RightSide) }
    }

    /// How ORDER BY compares.
    fn order(&self, places: Vec<Place>, hidden: &[String]) -> Result<Vec<SortTerm>, Unscoped> {
        let Some((text, terms)) = &self.shape.order else { return Ok(Vec::new()) };
        let comparisons = comparisons(self.store, &self.composed(hidden, &[]), text, terms.len())?;
        let terms = places.into_iter().zip(comparisons);
        Ok(terms.map(|(value, comparison)| SortTerm { value, comparison }).collect())
    }

    /// The query with other columns behind its own and with more conditions, up to ORDER BY.
    fn composed(&self, hidden: &[String], conditions: &[String]) -> String {
        let having = self.shape.groups.as_ref().and_then(|groups| groups.having.clone());
        self.having(hidden, conditions, having)
    }

    fn having(&self, hidden: &[String], conditions: &[String], having: Option<String>) -> String {
        let mut sql = self.rows(&format!("{}, {}", self.shape.columns, hidden.join(", ")), conditions);
        if let Some(groups) = &self.shape.groups {
            sql.push_str(&format!(" GROUP BY {}", groups.by));
        }
        if let Some(having) = having {
            sql.push_str(&format!(" HAVING {having}"));
        }
        sql
    }

    /// The rows that meet the condition of the query, and others, before anything is grouped.
    fn rows(&self, columns: &str, conditions: &[String]) -> String {
        let filter = self.shape.filter.as_ref().map(|filter| format!("({filter})"));
        let conditions: Vec<String> = filter.into_iter().chain(conditions.iter().cloned()).collect();
        let condition = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        format!("SELECT {columns} FROM {}{condition}", self.shape.from)
    }

    fn shown<'s>(&self, groups: bool, hidden: &[String]) -> (bool, Functions<'s>, Option<String>) {
        let never = || self.composed(hidden, &["0".to_owned()]);
        let never = self.shape.inner_words.is_some().then(never);
        (groups, Functions::Same, never)
    }

    fn confirm(
        &self,
        sql: &str,
        parameters: usize,
        (groups, functions, never): (bool, Functions<'_>, Option<String>),
    ) -> Result<(), Unscoped> {
        let shows = !matches!(functions, Functions::Fewer);
        let composed = Composed { sql, parameters, shows, functions, groups, never: never.as_deref() };
        confirm(self.store, self.listener, self.known, composed)
    }

    /// The rows of the result, or those that its groups are made of.
    fn source(
        &self,
        tables: &[(Arc<str>, ColumnMask)],
        rowids: &[String],
        hidden: &[String],
        shows: bool,
    ) -> Result<Source, Unscoped> {
        let composed = |conditions: &[String]| {
            if shows { self.composed(hidden, conditions) } else { self.rows(&hidden.join(", "), conditions) }
        };
        let never = self.shape.inner_words.is_some().then(|| composed(&["0".to_owned()]));
        let functions = if shows { Functions::Same } else { Functions::Fewer };
        let first = self.next_parameter();
        let confirmed = |conditions: &[String]| {
            let sql = composed(conditions);
            let parameters = self.known.parameters + conditions.len();
            self.confirm(&sql, parameters, (false, functions, never.clone()))?;
            Ok::<_, Unscoped>(sql)
        };
        let mut scoped = Vec::new();
        for (((name, columns), rowid), occurrence) in tables.iter().zip(rowids).zip(&self.shape.occurrences) {
            let sql = confirmed(&[format!("{rowid} = ?{first}")])?;
            let (name, columns, optional) = (name.clone(), *columns, occurrence.optional);
            scoped.push(ScopedTable { name, columns, optional, sql });
        }
        let required = scoped.iter().filter(|table| !table.optional).count();
        let of_unit = || {
            let conditions = rowids[..required].iter().enumerate();
            let conditions: Vec<String> =
                conditions.map(|(at, rowid)| format!("{rowid} = ?{}", first + at)).collect();
            confirmed(&conditions)
        };
        let unit = (required < scoped.len()).then(of_unit).transpose()?;
        let width = if shows { self.known.columns.len() } else { 0 };
        let terms = hidden.len() - rowids.len();
        Ok(Source { tables: scoped, unit, required, width, terms, parameters: self.known.parameters })
    }

    fn groups(
        &self,
        groups: &shape::Groups,
        rowids: &[String],
        hidden: &[String],
    ) -> Result<Groups, Unscoped> {
        let first = self.next_parameter();
        let is = |(at, key): (usize, &String)| format!("({key}) IS ?{}", first + at);
        let conditions: Vec<String> = groups.keys.iter().enumerate().map(is).collect();
        let same = groups.keys.iter().map(|key| format!("min(quote({key})) IS max(quote({key}))"));
        let of_one_type = |of: &String| {
            format!("(total(typeof({of}) = 'integer') = 0 OR total(typeof({of}) = 'real') = 0)")
        };
        let uniform: Vec<String> = same.chain(groups.compared.iter().map(of_one_type)).collect();
        let uniform = uniform.join(" AND ");
        let hidden: Vec<String> = hidden.iter().cloned().chain([uniform.clone()]).collect();
        // Whether a group is among those that are shown may depend on it, too.
        let having = groups.having.as_ref().map(|having| format!("({having}) OR NOT ({uniform})"));
        let sql = self.having(&hidden, &conditions, having);
        let parameters = self.known.parameters + groups.keys.len();
        self.confirm(&sql, parameters, (true, Functions::With(&UNIFORM_FUNCTIONS), None))?;
        // Nothing of a result is named in these, so each name is that of a column.
        let keys = groups.keys.join(", ");
        let sorted = format!("SELECT 1 FROM {}", self.shape.from);
        let keys = comparisons(self.store, &sorted, &keys, groups.keys.len())?;
        let of_members: Vec<String> = rowids.iter().chain(&groups.keys).cloned().collect();
        let of_members = of_members.join(", ");
        let members = self.rows(&of_members, &[]);
        let never = self.shape.inner_words.is_some().then(|| self.rows(&of_members, &["0".to_owned()]));
        self.confirm(&members, self.known.parameters, (false, Functions::Fewer, never))?;
        Ok(Groups { sql, members, keys, parameters: self.known.parameters })
    }
}

/// Where the values of the terms of ORDER BY are; those that are not seen are added to `hidden`, of which the first `before` are
/// no values that are kept.
fn places(
    shape: &Shape<'_>,
    columns: &[String],
    before: usize,
    hidden: &mut Vec<String>,
) -> Result<Vec<Place>, Unscoped> {
    let Some((_, terms)) = &shape.order else { return Ok(Vec::new()) };
    let mut hide = |text: &str| {
        hidden.push(text.to_owned());
        Place::Hidden(hidden.len() - 1 - before)
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
