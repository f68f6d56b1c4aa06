//! A hub on a port of its own, and replicas that sync with it as they should.

use std::net::SocketAddr;
use std::time::Duration;

use opor_hub::{Hub, HubEvent, HubEvents, HubOptions, SyncEvent, listen, serve};
use opor_store::{OpenOptions, Store, StoreHandle};
use opor_sync::{Backoff, Replicator};
use opor_transport_traits::Dialer;
use opor_transport_websocket::WebSocketDialer;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::raw::http;

/// Far more than any step takes: a test that hangs ends here, and says where.
const WATCHDOG: Duration = Duration::from_secs(60);
const SOON: Backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(20) };
pub(crate) const SCHEMA: &str = "CREATE TABLE todos (id INTEGER PRIMARY KEY NOT NULL, title TEXT)";

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(WATCHDOG, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// A hub that serves.
pub(crate) struct Served {
    pub(crate) hub: Hub,
    pub(crate) address: SocketAddr,
    pub(crate) events: HubEvents,
    pub(crate) dir: TempDir,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    pub(crate) fn new(options: impl FnOnce(HubOptions) -> HubOptions) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let hub = Hub::new(options(HubOptions::new(dir.path().join("rooms"))));
        let listener = listen(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let events = hub.events();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, hub.router(), async {
            let _ = stopped.await;
        }));
        Self { hub, address, events, dir, stop, task }
    }

    /// Makes a room with a todo list.
    pub(crate) async fn make(&self, room: &str, headers: &[(&str, &str)]) {
        let body = serde_json::json!({ "schema": [SCHEMA], "tables": ["todos"] }).to_string();
        let made = http(self.address, "PUT", &format!("/rooms/{room}/schema"), headers, &body).await;
        assert_eq!(made.status, 200, "{made:?}");
    }

    pub(crate) async fn get(&self, path: &str) -> crate::raw::Answer {
        http(self.address, "GET", path, &[], "").await
    }

    /// The first event that tells something.
    pub(crate) async fn event<T>(&mut self, tell: impl Fn(&HubEvent) -> Option<T>) -> T {
        within("an event of the hub", async {
            loop {
                let event = self.events.next().await.expect("the hub is there");
                assert!(!matches!(event, HubEvent::Missed(_)), "{event:?}");
                if let Some(told) = tell(&event) {
                    return told;
                }
            }
        })
        .await
    }

    /// How the next session of a peer that is not healthy ends, in full.
    pub(crate) async fn ended(&mut self) -> String {
        self.event(|event| match event {
            HubEvent::Session { event: SyncEvent::Ended { how, .. }, .. } => {
                let mut text = how.to_string();
                let mut source = std::error::Error::source(&**how);
                while let Some(error) = source {
                    text = format!("{text}: {error}");
                    source = error.source();
                }
                Some(text)
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn stop(self) {
        self.hub.close().await;
        self.stop.send(()).expect("the server runs");
        within("the server to end", self.task).await.expect("no panic");
    }
}

/// A replica that does what it should.
pub(crate) struct Healthy {
    pub(crate) store: StoreHandle,
    pub(crate) syncing: Replicator,
    _dir: TempDir,
}

impl Healthy {
    pub(crate) async fn join(address: SocketAddr, token: Option<&str>) -> Self {
        let mut dialer = WebSocketDialer::new(&format!("ws://{address}/sync/garden")).expect("an address");
        if let Some(token) = token {
            dialer = dialer.with_bearer(token).expect("a token");
        }
        Self::join_by(dialer, None).await
    }

    /// Over a transport of choice; the token is shown in the hello.
    pub(crate) async fn join_by(dialer: impl Dialer + 'static, hello: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = StoreHandle::open(dir.path().join("app.db"), &OpenOptions::new(), 1).expect("a database");
        let make = |store: &mut Store| {
            store.execute_batch(SCHEMA).expect("a table");
            store.replicate("todos").expect("it replicates");
        };
        store.write(make).await.expect("the handle is open");
        let mut syncing = Replicator::builder(store.clone(), "garden").peer(dialer).backoff(SOON);
        if let Some(token) = hello {
            syncing = syncing.token(token);
        }
        let syncing = syncing.start().await.expect("it starts");
        Self { store, syncing, _dir: dir }
    }

    pub(crate) async fn write(&self, sql: impl Into<String>) {
        let sql = sql.into();
        let written = self.store.write(move |store| store.execute_batch(&sql)).await;
        written.expect("the handle is open").expect("it is SQL");
    }

    pub(crate) async fn count(&self) -> i64 {
        let count = |store: &Store| {
            store.query_row("SELECT count(*) FROM todos", [], |row| row.get(0)).expect("a number")
        };
        self.store.read(count).await.expect("the handle is open")
    }

    /// Waits until a row is there.
    pub(crate) async fn has(&self, id: i64) {
        let mut commits = self.store.commits();
        let look = move |store: &Store| {
            let find = "SELECT EXISTS (SELECT 1 FROM todos WHERE id = ?)";
            store.query_row(find, [id], |row| row.get::<_, bool>(0)).expect("a flag")
        };
        within("a row", async {
            while !self.store.read(look).await.expect("the handle is open") {
                commits.next().await.expect("the handle is open");
            }
        })
        .await;
    }
}

/// A hub and two healthy replicas in one room.
pub(crate) struct Scene {
    pub(crate) served: Served,
    pub(crate) healthy: [Healthy; 2],
    next: i64,
}

impl Scene {
    pub(crate) async fn new(options: impl FnOnce(HubOptions) -> HubOptions) -> Self {
        let served = Served::new(options);
        served.make("garden", &[]).await;
        let healthy = [Healthy::join(served.address, None).await, Healthy::join(served.address, None).await];
        let mut scene = Self { served, healthy, next: 1_000_000 };
        scene.is_unharmed().await;
        scene
    }

    /// The healthy ones still sync both ways, and the room holds what they wrote and nothing else.
    pub(crate) async fn is_unharmed(&mut self) {
        for (from, to) in [(0, 1), (1, 0)] {
            self.next += 1;
            let id = self.next;
            self.healthy[from].write(format!("INSERT INTO todos VALUES ({id}, 'healthy')")).await;
            self.healthy[to].has(id).await;
        }
        let counts = [self.healthy[0].count().await, self.healthy[1].count().await];
        assert_eq!(counts[0], counts[1], "both hold the same");
        let room = self.served.dir.path().join("rooms/garden.sqlite");
        let store = OpenOptions::new().read_only(true).open(room).expect("the room opens");
        let check: String =
            store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict");
        let count: i64 =
            store.query_row("SELECT count(*) FROM todos", [], |row| row.get(0)).expect("a number");
        assert_eq!((&*check, count), ("ok", counts[0]), "the room holds what the healthy ones do");
    }

    pub(crate) async fn stop(self) {
        for healthy in self.healthy {
            healthy.syncing.stop().await;
        }
        self.served.stop().await;
    }
}
