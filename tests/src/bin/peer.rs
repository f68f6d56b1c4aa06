//! A replica behind a pipe: one JSON command a line on standard input, one JSON answer a line on standard output.
//!
//! `peer FILE [lamport|hlc] [SITE]` opens a file (`:memory:` for none). Commands: `{"sql": ".."}`, `{"replicate": "table"}`,
//! `{"since": n}`, `{"apply": [change, ..]}` (typed, one transaction), `{"insert": [change, ..]}` (row by row into
//! `crsql_changes`), `{"hammer": {"first": n, "count": n}}` (one commit and one answer a row), `{"snapshot": "file", "die": n}`
//! (merges it, and dies when told of its progress for the n-th time). What fails is answered with `{"error": ".."}`.
//!
//! `peer statements SEED COUNT` prints the tables of the histories and random statements on them; `peer trace SEED STEPS`
//! groups them in transactions and prints what the model says the change log is after each.

use std::error::Error;
use std::io::{BufRead, Write};
use std::ops::ControlFlow;

use opor_core::{CausalLength, Change, Changeset, Cid, ColVersion, DbVersion, PackedKey, SiteId};
use opor_store::{ClockPolicy, OpenOptions, SnapshotReader, SnapshotReceiver, Store};
use opor_tests::{
    ChangeRow, Model, Rng, SHAPES, apply_row, change_from_json, change_to_json, changes_since, message,
    random_change, random_statement, run, unhex, value_to_json,
};
use serde_json::{Value as Json, json};

type Outcome = Result<Json, Box<dyn Error>>;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["trace", seed, steps] => trace(seed.parse()?, steps.parse()?),
        ["statements", seed, count] => statements(seed.parse()?, count.parse()?),
        [file] => serve(file, "lamport", None),
        [file, clock] => serve(file, clock, None),
        [file, clock, site] => serve(file, clock, Some(SiteId::new(&unhex(site))?)),
        _ => {
            Err("usage: peer FILE [lamport|hlc] [SITE] | peer statements SEED COUNT | peer trace SEED STEPS"
                .into())
        }
    }
}

fn say(answer: &Json) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    out.flush()
}

fn serve(file: &str, clock: &str, site: Option<SiteId>) -> Result<(), Box<dyn Error>> {
    let clock = if clock == "hlc" { ClockPolicy::Hlc } else { ClockPolicy::Lamport };
    let mut options = OpenOptions::new().clock(clock);
    if let Some(site) = site {
        options = options.site_id(site);
    }
    let mut store = if file == ":memory:" { options.open_in_memory()? } else { options.open(file)? };
    run(&store, "PRAGMA busy_timeout = 60000")?;
    for line in std::io::stdin().lock().lines() {
        let command: Json = serde_json::from_str(&line?)?;
        let answer = answer(&mut store, &command);
        say(&answer.unwrap_or_else(|error| json!({"error": words(&*error)})))?;
    }
    Ok(())
}

/// An error and its causes; what SQLite said where it was SQLite.
fn words(error: &(dyn Error + 'static)) -> String {
    if let Some(error) = error.downcast_ref() {
        return message(error);
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

fn answer(store: &mut Store, command: &Json) -> Outcome {
    if let Some(sql) = command["sql"].as_str() {
        let rows = run(store, sql)?;
        let rows: Vec<Vec<Json>> = rows.iter().map(|row| row.iter().map(value_to_json).collect()).collect();
        return Ok(json!({"rows": rows}));
    }
    if let Some(table) = command["replicate"].as_str() {
        store.replicate(table)?;
        return Ok(json!({"ok": true}));
    }
    if let Some(since) = command["since"].as_i64() {
        let rows = changes_since(store, &format!("db_version > {since} ORDER BY db_version, seq"))?;
        return Ok(json!({"changes": rows.iter().map(change_to_json).collect::<Vec<_>>()}));
    }
    if let Some(rows) = command["apply"].as_array() {
        let changes: Result<Changeset, Box<dyn Error>> = rows.iter().map(|row| change(&parse(row))).collect();
        let report = store.apply(&changes?)?;
        return Ok(json!({"db_version": report.db_version.map(DbVersion::to_sql)}));
    }
    if let Some(rows) = command["insert"].as_array() {
        let transaction = store.transaction()?;
        rows.iter().try_for_each(|row| apply_row(&transaction, &parse(row)))?;
        transaction.commit()?;
        return Ok(json!({"ok": true}));
    }
    if let (Some(file), Some(calls)) = (command["snapshot"].as_str(), command["die"].as_u64()) {
        return merge_and_die(store, file, calls);
    }
    match (command["hammer"]["first"].as_i64(), command["hammer"]["count"].as_i64()) {
        (Some(first), Some(count)) => hammer(store, first, count),
        _ => Err(format!("there is no command {command}").into()),
    }
}

/// Merges a snapshot from a file; dies at the call of the watcher that has this number, if it comes to that.
fn merge_and_die(store: &mut Store, file: &str, calls: u64) -> Outcome {
    let mut source = SnapshotReader::new(std::fs::File::open(file)?)?;
    let mut receiver = SnapshotReceiver::begin(format!("{file}-image"), source.manifest().clone())?;
    while let Some((index, chunk)) = source.next_chunk()? {
        receiver.put(index, &chunk)?;
    }
    let image = receiver.finish(&OpenOptions::new())?;
    let mut left = calls;
    store.merge_snapshot_watched(&image, &mut |_| {
        left = left.checked_sub(1).unwrap_or_else(|| std::process::abort());
        ControlFlow::Continue(())
    })?;
    Ok(json!({"calls": calls - left}))
}

/// Writes rows one by one; what has been answered has been committed.
fn hammer(store: &Store, first: i64, count: i64) -> Outcome {
    for id in first..first + count {
        run(store, &format!("INSERT INTO rows(id, word) VALUES ({id}, 'word {id}')"))?;
        say(&json!({"committed": id}))?;
    }
    Ok(json!({"done": count}))
}

fn parse(row: &Json) -> ChangeRow {
    change_from_json(row, unhex)
}

fn change(row: &ChangeRow) -> Result<Change, Box<dyn Error>> {
    Ok(Change {
        table: row.table.as_str().into(),
        pk: PackedKey::from_bytes(&row.pk)?,
        cid: Cid::from(row.cid.as_str()),
        val: row.val.clone(),
        col_version: ColVersion(row.col_version.try_into()?),
        db_version: DbVersion(row.db_version.try_into()?),
        site_id: SiteId::new(row.site_id.as_deref().unwrap_or_default())?,
        cl: CausalLength(row.cl.try_into()?),
        seq: row.seq.try_into()?,
    })
}

/// The site the model writes as.
const TRACE_SITE: [u8; 16] = [0xb; 16];

fn say_tables() -> std::io::Result<()> {
    SHAPES.iter().try_for_each(|shape| {
        say(&json!({"schema": shape.create, "table": shape.name, "columns": shape.columns.len()}))
    })
}

fn statements(seed: u64, count: usize) -> Result<(), Box<dyn Error>> {
    say_tables()?;
    let mut rng = Rng::new(seed);
    for _ in 0..count {
        say(&json!({"sql": random_statement(&mut rng, SHAPES.len(), true).sql()}))?;
    }
    Ok(())
}

fn trace(seed: u64, steps: usize) -> Result<(), Box<dyn Error>> {
    let mut rng = Rng::new(seed);
    let mut model = Model::new(&TRACE_SITE);
    say_tables()?;
    for _ in 0..steps {
        model.begin();
        say(&json!({"sql": "BEGIN", "ok": true}))?;
        for _ in 0..1 + rng.below(4) {
            if rng.chance(25) {
                let change = random_change(&mut rng, 1);
                model.apply(&change);
                say(&json!({"apply": change_to_json(&change)}))?;
                continue;
            }
            let statement = random_statement(&mut rng, SHAPES.len(), true);
            let ok = model.execute(&statement).is_ok();
            say(&json!({"sql": statement.sql(), "ok": ok}))?;
        }
        model.commit();
        say(&json!({"sql": "COMMIT", "ok": true}))?;
        let changes = model.changes();
        say(&json!({"changes": changes.iter().map(change_to_json).collect::<Vec<_>>()}))?;
    }
    Ok(())
}
