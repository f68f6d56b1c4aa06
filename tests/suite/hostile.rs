//! What a broken or malicious peer may send: each is refused by name, leaves no trace, and harms nothing that follows.

use std::error::Error;

use opor_core::{
    CausalLength, Change, Changeset, Cid, ColVersion, DbVersion, KeyError, PackedKey, SiteId, SiteIdError,
    Value, WallMillis,
};
use opor_store::{ApplyError, ClockPolicy, OpenOptions, Store};
use opor_tests::{ChangeRow, apply_row, message};

use crate::replicas::{exec, full_dump, lines, memory, pull, site};

const SCHEMA: &str = "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c TEXT);
    CREATE TABLE pairs(x INTEGER NOT NULL, y TEXT NOT NULL, v, PRIMARY KEY (x, y));
    CREATE TABLE secrets(id INTEGER PRIMARY KEY NOT NULL, word);
    INSERT INTO secrets VALUES (1, 'untouched')";

/// A store with rows, a tombstone and a table that does not replicate.
#[track_caller]
fn victim() -> Store {
    let store = memory(0xb, SCHEMA, &["foo", "pairs"]);
    exec(&store, "INSERT INTO foo VALUES (1, 'one', 'eins'), (2, 'two', 'zwei')");
    exec(&store, "DELETE FROM foo WHERE a = 2");
    exec(&store, "INSERT INTO pairs VALUES (1, 'y', 5)");
    store
}

/// A change that would win if nothing were wrong with it.
fn honest() -> Change {
    Change {
        table: "foo".into(),
        pk: PackedKey::pack(&[Value::Integer(1)]),
        cid: Cid::from("b"),
        val: Value::from("theirs"),
        col_version: ColVersion(9),
        db_version: DbVersion(9),
        site_id: site(0xa),
        cl: CausalLength(1),
        seq: 0,
    }
}

fn whole_message(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Applies `bad` between honest changes: the whole changeset is refused with words that name the fault, nothing is
/// stored, and the honest ones alone still apply.
#[track_caller]
fn refused(bad: Change, names: &[&str]) -> ApplyError {
    let mut store = victim();
    let before = full_dump(&store);
    let other = Change { pk: PackedKey::pack(&[Value::Integer(3)]), ..honest() };
    let changes: Changeset = [honest(), bad, other.clone()].into_iter().collect();
    let error = store.apply(&changes).expect_err("a hostile change is refused");
    let text = whole_message(&error);
    for name in names {
        assert!(text.contains(name), "{text:?} names {name:?}");
    }
    assert_eq!(full_dump(&store), before, "nothing is stored after: {text}");
    let good: Changeset = [honest(), other].into_iter().collect();
    let report = store.apply(&good).expect("honest changes apply afterwards");
    assert_eq!((report.rows_inserted, report.cells_won), (1, 2));
    assert_eq!(lines(&store, "SELECT b FROM foo ORDER BY a"), ["theirs", "theirs"]);
    error
}

/// The same through `INSERT INTO crsql_changes`, one row.
#[track_caller]
fn refused_by_sql(bad: &ChangeRow, names: &[&str]) {
    let store = victim();
    let before = full_dump(&store);
    let error = apply_row(&store, bad).expect_err("a hostile row is refused");
    let text = message(&error);
    for name in names {
        assert!(text.contains(name), "{text:?} names {name:?}");
    }
    assert_eq!(full_dump(&store), before, "nothing is stored after: {text}");
    apply_row(&store, &ChangeRow::from(&honest())).expect("an honest row applies afterwards");
    assert_eq!(lines(&store, "SELECT b FROM foo"), ["theirs"]);
}

fn row() -> ChangeRow {
    ChangeRow::from(&honest())
}

#[test]
fn unknown_table() {
    let error = refused(Change { table: "nope".into(), ..honest() }, &["nope"]);
    assert!(matches!(error, ApplyError::UnknownTable { table } if table == "nope"));
    let expected = "crsql - could not find the schema information for table nope";
    refused_by_sql(&ChangeRow { table: "nope".to_owned(), ..row() }, &[expected]);
}

#[test]
fn a_table_that_does_not_replicate_is_out_of_reach() {
    for table in
        ["secrets", "sqlite_schema", "sqlite_master", "crsql_site_id", "crsql_changes", "crsql_tracked_peers"]
    {
        let error = refused(Change { table: table.into(), cid: Cid::from("word"), ..honest() }, &[table]);
        assert!(matches!(error, ApplyError::UnknownTable { .. }), "{error:?}");
        refused_by_sql(&ChangeRow { table: table.to_owned(), cid: "word".to_owned(), ..row() }, &[table]);
    }
}

#[test]
fn unknown_column() {
    let error = refused(Change { cid: Cid::from("nope"), ..honest() }, &["foo", "nope"]);
    assert!(
        matches!(error, ApplyError::UnknownColumn { table, column } if table == "foo" && column == "nope")
    );
    refused_by_sql(&ChangeRow { cid: "nope".to_owned(), ..row() }, &["SQL logic error"]);
}

#[test]
fn a_key_column_is_not_a_column_that_replicates() {
    let error = refused(Change { cid: Cid::from("a"), val: Value::Integer(77), ..honest() }, &["foo", "a"]);
    assert!(matches!(error, ApplyError::UnknownColumn { .. }), "{error:?}");
    refused_by_sql(
        &ChangeRow { cid: "a".to_owned(), val: Value::Integer(77), ..row() },
        &["SQL logic error"],
    );
}

#[test]
fn names_that_are_sql() {
    let tables =
        ["foo; DROP TABLE foo", "foo\" --", "\"foo\"", "foo\0", "foo'", "FOO ", "main.foo", "", "[foo]"];
    for table in tables {
        let error = refused(Change { table: table.into(), ..honest() }, &[]);
        let named = matches!(&error, ApplyError::UnknownTable { .. } | ApplyError::Invalid(_));
        assert!(named, "{table:?}: {error:?}");
        refused_by_sql(&ChangeRow { table: table.to_owned(), ..row() }, &[]);
    }
    for column in ["b\" = 1 --", "b; DROP TABLE foo", "b\0", "rowid", "_rowid_", "oid", "b'", "", "b, c"] {
        let error = refused(Change { cid: Cid::from(column), ..honest() }, &["foo"]);
        let named = matches!(&error, ApplyError::UnknownColumn { .. } | ApplyError::Invalid(_));
        assert!(named, "{column:?}: {error:?}");
        refused_by_sql(&ChangeRow { cid: column.to_owned(), ..row() }, &[]);
    }
}

#[test]
fn names_of_absurd_length() {
    let long = "n".repeat(2049);
    let error = refused(Change { table: long.as_str().into(), ..honest() }, &["2049"]);
    assert!(matches!(error, ApplyError::Invalid(_)), "{error:?}");
    let error = refused(Change { cid: Cid::from(long.as_str()), ..honest() }, &["foo", "2049"]);
    assert!(matches!(error, ApplyError::Invalid(_)), "{error:?}");
    let table = ChangeRow { table: long.clone(), ..row() };
    refused_by_sql(&table, &["crsql - table name exceeded max length"]);
    refused_by_sql(&ChangeRow { cid: long, ..row() }, &["crsql - column name exceeded max length"]);
}

#[test]
fn keys_of_the_wrong_shape() {
    let wrong: &[&[Value]] = &[
        &[],
        &[Value::Null],
        &[Value::Integer(1), Value::Integer(2)],
        &[Value::from("text into an INTEGER key")],
        &[Value::Blob(vec![1])],
        &[Value::Real(1.5)],
    ];
    for columns in wrong {
        let pk = PackedKey::pack(columns);
        let error = refused(Change { pk: pk.clone(), ..honest() }, &["foo"]);
        assert!(
            matches!(&error, ApplyError::KeyShape { .. } | ApplyError::Constraint { .. }),
            "{pk}: {error:?}"
        );
        refused_by_sql(&ChangeRow { pk: pk.as_bytes().to_vec(), ..row() }, &[]);
    }
}

#[test]
fn a_composite_key_with_a_column_missing_or_null() {
    let pairs = Change { table: "pairs".into(), cid: Cid::from("v"), ..honest() };
    for columns in
        [&[Value::Integer(1)][..], &[Value::Integer(1), Value::Null], &[Value::Null, Value::from("y")]]
    {
        let pk = PackedKey::pack(columns);
        let error = refused(Change { pk: pk.clone(), ..pairs.clone() }, &["pairs"]);
        assert!(matches!(&error, ApplyError::KeyShape { .. } | ApplyError::Constraint { .. }), "{error:?}");
        refused_by_sql(&ChangeRow { pk: pk.as_bytes().to_vec(), ..ChangeRow::from(&pairs) }, &[]);
    }
}

#[test]
fn malformed_keys() {
    let malformed: &[(&[u8], KeyError)] = &[
        (&[], KeyError::Empty),
        (&[1], KeyError::Truncated { column: 0 }),
        (&[1, 0x41, 1], KeyError::Truncated { column: 0 }),
        (&[1, 0x49, 1, 2, 3, 4, 5, 6, 7, 8, 9], KeyError::UnknownType { column: 0, byte: 0x49 }),
        (&[1, 0x23, 0xff, 0xff, 0xff, 0xff], KeyError::Truncated { column: 0 }),
        (&[1, 0x07], KeyError::UnknownType { column: 0, byte: 7 }),
        (&[255], KeyError::Truncated { column: 0 }),
    ];
    for (bytes, error) in malformed {
        assert_eq!(PackedKey::from_bytes(bytes).as_ref(), Err(error), "{bytes:?}");
        refused_by_sql(&ChangeRow { pk: bytes.to_vec(), ..row() }, &[]);
    }
}

#[test]
fn random_bytes_as_keys_never_stop_the_process() {
    let store = victim();
    let mut rng = opor_tests::Rng::new(7);
    for _ in 0..5_000 {
        let len = rng.below(12);
        let mut pk: Vec<u8> = (0..len).map(|_| rng.bits() as u8).collect();
        if let Some(first) = pk.first_mut() {
            *first %= 3;
        }
        let outcome = apply_row(&store, &ChangeRow { pk: pk.clone(), ..row() });
        let fits =
            PackedKey::from_bytes(&pk).is_ok_and(|key| matches!(key.unpack()[..], [Value::Integer(_)]));
        if outcome.is_ok() {
            assert!(PackedKey::from_bytes(&pk).is_ok(), "stored under a malformed key {pk:?}");
        } else {
            assert!(!fits, "refused a fitting key {pk:?}");
        }
    }
    assert_eq!(lines(&store, "PRAGMA integrity_check"), ["ok"]);
}

#[test]
fn counters_out_of_range() {
    for beyond in [1 << 53, i64::MAX as u64, 1 << 63, u64::MAX] {
        let number = beyond.to_string();
        for (bad, counter) in [
            (Change { col_version: ColVersion(beyond), ..honest() }, "col_version"),
            (Change { db_version: DbVersion(beyond), ..honest() }, "db_version"),
            (Change { seq: beyond, ..honest() }, "seq"),
            (Change { cl: CausalLength(beyond | 1), ..honest() }, "cl"),
        ] {
            let named = if counter == "cl" { (beyond | 1).to_string() } else { number.clone() };
            let error = refused(bad, &["foo", counter, &named]);
            assert!(matches!(error, ApplyError::Invalid(_)), "{error:?}");
        }
    }
}

#[test]
fn counters_out_of_range_by_sql() {
    for beyond in [1 << 53, i64::MAX] {
        refused_by_sql(&ChangeRow { col_version: beyond, ..row() }, &["col_version"]);
        refused_by_sql(&ChangeRow { db_version: beyond, ..row() }, &["db_version"]);
        refused_by_sql(&ChangeRow { seq: beyond, ..row() }, &["seq"]);
        refused_by_sql(&ChangeRow { cl: beyond | 1, ..row() }, &["cl"]);
    }
    refused_by_sql(&ChangeRow { col_version: i64::MIN, ..row() }, &["col_version"]);
}

#[test]
fn the_largest_counters_are_accepted_and_leave_room_to_write() {
    let mut store = victim();
    // Even the cap itself must not wedge the replica: the next local write still succeeds.
    let change = Change { col_version: ColVersion(ColVersion::MAX.0 - 10), ..honest() };
    store.apply(&[change].into_iter().collect()).expect("it is within the caps");
    exec(&store, "UPDATE foo SET b = 'mine again' WHERE a = 1");
    assert_eq!(lines(&store, "SELECT b FROM foo"), ["mine again"]);
    let mut peer = memory(0xc, SCHEMA, &["foo", "pairs"]);
    pull(&mut peer, &store);
    assert_eq!(lines(&peer, "SELECT b FROM foo"), ["mine again"]);
}

#[test]
fn site_ids_that_are_too_long_or_forged() {
    assert_eq!(SiteId::new(&[1; 17]), Err(SiteIdError::TooLong { len: 17 }));
    refused_by_sql(
        &ChangeRow { site_id: Some(vec![1; 17]), ..row() },
        &["crsql - site id exceeded max length"],
    );
    refused_by_sql(
        &ChangeRow { site_id: Some(vec![1; 1 << 20]), ..row() },
        &["crsql - site id exceeded max length"],
    );
    // My own id in somebody else's hands: it merges as any other, and my identity is what it was.
    let mut store = victim();
    let forged = Change { site_id: store.site_id(), ..honest() };
    store.apply(&[forged].into_iter().collect()).expect("a change of mine that comes back");
    assert_eq!(store.site_id(), site(0xb));
    assert_eq!(lines(&store, "SELECT hex(crsql_site_id())"), ["0B".repeat(16)]);
}

#[test]
fn values_that_cannot_be_stored() {
    let error = refused(Change { val: Value::Real(f64::NAN), ..honest() }, &["foo", "b", "NaN"]);
    assert!(matches!(error, ApplyError::Invalid(_)), "{error:?}");
    let mut store = victim();
    for real in [f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE / 2.0] {
        let version = store.db_version().expect("a version").0 + 10;
        let change = Change { val: Value::Real(real), col_version: ColVersion(version), ..honest() };
        store.apply(&[change].into_iter().collect()).expect("SQLite stores it");
        assert_eq!(opor_tests::rows_of(&store, "SELECT b FROM foo", []), Ok(vec![vec![Value::Real(real)]]));
    }
}

#[test]
fn values_of_absurd_size() {
    let huge = Value::Blob(vec![0; (256 << 20) + 1]);
    let error = refused(Change { val: huge, ..honest() }, &["foo", "268435457"]);
    assert!(matches!(error, ApplyError::Invalid(_)), "{error:?}");
}

#[test]
fn rows_that_break_a_constraint() {
    let schema =
        "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b INTEGER NOT NULL DEFAULT 7 CHECK (b < 100))";
    let change = |val: Value| Change { val, ..honest() };
    for val in [Value::Null, Value::Integer(500)] {
        let mut store = memory(0xb, schema, &["foo"]);
        let before = full_dump(&store);
        let bad = Change { pk: PackedKey::pack(&[Value::Integer(2)]), ..change(val.clone()) };
        let changes: Changeset = [change(Value::Integer(5)), bad].into_iter().collect();
        let error = store.apply(&changes).expect_err("the constraint holds");
        assert!(matches!(&error, ApplyError::Constraint { table, .. } if table == "foo"), "{error:?}");
        assert_eq!(full_dump(&store), before);
        let error = apply_row(&store, &ChangeRow::from(&change(val))).expect_err("the constraint holds");
        assert_eq!(message(&error), "constraint failed");
        assert_eq!(full_dump(&store), before);
        store.apply(&[change(Value::Integer(5))].into_iter().collect()).expect("the good one applies");
        assert_eq!(lines(&store, "SELECT * FROM foo"), ["1|5"]);
    }
}

#[test]
fn a_sentinel_forged_far_ahead_leaves_the_row_usable() {
    // 2^60 is past every cap.
    let forged = Change { cid: Cid::Sentinel, val: Value::Null, ..honest() };
    let far = CausalLength(1 << 60);
    refused(Change { cl: far, col_version: ColVersion(far.0), ..forged.clone() }, &["foo", "cl"]);
    refused_by_sql(
        &ChangeRow { cid: "-1".to_owned(), val: Value::Null, cl: 1 << 60, col_version: 1 << 60, ..row() },
        &[],
    );
    // Within the caps it deletes, as any delete; the row can be made again and reaches peers.
    let mut store = victim();
    let near = CausalLength((1 << 40) + 2);
    let change = Change { cl: near, col_version: ColVersion(near.0), ..forged };
    store.apply(&[change].into_iter().collect()).expect("it is within the caps");
    assert_eq!(lines(&store, "SELECT * FROM foo"), Vec::<String>::new());
    exec(&store, "INSERT INTO foo VALUES (1, 'back', NULL)");
    let mut peer = memory(0xc, SCHEMA, &["foo", "pairs"]);
    pull(&mut peer, &store);
    assert_eq!(lines(&peer, "SELECT a, b FROM foo"), ["1|back"]);
}

#[test]
fn a_sentinel_whose_version_is_not_its_causal_length() {
    let mut store = victim();
    let before = full_dump(&store);
    let forged = Change {
        cid: Cid::Sentinel,
        val: Value::Null,
        cl: CausalLength(4),
        col_version: ColVersion(3),
        ..honest()
    };
    // cr-sqlite would store 3 and hold a deleted row for alive. Refused or corrected, the row and its clock must agree.
    if store.apply(&[forged].into_iter().collect()).is_err() {
        assert_eq!(full_dump(&store), before);
    } else {
        let sentinels =
            "SELECT cl, col_version FROM crsql_changes WHERE \"table\" = 'foo' AND pk = x'010901'";
        assert_eq!(lines(&store, sentinels), ["4|4"]);
        assert_eq!(lines(&store, "SELECT * FROM foo"), Vec::<String>::new());
    }
}

#[test]
fn cells_of_a_deleted_row() {
    let error = refused(Change { cl: CausalLength(2), ..honest() }, &["foo", "deleted"]);
    assert!(matches!(error, ApplyError::Invalid(_)), "{error:?}");
    let error = refused(Change { cl: CausalLength(0), ..honest() }, &["foo", "causal length"]);
    assert!(matches!(error, ApplyError::Invalid(_)), "{error:?}");
}

#[test]
fn stamps_from_the_future() {
    let now = 1_700_000_000_000_u64;
    let options = OpenOptions::new().clock(ClockPolicy::Hlc).site_id(site(0xb)).drift_max_ms(60_000);
    let options = options.wall_clock(std::sync::Arc::new(move || WallMillis(now)));
    let mut store = options.open_in_memory().expect("a store");
    exec(&store, SCHEMA);
    store.replicate("foo").expect("it replicates");
    let stamped = |millis: u64| Change { col_version: ColVersion(millis << 9), ..honest() };
    let before = full_dump(&store);
    let error = store.apply(&[stamped(now + 61_000)].into_iter().collect()).expect_err("too far ahead");
    let text = whole_message(&error);
    assert!(text.contains("61000") && text.contains("60000"), "{text:?} names the offset and the limit");
    assert!(matches!(error, ApplyError::Invalid(_)), "{error:?}");
    assert_eq!(full_dump(&store), before);
    let error = apply_row(&store, &ChangeRow::from(&stamped(now + 61_000))).expect_err("too far ahead");
    assert!(message(&error).contains("61000"), "{error}");
    assert_eq!(full_dump(&store), before);

    store.apply(&[stamped(now + 59_000)].into_iter().collect()).expect("within the bound");
    exec(&store, "UPDATE foo SET b = 'later' WHERE a = 1");
    let version = lines(&store, "SELECT col_version FROM crsql_changes WHERE cid = 'b'");
    let version: u64 = version[0].parse().expect("a number");
    assert!(version > (now + 59_000) << 9, "a local write is later than what was seen");
}

#[test]
fn corrupted_bytes_are_refused_and_change_nothing() {
    let source = victim();
    let bytes = source.changeset().expect("the changeset");
    let mut target = memory(0xc, SCHEMA, &["foo", "pairs"]);
    exec(&target, "INSERT INTO foo VALUES (9, 'mine', NULL)");
    let before = full_dump(&target);
    for len in 0..bytes.len() {
        let error = target.apply_changeset(&bytes[..len]).expect_err("truncated bytes are refused");
        assert!(!error.to_string().is_empty());
    }
    assert_eq!(full_dump(&target), before, "truncated bytes leave no trace");
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 0x55;
        assert!(target.apply_changeset(&broken).is_err(), "a changed byte {at} is noticed");
    }
    assert_eq!(full_dump(&target), before, "changed bytes leave no trace");
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(target.apply_changeset(&longer).is_err(), "bytes past the end are noticed");
    target.apply_changeset(&bytes).expect("the whole applies");
    assert_eq!(lines(&target, "SELECT a, b FROM foo ORDER BY a"), ["1|one", "9|mine"]);
}

#[test]
fn writes_to_the_change_log_other_than_inserts_are_refused() {
    let store = victim();
    let before = full_dump(&store);
    let expected = "Only INSERT and SELECT statements are allowed against the crsql changes table";
    for sql in ["UPDATE crsql_changes SET val = 1", "DELETE FROM crsql_changes"] {
        let error = opor_tests::run(&store, sql).expect_err("it is refused");
        assert_eq!(message(&error), expected);
    }
    assert_eq!(full_dump(&store), before);
}
