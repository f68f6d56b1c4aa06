//! Live queries: from a commit to what it changes in results, what open queries cost, and what they take of memory.
//!
//! There is one table, of todos in lists, and a query for each list. These are times on the clock, not CPU time: as a person waits.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use opor_live::{Live, Subscription};
use opor_store::{OpenOptions, StoreHandle};
use tokio::runtime::Runtime;

use crate::clock::median;
use crate::database::{Setting, Side};
use crate::workload::memory::peak;

/// The todos of a list.
type Todo = (i64, String);

/// How many commits are looked at, one by one.
const COMMITS: usize = 500;
/// Rows of a commit that concerns nobody, by which routing is measured: as many as a feed tells one by one, nearly.
const ROUTED: usize = 8_000;
/// Columns, and queries that read one each.
const COLUMNS: usize = 50;
/// The query of each list.
const OF_LIST: &str = "SELECT id, title FROM todos WHERE list = ?";
/// Commits after each of which every query is run.
const NAIVE_COMMITS: usize = 5;

/// A database with todos.
struct Place {
    file: PathBuf,
    handle: StoreHandle,
    live: Live,
    runtime: Runtime,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handle.clone().close();
        for end in ["", "-wal", "-shm"] {
            let mut name = self.file.clone().into_os_string();
            name.push(end);
            let _gone = std::fs::remove_file(name);
        }
    }
}

impl Place {
    fn new(setting: &Setting<'_>, schema: &str) -> Result<Self> {
        let file = setting.folder.join(format!("live-{}.db", std::process::id()));
        let handle = StoreHandle::open(&file, &OpenOptions::new(), 1)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let live = Live::start(&handle)?;
        let place = Self { file, handle, live, runtime };
        place.write(schema)?;
        Ok(place)
    }

    /// Todos in as many lists as a tenth of them.
    fn with_todos(setting: &Setting<'_>) -> Result<Self> {
        let schema = format!(
            "CREATE TABLE todos(id INTEGER PRIMARY KEY, list INTEGER, at REAL, title TEXT);
            WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {} - 1)
            INSERT INTO todos SELECT i, i % {}, i, 'something to do ' || i FROM n;
            CREATE INDEX todos_of_list ON todos(list); CREATE INDEX todos_at ON todos(at)",
            setting.rows,
            lists(setting)
        );
        Self::new(setting, &schema)
    }

    /// Writes, and tells when it was committed.
    fn write(&self, sql: &str) -> Result<Instant> {
        let sql = sql.to_owned();
        let wrote = self.handle.write(move |store| store.execute_batch(&sql).map(|()| Instant::now()));
        Ok(self.runtime.block_on(wrote)??)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.runtime.block_on(self.live.settled())?)
    }

    /// A query for each list.
    fn open(&self, queries: usize, sql: &str) -> Result<Vec<Subscription<Todo>>> {
        let open = |list: usize| {
            let query = self.live.query::<Todo>(sql).key(["id"]);
            Ok(self.runtime.block_on(query.bind(i64::try_from(list)?).subscribe())?)
        };
        (0..queries).map(open).collect()
    }
}

const fn lists(setting: &Setting<'_>) -> usize {
    setting.rows / 10
}

/// Microseconds from a commit to the diff of the query that it concerns, half of all. By hand: until all queries of the table have been run
/// again.
pub(crate) fn diff_p50(setting: &Setting<'_>, side: Side) -> Result<f64> {
    if side == Side::ByHand { table_level(setting) } else { commit_to_diff(setting, 50) }
}

/// The same, all but one of a hundred.
pub(crate) fn diff_p99(setting: &Setting<'_>, _: Side) -> Result<f64> {
    commit_to_diff(setting, 99)
}

fn commit_to_diff(setting: &Setting<'_>, percent: usize) -> Result<f64> {
    let place = Place::with_todos(setting)?;
    let open = place.open(lists(setting), OF_LIST)?;
    let mut micros = Vec::with_capacity(COMMITS);
    for number in 0..COMMITS {
        let id = number * 7_919 % setting.rows;
        let mut diffs = open[id % lists(setting)].diffs();
        place.runtime.block_on(diffs.next());
        let committed =
            place.write(&format!("UPDATE todos SET title = 'changed {number}' WHERE id = {id}"))?;
        let diff = place.runtime.block_on(diffs.next()).context("the stream goes on")??;
        micros.push(committed.elapsed().as_secs_f64() * 1e6);
        ensure!(diff.edits.len() == 1, "one row has changed");
    }
    micros.sort_by(f64::total_cmp);
    Ok(micros[micros.len() * percent / 100])
}

/// Microseconds that running every query of the table again takes, as is done where only tables are known.
fn table_level(setting: &Setting<'_>) -> Result<f64> {
    let place = Place::with_todos(setting)?;
    // A condition that is no guard.
    let open = place.open(lists(setting), "SELECT id, title FROM todos WHERE +list = ?1 AND list = +?1")?;
    let before = place.live.stats().runs;
    let mut micros = Vec::new();
    for number in 0..NAIVE_COMMITS {
        let committed =
            place.write(&format!("UPDATE todos SET title = 'changed {number}' WHERE id = {number}"))?;
        place.settle()?;
        micros.push(committed.elapsed().as_secs_f64() * 1e6);
    }
    let runs = place.live.stats().runs - before;
    ensure!(runs == (open.len() * NAIVE_COMMITS) as u64, "{runs} runs of {} queries", open.len());
    Ok(median(micros))
}

/// Microseconds a change that concerns nobody, with as many queries by `=` as there are rows.
pub(crate) fn route_equal(setting: &Setting<'_>, _: Side) -> Result<f64> {
    route(setting, "SELECT id FROM todos WHERE list = ?1 AND ?2 > 0")
}

/// The same, with ranges.
pub(crate) fn route_range(setting: &Setting<'_>, _: Side) -> Result<f64> {
    route(setting, "SELECT id FROM todos WHERE at >= ?1 AND at < ?2")
}

fn route(setting: &Setting<'_>, sql: &str) -> Result<f64> {
    let place = Place::with_todos(setting)?;
    let change = |number: usize| -> Result<f64> {
        let away = format!("UPDATE todos SET list = -2 - {number}, at = -2 - {number} WHERE id < {ROUTED}");
        let committed = place.write(&away)?;
        place.settle()?;
        Ok(committed.elapsed().as_secs_f64() * 1e6)
    };
    let open = |at: usize| {
        let at = 10 * i64::try_from(at)?;
        let query = place.live.query::<i64>(sql).bind(at + 1_000_000_000).bind(at + 1_000_000_005);
        Ok(place.runtime.block_on(query.subscribe())?)
    };
    // The first moves the rows to where nobody waits; one query has them told with their images.
    let first: Subscription<i64> = open(0)?;
    change(0)?;
    let bare = median((1..10).map(change).collect::<Result<_>>()?);
    let others: Vec<Subscription<i64>> = (1..setting.rows).map(open).collect::<Result<_>>()?;
    let before = place.live.stats().runs;
    let full = median((10..19).map(change).collect::<Result<_>>()?);
    ensure!(place.live.stats().runs == before, "a query was run that nothing concerns");
    drop((first, others));
    // Each changed row is looked up as it was and as it is.
    // What the others add; below 0 it is noise.
    Ok((full - bare) / ROUTED as f64)
}

/// Bytes for one more open query of a statement that others have open.
pub(crate) fn memory(setting: &Setting<'_>, _: Side) -> Result<f64> {
    let place = Place::new(setting, "CREATE TABLE todos(id INTEGER PRIMARY KEY, list INTEGER, title TEXT)")?;
    let first = place.open(100, OF_LIST)?;
    let queries = setting.rows;
    let mut open = Vec::new();
    let megabytes = peak(|| {
        open = place.open(queries, OF_LIST)?;
        Ok(())
    })?;
    drop((first, open));
    Ok(megabytes * 1024.0 * 1024.0 / (queries - 100) as f64)
}

/// How many times as long a writer takes, with queries open that read other columns than it writes.
pub(crate) fn disjoint(setting: &Setting<'_>, _: Side) -> Result<f64> {
    let columns: Vec<String> = (0..COLUMNS).map(|column| format!("c{column} INTEGER DEFAULT 0")).collect();
    let schema = format!(
        "CREATE TABLE wide(id INTEGER PRIMARY KEY, written INTEGER, {});
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
        INSERT INTO wide(id, written) SELECT i, 0 FROM n",
        columns.join(", ")
    );
    let place = Place::new(setting, &schema)?;
    let commits = setting.rows.min(20_000);
    let write = || -> Result<f64> {
        let wrote = place.handle.write(move |store| {
            let mut stmt = store.prepare("UPDATE wide SET written = written + 1 WHERE id = ?")?;
            let started = Instant::now();
            (0..commits).try_for_each(|number| stmt.execute([number as i64 % 1_000]).map(drop))?;
            Ok::<_, rusqlite::Error>(started.elapsed().as_secs_f64())
        });
        Ok(place.runtime.block_on(wrote)??)
    };
    write()?;
    let bare = median((0..3).map(|_| write()).collect::<Result<_>>()?);
    let open = |column: usize| {
        let query = place.live.query::<i64>(format!("SELECT sum(c{column}) FROM wide"));
        Ok(place.runtime.block_on(query.subscribe())?)
    };
    let open: Vec<Subscription<i64>> = (0..COLUMNS).map(open).collect::<Result<_>>()?;
    let watched = median((0..3).map(|_| write()).collect::<Result<_>>()?);
    drop(open);
    Ok(watched / bare)
}
