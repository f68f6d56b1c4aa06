//! Recordings of genuine cr-sqlite: packed keys, and which of two values wins.

use std::cmp::Ordering;

use opor_core::{CausalLength, EqualValues, Incoming, KeyError, LocalRow, Outcome, PackedKey, SiteId, Value};
use opor_core::{ColVersion, decide};
use serde_json::Value as Json;

fn recording(text: &str) -> Json {
    serde_json::from_str(text).expect("a recording is JSON")
}

fn packed_pk() -> Json {
    recording(include_str!("../../../../tests/golden/packed_pk.json"))
}

fn text<'a>(json: &'a Json, field: &str) -> &'a str {
    json[field].as_str().unwrap_or_else(|| panic!("{field} of {json}"))
}

fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn typed(json: &Json) -> Value {
    match text(json, "t") {
        "null" => Value::Null,
        "int" => Value::Integer(json["v"].as_i64().expect("64 bits")),
        "real" => Value::Real(f64::from_bits(u64::from_str_radix(text(json, "bits"), 16).expect("bits"))),
        "text" if json["repeat"].is_array() => {
            let times = json["repeat"][1].as_u64().expect("how often") as usize;
            Value::Text(json["repeat"][0].as_str().expect("a text").repeat(times))
        }
        "text" => Value::Text(text(json, "v").to_owned()),
        "blob" if json["repeat_byte"].is_array() => {
            let times = json["repeat_byte"][1].as_u64().expect("how often") as usize;
            Value::Blob(unhex(json["repeat_byte"][0].as_str().expect("a byte")).repeat(times))
        }
        "blob" => Value::Blob(unhex(text(json, "hex"))),
        other => panic!("unknown type {other}"),
    }
}

fn values(json: &Json) -> Vec<Value> {
    json.as_array().expect("an array of values").iter().map(typed).collect()
}

#[test]
fn keys_pack_as_recorded() {
    let recording = packed_pk();
    let vectors = recording["vectors"].as_array().expect("vectors");
    assert_eq!(vectors.len(), 99);
    for vector in vectors {
        let columns = values(&vector["values"]);
        let key = PackedKey::pack(&columns);
        if let Some(hex) = vector["hex"].as_str() {
            assert_eq!(key.as_bytes(), unhex(hex), "{columns:?}");
        } else {
            // Of long keys the beginning and the length are recorded; the rest is one repeated byte.
            let (prefix, len) = (unhex(text(vector, "hex_prefix")), vector["length"].as_u64());
            assert_eq!(len, Some(key.as_bytes().len() as u64));
            let (head, tail) = key.as_bytes().split_at(prefix.len());
            assert_eq!(head, prefix);
            assert!(tail.iter().all(|byte| Some(byte) == prefix.last()));
        }
        assert_eq!(PackedKey::from_bytes(key.as_bytes()).as_ref(), Ok(&key));
        assert_eq!((key.column_count(), key.unpack()), (columns.len(), columns));
    }
}

#[test]
fn malformed_keys_are_refused_as_recorded() {
    let recording = packed_pk();
    let (mut refused, mut taken) = (0, 0);
    for case in recording["malformed"].as_array().expect("malformed keys") {
        let key = PackedKey::from_bytes(&unhex(text(case, "hex")));
        if case["unpacks_to"].is_array() {
            assert_eq!(
                key.expect("the genuine one takes it").unpack(),
                values(&case["unpacks_to"]),
                "{case}"
            );
            taken += 1;
        } else {
            let error = key.expect_err("the genuine one refuses it, or dies");
            assert_ne!(error.to_string(), "");
            refused += 1;
        }
    }
    assert_eq!((refused, taken), (12, 2));
}

#[test]
fn keys_that_kill_the_genuine_one_are_errors() {
    let check = |hex, expected| assert_eq!(PackedKey::from_bytes(&unhex(hex)), Err(expected), "{hex}");
    check("", KeyError::Empty);
    check("0149010203040506070809", KeyError::UnknownType { column: 0, byte: 0x49 });
    check("01f9010101", KeyError::UnknownType { column: 0, byte: 0xf9 });
    check("01", KeyError::Truncated { column: 0 });
    check("0209010b02", KeyError::Truncated { column: 1 });
    check("0143ffffffffffffffff61", KeyError::Truncated { column: 0 });
    check("0106", KeyError::UnknownType { column: 0, byte: 6 });
    check("010b01ff", KeyError::NotUtf8 { column: 0 });
    let long = vec![1; PackedKey::LEN_MAX + 1];
    assert_eq!(PackedKey::from_bytes(&long), Err(KeyError::TooLong { len: PackedKey::LEN_MAX + 1 }));
}

#[test]
fn a_padded_key_is_the_same_key() {
    let padded = PackedKey::from_bytes(&unhex("01110001ff")).expect("zeros and a tail are taken");
    assert_eq!(padded, PackedKey::pack(&[Value::Integer(1)]));
}

#[test]
fn ties_are_decided_as_recorded() {
    let recording = recording(include_str!("../../../../tests/golden/value_compare.json"));
    let values = values(&recording["values"]);
    let matrix = recording["matrix"].as_array().expect("a matrix");
    assert_eq!((values.len(), matrix.len()), (30, 30));
    for (local, row) in values.iter().zip(matrix) {
        let row = row.as_str().expect("a row of the matrix").as_bytes();
        assert_eq!(row.len(), values.len());
        for (incoming, cell) in values.iter().zip(row) {
            let expected = match (cell, incoming.as_ref().merge_cmp(local.as_ref())) {
                (b'R', _) => Outcome::Win,
                (_, Ordering::Equal) => Outcome::Known,
                _ => Outcome::Lose,
            };
            assert_eq!(tie(local, incoming), expected, "{local:?} against {incoming:?}");
            assert_eq!(expected == Outcome::Known, local == incoming, "only equal values tie");
        }
    }
}

fn tie(local: &Value, incoming: &Value) -> Outcome {
    let site = SiteId::from([1; 16]);
    let local = LocalRow { cl: CausalLength(1), cell: Some((ColVersion(3), site, local.as_ref())) };
    let incoming = Incoming {
        cl: CausalLength(1),
        sentinel: false,
        col_version: ColVersion(3),
        site_id: SiteId::from([2; 16]),
        value: incoming.as_ref(),
    };
    decide(local, incoming, EqualValues::KeepLocal)
}
