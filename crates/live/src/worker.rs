//! The thread that keeps the results current: one snapshot after the other, and every query at each.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::thread;

use async_channel::{Receiver, Sender};
use opor_core::{DbVersion, PackedKey, Value};
use opor_store::{Changes, Origin, RowFeed, Store, StoreError, Woken};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::access::Listener;
use crate::error::LiveError;
use crate::explain::Explanation;
use crate::options::LiveOptions;
use crate::plan::{Plan, plan};
use crate::result::ResultSet;
use crate::router::{QueryId, Router};
use crate::run::same;
use crate::scope::{Asked, Kept};
use crate::shared::{Outcome, Progress, Shared};
use crate::stats::Counters;

/// What is asked of the thread.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe {
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

/// Values for parameters, by name or in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) positional: Vec<Value>,
    pub(crate) named: Vec<(String, Value)>,
}

impl Parameters {
    /// One value for each parameter of a statement.
    fn resolve(self, plan: &Plan) -> Result<Vec<Value>, LiveError> {
        if self.positional.len() > plan.parameters.len() {
            let parameter = format!("?{}", plan.parameters.len() + 1);
            return Err(LiveError::UnknownParameter { parameter });
        }
        let mut values: Vec<Option<Value>> = self.positional.into_iter().map(Some).collect();
        values.resize(plan.parameters.len(), None);
        for (name, value) in self.named {
            let bare = name.trim_start_matches([':', '@', '$']);
            let is_it = |parameter: &String| {
                *parameter == name || (!parameter.starts_with('?') && &parameter[1..] == bare)
            };
            match plan.parameters.iter().position(is_it) {
                Some(at) => values[at] = Some(value),
                None => return Err(LiveError::UnknownParameter { parameter: name }),
            }
        }
        let missing = values.iter().position(Option::is_none);
        if let Some(at) = missing {
            return Err(LiveError::MissingParameter { parameter: plan.parameters[at].clone() });
        }
        let values: Vec<Value> = values.into_iter().flatten().collect();
        let says_now =
            |value: &Value| matches!(value, Value::Text(text) if text.trim().eq_ignore_ascii_case("now"));
        if plan.dates && values.iter().any(says_now) {
            return Err(LiveError::NonDeterministic { function: "a function of dates".to_owned() });
        }
        Ok(values)
    }
}

/// A query and who waits for it.
#[derive(Debug)]
struct Query {
    plan: Arc<Plan>,
    parameters: Box<[Value]>,
    name: QueryName,
    shared: Weak<Shared>,
    /// Of its rows, beside what is seen of them.
    kept: RefCell<Kept>,
    /// Why it cannot be run with the schema as it is.
    broken: Option<LiveError>,
}

/// The statement and its packed parameters: who asks for the same shares one query.
type QueryName = (Arc<str>, PackedKey);
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
    queries: FxHashMap<QueryId, Query>,
    names: FxHashMap<QueryName, QueryId>,
    plans: FxHashMap<Arc<str>, Arc<Plan>>,
    next: u64,
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
            queries: FxHashMap::default(),
            names: FxHashMap::default(),
            plans: FxHashMap::default(),
            next: 0,
            schema_version: -1,
            owed: false,
        }
    }

    /// Works until the database is closed, or nobody is left to ask for anything.
    pub(crate) fn work(mut self) {
        loop {
            let woken = self.feed.wait(&self.store, self.options.look_for_others, None);
            let commands: Vec<Command> = std::iter::from_fn(|| self.commands.try_recv().ok()).collect();
            if let Err(error) = self.turn(commands) {
                // The file cannot be read. Those who wait are told, and every query is run when it can be.
                self.owed = true;
                self.fail(&error);
                // What is to be done is still there to be done at once, and most likely fails at once.
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
                Command::Subscribe { sql, parameters, answer } => match self.enrol(&sql, parameters) {
                    Ok((query, shared)) => {
                        wanted.queries.extend((shared.turn() == 0).then_some(query));
                        answers.push((shared, answer));
                    }
                    Err(error) => {
                        let _ = answer.try_send(Err(error));
                    }
                },
                Command::Explain { sql, answer } => {
                    let _ = answer.try_send(self.planned(&sql).map(|plan| Explanation::of(&plan)));
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
            self.queries.keys().copied().collect()
        } else {
            let lookup = |id| self.queries.get(&id).map(|query| (&*query.plan, &query.parameters[..]));
            self.router.affected(changes, &lookup)
        };
        affected.extend(&wanted.queries);
        let mut outcomes = Vec::new();
        let mut seen = 0;
        for id in &affected {
            let Some(shared) = self.queries.get(id).and_then(|query| query.shared.upgrade()) else {
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
        let query = &self.queries[&id];
        if let Some(error) = &query.broken {
            return Err(error.clone());
        }
        let (rows, version, first) = match before {
            Ok(before) => (&before.rows[..], before.version + 1, false),
            Err(_) => (&[][..], 1, true),
        };
        let brought = query.kept.borrow_mut().bring(self.asked(query), rows, known.filter(|_| !first))?;
        if brought.scoped {
            self.counters.scoped();
        }
        let Some(rows) = brought.rows else { return before.clone() };
        let origin = if unclear { Some(Origin::Mixed) } else { changes.origin };
        let columns = query.plan.columns.clone();
        Ok(Arc::new(ResultSet {
            rows,
            columns,
            seq: changes.seq,
            commit: self.commit()?,
            version,
            origin: origin.filter(|_| !first),
        }))
    }

    fn asked<'a>(&'a self, query: &'a Query) -> Asked<'a> {
        Asked {
            store: &self.store,
            plan: &query.plan,
            parameters: &query.parameters,
            rows_max: self.options.rows_max,
            scoped: self.options.scoped_runs,
        }
    }

    /// The last commit in the open snapshot, where that is asked for.
    fn commit(&self) -> Result<Option<DbVersion>, LiveError> {
        let commit = self.options.tell_commits.then(|| self.store.db_version()).transpose();
        commit.map_err(|error| unreadable(&error))
    }

    /// Now and then, runs a query of which nothing is thought to have changed, or that was asked only about rows that did.
    fn check_one(&self, affected: &FxHashSet<QueryId>, changes: &Changes, outcomes: &mut Changed) {
        let Some(turn) = self.counters.turn(self.options.check_one_in) else { return };
        let unproven =
            |(id, query): &(&QueryId, &Query)| !affected.contains(id) || query.kept.borrow().was_scoped();
        let others = self.queries.iter().filter(unproven).count();
        let which = (turn as usize).checked_rem(others);
        let Some((id, query)) = which.and_then(|at| self.queries.iter().filter(unproven).nth(at)) else {
            return;
        };
        let Some(shared) = query.shared.upgrade() else { return };
        let told = outcomes.iter().position(|(other, _)| Arc::ptr_eq(other, &shared));
        let before = told.map_or_else(|| shared.now().0, |at| outcomes[at].1.clone());
        let rows = before.as_ref().ok().filter(|_| query.broken.is_none());
        let agrees = rows.map(|before| query.kept.borrow().agrees(self.asked(query), &before.rows));
        if agrees == Some(Ok(true)) {
            return self.counters.checked(true);
        }
        let outcome = self.outcome(*id, &before, changes, None, true);
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

    fn planned(&mut self, sql: &Arc<str>) -> Result<Arc<Plan>, LiveError> {
        if let Some(plan) = self.plans.get(sql) {
            return Ok(plan.clone());
        }
        let listener = self.listener.as_ref().ok_or(LiveError::Closed)?;
        let plan = Arc::new(plan(&self.store, listener, sql)?);
        self.plans.insert(sql.clone(), plan.clone());
        Ok(plan)
    }

    /// The query of this statement and these parameters, which is made if nobody has asked for it.
    fn enrol(&mut self, sql: &Arc<str>, parameters: Parameters) -> Result<(QueryId, Arc<Shared>), LiveError> {
        let plan = self.planned(sql)?;
        let parameters = parameters.resolve(&plan)?;
        let name = (plan.sql.clone(), PackedKey::pack(&parameters));
        if let Some(id) = self.names.get(&name).copied() {
            if let Some(shared) = self.queries.get(&id).and_then(|query| query.shared.upgrade()) {
                return Ok((id, shared));
            }
            self.forget(id);
        }
        let id = QueryId(self.next);
        self.next += 1;
        let shared = Arc::new(Shared::new(id));
        self.router.add(id, &plan, &parameters);
        self.names.insert(name.clone(), id);
        let weak = Arc::downgrade(&shared);
        let kept = RefCell::default();
        let query = Query { plan, parameters: parameters.into(), name, shared: weak, kept, broken: None };
        self.queries.insert(id, query);
        self.counters.open(self.queries.len());
        Ok((id, shared))
    }

    fn release(&mut self, id: QueryId) {
        if self.queries.get(&id).is_some_and(|query| query.shared.strong_count() == 0) {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: QueryId) {
        let Some(query) = self.queries.remove(&id) else { return };
        self.router.remove(id, &query.plan, &query.parameters);
        self.names.remove(&query.name);
        if Arc::strong_count(&query.plan) == 2 {
            // This one and the cache.
            self.plans.remove(&query.plan.sql);
        }
        self.counters.open(self.queries.len());
    }

    /// The schema has moved: every statement may mean something else.
    fn replan(&mut self) -> Result<(), LiveError> {
        // A statement is prepared for the schema that the connection knows; only running one makes it look.
        self.store.execute_batch("SELECT 1 FROM main.sqlite_schema LIMIT 1")?;
        self.schema_version = self.read_schema_version()?;
        self.plans.clear();
        self.router = Router::default();
        let ids: Vec<QueryId> = self.queries.keys().copied().collect();
        for id in ids {
            let sql = self.queries[&id].plan.sql.clone();
            let planned = self.planned(&sql);
            let Some(query) = self.queries.get_mut(&id) else { continue };
            match planned {
                Ok(plan) => {
                    self.router.add(id, &plan, &query.parameters);
                    (query.plan, query.broken) = (plan, None);
                }
                Err(error) => query.broken = Some(error),
            }
        }
        self.router.set_grown();
        Ok(())
    }

    /// Tells everybody that there is no result.
    fn fail(&self, error: &LiveError) {
        let shared = self.queries.values().filter_map(|query| query.shared.upgrade());
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
        (Ok(before), Ok(after)) => before.columns == after.columns && same(&before.rows, &after.rows),
        (Err(before), Err(after)) => before == after,
        _ => false,
    }
}
