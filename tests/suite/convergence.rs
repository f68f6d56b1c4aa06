//! Corner cases random histories have found, or could: small, named, and each must end with equal tables.

use opor_core::{Changeset, Cid, DbVersion};
use opor_store::Store;

use crate::replicas::{exec, lines, log_lines, memory, pull, table};

const FOO: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c)";

/// Everybody pulls everything from everybody, a few times.
#[track_caller]
fn exchange(stores: &mut [Store]) {
    for _ in 0..3 {
        for target in 0..stores.len() {
            for source in (0..stores.len()).filter(|source| *source != target) {
                let changes = stores[source].changes_since(DbVersion(0)).expect("the changes");
                stores[target].apply(&changes).expect("honest changes apply");
            }
        }
    }
}

/// The changes of `source` that are about `cid` alone.
#[track_caller]
fn only(source: &Store, cid: &str) -> Changeset {
    let all = source.changes_since(DbVersion(0)).expect("the changes");
    all.changes().filter(|change| change.cid == Cid::from(cid)).collect()
}

#[track_caller]
fn assert_equal(stores: &[Store], name: &str) {
    for store in &stores[1..] {
        let logs = (log_lines(&stores[0]), log_lines(store));
        assert_eq!(table(&stores[0], name), table(store, name), "logs: {logs:#?}");
    }
}

/// Two replicas hold different writes of one site in a cell, and both zero its clock because a delete went past them:
/// site, version and place are then equal though the values are not. The greater value must win all the same.
#[test]
fn zeroed_clocks_of_one_site_with_values_of_different_types() {
    let writer = memory(0xa, FOO, &["foo"]);
    let mut stores = [memory(0xb, FOO, &["foo"]), memory(0xc, FOO, &["foo"])];
    exec(&writer, "INSERT INTO foo VALUES (1, 1, 0)");
    pull(&mut stores[0], &writer);
    exec(&writer, "UPDATE foo SET b = 'text'");
    pull(&mut stores[1], &writer);
    exec(&writer, "DELETE FROM foo; INSERT INTO foo VALUES (1, 5, 5)");
    let sentinel = only(&writer, "-1");
    for store in &mut stores {
        store.apply(&sentinel).expect("it applies");
    }
    exchange(&mut stores);
    assert_equal(&stores, "foo");
    assert_eq!(lines(&stores[0], "SELECT b FROM foo"), ["1"], "an integer beats a text");
    pull(&mut stores[0], &writer);
    assert_eq!(lines(&stores[0], "SELECT * FROM foo"), ["1|5|5"], "and what was written last beats both");
}

/// A row that came in part moves onto a living row: the columns it has no clock for must not pass for those of the row
/// that was there.
#[test]
fn a_row_that_came_in_part_replaces_another() {
    let writer = memory(0xa, FOO, &["foo"]);
    let mut stores = [memory(0xb, FOO, &["foo"]), memory(0xc, FOO, &["foo"])];
    exec(&writer, "INSERT INTO foo VALUES (2, x'61', x'62')");
    for store in &mut stores {
        pull(store, &writer);
    }
    exec(&writer, "DELETE FROM foo; INSERT INTO foo VALUES (1, 'part', 'never sent')");
    stores[0].apply(&only(&writer, "b")).expect("it applies");
    exec(&stores[0], "UPDATE OR REPLACE foo SET a = 2 WHERE a = 1");
    exchange(&mut stores);
    assert_equal(&stores, "foo");
}

#[test]
fn a_delete_meets_an_update_a_key_change_and_another_delete() {
    let schema = "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c)";
    let mut stores: Vec<_> = (0xa..0xe).map(|byte| memory(byte, schema, &["foo"])).collect();
    exec(&stores[0], "INSERT INTO foo VALUES ('x', 1, 1), ('y', 1, 1)");
    exchange(&mut stores);
    exec(&stores[0], "DELETE FROM foo WHERE a = 'x'");
    exec(&stores[1], "UPDATE foo SET b = 2, c = 3");
    exec(&stores[2], "UPDATE foo SET a = 'z' WHERE a = 'x'");
    exec(&stores[3], "DELETE FROM foo; INSERT INTO foo VALUES ('x', 9, 9)");
    exchange(&mut stores);
    assert_equal(&stores, "foo");
    let expected = ["x|9|9", "z|1|1"];
    assert_eq!(lines(&stores[0], "SELECT * FROM foo ORDER BY a"), expected, "longer causal lengths win");
}

#[test]
fn a_key_goes_round_in_a_circle() {
    let mut stores: Vec<_> = (0xa..0xc).map(|byte| memory(byte, FOO, &["foo"])).collect();
    exec(&stores[0], "INSERT INTO foo VALUES (1, 'one', 1), (2, 'two', 2)");
    exchange(&mut stores);
    for _ in 0..3 {
        exec(&stores[0], "BEGIN; UPDATE foo SET a = 3 WHERE a = 1; UPDATE foo SET a = 1 WHERE a = 2; COMMIT");
        exec(&stores[0], "UPDATE foo SET a = 2 WHERE a = 3");
        exchange(&mut stores);
        assert_equal(&stores, "foo");
    }
    assert_eq!(lines(&stores[1], "SELECT a, b FROM foo ORDER BY a"), ["1|two", "2|one"]);
}
