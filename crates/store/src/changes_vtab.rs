//! `crsql_changes` as a virtual table: reading the change log, and merging by INSERT.
#![expect(unsafe_code, reason = "a virtual table module is a table of C callbacks")]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::slice;

use opor_core::{CausalLength, Cid, ColVersion, DbVersion, PackedKey, SiteId, ValueRef};
use rusqlite::{Error, ffi};

use crate::commit_hook::set_message;
use crate::engine::Engine;
use crate::merge::{IncomingCell, IncomingClock, IncomingRow, MergeSql, Merger, Watch};
use crate::read::{ChangeRow, Entry, EntryReader};
use crate::sqlite::{Db, RawValue, failure};

const SCHEMA: &CStr =
    c"CREATE TABLE x(\"table\" TEXT NOT NULL, pk BLOB NOT NULL, cid TEXT NOT NULL, val ANY, \
    col_version INTEGER NOT NULL, db_version INTEGER NOT NULL, site_id BLOB NOT NULL, cl INTEGER NOT NULL, \
    seq INTEGER NOT NULL)";

const TABLE: c_int = 0;
const DB_VERSION: c_int = 5;
const SEQ: c_int = 8;

/// Bits of `idxNum`: which constraints `xFilter` is given.
const HAS_SINCE: c_int = 1;
const INCLUSIVE: c_int = 2;
const HAS_TABLE: c_int = 4;

/// cr-sqlite's limit on names.
const NAME_BYTES_MAX: usize = 2048;

#[repr(C)]
struct Vtab {
    base: ffi::sqlite3_vtab,
    engine: *const Engine,
    merge: RefCell<MergeSql>,
}

#[repr(C)]
struct Cursor {
    base: ffi::sqlite3_vtab_cursor,
    entries: Vec<Entry>,
    at: usize,
    reader: EntryReader,
    row: Option<ChangeRow>,
}

struct Module(ffi::sqlite3_module);

// SAFETY: the module is never written to.
unsafe impl Sync for Module {}

static MODULE: Module = Module(ffi::sqlite3_module {
    iVersion: 1,
    xCreate: None,
    xConnect: Some(connect),
    xBestIndex: Some(best_index),
    xDisconnect: Some(disconnect),
    xDestroy: Some(disconnect),
    xOpen: Some(open),
    xClose: Some(close),
    xFilter: Some(filter),
    xNext: Some(next),
    xEof: Some(eof),
    xColumn: Some(column),
    xRowid: Some(rowid),
    xUpdate: Some(update),
    xBegin: None,
    xSync: None,
    xCommit: None,
    xRollback: None,
    xFindFunction: None,
    xRename: None,
    xSavepoint: None,
    xRelease: None,
    xRollbackTo: None,
    xShadowName: None,
    xIntegrity: None,
});

/// Registers `crsql_changes`.
///
/// # Safety
/// `engine` outlives the connection.
pub(crate) unsafe fn install(db: Db, engine: *const Engine) -> Result<(), Error> {
    // SAFETY: the handle is open, the module is static, and the engine outlives the connection.
    let code = unsafe {
        ffi::sqlite3_create_module_v2(
            db.0,
            c"crsql_changes".as_ptr(),
            &raw const MODULE.0,
            engine.cast_mut().cast::<c_void>(),
            None,
        )
    };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(db.error(code)) }
}

/// The result code of an error; its message goes to the table, except where cr-sqlite gives none.
///
/// # Safety
/// `vtab` was made by `connect`.
unsafe fn report(vtab: *mut ffi::sqlite3_vtab, error: Error) -> c_int {
    let (code, message) = match error {
        Error::SqliteFailure(code, message) => (code.extended_code, message),
        other => (ffi::SQLITE_ERROR, Some(other.to_string())),
    };
    // A constraint or a mismatch is told by its code alone, in SQLite's words for it.
    let silent = matches!(code & 0xff, ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH);
    if let (Some(message), false) = (message, silent) {
        // SAFETY: the caller's promise.
        unsafe { set_message(vtab, &message) };
    }
    if silent { code & 0xff } else { code }
}

unsafe extern "C" fn connect(
    db: *mut ffi::sqlite3,
    engine: *mut c_void,
    _argc: c_int,
    _argv: *const *const c_char,
    out: *mut *mut ffi::sqlite3_vtab,
    _error: *mut *mut c_char,
) -> c_int {
    // SAFETY: SQLite hands over an open handle and a place for the table; all-zero is a valid base.
    unsafe {
        let code = ffi::sqlite3_declare_vtab(db, SCHEMA.as_ptr());
        if code != ffi::SQLITE_OK {
            return code;
        }
        ffi::sqlite3_vtab_config(db, ffi::SQLITE_VTAB_INNOCUOUS);
        let engine = engine.cast::<Engine>();
        let vtab = Vtab { base: std::mem::zeroed(), engine, merge: RefCell::default() };
        *out = Box::into_raw(Box::new(vtab)).cast();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn disconnect(vtab: *mut ffi::sqlite3_vtab) -> c_int {
    // SAFETY: made by `connect`, and disconnected once.
    drop(unsafe { Box::from_raw(vtab.cast::<Vtab>()) });
    ffi::SQLITE_OK
}

/// Lower bounds on `db_version` and equality on `table` are pushed down. The bound is not checked again: a row that
/// moved to another key is new though it shows the version it had.
unsafe extern "C" fn best_index(_vtab: *mut ffi::sqlite3_vtab, info: *mut ffi::sqlite3_index_info) -> c_int {
    // SAFETY: SQLite hands over arrays of the lengths it states.
    let (info, constraints, usage, order) = unsafe {
        let info = &mut *info;
        let constraints = array(info.aConstraint, info.nConstraint);
        let usage = if info.nConstraint > 0 {
            slice::from_raw_parts_mut(info.aConstraintUsage, info.nConstraint as usize)
        } else {
            &mut []
        };
        let order = array(info.aOrderBy, info.nOrderBy);
        (info, constraints, usage, order)
    };
    let (mut plan, mut next_argument) = (0, 1);
    for (constraint, usage) in constraints.iter().zip(usage) {
        if constraint.usable == 0 {
            continue;
        }
        let bit = match (constraint.iColumn, c_int::from(constraint.op)) {
            (DB_VERSION, ffi::SQLITE_INDEX_CONSTRAINT_GT) => HAS_SINCE,
            (DB_VERSION, ffi::SQLITE_INDEX_CONSTRAINT_GE) => HAS_SINCE | INCLUSIVE,
            (TABLE, ffi::SQLITE_INDEX_CONSTRAINT_EQ) => HAS_TABLE,
            _ => continue,
        };
        if plan & bit & (HAS_SINCE | HAS_TABLE) != 0 {
            continue;
        }
        plan |= bit;
        usage.argvIndex = next_argument;
        next_argument += 1;
        usage.omit = u8::from(bit & HAS_SINCE != 0);
        // The order of arguments is the order of constraints; this remembers which came first.
        if bit == HAS_TABLE && plan & HAS_SINCE == 0 {
            plan |= TABLE_FIRST;
        }
    }
    info.idxNum = plan;
    info.estimatedCost = if plan & HAS_SINCE != 0 { 1e3 } else { 1e6 };
    let natural = order.iter().map(|by| (by.iColumn, by.desc)).collect::<Vec<_>>();
    info.orderByConsumed =
        c_int::from(matches!(natural.as_slice(), [(DB_VERSION, 0)] | [(DB_VERSION, 0), (SEQ, 0)]));
    ffi::SQLITE_OK
}

const TABLE_FIRST: c_int = 8;

/// # Safety
/// `first` points to `len` elements, or `len` is 0.
unsafe fn array<'a, T>(first: *const T, len: c_int) -> &'a [T] {
    if len <= 0 || first.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(first, len as usize) }
}

unsafe extern "C" fn open(_vtab: *mut ffi::sqlite3_vtab, out: *mut *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: SQLite hands over a place for the cursor; all-zero is a valid base.
    unsafe {
        let cursor = Cursor {
            base: std::mem::zeroed(),
            entries: Vec::new(),
            at: 0,
            reader: EntryReader::default(),
            row: None,
        };
        *out = Box::into_raw(Box::new(cursor)).cast();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: made by `open`, and closed once.
    drop(unsafe { Box::from_raw(cursor.cast::<Cursor>()) });
    ffi::SQLITE_OK
}

/// # Safety
/// `cursor` was made by `open` on a table made by `connect`.
unsafe fn parts<'a>(cursor: *mut ffi::sqlite3_vtab_cursor) -> (&'a mut Cursor, &'a Engine) {
    // SAFETY: the caller's promise.
    unsafe {
        let vtab = (*cursor).pVtab.cast::<Vtab>();
        (&mut *cursor.cast::<Cursor>(), &*(*vtab).engine)
    }
}

unsafe extern "C" fn filter(
    cursor: *mut ffi::sqlite3_vtab_cursor,
    plan: c_int,
    _text: *const c_char,
    argc: c_int,
    argv: *mut *mut ffi::sqlite3_value,
) -> c_int {
    // SAFETY: SQLite hands over a cursor of ours and `argc` values.
    unsafe {
        let arguments = array(argv.cast_const(), argc);
        let (state, engine) = parts(cursor);
        let result = start(state, engine, plan, arguments);
        match result {
            Ok(()) => ffi::SQLITE_OK,
            Err(error) => report((*cursor).pVtab, error),
        }
    }
}

/// # Safety
/// The arguments are alive.
unsafe fn start(
    cursor: &mut Cursor,
    engine: &Engine,
    plan: c_int,
    arguments: &[*mut ffi::sqlite3_value],
) -> Result<(), Error> {
    let mut arguments = arguments.iter();
    let (mut since, mut table) = (0, None);
    let mut wanted = vec![];
    if plan & TABLE_FIRST != 0 {
        wanted.push(HAS_TABLE);
    }
    if plan & HAS_SINCE != 0 {
        wanted.push(HAS_SINCE);
    }
    if plan & HAS_TABLE != 0 && plan & TABLE_FIRST == 0 {
        wanted.push(HAS_TABLE);
    }
    for what in wanted {
        let Some(argument) = arguments.next() else { break };
        // SAFETY: the caller's promise.
        let value = unsafe { RawValue(*argument).get() }?;
        match (what, value) {
            (HAS_SINCE, ValueRef::Integer(bound)) => {
                let bound = if plan & INCLUSIVE != 0 { bound.saturating_sub(1) } else { bound };
                since = u64::try_from(bound).unwrap_or(0);
            }
            (HAS_SINCE, ValueRef::Real(bound)) => {
                let floor = bound.floor();
                let whole = plan & INCLUSIVE != 0 && floor == bound;
                since = (if whole { floor - 1.0 } else { floor }).max(0.0) as u64;
            }
            // A comparison with NULL is never true, and every integer is below any text.
            (HAS_SINCE, _) => since = u64::MAX,
            (_, ValueRef::Text(name)) => table = Some(name.to_owned()),
            _ => since = u64::MAX,
        }
    }
    cursor.entries = if since == u64::MAX { Vec::new() } else { engine.entries(since, table.as_deref())? };
    cursor.at = 0;
    cursor.reader = EntryReader::default();
    settle(cursor, engine)
}

/// Moves on to an entry that still has its row.
fn settle(cursor: &mut Cursor, engine: &Engine) -> Result<(), Error> {
    cursor.row = None;
    while let Some(entry) = cursor.entries.get(cursor.at) {
        cursor.row = cursor.reader.read(engine, entry)?;
        if cursor.row.is_some() {
            break;
        }
        cursor.at += 1;
    }
    Ok(())
}

unsafe extern "C" fn next(cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: a cursor of ours.
    unsafe {
        let (state, engine) = parts(cursor);
        state.at += 1;
        match settle(state, engine) {
            Ok(()) => ffi::SQLITE_OK,
            Err(error) => report((*cursor).pVtab, error),
        }
    }
}

unsafe extern "C" fn eof(cursor: *mut ffi::sqlite3_vtab_cursor) -> c_int {
    // SAFETY: a cursor of ours.
    let (state, _) = unsafe { parts(cursor) };
    c_int::from(state.at >= state.entries.len())
}

unsafe extern "C" fn rowid(cursor: *mut ffi::sqlite3_vtab_cursor, out: *mut i64) -> c_int {
    // SAFETY: a cursor of ours, and a place for the result.
    unsafe { *out = parts(cursor).0.at as i64 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn column(
    cursor: *mut ffi::sqlite3_vtab_cursor,
    context: *mut ffi::sqlite3_context,
    column: c_int,
) -> c_int {
    // SAFETY: a cursor of ours.
    let (state, engine) = unsafe { parts(cursor) };
    let (Some(entry), Some(row)) = (state.entries.get(state.at), &state.row) else { return ffi::SQLITE_OK };
    let clock = &entry.clock;
    let site;
    let value = match column {
        0 => ValueRef::Text(&row.table),
        1 => ValueRef::Blob(&row.key),
        2 => ValueRef::Text(row.column.as_deref().unwrap_or(Cid::SENTINEL)),
        3 => row.value.as_ref(),
        4 => ValueRef::Integer(clock.cv.cast_signed()),
        5 => ValueRef::Integer(clock.shown_dv.cast_signed()),
        6 => match engine.site_of(clock.site) {
            Ok(found) => {
                site = found;
                ValueRef::Blob(site.as_bytes())
            }
            // SAFETY: a table of ours.
            Err(error) => return unsafe { report((*cursor).pVtab, error) },
        },
        7 => ValueRef::Integer(entry.cl.cast_signed()),
        _ => ValueRef::Integer(clock.seq.cast_signed()),
    };
    // SAFETY: the context is SQLite's, for this call.
    unsafe { give(context, value) };
    ffi::SQLITE_OK
}

/// # Safety
/// The context is alive.
pub(crate) unsafe fn give(context: *mut ffi::sqlite3_context, value: ValueRef<'_>) {
    // SAFETY: the caller's promise; SQLITE_TRANSIENT makes SQLite copy the bytes.
    unsafe {
        match value {
            ValueRef::Null => ffi::sqlite3_result_null(context),
            ValueRef::Integer(v) => ffi::sqlite3_result_int64(context, v),
            ValueRef::Real(v) => ffi::sqlite3_result_double(context, v),
            ValueRef::Text(v) => ffi::sqlite3_result_text64(
                context,
                v.as_ptr().cast::<c_char>(),
                v.len() as u64,
                ffi::SQLITE_TRANSIENT(),
                ffi::SQLITE_UTF8 as u8,
            ),
            ValueRef::Blob([]) => {
                ffi::sqlite3_result_zeroblob(context, 0);
            }
            ValueRef::Blob(v) => ffi::sqlite3_result_blob64(
                context,
                v.as_ptr().cast::<c_void>(),
                v.len() as u64,
                ffi::SQLITE_TRANSIENT(),
            ),
        }
    }
}

unsafe extern "C" fn update(
    vtab: *mut ffi::sqlite3_vtab,
    argc: c_int,
    argv: *mut *mut ffi::sqlite3_value,
    rowid: *mut i64,
) -> c_int {
    // SAFETY: SQLite hands over a table of ours and `argc` values.
    unsafe {
        let arguments = array(argv.cast_const(), argc);
        let inserts = argc > 1 && ffi::sqlite3_value_type(arguments[0]) == ffi::SQLITE_NULL;
        let result = if inserts {
            let table = &*vtab.cast::<Vtab>();
            merge(&*table.engine, &mut table.merge.borrow_mut(), &arguments[2..])
        } else {
            Err(failure("Only INSERT and SELECT statements are allowed against the crsql changes table"))
        };
        if !rowid.is_null() {
            *rowid = 0;
        }
        match result {
            Ok(()) => ffi::SQLITE_OK,
            Err(error) => report(vtab, error),
        }
    }
}

/// A plain "SQL logic error": what cr-sqlite says of most bad input.
fn logic_error() -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), None)
}

/// # Safety
/// The values are alive.
unsafe fn merge(
    engine: &Engine,
    sql: &mut MergeSql,
    values: &[*mut ffi::sqlite3_value],
) -> Result<(), Error> {
    let mut row = [ValueRef::Null; 9];
    for (to, from) in row.iter_mut().zip(values) {
        // SAFETY: the caller's promise.
        *to = unsafe { RawValue(*from).get() }?;
    }
    let change = RawChange::check(&row)?;
    engine.enlist()?;
    engine.replay()?;
    sql.follow_schema(engine.catalog.borrow().schema_version);
    let Some(table) = engine.table(change.table) else {
        let message = format!("crsql - could not find the schema information for table {}", change.table);
        return Err(failure(message));
    };
    if change.cl == 0 {
        return Ok(());
    }
    if !table.fits(&change.key) {
        return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_MISMATCH), None));
    }
    let clock = change.clock(engine)?;
    let mut incoming = IncomingRow { key: &change.key, cl: change.cl, sentinel: None, cells: Vec::new() };
    if change.cid == Cid::SENTINEL || change.cl.is_multiple_of(2) {
        incoming.sentinel = Some(clock);
    } else {
        let column = table.columns.iter().position(|column| *column.name == *change.cid);
        let column = column.ok_or_else(logic_error)?;
        incoming.cells.push(IncomingCell { column, value: change.value, clock });
    }
    let mut merger = Merger {
        engine,
        sql,
        direct: false,
        watch: Watch::Nothing,
        lenient: false,
        violations: 0,
        found: None,
    };
    let outcome = merger.merge(&table, &incoming, None)?;
    let impacted = outcome.won.len() + usize::from(outcome.deleted) + usize::from(outcome.created);
    engine.rows_impacted.set(engine.rows_impacted.get() + impacted as i64);
    Ok(())
}

/// A row for `crsql_changes`, checked.
struct RawChange<'a> {
    table: &'a str,
    key: PackedKey,
    cid: &'a str,
    value: ValueRef<'a>,
    cv: u64,
    dv: u64,
    site: Option<SiteId>,
    cl: u64,
    seq: u64,
}

impl<'a> RawChange<'a> {
    fn check(row: &[ValueRef<'a>; 9]) -> Result<Self, Error> {
        let [table, key, cid, value, cv, dv, site, cl, seq] = *row;
        let ValueRef::Text(table) = table else { return Err(logic_error()) };
        if table.len() > NAME_BYTES_MAX {
            return Err(failure("crsql - table name exceeded max length"));
        }
        let ValueRef::Text(cid) = cid else { return Err(logic_error()) };
        if cid.len() > NAME_BYTES_MAX {
            return Err(failure("crsql - column name exceeded max length"));
        }
        let site = match site {
            ValueRef::Null | ValueRef::Blob([]) => None,
            ValueRef::Blob(bytes) => {
                Some(SiteId::new(bytes).map_err(|_| failure("crsql - site id exceeded max length"))?)
            }
            _ => return Err(logic_error()),
        };
        let ValueRef::Blob(key) = key else { return Err(logic_error()) };
        let key = PackedKey::from_bytes(key).map_err(|_| logic_error())?;
        Ok(Self {
            table,
            key,
            cid,
            value,
            cv: match cv {
                ValueRef::Integer(negative @ ..0) => {
                    return Err(failure(format!("crsql - col_version is {negative}, below 0")));
                }
                cv => counter("col_version", cv, ColVersion::MAX.0)?,
            },
            dv: counter("db_version", dv, DbVersion::MAX.0)?,
            site,
            cl: counter("cl", cl, CausalLength::MAX.0)?,
            seq: counter("seq", seq, DbVersion::MAX.0)?,
        })
    }

    fn clock(&self, engine: &Engine) -> Result<IncomingClock, Error> {
        let site = self.site.unwrap_or_else(|| engine.site.get());
        let stamped = self.cl % 2 == 1 && self.cid != Cid::SENTINEL;
        if stamped {
            engine.observe(self.cv).map_err(|drift| failure(format!("col_version {}: {drift}", self.cv)))?;
        }
        Ok(IncomingClock {
            cv: self.cv,
            seq: self.seq,
            site,
            ordinal: engine.ordinal(site)?,
            dv: engine.merge_version().max(self.dv),
        })
    }
}

/// A counter from outside. Negative and NULL count as 0, as in cr-sqlite; what would wedge a replica is refused.
fn counter(name: &str, value: ValueRef<'_>, max: u64) -> Result<u64, Error> {
    match value {
        ValueRef::Null => Ok(0),
        ValueRef::Integer(value) => match u64::try_from(value) {
            Ok(value) if value > max => {
                Err(failure(format!("crsql - {name} is {value}, the limit is {max}")))
            }
            value => Ok(value.unwrap_or(0)),
        },
        _ => Err(logic_error()),
    }
}
