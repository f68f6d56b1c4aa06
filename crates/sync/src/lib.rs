//! Keeps replicas in step over any transport: the driver of the sync protocol, on tokio.
//!
//! A [`Replicator`] connects a [`StoreHandle`](opor_store::StoreHandle) with peers that are dialled and peers that dial
//! in. It has no protocol logic: a [`Session`](opor_sync_proto::Session) says what to do, and a task does it, which owns
//! the session. Sending, reading and the work of the store go on side by side, and no runtime is blocked.
//!
//! A replica that missed deletes which its peer has forgotten, or that is far behind, is brought in step by a snapshot,
//! without being asked. Its peer makes an image and shares it among all who need one; the replica keeps the chunks beside
//! its database, goes on with them after a cut or a crash, and merges the whole in one commit.

mod answers;
mod gallery;
mod intake;
mod lag;
mod outgoing;
mod peers;
mod replicator;
mod session;
mod status;
mod taking;
mod verdict;
mod work;

pub use intake::SnapshotFault;
pub use opor_sync_proto::{Hello, Refusal, Rejection, Timeouts, Token};
pub use opor_transport_traits::Backoff;
pub use replicator::{Builder, Replicator, StartError};
pub use status::{CatchUp, PeerHandle, SyncEvent, SyncEvents, SyncStatus};
pub use verdict::Ended;
