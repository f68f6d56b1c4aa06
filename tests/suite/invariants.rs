//! What holds for every replica after every step: the change log and the tables tell one story.

use std::collections::BTreeMap;

use opor_core::{PackedKey, Value};
use opor_store::Store;
use opor_tests::{ChangeRow, Rng, SHAPES, Shape, changes_since, quote, rows_of};

type Rows = BTreeMap<Vec<u8>, Vec<Value>>;

/// The rows of a table by packed key, columns that are not part of the key.
pub(crate) fn rows_by_key(store: &Store, shape: &Shape) -> Rows {
    let names = shape.key.iter().chain(shape.columns).map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    let rows = rows_of(store, &format!("SELECT {names} FROM {}", shape.name), []).expect("the table reads");
    let split = |mut row: Vec<Value>| {
        let cells = row.split_off(shape.key.len());
        (PackedKey::pack(&row).as_bytes().to_vec(), cells)
    };
    rows.into_iter().map(split).collect()
}

/// Says what is wrong with a replica; empty when nothing is.
pub(crate) fn faults(store: &Store, rng: &mut Rng) -> Vec<String> {
    let log = changes_since(store, "TRUE").expect("the change log reads");
    let version = store.db_version().expect("a version").to_sql();
    let mut faults = Vec::new();
    for row in &log {
        if row.db_version > version || row.db_version < 1 || row.seq < 0 || row.site_id.is_none() {
            faults.push(format!("out of range at version {version}: {row:?}"));
        }
    }
    for shape in SHAPES {
        check_table(shape, &rows_by_key(store, shape), &log, &mut faults);
    }
    check_suffix(store, &log, rng.below(version as usize + 1) as i64, &mut faults);
    faults
}

/// The log since N holds every change of the log that is newer than N, and nothing that the log does not hold.
fn check_suffix(store: &Store, log: &[ChangeRow], since: i64, faults: &mut Vec<String>) {
    let suffix = changes_since(store, &format!("db_version > {since}")).expect("the change log reads");
    for row in suffix.iter().filter(|row| !log.contains(row)) {
        faults.push(format!("only in the log since {since}: {row:?}"));
    }
    for row in log.iter().filter(|row| row.db_version > since && !suffix.contains(row)) {
        faults.push(format!("missing in the log since {since}: {row:?}"));
    }
}

fn check_table(shape: &Shape, rows: &Rows, log: &[ChangeRow], faults: &mut Vec<String>) {
    let mut keys: BTreeMap<&[u8], BTreeMap<&str, &ChangeRow>> = BTreeMap::new();
    for change in log.iter().filter(|change| change.table == shape.name) {
        if let Some(twin) = keys.entry(&change.pk).or_default().insert(&change.cid, change) {
            faults.push(format!("two changes of one cell: {twin:?} and {change:?}"));
        }
    }
    for (pk, row) in rows {
        match keys.get(&pk[..]) {
            Some(changes) => check_living(shape, row, changes, faults),
            None => faults.push(format!("{}: a row without clocks: {row:?}", shape.name)),
        }
    }
    for (pk, changes) in keys {
        let lengths: Vec<_> = changes.values().map(|change| change.cl).collect();
        let expected = changes.get("-1").map_or(1, |sentinel| sentinel.col_version);
        if lengths.iter().any(|cl| *cl != expected) {
            faults.push(format!("causal lengths {lengths:?} instead of {expected}: {changes:?}"));
        }
        let alive = rows.contains_key(pk);
        if alive != (expected % 2 == 1) || (!alive && changes.len() > 1) {
            faults.push(format!("the row exists: {alive}, yet its clocks say {changes:?}"));
        }
    }
}

/// A living row: each clock carries the value of the row, and a column without a clock holds its default.
fn check_living(
    shape: &Shape,
    row: &[Value],
    changes: &BTreeMap<&str, &ChangeRow>,
    faults: &mut Vec<String>,
) {
    let defaults = shape.defaults();
    for (index, column) in shape.columns.iter().enumerate() {
        let expected = changes.get(column).map_or(&defaults[index], |change| &change.val);
        if *expected != row[index] {
            faults.push(format!("{}.{column} is {:?}, the log says {expected:?}", shape.name, row[index]));
        }
    }
}
