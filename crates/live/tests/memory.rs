//! What open queries hold, and what a reader who never looks can make the process hold. Alone in their process, whose memory is what
//! is measured, one after the other.
#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "counts what is allocated")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::executor::block_on;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use opor_live::{Live, Subscription};
use opor_store::{OpenOptions, StoreHandle};

/// Bytes that are allocated and have not been given back, as glibc's malloc rounds them: 8 bytes of its own for each block, 16 at a time,
/// 32 at the least.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

struct Counting;

const fn rounded(size: usize) -> usize {
    let block = (size + 8).next_multiple_of(16);
    if block < 32 { 32 } else { block }
}

// SAFETY: everything is handed on to the allocator of the system.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(rounded(size), Ordering::Relaxed);
        ALLOCATED.fetch_sub(rounded(layout.size()), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// Tests of one process run beside each other, and these must not.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Place {
    folder: PathBuf,
    handle: StoreHandle,
    live: Live,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handle.clone().close();
        let _gone = fs::remove_dir_all(&self.folder);
    }
}

impl Place {
    fn new(name: &str, schema: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("opor-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let handle = StoreHandle::open(folder.join("a.db"), &OpenOptions::new(), 1).expect("it opens");
        let schema = schema.to_owned();
        block_on(handle.write(move |store| store.execute_batch(&schema)))
            .expect("it runs")
            .expect("it is right");
        let live = Live::start(&handle).expect("it starts");
        Self { folder, handle, live }
    }

    /// Opens queries of one statement, each with other values.
    fn open(&self, sql: &str, values: Range<usize>) -> Vec<Subscription<Todo>> {
        let mut open = Vec::with_capacity(values.len());
        let values: Vec<i64> = values.map(|value| value as i64).collect();
        let subscribe = |value: &i64| {
            let query = self.live.query::<Todo>(sql).key(["id"]);
            let parameters = *value..*value + sql.matches('?').count() as i64;
            parameters.fold(query, opor_live::Query::bind).subscribe()
        };
        for some in values.chunks(1_000) {
            let some = block_on(join_all(some.iter().map(subscribe)));
            open.extend(some.into_iter().map(|opened| opened.expect("it subscribes")));
        }
        open
    }

    /// Returns when everything asked for before has been done.
    fn look_up(&self) {
        for _ in 0..2 {
            block_on(self.live.explain("SELECT 1")).expect("the database is open");
        }
    }
}

type Todo = (i64, String);

/// Open queries at which they are weighed: as many as the goal says, and as many as have just made hash maps double.
const OPEN: [usize; 2] = [100_000, 115_000];

/// Queries, and the most bytes for one more of each. The goal is 400 for a query with one value; this is what it takes, and
/// room for another word.
const QUERIES: [(&str, usize); 3] = [
    ("SELECT id, title FROM todos WHERE list = ?", 301),
    ("SELECT id, title FROM todos WHERE list >= 7 AND id = ?", 301),
    ("SELECT id, title FROM todos WHERE at >= ? AND at < ?", 435),
];

/// What somebody who waits for the next result adds: his waker, the subscription in the stream, and the stream.
const WAITING_BYTES_MAX: usize = 272;

/// Bytes that somebody holds more than `before`, for each of `count`.
fn each(before: usize, count: usize) -> usize {
    ALLOCATED.load(Ordering::Relaxed).saturating_sub(before) / count
}

/// What one more query takes: the subscription in the hands of the application, and whatever is allocated for it. Rows of its result
/// come on top.
#[test]
fn one_more_query_of_a_statement_takes_few_bytes() {
    let _alone = alone();
    let schema = "CREATE TABLE todos(id INTEGER PRIMARY KEY, list INTEGER, at INTEGER, title TEXT);
        CREATE INDEX of_list ON todos(list); CREATE INDEX by_at ON todos(at)";
    let place = Place::new("binding", schema);
    for (sql, bytes_max) in QUERIES {
        let first = place.open(sql, 0..100);
        let before = ALLOCATED.load(Ordering::Relaxed);
        let mut open = Vec::new();
        for count in OPEN {
            open.push(place.open(sql, 100 + open.iter().map(Vec::len).sum::<usize>()..100 + count));
            let bytes = each(before, count);
            assert!(bytes <= bytes_max, "{bytes} bytes for one more of {count}: {sql}");
        }
        assert_eq!(place.live.stats().queries, 100 + OPEN[1]);
        drop((first, open));
        place.look_up();
        assert_eq!(place.live.stats().queries, 0);
        let left = each(before, 1);
        assert!(left < OPEN[1], "{left} bytes are left of queries that are closed");
    }
}

#[test]
fn rows_and_those_who_wait_come_on_top() {
    let _alone = alone();
    let schema = "CREATE TABLE todos(id INTEGER PRIMARY KEY, list INTEGER, at INTEGER, title TEXT);
        CREATE INDEX of_list ON todos(list);
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 10099)
        INSERT INTO todos SELECT i, i, i, 'to do' FROM n";
    let place = Place::new("waiting", schema);
    let (sql, bytes_max) = QUERIES[0];
    let first = place.open(sql, 0..100);
    let before = ALLOCATED.load(Ordering::Relaxed);
    let open = place.open(sql, 100..10_100);
    // The list of values, the values and the text.
    let row = rounded(16 + 2 * size_of::<opor_core::Value>()) + rounded("to do".len());
    let bytes = each(before, open.len());
    assert!(bytes <= bytes_max + row, "{bytes} bytes with a row of {row}");
    let mut streams: Vec<_> = open.iter().map(Subscription::diffs).collect();
    streams.iter_mut().for_each(|stream| _ = stream.next().now_or_never().expect("a first result"));
    for stream in &mut streams {
        assert!(stream.next().now_or_never().is_none(), "nothing has changed");
    }
    let bytes = each(before, open.len()) - bytes;
    assert!(bytes <= WAITING_BYTES_MAX, "{bytes} bytes for a stream");
    drop((first, open));
}

const ROWS: i64 = 1_000;
const TEXT_BYTES: usize = 500;
const COMMITS: i64 = 20_000;
/// A result is half a MiB. Some stand beside each other, SQLite has its caches, and rows that wait are bounded; every commit kept would
/// be ten GiB of results, or more than fifty MiB of rows.
const GROWTH_MIB: usize = 32;

/// The most memory that the process has had since the last reset.
fn peak_mib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    kib >> 10
}

#[test]
fn a_reader_who_stalls_holds_two_results_and_gets_one_diff() {
    let _alone = alone();
    let fill = format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
        INSERT INTO t SELECT i, printf('%.*c', {TEXT_BYTES}, 'a') FROM n"
    );
    let place = Place::new("memory", &fill);
    let (live, handle) = (&place.live, &place.handle);
    let query = live.query::<(i64, String)>("SELECT id, v FROM t ORDER BY id").key(["id"]);
    let subscription = block_on(query.subscribe()).expect("it subscribes");
    let (mut stalled, mut never_begun) = (subscription.diffs(), subscription.snapshots());
    block_on(stalled.next()).expect("it goes on").expect("a first result");
    let update = |commit: i64| {
        move |store: &mut opor_store::Store| {
            let sql = "UPDATE t SET v = printf('%.*c', ?, 'b') || ? WHERE id = ?";
            store.execute(sql, (TEXT_BYTES as i64, commit, commit % ROWS + 1)).expect("it writes")
        }
    };
    for commit in 0..100 {
        block_on(handle.write(update(commit))).expect("it runs");
    }
    block_on(live.settled()).expect("the database is open");
    // The kernel forgets the peak so far.
    fs::write("/proc/self/clear_refs", "5").expect("the peak is reset");
    let before = peak_mib();
    for _ in 0..COMMITS / ROWS {
        // Many commits in one job: the writer is as fast as it can be.
        block_on(handle.write(move |store| (0..ROWS).for_each(|commit| _ = update(commit)(store))))
            .expect("it runs");
    }
    block_on(live.settled()).expect("the database is open");
    let growth = peak_mib().saturating_sub(before);
    assert!(growth < GROWTH_MIB, "{growth} MiB are held for readers who do not look");
    let diff = block_on(stalled.next()).expect("it goes on").expect("one diff");
    assert_eq!(diff.edits.len(), ROWS as usize, "each row is told once");
    let last = block_on(never_begun.next()).expect("it goes on").expect("a snapshot");
    assert_eq!(last.rows[0].1, format!("{}0", "b".repeat(TEXT_BYTES)));
}
