//! Taking a snapshot, where a session finds that its peer's log will not do.

use std::sync::Arc;

use futures::future::BoxFuture;
use opor_core::SiteId;
use opor_sync_proto::{Ask, Cursor, Input, RequestId, Work};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};

use crate::answers::Done;
use crate::intake::Intake;
use crate::replicator::Shared;
use crate::session::Driver;
use crate::status::{CatchUp, SyncEvent, SyncStatus};
use crate::verdict::Ended;
use crate::work::{self, Failed, Merged};

/// Snapshots that a session asks for before it gives up for now: one, and others in place of what vanished on the way.
const FETCHES_MAX: u32 = 3;

/// How long the offer of a snapshot is waited for: the peer may have to make an image of 64 GiB first.
const OFFER_WAIT: Duration = Duration::from_secs(20 * 60);

/// Whoever has it is the only session that takes a snapshot.
pub(crate) struct Turn {
    /// Not there while something is written to it.
    intake: Option<Intake>,
    /// What is stored for the peer now.
    cursor: Option<Cursor>,
    /// Let go of last.
    _permit: OwnedSemaphorePermit,
}

/// How far a session is with a snapshot.
#[derive(Default)]
pub(crate) struct Taking {
    /// The cursor that the peer was last asked with.
    asked: Option<Cursor>,
    waiting: Option<BoxFuture<'static, Result<Turn, Failed>>>,
    turn: Option<Turn>,
    stalls_at: Option<Instant>,
    fetches: u32,
    /// The size of the image, and how many chunks it has.
    size: (u64, u64),
    /// The offer has come, and nobody has been told.
    is_news: bool,
}

impl Taking {
    /// The log was asked for.
    pub(crate) fn asked_log(&mut self, cursor: Option<Cursor>) {
        self.asked = cursor;
        self.turn = None;
        self.stalls_at = None;
    }

    /// Waits until this session is the one to take a snapshot; for ever, when it does not want to.
    ///
    /// # Cancel safety
    /// Safe: the place in the queue is kept.
    pub(crate) async fn turn_comes(&mut self) -> Result<Turn, Failed> {
        let Some(waiting) = &mut self.waiting else { return std::future::pending().await };
        let turn = waiting.await;
        self.waiting = None;
        turn
    }

    /// When the peer has been waited for too long.
    pub(crate) const fn stalls_at(&self) -> Option<Instant> {
        self.stalls_at
    }

    /// Leaves the queue. What is being written is written; the turn goes with it.
    pub(crate) fn give_up(&mut self) {
        self.waiting = None;
        self.stalls_at = None;
        if self.turn.as_ref().is_some_and(|turn| turn.intake.is_some()) {
            self.turn = None;
        }
    }
}

/// Waits for the turn, and then looks what there is: another session may have taken a snapshot of the same peer meanwhile.
async fn queue(shared: QueueOf, peer: SiteId) -> Result<Turn, Failed> {
    let permit = shared.turns.acquire_owned().await.expect("it is never closed");
    let store = shared.store.clone();
    let opened = spawn_blocking(move || Intake::open(store.path(), shared.bytes_max)).await;
    let intake = opened.map_err(|error| Failed::Here(Ended::Store(error.to_string())))??;
    let known = work::look_up(shared.store, peer).await?;
    Ok(Turn { intake: Some(intake), cursor: known.cursor, _permit: permit })
}

/// What waiting for a turn needs.
struct QueueOf {
    turns: Arc<Semaphore>,
    store: opor_store::StoreHandle,
    bytes_max: u64,
}

impl QueueOf {
    fn of(shared: &Shared) -> Self {
        let (turns, store) = (shared.turns.clone(), shared.store.clone());
        Self { turns, store, bytes_max: shared.snapshot_bytes_max }
    }
}

impl Driver<'_> {
    /// The peer does not give its log, or has no snapshot.
    pub(crate) fn behind(&mut self, snapshot: bool) {
        self.is_live = false;
        let was_fetching = self.taking.turn.take().is_some();
        self.taking.stalls_at = None;
        if snapshot && self.taking.fetches < FETCHES_MAX {
            let Some(site) = self.site else { return };
            (self.status)(SyncStatus::CatchingUp { by: CatchUp::Snapshot, done: 0, total: None });
            self.taking.waiting = Some(Box::pin(queue(QueueOf::of(self.shared), site)));
        } else if was_fetching && self.taking.fetches < FETCHES_MAX {
            // It has none, or none any more. Perhaps its log will do: it may only have been long.
            let asked = self.taking.asked.clone();
            self.feed(Input::Restart(Ask::Log(asked)));
        } else {
            let none = self.has_snapshots();
            self.ended = Some(if none { Ended::NoSnapshot } else { Ended::SnapshotNeeded });
            self.feed(Input::Shutdown);
        }
    }

    /// It is this session's turn.
    pub(crate) fn turn(&mut self, turn: Result<Turn, Failed>) {
        let turn = match turn {
            Ok(turn) => turn,
            Err(Failed::Here(ended)) => return self.store_failed(ended),
            Err(Failed::Rejected(..) | Failed::Fault(_) | Failed::Behind(_)) => return,
        };
        if turn.cursor != self.taking.asked {
            // Another link to the same peer has brought what was missed.
            let cursor = turn.cursor;
            self.taking.asked_log(cursor.clone());
            return self.feed(Input::Restart(Ask::Log(cursor)));
        }
        let resume = turn.intake.as_ref().and_then(Intake::resume);
        self.taking.fetches += 1;
        self.taking.turn = Some(turn);
        self.taking.stalls_at = Some(Instant::now() + OFFER_WAIT);
        self.feed(Input::Restart(Ask::Snapshot(resume)));
    }

    /// The peer has kept this session waiting, and with it the others that want a snapshot.
    pub(crate) fn stall(&mut self) {
        self.ended = Some(Ended::SnapshotStalled { after_ms: self.stall_ms() });
        self.feed(Input::Shutdown);
    }

    fn stall_ms(&self) -> u64 {
        if self.taking.size.1 == 0 {
            OFFER_WAIT.as_millis().try_into().unwrap_or(u64::MAX)
        } else {
            self.shared.config.timeouts.stall_ms
        }
    }

    /// Stores a part of a snapshot.
    pub(crate) fn take(&mut self, req: RequestId, site: SiteId, work: Work) {
        self.taking.stalls_at = None;
        let Some(intake) = self.taking.turn.as_mut().and_then(|turn| turn.intake.take()) else {
            // A snapshot that was taken back is given up; its last parts may still have waited here.
            return self.feed(Input::StoreFailed);
        };
        let (store, stopping) = (self.shared.store.clone(), self.shared.stopping.clone());
        match work {
            Work::Offer { offer, manifest } => {
                (self.taking.size, self.taking.is_news) = ((offer.bytes, offer.chunks), true);
                self.work.push(Box::pin(async move {
                    let (intake, taken) = work::take_offer(intake, site, offer, manifest).await;
                    Done::Taken(req, intake.map(Box::new), taken)
                }));
            }
            Work::Chunk { index, bytes } => self.work.push(Box::pin(async move {
                let (intake, taken) = work::take_chunk(intake, store, index, bytes, stopping).await;
                Done::Taken(req, intake.map(Box::new), taken)
            })),
            Work::Install(_) => {
                self.merging = true;
                self.work.push(Box::pin(async move {
                    Done::Installed(req, work::install(intake, store, stopping).await)
                }));
            }
            Work::Changes { .. } => unreachable!("that is no part of a snapshot"),
        }
    }

    /// A part is on the disk.
    pub(crate) fn taken(&mut self, req: RequestId, intake: Option<Intake>) {
        let held = intake.as_ref().map_or(0, Intake::held);
        if let Some(turn) = &mut self.taking.turn {
            turn.intake = intake;
        }
        let stall = Duration::from_millis(self.shared.config.timeouts.stall_ms);
        self.taking.stalls_at = Some(Instant::now() + stall);
        self.got_on = true;
        let (bytes, chunks) = self.taking.size;
        if std::mem::take(&mut self.taking.is_news)
            && let Some(site) = self.site
        {
            self.tell(SyncEvent::SnapshotBegun { site, bytes, chunks, held });
        }
        let done = u64::try_from(u128::from(bytes) * u128::from(held) / u128::from(chunks.max(1)));
        let done = done.unwrap_or(bytes);
        (self.status)(SyncStatus::CatchingUp { by: CatchUp::Snapshot, done, total: Some(bytes) });
        self.feed(Input::Applied { req, version: None });
    }

    /// The snapshot is in the database.
    pub(crate) fn installed(&mut self, req: RequestId, merged: &Merged) {
        self.taking.turn = None;
        self.taking.stalls_at = None;
        // What comes next is short.
        self.taking.fetches = 0;
        if let Some(site) = self.site {
            self.tell(SyncEvent::SnapshotInstalled { site });
        }
        self.merged(req, merged);
    }
}
