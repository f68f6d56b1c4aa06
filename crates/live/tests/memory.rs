//! What a reader who never looks can make the process hold. Alone in its process, whose memory is what is measured.
#![cfg(target_os = "linux")]

use std::fs;

use futures::StreamExt;
use futures::executor::block_on;
use opor_live::Live;
use opor_store::{OpenOptions, StoreHandle};

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
    let folder = std::env::temp_dir().join(format!("opor-live-memory-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let handle = StoreHandle::open(folder.join("a.db"), &OpenOptions::new(), 1).expect("it opens");
    let fill = format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
        INSERT INTO t SELECT i, printf('%.*c', {TEXT_BYTES}, 'a') FROM n"
    );
    block_on(handle.write(move |store| store.execute_batch(&fill))).expect("it runs").expect("rows");
    let live = Live::start(&handle).expect("it starts");
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
    handle.close();
    let _gone = fs::remove_dir_all(&folder);
}
