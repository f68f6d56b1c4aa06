//! The conflict demonstration: both sides write to one row, and the lab says who won and why.

use std::time::Duration;

use opor_core::ColVersion;
use serde_json::json;

use super::event::{Event, EventKind, Written};
use super::live;
use super::peer::Pulled;
use super::stage::Stage;
use super::story::Story;
use super::todos::{Edit, Todo};
use super::tour::{converged, show, sync, todos_of, write};
use crate::stamp;

/// Enough for the clock to show another millisecond.
const BETWEEN_WRITES: Duration = Duration::from_millis(5);

/// Plays the three kinds of conflict.
pub(crate) async fn play(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    same_column(story, stage).await?;
    different_columns(story, stage).await?;
    delete_against_update(story, stage).await
}

async fn same_column(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    story.step("Conflict: both write the same cell")?;
    live::cut(story, stage).await?;
    write(story, &stage.alice, "/edit", &title("milk", "buy oat milk")).await?;
    // Two people do not write within one millisecond; two requests of a program do, and a tie teaches less.
    tokio::time::sleep(BETWEEN_WRITES).await;
    write(story, &stage.bob, "/edit", &title("milk", "buy soy milk")).await?;
    diverged(story, stage, "milk").await?;
    let written = [live::title_of(&stage.alice, "milk").await?, live::title_of(&stage.bob, "milk").await?];
    let (_, pulled) = sync(story, stage).await?;
    let conflict = if stage.transport().is_live() {
        let now = live::title_of(&stage.alice, "milk").await?;
        story.check("both had written the cell", written[0].site_id != written[1].site_id)?;
        outcome(&written, &now)
    } else {
        let conflict = conflict_in(&pulled, "milk", "title");
        story.check("the merge reported the conflict", conflict.is_some())?;
        conflict
    };
    if let Some((winner, loser)) = conflict {
        for line in explain(stage, winner, loser) {
            story.note(&line)?;
        }
        let title = winner.value.trim_matches('\'');
        let todos = todos_of(stage).await?;
        let everywhere =
            todos.iter().all(|todos| todos.iter().any(|todo| todo.id == "milk" && todo.title == title));
        story.check(&format!("both hold {}", winner.value), everywhere)?;
    }
    converged(story, stage).await
}

async fn different_columns(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    story.step("No conflict: both write to one row, in different columns")?;
    live::cut(story, stage).await?;
    write(story, &stage.alice, "/edit", &title("plants", "water the ferns")).await?;
    write(story, &stage.bob, "/edit", &tick("plants")).await?;
    diverged(story, stage, "plants").await?;
    sync(story, stage).await?;
    story.note(
        "Rows merge column by column: alice's title and bob's tick are different cells, so both stay.",
    )?;
    let todos = todos_of(stage).await?;
    let both_stay = |todos: &Vec<Todo>| {
        todos.iter().any(|todo| todo.id == "plants" && todo.title == "water the ferns" && todo.done)
    };
    story.check("both hold alice's title and bob's tick", todos.iter().all(both_stay))?;
    converged(story, stage).await
}

async fn delete_against_update(story: &mut Story<'_>, stage: &Stage) -> anyhow::Result<()> {
    story.step("Conflict: one deletes the row, the other updates it")?;
    live::cut(story, stage).await?;
    write(story, &stage.alice, "/delete", &json!({ "id": "bread" })).await?;
    write(story, &stage.bob, "/edit", &title("bread", "buy rye bread")).await?;
    diverged(story, stage, "bread").await?;
    let (_, pulled) = sync(story, stage).await?;
    let [_, bob] = &pulled;
    let deleted =
        bob.events.iter().any(|event| is_about(event, "bread") && matches!(event.kind, EventKind::Deleted));
    story.note(
        "alice's delete wins, whenever bob wrote: it raises the causal length of the row from 1 to 2,",
    )?;
    story.note("and bob's title belongs to length 1. Inserting the row again would make it 3.")?;
    if !stage.transport().is_live() {
        story.check("the merge reported to bob that the row was deleted", deleted)?;
    }
    let todos = todos_of(stage).await?;
    let gone = todos.iter().all(|todos| todos.iter().all(|todo| todo.id != "bread"));
    story.check("the row is gone on both sides", gone)?;
    converged(story, stage).await
}

fn title(id: &str, title: &str) -> Edit {
    Edit { id: id.into(), title: Some(title.into()), done: None }
}

fn tick(id: &str) -> Edit {
    Edit { id: id.into(), title: None, done: Some(true) }
}

/// Shows one row on both sides before they sync.
async fn diverged(story: &mut Story<'_>, stage: &Stage, id: &str) -> anyhow::Result<()> {
    let todos = todos_of(stage).await?;
    let only = todos.map(|todos| todos.into_iter().filter(|todo| todo.id == id).collect());
    show(story, &only)
}

/// What both had written, the one that is there now first.
fn outcome<'a>(written: &'a [Written; 2], now: &Written) -> Option<(&'a Written, &'a Written)> {
    let [alice, bob] = written;
    match &now.site_id {
        site if *site == alice.site_id => Some((alice, bob)),
        site if *site == bob.site_id => Some((bob, alice)),
        _ => None,
    }
}

/// The conflict over a cell of the todo list, from whichever peer saw it, the winner first: the one whose value was
/// replaced.
fn conflict_in<'a>(pulled: &'a [Pulled; 2], id: &str, wanted: &str) -> Option<(&'a Written, &'a Written)> {
    let events = pulled.iter().flat_map(|pulled| &pulled.events);
    events.filter(|event| is_about(event, id)).find_map(|event| match &event.kind {
        EventKind::Conflict { column, local, incoming, incoming_won } if column == wanted => {
            Some(if *incoming_won { (incoming, local) } else { (local, incoming) })
        }
        _ => None,
    })
}

fn is_about(event: &Event, id: &str) -> bool {
    event.key == format!("'{id}'")
}

fn explain(stage: &Stage, winner: &Written, loser: &Written) -> Vec<String> {
    let wrote = |written: &Written| {
        let time = stamp::clock(ColVersion(written.col_version));
        format!("{} wrote {} at {time}", stage.name_of(&written.site_id), written.value)
    };
    vec![wrote(loser), wrote(winner), reason(&stage.name_of(&winner.site_id), winner, loser)]
}

fn reason(name: &str, winner: &Written, loser: &Written) -> String {
    let (later, earlier) = (ColVersion(winner.col_version), ColVersion(loser.col_version));
    if later > earlier {
        let distance = stamp::distance(later, earlier);
        return format!("{name} wins: the later write wins, and this one is {distance} later");
    }
    format!("{name} wins: both stamps are the same, and of two values written at one time the greater wins")
}
