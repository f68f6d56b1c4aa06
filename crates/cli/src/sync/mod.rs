//! `opor sync`: keeps a database in step with a room of a hub.

#[cfg(feature = "nats")]
mod nats;
mod remote;
mod schema;
mod view;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use opor_core::{DbVersion, SiteId};
use opor_store::{OpenOptions, StoreHandle};
use opor_sync::{Backoff, Replicator, SyncEvent, SyncEvents, SyncStatus, Timeouts};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::remote::Remote;
use self::schema::{Agreed, Failed};
use self::view::View;
use crate::signals::Signals;
use crate::token;
#[cfg(feature = "nats")]
use crate::trust::Trust;

/// Exit status of a program ended by a signal before it was done.
const INTERRUPTED: u8 = 130;

/// How often other processes that write to the file are looked for: a person does not notice, and a look costs little.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Short, because somebody watches; long enough that a hub which starts is not hammered.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), max: Duration::from_secs(10) };

/// So long both sides may take to tell their cursors once they are in step. It costs traffic not to wait, and nothing else.
const SETTLE: Duration = Duration::from_secs(2);

/// How soon a cursor that moved without changes is told: whoever waits for it waits that long.
const CURSOR_MS: u64 = 100;

/// Sync a database with a room of a hub: once, or for as long as it runs.
///
/// It ends when each side holds all that the other had committed when it began, and both have it on disk. Other
/// programs may use the file meanwhile, with opor. A file that does not exist gets the tables of the room; a room that does
/// not exist gets those of the file. The token comes from --token-file or the environment variable OPOR_TOKEN.
#[derive(Debug, Args)]
pub(crate) struct Sync {
    /// The database; created when it does not exist.
    file: PathBuf,
    /// The room: ws://HOST:PORT/sync/ROOM of a hub, wss:// over TLS, http:// or https:// where no WebSocket gets through;
    /// nats://HOST:PORT/ROOM of a broker, tls:// over TLS.
    url: String,
    /// Go on: what is written on either side appears on the other, until ctrl-c.
    #[arg(long)]
    watch: bool,
    /// Show the token of this file.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Over TLS, trust the authorities whose certificates are in this file (PEM), and no others. Without, those of the file
    /// that SSL_CERT_FILE names; without that, those that browsers trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print one JSON object for each event.
    #[arg(long)]
    json: bool,
}

/// How far it is.
#[derive(Debug, Default)]
struct Progress {
    /// The replica at the other end.
    site: Option<SiteId>,
    /// What was committed here at the beginning.
    target: DbVersion,
    acknowledged: DbVersion,
    caught_up: bool,
    /// The last commit here that a merge made.
    merged: DbVersion,
    /// Whether something is on its way there, of which the other side has not told us yet that it is in our cursor.
    untold: bool,
}

impl Progress {
    /// Whether each side holds what the other had at the beginning.
    fn is_in_step(&self) -> bool {
        self.caught_up && self.acknowledged >= self.target
    }

    /// Whether each side also knows that the other does: else the same would travel again the next time.
    fn is_settled(&self) -> bool {
        self.is_in_step() && self.acknowledged >= self.merged && !self.untold
    }
}

/// How following ended, without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Both sides hold what they had at the beginning.
    InStep,
    Interrupted,
}

impl Sync {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let ended = self.run_until_it_ends(out);
        if let Err(error) = &ended
            && self.json
        {
            let event = json!({ "event": "failed", "why": format!("{error:#}") });
            // Where nobody reads it any more, the exit status has to do.
            let _ = writeln!(out, "{event}").and_then(|()| out.flush());
        }
        ended
    }

    fn run_until_it_ends(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        #[cfg(feature = "nats")]
        if nats::is_one(&self.url) {
            return self.run_at_broker(out);
        }
        let remote = Remote::parse(&self.url)?.trusting(self.ca.as_deref())?;
        let token = token::one(self.token_file.as_deref())?;
        // The database has threads of its own, and one thread is enough for one link.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let mut view = View::new(out, self.json, &remote.shown);
        runtime.block_on(self.sync(&remote, token.as_deref(), &mut view))
    }

    async fn sync(
        &self,
        remote: &Remote,
        token: Option<&str>,
        view: &mut View<'_>,
    ) -> anyhow::Result<ExitCode> {
        let mut signals = Signals::new()?;
        view.status(&SyncStatus::Connecting)?;
        let agreed = tokio::select! {
            agreed = self.agree(remote, token, view) => agreed?,
            () = signals.next() => return Ok(self.interrupted()),
        };
        view.agreed(&self.file, &agreed)?;
        let store = self.open().await?;
        let end = self.follow(&store, remote, token, &agreed, view, &mut signals).await;
        self.close(store, end, view).await
    }

    #[cfg(feature = "nats")]
    fn run_at_broker(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let token = token::one(self.token_file.as_deref())?;
        // A broker may ask for TLS at an address of either kind.
        let trust = Trust::of(self.ca.as_deref())?;
        let address = nats::Address::parse(&self.url, token.as_deref())?.trusting(&trust);
        nats::check(&self.file)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let mut view = View::new(out, self.json, &address.shown);
        runtime.block_on(async {
            let mut signals = Signals::new()?;
            view.status(&SyncStatus::Connecting)?;
            let store = self.open().await?;
            let end = nats::follow(&store, &address, self.watch, &mut view, &mut signals).await;
            self.close(store, end, &mut view).await
        })
    }

    async fn open(&self) -> anyhow::Result<StoreHandle> {
        let path = self.file.clone();
        let opening =
            tokio::task::spawn_blocking(move || StoreHandle::open(path, &OpenOptions::new(), 1)).await?;
        opening.with_context(|| format!("cannot open {}", self.file.display()))
    }

    async fn close(
        &self,
        store: StoreHandle,
        end: anyhow::Result<End>,
        view: &mut View<'_>,
    ) -> anyhow::Result<ExitCode> {
        tokio::task::spawn_blocking(move || store.close()).await?;
        let end = end?;
        view.ended(match end {
            End::InStep => "done",
            End::Interrupted if self.watch => "stopped",
            End::Interrupted => "interrupted",
        })?;
        Ok(if end == End::InStep { ExitCode::SUCCESS } else { self.interrupted() })
    }

    /// To be ended is how watching ends.
    fn interrupted(&self) -> ExitCode {
        if self.watch { ExitCode::SUCCESS } else { ExitCode::from(INTERRUPTED) }
    }

    /// Agrees on the tables; whoever watches waits for a hub that is away.
    async fn agree(
        &self,
        remote: &Remote,
        token: Option<&str>,
        view: &mut View<'_>,
    ) -> anyhow::Result<Agreed> {
        let mut pause = BACKOFF.first;
        loop {
            match schema::agree(&self.file, remote, token).await {
                Ok(agreed) => return Ok(agreed),
                Err(Failed::Unreachable(error)) if self.watch => view.offline(&format!("{error:#}"))?,
                Err(failed) => return Err(failed.into_error()),
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(BACKOFF.max);
        }
    }

    async fn follow(
        &self,
        store: &StoreHandle,
        remote: &Remote,
        token: Option<&str>,
        agreed: &Agreed,
        view: &mut View<'_>,
        signals: &mut Signals,
    ) -> anyhow::Result<End> {
        let target = store.read(|store| store.db_version()).await??;
        let mut syncing = Replicator::builder(store.clone(), remote.room.as_str())
            .peer(remote.dialer(token)?)
            .timeouts(Timeouts { cursor_ms: CURSOR_MS, ..Timeouts::default() })
            .backoff(BACKOFF)
            .look_every(LOOK_EVERY);
        if let Some(token) = token {
            syncing = syncing.token(token);
        }
        let syncing = syncing.start().await?;
        // Nothing has run since, on a runtime of one thread: the first event is not missed.
        let mut events = syncing.events();
        let mut status = syncing.peers()[0].status();
        let mut progress = Progress { target, ..Progress::default() };
        view.expects(target, agreed.db_version.map(DbVersion));
        let end = tokio::select! {
            end = self.watch_events(store, &mut events, &mut status, &mut progress, view) => end,
            () = signals.next() => Ok(End::Interrupted),
        };
        tokio::select! {
            () = syncing.stop() => end,
            // The second one ends it at once; nothing that was acknowledged is lost.
            () = signals.next() => Ok(End::Interrupted),
        }
    }

    /// Shows what happens, until both are in step; for ever, when they are to stay so.
    async fn watch_events(
        &self,
        store: &StoreHandle,
        events: &mut SyncEvents,
        status: &mut watch::Receiver<SyncStatus>,
        progress: &mut Progress,
        view: &mut View<'_>,
    ) -> anyhow::Result<End> {
        let mut settle_by = None;
        loop {
            if !self.watch && progress.is_in_step() {
                let by = *settle_by.get_or_insert_with(|| Instant::now() + SETTLE);
                if progress.is_settled() || Instant::now() >= by {
                    return Ok(End::InStep);
                }
            }
            let patience = settle_by.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                () = sleep_until(patience) => {}
                event = events.next() => {
                    let event = event.ok_or_else(|| why_over(status))?;
                    self.event(store, &event, progress, view).await?;
                }
                changed = status.changed() => {
                    changed.map_err(|_| why_over(status))?;
                    let now = status.borrow_and_update().clone();
                    if let SyncStatus::Refused { .. } = now {
                        return Err(why_over(status));
                    }
                    view.status(&now)?;
                }
            }
        }
    }

    async fn event(
        &self,
        store: &StoreHandle,
        event: &SyncEvent,
        progress: &mut Progress,
        view: &mut View<'_>,
    ) -> anyhow::Result<()> {
        match event {
            SyncEvent::Open { site, .. } => progress.site = Some(*site),
            SyncEvent::Merged { site, rows, changes, version, .. } => {
                progress.merged = progress.merged.max(version.unwrap_or_default());
                progress.untold &= !progress.is_in_step();
                let site = *site;
                let cursor = store.read(move |store| store.peer_cursor(site)).await??;
                view.received(*rows, *changes, cursor.map_or(DbVersion(0), |cursor| cursor.reached()))?;
            }
            SyncEvent::Sending { rows, changes, .. } => {
                progress.untold = true;
                view.sending(*rows, *changes)?;
            }
            SyncEvent::CaughtUp { .. } => progress.caught_up = true,
            SyncEvent::Acknowledged { version, .. } => {
                progress.acknowledged = progress.acknowledged.max(*version);
                view.acknowledged(progress.acknowledged)?;
            }
            SyncEvent::Ended { how, .. } => {
                let error = anyhow::Error::new((**how).clone());
                if !self.watch {
                    return Err(error);
                }
                progress.caught_up = false;
                let why = if how.is_goodbye() { "the hub said goodbye".into() } else { format!("{error:#}") };
                view.offline(&why)?;
            }
            SyncEvent::Missed(_) => self.look_again(store, progress).await?,
            _ => {}
        }
        Ok(())
    }

    /// Asks the store what events would have told.
    async fn look_again(&self, store: &StoreHandle, progress: &mut Progress) -> anyhow::Result<()> {
        if let Some(site) = progress.site {
            let acknowledged = store.read(move |store| store.acknowledged_by(site)).await??;
            progress.acknowledged = progress.acknowledged.max(acknowledged);
        }
        Ok(())
    }
}

/// Why nothing more will happen.
fn why_over(status: &watch::Receiver<SyncStatus>) -> anyhow::Error {
    match &*status.borrow() {
        SyncStatus::Refused { reason } => anyhow!("{reason}"),
        _ => anyhow!("syncing has ended by itself"),
    }
}
