//! The typed API merges a row whose cells were written at once without a decision for each cell. Inserts into
//! `crsql_changes` decide cell by cell. Both must come to the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opor_core::{DbVersion, WallMillis};
use opor_store::{ClockPolicy, OpenOptions, Store};
use opor_tests::{
    ChangeRow, Rng, SHAPES, Statement, apply_row, changes_since, random_statement, run, table_dump,
};

use crate::histories::{operations, seeds};
use crate::replicas::{log, site};

struct Clock(Arc<AtomicU64>);

impl Clock {
    fn store(&self, byte: u8, policy: ClockPolicy) -> Store {
        let wall = self.0.clone();
        let options = OpenOptions::new()
            .clock(policy)
            .site_id(site(byte))
            .wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
        let mut store = options.open_in_memory().expect("a store in memory");
        for shape in SHAPES {
            run(&store, shape.create).expect("the schema");
            store.replicate(shape.name).expect("a table that can replicate");
        }
        store
    }
}

/// The same random statements on all of `stores`, which are equal.
fn write(rng: &mut Rng, clock: &Clock, stores: &[&Store], count: usize) {
    for _ in 0..count {
        clock.0.fetch_add(rng.below(3) as u64, Ordering::Relaxed);
        // What a moved key leaves depends on the order in which its changes come, which is not the question here.
        let statement = random_statement(rng, SHAPES.len(), false);
        if matches!(statement, Statement::Move { .. } | Statement::Shift { .. }) {
            continue;
        }
        let sql = statement.sql();
        // One that fails, fails on all.
        let outcomes: Vec<bool> = stores.iter().map(|store| run(store, &sql).is_ok()).collect();
        assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{sql}");
    }
}

/// Merges what `source` has after `since`: whole rows into `whole`, one cell after the other into `cells`.
fn deliver(source: &Store, since: DbVersion, whole: &mut Store, cells: &Store, seed: u64) {
    whole.apply(&source.changes_since(since).expect("the changes")).expect("they apply");
    let rows = changes_since(source, &format!("db_version > {}", since.0)).expect("the changes");
    run(cells, "BEGIN").expect("a transaction");
    rows.iter().for_each(|row| apply_row(cells, row).expect("they apply"));
    run(cells, "COMMIT").expect("the commit");
    for shape in SHAPES {
        let [one, other] = [&*whole, cells].map(|store| table_dump(store, shape.name).expect("a table"));
        assert_eq!(one, other, "{}; seed {seed}", shape.name);
    }
    // Each way numbers the commit as it finds its changes.
    let [one, other] = [&*whole, cells].map(|store| {
        let mut rows = log(store);
        rows.iter_mut().for_each(|row| row.db_version = 0);
        rows.sort_by_cached_key(ChangeRow::log_order);
        rows
    });
    let only = |rows: &[ChangeRow], others: &[ChangeRow]| {
        rows.iter().filter(|row| !others.contains(row)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(only(&one, &other), only(&other, &one), "seed {seed}");
}

fn check(policy: ClockPolicy, first: u64) {
    for seed in seeds(first, operations(2_400) as u64 / 60) {
        let mut rng = Rng::new(seed);
        let clock = Clock(Arc::new(AtomicU64::new(1_700_000_000_000)));
        let source = clock.store(0xa, policy);
        let (mut whole, cells) = (clock.store(0xb, policy), clock.store(0xb, policy));
        for _ in 0..4 {
            let before = source.db_version().expect("a version");
            write(&mut rng, &clock, &[&source], 10);
            write(&mut rng, &clock, &[&whole, &cells], 5);
            let since = if rng.chance(50) { before } else { DbVersion(0) };
            deliver(&source, since, &mut whole, &cells, seed);
        }
    }
}

#[test]
fn whole_rows_merge_as_their_cells_do_with_hybrid_clocks() {
    check(ClockPolicy::Hlc, 0x7000);
}

#[test]
fn whole_rows_merge_as_their_cells_do_with_counts() {
    check(ClockPolicy::Lamport, 0x8000);
}

/// A later write to an earlier life of the row is no news, however it comes.
#[test]
fn a_whole_row_of_an_earlier_life_is_stale() {
    let clock = Clock(Arc::new(AtomicU64::new(1_700_000_000_000)));
    let source = clock.store(0xa, ClockPolicy::Hlc);
    let (mut whole, cells) = (clock.store(0xb, ClockPolicy::Hlc), clock.store(0xb, ClockPolicy::Hlc));
    run(&source, "INSERT INTO ints VALUES (1, 'first', 'first', 1)").expect("it is SQL");
    deliver(&source, DbVersion(0), &mut whole, &cells, 0);
    for store in [&whole, &cells] {
        run(store, "DELETE FROM ints; INSERT INTO ints VALUES (1, 'again', 'again', 2)").expect("it is SQL");
    }
    clock.0.fetch_add(1_000, Ordering::Relaxed);
    run(&source, "UPDATE ints SET a = 'late', b = 'late', n = 3").expect("it is SQL");
    deliver(&source, DbVersion(0), &mut whole, &cells, 0);
    assert_eq!(crate::replicas::lines(&whole, "SELECT a, b, n FROM ints"), ["again|again|2"]);
}
