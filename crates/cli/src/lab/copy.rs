//! A copy of a real database for the lab, and what of it can take part. The original is only read.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rusqlite::{Connection, params};
use serde::Serialize;

use super::shape::Shape;
use super::stage::{Schema, file_of};
use crate::database::{self, Kind, quoted};
use crate::init;

/// What takes part, and what does not.
#[derive(Debug)]
pub(crate) struct Coverage {
    /// The tables that replicate.
    pub(crate) shapes: Vec<Shape>,
    pub(crate) tables_total: usize,
    pub(crate) left_out: Vec<LeftOut>,
    /// The statements of all ordinary tables and their indexes, each with its table.
    statements: Vec<(String, String)>,
}

/// Something in the database that does not take part.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) name: String,
    /// `table`, `view`, `trigger` or `virtual table`.
    pub(crate) what: &'static str,
    pub(crate) reason: String,
}

impl Coverage {
    /// The hub gets the tables that replicate; bob gets all, so that foreign keys find theirs.
    pub(crate) fn schema(&self) -> Schema {
        let tables: Vec<String> = self.shapes.iter().map(|shape| shape.table.clone()).collect();
        let replicating = self.statements.iter().filter(|(table, _)| tables.contains(table));
        Schema {
            hub: replicating.map(|(_, sql)| sql.clone()).collect(),
            peer: self.statements.iter().map(|(_, sql)| sql.clone()).collect(),
            tables,
            todos: false,
        }
    }
}

/// The copy that is never edited.
pub(crate) fn original_in(dir: &Path) -> PathBuf {
    file_of(dir, "original")
}

/// Copies a database for alice, and once more to compare with.
pub(crate) fn prepare(file: &Path, dir: &Path) -> anyhow::Result<Coverage> {
    match database::kind(file)? {
        Kind::New => bail!("{} does not exist or is empty", file.display()),
        Kind::Plain => {}
        Kind::Replicated => {
            bail!(
                "{} has replicated tables; the lab wants a plain database, its own copy of which it \
                   replicates",
                file.display()
            )
        }
    }
    let (original, alice) = (original_in(dir), file_of(dir, "alice"));
    for target in [&original, &alice] {
        copy(file, target).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    let db = Connection::open(&alice)?;
    let mut left_out = drop_triggers(&db)?;
    left_out.extend(other_objects(&db)?);
    cover(&db, &alice, left_out)
}

/// Takes a consistent copy, also of a database in use.
fn copy(file: &Path, target: &Path) -> anyhow::Result<()> {
    let target = target.to_str().context("the name of the directory is not UTF-8")?;
    database::read_only(file)?.execute("VACUUM INTO ?1", [target])?;
    Ok(())
}

/// Triggers would write on their own account on every replica; the lab shows what merging does without them.
fn drop_triggers(db: &Connection) -> anyhow::Result<Vec<LeftOut>> {
    let triggers = names(db, "SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY name")?;
    let reason = "dropped in the copies, so that only the edits of the lab count";
    for name in &triggers {
        db.execute_batch(&format!("DROP TRIGGER {}", quoted(name)))?;
    }
    Ok(triggers.into_iter().map(|name| LeftOut { name, what: "trigger", reason: reason.into() }).collect())
}

fn other_objects(db: &Connection) -> anyhow::Result<Vec<LeftOut>> {
    let of_type = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = ?1 \
                   AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut left_out = Vec::new();
    for (kind, what, reason) in [
        ("view", "view", "it holds no rows of its own"),
        ("virtual", "virtual table", "a module keeps its rows"),
    ] {
        let mut select = db.prepare(of_type)?;
        let found = select.query_map(params![kind], |row| row.get::<_, String>(0))?;
        for name in found {
            left_out.push(LeftOut { name: name?, what, reason: reason.into() });
        }
    }
    Ok(left_out)
}

/// Finds the tables that replicate by making them: first with the schema alone, then with their rows.
fn cover(db: &Connection, alice: &Path, mut left_out: Vec<LeftOut>) -> anyhow::Result<Coverage> {
    let candidates = init::candidates(alice)?;
    let tables_total = candidates.len();
    let mut statements = Vec::new();
    let mut shapes = Vec::new();
    for candidate in &candidates {
        statements.extend(
            database::statements(db, &candidate.table)?.into_iter().map(|sql| (candidate.table.clone(), sql)),
        );
    }
    let shapes_of = |table: &str| Shape::of(db, table);
    let mut store = database::open(alice)?;
    for candidate in candidates {
        let table = candidate.table;
        let reason = match candidate.reason {
            Some(reason) => Some(reason),
            None => store.replicate(&table).err().map(|error| format!("{:#}", anyhow::Error::from(error))),
        };
        match reason {
            Some(reason) => left_out.push(LeftOut { name: table, what: "table", reason }),
            None => shapes.push(shapes_of(&table)?),
        }
    }
    Ok(Coverage { shapes, tables_total, left_out, statements })
}

fn names(db: &Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    db.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}
