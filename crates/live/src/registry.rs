//! Every open query. There may be hundreds of thousands, most of them of few statements: what follows from a statement alone is
//! kept once, and of each query its parameters, and a way to its result.

use std::cell::Cell;
use std::sync::{Arc, Weak};

use rustc_hash::FxHashMap;

use crate::error::LiveError;
use crate::index::Keys;
use crate::parameters::Bound;
use crate::plan::Plan;
use crate::result::Heading;
use crate::router::QueryId;
use crate::scope::Kept;
use crate::shared::Shared;
use crate::slab::Slab;

/// Names a statement among those that have queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatementId(u32);

/// A statement that queries are open of.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) plan: Plan,
    pub(crate) heading: Arc<Heading>,
    /// Why it cannot be run with the schema as it is.
    pub(crate) broken: Option<LiveError>,
    queries: usize,
}

impl Statement {
    fn take(&mut self, planned: Result<Plan, LiveError>) {
        match planned {
            Ok(plan) => {
                if self.heading.columns != plan.columns {
                    self.heading = Arc::new(Heading { columns: plan.columns.clone() });
                }
                (self.plan, self.broken) = (plan, None);
            }
            Err(error) => self.broken = Some(error),
        }
    }
}

/// A statement with its parameters, and who waits for it.
pub(crate) struct Query {
    pub(crate) statement: StatementId,
    pub(crate) parameters: Bound,
    pub(crate) shared: Weak<Shared>,
    /// Of its rows, beside what is seen of them; where there is something worth keeping.
    kept: Cell<Option<Box<Kept>>>,
}

impl Query {
    /// Looks at what is kept, or changes it; what is of no use afterwards is let go.
    pub(crate) fn with_kept<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        let mut kept = self.kept.take().unwrap_or_default();
        let seen = look(&mut kept);
        self.kept.set(Some(kept).filter(|kept| kept.is_of_use()));
        seen
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Registry {
    queries: Slab<Query>,
    statements: Slab<Statement>,
    texts: FxHashMap<Arc<str>, StatementId>,
    /// Queries by hashes of their statements and parameters: who asks for the same shares one.
    names: Keys,
}

impl Registry {
    pub(crate) const fn len(&self) -> usize {
        self.queries.len()
    }

    pub(crate) fn get(&self, id: QueryId) -> Option<&Query> {
        self.queries.get(id.0)
    }

    /// Every query, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (QueryId, &Query)> {
        self.queries.iter().map(|(number, query)| (QueryId(number), query))
    }

    /// The statement of a text, if a query of it is open.
    pub(crate) fn known(&self, sql: &str) -> Option<StatementId> {
        self.texts.get(sql).copied()
    }

    /// # Panics
    /// When the statement has no query.
    pub(crate) fn statement(&self, id: StatementId) -> &Statement {
        self.statements.get(id.0).expect("a statement is there as long as queries of it are")
    }

    /// Plans every statement anew.
    pub(crate) fn replan(&mut self, plan: impl Fn(&str) -> Result<Plan, LiveError>) {
        self.statements.iter_mut().for_each(|statement| statement.take(plan(&statement.plan.sql)));
    }

    /// The open query of a statement with these parameters; it may be one that everybody has let go of.
    pub(crate) fn find(&self, statement: StatementId, parameters: &Bound) -> Option<(QueryId, &Query)> {
        let mut found = None;
        self.names.find(Some(parameters.hash(statement.0)), &mut |id| {
            let is_it = |query: &&Query| query.statement == statement && query.parameters == *parameters;
            found = self.get(id).filter(is_it).map(|query| (id, query)).or(found);
        });
        found
    }

    /// Adds a statement; it is there until the last of its queries is removed.
    pub(crate) fn add_statement(&mut self, plan: Plan) -> StatementId {
        let sql = plan.sql.clone();
        let heading = Arc::new(Heading { columns: plan.columns.clone() });
        let id = StatementId(self.statements.insert(Statement { plan, heading, broken: None, queries: 0 }));
        self.texts.insert(sql, id);
        id
    }

    /// Plans a statement anew that was broken.
    pub(crate) fn mend(&mut self, statement: StatementId, plan: Plan) {
        if let Some(statement) = self.statements.get_mut(statement.0) {
            statement.take(Ok(plan));
        }
    }

    /// Adds a query, which [`find`](Self::find) has not found; `share` makes what is shared by all who ask for it.
    pub(crate) fn add(
        &mut self,
        statement: StatementId,
        parameters: Bound,
        share: impl FnOnce(QueryId) -> Arc<Shared>,
    ) -> (QueryId, Arc<Shared>) {
        let hash = parameters.hash(statement.0);
        let query = Query { statement, parameters, shared: Weak::new(), kept: Cell::default() };
        let id = QueryId(self.queries.insert(query));
        let shared = share(id);
        if let Some(query) = self.queries.get_mut(id.0) {
            query.shared = Arc::downgrade(&shared);
        }
        self.names.insert(Some(hash), id);
        if let Some(statement) = self.statements.get_mut(statement.0) {
            statement.queries += 1;
        }
        (id, shared)
    }

    /// Removes a query, and its statement if it was the last; shows both to `leave` before.
    pub(crate) fn remove(&mut self, id: QueryId, leave: impl FnOnce(&Query, &Statement)) {
        let Some(query) = self.queries.remove(id.0) else { return };
        self.names.remove(Some(query.parameters.hash(query.statement.0)), id);
        let Some(statement) = self.statements.get_mut(query.statement.0) else { return };
        statement.queries -= 1;
        leave(&query, statement);
        if statement.queries == 0 {
            self.texts.remove(&statement.plan.sql);
            self.statements.remove(query.statement.0);
        }
    }
}
