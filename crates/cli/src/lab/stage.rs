//! The stage: a hub and two peers, each a server with files of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use opor_core::SiteId;
use opor_hub::{Hub, HubOptions};
use opor_store::Store;
use serde::Deserialize;

use super::client;
use super::peer::{Peer, ROOM};
use super::peer_routes;
use super::server::{Server, listen};

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
    dir: PathBuf,
    hub: Hub,
    hub_server: Server,
    pub(crate) hub_site: SiteId,
    pub(crate) alice: Actor,
    pub(crate) bob: Actor,
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
    pub(crate) async fn start(dir: &Path, port: Option<u16>, schema: Schema) -> anyhow::Result<Self> {
        let ports = match port {
            Some(first) => [first, first + 1, first + 2],
            None => [0; 3],
        };
        Self::start_on(dir.to_owned(), ports, schema).await
    }

    async fn start_on(dir: PathBuf, ports: [u16; 3], schema: Schema) -> anyhow::Result<Self> {
        let hub = Hub::new(HubOptions::new(dir.join("hub")));
        let hub_server = Server::start(listen(ports[0]).await?, hub.router())?;
        let hub_site = join(hub_server.address, &schema).await?;
        let actor = |name, port| Actor::start(&dir, name, port, &schema, (hub_server.address, hub_site));
        let (alice, bob) = (actor("alice", ports[1]).await?, actor("bob", ports[2]).await?);
        Ok(Self { alice, bob, hub, hub_server, hub_site, dir, schema })
    }

    pub(crate) const fn hub_address(&self) -> SocketAddr {
        self.hub_server.address
    }

    /// The database file of the hub's room.
    pub(crate) fn hub_file(&self) -> PathBuf {
        self.dir.join("hub").join(format!("{ROOM}.sqlite"))
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
        let (dir, schema) = (self.dir.clone(), self.schema.clone());
        self.stop().await?;
        Self::start_on(dir, ports, schema).await
    }

    /// Stops all servers and closes all files.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.alice.server.stop().await?;
        self.bob.server.stop().await?;
        self.hub_server.stop().await?;
        let hub = self.hub;
        tokio::task::spawn_blocking(move || hub.close()).await.context("hub does not close")
    }
}

impl Actor {
    async fn start(
        dir: &Path,
        name: &'static str,
        port: u16,
        schema: &Schema,
        (hub, hub_site): (SocketAddr, SiteId),
    ) -> anyhow::Result<Self> {
        let listener = listen(port).await?;
        let file = file_of(dir, name);
        let (path, wanted) = (file.clone(), schema.clone());
        let store = tokio::task::spawn_blocking(move || open(&path, &wanted)).await??;
        let peer = Peer::new(name, file, store, hub, hub_site);
        let server = Server::start(listener, peer_routes::router(peer.clone(), schema.todos))?;
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
fn open(file: &Path, schema: &Schema) -> anyhow::Result<Store> {
    let mut store = crate::database::open(file)?;
    if crate::database::user_tables(&store)?.is_empty() {
        let tx = store.transaction()?;
        schema.peer.iter().try_for_each(|statement| tx.execute_batch(statement))?;
        tx.commit()?;
    }
    for table in &schema.tables {
        store.replicate(table).with_context(|| format!("table {table:?} cannot replicate"))?;
    }
    Ok(store)
}
