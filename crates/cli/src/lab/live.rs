//! What the lab shows of peers that are linked: edits appear on the other side as they happen, and wait while there is no
//! link.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use opor_core::Cid;
use opor_store::Store;
use serde::Deserialize;
use serde_json::json;

use super::client;
use super::event::Written;
use super::peer::ROOM;
use super::stage::{Actor, Stage};
use super::story::Story;
use super::todos::{self, Edit, NewTodo, TABLE, Todo};
use super::tour::{converged, counted, write};

/// Far more than anything in the lab takes: what has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether everything has arrived.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Edits on both sides while both are linked.
pub(crate) async fn play(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    story.step("Live: what one writes appears on the other as it happens")?;
    let (alice, bob) = (&stage.alice, &stage.bob);
    let eggs = NewTodo { id: Some("eggs".into()), title: "buy eggs".into() };
    write(story, alice, "/add", &eggs).await?;
    let added = appears(story, bob, |todo| todo.is_some_and(|todo| todo.title == "buy eggs")).await?;
    let edit = Edit { id: "eggs".into(), title: Some("buy six eggs".into()), done: None };
    write(story, bob, "/edit", &edit).await?;
    let edited = appears(story, alice, |todo| todo.is_some_and(|todo| todo.title == "buy six eggs")).await?;
    write(story, alice, "/delete", &json!({ "id": "eggs" })).await?;
    let deleted = appears(story, bob, |todo| todo.is_none()).await?;
    settle(stage).await?;
    story.check("three edits arrived, and nobody pushed or pulled", added && edited && deleted)?;
    converged(story, stage).await
}

/// Waits until the row of this step is as it should be, and says how long that took; whether it came to that.
async fn appears(
    story: &mut Story<'_>,
    actor: &Actor,
    is_there: impl Fn(Option<&Todo>) -> bool + Clone + Send + 'static,
) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let look = move |store: &Store| {
        let todos = todos::all(store)?;
        Ok::<_, rusqlite::Error>(is_there(todos.iter().find(|todo| todo.id == "eggs")))
    };
    let came = actor.peer.wait_until(PATIENCE, look).await?;
    let took = begun.elapsed().as_millis();
    let answer = if came { format!("there after {took} ms") } else { "still not there".into() };
    story.call(actor.peer.name, "GET /todos", &answer)?;
    Ok(came)
}

/// Cuts the links, so that both sides write on their own.
pub(crate) async fn cut(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    if !stage.transport().is_live() {
        return Ok(());
    }
    for actor in stage.actors() {
        client::post(actor.address(), "/disconnect", String::new()).await?;
        story.call(actor.peer.name, "POST /disconnect", "writes on its own now")?;
    }
    Ok(())
}

/// Links both sides with the hub again, and waits until everything has arrived everywhere.
pub(crate) async fn link(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    let begun = Instant::now();
    for actor in stage.actors() {
        client::post(actor.address(), "/connect", String::new()).await?;
        story.call(actor.peer.name, "POST /connect", "")?;
    }
    settle(stage).await?;
    story.note(&format!("Everything has arrived everywhere after {} ms.", begun.elapsed().as_millis()))
}

/// Both were stopped and are back: nothing travels twice, and what is new does.
pub(crate) async fn after_restart(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    let before = versions(stage).await?;
    link(story, stage).await?;
    story.check("nothing is sent twice: nobody had a reason to commit", versions(stage).await? == before)?;
    let post = NewTodo { id: Some("post".into()), title: "go to the post office".into() };
    write(story, &stage.alice, "/add", &post).await?;
    settle(stage).await?;
    let after = versions(stage).await?;
    story.check("only the new row travels: one commit each", after == before.map(|version| version + 1))?;
    converged(story, stage).await
}

/// The last commits of the hub, alice and bob.
async fn versions(stage: &Stage) -> anyhow::Result<[u64; 3]> {
    Ok([hub_version(stage).await?, stage.alice.peer.version().await?, stage.bob.peer.version().await?])
}

#[derive(Debug, Deserialize)]
struct RoomAnswer {
    db_version: u64,
}

/// Waits until each peer holds all commits of the hub, and the hub all of theirs.
pub(crate) async fn settle(stage: &Stage) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_settled(stage).await? {
        if begun.elapsed() > PATIENCE {
            bail!("the peers did not get in step within {}", counted(PATIENCE.as_secs() as usize, "second"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

async fn is_settled(stage: &Stage) -> anyhow::Result<bool> {
    let hub = hub_version(stage).await?;
    for actor in stage.actors() {
        let version = actor.peer.version().await?;
        if actor.peer.cursors().await? != (Some(hub), version) {
            return Ok(false);
        }
    }
    // What arrived meanwhile would have made a commit.
    Ok(hub_version(stage).await? == hub)
}

async fn hub_version(stage: &Stage) -> anyhow::Result<u64> {
    let answer = client::get(stage.hub_address(), &format!("/rooms/{ROOM}/schema")).await?;
    Ok(answer.json::<RoomAnswer>()?.db_version)
}

/// What a peer holds in the title of a todo, and who wrote it when.
pub(crate) async fn title_of(actor: &Actor, id: &'static str) -> anyhow::Result<Written> {
    let find = move |store: &mut Store| {
        let log = store.changes_since(0.into())?;
        let is_it = |change: &opor_core::Change| {
            &*change.table == TABLE
                && change.cid == Cid::from("title")
                && change.pk.to_string() == format!("'{id}'")
        };
        let found = log.changes().find(is_it);
        Ok::<_, opor_store::ReadError>(found.map(|change| Written::of_change(&change)))
    };
    actor.peer.with_store(find).await??.with_context(|| format!("{} has no todo {id}", actor.peer.name))
}
