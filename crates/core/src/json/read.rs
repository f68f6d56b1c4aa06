//! JSON to changeset.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::{FieldFault, JsonError};
use crate::bytes_text;
use crate::{Change, Changeset, Cid, DecodeLimits, PackedKey, SiteId, Value};

const FIELDS: [&str; 9] = ["table", "pk", "cid", "val", "col_version", "db_version", "site_id", "cl", "seq"];

impl Changeset {
    /// Reads the JSON form. Changes come in any order and are grouped by row.
    ///
    /// It says nothing about whether the changes are sensible: see [`validate`](Self::validate).
    ///
    /// ```
    /// use opor_core::{Changeset, DecodeLimits, FieldFault, JsonError};
    ///
    /// let fault = Changeset::from_json(r#"[{"table":"todos"}]"#, &DecodeLimits::default());
    /// assert_eq!(fault, Err(JsonError::Field { index: 0, field: "pk", fault: FieldFault::Missing }));
    /// ```
    ///
    /// # Errors
    /// [`JsonError`]; where a change is at fault, with its index and the field.
    pub fn from_json(json: impl AsRef<[u8]>, limits: &DecodeLimits) -> Result<Self, JsonError> {
        let bytes = json.as_ref();
        if bytes.len() > limits.bytes_max {
            return Err(JsonError::TooLarge { len: bytes.len(), max: limits.bytes_max });
        }
        let text = std::str::from_utf8(bytes).map_err(|e| JsonError::NotUtf8 { at: e.valid_up_to() })?;
        let mut reader =
            ChangesReader { changes: Vec::new(), memory: 0, max: limits.memory_max, fault: None };
        let mut json = serde_json::Deserializer::from_str(text);
        let read = reader.deserialize(&mut json).and_then(|()| json.end());
        match (reader.fault, read) {
            (Some(fault), _) => Err(fault),
            (None, Err(e)) if e.classify() == Category::Data => Err(JsonError::NotAnArray),
            (None, Err(e)) => Err(JsonError::Syntax { line: e.line(), column: e.column() }),
            (None, Ok(())) => Ok(reader.changes.into_iter().collect()),
        }
    }
}

/// Takes changes from an array one by one. What is wrong with one is kept here, because an error of serde can only
/// hold text.
#[derive(Debug)]
struct ChangesReader {
    changes: Vec<Change>,
    memory: usize,
    max: usize,
    fault: Option<JsonError>,
}

impl ChangesReader {
    fn push(&mut self, raw: &RawValue) -> Result<(), JsonError> {
        let change = read_change(self.changes.len(), raw)?;
        let name_len = change.table.len() + change.cid.as_str().len();
        self.memory += size_of::<Change>() + name_len + change.pk.as_bytes().len() + change.val.payload_len();
        if self.memory > self.max {
            return Err(JsonError::TooMuchMemory { max: self.max });
        }
        self.changes.push(change);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut ChangesReader {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut ChangesReader {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of changes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            if let Err(fault) = self.push(raw) {
                self.fault = Some(fault);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// The fields of one change, not yet looked at, in the order of [`FIELDS`].
#[derive(Debug, Default)]
struct RawChange<'a> {
    fields: [Option<&'a RawValue>; FIELDS.len()],
    duplicate: Option<&'static str>,
}

impl<'de> Deserialize<'de> for RawChange<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawChangeVisitor)
    }
}

struct RawChangeVisitor;

impl<'de> Visitor<'de> for RawChangeVisitor {
    type Value = RawChange<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a change")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawChange<'de>, A::Error> {
        let mut raw = RawChange::default();
        while let Some(FieldName(name)) = map.next_key()? {
            let Some(place) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if raw.fields[place].replace(map.next_value()?).is_some() {
                raw.duplicate = Some(FIELDS[place]);
            }
        }
        Ok(raw)
    }
}

/// The place of a field in [`FIELDS`], or `None` for one that is ignored.
struct FieldName(Option<usize>);

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldNameVisitor;
        impl Visitor<'_> for FieldNameVisitor {
            type Value = FieldName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_str<E>(self, name: &str) -> Result<FieldName, E> {
                Ok(FieldName(FIELDS.iter().position(|field| *field == name)))
            }
        }
        deserializer.deserialize_identifier(FieldNameVisitor)
    }
}

fn read_change(index: usize, raw: &RawValue) -> Result<Change, JsonError> {
    let raw: RawChange<'_> = serde_json::from_str(raw.get()).map_err(|_| JsonError::NotAnObject { index })?;
    if let Some(field) = raw.duplicate {
        return Err(JsonError::Field { index, field, fault: FieldFault::Duplicate });
    }
    let field = |place: usize, fault| JsonError::Field { index, field: FIELDS[place], fault };
    let token =
        |place: usize| raw.fields[place].map(RawValue::get).ok_or_else(|| field(place, FieldFault::Missing));
    let text = |place| read_text(token(place)?).map_err(|fault| field(place, fault));
    let bytes = |place| read_bytes(token(place)?).map_err(|fault| field(place, fault));
    let counter = |place| read_counter(token(place)?).map_err(|fault| field(place, fault));
    Ok(Change {
        table: text(0)?.into(),
        pk: PackedKey::from_bytes(&bytes(1)?).map_err(|e| field(1, FieldFault::Key(e)))?,
        cid: Cid::from(&*text(2)?),
        val: read_value(token(3)?).map_err(|fault| field(3, fault))?,
        col_version: counter(4)?.into(),
        db_version: counter(5)?.into(),
        site_id: SiteId::new(&bytes(6)?).map_err(|e| field(6, FieldFault::Site(e)))?,
        cl: counter(7)?.into(),
        seq: counter(8)?,
    })
}

/// A token is well-formed JSON, so that its first byte tells its type.
fn read_text(token: &str) -> Result<String, FieldFault> {
    if !token.starts_with('"') {
        return Err(FieldFault::WrongType { expected: "a string" });
    }
    serde_json::from_str(token).map_err(|_| FieldFault::Text)
}

fn read_counter(token: &str) -> Result<u64, FieldFault> {
    let integer = token.strip_prefix('-').unwrap_or(token);
    if !integer.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FieldFault::WrongType { expected: "an integer" });
    }
    if integer.len() < token.len() {
        return Err(FieldFault::Negative);
    }
    integer.parse().map_err(|_| FieldFault::NumberRange)
}

/// What an object in place of a value or of bytes can have; one form at a time.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tagged<'a> {
    #[serde(borrow)]
    blob: Option<&'a RawValue>,
    #[serde(borrow)]
    real: Option<&'a RawValue>,
    r#type: Option<String>,
    data: Option<Vec<u8>>,
}

const BYTES: FieldFault =
    FieldFault::WrongType { expected: r#"a string of hex or base64, or {"type":"Buffer","data":[..]}"# };

fn read_bytes(token: &str) -> Result<Vec<u8>, FieldFault> {
    if token.starts_with('"') {
        return bytes_text::decode(&read_text(token)?).ok_or(FieldFault::NotBytes);
    }
    match serde_json::from_str(token).map_err(|_| BYTES)? {
        Tagged { blob: None, real: None, r#type: Some(name), data: Some(bytes) } if name == "Buffer" => {
            Ok(bytes)
        }
        _ => Err(BYTES),
    }
}

fn read_value(token: &str) -> Result<Value, FieldFault> {
    match token.as_bytes()[0] {
        b'n' => Ok(Value::Null),
        b'"' => read_text(token).map(Value::Text),
        b'{' => read_tagged(token),
        b'-' | b'0'..=b'9' => read_number(token),
        _ => {
            Err(FieldFault::WrongType { expected: r#"null, a number, a string, {"blob":..} or {"real":..}"# })
        }
    }
}

fn read_number(token: &str) -> Result<Value, FieldFault> {
    if token.contains(['.', 'e', 'E']) {
        let real: f64 = token.parse().expect("a number of JSON is one of Rust");
        return if real.is_finite() { Ok(Value::Real(real)) } else { Err(FieldFault::NumberRange) };
    }
    token.parse().map(Value::Integer).map_err(|_| FieldFault::NumberRange)
}

fn read_tagged(token: &str) -> Result<Value, FieldFault> {
    const EXPECTED: FieldFault =
        FieldFault::WrongType { expected: r#"{"blob":..}, {"real":..} or {"type":"Buffer","data":[..]}"# };
    match serde_json::from_str(token).map_err(|_| EXPECTED)? {
        Tagged { blob: Some(bytes), real: None, r#type: None, data: None } => {
            read_bytes(bytes.get()).map(Value::Blob)
        }
        Tagged { blob: None, real: Some(bits), r#type: None, data: None } => read_bits(bits.get()),
        Tagged { blob: None, real: None, r#type: Some(name), data: Some(bytes) } if name == "Buffer" => {
            Ok(Value::Blob(bytes))
        }
        _ => Err(EXPECTED),
    }
}

fn read_bits(token: &str) -> Result<Value, FieldFault> {
    let bits = bytes_text::decode_hex(&read_text(token)?).and_then(|bytes| bytes.try_into().ok());
    let bits = bits.ok_or(FieldFault::WrongType { expected: "16 hex digits, the bits of a real" })?;
    Ok(Value::Real(f64::from_bits(u64::from_be_bytes(bits))))
}
