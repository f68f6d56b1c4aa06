//! What a statement depends on, found out when it is first asked for and again when the schema moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use opor_store::rusqlite::{Error, OptionalExtension};
use opor_store::{ColumnMask, Store};

use crate::access::{Access, Listener};
use crate::error::LiveError;
use crate::guard::{Guards, guards};
use crate::scope::{Known, Scope, Unscoped};
use crate::{joined, order, volatile};

/// Virtual tables that compute what they are asked for from their arguments alone.
const PURE_MODULES: [&str; 2] = ["json_each", "json_tree"];

/// A statement and what it depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) sql: Arc<str>,
    /// The names of the result's columns.
    pub(crate) columns: Arc<[String]>,
    /// Names of the parameters, in their order; those without a name by `?` and their number.
    pub(crate) parameters: Vec<String>,
    /// The tables it reads, and the columns whose updates matter.
    pub(crate) tables: BTreeMap<Arc<str>, ColumnMask>,
    /// The names of their columns.
    pub(crate) names: BTreeMap<Arc<str>, Vec<String>>,
    /// What their rows have to meet.
    pub(crate) guards: Guards,
    /// It reads something that does not tell when it changes: it is run after every commit.
    pub(crate) unwatched: Option<String>,
    /// The values of date functions' arguments, if they were "now", would make it different every time.
    pub(crate) dates: bool,
    /// How it is asked about some rows, or why it cannot be.
    pub(crate) scope: Result<Scope, Unscoped>,
}

/// Plans a statement.
///
/// # Errors
/// [`LiveError`] when it is no single SELECT, not understood, or not deterministic.
pub(crate) fn plan(store: &Store, listener: &Listener, sql: &str) -> Result<Plan, LiveError> {
    let (prepared, access) = listener.hear(|| {
        let stmt = store.prepare(sql)?;
        let parameters = (1..=stmt.parameter_count())
            .map(|at| stmt.parameter_name(at).map_or_else(|| format!("?{at}"), str::to_owned));
        let columns: Arc<[String]> = stmt.column_names().into_iter().map(str::to_owned).collect();
        Ok::<_, Error>((columns, parameters.collect::<Vec<_>>(), stmt.readonly(), stmt.is_explain()))
    });
    if access.writes {
        return Err(LiveError::NotReadOnly);
    }
    let (columns, parameters, reads_only, explains) = prepared?;
    if !reads_only || explains != 0 || columns.is_empty() {
        return Err(LiveError::NotReadOnly);
    }
    let dates = volatile::check(store, sql, &access)?;
    let Dependencies { mut tables, names, mut unwatched } = dependencies(store, &access)?;
    if joined::extend(store, sql, &access, &mut tables)? && unwatched.is_none() {
        unwatched = Some("a virtual table".to_owned());
    }
    let parameters: Vec<String> = parameters;
    let matches = ["like", "glob"].iter().any(|name| access.functions.contains(*name));
    order::extend(store, sql, matches && !parameters.is_empty(), &mut tables)?;
    let known = Known {
        sql,
        columns: &columns,
        parameters: parameters.len(),
        access: &access,
        tables: &tables,
        names: &names,
        unwatched: unwatched.is_some(),
    };
    let scope = Scope::of(store, listener, &known);
    let guards = guards(store, sql, &access, tables.keys().cloned(), &parameters)?;
    Ok(Plan { sql: sql.into(), columns, parameters, tables, names, guards, unwatched, dates, scope })
}

struct Dependencies {
    tables: BTreeMap<Arc<str>, ColumnMask>,
    names: BTreeMap<Arc<str>, Vec<String>>,
    unwatched: Option<String>,
}

/// Tables with the columns that matter, and the first thing read that cannot be watched.
fn dependencies(store: &Store, access: &Access) -> Result<Dependencies, LiveError> {
    let mut tables: BTreeMap<Arc<str>, ColumnMask> = BTreeMap::new();
    let mut unwatched = None;
    let mut known: BTreeMap<&str, Kind> = BTreeMap::new();
    for (table, column) in &access.reads {
        if !known.contains_key(table.as_str()) {
            known.insert(table, kind(store, table)?);
        }
        match &known[table.as_str()] {
            Kind::Table(columns) => {
                let mask = tables.entry(table.as_str().into()).or_default();
                mask.extend(mask_of(columns, column));
            }
            Kind::Virtual => unwatched = unwatched.or_else(|| Some(table.clone())),
            // Views are seen through, and the schema is looked at apart from this.
            Kind::Other => {}
        }
    }
    let names = tables.keys().filter_map(|table| match known.get(&**table) {
        Some(Kind::Table(columns)) => {
            Some((table.clone(), columns.iter().map(|column| column.0.clone()).collect()))
        }
        _ => None,
    });
    let names = names.collect();
    Ok(Dependencies { tables, names, unwatched })
}

/// What a name stands for.
enum Kind {
    /// A table, with its columns and whether each is computed from others.
    Table(Vec<(String, bool)>),
    Virtual,
    Other,
}

fn kind(store: &Store, name: &str) -> Result<Kind, Error> {
    let found = store
        .prepare_cached(
            "SELECT type = 'table', rootpage FROM main.sqlite_schema WHERE lower(name) = lower(?)",
        )?
        .query_row([name], |row| Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    match found {
        Some((true, 0)) => Ok(Kind::Virtual),
        Some((true, _)) => {
            let mut columns = store
                .prepare_cached("SELECT name, hidden > 1 FROM pragma_table_xinfo(?, 'main') ORDER BY cid")?;
            let columns = columns.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(Kind::Table(columns.collect::<Result<_, _>>()?))
        }
        Some((false, _)) => Ok(Kind::Other),
        None => {
            let is_module = store
                .prepare_cached("SELECT 1 FROM pragma_module_list WHERE lower(name) = lower(?)")?
                .exists([name])?;
            let pure = PURE_MODULES.iter().any(|pure| pure.eq_ignore_ascii_case(name));
            Ok(if is_module && !pure { Kind::Virtual } else { Kind::Other })
        }
    }
}

/// The columns whose updates change what a column of this name says.
fn mask_of(columns: &[(String, bool)], column: &str) -> ColumnMask {
    let mut mask = ColumnMask::default();
    match columns.iter().position(|(name, _)| name.eq_ignore_ascii_case(column)) {
        Some(place) if !columns[place].1 => mask.insert(place),
        // Computed from others.
        Some(_) => mask = ColumnMask::ALL,
        // No column at all, or the rowid: that rows come, go and change their rowids is always told.
        None if column.is_empty() || column.eq_ignore_ascii_case("rowid") => {}
        None => mask = ColumnMask::ALL,
    }
    mask
}
