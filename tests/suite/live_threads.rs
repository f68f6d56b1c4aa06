//! Live queries under many threads: writers, another connection, and subscribers who are slow, come and go.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use futures::StreamExt;
use futures::executor::block_on;
use opor_live::{Live, Subscription};
use opor_store::{CommitSeq, OpenOptions, Store, StoreHandle};
use opor_tests::Rng;

use crate::replicas::{Folder, site};

const ACCOUNTS: i64 = 12;
const TOTAL: i64 = 100 * ACCOUNTS;
const TRANSFERS: usize = 400;
const WRITERS: u64 = 3;
const SUBSCRIBERS: u64 = 6;

const ALL: &str = "SELECT id, amount FROM accounts ORDER BY amount, id";
const SMALL: &str = "SELECT total(amount) FROM accounts WHERE id <= 6";
const LARGE: &str = "SELECT total(amount) FROM accounts WHERE id > 6";

/// Moves an amount from one account to another, in one transaction.
fn transfer(store: &Store, rng: &mut Rng) {
    let (source, target) = (1 + rng.below(ACCOUNTS as usize), 1 + rng.below(ACCOUNTS as usize));
    let amount = rng.below(9);
    let sql = format!(
        "BEGIN IMMEDIATE; UPDATE accounts SET amount = amount - {amount} WHERE id = {source};
        UPDATE accounts SET amount = amount + {amount} WHERE id = {target}; COMMIT"
    );
    store.execute_batch(&sql).expect("a transfer");
}

fn subscribe<T: serde::de::DeserializeOwned + Send + 'static>(live: &Live, sql: &str) -> Subscription<T> {
    block_on(live.query(sql).subscribe()).expect("it subscribes")
}

/// Reads diffs or snapshots until all is done, and gives up and begins anew in between. Says how much it saw.
fn follow(live: &Live, seed: u64, done: &AtomicBool) -> usize {
    let mut rng = Rng::new(seed);
    let mut seen = 0;
    let mut last = CommitSeq(0);
    loop {
        let subscription = subscribe::<(i64, i64)>(live, ALL);
        let (mut diffs, mut snapshots) = (subscription.diffs(), subscription.snapshots());
        let mut rows = Vec::new();
        for _ in 0..1 + rng.below(30) {
            let seq = if seed.is_multiple_of(2) {
                let diff = block_on(diffs.next()).expect("it goes on").expect("a diff");
                diff.edits.into_iter().for_each(|edit| edit.apply_to(&mut rows));
                diff.seq
            } else {
                let snapshot = block_on(snapshots.next()).expect("it goes on").expect("a snapshot");
                rows = snapshot.rows;
                snapshot.seq
            };
            assert_eq!(
                rows.iter().map(|(_, amount)| amount).sum::<i64>(),
                TOTAL,
                "nothing is lost in transfer"
            );
            assert!(rows.is_sorted_by_key(|(id, amount)| (*amount, *id)));
            assert!(seq >= last, "results go forward");
            last = seq;
            seen += 1;
            if done.load(Ordering::SeqCst) {
                return seen;
            }
            // Who is slow.
            (0..rng.below(2_000)).for_each(|_| thread::yield_now());
        }
    }
}

#[test]
fn every_subscriber_sees_whole_transactions_and_the_last_of_them() {
    let folder = Folder::new();
    let path = folder.file("accounts.db");
    let handle = StoreHandle::open(&path, &OpenOptions::new().site_id(site(1)), 1).expect("it opens");
    let create = format!(
        "CREATE TABLE accounts(id INTEGER PRIMARY KEY NOT NULL, amount INTEGER); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL
        SELECT i + 1 FROM n WHERE i < {ACCOUNTS}) INSERT INTO accounts SELECT i, 100 FROM n"
    );
    block_on(handle.write(move |store| store.execute_batch(&create))).expect("it runs").expect("a schema");
    let live = Live::start(&handle).expect("it starts");
    let kept: Subscription<(i64, i64)> = subscribe(&live, ALL);
    let (small, large) = (subscribe::<f64>(&live, SMALL), subscribe::<f64>(&live, LARGE));
    let (done, seen) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for seed in 0..SUBSCRIBERS {
            let (live, done, seen) = (&live, &done, &seen);
            scope.spawn(move || seen.fetch_add(follow(live, seed, done), Ordering::SeqCst));
        }
        scope.spawn(|| {
            let mut last = CommitSeq(0);
            while !done.load(Ordering::SeqCst) {
                let (seq, small, large) = live.together(|seq| (seq, small.current(), large.current()));
                let (small, large) = (small.expect("a total"), large.expect("a total"));
                assert_eq!(small.rows[0] + large.rows[0], TOTAL as f64, "both are of one commit");
                assert!(seq >= last);
                last = seq;
                thread::yield_now();
            }
        });
        let mut writers: Vec<_> = (0..WRITERS)
            .map(|seed| {
                let handle = handle.clone();
                scope.spawn(move || {
                    let mut rng = Rng::new(100 + seed);
                    for _ in 0..TRANSFERS {
                        let mut own = Rng::new(rng.bits());
                        block_on(handle.write(move |store| transfer(store, &mut own))).expect("it runs");
                    }
                })
            })
            .collect();
        writers.push(scope.spawn(|| {
            let other = OpenOptions::new().open(&path).expect("another connection");
            other.execute_batch("PRAGMA busy_timeout = 60000").expect("a pragma");
            let mut rng = Rng::new(200);
            (0..TRANSFERS / 4).for_each(|_| transfer(&other, &mut rng));
        }));
        writers.into_iter().for_each(|writer| writer.join().expect("a writer ends"));
        done.store(true, Ordering::SeqCst);
        // Whoever waits for a change gets one.
        let last =
            "UPDATE accounts SET amount = amount + CASE id WHEN 1 THEN 1 ELSE -1 END WHERE id IN (1, 2)";
        block_on(handle.write(move |store| store.execute_batch(last))).expect("it runs").expect("a transfer");
    });
    assert!(seen.into_inner() > SUBSCRIBERS as usize, "they saw more than the beginning");
    block_on(live.settled()).expect("the database is open");
    let fresh = block_on(handle.read(|store| {
        let mut stmt = store.prepare(ALL).expect("it prepares");
        let rows = stmt.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("it runs");
        rows.collect::<Result<Vec<(i64, i64)>, _>>().expect("rows")
    }));
    assert_eq!(kept.current().expect("a result").rows, fresh.expect("it reads"));
    drop((kept, small, large));
    block_on(live.explain(ALL)).expect("the thread is there");
    assert_eq!(live.stats().queries, 0, "all are gone");
    handle.close();
}
