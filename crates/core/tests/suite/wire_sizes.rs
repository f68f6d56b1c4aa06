//! How many bytes changesets take; sizes are the same on every run, so they are held here to what they are,
//! which is well below the goals: 48 and 26 bytes a row for todos, 97 and 53, 58 and 17, and 123 for one cell.

use opor_core::{Changeset, DecodeLimits, EncodeOptions, Value};

use crate::fixture;

/// Bytes a row, not compressed and compressed, in tenths.
#[track_caller]
fn check(changeset: &Changeset, raw_max: usize, compressed_max: usize) {
    let raw = changeset.to_bytes();
    let compressed = changeset.to_bytes_with(&EncodeOptions::default());
    for bytes in [&raw, &compressed] {
        let read = Changeset::from_bytes(bytes, &DecodeLimits::default());
        assert!(read.as_ref() == Ok(changeset), "comes back the same");
    }
    let rows = changeset.rows().len();
    let per_row = (raw.len() * 10 / rows, compressed.len() * 10 / rows);
    assert!(per_row.0 <= raw_max && per_row.1 <= compressed_max, "{per_row:?} tenths of a byte a row");
}

#[test]
fn todos_with_uuid_keys() {
    check(&fixture::todos(100_000), 375, 210);
}

#[test]
fn ten_mixed_columns_with_an_integer_key() {
    check(&fixture::mixed(20_000), 800, 420);
}

#[test]
fn a_composite_key() {
    check(&fixture::composite(20_000), 270, 70);
}

#[test]
fn one_cell_alone() {
    let mut commit = fixture::Commit::new("todos", &["title"]);
    commit.row(&[fixture::Numbers(4).uuid()], vec![Value::Text("a title of 20 bytes.".into())]);
    let len = commit.changeset.to_bytes().len();
    assert!(len <= 104, "{len} bytes");
    assert_eq!(commit.changeset.to_bytes_with(&EncodeOptions::default()).len(), len);
}
