//! The steps of the lab as curl commands.

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::peer::ROOM;
use super::stage::{Actor, Stage};

/// Some commands and what they show.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CurlStep {
    pub(crate) what: &'static str,
    pub(crate) commands: Vec<String>,
}

/// Commands that work when they are pasted into a shell, in this order, once.
pub(crate) fn steps(stage: &Stage, real_database: bool) -> Vec<CurlStep> {
    let look = vec![
        format!("curl -s 'http://{}/changes/{ROOM}?since=0&limit=10'", stage.hub_address()),
        get(&stage.alice, "/status"),
        get(&stage.bob, "/status"),
    ];
    let look = CurlStep { what: "the hub's change log, and how far each peer has synced", commands: look };
    if real_database {
        let what = if stage.transport().is_live() {
            "edit alice.sqlite or bob.sqlite with any program that uses opor; this links them, should they not be"
        } else {
            "edit alice.sqlite or bob.sqlite with any program that uses opor, then sync"
        };
        return vec![CurlStep { what, commands: sync(stage) }, look];
    }
    let mut steps = offline_writes(stage);
    steps.extend(conflicts(stage));
    steps.push(look);
    steps
}

fn offline_writes(stage: &Stage) -> Vec<CurlStep> {
    let (alice, bob) = (&stage.alice, &stage.bob);
    let mut writes = cut(stage);
    writes.extend([
        post(alice, "/add", &json!({ "id": "tea", "title": "buy tea" })),
        post(bob, "/add", &json!({ "id": "rice", "title": "buy rice" })),
    ]);
    let both = vec![get(alice, "/todos"), get(bob, "/todos")];
    vec![
        CurlStep { what: "offline writes on both sides", commands: writes },
        CurlStep { what: "they differ", commands: both.clone() },
        CurlStep { what: "sync both ways", commands: sync(stage) },
        CurlStep { what: "they are the same", commands: both },
    ]
}

fn conflicts(stage: &Stage) -> Vec<CurlStep> {
    let (alice, bob) = (&stage.alice, &stage.bob);
    let scene = |what, writes: [String; 2]| {
        let mut commands = cut(stage);
        commands.extend(writes);
        commands.extend(sync(stage));
        commands.push(get(alice, "/todos"));
        CurlStep { what, commands }
    };
    vec![
        scene(
            if stage.transport().is_live() {
                "the same cell on both sides: the later write wins"
            } else {
                "the same cell on both sides: the later write wins; see \"events\" in the answers of /pull"
            },
            [
                post(alice, "/edit", &json!({ "id": "tea", "title": "green tea" })),
                post(bob, "/edit", &json!({ "id": "tea", "title": "black tea" })),
            ],
        ),
        scene(
            "different columns of one row: both stay",
            [
                post(alice, "/edit", &json!({ "id": "rice", "title": "brown rice" })),
                post(bob, "/edit", &json!({ "id": "rice", "done": true })),
            ],
        ),
        scene(
            "delete against update: the delete wins",
            [
                post(alice, "/delete", &json!({ "id": "tea" })),
                post(bob, "/edit", &json!({ "id": "tea", "title": "no tea" })),
            ],
        ),
    ]
}

/// Where the peers are linked, they are cut off first, or there would be no conflict.
fn cut(stage: &Stage) -> Vec<String> {
    if !stage.transport().is_live() {
        return Vec::new();
    }
    stage.actors().map(|actor| format!("curl -s -X POST {}", url(actor, "/disconnect"))).into()
}

fn sync(stage: &Stage) -> Vec<String> {
    if stage.transport().is_live() {
        return stage.actors().map(|actor| format!("curl -s -X POST {}", url(actor, "/connect"))).into();
    }
    let steps =
        [(&stage.alice, "/push"), (&stage.bob, "/pull"), (&stage.bob, "/push"), (&stage.alice, "/pull")];
    steps.map(|(actor, path)| format!("curl -s -X POST {}", url(actor, path))).into()
}

fn get(actor: &Actor, path: &str) -> String {
    format!("curl -s {}", url(actor, path))
}

fn post(actor: &Actor, path: &str, body: &Json) -> String {
    format!("curl -s -d '{body}' {}", url(actor, path))
}

fn url(actor: &Actor, path: &str) -> String {
    format!("http://{}{path}", actor.address())
}
