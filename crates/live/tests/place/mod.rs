//! A database in a folder of its own, and what plain SQLite gives in it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use opor_core::{SiteId, Value};
use opor_store::rusqlite::types::{Value as SqlValue, ValueRef};
use opor_store::rusqlite::{ToSql, params_from_iter};
use opor_store::{OpenOptions, Store, StoreHandle};

/// A database that goes when it is dropped.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) handle: StoreHandle,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("opor-live-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let options = OpenOptions::new().site_id(SiteId::from([1; 16]));
        let handle = StoreHandle::open(folder.join("a.db"), &options, 1).expect("it opens");
        Self { folder, handle }
    }
}

/// The rows of a plain run.
pub(crate) fn fresh(store: &Store, sql: &str, parameters: &[Value]) -> Vec<Vec<Value>> {
    let mut stmt = store.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let width = stmt.column_count();
    let parameters = params_from_iter(parameters.iter().map(sql_value));
    let rows = stmt.query_map(parameters, |row| (0..width).map(|at| Ok(owned(row.get_ref(at)?))).collect());
    rows.expect("it runs").collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// A value as a parameter.
pub(crate) fn sql_value(value: &Value) -> impl ToSql + Send + use<> {
    match value.clone() {
        Value::Null => SqlValue::Null,
        Value::Integer(value) => SqlValue::Integer(value),
        Value::Real(value) => SqlValue::Real(value),
        Value::Text(value) => SqlValue::Text(value),
        Value::Blob(value) => SqlValue::Blob(value),
    }
}

fn owned(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(text) => Value::Text(String::from_utf8(text.to_vec()).expect("UTF-8")),
        ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
    }
}
