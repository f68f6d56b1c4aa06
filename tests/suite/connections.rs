//! Several connections to one file: each keeps in memory what the tail holds, and must be in step with what the others
//! commit, fold, compact and undo.

use std::ops::Range;

use opor_core::DbVersion;
use opor_store::Store;
use opor_tests::{Rng, SHAPES, random_statement, run};

use crate::histories::seeds;
use crate::replicas::{Folder, exec, file, lines, log_lines, memory, options, pull, reopen, table};
use crate::snapshots::{all_shapes, content};

const FOO: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c)";
const CONNECTIONS: usize = 3;

/// A statement, a transaction with savepoints, one that is rolled back, one too large for the tail, or upkeep.
fn act(store: &mut Store, rng: &mut Rng) {
    // A key that exists, or breaks a rule, is refused; that is part of a history.
    let some = |rng: &mut Rng, count: Range<usize>| {
        for _ in 0..rng.below(count.end - count.start) + count.start {
            let _refused = run(store, &random_statement(rng, SHAPES.len(), false).sql());
        }
    };
    match rng.below(20) {
        0 => {
            exec(store, "BEGIN");
            some(rng, 1..5);
            exec(store, "SAVEPOINT s");
            some(rng, 1..5);
            exec(store, "ROLLBACK TO s");
            some(rng, 0..3);
            exec(store, "COMMIT");
        }
        1 => {
            exec(store, "BEGIN");
            some(rng, 1..5);
            store.changes_since(DbVersion(0)).expect("the changes");
            exec(store, "ROLLBACK");
        }
        2 => {
            exec(store, "BEGIN");
            some(rng, 100..200);
            exec(store, "COMMIT");
        }
        3 => {
            store.compact().expect("it compacts");
        }
        _ => some(rng, 1..2),
    }
}

#[test]
fn connections_stay_in_step_whatever_the_others_do() {
    for seed in seeds(7_100, 6) {
        let (folder, mut rng) = (Folder::new(), Rng::new(seed));
        drop(all_shapes(&folder, "a.db", 0xa));
        let path = folder.file("a.db");
        let mut stores: Vec<Store> = (0..CONNECTIONS).map(|_| reopen(&path, 0xa)).collect();
        for round in 0..150 {
            let writer = rng.below(CONNECTIONS);
            act(&mut stores[writer], &mut rng);
            // Some look after every commit, some after many: what is new is then more or less.
            for store in stores.iter().filter(|_| rng.below(3) == 0) {
                store.changes_since(store.db_version().expect("a version")).expect("the changes");
            }
            if round % 10 == 9 {
                let expected = (log_lines(&reopen(&path, 0xa)), content(&stores[writer]));
                for (number, store) in stores.iter().enumerate() {
                    let found = (log_lines(store), content(store));
                    assert_eq!(found, expected, "seed {seed}, round {round}, connection {number}");
                }
            }
        }
    }
}

/// While a statement stands in the middle of its rows, its connection sees what was committed before. What others commit
/// meanwhile must not count as seen.
#[test]
fn a_poll_within_an_older_snapshot_forgets_nothing() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let one = file(&path, 0xa, FOO, &["foo"]);
    exec(&one, "INSERT INTO foo VALUES (1, 1, 1), (2, 2, 2)");
    let two = reopen(&path, 0xa);
    let before = one.db_version().expect("a version");
    let mut select = one.prepare("SELECT a FROM foo").expect("it prepares");
    let mut rows = select.query([]).expect("it runs");
    assert!(rows.next().expect("a row").is_some());
    exec(&two, "UPDATE foo SET b = 7 WHERE a = 1");
    assert_eq!(one.changes_since(before).expect("the changes").len(), 0, "it reads an older state");
    assert_eq!(one.changes_since(DbVersion(0)).expect("the changes").len(), 4);
    drop(rows);
    assert_eq!(one.changes_since(before).expect("the changes").len(), 1);
    assert_eq!(log_lines(&one), log_lines(&two));
}

/// A table that another connection made after this one was opened has records in the tail too.
#[test]
fn a_table_that_began_to_replicate_meanwhile_is_followed() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let one = file(&path, 0xa, FOO, &["foo"]);
    let mut two = reopen(&path, 0xa);
    exec(&one, "INSERT INTO foo VALUES (1, 1, 1)");
    exec(&two, "CREATE TABLE bar(a TEXT PRIMARY KEY NOT NULL, b)");
    two.replicate("bar").expect("it replicates");
    for round in 0..5 {
        exec(&one, &format!("INSERT INTO bar VALUES ('one {round}', 1)"));
        exec(&two, &format!("INSERT INTO bar VALUES ('two {round}', 1)"));
        exec(&one, &format!("UPDATE bar SET b = 2 WHERE a = 'two {round}'"));
        exec(&two, &format!("DELETE FROM bar WHERE a = 'one {round}'"));
        assert_eq!(log_lines(&one), log_lines(&two));
    }
    let mut peer = memory(
        0xb,
        "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c); CREATE TABLE bar(a TEXT PRIMARY KEY NOT NULL, b)",
        &["foo", "bar"],
    );
    pull(&mut peer, &one);
    assert_eq!(table(&peer, "bar"), table(&two, "bar"));
    assert_eq!(lines(&one, "SELECT count(*) FROM bar"), ["5"]);
    drop((one, two));
    let opened = options(0xa).open(&path).expect("it opens");
    assert_eq!(table(&opened, "bar"), table(&peer, "bar"));
}
