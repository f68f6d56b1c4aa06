//! Replicas with real files, in rooms of a real broker.

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use opor_nats_server::{NatsServer, Options};
use opor_store::{OpenOptions, Store, StoreHandle};
use opor_sync_nats::{Backoff, Builder, RoomEvent, RoomEvents, RoomLog, RoomStatus};
use tempfile::TempDir;
use tokio::time::timeout;

/// Far more than any step takes: a test that hangs ends here, and says where.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Short, so that tests do not wait for it.
pub(crate) const SOON: Backoff =
    Backoff { first: Duration::from_millis(20), max: Duration::from_millis(100) };

/// Other processes are looked for so rarely that only what is told counts.
const NEVER: Duration = Duration::from_secs(3600);

pub(crate) const TABLE: &str = "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title TEXT)";

pub(crate) fn broker() -> NatsServer {
    Options::new().jetstream().start().expect("a nats-server")
}

pub(crate) struct Replica {
    pub(crate) store: StoreHandle,
    pub(crate) folder: TempDir,
}

impl Replica {
    pub(crate) async fn new() -> Self {
        let replica = Self::without_table();
        replica.create().await;
        replica
    }

    pub(crate) fn without_table() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { store: open(&folder), folder }
    }

    pub(crate) async fn create(&self) {
        let create = |store: &mut Store| {
            store.execute_batch(TABLE).expect("a table");
            store.replicate("todos").expect("it replicates");
        };
        self.store.write(create).await.expect("the handle is open");
    }

    /// Closes the file, and opens it anew.
    pub(crate) fn reopen(&mut self) {
        self.store.clone().close();
        self.store = open(&self.folder);
    }

    pub(crate) fn joining(&self, broker: &NatsServer) -> Builder {
        self.joining_room(broker, "garden")
    }

    pub(crate) fn joining_room(&self, broker: &NatsServer, room: &str) -> Builder {
        RoomLog::builder(self.store.clone(), broker.url(), room).backoff(SOON).look_every(NEVER)
    }

    /// Joins the room, and waits until it is live.
    pub(crate) async fn join(&self, broker: &NatsServer) -> RoomLog {
        let room = self.joining(broker).join().await.expect("it joins");
        is_live(&room).await;
        room
    }

    pub(crate) async fn write(&self, sql: impl Into<String>) {
        let sql = sql.into();
        let written = self.store.write(move |store| store.execute_batch(&sql)).await;
        written.expect("the handle is open").expect("it is SQL");
    }

    /// Inserts rows of these numbers, each in a commit of its own.
    pub(crate) async fn insert(&self, ids: std::ops::Range<i64>, title: &str) {
        for id in ids {
            self.write(format!("INSERT INTO todos VALUES ({id}, '{title}')")).await;
        }
    }

    /// As [`insert`](Self::insert), and waits each time until it is published: then each is a message of its own.
    pub(crate) async fn publish(&self, room: &RoomLog, ids: std::ops::Range<i64>, title: &str) {
        let mut events = room.events();
        for id in ids {
            self.insert(id..id + 1, title).await;
            event(&mut events, |event| matches!(event, RoomEvent::Published { .. }).then_some(())).await;
        }
    }

    /// Inserts rows of these numbers in one commit.
    pub(crate) async fn insert_at_once(&self, ids: std::ops::Range<i64>, title: &str) {
        let (from, to) = (ids.start, ids.end - 1);
        self.write(format!(
            "INSERT INTO todos WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to}) \
             SELECT i, '{title}' || i FROM n"
        ))
        .await;
    }

    /// Keeps whoever writes to the file waiting, from when it returns until what it returns is dropped.
    pub(crate) async fn stall(&self) -> Stall {
        let (begun, is_stalled) = tokio::sync::oneshot::channel();
        let (stall, end) = std::sync::mpsc::channel::<()>();
        let store = self.store.clone();
        tokio::spawn(async move {
            let job = move |_: &mut Store| {
                begun.send(()).expect("the test waits for it");
                // It ends when the other end is dropped.
                let _ = end.recv();
            };
            store.write(job).await.expect("the handle is open");
        });
        is_stalled.await.expect("the handle is open");
        Stall { _end: stall }
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
    pub(crate) async fn holds(&self, expected: &[(i64, String)]) {
        let mut commits = self.store.commits();
        let done = timeout(WATCHDOG, async {
            while self.rows().await != expected {
                commits.next().await.expect("the handle is open");
            }
        });
        if done.await.is_err() {
            let rows = self.rows().await;
            let missing: Vec<_> = expected.iter().filter(|row| !rows.contains(row)).take(5).collect();
            let extra: Vec<_> = rows.iter().filter(|row| !expected.contains(row)).take(5).collect();
            panic!("{} rows of {}; lacks {missing:?}, and has {extra:?}", rows.len(), expected.len());
        }
    }
}

/// See [`Replica::stall`].
pub(crate) struct Stall {
    _end: std::sync::mpsc::Sender<()>,
}

fn open(folder: &TempDir) -> StoreHandle {
    StoreHandle::open(folder.path().join("app.db"), &OpenOptions::new(), 2).expect("a store")
}

pub(crate) fn rows(ids: std::ops::Range<i64>, title: &str) -> Vec<(i64, String)> {
    ids.map(|id| (id, title.to_owned())).collect()
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(WATCHDOG, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

pub(crate) async fn becomes(room: &RoomLog, expected: impl Fn(&RoomStatus) -> bool) -> RoomStatus {
    let mut status = room.status();
    within("a status", status.wait_for(expected)).await.expect("it is joined").clone()
}

pub(crate) async fn is_live(room: &RoomLog) {
    becomes(room, |status| *status == RoomStatus::Live).await;
}

/// The first event that tells something.
pub(crate) async fn event<T>(events: &mut RoomEvents, tell: impl Fn(&RoomEvent) -> Option<T>) -> T {
    within("an event", async {
        loop {
            let event = events.next().await.expect("it is joined");
            if let Some(told) = tell(&event) {
                return told;
            }
        }
    })
    .await
}

/// Somebody else at the broker.
pub(crate) async fn stranger(broker: &NatsServer) -> Context {
    jetstream::new(async_nats::connect(broker.url()).await.expect("the broker is there"))
}

/// The subject of the room's log, as `docs/nats.md` has it.
pub(crate) const LOG: &str = "opor.room.09.garden.log";
pub(crate) const PART: &str = "opor.room.09.garden.part";
pub(crate) const SNAPSHOT: &str = "opor.room.09.garden.snapshot";
pub(crate) const STREAM: &str = "opor-rooms-09";
