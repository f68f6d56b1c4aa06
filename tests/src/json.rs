//! The JSON of the golden recordings: `{"t":"int","v":1}`, reals with their bits, blobs as hex.

use opor_core::Value;
use serde_json::{Value as Json, json};

use crate::ChangeRow;

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hex.
///
/// # Panics
/// When the text is not hex.
#[must_use]
pub fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "hex has an even length: {text:?}");
    let digits = |i: usize| u8::from_str_radix(&text[i..i + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digits).collect()
}

/// A typed value.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn value_from_json(json: &Json) -> Value {
    let text = |field: &str| json[field].as_str().expect("a text field");
    match text("t") {
        "null" => Value::Null,
        "int" => Value::Integer(json["v"].as_i64().expect("a 64-bit integer")),
        "real" => Value::Real(f64::from_bits(u64::from_str_radix(text("bits"), 16).expect("64 bits in hex"))),
        "text" => Value::Text(text("v").to_owned()),
        "blob" => Value::Blob(unhex(text("hex"))),
        other => panic!("there is no type {other:?}"),
    }
}

/// A value as [`value_from_json`] reads it.
#[must_use]
pub fn value_to_json(value: &Value) -> Json {
    match value {
        Value::Null => json!({"t": "null"}),
        Value::Integer(v) => json!({"t": "int", "v": v}),
        Value::Real(v) => json!({"t": "real", "bits": format!("{:016x}", v.to_bits())}),
        Value::Text(v) => json!({"t": "text", "v": v}),
        Value::Blob(v) => json!({"t": "blob", "hex": hex(v)}),
    }
}

/// A change; `site` turns the text of `site_id` into bytes.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn change_from_json(json: &Json, site: impl Fn(&str) -> Vec<u8>) -> ChangeRow {
    let text = |field: &str| json[field].as_str().expect("a text field").to_owned();
    let number = |field: &str| json[field].as_i64().expect("a 64-bit integer");
    ChangeRow {
        table: text("table"),
        pk: unhex(&text("pk")),
        cid: text("cid"),
        val: value_from_json(&json["val"]),
        col_version: number("col_version"),
        db_version: number("db_version"),
        site_id: json["site_id"].as_str().map(site),
        cl: number("cl"),
        seq: number("seq"),
    }
}

/// A change as [`change_from_json`] reads it, its site id in hex.
#[must_use]
pub fn change_to_json(row: &ChangeRow) -> Json {
    json!({
        "table": row.table,
        "pk": hex(&row.pk),
        "cid": row.cid,
        "val": value_to_json(&row.val),
        "col_version": row.col_version,
        "db_version": row.db_version,
        "site_id": row.site_id.as_deref().map(hex),
        "cl": row.cl,
        "seq": row.seq,
    })
}
