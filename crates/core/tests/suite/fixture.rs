//! Data that looks like an application's, the same on every run.

use opor_core::{Cell, Changeset, Clock, PackedKey, RowChange, SiteId, Value};

/// A small generator of numbers (SplitMix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// A random UUID as text.
    pub(crate) fn uuid(&mut self) -> Value {
        let (a, b) = (self.next(), self.next());
        let text = format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            a >> 16 & 0xffff,
            a & 0xfff,
            b >> 48 & 0x3fff | 0x8000,
            b & 0xffff_ffff_ffff
        );
        Value::Text(text)
    }

    /// Words with spaces between them, about `len` bytes.
    pub(crate) fn words(&mut self, len: usize) -> Value {
        const WORDS: [&str; 24] = [
            "buy", "milk", "call", "Anna", "write", "report", "fix", "bicycle", "clean", "kitchen", "book",
            "train", "pay", "rent", "water", "plants", "send", "letter", "read", "paper", "plan", "holiday",
            "meet", "team",
        ];
        let mut text = String::new();
        while text.len() + 4 < len {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(WORDS[self.below(WORDS.len() as u64) as usize]);
        }
        Value::Text(text)
    }
}

/// The stamp of one commit, as the hybrid clock gives it in 2026.
pub(crate) const STAMP: u64 = 1_780_000_000_000 << 9;

/// Rows written by one commit of one site.
pub(crate) struct Commit {
    pub(crate) changeset: Changeset,
    columns: usize,
    seq: u64,
}

impl Commit {
    pub(crate) fn new(table: &str, columns: &[&str]) -> Self {
        let mut changeset = Changeset::new();
        let table = changeset.table_index(table);
        for column in columns {
            changeset.column_index(table, column);
        }
        changeset.site_index(SiteId::from([0xa5; 16]));
        Self { changeset, columns: columns.len(), seq: 0 }
    }

    /// One new row.
    pub(crate) fn row(&mut self, key: &[Value], values: Vec<Value>) {
        assert_eq!(values.len(), self.columns, "a value for each column");
        let cells = values.into_iter().zip(0..).map(|(value, column)| {
            self.seq += 1;
            let clock =
                Clock { col_version: STAMP.into(), db_version: 42.into(), seq: self.seq - 1, site: 0 };
            Cell { column, value, clock }
        });
        let cells = cells.collect();
        let row = RowChange { table: 0, key: PackedKey::pack(key), cl: 1.into(), sentinel: None, cells };
        self.changeset.push_row(row);
    }
}

/// `todos(id TEXT PRIMARY KEY, title TEXT, done INTEGER)` with random UUIDs.
pub(crate) fn todos(rows: u64) -> Changeset {
    let mut numbers = Numbers(1);
    let mut commit = Commit::new("todos", &["title", "done"]);
    for _ in 0..rows {
        let id = numbers.uuid();
        let values = vec![numbers.words(20), Value::Integer(numbers.below(2).cast_signed())];
        commit.row(&[id], values);
    }
    commit.changeset
}

/// `orders(id INTEGER PRIMARY KEY, 10 columns of all types)`.
pub(crate) fn mixed(rows: i64) -> Changeset {
    let names =
        ["customer", "status", "note", "quantity", "price", "weight", "created", "updated", "flag", "token"];
    let mut numbers = Numbers(2);
    let mut commit = Commit::new("orders", &names);
    for id in 0..rows {
        let created = 1_780_000_000_000 + id * 1000 + numbers.below(1000).cast_signed();
        let values = vec![
            Value::Text(format!("customer-{}", numbers.below(5000))),
            ["open", "paid", "shipped", "cancelled"][numbers.below(4) as usize].into(),
            if numbers.below(3) == 0 { Value::Null } else { numbers.words(30) },
            Value::Integer(numbers.below(100).cast_signed()),
            Value::Real(numbers.below(100_000) as f64 / 100.0),
            Value::Real((numbers.next() >> 11) as f64 / (1_u64 << 53) as f64),
            Value::Integer(created),
            Value::Integer(created + numbers.below(1 << 20).cast_signed()),
            Value::Integer(numbers.below(2).cast_signed()),
            Value::Blob(numbers.bytes(16)),
        ];
        commit.row(&[Value::Integer(id)], values);
    }
    commit.changeset
}

/// `readings(device TEXT, at INTEGER, value REAL, unit TEXT, PRIMARY KEY (device, at))`.
pub(crate) fn composite(rows: i64) -> Changeset {
    let mut numbers = Numbers(3);
    let mut commit = Commit::new("readings", &["value", "unit", "note"]);
    for n in 0..rows {
        let key =
            [Value::Text(format!("device-{:04}", n / 100)), Value::Integer(1_780_000_000 + n % 100 * 60)];
        let values =
            vec![Value::Real(numbers.below(5000) as f64 / 10.0), "celsius".into(), numbers.words(20)];
        commit.row(&key, values);
    }
    commit.changeset
}
