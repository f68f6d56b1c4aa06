//! Random histories of replicas that get their tables and columns at different times: once all have all of them, they have
//! equal tables and equal logs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opor_core::{Change, Changeset, DbVersion, Value, WallMillis};
use opor_store::{ApplyOptions, Cursor, OpenOptions, Store};
use opor_tests::{ChangeRow, Rng, changes_since, message, run, table_dump};

use crate::histories::{operations, seeds};
use crate::replicas::{Folder, lines, site};

/// A table of these histories, and the columns that it gets later.
struct Shape {
    name: &'static str,
    create: &'static str,
    keys: &'static [&'static str],
    first: &'static [&'static str],
    later: &'static [(&'static str, &'static str)],
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "ints",
        create: "CREATE TABLE ints(id INTEGER PRIMARY KEY NOT NULL, a)",
        keys: &["id"],
        first: &["a"],
        later: &[("b", "b TEXT"), ("c", "c INTEGER NOT NULL DEFAULT 5")],
    },
    Shape {
        name: "uuids",
        create: "CREATE TABLE uuids(id TEXT PRIMARY KEY NOT NULL, a, b)",
        keys: &["id"],
        first: &["a", "b"],
        later: &[("c", "c")],
    },
    Shape {
        name: "pairs",
        create: "CREATE TABLE pairs(x INTEGER NOT NULL, y TEXT NOT NULL, a, PRIMARY KEY (y, x)) WITHOUT ROWID",
        keys: &["y", "x"],
        first: &["a"],
        later: &[("b", "b DEFAULT 'none'")],
    },
    Shape {
        name: "links",
        create: "CREATE TABLE links(x INTEGER NOT NULL, y TEXT NOT NULL, PRIMARY KEY (x, y))",
        keys: &["x", "y"],
        first: &[],
        later: &[("a", "a")],
    },
];

/// Operations of one history.
const STEPS: usize = 120;

struct Replica {
    store: Store,
    options: OpenOptions,
    path: Option<std::path::PathBuf>,
    wall: Arc<AtomicU64>,
    /// By shape, whether the table is there, and which of its later columns.
    has: Vec<(bool, Vec<bool>)>,
}

struct World {
    rng: Rng,
    replicas: Vec<Replica>,
    history: Vec<String>,
    kept: usize,
    released: usize,
    seed: u64,
    _folder: Folder,
}

#[test]
fn replicas_that_get_their_schema_at_different_times_converge() {
    // Many short ones: what is told apart here is told apart while schemas differ.
    let seeds = seeds(0x9000, (operations(3_600) / STEPS) as u64);
    let (mut kept, mut released) = (0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.converge();
        kept += world.kept;
        released += world.released;
    }
    assert!(kept > 0 && released > 0, "something was kept ({kept}) and let go ({released})");
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (count, files, folder) = (2 + rng.below(3), rng.chance(40), Folder::new());
        let replicas = (0..count).map(|index| {
            let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
            let clock = wall.clone();
            let options = OpenOptions::new()
                .site_id(site(0xb0 + index as u8))
                .drift_max_ms(1 << 40)
                .wall_clock(Arc::new(move || WallMillis(clock.fetch_add(1, Ordering::Relaxed))));
            let path = files.then(|| folder.file(&format!("{index}.db")));
            let store = match &path {
                Some(path) => options.open(path),
                None => options.open_in_memory(),
            };
            let has = SHAPES.iter().map(|shape| (false, vec![false; shape.later.len()])).collect();
            Replica { store: store.expect("a store"), options, path, wall, has }
        });
        let replicas = replicas.collect();
        let mut world =
            Self { rng, replicas, history: Vec::new(), kept: 0, released: 0, seed, _folder: folder };
        for target in 0..world.replicas.len() {
            for _ in 0..world.rng.below(8) {
                world.grow(target);
            }
        }
        world
    }

    fn step(&mut self) {
        let target = self.rng.below(self.replicas.len());
        match self.rng.below(100) {
            0..50 => self.write(target),
            50..58 => self.transaction(target),
            58..78 => self.pull(target),
            78..86 => self.deliver_some(target),
            86..91 => self.grow(target),
            91..95 => {
                self.replicas[target].wall.fetch_add(self.rng.below(9_000) as u64, Ordering::Relaxed);
            }
            _ => self.reopen(target),
        }
    }

    fn note(&mut self, target: usize, what: &str) {
        self.history.push(format!("{target}: {what}"));
    }

    fn sql(&mut self, target: usize, sql: &str) {
        let outcome = run(&self.replicas[target].store, sql);
        self.note(target, sql);
        if let Err(error) = outcome {
            let code = error.sqlite_error_code();
            let text = message(&error);
            assert_eq!(code, Some(rusqlite::ErrorCode::ConstraintViolation), "{text}\n{}", self.tail());
        }
    }

    /// Makes a table, or adds a column to one.
    fn grow(&mut self, target: usize) {
        let which = self.rng.below(SHAPES.len());
        let shape = &SHAPES[which];
        let (has_table, columns) = &mut self.replicas[target].has[which];
        if !*has_table {
            *has_table = true;
            self.sql(target, shape.create);
            let replica = &mut self.replicas[target];
            replica.store.replicate(shape.name).unwrap_or_else(|error| panic!("{error}"));
            self.note(target, "replicate");
            return;
        }
        let Some(place) = columns.iter().position(|has| !has) else { return };
        columns[place] = true;
        let (name, column) = (shape.name, shape.later[place].1);
        let alter = format!("ALTER TABLE {name} ADD COLUMN {column}");
        match self.rng.below(3) {
            0 => self.sql(target, &alter),
            1 => self.sql(
                target,
                &format!("SELECT crsql_begin_alter('{name}'); {alter}; SELECT crsql_commit_alter('{name}')"),
            ),
            _ => self.sql(target, &format!("BEGIN; {alter}; COMMIT")),
        }
    }

    fn write(&mut self, target: usize) {
        let which = self.rng.below(SHAPES.len());
        let shape = &SHAPES[which];
        let (has_table, later) = &self.replicas[target].has[which];
        if !*has_table {
            return;
        }
        let later = later.iter().zip(shape.later).filter(|(has, _)| **has).map(|(_, (name, _))| *name);
        let columns: Vec<&str> = shape.first.iter().copied().chain(later).collect();
        let value = |rng: &mut Rng| match rng.below(3) {
            0 => rng.below(4).to_string(),
            1 => format!("'v{}'", rng.below(4)),
            _ => "7".to_owned(),
        };
        let key = |rng: &mut Rng, name: &str| {
            if matches!((shape.name, name), ("ints", _) | (_, "x")) {
                rng.below(6).to_string()
            } else {
                format!("'k{}'", rng.below(5))
            }
        };
        let rng = &mut self.rng;
        let keys: Vec<String> = shape.keys.iter().map(|name| key(rng, name)).collect();
        let place = shape.keys.iter().zip(&keys).map(|(name, value)| format!("{name} = {value}"));
        let place = place.collect::<Vec<_>>().join(" AND ");
        let sql = match rng.below(10) {
            0..4 => {
                let values = columns.iter().map(|_| value(rng)).collect::<Vec<_>>();
                let names = shape.keys.iter().chain(&columns).copied().collect::<Vec<_>>().join(", ");
                let all = keys.iter().chain(&values).cloned().collect::<Vec<_>>().join(", ");
                let how = if rng.chance(30) { "OR REPLACE" } else { "OR IGNORE" };
                format!("INSERT {how} INTO {}({names}) VALUES ({all})", shape.name)
            }
            4..7 if !columns.is_empty() => {
                let column = rng.pick(&columns);
                format!("UPDATE {} SET {column} = {} WHERE {place}", shape.name, value(rng))
            }
            7 => {
                let name = rng.pick(shape.keys);
                let to = key(rng, name);
                format!("UPDATE OR IGNORE {} SET {name} = {to} WHERE {place}", shape.name)
            }
            _ => format!("DELETE FROM {} WHERE {place}", shape.name),
        };
        self.sql(target, &sql);
    }

    fn transaction(&mut self, target: usize) {
        self.sql(target, "BEGIN");
        for _ in 0..1 + self.rng.below(4) {
            match self.rng.below(8) {
                0 => {
                    self.sql(target, "SAVEPOINT s");
                    self.write(target);
                    self.sql(target, "ROLLBACK TO s; RELEASE s");
                }
                1 => self.deliver_some(target),
                _ => self.write(target),
            }
        }
        let end = if self.rng.chance(80) { "COMMIT" } else { "ROLLBACK" };
        self.sql(target, end);
    }

    fn other(&mut self, target: usize) -> usize {
        (target + 1 + self.rng.below(self.replicas.len() - 1)) % self.replicas.len()
    }

    fn apply(&mut self, target: usize, changes: &Changeset, options: &ApplyOptions) {
        let outcome = self.replicas[target].store.apply_with(changes, options);
        let report = outcome.unwrap_or_else(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            panic!("apply to {target}: {error}: {source:?}\n{}", self.tail())
        });
        self.kept += report.quarantined;
        self.released += report.released;
    }

    fn pull(&mut self, target: usize) {
        let source = self.other(target);
        let size = *self.rng.pick(&[1, 3, 20, 1000]);
        let whole = self.rng.chance(70);
        self.note(target, &format!("pull by {size} from {source}, whole: {whole}"));
        while !self.pull_piece(target, source, size) && whole {}
    }

    fn pull_piece(&mut self, target: usize, source: usize, size: usize) -> bool {
        let peer = self.replicas[source].store.site_id();
        let cursor = self.replicas[target].store.peer_cursor(peer).expect("a cursor");
        let batch = self.replicas[source].store.changes(&cursor.unwrap_or_else(Cursor::start), size);
        let batch = batch.unwrap_or_else(|error| panic!("{error}\n{}", self.tail()));
        let options = ApplyOptions { cursor: Some((peer, batch.cursor)), ..ApplyOptions::default() };
        self.apply(target, &batch.changeset, &options);
        batch.done
    }

    fn everything(&self, source: usize) -> Changeset {
        self.replicas[source].store.changes_since(DbVersion(0)).expect("the changes")
    }

    fn deliver_some(&mut self, target: usize) {
        let source = self.other(target);
        let percent = *self.rng.pick(&[10, 50, 90]);
        let all = self.everything(source);
        let mut some: Vec<Change> = all.changes().filter(|_| self.rng.chance(percent)).collect();
        self.rng.shuffle(&mut some);
        self.note(target, &format!("deliver {} of {} from {source}", some.len(), all.len()));
        self.apply(target, &some.into_iter().collect(), &ApplyOptions::default());
    }

    fn reopen(&mut self, target: usize) {
        let replica = &mut self.replicas[target];
        let Some(path) = &replica.path else { return };
        replica.store = replica.options.open(path).expect("the file opens again");
        self.note(target, "reopen");
    }

    fn converge(&mut self) {
        for target in 0..self.replicas.len() {
            let missing = |replica: &Replica| {
                replica.has.iter().any(|(table, columns)| !table || columns.contains(&false))
            };
            while missing(&self.replicas[target]) {
                self.grow(target);
            }
        }
        self.history.push("anti-entropy".to_owned());
        self.exchange(|world, target, source| while !world.pull_piece(target, source, 20) {});
        self.assert_equal("after pulling by cursor");
        self.exchange(|world, target, source| {
            let all = world.everything(source);
            world.apply(target, &all, &ApplyOptions::default());
        });
        self.assert_equal("after a full exchange");
        for index in 0..self.replicas.len() {
            let sound = lines(&self.replicas[index].store, "PRAGMA integrity_check");
            assert_eq!(sound, ["ok"], "replica {index}\n{}", self.tail());
            let left = self.replicas[index].store.quarantine().expect("what is in quarantine");
            assert_eq!((left.changes, left.bytes), (0, 0), "nothing is left\n{}", self.tail());
        }
    }

    fn exchange(&mut self, exchange: impl Fn(&mut Self, usize, usize)) {
        let versions = |world: &Self| -> Vec<DbVersion> {
            world.replicas.iter().map(|replica| replica.store.db_version().expect("a version")).collect()
        };
        for _ in 0..4 * self.replicas.len() {
            let before = versions(self);
            for target in 0..self.replicas.len() {
                let sources = (0..self.replicas.len()).filter(|source| *source != target);
                sources.for_each(|source| exchange(self, target, source));
            }
            if versions(self) == before {
                return;
            }
        }
        panic!("replicas keep telling each other news\n{}", self.tail());
    }

    fn assert_equal(&self, when: &str) {
        let first = content(&self.replicas[0].store);
        for index in 1..self.replicas.len() {
            let content = content(&self.replicas[index].store);
            if content != first {
                let extra =
                    content.iter().filter(|line| !first.contains(line)).map(|line| format!("+ {line}"));
                let missing =
                    first.iter().filter(|line| !content.contains(line)).map(|line| format!("- {line}"));
                let lines = missing.chain(extra).collect::<Vec<_>>().join("\n");
                panic!("{when}: replica 0 (-) and {index} (+) differ\n{lines}\n{}", self.tail());
            }
        }
    }

    fn tail(&self) -> String {
        let from = self.history.len().saturating_sub(40);
        format!("seed {}\n{}", self.seed, self.history[from..].join("\n"))
    }
}

/// Tables and log, as far as replicas must agree. A table of keys alone that got columns has sentinels of causal length 1
/// that say nothing, and who wrote what first among equals is local knowledge.
fn content(store: &Store) -> Vec<String> {
    let mut lines = Vec::new();
    for shape in SHAPES {
        let names = shape.keys.iter().chain(shape.first).chain(shape.later.iter().map(|(name, _)| name));
        let names: Vec<_> = names.copied().collect();
        let order = names.join(", ");
        let rows: Vec<Vec<Value>> =
            opor_tests::rows_of(store, &format!("SELECT {order} FROM {} ORDER BY {order}", shape.name), [])
                .expect("the table reads");
        assert_eq!(rows.len(), table_dump(store, shape.name).expect("the table reads").len());
        lines.extend(rows.iter().map(|row| format!("{} {row:?}", shape.name)));
    }
    let log = changes_since(store, "TRUE").expect("the change log reads");
    let line = |row: &ChangeRow| {
        let ChangeRow { table, pk, cid, val, col_version, cl, .. } = row;
        format!("log {table} {pk:?} {cid} {val:?} v{col_version} cl{cl}")
    };
    let mut log: Vec<_> = log.iter().filter(|row| !(row.is_sentinel() && row.cl == 1)).map(line).collect();
    log.sort();
    lines.extend(log);
    lines
}
