//! Replicas with real files, on one network in memory.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod giver;
pub(crate) mod tap;

use std::time::Duration;

use opor_core::SiteId;
use opor_store::{CompactOptions, OpenOptions, Store, StoreHandle};
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
        Self::of(
            "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT, note TEXT)",
            &OpenOptions::new(),
        )
        .await
    }

    /// One with another table of todos, opened in another way.
    pub(crate) async fn of(table: &'static str, options: &OpenOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StoreHandle::open(folder.path().join("app.db"), options, 2).expect("a store");
        let create = |store: &mut Store| {
            store.execute_batch(table).expect("a table");
            store.replicate("todos").expect("it replicates");
        };
        store.write(create).await.expect("the handle is open");
        Self { store, folder }
    }

    /// The same file, as a new process opens it.
    pub(crate) fn reopened(self) -> Self {
        let Self { store, folder } = self;
        store.close();
        let store = StoreHandle::open(folder.path().join("app.db"), &OpenOptions::new(), 2).expect("a store");
        Self { store, folder }
    }

    pub(crate) async fn site(&self) -> SiteId {
        self.store.read(Store::site_id).await.expect("the handle is open")
    }

    /// Rows that do not compress: eighty letters each.
    pub(crate) async fn fill(&self, from: u32, to: u32) {
        let numbers =
            format!("WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})");
        self.write(&format!("INSERT INTO todos(id, title) {numbers} SELECT i, hex(randomblob(40)) FROM n"))
            .await;
    }

    /// Forgets all deletes, whoever has heard of them.
    pub(crate) async fn forget_deletes(&self) {
        let forget = |store: &mut Store| {
            // Notes the version and the time; what was there by then is old enough the next time.
            let heard_of = store.compact().expect("it compacts").tombstones_dropped;
            let options = CompactOptions { retention: Some(Duration::ZERO) };
            heard_of + store.compact_with(&options).expect("it compacts").tombstones_dropped
        };
        let dropped = self.store.write(forget).await.expect("the handle is open");
        assert!(dropped > 0, "there was something to forget");
    }

    /// The clocks of all rows that are there: who wrote which value, in which version of the cell.
    pub(crate) async fn log(&self) -> Vec<(Vec<u8>, String, String, i64, Vec<u8>, i64)> {
        let job = |store: &Store| {
            let mut select = store.prepare(
                "SELECT pk, cid, coalesce(val, ''), col_version, site_id, cl FROM crsql_changes
                 WHERE cid <> '-1' ORDER BY pk, cid",
            )?;
            let rows = select.query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        self.store.read(job).await.expect("the handle is open").expect("the log reads")
    }

    /// Both hold the same rows, with the same clocks.
    pub(crate) async fn equals(&self, other: &Self) {
        assert_eq!(self.rows().await, other.rows().await);
        assert_eq!(self.log().await, other.log().await);
    }

    /// Files beside the database that have to do with snapshots.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> =
            names.filter(|name| !name.starts_with("app.db") || name.contains("opor")).collect();
        names.sort();
        names
    }

    /// Waits until a question is answered with yes, asked again after every commit.
    pub(crate) async fn says(&self, what: &str, sql: &str) {
        let mut commits = self.store.commits();
        let ask = || async {
            let sql = sql.to_owned();
            let answer = self.store.read(move |store| store.query_row(&sql, [], |row| row.get::<_, bool>(0)));
            answer.await.expect("the handle is open").expect("it is SQL")
        };
        within(what, async {
            while !ask().await {
                commits.next().await.expect("the handle is open");
            }
        })
        .await;
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
            let mut select = store.prepare("SELECT id, coalesce(title, '') FROM todos ORDER BY id")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        self.store.read(job).await.expect("the handle is open").expect("the table reads")
    }

    pub(crate) async fn replicate(&self, table: &'static str) {
        let job = |store: &mut Store| store.replicate(table);
        self.store.write(job).await.expect("the handle is open").expect("it replicates");
    }

    /// Waits until a query answers with this text.
    pub(crate) async fn answers(&self, sql: &'static str, expected: &str) {
        let mut commits = self.store.commits();
        let ask =
            |store: &Store| store.query_row(sql, [], |row| row.get::<_, Option<String>>(0)).ok().flatten();
        within(sql, async {
            while self.store.read(ask).await.expect("the handle is open").as_deref() != Some(expected) {
                commits.next().await.expect("the handle is open");
            }
        })
        .await;
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
