//! Keeps replicas in step over any transport: the driver of the sync protocol, on tokio.
//!
//! A [`Replicator`] connects a [`StoreHandle`](opor_store::StoreHandle) with peers that are dialled and peers that dial
//! in. It has no protocol logic: a [`Session`](opor_sync_proto::Session) says what to do, and a task does it, which owns
//! the session. Sending, reading and the work of the store go on side by side, and no runtime is blocked.
//!
//! Snapshots are neither given nor taken yet. A replica that needs one is told [`Ended::SnapshotNeeded`].

mod backoff;
mod outgoing;
mod peers;
mod replicator;
mod session;
mod status;
mod verdict;
mod work;

pub use backoff::Backoff;
pub use opor_sync_proto::{Hello, Refusal, Timeouts, Token};
pub use replicator::{Builder, Replicator, StartError};
pub use status::{PeerHandle, SyncEvent, SyncEvents, SyncStatus};
pub use verdict::Ended;
