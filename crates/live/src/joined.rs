//! Reads that SQLite's authorizer does not tell of: columns that a join compares because of USING or NATURAL. A table of which
//! a statement reads nothing else is not named at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use opor_store::rusqlite::{Error, OptionalExtension};
use opor_store::{ColumnMask, Store};
use sqlite3_parser::dialect::TokenType;

use crate::access::Access;
use crate::volatile;

/// Adds the tables that the program of a statement opens and that are not among `tables`. Where rows are joined by columns that
/// have the same name, any column may be one of these. Tells whether a virtual table may be read without a word.
pub(crate) fn extend(
    store: &Store,
    sql: &str,
    access: &Access,
    tables: &mut BTreeMap<Arc<str>, ColumnMask>,
) -> Result<bool, Error> {
    let texts = volatile::texts(store, sql, access)?;
    let by_name = texts.iter().any(|text| joins_by_name(text));
    let mut opens_virtual = false;
    let mut program = store.prepare(&format!("EXPLAIN {sql}"))?;
    let mut steps = program.raw_query();
    while let Some(step) = steps.next()? {
        match step.get::<_, String>("opcode")?.as_str() {
            "OpenRead" | "ReopenIdx" => {
                let mut table = store.prepare_cached(
                    "SELECT tbl_name FROM main.sqlite_schema WHERE rootpage = ? AND ?2 = 0",
                )?;
                let found = table.query_row((step.get::<_, i64>("p2")?, step.get::<_, i64>("p3")?), |row| {
                    row.get::<_, String>(0)
                });
                if let Some(table) = found.optional()? {
                    tables.entry(table.into()).or_insert(ColumnMask::ALL);
                }
            }
            "VOpen" => opens_virtual = true,
            _ => {}
        }
    }
    if by_name {
        tables.values_mut().for_each(|mask| *mask = ColumnMask::ALL);
    }
    Ok(by_name && opens_virtual)
}

/// Whether there is a USING or a NATURAL; what cannot be read as SQL may have one.
fn joins_by_name(sql: &str) -> bool {
    volatile::tokens(sql).is_none_or(|tokens| {
        tokens.iter().any(|(kind, word)| *kind == TokenType::TK_USING || word.eq_ignore_ascii_case("natural"))
    })
}
