//! Columns that decide in which order SQLite meets rows, though the statement does not name them.
//!
//! Where a statement says no order, or leaves ties, its rows come as they lie in what it reads: in a table without rowids by the primary
//! key, in an index by its columns. Which rows a LIMIT takes depends on it, and so do what `group_concat` puts together and the values of
//! bare columns. An update of such a column is told, so that a result is what a run of the statement gives, in that order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use opor_store::rusqlite::Error;
use opor_store::{ColumnMask, Store};

/// An expression of an index, in `PRAGMA index_xinfo`.
const EXPRESSION: i64 = -2;

/// Adds the columns by which the rows of these tables are found. Values of parameters may make SQLite choose an index of their own,
/// when `by_value`; partial indexes it may always choose so.
pub(crate) fn extend(
    store: &Store,
    sql: &str,
    by_value: bool,
    tables: &mut BTreeMap<Arc<str>, ColumnMask>,
) -> Result<(), Error> {
    let roots = roots(store, sql)?;
    for (table, mask) in tables {
        let mut indexes = store.prepare_cached(
            "SELECT i.name, s.rootpage, i.partial FROM pragma_index_list(?, 'main') AS i
                LEFT JOIN main.sqlite_schema AS s ON s.name = i.name",
        )?;
        let indexes = indexes.query_map([table], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, bool>(2)?))
        })?;
        for index in indexes {
            // The primary key of a table without rowids has no page of its own: it is the table.
            let (name, root, partial) = index?;
            if by_value || partial || root.is_none_or(|root| roots.contains(&root)) {
                mask.extend(columns(store, &name)?);
            }
        }
    }
    Ok(())
}

/// The tables and indexes that a statement goes through, and does not only count.
fn roots(store: &Store, sql: &str) -> Result<BTreeSet<i64>, Error> {
    let mut program = store.prepare(&format!("EXPLAIN {sql}"))?;
    let mut steps = program.raw_query();
    let mut opened: Vec<(i64, i64)> = Vec::new();
    let (mut counted, mut moved) = (BTreeSet::new(), BTreeSet::new());
    while let Some(step) = steps.next()? {
        let (opcode, cursor): (String, i64) = (step.get("opcode")?, step.get("p1")?);
        match opcode.as_str() {
            "OpenRead" | "ReopenIdx" => opened.push((cursor, step.get("p2")?)),
            "Count" => _ = counted.insert(cursor),
            "Rewind" | "Last" => _ = moved.insert(cursor),
            seek if seek.starts_with("Seek") => _ = moved.insert(cursor),
            _ => {}
        }
    }
    let counted_only = |cursor: &i64| counted.contains(cursor) && !moved.contains(cursor);
    Ok(opened.into_iter().filter(|(cursor, _)| !counted_only(cursor)).map(|(_, root)| root).collect())
}

fn columns(store: &Store, index: &str) -> Result<ColumnMask, Error> {
    let mut stmt = store.prepare_cached("SELECT cid FROM pragma_index_xinfo(?, 'main')")?;
    let mut mask = ColumnMask::default();
    for place in stmt.query_map([index], |row| row.get::<_, i64>(0))? {
        match place? {
            EXPRESSION => mask = ColumnMask::ALL,
            // The rowid, whose changes are always told.
            place => usize::try_from(place).into_iter().for_each(|place| mask.insert(place)),
        }
    }
    Ok(mask)
}
