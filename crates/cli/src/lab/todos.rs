//! The todo list of the lab: its table, and what can be done to it.

use opor_store::Store;
use rusqlite::{OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// The one table.
pub(crate) const SCHEMA: &str =
    "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0)";
/// Its name.
pub(crate) const TABLE: &str = "todos";

/// A row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Todo {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) done: bool,
}

/// A row to add; without an id, a random one is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewTodo {
    pub(crate) id: Option<String>,
    pub(crate) title: String,
}

/// What to change in a row.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) done: Option<bool>,
}

/// All rows, by id.
pub(crate) fn all(store: &Store) -> rusqlite::Result<Vec<Todo>> {
    store.prepare("SELECT id, title, done FROM todos ORDER BY id")?.query_map([], read)?.collect()
}

/// Adds a row; `None` when the id is taken.
pub(crate) fn add(store: &Store, new: &NewTodo) -> rusqlite::Result<Option<Todo>> {
    store
        .query_row(
            "INSERT INTO todos (id, title) VALUES (coalesce(?1, lower(hex(randomblob(8)))), ?2) \
             ON CONFLICT (id) DO NOTHING RETURNING id, title, done",
            params![new.id, new.title],
            read,
        )
        .optional()
}

/// Changes the columns named; `None` when there is no such row.
pub(crate) fn edit(store: &Store, edit: &Edit) -> rusqlite::Result<Option<Todo>> {
    // A column set to what it holds is no change, so only what differs travels.
    let sql = "UPDATE todos SET title = coalesce(?2, title), done = coalesce(?3, done) WHERE id = ?1 \
               RETURNING id, title, done";
    store.query_row(sql, params![edit.id, edit.title, edit.done], read).optional()
}

/// Deletes a row; `None` when there is no such row.
pub(crate) fn delete(store: &Store, id: &str) -> rusqlite::Result<Option<Todo>> {
    store.query_row("DELETE FROM todos WHERE id = ?1 RETURNING id, title, done", [id], read).optional()
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Todo> {
    Ok(Todo { id: row.get(0)?, title: row.get(1)?, done: row.get(2)? })
}
