//! A new replica takes whole tables over from a snapshot. It must end where one does that merges them row by row: a twin whose
//! tables have a trigger that does nothing, which has every row merged.

use std::ops::ControlFlow;
use std::process::{Command, Stdio};

use opor_core::{DbVersion, Value};
use opor_store::{
    ApplyReport, ClockPolicy, CompactOptions, Cursor, Interest, OpenOptions, Phase, Progress, RestoreError,
    Snapshot, Store, StoreHandle,
};
use opor_tests::{ChangeRow, Rng, SHAPES, Shape, run, table_dump};

use crate::histories::{operations, seeds};
use crate::replicas::{Folder, exec, full_dump, lines, log, pull, site};
use crate::snapshots::{content, converge, image, pull_by_cursor, write};

const TODOS: &str =
    "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX todos_title ON todos(title)";

fn options(clock: ClockPolicy, byte: u8) -> OpenOptions {
    OpenOptions::new().clock(clock).site_id(site(byte))
}

#[track_caller]
fn open(folder: &Folder, name: &str, options: &OpenOptions, schema: &str, tables: &[&str]) -> Store {
    let mut store = options.open(folder.file(name)).expect("the file opens");
    exec(&store, schema);
    tables.iter().for_each(|table| store.replicate(table).expect("it replicates"));
    store
}

#[track_caller]
fn of_all_shapes(folder: &Folder, name: &str, options: &OpenOptions) -> Store {
    let schema: String = SHAPES.iter().map(|shape| format!("{};", shape.create)).collect();
    open(folder, name, options, &schema, &SHAPES.iter().map(|shape| shape.name).collect::<Vec<_>>())
}

/// Has every row of every table merged by itself.
#[track_caller]
fn row_by_row(store: &Store) {
    for table in store.replicated_tables().expect("the tables") {
        exec(
            store,
            &format!("CREATE TRIGGER slow_{table} AFTER INSERT ON {table} WHEN 0 BEGIN SELECT 1; END"),
        );
    }
}

/// Merges a snapshot; also tells whether rows were moved without a look at each.
#[track_caller]
fn merge(
    store: &mut Store,
    snapshot: &Snapshot,
    folder: &Folder,
    options: &OpenOptions,
) -> (ApplyReport, bool) {
    let image = image(snapshot, &folder.file("image"), options);
    let mut looked = false;
    let report = store.merge_snapshot_watched(&image, &mut |progress: Progress| {
        looked |= progress.phase == Phase::Check;
        ControlFlow::Continue(())
    });
    let report = report.expect("it merges");
    image.discard().expect("the file goes");
    (report, looked)
}

fn rowids(store: &Store, table: &str) -> Vec<String> {
    lines(store, &format!("SELECT rowid FROM {table} ORDER BY rowid"))
}

fn counts(report: &ApplyReport) -> [usize; 6] {
    let ApplyReport { rows_inserted, rows_updated, rows_deleted, cells_won, cells_lost, .. } = report;
    [*rows_inserted, *rows_updated, *rows_deleted, *cells_won, *cells_lost, report.quarantined]
}

/// Everything of the log but the order of rows that are told of at one place.
fn sorted_log(store: &Store) -> Vec<String> {
    let mut lines: Vec<_> = log(store).iter().map(|row: &ChangeRow| format!("{row:?}")).collect();
    lines.sort();
    lines
}

#[track_caller]
fn is_sound(store: &Store) {
    assert_eq!(lines(store, "PRAGMA integrity_check"), ["ok"]);
    assert_eq!(lines(store, "SELECT name FROM pragma_database_list WHERE name <> 'temp'"), ["main"]);
    assert_eq!(store.incidents().expect("the incidents"), []);
}

/// Writes to some tables only.
fn write_some(store: &Store, rng: &mut Rng, statements: usize, tables: &[&Shape]) {
    for _ in 0..statements {
        let statement = opor_tests::random_statement(rng, SHAPES.len(), false).sql();
        if tables.iter().any(|shape| statement.contains(shape.name)) {
            let _refused = run(store, &statement);
        }
    }
}

#[test]
fn random_histories_are_taken_over_whole_as_they_are_merged_row_by_row() {
    let (mut moved, mut mixed) = (0, 0);
    for seed in seeds(0xb000, 24) {
        let mut rng = Rng::new(seed);
        let folder = Folder::new();
        let clock = *rng.pick(&[ClockPolicy::Lamport, ClockPolicy::Hlc]);
        let theirs = *rng.pick(&[clock, ClockPolicy::Lamport, ClockPolicy::Hlc]);
        let mut desk = of_all_shapes(&folder, "a.db", &options(theirs, 0xa));
        let mut other = of_all_shapes(&folder, "b.db", &options(clock, 0xb));
        for _ in 0..3 {
            write(&desk, &mut rng, operations(300) / 15);
            write(&other, &mut rng, operations(300) / 15);
            pull_by_cursor(&mut desk, &other);
            pull_by_cursor(&mut other, &desk);
        }
        if rng.chance(30) {
            let acknowledged = desk.db_version().expect("a version");
            desk.set_acknowledged_by(site(0xb), acknowledged).expect("recorded");
            desk.compact_with(&CompactOptions::default()).expect("compacted");
            write(&desk, &mut rng, 6);
        }
        let snapshot = desk.snapshot().expect("a snapshot");
        // The same replica, twice; in some tables it has written before.
        let own: Vec<&Shape> =
            if rng.chance(50) { Vec::new() } else { vec![rng.pick(SHAPES), rng.pick(SHAPES)] };
        let mut twins = ["c.db", "d.db"].map(|name| of_all_shapes(&folder, name, &options(clock, 0xc)));
        row_by_row(&twins[1]);
        let before = rng.clone();
        let mut at = Vec::new();
        for twin in &mut twins {
            rng = before.clone();
            write_some(twin, &mut rng, 20, &own);
            at.push(full_dump(twin).contains("ChangeRow"));
        }
        let reports: Vec<_> =
            twins.iter_mut().map(|twin| merge(twin, &snapshot, &folder, &options(clock, 0xc))).collect();
        let [taken, merged] = &mut twins;
        assert!(reports[0].1 && !reports[1].1, "seed {seed}: the twins go different ways");
        moved += 1;
        mixed += usize::from(at[0]);
        assert_eq!(counts(&reports[0].0), counts(&reports[1].0), "seed {seed}");
        assert_eq!(reports[0].0.db_version, reports[1].0.db_version, "seed {seed}");
        for shape in SHAPES {
            let rows = |store: &Store| table_dump(store, shape.name).expect("the table reads");
            assert_eq!(rows(taken), rows(merged), "seed {seed}: {}", shape.name);
        }
        if at[0] && clock == ClockPolicy::Hlc {
            // What each wrote before has stamps of its own.
            assert_eq!(content(taken).len(), content(merged).len(), "seed {seed}");
        } else {
            assert_eq!(sorted_log(taken), sorted_log(merged), "seed {seed}");
        }
        assert_eq!(taken.conflicts().expect("read"), merged.conflicts().expect("read"), "seed {seed}");
        for peer in [0xa, 0xb].map(site) {
            assert_eq!(taken.peer_cursor(peer).expect("read"), merged.peer_cursor(peer).expect("read"));
            assert_eq!(
                taken.held_by(peer).expect("read"),
                merged.held_by(peer).expect("read"),
                "seed {seed}"
            );
        }
        is_sound(taken);
        let rest = desk.changes(&taken.peer_cursor(site(0xa)).expect("read").expect("a cursor"), usize::MAX);
        assert!(rest.expect("the cursor holds").changeset.is_empty(), "seed {seed}: nothing is left to pull");

        // Life goes on: its own writes, those of others, and what it tells them.
        let before = rng.clone();
        for twin in [&mut *taken, &mut *merged] {
            rng = before.clone();
            write(twin, &mut rng, 12);
        }
        write(&desk, &mut rng, 12);
        assert_eq!(pull_by_cursor(taken, &desk), pull_by_cursor(merged, &desk), "seed {seed}");
        if clock == ClockPolicy::Lamport {
            assert_eq!(content(taken), content(merged), "seed {seed}: as it goes on");
        }
        drop(twins);
        let taken = options(clock, 0xc).open(folder.file("c.db")).expect("it opens again");
        let mut stores = [desk, other, taken];
        converge(&mut stores);
        let first = content(&stores[0]);
        stores[1..].iter().for_each(|store| assert_eq!(content(store), first, "seed {seed}"));
        is_sound(&stores[2]);
    }
    assert!(moved >= 1 && (mixed >= 3 || moved < 24), "{mixed} of {moved} had written before");
}

/// Rows that are told of by their rowids: only a table that was moved whole has those of the sender.
#[test]
fn tables_that_are_empty_are_moved_and_others_merged() {
    let folder = Folder::new();
    let schema = "CREATE TABLE one(id TEXT PRIMARY KEY NOT NULL, x); CREATE TABLE two(id TEXT PRIMARY KEY NOT NULL, x);
                  CREATE TABLE three(id TEXT PRIMARY KEY NOT NULL, x); CREATE TABLE four(id TEXT PRIMARY KEY NOT NULL, x);
                  CREATE TABLE five(id TEXT PRIMARY KEY NOT NULL, x)";
    let tables = ["one", "two", "three", "four", "five"];
    let hlc = |byte| options(ClockPolicy::Hlc, byte);
    let desk = open(&folder, "a.db", &hlc(0xa), schema, &tables);
    for table in tables {
        exec(
            &desk,
            &format!(
                "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
                 INSERT INTO {table} SELECT hex(randomblob(8)), i FROM n; \
                 DELETE FROM {table} WHERE x % 3 = 0; UPDATE {table} SET x = -x WHERE x % 5 = 0"
            ),
        );
    }
    let mut new = open(&folder, "b.db", &hlc(0xb), schema, &tables);
    exec(
        &new,
        "INSERT INTO two VALUES ('own', 1);
         CREATE TRIGGER seen AFTER INSERT ON three BEGIN INSERT INTO noted VALUES (new.id); END;
         CREATE TABLE noted(id); INSERT INTO four VALUES ('gone', 1); DELETE FROM four;
         SELECT crsql_internal_sync_bit(1); INSERT INTO five VALUES ('own', 1); SELECT crsql_internal_sync_bit(0)",
    );
    let snapshot = desk.snapshot().expect("a snapshot");
    let (report, _) = merge(&mut new, &snapshot, &folder, &hlc(0xb));
    assert_eq!(report.rows_inserted, 5 * 67);
    assert_eq!(report.db_version, Some(new.db_version().expect("a version")), "one commit");
    for (table, is_moved) in tables.iter().zip([true, false, false, false, false]) {
        let same = rowids(&new, table) == rowids(&desk, table);
        assert_eq!(
            same, is_moved,
            "{table}: it is empty / has a row / has a trigger / has a tombstone / has a row without clocks"
        );
        let theirs = lines(&desk, &format!("SELECT id, x FROM {table} ORDER BY id"));
        assert_eq!(lines(&new, &format!("SELECT id, x FROM {table} WHERE id <> 'own' ORDER BY id")), theirs);
    }
    assert_eq!(lines(&new, "SELECT count(*) FROM noted"), ["67"], "triggers run for each row");
    is_sound(&new);
    // Nothing but what it wrote itself is news to the desk.
    let mut desk = desk;
    let report = pull(&mut desk, &new);
    assert_eq!((report.rows_inserted, report.rows_deleted, report.cells_won), (1, 1, 1));
}

/// A connection takes few databases, and each name once.
#[test]
fn an_image_that_cannot_be_attached_is_merged_row_by_row() {
    let folder = Folder::new();
    let (desk, mut new) = many_rows(&folder, 300);
    exec(&desk, "DELETE FROM todos WHERE rowid % 3 = 0");
    let snapshot = desk.snapshot().expect("a snapshot");
    exec(&new, "ATTACH ':memory:' AS opor_image");
    let (report, _) = merge(&mut new, &snapshot, &folder, &options(ClockPolicy::Hlc, 0xb));
    assert_eq!((report.rows_inserted, rowids(&new, "todos").len()), (200, 200));
    assert_ne!(rowids(&new, "todos"), rowids(&desk, "todos"), "it was not moved");
    exec(&new, "DETACH opor_image");
    is_sound(&new);
}

/// Rows that are older than a column have no clock for it.
#[test]
fn rows_older_than_a_column_move_where_they_have_its_default() {
    let folder = Folder::new();
    let schema = |default: &str| {
        format!(
            "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a); INSERT INTO t VALUES ('gap', 0), ('x', 1), ('y', 2); \
             DELETE FROM t WHERE id = 'gap' AND 0; SELECT 1; ALTER TABLE t ADD COLUMN b {default}"
        )
    };
    for (default, is_moved) in [
        ("", true),
        ("INTEGER NOT NULL DEFAULT 7", true),
        ("TEXT DEFAULT 'it''s'", true),
        ("DEFAULT -1.5", true),
        ("DEFAULT NULL", true),
        // What is inserted without it here gets '5'.
        ("TEXT DEFAULT 5", false),
        ("DEFAULT TRUE", false),
    ] {
        let stores = [0xa, 0xb, 0xc].map(|byte| options(ClockPolicy::Lamport, byte));
        let mut desk = stores[0].open(folder.file("a.db")).expect("it opens");
        let (make, alter) =
            schema(default).split_once("SELECT 1; ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let (create, rows) = make.split_once("; ").expect("two parts");
        exec(&desk, create);
        desk.replicate("t").expect("it replicates");
        exec(&desk, rows);
        exec(&desk, "DELETE FROM t WHERE id = 'gap'");
        exec(&desk, &alter);
        exec(&desk, "INSERT INTO t(id, a, b) VALUES ('z', 3, 9); UPDATE t SET b = 8 WHERE id = 'x'");
        let mut twins = ["b.db", "c.db"].map(|name| {
            let mut store = stores[1].open(folder.file(name)).expect("it opens");
            exec(&store, create);
            store.replicate("t").expect("it replicates");
            exec(&store, &alter);
            exec(&store, "UPDATE t SET a = 1");
            store
        });
        row_by_row(&twins[1]);
        let snapshot = desk.snapshot().expect("a snapshot");
        twins.iter_mut().for_each(|twin| drop(merge(twin, &snapshot, &folder, &stores[1])));
        assert_eq!(rowids(&twins[0], "t") == rowids(&desk, "t"), is_moved, "{default}");
        assert_eq!(sorted_log(&twins[0]), sorted_log(&twins[1]), "{default}");
        assert_eq!(
            table_dump(&twins[0], "t").expect("rows"),
            table_dump(&desk, "t").expect("rows"),
            "{default}"
        );
        is_sound(&twins[0]);
        drop((twins, desk));
        for name in ["a.db", "b.db", "c.db"] {
            for suffix in ["", "-wal", "-shm"] {
                let _gone = std::fs::remove_file(folder.file(&format!("{name}{suffix}")));
            }
        }
    }
}

/// A desk with many rows, and an empty replica.
fn many_rows(folder: &Folder, rows: usize) -> (Store, Store) {
    let desk = open(folder, "a.db", &options(ClockPolicy::Hlc, 0xa), TODOS, &["todos"]);
    exec(
        &desk,
        &format!(
            "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO todos SELECT hex(randomblob(16)), 'title ' || i, i % 2 FROM n"
        ),
    );
    (desk, open(folder, "b.db", &options(ClockPolicy::Hlc, 0xb), TODOS, &["todos"]))
}

#[test]
fn readers_see_nothing_and_then_all_and_a_cancelled_move_leaves_nothing() {
    let folder = Folder::new();
    let (desk, mut new) = many_rows(&folder, 40_000);
    let image =
        image(&desk.snapshot().expect("a snapshot"), &folder.file("b.db"), &options(ClockPolicy::Hlc, 0xb));
    let reader = OpenOptions::new().read_only(true).open(folder.file("b.db")).expect("a reader");
    let before = full_dump(&new);
    let (mut calls, mut merging) = (0, 0);
    let mut cancel = |stop: usize, new: &mut Store| {
        (calls, merging) = (0, 0);
        new.merge_snapshot_watched(&image, &mut |progress: Progress| {
            calls += 1;
            merging += usize::from(progress.phase == Phase::Merge);
            assert_eq!(lines(&reader, "SELECT count(*) FROM todos"), ["0"], "nobody sees a part");
            assert_eq!(reader.db_version().expect("a version"), DbVersion(0));
            assert!(progress.done <= progress.total, "{progress:?}");
            if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    for stop in [0, 1, 20, 39, 42, 43, 44, 45, 46, 48, 50, 55, 60] {
        let outcome = cancel(stop, &mut new);
        assert!(matches!(outcome, Err(RestoreError::Cancelled)), "at call {stop}: {outcome:?}");
        assert!(full_dump(&new) == before, "at call {stop}: nothing has changed");
        is_sound(&new);
    }
    cancel(usize::MAX, &mut new).expect("and then it merges");
    assert!(merging > 40, "{merging} of {calls} calls came in the transaction, within statements too");
    assert_eq!(lines(&reader, "SELECT count(*) FROM todos"), ["40000"], "and then all of it");
    assert_eq!(reader.db_version().expect("a version"), DbVersion(1));
    assert_eq!(rowids(&new, "todos"), rowids(&desk, "todos"), "it was moved");
    is_sound(&new);
}

/// The disk is full at any moment.
#[test]
fn a_disk_that_is_full_leaves_nothing() {
    let folder = Folder::new();
    let (desk, mut new) = many_rows(&folder, 6_000);
    let image =
        image(&desk.snapshot().expect("a snapshot"), &folder.file("b.db"), &options(ClockPolicy::Hlc, 0xb));
    let before = full_dump(&new);
    let pages: i64 = lines(&new, "PRAGMA page_count")[0].parse().expect("a number");
    let mut refused = 0;
    for more in (0..).step_by(23) {
        exec(&new, &format!("PRAGMA max_page_count = {}", pages + more));
        match new.merge_snapshot(&image) {
            Ok(_) => break,
            Err(RestoreError::Sqlite(error)) => {
                let code = error.sqlite_error_code();
                assert_eq!(code, Some(opor_store::rusqlite::ErrorCode::DiskFull), "{more} pages: {error}");
            }
            Err(other) => panic!("{more} pages: {other:?}"),
        }
        refused += 1;
        assert!(full_dump(&new) == before, "{more} pages: nothing has changed");
    }
    assert!(refused > 5, "{refused} times there was no room");
    assert_eq!(lines(&new, "SELECT count(*) FROM todos"), ["6000"]);
    is_sound(&new);
}

/// A process dies at each of many moments of the merge, in the middle of statements too.
#[test]
fn a_process_that_dies_leaves_all_or_nothing() {
    let folder = Folder::new();
    let (desk, new) = many_rows(&folder, 20_000);
    drop(new);
    let file = folder.file("snapshot");
    let mut out = std::fs::File::create(&file).expect("a file");
    desk.snapshot().expect("a snapshot").write_to(&mut out).expect("written");
    let target = folder.file("b.db");
    let merge = |die: u64| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peer"));
        let mut child = command
            .args([target.as_os_str(), "hlc".as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the helper starts");
        let mut stdin = child.stdin.take().expect("its input is piped");
        let line = serde_json::json!({"snapshot": file, "die": die});
        std::io::Write::write_all(&mut stdin, format!("{line}\n").as_bytes()).expect("it listens");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).ok().filter(|_| output.status.success())
    };
    // The last call comes after all has been written, before it is committed.
    for die in [0, 10, 21, 22, 23, 24, 25, 26, 28, 31, 36, 44] {
        assert_eq!(merge(die), None, "it died at call {die}");
        let store = options(ClockPolicy::Hlc, 0xb).open(&target).expect("it opens");
        assert_eq!(lines(&store, "SELECT count(*) FROM todos"), ["0"], "at call {die}");
        assert_eq!((log(&store).len(), store.peer_cursor(site(0xa)).expect("read")), (0, None));
        is_sound(&store);
    }
    let answer = merge(u64::MAX).expect("nobody dies");
    assert!(answer["calls"].as_u64() > Some(44), "{answer}");
    let store = options(ClockPolicy::Hlc, 0xb).open(&target).expect("it opens");
    assert_eq!(rowids(&store, "todos"), rowids(&desk, "todos"));
    is_sound(&store);
}

/// Who writes to the new replica meanwhile waits, and loses nothing; and the owner of the file hears of one commit.
#[test]
fn edits_that_come_meanwhile_are_kept_and_one_commit_is_told_of() {
    let folder = Folder::new();
    let (desk, new) = many_rows(&folder, 5_000);
    drop(new);
    let image =
        image(&desk.snapshot().expect("a snapshot"), &folder.file("b.db"), &options(ClockPolicy::Hlc, 0xb));
    let handle =
        StoreHandle::open(folder.file("b.db"), &options(ClockPolicy::Hlc, 0xb), 1).expect("it opens");
    let mut commits = handle.commits();
    let path = folder.file("b.db");
    // The edit begins before the merge looks for tables, and comes into the way of what it found.
    let early = options(ClockPolicy::Hlc, 0xb).open(&path).expect("it opens");
    let mut written = false;
    let merged = handle.write(move |store| {
        let report = store.merge_snapshot_watched(&image, &mut |progress: Progress| {
            if progress.phase == Phase::Check && progress.done > 0 && !written {
                written = true;
                exec(&early, "INSERT INTO todos VALUES ('early', 'mine', 1)");
            }
            ControlFlow::Continue(())
        });
        report.map(|report| (report.rows_inserted, report.db_version))
    });
    let (rows, version) =
        futures::executor::block_on(merged).expect("the handle is open").expect("it merges");
    assert_eq!((rows, version), (5_000, Some(DbVersion(2))), "the table had been written to, and was merged");
    assert_eq!(futures::executor::block_on(commits.next()), Some(DbVersion(2)));
    let count = handle.read(|store| lines(store, "SELECT count(*), sum(title = 'mine') FROM todos"));
    assert_eq!(futures::executor::block_on(count).expect("read"), ["5001|1"]);
    handle.close();
    assert_eq!(futures::executor::block_on(commits.next()), None, "nothing else was told");

    // Moved whole, it is one commit too.
    let snapshot = desk.snapshot().expect("a snapshot");
    let hlc = options(ClockPolicy::Hlc, 0xc);
    drop(open(&folder, "c.db", &hlc, TODOS, &["todos"]));
    let image = crate::snapshots::image(&snapshot, &folder.file("c.db"), &hlc);
    let handle = StoreHandle::open(folder.file("c.db"), &hlc, 1).expect("it opens");
    let mut commits = handle.commits();
    let feed = handle.row_feed();
    feed.watch([("todos".into(), Interest::default())].into());
    let reader = hlc.read_only(true).open(folder.file("c.db")).expect("a reader");
    let look = || {
        let changes = feed.snapshot(&reader).expect("a snapshot");
        exec(&reader, "COMMIT");
        changes
    };
    look();
    let merged = handle.write(move |store| store.merge_snapshot(&image).map(|report| report.db_version));
    let version = futures::executor::block_on(merged).expect("the handle is open").expect("it merges");
    let told = look();
    assert_eq!(
        (told.unknown, told.tables["todos"].rows.len()),
        (false, 5_000),
        "whoever watches is told of each row"
    );
    assert_eq!(
        (version, futures::executor::block_on(commits.next())),
        (Some(DbVersion(1)), Some(DbVersion(1)))
    );
    let reader = handle.read(|store| {
        let changes = store.changes(&Cursor::start(), usize::MAX).expect("the log reads");
        (changes.changeset.rows().len(), rowids(store, "todos"))
    });
    assert_eq!(futures::executor::block_on(reader).expect("read"), (5_000, rowids(&desk, "todos")));
    handle.close();
    assert_eq!(futures::executor::block_on(commits.next()), None);
}

/// Changes that wait at the sender travel beside the rows.
#[test]
fn what_the_sender_keeps_aside_comes_too() {
    let folder = Folder::new();
    let hlc = |byte| options(ClockPolicy::Hlc, byte);
    let newer = open(
        &folder,
        "n.db",
        &hlc(0xd),
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a, b); CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL, a)",
        &["t", "u"],
    );
    exec(&newer, "INSERT INTO t VALUES ('x', 1, 'kept'), ('y', 2, 'kept'); INSERT INTO u VALUES ('x', 1)");
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, a)";
    let mut desk = open(&folder, "a.db", &hlc(0xa), schema, &["t"]);
    exec(&desk, "INSERT INTO t VALUES ('gap', 0), ('z', 3); DELETE FROM t WHERE id = 'gap'");
    assert_eq!(pull(&mut desk, &newer).quarantined, 3);
    let mut twins = ["b.db", "c.db"].map(|name| open(&folder, name, &hlc(0xb), schema, &["t"]));
    row_by_row(&twins[1]);
    let snapshot = desk.snapshot().expect("a snapshot");
    let reports = twins.each_mut().map(|twin| merge(twin, &snapshot, &folder, &hlc(0xb)).0);
    assert_eq!(counts(&reports[0]), counts(&reports[1]));
    assert_eq!(reports[0].quarantined, 3);
    assert_eq!(rowids(&twins[0], "t"), rowids(&desk, "t"), "it was moved");
    assert_eq!(sorted_log(&twins[0]), sorted_log(&twins[1]));
    let taken = &mut twins[0];
    exec(taken, "ALTER TABLE t ADD COLUMN b");
    pull(taken, &desk);
    assert_eq!(lines(taken, "SELECT id, a, b FROM t ORDER BY id"), ["x|1|kept", "y|2|kept", "z|3|NULL"]);
}

/// Rows that break a rule are on record where they were merged, and have to be here.
#[test]
fn rows_that_break_a_rule_are_merged_one_by_one() {
    let folder = Folder::new();
    let hlc = |byte| options(ClockPolicy::Hlc, byte);
    let schema = "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n INTEGER CHECK(n > 0)); CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL, n NOT NULL)";
    let loose = open(
        &folder,
        "l.db",
        &hlc(0xd),
        "CREATE TABLE t(id TEXT PRIMARY KEY NOT NULL, n INTEGER); CREATE TABLE u(id TEXT PRIMARY KEY NOT NULL, n)",
        &["t", "u"],
    );
    exec(&loose, "INSERT INTO t VALUES ('a', 1), ('b', -1); INSERT INTO u VALUES ('a', 1), ('b', NULL)");
    let mut desk = open(&folder, "a.db", &hlc(0xa), schema, &["t", "u"]);
    assert_eq!(pull(&mut desk, &loose).violations, 2);
    let mut new = open(&folder, "b.db", &hlc(0xb), schema, &["t", "u"]);
    let snapshot = desk.snapshot().expect("a snapshot");
    let (report, _) = merge(&mut new, &snapshot, &folder, &hlc(0xb));
    assert_eq!(report.violations, 2);
    assert_eq!(new.conflicts().expect("read"), desk.conflicts().expect("read"));
    assert_eq!(sorted_log(&new).len(), sorted_log(&desk).len());
    let null = log(&new).iter().any(|row| row.table == "u" && row.val == Value::Null);
    assert!(null, "what was merged is told, not what the table shows");
}
