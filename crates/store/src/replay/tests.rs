//! Deletes are replayed a block at a time, and the blocks of a run read at once: a replica that does so row by row shows what
//! it has to come to.

use std::sync::Arc;

use opor_core::{SiteId, WallMillis};
use proptest::prelude::*;

use crate::{OpenOptions, Store};

const SCHEMA: &str = "
    CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done);
    CREATE TABLE orders(id INTEGER PRIMARY KEY NOT NULL, items, amount);
    CREATE TABLE entries(list INTEGER NOT NULL, item TEXT NOT NULL, place, PRIMARY KEY (list, item));";

const TABLES: [&str; 3] = ["todos", "orders", "entries"];

/// Keys of text come in an order of their own; some are UUIDs, which tombstones hold in another form.
const VALUES: [&str; 3] = [
    "iif(i % 3, printf('%08x', i * 2654435761 % 4294967291), printf('%08x-0000-4000-8000-000000000000', i * 40503)), 1, i",
    "i, i, 2",
    "i / 50, 'item ' || (i % 50), i",
];

#[derive(Clone, Debug)]
enum Op {
    Insert {
        table: usize,
        from: i64,
        count: i64,
    },
    Update {
        table: usize,
        from: i64,
        count: i64,
        value: i64,
    },
    /// Every so manieth row, from the last to the first or from the first to the last.
    Delete {
        table: usize,
        from: i64,
        count: i64,
        step: i64,
        backwards: bool,
    },
    /// So that a write is not noted, and what it brings back is deleted twice.
    Unnoted(bool),
    Savepoint,
    RollBack,
    /// Has what was written get its clocks before the commit.
    Look,
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    let rows = || (0..3_usize, 0..400_i64, 1..300_i64);
    prop_oneof![
        5 => (rows(), any::<bool>()).prop_map(|((table, from, count), few)| {
            Op::Insert { table, from, count: if few { 1 + count % 9 } else { count } }
        }),
        2 => (rows(), 0..9_i64).prop_map(|((table, from, count), value)| Op::Update { table, from, count, value }),
        5 => (rows(), 1..5_i64, any::<bool>(), any::<bool>()).prop_map(
            |((table, from, count), step, backwards, few)| {
                Op::Delete { table, from, count: if few { 1 + count % 9 } else { count }, step, backwards }
            }
        ),
        1 => any::<bool>().prop_map(Op::Unnoted),
        1 => Just(Op::Savepoint),
        1 => Just(Op::RollBack),
        1 => Just(Op::Look),
        4 => Just(Op::Commit),
    ]
}

fn open(slow: bool) -> Store {
    let clock = Arc::new(|| WallMillis(1_700_000_000_000));
    let options = OpenOptions::new().site_id(SiteId::from([7; 16])).wall_clock(clock);
    let mut store = options.open_in_memory().expect("a store");
    store.execute_batch(SCHEMA).expect("tables");
    TABLES.iter().for_each(|table| store.replicate(table).expect("it replicates"));
    store.engine.one_by_one.set(slow);
    store.engine.clocks.borrow_mut().one_by_one = slow;
    store
}

fn run(store: &Store, op: &Op) {
    match *op {
        Op::Insert { table, from, count } => {
            let (name, values, to) = (TABLES[table], VALUES[table], from + count);
            let numbers = format!(
                "WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})"
            );
            let sql = format!("INSERT OR REPLACE INTO {name} {numbers} SELECT {values} FROM n");
            store.execute_batch(&sql).expect("rows are written");
        }
        Op::Update { table, from, count, value } => {
            let column = ["title", "items", "place"][table];
            let sql = format!("UPDATE {} SET {column} = ?3 WHERE rowid BETWEEN ?1 AND ?2", TABLES[table]);
            store.execute(&sql, [from, from + count, value]).expect("rows are written");
        }
        Op::Delete { table, from, count, step, backwards } => {
            let name = TABLES[table];
            let mut rows: Vec<i64> = (from..from + count).step_by(step as usize).collect();
            if backwards {
                rows.reverse();
            }
            let mut delete = store.prepare(&format!("DELETE FROM {name} WHERE rowid = ?")).expect("SQL");
            for row in rows {
                delete.execute([row]).expect("a row is deleted");
            }
        }
        Op::Unnoted(on) => {
            let sql = "SELECT crsql_internal_sync_bit(?)";
            store.query_row(sql, [i64::from(on)], |_| Ok(())).expect("the bit is set");
        }
        Op::Savepoint => store.execute_batch("SAVEPOINT s").expect("a savepoint"),
        // Without one there is nothing to take back.
        Op::RollBack => drop(store.execute_batch("ROLLBACK TO s")),
        Op::Look => drop(log(store)),
        Op::Commit => store.execute_batch("COMMIT; BEGIN").expect("it commits"),
    }
}

fn lines(store: &Store, sql: &str) -> Vec<String> {
    let mut select = store.prepare(sql).expect("SQL");
    let width = select.column_count();
    let mut found = select.query([]).expect("rows");
    let mut rows = Vec::new();
    while let Some(row) = found.next().expect("a row") {
        let values = (0..width).map(|i| format!("{:?}", row.get_ref(i).expect("a value")));
        rows.push(values.collect::<Vec<_>>().join(", "));
    }
    rows
}

fn log(store: &Store) -> Vec<String> {
    lines(store, "SELECT * FROM crsql_changes ORDER BY db_version, seq, \"table\", pk, cid")
}

/// The records of clocks and tombstones, once the tail is folded.
fn records(store: &Store) -> Vec<String> {
    store.engine.in_write(|| store.engine.uncaptured(|| store.engine.fold_now())).expect("it folds");
    let tables = ["opor_clock_1", "opor_clock_2", "opor_clock_3", "opor_tombstone", "opor_tail"];
    tables
        .iter()
        .flat_map(|table| lines(store, &format!("SELECT '{table}', * FROM {table} ORDER BY 2")))
        .collect()
}

fn check(ops: &[Op]) {
    let stores = [open(false), open(true)];
    stores.iter().for_each(|store| store.execute_batch("BEGIN").expect("a transaction"));
    for op in ops {
        stores.iter().for_each(|store| run(store, op));
        if matches!(op, Op::Look | Op::Commit) {
            assert_eq!(log(&stores[0]), log(&stores[1]));
        }
    }
    stores.iter().for_each(|store| store.execute_batch("COMMIT").expect("it commits"));
    assert_eq!(log(&stores[0]), log(&stores[1]));
    assert_eq!(records(&stores[0]), records(&stores[1]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn runs_of_writes_come_to_the_same_as_single_ones(ops in prop::collection::vec(op(), 1..24)) {
        check(&ops);
    }
}

#[test]
fn rows_that_came_back_unseen_are_deleted_twice_in_one_run() {
    let delete = |from| Op::Delete { table: 2, from, count: 3, step: 1, backwards: false };
    let insert = Op::Insert { table: 2, from: 1, count: 70 };
    check(&[
        insert,
        Op::Commit,
        delete(1),
        Op::Unnoted(true),
        Op::Insert { table: 2, from: 0, count: 1 },
        Op::Unnoted(false),
        delete(1),
        delete(71),
        delete(72),
    ]);
}
