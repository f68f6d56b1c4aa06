//! Keeps opor replicas in step without a server of their own: the log of a room is a stream of a NATS broker with
//! JetStream.
//!
//! A [`RoomLog`] joins a [`StoreHandle`](opor_store::StoreHandle) to a room. It publishes what is committed, reads what others
//! published, and makes a snapshot in the broker's object store when the log has grown. The broker keeps nothing that the
//! replicas do not have: when it is wiped, they fill it again.
//!
//! Replicas that reach a broker and want ordinary sessions over it use `opor-transport-nats` and `opor-sync` instead.

mod bookmark;
mod entry;
mod error;
mod inbox;
mod lease;
mod names;
mod outbox;
mod reset;
mod room;
mod shared;
mod snapshot;
mod status;
mod stream;
mod visit;

pub use error::RoomError;
pub use opor_transport_nats::NatsOptions;
pub use opor_transport_traits::Backoff;
pub use room::{Builder, JoinError, RoomLog};
pub use status::{ResetReason, RoomCatchUp, RoomCounts, RoomEvent, RoomEvents, RoomStatus, Skip};
