//! The endpoints of a peer: the todo list, and pushing and pulling it.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use opor_store::Store;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::peer::Peer;
use super::todos::{self, Edit, NewTodo, Todo};

type Answer = Result<Response, Refusal>;

/// An error as `{"error": {"kind": .., "message": ..}}`, the form the hub uses.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

/// A row to delete.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    id: String,
}

/// The endpoints of a peer; those of the todo list only when it has one. A peer that can be linked does not push and pull.
pub(crate) fn router(peer: Arc<Peer>, todos: bool, live: bool) -> Router {
    let router = Router::new().route("/status", get(status)).route("/changes", get(changes));
    let router = if live {
        router.route("/connect", post(connect)).route("/disconnect", post(disconnect))
    } else {
        router.route("/push", post(push)).route("/pull", post(pull))
    };
    let router = if todos {
        router
            .route("/todos", get(list))
            .route("/add", post(add))
            .route("/edit", post(edit))
            .route("/delete", post(delete))
    } else {
        router
    };
    let unknown = async || Refusal::new(StatusCode::NOT_FOUND, "unknown_endpoint", "no such endpoint");
    let method = async || {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "this endpoint does not take that method")
    };
    router.fallback(unknown).method_not_allowed_fallback(method).with_state(peer)
}

async fn list(State(peer): State<Arc<Peer>>) -> Answer {
    json(&with_store(&peer, |store| todos::all(store)).await?)
}

async fn add(State(peer): State<Arc<Peer>>, body: Bytes) -> Answer {
    let new: NewTodo = parse(&body)?;
    let added = with_store(&peer, move |store| todos::add(store, &new)).await?;
    let taken = || Refusal::new(StatusCode::CONFLICT, "id_taken", "there is a todo with this id already");
    json(&added.ok_or_else(taken)?)
}

async fn edit(State(peer): State<Arc<Peer>>, body: Bytes) -> Answer {
    let change: Edit = parse(&body)?;
    json(&found(with_store(&peer, move |store| todos::edit(store, &change)).await?)?)
}

async fn delete(State(peer): State<Arc<Peer>>, body: Bytes) -> Answer {
    let target: Target = parse(&body)?;
    json(&found(with_store(&peer, move |store| todos::delete(store, &target.id)).await?)?)
}

async fn push(State(peer): State<Arc<Peer>>) -> Answer {
    json(&peer.push().await?)
}

async fn pull(State(peer): State<Arc<Peer>>) -> Answer {
    json(&peer.pull().await?)
}

async fn connect(State(peer): State<Arc<Peer>>) -> Answer {
    peer.connect().await?;
    json(&serde_json::json!({ "link": peer.link().await }))
}

async fn disconnect(State(peer): State<Arc<Peer>>) -> Answer {
    peer.disconnect().await;
    json(&serde_json::json!({ "link": peer.link().await }))
}

/// The whole change log, in the JSON of the hub.
async fn changes(State(peer): State<Arc<Peer>>) -> Answer {
    let log = peer.with_store(|store| store.changes_since(0.into())).await?.map_err(anyhow::Error::from)?;
    Ok(document(StatusCode::OK, log.to_json()))
}

async fn status(State(peer): State<Arc<Peer>>) -> Answer {
    let (pulled, acknowledged) = peer.cursors().await?;
    json(&serde_json::json!({
        "name": peer.name,
        "file": peer.file,
        "site_id": peer.site_id.to_string(),
        "pulled_to": pulled,
        "acknowledged": acknowledged,
        "link": peer.link().await,
    }))
}

async fn with_store<T: Send + 'static>(
    peer: &Peer,
    work: impl FnOnce(&mut Store) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    Ok(peer.with_store(work).await?.map_err(anyhow::Error::from)?)
}

fn found(todo: Option<Todo>) -> Result<Todo, Refusal> {
    todo.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "unknown_todo", "there is no todo with this id"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "malformed", &error.to_string()))
}

fn json(value: &impl Serialize) -> Answer {
    let text = serde_json::to_string(value).map_err(anyhow::Error::from)?;
    Ok(document(StatusCode::OK, text))
}

fn document(status: StatusCode, text: String) -> Response {
    // The line break is for people at a terminal.
    (status, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response()
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, message: &str) -> Self {
        Self { status, kind, message: message.to_owned() }
    }
}

/// Whatever else fails: the hub being away, the database.
impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, kind: "failed", message: format!("{error:#}") }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": { "kind": self.kind, "message": self.message } });
        document(self.status, body.to_string())
    }
}
