//! What is refused before anything is stored, each reason by name.

use opor_core::{
    Breach, CausalLength, Cell, Changeset, Clock, ClockDrift, ColVersion, Hlc, HybridClock, InvalidChange,
    Limits, PackedKey, RowChange, SiteId, Value, WallMillis,
};

const LIMITS: Limits = Limits { changes_max: 3, value_bytes_max: 8, name_bytes_max: 5 };
const CAP: u64 = (1 << 53) - 1;

fn clock(col_version: u64) -> Clock {
    Clock { col_version: col_version.into(), db_version: 1.into(), seq: 0, site: 0 }
}

/// A changeset of one row with one cell that breaks nothing, and what `f` makes of it.
fn changeset(table: &str, column: &str, f: impl FnOnce(&mut RowChange)) -> Changeset {
    let mut changeset = Changeset::new();
    let table = changeset.table_index(table);
    let column = changeset.column_index(table, column);
    changeset.site_index(SiteId::from([1; 16]));
    let key = PackedKey::pack(&[Value::Integer(1)]);
    let cells = vec![Cell { column, value: Value::Integer(1), clock: clock(1) }];
    let mut row = RowChange { table, key, cl: CausalLength(1), sentinel: None, cells };
    f(&mut row);
    changeset.push_row(row);
    changeset
}

#[track_caller]
fn check(changeset: &Changeset, breach: Breach) {
    let expected = InvalidChange {
        table: changeset.tables()[0].name.clone(),
        key: PackedKey::pack(&[Value::Integer(1)]),
        breach,
    };
    assert_eq!(changeset.validate(&LIMITS), Err(expected));
}

#[track_caller]
fn check_row(f: impl FnOnce(&mut RowChange), breach: Breach) {
    check(&changeset("t", "c", f), breach);
}

#[test]
fn what_is_at_the_limits_passes() {
    let at_cap = changeset("table", "colum", |row| {
        row.cl = CausalLength(CAP);
        row.sentinel = Some(clock(CAP));
        row.cells[0].value = Value::Blob(vec![0; 8]);
        row.cells[0].clock = Clock { col_version: CAP.into(), db_version: CAP.into(), seq: CAP, site: 0 };
    });
    assert_eq!(at_cap.validate(&LIMITS), Ok(ColVersion::MAX));
    let deleted = changeset("t", "c", |row| {
        row.cl = CausalLength(2);
        row.sentinel = Some(clock(2));
        row.cells.clear();
    });
    assert_eq!(deleted.validate(&LIMITS), Ok(ColVersion(0)));
    assert_eq!(Changeset::new().validate(&LIMITS), Ok(ColVersion(0)));
}

#[test]
fn names_have_a_length() {
    check(&changeset("", "c", |_| {}), Breach::NameLength { len: 0, max: 5 });
    check(&changeset("tables", "c", |_| {}), Breach::NameLength { len: 6, max: 5 });
    check(&changeset("t", "", |_| {}), Breach::NameLength { len: 0, max: 5 });
    check(&changeset("t", "column", |_| {}), Breach::NameLength { len: 6, max: 5 });
}

#[test]
fn values_have_a_length_and_are_numbers() {
    let long = Breach::ValueLength { len: 9, max: 8 };
    check_row(|row| row.cells[0].value = Value::Text("123456789".to_owned()), long.clone());
    check_row(|row| row.cells[0].value = Value::Blob(vec![0; 9]), long);
    check_row(|row| row.cells[0].value = Value::Real(f64::NAN), Breach::NotANumber { column: "c".into() });
}

#[test]
fn counters_have_a_cap() {
    let past = |counter| Breach::CounterRange { counter, value: CAP + 1, max: CAP };
    check_row(|row| row.cl = CausalLength(CAP + 1), past("cl"));
    check_row(|row| row.cells[0].clock.col_version = ColVersion(CAP + 1), past("col_version"));
    check_row(|row| row.cells[0].clock.db_version = (CAP + 1).into(), past("db_version"));
    check_row(|row| row.cells[0].clock.seq = CAP + 1, past("seq"));
    check_row(|row| row.sentinel = Some(clock(CAP + 1)), past("col_version"));
    check_row(
        |row| row.cells[0].clock.col_version = ColVersion(u64::MAX),
        Breach::CounterRange { counter: "col_version", value: u64::MAX, max: CAP },
    );
}

#[test]
fn rows_are_alive_or_deleted() {
    check_row(|row| row.cl = CausalLength(0), Breach::NoCausalLength);
    check_row(|row| row.cl = CausalLength(2), Breach::CellsOfDeleted { cl: CausalLength(2) });
}

#[test]
fn there_are_only_so_many_changes() {
    let mut many = changeset("t", "c", |_| {});
    let row = many.rows()[0].clone();
    many.push_row(row.clone());
    many.push_row(row.clone());
    assert_eq!(many.validate(&LIMITS).map(drop), Ok(()));
    many.push_row(row);
    check(&many, Breach::TooManyChanges { count: 4, max: 3 });
}

#[test]
fn stamps_from_the_future_are_refused_and_sentinels_are_no_stamps() {
    let wall = WallMillis(1_000_000);
    let stamp = |ahead_ms| Hlc::from_millis(WallMillis(wall.0 + ahead_ms)).version();
    let hybrid = HybridClock::new(60_000);
    let at = |ahead_ms| changeset("t", "c", |row| row.cells[0].clock.col_version = stamp(ahead_ms));
    assert_eq!(at(60_000).check_drift(&hybrid, wall), Ok(()));
    let refused = at(60_001).check_drift(&hybrid, wall).map_err(|invalid| invalid.breach);
    let drift = ClockDrift { ahead_ms: 60_001, limit_ms: 60_000 };
    assert_eq!(refused, Err(Breach::Drift(drift)));
    let sentinel = changeset("t", "c", |row| row.sentinel = Some(clock(stamp(99_000).0)));
    assert_eq!(sentinel.check_drift(&hybrid, wall), Ok(()));
    assert_eq!(at(5).validate(&LIMITS), Ok(stamp(5)));
}
