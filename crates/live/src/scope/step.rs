//! What is kept of a query between its steps, and one step.

use opor_core::Value;
use opor_store::{Changes, Store};

use super::Scope;
use super::held::{Exchanged, Held, Hidden};
use super::shape::Bound;
use super::source::{Budget, STEPS_TO_ASK, concerns};
use crate::error::LiveError;
use crate::options::ScopedRuns;
use crate::plan::Plan;
use crate::result::Row;
use crate::run::{Ran, run, same};

mod check;

/// Asking about rows may take this part of the steps of the last run of the whole query. It is on the safe side: of 100,000 rows 4,000 are
/// still asked about, in less than a quarter of the time of a run. Past that feeds soon say no more which rows changed.
const SHARE_OF_RUN: u64 = 2;

/// After so many runs because asking was dearer the last time, it is tried again: tables and indexes may be others by then.
const RUNS_BEFORE_TRYING: u32 = 64;

/// A query and its parameters, on the connection it runs on.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) store: &'a Store,
    pub(crate) plan: &'a Plan,
    pub(crate) parameters: &'a [Value],
    pub(crate) rows_max: usize,
    pub(crate) scoped: ScopedRuns,
}

impl Asked<'_> {
    /// Whether something may come of asking about rows. Of a query that takes few steps nothing needs to be kept: it is always run.
    fn is_of_use(self, steps: u64) -> bool {
        self.scoped == ScopedRuns::Always || steps / SHARE_OF_RUN >= STEPS_TO_ASK
    }
}

/// What a step gave.
#[derive(Debug)]
pub(crate) struct Brought {
    /// The rows; `None` when they are those that there were.
    pub(crate) rows: Option<Vec<Row>>,
    /// It was asked only about rows that changed.
    pub(crate) scoped: bool,
}

/// What is kept of a query beside its rows.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Of the rows as they were given last.
    held: Option<Held>,
    /// So many changed rows were dearer to ask about than a run.
    dear: Option<usize>,
    runs_since: u32,
    /// The rows have not been those of a run since then.
    scoped: bool,
}

/// The most rows that OFFSET may skip where rows are kept beyond those that are seen: they are kept as well, and who pages on through a
/// long result reads a page once.
const SKIPPED_MAX: usize = 1_000;

/// Rows that are kept beyond those that are seen: a quarter as many, so that a run comes after many deletes, and not less or more than this.
const SPARE: std::ops::RangeInclusive<usize> = 16..=256;

/// Which rows of the order are seen, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    skipped: usize,
    /// Counted from the first, with those that are skipped.
    end: usize,
    kept: usize,
}

impl Window {
    /// What the statement says; the outer `None` when that is not known, or more than is kept.
    #[expect(clippy::option_option, reason = "whether it is known, and whether there is one")]
    fn of(scope: &Scope, asked: Asked<'_>) -> Option<Option<Self>> {
        let Some(limit) = scope.limit else { return Some(None) };
        let number = |bound: Bound| match bound {
            Bound::Number(number) => Some(number),
            Bound::Parameter(number) => match asked.parameters.get(number.checked_sub(1)?)? {
                Value::Integer(number) => Some(*number),
                // SQLite may take it for a number, or refuse it.
                _ => None,
            },
        };
        // Less than nothing is no LIMIT at all.
        let rows = usize::try_from(number(limit.rows)?).ok()?;
        let skipped = usize::try_from(number(limit.skipped)?.max(0)).ok()?;
        let end = skipped.checked_add(rows)?;
        let kept = end.checked_add((rows / 4).clamp(*SPARE.start(), *SPARE.end()))?;
        (skipped <= SKIPPED_MAX && kept <= asked.rows_max).then_some(Some(Self { skipped, end, kept }))
    }

    fn seen(self, rows: &[Row]) -> &[Row] {
        &rows[self.skipped.min(rows.len())..self.end.min(rows.len())]
    }
}

/// A run of the whole query, with what is to be kept of it.
struct WholeRun {
    rows: Vec<Row>,
    held: Option<Held>,
}

impl Kept {
    /// Whether it may ever spare a run. Of a query that takes few steps nothing needs to be kept.
    pub(crate) fn is_of_use(&self) -> bool {
        self.dear.is_some() || self.held.is_some()
    }

    /// Brings the rows `before` to the open snapshot. `changes` are those since the snapshot they are of, if they are known.
    ///
    /// # Errors
    /// Those of a run. What is kept then is nothing.
    pub(crate) fn bring(
        &mut self,
        asked: Asked<'_>,
        before: &[Row],
        changes: Option<&Changes>,
    ) -> Result<Brought, LiveError> {
        let held = self.held.take();
        self.scoped = false;
        let scope = asked.plan.scope.as_ref().ok().filter(|_| asked.scoped != ScopedRuns::Never);
        let Some((scope, window)) = scope.and_then(|scope| Some((scope, Window::of(scope, asked)?))) else {
            return Ok(Brought { rows: Some(plain(asked, before)?.rows), scoped: false });
        };
        if let (Some(mut held), Some(changes)) = (held, changes)
            && let Some(rows) = self.step(asked, scope, window, &mut held, before, changes)
        {
            (self.held, self.scoped) = (Some(held), true);
            return Ok(Brought { rows, scoped: true });
        }
        let follow = scope.groups.is_none() || !self.is_dear(1);
        let whole = match scope.run(asked, window, before, follow) {
            Ok(whole) => whole,
            Err(error @ LiveError::TooLarge { .. }) => return Err(error),
            // More is looked at than the query itself does.
            Err(_) => WholeRun { rows: plain(asked, before)?.rows, held: None },
        };
        self.held = whole.held.filter(|held| asked.is_of_use(held.steps));
        Ok(Brought { rows: Some(whole.rows), scoped: false })
    }

    /// Whether the rows were not those of a run when they were brought to a snapshot the last time.
    pub(crate) fn was_scoped(&self) -> bool {
        self.scoped
    }

    /// The rows after a step, if they are others; nothing at all when the query has to be run.
    #[expect(clippy::option_option, reason = "whether there is an answer, and whether it is another")]
    fn step(
        &mut self,
        asked: Asked<'_>,
        scope: &Scope,
        window: Option<Window>,
        held: &mut Held,
        before: &[Row],
        changes: &Changes,
    ) -> Option<Option<Vec<Row>>> {
        let kept = held.window.take();
        if kept.is_some() != window.is_some() {
            return None;
        }
        let rows = kept.as_deref().unwrap_or(before);
        if rows.len() * scope.arity() != held.rowids.len() {
            return None;
        }
        let changed = scope.source.changed(changes)?;
        if scope.aside.iter().any(|(table, columns)| concerns(changes, table, *columns)) {
            return None;
        }
        let count = changed.iter().map(Vec::len).sum::<usize>();
        let always = asked.scoped == ScopedRuns::Always;
        let left = if always { u64::MAX } else { held.steps / SHARE_OF_RUN };
        let mut budget = Budget { left, exceeded: false };
        if count as u64 * STEPS_TO_ASK > budget.left || (!always && self.is_dear(count)) {
            return None;
        }
        let moves = match &mut held.members {
            None if scope.groups.is_some() => return None,
            None => scope.source.moves(asked, &held.rowids, &changed, &mut budget),
            Some(members) => {
                members.moves(asked, scope, scope.groups.as_ref()?, &changed, &held.terms, &mut budget)
            }
        };
        let moves = match moves {
            Ok(Some(moves)) => moves,
            Ok(None) => {
                // Or it is not certain this time, as a group may be.
                if budget.exceeded {
                    (self.dear, self.runs_since) = (Some(count), 0);
                }
                return None;
            }
            // If it is none of the statement that was put together here, a run meets it again.
            Err(_) => return None,
        };
        if rows.len() - moves.gone.len() + moves.comes.len() > asked.rows_max {
            return None;
        }
        let exchanged = scope.exchange(held, rows, moves);
        match (window, exchanged) {
            (None, Exchanged::Same) => Some(None),
            (None, Exchanged::Rows(rows)) => Some(Some(rows)),
            (Some(_), Exchanged::Same) => {
                held.window = kept;
                Some(None)
            }
            (Some(window), Exchanged::Rows(mut rows)) => {
                if held.more && rows.len() < window.end {
                    // What comes next is not known any more.
                    return None;
                }
                if rows.len() > window.kept + (window.kept - window.end) {
                    rows.truncate(window.kept);
                    held.truncate(scope.arity(), window.kept);
                }
                let seen = window.seen(&rows).to_vec();
                held.window = Some(rows);
                Some((!same(before, &seen)).then_some(seen))
            }
        }
    }

    fn is_dear(&mut self, count: usize) -> bool {
        if self.dear.is_none_or(|dear| count < dear) {
            return false;
        }
        self.runs_since += 1;
        if self.runs_since > RUNS_BEFORE_TRYING {
            self.dear = None;
        }
        self.dear.is_some()
    }
}

/// Runs the query as it is written.
fn plain(asked: Asked<'_>, before: &[Row]) -> Result<Ran, LiveError> {
    run(asked.store, &asked.plan.sql, asked.plan, asked.parameters, before, asked.rows_max, |_| {})
}

impl Scope {
    /// Runs the query with the columns that nobody sees. What groups are made of is looked at only to `follow` it.
    fn run(
        &self,
        asked: Asked<'_>,
        window: Option<Window>,
        before: &[Row],
        follow: bool,
    ) -> Result<WholeRun, LiveError> {
        let mut parameters = asked.parameters.to_vec();
        if let Some(window) = window {
            let kept = i64::try_from(window.kept).unwrap_or(i64::MAX);
            parameters.push(Value::Integer(kept));
        }
        let mut hidden = Hidden::new(self);
        let Ran { rows, steps } =
            run(asked.store, &self.full, asked.plan, &parameters, before, asked.rows_max, |row| {
                hidden.read(row);
            })?;
        let mut held = hidden.held(&rows, steps);
        if let (Some(groups), Some(found)) = (&self.groups, &mut held) {
            found.members =
                if follow && asked.is_of_use(steps) { groups.members(asked, &self.source)? } else { None };
            if found.members.is_none() {
                held = None;
            }
        }
        let Some(window) = window else { return Ok(WholeRun { rows, held }) };
        let seen = window.seen(&rows).to_vec();
        if let Some(held) = &mut held {
            held.more = rows.len() >= window.kept;
            held.window = Some(rows);
        }
        Ok(WholeRun { rows: seen, held })
    }
}
