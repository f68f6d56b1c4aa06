//! The walk through the lab with a todo list.

use opor_core::{Changeset, DecodeLimits};
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::client::{self, Reply};
use super::peer::{Pulled, Pushed, ROOM};
use super::stage::{Actor, Schema, Setting, Stage};
use super::story::{Story, name_cell};
use super::todos::{self, NewTodo, Todo};
use super::{compare, conflicts, live};
use crate::style::{DIM, GOOD, MARK, of_name};
use crate::table::{Cell, Table};

/// Tells the whole story, or only starts the servers of an earlier one.
pub(crate) async fn play(story: &mut Story<'_>, setting: &Setting, resumed: bool) -> anyhow::Result<Stage> {
    story.fact("lab", "todos".into());
    let stage = Stage::start(setting, schema()).await?;
    introduce(story, &stage)?;
    if resumed {
        story.note("These are the files of an earlier lab; its rows and cursors are still there.")?;
        if stage.transport().is_live() {
            live::link(story, &stage).await?;
        }
        converged(story, &stage).await?;
        return Ok(stage);
    }
    offline_writes(story, &stage).await?;
    first_sync(story, &stage).await?;
    if stage.transport().is_live() {
        live::play(story, &stage).await?;
    }
    conflicts::play(story, &stage).await?;
    restart(story, stage).await
}

fn schema() -> Schema {
    let statements = vec![todos::SCHEMA.to_owned()];
    Schema { hub: statements.clone(), peer: statements, tables: vec![todos::TABLE.into()], todos: true }
}

/// Names the servers.
pub(crate) fn introduce(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    story.step("Three servers, three database files")?;
    let mut table = Table::new(&["", "address", "site", "database"]);
    let mut servers = serde_json::Map::new();
    let hub = ("hub", stage.hub_address(), stage.hub_site, stage.hub_file());
    let peers = stage
        .actors()
        .map(|actor| (actor.peer.name, actor.address(), actor.peer.site_id, actor.peer.file.clone()));
    for (name, address, site, file) in [hub].into_iter().chain(peers) {
        let (url, site) = (format!("http://{address}"), site.to_string());
        servers.insert(name.to_owned(), json!({ "url": url, "site_id": site, "file": file }));
        let site = Cell::styled(&site[..8], DIM);
        table.push(vec![name_cell(name), url.into(), site, Cell::styled(file.to_string_lossy(), DIM)]);
    }
    story.fact("servers", Json::Object(servers.clone()));
    story.state(&table, Json::Object(servers))
}

async fn offline_writes(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    story.step("Offline writes: nobody has synced yet")?;
    let writes = [
        (&stage.alice, "milk", "buy milk"),
        (&stage.alice, "bread", "buy bread"),
        (&stage.bob, "plants", "water the plants"),
        (&stage.bob, "mum", "call mum"),
    ];
    for (actor, id, title) in writes {
        write(story, actor, "/add", &NewTodo { id: Some(id.into()), title: title.into() }).await?;
    }
    let todos = todos_of(stage).await?;
    show(story, &todos)?;
    story.check("alice and bob hold different rows", todos[0] != todos[1])
}

async fn first_sync(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    story.step("Sync through the hub, both ways")?;
    sync(story, stage).await?;
    converged(story, stage).await
}

async fn restart(story: &mut Story<'_>, stage: Stage) -> anyhow::Result<Stage> {
    story.step("Restart: cursors are in the database files")?;
    let before = cursors(&stage).await?;
    let stage = stage.restart().await?;
    story.note("All three servers were stopped, and started again on their files.")?;
    let after = cursors(&stage).await?;
    story.check("cursors are what they were", before == after)?;
    if stage.transport().is_live() {
        live::after_restart(story, &stage).await?;
        return Ok(stage);
    }
    let (_, pulled) = sync(story, &stage).await?;
    story.check("nothing is sent twice", pulled.iter().all(|pulled| pulled.received == 0))?;
    let post = NewTodo { id: Some("post".into()), title: "go to the post office".into() };
    write(story, &stage.alice, "/add", &post).await?;
    let pushed = push(story, &stage.alice).await?;
    let pulled = pull(story, &stage.bob).await?;
    story.check("only the new row travels", pulled.received == pushed.sent && pulled.rows_inserted == 1)?;
    converged(story, &stage).await?;
    Ok(stage)
}

async fn cursors(stage: &Stage) -> anyhow::Result<[(Option<u64>, u64); 2]> {
    Ok([stage.alice.peer.cursors().await?, stage.bob.peer.cursors().await?])
}

/// A write to the todo list of a peer.
pub(crate) async fn write(
    story: &mut Story<'_>,
    actor: &Actor,
    path: &str,
    body: &impl Serialize,
) -> anyhow::Result<()> {
    let body = serde_json::to_string(body)?;
    client::post(actor.address(), path, body.clone()).await?;
    story.call(actor.peer.name, &format!("POST {path} {body}"), "")
}

/// Alice pushes, bob pulls and pushes, alice pulls; what was pushed and pulled, alice first. Or both are linked, and nobody
/// pushes or pulls.
///
/// Who pulls before pushing meets conflicts: a write that the hub has not seen yet cannot have been known elsewhere.
pub(crate) async fn sync(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<([Pushed; 2], [Pulled; 2])> {
    if stage.transport().is_live() {
        live::link(story, stage).await?;
        return Ok(Default::default());
    }
    let alice_pushed = push(story, &stage.alice).await?;
    let bob_pulled = pull(story, &stage.bob).await?;
    let bob_pushed = push(story, &stage.bob).await?;
    let alice_pulled = pull(story, &stage.alice).await?;
    Ok(([alice_pushed, bob_pushed], [alice_pulled, bob_pulled]))
}

async fn push(story: &mut Story<'_>, actor: &Actor) -> anyhow::Result<Pushed> {
    let pushed: Pushed = client::post(actor.address(), "/push", String::new()).await?.json()?;
    let answer =
        format!("{} sent, acknowledged to commit {}", counted(pushed.sent, "change"), pushed.acknowledged);
    story.call(actor.peer.name, "POST /push", &answer)?;
    Ok(pushed)
}

async fn pull(story: &mut Story<'_>, actor: &Actor) -> anyhow::Result<Pulled> {
    let pulled: Pulled = client::post(actor.address(), "/pull", String::new()).await?.json()?;
    let answer =
        format!("{} received, cursor at commit {}", counted(pulled.received, "change"), pulled.cursor);
    story.call(actor.peer.name, "POST /pull", &answer)?;
    Ok(pulled)
}

/// Shows both lists, and checks that rows and change logs are equal everywhere.
pub(crate) async fn converged(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    let todos = todos_of(stage).await?;
    show(story, &todos)?;
    story.check(&format!("alice and bob hold the same {} rows", todos[0].len()), todos[0] == todos[1])?;
    let hub = client::get(stage.hub_address(), &format!("/changes/{ROOM}?since=0")).await?;
    let alice = client::get(stage.alice.address(), "/changes").await?;
    let bob = client::get(stage.bob.address(), "/changes").await?;
    let [hub, alice, bob] = [log(&hub)?, log(&alice)?, log(&bob)?];
    logs_agree(story, stage, [&hub, &alice, &bob])
}

/// Checks that the change logs of hub, alice and bob hold the same.
pub(crate) fn logs_agree(
    story: &mut Story<'_>,
    stage: &Stage,
    [hub, alice, bob]: [&compare::Log; 3],
) -> anyhow::Result<()> {
    let peers = [stage.alice.peer.site_id, stage.bob.peer.site_id];
    let compared = [alice, bob].map(|log| compare::compare_logs(hub, log, &peers));
    let twice = compared.iter().map(|found| found.credited_otherwise).max().unwrap_or(0);
    if twice > 0 {
        let changes = counted(twice, "change");
        story
            .note(&format!("{changes} made alike on both sides: each replica keeps the one it saw first."))?;
    }
    let what = format!("the change logs of alice, bob and the hub hold the same {} changes", hub.len());
    story.check(&what, compared.iter().all(|found| found.differing == 0))
}

/// `1 row`, `2 rows`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn log(reply: &Reply) -> anyhow::Result<compare::Log> {
    Ok(compare::log(&Changeset::from_json(reply.bytes(), &DecodeLimits::default())?))
}

/// The todo lists of alice and bob.
pub(crate) async fn todos_of(stage: &Stage) -> anyhow::Result<[Vec<Todo>; 2]> {
    let alice = client::get(stage.alice.address(), "/todos").await?.json()?;
    let bob = client::get(stage.bob.address(), "/todos").await?.json()?;
    Ok([alice, bob])
}

/// Shows both lists.
pub(crate) fn show(story: &mut Story<'_>, todos: &[Vec<Todo>; 2]) -> anyhow::Result<()> {
    story.state(&side_by_side(todos), json!({ "alice": todos[0], "bob": todos[1] }))
}

fn side_by_side([alice, bob]: &[Vec<Todo>; 2]) -> Table {
    let mut table = Table::new(&["id", "alice", "done", "", "bob", "done", ""]);
    table.title_style(1, of_name("alice"));
    table.title_style(4, of_name("bob"));
    let mut ids: Vec<&str> = alice.iter().chain(bob).map(|todo| &*todo.id).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let find = |todos: &[Todo]| todos.iter().find(|todo| todo.id == id).cloned();
        table.push(pair(id, find(alice).as_ref(), find(bob).as_ref()));
    }
    table
}

fn pair(id: &str, alice: Option<&Todo>, bob: Option<&Todo>) -> Vec<Cell> {
    let differ = |of: fn(&Todo) -> String| alice.map(of) != bob.map(of);
    let cell = |todo: Option<&Todo>, of: fn(&Todo) -> String| {
        let text = todo.map_or_else(|| "-".to_owned(), of);
        if differ(of) { Cell::styled(text, MARK) } else { text.into() }
    };
    let title = |todo: &Todo| todo.title.clone();
    let done = |todo: &Todo| if todo.done { "yes".to_owned() } else { "no".to_owned() };
    let sign = if alice == bob { Cell::styled("=", GOOD) } else { Cell::styled("≠", MARK) };
    vec![
        id.into(),
        cell(alice, title),
        cell(alice, done),
        "│".into(),
        cell(bob, title),
        cell(bob, done),
        sign,
    ]
}
