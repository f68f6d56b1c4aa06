//! Replicas with real files, on one network in memory.

use std::time::Duration;

use opor_store::{OpenOptions, Store, StoreHandle};
use opor_sync::{Backoff, Builder, PeerHandle, Replicator, SyncEvent, SyncEvents, SyncStatus};
use tempfile::TempDir;
use tokio::time::timeout;

/// Far more than any step takes: a test that hangs ends here, and says where.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Short, so that tests do not wait for it.
pub(crate) const SOON: Backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(20) };

/// Other processes are looked for so rarely that only what is told counts.
const NEVER: Duration = Duration::from_secs(3600);

pub(crate) struct Replica {
    pub(crate) store: StoreHandle,
    pub(crate) folder: TempDir,
}

impl Replica {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StoreHandle::open(folder.path().join("app.db"), &OpenOptions::new(), 2).expect("a store");
        let create = |store: &mut Store| {
            store
                .execute_batch("CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT)")
                .expect("a table");
            store.replicate("todos").expect("it replicates");
        };
        store.write(create).await.expect("the handle is open");
        Self { store, folder }
    }

    pub(crate) fn sync(&self) -> Builder {
        Replicator::builder(self.store.clone(), "garden").backoff(SOON).look_every(NEVER)
    }

    pub(crate) async fn write(&self, sql: &str) {
        let sql = sql.to_owned();
        let written = self.store.write(move |store| store.execute_batch(&sql)).await;
        written.expect("the handle is open").expect("it is SQL");
    }

    pub(crate) async fn rows(&self) -> Vec<(i64, String)> {
        let job = |store: &Store| {
            let mut select = store.prepare("SELECT id, title FROM todos ORDER BY id")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        self.store.read(job).await.expect("the handle is open").expect("the table reads")
    }

    /// Waits until the table holds just these.
    pub(crate) async fn holds(&self, expected: &[(i64, &str)]) {
        let mut commits = self.store.commits();
        let same = |rows: Vec<(i64, String)>| {
            rows.iter().map(|(id, title)| (*id, title.as_str())).eq(expected.iter().copied())
        };
        within("the table to hold what is expected", async {
            while !same(self.rows().await) {
                commits.next().await.expect("the handle is open");
            }
        })
        .await;
    }
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(WATCHDOG, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

pub(crate) async fn becomes(peer: &PeerHandle, expected: impl Fn(&SyncStatus) -> bool) -> SyncStatus {
    let mut status = peer.status();
    let what = format!("a status of {}", peer.target());
    within(&what, status.wait_for(expected)).await.expect("it is synced").clone()
}

pub(crate) async fn is_live(peer: &PeerHandle) {
    becomes(peer, SyncStatus::is_live).await;
}

/// The first event that tells something.
pub(crate) async fn event<T>(events: &mut SyncEvents, tell: impl Fn(&SyncEvent) -> Option<T>) -> T {
    within("an event", async {
        loop {
            let event = events.next().await.expect("it is synced");
            if let Some(told) = tell(&event) {
                return told;
            }
        }
    })
    .await
}
