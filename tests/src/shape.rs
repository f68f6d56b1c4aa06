//! The tables random histories run on: every kind of key, with and without columns, with and without rowids.

use opor_core::Value;

use crate::Rng;

/// What a key or a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any of the five types.
    Any,
    /// Integers or NULL.
    Integer,
    /// Integers; 7 where nothing is given.
    IntegerNotNull,
    /// Reals or NULL.
    Real,
    /// Text or NULL.
    Text,
    /// Bytes or NULL.
    Blob,
}

/// A table of the histories.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// The statement that makes it.
    pub create: &'static str,
    /// The key columns, in PRIMARY KEY order.
    pub key: &'static [&'static str],
    /// The other columns.
    pub columns: &'static [&'static str],
    pub(crate) key_kinds: &'static [Kind],
    pub(crate) column_kinds: &'static [Kind],
    /// Whether a row is found by its key, having no rowid or a key that is its rowid.
    pub(crate) clustered: bool,
}

/// All shapes.
pub const SHAPES: &[Shape] = &[
    Shape {
        name: "ints",
        create: "CREATE TABLE ints(id INTEGER PRIMARY KEY NOT NULL, a, b TEXT, n INTEGER NOT NULL DEFAULT 7)",
        key: &["id"],
        columns: &["a", "b", "n"],
        key_kinds: &[Kind::Integer],
        column_kinds: &[Kind::Any, Kind::Text, Kind::IntegerNotNull],
        clustered: true,
    },
    Shape {
        name: "uuids",
        create: "CREATE TABLE uuids(id TEXT PRIMARY KEY NOT NULL, a, r REAL, b BLOB)",
        key: &["id"],
        columns: &["a", "r", "b"],
        key_kinds: &[Kind::Text],
        column_kinds: &[Kind::Any, Kind::Real, Kind::Blob],
        clustered: false,
    },
    Shape {
        name: "pairs",
        create: "CREATE TABLE pairs(x INTEGER NOT NULL, y TEXT NOT NULL, a, b, PRIMARY KEY (y, x))",
        key: &["y", "x"],
        columns: &["a", "b"],
        key_kinds: &[Kind::Text, Kind::Integer],
        column_kinds: &[Kind::Any, Kind::Any],
        clustered: false,
    },
    Shape {
        name: "links",
        create: "CREATE TABLE links(x INTEGER NOT NULL, y TEXT NOT NULL, PRIMARY KEY (x, y))",
        key: &["x", "y"],
        columns: &[],
        key_kinds: &[Kind::Integer, Kind::Text],
        column_kinds: &[],
        clustered: false,
    },
    Shape {
        name: "maps",
        create: "CREATE TABLE maps(k TEXT PRIMARY KEY NOT NULL, a, b) WITHOUT ROWID",
        key: &["k"],
        columns: &["a", "b"],
        key_kinds: &[Kind::Text],
        column_kinds: &[Kind::Any, Kind::Any],
        clustered: true,
    },
    Shape {
        name: "stricts",
        create: "CREATE TABLE stricts(id BLOB PRIMARY KEY NOT NULL, i INTEGER, t TEXT, z ANY) STRICT",
        key: &["id"],
        columns: &["i", "t", "z"],
        key_kinds: &[Kind::Blob],
        column_kinds: &[Kind::Integer, Kind::Text, Kind::Any],
        clustered: false,
    },
];

impl Shape {
    /// The index of a column that is not part of the key.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| *column == name)
    }

    /// A key from a space small enough that replicas meet.
    pub fn random_key(&self, rng: &mut Rng) -> Vec<Value> {
        let spread = if self.key.len() > 1 { 4 } else { 9 };
        self.key_kinds.iter().map(|kind| random_key_column(*kind, spread, rng)).collect()
    }

    /// A value for a column; sometimes one it refuses.
    pub fn random_cell(&self, rng: &mut Rng, column: usize) -> Value {
        crate::workload::random_value(rng, self.column_kinds[column])
    }

    /// What a row gets where a merge brings no value.
    #[must_use]
    pub fn defaults(&self) -> Vec<Value> {
        let default = |kind: &Kind| match kind {
            Kind::IntegerNotNull => Value::Integer(7),
            _ => Value::Null,
        };
        self.column_kinds.iter().map(default).collect()
    }
}

fn random_key_column(kind: Kind, spread: usize, rng: &mut Rng) -> Value {
    let n = rng.below(spread) as i64;
    match kind {
        Kind::Text if rng.chance(8) => Value::from("it's \u{43a}\u{43b}\u{44e}\u{447}"),
        Kind::Text if spread > 4 => Value::Text(format!("018f3a1c-7b2e-7c3d-8e4f-{n:012x}")),
        Kind::Text => Value::Text(format!("y{n}")),
        Kind::Blob => Value::Blob(vec![n as u8; (n % 3) as usize + 1]),
        _ if rng.chance(5) => Value::Integer(*rng.pick(&[-1, 0, 255, 70_000, 1 << 40])),
        _ => Value::Integer(n + 1),
    }
}
