//! The few calls into SQLite that hooks and hot loops need and rusqlite does not offer there: a borrowed handle and
//! statements that are held for the life of a connection.
#![expect(unsafe_code, reason = "the C interface of SQLite")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use opor_core::{PackedColumn, ValueRef};
use rusqlite::{Error, ffi};

/// A database connection, borrowed: the store owns it and finalises every [`Stmt`] before it closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Db(pub(crate) *mut ffi::sqlite3);

impl Db {
    pub(crate) fn prepare(self, sql: &str) -> Result<Stmt, Error> {
        let mut raw = ptr::null_mut();
        let len = c_int::try_from(sql.len()).expect("the store's own SQL is short");
        // SAFETY: the handle is open, `sql` lives through the call and its length is given.
        let code = unsafe {
            ffi::sqlite3_prepare_v3(
                self.0,
                sql.as_ptr().cast::<c_char>(),
                len,
                ffi::SQLITE_PREPARE_PERSISTENT,
                &raw mut raw,
                ptr::null_mut(),
            )
        };
        self.check(code)?;
        // SAFETY: the statement has just been prepared.
        let parameters = unsafe { ffi::sqlite3_bind_parameter_count(raw) };
        Ok(Stmt { raw, db: self, parameters })
    }

    /// Runs statements without parameters or results.
    pub(crate) fn exec(self, sql: &str) -> Result<(), Error> {
        let sql = CString::new(sql).map_err(|_| misuse("SQL text with a NUL byte"))?;
        // SAFETY: the handle is open and `sql` is NUL-terminated.
        let code = unsafe { ffi::sqlite3_exec(self.0, sql.as_ptr(), None, ptr::null_mut(), ptr::null_mut()) };
        self.check(code)
    }

    /// The first column of the first row, as an integer.
    pub(crate) fn integer(self, sql: &str) -> Result<Option<i64>, Error> {
        let mut stmt = self.prepare(sql)?;
        let mut rows = stmt.start();
        Ok(rows.step()?.then(|| rows.integer(0)))
    }

    fn check(self, code: c_int) -> Result<(), Error> {
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(self.error(code)) }
    }

    /// The error of a result code, with SQLite's message.
    pub(crate) fn error(self, code: c_int) -> Error {
        // SAFETY: the handle is open; the message is copied before anything else is called.
        let (extended, message) = unsafe {
            let message = ffi::sqlite3_errmsg(self.0);
            let text = (!message.is_null()).then(|| CStr::from_ptr(message).to_string_lossy().into_owned());
            (ffi::sqlite3_extended_errcode(self.0), text)
        };
        let code = if extended & 0xff == code & 0xff { extended } else { code };
        Error::SqliteFailure(ffi::Error::new(code), message)
    }

    pub(crate) fn last_insert_rowid(self) -> i64 {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_last_insert_rowid(self.0) }
    }

    pub(crate) fn set_last_insert_rowid(self, rowid: i64) {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_set_last_insert_rowid(self.0, rowid) }
    }

    /// Rows changed by the last statement.
    pub(crate) fn changes(self) -> i64 {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_changes64(self.0) }
    }

    /// Rows changed since the connection was opened; moves when a statement ends.
    pub(crate) fn total_changes(self) -> i64 {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_total_changes64(self.0) }
    }

    pub(crate) fn is_autocommit(self) -> bool {
        // SAFETY: the handle is open.
        unsafe { ffi::sqlite3_get_autocommit(self.0) != 0 }
    }

    /// Whether a transaction is open on the main database, be it that of a statement in the middle of its rows.
    pub(crate) fn is_reading(self) -> bool {
        // SAFETY: the handle is open, and the name is a C string.
        unsafe { ffi::sqlite3_txn_state(self.0, c"main".as_ptr()) != ffi::SQLITE_TXN_NONE }
    }

    /// Turns foreign key enforcement on or off and tells what it was; effective within a transaction too.
    pub(crate) fn set_foreign_keys(self, on: bool) -> bool {
        let was = self.config_flag(ffi::SQLITE_DBCONFIG_ENABLE_FKEY, -1);
        if was != on {
            self.config_flag(ffi::SQLITE_DBCONFIG_ENABLE_FKEY, c_int::from(on));
        }
        was
    }

    /// Turns triggers on or off and tells what it was.
    pub(crate) fn set_triggers(self, on: bool) -> bool {
        let was = self.config_flag(ffi::SQLITE_DBCONFIG_ENABLE_TRIGGER, -1);
        if was != on {
            self.config_flag(ffi::SQLITE_DBCONFIG_ENABLE_TRIGGER, c_int::from(on));
        }
        was
    }

    fn config_flag(self, option: i32, value: c_int) -> bool {
        let mut state: c_int = 0;
        // SAFETY: these options take an int and a pointer to an int.
        unsafe { ffi::sqlite3_db_config(self.0, option, value, &raw mut state) };
        state != 0
    }
}

pub(crate) fn misuse(message: &str) -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_MISUSE), Some(message.to_owned()))
}

/// A plain "SQL logic error" with a message.
pub(crate) fn failure(message: impl Into<String>) -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), Some(message.into()))
}

/// A prepared statement, finalised on drop.
#[derive(Debug)]
pub(crate) struct Stmt {
    raw: *mut ffi::sqlite3_stmt,
    db: Db,
    parameters: c_int,
}

impl Drop for Stmt {
    fn drop(&mut self) {
        // SAFETY: prepared by `Db::prepare` and finalised only here.
        unsafe { ffi::sqlite3_finalize(self.raw) };
    }
}

impl Stmt {
    /// Begins a run: bind, step, read. Dropping the run resets the statement.
    pub(crate) fn start(&mut self) -> Run<'_> {
        Run { stmt: self, bound: 0 }
    }

    /// Runs to the end with integer parameters.
    pub(crate) fn run(&mut self, params: &[i64]) -> Result<(), Error> {
        let mut run = self.start();
        params.iter().try_for_each(|param| run.bind_integer(*param))?;
        while run.step()? {}
        Ok(())
    }
}

/// One execution of a [`Stmt`].
#[derive(Debug)]
pub(crate) struct Run<'s> {
    stmt: &'s mut Stmt,
    bound: c_int,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        // SAFETY: the statement is alive. Its parameters may point to memory of the caller, which nothing reads any
        // more: every run binds all of them before its first step.
        unsafe { ffi::sqlite3_reset(self.stmt.raw) };
    }
}

impl<'s> Run<'s> {
    fn next_parameter(&mut self) -> c_int {
        self.bound += 1;
        self.bound
    }

    pub(crate) fn bind_integer(&mut self, value: i64) -> Result<(), Error> {
        let at = self.next_parameter();
        // SAFETY: the statement is alive.
        let code = unsafe { ffi::sqlite3_bind_int64(self.stmt.raw, at, value) };
        self.stmt.db.check(code)
    }

    /// Binds the next parameter. SQLite reads text and blobs where they are, so they outlive the run.
    pub(crate) fn bind(&mut self, value: ValueRef<'s>) -> Result<(), Error> {
        if let ValueRef::Text(text) = value {
            return self.bind_text_bytes(text.as_bytes());
        }
        let at = self.next_parameter();
        let raw = self.stmt.raw;
        // SAFETY: the statement is alive; the bytes outlive the run, whose end lets go of them.
        let code = unsafe {
            match value {
                ValueRef::Null => ffi::sqlite3_bind_null(raw, at),
                ValueRef::Integer(v) => ffi::sqlite3_bind_int64(raw, at, v),
                ValueRef::Real(v) => ffi::sqlite3_bind_double(raw, at, v),
                ValueRef::Text(_) => unreachable!("text has been bound above"),
                // A null pointer would bind NULL.
                ValueRef::Blob([]) => ffi::sqlite3_bind_zeroblob(raw, at, 0),
                ValueRef::Blob(v) => ffi::sqlite3_bind_blob64(
                    raw,
                    at,
                    v.as_ptr().cast::<c_void>(),
                    v.len() as u64,
                    ffi::SQLITE_STATIC(),
                ),
            }
        };
        self.stmt.db.check(code)
    }

    /// Binds text that is known to be UTF-8, or is what SQLite holds.
    pub(crate) fn bind_text_bytes(&mut self, text: &'s [u8]) -> Result<(), Error> {
        let at = self.next_parameter();
        // SAFETY: the statement is alive; the bytes outlive the run, whose end lets go of them.
        let code = unsafe {
            let (start, len) = (text.as_ptr().cast::<c_char>(), text.len() as u64);
            let utf8 = ffi::SQLITE_UTF8 as u8;
            ffi::sqlite3_bind_text64(self.stmt.raw, at, start, len, ffi::SQLITE_STATIC(), utf8)
        };
        self.stmt.db.check(code)
    }

    pub(crate) fn bind_text(&mut self, text: &'s str) -> Result<(), Error> {
        self.bind(ValueRef::Text(text))
    }

    pub(crate) fn bind_blob(&mut self, bytes: &'s [u8]) -> Result<(), Error> {
        self.bind(ValueRef::Blob(bytes))
    }

    /// Steps; `true` when there is a row.
    pub(crate) fn step(&mut self) -> Result<bool, Error> {
        assert_eq!(self.bound, self.stmt.parameters, "a run binds every parameter before it steps");
        // SAFETY: the statement is alive.
        match unsafe { ffi::sqlite3_step(self.stmt.raw) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            code => Err(self.stmt.db.error(code)),
        }
    }

    pub(crate) fn integer(&self, column: c_int) -> i64 {
        // SAFETY: the statement is alive; a column out of range reads as 0.
        unsafe { ffi::sqlite3_column_int64(self.stmt.raw, column) }
    }

    pub(crate) fn blob(&self, column: c_int) -> &[u8] {
        // SAFETY: the bytes live until the next step or reset, which need `&mut self`.
        unsafe {
            let bytes = ffi::sqlite3_column_blob(self.stmt.raw, column);
            let len = ffi::sqlite3_column_bytes(self.stmt.raw, column);
            slice(bytes, len)
        }
    }

    /// Whether a column holds this value, to the bit.
    pub(crate) fn holds(&self, column: c_int, value: PackedColumn<'_>) -> bool {
        // SAFETY: the statement is alive.
        let (raw, kind) = unsafe { (self.stmt.raw, ffi::sqlite3_column_type(self.stmt.raw, column)) };
        match (kind, value) {
            // SAFETY: the statement is alive.
            (ffi::SQLITE_INTEGER, PackedColumn::Integer(value)) => unsafe {
                ffi::sqlite3_column_int64(raw, column) == value
            },
            // SAFETY: the statement is alive.
            (ffi::SQLITE_FLOAT, PackedColumn::Real(value)) => unsafe {
                ffi::sqlite3_column_double(raw, column).to_bits() == value.to_bits()
            },
            (ffi::SQLITE_TEXT, PackedColumn::Text(bytes)) | (ffi::SQLITE_BLOB, PackedColumn::Blob(bytes)) => {
                self.blob(column) == bytes
            }
            (ffi::SQLITE_NULL, PackedColumn::Null) => true,
            _ => false,
        }
    }

    /// A column's value as it travels: text that is not UTF-8 goes as a blob of its bytes.
    pub(crate) fn value(&self, column: c_int) -> ValueRef<'_> {
        self.key_value(column).unwrap_or_else(|_| ValueRef::Blob(self.blob(column)))
    }

    /// The value of a key column.
    ///
    /// # Errors
    /// Text that is not UTF-8.
    pub(crate) fn key_value(&self, column: c_int) -> Result<ValueRef<'_>, Error> {
        // SAFETY: the statement is alive; the value lives until the next step or reset, which need `&mut self`.
        unsafe {
            let raw = self.stmt.raw;
            match ffi::sqlite3_column_type(raw, column) {
                ffi::SQLITE_INTEGER => Ok(ValueRef::Integer(ffi::sqlite3_column_int64(raw, column))),
                ffi::SQLITE_FLOAT => Ok(ValueRef::Real(ffi::sqlite3_column_double(raw, column))),
                ffi::SQLITE_TEXT => {
                    let text = ffi::sqlite3_column_text(raw, column);
                    let len = ffi::sqlite3_column_bytes(raw, column);
                    text_value(slice(text.cast::<c_void>(), len))
                }
                ffi::SQLITE_BLOB => Ok(ValueRef::Blob(self.blob(column))),
                _ => Ok(ValueRef::Null),
            }
        }
    }

    pub(crate) fn text(&self, column: c_int) -> Result<&str, Error> {
        match self.key_value(column)? {
            ValueRef::Text(text) => Ok(text),
            _ => Err(failure("text was expected")),
        }
    }
}

fn text_value(bytes: &[u8]) -> Result<ValueRef<'_>, Error> {
    if bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8. Most keys are, and are short, which the full check is slow on.
        return Ok(ValueRef::Text(unsafe { std::str::from_utf8_unchecked(bytes) }));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(ValueRef::Text(text)),
        Err(_) => Err(failure("text that is not UTF-8 cannot replicate")),
    }
}

/// # Safety
/// `bytes` points to `len` bytes that live for `'a`, or is null.
unsafe fn slice<'a>(bytes: *const c_void, len: c_int) -> &'a [u8] {
    if bytes.is_null() || len <= 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len as usize) }
}

/// A value handed to a hook or a virtual table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawValue(pub(crate) *mut ffi::sqlite3_value);

impl RawValue {
    /// # Safety
    /// The value is alive, and stays so for `'a`.
    pub(crate) unsafe fn get<'a>(self) -> Result<ValueRef<'a>, Error> {
        // SAFETY: the caller's promise.
        unsafe {
            match ffi::sqlite3_value_type(self.0) {
                ffi::SQLITE_INTEGER => Ok(ValueRef::Integer(ffi::sqlite3_value_int64(self.0))),
                ffi::SQLITE_FLOAT => Ok(ValueRef::Real(ffi::sqlite3_value_double(self.0))),
                // As text it would be copied, to end in a zero. As a blob it is told as it is.
                ffi::SQLITE_TEXT if ffi::sqlite3_value_encoding(self.0) == ffi::SQLITE_UTF8 => {
                    let text = ffi::sqlite3_value_blob(self.0);
                    text_value(slice(text, ffi::sqlite3_value_bytes(self.0)))
                }
                ffi::SQLITE_TEXT => {
                    let text = ffi::sqlite3_value_text(self.0);
                    text_value(slice(text.cast::<c_void>(), ffi::sqlite3_value_bytes(self.0)))
                }
                ffi::SQLITE_BLOB => {
                    let blob = ffi::sqlite3_value_blob(self.0);
                    Ok(ValueRef::Blob(slice(blob, ffi::sqlite3_value_bytes(self.0))))
                }
                _ => Ok(ValueRef::Null),
            }
        }
    }

    /// Whether two values have the same type and the same bits.
    ///
    /// # Safety
    /// Both values are alive.
    pub(crate) unsafe fn same(self, other: Self) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            let kind = ffi::sqlite3_value_type(self.0);
            if kind != ffi::sqlite3_value_type(other.0) {
                return false;
            }
            match kind {
                ffi::SQLITE_INTEGER => ffi::sqlite3_value_int64(self.0) == ffi::sqlite3_value_int64(other.0),
                ffi::SQLITE_FLOAT => {
                    let bits = |value: Self| ffi::sqlite3_value_double(value.0).to_bits();
                    bits(self) == bits(other)
                }
                ffi::SQLITE_TEXT | ffi::SQLITE_BLOB => {
                    let bytes = |value: Self| {
                        let bytes = ffi::sqlite3_value_blob(value.0);
                        slice(bytes, ffi::sqlite3_value_bytes(value.0))
                    };
                    bytes(self) == bytes(other)
                }
                _ => true,
            }
        }
    }
}

/// Quotes an identifier; the only place that does.
pub(crate) fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// A statement that is prepared when it is first needed.
pub(crate) fn once(
    slot: &mut Option<Stmt>,
    prepare: impl FnOnce() -> Result<Stmt, Error>,
) -> Result<&mut Stmt, Error> {
    if slot.is_none() {
        *slot = Some(prepare()?);
    }
    Ok(slot.as_mut().expect("it has just been set"))
}

/// A statement that is prepared once.
pub(crate) fn held<K: std::hash::Hash + Eq>(
    statements: &mut rustc_hash::FxHashMap<K, Stmt>,
    key: K,
    prepare: impl FnOnce() -> Result<Stmt, Error>,
) -> Result<&mut Stmt, Error> {
    match statements.entry(key) {
        std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
        std::collections::hash_map::Entry::Vacant(entry) => Ok(entry.insert(prepare()?)),
    }
}
