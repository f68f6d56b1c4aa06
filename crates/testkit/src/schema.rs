//! What the replicas hold, and what the application writes.

use std::fmt;
use std::sync::Arc;

use crate::rng::Rng;

type Writer = dyn Fn(&mut Rng) -> Vec<String> + Send + Sync;

/// Tables, and the transactions that are made on them.
///
/// The simulator has a table of its own beside these, in which every transaction leaves some rows; by them it sees
/// whether a transaction is there, and whether it is there as a whole.
#[derive(Clone)]
pub struct Schema {
    pub(crate) create: String,
    pub(crate) tables: Vec<String>,
    pub(crate) write: Arc<Writer>,
    pub(crate) always: Vec<String>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl Schema {
    /// The SQL that creates the tables, and the names of those that replicate. `write` makes the statements of one
    /// transaction. It must get all its choices from the generator that it is given. Where a statement breaks a rule of the
    /// schema the transaction is rolled back.
    #[must_use]
    pub fn new(
        create: impl Into<String>,
        tables: &[&str],
        write: impl Fn(&mut Rng) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            create: create.into(),
            tables: tables.iter().map(|&table| table.to_owned()).collect(),
            write: Arc::new(write),
            always: Vec::new(),
        }
    }

    /// Adds a query that must never find a row: what every transaction keeps true, and every merge of whole transactions. It is
    /// asked after every commit of every replica, in runs in which transactions arrive whole.
    #[must_use]
    pub fn never(mut self, query: impl Into<String>) -> Self {
        self.always.push(query.into());
        self
    }
}

/// Keys of all kinds, wide and narrow tables, rows that come and go, and pairs of rows in two tables that are always
/// written together and must never differ.
impl Default for Schema {
    fn default() -> Self {
        let halves =
            "SELECT 1 FROM left_half l FULL JOIN right_half r ON r.id = 'pair ' || l.id WHERE l.v IS NOT r.v";
        Self::new(CREATE, &["item", "note", "edge", "left_half", "right_half"], transaction).never(halves)
    }
}

const CREATE: &str = "
CREATE TABLE item(id INTEGER PRIMARY KEY NOT NULL, a, b TEXT, c REAL DEFAULT 1.5);
CREATE TABLE note(id TEXT PRIMARY KEY NOT NULL, body TEXT, n INTEGER);
CREATE TABLE edge(x INTEGER NOT NULL, y TEXT NOT NULL, w, PRIMARY KEY(x, y)) WITHOUT ROWID;
CREATE TABLE left_half(id INTEGER PRIMARY KEY NOT NULL, v INTEGER);
CREATE TABLE right_half(id TEXT PRIMARY KEY NOT NULL, v INTEGER);
";

/// Few enough keys that replicas meet at them.
const KEYS: u64 = 12;

fn transaction(rng: &mut Rng) -> Vec<String> {
    let count = if rng.chance(40) { 20 } else { 1 + rng.below(4) };
    (0..count).flat_map(|_| statements(rng)).collect()
}

fn statements(rng: &mut Rng) -> Vec<String> {
    let (key, value) = (rng.below(KEYS), value(rng));
    let one = match rng.below(16) {
        0..3 => format!(
            "INSERT INTO item VALUES ({key}, {value}, 'b{0}', {0}.25) ON CONFLICT DO UPDATE SET b = excluded.b",
            rng.below(9)
        ),
        3..5 => format!("UPDATE item SET a = {value} WHERE id = {key}"),
        5 => format!("UPDATE item SET a = {value}, c = c + 1 WHERE id % 3 = {}", key % 3),
        6..8 => format!("DELETE FROM item WHERE id = {key}"),
        8 => format!("REPLACE INTO note VALUES ('note {key}', {value}, {})", rng.below(100)),
        9 => format!("INSERT OR IGNORE INTO note VALUES ('note {key}', 'new', 0)"),
        10 => format!("UPDATE note SET n = n + 1 WHERE id = 'note {key}'"),
        11 => format!("DELETE FROM note WHERE id = 'note {key}'"),
        12 => format!("INSERT OR IGNORE INTO edge VALUES ({}, 'y{}', {value})", key % 4, rng.below(4)),
        13 => format!("DELETE FROM edge WHERE x = {} AND y = 'y{}'", key % 4, rng.below(4)),
        _ => {
            let (pair, v) = (rng.below(6), rng.below(1_000_000));
            return vec![
                format!(
                    "INSERT INTO left_half VALUES ({pair}, {v}) ON CONFLICT DO UPDATE SET v = excluded.v"
                ),
                format!(
                    "INSERT INTO right_half VALUES ('pair {pair}', {v}) ON CONFLICT DO UPDATE SET v = excluded.v"
                ),
            ];
        }
    };
    vec![one]
}

fn value(rng: &mut Rng) -> String {
    match rng.below(12) {
        0 => "NULL".to_owned(),
        1 => format!("{}.5", rng.below(5)),
        2 => format!("zeroblob({})", rng.below(3_000)),
        3..7 => rng.below(5).to_string(),
        _ => format!("'value {}'", rng.below(1_000)),
    }
}
