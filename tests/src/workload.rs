//! Random statements, as values: the same statement can be written as SQL and run by the model.

use opor_core::Value;

use crate::shape::Kind;
use crate::sql::{literal, quote};
use crate::{Rng, SHAPES, Shape};

/// A write to one table of [`SHAPES`].
#[derive(Clone, Debug)]
pub enum Statement {
    /// INSERT of one or more rows.
    Insert {
        /// Index into [`SHAPES`].
        shape: usize,
        /// What happens when a key exists.
        mode: InsertMode,
        /// Key and columns of each row.
        rows: Vec<(Vec<Value>, Vec<Value>)>,
    },
    /// UPDATE of columns.
    Update {
        /// Index into [`SHAPES`].
        shape: usize,
        /// Which rows.
        filter: Filter,
        /// Column and new value; `None` sets it to itself.
        set: Vec<(usize, Option<Value>)>,
    },
    /// UPDATE of the key of one row, and of some columns with it.
    Move {
        /// Index into [`SHAPES`].
        shape: usize,
        /// The row.
        from: Vec<Value>,
        /// Its new key.
        to: Vec<Value>,
        /// UPDATE OR REPLACE.
        replace: bool,
        /// Column and new value.
        set: Vec<(usize, Option<Value>)>,
    },
    /// UPDATE that adds to an integer key column of many rows.
    Shift {
        /// Index into [`SHAPES`].
        shape: usize,
        /// Which rows.
        filter: Filter,
        /// Index of the key column.
        key: usize,
        /// What is added.
        by: i64,
    },
    /// DELETE.
    Delete {
        /// Index into [`SHAPES`].
        shape: usize,
        /// Which rows.
        filter: Filter,
    },
}

/// What an INSERT does with a key that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertMode {
    /// It fails.
    Plain,
    /// INSERT OR REPLACE.
    Replace,
    /// INSERT OR IGNORE.
    Ignore,
    /// ON CONFLICT DO UPDATE of these columns.
    Upsert(Vec<usize>),
}

/// Which rows a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All; a DELETE truncates.
    All,
    /// The one with this key.
    Key(Vec<Value>),
    /// Those whose first key column is at least this.
    From(Value),
}

impl Statement {
    /// The statement in SQL. Scans are in the order of rowids, whatever indexes there are.
    #[must_use]
    pub fn sql(&self) -> String {
        match self {
            Self::Insert { shape, mode, rows } => insert_sql(&SHAPES[*shape], mode, rows),
            Self::Update { shape, filter, set } => {
                let shape = &SHAPES[*shape];
                format!("UPDATE {} NOT INDEXED SET {}{}", shape.name, set_sql(shape, set), filter.sql(shape))
            }
            Self::Move { shape, from, to, replace, set } => {
                let shape = &SHAPES[*shape];
                let verb = if *replace { "UPDATE OR REPLACE" } else { "UPDATE" };
                let keys = shape.key.iter().zip(to).map(|(column, value)| assign(column, value));
                let sets =
                    keys.chain(set.iter().map(|one| set_one(shape, one))).collect::<Vec<_>>().join(", ");
                format!("{verb} {} SET {sets}{}", shape.name, Filter::Key(from.clone()).sql(shape))
            }
            Self::Shift { shape, filter, key, by } => {
                let shape = &SHAPES[*shape];
                let column = quote(shape.key[*key]);
                format!(
                    "UPDATE {} NOT INDEXED SET {column} = {column} + {by}{}",
                    shape.name,
                    filter.sql(shape)
                )
            }
            Self::Delete { shape, filter: Filter::All } => format!("DELETE FROM {}", SHAPES[*shape].name),
            Self::Delete { shape, filter } => {
                format!("DELETE FROM {} NOT INDEXED{}", SHAPES[*shape].name, filter.sql(&SHAPES[*shape]))
            }
        }
    }
}

impl Filter {
    fn sql(&self, shape: &Shape) -> String {
        match self {
            Self::All => String::new(),
            Self::Key(key) => {
                let terms = shape.key.iter().zip(key);
                let terms = terms.map(|(column, value)| assign(column, value)).collect::<Vec<_>>();
                format!(" WHERE {}", terms.join(" AND "))
            }
            Self::From(value) => format!(" WHERE +{} >= {}", quote(shape.key[0]), literal(value)),
        }
    }
}

fn insert_sql(shape: &Shape, mode: &InsertMode, rows: &[(Vec<Value>, Vec<Value>)]) -> String {
    let names = shape.key.iter().chain(shape.columns).map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    let tuple = |(key, cells): &(Vec<Value>, Vec<Value>)| {
        format!("({})", key.iter().chain(cells).map(literal).collect::<Vec<_>>().join(", "))
    };
    let rows = rows.iter().map(tuple).collect::<Vec<_>>().join(", ");
    let verb = match mode {
        InsertMode::Replace => "INSERT OR REPLACE",
        InsertMode::Ignore => "INSERT OR IGNORE",
        InsertMode::Plain | InsertMode::Upsert(_) => "INSERT",
    };
    let tail = match mode {
        InsertMode::Upsert(columns) => {
            let excluded = |i: &usize| {
                let name = quote(shape.columns[*i]);
                format!("{name} = excluded.{name}")
            };
            let sets = columns.iter().map(excluded).collect::<Vec<_>>().join(", ");
            let key = shape.key.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
            format!(" ON CONFLICT ({key}) DO UPDATE SET {sets}")
        }
        _ => String::new(),
    };
    format!("{verb} INTO {} ({names}) VALUES {rows}{tail}", shape.name)
}

fn assign(column: &str, value: &Value) -> String {
    format!("{} = {}", quote(column), literal(value))
}

fn set_one(shape: &Shape, (column, value): &(usize, Option<Value>)) -> String {
    let name = quote(shape.columns[*column]);
    match value {
        Some(value) => format!("{name} = {}", literal(value)),
        None => format!("{name} = {name}"),
    }
}

fn set_sql(shape: &Shape, set: &[(usize, Option<Value>)]) -> String {
    set.iter().map(|one| set_one(shape, one)).collect::<Vec<_>>().join(", ")
}

/// A statement on one of the first `shapes` tables, some of which fail. `replace_moves` allows UPDATE OR REPLACE of keys.
pub fn random_statement(rng: &mut Rng, shapes: usize, replace_moves: bool) -> Statement {
    let index = rng.below(shapes);
    let shape = &SHAPES[index];
    match rng.below(100) {
        0..40 => random_insert(rng, index),
        40..75 if !shape.columns.is_empty() => {
            let filter = random_filter(rng, shape);
            Statement::Update { shape: index, filter, set: random_set(rng, shape, 1) }
        }
        40..86 => random_move(rng, index, replace_moves),
        86..99 => {
            let filter = random_filter(rng, shape);
            let filter = if filter == Filter::All { Filter::Key(shape.random_key(rng)) } else { filter };
            Statement::Delete { shape: index, filter }
        }
        _ => Statement::Delete { shape: index, filter: Filter::All },
    }
}

fn random_insert(rng: &mut Rng, index: usize) -> Statement {
    let shape = &SHAPES[index];
    let count = if rng.chance(70) { 1 } else { 2 + rng.below(3) };
    let row = |rng: &mut Rng| {
        let cells = shape.column_kinds.iter().map(|kind| random_value(rng, *kind)).collect();
        (shape.random_key(rng), cells)
    };
    let rows = (0..count).map(|_| row(rng)).collect();
    let mode = match rng.below(10) {
        0..4 => InsertMode::Plain,
        4..6 => InsertMode::Replace,
        6..8 if !shape.columns.is_empty() => {
            let mut columns: Vec<usize> = (0..shape.columns.len()).collect();
            rng.shuffle(&mut columns);
            columns.truncate(1 + rng.below(shape.columns.len()));
            columns.sort_unstable();
            InsertMode::Upsert(columns)
        }
        _ => InsertMode::Ignore,
    };
    Statement::Insert { shape: index, mode, rows }
}

fn random_move(rng: &mut Rng, index: usize, replace_moves: bool) -> Statement {
    let shape = &SHAPES[index];
    let integer = shape.key_kinds.iter().position(|kind| *kind == Kind::Integer);
    if let (Some(key), true) = (integer, rng.chance(25)) {
        let filter = random_filter(rng, shape);
        return Statement::Shift { shape: index, filter, key, by: *rng.pick(&[1, 3, 100]) };
    }
    let (from, to) = (shape.random_key(rng), shape.random_key(rng));
    let replace = replace_moves && rng.chance(30);
    Statement::Move { shape: index, from, to, replace, set: random_set(rng, shape, 0) }
}

fn random_filter(rng: &mut Rng, shape: &Shape) -> Filter {
    match rng.below(10) {
        0 => Filter::All,
        1..3 => Filter::From(shape.random_key(rng).swap_remove(0)),
        _ => Filter::Key(shape.random_key(rng)),
    }
}

fn random_set(rng: &mut Rng, shape: &Shape, least: usize) -> Vec<(usize, Option<Value>)> {
    let mut set = Vec::new();
    for (column, kind) in shape.column_kinds.iter().enumerate() {
        if rng.chance(40) {
            set.push((column, rng.chance(85).then(|| random_value(rng, *kind))));
        }
    }
    if set.len() < least {
        set.push((0, Some(random_value(rng, shape.column_kinds[0]))));
    }
    set
}

/// A value a column takes unchanged; a NOT NULL column sometimes gets the NULL it refuses.
pub(crate) fn random_value(rng: &mut Rng, kind: Kind) -> Value {
    let kind = match kind {
        Kind::Any => *rng.pick(&[Kind::Integer, Kind::Integer, Kind::Real, Kind::Text, Kind::Blob]),
        Kind::IntegerNotNull if rng.chance(97) => {
            return Value::Integer(rng.below(4) as i64);
        }
        other => other,
    };
    if rng.chance(12) {
        return Value::Null;
    }
    match kind {
        Kind::Real => Value::Real(*rng.pick(&[0.5, -1.25, 1e300, 0.1, 3.0, f64::MIN_POSITIVE])),
        Kind::Text => Value::from(*rng.pick(&["", "a", "ab", "b", "it's", "\u{1f980} \u{43f}", "5"])),
        Kind::Blob => Value::Blob(rng.pick(&[&b""[..], b"\0", b"\x01\x02", b"\xff", b"a"]).to_vec()),
        _ => Value::Integer(*rng.pick(&[0, 1, 2, 3, -1, 40, i64::MAX, i64::MIN])),
    }
}
