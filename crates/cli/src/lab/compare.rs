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

/// How two change logs compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogDifference {
    /// Changes that one of them has not, or has with another value or version.
    pub(crate) differing: usize,
    /// Changes that are the same but for the site: both peers made the very same write, and a replica keeps the one
    /// it saw first.
    pub(crate) credited_otherwise: usize,
}

/// Compares two change logs. A change may be credited to another site only where both sites are of `peers`.
pub(crate) fn compare_logs(a: &Log, b: &Log, peers: &[SiteId]) -> LogDifference {
    let mut found = LogDifference::default();
    for (key, (val, col_version, cl, site)) in a {
        match b.get(key) {
            Some((v, c, l, s)) if (v, c, l) == (val, col_version, cl) => {
                if s != site && peers.contains(s) && peers.contains(site) {
                    found.credited_otherwise += 1;
                } else if s != site {
                    found.differing += 1;
                }
            }
            _ => found.differing += 1,
        }
    }
    found.differing += b.keys().filter(|key| !a.contains_key(key)).count();
    found
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
    fn a_write_that_both_made_may_be_credited_to_either() {
        let sites = [[1; 16], [2; 16], [3; 16]].map(SiteId::from);
        let by = |site: SiteId| {
            let key = ("t".into(), PackedKey::pack(&[Value::Integer(1)]), Cid::Sentinel);
            Log::from([(key, (Value::Null, ColVersion(1), CausalLength(1), site))])
        };
        let compare = |a, b| compare_logs(&by(a), &by(b), &sites[..2]);
        assert_eq!(compare(sites[0], sites[0]), LogDifference::default());
        assert_eq!(compare(sites[0], sites[1]), LogDifference { differing: 0, credited_otherwise: 1 });
        assert_eq!(compare(sites[0], sites[2]), LogDifference { differing: 1, credited_otherwise: 0 });
        let missing = compare_logs(&Log::new(), &by(sites[0]), &sites[..2]);
        assert_eq!(missing, LogDifference { differing: 1, credited_otherwise: 0 });
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
