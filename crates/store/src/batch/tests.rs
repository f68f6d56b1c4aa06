//! Rows are merged many at a time where that comes to the same as one by one: a replica that merges them so shows what it
//! has to come to.

use opor_core::{Changeset, DbVersion, SiteId, WallMillis};
use proptest::prelude::*;

use crate::{ApplyError, ApplyOptions, Cursor, OpenOptions, Store};

const TABLES: [&str; 3] = ["todos", "orders", "entries"];

/// Who writes takes everything.
const LAX: &str = "
    CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done);
    CREATE TABLE orders(id INTEGER PRIMARY KEY NOT NULL, items, amount);
    CREATE TABLE entries(list INTEGER NOT NULL, item TEXT NOT NULL, label, place, PRIMARY KEY (list, item));";

/// Who merges has rules, which some of what comes breaks.
const RULES: &str = "
    CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE orders(id INTEGER PRIMARY KEY NOT NULL, items INTEGER CHECK (items < 1000), amount REAL);
    CREATE TABLE entries(list INTEGER NOT NULL, item TEXT NOT NULL, label TEXT, place INTEGER,
        PRIMARY KEY (list, item)) STRICT;";

const UNIQUE: &str = "
    CREATE UNIQUE INDEX titles ON todos(title) WHERE done = 7;
    CREATE UNIQUE INDEX places ON entries(place);";

#[derive(Clone, Debug)]
enum Op {
    Insert {
        site: usize,
        table: usize,
        from: i64,
        count: i64,
    },
    Update {
        site: usize,
        table: usize,
        from: i64,
        count: i64,
        value: i64,
    },
    Delete {
        site: usize,
        table: usize,
        from: i64,
        count: i64,
    },
    /// What is new at a site reaches both replicas; or all of it once more.
    Send {
        site: usize,
        again: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let rows = || (0..2_usize, 0..3_usize, 0..300_i64, 1..200_i64);
    prop_oneof![
        4 => rows().prop_map(|(site, table, from, count)| Op::Insert { site, table, from, count }),
        3 => (rows(), 0..2_000_i64).prop_map(|((site, table, from, count), value)| {
            Op::Update { site, table, from, count, value }
        }),
        1 => (rows(), 1..20_i64).prop_map(|((site, table, from, _), count)| {
            Op::Delete { site, table, from, count }
        }),
        4 => (0..2_usize, prop::bool::weighted(0.3)).prop_map(|(site, again)| Op::Send { site, again }),
    ]
}

fn open(site: u8, sql: &str) -> Store {
    let mut store = OpenOptions::new().site_id(SiteId::from([site; 16])).open_in_memory().expect("a store");
    store.execute_batch(sql).expect("tables");
    TABLES.iter().for_each(|table| store.replicate(table).expect("it replicates"));
    store
}

/// Text keys come in an order of their own, which is not that of the rows.
fn numbers(from: i64, count: i64) -> String {
    let to = from + count - 1;
    format!("WITH RECURSIVE n(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM n WHERE i < {to})")
}

fn insert(store: &Store, table: usize, from: i64, count: i64) {
    let values = match table {
        0 => {
            "printf('%08x', i * 2654435761 % 4294967291), iif(i % 97 = 5, NULL, 'todo ' || (i % 59)), iif(i % 23 = 0, 7, i)"
        }
        1 => "i, iif(i % 89 = 3, 5000, i), i / 8.0",
        _ => {
            "i / 50, 'item ' || (i % 50), iif(i % 71 = 2, x'00', 'label ' || i), iif(i % 61 = 1, NULL, i % 173)"
        }
    };
    let name = TABLES[table];
    let sql = format!("INSERT OR IGNORE INTO {name} {} SELECT {values} FROM n", numbers(from, count));
    store.execute_batch(&sql).expect("rows are written");
}

fn update(store: &Store, table: usize, from: i64, count: i64, value: i64) {
    let (name, to) = (TABLES[table], from + count);
    let set = ["title = 'done ' || ?3, done = ?3", "items = ?3", "label = 'place ' || ?3"][table];
    let sql = format!("UPDATE {name} SET {set} WHERE rowid BETWEEN ?1 AND ?2");
    store.execute(&sql, [from, to, value]).expect("rows are written");
}

/// All that a replica holds: rows where they are, clocks, tombstones, and what was put aside.
fn contents(store: &Store) -> Vec<String> {
    let internal = ["opor_tail", "opor_tombstone", "opor_quarantine", "opor_conflict"];
    let clocks: Vec<String> = (1..=TABLES.len()).map(|id| format!("opor_clock_{id}")).collect();
    let mut rows = Vec::new();
    for table in TABLES.into_iter().chain(internal).chain(clocks.iter().map(String::as_str)) {
        let there = "SELECT count(*) FROM sqlite_schema WHERE name = ?";
        let there: i64 = store.query_row(there, [table], |row| row.get(0)).expect("a count");
        if there == 0 {
            continue;
        }
        let what = if TABLES.contains(&table) { "rowid, *" } else { "*" };
        let mut select = store.prepare(&format!("SELECT {what} FROM {table} ORDER BY 1, 2")).expect("SQL");
        let width = select.column_count();
        let mut found = select.query([]).expect("rows");
        while let Some(row) = found.next().expect("a row") {
            let values = (0..width).map(|i| format!("{:?}", row.get_ref(i).expect("a value")));
            rows.push(format!("{table}: {}", values.collect::<Vec<_>>().join(", ")));
        }
    }
    rows
}

struct Pair {
    fast: Store,
    slow: Store,
}

impl Pair {
    fn new(unique: bool) -> Self {
        let (fast, slow) = (open(9, RULES), open(9, RULES));
        if unique {
            [&fast, &slow].iter().for_each(|store| store.execute_batch(UNIQUE).expect("indexes"));
        }
        slow.engine.one_by_one.set(true);
        Self { fast, slow }
    }

    fn apply(&mut self, changeset: &Changeset, options: &ApplyOptions) {
        let fast = self.fast.apply_with(changeset, options).expect("it applies");
        let slow = self.slow.apply_with(changeset, options).expect("it applies");
        assert_eq!(format!("{fast:?}"), format!("{slow:?}"));
        assert_eq!(contents(&self.fast), contents(&self.slow));
    }
}

fn run(ops: &[Op], unique: bool, events: bool) {
    let (sites, mut pair) = ([open(1, LAX), open(2, LAX)], Pair::new(unique));
    let mut cursors = [Cursor::start(); 2];
    for op in ops {
        match *op {
            Op::Insert { site, table, from, count } => insert(&sites[site], table, from, count),
            Op::Update { site, table, from, count, value } => update(&sites[site], table, from, count, value),
            Op::Delete { site, table, from, count } => {
                let sql = format!("DELETE FROM {} WHERE rowid BETWEEN ? AND ?", TABLES[table]);
                sites[site].execute(&sql, [from, from + count]).expect("rows are deleted");
            }
            Op::Send { site, again } => {
                let after = if again { Cursor::start() } else { cursors[site] };
                let batch = sites[site].changes(&after, usize::MAX).expect("changes");
                cursors[site] = batch.cursor;
                pair.apply(&batch.changeset, &ApplyOptions { events, ..ApplyOptions::default() });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn many_rows_at_a_time_come_to_the_same_as_one_by_one(
        ops in prop::collection::vec(op(), 1..24),
        unique: bool,
        events: bool,
    ) {
        let mut ops = ops;
        ops.extend([false, true].into_iter().flat_map(|again| (0..2).map(move |site| Op::Send { site, again })));
        run(&ops, unique, events);
    }
}

/// One row in the middle is refused: those before it stay, and those after it follow.
#[test]
fn a_row_that_breaks_a_rule_stops_nobody() {
    for table in 0..TABLES.len() {
        for first in (0..100).step_by(9) {
            let ops = [
                Op::Insert { site: 0, table, from: first, count: 130 },
                Op::Send { site: 0, again: false },
                Op::Send { site: 0, again: true },
            ];
            run(&ops, true, false);
        }
    }
}

/// Rows that are here already stand among those that are new.
#[test]
fn rows_of_two_sites_meet() {
    for table in 0..TABLES.len() {
        run(
            &[
                Op::Insert { site: 1, table, from: 90, count: 3 },
                Op::Send { site: 1, again: false },
                Op::Insert { site: 0, table, from: 0, count: 200 },
                Op::Send { site: 0, again: false },
                Op::Delete { site: 0, table, from: 120, count: 2 },
                Op::Insert { site: 1, table, from: 100, count: 100 },
                Op::Send { site: 1, again: false },
                Op::Update { site: 0, table, from: 1, count: 180, value: 3 },
                Op::Send { site: 0, again: true },
                Op::Send { site: 0, again: false },
            ],
            false,
            false,
        );
    }
}

/// Rows of other columns among those of one batch: a table of the sender has lost one since.
#[test]
fn rows_of_other_columns_end_a_batch() {
    for fewer in [1, 5, 15, 16, 17, 40] {
        let (desk, mut pair) = (open(1, LAX), Pair::new(false));
        insert(&desk, 1, 1, 100);
        let batch = desk.changes(&Cursor::start(), usize::MAX).expect("changes").changeset;
        let mut cut = Changeset::new();
        let changes = batch.changes().enumerate();
        // Each row has two cells; one of these rows has one.
        changes.filter(|(i, _)| *i != 2 * fewer + 1).for_each(|(_, change)| cut.push(change));
        pair.apply(&cut, &ApplyOptions::default());
        assert_eq!(pair.fast.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)), Ok(100));
    }
}

/// Here other rows stand between those that follow one another there, with a key that begins like theirs.
#[test]
fn neighbours_there_may_be_none_here() {
    for table in 0..TABLES.len() {
        run(
            &[
                Op::Insert { site: 0, table, from: 0, count: 10 },
                Op::Send { site: 0, again: false },
                Op::Insert { site: 1, table, from: 10, count: 10 },
                Op::Send { site: 1, again: false },
                Op::Insert { site: 0, table, from: 20, count: 100 },
                Op::Send { site: 0, again: false },
                Op::Update { site: 0, table, from: 0, count: 100, value: 3 },
                Op::Send { site: 0, again: false },
            ],
            false,
            false,
        );
    }
}

#[test]
fn a_first_sync_goes_in_batches_and_a_second_delivery_reads_along() {
    let (desk, mut phone) = (open(1, LAX), open(2, LAX));
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)";
    let keys = "printf('%08x', i * 2654435761 % 4294967291)";
    desk.execute_batch(&format!("INSERT INTO todos {rows} SELECT {keys}, 'todo', 0 FROM n")).expect("rows");
    let changes = desk.changes(&Cursor::at(DbVersion(0)), usize::MAX).expect("changes").changeset;
    assert_eq!(phone.apply(&changes).expect("it applies").rows_inserted, 200);
    let used = |store: &Store| {
        let sql = store.merge.borrow();
        (sql.insert_batch.len(), sql.after.len())
    };
    assert_eq!(used(&phone), (1, 0));
    assert_eq!(phone.apply(&changes).expect("it applies").unchanged, 400);
    assert_eq!(used(&phone), (1, 1));
    assert_eq!(phone.engine.moves.get(), 0);
}

/// Rows are checked shortly before they are merged. What is found in the middle takes all of it back.
#[test]
fn what_is_refused_in_the_middle_leaves_no_trace() {
    let desk = open(1, LAX);
    insert(&desk, 1, 1, 2_000);
    let batch = desk.changes(&Cursor::start(), usize::MAX).expect("changes").changeset;
    let year = 365 * 24 * 3_600_000;
    for far in [false, true] {
        let mut forged = Changeset::new();
        for (i, mut change) in batch.changes().enumerate() {
            if i == 3_000 && far {
                change.col_version = (change.col_version.0 + (year << opor_core::Hlc::COUNTER_BITS)).into();
            } else if i == 3_000 {
                change.val = opor_core::Value::Real(f64::NAN);
            }
            forged.push(change);
        }
        let mut phone = open(2, RULES);
        let before = contents(&phone);
        let refused = phone.apply(&forged);
        assert!(matches!(refused, Err(ApplyError::Invalid(_))), "{refused:?}");
        assert_eq!(contents(&phone), before);
        let latest = opor_core::Hlc::from_millis(WallMillis(phone.engine.wall.now().0 + 1));
        assert!(phone.engine.hybrid.borrow().last() < latest, "a refused stamp leaves no trace");
        assert_eq!(phone.apply(&batch).expect("it applies").rows_inserted, 2_000);
        let newest = batch.changes().map(|change| change.col_version.0).max().expect("a change");
        assert!(phone.engine.hybrid.borrow().last().version().0 >= newest);
    }
}
