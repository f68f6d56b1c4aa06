//! The merge rule: what it decides, and that replicas which have seen the same changes agree, in whatever order.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use opor_core::{
    CausalLength, ColVersion, EqualValues, Incoming, LocalRow, Outcome, SiteId, Value, ValueRef, decide,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// A change to one of a few rows and columns; no column is the sentinel.
#[derive(Clone, Debug, PartialEq)]
struct Write {
    row: u8,
    column: Option<u8>,
    cl: CausalLength,
    col_version: ColVersion,
    site: SiteId,
    value: Value,
}

#[derive(Clone, Debug, PartialEq)]
struct Cell {
    col_version: ColVersion,
    site: SiteId,
    value: Value,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    cl: CausalLength,
    cells: BTreeMap<u8, Cell>,
}

/// A replica as the rule sees it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Replica(BTreeMap<u8, Row>);

impl Replica {
    fn after<'a>(writes: impl IntoIterator<Item = &'a Write>, equal: EqualValues) -> Self {
        let mut replica = Self::default();
        writes.into_iter().for_each(|write| replica.apply(write, equal));
        replica
    }

    fn apply(&mut self, write: &Write, equal: EqualValues) {
        let known = self.0.get(&write.row).cloned().unwrap_or_default();
        let cell = write.column.and_then(|column| known.cells.get(&column));
        let cell = cell.map(|cell| (cell.col_version, cell.site, cell.value.as_ref()));
        let incoming = Incoming {
            cl: write.cl,
            sentinel: write.column.is_none(),
            col_version: write.col_version,
            site_id: write.site,
            value: write.value.as_ref(),
        };
        let outcome = decide(LocalRow { cl: known.cl, cell }, incoming, equal);
        if matches!(outcome, Outcome::Stale | Outcome::Known | Outcome::Lose) {
            return;
        }
        let row = self.0.entry(write.row).or_default();
        if matches!(outcome, Outcome::Delete | Outcome::Create | Outcome::CreateAndWin) {
            // What is left of a row's earlier life has no clock, so the model forgets it.
            row.cells.clear();
        }
        row.cl = write.cl;
        if let (Outcome::Win | Outcome::CreateAndWin, Some(column)) = (outcome, write.column) {
            let cell = Cell { col_version: write.col_version, site: write.site, value: write.value.clone() };
            row.cells.insert(column, cell);
        }
    }

    /// What a peer would be sent.
    fn writes(&self) -> Vec<Write> {
        let mut writes = Vec::new();
        for (row, state) in &self.0 {
            let base = Write {
                row: *row,
                column: None,
                cl: state.cl,
                col_version: state.cl.0.into(),
                site: SiteId::from([9; 16]),
                value: Value::Null,
            };
            writes.extend(state.cells.iter().map(|(column, cell)| Write {
                column: Some(*column),
                col_version: cell.col_version,
                site: cell.site,
                value: cell.value.clone(),
                ..base.clone()
            }));
            writes.push(base);
        }
        writes
    }

    fn merged(&self, other: &Self, equal: EqualValues) -> Self {
        let mut merged = self.clone();
        other.writes().iter().for_each(|write| merged.apply(write, equal));
        merged
    }

    /// The same without who wrote the cells.
    fn anonymous(mut self) -> Self {
        for cell in self.0.values_mut().flat_map(|row| row.cells.values_mut()) {
            cell.site = SiteId::from([0; 16]);
        }
        self
    }
}

/// Few rows, columns, versions and values, so that every kind of conflict happens.
fn write() -> impl Strategy<Value = Write> {
    let values = [
        Value::Null,
        Value::Integer(-5),
        Value::Integer(1),
        Value::Real(1.0),
        Value::Real(-0.0),
        Value::Real(0.0),
        "a".into(),
        "ab".into(),
        Value::Blob(vec![0]),
    ];
    let place = (0..2_u8, proptest::option::weighted(0.8, 0..3_u8));
    (place, 0..5_u64, 1..4_u64, 1..4_u8, select(values.to_vec())).prop_map(
        |((row, column), cl, version, site, value)| Write {
            row,
            column,
            cl: cl.into(),
            col_version: version.into(),
            site: SiteId::from([site; 16]),
            value,
        },
    )
}

/// Writes, and the same ones in another order with some of them twice.
fn shuffled() -> impl Strategy<Value = (Vec<Write>, Vec<Write>)> {
    vec(write(), 1..25).prop_flat_map(|writes| {
        let again = proptest::sample::subsequence(writes.clone(), 0..=writes.len());
        let other = again.prop_map({
            let writes = writes.clone();
            move |again| [writes.clone(), again].concat()
        });
        (Just(writes), other.prop_shuffle())
    })
}

fn replica() -> impl Strategy<Value = Vec<Write>> {
    vec(write(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn order_and_repetition_do_not_matter((writes, other) in shuffled()) {
        let larger = EqualValues::LargerSite;
        prop_assert_eq!(Replica::after(&writes, larger), Replica::after(&other, larger));
        let keep = EqualValues::KeepLocal;
        prop_assert_eq!(
            Replica::after(&writes, keep).anonymous(),
            Replica::after(&other, keep).anonymous()
        );
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent(a in replica(), b in replica(), c in replica()) {
        for (equal, compared) in [
            (EqualValues::LargerSite, (|replica| replica) as fn(Replica) -> Replica),
            (EqualValues::KeepLocal, Replica::anonymous),
        ] {
            let [a, b, c] = [&a, &b, &c].map(|writes| Replica::after(writes, equal));
            let ab = a.merged(&b, equal);
            prop_assert_eq!(compared(ab.clone()), compared(b.merged(&a, equal)));
            let right = a.merged(&b.merged(&c, equal), equal);
            prop_assert_eq!(compared(ab.merged(&c, equal)), compared(right));
            prop_assert_eq!(ab.merged(&b, equal), ab);
            prop_assert_eq!(a.merged(&a, equal), a);
        }
    }
}

const SITES: [[u8; 16]; 2] = [[1; 16], [2; 16]];

/// A local row of a causal length with a cell of version 3, value 'm', by site 1; and what comes to it.
#[track_caller]
fn check(local_cl: u64, has_cell: bool, incoming: (u64, bool, u64, ValueRef<'_>), expected: Outcome) {
    let cell = (ColVersion(3), SiteId::from(SITES[0]), ValueRef::Text("m"));
    let local = LocalRow { cl: CausalLength(local_cl), cell: has_cell.then_some(cell) };
    let (cl, sentinel, col_version, value) = incoming;
    let incoming = Incoming {
        cl: CausalLength(cl),
        sentinel,
        col_version: ColVersion(col_version),
        site_id: SiteId::from(SITES[1]),
        value,
    };
    assert_eq!(decide(local, incoming, EqualValues::KeepLocal), expected);
}

#[test]
fn causal_length_decides_first() {
    let m = ValueRef::Text("m");
    check(3, true, (2, true, 2, m), Outcome::Stale);
    check(3, true, (1, false, 99, m), Outcome::Stale);
    check(0, false, (0, false, 1, m), Outcome::Stale);
    check(1, true, (2, true, 2, m), Outcome::Delete);
    check(1, true, (2, false, 2, m), Outcome::Delete);
    check(0, false, (2, true, 2, m), Outcome::Delete);
    check(2, false, (2, true, 2, m), Outcome::Known);
    check(2, false, (3, true, 3, m), Outcome::Create);
    check(0, false, (1, true, 1, m), Outcome::Create);
    check(1, true, (3, false, 1, m), Outcome::CreateAndWin);
    check(0, false, (3, false, 1, m), Outcome::CreateAndWin);
    check(0, false, (1, false, 1, m), Outcome::Win);
    check(1, true, (1, true, 1, m), Outcome::Known);
}

#[test]
fn then_version_then_value() {
    check(1, false, (1, false, 1, ValueRef::Null), Outcome::Win);
    check(1, true, (1, false, 4, ValueRef::Null), Outcome::Win);
    check(1, true, (1, false, 2, ValueRef::Integer(9)), Outcome::Lose);
    check(1, true, (1, false, 3, ValueRef::Text("n")), Outcome::Win);
    check(1, true, (1, false, 3, ValueRef::Text("l")), Outcome::Lose);
    check(1, true, (1, false, 3, ValueRef::Text("m")), Outcome::Known);
}

/// Where numbers say equal, or nothing, bits decide: else two replicas could each keep their own.
#[test]
fn reals_are_told_apart_by_their_bits() {
    let reals = [f64::NEG_INFINITY, -1.0, -0.0, 0.0, 5e-324, 1.0, f64::INFINITY, f64::NAN];
    for pair in reals.windows(2) {
        let [a, b] = [ValueRef::Real(pair[0]), ValueRef::Real(pair[1])];
        assert_eq!((a.merge_cmp(b), b.merge_cmp(a)), (Ordering::Less, Ordering::Greater), "{pair:?}");
        assert_eq!(b.merge_cmp(b), Ordering::Equal);
    }
}

#[test]
fn the_larger_site_wins_equal_values_only_when_asked() {
    let m = ValueRef::Text("m");
    let by = |local: usize, incoming: usize| {
        let cell = (ColVersion(3), SiteId::from(SITES[local]), m);
        let local = LocalRow { cl: CausalLength(1), cell: Some(cell) };
        let site_id = SiteId::from(SITES[incoming]);
        let incoming =
            Incoming { cl: CausalLength(1), sentinel: false, col_version: ColVersion(3), site_id, value: m };
        decide(local, incoming, EqualValues::LargerSite)
    };
    assert_eq!((by(0, 1), by(1, 0), by(1, 1)), (Outcome::Win, Outcome::Known, Outcome::Known));
}
