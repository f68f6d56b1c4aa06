//! The lab with a copy of a real database: every table, edited on both sides, merged, compared row by row.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use opor_core::{Changeset, DecodeLimits};
use opor_store::Store;
use rusqlite::{Connection, params_from_iter};
use serde_json::json;

use super::client;
use super::compare::{self, Rows, differences};
use super::copy::{self, Coverage};
use super::edits::{Edit, Kind, Plan};
use super::event::{Event, EventKind};
use super::live;
use super::peer::{Pulled, ROOM};
use super::shape::Shape;
use super::stage::{Actor, Setting, Stage};
use super::story::Story;
use super::tour;
use crate::database;
use crate::style::{BAD, DIM, GOOD};
use crate::table::{Cell, Table};

/// The databases of one run, read without opor.
struct Files {
    original: PathBuf,
    alice: PathBuf,
    bob: PathBuf,
    hub: PathBuf,
}

/// What came of one table.
#[derive(Debug, Default)]
struct Outcome {
    rows_before: usize,
    rows_after: usize,
    /// Rows that are not the same on alice and bob, or on alice and the hub.
    differing: usize,
}

/// Tells the whole story.
pub(crate) async fn play(story: &mut Story<'_>, file: &Path, setting: &Setting) -> anyhow::Result<Stage> {
    let dir = &setting.dir;
    story.fact("lab", "database".into());
    let (source, target) = (file.to_owned(), dir.to_owned());
    let coverage = tokio::task::spawn_blocking(move || copy::prepare(&source, &target)).await??;
    ensure!(
        !coverage.shapes.is_empty(),
        "{} has no table that can replicate: {}",
        file.display(),
        coverage
            .left_out
            .iter()
            .map(|left| format!("{}: {}", left.name, left.reason))
            .collect::<Vec<_>>()
            .join("; "),
    );
    let stage = Stage::start(setting, coverage.schema()).await?;
    tour::introduce(story, &stage)?;
    cover(story, file, &coverage)?;
    let files = Files {
        original: copy::original_in(dir),
        alice: stage.alice.peer.file.clone(),
        bob: stage.bob.peer.file.clone(),
        hub: stage.hub_file(),
    };
    first_sync(story, &stage, &files, &coverage).await?;
    let plans = edit(story, &stage, &files, &coverage).await?;
    story.step("Sync through the hub, both ways")?;
    let (_, pulled) = tour::sync(story, &stage).await?;
    if !stage.transport().is_live() {
        story.note(&conflicts_seen(&pulled))?;
    }
    verdict(story, &stage, &files, &coverage, &plans).await?;
    Ok(stage)
}

fn cover(story: &mut Story<'_>, file: &Path, coverage: &Coverage) -> anyhow::Result<()> {
    let (tables, all) = (coverage.shapes.len(), coverage.tables_total);
    story.note(&format!("alice has a copy of {}; bob has its tables without rows.", file.display()))?;
    story.note(&format!("{tables} of {all} tables replicate."))?;
    if !coverage.left_out.is_empty() {
        let mut table = Table::new(&["not covered", "what", "why"]);
        for left in &coverage.left_out {
            table.push(vec![Cell::from(&left.name), left.what.into(), Cell::from(&left.reason)]);
        }
        story.state(&table, json!(coverage.left_out))?;
    }
    story.fact("not_covered", json!(coverage.left_out));
    Ok(())
}

async fn first_sync(
    story: &mut Story<'_>,
    stage: &Stage,
    files: &Files,
    coverage: &Coverage,
) -> anyhow::Result<()> {
    story.step("First sync: everything travels from alice through the hub to bob")?;
    tour::sync(story, stage).await?;
    let (original, alice) = (read(&files.original, coverage)?, read(&files.alice, coverage)?);
    let bob = read(&files.bob, coverage)?;
    let rows: usize = original.values().map(BTreeMap::len).sum();
    story.check("alice still holds what the original holds", original == alice)?;
    story.check(&format!("bob holds the same {rows} rows in {} tables", original.len()), original == bob)
}

/// Plans edits on the original copy and plays them on both sides.
async fn edit(
    story: &mut Story<'_>,
    stage: &Stage,
    files: &Files,
    coverage: &Coverage,
) -> anyhow::Result<BTreeMap<String, Plan>> {
    story.step("Edits on both sides, nobody syncs")?;
    live::cut(story, stage).await?;
    let original = Connection::open(&files.original)?;
    original.execute_batch("PRAGMA foreign_keys = ON")?;
    let mut plans = BTreeMap::new();
    for shape in &coverage.shapes {
        let plan = Plan::of(&original, shape)
            .with_context(|| format!("cannot plan edits of table {:?}", shape.table))?;
        plans.insert(shape.table.clone(), plan);
    }
    let of = |edits: fn(&Plan) -> &Vec<Edit>| plans.values().flat_map(edits).cloned().collect();
    let mut refused = run(&stage.alice, of(|plan| &plan.alice)).await?;
    refused.extend(run(&stage.bob, of(|plan| &plan.bob)).await?);
    story.note("+ rows inserted, ~ rows updated, - rows deleted, both: rows that both sides edit")?;
    show_plans(story, &plans)?;
    for reason in &refused {
        story.note(reason)?;
    }
    story.check("every edit went through", refused.is_empty())?;
    let differing = total_differences(&read(&files.alice, coverage)?, &read(&files.bob, coverage)?);
    story.check(&format!("alice and bob differ in {differing} rows now"), differing > 0)?;
    Ok(plans)
}

fn show_plans(story: &mut Story<'_>, plans: &BTreeMap<String, Plan>) -> anyhow::Result<()> {
    let titles = ["table", ">alice +", ">~", ">-", ">bob +", ">~", ">-", ">both", "not played"];
    let mut table = Table::new(&titles);
    let mut state = serde_json::Map::new();
    for (name, plan) in plans {
        let count =
            |edits: &[Edit]| [Kind::Insert, Kind::Update, Kind::Delete].map(|kind| Plan::count(edits, kind));
        let (alice, bob) = (count(&plan.alice), count(&plan.bob));
        let mut row = vec![Cell::from(name)];
        row.extend(alice.iter().chain(&bob).map(|n| Cell::from(n.to_string())));
        row.push(plan.contested.to_string().into());
        row.push(Cell::styled(plan.left_out.join("; "), DIM));
        table.push(row);
        let facts =
            json!({ "alice": alice, "bob": bob, "both": plan.contested, "not_played": plan.left_out });
        state.insert(name.clone(), facts);
    }
    story.state(&table, json!({ "edits": state }))
}

/// Plays edits in one transaction; says which failed.
async fn run(actor: &Actor, edits: Vec<Edit>) -> anyhow::Result<Vec<String>> {
    let name = actor.peer.name;
    let work = move |store: &mut Store| {
        let tx = store.transaction()?;
        let mut refused = Vec::new();
        for edit in &edits {
            match tx.execute(&edit.sql, params_from_iter(&edit.params)) {
                Ok(1) => {}
                Ok(rows) => refused.push(format!("{name}: {rows} rows instead of one: {}", edit.sql)),
                Err(error) => refused.push(format!("{name}: {error}: {}", edit.sql)),
            }
        }
        tx.commit()?;
        Ok::<_, rusqlite::Error>(refused)
    };
    Ok(actor.peer.with_store(work).await??)
}

fn conflicts_seen(pulled: &[Pulled; 2]) -> String {
    let all: Vec<&Event> = pulled.iter().flat_map(|pulled| &pulled.events).collect();
    let count = |wanted: fn(&EventKind) -> bool| all.iter().filter(|event| wanted(&event.kind)).count();
    let cells = count(|kind| matches!(kind, EventKind::Conflict { .. }));
    let deleted = count(|kind| matches!(kind, EventKind::Deleted));
    let left_out: usize = pulled.iter().map(|pulled| pulled.events_left_out).sum();
    let more =
        if left_out > 0 { format!("; {left_out} more events were only counted") } else { String::new() };
    format!("The pulls met {cells} cells that both sides had written, and deleted {deleted} rows{more}.")
}

async fn verdict(
    story: &mut Story<'_>,
    stage: &Stage,
    files: &Files,
    coverage: &Coverage,
    plans: &BTreeMap<String, Plan>,
) -> anyhow::Result<()> {
    story.step("Compared row by row")?;
    let outcomes = outcomes(files, coverage)?;
    show_outcomes(story, &outcomes, plans)?;
    let differing: usize = outcomes.values().map(|outcome| outcome.differing).sum();
    let what = format!("all {} tables are equal on alice, bob and the hub", outcomes.len());
    story.check(&what, differing == 0)?;
    let logs = logs(stage).await?;
    tour::logs_agree(story, stage, [&logs[0], &logs[1], &logs[2]])?;
    let before = dangling(&files.original)?;
    let after = [dangling(&files.alice)?, dangling(&files.bob)?];
    story.check("no foreign key dangles that did not before", after.iter().all(|n| *n <= before))?;
    for left in &coverage.left_out {
        story.note(&format!("Not covered: {} {} ({})", left.what, left.name, left.reason))?;
    }
    Ok(())
}

fn outcomes(files: &Files, coverage: &Coverage) -> anyhow::Result<BTreeMap<String, Outcome>> {
    let original = read(&files.original, coverage)?;
    let [alice, bob, hub] =
        [read(&files.alice, coverage)?, read(&files.bob, coverage)?, read(&files.hub, coverage)?];
    let outcome = |(table, rows): (&String, &Rows)| {
        let differing = differences(&alice[table], &bob[table]).max(differences(&alice[table], &hub[table]));
        (table.clone(), Outcome { rows_before: rows.len(), rows_after: alice[table].len(), differing })
    };
    Ok(original.iter().map(outcome).collect())
}

fn show_outcomes(
    story: &mut Story<'_>,
    outcomes: &BTreeMap<String, Outcome>,
    plans: &BTreeMap<String, Plan>,
) -> anyhow::Result<()> {
    let mut table = Table::new(&["table", ">rows before", ">edits", ">both", ">rows after", ">differ", ""]);
    let mut facts = Vec::new();
    for (name, outcome) in outcomes {
        let plan = &plans[name];
        let edits = plan.alice.len() + plan.bob.len();
        let equal = outcome.differing == 0;
        let sign = if equal { Cell::styled("✓ equal", GOOD) } else { Cell::styled("✗ not equal", BAD) };
        let numbers = [outcome.rows_before, edits, plan.contested, outcome.rows_after, outcome.differing];
        let mut row = vec![Cell::from(name)];
        row.extend(numbers.map(|n| Cell::from(n.to_string())));
        row.push(sign);
        table.push(row);
        facts.push(json!({
            "table": name, "rows_before": outcome.rows_before, "edits": edits, "both": plan.contested,
            "rows_after": outcome.rows_after, "differing": outcome.differing, "equal": equal,
        }));
    }
    story.fact("tables", json!(facts));
    story.state(&table, json!(facts))
}

async fn logs(stage: &Stage) -> anyhow::Result<[compare::Log; 3]> {
    let hub = client::get(stage.hub_address(), &format!("/changes/{ROOM}?since=0")).await?;
    let hub = compare::log(&Changeset::from_json(hub.bytes(), &DecodeLimits::default())?);
    let of = async |actor: &Actor| {
        let log = actor.peer.with_store(|store| {
            Ok::<_, opor_store::ReadError>(compare::log(&store.changes_since(0.into())?))
        });
        anyhow::Ok(log.await??)
    };
    Ok([hub, of(&stage.alice).await?, of(&stage.bob).await?])
}

fn read(file: &Path, coverage: &Coverage) -> anyhow::Result<BTreeMap<String, Rows>> {
    let db = database::read_only(file)?;
    let rows = |shape: &Shape| Ok((shape.table.clone(), compare::rows(&db, shape)?));
    coverage.shapes.iter().map(rows).collect()
}

fn total_differences(a: &BTreeMap<String, Rows>, b: &BTreeMap<String, Rows>) -> usize {
    a.iter().map(|(table, rows)| differences(rows, &b[table])).sum()
}

/// How many foreign keys point nowhere.
fn dangling(file: &Path) -> anyhow::Result<i64> {
    let count = "SELECT count(*) FROM pragma_foreign_key_check";
    Ok(database::read_only(file)?.query_row(count, [], |row| row.get(0))?)
}
