//! Quarantine: what cannot be stored here yet is kept, told to others, and stored once it can be.

use futures::FutureExt as _;
use opor_core::{Change, Changeset, Cid, ColVersion, DbVersion, PackedKey, Value};
use opor_store::{
    ApplyError, ApplyOptions, Cursor, MergeEventKind, OpenOptions, QuarantineLimits, QuarantineReason, Store,
    StoreHandle,
};

use crate::replicas::{Folder, exec, full_dump, lines, memory, site, table};
use crate::snapshots::{content, image};

const TODOS: &str = "CREATE TABLE todos(id TEXT PRIMARY KEY NOT NULL, title)";
const NOTES: &str = "CREATE TABLE notes(id INTEGER PRIMARY KEY NOT NULL, text)";

fn hybrid(byte: u8) -> OpenOptions {
    OpenOptions::new().site_id(site(byte))
}

#[track_caller]
fn replica(byte: u8, schema: &str, tables: &[&str]) -> Store {
    let mut store = hybrid(byte).open_in_memory().expect("a store");
    exec(&store, schema);
    tables.iter().for_each(|table| store.replicate(table).expect("it replicates"));
    store
}

/// Both tables, and a second column.
fn modern(byte: u8) -> Store {
    let store = replica(byte, &format!("{TODOS}; {NOTES}"), &["todos", "notes"]);
    exec(&store, "ALTER TABLE todos ADD COLUMN done DEFAULT 0");
    store
}

/// One table, of one column.
fn old(byte: u8) -> Store {
    replica(byte, TODOS, &["todos"])
}

fn modernise(store: &mut Store) {
    exec(store, NOTES);
    store.replicate("notes").expect("it replicates");
    exec(store, "ALTER TABLE todos ADD COLUMN done DEFAULT 0");
    store.release_quarantine(&ApplyOptions::default()).expect("it is stored");
}

/// Pulls what is new, in pieces of `size` changes.
#[track_caller]
fn pull_pieces(target: &mut Store, source: &Store, size: usize) -> usize {
    let peer = source.site_id();
    let mut cursor = target.peer_cursor(peer).expect("a cursor").unwrap_or_else(Cursor::start);
    let mut changes = 0;
    loop {
        let batch = source.changes(&cursor, size).expect("the changes");
        changes += batch.changeset.len();
        let options = ApplyOptions { cursor: Some((peer, batch.cursor)), ..ApplyOptions::default() };
        target.apply_with(&batch.changeset, &options).expect("nothing is refused");
        cursor = batch.cursor;
        if batch.done {
            return changes;
        }
    }
}

fn counts(store: &Store) -> Vec<String> {
    let quarantine = store.quarantine().expect("what is in quarantine");
    let total: u64 = quarantine.tables.iter().map(|(.., count)| count).sum();
    assert_eq!(total, quarantine.changes, "the count is that of the records");
    let sizes = lines(
        store,
        "SELECT coalesce(sum(length(CAST(table_name AS BLOB)) + length(pk) + length(CAST(cid AS BLOB)) + 64 + \
            CASE typeof(val) WHEN 'text' THEN length(CAST(val AS BLOB)) WHEN 'blob' THEN length(val) \
            WHEN 'null' THEN 0 ELSE 8 END), 0) FROM opor_quarantine",
    );
    assert_eq!(sizes, [quarantine.bytes.to_string()], "the bytes are those of the records");
    quarantine.tables.iter().map(|(table, reason, count)| format!("{table} {reason:?} {count}")).collect()
}

#[test]
fn a_table_that_comes_later_finds_its_rows() {
    let (source, mut target) = (modern(1), old(2));
    exec(
        &source,
        "INSERT INTO todos VALUES ('a', 'buy milk', 0); INSERT INTO notes VALUES (1, 'x'), (2, 'y')",
    );
    exec(&source, "UPDATE notes SET text = 'z' WHERE id = 2; DELETE FROM notes WHERE id = 1");
    let batch = source.changes(&Cursor::start(), 1000).expect("the changes");
    let options =
        ApplyOptions { cursor: Some((site(1), batch.cursor)), events: true, ..ApplyOptions::default() };
    let report = target.apply_with(&batch.changeset, &options).expect("nothing is refused");
    assert_eq!((report.quarantined, report.rows_inserted), (3, 1));
    let told =
        |reason| report.events.iter().any(|event| event.kind == MergeEventKind::Quarantined { reason });
    assert!(told(QuarantineReason::UnknownTable) && told(QuarantineReason::UnknownColumn), "{report:?}");
    assert_eq!(target.peer_cursor(site(1)).expect("a cursor"), Some(batch.cursor), "the pull is over");
    assert_eq!(lines(&target, "SELECT * FROM todos"), ["a|buy milk"]);
    assert_eq!(counts(&target), ["notes UnknownTable 2", "todos UnknownColumn 1"]);
    let listed = target.quarantined(0, 10).expect("the list");
    let listed: Vec<_> = listed.iter().map(|held| (&*held.change.table, held.change.cid.as_str())).collect();
    assert_eq!(listed.len(), 3);
    for expected in [("notes", "-1"), ("notes", "text"), ("todos", "done")] {
        assert!(listed.contains(&expected), "{listed:?}");
    }

    exec(&target, NOTES);
    target.replicate("notes").expect("it replicates");
    assert_eq!(lines(&target, "SELECT * FROM notes"), ["2|z"], "with the table, in its transaction");
    assert_eq!(counts(&target), ["todos UnknownColumn 1"]);
    exec(&target, "ALTER TABLE todos ADD COLUMN done DEFAULT 0");
    let options = ApplyOptions { events: true, ..ApplyOptions::default() };
    let report = target.apply_with(&Changeset::new(), &options).expect("a merge of nothing");
    assert_eq!((report.released, report.quarantined), (1, 0), "with the next merge");
    assert_eq!(counts(&target), Vec::<String>::new());
    assert_eq!(content(&target), content(&source));
    let again = target.apply_with(&batch.changeset, &ApplyOptions::default()).expect("a second delivery");
    assert_eq!((again.quarantined, again.db_version), (0, None));
}

#[test]
fn a_column_that_is_added_by_the_two_calls_finds_its_values_at_once() {
    let (source, mut target) = (modern(1), old(2));
    exec(&source, "INSERT INTO todos VALUES ('a', 'buy milk', 1)");
    pull_pieces(&mut target, &source, 1000);
    exec(
        &target,
        "SELECT crsql_begin_alter('todos'); ALTER TABLE todos ADD COLUMN done DEFAULT 0; \
                   SELECT crsql_commit_alter('todos')",
    );
    assert_eq!(lines(&target, "SELECT * FROM todos"), ["a|buy milk|1"]);
    assert_eq!(content(&target), content(&source));
    // What is written now is newer than what was waiting.
    exec(&target, "UPDATE todos SET done = 2");
    pull_pieces(&mut target, &source, 1000);
    let mut source = source;
    pull_pieces(&mut source, &target, 1000);
    assert_eq!(lines(&source, "SELECT * FROM todos"), ["a|buy milk|2"]);
    assert_eq!(content(&target), content(&source));
}

/// What waited comes in with the next delivery, even when that brings nothing that is not held already.
#[test]
fn a_column_that_is_added_plainly_finds_its_values_with_a_second_delivery() {
    let (modern, mut old) = (modern(1), old(2));
    exec(&modern, "INSERT INTO todos VALUES ('k', 'milk', 7)");
    pull_pieces(&mut old, &modern, 100);
    exec(&old, "ALTER TABLE todos ADD COLUMN done DEFAULT 0");
    let peer = modern.site_id();
    let cursor = old.peer_cursor(peer).expect("it reads").expect("it has pulled");
    let options = ApplyOptions { cursor: Some((peer, cursor)), ..ApplyOptions::default() };
    let report = old.apply_with(&Changeset::new(), &options).expect("it merges");
    assert_eq!((report.held, report.released, report.rows_updated), (true, 1, 1));
    assert_eq!(lines(&old, "SELECT * FROM todos"), ["k|milk|7"]);
    assert_eq!(counts(&old), Vec::<String>::new());
    let again = old.apply_with(&Changeset::new(), &options).expect("it merges");
    assert_eq!((again.held, again.released, again.db_version), (true, 0, None));
}

#[test]
fn a_file_that_another_program_altered_is_mended_when_it_is_opened() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let source = modern(1);
    exec(&source, "INSERT INTO todos VALUES ('a', 'buy milk', 1)");
    {
        let mut target = hybrid(2).open(&path).expect("a file");
        exec(&target, TODOS);
        target.replicate("todos").expect("it replicates");
        pull_pieces(&mut target, &source, 1000);
    }
    let plain = rusqlite::Connection::open(&path).expect("the file");
    plain.execute_batch("ALTER TABLE todos ADD COLUMN done DEFAULT 0").expect("DDL needs no opor");
    drop(plain);
    let target = hybrid(2).open(&path).expect("the file");
    assert_eq!(lines(&target, "SELECT * FROM todos"), ["a|buy milk|1"]);
    assert_eq!(counts(&target), Vec::<String>::new());
    assert_eq!(content(&target), content(&source));
}

#[test]
fn an_old_hub_passes_on_what_it_cannot_store() {
    for size in [1, 3, 1000] {
        let (mut laptop, mut hub, mut phone) = (modern(1), old(2), modern(3));
        exec(&laptop, "INSERT INTO todos VALUES ('a', 'milk', 0), ('b', 'oats', 0)");
        exec(&laptop, "INSERT INTO notes VALUES (1, 'one'), (2, 'two'), (3, 'three')");
        pull_pieces(&mut hub, &laptop, size);
        pull_pieces(&mut phone, &hub, size);
        assert_eq!(content(&phone), content(&laptop), "pieces of {size}");
        // What follows travels by itself, whatever it is.
        exec(&laptop, "UPDATE notes SET text = 'uno' WHERE id = 1; DELETE FROM notes WHERE id = 2");
        exec(&laptop, "UPDATE todos SET done = 1 WHERE id = 'a'; DELETE FROM todos WHERE id = 'b'");
        pull_pieces(&mut hub, &laptop, size);
        pull_pieces(&mut phone, &hub, size);
        assert_eq!(content(&phone), content(&laptop), "pieces of {size}");
        exec(&phone, "INSERT INTO notes VALUES (2, 'again')");
        pull_pieces(&mut hub, &phone, size);
        pull_pieces(&mut laptop, &hub, size);
        assert_eq!(content(&phone), content(&laptop), "pieces of {size}");
        pull_pieces(&mut phone, &hub, size);
        assert_eq!(pull_pieces(&mut phone, &hub, size), 0, "nothing is told twice");
        modernise(&mut hub);
        assert_eq!(content(&hub), content(&laptop), "pieces of {size}");
        pull_pieces(&mut phone, &hub, size);
        assert_eq!(content(&phone), content(&laptop), "pieces of {size}");
    }
}

#[test]
fn quarantine_merges_and_does_not_grow_with_repeats() {
    let (source, mut target) = (modern(1), old(2));
    exec(&source, "INSERT INTO notes VALUES (1, 'first')");
    let first = source.changes_since(DbVersion(0)).expect("the changes");
    exec(&source, "UPDATE notes SET text = 'second'");
    let second = source.changes_since(DbVersion(0)).expect("the changes");
    exec(&source, "DELETE FROM notes");
    let third = source.changes_since(DbVersion(0)).expect("the changes");
    exec(&source, "INSERT INTO notes VALUES (1, 'third')");
    let fourth = source.changes_since(DbVersion(0)).expect("the changes");
    let texts = |store: &Store| lines(store, "SELECT cid, val, cl FROM opor_quarantine ORDER BY cid");
    for (changes, expected) in [
        (&second, vec!["text|second|1"]),
        (&first, vec!["text|second|1"]),
        (&third, vec!["-1|NULL|2"]),
        (&second, vec!["-1|NULL|2"]),
        (&fourth, vec!["-1|NULL|3", "text|third|3"]),
        (&third, vec!["-1|NULL|3", "text|third|3"]),
    ] {
        for repeat in 0..2 {
            let before = target.db_version().expect("a version");
            let report = target.apply(changes).expect("it is kept");
            assert_eq!(texts(&target), expected);
            if repeat == 1 {
                assert_eq!((report.quarantined, report.db_version), (0, None), "nothing new");
                assert_eq!(target.db_version().expect("a version"), before);
            }
        }
        counts(&target);
    }
}

#[test]
fn a_full_quarantine_refuses_and_goes_on() {
    let source = modern(1);
    exec(
        &source,
        "INSERT INTO notes VALUES (1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO todos VALUES ('a', 'milk', 0)",
    );
    let changes = source.changes_since(DbVersion(0)).expect("the changes");
    let narrow = QuarantineLimits { changes_max: 2, ..QuarantineLimits::default() };
    let small = QuarantineLimits { bytes_max: 200, ..QuarantineLimits::default() };
    for limits in [narrow, small] {
        let mut target = hybrid(2).quarantine(limits).open_in_memory().expect("a store");
        exec(&target, TODOS);
        target.replicate("todos").expect("it replicates");
        let before = full_dump(&target);
        let options = ApplyOptions { cursor: Some((site(1), Cursor::start())), ..ApplyOptions::default() };
        let error = target.apply_with(&changes, &options).expect_err("there is no room");
        assert!(matches!(&error, ApplyError::QuarantineFull { table } if table == "notes"), "{error:?}");
        assert_eq!(full_dump(&target), before, "nothing is stored");
        let rest: Changeset = changes.changes().filter(|change| &*change.table == "todos").collect();
        target.apply(&rest).expect("what fits is taken");
        assert_eq!(lines(&target, "SELECT * FROM todos"), ["a|milk"]);
        assert_eq!(counts(&target), ["todos UnknownColumn 1"]);
    }
}

#[test]
fn who_asks_for_it_is_told_at_once() {
    let source = modern(1);
    exec(&source, "INSERT INTO notes VALUES (1, 'a')");
    let changes = source.changes_since(DbVersion(0)).expect("the changes");
    let mut target = old(2);
    let before = full_dump(&target);
    let strict = ApplyOptions { refuse_unstorable: true, ..ApplyOptions::default() };
    let error = target.apply_with(&changes, &strict).expect_err("it is refused");
    assert!(matches!(&error, ApplyError::UnknownTable { table } if table == "notes"), "{error:?}");
    assert_eq!(full_dump(&target), before);
    // Where versions are counted that is the default, as it is cr-sqlite's.
    let mut counted = memory(3, TODOS, &["todos"]);
    let error = counted.apply(&changes).expect_err("it is refused");
    assert!(matches!(&error, ApplyError::UnknownTable { table } if table == "notes"), "{error:?}");
}

#[test]
fn a_key_that_does_not_fit_is_kept_and_passed_on() {
    let source = replica(1, "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, text)", &["notes"]);
    exec(&source, "INSERT INTO notes VALUES ('one', 'x')");
    let mut hub = replica(2, NOTES, &["notes"]);
    pull_pieces(&mut hub, &source, 1000);
    assert_eq!(counts(&hub), ["notes KeyShape 1"]);
    assert_eq!(table(&hub, "notes").len(), 0);
    let mut other = replica(3, "CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, text)", &["notes"]);
    pull_pieces(&mut other, &hub, 1000);
    assert_eq!(content(&other), content(&source));
    // The table is made anew, with the other key.
    exec(&hub, "DROP TABLE notes; CREATE TABLE notes(id TEXT PRIMARY KEY NOT NULL, text)");
    hub.replicate("notes").expect("it replicates");
    assert_eq!(content(&hub), content(&source));
    assert_eq!(counts(&hub), Vec::<String>::new());
}

#[test]
fn a_row_that_a_trigger_refuses_does_not_stop_the_rest() {
    let source = old(1);
    exec(&source, "INSERT INTO todos VALUES ('a', 'bad'), ('b', 'good')");
    let mut target = old(2);
    exec(
        &target,
        "CREATE TRIGGER no BEFORE INSERT ON todos WHEN new.title = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END",
    );
    pull_pieces(&mut target, &source, 1000);
    assert_eq!(lines(&target, "SELECT * FROM todos"), ["b|good"]);
    assert_eq!(counts(&target), ["todos Refused 1"]);
    let mut third = old(3);
    pull_pieces(&mut third, &target, 1000);
    assert_eq!(content(&third), content(&source));
    exec(&target, "DROP TRIGGER no");
    target.apply(&Changeset::new()).expect("a merge of nothing");
    assert_eq!(content(&target), content(&source));
}

#[test]
fn what_is_rolled_back_was_never_in_quarantine() {
    let source = modern(1);
    exec(&source, "INSERT INTO notes VALUES (1, 'a')");
    let changes = source.changes_since(DbVersion(0)).expect("the changes");
    let mut target = old(2);
    let before = full_dump(&target);
    exec(&target, "BEGIN");
    target.apply(&changes).expect("it is kept");
    exec(&target, "ROLLBACK");
    assert_eq!(full_dump(&target), before);
    exec(&target, "BEGIN; INSERT INTO todos VALUES ('a', 'x'); SAVEPOINT s");
    target.apply(&changes).expect("it is kept");
    exec(&target, "ROLLBACK TO s; COMMIT");
    assert_eq!(counts_if_any(&target), 0);
    assert_eq!(target.db_version().expect("a version"), DbVersion(1));
    exec(&target, "BEGIN; SAVEPOINT s");
    target.apply(&changes).expect("it is kept");
    exec(&target, "SAVEPOINT t; INSERT INTO todos VALUES ('b', 'x'); ROLLBACK TO t; COMMIT");
    assert_eq!(counts(&target), ["notes UnknownTable 1"]);
    assert_eq!(target.db_version().expect("a version"), DbVersion(2), "it has a version of its own");
}

fn counts_if_any(store: &Store) -> u64 {
    store.quarantine().expect("what is in quarantine").changes
}

#[test]
fn the_version_of_a_commit_that_only_kept_something_survives() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let source = modern(1);
    exec(&source, "INSERT INTO notes VALUES (1, 'a')");
    let changes = source.changes_since(DbVersion(0)).expect("the changes");
    let handle = StoreHandle::open(&path, &hybrid(2), 1).expect("a handle");
    let mut commits = handle.commits();
    futures::executor::block_on(async {
        let job = move |store: &mut Store| store.apply(&changes).map(|report| report.db_version);
        let version = handle.write(job).await.expect("an answer").expect("it is kept");
        assert_eq!(version, Some(DbVersion(1)));
        // Commits are told before the next job begins.
        handle.write(|_| ()).await.expect("an answer");
        assert_eq!(commits.next().now_or_never(), Some(Some(DbVersion(1))), "whoever passes on is told");
        let made = |store: &mut Store| {
            exec(store, NOTES);
            store.replicate("notes").expect("it replicates");
        };
        handle.write(made).await.expect("an answer");
        handle.write(|_| ()).await.expect("an answer");
        assert_eq!(commits.next().now_or_never(), Some(Some(DbVersion(2))), "and when it is stored");
        let alter = |store: &mut Store| exec(store, "ALTER TABLE notes ADD COLUMN extra");
        handle.write(alter).await.expect("an answer");
    });
    handle.close();
    let store = hybrid(2).open(&path).expect("the file");
    assert_eq!(store.db_version().expect("a version"), DbVersion(2));
    assert_eq!(lines(&store, "SELECT id, text FROM notes"), ["1|a"]);
}

#[test]
fn the_writer_of_a_handle_looks_after_each_job() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let source = modern(1);
    exec(&source, "INSERT INTO todos VALUES ('a', 'milk', 1)");
    let changes = source.changes_since(DbVersion(0)).expect("the changes");
    let handle = StoreHandle::open(&path, &hybrid(2), 1).expect("a handle");
    futures::executor::block_on(async {
        let job = move |store: &mut Store| {
            exec(store, TODOS);
            store.replicate("todos").expect("it replicates");
            store.apply(&changes).expect("it is kept");
        };
        handle.write(job).await.expect("an answer");
        let alter = |store: &mut Store| exec(store, "ALTER TABLE todos ADD COLUMN done DEFAULT 0");
        handle.write(alter).await.expect("an answer");
        // The writer looks before it takes the next job.
        handle.write(|_| ()).await.expect("an answer");
        let read = |store: &Store| lines(store, "SELECT * FROM todos");
        assert_eq!(handle.read(read).await.expect("an answer"), ["a|milk|1"]);
    });
    handle.close();
}

#[test]
fn a_snapshot_of_an_old_hub_holds_what_it_could_not_store() {
    let folder = Folder::new();
    let laptop = modern(1);
    exec(&laptop, "INSERT INTO todos VALUES ('a', 'milk', 1); INSERT INTO notes VALUES (1, 'x'), (2, 'y')");
    exec(&laptop, "DELETE FROM notes WHERE id = 2");
    let mut hub = old(2);
    exec(&hub, "INSERT INTO todos VALUES ('b', 'of the hub')");
    pull_pieces(&mut hub, &laptop, 1000);
    let snapshot = hub.snapshot().expect("a snapshot");
    let path = folder.file("new.db");
    let made = image(&snapshot, &path, &hybrid(3));
    let mut merged = modern(4);
    merged.merge_snapshot(&made).expect("it merges");
    let mut laptop = laptop;
    pull_pieces(&mut laptop, &hub, 1000);
    assert_eq!(content(&merged), content(&laptop));
    let mut new = made.install(&path, &hybrid(3)).expect("a new replica");
    assert_eq!(counts(&new), counts(&hub));
    let mut phone = modern(5);
    pull_pieces(&mut phone, &new, 1);
    assert_eq!(content(&phone), content(&laptop));
    modernise(&mut new);
    assert_eq!(content(&new), content(&laptop));
}

#[test]
fn rows_that_the_sender_of_a_snapshot_has_forgotten_leave_quarantine_too() {
    let folder = Folder::new();
    let (mut laptop, mut hub) = (modern(1), old(2));
    let mut elsewhere = modern(3);
    for store in [&laptop, &elsewhere] {
        exec(store, "ALTER TABLE notes ADD COLUMN tag");
    }
    exec(&laptop, "INSERT INTO notes VALUES (1, 'one', 'a'), (2, 'two', 'b'), (3, 'three', 'c')");
    pull_pieces(&mut hub, &laptop, 1000);
    pull_pieces(&mut elsewhere, &laptop, 1000);
    pull_pieces(&mut laptop, &hub, 1000);
    let version = hub.db_version().expect("a version");
    hub.set_acknowledged_by(site(1), version).expect("recorded");
    // One is written again elsewhere, which the laptop does not hear of.
    exec(&elsewhere, "UPDATE notes SET text = 'newer' WHERE id = 3");
    pull_pieces(&mut hub, &elsewhere, 1000);
    exec(&laptop, "DELETE FROM notes WHERE id IN (1, 3)");
    let version = laptop.db_version().expect("a version");
    laptop.set_acknowledged_by(site(2), version).expect("recorded");
    assert_eq!(laptop.compact().expect("it compacts").tombstones_dropped, 2);
    let snapshot = laptop.snapshot().expect("a snapshot");
    hub.merge_snapshot(&image(&snapshot, &folder.file("x.db"), &hybrid(4))).expect("it merges");
    let kept = lines(&hub, "SELECT hex(pk), cid, cl FROM opor_quarantine ORDER BY pk, cid");
    assert_eq!(
        kept,
        ["010901|-1|2", "010902|tag|1", "010902|text|1", "010903|-1|3", "010903|tag|3", "010903|text|3"]
    );
    pull_pieces(&mut laptop, &hub, 1000);
    assert_eq!(lines(&laptop, "SELECT * FROM notes"), ["2|two|b", "3|newer|c"]);
    modernise(&mut hub);
    exec(&hub, "ALTER TABLE notes ADD COLUMN tag");
    hub.apply(&Changeset::new()).expect("a merge of nothing");
    assert_eq!(content(&hub), content(&laptop));
}

#[test]
fn what_a_row_has_outlived_does_not_bring_it_back_after_a_compaction() {
    let (laptop, mut hub) = (modern(1), old(2));
    exec(&laptop, "INSERT INTO todos VALUES ('a', 'milk', 1), ('b', 'oats', 1)");
    pull_pieces(&mut hub, &laptop, 1000);
    assert_eq!(counts(&hub), ["todos UnknownColumn 2"]);
    exec(&hub, "DELETE FROM todos WHERE id = 'a'");
    let told = hub.changes_since(DbVersion(0)).expect("the changes");
    let of_a = told.changes().filter(|change| change.pk == PackedKey::pack(&[Value::from("a")]));
    assert_eq!(of_a.map(|change| change.cid).collect::<Vec<_>>(), [Cid::Sentinel], "only the delete is told");
    let version = hub.db_version().expect("a version");
    hub.set_acknowledged_by(site(1), version).expect("recorded");
    assert_eq!(hub.compact().expect("it compacts").tombstones_dropped, 1);
    assert_eq!(counts(&hub), ["todos UnknownColumn 1"]);
    modernise(&mut hub);
    assert_eq!(lines(&hub, "SELECT * FROM todos"), ["b|oats|1"]);
}

#[test]
fn a_table_that_stops_replicating_and_begins_again() {
    let (laptop, mut hub) = (old(1), old(2));
    exec(&laptop, "INSERT INTO todos VALUES ('a', 'milk')");
    hub.unreplicate("todos").expect("it is a plain table");
    pull_pieces(&mut hub, &laptop, 1000);
    assert_eq!(counts(&hub), ["todos UnknownTable 1"]);
    assert_eq!(table(&hub, "todos").len(), 0);
    hub.replicate("todos").expect("it replicates");
    assert_eq!(content(&hub), content(&laptop));
}

#[test]
fn what_is_not_wanted_can_be_dropped() {
    let (source, mut target) = (modern(1), old(2));
    exec(&source, "INSERT INTO notes VALUES (1, 'a'), (2, 'b'); INSERT INTO todos VALUES ('a', 'milk', 1)");
    pull_pieces(&mut target, &source, 1000);
    assert_eq!(target.discard_quarantine("notes").expect("it is dropped"), 2);
    assert_eq!(counts(&target), ["todos UnknownColumn 1"]);
    assert_eq!(target.discard_quarantine("notes").expect("nothing is there"), 0);
}

#[test]
fn hostile_changes_in_quarantine_are_checked_like_others() {
    let mut target = old(2);
    let before = full_dump(&target);
    let honest = Change {
        table: "nope".into(),
        pk: PackedKey::pack(&[Value::Integer(1)]),
        cid: Cid::from("x"),
        val: Value::Integer(1),
        col_version: ColVersion(1),
        db_version: DbVersion(1),
        site_id: site(1),
        cl: opor_core::CausalLength(1),
        seq: 0,
    };
    let future = Change { col_version: ColVersion(ColVersion::MAX.0), ..honest.clone() };
    let unnamed = Change { table: "".into(), ..honest.clone() };
    let sentinel = Change { cid: Cid::Column(Cid::SENTINEL.into()), ..honest.clone() };
    for bad in [future, unnamed, sentinel] {
        let error = target.apply(&[bad.clone()].into_iter().collect()).expect_err("it is refused");
        assert!(
            matches!(error, ApplyError::Invalid(_) | ApplyError::UnknownColumn { .. }),
            "{bad:?}: {error:?}"
        );
        assert_eq!(full_dump(&target), before);
    }
    for table in ["opor_meta", "sqlite_schema", "x\0y", "\"; DROP TABLE todos; --", "crsql_changes"] {
        let report = target.apply(&[Change { table: table.into(), ..honest.clone() }].into_iter().collect());
        assert_eq!(report.expect("it is kept").quarantined, 1, "{table:?}");
    }
    let kept = target.quarantine().expect("what is in quarantine");
    assert_eq!(kept.changes, 5);
    assert_eq!(lines(&target, "SELECT count(*) FROM todos"), ["0"]);
    let echoed = target.changes_since(DbVersion(0)).expect("the changes");
    assert_eq!(echoed.tables().len(), 5, "names travel as they came");
}

#[test]
fn own_writes_that_come_back_stay_own_and_travel_in_snapshots_under_that_name() {
    let folder = Folder::new();
    let (mut laptop, mut hub) = (modern(1), modern(2));
    exec(&hub, "INSERT INTO notes VALUES (1, 'of the hub')");
    pull_pieces(&mut laptop, &hub, 1000);
    exec(&hub, "DROP TABLE notes");
    pull_pieces(&mut hub, &laptop, 1000);
    let sites = |store: &Store| -> Vec<_> {
        let held = store.quarantined(0, 10).expect("the list");
        held.into_iter().map(|held| held.change.site_id).collect()
    };
    assert_eq!(sites(&hub), [site(2)]);
    let snapshot = hub.snapshot().expect("a snapshot");
    let path = folder.file("new.db");
    let new = image(&snapshot, &path, &hybrid(3)).install(&path, &hybrid(3)).expect("a new replica");
    assert_eq!(sites(&new), [site(2)]);
}

#[test]
fn what_is_written_after_a_release_is_later_than_what_was_released() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let at = |byte, millis: u64| {
        hybrid(byte).wall_clock(std::sync::Arc::new(move || opor_core::WallMillis(millis)))
    };
    let mut source = at(1, 1_700_000_030_000).open_in_memory().expect("a store");
    exec(&source, NOTES);
    source.replicate("notes").expect("it replicates");
    exec(&source, "INSERT INTO notes VALUES (1, 'from a clock that is ahead')");
    let open = || at(2, 1_700_000_000_000).open(&path).expect("the file");
    pull_pieces(&mut open(), &source, 1000);
    let mut target = open();
    exec(&target, NOTES);
    target.replicate("notes").expect("it replicates");
    exec(&target, "INSERT INTO notes VALUES (2, 'later')");
    let order = lines(&target, "SELECT val FROM crsql_changes ORDER BY col_version");
    assert_eq!(order, ["from a clock that is ahead", "later"]);
}
