//! The thread that keeps the results current: one snapshot after the other, and every query at each.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use opor_core::DbVersion;
use opor_store::{Changes, Origin, RowFeed, Store, StoreError, Woken};
use rustc_hash::FxHashSet;

use crate::access::Listener;
use crate::error::LiveError;
use crate::explain::Explanation;
use crate::live::Desk;
use crate::options::LiveOptions;
use crate::parameters::Parameters;
use crate::plan::{Plan, plan};
use crate::registry::{Query, Registry};
use crate::result::{ResultSet, Source};
use crate::router::{QueryId, Router};
use crate::run::same;
use crate::scope::Asked;
use crate::shared::{Outcome, Progress, Shared};
use crate::stats::Counters;

/// What is asked of the thread.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe {
        /// What the subscription holds on to.
        desk: Arc<Desk>,
        sql: Arc<str>,
        parameters: Parameters,
        answer: Sender<Result<Arc<Shared>, LiveError>>,
    },
    Explain {
        sql: Arc<str>,
        answer: Sender<Result<Explanation, LiveError>>,
    },
    /// Runs a query anew, whatever changed.
    Refetch {
        query: QueryId,
    },
    /// Somebody has let go of a query, and may have been the last.
    Released {
        query: QueryId,
    },
}

/// KiB of pages that the connection of live queries keeps, at most, within one snapshot: many queries look at the same pages one after the
/// other. SQLite's own 2,000 are too few for a thousand queries of a table of 100,000 rows, which then read each page over and over. What is
/// kept is let go of with the next commit.
const PAGES_KIB: u32 = 8_192;

/// No schema has this version.
const UNKNOWN: i64 = -1;

/// Outcomes that are not what they were.
type Changed = Vec<(Arc<Shared>, Outcome)>;
type Answer = Sender<Result<Arc<Shared>, LiveError>>;

/// What is to be run whatever has changed.
#[derive(Debug, Default)]
struct Wanted {
    queries: FxHashSet<QueryId>,
    everything: bool,
}

/// See the module.
pub(crate) struct Worker {
    store: Store,
    listener: Option<Listener>,
    feed: RowFeed,
    commands: Receiver<Command>,
    progress: Arc<Progress>,
    counters: Arc<Counters>,
    options: LiveOptions,
    router: Router,
    registry: Registry,
    /// Counts results.
    versions: Cell<u64>,
    /// That of the last result, which many others have too.
    source: RefCell<Arc<Source>>,
    schema_version: i64,
    /// The last turn failed, and what it was about is still to be done.
    owed: bool,
}

impl Worker {
    pub(crate) fn new(
        store: Store,
        feed: RowFeed,
        commands: Receiver<Command>,
        progress: Arc<Progress>,
        counters: Arc<Counters>,
        options: LiveOptions,
    ) -> Self {
        store.set_prepared_statement_cache_capacity(options.statements_held);
        // With fewer pages it is only slower.
        let _may_fail = store.execute_batch(&format!("PRAGMA main.cache_size = -{PAGES_KIB}"));
        let listener = Some(Listener::install(&store));
        Self {
            store,
            listener,
            feed,
            commands,
            progress,
            counters,
            options,
            router: Router::default(),
            registry: Registry::default(),
            versions: Cell::new(0),
            source: RefCell::default(),
            schema_version: UNKNOWN,
            owed: false,
        }
    }

    /// Works until the database is closed, or nobody is left to ask for anything.
    pub(crate) fn work(mut self) {
        loop {
            // What a failed turn owes is tried again, also when nothing more happens.
            let limit = self.owed.then_some(Duration::ZERO);
            let woken = self.feed.wait(&self.store, self.options.look_for_others, limit);
            let commands: Vec<Command> = std::iter::from_fn(|| self.commands.try_recv().ok()).collect();
            if let Err(error) = self.turn(commands) {
                // The file cannot be read. Those who wait are told, and every query is run when it can be.
                self.owed = true;
                self.fail(&error);
                // What is to be done is there to be done at once, and most likely fails at once.
                thread::sleep(self.options.look_for_others);
            }
            let abandoned = self.commands.is_closed() && self.commands.is_empty();
            if woken == Woken::Closed || abandoned {
                break;
            }
        }
    }

    /// Does what is asked, takes one snapshot, and brings every result there.
    fn turn(&mut self, commands: Vec<Command>) -> Result<(), LiveError> {
        let mut wanted = Wanted { everything: self.owed, ..Wanted::default() };
        let mut answers: Vec<(Arc<Shared>, Answer)> = Vec::new();
        for command in commands {
            match command {
                Command::Subscribe { desk, sql, parameters, answer } => {
                    match self.enrol(&desk, &sql, parameters) {
                        Ok((query, shared)) => {
                            wanted.queries.extend((shared.turn() == 0).then_some(query));
                            answers.push((shared, answer));
                        }
                        Err(error) => {
                            let _ = answer.try_send(Err(error));
                        }
                    }
                }
                Command::Explain { sql, answer } => {
                    let _ = answer.try_send(self.explain(&sql));
                }
                Command::Refetch { query } => {
                    wanted.queries.insert(query);
                }
                Command::Released { query } => self.release(query),
            }
        }
        let advanced = self.advance(&mut wanted);
        for (shared, answer) in answers {
            let query = shared.id;
            let outcome = advanced.clone().and_then(|()| shared.now().0.map(|_| shared));
            let _ = answer.try_send(outcome);
            // It has no result, or nobody waits for it any more.
            self.release(query);
        }
        advanced
    }

    fn advance(&mut self, wanted: &mut Wanted) -> Result<(), LiveError> {
        loop {
            if self.router.take_grown() {
                // Before the snapshot: what is committed after that is told.
                self.feed.watch(self.router.interests());
            }
            let changes = self.feed.snapshot(&self.store).map_err(|error| unreadable(&error))?;
            let brought = self.bring(&changes, wanted);
            self.store.execute_batch("COMMIT")?;
            match brought? {
                Some(outcomes) => {
                    self.progress.advance(changes.seq, outcomes);
                    self.owed = false;
                    return Ok(());
                }
                None => {
                    // Outside of the snapshot: what the new plans depend on has to be watched before the next.
                    wanted.everything = true;
                    self.replan()?;
                }
            }
        }
    }

    /// The outcomes that are not what they were, in the open snapshot; `None` when the schema is another.
    fn bring(&mut self, changes: &Changes, wanted: &Wanted) -> Result<Option<Changed>, LiveError> {
        if self.read_schema_version()? != self.schema_version {
            return Ok(None);
        }
        let mut affected = if wanted.everything || changes.unknown {
            self.registry.iter().map(|(id, _)| id).collect()
        } else {
            let lookup = |id| {
                let query = self.registry.get(id)?;
                Some((&self.registry.statement(query.statement).plan, query.parameters.values()))
            };
            self.router.affected(changes, &lookup)
        };
        affected.extend(&wanted.queries);
        let mut outcomes = Vec::new();
        let mut seen = 0;
        for id in &affected {
            let Some(shared) = self.registry.get(*id).and_then(|query| query.shared.upgrade()) else {
                continue;
            };
            seen += 1;
            let before = shared.now().0;
            let asked_for = wanted.everything || wanted.queries.contains(id);
            let known = (!asked_for).then_some(changes);
            let outcome = self.outcome(*id, &before, changes, known, wanted.everything);
            if !agree(&before, &outcome) || shared.turn() == 0 {
                outcomes.push((shared, outcome));
            }
        }
        self.counters.ran(seen, outcomes.len());
        self.check_one(&affected, changes, &mut outcomes);
        Ok(Some(outcomes))
    }

    /// What a query gives in the open snapshot; `known` is all that has changed since `before`, if that is known.
    fn outcome(
        &self,
        id: QueryId,
        before: &Outcome,
        changes: &Changes,
        known: Option<&Changes>,
        unclear: bool,
    ) -> Outcome {
        let Some(query) = self.registry.get(id) else { return before.clone() };
        let statement = self.registry.statement(query.statement);
        if let Some(error) = &statement.broken {
            return Err(error.clone());
        }
        let (rows, first) = match before {
            Ok(before) => (&*before.rows, false),
            Err(_) => (&[][..], true),
        };
        let asked = self.asked(query);
        let brought = query.with_kept(|kept| kept.bring(asked, rows, known.filter(|_| !first)))?;
        if brought.scoped {
            self.counters.scoped();
        }
        let Some(rows) = brought.rows else { return before.clone() };
        let origin = if unclear { Some(Origin::Mixed) } else { changes.origin };
        Ok(Arc::new(ResultSet {
            rows: rows.into(),
            heading: statement.heading.clone(),
            seq: changes.seq,
            source: self.source(origin.filter(|_| !first))?,
            version: self.next_version(),
        }))
    }

    fn asked<'a>(&'a self, query: &'a Query) -> Asked<'a> {
        Asked {
            store: &self.store,
            plan: &self.registry.statement(query.statement).plan,
            parameters: query.parameters.values(),
            rows_max: self.options.rows_max,
            scoped: self.options.scoped_runs,
        }
    }

    fn next_version(&self) -> u64 {
        self.versions.set(self.versions.get() + 1);
        self.versions.get()
    }

    fn source(&self, origin: Option<Origin>) -> Result<Arc<Source>, LiveError> {
        let source = Source { commit: self.commit()?, origin };
        let mut last = self.source.borrow_mut();
        if **last != source {
            *last = Arc::new(source);
        }
        Ok(last.clone())
    }

    /// The last commit in the open snapshot, where that is asked for.
    fn commit(&self) -> Result<Option<DbVersion>, LiveError> {
        let commit = self.options.tell_commits.then(|| self.store.db_version()).transpose();
        commit.map_err(|error| unreadable(&error))
    }

    /// Now and then, runs a query of which nothing is thought to have changed, or that was asked only about rows that did.
    fn check_one(&self, affected: &FxHashSet<QueryId>, changes: &Changes, outcomes: &mut Changed) {
        let Some(turn) = self.counters.turn(self.options.check_one_in) else { return };
        let unproven = |(id, query): &(QueryId, &Query)| {
            !affected.contains(id) || query.with_kept(|kept| kept.was_scoped())
        };
        let others = self.registry.iter().filter(unproven).count();
        let which = (turn as usize).checked_rem(others);
        let Some((id, query)) = which.and_then(|at| self.registry.iter().filter(unproven).nth(at)) else {
            return;
        };
        let Some(shared) = query.shared.upgrade() else { return };
        let told = outcomes.iter().position(|(other, _)| Arc::ptr_eq(other, &shared));
        let before = told.map_or_else(|| shared.now().0, |at| outcomes[at].1.clone());
        let is_broken = self.registry.statement(query.statement).broken.is_some();
        let rows = before.as_ref().ok().filter(|_| !is_broken);
        let agrees = rows.map(|before| query.with_kept(|kept| kept.agrees(self.asked(query), &before.rows)));
        if agrees == Some(Ok(true)) {
            return self.counters.checked(true);
        }
        let outcome = self.outcome(id, &before, changes, None, true);
        let agrees = agrees.is_none() && agree(&before, &outcome);
        self.counters.checked(agrees);
        if !agrees {
            told.into_iter().for_each(|at| drop(outcomes.swap_remove(at)));
            outcomes.push((shared, outcome));
        }
    }

    fn read_schema_version(&self) -> Result<i64, LiveError> {
        Ok(self.store.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))?)
    }

    fn plan(&self, sql: &str) -> Result<Plan, LiveError> {
        plan(&self.store, self.listener.as_ref().ok_or(LiveError::Closed)?, sql)
    }

    fn explain(&self, sql: &str) -> Result<Explanation, LiveError> {
        let statement = self.registry.known(sql).map(|id| self.registry.statement(id));
        match statement.filter(|statement| statement.broken.is_none()) {
            Some(statement) => Ok(Explanation::of(&statement.plan)),
            None => self.plan(sql).map(|plan| Explanation::of(&plan)),
        }
    }

    /// The query of this statement and these parameters, which is made if nobody has asked for it.
    fn enrol(
        &mut self,
        desk: &Arc<Desk>,
        sql: &str,
        parameters: Parameters,
    ) -> Result<(QueryId, Arc<Shared>), LiveError> {
        if let Some(known) = self.registry.known(sql)
            && self.registry.statement(known).broken.is_some()
        {
            let plan = self.plan(sql)?;
            self.registry.mend(known, plan);
            // It is understood again, so the schema has moved, for all others too.
            self.schema_version = UNKNOWN;
        }
        let (statement, parameters) = match self.registry.known(sql) {
            Some(known) => (known, parameters.resolve(&self.registry.statement(known).plan)?),
            None => {
                let plan = self.plan(sql)?;
                let parameters = parameters.resolve(&plan)?;
                (self.registry.add_statement(plan), parameters)
            }
        };
        let found = self.registry.find(statement, &parameters);
        let found = found.map(|(id, query)| (id, query.shared.upgrade()));
        if let Some((id, Some(shared))) = found {
            return Ok((id, shared));
        }
        let (id, shared) =
            self.registry.add(statement, parameters, |id| Arc::new(Shared::new(desk.clone(), id)));
        if let Some(query) = self.registry.get(id) {
            self.router.add(id, &self.registry.statement(statement).plan, query.parameters.values());
        }
        self.counters.open(self.registry.len());
        if let Some((abandoned, None)) = found {
            self.release(abandoned);
        }
        Ok((id, shared))
    }

    fn release(&mut self, id: QueryId) {
        if self.registry.get(id).is_some_and(|query| query.shared.strong_count() == 0) {
            let router = &mut self.router;
            self.registry.remove(id, |query, statement| {
                router.remove(id, &statement.plan, query.parameters.values());
            });
            self.counters.open(self.registry.len());
        }
    }

    /// The schema has moved: every statement may mean something else.
    fn replan(&mut self) -> Result<(), LiveError> {
        // A statement is prepared for the schema that the connection knows; only running one makes it look.
        self.store.execute_batch("SELECT 1 FROM main.sqlite_schema LIMIT 1")?;
        self.schema_version = self.read_schema_version()?;
        let listener = self.listener.as_ref().ok_or(LiveError::Closed)?;
        self.registry.replan(|sql| plan(&self.store, listener, sql));
        self.router = Router::default();
        for (id, query) in self.registry.iter() {
            let statement = self.registry.statement(query.statement);
            if statement.broken.is_none() {
                self.router.add(id, &statement.plan, query.parameters.values());
            }
        }
        self.router.set_grown();
        Ok(())
    }

    /// Tells everybody that there is no result.
    fn fail(&self, error: &LiveError) {
        let shared = self.registry.iter().filter_map(|(_, query)| query.shared.upgrade());
        let shared = shared.filter(|shared| shared.now().0.as_ref() != Err(error) || shared.turn() == 0);
        let outcomes: Vec<_> = shared.map(|shared| (shared, Err(error.clone()))).collect();
        self.progress.fail(outcomes);
    }
}

impl Drop for Worker {
    /// Nobody waits for a thread that has ended, however it did.
    fn drop(&mut self) {
        self.fail(&LiveError::Closed);
        self.progress.close();
        self.commands.close();
        while self.commands.try_recv().is_ok() {}
        if let Some(listener) = self.listener.take() {
            listener.uninstall(&self.store);
        }
    }
}

/// The file cannot be read.
fn unreadable(error: &StoreError) -> LiveError {
    let source = std::error::Error::source(error).map(ToString::to_string);
    LiveError::Sql { message: source.unwrap_or_else(|| error.to_string()), offset: None }
}

/// Whether nobody needs to be told.
fn agree(before: &Outcome, after: &Outcome) -> bool {
    match (before, after) {
        (Ok(before), Ok(after)) if Arc::ptr_eq(before, after) => true,
        (Ok(before), Ok(after)) => before.heading == after.heading && same(&before.rows, &after.rows),
        (Err(before), Err(after)) => before == after,
        _ => false,
    }
}
