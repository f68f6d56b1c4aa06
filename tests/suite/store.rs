//! Files: several connections, vacuum, reopening, identity, cursors, snapshots of the file.

use opor_core::{Changeset, DbVersion};
use opor_store::{ApplyOptions, ClockPolicy, Cursor, MergeEventKind, OpenOptions, Store};
use opor_tests::Rng;

use crate::replicas::{
    Folder, exec, file, full_dump, lines, log, log_lines, memory, options, pull, reopen, site, table,
};

const FOO: &str = "CREATE TABLE foo(a TEXT PRIMARY KEY NOT NULL, b, c)";

#[test]
fn connections_on_one_file_see_each_others_changes() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let one = file(&path, 0xa, FOO, &["foo"]);
    let two = reopen(&path, 0xa);
    let mut peer = memory(0xb, FOO, &["foo"]);
    for round in 0..20 {
        exec(&one, &format!("INSERT INTO foo VALUES ('one {round}', 1, 1)"));
        exec(&two, &format!("INSERT INTO foo VALUES ('two {round}', 2, 2)"));
        exec(&one, &format!("UPDATE foo SET b = 100 + {round} WHERE a = 'two {round}'"));
        exec(&two, &format!("DELETE FROM foo WHERE a = 'one {round}'"));
        assert_eq!(one.db_version().expect("a version"), DbVersion(4 * round + 4));
        assert_eq!(log(&one), log(&two));
    }
    assert_eq!(table(&one, "foo").len(), 20);
    pull(&mut peer, &two);
    assert_eq!(table(&peer, "foo"), table(&one, "foo"));
}

#[test]
fn a_reader_keeps_its_snapshot() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let writer = file(&path, 0xa, &format!("PRAGMA journal_mode = wal; {FOO}"), &["foo"]);
    let reader = reopen(&path, 0xa);
    exec(&writer, "INSERT INTO foo VALUES ('x', 1, 1)");
    exec(&reader, "BEGIN");
    let before = log_lines(&reader);
    assert_eq!(before.len(), 2);
    exec(&writer, "UPDATE foo SET b = 2; INSERT INTO foo VALUES ('y', 1, 1); DELETE FROM foo WHERE a = 'x'");
    assert_eq!(log_lines(&reader), before, "inside the read transaction");
    assert_eq!(reader.changes_since(DbVersion(0)).expect("the changes").len(), 2);
    exec(&reader, "COMMIT");
    assert_eq!(log_lines(&reader), log_lines(&writer));
}

#[test]
fn a_commit_that_finds_the_file_busy_can_be_retried() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let writer = file(&path, 0xa, FOO, &["foo"]);
    assert_eq!(lines(&writer, "PRAGMA journal_mode = delete"), ["delete"]);
    let reader = rusqlite::Connection::open(&path).expect("a connection without opor");
    exec(&writer, "PRAGMA busy_timeout = 0");
    opor_tests::run(&reader, "BEGIN; SELECT * FROM foo").expect("a read transaction");
    exec(&writer, "BEGIN; INSERT INTO foo VALUES ('x', 1, 2); UPDATE foo SET b = 5");
    let busy = opor_tests::run(&writer, "COMMIT").expect_err("a reader holds the file");
    assert_eq!(busy.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy));
    exec(&writer, "UPDATE foo SET c = 9");
    drop(reader);
    exec(&writer, "COMMIT");
    assert_eq!(log_lines(&writer), ["foo 'x' b=5 v2 @1 cl1", "foo 'x' c=9 v2 @1 cl1"]);
    assert_eq!(log_lines(&reopen(&path, 0xa)), log_lines(&writer));
}

/// Deletes leave holes, so that VACUUM has something to move.
fn with_holes(store: &Store) {
    for n in 0..300 {
        exec(store, &format!("INSERT INTO foo VALUES ('key {n}', {n}, zeroblob(100))"));
    }
    exec(store, "DELETE FROM foo WHERE b % 3 = 0; UPDATE foo SET c = 'x' WHERE b % 5 = 0");
}

#[test]
fn clocks_survive_vacuum_and_reopening() {
    for schema in [FOO, "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c)"] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let store = file(&path, 0xa, schema, &["foo"]);
        let text = schema == FOO;
        if text {
            with_holes(&store);
        } else {
            exec(
                &store,
                "INSERT INTO foo VALUES (5, 1, 1), (900, 2, 2), (7, 3, 3); DELETE FROM foo WHERE a = 7",
            );
        }
        let before = full_dump(&store);
        exec(&store, "VACUUM");
        assert_eq!(full_dump(&store), before, "after VACUUM");
        exec(&store, "UPDATE foo SET b = -1");
        let changed = full_dump(&store);
        drop(store);
        let store = reopen(&path, 0xa);
        assert_eq!(full_dump(&store), changed, "after reopening");
        let mut peer = memory(0xb, schema, &["foo"]);
        pull(&mut peer, &store);
        assert_eq!(table(&peer, "foo"), table(&store, "foo"));
    }
}

#[test]
fn a_vacuumed_copy_keeps_clocks_usable() {
    let folder = Folder::new();
    let (path, copy) = (folder.file("a.db"), folder.file("copy.db"));
    let store = file(&path, 0xa, FOO, &["foo"]);
    with_holes(&store);
    exec(&store, &format!("VACUUM INTO '{}'", copy.display()));
    let copied = reopen(&copy, 0xa);
    assert_eq!(log(&copied), log(&store));
    exec(&copied, "UPDATE foo SET b = 1000 WHERE a = 'key 1'; DELETE FROM foo WHERE a = 'key 2'");
    let mut peer = memory(0xb, FOO, &["foo"]);
    pull(&mut peer, &store);
    pull(&mut peer, &copied);
    assert_eq!(table(&peer, "foo"), table(&copied, "foo"));
}

#[test]
fn identity_and_clock_policy_stay_with_the_file() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let made = OpenOptions::new().clock(ClockPolicy::Lamport).open(&path).expect("a new file");
    let id = made.site_id();
    drop(made);
    let again =
        OpenOptions::new().clock(ClockPolicy::Hlc).site_id(site(9)).open(&path).expect("the file opens");
    assert_eq!(again.site_id(), id, "a given site id is for a new database only");
    assert_eq!(again.clock_policy(), ClockPolicy::Lamport, "and so is the policy");
    assert_eq!(Store::open_in_memory().expect("a store").clock_policy(), ClockPolicy::Hlc, "the default");
    let other = Store::open_in_memory().expect("a store").site_id();
    assert_ne!(other, Store::open_in_memory().expect("a store").site_id(), "site ids are random");
    assert_eq!(other.as_bytes().len(), 16);
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let folder = Folder::new();
    let path = folder.file("letter.txt");
    std::fs::write(&path, "Dear database,\n".repeat(500)).expect("a file");
    let error = Store::open(&path).expect_err("it is no database");
    assert!(!error.to_string().is_empty());
    let kept = std::fs::read_to_string(&path).expect("the file reads");
    assert_eq!(kept, "Dear database,\n".repeat(500), "it is left as it was");
    assert!(Store::open(folder.file("missing/a.db")).is_err(), "a folder that is not there");
}

#[test]
fn pulling_in_pieces_gives_everything_once() {
    let source = memory(0xa, FOO, &["foo"]);
    let mut rng = Rng::new(3);
    for n in 0..60 {
        exec(
            &source,
            &format!("INSERT OR REPLACE INTO foo VALUES ('k{}', {n}, 0), ('z{n}', 1, 1)", rng.below(20)),
        );
    }
    exec(&source, "DELETE FROM foo WHERE a LIKE 'z1%'; UPDATE foo SET c = 5 WHERE a LIKE 'z2%'");
    for size in [1, 7, 100_000] {
        let mut target = memory(0xb, FOO, &["foo"]);
        let mut cursor = Cursor::start();
        let mut pieces = 0;
        loop {
            let batch = source.changes(&cursor, size).expect("a batch");
            assert!(batch.done || !batch.changeset.is_empty(), "each piece brings something");
            target.apply(&batch.changeset).expect("it applies");
            (cursor, pieces) = (batch.cursor, pieces + 1);
            if batch.done {
                break;
            }
        }
        assert_eq!(pieces == 1, size == 100_000, "{pieces} pieces of {size}");
        assert_eq!(table(&target, "foo"), table(&source, "foo"));
        let rest = source.changes(&cursor, size).expect("a batch");
        assert!(rest.changeset.is_empty() && rest.done, "nothing is left after the end");
        assert_eq!(cursor.base, source.db_version().expect("a version"));
    }
}

/// A row that changes between two pieces of a pull reaches the peer all the same.
#[test]
fn writes_during_a_pull_in_pieces_are_not_missed() {
    let source = memory(0xa, FOO, &["foo"]);
    for n in 0..30 {
        exec(&source, &format!("INSERT INTO foo VALUES ('k{n:02}', {n}, 0)"));
    }
    let mut target = memory(0xb, FOO, &["foo"]);
    let mut cursor = Cursor::start();
    for round in 0..200 {
        let batch = source.changes(&cursor, 3).expect("a batch");
        target.apply(&batch.changeset).expect("it applies");
        cursor = batch.cursor;
        if round < 20 {
            exec(&source, &format!("UPDATE foo SET b = 1000 + {round} WHERE a = 'k{:02}'", 29 - round));
            exec(&source, &format!("DELETE FROM foo WHERE a = 'k{round:02}' AND {round} % 4 = 0"));
        } else if batch.done {
            break;
        }
    }
    assert_eq!(table(&target, "foo"), table(&source, "foo"));
}

#[test]
fn cursors_are_stored_with_the_changes_they_cover_or_not_at_all() {
    let folder = Folder::new();
    let path = folder.file("b.db");
    let source = memory(0xa, FOO, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES ('x', 1, 1)");
    let batch = source.changes(&Cursor::start(), 100).expect("a batch");
    let mut target = file(&path, 0xb, FOO, &["foo"]);
    assert_eq!(target.peer_cursor(site(0xa)).expect("it reads"), None);

    let options = ApplyOptions { cursor: Some((site(0xa), batch.cursor)), ..ApplyOptions::default() };
    let unknown = |change| opor_core::Change { cid: opor_core::Cid::from("nope"), ..change };
    let bad: Changeset = batch.changeset.changes().map(unknown).collect();
    target.apply_with(&bad, &options).expect_err("an unknown column");
    assert_eq!(target.peer_cursor(site(0xa)).expect("it reads"), None, "no cursor without its changes");

    target.apply_with(&batch.changeset, &options).expect("it applies");
    target.set_acknowledged_by(site(0xc), DbVersion(7)).expect("it is stored");
    drop(target);
    let target = reopen(&path, 0xb);
    assert_eq!(target.peer_cursor(site(0xa)).expect("it reads"), Some(batch.cursor));
    assert_eq!(target.acknowledged_by(site(0xc)).expect("it reads"), DbVersion(7));
    assert_eq!(target.acknowledged_by(site(0xd)).expect("it reads"), DbVersion(0));
}

#[test]
fn a_merge_reports_what_it_did() {
    let source = memory(0xa, FOO, &["foo"]);
    let mut target = memory(0xb, FOO, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES ('x', 1, 1), ('y', 9, 1)");
    exec(&target, "INSERT INTO foo VALUES ('y', 5, 2)");
    let changes = source.changes_since(DbVersion(0)).expect("the changes");
    let options = ApplyOptions { events: true, ..ApplyOptions::default() };
    let report = target.apply_with(&changes, &options).expect("it applies");
    assert_eq!((report.rows_inserted, report.rows_updated, report.rows_deleted), (1, 1, 0));
    assert_eq!((report.cells_won, report.cells_lost, report.unchanged), (3, 1, 0));
    assert_eq!(report.db_version, Some(DbVersion(2)));
    let conflicts: Vec<_> = report
        .events
        .iter()
        .filter_map(|event| match &event.kind {
            MergeEventKind::Conflict { column, local, incoming, incoming_won } => {
                Some((column.to_string(), local.value.clone(), incoming.value.clone(), *incoming_won))
            }
            _ => None,
        })
        .collect();
    let conflict =
        |column: &str, mine: i64, theirs: i64, won| (column.to_owned(), mine.into(), theirs.into(), won);
    assert_eq!(conflicts, [conflict("b", 5, 9, true), conflict("c", 2, 1, false)]);
    assert!(report.events.iter().any(|event| matches!(event.kind, MergeEventKind::Inserted)));

    exec(&source, "DELETE FROM foo WHERE a = 'x'");
    let report = pull(&mut target, &source);
    assert_eq!((report.rows_inserted, report.rows_deleted), (0, 1));
    assert!(report.events.is_empty(), "events are for those who ask");
}

#[test]
fn changes_as_bytes_carry_a_database() {
    let source = memory(0xa, FOO, &["foo"]);
    with_holes(&source);
    let bytes = source.changeset().expect("the bytes");
    let mut target = memory(0xb, FOO, &["foo"]);
    target.apply_changeset(&bytes).expect("they apply");
    assert_eq!(table(&target, "foo"), table(&source, "foo"));
    assert_eq!(target.apply_changeset(&bytes).expect("they apply again").db_version, None);
    let empty = memory(0xc, FOO, &["foo"]).changeset().expect("the bytes of nothing");
    assert_eq!(target.apply_changeset(&empty).expect("nothing applies").db_version, None);
}

#[test]
fn the_change_log_answers_any_question_sql_can_ask() {
    let store = memory(0xa, FOO, &["foo"]);
    exec(
        &store,
        "INSERT INTO foo VALUES ('x', 1, 2); INSERT INTO foo VALUES ('y', 3, 4); DELETE FROM foo WHERE a = 'x'",
    );
    let select =
        |rest: &str| lines(&store, &format!("SELECT cid, val, db_version FROM crsql_changes {rest}"));
    assert_eq!(select(""), ["b|3|2", "c|4|2", "-1|NULL|3"]);
    assert_eq!(select("ORDER BY db_version DESC, seq DESC"), ["-1|NULL|3", "c|4|2", "b|3|2"]);
    assert_eq!(select("ORDER BY db_version DESC, seq"), ["-1|NULL|3", "b|3|2", "c|4|2"]);
    assert_eq!(select("ORDER BY val"), ["-1|NULL|3", "b|3|2", "c|4|2"]);
    assert_eq!(select("WHERE db_version > 1 AND db_version <= 2 AND cid = 'c'"), ["c|4|2"]);
    assert_eq!(select("WHERE db_version BETWEEN 3 AND 9"), ["-1|NULL|3"]);
    assert_eq!(select("WHERE db_version = 2 LIMIT 1 OFFSET 1"), ["c|4|2"]);
    assert_eq!(select("WHERE site_id IS NOT crsql_site_id()"), Vec::<String>::new());
    assert_eq!(select("WHERE \"table\" = 'foo' AND pk = x'010b0179' AND val > 3"), ["c|4|2"]);
    assert_eq!(select("WHERE db_version > 99"), Vec::<String>::new());
    assert_eq!(lines(&store, "SELECT max(db_version), count(*) FROM crsql_changes"), ["3|3"]);
    assert_eq!(lines(&store, "SELECT crsql_db_version(), crsql_next_db_version()"), ["3|4"]);
}

#[test]
fn open_options_do_not_change_what_is_opened() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    exec(&file(&path, 0xa, FOO, &["foo"]), "INSERT INTO foo VALUES ('x', 1, 2)");
    let first = std::fs::read(&path).expect("the file reads");
    drop(options(0xa).open(&path).expect("it opens"));
    assert_eq!(std::fs::read(&path).expect("the file reads"), first, "opening writes nothing");
}

/// `docs/storage.md` draws these bytes.
#[test]
fn the_record_in_the_documentation_is_what_is_written() {
    let store = memory(0xa, "CREATE TABLE todos(id INTEGER PRIMARY KEY NOT NULL, title, done)", &["todos"]);
    exec(&store, "INSERT INTO todos VALUES (1, 'a', 0), (2, 'b', 0), (3, 'c', 0)");
    exec(&store, "UPDATE todos SET done = 1 WHERE id = 2");
    exec(&store, "DELETE FROM todos WHERE id = 3");
    let tail = lines(&store, "SELECT lower(hex(body)) FROM opor_tail WHERE db_version = 3");
    assert_eq!(tail, ["0000010003080246180004"]);
}

/// A poll that finds nothing looks at shared memory only; it must see what others commit all the same, whatever the journal.
#[test]
fn a_poll_sees_other_connections_in_every_journal() {
    for journal in ["WAL", "DELETE", "TRUNCATE"] {
        let folder = Folder::new();
        let path = folder.file("a.db");
        let one = file(&path, 0xa, FOO, &["foo"]);
        exec(&one, &format!("PRAGMA journal_mode = {journal}"));
        let two = reopen(&path, 0xa);
        for round in 0..6 {
            let now = one.db_version().expect("a version");
            assert_eq!(one.changes_since(now).expect("a poll").len(), 0, "{journal}");
            exec(&two, &format!("INSERT INTO foo VALUES ({round}, 1, 1)"));
            assert_eq!(one.changes_since(now).expect("a poll").len(), 2, "{journal}: the other's commit");
            exec(&one, &format!("UPDATE foo SET b = 2 WHERE a = {round}"));
            let now = one.db_version().expect("a version");
            assert_eq!(one.changes_since(now).expect("a poll").len(), 0, "{journal}: its own is counted");
            exec(&two, &format!("DELETE FROM foo WHERE a = {round}"));
            assert_eq!(one.changes_since(now).expect("a poll").len(), 1, "{journal}: the other's delete");
        }
        assert_eq!(log(&one), log(&two), "{journal}");
    }
}

/// The journal may change while the connection is open.
#[test]
fn a_poll_follows_a_change_of_the_journal() {
    let folder = Folder::new();
    let path = folder.file("a.db");
    let one = file(&path, 0xa, FOO, &["foo"]);
    exec(&one, "INSERT INTO foo VALUES ('x', 1, 1)");
    for (round, journal) in ["DELETE", "WAL", "TRUNCATE", "WAL"].into_iter().enumerate() {
        let now = one.db_version().expect("a version");
        assert_eq!(one.changes_since(now).expect("a poll").len(), 0);
        assert_eq!(lines(&one, &format!("PRAGMA journal_mode = {journal}")), [journal.to_ascii_lowercase()]);
        let two = reopen(&path, 0xa);
        exec(&two, &format!("INSERT INTO foo VALUES ('{journal} {round}', 1, 1)"));
        assert_eq!(one.changes_since(now).expect("a poll").len(), 2, "{journal}");
    }
}

/// A second delivery is told by its cursor, and not looked at; what the cursor does not cover is merged.
#[test]
fn what_the_cursor_covers_is_not_merged_again() {
    let source = memory(0xa, FOO, &["foo"]);
    exec(&source, "INSERT INTO foo VALUES ('x', 1, 1)");
    let first = source.changes(&Cursor::start(), 100).expect("the changes");
    exec(&source, "UPDATE foo SET b = 2 WHERE a = 'x'");
    let second = source.changes(&first.cursor, 100).expect("the changes");
    let mut target = memory(0xb, FOO, &["foo"]);
    let deliver = |target: &mut Store, changeset: &Changeset, cursor| {
        let options = ApplyOptions { cursor: Some((site(0xa), cursor)), ..ApplyOptions::default() };
        target.apply_with(changeset, &options).expect("it applies")
    };
    assert_eq!(deliver(&mut target, &first.changeset, first.cursor).rows_inserted, 1);
    assert_eq!(deliver(&mut target, &second.changeset, second.cursor).cells_won, 1);
    for batch in [&first, &second] {
        let report = deliver(&mut target, &batch.changeset, batch.cursor);
        assert!(report.held);
        assert_eq!((report.unchanged, report.db_version), (0, None));
    }
    let stands = target.peer_cursor(site(0xa)).expect("a cursor");
    assert_eq!(stands, Some(second.cursor), "an older delivery does not take the cursor back");
    // Of another epoch, or of none, it says nothing.
    let unknown = deliver(&mut target, &first.changeset, Cursor::at(DbVersion(1)));
    assert!(!unknown.held);
    assert_eq!(unknown.unchanged + unknown.cells_lost, first.changeset.len());
}
