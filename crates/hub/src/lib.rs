//! The hub: rooms that replicas pull changes from and post changes to, as an axum router.
//!
//! A room is one SQLite file under the data directory, opened when it is first asked for and written by a thread of
//! its own. The hub is a replica like any other: it merges what is posted, and numbers its own commits.
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use opor_hub::{Hub, HubOptions, serve};
//!
//! let hub = Hub::new(HubOptions::new("rooms"));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8787").await?;
//! serve(listener, hub.router(), std::future::pending()).await;
//! hub.close();
//! # Ok(())
//! # }
//! ```

mod body;
mod changes;
mod error;
mod hub;
mod options;
mod room;
mod room_name;
mod schema;
mod schema_route;
mod serve;

pub use error::{HubError, SchemaError};
pub use hub::{Hub, router};
pub use options::HubOptions;
pub use room_name::{RoomName, RoomNameError};
pub use schema::RoomSchema;
pub use serve::serve;
