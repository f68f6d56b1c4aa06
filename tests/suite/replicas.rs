//! Replicas for tests: stores with known site ids, files that vanish, and the questions every test asks of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use opor_core::{DbVersion, SiteId, Value};
use opor_store::{ClockPolicy, OpenOptions, Store};
use opor_tests::{ChangeRow, changes_since, rows_of, run, table_dump};

/// A folder of its own for one test, removed at the end.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    #[track_caller]
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("opor-tests-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a folder in the temporary directory");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing depends on it, and a test that fails already says more than this could.
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn site(byte: u8) -> SiteId {
    SiteId::from([byte; 16])
}

pub(crate) fn options(byte: u8) -> OpenOptions {
    OpenOptions::new().clock(ClockPolicy::Lamport).site_id(site(byte))
}

/// A store in memory with Lamport clocks and the given tables replicated.
#[track_caller]
pub(crate) fn memory(byte: u8, schema: &str, tables: &[&str]) -> Store {
    replicated(options(byte).open_in_memory().expect("a store in memory"), schema, tables)
}

/// The same in a file.
#[track_caller]
pub(crate) fn file(path: &Path, byte: u8, schema: &str, tables: &[&str]) -> Store {
    replicated(reopen(path, byte), schema, tables)
}

/// An existing file, patient with other writers.
#[track_caller]
pub(crate) fn reopen(path: &Path, byte: u8) -> Store {
    let store = options(byte).open(path).expect("the file opens");
    run(&store, "PRAGMA busy_timeout = 30000").expect("a busy timeout");
    store
}

#[track_caller]
fn replicated(mut store: Store, schema: &str, tables: &[&str]) -> Store {
    run(&store, schema).expect("the schema");
    for table in tables {
        store.replicate(table).expect("a table that can replicate");
    }
    store
}

/// Runs statements that must succeed.
#[track_caller]
pub(crate) fn exec(store: &Store, sql: &str) -> Vec<Vec<Value>> {
    run(store, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// The rows of a table.
#[track_caller]
pub(crate) fn table(store: &Store, name: &str) -> Vec<Vec<Value>> {
    table_dump(store, name).expect("the table reads")
}

/// The rows of a query as one line of text each, columns divided by `|`.
#[track_caller]
pub(crate) fn lines(store: &Store, sql: &str) -> Vec<String> {
    let rows = rows_of(store, sql, []).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.iter().map(|row| row.iter().map(show).collect::<Vec<_>>().join("|")).collect()
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(v) => v.to_string(),
        Value::Real(v) => format!("{v:?}"),
        Value::Text(v) => v.clone(),
        Value::Blob(v) => format!("x'{}'", opor_tests::hex(v)),
    }
}

/// The whole change log, in the order golden recordings are listed in.
#[track_caller]
pub(crate) fn log(store: &Store) -> Vec<ChangeRow> {
    let mut rows = changes_since(store, "TRUE").expect("the change log reads");
    rows.sort_by_cached_key(ChangeRow::log_order);
    rows
}

/// The change log, short: `table key cid=value v<col_version> @<db_version> cl<cl>`.
#[track_caller]
pub(crate) fn log_lines(store: &Store) -> Vec<String> {
    log(store).iter().map(line).collect()
}

fn line(row: &ChangeRow) -> String {
    let key = opor_core::PackedKey::from_bytes(&row.pk).expect("a well-formed key");
    let (table, cid, val) = (&row.table, &row.cid, show(&row.val));
    format!("{table} {key} {cid}={val} v{} @{} cl{}", row.col_version, row.db_version, row.cl)
}

/// Pulls everything `source` has into `target`, through the typed API.
#[track_caller]
pub(crate) fn pull(target: &mut Store, source: &Store) -> opor_store::ApplyReport {
    let changes = source.changes_since(DbVersion(0)).expect("the changes of the source");
    target.apply(&changes).expect("honest changes apply")
}

/// Everything a test may compare before and after something that must leave no trace.
#[track_caller]
pub(crate) fn full_dump(store: &Store) -> String {
    let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
                 AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name";
    let mut dump = format!("version {:?}\n", store.db_version().expect("a version"));
    for row in rows_of(store, names, []).expect("the schema reads") {
        let [Value::Text(name)] = &row[..] else { panic!("a table has a name: {row:?}") };
        let rows = table_dump(store, name).expect("the table reads");
        dump += &format!("{name}\n");
        rows.iter().for_each(|row| dump += &format!("  {row:?}\n"));
    }
    log(store).iter().for_each(|row| dump += &format!("  {row:?}\n"));
    dump
}
