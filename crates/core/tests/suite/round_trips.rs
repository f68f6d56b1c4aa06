//! Whatever is written is read back, in both forms.

use opor_core::{Change, Changeset, DecodeLimits, EncodeOptions, PackedKey, SiteId};
use proptest::prelude::*;

use crate::fixture;
use crate::generate::{change, changeset, value};

const LIMITS: DecodeLimits = DecodeLimits { bytes_max: 1 << 20, memory_max: 16 << 20 };

/// Changes in an order that depends on nothing else.
fn sorted(changeset: &Changeset) -> Vec<Change> {
    let mut changes: Vec<Change> = changeset.changes().collect();
    changes.sort_by(|a, b| {
        let key = |c: &Change| (c.table.clone(), c.pk.clone(), c.cid.clone());
        let clock = |c: &Change| (c.db_version, c.seq, c.col_version, c.cl, c.site_id);
        let by_place = key(a).cmp(&key(b)).then_with(|| clock(a).cmp(&clock(b)));
        by_place.then_with(|| a.val.as_ref().merge_cmp(b.val.as_ref()))
    });
    changes
}

proptest! {
    #[test]
    fn binary(changeset in changeset()) {
        let raw = changeset.to_bytes();
        let read = Changeset::from_bytes(&raw, &LIMITS);
        prop_assert_eq!(read.as_ref(), Ok(&changeset));
        let compressed = changeset.to_bytes_with(&EncodeOptions { compress_above: 0, level: 3 });
        prop_assert!(compressed.len() <= raw.len());
        let read = Changeset::from_bytes(&compressed, &LIMITS);
        prop_assert_eq!(read.as_ref(), Ok(&changeset));
    }

    #[test]
    fn json(changeset in changeset()) {
        let json = changeset.to_json();
        let read = Changeset::from_json(&json, &LIMITS).expect("written here");
        prop_assert_eq!(sorted(&read), sorted(&changeset));
        let order: Vec<_> = serde_json::from_str::<Vec<serde_json::Value>>(&json).expect("an array").iter()
            .map(|change| (change["db_version"].as_u64(), change["seq"].as_u64())).collect();
        prop_assert!(order.is_sorted());
    }

    #[test]
    fn a_value_in_json(value in value()) {
        let mut changeset = Changeset::new();
        let [column, site] = [Change { cid: "c".into(), ..a_change(value.clone()) }, a_change(value)];
        changeset.push(column);
        changeset.push(site);
        let read = Changeset::from_json(changeset.to_json(), &LIMITS).expect("written here");
        prop_assert_eq!(read, changeset);
    }

    #[test]
    fn keys(columns in proptest::collection::vec(value(), 0..6)) {
        let key = PackedKey::pack(&columns);
        prop_assert_eq!(key.unpack(), columns);
        prop_assert_eq!(PackedKey::from_bytes(key.as_bytes()), Ok(key));
    }

    #[test]
    fn sites(bytes in proptest::collection::vec(any::<u8>(), 1..=16)) {
        let site = SiteId::new(&bytes).expect("1 to 16 bytes");
        prop_assert_eq!(SiteId::from_hex(&site.to_string().to_uppercase()), Ok(site));
        prop_assert_eq!(SiteId::from_base64(&site.to_base64()), Ok(site));
        prop_assert_eq!(site.to_string().parse(), Ok(site));
        let json = serde_json::to_string(&site).expect("a string");
        prop_assert_eq!(&json, &format!("\"{site}\""));
        prop_assert_eq!(serde_json::from_str::<SiteId>(&json).expect("written here"), site);
    }

    /// Sixteen bytes are told apart in either form.
    #[test]
    fn sites_of_full_length_from_padded_base64(bytes: [u8; 16]) {
        let site = SiteId::from(bytes);
        prop_assert_eq!(site.to_base64().parse(), Ok(site));
    }

    /// Grouping by row loses nothing, and a row holds a column once.
    #[test]
    fn grouping(changes in proptest::collection::vec(change(), 0..40)) {
        let grouped: Changeset = changes.iter().cloned().collect();
        let mut pushed = Changeset::new();
        changes.into_iter().for_each(|change| pushed.push(change));
        prop_assert_eq!(sorted(&grouped), sorted(&pushed));
        for row in grouped.rows() {
            let mut columns: Vec<u32> = row.cells.iter().map(|cell| cell.column).collect();
            columns.sort_unstable();
            prop_assert!(columns.is_sorted_by(|a, b| a < b));
        }
    }
}

fn a_change(val: opor_core::Value) -> Change {
    Change {
        table: "t".into(),
        pk: PackedKey::pack(&[]),
        cid: "d".into(),
        val,
        col_version: 1.into(),
        db_version: 1.into(),
        site_id: SiteId::from([3; 16]),
        cl: 1.into(),
        seq: 0,
    }
}

#[test]
fn a_long_body_is_compressed_and_a_short_one_is_not() {
    let options = EncodeOptions::default();
    let (short, long) = (fixture::todos(3), fixture::todos(200));
    assert_eq!(short.to_bytes_with(&options), short.to_bytes());
    assert!(long.to_bytes_with(&options).len() < long.to_bytes().len());
    assert_eq!(long.to_bytes_with(&EncodeOptions::RAW), long.to_bytes());
}

/// A row in which nothing changed says nothing, and is not sent.
#[test]
fn a_row_without_changes_is_left_out() {
    let mut changeset = fixture::todos(1);
    let mut empty = changeset.rows()[0].clone();
    let expected = changeset.clone();
    empty.cells.clear();
    changeset.push_row(empty);
    let read = Changeset::from_bytes(&changeset.to_bytes(), &LIMITS);
    assert_eq!(read, Ok(expected));
}

#[test]
#[should_panic(expected = "a row has one cell for a column")]
fn a_row_with_a_column_twice_is_refused() {
    let mut changeset = fixture::todos(1);
    let mut row = changeset.rows()[0].clone();
    row.cells[0].column = 1;
    changeset.push_row(row);
}

#[test]
#[should_panic(expected = "a cell's column and site are of this changeset")]
fn a_row_with_a_foreign_site_is_refused() {
    let mut changeset = fixture::todos(1);
    let mut row = changeset.rows()[0].clone();
    row.cells[0].clock.site = 1;
    changeset.push_row(row);
}
