//! A peer: a replica with a database file of its own that pushes to and pulls from the hub, or is linked with it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use opor_core::{Changeset, DecodeLimits, SiteId};
use opor_store::{ApplyOptions, ApplyReport, Cursor, Store, StoreHandle};
use opor_sync::{Backoff, Replicator, Timeouts};
use serde::{Deserialize, Serialize};

use super::client;
use super::event::Event;
use super::wire::Transport;

/// The room of the lab.
pub(crate) const ROOM: &str = "lab";
/// About how many changes travel in one request: under 2 MiB of JSON with short values.
const PIECE: usize = 5_000;
/// How many events a pull reports; the rest is counted.
const EVENTS_MAX: usize = 100;
/// How soon a peer is told of a cursor that moved without changes: the lab waits for it.
pub(crate) const CURSOR_MS: u64 = 10;
/// The hub of the lab is on this machine.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(500) };

/// A replica and its way to the hub.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) file: PathBuf,
    pub(crate) site_id: SiteId,
    hub: SocketAddr,
    /// Where the hub listens at a broker, if there is one.
    broker: Option<String>,
    hub_site: SiteId,
    store: StoreHandle,
    transport: Transport,
    /// The link with the hub, while there is one.
    link: tokio::sync::Mutex<Option<Replicator>>,
    /// Two pulls at once would do the same work twice.
    syncing: tokio::sync::Mutex<()>,
}

/// What a push did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pushed {
    /// How many changes were sent.
    pub(crate) sent: usize,
    /// The commit of this peer up to which the hub has acknowledged everything.
    pub(crate) acknowledged: u64,
}

/// What a pull did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pulled {
    /// How many changes arrived.
    pub(crate) received: usize,
    pub(crate) rows_inserted: usize,
    pub(crate) rows_updated: usize,
    pub(crate) rows_deleted: usize,
    pub(crate) cells_won: usize,
    pub(crate) cells_lost: usize,
    /// The commit of the hub up to which this peer now holds everything.
    pub(crate) cursor: u64,
    /// What happened to rows that both sides had written, the first hundred.
    pub(crate) events: Vec<Event>,
    /// How many more there were.
    pub(crate) events_left_out: usize,
}

impl Peer {
    /// A peer on an open store.
    pub(crate) fn new(
        name: &'static str,
        file: PathBuf,
        (store, site_id): (StoreHandle, SiteId),
        transport: Transport,
        (hub, broker, hub_site): (SocketAddr, Option<String>, SiteId),
    ) -> Arc<Self> {
        let (link, syncing) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(Self { name, file, site_id, hub, broker, hub_site, store, transport, link, syncing })
    }

    /// Does `work` with the store, on its thread.
    pub(crate) async fn with_store<T: Send + 'static, E: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Store) -> Result<T, E> + Send + 'static,
    ) -> anyhow::Result<Result<T, E>> {
        self.store.write(work).await.context("work on the database failed")
    }

    /// The last commit here.
    pub(crate) async fn version(&self) -> anyhow::Result<u64> {
        Ok(self.with_store(|store| store.db_version()).await??.0)
    }

    /// Waits until `look` finds what it looks for; whether it did in this time.
    pub(crate) async fn wait_until<E: std::error::Error + Send + Sync + 'static>(
        &self,
        patience: Duration,
        look: impl Fn(&Store) -> Result<bool, E> + Clone + Send + 'static,
    ) -> anyhow::Result<bool> {
        let mut commits = self.store.commits();
        let found = async {
            while !self.store.read(look.clone()).await.context("work on the database failed")?? {
                commits.next().await.context("the database is closed")?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(patience, found).await.map_or(Ok(false), |found| found.map(|()| true))
    }

    /// Links this peer with the hub: from now on edits travel by themselves.
    pub(crate) async fn connect(&self) -> anyhow::Result<()> {
        let mut link = self.link.lock().await;
        let Some(dialer) = self.transport.dialer(self.hub, self.broker.as_deref())? else { return Ok(()) };
        if link.is_none() {
            let linked = Replicator::builder(self.store.clone(), ROOM)
                .peer(dialer)
                .backoff(BACKOFF)
                .timeouts(Timeouts { cursor_ms: CURSOR_MS, ..Timeouts::default() });
            *link = Some(linked.start().await?);
        }
        Ok(())
    }

    /// Cuts the link.
    pub(crate) async fn disconnect(&self) {
        if let Some(link) = self.link.lock().await.take() {
            link.stop().await;
        }
    }

    /// How it stands with the link; none where peers push and pull.
    pub(crate) async fn link(&self) -> Option<String> {
        if !self.transport.is_live() {
            return None;
        }
        let link = self.link.lock().await;
        let status = link.as_ref().map(|link| link.peers()[0].status().borrow().clone());
        Some(status.map_or_else(|| "disconnected".to_owned(), |status| format!("{status:?}").to_lowercase()))
    }

    /// Cuts the link and closes the file.
    pub(crate) async fn close(&self) -> anyhow::Result<()> {
        self.disconnect().await;
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.close()).await.context("the database does not close")
    }

    /// Sends the hub what this peer wrote since the last push that was acknowledged.
    pub(crate) async fn push(&self) -> anyhow::Result<Pushed> {
        let _one_at_a_time = self.syncing.lock().await;
        let (site_id, hub_site) = (self.site_id, self.hub_site);
        let mut pushed = Pushed::default();
        let mut cursor = None;
        loop {
            let piece = move |store: &mut Store| own_piece(store, cursor, site_id, hub_site);
            let (changeset, next, done) = self.with_store(piece).await??;
            if !changeset.is_empty() {
                pushed.sent += changeset.len();
                client::post(self.hub, &format!("/changes/{ROOM}"), changeset.to_json()).await?;
            }
            cursor = Some(next);
            if done {
                // The hub has answered for every piece: only now is it known to hold them.
                let acknowledge = move |store: &mut Store| store.set_acknowledged_by(hub_site, next.base);
                self.with_store(acknowledge).await??;
                pushed.acknowledged = next.base.0;
                return Ok(pushed);
            }
        }
    }

    /// Merges what the hub has and this peer has not. The cursor is stored with the changes, in one transaction.
    pub(crate) async fn pull(&self) -> anyhow::Result<Pulled> {
        let _one_at_a_time = self.syncing.lock().await;
        let hub_site = self.hub_site;
        let mut pulled = Pulled::default();
        let mut asked = None;
        loop {
            let cursor = self.with_store(move |store| store.peer_cursor(hub_site)).await??;
            ensure!(
                asked.replace(cursor) != Some(cursor),
                "hub says there is more and the cursor does not move"
            );
            let piece = self.fetch(cursor.unwrap_or_else(Cursor::start)).await?;
            let (changeset, next) = (piece.changeset, piece.cursor);
            pulled.received += changeset.len();
            if cursor != Some(next) || !changeset.is_empty() {
                let options =
                    ApplyOptions { cursor: Some((hub_site, next)), events: true, ..ApplyOptions::default() };
                let merge = move |store: &mut Store| store.apply_with(&changeset, &options);
                pulled.add(&self.with_store(merge).await??);
            }
            if !piece.more {
                pulled.cursor = next.base.0;
                return Ok(pulled);
            }
        }
    }

    /// The cursors into and from the hub: up to where this peer has pulled, up to where its pushes are acknowledged.
    pub(crate) async fn cursors(&self) -> anyhow::Result<(Option<u64>, u64)> {
        let hub_site = self.hub_site;
        let cursors = self.with_store(move |store| {
            let pulled = store.peer_cursor(hub_site)?.map(|cursor| cursor.base.0);
            Ok::<_, opor_store::StoreError>((pulled, store.acknowledged_by(hub_site)?.0))
        });
        Ok(cursors.await??)
    }

    async fn fetch(&self, cursor: Cursor) -> anyhow::Result<Piece> {
        let (cursor, own) = (percent_encoded(&cursor.to_string()), self.site_id);
        let path = format!("/changes/{ROOM}?cursor={cursor}&exclude={own}&limit={PIECE}");
        let reply = client::get(self.hub, &path).await?;
        let hub_site = reply.header("opor-site-id")?;
        ensure!(hub_site == self.hub_site.to_string(), "hub is now {hub_site}, it was {}", self.hub_site);
        Ok(Piece {
            cursor: reply.header("opor-cursor")?.parse().context("hub sent a cursor that is none")?,
            more: reply.header("opor-more")? == "true",
            changeset: Changeset::from_json(reply.bytes(), &DecodeLimits::default())
                .context("hub sent no changes")?,
        })
    }
}

/// An answer of the hub.
struct Piece {
    changeset: Changeset,
    cursor: Cursor,
    more: bool,
}

impl Pulled {
    fn add(&mut self, report: &ApplyReport) {
        self.rows_inserted += report.rows_inserted;
        self.rows_updated += report.rows_updated;
        self.rows_deleted += report.rows_deleted;
        self.cells_won += report.cells_won;
        self.cells_lost += report.cells_lost;
        let events: Vec<Event> = report.events.iter().filter_map(Event::of).collect();
        let taken = events.len().min(EVENTS_MAX - self.events.len());
        self.events_left_out += events.len() - taken;
        self.events.extend(events.into_iter().take(taken));
    }
}

/// The next piece to push: only what this site wrote, since the hub is the one place the rest comes from.
fn own_piece(
    store: &Store,
    cursor: Option<Cursor>,
    site_id: SiteId,
    hub_site: SiteId,
) -> anyhow::Result<(Changeset, Cursor, bool)> {
    let cursor = match cursor {
        Some(cursor) => cursor,
        None => Cursor::at(store.acknowledged_by(hub_site)?),
    };
    let batch = store.changes(&cursor, PIECE)?;
    let own = batch.changeset.changes().filter(|change| change.site_id == site_id);
    Ok((own.collect(), batch.cursor, batch.done))
}

/// A text as part of a query string.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a String does not fail"),
        }
    }
    encoded
}
