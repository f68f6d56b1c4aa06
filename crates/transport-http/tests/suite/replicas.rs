//! Replicas with real files, kept in step over HTTP.

use std::time::Duration;

use opor_store::{OpenOptions, Store, StoreHandle};
use opor_sync::{Backoff, Builder, Replicator, SyncStatus};
use opor_transport_http::{Downstream, HttpDialer, HttpListener, ListenOptions};
use opor_transport_traits::Listener as _;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::proxy::{Manners, proxy, read};
use crate::{Outcome, WATCHDOG};

/// Short, so that tests do not wait for it.
const SOON: Backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(20) };

/// How many rows a catch-up brings.
const ROWS: i64 = 5000;

struct Replica {
    store: StoreHandle,
    _folder: TempDir,
}

impl Replica {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = StoreHandle::open(folder.path().join("app.db"), &OpenOptions::new(), 2).expect("a store");
        let create = |store: &mut Store| {
            let table = "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT)";
            store.execute_batch(table).expect("a table");
            store.replicate("todos").expect("it replicates");
        };
        store.write(create).await.expect("the handle is open");
        Self { store, _folder: folder }
    }

    fn sync(&self) -> Builder {
        Replicator::builder(self.store.clone(), "garden").backoff(SOON)
    }

    async fn write(&self, sql: &str) {
        let sql = sql.to_owned();
        let written = self.store.write(move |store| store.execute_batch(&sql)).await;
        written.expect("the handle is open").expect("it is SQL");
    }

    /// Fills the table from a number on, with titles that all differ.
    async fn fill(&self, from: i64) {
        let numbers = format!(
            "WITH RECURSIVE n(i) AS (VALUES ({from}) UNION ALL SELECT i + 1 FROM n WHERE i < {from} + {ROWS} - 1)"
        );
        self.write(&format!("INSERT INTO todos {numbers} SELECT i, hex(randomblob(40)) FROM n")).await;
    }

    async fn rows(&self) -> Vec<(i64, String)> {
        let job = |store: &Store| {
            let mut select = store.prepare("SELECT id, title FROM todos ORDER BY id")?;
            let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        self.store.read(job).await.expect("the handle is open").expect("the table reads")
    }

    /// Waits until the tables are equal.
    async fn equals(&self, other: &Self) {
        let mut commits = self.store.commits();
        let equal = async {
            while self.rows().await != other.rows().await {
                commits.next().await.expect("the handle is open");
            }
        };
        timeout(WATCHDOG, equal).await.expect("the replicas become equal");
    }
}

/// Two replicas, each with thousands of rows of its own, through a proxy; then edits on both sides.
async fn follow_each_other(
    downstream: Downstream,
    manners: Manners,
) -> Result<std::sync::Arc<Manners>, crate::Fault> {
    let (desk, phone) = (Replica::new().await, Replica::new().await);
    desk.fill(0).await;
    phone.fill(ROWS).await;
    let listener = HttpListener::bind(([127, 0, 0, 1], 0).into(), ListenOptions::default())?;
    let (web, manners) = proxy(listener.address(), manners).await;
    let dialer = HttpDialer::new(&web.url())?.with_downstream(downstream);
    let at_desk = desk.sync().listen(listener).start().await?;
    let at_phone = phone.sync().peer(dialer).start().await?;
    let mut status = at_phone.peers()[0].status();
    timeout(WATCHDOG, status.wait_for(SyncStatus::is_live)).await??;
    phone.equals(&desk).await;
    desk.equals(&phone).await;
    assert_eq!(phone.rows().await.len(), 2 * ROWS as usize);

    for round in 0..10 {
        phone
            .write(&format!(
                "UPDATE todos SET title = 'milk {round}' WHERE id = 7; DELETE FROM todos WHERE id = {round}"
            ))
            .await;
        desk.equals(&phone).await;
        desk.write(&format!("INSERT INTO todos VALUES (-1 - {round}, 'bread')")).await;
        phone.equals(&desk).await;
    }
    assert_eq!(phone.rows().await.len(), 2 * ROWS as usize);
    at_phone.stop().await;
    at_desk.stop().await;
    Ok(manners)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_follow_each_other() -> Outcome {
    for downstream in [Downstream::Auto, Downstream::LongPoll] {
        follow_each_other(downstream, Manners::default()).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_follow_each_other_through_a_bad_proxy() -> Outcome {
    let manners = Manners { cuts_every: 1, swallows_every: 7, repeats_every: 5, ..Manners::default() };
    let manners = follow_each_other(Downstream::Auto, manners).await?;
    let happened = [&manners.cut, &manners.swallowed, &manners.repeated].map(read);
    assert!(happened.iter().all(|times| *times > 0), "{manners:?}");
    Ok(())
}
