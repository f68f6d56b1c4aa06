//! Compaction: tombstones go when nobody needs them, replicas go on converging, and who has been away too long is told.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opor_core::{DbVersion, WallMillis};
use opor_store::{
    ApplyOptions, CompactError, CompactOptions, CompactReport, Cursor, OpenOptions, Phase, ReadError, Store,
};
use opor_tests::{ChangeRow, Rng};

use crate::histories::{operations, seeds};
use crate::invariants;
use crate::replicas::{Folder, exec, file, lines, log, log_lines, memory, options, reopen, site, table};
use crate::snapshots::{all_shapes, content, image, start_from, write};

const TODOS: &str = "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done)";

/// Pulls what is new, in pieces, and acknowledges it: what a sync session does. Whether anything came.
#[track_caller]
fn sync(target: &mut Store, source: &mut Store) -> bool {
    let (before, peer) = (target.db_version().expect("a version"), source.site_id());
    let mut cursor = target.peer_cursor(peer).expect("a cursor").unwrap_or_else(Cursor::start);
    loop {
        let batch = source.changes(&cursor, 11).expect("the cursor holds");
        let options = ApplyOptions { cursor: Some((peer, batch.cursor)), ..ApplyOptions::default() };
        target.apply_with(&batch.changeset, &options).expect("honest changes apply");
        cursor = batch.cursor;
        if batch.done {
            source.set_acknowledged_by(target.site_id(), cursor.base).expect("recorded");
            return target.db_version().expect("a version") != before;
        }
    }
}

#[track_caller]
fn sync_all(stores: &mut [Store]) {
    for _ in 0..4 * stores.len() {
        let mut news = false;
        for target in 0..stores.len() {
            for source in (0..stores.len()).filter(|source| *source != target) {
                let [target, source] = stores.get_disjoint_mut([target, source]).expect("two stores");
                news |= sync(target, source);
            }
        }
        if !news {
            return;
        }
    }
    panic!("replicas keep telling each other news");
}

/// What replicas must agree on, one of which may have dropped tombstones.
fn living(store: &Store) -> Vec<String> {
    let mut lines = content(store);
    let is_tombstone = |line: &String| {
        let cl = line.strip_prefix("log ").and_then(|line| line.rsplit("cl").next()?.parse::<u64>().ok());
        cl.is_some_and(|cl| cl % 2 == 0)
    };
    lines.retain(|line| !is_tombstone(line));
    lines
}

fn tombstones(store: &Store) -> usize {
    log(store).iter().filter(|row| row.is_sentinel() && row.cl % 2 == 0).count()
}

fn assert_behind(store: &Store, cursor: Cursor) {
    let outcome = store.changes(&cursor, 100);
    assert!(matches!(outcome, Err(ReadError::BehindHorizon { cursor: of }) if of == cursor), "{outcome:?}");
}

#[test]
fn tombstones_go_when_every_known_peer_has_acknowledged_them() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut desk = file(&path, 0xa, TODOS, &["todos"]);
    exec(
        &desk,
        "INSERT INTO todos(rowid, id, title, done) VALUES (1, 'a', 1, 0), (99, 'b', 2, 0), (100, 'c', 3, 0)",
    ); // 1
    let stale = desk.changes(&Cursor::start(), 100).expect("the changes").cursor;
    let partial = desk.changes(&Cursor::start(), 2).expect("a piece").cursor;
    assert!(partial.is_partial());
    exec(&desk, "DELETE FROM todos WHERE id = 'a'"); // 2
    let there = desk.changes(&Cursor::start(), 100).expect("the changes").cursor;
    exec(&desk, "UPDATE todos SET done = 1"); // 3
    exec(&desk, "DELETE FROM todos WHERE id = 'b'"); // 4

    // Nobody is known, so nobody can have acknowledged anything.
    let report = desk.compact().expect("compacted");
    let nothing = CompactReport { tombstones_left: 2, ..CompactReport::default() };
    assert_eq!(report, nothing);
    // One peer has all of it, the other is known only because it was pulled from.
    desk.set_acknowledged_by(site(0xb), DbVersion(4)).expect("recorded");
    let from =
        ApplyOptions { cursor: Some((site(0xc), Cursor::at(DbVersion(9)))), ..ApplyOptions::default() };
    desk.apply_with(&opor_core::Changeset::new(), &from).expect("applied");
    assert_eq!(desk.compact().expect("compacted"), nothing);
    assert!(desk.changes(&stale, 100).is_ok_and(|batch| batch.cursor.to_string().starts_with("4@")));

    desk.set_acknowledged_by(site(0xc), DbVersion(2)).expect("recorded");
    let version = desk.db_version().expect("a version");
    let living: Vec<ChangeRow> = log(&desk).into_iter().filter(|row| row.cl % 2 == 1).collect();
    let report = desk.compact().expect("compacted");
    let one =
        CompactReport { tombstones_dropped: 1, tombstones_left: 1, blocks_tidied: 0, horizon: DbVersion(2) };
    assert_eq!(report, one);
    assert_eq!(desk.db_version().expect("a version"), version, "versions are not numbered anew");
    assert_eq!(log(&desk).into_iter().filter(|row| row.cl % 2 == 1).collect::<Vec<_>>(), living);
    assert_eq!(tombstones(&desk), 1);

    for store in [&reopen(&path, 0xa), &options(0xa).read_only(true).open(&path).expect("a reader"), &desk] {
        assert_eq!(store.horizon().expect("read"), DbVersion(2));
        // Behind: it holds row a, and would never hear that it went.
        assert_behind(store, stale);
        assert_behind(store, partial);
        assert_behind(store, Cursor::at(DbVersion(1)));
        // Not behind, though of an earlier epoch.
        let rest = store.changes(&there, 100).expect("the cursor holds");
        assert_eq!(rest.changeset.len(), 2, "a cell and a delete: {:?}", rest.changeset);
        assert_ne!(
            rest.cursor.to_string(),
            there.to_string().replace("2@", "4@"),
            "it goes on in the new epoch"
        );
        assert!(store.changes(&rest.cursor, 100).is_ok_and(|batch| batch.done && batch.changeset.is_empty()));
        assert!(store.changes(&Cursor::at(DbVersion(2)), 100).is_ok_and(|batch| batch.changeset.len() == 2));
        // Who starts from nothing misses nothing, however small the pieces.
        let mut cursor = Cursor::start();
        let mut count = 0;
        loop {
            let batch = store.changes(&cursor, 1).expect("a pull from the start");
            (cursor, count) = (batch.cursor, count + batch.changeset.len());
            if batch.done {
                break;
            }
        }
        assert_eq!(count, 3, "two cells of the row that is left, and a delete");
    }
    // Doing it again does nothing, and throws nobody out.
    let before = (log(&desk), desk.changes(&Cursor::start(), 100).expect("the changes").cursor);
    let again = desk.compact().expect("compacted");
    assert_eq!((again.tombstones_dropped, again.horizon), (0, DbVersion(2)));
    let after = (log(&desk), desk.changes(&Cursor::start(), 100).expect("the changes").cursor);
    assert_eq!(after, before, "the epoch stays too");
    assert!(desk.changes(&there, 100).is_ok());
}

#[test]
fn a_key_whose_tombstone_is_gone_can_be_used_again() {
    let folder = Folder::new();
    for schema in [TODOS, "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done) WITHOUT ROWID"] {
        let mut stores = [memory(0xa, schema, &["todos"]), memory(0xb, schema, &["todos"])];
        exec(
            &stores[0],
            "INSERT INTO todos VALUES ('a', 1, 0), ('b', 2, 0); DELETE FROM todos WHERE id = 'a'",
        );
        sync_all(&mut stores);
        assert_eq!(stores[0].compact().expect("compacted").tombstones_dropped, 1);
        assert_eq!((tombstones(&stores[0]), tombstones(&stores[1])), (0, 1));
        // A replica that starts here learns what has been cut.
        let path = folder.file(&format!("{}.db", schema.len()));
        let mut new = start_from(&stores[0], &path, 0xc);
        exec(&stores[0], "INSERT INTO todos VALUES ('a', 'again', 0)");
        sync_all(&mut stores);
        assert_eq!(lines(&stores[1], "SELECT title FROM todos WHERE id = 'a'"), ["again"]);
        assert_eq!(content(&stores[0]), content(&stores[1]));
        exec(&new, "INSERT INTO todos VALUES ('a', 'and again', 0)");
        exec(&new, "UPDATE todos SET id = 'z' WHERE id = 'b'");
        let [desk, phone] = &mut stores;
        sync(phone, &mut new);
        sync(&mut new, phone);
        sync(desk, phone);
        assert_eq!(table(desk, "todos"), table(phone, "todos"));
        assert_eq!(table(&new, "todos"), table(phone, "todos"));
        let keys: Vec<_> = lines(desk, "SELECT id FROM todos ORDER BY id");
        assert_eq!(keys, ["a", "z"]);
    }
}

#[test]
fn random_histories_converge_though_replicas_compact() {
    for seed in seeds(0x7000, 12) {
        let mut rng = Rng::new(seed);
        let folder = Folder::new();
        let mut stores = [0xa, 0xb, 0xc].map(|byte| all_shapes(&folder, &format!("{byte}.db"), byte));
        // Everybody knows everybody before the first delete can be forgotten.
        sync_all(&mut stores);
        let mut dropped = 0;
        for step in 0..operations(360) / 4 {
            let target = rng.below(3);
            match rng.below(10) {
                0..5 => write(&stores[target], &mut rng, 3),
                5..8 => {
                    let other = (target + 1 + rng.below(2)) % 3;
                    let [target, other] = stores.get_disjoint_mut([target, other]).expect("two stores");
                    sync(target, other);
                }
                8 => dropped += stores[target].compact().expect("compacted").tombstones_dropped,
                _ => {
                    stores[target] = reopen(&folder.file(&format!("{}.db", 0xa + target)), 0xa + target as u8)
                }
            }
            if step % 9 == 0 {
                let faults = invariants::faults(&stores[target], &mut rng);
                assert!(faults.is_empty(), "seed {seed}, replica {target}:\n{}", faults.join("\n"));
            }
        }
        sync_all(&mut stores);
        let first = living(&stores[0]);
        for store in &stores[1..] {
            assert_eq!(living(store), first, "seed {seed}: {:?}", store.site_id());
        }
        // Then all have everything, and all tombstones can go.
        for store in &mut stores {
            let report = store.compact().expect("compacted");
            dropped += report.tombstones_dropped;
            assert_eq!((report.tombstones_left, tombstones(store)), (0, 0), "seed {seed}");
            assert_eq!(living(store), first, "seed {seed}: rows and their clocks are as before");
        }
        assert!(dropped > 0, "seed {seed}: the history has deletes");
        for store in &stores {
            write(store, &mut rng, 10);
        }
        sync_all(&mut stores);
        let first = living(&stores[0]);
        stores[1..].iter().for_each(|store| assert_eq!(living(store), first, "seed {seed}"));
    }
}

/// Clocks by rowid that is no key, by one that is, and by key.
const SHAPES_OF_KEYS: [&str; 3] = [
    TODOS,
    "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title, done)",
    "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done) WITHOUT ROWID",
];

/// A store whose clock the test winds.
fn wound(folder: &Folder, byte: u8, wall: &Arc<AtomicU64>) -> Store {
    wound_with(TODOS, folder, byte, wall)
}

/// The same with another shape of table.
fn wound_with(create: &str, folder: &Folder, byte: u8, wall: &Arc<AtomicU64>) -> Store {
    let wall = wall.clone();
    let options = OpenOptions::new()
        .site_id(site(byte))
        .wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
    let mut store = options.open(folder.file(&format!("{byte}.db"))).expect("a store");
    exec(&store, create);
    store.replicate("todos").expect("it replicates");
    store
}

const DAY_MS: u64 = 86_400_000;

fn older_than(days: u64) -> CompactOptions {
    CompactOptions { retention: Some(Duration::from_millis(days * DAY_MS)) }
}

#[test]
fn a_retention_drops_what_is_old_enough_and_nothing_younger() {
    let folder = Folder::new();
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let mut desk = wound(&folder, 0xa, &wall);
    exec(&desk, "INSERT INTO todos VALUES ('a', 1, 0), ('b', 2, 0), ('c', 3, 0)");
    exec(&desk, "DELETE FROM todos WHERE id = 'a'");
    wall.fetch_add(10 * DAY_MS, Ordering::Relaxed);
    assert_eq!(
        desk.compact_with(&older_than(5)).expect("compacted").tombstones_dropped,
        0,
        "nothing dates the delete"
    );
    exec(&desk, "UPDATE todos SET done = 1 WHERE id = 'c'");
    exec(&desk, "DELETE FROM todos WHERE id = 'b'");
    wall.fetch_add(4 * DAY_MS, Ordering::Relaxed);
    assert_eq!(desk.compact_with(&older_than(5)).expect("compacted").tombstones_dropped, 0);
    wall.fetch_add(2 * DAY_MS, Ordering::Relaxed);
    let report = desk.compact_with(&older_than(5)).expect("compacted");
    assert_eq!(
        (report.tombstones_dropped, report.tombstones_left),
        (1, 1),
        "the write after it is six days old"
    );
    // The second delete is dated by the compaction of two days ago.
    wall.fetch_add(4 * DAY_MS, Ordering::Relaxed);
    let report = desk.compact_with(&older_than(5)).expect("compacted");
    assert_eq!((report.tombstones_dropped, report.tombstones_left), (1, 0));
    assert_eq!(report.horizon, desk.db_version().expect("a version"));
}

#[test]
fn who_was_away_too_long_is_told_and_catches_up_with_a_snapshot() {
    let folder = Folder::new();
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let mut stores = [0xa, 0xb, 0xc].map(|byte| wound(&folder, byte, &wall));
    exec(
        &stores[0],
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 40) INSERT INTO todos SELECT 'k' || i, i, 0 FROM n",
    );
    sync_all(&mut stores);
    let [desk, phone, late] = &mut stores;
    let cursor = late.peer_cursor(desk.site_id()).expect("read").expect("a cursor");

    exec(desk, "DELETE FROM todos WHERE title <= 20");
    exec(desk, "UPDATE todos SET done = 1 WHERE title = 21");
    sync(phone, desk);
    sync(desk, phone);
    // Meanwhile the third writes to a row that is gone, to one that is not, and a new one.
    exec(late, "UPDATE todos SET done = 5 WHERE id = 'k7'");
    exec(late, "UPDATE todos SET done = 5 WHERE id = 'k30'");
    exec(late, "INSERT INTO todos VALUES ('new', 'mine', 5)");
    wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
    assert_eq!(desk.compact().expect("compacted").tombstones_dropped, 0, "the third has not acknowledged");
    let report = desk.compact_with(&older_than(30)).expect("compacted");
    assert_eq!((report.tombstones_dropped, report.tombstones_left), (20, 0));
    assert!(desk.acknowledged_by(late.site_id()).expect("read") < report.horizon, "it is known to be behind");
    assert!(desk.acknowledged_by(phone.site_id()).expect("read") >= report.horizon, "the second is not");
    sync(phone, desk);
    assert_behind(desk, cursor);

    let snapshot = desk.snapshot().expect("a snapshot");
    let image = image(
        &snapshot,
        &folder.file("late.db"),
        &OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed)))),
    );
    let report = late.merge_snapshot(&image).expect("merged");
    assert_eq!(report.rows_deleted, 19, "rows it would never have heard of");
    let kept = lines(late, "SELECT id, title, done FROM todos WHERE done = 5 ORDER BY id");
    assert_eq!(kept, ["k30|30|5", "k7|7|5", "new|mine|5"], "what it wrote is kept, whole");
    assert_eq!(lines(late, "SELECT count(*) FROM todos"), ["22"]);
    sync_all(&mut stores);
    let first = living(&stores[0]);
    stores[1..].iter().for_each(|store| assert_eq!(living(store), first));
    assert_eq!(
        lines(&stores[1], "SELECT count(*) FROM todos"),
        ["22"],
        "here the tombstones were still there"
    );
    assert_eq!(lines(&stores[1], "SELECT id, title, done FROM todos WHERE id = 'k7'"), ["k7|7|5"]);
}

/// The acknowledgement of what the desk has pulled never arrived. The desk does not pull it again, so the snapshot has to tell.
#[test]
fn a_row_whose_acknowledgement_was_lost_goes_with_the_snapshot_that_lacks_it() {
    let folder = Folder::new();
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let mut stores = [0xa, 0xb].map(|byte| wound(&folder, byte, &wall));
    let [desk, phone] = &mut stores;
    exec(desk, "INSERT INTO todos VALUES ('first', 1, 0)");
    sync(phone, desk);
    exec(phone, "INSERT INTO todos VALUES ('gone', 1, 0), ('kept', 2, 0)");
    let batch = phone.changes(&Cursor::start(), 100).expect("the changes");
    let cursor = Some((phone.site_id(), batch.cursor));
    desk.apply_with(&batch.changeset, &ApplyOptions { cursor, ..ApplyOptions::default() }).expect("applied");
    exec(desk, "DELETE FROM todos WHERE id = 'gone'");
    exec(desk, "UPDATE todos SET done = 1 WHERE id = 'first'");
    wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
    assert_eq!(desk.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 1);
    assert_eq!(phone.acknowledged_by(desk.site_id()).expect("read"), DbVersion(0));
    exec(phone, "INSERT INTO todos VALUES ('new', 3, 0)");

    let options = OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
    let snapshot = desk.snapshot().expect("a snapshot");
    phone.merge_snapshot(&image(&snapshot, &folder.file("b.db"), &options)).expect("merged");
    assert_eq!(lines(phone, "SELECT id FROM todos ORDER BY id"), ["first", "kept", "new"]);
    assert_eq!(phone.acknowledged_by(desk.site_id()).expect("read"), batch.cursor.base);
    sync_all(&mut stores);
    assert_eq!(living(&stores[0]), living(&stores[1]));
    assert_eq!(lines(&stores[0], "SELECT id FROM todos ORDER BY id"), ["first", "kept", "new"]);
}

/// The snapshot was made before the desk pulled a row of the phone, and is merged after the phone has heard of that.
#[test]
fn a_row_that_came_after_the_snapshot_was_made_stays() {
    let folder = Folder::new();
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let mut stores = [0xa, 0xb].map(|byte| wound(&folder, byte, &wall));
    exec(&stores[0], "INSERT INTO todos VALUES ('first', 1, 0), ('gone', 2, 0)");
    sync_all(&mut stores);
    let [desk, phone] = &mut stores;
    exec(desk, "DELETE FROM todos WHERE id = 'gone'");
    exec(desk, "UPDATE todos SET done = 1 WHERE id = 'first'");
    wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
    assert_eq!(desk.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 1);
    let snapshot = desk.snapshot().expect("a snapshot");
    exec(phone, "INSERT INTO todos VALUES ('new', 3, 0)");
    sync(desk, phone);
    assert_eq!(
        phone.acknowledged_by(desk.site_id()).expect("read"),
        phone.db_version().expect("a version"),
        "the phone knows that the desk has it"
    );

    let options = OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
    phone.merge_snapshot(&image(&snapshot, &folder.file("b.db"), &options)).expect("merged");
    assert_eq!(lines(phone, "SELECT id FROM todos ORDER BY id"), ["first", "new"]);
    sync_all(&mut stores);
    assert_eq!(lines(&stores[0], "SELECT id FROM todos ORDER BY id"), ["first", "new"]);
    assert_eq!(living(&stores[0]), living(&stores[1]));
}

/// The phone still has the tombstones that the desk has forgotten, and refuses rows of an earlier life.
#[test]
fn rows_that_a_snapshot_lacks_are_taken_by_those_who_remember_a_delete() {
    let folder = Folder::new();
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let mut stores = [0xa, 0xb, 0xc].map(|byte| wound(&folder, byte, &wall));
    exec(&stores[0], "INSERT INTO todos VALUES ('first', 1, 0), ('whole', 2, 0), ('part', 3, 0)");
    sync_all(&mut stores);
    let [desk, phone, late] = &mut stores;
    exec(desk, "INSERT INTO todos VALUES ('unseen', 4, 0)");
    exec(desk, "DELETE FROM todos WHERE id = 'part'; INSERT INTO todos VALUES ('part', 5, 0)");
    exec(desk, "DELETE FROM todos WHERE id <> 'first'");
    exec(desk, "UPDATE todos SET done = 1 WHERE id = 'first'");
    sync(phone, desk);
    sync(desk, phone);
    wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
    assert_eq!(desk.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 3);
    exec(late, "UPDATE todos SET title = 7, done = 7 WHERE id = 'whole'");
    exec(late, "UPDATE todos SET done = 8 WHERE id = 'part'");
    exec(late, "INSERT INTO todos VALUES ('new', 9, 9)");

    let options = OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
    let snapshot = desk.snapshot().expect("a snapshot");
    late.merge_snapshot(&image(&snapshot, &folder.file("c.db"), &options)).expect("merged");
    // Of a key that it never knew.
    exec(late, "INSERT INTO todos VALUES ('unseen', 10, 10)");
    sync(desk, late);
    sync(phone, desk);
    let expected = ["first|1|1", "new|9|9", "part|3|8", "unseen|10|10", "whole|7|7"];
    for store in [&*desk, &*phone, &*late] {
        assert_eq!(lines(store, "SELECT id, title, done FROM todos ORDER BY id"), expected);
    }
    sync_all(&mut stores);
    let first = living(&stores[0]);
    stores[1..].iter().for_each(|store| assert_eq!(living(store), first));
}

/// A snapshot of a replica that has missed deletes which were forgotten here: it has rows that are gone here, and others may
/// still remember their deletes. They come back as a whole and for everybody, or not at all.
#[test]
fn rows_of_a_sender_that_missed_forgotten_deletes_come_back_for_everybody() {
    for shape in SHAPES_OF_KEYS {
        let folder = Folder::new();
        let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
        let mut stores = [0xa, 0xb, 0xc].map(|byte| wound_with(shape, &folder, byte, &wall));
        exec(
            &stores[0],
            "INSERT INTO todos VALUES (1, 'one', 0), (2, 'two', 0), (3, 'three', 0), (4, 'four', 0)",
        );
        sync_all(&mut stores);
        let [desk, phone, late] = &mut stores;
        exec(desk, "DELETE FROM todos WHERE id <= 2");
        exec(desk, "UPDATE todos SET done = 1 WHERE id = 3");
        sync(phone, desk);
        sync(desk, phone);
        wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
        assert_eq!(desk.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 2, "{shape}");
        // The third has no idea of that, and a horizon of its own.
        exec(late, "UPDATE todos SET done = 5 WHERE id = 2; INSERT INTO todos VALUES (5, 'new', 5)");
        exec(late, "DELETE FROM todos WHERE id = 4");
        exec(late, "UPDATE todos SET title = 'drei' WHERE id = 3");
        wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
        assert_eq!(late.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 1, "{shape}");

        let wall = wall.clone();
        let options =
            OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
        let snapshot = late.snapshot().expect("a snapshot");
        let report = desk.merge_snapshot(&image(&snapshot, &folder.file("a.db"), &options)).expect("merged");
        let counts = (report.rows_brought_back, report.rows_gone, report.rows_deleted);
        assert_eq!(counts, (2, 1, 2), "{shape}");
        assert!(!report.is_echo(), "{shape}: the third has to hear of both");
        // Now the desk knows of the third what it has missed. So nothing more comes back.
        let snapshot = desk.snapshot().expect("a snapshot");
        let report = late.merge_snapshot(&image(&snapshot, &folder.file("c.db"), &options)).expect("merged");
        let counts = (report.rows_brought_back, report.rows_gone, report.rows_deleted);
        assert_eq!(counts, (0, 0, 2), "{shape}");
        // The third and the phone know each other only through the desk.
        for _ in 0..2 {
            for (target, source) in [(0, 2), (1, 0), (0, 1), (2, 0)] {
                let [target, source] = stores.get_disjoint_mut([target, source]).expect("two stores");
                sync(target, source);
            }
        }
        let rows = "SELECT id, title, done FROM todos ORDER BY id";
        let expected = ["2|two|5", "3|drei|1", "5|new|5"];
        let first = living(&stores[0]);
        for store in &stores {
            assert_eq!(lines(store, rows), expected, "{shape}");
            assert_eq!(living(store), first, "{shape}");
        }
    }
}

/// The desk has forgotten that it deleted the row twice. So the third, which knew only its first life, has a tombstone of that.
#[test]
fn a_key_begins_past_deletes_that_only_others_remember() {
    for shape in SHAPES_OF_KEYS {
        let folder = Folder::new();
        let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
        let mut stores = [0xa, 0xb, 0xc].map(|byte| wound_with(shape, &folder, byte, &wall));
        exec(&stores[0], "INSERT INTO todos VALUES (1, 'once', 0), (2, 'other', 0)");
        sync_all(&mut stores);
        let [desk, phone, late] = &mut stores;
        exec(desk, "DELETE FROM todos WHERE id = 1");
        exec(desk, "INSERT INTO todos VALUES (1, 'twice', 0)");
        exec(desk, "DELETE FROM todos WHERE id = 1");
        exec(desk, "UPDATE todos SET done = 1");
        sync(phone, desk);
        wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
        assert_eq!(desk.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 1, "{shape}");
        let wall = wall.clone();
        let options =
            OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
        let snapshot = desk.snapshot().expect("a snapshot");
        let of_desk = image(&snapshot, &folder.file("c.db"), &options);
        assert_eq!(late.merge_snapshot(&of_desk).expect("merged").rows_deleted, 1, "{shape}");
        exec(late, "INSERT INTO todos VALUES (1, 'again', 0)");
        sync(desk, late);
        sync(phone, desk);
        let first = living(&stores[0]);
        for store in &stores {
            let rows = lines(store, "SELECT id, title FROM todos ORDER BY id");
            assert_eq!(rows, ["1|again", "2|other"], "{shape}");
            assert_eq!(living(store), first, "{shape}");
        }
    }
}

/// In a session the sender decides, when it merges a snapshot of the other: it knows what it wrote meanwhile.
#[test]
fn rows_of_a_peer_that_missed_forgotten_deletes_are_left_to_the_peer() {
    let folder = Folder::new();
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let mut stores = [0xa, 0xb, 0xc].map(|byte| wound(&folder, byte, &wall));
    exec(
        &stores[0],
        "INSERT INTO todos VALUES ('gone', 1, 0), ('edited', 2, 0), ('later', 3, 0), ('kept', 4, 0)",
    );
    sync_all(&mut stores);
    let [desk, phone, late] = &mut stores;
    exec(desk, "DELETE FROM todos WHERE id <> 'kept'");
    exec(desk, "UPDATE todos SET done = 1");
    sync(phone, desk);
    sync(desk, phone);
    wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
    assert_eq!(desk.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 3);
    exec(
        late,
        "UPDATE todos SET done = 5 WHERE id = 'edited'; UPDATE todos SET title = 'mine' WHERE id = 'kept'",
    );

    let options = OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
    let (cursor, snapshot) =
        (desk.peer_cursor(late.site_id()).expect("read"), late.snapshot().expect("a snapshot"));
    let of_late = image(&snapshot, &folder.file("a.db"), &options);
    let report = desk.merge_snapshot_of_peer(&of_late, &mut |_| ControlFlow::Continue(())).expect("merged");
    let counts = (report.rows_brought_back, report.rows_gone, report.rows_deleted);
    assert_eq!(counts, (0, 0, 0));
    assert!(report.rows_left_out >= 3, "{report:?}");
    assert_eq!(lines(desk, "SELECT id, title FROM todos"), ["kept|mine"]);
    assert_eq!(desk.peer_cursor(late.site_id()).expect("read"), cursor, "it does not have all of it");

    // What the third writes before it hears of the deletes is not lost.
    exec(late, "UPDATE todos SET done = 6 WHERE id IN ('edited', 'later')");
    let snapshot = desk.snapshot().expect("a snapshot");
    let of_desk = image(&snapshot, &folder.file("c.db"), &options);
    let report = late.merge_snapshot_of_peer(&of_desk, &mut |_| ControlFlow::Continue(())).expect("merged");
    assert_eq!((report.rows_brought_back, report.rows_deleted, report.rows_left_out), (2, 1, 0));
    for _ in 0..2 {
        for (target, source) in [(0, 2), (1, 0), (0, 1), (2, 0)] {
            let [target, source] = stores.get_disjoint_mut([target, source]).expect("two stores");
            sync(target, source);
        }
    }
    let first = living(&stores[0]);
    for store in &stores {
        let rows = lines(store, "SELECT id, title, done FROM todos ORDER BY id");
        assert_eq!(rows, ["edited|2|6", "kept|mine|1", "later|3|6"]);
        assert_eq!(living(store), first);
    }
}

/// What tells is whether the deletes were known when the image was made, and not whether they are known now.
#[test]
fn rows_of_a_sender_that_has_missed_nothing_stay_as_they_are() {
    let folder = Folder::new();
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let mut stores = [0xa, 0xb, 0xc].map(|byte| wound(&folder, byte, &wall));
    exec(&stores[0], "INSERT INTO todos VALUES ('first', 1, 0), ('gone', 2, 0)");
    sync_all(&mut stores);
    let [desk, phone, late] = &mut stores;
    let before = late.snapshot().expect("a snapshot");
    exec(desk, "DELETE FROM todos WHERE id = 'gone'");
    exec(desk, "UPDATE todos SET done = 1 WHERE id = 'first'");
    [&mut *phone, &mut *late].into_iter().for_each(|store| assert!(sync(store, desk)));
    wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
    assert_eq!(desk.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 1);
    exec(late, "INSERT INTO todos VALUES ('new', 3, 0)");

    let options = OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
    let after = late.snapshot().expect("a snapshot");
    let report = desk.merge_snapshot(&image(&before, &folder.file("b.db"), &options)).expect("merged");
    let counts = (report.rows_brought_back, report.rows_gone, report.rows_inserted);
    assert_eq!(counts, (0, 1, 0), "that image is older than the delete");
    let report = desk.merge_snapshot(&image(&after, &folder.file("a.db"), &options)).expect("merged");
    let counts = (report.rows_brought_back, report.rows_gone, report.rows_inserted);
    assert_eq!(counts, (0, 0, 1));
    sync_all(&mut stores);
    let first = living(&stores[0]);
    for store in &stores {
        assert_eq!(lines(store, "SELECT id FROM todos ORDER BY id"), ["first", "new"]);
        assert_eq!(living(store), first);
    }
}

/// Of a replica that was never pulled from nobody knows what has been here.
#[test]
fn rows_of_a_stranger_come_back_where_deletes_were_forgotten() {
    let folder = Folder::new();
    let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
    let mut stores = [0xa, 0xb, 0xc].map(|byte| wound(&folder, byte, &wall));
    let [desk, phone, stranger] = &mut stores;
    exec(desk, "INSERT INTO todos VALUES ('gone', 1, 0), ('kept', 2, 0)");
    sync(phone, desk);
    sync(stranger, phone);
    exec(desk, "DELETE FROM todos WHERE id = 'gone'; UPDATE todos SET done = 1");
    sync(phone, desk);
    wall.fetch_add(40 * DAY_MS, Ordering::Relaxed);
    assert_eq!(desk.compact_with(&older_than(30)).expect("compacted").tombstones_dropped, 1);

    let options = OpenOptions::new().wall_clock(Arc::new(move || WallMillis(wall.load(Ordering::Relaxed))));
    let snapshot = stranger.snapshot().expect("a snapshot");
    let report = desk.merge_snapshot(&image(&snapshot, &folder.file("a.db"), &options)).expect("merged");
    assert_eq!((report.rows_brought_back, report.rows_gone), (1, 0));
    sync_all(&mut stores);
    let first = living(&stores[0]);
    for store in &stores {
        assert_eq!(lines(store, "SELECT id, done FROM todos ORDER BY id"), ["gone|0", "kept|1"]);
        assert_eq!(living(store), first);
    }
}

#[test]
fn clocks_of_dropped_columns_go_and_those_of_others_stay() {
    let folder = Folder::new();
    let mut desk =
        file(&folder.file("a.db"), 0xa, "CREATE TABLE t(id INTEGER PRIMARY KEY NOT NULL, a, b, c)", &["t"]);
    exec(
        &desk,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO t SELECT i, i, i, i FROM n",
    );
    for i in 1..=64 {
        exec(&desk, &format!("UPDATE t SET b = -1 WHERE id = {i}"));
        exec(&desk, &format!("UPDATE t SET c = -1 WHERE id = {i}"));
    }
    exec(&desk, "SELECT crsql_begin_alter('t'); ALTER TABLE t DROP COLUMN b; SELECT crsql_commit_alter('t')");
    let before = log(&desk);
    let size = |store: &Store| lines(store, "SELECT sum(length(groups)) FROM opor_clock_1")[0].parse::<u64>();
    let report = desk.compact().expect("compacted");
    assert_eq!(report, CompactReport { blocks_tidied: 3, ..CompactReport::default() });
    assert_eq!(log(&desk), before, "sites, versions and places of what is left");
    let tidy = size(&desk).expect("a number");
    assert!(tidy < 700, "the clocks of b are gone: {tidy} bytes");
    let again = desk.compact().expect("compacted");
    assert_eq!(again, CompactReport::default(), "there is nothing left to do");
    let mut phone = memory(0xb, "CREATE TABLE t(id INTEGER PRIMARY KEY NOT NULL, a, c)", &["t"]);
    crate::replicas::pull(&mut phone, &desk);
    assert_eq!(table(&phone, "t"), table(&desk, "t"));
}

#[test]
fn a_cancelled_compaction_stops_between_batches_and_the_next_goes_on() {
    let folder = Folder::new();
    let mut desk = file(&folder.file("a.db"), 0xa, TODOS, &["todos"]);
    exec(
        &desk,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 10000) INSERT INTO todos SELECT 'k' || i, i, 0 FROM n",
    );
    exec(&desk, "DELETE FROM todos WHERE title > 100");
    desk.set_acknowledged_by(site(0xb), DbVersion(2)).expect("recorded");
    let state = |store: &Store| {
        let cursor = store.changes(&Cursor::at(DbVersion(2)), 10).expect("the changes").cursor;
        (store.db_version().expect("a version"), cursor, log(store))
    };
    let before = state(&desk);
    // Before anything, and when all that can go has been counted.
    for stop in [0, 1] {
        let mut calls = 0;
        let outcome = desk.compact_watched(&CompactOptions::default(), &mut |progress| {
            assert_eq!(progress.phase, Phase::Survey);
            calls += 1;
            if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let Err(CompactError::Cancelled { report }) = outcome else { panic!("{outcome:?}") };
        assert_eq!((report.tombstones_dropped, report.horizon), (0, DbVersion(0)));
        assert!(state(&desk) == before, "cancelled at call {stop}");
    }
    exec(&desk, "BEGIN");
    assert!(matches!(desk.compact(), Err(CompactError::InTransaction)));
    exec(&desk, "COMMIT");
    assert!(state(&desk) == before, "the epoch is as before too");

    // Another connection, which has looked around before.
    let beside = reopen(&folder.file("a.db"), 0xa);
    assert!(beside.changes(&Cursor::at(DbVersion(1)), 10).is_ok());
    let mut seen = Vec::new();
    let outcome = desk.compact_watched(&CompactOptions::default(), &mut |progress| {
        seen.push((progress.phase, progress.done, progress.total));
        let swept = progress.phase == Phase::Sweep && progress.done > 0;
        if swept { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let Err(CompactError::Cancelled { report }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(report.horizon, DbVersion(2));
    let dropped = report.tombstones_dropped as usize;
    assert!((1000..9900).contains(&dropped), "{report:?}");
    assert_eq!((report.tombstones_left as usize, tombstones(&desk)), (9900 - dropped, 9900 - dropped));
    assert!(seen.iter().all(|(_, done, total)| done <= total), "{seen:?}");
    assert_behind(&desk, Cursor::at(DbVersion(1)));
    assert_behind(&beside, Cursor::at(DbVersion(1)));
    assert_eq!(lines(&desk, "SELECT count(*) FROM todos"), ["100"]);
    let report = desk.compact().expect("compacted");
    assert_eq!((report.tombstones_dropped as usize, report.tombstones_left), (9900 - dropped, 0));
    // Its new rows begin past the lives that were cut.
    assert_eq!(tombstones(&beside), 0);
    exec(&beside, "INSERT INTO todos VALUES ('k200', 'again', 0)");
    let again: Vec<_> = log_lines(&desk).into_iter().filter(|line| line.contains("again")).collect();
    assert_eq!(again, ["todos 'k200' title=again v1 @3 cl3"]);
}

/// Versions that start over make every old cursor wrong, whatever it says.
#[test]
fn a_restart_of_versions_forgets_past_epochs() {
    let mut desk = memory(0xa, TODOS, &["todos"]);
    exec(&desk, "INSERT INTO todos VALUES ('a', 1, 0), ('b', 1, 1)");
    exec(&desk, "DELETE FROM todos WHERE id = 'a'");
    let cursor = desk.changes(&Cursor::start(), 100).expect("the changes").cursor;
    desk.set_acknowledged_by(site(0xb), DbVersion(2)).expect("recorded");
    assert_eq!(desk.compact().expect("compacted").tombstones_dropped, 1);
    assert!(desk.changes(&cursor, 100).is_ok());
    desk.unreplicate("todos").expect("it stops");
    desk.replicate("todos").expect("and begins again");
    exec(&desk, "UPDATE todos SET done = 2; UPDATE todos SET done = 3; UPDATE todos SET done = 4");
    assert_eq!(desk.horizon().expect("read"), DbVersion(0));
    assert_behind(&desk, cursor);
}
