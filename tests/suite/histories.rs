//! Random histories on several replicas: whatever happens in whatever order, they end with equal tables and equal logs.
//!
//! `OPOR_SEED` repeats one history, `OPOR_OPS` changes how many operations a run makes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opor_core::{Change, Changeset, DbVersion, SiteId, Value, WallMillis};
use opor_store::{ApplyOptions, ClockPolicy, Cursor, OpenOptions, Store};
use opor_tests::{
    ChangeRow, Rng, SHAPES, apply_row, changes_since, message, random_statement, run, table_dump,
};

use crate::invariants;
use crate::replicas::{Folder, site};

/// The seeds of a run: the one asked for, or `count` that follow `first`.
pub(crate) fn seeds(first: u64, count: u64) -> Vec<u64> {
    match std::env::var("OPOR_SEED") {
        Ok(seed) => vec![seed.parse().expect("OPOR_SEED is a number")],
        Err(_) => (first..first + count).collect(),
    }
}

/// How many operations a run makes.
pub(crate) fn operations(usual: usize) -> usize {
    std::env::var("OPOR_OPS").map_or(usual, |ops| ops.parse().expect("OPOR_OPS is a number"))
}

/// A history's own choices.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Replicas take these in turn.
    clocks: [ClockPolicy; 2],
    replicas: usize,
    files: bool,
    /// Whether `merge-equal-values` is on, so that replicas agree on who wrote equal values too.
    equal_sites: bool,
    /// UPDATE OR REPLACE of a key lowers the versions of the row it lands on, as in cr-sqlite; a peer that pulls only
    /// what is new cannot mend that, a full exchange does.
    replace_moves: bool,
}

struct Replica {
    store: Store,
    options: OpenOptions,
    path: Option<PathBuf>,
    wall: Arc<AtomicU64>,
    id: SiteId,
}

struct World {
    plan: Plan,
    rng: Rng,
    replicas: Vec<Replica>,
    cursors: BTreeMap<(usize, usize), Cursor>,
    history: Vec<String>,
    seed: u64,
    _folder: Folder,
}

#[test]
fn replicas_with_lamport_clocks_converge() {
    run_histories([ClockPolicy::Lamport; 2], 0x1000);
}

#[test]
fn replicas_with_hybrid_clocks_converge_though_wall_clocks_jump() {
    run_histories([ClockPolicy::Hlc; 2], 0x2000);
}

#[test]
fn replicas_with_both_kinds_of_clock_converge() {
    run_histories([ClockPolicy::Hlc, ClockPolicy::Lamport], 0x3000);
}

fn run_histories(clocks: [ClockPolicy; 2], first: u64) {
    let seeds = seeds(first, 12);
    let steps = operations(4_000) / seeds.len();
    for seed in seeds {
        let mut world = World::new(seed, clocks);
        for _ in 0..steps {
            let changed = world.step();
            world.check(changed);
        }
        world.converge();
    }
}

impl World {
    fn new(seed: u64, clocks: [ClockPolicy; 2]) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan {
            clocks,
            replicas: 2 + rng.below(4),
            files: rng.chance(40),
            equal_sites: rng.chance(50),
            replace_moves: rng.chance(30),
        };
        let folder = Folder::new();
        let replicas = (0..plan.replicas).map(|index| Replica::new(index, plan, &folder)).collect();
        Self { plan, rng, replicas, cursors: BTreeMap::new(), history: Vec::new(), seed, _folder: folder }
    }

    /// Does one thing and says which replica it happened to.
    fn step(&mut self) -> usize {
        let target = self.rng.below(self.replicas.len());
        match self.rng.below(100) {
            0..45 => self.autocommit(target),
            45..62 => self.transaction(target),
            62..72 => self.pull(target),
            72..80 => self.deliver_some(target),
            80..86 => self.deliver_by_sql(target),
            86..91 => self.deliver_bytes(target),
            91..96 => self.jump_clock(target),
            _ => self.reopen(target),
        }
        target
    }

    fn sql(&mut self, target: usize, sql: &str) {
        let outcome = run(&self.replicas[target].store, sql);
        let note = match &outcome {
            Ok(_) => String::new(),
            Err(error) => format!(" -- {}", message(error)),
        };
        self.history.push(format!("{target}: {sql}{note}"));
        if let Err(error) = outcome {
            let code = error.sqlite_error_code();
            assert_eq!(code, Some(rusqlite::ErrorCode::ConstraintViolation), "{error}\n{}", self.tail());
        }
    }

    fn autocommit(&mut self, target: usize) {
        let statement = random_statement(&mut self.rng, SHAPES.len(), self.plan.replace_moves);
        self.sql(target, &statement.sql());
    }

    fn transaction(&mut self, target: usize) {
        self.sql(target, "BEGIN");
        let mut depth = 0;
        for _ in 0..2 + self.rng.below(6) {
            match self.rng.below(10) {
                0..2 => {
                    self.sql(target, &format!("SAVEPOINT s{depth}"));
                    depth += 1;
                }
                2..4 if depth > 0 => self.sql(target, &format!("ROLLBACK TO s{}", depth - 1)),
                4 if depth > 0 => {
                    depth -= 1;
                    self.sql(target, &format!("RELEASE s{depth}"));
                }
                _ => self.autocommit(target),
            }
        }
        let end = if self.rng.chance(80) { "COMMIT" } else { "ROLLBACK" };
        self.sql(target, end);
    }

    fn other(&mut self, target: usize) -> usize {
        (target + 1 + self.rng.below(self.replicas.len() - 1)) % self.replicas.len()
    }

    fn everything(&self, source: usize) -> Changeset {
        let since = DbVersion(0);
        self.replicas[source].store.changes_since(since).unwrap_or_else(|error| self.fail(&error))
    }

    fn apply(&mut self, target: usize, changes: &Changeset, options: &ApplyOptions) {
        let outcome = self.replicas[target].store.apply_with(changes, options);
        if let Err(error) = outcome {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            panic!("apply to {target}: {error}: {source:?}\n{changes:?}\n{}", self.tail());
        }
    }

    /// Takes a piece, or all, of what is new, and moves the cursor with it.
    fn pull(&mut self, target: usize) {
        let source = self.other(target);
        let pieces = if self.rng.chance(60) { usize::MAX } else { 1 };
        let size = *self.rng.pick(&[1, 3, 20, 1000]);
        self.history.push(format!("{target}: pull {pieces} pieces of {size} from {source}"));
        for _ in 0..pieces {
            if self.pull_piece(target, source, size) {
                break;
            }
        }
    }

    /// Whether the pull is complete.
    fn pull_piece(&mut self, target: usize, source: usize, size: usize) -> bool {
        let cursor = self.cursors.get(&(target, source)).copied().unwrap_or_else(Cursor::start);
        let batch = self.replicas[source].store.changes(&cursor, size);
        let batch = batch.unwrap_or_else(|error| self.fail(&error));
        let peer = self.replicas[source].id;
        let options = ApplyOptions { cursor: Some((peer, batch.cursor)), ..ApplyOptions::default() };
        self.apply(target, &batch.changeset, &options);
        let kept = self.replicas[target].store.peer_cursor(peer).expect("the cursor reads");
        assert_eq!(kept, Some(batch.cursor), "the cursor is stored with the changes");
        let text = batch.cursor.to_string().parse::<Cursor>().expect("its text form reads");
        assert_eq!(text, batch.cursor);
        self.cursors.insert((target, source), batch.cursor);
        batch.done
    }

    /// A random part of what another replica has, in random order, perhaps twice.
    fn deliver_some(&mut self, target: usize) {
        let source = self.other(target);
        let percent = *self.rng.pick(&[10, 50, 90]);
        let all = self.everything(source);
        let mut some: Vec<Change> = all.changes().filter(|_| self.rng.chance(percent)).collect();
        self.rng.shuffle(&mut some);
        self.history.push(format!("{target}: deliver {} of {} from {source}", some.len(), all.len()));
        let changes: Changeset = some.into_iter().collect();
        for _ in 0..1 + self.rng.below(2) {
            self.apply(target, &changes, &ApplyOptions::default());
        }
    }

    /// The same through `crsql_changes`, row by row.
    fn deliver_by_sql(&mut self, target: usize) {
        let source = self.other(target);
        let version = self.replicas[source].store.db_version().expect("a version").to_sql();
        let since = if self.rng.chance(50) { 0 } else { version - self.rng.below(5) as i64 };
        let rows = changes_since(&self.replicas[source].store, &format!("db_version > {since}"));
        let mut rows: Vec<ChangeRow> = rows.unwrap_or_else(|error| self.fail(&error));
        self.rng.shuffle(&mut rows);
        rows.truncate(40);
        self.history
            .push(format!("{target}: insert {} of {source} since {since} into crsql_changes", rows.len()));
        let together = self.rng.chance(50);
        if together {
            self.sql(target, "BEGIN");
        }
        for row in &rows {
            apply_row(&self.replicas[target].store, row).unwrap_or_else(|error| self.fail(&error));
        }
        if together {
            let end = if self.rng.chance(80) { "COMMIT" } else { "ROLLBACK" };
            self.sql(target, end);
        }
    }

    fn deliver_bytes(&mut self, target: usize) {
        let source = self.other(target);
        let bytes = self.replicas[source].store.changeset().unwrap_or_else(|error| self.fail(&error));
        self.history.push(format!("{target}: apply the {} bytes of {source}", bytes.len()));
        if let Err(error) = self.replicas[target].store.apply_changeset(&bytes) {
            self.fail(&error)
        }
    }

    fn jump_clock(&mut self, target: usize) {
        let wall = &self.replicas[target].wall;
        let now = wall.load(Ordering::Relaxed);
        let jump = self.rng.below(20_000) as u64;
        let next = if self.rng.chance(50) { now - jump } else { now + jump };
        wall.store(next, Ordering::Relaxed);
    }

    fn reopen(&mut self, target: usize) {
        let replica = &mut self.replicas[target];
        let Some(path) = &replica.path else { return };
        self.history.push(format!("{target}: reopen"));
        replica.store = replica.options.open(path).expect("the file opens again");
        assert_eq!(replica.store.site_id(), replica.id);
        assert_eq!(replica.store.clock_policy(), self.plan.clocks[target % 2]);
    }

    fn check(&mut self, changed: usize) {
        let faults = invariants::faults(&self.replicas[changed].store, &mut self.rng);
        assert!(faults.is_empty(), "replica {changed}:\n{}\n{}", faults.join("\n"), self.tail());
    }

    /// Everybody pulls from everybody until nobody learns anything: by cursor first, then everything from the start,
    /// which must bring nothing new.
    fn converge(&mut self) {
        self.history.push("anti-entropy".to_owned());
        self.exchange_until_quiet(|world, target, source| while !world.pull_piece(target, source, 50) {});
        if !self.plan.replace_moves {
            self.assert_equal("after pulling by cursor");
        }
        self.exchange_until_quiet(|world, target, source| {
            let all = world.everything(source);
            world.apply(target, &all, &ApplyOptions::default());
        });
        self.assert_equal("after a full exchange");
        (0..self.replicas.len()).for_each(|index| self.check(index));
    }

    fn versions(&self) -> Vec<DbVersion> {
        self.replicas.iter().map(|replica| replica.store.db_version().expect("a version")).collect()
    }

    fn exchange_until_quiet(&mut self, exchange: impl Fn(&mut Self, usize, usize)) {
        for _ in 0..4 * self.replicas.len() {
            let before = self.versions();
            for target in 0..self.replicas.len() {
                (0..self.replicas.len()).filter(|source| *source != target).for_each(|source| {
                    exchange(self, target, source);
                });
            }
            if self.versions() == before {
                return;
            }
        }
        panic!("replicas keep telling each other news\n{}", self.tail());
    }

    fn assert_equal(&self, when: &str) {
        let first = self.content(0);
        for index in 1..self.replicas.len() {
            let content = self.content(index);
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

    /// Tables and log, as far as replicas must agree. A sentinel of causal length 1 next to columns says nothing: peers
    /// do not store it. Who wrote a sentinel first is local knowledge too.
    fn content(&self, index: usize) -> Vec<String> {
        let store = &self.replicas[index].store;
        let mut lines = Vec::new();
        for shape in SHAPES {
            let rows: Vec<Vec<Value>> = table_dump(store, shape.name).expect("the table reads");
            lines.extend(rows.iter().map(|row| format!("{} {row:?}", shape.name)));
        }
        let says_nothing = |row: &ChangeRow| {
            let columns = SHAPES.iter().any(|shape| shape.name == row.table && !shape.columns.is_empty());
            row.is_sentinel() && row.cl == 1 && columns
        };
        let log = changes_since(store, "TRUE").expect("the change log reads");
        let line = |row: &ChangeRow| {
            let site = if self.plan.equal_sites && !row.is_sentinel() { row.site_id.clone() } else { None };
            let ChangeRow { table, pk, cid, val, col_version, cl, .. } = row;
            format!("log {table} {pk:?} {cid} {val:?} v{col_version} cl{cl} {site:?}")
        };
        let mut log: Vec<_> = log.iter().filter(|row| !says_nothing(row)).map(line).collect();
        log.sort();
        lines.extend(log);
        lines
    }

    fn tail(&self) -> String {
        let from = self.history.len().saturating_sub(40);
        let lines = self.history[from..].join("\n");
        format!("seed {} {:?}\nlast of {} steps:\n{lines}", self.seed, self.plan, self.history.len())
    }

    fn fail(&self, error: &dyn std::error::Error) -> ! {
        panic!("{error}: {:?}\n{}", error.source().map(ToString::to_string), self.tail())
    }
}

impl Replica {
    fn new(index: usize, plan: Plan, folder: &Folder) -> Self {
        let id = site(0xa0 + index as u8);
        let wall = Arc::new(AtomicU64::new(1_700_000_000_000));
        let shown = wall.clone();
        let options = OpenOptions::new()
            .clock(plan.clocks[index % 2])
            .site_id(id)
            .drift_max_ms(u64::from(u32::MAX))
            .wall_clock(Arc::new(move || WallMillis(shown.load(Ordering::Relaxed))));
        let path = plan.files.then(|| folder.file(&format!("{index}.db")));
        let store = match &path {
            Some(path) => options.open(path),
            None => options.open_in_memory(),
        };
        let mut store = store.expect("a new store");
        for shape in SHAPES {
            run(&store, shape.create).expect("the schema");
            store.replicate(shape.name).expect("a table that can replicate");
        }
        if plan.equal_sites {
            run(&store, "SELECT crsql_config_set('merge-equal-values', 1)").expect("the setting");
        }
        Self { store, options, path, wall, id }
    }
}
