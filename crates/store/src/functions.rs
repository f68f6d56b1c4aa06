//! The `crsql_*` SQL functions.

use std::sync::atomic::{AtomicU64, Ordering};

use opor_core::{PackedKey, ValueRef};
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef as SqlRef};
use rusqlite::{Connection, Error};

use crate::engine::Engine;
use crate::meta;
use crate::replicate::{ReplicateError, Strictness};
use crate::sqlite::failure;

/// What `crsql_sha` answers: the version of this engine's contract, not a commit.
const SHA: &str = concat!("opor-", env!("CARGO_PKG_VERSION"));

/// A pointer that closures which SQLite owns may hold: the connection outlives them and the engine outlives the
/// connection, and all of them are used by one thread at a time.
#[derive(Clone, Copy)]
pub(crate) struct EngineRef(pub(crate) *const Engine);

#[expect(unsafe_code, reason = "see `EngineRef`")]
// SAFETY: see `EngineRef`.
unsafe impl Send for EngineRef {}

#[expect(unsafe_code, reason = "see `EngineRef`")]
// SAFETY: see `EngineRef`.
unsafe impl Sync for EngineRef {}

impl EngineRef {
    #[expect(unsafe_code, reason = "see `EngineRef`")]
    pub(crate) fn get(&self) -> &Engine {
        // SAFETY: see `EngineRef`.
        unsafe { &*self.0 }
    }
}

type Answer = Result<ToSqlOutput<'static>, Error>;

/// Registers every function on a connection.
///
/// The engine must outlive the connection.
pub(crate) fn install(conn: &Connection, engine: *const Engine) -> Result<(), Error> {
    let engine = EngineRef(engine);
    let add = |name: &str, run: fn(&Engine, &Context<'_>) -> Answer| {
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
        conn.create_scalar_function(name, -1, flags, move |context| {
            // The whole reference is captured, not its field, so that the closure may be sent.
            let engine = &engine;
            run(engine.get(), context)
        })
    };
    add("crsql_site_id", |engine, _| blob(engine.site.get().as_bytes().to_vec()))?;
    add("crsql_db_version", |engine, _| {
        engine.refresh()?;
        integer(engine.db_version())
    })?;
    add("crsql_next_db_version", |engine, context| {
        let at_least = if context.is_empty() { 0 } else { context.get::<i64>(0)? };
        engine.refresh()?;
        integer(engine.promise_version(u64::try_from(at_least).unwrap_or(0))?)
    })?;
    add("crsql_as_crr", as_crr)?;
    add("crsql_as_table", |engine, context| {
        engine.unreplicate(&last_text(context)?)?;
        Ok(ToSqlOutput::Owned(SqlValue::Null))
    })?;
    add("crsql_begin_alter", |engine, context| {
        engine.begin_alter(&last_text(context)?)?;
        text("OK")
    })?;
    add("crsql_commit_alter", |engine, context| {
        engine.commit_alter(&last_text(context)?)?;
        Ok(ToSqlOutput::Owned(SqlValue::Null))
    })?;
    add("crsql_finalize", |_, _| text("finalized"))?;
    add("crsql_rows_impacted", |engine, _| {
        Ok(ToSqlOutput::Owned(SqlValue::Integer(engine.rows_impacted.get())))
    })?;
    add("crsql_internal_sync_bit", sync_bit)?;
    add("crsql_get_seq", |engine, _| Ok(ToSqlOutput::Owned(SqlValue::Integer(engine.next_seq(false)))))?;
    add("crsql_increment_and_get_seq", |engine, _| {
        Ok(ToSqlOutput::Owned(SqlValue::Integer(engine.next_seq(true))))
    })?;
    // What guards name. Their condition is false, so it compares nothing.
    conn.create_collation("opor_guard", |a, b| a.cmp(b))?;
    add("crsql_sha", |_, _| text(SHA))?;
    add("crsql_pack_columns", |_, context| blob(pack(context)?))?;
    add("crsql_config_set", config_set)?;
    add("crsql_config_get", |engine, context| {
        known_setting(context)?;
        engine.refresh()?;
        integer(u64::from(engine.meta.borrow().merge_equal_values))
    })
}

/// Puts seeded numbers in the place of SQLite's own: SplitMix64, the same on every machine.
pub(crate) fn seed_random(conn: &Connection, seed: u64) -> Result<(), Error> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    let state = AtomicU64::new(seed);
    conn.create_scalar_function("random", 0, flags, move |_| {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok((z ^ (z >> 31)).cast_signed())
    })
}

fn as_crr(engine: &Engine, context: &Context<'_>) -> Answer {
    // Some callers compare this text, line break included.
    const ARGUMENTS: &str = "Wrong number of args provided to crsql_as_crr. Provide the schema \n          name and table \
         name or just the table name.";
    if context.is_empty() || context.len() > 2 {
        return Err(failure(ARGUMENTS));
    }
    match engine.replicate(&last_text(context)?, Strictness::CrSqlite) {
        Ok(_) => text("OK"),
        Err(ReplicateError::Sqlite { source, .. }) => Err(source),
        Err(refused) => Err(failure(refused.to_string())),
    }
}

fn sync_bit(engine: &Engine, context: &Context<'_>) -> Answer {
    if !context.is_empty() {
        engine.sync_bit.set(context.get::<i64>(0)? != 0);
    }
    integer(u64::from(engine.sync_bit.get()))
}

fn known_setting(context: &Context<'_>) -> Result<(), Error> {
    match context.get_raw(0) {
        SqlRef::Text(b"merge-equal-values") => Ok(()),
        _ => Err(failure("Unknown setting name")),
    }
}

fn config_set(engine: &Engine, context: &Context<'_>) -> Answer {
    if context.len() != 2 {
        return Err(failure("Unknown setting name"));
    }
    known_setting(context)?;
    let on = context.get::<i64>(1)? != 0;
    // So that a rollback is heard of. Outside a transaction there is nothing to roll back.
    if !engine.db.is_autocommit() {
        engine.enlist()?;
    }
    engine.uncaptured(|| meta::save_merge_equal_values(engine.db, on))?;
    engine.meta.borrow_mut().merge_equal_values = on;
    Ok(ToSqlOutput::Owned(SqlValue::Integer(context.get::<i64>(1)?)))
}

fn pack(context: &Context<'_>) -> Result<Vec<u8>, Error> {
    if context.len() > 255 {
        return Err(failure("more than 255 columns"));
    }
    let mut out = Vec::new();
    PackedKey::begin(context.len(), &mut out);
    for i in 0..context.len() {
        let value = match context.get_raw(i) {
            SqlRef::Null => ValueRef::Null,
            SqlRef::Integer(v) => ValueRef::Integer(v),
            SqlRef::Real(v) => ValueRef::Real(v),
            SqlRef::Text(v) => {
                ValueRef::Text(std::str::from_utf8(v).map_err(|_| failure("text that is not UTF-8"))?)
            }
            SqlRef::Blob(v) => ValueRef::Blob(v),
        };
        PackedKey::pack_column(value, &mut out);
    }
    Ok(out)
}

fn last_text(context: &Context<'_>) -> Result<String, Error> {
    let last = context.len().checked_sub(1).ok_or_else(|| failure("a table name is missing"))?;
    match context.get_raw(last) {
        SqlRef::Text(name) => Ok(String::from_utf8_lossy(name).into_owned()),
        _ => Err(failure("a table name is text")),
    }
}

fn integer(value: u64) -> Answer {
    Ok(ToSqlOutput::Owned(SqlValue::Integer(value.cast_signed())))
}

fn text(value: &str) -> Answer {
    Ok(ToSqlOutput::Owned(SqlValue::Text(value.to_owned())))
}

fn blob(value: Vec<u8>) -> Answer {
    Ok(ToSqlOutput::Owned(SqlValue::Blob(value)))
}
