//! The hub: rooms in which replicas meet, as an axum router.
//!
//! A room is one SQLite file under the data directory, opened when it is first asked for and written by a thread of
//! its own. The hub is a replica like any other: it merges what is posted, and numbers its own commits. Replicas that stay
//! connected sync at `/sync/{room}` over WebSocket, and at `/http-sync/{room}` where nothing but plain requests gets
//! through.
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use opor_hub::{Hub, HubOptions, listen, serve};
//!
//! let hub = Hub::new(HubOptions::new("rooms").token("s3cret"));
//! let listener = listen("127.0.0.1:8787".parse().expect("an address"))?;
//! serve(listener, hub.router(), std::future::pending()).await;
//! hub.close().await;
//! # Ok(())
//! # }
//! ```

mod access;
mod body;
mod changes;
mod connection;
mod door;
mod error;
mod event;
mod http_route;
mod hub;
mod options;
mod places;
mod room;
mod room_name;
mod rooms;
mod schema;
mod schema_route;
mod seat;
mod serve;
mod sync_route;

pub use error::{HubError, SchemaError};
pub use event::{HubEvent, HubEvents};
pub use hub::{Hub, router};
pub use opor_sync::{SyncEvent, Timeouts};
pub use options::HubOptions;
pub use room_name::{RoomName, RoomNameError};
pub use schema::RoomSchema;
pub use serve::{listen, serve};
