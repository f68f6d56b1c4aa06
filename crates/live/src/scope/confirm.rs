//! What SQLite has to say of a statement that was put together here before it is used.

use std::collections::BTreeSet;

use opor_store::Store;
use opor_store::rusqlite::{Error, OptionalExtension};

use super::order::Comparison;
use super::{Known, Unscoped};
use crate::access::{Access, Listener};

/// Names by which SQLite knows the rowid where no column has them.
pub(super) const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

/// A statement that was put together, and what it has to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Composed<'a> {
    pub(super) sql: &'a str,
    /// The greatest number of a parameter.
    pub(super) parameters: usize,
    /// It begins with the columns of the query.
    pub(super) shows: bool,
    pub(super) functions: Functions<'a>,
    /// It puts rows together.
    pub(super) groups: bool,
    /// If there are subqueries in it, which may do so too: the same with a condition that is never met.
    pub(super) never: Option<&'a str>,
}

/// The functions that a statement may call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Functions<'a> {
    /// Those of the query.
    Same,
    /// Some of these.
    Fewer,
    /// All of these, and others.
    With(&'a [&'a str]),
}

/// That a statement reads the same tables with the same functions, has the same columns to be seen, and makes every
/// row of its result from one row of each table, unless it is meant to group.
pub(super) fn confirm(
    store: &Store,
    listener: &Listener,
    known: &Known<'_>,
    composed: Composed<'_>,
) -> Result<(), Unscoped> {
    let (prepared, access) = listener.hear(|| {
        let stmt = store.prepare(composed.sql)?;
        let columns: Vec<String> = stmt.column_names().into_iter().map(str::to_owned).collect();
        Ok::<_, Error>((columns, stmt.parameter_count()))
    });
    let (columns, count) = prepared?;
    let watched: BTreeSet<String> = known.tables.keys().map(|table| table.to_ascii_lowercase()).collect();
    let reads = tables(&access);
    let columns_fit = !composed.shows || columns.get(..known.columns.len()) == Some(known.columns);
    let functions_fit = match composed.functions {
        Functions::Same => access.functions == known.access.functions,
        Functions::Fewer => access.functions.is_subset(&known.access.functions),
        Functions::With(more) => {
            let mut others = access.functions.difference(&known.access.functions);
            access.functions.is_superset(&known.access.functions)
                && others.all(|other| more.contains(&other.as_str()))
        }
    };
    let fits = columns_fit
        && functions_fit
        && (if composed.shows { count == composed.parameters } else { count <= composed.parameters })
        && (if composed.shows { reads == watched } else { reads.is_subset(&watched) })
        && tables(known.access) == watched
        && access.views.is_empty();
    if !fits {
        return Err(Unscoped::NotUnderstood);
    }
    if composed.groups {
        return compares_binary(store, composed.sql);
    }
    let puts_together = match composed.never {
        Some(never) => gives_a_row_of_none(store, never)?,
        None => {
            find_step(store, composed.sql, |opcode, _| opcode.starts_with("Agg").then_some(()))?.is_some()
        }
    };
    if puts_together { Err(Unscoped::Groups) } else { Ok(()) }
}

fn tables(access: &Access) -> BTreeSet<String> {
    access.reads.iter().map(|(table, _)| table.to_ascii_lowercase()).collect()
}

/// Whether a statement whose condition is never met has a row all the same: a function of all rows gives one.
fn gives_a_row_of_none(store: &Store, never: &str) -> Result<bool, Error> {
    let mut stmt = store.prepare(never)?;
    let mut rows = stmt.raw_query();
    Ok(rows.next()?.is_some())
}

/// Functions of groups that compare, as min and max do, must do so bit for bit: else which of the equal values is told depends on
/// the order in which they are met.
fn compares_binary(store: &Store, sql: &str) -> Result<(), Unscoped> {
    let other = find_step(store, sql, |opcode, key| {
        let binary = key.is_some_and(|key| key.to_ascii_uppercase().starts_with("BINARY"));
        (opcode == "CollSeq" && !binary).then_some(())
    })?;
    if other.is_some() { Err(Unscoped::Bare) } else { Ok(()) }
}

/// How the rowid of a table is written, if it has one.
pub(super) fn rowid_name(store: &Store, table: &str) -> Result<&'static str, Unscoped> {
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

/// How terms compare, as SQLite says of a sorter that it makes for them. `sorted` is a statement up to its ORDER BY.
pub(super) fn comparisons(
    store: &Store,
    sorted: &str,
    terms: &str,
    count: usize,
) -> Result<Vec<Comparison>, Unscoped> {
    let encoding: String = store.query_row("PRAGMA main.encoding", [], |row| row.get(0))?;
    if encoding != "UTF-8" {
        // Texts compare by their bytes, which are others.
        return Err(Unscoped::Order);
    }
    // No index is in an order that begins by chance, so there is a sorter, and it has all terms.
    let sql = format!("{sorted} ORDER BY random(), {terms}");
    let key = find_step(store, &sql, |opcode, key| (opcode == "SorterOpen").then(|| key.map(str::to_owned)))?;
    let mut comparisons = key.flatten().and_then(|key| Comparison::all_of(&key)).ok_or(Unscoped::Order)?;
    if comparisons.len() != count + 1 {
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
