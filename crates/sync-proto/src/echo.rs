//! What came over a link is not sent back over it.

use std::ops::RangeInclusive;

use opor_core::{Changeset, DbVersion, RowChange};

/// The versions that merges of what the peer sent took here, in this session.
///
/// Leaving them out saves traffic and is never needed: a change that comes back changes nothing. It is also always
/// right: the peer holds what it sent itself, and a cell that was written again since has a later version. The
/// site that first wrote a change does not tell as much, for a replica that was restored from a backup has lost writes
/// of its own, and wants them back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Echoes(Vec<RangeInclusive<u64>>);

impl Echoes {
    /// So many runs of versions are kept, those of the last commits. What reading has passed is not needed any more, and
    /// reading is rarely so far behind that local commits and merges have taken turns more often.
    pub const RUNS_MAX: usize = 64;

    /// Whether nothing is to be left out.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a change of this version came from the peer.
    #[must_use]
    pub fn has(&self, version: DbVersion) -> bool {
        self.0.iter().rev().any(|run| run.contains(&version.0))
    }

    /// The last version up to which everything after this one came from the peer: reading may begin there.
    #[must_use]
    pub fn past(&self, version: DbVersion) -> DbVersion {
        let next = version.0.saturating_add(1);
        let run = self.0.iter().rev().find(|run| run.contains(&next));
        run.map_or(version, |run| DbVersion(*run.end()))
    }

    /// Notes a version; they come in rising order.
    pub fn note(&mut self, version: DbVersion) {
        if let Some(last) = self.0.last_mut()
            && last.end().checked_add(1) == Some(version.0)
        {
            *last = *last.start()..=version.0;
            return;
        }
        if self.0.len() == Self::RUNS_MAX {
            self.0.remove(0);
        }
        self.0.push(version.0..=version.0);
    }

    /// The changeset without what came from the peer; names and sites stay listed.
    #[must_use]
    pub fn strip(&self, changeset: Changeset) -> Changeset {
        let clocks = |row: &RowChange| {
            let sentinel = row.sentinel.iter().copied();
            sentinel.chain(row.cells.iter().map(|cell| cell.clock)).collect::<Vec<_>>()
        };
        if self.is_empty()
            || !changeset.rows().iter().flat_map(clocks).any(|clock| self.has(clock.db_version))
        {
            return changeset;
        }
        let mut stripped = Changeset::new();
        for table in changeset.tables() {
            let index = stripped.table_index(&table.name);
            for column in &table.columns {
                stripped.column_index(index, column);
            }
        }
        for site in changeset.sites() {
            stripped.site_index(*site);
        }
        for row in changeset.rows() {
            let mut row = row.clone();
            row.sentinel = row.sentinel.filter(|clock| !self.has(clock.db_version));
            row.cells.retain(|cell| !self.has(cell.clock.db_version));
            if row.sentinel.is_some() || !row.cells.is_empty() {
                stripped.push_row(row);
            }
        }
        stripped
    }
}

#[cfg(test)]
mod tests {
    use opor_core::{Change, Cid, PackedKey, SiteId, Value};

    use super::*;

    fn echoes(versions: impl IntoIterator<Item = u64>) -> Echoes {
        let mut echoes = Echoes::default();
        versions.into_iter().for_each(|version| echoes.note(DbVersion(version)));
        echoes
    }

    #[test]
    fn runs_are_kept_as_runs() {
        assert_eq!(echoes([3, 4, 5, 9]).0, [3..=5, 9..=9]);
        let some = echoes([3, 4, 9]);
        let held: Vec<u64> = (0..12).filter(|version| some.has(DbVersion(*version))).collect();
        assert_eq!(held, [3, 4, 9]);
        let past: Vec<u64> = (0..11).map(|version| some.past(DbVersion(version)).0).collect();
        assert_eq!(past, [0, 1, 4, 4, 4, 5, 6, 7, 9, 9, 10]);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let many = echoes((0..1000).map(|n| n * 2));
        assert_eq!(many.0.len(), Echoes::RUNS_MAX);
        assert!(many.has(DbVersion(1998)) && many.has(DbVersion(1872)));
        assert!(!many.has(DbVersion(1870)));
    }

    fn change(table: &str, key: i64, cid: &str, version: u64) -> Change {
        Change {
            table: table.into(),
            pk: PackedKey::pack(&[Value::Integer(key)]),
            cid: Cid::from(cid),
            val: if cid == "-1" { Value::Null } else { Value::Integer(7) },
            col_version: 1.into(),
            db_version: version.into(),
            site_id: SiteId::from([key as u8; 16]),
            cl: 1.into(),
            seq: 0,
        }
    }

    #[test]
    fn what_the_peer_sent_is_left_out_and_the_rest_stays() {
        let all = [
            change("a", 1, "-1", 3),
            change("a", 1, "x", 5),
            change("a", 2, "x", 3),
            change("b", 3, "y", 4),
            change("b", 3, "z", 3),
        ];
        let changeset: Changeset = all.iter().cloned().collect();
        let stripped = echoes([3]).strip(changeset.clone());
        assert_eq!(stripped.changes().collect::<Vec<_>>(), [all[1].clone(), all[3].clone()]);
        assert_eq!(echoes([7]).strip(changeset.clone()), changeset);
        assert!(echoes([3, 4, 5]).strip(changeset).is_empty());
    }
}
