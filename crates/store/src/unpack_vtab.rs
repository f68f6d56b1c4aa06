//! `crsql_unpack_columns`: the columns of a packed key as rows.
#![expect(unsafe_code, reason = "rusqlite's virtual table traits are unsafe to implement")]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::marker::PhantomData;

use opor_core::{PackedKey, Value};
use rusqlite::types::Value as SqlValue;
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConnection, VTabCursor, sqlite3_vtab,
    sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error};

use crate::sqlite::failure;

/// Registers the table.
pub(crate) fn install(conn: &Connection) -> Result<(), Error> {
    const MODULE: Module<'_, Unpack> = Module::eponymous_only_module();
    conn.create_module(c"crsql_unpack_columns", &MODULE, None)
}

#[repr(C)]
struct Unpack {
    base: sqlite3_vtab,
}

// SAFETY: `base` comes first, as SQLite requires.
unsafe impl<'vtab> VTab<'vtab> for Unpack {
    type Aux = ();
    type Cursor = Cells<'vtab>;

    fn connect(
        _db: &mut VTabConnection,
        _aux: Option<&()>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _args: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self), Error> {
        let base = sqlite3_vtab::default();
        Ok((c"CREATE TABLE x(cell ANY, package BLOB HIDDEN)".into(), Self { base }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool, Error> {
        for (constraint, mut usage) in info.constraints_and_usages() {
            let package = constraint.column() == 1;
            if package
                && constraint.is_usable()
                && constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ
            {
                usage.set_argv_index(1);
                usage.set_omit(true);
            }
        }
        Ok(true)
    }

    fn open(&'vtab mut self) -> Result<Cells<'vtab>, Error> {
        Ok(Cells { base: sqlite3_vtab_cursor::default(), cells: Vec::new(), at: 0, phantom: PhantomData })
    }
}

#[repr(C)]
struct Cells<'vtab> {
    base: sqlite3_vtab_cursor,
    cells: Vec<Value>,
    at: usize,
    phantom: PhantomData<&'vtab Unpack>,
}

// SAFETY: `base` comes first, as SQLite requires.
unsafe impl VTabCursor for Cells<'_> {
    fn filter(&mut self, _number: c_int, _text: Option<&str>, args: &Filters<'_>) -> Result<(), Error> {
        if args.is_empty() {
            return Err(failure("a package to unpack is missing: WHERE package = ?"));
        }
        let package: Vec<u8> = args.get(0).map_err(|_| failure("a package is a blob"))?;
        let key = PackedKey::from_bytes(&package).map_err(|error| failure(error.to_string()))?;
        self.cells = key.unpack();
        self.at = 0;
        Ok(())
    }

    fn next(&mut self) -> Result<(), Error> {
        self.at += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.cells.len()
    }

    fn column(&self, context: &mut Context, _column: c_int) -> Result<(), Error> {
        context.set_result(&match &self.cells[self.at] {
            Value::Null => SqlValue::Null,
            Value::Integer(v) => SqlValue::Integer(*v),
            Value::Real(v) => SqlValue::Real(*v),
            Value::Text(v) => SqlValue::Text(v.clone()),
            Value::Blob(v) => SqlValue::Blob(v.clone()),
        })
    }

    fn rowid(&self) -> Result<i64, Error> {
        Ok(self.at as i64)
    }
}
