//! Live queries: any SELECT on a database of opor that stays current.
//!
//! A [`Live`] stands beside a [`StoreHandle`](opor_store::StoreHandle). It runs a query once, and again when a commit may have
//! changed its result: a local write, a merge of what a peer sent, or a write of another connection or process. Which commits those are
//! SQLite itself says, never the text of the query. All queries advance at the same commit, a subscriber never sees half a
//! transaction, and one whose result is the same is not woken.
//!
//! No runtime is needed: there is one thread, and the streams are woken by it.
//!
//! ```
//! use futures::{StreamExt, executor::block_on};
//! use opor_live::{Edit, Live};
//! use opor_store::{OpenOptions, StoreHandle};
//!
//! # let folder = std::env::temp_dir().join(format!("opor-live-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let handle = StoreHandle::open(folder.join("app.db"), &OpenOptions::new(), 1)?;
//! # block_on(async {
//! handle.write(|store| store.execute_batch("CREATE TABLE todos(id INTEGER PRIMARY KEY, title, done DEFAULT 0)")).await??;
//!
//! let live = Live::start(&handle)?;
//! let open = live
//!     .query::<(i64, String)>("SELECT id, title FROM todos WHERE done = ?1 ORDER BY id")
//!     .bind(0)
//!     .key(["id"])
//!     .subscribe()
//!     .await?;
//! assert_eq!(open.current()?.rows, []);
//!
//! let mut diffs = open.diffs();
//! diffs.next().await; // Where it starts.
//! handle.write(|store| store.execute("INSERT INTO todos(title) VALUES ('buy milk')", [])).await??;
//! let diff = diffs.next().await.expect("the database is open")?;
//! assert_eq!(diff.edits, [Edit::Insert { at: 0, row: (1, "buy milk".to_owned()) }]);
//! # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(()) }).unwrap();
//! # handle.close();
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

/// The examples of the README, which are compiled and run with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

mod access;
mod diff;
mod error;
mod explain;
mod guard;
mod index;
mod interned;
mod joined;
mod live;
mod options;
mod order;
mod parameters;
mod plan;
mod registry;
mod result;
mod router;
mod row;
mod run;
mod scope;
mod shared;
mod signal;
mod slab;
mod stats;
mod subscription;
mod volatile;
mod worker;

pub use diff::Edit;
pub use error::{LiveError, StartError};
pub use explain::{Explanation, TableDependency, Tier};
pub use live::{Live, Query};
pub use options::{LiveOptions, ScopedRuns};
pub use result::Row;
pub use stats::LiveStats;
pub use subscription::{Diff, LiveState, ResumeToken, Snapshot, Subscription};
