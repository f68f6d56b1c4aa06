//! What is kept of a query between its steps, and one step.

use std::cmp::Ordering;

use opor_core::Value;
use opor_store::rusqlite::{self, StatementStatus};
use opor_store::{Changes, Store};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Place, Scope};
use crate::error::LiveError;
use crate::plan::Plan;
use crate::result::Row;
use crate::run::{self, run, value};

/// What it costs to begin and end a statement, in steps of SQLite's machine, beside those that are counted. `cargo xtask bench live-scope`: one
/// row takes 1.4 to 3.7 us, and a step of a long run some 0.08 us, so this is at the upper end.
const STEPS_TO_ASK: u64 = 45;

/// Asking about rows may take this part of the steps of the last run of the whole query. It is on the safe side: of 100,000 rows 4,000 are
/// still asked about, in less than a quarter of the time of a run. Past that feeds soon say no more which rows changed.
const SHARE_OF_RUN: u64 = 2;

/// After so many runs because asking was dearer the last time, it is tried again: tables and indexes may be others by then.
const RUNS_BEFORE_TRYING: u32 = 64;

/// Up to here a short list is looked through from end to end, which is faster than halving it.
const LOOKED_THROUGH: usize = 8;

/// A query and its parameters, on the connection it runs on.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) store: &'a Store,
    pub(crate) plan: &'a Plan,
    pub(crate) parameters: &'a [Value],
    pub(crate) rows_max: usize,
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
    state: Option<State>,
    /// So many changed rows were dearer to ask about than a run.
    dear: Option<usize>,
    runs_since: u32,
}

/// The columns that nobody sees, for every row of the result.
#[derive(Debug)]
struct State {
    /// One rowid for each table in FROM.
    rowids: Vec<i64>,
    /// What is sorted by and not seen; empty when that is nothing.
    terms: Vec<Box<[Value]>>,
    /// The rows are in ascending order of their rowids.
    ascending: bool,
    /// Of the last run of the whole query.
    steps: u64,
}

/// A row that comes.
struct Entry {
    row: Row,
    rowids: Box<[i64]>,
    terms: Box<[Value]>,
}

/// One place of the old result, at which something comes before the row that is there, or that row goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Splice {
    Insert(usize),
    Remove,
}

impl Kept {
    /// Whether it may ever spare a run. Of a query that takes few steps nothing needs to be kept.
    pub(crate) fn is_of_use(&self) -> bool {
        self.dear.is_some()
            || self.state.as_ref().is_some_and(|state| state.steps / SHARE_OF_RUN >= STEPS_TO_ASK)
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
        let state = self.state.take();
        let Ok(scope) = &asked.plan.scope else {
            let ran = run(
                asked.store,
                &asked.plan.sql,
                asked.plan,
                asked.parameters,
                before,
                asked.rows_max,
                |_| {},
            )?;
            return Ok(Brought { rows: Some(ran.rows), scoped: false });
        };
        if let (Some(mut state), Some(changes)) = (state, changes)
            && let Some(rows) = self.step(asked, scope, &mut state, before, changes)
        {
            self.state = Some(state);
            return Ok(Brought { rows, scoped: true });
        }
        let mut hidden = Hidden { scope, rowids: Vec::new(), terms: Vec::new(), readable: true };
        let ran =
            run(asked.store, &scope.full, asked.plan, asked.parameters, before, asked.rows_max, |row| {
                hidden.read(row);
            })?;
        self.state = hidden.state(&ran.rows, ran.steps);
        Ok(Brought { rows: Some(ran.rows), scoped: false })
    }

    /// The rows after a step, if they are others; nothing at all when the query has to be run.
    #[expect(clippy::option_option, reason = "whether there is an answer, and whether it is another")]
    fn step(
        &mut self,
        asked: Asked<'_>,
        scope: &Scope,
        state: &mut State,
        before: &[Row],
        changes: &Changes,
    ) -> Option<Option<Vec<Row>>> {
        if before.len() * scope.occurrences.len() != state.rowids.len() {
            return None;
        }
        let changed = scope.changed(changes)?;
        let count = changed.iter().map(Vec::len).sum::<usize>();
        let budget = state.steps / SHARE_OF_RUN;
        if count as u64 * STEPS_TO_ASK > budget || self.is_dear(count) {
            return None;
        }
        let comes = match scope.ask(asked, &changed, budget) {
            Ok(Some(comes)) => comes,
            Ok(None) => {
                (self.dear, self.runs_since) = (Some(count), 0);
                return None;
            }
            // If it is none of the statement that was put together here, a run meets it again.
            Err(_) => return None,
        };
        let gone = state.gone(&changed, scope.occurrences.len());
        if before.len() - gone.len() + comes.len() > asked.rows_max {
            return None;
        }
        Some(scope.exchange(state, before, &gone, comes))
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

impl Scope {
    /// For each table in FROM the rowids that were touched, in ascending order; `None` when they are not all known.
    fn changed(&self, changes: &Changes) -> Option<Vec<Vec<i64>>> {
        if changes.unknown {
            return None;
        }
        let changed = |table: &super::ScopedTable| {
            let Some(changes) = changes.tables.get(&table.name) else { return Some(Vec::new()) };
            if changes.beyond.is_some() {
                return None;
            }
            let concern = changes.rows.iter();
            let concern = concern.filter(|row| row.old != row.new || row.columns.intersects(table.columns));
            let mut rowids: Vec<i64> = concern.flat_map(|row| row.old.into_iter().chain(row.new)).collect();
            rowids.sort_unstable();
            rowids.dedup();
            Some(rowids)
        };
        self.occurrences.iter().map(changed).collect()
    }

    /// Every row of the new result that is made of a changed row; `None` when that takes more steps than allowed.
    fn ask(
        &self,
        asked: Asked<'_>,
        changed: &[Vec<i64>],
        budget: u64,
    ) -> Result<Option<Vec<Entry>>, LiveError> {
        let mut comes = Vec::new();
        let mut spent = 0;
        // A row that is made of several changed rows is found through each of them.
        let mut seen: FxHashSet<Box<[i64]>> = FxHashSet::default();
        let several = changed.iter().filter(|rowids| !rowids.is_empty()).count() > 1;
        for (table, rowids) in self.occurrences.iter().zip(changed).filter(|(_, rowids)| !rowids.is_empty()) {
            let mut stmt = asked.store.prepare_cached(&table.sql)?;
            run::bind(&mut stmt, asked.parameters)?;
            stmt.reset_status(StatementStatus::VmStep);
            for rowid in rowids {
                stmt.raw_bind_parameter(self.rowid_parameter, rowid)?;
                let mut rows = stmt.raw_query();
                while let Some(row) = rows.next()? {
                    let entry = self.entry(row)?;
                    if !several || seen.insert(entry.rowids.clone()) {
                        comes.push(entry);
                    }
                    if comes.len() > asked.rows_max {
                        return Ok(None);
                    }
                }
                drop(rows);
                spent += STEPS_TO_ASK + stmt.reset_status(StatementStatus::VmStep).unsigned_abs() as u64;
                if spent > budget {
                    return Ok(None);
                }
            }
        }
        Ok(Some(comes))
    }

    fn entry(&self, row: &rusqlite::Row<'_>) -> Result<Entry, LiveError> {
        let values = |from: usize, count: usize| (from..from + count).map(|at| value(row.get_ref(at)?));
        let rowids = self.width..self.width + self.occurrences.len();
        Ok(Entry {
            row: values(0, self.width).collect::<Result<_, LiveError>>()?,
            terms: values(rowids.end, self.hidden_terms).collect::<Result<_, _>>()?,
            rowids: rowids.map(|at| row.get(at)).collect::<Result<_, _>>()?,
        })
    }

    /// Takes rows out, and puts others in their places. `None` when the rows are the same afterwards.
    fn exchange(
        &self,
        state: &mut State,
        before: &[Row],
        gone: &[usize],
        comes: Vec<Entry>,
    ) -> Option<Vec<Row>> {
        let arity = self.occurrences.len();
        let mut were: FxHashMap<Box<[i64]>, usize> =
            gone.iter().map(|at| (state.rowids_of(*at, arity).into(), *at)).collect();
        let mut stay: Vec<(usize, Entry)> = Vec::new();
        let mut enter: Vec<(usize, Entry)> = Vec::new();
        for entry in comes {
            let was = were.get(&entry.rowids).copied();
            let is_there = was.filter(|at| self.compare_at(state, before, *at, &entry) == Ordering::Equal);
            match is_there {
                Some(at) => {
                    were.remove(&entry.rowids);
                    stay.push((at, entry));
                }
                None => enter.push((self.place(state, before, &entry), entry)),
            }
        }
        // Rows of one place among each other.
        enter.sort_by(|(a_at, a), (b_at, b)| {
            a_at.cmp(b_at).then_with(|| self.compare(a, b)).then_with(|| a.rowids.cmp(&b.rowids))
        });
        let mut splices: Vec<(usize, Splice)> = were.into_values().map(|at| (at, Splice::Remove)).collect();
        splices.extend(enter.iter().enumerate().map(|(which, (at, _))| (*at, Splice::Insert(which))));
        splices.sort_unstable();
        let mut same = splices.is_empty();
        stay.iter().for_each(|(at, entry)| same &= before[*at] == entry.row);
        let mut rows = if same { Vec::new() } else { before.to_vec() };
        for (at, entry) in stay {
            if !same && rows[at] != entry.row {
                rows[at] = entry.row;
            }
            if self.hidden_terms > 0 {
                state.terms[at] = entry.terms;
            }
        }
        if same {
            return None;
        }
        if !splices.is_empty() {
            let rows_of = |which: usize| [enter[which].1.row.clone()];
            rows = spliced(rows, 1, &splices, rows_of);
            state.rowids = spliced(std::mem::take(&mut state.rowids), arity, &splices, |which| {
                enter[which].1.rowids.iter().copied()
            });
            if self.hidden_terms > 0 {
                let terms = std::mem::take(&mut state.terms);
                state.terms = spliced(terms, 1, &splices, |which| [enter[which].1.terms.clone()]);
            }
        }
        Some(rows)
    }

    /// Before which row of the old result a row comes. Without ORDER BY the rows are in the order of their rowids if they were so when the
    /// query was run, and otherwise what comes goes to the end.
    fn place(&self, state: &State, before: &[Row], entry: &Entry) -> usize {
        let arity = self.occurrences.len();
        if !self.order.is_empty() {
            let behind = |at: &usize| self.compare_at(state, before, *at, entry) != Ordering::Greater;
            partition_point(before.len(), behind)
        } else if state.ascending {
            partition_point(before.len(), |at| state.rowids_of(*at, arity) < &entry.rowids[..])
        } else {
            before.len()
        }
    }

    fn compare_at(&self, state: &State, before: &[Row], at: usize, entry: &Entry) -> Ordering {
        let terms: &[Value] = state.terms.get(at).map_or(&[], |terms| &**terms);
        self.compare_values((&before[at], terms), (&entry.row, &entry.terms))
    }

    fn compare(&self, a: &Entry, b: &Entry) -> Ordering {
        self.compare_values((&a.row, &a.terms), (&b.row, &b.terms))
    }

    fn compare_values(&self, a: (&[Value], &[Value]), b: (&[Value], &[Value])) -> Ordering {
        let compare = |term: &super::SortTerm| match term.value {
            Place::Seen(at) => term.comparison.compare(&a.0[at], &b.0[at]),
            Place::Hidden(at) => term.comparison.compare(&a.1[at], &b.1[at]),
        };
        self.order.iter().map(compare).find(|order| *order != Ordering::Equal).unwrap_or(Ordering::Equal)
    }
}

/// The first place for which it is not so, when it is so up to there.
fn partition_point(len: usize, is_before: impl Fn(&usize) -> bool) -> usize {
    let (mut lo, mut hi) = (0, len);
    while lo < hi {
        let middle = lo + (hi - lo) / 2;
        if is_before(&middle) { lo = middle + 1 } else { hi = middle }
    }
    lo
}

/// Takes out and puts in, at places in ascending order; each row has `arity` members in the list.
fn spliced<T, I: IntoIterator<Item = T>>(
    list: Vec<T>,
    arity: usize,
    splices: &[(usize, Splice)],
    entering: impl Fn(usize) -> I,
) -> Vec<T> {
    let mut result = Vec::with_capacity(list.len() + splices.len() * arity);
    let mut list = list.into_iter();
    let mut taken = 0;
    for (at, splice) in splices {
        result.extend(list.by_ref().take((at - taken) * arity));
        taken = *at;
        match splice {
            Splice::Insert(which) => result.extend(entering(*which)),
            Splice::Remove => {
                list.by_ref().take(arity).for_each(drop);
                taken += 1;
            }
        }
    }
    result.extend(list);
    result
}

impl State {
    fn rowids_of(&self, at: usize, arity: usize) -> &[i64] {
        &self.rowids[at * arity..(at + 1) * arity]
    }

    /// The places of the rows that are made of a changed row.
    fn gone(&self, changed: &[Vec<i64>], arity: usize) -> Vec<usize> {
        let is_changed = |rowids: &[i64]| {
            rowids.iter().zip(changed).any(|(rowid, changed)| {
                if changed.len() <= LOOKED_THROUGH {
                    changed.contains(rowid)
                } else {
                    changed.binary_search(rowid).is_ok()
                }
            })
        };
        let rows = self.rowids.chunks_exact(arity).enumerate();
        rows.filter(|(_, rowids)| is_changed(rowids)).map(|(at, _)| at).collect()
    }
}

/// Reads the columns that nobody sees while a query runs.
struct Hidden<'a> {
    scope: &'a Scope,
    rowids: Vec<i64>,
    terms: Vec<Box<[Value]>>,
    /// Otherwise there are values that cannot be kept.
    readable: bool,
}

impl Hidden<'_> {
    fn read(&mut self, row: &rusqlite::Row<'_>) {
        let scope = self.scope;
        let rowids = scope.width..scope.width + scope.occurrences.len();
        for at in rowids.clone() {
            match row.get(at) {
                Ok(rowid) => self.rowids.push(rowid),
                Err(_) => self.readable = false,
            }
        }
        if scope.hidden_terms > 0 {
            let values = (rowids.end..rowids.end + scope.hidden_terms).map(|at| value(row.get_ref(at)?));
            match values.collect::<Result<_, LiveError>>() {
                Ok(terms) => self.terms.push(terms),
                Err(_) => self.readable = false,
            }
        }
    }

    /// `None` when something was not as expected.
    fn state(self, rows: &[Row], steps: u64) -> Option<State> {
        let scope = self.scope;
        let arity = scope.occurrences.len();
        if !self.readable || self.rowids.len() != rows.len() * arity {
            return None;
        }
        let terms = |at: usize| self.terms.get(at).map_or(&[][..], |terms| &**terms);
        // What SQLite has sorted must be sorted by the comparisons here.
        let in_order = |at: usize| {
            let (a, b) = ((&*rows[at], terms(at)), (&*rows[at + 1], terms(at + 1)));
            scope.compare_values(a, b) != Ordering::Greater
        };
        if !scope.order.is_empty() && !(0..rows.len().saturating_sub(1)).all(in_order) {
            return None;
        }
        let ascending = self.rowids.chunks_exact(arity).is_sorted();
        Some(State { rowids: self.rowids, terms: self.terms, ascending, steps })
    }
}
