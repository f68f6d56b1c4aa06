//! The shapes of table that everything is measured on, and the rows in them.

use std::sync::LazyLock;

use rusqlite::types::Value;

/// The values of a row, in the order of the table.
pub(crate) type Row = Vec<Value>;

/// A table and its rows.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) letter: &'static str,
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    /// What stands between the parentheses of its CREATE TABLE.
    columns: String,
    /// The columns of the primary key, which come first in the table.
    pub(crate) key: Vec<String>,
    /// The other columns, in the order of the table.
    pub(crate) others: Vec<String>,
    /// The integer column that the update cases write.
    pub(crate) counter: &'static str,
    make: fn(u64) -> Row,
}

/// What the update cases write: this or more, which no row has in its counter, so that every write is a change.
pub(crate) const WRITTEN: i64 = 1_000_000;

/// How many columns beside the key the wide shape has.
const WIDE: usize = 200;

/// How many rows are made at once: few enough to be held, enough that preparing a statement for them is nothing.
const CHUNK: usize = 10_000;

/// All of them.
pub(crate) static SHAPES: LazyLock<[Shape; 4]> = LazyLock::new(|| {
    [
        Shape {
            letter: "a",
            name: "todos with uuid keys",
            table: "todos",
            columns: "id TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0"
                .to_owned(),
            key: names("id"),
            others: names("title done"),
            counter: "done",
            make: todo,
        },
        Shape {
            letter: "b",
            name: "10 mixed columns, integer key",
            table: "orders",
            columns: "id INTEGER PRIMARY KEY NOT NULL, customer INTEGER, status TEXT, note TEXT, amount REAL,
                      weight REAL, items INTEGER, created INTEGER, token BLOB, deleted INTEGER"
                .to_owned(),
            key: names("id"),
            others: names("customer status note amount weight items created token deleted"),
            counter: "items",
            make: order,
        },
        Shape {
            letter: "c",
            name: "composite key",
            table: "entries",
            columns: "list INTEGER NOT NULL, item TEXT NOT NULL, label TEXT, position INTEGER,
                      PRIMARY KEY (list, item)"
                .to_owned(),
            key: names("list item"),
            others: names("label position"),
            counter: "position",
            make: entry,
        },
        Shape {
            letter: "w",
            name: "200 columns",
            table: "wide",
            columns: format!("id INTEGER PRIMARY KEY NOT NULL, {}", wide_columns().join(", ")),
            key: names("id"),
            others: wide_columns(),
            counter: "c100",
            make: wide,
        },
    ]
});

fn names(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}

fn wide_columns() -> Vec<String> {
    (0..WIDE).map(|number| format!("c{number}")).collect()
}

impl Shape {
    /// The row of this number, the same in every run.
    pub(crate) fn row(&self, index: usize) -> Row {
        (self.make)(index as u64)
    }

    /// The first `count` rows; for few.
    pub(crate) fn rows(&self, count: usize) -> Vec<Row> {
        (0..count).map(|index| self.row(index)).collect()
    }

    /// Rows by number, some at a time, so that no more are held.
    pub(crate) fn chunks(&self, indexes: impl IntoIterator<Item = usize>) -> impl Iterator<Item = Vec<Row>> {
        let mut indexes = indexes.into_iter();
        std::iter::from_fn(move || {
            let rows: Vec<Row> = indexes.by_ref().take(CHUNK).map(|index| self.row(index)).collect();
            (!rows.is_empty()).then_some(rows)
        })
    }

    /// Creates the table under this name.
    pub(crate) fn schema(&self, table: &str) -> String {
        format!("CREATE TABLE {table} ({})", self.columns)
    }

    /// Whether the key is an integer that the row is stored under.
    pub(crate) fn rowid_is_key(&self) -> bool {
        self.columns.contains("INTEGER PRIMARY KEY")
    }

    /// The key columns of a row.
    pub(crate) fn key_of<'a>(&self, row: &'a [Value]) -> &'a [Value] {
        &row[..self.key.len()]
    }
}

/// Puts a random integer, from all over the range, in the place of the key.
pub(crate) fn with_sparse_key(index: usize, mut row: Row) -> Row {
    row[0] = Value::Integer(random(index as u64, 9).cast_signed() >> 1);
    row
}

fn todo(index: u64) -> Row {
    vec![
        Value::Text(uuid(index)),
        Value::Text(format!(
            "todo {index}: {}",
            ["buy milk", "call the bank", "water plants"][pick(index, 1, 3)]
        )),
        Value::Integer(pick(index, 2, 2) as i64),
    ]
}

fn order(index: u64) -> Row {
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

fn entry(index: u64) -> Row {
    vec![
        Value::Integer((index / 100).cast_signed()),
        Value::Text(format!("item-{:04}", index % 100)),
        Value::Text(format!("entry number {index}")),
        Value::Integer((index % 100).cast_signed()),
    ]
}

fn wide(index: u64) -> Row {
    let value = |column: u64| match column % 3 {
        0 => Value::Text(["new", "paid", "sent", "returned"][pick(index, column, 4)].to_owned()),
        1 => Value::Integer(pick(index, column, 5_000) as i64),
        _ => Value::Real(pick(index, column, 100_000) as f64 / 8.0),
    };
    let key = Value::Integer(index.cast_signed() + 1);
    std::iter::once(key).chain((0..WIDE as u64).map(value)).collect()
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
    fn chunks_hold_every_row_once() {
        let shape = &SHAPES[1];
        let chunks: Vec<Vec<Row>> = shape.chunks(0..CHUNK + 3).collect();
        assert_eq!(chunks.iter().map(Vec::len).collect::<Vec<_>>(), [CHUNK, 3]);
        assert_eq!(chunks.concat(), shape.rows(CHUNK + 3));
    }

    #[test]
    fn a_row_has_a_value_for_every_column() {
        for shape in SHAPES.iter() {
            assert_eq!(shape.row(7).len(), shape.key.len() + shape.others.len(), "shape {}", shape.letter);
            assert!(shape.others.iter().any(|column| column == shape.counter), "shape {}", shape.letter);
        }
    }

    #[test]
    fn sparse_keys_are_distinct() {
        let keys = (0..1_000).map(|index| with_sparse_key(index, SHAPES[1].row(index)));
        let keys: BTreeSet<String> = keys.map(|row| format!("{:?}", row[0])).collect();
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
