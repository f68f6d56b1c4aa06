//! Changeset to JSON.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::bytes_text::Hex;
use crate::{Change, Changeset, Cid, PackedKey, Value};

impl Changeset {
    /// The JSON form: all changes in one array, ordered by `db_version` and `seq`, else as they come. Nothing is lost.
    ///
    /// A value that is not finite, and a blob, is an object of one field: `{"real":"7ff0000000000000"}`,
    /// `{"blob":"00ff"}`; keys and site ids are hex.
    ///
    /// ```
    /// use opor_core::{Changeset, DecodeLimits};
    ///
    /// let json = r#"[{"table":"todos","pk":"010901","cid":"done","val":1.0,"col_version":1,"db_version":3,"#.to_owned()
    ///     + r#""site_id":"07070707070707070707070707070707","cl":1,"seq":0}]"#;
    /// let changeset = Changeset::from_json(&json, &DecodeLimits::default())?;
    /// assert_eq!(changeset.to_json(), json);
    /// # Ok::<(), opor_core::JsonError>(())
    /// ```
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut changes: Vec<Change> = self.changes().collect();
        changes.sort_by_key(|change| (change.db_version, change.seq));
        serde_json::to_string(&changes).expect("strings and numbers are JSON")
    }
}

/// An object of nine fields named as the columns of `crsql_changes`, in their order.
impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(9))?;
        map.serialize_entry("table", &*self.table)?;
        map.serialize_entry("pk", &self.pk)?;
        map.serialize_entry("cid", &self.cid)?;
        map.serialize_entry("val", &self.val)?;
        map.serialize_entry("col_version", &self.col_version)?;
        map.serialize_entry("db_version", &self.db_version)?;
        map.serialize_entry("site_id", &self.site_id)?;
        map.serialize_entry("cl", &self.cl)?;
        map.serialize_entry("seq", &self.seq)?;
        map.end()
    }
}

/// The text form.
impl Serialize for Cid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Hex of the packed bytes.
impl Serialize for PackedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Hex(self.as_bytes()).serialize(serializer)
    }
}

/// What JSON has no form for is an object of one field: `blob` with hex, and for a real that is not finite `real` with
/// its bits in hex.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Integer(v) => serializer.serialize_i64(*v),
            Self::Real(v) if v.is_finite() => serializer.serialize_f64(*v),
            Self::Real(v) => tagged(serializer, "real", &v.to_bits().to_be_bytes()),
            Self::Text(v) => serializer.serialize_str(v),
            Self::Blob(v) => tagged(serializer, "blob", v),
        }
    }
}

fn tagged<S: Serializer>(serializer: S, tag: &str, bytes: &[u8]) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(tag, &Hex(bytes))?;
    map.end()
}
