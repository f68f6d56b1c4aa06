//! `opor_conflicts`: the rules of replicated tables that stand broken, as a table.
#![expect(unsafe_code, reason = "rusqlite's virtual table traits are unsafe to implement")]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;

use opor_core::Value;
use rusqlite::types::Value as SqlValue;
use rusqlite::vtab::{
    Context, Filters, IndexInfo, Module, VTab, VTabConnection, VTabCursor, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error};

use crate::conflict::Conflict;
use crate::engine::Engine;
use crate::functions::EngineRef;

/// Registers the table.
///
/// The engine must outlive the connection.
pub(crate) fn install(conn: &Connection, engine: *const Engine) -> Result<(), Error> {
    const MODULE: Module<'_, Conflicts> = Module::eponymous_only_module();
    conn.create_module(c"opor_conflicts", &MODULE, Some(EngineRef(engine)))
}

#[repr(C)]
struct Conflicts {
    base: sqlite3_vtab,
    engine: EngineRef,
}

// SAFETY: `base` comes first, as SQLite requires.
unsafe impl<'vtab> VTab<'vtab> for Conflicts {
    type Aux = EngineRef;
    type Cursor = Rows<'vtab>;

    fn connect(
        _db: &mut VTabConnection,
        engine: Option<&EngineRef>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _args: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self), Error> {
        let engine = *engine.expect("the module is registered with an engine");
        let base = sqlite3_vtab::default();
        Ok((
            c"CREATE TABLE x(\"table\" TEXT, pk BLOB, kind TEXT, cid TEXT, val ANY, detail TEXT)".into(),
            Self { base, engine },
        ))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool, Error> {
        // Every row may have to be looked at.
        info.set_estimated_cost(1e6);
        Ok(true)
    }

    fn open(&'vtab mut self) -> Result<Rows<'vtab>, Error> {
        let base = sqlite3_vtab_cursor::default();
        Ok(Rows { base, engine: self.engine, rows: Vec::new(), at: 0, phantom: PhantomData })
    }
}

#[repr(C)]
struct Rows<'vtab> {
    base: sqlite3_vtab_cursor,
    engine: EngineRef,
    rows: Vec<Conflict>,
    at: usize,
    phantom: PhantomData<&'vtab Conflicts>,
}

// SAFETY: `base` comes first, as SQLite requires.
unsafe impl VTabCursor for Rows<'_> {
    fn filter(&mut self, _number: c_int, _text: Option<&str>, _args: &Filters<'_>) -> Result<(), Error> {
        self.rows = self.engine.get().conflicts()?;
        self.at = 0;
        Ok(())
    }

    fn next(&mut self) -> Result<(), Error> {
        self.at += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.rows.len()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<(), Error> {
        let row = &self.rows[self.at];
        context.set_result(&match column {
            0 => SqlValue::Text(row.table.to_string()),
            1 => row.key.as_ref().map_or(SqlValue::Null, |key| SqlValue::Blob(key.as_bytes().to_vec())),
            2 => SqlValue::Text(row.kind.name().to_owned()),
            3 => row.column.as_ref().map_or(SqlValue::Null, |name| SqlValue::Text(name.to_string())),
            4 => match &row.value {
                None | Some(Value::Null) => SqlValue::Null,
                Some(Value::Integer(v)) => SqlValue::Integer(*v),
                Some(Value::Real(v)) => SqlValue::Real(*v),
                Some(Value::Text(v)) => SqlValue::Text(v.clone()),
                Some(Value::Blob(v)) => SqlValue::Blob(v.clone()),
            },
            _ => row.detail.as_ref().map_or(SqlValue::Null, |detail| SqlValue::Text(detail.clone())),
        })
    }

    fn rowid(&self) -> Result<i64, Error> {
        Ok(self.at as i64)
    }
}
