//! Which tables replicate: upgrading, downgrading and altering them.

use std::rc::Rc;

use opor_core::PackedKey;
use rusqlite::Error;

use crate::catalog::{Shape, Table};
use crate::clocks::block_of;
use crate::colset::ColSet;
use crate::conflict;
use crate::engine::Engine;
use crate::meta;
use crate::notes::{BackfillRows, Note};
use crate::progress::{Halt, Reporter};
use crate::release;
use crate::sqlite::{Run, failure, quote};

/// Why a table cannot replicate. The state is as before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicateError {
    /// There is no such table in the main database; views and virtual tables cannot replicate.
    #[error("there is no table {table:?}")]
    NoSuchTable {
        /// The table.
        table: String,
    },
    /// No primary key, or one that may be NULL: rows would have no identity.
    #[error("table {table:?} needs a primary key whose columns are NOT NULL")]
    NoKey {
        /// The table.
        table: String,
    },
    /// `AUTOINCREMENT`: two replicas would give unrelated rows the same key.
    #[error("table {table:?} has an AUTOINCREMENT key, which two replicas would both hand out; use a UUID")]
    AutoIncrement {
        /// The table.
        table: String,
    },
    /// A unique index besides the primary key: two replicas could each insert a row that the other must refuse.
    #[error("table {table:?} has the unique index {index:?} besides its primary key")]
    UniqueIndex {
        /// The table.
        table: String,
        /// The index.
        index: String,
    },
    /// A name or a shape that clocks cannot express.
    #[error("table {table:?} cannot replicate: {reason}")]
    Unsupported {
        /// The table.
        table: String,
        /// Why not.
        reason: &'static str,
    },
    /// A refusal that only cr-sqlite's own functions make.
    #[error("{0}")]
    Refused(String),
    /// The watcher cancelled the upgrade.
    #[error("the upgrade of table {table:?} was cancelled")]
    Cancelled {
        /// The table.
        table: String,
    },
    /// SQLite failed.
    #[error("table {table:?} could not be prepared")]
    Sqlite {
        /// The table.
        table: String,
        /// What SQLite said.
        #[source]
        source: Error,
    },
}

/// How much a table must satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    /// What opor can handle.
    Opor,
    /// What cr-sqlite accepts, with its words for what it refuses.
    CrSqlite,
}

impl Engine {
    /// Makes a table replicate; its rows get clocks in one new version. `false` when it already did.
    pub(crate) fn replicate(&self, name: &str, strictness: Strictness) -> Result<bool, ReplicateError> {
        self.replicate_watched(name, strictness, &mut Reporter::silent())
    }

    pub(crate) fn replicate_watched(
        &self,
        name: &str,
        strictness: Strictness,
        reporter: &mut Reporter<'_>,
    ) -> Result<bool, ReplicateError> {
        let sqlite = |source| ReplicateError::Sqlite { table: name.to_owned(), source };
        let shape = Shape::read(self.db, name).map_err(sqlite)?;
        self.check_shape(name, shape.as_ref(), strictness)?;
        let shape = shape.expect("a missing table does not pass the check");
        self.in_savepoint("opor_replicate", || self.add_table(&shape, reporter)).map_err(|halt| match halt {
            Halt::Sqlite(source) => sqlite(source),
            Halt::Cancelled => ReplicateError::Cancelled { table: name.to_owned() },
        })
    }

    /// Whether a table of this name could replicate.
    pub(crate) fn check_table(&self, name: &str) -> Result<(), ReplicateError> {
        let sqlite = |source| ReplicateError::Sqlite { table: name.to_owned(), source };
        let shape = Shape::read(self.db, name).map_err(sqlite)?;
        self.check_shape(name, shape.as_ref(), Strictness::Opor)
    }

    fn check_shape(
        &self,
        name: &str,
        shape: Option<&Shape>,
        strictness: Strictness,
    ) -> Result<(), ReplicateError> {
        let table = name.to_owned();
        let shape = match shape {
            Some(shape) => shape,
            None if strictness == Strictness::Opor => return Err(ReplicateError::NoSuchTable { table }),
            None => return Err(no_key_in_their_words(name, false)),
        };
        if shape.key.is_empty() || shape.key_nullable {
            return Err(match strictness {
                Strictness::Opor if !(shape.rowid_is_key) => ReplicateError::NoKey { table },
                Strictness::Opor => return self.check_rest(shape, strictness),
                Strictness::CrSqlite => no_key_in_their_words(name, shape.key.len() > 1),
            });
        }
        self.check_rest(shape, strictness)
    }

    fn check_rest(&self, shape: &Shape, strictness: Strictness) -> Result<(), ReplicateError> {
        let table = shape.name.clone();
        let sqlite = |source| ReplicateError::Sqlite { table: shape.name.clone(), source };
        let unsupported = |reason| ReplicateError::Unsupported { table: shape.name.clone(), reason };
        if shape.name.starts_with("opor_")
            || shape.name.starts_with("crsql_")
            || shape.name.starts_with("sqlite_")
        {
            return Err(unsupported("its name is reserved"));
        }
        if shape.has_sentinel_name() {
            return Err(unsupported("a column is named -1, which sentinels travel as"));
        }
        if !shape.without_rowid && !shape.has_rowid_name() {
            return Err(unsupported("its columns hide every name of the rowid"));
        }
        if self.is_autoincrement(&shape.name).map_err(sqlite)? {
            return Err(match strictness {
                Strictness::Opor => ReplicateError::AutoIncrement { table },
                Strictness::CrSqlite => ReplicateError::Refused(format!(
                    "{table} has auto-increment primary keys. This is likely a mistake as two concurrent nodes will \
                     assign unrelated rows the same primary key. Either use a primary key that represents the \
                     identity of your row or use a database friendly UUID such as UUIDv7"
                )),
            });
        }
        if let Some(index) = self.unique_index(&shape.name).map_err(sqlite)? {
            return Err(match strictness {
                Strictness::Opor => ReplicateError::UniqueIndex { table, index },
                Strictness::CrSqlite => ReplicateError::Refused(format!(
                    "Table {table} has unique indices besidesthe primary key. This is not allowed for CRRs"
                )),
            });
        }
        if strictness == Strictness::CrSqlite {
            self.check_their_rules(shape, &sqlite)?;
        }
        Ok(())
    }

    fn check_their_rules(
        &self,
        shape: &Shape,
        sqlite: &dyn Fn(Error) -> ReplicateError,
    ) -> Result<(), ReplicateError> {
        let table = &shape.name;
        if self.has_foreign_key(table).map_err(sqlite)? {
            return Err(ReplicateError::Refused(format!(
                "Table {table} has checked foreign key constraints. CRRs may have foreign keys but must not have \
                 checked foreign key constraints as they can be violated by row level security or replication."
            )));
        }
        if shape.columns.iter().any(|column| column.not_null && !column.has_default) {
            return Err(ReplicateError::Refused(format!(
                "Table {table} has a NOT NULL column without a DEFAULT VALUE. This is not allowed as it prevents \
                 forwards and backwards compatibility between schema versions. Make the column nullable or assign a \
                 default value to it."
            )));
        }
        Ok(())
    }

    fn is_autoincrement(&self, table: &str) -> Result<bool, Error> {
        let mut stmt = self.db.prepare(
            "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ? AND sql LIKE '%autoincrement%' \
             AND EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')",
        )?;
        let mut row = stmt.start();
        row.bind_text(table)?;
        if !row.step()? {
            return Ok(false);
        }
        drop(row);
        // The word may stand in a comment or a default; SQLite's own parser knows. A scratch copy shows whether the
        // table asks for `sqlite_sequence`.
        let mut stmt =
            self.db.prepare("SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?")?;
        let mut row = stmt.start();
        row.bind_text(table)?;
        row.step()?;
        let sql = row.text(0)?.to_owned();
        let scratch = rusqlite::Connection::open_in_memory()?;
        scratch.execute_batch(&sql)?;
        scratch.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence')",
            [],
            |row| row.get(0),
        )
    }

    fn unique_index(&self, table: &str) -> Result<Option<String>, Error> {
        let mut stmt = self.db.prepare(
            "SELECT name FROM pragma_index_list(?, 'main') WHERE \"unique\" = 1 AND origin <> 'pk' LIMIT 1",
        )?;
        let mut row = stmt.start();
        row.bind_text(table)?;
        Ok(if row.step()? { Some(row.text(0)?.to_owned()) } else { None })
    }

    fn has_foreign_key(&self, table: &str) -> Result<bool, Error> {
        let mut stmt = self.db.prepare("SELECT 1 FROM pragma_foreign_key_list(?, 'main')")?;
        let mut row = stmt.start();
        row.bind_text(table)?;
        row.step()
    }

    /// Runs in a savepoint of its own, so that a failure leaves an open transaction of the user as it was.
    pub(crate) fn in_savepoint<T, E: From<Error>>(
        &self,
        name: &str,
        run: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.db.exec(&format!("SAVEPOINT {name}"))?;
        match run() {
            Ok(done) => {
                self.db.exec(&format!("RELEASE {name}"))?;
                Ok(done)
            }
            Err(error) => {
                self.db.exec(&format!("ROLLBACK TO {name}; RELEASE {name}"))?;
                self.forget_schema();
                Err(error)
            }
        }
    }

    fn add_table(&self, shape: &Shape, reporter: &mut Reporter<'_>) -> Result<bool, Halt> {
        // Takes the write lock before anything is read.
        self.uncaptured(|| self.db.exec("UPDATE opor_meta SET format = format"))?;
        self.enlist()?;
        self.load_catalog()?;
        if self.table(&shape.name).is_some() {
            return Ok(false);
        }
        // A table of this name that is gone is forgotten first.
        self.uncaptured(|| self.save_columns())?;
        self.replay()?;
        self.uncaptured(|| {
            meta::add_table(self.db, &shape.name)?;
            self.load_catalog()?;
            self.save_columns()
        })?;
        let table = self.table(&shape.name).ok_or_else(|| failure("the table went away"))?;
        self.backfill_watched(&table, reporter)?;
        self.release_now().map_err(release::plain)?;
        Ok(true)
    }

    /// Gives clocks to every row of a table.
    pub(crate) fn backfill_all(&self, table: &Table) -> Result<(), Error> {
        match self.backfill_watched(table, &mut Reporter::silent()) {
            Ok(()) => Ok(()),
            Err(Halt::Sqlite(error)) => Err(error),
            Err(Halt::Cancelled) => unreachable!("nobody watches"),
        }
    }

    pub(crate) fn all_rows(&self, table: &Table) -> Result<BackfillRows, Error> {
        let name = table.sql_name();
        if table.keyed {
            let list = table.key_list();
            return self.key_rows(table, &format!("SELECT {list} FROM {name} ORDER BY {list}"));
        }
        self.block_rows(&format!("SELECT {0} FROM {name} ORDER BY {0}", table.rowid_name))
    }

    fn key_rows(&self, table: &Table, sql: &str) -> Result<BackfillRows, Error> {
        let mut stmt = self.db.prepare(sql)?;
        let mut rows = stmt.start();
        let mut keys = Vec::new();
        while rows.step()? {
            keys.push(read_key(table, &rows, 0)?.into_boxed_slice());
        }
        Ok(BackfillRows::Keys(keys))
    }

    fn block_rows(&self, sql: &str) -> Result<BackfillRows, Error> {
        let mut stmt = self.db.prepare(sql)?;
        let mut rows = stmt.start();
        let mut blocks: Vec<(i64, u32)> = Vec::new();
        while rows.step()? {
            let (number, bit) = block_of(rows.integer(0));
            match blocks.last_mut() {
                Some((last, mask)) if *last == number => *mask |= 1 << bit,
                _ => blocks.push((number, 1 << bit)),
            }
        }
        Ok(BackfillRows::Blocks(blocks))
    }

    /// Gives clocks to the values of a column that has taken another's place; those at the default have none.
    pub(crate) fn backfill_column(&self, table: &Rc<Table>, bit: u32) -> Result<(), Error> {
        if bit == ColSet::SENTINEL {
            let note = Note::BackfillColumn { table: table.id, bit, rows: Rc::new(self.all_rows(table)?) };
            self.notes.borrow_mut().log.push(note);
            return Ok(());
        }
        let Some(column) = table.column_by_bit(bit) else { return Ok(()) };
        let (name, column_name) = (table.sql_name(), quote(&column.name));
        let mut stmt =
            self.db.prepare("SELECT dflt_value FROM pragma_table_xinfo(?, 'main') WHERE name = ?")?;
        let mut row = stmt.start();
        row.bind_text(&table.name)?;
        row.bind_text(&column.name)?;
        row.step()?;
        let default = row.text(0).map_or_else(|_| "NULL".to_owned(), |text| format!("({text})"));
        drop(row);
        let differs = format!("FROM {name} WHERE {column_name} IS NOT {default}");
        let rows = if table.keyed {
            self.key_rows(table, &format!("SELECT {} {differs}", table.key_list()))?
        } else {
            self.block_rows(&format!("SELECT {0} {differs} ORDER BY {0}", table.rowid_name))?
        };
        let note = Note::BackfillColumn { table: table.id, bit, rows: Rc::new(rows) };
        self.notes.borrow_mut().log.push(note);
        Ok(())
    }

    /// Stops a table from replicating and forgets its clocks; its rows stay. With the last table the count of
    /// versions starts over, under a new epoch.
    pub(crate) fn unreplicate(&self, name: &str) -> Result<bool, Error> {
        self.in_savepoint("opor_unreplicate", || -> Result<bool, Error> {
            self.uncaptured(|| self.db.exec("UPDATE opor_meta SET format = format"))?;
            self.enlist()?;
            self.load_catalog()?;
            self.replay()?;
            let Some(table) = self.table_in_any_case(name) else { return Ok(false) };
            self.uncaptured(|| self.forget(&table))?;
            Ok(true)
        })
    }

    fn forget(&self, table: &Table) -> Result<(), Error> {
        self.fold_now()?;
        self.clocks.borrow_mut().finalize();
        self.read_sql.take();
        meta::remove_table(self.db, table)?;
        meta::remove_tombs(self.db, table.id)?;
        if self.catalog.borrow().conflicts {
            conflict::forget_table(self.db, table.id)?;
        }
        self.load_catalog()?;
        let catalog = self.catalog.borrow().clone();
        // Changes in quarantine go on being told under their versions.
        if meta::is_unused(&catalog) && !catalog.quarantines {
            meta::restart_versions(self.db)?;
        }
        Ok(())
    }

    pub(crate) fn begin_alter(&self, name: &str) -> Result<(), Error> {
        self.db.exec("SAVEPOINT opor_alter")?;
        let begun = (|| {
            self.uncaptured(|| self.db.exec("UPDATE opor_meta SET format = format"))?;
            self.enlist()?;
            let table =
                self.table_in_any_case(name).ok_or_else(|| failure(format!("{name} is not a CRR")))?;
            self.uncaptured(|| meta::loosen_guard(self.db, table.id, &table.name))
        })();
        if begun.is_err() {
            self.db.exec("ROLLBACK TO opor_alter; RELEASE opor_alter")?;
        }
        begun
    }

    pub(crate) fn commit_alter(&self, name: &str) -> Result<(), Error> {
        let altered = (|| {
            self.load_catalog()?;
            let shape = Shape::read(self.db, name)?;
            self.check_shape(name, shape.as_ref(), Strictness::CrSqlite)
                .map_err(|_| failure("failed compacting tables post alteration"))?;
            self.uncaptured(|| {
                self.save_columns()?;
                match self.table_in_any_case(name) {
                    Some(table) => meta::add_guard(self.db, table.id, &table.name),
                    None => Err(failure(format!("{name} is not a CRR"))),
                }
            })?;
            self.replay()?;
            self.release_now().map(drop).map_err(release::plain)
        })();
        match altered {
            Ok(()) => self.db.exec("RELEASE opor_alter"),
            Err(error) => {
                self.db.exec("ROLLBACK TO opor_alter; RELEASE opor_alter")?;
                self.forget_schema();
                Err(error)
            }
        }
    }
}

/// Packs the key columns of a result row, from column `at` on.
pub(crate) fn read_key(table: &Table, row: &Run<'_>, at: i32) -> Result<Vec<u8>, Error> {
    let mut key = Vec::with_capacity(16);
    PackedKey::begin(table.key.len(), &mut key);
    for i in 0..table.key.len() as i32 {
        PackedKey::pack_column(row.key_value(at + i)?, &mut key);
    }
    Ok(key)
}

fn no_key_in_their_words(table: &str, composite: bool) -> ReplicateError {
    let what = if composite {
        "composite primary key part of which is nullable"
    } else {
        "no primary key or primary key is nullable"
    };
    ReplicateError::Refused(format!("Table {table} has {what}. CRRs must have a non nullable primary key"))
}
