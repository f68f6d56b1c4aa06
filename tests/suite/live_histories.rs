//! Random histories under random live queries: whatever is written by whomever, each query shows what a plain run shows.
//!
//! `OPOR_SEED` repeats one history, `OPOR_OPS` changes how many checks of a query a run makes.

mod follower;
mod queries;
mod schema;
mod writes;

use std::sync::Mutex;
use std::time::Duration;

use futures::StreamExt;
use futures::executor::block_on;
use futures::stream::BoxStream;
use opor_live::{Live, LiveError, LiveOptions, ScopedRuns, Snapshot};
use opor_store::{ApplyOptions, Cursor, OpenOptions, Store, StoreHandle};
use opor_tests::Rng;
use rusqlite::Connection;

use crate::histories::{operations, seeds};
use crate::replicas::{Folder, site};
use follower::Follower;
use schema::Table;

/// Queries that are open at the same time.
const QUERIES: usize = 40;
/// A commit that concerns nobody runs no query in one of so many tries.
const NOISE_MAX: usize = 20;
/// Histories that run at the same time.
const THREADS: usize = 2;

struct World {
    seed: u64,
    rng: Rng,
    handle: StoreHandle,
    live: Live,
    /// Another connection to the same file, that writes.
    foreign: Store,
    /// A plain one, which reads.
    plain: Connection,
    peer: Store,
    cursor: Cursor,
    tables: Vec<Table>,
    followers: Vec<Follower>,
    beats: BoxStream<'static, Result<Snapshot<i64>, LiveError>>,
    history: Vec<String>,
    checks: usize,
    _folder: Folder,
}

#[test]
fn every_query_shows_what_a_plain_run_shows() {
    let seeds = seeds(0x7000, 24);
    let checks = operations(100_000) / seeds.len();
    let waiting = Mutex::new(seeds);
    let next = || waiting.lock().expect("no history panics while it holds this").pop();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    let mut world = World::new(seed);
                    while world.checks < checks {
                        world.step();
                    }
                    world.end();
                }
            });
        }
    });
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let folder = Folder::new();
        let path = folder.file("live.db");
        let handle = StoreHandle::open(&path, &OpenOptions::new().site_id(site(1)), 1).expect("it opens");
        let mut peer = OpenOptions::new().site_id(site(2)).open_in_memory().expect("a peer");
        let mut history = vec!["PRAGMA foreign_keys = ON".to_owned(), schema::OWN_TABLES.to_owned()];
        history.extend(schema::random_schema(&mut rng));
        let replicated: Vec<String> =
            schema::TABLES.iter().filter(|_| rng.chance(50)).map(|table| (*table).to_owned()).collect();
        let build = {
            let (history, replicated) = (history.clone(), replicated);
            move |store: &mut Store| {
                let notes: Vec<_> = history.iter().map(|sql| note(sql, store.execute_batch(sql))).collect();
                // Not every table can be: that is its own affair.
                let replicated = replicated.iter().filter(|table| store.replicate(table).is_ok());
                (notes, replicated.cloned().collect::<Vec<_>>())
            }
        };
        build(&mut peer);
        let (mut history, replicated) = block_on(handle.write(build)).expect("the writer runs");
        history.push(format!("-- replicated: {replicated:?}"));
        let options = LiveOptions {
            check_one_in: 1,
            look_for_others: Duration::from_millis(1),
            // Results are small, and a run of them is cheap.
            scoped_runs: if rng.chance(70) { ScopedRuns::Always } else { ScopedRuns::WhenCheaper },
            ..LiveOptions::default()
        };
        let live = Live::start_with(&handle, options).expect("it starts");
        let foreign = OpenOptions::new().open(&path).expect("another connection");
        foreign.execute_batch("PRAGMA foreign_keys = ON").expect("a pragma");
        let plain = Connection::open(&path).expect("a plain connection");
        plain.set_prepared_statement_cache_capacity(2 * QUERIES);
        let beats =
            block_on(live.query::<i64>("SELECT count(*) FROM beat").subscribe()).expect("it subscribes");
        let tables = schema::tables(&plain);
        let mut world = Self {
            seed,
            rng,
            handle,
            live,
            foreign,
            plain,
            peer,
            cursor: Cursor::start(),
            tables,
            followers: Vec::new(),
            beats: beats.snapshots(),
            history,
            checks: 0,
            _folder: folder,
        };
        for _ in 0..10 {
            world.commit();
        }
        while world.followers.len() < QUERIES {
            world.subscribe();
        }
        world
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..64 => self.commit(),
            64..70 => self.thin_out(),
            70..78 => self.write_by_another(),
            78..84 => self.write_both(),
            84..90 => self.merge(),
            90..95 => self.change_schema(),
            95 => self.large(),
            96..98 => self.noise(),
            _ => self.several(),
        }
        if self.rng.chance(30) {
            let gone = self.rng.below(self.followers.len());
            self.followers.swap_remove(gone);
            self.subscribe();
        }
    }

    /// Runs statements on the writer, whether they succeed or not, and says how many commits came of it.
    fn write(&mut self, statements: Vec<String>) -> u64 {
        let before = self.handle.commit_seq().0;
        let work = move |store: &mut Store| -> Vec<String> {
            statements.iter().map(|sql| note(sql, store.execute_batch(sql))).collect()
        };
        let notes = block_on(self.handle.write(work)).expect("the writer runs");
        self.history.extend(notes);
        self.settle();
        self.handle.commit_seq().0 - before
    }

    fn settle(&self) {
        // Behind a job the writer may commit what had waited for the schema that the job made.
        block_on(self.handle.write(|_| ())).expect("the writer runs");
        block_on(self.live.settled()).expect("the database is open");
    }

    fn check(&mut self, exact: bool) {
        let mut followers = std::mem::take(&mut self.followers);
        for follower in &mut followers {
            self.checks += 1;
            if let Err(fault) = follower.meet(&self.live, &self.plain, exact) {
                self.fail(&follower.asked, &fault);
            }
        }
        self.followers = followers;
        let stats = self.live.stats();
        assert_eq!(stats.divergences, 0, "{stats:?}\n{}", self.told());
    }

    fn subscribe(&mut self) {
        loop {
            let asked = queries::random_query(&mut self.rng, &self.tables);
            match Follower::new(&self.live, &self.plain, asked.clone(), &mut self.rng) {
                Ok(Some(follower)) => return self.followers.push(follower),
                Ok(None) => {}
                Err(fault) => self.fail(&asked, &fault),
            }
        }
    }

    fn commit(&mut self) {
        let statements = writes::random_commit(&mut self.rng, &self.tables);
        let commits = self.write(statements);
        self.check(commits <= 1);
    }

    fn thin_out(&mut self) {
        self.write(writes::thin_out(&self.tables));
        self.check(false);
    }

    fn large(&mut self) {
        let statements = writes::large_commit(&mut self.rng, &self.tables);
        self.write(statements);
        self.check(false);
    }

    /// Several commits before anybody looks.
    fn several(&mut self) {
        for _ in 0..5 {
            let statements = writes::random_commit(&mut self.rng, &self.tables);
            self.write(statements);
        }
        self.check(false);
    }

    /// Nobody reads this table, and no column that is read changes.
    fn noise(&mut self) {
        // On a machine that has better things to do the thread may look at a commit long before it is told of it, and then knows nothing.
        let quiet = (0..NOISE_MAX).any(|_| {
            let before = self.live.stats();
            self.write(vec!["INSERT INTO noise(m) VALUES (1); UPDATE noise SET m = m + 1".to_owned()]);
            self.check(true);
            let after = self.live.stats();
            assert_eq!(after.updates, before.updates, "{}", self.told());
            after.runs == before.runs
        });
        assert!(quiet, "{}", self.told());
    }

    fn change_schema(&mut self) {
        let statement = writes::random_ddl(&mut self.rng, &self.tables);
        // SQLite calls nobody back for VACUUM, which may give rows another order: what is committed behind it is waited for.
        self.write(vec![statement, "INSERT INTO beat DEFAULT VALUES".to_owned()]);
        self.tables = schema::tables(&self.plain);
        self.check(false);
    }

    /// Another connection writes, and nobody tells.
    fn write_by_another(&mut self) {
        self.foreign_commit();
        let beat = self.foreign.query_row("SELECT count(*) FROM beat", [], |row| row.get(0));
        let beat: i64 = beat.expect("a count");
        while block_on(self.beats.next()).expect("it goes on").expect("a count").rows != [beat] {}
        self.check(false);
    }

    /// The writer commits right behind another connection.
    fn write_both(&mut self) {
        self.foreign_commit();
        self.commit_inexact();
    }

    fn commit_inexact(&mut self) {
        let statements = writes::random_commit(&mut self.rng, &self.tables);
        if self.write(statements) == 0 {
            self.write(vec!["INSERT INTO beat DEFAULT VALUES".to_owned()]);
        }
        self.check(false);
    }

    fn foreign_commit(&mut self) {
        let mut statements = writes::random_commit(&mut self.rng, &self.tables);
        if self.rng.chance(5) {
            statements.push(writes::random_ddl(&mut self.rng, &self.tables));
        }
        statements.push("INSERT INTO beat DEFAULT VALUES".to_owned());
        for sql in statements {
            let note = note(&sql, self.foreign.execute_batch(&sql));
            self.history.push(format!("-- by another: {note}"));
        }
        self.tables = schema::tables(&self.plain);
    }

    fn merge(&mut self) {
        for _ in 0..1 + self.rng.below(4) {
            let sql = writes::random_write(&mut self.rng, &self.tables);
            let note = note(&sql, self.peer.execute_batch(&sql));
            self.history.push(format!("-- by the peer: {note}"));
        }
        let batch = self.peer.changes(&self.cursor, 50).expect("the peer reads");
        self.cursor = batch.cursor;
        let options = ApplyOptions { cursor: Some((site(2), batch.cursor)), ..ApplyOptions::default() };
        let merged = block_on(self.handle.write(move |store| {
            let merged = store.apply_with(&batch.changeset, &options);
            merged.map(|_| ()).map_err(|error| error.to_string())
        }));
        self.history.push(format!("-- merge: {:?}", merged.expect("the writer runs")));
        self.settle();
        self.check(false);
    }

    fn end(mut self) {
        let stats = self.live.stats();
        assert!(stats.checks > 0 && stats.runs > 0 && stats.updates > 0, "{stats:?}");
        self.followers.clear();
        let Self { live, handle, foreign, plain, beats, .. } = self;
        drop((beats, foreign, plain));
        // The thread takes leave of the queries in the order in which it was asked.
        block_on(live.query::<i64>("SELECT 1").subscribe()).map(drop).expect("the database is open");
        block_on(live.explain("SELECT 1")).map(drop).expect("the database is open");
        assert_eq!(live.stats().queries, 0, "all are gone");
        handle.close();
    }

    fn told(&self) -> String {
        format!("{}\n-- seed {}", self.history.join(";\n"), self.seed)
    }

    fn fail(&self, asked: &queries::Asked, fault: &str) -> ! {
        panic!("{}\n\n{}\n{:?}\n{fault}", self.told(), asked.sql, asked.parameters)
    }
}

fn note(sql: &str, outcome: rusqlite::Result<()>) -> String {
    match outcome {
        Ok(()) => sql.to_owned(),
        Err(error) => format!("{sql} -- {}", opor_tests::message(&error)),
    }
}
