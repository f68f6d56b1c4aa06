//! Whether replicas hold the same: rows, and change logs up to local numbering.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use opor_core::{CausalLength, Changeset, Cid, ColVersion, PackedKey, SiteId, Value, ValueRef};
use rusqlite::Connection;
use rusqlite::types::ValueRef as SqlRef;

use super::shape::Shape;
use crate::database::quoted;

/// A change log without what is local numbering: `db_version` and `seq`.
pub(crate) type Log = BTreeMap<(Arc<str>, PackedKey, Cid), (Value, ColVersion, CausalLength, SiteId)>;

/// The rows of a table: the key, and the whole row in a form in which only equal values are equal.
pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The log in a changeset.
pub(crate) fn log(changeset: &Changeset) -> Log {
    let entry = |change: opor_core::Change| {
        let key = (change.table, change.pk, change.cid);
        (key, (change.val, change.col_version, change.cl, change.site_id))
    };
    changeset.changes().map(entry).collect()
}

/// How many keys are not the same in two maps.
pub(crate) fn differences<K: Ord, V: PartialEq>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> usize {
    let not_the_same = a.iter().filter(|(key, value)| b.get(key) != Some(value)).count();
    let only_in_b = b.keys().filter(|key| !a.contains_key(key)).count();
    not_the_same + only_in_b
}

/// The rows of a table.
pub(crate) fn rows(db: &Connection, shape: &Shape) -> anyhow::Result<Rows> {
    let columns: Vec<String> = shape.columns.iter().map(|column| quoted(&column.name)).collect();
    let sql = format!("SELECT {} FROM {}", columns.join(", "), quoted(&shape.table));
    let mut select = db.prepare(&sql).with_context(|| format!("cannot read table {:?}", shape.table))?;
    let mut found = select.query([])?;
    let mut rows = Rows::new();
    while let Some(row) = found.next()? {
        let (mut key, mut whole) = (Vec::new(), Vec::new());
        for (i, column) in shape.columns.iter().enumerate() {
            let value = row.get_ref(i)?;
            pack(value, &mut whole)?;
            if column.key.is_some() {
                pack(value, &mut key)?;
            }
        }
        rows.insert(key, whole);
    }
    Ok(rows)
}

/// Packs a value as keys are packed: no two values pack alike.
fn pack(value: SqlRef<'_>, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let value = match value {
        SqlRef::Null => ValueRef::Null,
        SqlRef::Integer(v) => ValueRef::Integer(v),
        SqlRef::Real(v) => ValueRef::Real(v),
        SqlRef::Text(v) => ValueRef::Text(std::str::from_utf8(v).context("text that is not UTF-8")?),
        SqlRef::Blob(v) => ValueRef::Blob(v),
    };
    PackedKey::pack_column(value, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_counts_once() {
        let a = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c')]);
        let b = BTreeMap::from([(2, 'b'), (3, 'x'), (4, 'd')]);
        assert_eq!(differences(&a, &b), 3);
        assert_eq!(differences(&a, &a.clone()), 0);
    }

    #[test]
    fn rows_are_compared_type_by_type() {
        let db = Connection::open_in_memory().expect("memory");
        let with = |value: &str| {
            db.execute_batch(&format!(
                "DROP TABLE IF EXISTS t; CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, v); \
                 INSERT INTO t VALUES (1, {value})"
            ))
            .expect("a table of one row");
            rows(&db, &Shape::of(&db, "t").expect("its shape")).expect("its rows")
        };
        assert_eq!(differences(&with("1"), &with("1")), 0);
        for other in ["1.0", "'1'", "x'31'", "NULL"] {
            assert_eq!(differences(&with("1"), &with(other)), 1, "{other}");
        }
    }
}
