//! Snapshots: a replica that starts from one, or catches up with one, ends where a replica that pulled changesets does.

use std::ops::ControlFlow;
use std::path::Path;

use opor_core::DbVersion;
use opor_store::{
    ApplyOptions, Cursor, Manifest, OpenOptions, Phase, Progress, ReadError, RestoreError, Snapshot,
    SnapshotError, SnapshotImage, SnapshotReader, SnapshotReceiver, Store, StreamError, partial_path,
};
use opor_tests::{ChangeRow, Rng, SHAPES, changes_since, random_statement, run, table_dump};

use crate::histories::{operations, seeds};
use crate::replicas::{
    Folder, exec, file, full_dump, lines, log, memory, options, pull, reopen, site, table,
};

const TODOS: &str = "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title, done)";

/// Takes in every chunk that is missing.
#[track_caller]
pub(crate) fn receive(snapshot: &Snapshot, path: &Path) -> SnapshotReceiver {
    let manifest = Manifest::from_bytes(&snapshot.manifest().to_bytes()).expect("a manifest round-trips");
    let mut receiver = SnapshotReceiver::begin(partial_path(path), manifest).expect("a partial file");
    while let Some(index) = receiver.next_missing() {
        receiver.put(index, &snapshot.chunk(index).expect("a chunk")).expect("a sound chunk");
    }
    receiver
}

#[track_caller]
pub(crate) fn image(snapshot: &Snapshot, path: &Path, options: &OpenOptions) -> SnapshotImage {
    receive(snapshot, path).finish(options).expect("a sound image")
}

/// A replica made of a snapshot of another.
#[track_caller]
pub(crate) fn start_from(source: &Store, path: &Path, byte: u8) -> Store {
    let snapshot = source.snapshot().expect("a snapshot");
    image(&snapshot, path, &options(byte)).install(path, &options(byte)).expect("a new replica")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Tables and log, as far as replicas must agree; see the histories.
pub(crate) fn content(store: &Store) -> Vec<String> {
    let mut lines = Vec::new();
    for name in store.replicated_tables().expect("the tables") {
        let rows = table_dump(store, &name).expect("the table reads");
        lines.extend(rows.iter().map(|row| format!("{name} {row:?}")));
    }
    let says_nothing = |row: &ChangeRow| {
        let bare = SHAPES.iter().any(|shape| shape.name == row.table && shape.columns.is_empty());
        row.is_sentinel() && row.cl == 1 && !bare
    };
    let mut log: Vec<_> = changes_since(store, "TRUE")
        .expect("the change log reads")
        .iter()
        .filter(|row| !says_nothing(row))
        .map(|row| {
            let ChangeRow { table, pk, cid, val, col_version, cl, .. } = row;
            format!("log {table} {pk:?} {cid} {val:?} v{col_version} cl{cl}")
        })
        .collect();
    log.sort();
    lines.extend(log);
    lines
}

pub(crate) fn all_shapes(folder: &Folder, name: &str, byte: u8) -> Store {
    let schema: String = SHAPES.iter().map(|shape| format!("{};", shape.create)).collect();
    let tables: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
    file(&folder.file(name), byte, &schema, &tables)
}

pub(crate) fn write(store: &Store, rng: &mut Rng, statements: usize) {
    for _ in 0..statements {
        // A key that exists, or breaks a rule, is refused; that is part of a history.
        let _refused = run(store, &random_statement(rng, SHAPES.len(), false).sql());
    }
}

/// One pull by the cursor that the target has stored, in pieces; whether it brought anything.
#[track_caller]
pub(crate) fn pull_by_cursor(target: &mut Store, source: &Store) -> bool {
    let before = target.db_version().expect("a version");
    let peer = source.site_id();
    let mut cursor = target.peer_cursor(peer).expect("a cursor").unwrap_or_else(Cursor::start);
    loop {
        let batch = source.changes(&cursor, 7).expect("the changes");
        let options = ApplyOptions { cursor: Some((peer, batch.cursor)), ..ApplyOptions::default() };
        target.apply_with(&batch.changeset, &options).expect("honest changes apply");
        cursor = batch.cursor;
        if batch.done {
            return target.db_version().expect("a version") != before;
        }
    }
}

#[track_caller]
pub(crate) fn converge(stores: &mut [Store]) {
    for _ in 0..4 * stores.len() {
        let mut news = false;
        for target in 0..stores.len() {
            for source in (0..stores.len()).filter(|source| *source != target) {
                let [target, source] =
                    stores.get_disjoint_mut([target, source]).expect("two different stores");
                news |= pull_by_cursor(target, source);
            }
        }
        if !news {
            return;
        }
    }
    panic!("replicas keep telling each other news");
}

#[test]
fn random_histories_go_on_from_a_snapshot_as_if_it_had_been_pulled() {
    for seed in seeds(0x5000, 10) {
        let mut rng = Rng::new(seed);
        let folder = Folder::new();
        let (mut desk, mut other) = (all_shapes(&folder, "a.db", 0xa), all_shapes(&folder, "b.db", 0xb));
        let mut pulled = all_shapes(&folder, "c.db", 0xc);
        for _ in 0..4 {
            write(&desk, &mut rng, operations(300) / 20);
            write(&other, &mut rng, operations(300) / 20);
            pull(&mut desk, &other);
            if rng.chance(50) {
                pull(&mut other, &desk);
            }
            pull_by_cursor(&mut pulled, &desk);
        }
        // Some of it is in the tail, some in the clock tables.
        if rng.chance(50) {
            write(&desk, &mut rng, 5);
        }
        let before = full_dump(&desk);
        let started = start_from(&desk, &folder.file("d.db"), 0xd);
        assert!(full_dump(&desk) == before, "seed {seed}: a snapshot leaves the replica as it was");
        assert_eq!(log(&started), log(&desk), "seed {seed}: site, version and place of every change");
        assert_eq!(content(&started), content(&desk), "seed {seed}");
        assert_eq!(started.site_id(), site(0xd));
        assert_eq!(started.acknowledged_by(site(0xa)).expect("read"), desk.db_version().expect("read"));
        drop(started);

        let mut stores = [desk, other, pulled, reopen(&folder.file("d.db"), 0xd)];
        for _ in 0..3 {
            stores.iter().for_each(|store| write(store, &mut rng, 6));
            let [target, source] = stores.get_disjoint_mut([3, 0]).expect("two different stores");
            pull_by_cursor(target, source);
            let [target, source] = stores.get_disjoint_mut([0, 3]).expect("two different stores");
            pull_by_cursor(target, source);
        }
        converge(&mut stores);
        let first = content(&stores[0]);
        for store in &stores[1..] {
            assert_eq!(content(store), first, "seed {seed}: {:?}", store.site_id());
        }
    }
}

#[test]
fn random_histories_merge_a_snapshot_as_they_would_a_pull() {
    for seed in seeds(0x6000, 8) {
        let mut rng = Rng::new(seed);
        let folder = Folder::new();
        let (mut desk, other) = (all_shapes(&folder, "a.db", 0xa), all_shapes(&folder, "b.db", 0xb));
        let mut merging = all_shapes(&folder, "c.db", 0xc);
        let mut pulling = all_shapes(&folder, "d.db", 0xc);
        write(&other, &mut rng, 20);
        write(&desk, &mut rng, 30);
        pull(&mut desk, &other);
        let mut same = rng.clone();
        write(&merging, &mut rng, 20);
        write(&pulling, &mut same, 20);
        let snapshot = desk.snapshot().expect("a snapshot");
        let image = image(&snapshot, &folder.file("c.db"), &options(0xc));
        let report = merging.merge_snapshot(&image).expect("a merge");
        image.discard().expect("the file goes");
        drop(snapshot);
        let expected = pull(&mut pulling, &desk);
        assert_eq!(content(&merging), content(&pulling), "seed {seed}");
        assert_eq!(log(&merging), log(&pulling), "seed {seed}: in one version, by the same sites");
        assert_eq!(report.rows_inserted, expected.rows_inserted, "seed {seed}");
        assert_eq!((report.cells_won, report.db_version), (expected.cells_won, expected.db_version));
        let cursor = merging.peer_cursor(site(0xa)).expect("read").expect("a cursor");
        let rest = desk.changes(&cursor, usize::MAX).expect("the cursor holds");
        assert!(rest.changeset.is_empty() && rest.done, "nothing is left to pull");
        assert_eq!(
            names_in(folder.file("c.db").parent().expect("a folder")).len(),
            4 + 8,
            "databases and their logs"
        );
    }
}

#[test]
fn what_is_the_senders_own_does_not_travel() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut desk = file(&path, 0xa, TODOS, &["todos"]);
    exec(
        &desk,
        "CREATE TABLE drafts(id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT);
         CREATE INDEX drafts_body ON drafts(body);
         CREATE TABLE opor_notes(body TEXT);
         CREATE VIRTUAL TABLE found USING fts5(title, content='todos', content_rowid='rowid');
         CREATE VIRTUAL TABLE hidden USING fts5(body);
         CREATE TRIGGER done AFTER UPDATE ON todos BEGIN INSERT INTO drafts(body) VALUES (new.title); END;
         PRAGMA user_version = 7",
    );
    let secret = "the-secret-words ".repeat(40);
    for _ in 0..50 {
        exec(&desk, &format!("INSERT INTO drafts(body) VALUES ('{secret}')"));
        exec(
            &desk,
            &format!("INSERT INTO opor_notes VALUES ('{secret}'); INSERT INTO hidden VALUES ('{secret}')"),
        );
    }
    exec(&desk, "INSERT INTO todos VALUES ('a', 'buy milk', 0); UPDATE todos SET done = 1");
    // So much that replicates that what does not is a small part.
    exec(
        &desk,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 12000) \
         INSERT INTO todos SELECT hex(randomblob(32)), hex(randomblob(16)), 0 FROM n",
    );
    exec(&desk, "INSERT INTO found(found) VALUES ('rebuild'); ANALYZE");
    let peer = memory(0xb, TODOS, &["todos"]);
    exec(&peer, "INSERT INTO todos VALUES ('b', 'bread', 0)");
    pull(&mut desk, &peer);
    desk.set_acknowledged_by(site(0xb), DbVersion(2)).expect("recorded");

    let target = folder.file("new.db");
    let snapshot = desk.snapshot().expect("a snapshot");
    let image = image(&snapshot, &target, &options(0xd));
    let bytes = std::fs::read(partial_path(&target)).expect("the image");
    for needle in ["the-secret-words", "secret"] {
        let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
        assert!(!found, "{needle} is in the image, be it in free space");
    }
    let new = image.install(&target, &options(0xd)).expect("a replica");
    assert_eq!(lines(&new, "PRAGMA freelist_count"), ["0"], "it is packed");
    assert_eq!(new.peers().expect("read"), [site(0xa)], "cursors of others stay behind");
    assert_eq!(new.acknowledged_by(site(0xb)).expect("read"), DbVersion(0));
    assert_eq!(lines(&new, "SELECT count(*) FROM drafts"), ["0"]);
    assert_eq!(lines(&new, "SELECT count(*) FROM opor_notes"), ["0"]);
    assert_eq!(
        lines(&new, "SELECT rowid FROM found WHERE found MATCH 'milk'").len(),
        1,
        "an index over todos"
    );
    assert_eq!(lines(&new, "SELECT count(*) FROM hidden"), ["0"]);
    assert_eq!(lines(&new, "PRAGMA user_version"), ["7"]);
    assert_eq!(lines(&new, "PRAGMA journal_mode"), ["wal"]);
    assert_eq!(lines(&new, "PRAGMA integrity_check"), ["ok"]);
    exec(&new, "UPDATE todos SET done = 0 WHERE id = 'a'");
    assert_eq!(lines(&new, "SELECT id, body FROM drafts"), ["1|buy milk"], "triggers and counters work");
    assert_eq!(lines(&desk, "SELECT count(*) FROM drafts"), ["51"], "the sender keeps everything");
    drop(snapshot);
    let files = ["a.db", "a.db-shm", "a.db-wal", "new.db", "new.db-shm", "new.db-wal"];
    assert_eq!(names_in(path.parent().expect("a folder")), files, "no image is left behind");
}

/// Keys that look like rowids that moved would break every later merge.
#[test]
fn rows_keep_their_places_through_deletes_and_a_snapshot() {
    let folder = Folder::new();
    let desk = file(&folder.file("a.db"), 0xa, TODOS, &["todos"]);
    exec(
        &desk,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO todos SELECT 'k' || i, i, 0 FROM n",
    );
    exec(&desk, "DELETE FROM todos WHERE title % 3 = 0");
    exec(&desk, "UPDATE todos SET done = 1 WHERE title % 7 = 0");
    let new = start_from(&desk, &folder.file("b.db"), 0xb);
    assert_eq!(log(&new), log(&desk));
    exec(&new, "UPDATE todos SET done = 2 WHERE id = 'k7'");
    let mut desk = desk;
    let report = pull(&mut desk, &new);
    assert_eq!((report.cells_won, report.rows_inserted, report.rows_deleted), (1, 0, 0));
    assert_eq!(table(&desk, "todos"), table(&new, "todos"));
}

#[test]
fn a_snapshot_is_of_one_moment_and_needs_no_transaction_of_the_callers() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let desk = file(&path, 0xa, TODOS, &["todos"]);
    exec(&desk, "INSERT INTO todos VALUES ('a', 1, 0)");
    exec(&desk, "BEGIN; INSERT INTO todos VALUES ('b', 2, 0)");
    assert!(matches!(desk.snapshot(), Err(SnapshotError::InTransaction)));
    let reader = options(0xa).read_only(true).open(&path).expect("a reader");
    let snapshot = reader.snapshot().expect("a reader can make one, beside a writer");
    exec(&desk, "COMMIT");
    let new = image(&snapshot, &folder.file("b.db"), &options(0xb));
    let new = new.install(folder.file("b.db"), &options(0xb)).expect("a replica");
    assert_eq!(lines(&new, "SELECT id FROM todos"), ["a"], "what was not committed is not in it");
    let memory = memory(0xc, TODOS, &["todos"]);
    exec(&memory, "INSERT INTO todos VALUES ('m', 1, 1)");
    let new = start_from(&memory, &folder.file("c.db"), 0xd);
    assert_eq!(log(&new), log(&memory), "a store in memory has snapshots too");
}

#[test]
fn cancelled_snapshots_and_restores_leave_nothing_and_change_nothing() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let mut desk = file(&path, 0xa, TODOS, &["todos"]);
    exec(
        &desk,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 60000) INSERT INTO todos SELECT 'k' || i, i, 0 FROM n",
    );
    let before = full_dump(&desk);
    let files = names_in(path.parent().expect("a folder"));
    let mut phases = Vec::new();
    let mut count = 0;
    desk.snapshot_watched(&mut |progress: Progress| {
        count += 1;
        if phases.last() != Some(&progress.phase) {
            phases.push(progress.phase);
        }
        assert!(progress.done <= progress.total, "{progress:?}");
        ControlFlow::Continue(())
    })
    .expect("a snapshot");
    assert_eq!(phases, [Phase::Copy, Phase::Strip, Phase::Hash]);
    for stop in 0..count {
        let mut calls = 0;
        let mut watcher = |_: Progress| {
            calls += 1;
            if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let outcome = desk.snapshot_watched(&mut watcher);
        assert!(matches!(outcome, Err(SnapshotError::Cancelled)), "at call {stop} of {count}: {outcome:?}");
        assert_eq!(names_in(path.parent().expect("a folder")), files);
    }
    assert!(full_dump(&desk) == before, "nothing has changed");

    let mut phone = file(&folder.file("b.db"), 0xb, TODOS, &["todos"]);
    exec(&phone, "INSERT INTO todos VALUES ('own', 1, 1)");
    let before = full_dump(&phone);
    let snapshot = desk.snapshot().expect("a snapshot");
    let image = image(&snapshot, &folder.file("b.db"), &options(0xb));
    for stop in [0, 1, 7, 40] {
        let mut calls = 0;
        let outcome = phone.merge_snapshot_watched(&image, &mut |_| {
            calls += 1;
            if calls > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(outcome, Err(RestoreError::Cancelled)), "at call {stop}: {outcome:?}");
        assert!(full_dump(&phone) == before, "nothing has changed");
    }
    phone.merge_snapshot(&image).expect("and then it merges");
    assert_eq!(lines(&phone, "SELECT count(*) FROM todos"), ["60001"]);
    exec(&phone, "DELETE FROM todos WHERE id = 'k1'");
    pull(&mut desk, &phone);
    assert_eq!(table(&desk, "todos"), table(&phone, "todos"));
}

#[test]
fn a_transfer_goes_on_where_it_stopped() {
    let folder = Folder::new();
    let desk = file(&folder.file("a.db"), 0xa, TODOS, &["todos"]);
    exec(
        &desk,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 40000) INSERT INTO todos SELECT hex(randomblob(16)), i, 0 FROM n",
    );
    let snapshot = desk.snapshot().expect("a snapshot");
    let (target, chunks) = (folder.file("b.db"), snapshot.manifest().chunks());
    assert!(chunks >= 8, "{chunks} chunks");
    let begin =
        || SnapshotReceiver::begin(partial_path(&target), snapshot.manifest().clone()).expect("a file");
    let mut receiver = begin();
    for index in [0, 2, 3, chunks - 1] {
        receiver.put(index, &snapshot.chunk(index).expect("a chunk")).expect("a sound chunk");
    }
    drop(receiver);
    let receiver = begin();
    assert_eq!((receiver.missing(), receiver.next_missing()), (chunks - 4, Some(1)));
    assert_eq!((0..chunks).filter(|index| receiver.has(*index)).collect::<Vec<_>>(), [0, 2, 3, chunks - 1]);
    let incomplete = receiver.finish(&options(0xb));
    assert!(matches!(incomplete, Err(RestoreError::Incomplete { missing }) if missing == chunks - 4));

    // A write that the power cut in half, and a log that a dying restore left.
    let mut bytes = std::fs::read(partial_path(&target)).expect("the partial file");
    bytes[2 * 256 * 1024 + 99] ^= 1;
    std::fs::write(partial_path(&target), &bytes).expect("the partial file");
    let stale = format!("{}-wal", partial_path(&target).display());
    std::fs::write(&stale, b"of another database").expect("a file");
    let mut receiver = begin();
    assert!(!receiver.has(2) && receiver.has(3), "only the chunk that was hit is missing");
    assert!(!Path::new(&stale).exists());
    while let Some(index) = receiver.next_missing() {
        receiver.put(index, &snapshot.chunk(index).expect("a chunk")).expect("a sound chunk");
    }
    let new = receiver.finish(&options(0xb)).expect("an image").install(&target, &options(0xb));
    assert_eq!(log(&new.expect("a replica")), log(&desk));
}

#[test]
fn damaged_chunks_are_refused_and_leave_the_rest() {
    let folder = Folder::new();
    let desk = file(&folder.file("a.db"), 0xa, TODOS, &["todos"]);
    exec(
        &desk,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO todos SELECT hex(randomblob(16)), i, 0 FROM n",
    );
    let snapshot = desk.snapshot().expect("a snapshot");
    let target = folder.file("b.db");
    let mut receiver =
        SnapshotReceiver::begin(partial_path(&target), snapshot.manifest().clone()).expect("a file");
    let (good, other) = (snapshot.chunk(0).expect("a chunk"), snapshot.chunk(1).expect("a chunk"));
    let chunks = snapshot.manifest().chunks();
    let mut rng = Rng::new(0x77);
    let refuse = |receiver: &mut SnapshotReceiver, bytes: &[u8], what: &str| {
        let outcome = receiver.put(0, bytes);
        assert!(matches!(outcome, Err(RestoreError::ChunkDamaged { index: 0 })), "{what}: {outcome:?}");
        assert_eq!((receiver.missing(), receiver.has(0)), (chunks, false));
    };
    refuse(&mut receiver, &[], "empty");
    refuse(&mut receiver, &other, "another chunk");
    refuse(&mut receiver, &vec![0; 1 << 22], "far too long");
    for _ in 0..60 {
        let mut bytes = good.clone();
        if rng.chance(50) {
            bytes.truncate(rng.below(good.len()));
        } else {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
            if bytes.len() != good.len() || bytes == good {
                continue;
            }
        }
        let outcome = receiver.put(0, &bytes);
        // A bit that zstd does not look at changes nothing of what comes out.
        if outcome.is_ok() {
            assert!(receiver.has(0), "it has the right hash");
            receiver =
                SnapshotReceiver::begin(folder.file("again"), snapshot.manifest().clone()).expect("a file");
        } else {
            assert!(matches!(outcome, Err(RestoreError::ChunkDamaged { index: 0 })), "{outcome:?}");
        }
    }
    let missing = receiver.put(chunks, &good);
    assert!(matches!(missing, Err(RestoreError::NoSuchChunk { index, .. }) if index == chunks));
    assert!(receiver.put(0, &good).is_ok() && receiver.has(0), "the good one is taken after all that");
}

#[test]
fn streams_are_read_as_they_were_written_and_refused_when_cut() {
    let folder = Folder::new();
    let desk = file(&folder.file("a.db"), 0xa, TODOS, &["todos"]);
    exec(
        &desk,
        "WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 9000) INSERT INTO todos SELECT hex(randomblob(16)), i, 0 FROM n",
    );
    let snapshot = desk.snapshot().expect("a snapshot");
    let mut bytes = Vec::new();
    snapshot.write_to(&mut bytes).expect("a Vec takes everything");

    let mut reader = SnapshotReader::new(&bytes[..]).expect("a snapshot");
    assert_eq!(reader.manifest(), snapshot.manifest());
    let mut receiver =
        SnapshotReceiver::begin(folder.file("part"), reader.manifest().clone()).expect("a file");
    while let Some((index, chunk)) = reader.next_chunk().expect("a whole stream") {
        receiver.put(index, &chunk).expect("a sound chunk");
    }
    let image = receiver.finish(&options(0xb)).expect("an image");
    let new = image.install(folder.file("b.db"), &options(0xb)).expect("a replica");
    assert_eq!(log(&new), log(&desk));

    for len in [0, 3, 4, 40, 90, bytes.len() / 2, bytes.len() - 1] {
        let outcome = SnapshotReader::new(&bytes[..len]).and_then(|mut reader| {
            while reader.next_chunk()?.is_some() {}
            Ok(())
        });
        assert!(matches!(outcome, Err(StreamError::Truncated)), "cut to {len}: {outcome:?}");
    }
    let huge = [&u32::MAX.to_le_bytes()[..], &bytes[4..]].concat();
    assert!(matches!(SnapshotReader::new(&huge[..]), Err(StreamError::Manifest(_))));
    let manifest_len = 4 + snapshot.manifest().to_bytes().len();
    let mut huge = bytes;
    huge[manifest_len..manifest_len + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut reader = SnapshotReader::new(&huge[..]).expect("the manifest is good");
    let outcome = reader.next_chunk();
    assert!(
        matches!(outcome, Err(StreamError::ChunkTooLarge { index: 0, declared: u32::MAX })),
        "{outcome:?}"
    );
}

#[test]
fn nothing_is_written_over_and_no_site_is_there_twice() {
    let folder = Folder::new();
    let mut desk = file(&folder.file("a.db"), 0xa, TODOS, &["todos"]);
    let peer = memory(0xb, TODOS, &["todos"]);
    exec(&peer, "INSERT INTO todos VALUES ('b', 'bread', 0)");
    pull(&mut desk, &peer);
    let snapshot = desk.snapshot().expect("a snapshot");
    let taken = folder.file("taken.db");
    for existing in ["taken.db", "taken.db-wal", "taken.db-journal"] {
        std::fs::write(folder.file(existing), b"precious").expect("a file");
        let outcome = image(&snapshot, &taken, &options(0xd)).install(&taken, &options(0xd));
        assert!(matches!(&outcome, Err(RestoreError::Exists { path }) if *path == folder.file(existing)));
        assert_eq!(std::fs::read(folder.file(existing)).expect("the file"), b"precious");
        std::fs::remove_file(folder.file(existing)).expect("removed");
    }
    for known in [0xa, 0xb] {
        let outcome = image(&snapshot, &taken, &options(known)).install(&taken, &options(known));
        assert!(matches!(outcome, Err(RestoreError::SiteTaken { site: taken }) if taken == site(known)));
        assert!(!taken.exists());
    }
    let own = image(&snapshot, &folder.file("own"), &options(0xa));
    let before = full_dump(&desk);
    assert!(matches!(desk.merge_snapshot(&own), Err(RestoreError::OwnSnapshot)));
    assert!(full_dump(&desk) == before, "nothing has changed");
    // Without an id that is asked for, each new replica has another.
    let ids: Vec<_> = ["x.db", "y.db"]
        .map(|name| {
            let path = folder.file(name);
            image(&snapshot, &path, &OpenOptions::new())
                .install(&path, &OpenOptions::new())
                .expect("a replica")
        })
        .iter()
        .map(Store::site_id)
        .collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn a_merge_needs_the_tables_of_the_snapshot_and_takes_all_or_nothing() {
    let folder = Folder::new();
    let desk = file(
        &folder.file("a.db"),
        0xa,
        &format!("{TODOS}; CREATE TABLE more(id PRIMARY KEY NOT NULL, x)"),
        &["todos", "more"],
    );
    exec(&desk, "INSERT INTO todos VALUES ('a', 1, 0); INSERT INTO more VALUES (1, 1)");
    let mut phone = file(&folder.file("b.db"), 0xb, TODOS, &["todos"]);
    exec(&phone, "INSERT INTO todos VALUES ('b', 1, 0)");
    let before = full_dump(&phone);
    let image = image(&desk.snapshot().expect("a snapshot"), &folder.file("b.db"), &options(0xb));
    let outcome = phone.merge_snapshot(&image);
    assert!(matches!(outcome, Err(RestoreError::Apply(_))), "{outcome:?}");
    assert!(full_dump(&phone) == before, "nothing has changed");
    exec(&phone, "BEGIN");
    assert!(matches!(phone.merge_snapshot(&image), Err(RestoreError::InTransaction)));
    exec(&phone, "COMMIT; CREATE TABLE more(id PRIMARY KEY NOT NULL, x)");
    phone.replicate("more").expect("it replicates");
    phone.merge_snapshot(&image).expect("a merge");
    assert_eq!(lines(&phone, "SELECT id FROM todos ORDER BY id"), ["a", "b"]);
    // An image that is older than what was pulled since moves no cursor back.
    exec(&desk, "INSERT INTO todos VALUES ('c', 1, 0)");
    assert!(pull_by_cursor(&mut phone, &desk));
    let cursor = phone.peer_cursor(site(0xa)).expect("read");
    phone.merge_snapshot(&image).expect("again");
    assert_eq!(phone.peer_cursor(site(0xa)).expect("read"), cursor);
}

/// A cursor from another epoch is never taken for one of this.
#[test]
fn a_new_replica_has_an_epoch_of_its_own() {
    let folder = Folder::new();
    let desk = file(&folder.file("a.db"), 0xa, TODOS, &["todos"]);
    exec(&desk, "INSERT INTO todos VALUES ('a', 1, 0)");
    let cursor = desk.changes(&Cursor::start(), 10).expect("the changes").cursor;
    let new = start_from(&desk, &folder.file("b.db"), 0xb);
    assert!(matches!(new.changes(&cursor, 10), Err(ReadError::BehindHorizon { .. })));
    assert!(desk.changes(&cursor, 10).is_ok_and(|batch| batch.done));
}
