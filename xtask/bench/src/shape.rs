//! The three shapes of table that everything is measured on, and the rows in them.

use rusqlite::types::Value;

/// A table: its schema, its statements, its rows.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) letter: &'static str,
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    pub(crate) schema: &'static str,
    /// The columns of the primary key, which come first in the table.
    pub(crate) key: &'static [&'static str],
    /// The other columns, in the order of the table.
    pub(crate) others: &'static [&'static str],
    /// The integer column that the update cases write.
    pub(crate) counter: &'static str,
    row: fn(u64) -> Vec<Value>,
}

/// What the update cases write: this or more, which no row has in its counter, so that every write is a change.
pub(crate) const WRITTEN: i64 = 1_000_000;

/// All of them.
pub(crate) const SHAPES: &[Shape] = &[
    Shape {
        letter: "a",
        name: "todos with uuid keys",
        table: "todos",
        schema: "CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '',
                 done INTEGER NOT NULL DEFAULT 0)",
        key: &["id"],
        others: &["title", "done"],
        counter: "done",
        row: todo,
    },
    Shape {
        letter: "b",
        name: "10 mixed columns, integer key",
        table: "orders",
        schema:
            "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, customer INTEGER, status TEXT, note TEXT,
                 amount REAL, weight REAL, items INTEGER, created INTEGER, token BLOB, deleted INTEGER)",
        key: &["id"],
        others: &["customer", "status", "note", "amount", "weight", "items", "created", "token", "deleted"],
        counter: "items",
        row: order,
    },
    Shape {
        letter: "c",
        name: "composite key",
        table: "entries",
        schema:
            "CREATE TABLE entries (list INTEGER NOT NULL, item TEXT NOT NULL, label TEXT, position INTEGER,
                 PRIMARY KEY (list, item))",
        key: &["list", "item"],
        others: &["label", "position"],
        counter: "position",
        row: entry,
    },
];

impl Shape {
    /// The first `count` rows, the same in every run.
    pub(crate) fn rows(&self, count: usize) -> Vec<Vec<Value>> {
        (0..count as u64).map(self.row).collect()
    }

    /// As [`rows`](Self::rows), with random integers all over the range for keys.
    pub(crate) fn rows_with_sparse_keys(&self, count: usize) -> Vec<Vec<Value>> {
        let mut rows = self.rows(count);
        for (index, row) in rows.iter_mut().enumerate() {
            row[0] = Value::Integer(random(index as u64, 9).cast_signed() >> 1);
        }
        rows
    }

    /// The key columns of a row.
    pub(crate) fn key_of<'a>(&self, row: &'a [Value]) -> &'a [Value] {
        &row[..self.key.len()]
    }

    pub(crate) fn insert(&self) -> String {
        let columns = [self.key, self.others].concat();
        let places = vec!["?"; columns.len()].join(", ");
        format!("INSERT INTO {} ({}) VALUES ({places})", self.table, columns.join(", "))
    }

    /// Parameters: the new value, then the key.
    pub(crate) fn update_by_key(&self, column: &str) -> String {
        format!("UPDATE {} SET {column} = ? WHERE {}", self.table, self.key_is())
    }

    pub(crate) fn update_all(&self) -> String {
        format!("UPDATE {0} SET {1} = {1} + 1", self.table, self.counter)
    }

    pub(crate) fn delete_by_key(&self) -> String {
        format!("DELETE FROM {} WHERE {}", self.table, self.key_is())
    }

    /// Parameter: the last rowid to go.
    pub(crate) fn delete_up_to(&self) -> String {
        format!("DELETE FROM {} WHERE rowid <= ?", self.table)
    }

    /// Parameters: the key. `what` is the list of results.
    pub(crate) fn select_by_key(&self, what: &str) -> String {
        format!("SELECT {what} FROM {} WHERE {}", self.table, self.key_is())
    }

    pub(crate) fn select_all(&self) -> String {
        format!("SELECT * FROM {}", self.table)
    }

    fn key_is(&self) -> String {
        self.key.iter().map(|column| format!("{column} = ?")).collect::<Vec<_>>().join(" AND ")
    }
}

fn todo(index: u64) -> Vec<Value> {
    vec![
        Value::Text(uuid(index)),
        Value::Text(format!(
            "todo {index}: {}",
            ["buy milk", "call the bank", "water plants"][pick(index, 1, 3)]
        )),
        Value::Integer(pick(index, 2, 2) as i64),
    ]
}

fn order(index: u64) -> Vec<Value> {
    vec![
        Value::Integer(index.cast_signed() + 1),
        Value::Integer(pick(index, 1, 5_000) as i64),
        Value::Text(["new", "paid", "sent", "returned"][pick(index, 2, 4)].to_owned()),
        if pick(index, 3, 4) == 0 { Value::Null } else { Value::Text(format!("note on order {index}")) },
        Value::Real(pick(index, 4, 100_000) as f64 / 100.0),
        Value::Real(pick(index, 5, 10_000) as f64 / 8.0),
        Value::Integer(pick(index, 6, 12) as i64),
        Value::Integer(1_700_000_000_000 + 1_000 * index.cast_signed()),
        Value::Blob(random(index, 7).to_be_bytes().to_vec()),
        Value::Integer(0),
    ]
}

fn entry(index: u64) -> Vec<Value> {
    vec![
        Value::Integer((index / 100).cast_signed()),
        Value::Text(format!("item-{:04}", index % 100)),
        Value::Text(format!("entry number {index}")),
        Value::Integer((index % 100).cast_signed()),
    ]
}

fn uuid(index: u64) -> String {
    let (hi, lo) = (random(index, 10), random(index, 11));
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        hi >> 32,
        hi >> 16 & 0xffff,
        hi & 0xfff,
        lo >> 48 & 0x3fff | 0x8000,
        lo & 0xffff_ffff_ffff
    )
}

fn pick(index: u64, stream: u64, choices: u64) -> usize {
    (random(index, stream) % choices) as usize
}

/// The `index`th number of a random sequence: the mixing function of splitmix64 (Steele, Lea, Flood, 2014).
pub(crate) fn random(index: u64, stream: u64) -> u64 {
    let mut z = (stream << 40 | index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Puts `items` in a random order, the same in every run.
pub(crate) fn shuffle<T>(items: &mut [T]) {
    for index in (1..items.len()).rev() {
        items.swap(index, (random(index as u64, 8) % (index as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_shape_takes_its_rows_and_finds_them_by_key() {
        for shape in SHAPES {
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            connection.execute_batch(shape.schema).unwrap();
            for row in shape.rows(300) {
                connection.execute(&shape.insert(), rusqlite::params_from_iter(&row)).unwrap();
                let key = rusqlite::params_from_iter(shape.key_of(&row));
                let counter = shape.select_by_key(shape.counter);
                let found: Value = connection.query_row(&counter, key, |row| row.get(0)).unwrap();
                assert!(row.contains(&found), "shape {}: {found:?} in {row:?}", shape.letter);
            }
        }
    }

    #[test]
    fn sparse_keys_are_distinct() {
        let rows = SHAPES[1].rows_with_sparse_keys(1_000);
        let keys: BTreeSet<String> = rows.iter().map(|row| format!("{:?}", row[0])).collect();
        assert_eq!(keys.len(), 1_000);
    }

    #[test]
    fn shuffling_keeps_every_item() {
        let mut items: Vec<u32> = (0..100).collect();
        shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
