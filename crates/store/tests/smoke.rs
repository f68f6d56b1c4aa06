//! Writes, changes and merges on one and two stores.
use opor_store::{ClockPolicy, OpenOptions, Store};

fn dump(store: &Store) -> Vec<String> {
    let mut stmt = store
        .prepare(
            "SELECT \"table\", hex(pk), cid, quote(val), col_version, db_version, cl, seq FROM crsql_changes",
        )
        .expect("prepared");
    let rows = stmt
        .query_map([], |row| {
            Ok((0..8)
                .map(|i| match row.get_ref(i).expect("column") {
                    rusqlite::types::ValueRef::Integer(v) => v.to_string(),
                    rusqlite::types::ValueRef::Text(v) => String::from_utf8_lossy(v).into_owned(),
                    other => format!("{other:?}"),
                })
                .collect::<Vec<_>>()
                .join("|"))
        })
        .expect("queried");
    rows.map(|row| row.expect("row")).collect()
}

#[test]
fn writes_get_clocks() {
    let store = OpenOptions::new().clock(ClockPolicy::Lamport).open_in_memory().expect("opened");
    store
        .execute_batch("CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c); SELECT crsql_as_crr('foo')")
        .expect("made");
    store.execute_batch("INSERT INTO foo VALUES (1, 2, 3)").expect("insert");
    assert_eq!(dump(&store), ["foo|010901|b|2|1|1|1|0", "foo|010901|c|3|1|1|1|1"]);
    store.execute_batch("UPDATE foo SET b = 5").expect("update");
    assert_eq!(dump(&store), ["foo|010901|c|3|1|1|1|1", "foo|010901|b|5|2|2|1|0"]);
}
