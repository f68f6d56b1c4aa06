//! The JSON form: what is written, what else is read, and what is refused by the name of the field.

use opor_core::{
    Change, Changeset, DecodeLimits, FieldFault, JsonError, KeyError, PackedKey, SiteId, SiteIdError, Value,
};

const FIELDS: [(&str, &str); 9] = [
    ("table", r#""todos""#),
    ("pk", r#""010901""#),
    ("cid", r#""title""#),
    ("val", "null"),
    ("col_version", "1"),
    ("db_version", "2"),
    ("site_id", r#""07""#),
    ("cl", "3"),
    ("seq", "4"),
];

/// A change with one field otherwise; an empty text leaves it out.
fn change_with(field: &str, json: &str) -> String {
    let fields = FIELDS.iter().map(|(name, usual)| (name, if *name == field { json } else { usual }));
    let fields = fields.filter(|(_, json)| !json.is_empty()).map(|(name, json)| format!("\"{name}\":{json}"));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn read(json: &str) -> Result<Changeset, JsonError> {
    Changeset::from_json(json, &DecodeLimits::default())
}

fn read_with(field: &str, json: &str) -> Result<Change, JsonError> {
    let changeset = read(&format!("[{}]", change_with(field, json)))?;
    Ok(changeset.changes().next().expect("one change"))
}

#[track_caller]
fn check_value(json: &str, expected: Value) {
    assert_eq!(read_with("val", json).map(|change| change.val), Ok(expected), "{json}");
}

/// Read, and written the same.
#[track_caller]
fn check_written(json: &str, expected: Value) {
    check_value(json, expected);
    let changes = format!("[{}]", change_with("val", json));
    assert_eq!(read(&changes).expect("has just been read").to_json(), changes);
}

#[track_caller]
fn check_fault(field: &'static str, json: &str, fault: FieldFault) {
    assert_eq!(read_with(field, json), Err(JsonError::Field { index: 0, field, fault }), "{json}");
}

#[test]
fn values_are_written_as_they_are_read() {
    check_written("null", Value::Null);
    check_written("0", Value::Integer(0));
    check_written("9223372036854775807", Value::Integer(i64::MAX));
    check_written("-9223372036854775808", Value::Integer(i64::MIN));
    check_written("1.0", Value::Real(1.0));
    check_written("-0.0", Value::Real(-0.0));
    check_written("0.1", Value::Real(0.1));
    check_written("5e-324", Value::Real(5e-324));
    check_written(r#"{"real":"7ff0000000000000"}"#, Value::Real(f64::INFINITY));
    check_written(r#"{"real":"7ff8000000000001"}"#, Value::Real(f64::from_bits(0x7ff8_0000_0000_0001)));
    check_written(r#""""#, "".into());
    check_written(r#""00ff""#, "00ff".into());
    check_written(r#""a\"\\\n\u0000é😀""#, "a\"\\\n\0é😀".into());
    check_written(r#"{"blob":""}"#, Value::Blob(vec![]));
    check_written(r#"{"blob":"00ff"}"#, Value::Blob(vec![0, 0xff]));
}

#[test]
fn more_forms_are_read() {
    check_value("1E2", Value::Real(100.0));
    check_value("1e+300", Value::Real(1e300));
    check_value("-0", Value::Integer(0));
    check_value(r#"{"real":"3FF0000000000000"}"#, Value::Real(1.0));
    check_value(r#""\ud83d\ude00""#, "😀".into());
    check_value(r#"{"blob":"-_-_"}"#, Value::Blob(vec![0xfb, 0xff, 0xbf]));
    check_value(r#"{"blob":{"type":"Buffer","data":[0,255]}}"#, Value::Blob(vec![0, 255]));
    check_value(r#"{"type":"Buffer","data":[0,255]}"#, Value::Blob(vec![0, 255]));
    let key = PackedKey::pack(&[Value::Integer(1)]);
    for json in [r#""AQkB""#, r#"{"data":[1,9,1],"type":"Buffer"}"#, r#""010901""#] {
        assert_eq!(read_with("pk", json).map(|change| change.pk), Ok(key.clone()));
    }
    let site = SiteId::new(&[0xfb, 0xff]).expect("2 bytes");
    for json in [r#""+/8=""#, r#""-_8""#, r#""FBff""#, r#"{"type":"Buffer","data":[251,255]}"#] {
        assert_eq!(read_with("site_id", json).map(|change| change.site_id), Ok(site));
    }
}

#[test]
fn unknown_fields_are_ignored_and_order_does_not_matter() {
    let json = r#" [ {"seq":4,"extra":{"deep":[[{}]],"val":1},"cl":3,"site_id":"07","db_version":2,
        "col_version":1,"val":"x","cid":"title","pk":"010901","t\u0061ble":"todos"} ] "#;
    assert_eq!(read(json), read(&format!("[{}]", change_with("val", r#""x""#))));
    assert_eq!(read("[]"), Ok(Changeset::new()));
}

#[test]
fn every_field_is_needed_once() {
    for (field, usual) in FIELDS {
        check_fault(field, "", FieldFault::Missing);
        check_fault(field, &format!("{usual},\"{field}\":{usual}"), FieldFault::Duplicate);
    }
}

#[test]
fn counters_are_integers_from_0() {
    for field in ["col_version", "db_version", "cl", "seq"] {
        let not_integer = FieldFault::WrongType { expected: "an integer" };
        check_fault(field, "-1", FieldFault::Negative);
        check_fault(field, "18446744073709551616", FieldFault::NumberRange);
        for json in ["1.0", "1e3", "null", r#""1""#, "true", "[1]", "{}"] {
            check_fault(field, json, not_integer.clone());
        }
    }
    let largest = read_with("seq", "18446744073709551615").map(|change| change.seq);
    assert_eq!(largest, Ok(u64::MAX));
}

#[test]
fn names_are_strings() {
    for field in ["table", "cid"] {
        check_fault(field, "null", FieldFault::WrongType { expected: "a string" });
        check_fault(field, "1", FieldFault::WrongType { expected: "a string" });
        check_fault(field, r#""\ud800""#, FieldFault::Text);
    }
}

#[test]
fn bytes_are_keys_and_sites() {
    check_fault("pk", r#""""#, FieldFault::Key(KeyError::Empty));
    check_fault("pk", r#""01""#, FieldFault::Key(KeyError::Truncated { column: 0 }));
    check_fault("pk", r#""~""#, FieldFault::NotBytes);
    check_fault("site_id", r#""""#, FieldFault::Site(SiteIdError::Empty));
    check_fault(
        "site_id",
        &format!("\"{}\"", "00".repeat(17)),
        FieldFault::Site(SiteIdError::TooLong { len: 17 }),
    );
    let wrong =
        FieldFault::WrongType { expected: r#"a string of hex or base64, or {"type":"Buffer","data":[..]}"# };
    for json in [
        "null",
        "1",
        "[1,9,1]",
        r#"{"blob":"010901"}"#,
        r#"{"type":"Buffer"}"#,
        r#"{"type":"Buffer","data":[256]}"#,
        r#"{"type":"Buffer","data":[-1]}"#,
        r#"{"type":"buffer","data":[1]}"#,
    ] {
        check_fault("pk", json, wrong.clone());
        check_fault("site_id", json, wrong.clone());
    }
}

#[test]
fn values_are_of_a_type_of_sqlite() {
    let value = FieldFault::WrongType { expected: r#"null, a number, a string, {"blob":..} or {"real":..}"# };
    check_fault("val", "true", value.clone());
    check_fault("val", "[]", value);
    for json in ["9223372036854775808", "-9223372036854775809", "1e999", "-1e999"] {
        check_fault("val", json, FieldFault::NumberRange);
    }
    let tagged =
        FieldFault::WrongType { expected: r#"{"blob":..}, {"real":..} or {"type":"Buffer","data":[..]}"# };
    for json in ["{}", r#"{"blob":"00","real":"00"}"#, r#"{"blob":"00","x":1}"#, r#"{"text":"a"}"#] {
        check_fault("val", json, tagged.clone());
    }
    let bits = FieldFault::WrongType { expected: "16 hex digits, the bits of a real" };
    check_fault("val", r#"{"real":"7ff0"}"#, bits.clone());
    check_fault("val", r#"{"real":"AAAAAAAAAAA="}"#, bits);
    check_fault("val", r#"{"blob":"?"}"#, FieldFault::NotBytes);
    check_fault("val", r#""\udc00""#, FieldFault::Text);
}

#[test]
fn the_change_at_fault_is_named() {
    let json = format!("[{},{}]", change_with("", ""), change_with("seq", "-1"));
    let fault = JsonError::Field { index: 1, field: "seq", fault: FieldFault::Negative };
    assert_eq!(read(&json), Err(fault.clone()));
    assert_eq!(fault.to_string(), "field seq of change 1 is refused");
    assert_eq!(read(&format!("[{},7]", change_with("", ""))), Err(JsonError::NotAnObject { index: 1 }));
}

#[test]
fn what_is_no_array_of_json_is_refused() {
    assert_eq!(read("{}"), Err(JsonError::NotAnArray));
    assert_eq!(read("1"), Err(JsonError::NotAnArray));
    assert_eq!(read(""), Err(JsonError::Syntax { line: 1, column: 0 }));
    assert_eq!(read("[1"), Err(JsonError::NotAnObject { index: 0 }));
    assert_eq!(read("[] x"), Err(JsonError::Syntax { line: 1, column: 4 }));
    assert_eq!(read("[\n}"), Err(JsonError::Syntax { line: 2, column: 1 }));
    let bytes = Changeset::from_json(b"[\"\xff\"]", &DecodeLimits::default());
    assert_eq!(bytes, Err(JsonError::NotUtf8 { at: 2 }));
}

#[test]
fn deep_nesting_is_refused_or_skipped_without_recursion() {
    let deep = "[".repeat(1_000_000);
    assert_eq!(read(&deep), Err(JsonError::Syntax { line: 1, column: 1_000_000 }));
    let closed = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let val = FieldFault::WrongType { expected: r#"null, a number, a string, {"blob":..} or {"real":..}"# };
    check_fault("val", &closed, val);
    let ignored = format!("[{}]", change_with("seq", &format!("4,\"extra\":{closed}")));
    assert_eq!(read(&ignored).map(|changeset| changeset.len()), Ok(1));
}

#[test]
fn size_and_memory_are_limited() {
    let json = format!("[{}]", change_with("val", &format!("\"{}\"", "x".repeat(1000))));
    let limits = DecodeLimits { bytes_max: json.len() - 1, memory_max: 1 << 20 };
    let refused = JsonError::TooLarge { len: json.len(), max: json.len() - 1 };
    assert_eq!(Changeset::from_json(&json, &limits), Err(refused));
    let limits = DecodeLimits { bytes_max: 1 << 20, memory_max: 1000 };
    assert_eq!(Changeset::from_json(&json, &limits), Err(JsonError::TooMuchMemory { max: 1000 }));
}
