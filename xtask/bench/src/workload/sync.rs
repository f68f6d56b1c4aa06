//! Two replicas over a WebSocket on the loopback, as two applications have them: the driver, the handles, the files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use opor_store::{Cursor, OpenOptions, Store, StoreHandle};
use opor_sync::{Replicator, SyncEvent};
use opor_transport_traits::Listener as _;
use opor_transport_websocket::{ListenOptions, WebSocketDialer, WebSocketListener};
use rusqlite::params_from_iter;
use tokio::runtime::Runtime;

use crate::clock::cpu;
use crate::database::{Database, Setting, Side};
use crate::workload::memory::peak;
use crate::workload::upkeep;

/// How a log is closed up with, whatever its length.
const ONLY_BY_LOG: u64 = u64::MAX;
/// A snapshot for whoever lacks most of the rows.
const BY_SNAPSHOT: u64 = 0;

/// A replica with rows and one without, and the runtime of both.
struct Pair {
    runtime: Runtime,
    desk: StoreHandle,
    phone: StoreHandle,
    // Dropped last: they remove the files.
    _files: [Database; 2],
}

impl Pair {
    fn new(setting: &Setting<'_>, desk: Database) -> Result<Self> {
        let phone = Database::open(setting, Side::Opor)?;
        let open = |database: &Database| -> Result<StoreHandle> {
            let file = database.file().context("a database in memory is not shared")?;
            Ok(StoreHandle::open(file, &OpenOptions::new(), 1)?)
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime, desk: open(&desk)?, phone: open(&phone)?, _files: [desk, phone] })
    }

    /// Connects the two, until the phone has all.
    async fn connect(&self, snapshot_rows: u64) -> Result<[Replicator; 2]> {
        let listener = WebSocketListener::bind("127.0.0.1:0".parse()?, ListenOptions::default())?;
        let url = listener.address().to_owned();
        let desk =
            Replicator::builder(self.desk.clone(), "bench").snapshot_rows(snapshot_rows).listen(listener);
        let desk = desk.start().await?;
        let phone = Replicator::builder(self.phone.clone(), "bench").peer(WebSocketDialer::new(&url)?);
        let phone = phone.start().await?;
        let mut events = phone.events();
        loop {
            match events.next().await.context("syncing ended")? {
                SyncEvent::CaughtUp { .. } => return Ok([phone, desk]),
                SyncEvent::Ended { how, .. } => bail!("a session ended: {how}"),
                _ => {}
            }
        }
    }

    fn close(self) {
        self.desk.close();
        self.phone.close();
    }
}

async fn stop(replicators: [Replicator; 2]) {
    for replicator in replicators {
        replicator.stop().await;
    }
}

/// How many rows of the shape a replica has.
async fn count(handle: &StoreHandle, setting: &Setting<'_>) -> Result<usize> {
    let sql = format!("SELECT count(*) FROM {}", setting.shape.table);
    let rows = handle.read(move |store| store.query_row(&sql, [], |row| row.get::<_, i64>(0))).await??;
    Ok(usize::try_from(rows)?)
}

/// Milliseconds from the beginning of a write until it is committed on the other side, half of all.
pub(crate) fn live_p50(setting: &Setting<'_>, _: Side) -> Result<f64> {
    percentile(setting, 50)
}

/// The same, all but one of a hundred.
pub(crate) fn live_p99(setting: &Setting<'_>, _: Side) -> Result<f64> {
    percentile(setting, 99)
}

fn percentile(setting: &Setting<'_>, percent: usize) -> Result<f64> {
    let pair = Pair::new(setting, Database::open(setting, Side::Opor)?)?;
    let edits = (setting.rows / 50).clamp(100, 2_000);
    let mut millis = pair.runtime.block_on(async {
        let replicators = pair.connect(ONLY_BY_LOG).await?;
        let mut seen = pair.phone.commits();
        let mut millis = Vec::new();
        for number in 0..edits {
            let started = Instant::now();
            insert(&pair.desk, setting, number).await?;
            seen.next().await.context("the other side is gone")?;
            millis.push(started.elapsed().as_secs_f64() * 1e3);
        }
        ensure!(count(&pair.phone, setting).await? == edits, "an edit is missing");
        stop(replicators).await;
        anyhow::Ok(millis)
    })?;
    pair.close();
    millis.sort_by(f64::total_cmp);
    Ok(millis[(millis.len() * percent / 100).min(millis.len() - 1)])
}

async fn insert(handle: &StoreHandle, setting: &Setting<'_>, number: usize) -> Result<()> {
    let sql = crate::statements::Statements { shape: setting.shape, side: Side::Opor }.insert();
    let row = setting.shape.row(number);
    handle
        .write(move |store: &mut Store| store.prepare(&sql)?.execute(params_from_iter(row.iter())).map(drop))
        .await??;
    Ok(())
}

/// How many times as long on the clock as applying the same changesets takes: all rows into an empty replica.
pub(crate) fn catch_up(setting: &Setting<'_>, _: Side) -> Result<f64> {
    let pair = Pair::new(setting, setting.filled(Side::Opor)?)?;
    let (synced, applied) = pair.runtime.block_on(async {
        let started = Instant::now();
        let replicators = pair.connect(ONLY_BY_LOG).await?;
        let synced = started.elapsed();
        ensure!(count(&pair.phone, setting).await? == setting.rows, "a row is missing");
        stop(replicators).await;
        anyhow::Ok((synced, apply(&pair.desk, setting).await?))
    })?;
    pair.close();
    Ok(synced.as_secs_f64() / applied)
}

/// Seconds of applying the log, in the pieces in which it travels.
async fn apply(desk: &StoreHandle, setting: &Setting<'_>) -> Result<f64> {
    let mut target = Database::open(setting, Side::Opor)?;
    let store = target.store_mut().context("opor has a store")?;
    let (mut cursor, mut seconds) = (Cursor::start(), 0.0);
    loop {
        let batch = desk.read(move |store| store.changes(&cursor, 50_000)).await??;
        let started = Instant::now();
        store.apply(&batch.changeset)?;
        seconds += started.elapsed().as_secs_f64();
        if batch.done {
            return Ok(seconds);
        }
        cursor = batch.cursor;
    }
}

/// The most memory of both sides together, while all rows are caught up with and both edit without a pause.
pub(crate) fn memory(setting: &Setting<'_>, _: Side) -> Result<f64> {
    let pair = Pair::new(setting, setting.filled(Side::Opor)?)?;
    let taken = peak(|| {
        pair.runtime.block_on(async {
            let over = Arc::new(AtomicBool::new(false));
            let edits = [&pair.desk, &pair.phone].into_iter().enumerate().map(|(place, handle)| {
                let (over, from) = (over.clone(), setting.rows * (place + 1));
                async move {
                    let mut number = 0;
                    while !over.load(Ordering::Relaxed) {
                        insert(handle, setting, from + number).await?;
                        number += 1;
                    }
                    anyhow::Ok(number)
                }
            });
            let mut edits = edits.collect::<Vec<_>>().into_iter();
            let (one, other) = (edits.next().context("two sides")?, edits.next().context("two sides")?);
            let connect = async {
                let replicators = pair.connect(ONLY_BY_LOG).await;
                over.store(true, Ordering::Relaxed);
                replicators
            };
            let (replicators, one, other) = tokio::join!(connect, one, other);
            ensure!(one? > 0 && other? > 0, "both sides have edited");
            stop(replicators?).await;
            Ok(())
        })
    })?;
    pair.close();
    Ok(taken)
}

/// CPU seconds of both sides until a new replica is there by snapshot; against copying the file.
pub(crate) fn by_snapshot(setting: &Setting<'_>, side: Side) -> Result<f64> {
    bootstrap(setting, side, BY_SNAPSHOT).map(|(cpu, _)| cpu)
}

/// The same, against moving a plain database as safely by hand.
pub(crate) fn by_snapshot_or_hand(setting: &Setting<'_>, side: Side) -> Result<f64> {
    if side == Side::Plain { upkeep::bootstrap(setting, side) } else { by_snapshot(setting, side) }
}

/// Seconds on the clock of the same.
pub(crate) fn by_snapshot_clock(setting: &Setting<'_>, side: Side) -> Result<f64> {
    bootstrap(setting, side, BY_SNAPSHOT).map(|(_, clock)| clock)
}

/// CPU seconds of both sides until a new replica is there by the log; against copying the file.
pub(crate) fn by_log(setting: &Setting<'_>, side: Side) -> Result<f64> {
    bootstrap(setting, side, ONLY_BY_LOG).map(|(cpu, _)| cpu)
}

/// Seconds on the clock of the same.
pub(crate) fn by_log_clock(setting: &Setting<'_>, side: Side) -> Result<f64> {
    bootstrap(setting, side, ONLY_BY_LOG).map(|(_, clock)| clock)
}

fn bootstrap(setting: &Setting<'_>, side: Side, snapshot_rows: u64) -> Result<(f64, f64)> {
    let source = setting.filled(side)?;
    if side == Side::Plain {
        let file = source.file().context("a database in memory has no file")?;
        let target = setting.folder.join("replica.db");
        let started = Instant::now();
        let (seconds, _) = cpu(|| Ok(std::fs::copy(file, &target)?))?;
        let clock = started.elapsed().as_secs_f64();
        std::fs::remove_file(&target)?;
        return Ok((seconds, clock));
    }
    let pair = Pair::new(setting, source)?;
    let started = Instant::now();
    let (seconds, replicators) = cpu(|| pair.runtime.block_on(pair.connect(snapshot_rows)))?;
    let clock = started.elapsed().as_secs_f64();
    pair.runtime.block_on(async {
        ensure!(count(&pair.phone, setting).await? == setting.rows, "a row is missing");
        stop(replicators).await;
        Ok(())
    })?;
    pair.close();
    Ok((seconds, clock))
}
