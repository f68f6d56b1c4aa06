//! Arbitrary changes and changesets, for properties that hold for all of them.

use opor_core::{Change, Changeset, Cid, PackedKey, SiteId, Value};
use proptest::collection::vec;
use proptest::prelude::*;

/// Any value: every float by its bits, every integer, text with NUL bytes and beyond the basic plane, UUIDs, prices.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(Value::Null),
        2 => any::<i64>().prop_map(Value::Integer),
        2 => (-20..20_i64).prop_map(Value::Integer),
        2 => any::<u64>().prop_map(|bits| Value::Real(f64::from_bits(bits))),
        1 => special_real().prop_map(Value::Real),
        2 => any::<i32>().prop_map(|cents| Value::Real(f64::from(cents) / 100.0)),
        3 => text().prop_map(Value::Text),
        2 => vec(any::<u8>(), 0..50).prop_map(Value::Blob),
    ]
}

fn special_real() -> impl Strategy<Value = f64> {
    let reals = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1e15,
        1e16,
        1e300,
        5e-324,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        -f64::NAN,
        9_007_199_254_740_993.0,
        9.223_372_036_854_776e18,
    ];
    proptest::sample::select(reals.to_vec())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-z ]{0,60}",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "[0-9a-fA-F]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-g]{12}",
        Just(String::new()),
        Just("😀\0\u{7f}\"\\".to_owned()),
        Just("-1".to_owned()),
    ]
}

fn counter() -> impl Strategy<Value = u64> {
    prop_oneof![0..4_u64, any::<u64>(), Just(u64::MAX), (0..2048_u64).prop_map(|n| (1 << 49) + n)]
}

fn site() -> impl Strategy<Value = SiteId> {
    let some = prop_oneof![Just(vec![1; 16]), Just(vec![2; 16]), vec(any::<u8>(), 1..=16)];
    some.prop_map(|bytes| SiteId::new(&bytes).expect("1 to 16 bytes"))
}

fn key() -> impl Strategy<Value = PackedKey> {
    let few = (0..4_i64).prop_map(|n| vec![Value::Integer(n)]);
    prop_oneof![2 => few, 1 => vec(value(), 0..4)].prop_map(|columns| PackedKey::pack(&columns))
}

/// Any change, with counters far beyond their caps: a codec carries what it is given.
pub(crate) fn change() -> impl Strategy<Value = Change> {
    let table = prop_oneof![Just("todos"), Just("ord\"ers"), Just("列"), Just("")];
    let cid =
        prop_oneof![2 => Just("-1"), 3 => Just("title"), 3 => Just("done"), 1 => Just("é'"), 1 => Just("")];
    let clock = (counter(), counter(), counter(), counter());
    (table, key(), cid, value(), clock, site()).prop_map(|(table, pk, cid, val, clock, site_id)| {
        let cid = Cid::from(cid);
        let val = if cid == Cid::Sentinel { Value::Null } else { val };
        let (col_version, db_version, cl, seq) = clock;
        Change {
            table: table.into(),
            pk,
            cid,
            val,
            col_version: col_version.into(),
            db_version: db_version.into(),
            site_id,
            cl: cl.into(),
            seq,
        }
    })
}

/// Any changeset: unrelated changes, or runs of changes that repeat with numbers that count up.
pub(crate) fn changeset() -> impl Strategy<Value = Changeset> {
    let runs = vec((change(), 1..20_u64), 0..6).prop_map(|runs| {
        let repeated = runs.into_iter().flat_map(|(change, times)| {
            (0..times).map(move |n| Change {
                pk: PackedKey::pack(&[Value::Integer(n.cast_signed()), "same".into()]),
                seq: change.seq.wrapping_add(n),
                ..change.clone()
            })
        });
        repeated.collect()
    });
    prop_oneof![vec(change(), 0..40).prop_map(in_order), runs.prop_map(in_order)]
}

fn in_order(changes: Vec<Change>) -> Changeset {
    let mut changeset = Changeset::new();
    changes.into_iter().for_each(|change| changeset.push(change));
    changeset
}
