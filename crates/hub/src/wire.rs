//! Changesets as JSON rows. PLACEHOLDER until `Changeset::to_json` and `from_json` exist in `opor-core`.

use opor_core::{Change, Changeset, Cid, PackedKey, SiteId, SiteIdError, Value};
use serde_json::{Value as Json, json};

pub(crate) fn encode(changeset: &Changeset) -> String {
    let rows: Vec<Json> = changeset
        .changes()
        .map(|c| {
            json!({
                "table": &*c.table, "pk": hex(c.pk.as_bytes()), "cid": c.cid.as_str(), "val": val(&c.val),
                "col_version": c.col_version, "db_version": c.db_version, "site_id": c.site_id.to_string(),
                "cl": c.cl, "seq": c.seq,
            })
        })
        .collect();
    Json::Array(rows).to_string()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Changeset, String> {
    let json: Json = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let rows = json.as_array().or_else(|| json["changes"].as_array()).ok_or("not an array of changes")?;
    rows.iter().map(|r| change(r).ok_or_else(|| "a change lacks a field".to_owned())).collect()
}

pub(crate) fn reason(error: &String) -> String {
    error.clone()
}

pub(crate) fn site_id(hex: &str) -> Result<SiteId, SiteIdError> {
    SiteId::new(&unhex(hex).ok_or(SiteIdError::Text)?)
}

fn change(r: &Json) -> Option<Change> {
    Some(Change {
        table: r["table"].as_str()?.into(),
        pk: PackedKey::from_bytes(&unhex(r["pk"].as_str()?)?).ok()?,
        cid: Cid::from(r["cid"].as_str()?),
        val: match &r["val"] {
            Json::Null => Value::Null,
            Json::String(s) => Value::Text(s.clone()),
            Json::Number(n) => {
                n.as_i64().map_or_else(|| Value::Real(n.as_f64().unwrap_or(0.0)), Value::Integer)
            }
            o => Value::Blob(o["data"].as_array()?.iter().map(|b| b.as_u64().unwrap_or(0) as u8).collect()),
        },
        col_version: r["col_version"].as_u64()?.into(),
        db_version: r["db_version"].as_u64()?.into(),
        site_id: site_id(r["site_id"].as_str()?).ok()?,
        cl: r["cl"].as_u64()?.into(),
        seq: r["seq"].as_u64()?,
    })
}

fn val(v: &Value) -> Json {
    match v {
        Value::Null => Json::Null,
        Value::Integer(i) => json!(i),
        Value::Real(r) => json!(r),
        Value::Text(t) => json!(t),
        Value::Blob(b) => json!({"type": "Buffer", "data": b}),
    }
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(s: &str) -> Option<Vec<u8>> {
    s.as_bytes().chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok()).collect()
}
