//! The tables of a room: taken apart in a scratch database before anything reaches the room.

use opor_store::{OpenOptions, Store, StoreError};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OptionalExtension};

use crate::SchemaError;

/// The tables and indexes of a room, and which of the tables replicate. Checked: it has run once, in memory.
#[derive(Clone, Debug)]
pub struct RoomSchema {
    /// As SQLite itself recorded them, in order of creation.
    objects: Vec<Object>,
    tables: Vec<String>,
}

#[derive(Clone, Debug)]
struct Object {
    name: String,
    sql: String,
}

impl RoomSchema {
    /// The most statements, and the most replicated tables. The largest application schemas have a few hundred.
    pub const ENTRIES_MAX: usize = 1000;

    /// A schema from CREATE TABLE and CREATE INDEX statements and the tables that replicate.
    ///
    /// The statements are run in a database in memory that allows nothing else, and what SQLite recorded there is
    /// what a room gets: no other text from outside is ever run against a room.
    ///
    /// # Errors
    /// [`SchemaError`]: a statement does something else or fails, or a table cannot replicate.
    pub fn parse<S: AsRef<str>, T: Into<String>>(
        statements: impl IntoIterator<Item = S>,
        tables: impl IntoIterator<Item = T>,
    ) -> Result<Self, SchemaError> {
        let schema = Self { tables: bounded(tables.into_iter().map(Into::into))?, ..Self::read(statements)? };
        for table in &schema.tables {
            if !schema.objects.iter().any(|object| object.name.eq_ignore_ascii_case(table)) {
                return Err(SchemaError::Missing { table: table.clone() });
            }
        }
        schema.rehearse()?;
        Ok(schema)
    }

    /// As [`parse`](Self::parse), with every table replicated.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_all<S: AsRef<str>>(statements: impl IntoIterator<Item = S>) -> Result<Self, SchemaError> {
        let schema = Self::read(statements)?;
        schema.rehearse()?;
        Ok(schema)
    }

    /// The schema of the tables that replicate in a database: what to put to a hub, or to answer to a replica that has no
    /// tables yet. Triggers and views are not among it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn of(store: &Store) -> Result<Self, StoreError> {
        let tables = store.replicated_tables()?;
        let mut select = store.prepare(
            "SELECT name, sql, tbl_name FROM sqlite_schema WHERE type IN ('table', 'index') AND sql IS NOT NULL \
             ORDER BY rowid",
        )?;
        let rows = select.query_map([], |row| {
            Ok((Object { name: row.get(0)?, sql: row.get(1)? }, row.get::<_, String>(2)?))
        })?;
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let is_ours =
            |(object, table): &(Object, String)| tables.contains(table) && !is_reserved(&object.name);
        let objects = rows.into_iter().filter(is_ours).map(|(object, _)| object);
        Ok(Self { objects: objects.collect(), tables })
    }

    /// The statements, in order.
    pub fn statements(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().map(|object| &*object.sql)
    }

    /// The tables that replicate.
    #[must_use]
    pub fn tables(&self) -> &[String] {
        &self.tables
    }

    /// Creates what is missing and replicates the tables. What exists already must be the same to the letter.
    ///
    /// Once a table was created and could not be replicated, repeating the call continues where it stopped.
    ///
    /// # Errors
    /// [`SchemaError`]; `Differs` before anything is created.
    pub fn create_in(&self, store: &mut Store) -> Result<(), SchemaError> {
        let missing = self.missing_in(store)?;
        let tx = store.transaction().map_err(SchemaError::Sqlite)?;
        missing.iter().try_for_each(|object| tx.execute_batch(&object.sql)).map_err(SchemaError::Sqlite)?;
        tx.commit().map_err(SchemaError::Sqlite)?;
        self.replicate_in(store)
    }

    fn read<S: AsRef<str>>(statements: impl IntoIterator<Item = S>) -> Result<Self, SchemaError> {
        let scratch = Connection::open_in_memory().map_err(SchemaError::Sqlite)?;
        scratch.authorizer(Some(allow_only_create)).map_err(SchemaError::Sqlite)?;
        for (index, statement) in bounded(statements.into_iter())?.iter().enumerate() {
            scratch
                .execute_batch(statement.as_ref())
                .map_err(|source| SchemaError::Statement { index, source })?;
        }
        scratch.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(SchemaError::Sqlite)?;
        recorded(&scratch)
    }

    /// Runs everything in memory, so that a table that cannot replicate is found before the room is touched.
    fn rehearse(&self) -> Result<(), SchemaError> {
        let in_memory = OpenOptions::new().open_in_memory();
        let mut scratch = in_memory
            .map_err(|error| SchemaError::Sqlite(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
        self.create_in(&mut scratch)
    }

    fn missing_in(&self, store: &Store) -> Result<Vec<&Object>, SchemaError> {
        let mut find = store
            .prepare("SELECT sql FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE")
            .map_err(SchemaError::Sqlite)?;
        let mut missing = Vec::new();
        for object in &self.objects {
            let existing: Option<String> =
                find.query_row([&object.name], |row| row.get(0)).optional().map_err(SchemaError::Sqlite)?;
            match existing {
                None => missing.push(object),
                Some(sql) if sql == object.sql => {}
                Some(_) => return Err(SchemaError::Differs { name: object.name.clone() }),
            }
        }
        Ok(missing)
    }

    fn replicate_in(&self, store: &mut Store) -> Result<(), SchemaError> {
        for table in &self.tables {
            store
                .replicate(table)
                .map_err(|source| SchemaError::Replicate { table: table.clone(), source })?;
        }
        Ok(())
    }
}

/// Takes what SQLite recorded of a scratch database, every table to be replicated.
fn recorded(scratch: &Connection) -> Result<RoomSchema, SchemaError> {
    let mut select = scratch
        .prepare("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")
        .map_err(SchemaError::Sqlite)?;
    let rows = select
        .query_map([], |row| Ok((row.get::<_, String>(0)?, Object { name: row.get(1)?, sql: row.get(2)? })))
        .map_err(SchemaError::Sqlite)?;
    let mut schema = RoomSchema { objects: Vec::new(), tables: Vec::new() };
    for row in rows {
        let (kind, object) = row.map_err(SchemaError::Sqlite)?;
        if object.name.eq_ignore_ascii_case("sqlite_sequence") {
            continue;
        }
        if is_reserved(&object.name) {
            return Err(SchemaError::Reserved { table: object.name });
        }
        if kind == "table" {
            schema.tables.push(object.name.clone());
        }
        schema.objects.push(object);
    }
    Ok(schema)
}

/// Names under which the store, or cr-sqlite, keep tables of their own.
fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["crsql_", "opor_", "__crsql"].iter().any(|prefix| name.starts_with(prefix)) || name.contains("__crsql_")
}

fn bounded<T>(entries: impl Iterator<Item = T>) -> Result<Vec<T>, SchemaError> {
    let entries: Vec<T> = entries.collect();
    if entries.len() > RoomSchema::ENTRIES_MAX {
        return Err(SchemaError::TooMany { count: entries.len(), max: RoomSchema::ENTRIES_MAX });
    }
    Ok(entries)
}

/// `CREATE TABLE` and `CREATE INDEX` in the main database, and what SQLite does on their behalf. A `SELECT` is not
/// among it, so `CREATE TABLE .. AS SELECT` is refused too.
fn allow_only_create(context: AuthContext<'_>) -> Authorization {
    use AuthAction as A;
    let is_schema = |table: &str| matches!(table, "sqlite_master" | "sqlite_schema");
    let allowed = match context.action {
        A::CreateTable { .. } | A::CreateIndex { .. } | A::Reindex { .. } => {
            context.database_name == Some("main")
        }
        A::Insert { table_name } | A::Update { table_name, .. } => is_schema(table_name),
        A::Read { .. } | A::Function { .. } => true,
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(statement: &str) {
        let error = RoomSchema::read(["CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT)", statement])
            .expect_err("only tables and indexes can be created");
        assert!(
            matches!(error, SchemaError::Statement { index: 1, .. } | SchemaError::Reserved { .. }),
            "{statement}: {error:?}",
        );
    }

    #[test]
    fn nothing_but_tables_and_indexes_can_be_created() {
        refused("DROP TABLE t");
        refused("DELETE FROM t");
        refused("INSERT INTO t VALUES (1, 'a')");
        refused("CREATE TABLE u (a); DROP TABLE t");
        refused("CREATE TABLE u AS SELECT 1 AS a");
        refused("CREATE TEMP TABLE u (a)");
        refused("CREATE VIEW v AS SELECT * FROM t");
        refused("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END");
        refused("CREATE VIRTUAL TABLE v USING fts5(a)");
        refused("ATTACH '/tmp/other.sqlite' AS other");
        refused("PRAGMA writable_schema = 1");
        refused("VACUUM INTO '/tmp/copy.sqlite'");
        refused("ALTER TABLE t ADD COLUMN b");
        refused("BEGIN");
        refused("CREATE TABLE crsql_site_id (a)");
        refused("not SQL");
    }

    #[test]
    fn what_sqlite_recorded_is_what_counts() {
        let schema = RoomSchema::read([
            "create table if not exists T (id INTEGER PRIMARY KEY NOT NULL, a TEXT CHECK (length(a) < 9)); \
             CREATE INDEX t_a ON T (lower(a)) WHERE a IS NOT NULL -- done",
        ])
        .expect("a table and an index");
        let names: Vec<_> = schema.objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["T", "t_a"]);
        assert!(schema.objects[0].sql.starts_with("CREATE TABLE T (id"), "{}", schema.objects[0].sql);
        assert_eq!(schema.tables, ["T"]);
    }
}
