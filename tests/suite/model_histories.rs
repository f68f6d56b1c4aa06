//! One replica against the model of cr-sqlite's clocks: the same statements, and all nine columns of the log compared.

use opor_core::{PackedKey, Value};
use opor_store::Store;
use opor_tests::{ChangeRow, Model, Rng, SHAPES, apply_row, changes_since, message, random_statement, run};

use crate::histories::{operations, seeds};
use crate::invariants::rows_by_key;
use crate::replicas::{memory, site};

/// A replica, its model, and what has been done to both.
struct Twin {
    store: Store,
    model: Model,
    rng: Rng,
    history: Vec<String>,
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

impl Twin {
    fn new(seed: u64) -> Self {
        let schema = SHAPES.iter().map(|shape| shape.create).collect::<Vec<_>>().join(";");
        let names: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
        Self {
            store: memory(0xb, &schema, &names),
            model: Model::new(site(0xb).as_bytes(), false),
            rng: Rng::new(seed),
            history: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.below(10) {
            0..5 => self.autocommit(),
            5..8 => self.transaction(),
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
        let statement = random_statement(&mut self.rng, SHAPES.len(), true);
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
        let statement = random_statement(&mut self.rng, SHAPES.len(), true);
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
            let change = random_change(&mut self.rng, self.model.db_version());
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
        let mut log = changes_since(&self.store, "TRUE").expect("the change log reads");
        log.sort_by_cached_key(ChangeRow::log_order);
        let modelled = self.model.changes();
        if log != modelled {
            let extra = log.iter().filter(|row| !modelled.contains(row)).map(|row| format!("+ {row:?}"));
            let missing = modelled.iter().filter(|row| !log.contains(row)).map(|row| format!("- {row:?}"));
            let lines = missing.chain(extra).collect::<Vec<_>>().join("\n");
            panic!("change log (+ store, - model); seed {seed}\n{lines}\n{}", self.tail());
        }
        let version = self.store.db_version().expect("a version").to_sql();
        assert_eq!(version, self.model.db_version(), "db_version; seed {seed}\n{}", self.tail());
    }

    fn tail(&self) -> String {
        let from = self.history.len().saturating_sub(30);
        format!("last of {} statements:\n{}", self.history.len(), self.history[from..].join("\n"))
    }
}

/// A change another replica may have made: a column, or a sentinel, of any causal length.
fn random_change(rng: &mut Rng, db_version: i64) -> ChangeRow {
    let shape = rng.pick(SHAPES);
    let cl = *rng.pick(&[1, 1, 1, 2, 2, 3, 4, 5]);
    let column =
        (!shape.columns.is_empty() && cl % 2 == 1 && rng.chance(75)).then(|| rng.below(shape.columns.len()));
    let (cid, val) = match column {
        None => ("-1", Value::Null),
        Some(column) => {
            (shape.columns[column], storable(shape.random_cell(rng, column), &shape.defaults()[column]))
        }
    };
    ChangeRow {
        table: shape.name.to_owned(),
        pk: PackedKey::pack(&shape.random_key(rng)).as_bytes().to_vec(),
        cid: cid.to_owned(),
        val,
        col_version: if column.is_some() { 1 + rng.below(4) as i64 } else { cl },
        db_version: 1 + rng.below(db_version as usize + 3) as i64,
        site_id: Some(site(*rng.pick(&[0xa, 0xc])).as_bytes().to_vec()),
        cl,
        seq: rng.below(9) as i64,
    }
}

/// A NOT NULL column takes its default where the value would be refused.
fn storable(value: Value, default: &Value) -> Value {
    if value == Value::Null { default.clone() } else { value }
}
