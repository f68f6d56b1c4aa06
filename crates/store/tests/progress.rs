//! Long work: it tells how far it is, and cancelled it leaves everything as before.

use std::ops::ControlFlow;

use opor_store::{
    ApplyError, ApplyOptions, ClockPolicy, OpenOptions, Phase, Progress, ReplicateError, Store, rusqlite,
};

/// More than one piece of an upgrade.
const ROWS: u64 = 80_000;

fn store() -> Store {
    OpenOptions::new().clock(ClockPolicy::Lamport).open_in_memory().expect("a store")
}

fn fill(store: &Store, tail: &str) {
    store
        .execute_batch(&format!(
            "CREATE TABLE t(id INTEGER NOT NULL, a, b, PRIMARY KEY(id)) {tail};
             WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) INSERT INTO t SELECT i, i, 'x' FROM n;
             DELETE FROM t WHERE id % 1000 = 0"
        ))
        .expect("a table");
}

/// A sum over the log that changes when any version, place or key in it does.
fn digest(store: &Store) -> (i64, i64, i64) {
    store
        .query_row(
            "SELECT count(*), sum(seq * (1 + length(cid)) + db_version * 7 + col_version * 13),
                    sum(seq * (seq % 1009) + length(pk) * 3) FROM crsql_changes",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .expect("the log reads")
}

/// Everything that must be as before: the schema, the rows of all tables, and the version.
fn dump(store: &Store) -> String {
    let mut names = store
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name")
        .expect("the schema");
    let names: Vec<String> =
        names.query_map([], |row| row.get(0)).expect("names").map(|name| name.expect("a name")).collect();
    let mut dump = format!("{:?}", store.db_version().expect("a version"));
    for name in names {
        let rows: Result<(i64, Option<String>), rusqlite::Error> = store.query_row(
            &format!("SELECT count(*), max(quote(x.rowid)) FROM \"{name}\" AS x"),
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        );
        dump += &format!("\n{name} {rows:?}");
    }
    dump
}

#[test]
fn an_upgrade_in_pieces_gives_the_clocks_that_one_piece_would() {
    for tail in ["", "WITHOUT ROWID"] {
        let (mut watched, expected) = (store(), store());
        fill(&watched, tail);
        let mut seen: Vec<Progress> = Vec::new();
        watched
            .replicate_watched("t", &mut |progress| {
                seen.push(progress);
                ControlFlow::Continue(())
            })
            .expect("it replicates");
        let rows = ROWS - ROWS / 1000;
        assert!(seen.iter().all(|progress| (progress.phase, progress.total) == (Phase::Upgrade, rows)));
        assert!(seen.is_sorted_by_key(|progress| progress.done) && seen.len() > 70, "{} calls", seen.len());
        assert_eq!((seen[0].done, seen[seen.len() - 1].done), (0, rows));

        // The numbering is that of rows inserted one after the other, in one commit.
        expected
            .execute_batch(&format!("CREATE TABLE t(id INTEGER NOT NULL, a, b, PRIMARY KEY(id)) {tail}"))
            .expect("made");
        let mut expected = expected;
        expected.replicate("t").expect("it replicates");
        expected
            .execute_batch(&format!(
                "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
                 INSERT INTO t SELECT i, i, 'x' FROM n WHERE i % 1000 <> 0"
            ))
            .expect("inserted");
        assert_eq!(digest(&watched), digest(&expected), "{tail}");
        assert_eq!(watched.db_version().expect("a version").0, 1);
        watched.execute("UPDATE t SET a = 0 WHERE id = 77777", []).expect("written");
        expected.execute("UPDATE t SET a = 0 WHERE id = 77777", []).expect("written");
        assert_eq!(digest(&watched), digest(&expected), "and it goes on from there");
    }
}

#[test]
fn a_cancelled_upgrade_leaves_everything_as_before() {
    for tail in ["", "WITHOUT ROWID"] {
        let mut store = store();
        fill(&store, tail);
        let before = dump(&store);
        // At the start, before the first piece is in the clock tables, after it, and at the very end.
        for stop in [0, 1, 30, 66, 79] {
            let mut calls = 0;
            let outcome = store.replicate_watched("t", &mut |_| {
                calls += 1;
                if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(
                matches!(&outcome, Err(ReplicateError::Cancelled { table }) if table == "t"),
                "{outcome:?}"
            );
            assert_eq!(calls, stop + 1, "it stops at once");
            assert_eq!(dump(&store), before, "cancelled at call {stop}");
        }
        assert!(store.replicated_tables().expect("read").is_empty());
        store.replicate("t").expect("and then it replicates");
        assert_eq!(digest(&store).0.cast_unsigned(), 2 * (ROWS - ROWS / 1000));
    }
}

/// What the caller wrote before the cancelled call, and writes after it, is neither lost nor mixed up.
#[test]
fn a_cancelled_upgrade_within_a_transaction_leaves_the_transaction() {
    let mut store = store();
    store.execute_batch("CREATE TABLE other(id INTEGER PRIMARY KEY NOT NULL, v)").expect("made");
    store.replicate("other").expect("it replicates");
    fill(&store, "");
    store.execute_batch("BEGIN; INSERT INTO other VALUES (1, 'before')").expect("written");
    let outcome = store.replicate_watched("t", &mut |progress| {
        if progress.done > 70_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(outcome, Err(ReplicateError::Cancelled { .. })), "{outcome:?}");
    store.execute_batch("INSERT INTO other VALUES (2, 'after'); COMMIT").expect("written");
    assert_eq!(store.replicated_tables().expect("read"), ["other"]);
    let log: Vec<String> = store
        .prepare("SELECT val || ' ' || db_version || ' ' || seq FROM crsql_changes ORDER BY seq")
        .expect("the log")
        .query_map([], |row| row.get(0))
        .expect("the log")
        .map(|row| row.expect("a row"))
        .collect();
    assert_eq!(log, ["before 1 0", "after 1 1"]);

    store.execute_batch("BEGIN; INSERT INTO other VALUES (3, 'with it')").expect("written");
    store.replicate_watched("t", &mut |_| ControlFlow::Continue(())).expect("it replicates");
    store.execute_batch("ROLLBACK").expect("rolled back");
    assert_eq!(store.replicated_tables().expect("read"), ["other"]);
    assert_eq!(digest(&store).0, 2);
}

#[test]
fn a_cancelled_merge_leaves_everything_as_before() {
    let mut source = store();
    fill(&source, "");
    source.replicate("t").expect("it replicates");
    let changes = source.changes_since(opor_core::DbVersion(0)).expect("the changes");
    let mut target = store();
    target.execute_batch("CREATE TABLE t(id INTEGER NOT NULL, a, b, PRIMARY KEY(id))").expect("made");
    target.replicate("t").expect("it replicates");
    target.execute("INSERT INTO t VALUES (-1, 'own', 'own')", []).expect("written");
    let (before, log) = (dump(&target), digest(&target));
    let options = ApplyOptions {
        cursor: Some((source.site_id(), opor_store::Cursor::start())),
        ..ApplyOptions::default()
    };
    for stop in [0, 1, 60] {
        let mut calls = 0;
        let outcome = target.apply_watched(&changes, &options, &mut |progress| {
            assert_eq!((progress.phase, progress.total), (Phase::Merge, ROWS - ROWS / 1000));
            calls += 1;
            if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(outcome, Err(ApplyError::Cancelled)), "{outcome:?}");
        assert_eq!(calls, stop + 1, "it stops at once");
        assert_eq!((dump(&target), digest(&target)), (before.clone(), log));
    }
    // Within a transaction it goes on as it was.
    target.execute_batch("BEGIN; INSERT INTO t VALUES (-2, 'own', 'own')").expect("written");
    let outcome = target.apply_watched(&changes, &options, &mut |progress| {
        if progress.done > 5000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(outcome, Err(ApplyError::Cancelled)), "{outcome:?}");
    target.execute_batch("COMMIT").expect("committed");
    assert_eq!(digest(&target).0, 4);
    let report =
        target.apply_watched(&changes, &options, &mut |_| ControlFlow::Continue(())).expect("merged");
    assert_eq!(report.rows_inserted as u64, ROWS - ROWS / 1000);
}
