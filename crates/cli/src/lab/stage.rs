//! The stage: a hub and two peers, each a server with files of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use opor_core::SiteId;
use opor_hub::{Hub, HubOptions, Timeouts};
use opor_store::{OpenOptions, Store, StoreHandle};
use serde::Deserialize;

use super::client;
use super::peer::{CURSOR_MS, Peer, ROOM};
use super::peer_routes;
use super::server::{Server, listen};
use super::wire::Transport;

/// What the replicas hold: statements, and the tables that replicate.
#[derive(Clone, Debug)]
pub(crate) struct Schema {
    /// What the hub gets: the tables that replicate and their indexes.
    pub(crate) hub: Vec<String>,
    /// What a new peer gets.
    pub(crate) peer: Vec<String>,
    pub(crate) tables: Vec<String>,
    /// Whether it is the todo list.
    pub(crate) todos: bool,
}

/// The hub and the two peers, all running.
#[derive(Debug)]
pub(crate) struct Stage {
    schema: Schema,
    setting: Setting,
    hub: Hub,
    hub_server: Server,
    #[cfg(feature = "nats")]
    broker: Option<super::broker::Broker>,
    pub(crate) hub_site: SiteId,
    pub(crate) alice: Actor,
    pub(crate) bob: Actor,
}

/// Where the stage stands, and how changes travel on it.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The directory of the files.
    pub(crate) dir: PathBuf,
    /// The first of three ports; free ones where there is none.
    pub(crate) port: Option<u16>,
    pub(crate) transport: Transport,
}

/// A peer and its server.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) peer: Arc<Peer>,
    server: Server,
}

#[derive(Debug, Deserialize)]
struct Joined {
    site_id: String,
}

/// Whether a lab has left its files in a directory.
pub(crate) fn was_here(dir: &Path) -> bool {
    file_of(dir, "alice").exists()
}

/// The database file of a peer.
pub(crate) fn file_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.sqlite"))
}

impl Stage {
    /// Starts everything; files that exist are used.
    pub(crate) async fn start(setting: &Setting, schema: Schema) -> anyhow::Result<Self> {
        let ports = match setting.port {
            Some(first) => [first, first + 1, first + 2],
            None => [0; 3],
        };
        Self::start_on(setting.clone(), ports, schema).await
    }

    async fn start_on(setting: Setting, ports: [u16; 3], schema: Schema) -> anyhow::Result<Self> {
        let timeouts = Timeouts { cursor_ms: CURSOR_MS, ..Timeouts::default() };
        let hub = Hub::new(HubOptions::new(setting.dir.join("hub")).timeouts(timeouts));
        let hub_server = Server::start(listen(ports[0])?, hub.router())?;
        let hub_site = join(hub_server.address, &schema).await?;
        #[cfg(feature = "nats")]
        let broker = match setting.transport {
            Transport::Nats => Some(super::broker::Broker::start(&hub).await?),
            Transport::Http | Transport::Ws => None,
        };
        #[cfg(feature = "nats")]
        let at_broker = broker.as_ref().map(|broker| broker.url.clone());
        #[cfg(not(feature = "nats"))]
        let at_broker: Option<String> = None;
        let reached = || (hub_server.address, at_broker.clone(), hub_site);
        let actor = |name, port| Actor::start(&setting, name, port, &schema, reached());
        let (alice, bob) = (actor("alice", ports[1]).await?, actor("bob", ports[2]).await?);
        Ok(Self {
            alice,
            bob,
            hub,
            hub_server,
            #[cfg(feature = "nats")]
            broker,
            hub_site,
            setting,
            schema,
        })
    }

    pub(crate) const fn transport(&self) -> Transport {
        self.setting.transport
    }

    pub(crate) const fn hub_address(&self) -> SocketAddr {
        self.hub_server.address
    }

    /// The database file of the hub's room.
    pub(crate) fn hub_file(&self) -> PathBuf {
        self.setting.dir.join("hub").join(format!("{ROOM}.sqlite"))
    }

    pub(crate) const fn actors(&self) -> [&Actor; 2] {
        [&self.alice, &self.bob]
    }

    /// The name of a site, for people.
    pub(crate) fn name_of(&self, site_id: &str) -> String {
        let named = [
            (self.alice.peer.site_id, self.alice.peer.name),
            (self.bob.peer.site_id, self.bob.peer.name),
            (self.hub_site, "hub"),
        ];
        let found = named.into_iter().find(|(site, _)| site.to_string() == site_id);
        found.map_or_else(|| site_id.to_owned(), |(_, name)| name.to_owned())
    }

    /// Stops all servers, closes all files, and starts again on the same ports and files.
    pub(crate) async fn restart(self) -> anyhow::Result<Self> {
        let ports = [self.hub_address(), self.alice.address(), self.bob.address()].map(|a| a.port());
        let (setting, schema) = (self.setting.clone(), self.schema.clone());
        self.stop().await?;
        Self::start_on(setting, ports, schema).await
    }

    /// Stops all servers and closes all files.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for actor in [self.alice, self.bob] {
            actor.server.stop().await?;
            actor.peer.close().await?;
        }
        self.hub_server.stop().await?;
        self.hub.close().await;
        #[cfg(feature = "nats")]
        drop(self.broker);
        Ok(())
    }
}

impl Actor {
    async fn start(
        setting: &Setting,
        name: &'static str,
        port: u16,
        schema: &Schema,
        hub: (SocketAddr, Option<String>, SiteId),
    ) -> anyhow::Result<Self> {
        let listener = listen(port)?;
        let file = file_of(&setting.dir, name);
        let (path, wanted) = (file.clone(), schema.clone());
        let store = tokio::task::spawn_blocking(move || open(&path, &wanted)).await??;
        let peer = Peer::new(name, file, store, setting.transport, hub);
        let router = peer_routes::router(peer.clone(), schema.todos, setting.transport.is_live());
        let server = Server::start(listener, router)?;
        Ok(Self { peer, server })
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.server.address
    }
}

/// Tells the hub the schema; it answers with its site id.
async fn join(hub: SocketAddr, schema: &Schema) -> anyhow::Result<SiteId> {
    let body = serde_json::json!({ "schema": schema.hub, "tables": schema.tables }).to_string();
    let reply = client::send(hyper::Method::PUT, hub, &format!("/rooms/{ROOM}/schema"), body).await?;
    let joined: Joined = reply.json()?;
    joined.site_id.parse().context("hub sent a site id that is none")
}

/// Opens the database of a peer; a new one gets its tables. Tables that replicate already are left alone.
fn open(file: &Path, schema: &Schema) -> anyhow::Result<(StoreHandle, SiteId)> {
    let mut store: Store = crate::database::open(file)?;
    if crate::database::user_tables(&store)?.is_empty() {
        let tx = store.transaction()?;
        schema.peer.iter().try_for_each(|statement| tx.execute_batch(statement))?;
        tx.commit()?;
    }
    for table in &schema.tables {
        store.replicate(table).with_context(|| format!("table {table:?} cannot replicate"))?;
    }
    let site_id = store.site_id();
    drop(store);
    let store = StoreHandle::open(file, &OpenOptions::new(), 1);
    Ok((store.with_context(|| format!("cannot open {}", file.display()))?, site_id))
}
