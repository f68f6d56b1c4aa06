//! One replica against the model of cr-sqlite's clocks: the same statements, and all nine columns of the log compared.

use opor_core::{PackedKey, Value};
use opor_store::Store;
use opor_tests::{
    ChangeRow, Filter, InsertMode, Model, Rng, SHAPES, Statement, apply_row, changes_since, message,
    random_change, random_statement, run,
};

use crate::histories::{operations, seeds};
use crate::invariants::rows_by_key;
use crate::replicas::{memory, site};

/// A replica, its model, and what has been done to both.
struct Twin {
    store: Store,
    model: Model,
    rng: Rng,
    /// Whether keys may move onto living rows, or changes come from elsewhere; not both. A moved row that lacks a clock, which
    /// only a merge can bring about, leaves in cr-sqlite a clock of the row it replaced beside a value it never had.
    replace_moves: bool,
    /// Whether statements fail half way inside a transaction. The places (`seq`) they would have taken are then gaps, and
    /// how wide those are is nobody's business: places are compared by rank.
    failures: bool,
    history: Vec<String>,
    /// Keys that a test has chosen.
    known: Vec<Vec<Value>>,
}

#[test]
fn the_change_log_is_what_the_model_says() {
    let seeds = seeds(0xc0de, 12);
    let steps = operations(3_000) / seeds.len();
    for seed in seeds {
        let mut twin = Twin::new(seed);
        for _ in 0..steps {
            twin.step();
            twin.compare(seed);
        }
    }
}

/// An insert of a row that was deleted before takes a place more than one of a new row, also when it is taken back.
#[test]
fn places_that_taken_back_inserts_used_stay_used() {
    for shape in 0..SHAPES.len() {
        for history in [
            "i", "idi", "nidi", "n", "nd", "(i)i", "id(i)i", "((i)i)n", "i(d)", "ir", "i(rr)r", "nx(n)",
            "nx(n)n",
        ] {
            let mut twin = Twin::new(9_001);
            twin.failures = false;
            let (row, other, last) = (twin.row_of(shape), twin.row_of(shape), twin.row_of(shape));
            twin.run(&row.0);
            twin.run(&row.1);
            twin.model.begin();
            twin.sql("BEGIN");
            twin.savepoint("undone");
            for step in history.chars() {
                match step {
                    'i' => twin.inside(&row.0),
                    'd' => twin.inside(&row.1),
                    'r' => twin.inside(&replacing(&row.0)),
                    'n' => twin.inside(&other.0),
                    'x' => twin.inside(&other.1),
                    '(' => twin.savepoint("inner"),
                    _ => twin.rollback_to("inner"),
                }
                // Whether it has been asked for makes no difference.
                if history.len() % 2 == 0 {
                    twin.compare_log(0);
                }
            }
            twin.rollback_to("undone");
            twin.inside(&last.0);
            twin.model.commit();
            twin.sql("COMMIT");
            twin.compare(0);
        }
    }
}

impl Twin {
    /// Statements that insert a new row of a shape and delete it again.
    fn row_of(&mut self, shape: usize) -> (Statement, Statement) {
        loop {
            let statement = random_statement(&mut self.rng, SHAPES.len(), false);
            let Statement::Insert { shape: of, mode: InsertMode::Plain, rows } = &statement else { continue };
            if *of != shape || rows.len() != 1 || self.known.contains(&rows[0].0) {
                continue;
            }
            let key = rows[0].0.clone();
            if self.model.clone().execute(&statement).is_ok() {
                self.known.push(key.clone());
                return (statement, Statement::Delete { shape, filter: Filter::Key(key) });
            }
        }
    }

    fn run(&mut self, statement: &Statement) {
        self.model.begin();
        self.inside(statement);
        self.model.commit();
    }

    fn inside(&mut self, statement: &Statement) {
        self.model.execute(statement).expect("the model accepts it");
        assert!(self.sql(&statement.sql()), "{}", self.tail());
    }

    fn savepoint(&mut self, name: &str) {
        self.model.savepoint();
        self.sql(&format!("SAVEPOINT {name}"));
    }

    fn rollback_to(&mut self, name: &str) {
        self.model.rollback_to();
        if name == "inner" {
            self.model.release();
        }
        self.sql(&format!("ROLLBACK TO {name}"));
        if name == "inner" {
            self.sql("RELEASE inner");
        }
    }

    fn new(seed: u64) -> Self {
        let schema = SHAPES.iter().map(|shape| shape.create).collect::<Vec<_>>().join(";");
        let names: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
        Self {
            store: memory(0xb, &schema, &names),
            model: Model::new(site(0xb).as_bytes()),
            rng: Rng::new(seed),
            replace_moves: seed.is_multiple_of(2),
            failures: seed.is_multiple_of(3),
            history: Vec::new(),
            known: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.below(10) {
            0..5 => self.autocommit(),
            5..8 => self.transaction(),
            _ if self.replace_moves => self.transaction(),
            _ => self.merge(),
        }
    }

    fn sql(&mut self, sql: &str) -> bool {
        let outcome = run(&self.store, sql);
        let error = outcome.as_ref().err().map(message);
        self.history.push(error.as_ref().map_or_else(|| sql.to_owned(), |error| format!("{sql} -- {error}")));
        outcome.is_ok()
    }

    fn autocommit(&mut self) {
        let statement = random_statement(&mut self.rng, SHAPES.len(), self.replace_moves);
        self.model.begin();
        let modelled = self.model.execute(&statement).is_ok();
        if modelled {
            self.model.commit()
        } else {
            self.model.rollback()
        }
        assert_eq!(self.sql(&statement.sql()), modelled, "accepted or refused: {}", self.tail());
    }

    fn transaction(&mut self) {
        self.model.begin();
        self.sql("BEGIN");
        let mut depth = 0;
        for _ in 0..1 + self.rng.below(5) {
            match self.rng.below(10) {
                0..2 => {
                    self.model.savepoint();
                    self.sql(&format!("SAVEPOINT s{depth}"));
                    depth += 1;
                }
                2 if depth > 0 => {
                    self.model.rollback_to();
                    self.sql(&format!("ROLLBACK TO s{}", depth - 1));
                }
                3 if depth > 0 => {
                    depth -= 1;
                    self.model.release();
                    self.sql(&format!("RELEASE s{depth}"));
                }
                _ => self.statement_inside(),
            }
        }
        if self.rng.chance(80) {
            self.model.commit();
            self.sql("COMMIT");
        } else {
            self.model.rollback();
            self.sql("ROLLBACK");
        }
    }

    fn statement_inside(&mut self) {
        let statement = random_statement(&mut self.rng, SHAPES.len(), self.replace_moves);
        if !self.failures && self.model.clone().execute(&statement).is_err() {
            return;
        }
        let modelled = self.model.execute(&statement).is_ok();
        assert_eq!(self.sql(&statement.sql()), modelled, "accepted or refused: {}", self.tail());
    }

    /// A few changes from elsewhere, in one transaction, a local write among them.
    fn merge(&mut self) {
        self.model.begin();
        self.sql("BEGIN");
        for _ in 0..1 + self.rng.below(4) {
            if self.rng.chance(15) {
                self.statement_inside();
                continue;
            }
            let newest = self.model.db_version() + 3;
            let change = random_change(&mut self.rng, newest);
            self.history.push(format!("apply {change:?}"));
            self.model.apply(&change);
            apply_row(&self.store, &change)
                .unwrap_or_else(|error| panic!("{}\nrefused: {}", self.tail(), message(&error)));
        }
        self.model.commit();
        self.sql("COMMIT");
    }

    #[track_caller]
    fn compare(&self, seed: u64) {
        for (index, shape) in SHAPES.iter().enumerate() {
            let rows = rows_by_key(&self.store, shape);
            let modelled = self.model.rows(index);
            let modelled = modelled
                .map(|(key, cells)| (PackedKey::pack(key).as_bytes().to_vec(), cells.to_vec()))
                .collect();
            assert_eq!(rows, modelled, "table {} (left) and model; seed {seed}\n{}", shape.name, self.tail());
        }
        self.compare_log(seed);
        let version = self.store.db_version().expect("a version").to_sql();
        assert_eq!(version, self.model.db_version(), "db_version; seed {seed}\n{}", self.tail());
    }

    #[track_caller]
    fn compare_log(&self, seed: u64) {
        let mut log = changes_since(&self.store, "TRUE").expect("the change log reads");
        log.sort_by_cached_key(ChangeRow::log_order);
        let mut modelled = self.model.changes();
        if self.failures {
            log = with_ranks(&log);
            modelled = with_ranks(&modelled);
        }
        if log != modelled {
            let extra = log.iter().filter(|row| !modelled.contains(row)).map(|row| format!("+ {row:?}"));
            let missing = modelled.iter().filter(|row| !log.contains(row)).map(|row| format!("- {row:?}"));
            let lines = missing.chain(extra).collect::<Vec<_>>().join("\n");
            panic!("change log (+ store, - model); seed {seed}\n{lines}\n{}", self.tail());
        }
    }

    fn tail(&self) -> String {
        let from = self.history.len().saturating_sub(30);
        format!("last of {} statements:\n{}", self.history.len(), self.history[from..].join("\n"))
    }
}

/// The same insert, of a row that is there.
fn replacing(statement: &Statement) -> Statement {
    let Statement::Insert { shape, rows, .. } = statement else { panic!("{statement:?} is no insert") };
    Statement::Insert { shape: *shape, mode: InsertMode::Replace, rows: rows.clone() }
}

/// The same log with places renumbered from 0 within each version.
fn with_ranks(log: &[ChangeRow]) -> Vec<ChangeRow> {
    let mut ranked: Vec<ChangeRow> = Vec::new();
    let mut last = (0, -1);
    for row in log {
        let mut next = row.clone();
        next.seq = match ranked.last() {
            Some(before) if last == (row.db_version, row.seq) => before.seq,
            Some(before) if last.0 == row.db_version => before.seq + 1,
            _ => 0,
        };
        last = (row.db_version, row.seq);
        ranked.push(next);
    }
    ranked
}
