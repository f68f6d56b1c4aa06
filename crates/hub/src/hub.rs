//! The hub itself: its endpoints, and the rooms behind them.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, State};
use axum::http::{header, request::Parts};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{RequestPartsExt, Router, middleware};
use tokio::sync::Semaphore;

use crate::access::guard;
use crate::event::HubEvents;
use crate::http_route::{self, HttpLinks};
use crate::places::Places;
use crate::rooms::Rooms;
use crate::{HubError, HubOptions, RoomName, changes, schema_route, sync_route};

/// Bodies under way hold at most so many bytes together, in KiB.
pub(crate) const BODIES_KIB: usize = 64 << 10;

/// Answers that are written piece by piece, at once: each holds a piece of the log.
const STREAMS_MAX: usize = 32;

/// Peers that have not shown a token yet, at once: each holds a link until its hello has come.
const STRANGERS_MAX: usize = 64;

/// A hub: cheap to clone, every clone the same hub.
#[derive(Clone, Debug)]
pub struct Hub {
    rooms: Arc<Rooms>,
    places: Arc<Places>,
    bodies: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    http_links: HttpLinks,
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
        Self {
            http_links: HttpLinks::new(&options),
            places: Arc::new(Places::new(&options)),
            rooms: Arc::new(Rooms::new(options)),
            bodies: Arc::new(Semaphore::new(BODIES_KIB)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        }
    }

    /// The endpoints. Sync sessions need the server to support upgrades, as [`serve`](crate::serve()) and `axum::serve` do.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/changes/{room}", get(changes::pull).post(changes::post))
            .route("/rooms/{room}/schema", get(schema_route::get).put(schema_route::put))
            .route_layer(middleware::from_fn_with_state(self.clone(), guard))
            // These judge for themselves: the token may come in the hello of a session.
            .route("/sync/{room}", get(sync_route::join))
            .route(
                "/http-sync/{room}",
                get(http_route::answer).post(http_route::answer).delete(http_route::answer),
            )
            .route("/healthz", get(healthz))
            .fallback(async || HubError::UnknownEndpoint)
            .method_not_allowed_fallback(async || HubError::Method)
            .layer(DefaultBodyLimit::max(self.options().body_bytes_max))
            .with_state(self.clone())
    }

    /// What happens in this hub from now on.
    #[must_use]
    pub fn events(&self) -> HubEvents {
        self.rooms.teller().events()
    }

    /// Says goodbye to all sessions, and lets no new ones begin; other requests are answered as before. Sessions over HTTP
    /// hear it while the server serves, so this comes before the end of [`serve`](crate::serve()). Those who have not fetched it
    /// in 2 seconds are left without.
    ///
    /// # Cancel safety
    /// Dropped, it may have been said to some; nothing that was acknowledged is lost, and it can be called again.
    pub async fn dismiss(&self) {
        self.rooms.dismiss().await;
        self.http_links.farewell().await;
    }

    /// As [`dismiss`](Self::dismiss) and more: says goodbye to all sessions, waits for the merges under way, and closes every room once what waits in its queue
    /// is done. Requests that come later are answered "closing".
    ///
    /// # Cancel safety
    /// Dropped, the rooms go on closing by themselves; nothing that was acknowledged is lost.
    pub async fn close(&self) {
        self.dismiss().await;
        self.rooms.close().await;
    }

    pub(crate) const fn rooms(&self) -> &Arc<Rooms> {
        &self.rooms
    }

    pub(crate) const fn places(&self) -> &Arc<Places> {
        &self.places
    }

    pub(crate) const fn bodies(&self) -> &Arc<Semaphore> {
        &self.bodies
    }

    pub(crate) const fn streams(&self) -> &Arc<Semaphore> {
        &self.streams
    }

    pub(crate) const fn http_links(&self) -> &HttpLinks {
        &self.http_links
    }

    pub(crate) const fn strangers(&self) -> &Arc<Semaphore> {
        &self.strangers
    }

    pub(crate) fn options(&self) -> &HubOptions {
        self.rooms.options()
    }
}

async fn healthz(State(hub): State<Hub>) -> impl IntoResponse {
    let (rooms, sessions) = (hub.rooms.count(), hub.places.count());
    let body = serde_json::json!({ "status": "ok", "rooms_open": rooms, "sessions": sessions });
    ([(header::CONTENT_TYPE, "application/json")], body.to_string())
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
