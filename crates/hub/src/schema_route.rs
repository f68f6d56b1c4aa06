//! `/rooms/{room}/schema`: what tables a room has; creates a room, or adds tables to it.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;

use crate::body::{WholeBody, parse_json};
use crate::hub::Hub;
use crate::{HubError, RoomName, RoomSchema};

/// The body: statements, and the tables to replicate; without `tables`, all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SchemaBody {
    schema: Vec<String>,
    tables: Option<Vec<String>>,
}

/// Answers `{room, schema, tables, site_id, db_version}`: what a replica without tables begins with.
pub(crate) async fn get(State(hub): State<Hub>, room: RoomName) -> Result<impl IntoResponse, HubError> {
    let visit = hub.rooms().existing(&room).await?;
    let answer = visit.read(move |store| {
        let schema = RoomSchema::of(store)?;
        Ok(serde_json::json!({
            "room": room.as_str(),
            "schema": schema.statements().collect::<Vec<_>>(),
            "tables": schema.tables(),
            "site_id": store.site_id().to_string(),
            "db_version": store.db_version()?,
        }))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.await?.to_string()))
}

/// Answers `{room, tables, site_id, db_version}`. Idempotent for the same schema.
pub(crate) async fn put(
    State(hub): State<Hub>,
    room: RoomName,
    WholeBody(body, _share): WholeBody,
) -> Result<impl IntoResponse, HubError> {
    let body: SchemaBody = parse_json(&body)?;
    let schema = tokio::task::spawn_blocking(move || match body.tables {
        Some(tables) => RoomSchema::parse(body.schema, tables),
        None => RoomSchema::parse_all(body.schema),
    });
    let schema = schema.await.map_err(|_| HubError::Closing)??;
    let name = room.to_string();
    let visit = hub.rooms().room(&room).await?;
    let answer = visit.write(move |store| {
        schema.create_in(store)?;
        Ok(serde_json::json!({
            "room": name,
            "tables": store.replicated_tables()?,
            "site_id": store.site_id().to_string(),
            "db_version": store.db_version()?,
        }))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.await?.to_string()))
}
