//! The hub itself: its endpoints, and the rooms behind them.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Path};
use axum::http::{header, request::Parts};
use axum::response::IntoResponse;
use axum::routing::{get, put};
use axum::{RequestPartsExt, Router};

use crate::room::Rooms;
use crate::{HubError, HubOptions, RoomName, changes, schema_route};

/// A hub: cheap to clone, every clone the same hub.
#[derive(Clone, Debug)]
pub struct Hub {
    rooms: Arc<Rooms>,
}

/// The endpoints of a new hub, to nest in any axum application.
///
/// Its rooms are closed when the router is dropped; use [`Hub`] to close them at a moment of your choice.
pub fn router(options: HubOptions) -> Router {
    Hub::new(options).router()
}

impl Hub {
    /// A hub with no room open yet. Touches no file.
    #[must_use]
    pub fn new(options: HubOptions) -> Self {
        Self { rooms: Arc::new(Rooms::new(options)) }
    }

    /// The endpoints.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/changes/{room}", get(changes::pull).post(changes::post))
            .route("/rooms/{room}/schema", put(schema_route::put))
            .fallback(async || HubError::UnknownEndpoint)
            .method_not_allowed_fallback(async || HubError::Method)
            .layer(DefaultBodyLimit::max(self.options().body_bytes_max))
            .with_state(self.clone())
    }

    /// Closes every room once what waits in its queue is done. Requests that come later are answered "closing".
    ///
    /// Blocks until the last room is closed: on a runtime, call it where blocking is allowed.
    pub fn close(&self) {
        self.rooms.close();
    }

    pub(crate) const fn rooms(&self) -> &Arc<Rooms> {
        &self.rooms
    }

    pub(crate) fn options(&self) -> &HubOptions {
        self.rooms.options()
    }
}

async fn healthz() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], r#"{"status":"ok"}"#)
}

/// The `{room}` of an address.
impl<S: Send + Sync> FromRequestParts<S> for RoomName {
    type Rejection = HubError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, HubError> {
        let path = parts.extract::<Path<String>>().await;
        let Path(name) = path.map_err(|error| HubError::Query { reason: error.body_text() })?;
        Ok(Self::new(&name)?)
    }
}
