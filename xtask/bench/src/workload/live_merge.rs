//! Live queries beside a peer's changeset of many rows, and a reader who stalls beside a writer who does not.

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use opor_core::Changeset;
use opor_live::{Diff, Edit, Live, LiveError};
use opor_store::{ApplyOptions, Cursor, OpenOptions, Origin, Store, StoreHandle};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::clock::cpu;
use crate::database::{Setting, Side};
use crate::workload::memory::peak;

/// The most rows that are merged.
const MERGED_MAX: usize = 100_000;
/// Open queries, one for a list.
const QUERIES: usize = 1_000;
/// Rows of a list, as everywhere in this part; and so many that every row that is merged is in a result.
const ROWS_OF_LIST: usize = 10;
/// What a stalled reader misses: ten seconds of ten thousand commits each.
const MISSED: usize = 100_000;
/// The rows of his result, and the bytes of a row.
const ROWS: usize = 1_000;
const ROW_BYTES: usize = 500;

const SCHEMA: &str =
    "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, list INTEGER, title TEXT, note TEXT, done INTEGER);
    CREATE INDEX todos_of_list ON todos(list)";

type Todo = (i64, String);
type Diffs = BoxStream<'static, Result<Diff<Todo>, LiveError>>;

/// A replica, in a folder that goes with it.
struct Replica {
    handle: StoreHandle,
    runtime: Runtime,
    _folder: TempDir,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.handle.clone().close();
    }
}

impl Replica {
    fn new(setting: &Setting<'_>) -> Result<Self> {
        let folder = tempfile::tempdir_in(setting.folder).context("could not make a folder")?;
        let handle = StoreHandle::open(folder.path().join("live.db"), &OpenOptions::new(), 1)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { handle, runtime, _folder: folder })
    }

    fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.runtime.block_on(self.handle.write(job))?
    }
}

/// The rows of a peer, as one changeset, and how it is merged.
fn changeset(rows: usize, lists: usize) -> Result<(Changeset, ApplyOptions)> {
    let mut peer = Store::open_in_memory()?;
    peer.execute_batch(SCHEMA)?;
    peer.replicate("todos")?;
    let fill = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {rows} - 1)
        INSERT INTO todos SELECT i, i % {lists}, 'something to do ' || i, 'as was agreed on the phone', 0 FROM n"
    );
    peer.execute_batch(&fill)?;
    let batch = peer.changes(&Cursor::start(), usize::MAX)?;
    let cursor = Some((peer.site_id(), batch.cursor));
    Ok((batch.changeset, ApplyOptions { cursor, ..ApplyOptions::default() }))
}

/// CPU seconds of merging rows of many lists into an empty replica. On the side of opor a thousand live queries are open meanwhile, and it
/// is over when each of their readers has the rows that have come to it, in one diff.
pub(crate) fn merge(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.rows.min(MERGED_MAX);
    merge_lists(setting, side, rows, rows / ROWS_OF_LIST)
}

/// The same when every row that is merged is in some result.
pub(crate) fn merge_all_told(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.rows.min(MERGED_MAX);
    merge_lists(setting, side, rows, QUERIES.min(rows / ROWS_OF_LIST))
}

fn merge_lists(setting: &Setting<'_>, side: Side, rows: usize, lists: usize) -> Result<f64> {
    let (changeset, options) = changeset(rows, lists)?;
    let replica = Replica::new(setting)?;
    replica.write(|store| {
        store.execute_batch(SCHEMA)?;
        Ok(store.replicate("todos")?)
    })?;
    let merge = |replica: &Replica| -> Result<()> {
        let report = replica.write(move |store| Ok(store.apply_with(&changeset, &options)?))?;
        ensure!(report.rows_inserted == rows, "{} rows of {rows} were merged", report.rows_inserted);
        Ok(())
    };
    if side == Side::Plain {
        return Ok(cpu(|| merge(&replica))?.0);
    }
    let queries = QUERIES.min(lists);
    let live = Live::start(&replica.handle)?;
    let mut readers = (0..queries).map(|list| reader(&replica, &live, list)).collect::<Result<Vec<_>>>()?;
    let before = live.stats();
    let (seconds, diffs) = cpu(|| {
        merge(&replica)?;
        let next = |reader: &mut Diffs| replica.runtime.block_on(reader.next()).context("the stream goes on");
        readers.iter_mut().map(|reader| Ok(next(reader)??)).collect::<Result<Vec<_>>>()
    })?;
    replica.runtime.block_on(live.settled())?;
    let (runs, updates) = (live.stats().runs - before.runs, live.stats().updates - before.updates);
    ensure!(runs == queries as u64, "{runs} runs of {queries} queries");
    ensure!(updates == queries as u64, "{updates} updates of {queries} queries");
    ensure!(diffs.iter().map(inserted).sum::<usize>() == rows / lists * queries, "some rows were not told");
    ensure!(diffs.iter().all(|diff| matches!(diff.origin, Some(Origin::Peer(_)))), "a peer made the changes");
    let silent = |reader: &mut Diffs| reader.next().now_or_never().is_none();
    ensure!(readers.iter_mut().all(silent), "a query was told of one changeset twice");
    Ok(seconds)
}

fn reader(replica: &Replica, live: &Live, list: usize) -> Result<Diffs> {
    let query = live.query::<Todo>("SELECT id, title FROM todos WHERE list = ?").key(["id"]);
    let mut diffs = replica.runtime.block_on(query.bind(i64::try_from(list)?).subscribe())?.diffs();
    replica.runtime.block_on(diffs.next()).context("the stream begins")??;
    Ok(diffs)
}

fn inserted(diff: &Diff<Todo>) -> usize {
    diff.edits
        .iter()
        .map(|edit| match edit {
            Edit::Insert { .. } => 1,
            Edit::Reset { rows } => rows.len(),
            Edit::Remove { .. } | Edit::Move { .. } | Edit::Update { .. } => 0,
        })
        .sum()
}

/// MB that the process grows by while a reader does not look, and ten seconds of ten thousand commits each are made as fast as can be.
pub(crate) fn stalled(setting: &Setting<'_>, _: Side) -> Result<f64> {
    let replica = Replica::new(setting)?;
    replica.write(|store| {
        store.execute_batch(SCHEMA)?;
        let fill = format!(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS} - 1)
            INSERT INTO todos SELECT i, 0, printf('%.*c', {ROW_BYTES}, 'a'), '', 0 FROM n"
        );
        Ok(store.execute_batch(&fill)?)
    })?;
    let live = Live::start(&replica.handle)?;
    let mut stalled = reader(&replica, &live, 0)?;
    let update = |from: usize, commits: usize| {
        replica.write(move |store| {
            let mut stmt =
                store.prepare("UPDATE todos SET title = printf('%.*c', ?, 'b') || ? WHERE id = ?")?;
            for commit in from..from + commits {
                stmt.execute((ROW_BYTES as i64, commit as i64, (commit % ROWS) as i64))?;
            }
            Ok(())
        })
    };
    // Caches fill, and the log is written from its beginning again.
    update(0, MISSED / 10)?;
    replica.runtime.block_on(live.settled())?;
    let megabytes = peak(|| {
        (0..MISSED / ROWS).try_for_each(|piece| update(piece * ROWS, ROWS))?;
        Ok(replica.runtime.block_on(live.settled())?)
    })?;
    let diff = replica.runtime.block_on(stalled.next()).context("the stream goes on")??;
    ensure!(diff.edits.len() <= ROWS, "{} edits lead to {ROWS} rows", diff.edits.len());
    ensure!(stalled.next().now_or_never().is_none(), "there is one diff for all that was missed");
    Ok(megabytes)
}
