//! `opor sync` with a room that no hub serves: its log is a stream of a NATS broker.

mod address;

use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail, ensure};
use opor_core::DbVersion;
use opor_store::{Store, StoreHandle};
use opor_sync::{CatchUp, SyncStatus};
use opor_sync_nats::{RoomCatchUp, RoomEvent, RoomEvents, RoomLog, RoomStatus, Skip};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

pub(crate) use self::address::{Address, is_one};
use super::view::View;
use super::{BACKOFF, End, LOOK_EVERY, SETTLE};
use crate::database::{self, Kind};
use crate::signals::Signals;

/// How far it is.
#[derive(Debug, Default)]
struct Progress {
    /// What was committed here at the beginning.
    target: DbVersion,
    published: DbVersion,
    is_live: bool,
    /// The last commit here that a merge made.
    merged: DbVersion,
    /// Messages that were left out, and why the last of them was.
    left_out: u64,
    why: String,
}

impl Progress {
    /// Whether all that was here is in the room, and all that was in the room is here.
    fn is_in_step(&self) -> bool {
        self.is_live && self.published >= self.target
    }

    /// Whether it is also noted that what came from the room need not go there.
    fn is_settled(&self) -> bool {
        self.is_in_step() && self.published >= self.merged
    }
}

/// A room of a broker has no schema that could be asked for: the file has to have tables.
///
/// # Errors
/// When it has none that replicate, or is no database.
pub(crate) fn check(file: &Path) -> anyhow::Result<()> {
    let missing = || {
        anyhow!(
            "{} has no replicated tables, and a room at a broker does not tell its own; see `opor init`",
            file.display(),
        )
    };
    match database::kind(file)? {
        Kind::New | Kind::Plain => Err(missing()),
        Kind::Replicated => {
            ensure!(!database::open(file)?.replicated_tables()?.is_empty(), missing());
            Ok(())
        }
    }
}

/// Joins the room, and stays until both are in step, or until it is told to go.
pub(crate) async fn follow(
    store: &StoreHandle,
    address: &Address,
    watch: bool,
    view: &mut View<'_>,
    signals: &mut Signals,
) -> anyhow::Result<End> {
    let target = store.read(Store::db_version).await??;
    let joining = RoomLog::builder(store.clone(), address.broker.as_str(), address.room.as_str())
        .options(address.options.clone())
        .backoff(BACKOFF)
        .look_every(LOOK_EVERY);
    let room = joining.join().await?;
    // Nothing has run since, on a runtime of one thread: the first event is not missed.
    let (mut events, mut status, mut published) = (room.events(), room.status(), room.published());
    let mut following = Following { watch, view, progress: Progress { target, ..Progress::default() } };
    following.view.expects(target, None);
    let end = tokio::select! {
        end = following.run(&mut events, &mut status, &mut published) => end,
        () = signals.next() => Ok(End::Interrupted),
    };
    tokio::select! {
        () = room.stop() => end,
        // The second one ends it at once; nothing that was published is lost.
        () = signals.next() => Ok(End::Interrupted),
    }
}

struct Following<'v, 'o> {
    watch: bool,
    view: &'v mut View<'o>,
    progress: Progress,
}

impl Following<'_, '_> {
    async fn run(
        &mut self,
        events: &mut RoomEvents,
        status: &mut watch::Receiver<RoomStatus>,
        published: &mut watch::Receiver<DbVersion>,
    ) -> anyhow::Result<End> {
        let mut settle_by = None;
        loop {
            if !self.watch && self.progress.is_in_step() {
                let by = *settle_by.get_or_insert_with(|| Instant::now() + SETTLE);
                if self.progress.is_settled() || Instant::now() >= by {
                    return self.in_step();
                }
            }
            let patience = settle_by.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                biased;
                () = sleep_until(patience) => {}
                event = events.next() => self.event(event.ok_or_else(|| why_over(status))?)?,
                changed = published.changed() => {
                    changed.map_err(|_| why_over(status))?;
                    self.progress.published = *published.borrow_and_update();
                    self.view.acknowledged(self.progress.published)?;
                }
                changed = status.changed() => {
                    changed.map_err(|_| why_over(status))?;
                    let now = status.borrow_and_update().clone();
                    self.progress.is_live = now == RoomStatus::Live;
                    self.view.status(&match now {
                        RoomStatus::Offline => SyncStatus::Offline,
                        RoomStatus::Connecting => SyncStatus::Connecting,
                        RoomStatus::CatchingUp { by, done, total } => {
                            let by = match by {
                                RoomCatchUp::Log => CatchUp::Log,
                                RoomCatchUp::Snapshot => CatchUp::Snapshot,
                            };
                            SyncStatus::CatchingUp { by, done, total }
                        }
                        RoomStatus::Live => SyncStatus::Live { lag: 0 },
                        RoomStatus::Refused { reason } => return Err(anyhow!("{reason}")),
                    })?;
                }
            }
        }
    }

    fn in_step(&self) -> anyhow::Result<End> {
        match self.progress.left_out {
            0 => Ok(End::InStep),
            count => bail!(
                "all else is in step, but messages of the room were left out: {count}, the last because {}",
                self.progress.why,
            ),
        }
    }

    fn event(&mut self, event: RoomEvent) -> anyhow::Result<()> {
        match event {
            RoomEvent::Merged { rows, changes, unchanged, version, .. } => {
                self.progress.merged = self.progress.merged.max(version.unwrap_or_default());
                // What this replica published itself comes back once more after an end in between.
                let rows = if version.is_some() { rows } else { 0 };
                self.view.received(rows, changes - unchanged, DbVersion(0))?;
            }
            RoomEvent::SnapshotTaken { rows, changes, .. } => {
                self.view.received(rows, changes, DbVersion(0))?;
            }
            RoomEvent::Published { rows, changes, .. } => self.view.sending(rows, changes)?,
            RoomEvent::Skipped { why, detail, .. } => {
                self.view.left_out(&detail)?;
                // Who writes garbage into a room does not stop those who use it.
                if why != Skip::Malformed {
                    self.progress.left_out += 1;
                    self.progress.why = detail;
                }
            }
            RoomEvent::Ended { how } => {
                let error = anyhow::Error::new(how);
                if !self.watch {
                    return Err(error);
                }
                self.view.offline(&format!("{error:#}"))?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Why nothing more will happen.
fn why_over(status: &watch::Receiver<RoomStatus>) -> anyhow::Error {
    match &*status.borrow() {
        RoomStatus::Refused { reason } => anyhow!("{reason}"),
        _ => anyhow!("syncing has ended by itself"),
    }
}
