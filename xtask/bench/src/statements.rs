//! The SQL of each side: the same statements everywhere, but for the bookkeeping of the table that is kept by hand.
//!
//! That table stands for what a careful person writes without a library: the last writer of a row wins. Each row has
//! the stamp of its last write, the site that made it, the local sequence number that a poll asks for, and a flag in
//! place of deletion. Stamps and sequence numbers are one parameter, which comes last.

use crate::database::Side;
use crate::shape::Shape;

/// The bookkeeping of the table kept by hand.
const BY_HAND: [&str; 4] = ["stamp", "site", "seq", "gone"];

/// The columns of `crsql_changes`.
const CHANGES: &str = "\"table\", pk, cid, val, col_version, db_version, site_id, cl, seq";

/// The statements for a shape on a side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statements {
    pub(crate) shape: &'static Shape,
    pub(crate) side: Side,
}

impl Statements {
    /// Whether a write has the stamp as its last parameter.
    pub(crate) fn stamped(self) -> bool {
        self.side == Side::ByHand
    }

    /// Makes a table replicate, where SQL does that.
    pub(crate) fn replicate(self, table: &str) -> String {
        match self.side {
            Side::Plain | Side::Opor | Side::Floor => String::new(),
            Side::ByHand => {
                let add =
                    |column| format!("ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0;");
                let columns = BY_HAND.map(add).concat();
                format!("{columns} CREATE INDEX {table}_seq ON {table}(seq);")
            }
            Side::CrSqlite => format!("SELECT crsql_as_crr('{table}');"),
        }
    }

    /// Parameters: the values of a row.
    pub(crate) fn insert(self) -> String {
        let mut columns = self.columns();
        let mut places: Vec<String> = (1..=columns.len()).map(|place| format!("?{place}")).collect();
        if self.stamped() {
            let stamp = format!("?{}", columns.len() + 1);
            columns.extend(["stamp", "seq"]);
            places.extend([stamp.clone(), stamp]);
        }
        let (columns, places) = (columns.join(", "), places.join(", "));
        format!("INSERT INTO {} ({columns}) VALUES ({places})", self.shape.table)
    }

    /// Parameters: the new values, then the key.
    pub(crate) fn update_by_key(self, columns: &[&str]) -> String {
        let set: Vec<String> =
            columns.iter().zip(1..).map(|(name, place)| format!("{name} = ?{place}")).collect();
        let stamp = self.stamp(columns.len() + self.shape.key.len() + 1);
        format!(
            "UPDATE {} SET {}{stamp} WHERE {}",
            self.shape.table,
            set.join(", "),
            self.key_is(columns.len() + 1)
        )
    }

    pub(crate) fn update_all(self) -> String {
        format!("UPDATE {0} SET {1} = {1} + 1{2}", self.shape.table, self.shape.counter, self.stamp(1))
    }

    /// Parameters: the key.
    pub(crate) fn delete_by_key(self) -> String {
        self.delete(&self.key_is(1), self.shape.key.len() + 1)
    }

    /// Parameter: the last rowid to go.
    pub(crate) fn delete_up_to(self) -> String {
        self.delete("rowid <= ?1", 2)
    }

    /// Parameters: the key. `what` is the list of results.
    pub(crate) fn select_by_key(self, what: &str) -> String {
        format!("SELECT {what} FROM {} WHERE {}", self.shape.table, self.key_is(1))
    }

    /// Parameter: a version; the log after it, where SQL reads it. On a plain table every row, and no parameter.
    pub(crate) fn log(self) -> String {
        match self.side {
            Side::Plain | Side::Opor | Side::Floor => format!("SELECT * FROM {}", self.shape.table),
            Side::ByHand => format!("SELECT * FROM {} WHERE seq > ?1 ORDER BY seq", self.shape.table),
            Side::CrSqlite => format!("SELECT {CHANGES} FROM crsql_changes WHERE db_version > ?1"),
        }
    }

    /// Merges one row of another's [`log`](Self::log); `seq` is the local sequence number of the merge.
    pub(crate) fn merge(self, seq: i64) -> String {
        if self.side == Side::CrSqlite {
            return format!(
                "INSERT INTO crsql_changes ({CHANGES}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            );
        }
        let columns: Vec<&str> = self.columns().into_iter().chain(BY_HAND).collect();
        let value = |(name, place): (&&str, usize)| match *name {
            "seq" => seq.to_string(),
            _ => format!("?{place}"),
        };
        let values: Vec<String> = columns.iter().zip(1..).map(value).collect();
        let set = columns[self.shape.key.len()..].iter().map(|name| format!("{name} = excluded.{name}"));
        format!(
            "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET {}
             WHERE (excluded.stamp, excluded.site) > (stamp, site)",
            self.shape.table,
            columns.join(", "),
            values.join(", "),
            self.shape.key.join(", "),
            set.collect::<Vec<_>>().join(", "),
        )
    }

    fn columns(self) -> Vec<&'static str> {
        self.shape.key.iter().chain(&self.shape.others).map(String::as_str).collect()
    }

    fn delete(self, which: &str, stamp: usize) -> String {
        if self.stamped() {
            format!("UPDATE {} SET gone = 1{} WHERE {which}", self.shape.table, self.stamp(stamp))
        } else {
            format!("DELETE FROM {} WHERE {which}", self.shape.table)
        }
    }

    fn stamp(self, place: usize) -> String {
        if self.stamped() { format!(", stamp = ?{place}, seq = ?{place}") } else { String::new() }
    }

    fn key_is(self, first: usize) -> String {
        let columns = self.shape.key.iter().zip(first..);
        columns.map(|(column, place)| format!("{column} = ?{place}")).collect::<Vec<_>>().join(" AND ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::SHAPES;

    fn statements(side: Side) -> Statements {
        Statements { shape: &SHAPES[2], side }
    }

    #[test]
    fn a_plain_write_is_an_ordinary_statement() {
        let plain = statements(Side::Plain);
        let insert = "INSERT INTO entries (list, item, label, position) VALUES (?1, ?2, ?3, ?4)";
        assert_eq!(plain.insert(), insert);
        assert_eq!(statements(Side::Opor).insert(), insert);
        let update = "UPDATE entries SET label = ?1 WHERE list = ?2 AND item = ?3";
        assert_eq!(plain.update_by_key(&["label"]), update);
    }

    #[test]
    fn a_write_by_hand_is_stamped() {
        let by_hand = statements(Side::ByHand);
        let update = "UPDATE entries SET label = ?1, stamp = ?4, seq = ?4 WHERE list = ?2 AND item = ?3";
        assert_eq!(by_hand.update_by_key(&["label"]), update);
        let delete = "UPDATE entries SET gone = 1, stamp = ?3, seq = ?3 WHERE list = ?1 AND item = ?2";
        assert_eq!(by_hand.delete_by_key(), delete);
    }
}
