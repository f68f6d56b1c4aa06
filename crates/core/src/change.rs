//! One change: a row of `crsql_changes`.

use std::fmt;
use std::sync::Arc;

use crate::{CausalLength, ColVersion, DbVersion, PackedKey, SiteId, Value};

/// What a change is about: a column, or the row itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cid {
    /// The row: it was created or deleted. Travels as the text `-1`.
    Sentinel,
    /// The column of this name.
    Column(Arc<str>),
}

impl Cid {
    /// The text the sentinel travels as, cr-sqlite's choice; a column of this name cannot replicate.
    pub const SENTINEL: &'static str = "-1";

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Sentinel => Self::SENTINEL,
            Self::Column(name) => name,
        }
    }
}

impl From<&str> for Cid {
    fn from(text: &str) -> Self {
        if text == Self::SENTINEL { Self::Sentinel } else { Self::Column(text.into()) }
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One change, field for field a row of cr-sqlite's `crsql_changes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table.
    pub table: Arc<str>,
    /// The primary key of the row, packed.
    pub pk: PackedKey,
    /// The column, or the sentinel.
    pub cid: Cid,
    /// The value; [`Value::Null`] for a sentinel.
    pub val: Value,
    /// The version of the cell; for a sentinel, the causal length it sets.
    pub col_version: ColVersion,
    /// The commit on the sending replica.
    pub db_version: DbVersion,
    /// The replica that wrote the value first.
    pub site_id: SiteId,
    /// The causal length of the row.
    pub cl: CausalLength,
    /// The place within the commit.
    pub seq: u64,
}
