//! What is kept of each row of a result, in their order: how rows go out of it, and others come in.

use std::cmp::Ordering;

use opor_core::Value;

use super::groups::Members;
use super::source::{Entry, Moves, NO_ROW, values};
use super::{Place, Scope};
use crate::result::Row;

/// The columns that nobody sees, for every row of the result.
#[derive(Debug)]
pub(super) struct Held {
    /// With a LIMIT the rows up to it, those that OFFSET skips, and some more.
    pub(super) window: Option<Vec<Row>>,
    /// There may be more rows after these.
    pub(super) more: bool,
    /// One rowid for each table in FROM; nothing where rows are grouped.
    pub(super) rowids: Vec<i64>,
    /// What is grouped by, and what is sorted by and not seen; empty when that is nothing.
    pub(super) terms: Vec<Box<[Value]>>,
    /// Rows that are equal in the order, which without ORDER BY are all, stand in the order of what tells them apart.
    pub(super) ascending: bool,
    pub(super) members: Option<Members>,
    /// Of the last run of the whole query.
    pub(super) steps: u64,
}

/// All that there is of a row.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a> {
    row: &'a [Value],
    rowids: &'a [i64],
    terms: &'a [Value],
}

impl Entry {
    fn whole(&self) -> Whole<'_> {
        Whole { row: &self.row, rowids: &self.rowids, terms: &self.terms }
    }
}

impl Held {
    pub(super) fn whole<'a>(&'a self, rows: &'a [Row], at: usize) -> Whole<'a> {
        let arity = self.rowids.len() / rows.len().max(1);
        Whole {
            row: &rows[at],
            rowids: &self.rowids[at * arity..(at + 1) * arity],
            terms: self.terms.get(at).map_or(&[], |terms| &**terms),
        }
    }

    /// Forgets what is behind the first rows.
    pub(super) fn truncate(&mut self, arity: usize, len: usize) {
        self.rowids.truncate(len * arity);
        self.terms.truncate(len);
        self.more = true;
    }
}

/// What an exchange of rows led to.
#[derive(Debug)]
pub(super) enum Exchanged {
    Same,
    Rows(Vec<Row>),
}

/// One place of the old result, at which something comes before the row that is there, or that row goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Splice {
    Insert(usize),
    Remove,
}

impl Scope {
    /// How many rowids are kept for each row.
    pub(super) fn arity(&self) -> usize {
        if self.groups.is_some() { 0 } else { self.source.tables.len() }
    }

    /// Takes rows out, and puts others in their places.
    pub(super) fn exchange(&self, held: &mut Held, before: &[Row], moves: Moves) -> Exchanged {
        let Moves { mut gone, comes } = moves;
        gone.sort_by(|a, b| self.tell(held.whole(before, *a), held.whole(before, *b)));
        let mut leaves = vec![true; gone.len()];
        let mut stay: Vec<(usize, Entry)> = Vec::new();
        let mut enter: Vec<(usize, Entry)> = Vec::new();
        for entry in comes {
            let was = gone.binary_search_by(|at| self.tell(held.whole(before, *at), entry.whole())).ok();
            let stays = was.filter(|which| {
                leaves[*which] && self.rank(held.whole(before, gone[*which]), entry.whole()).is_eq()
            });
            if let Some(which) = stays {
                leaves[which] = false;
                stay.push((gone[which], entry));
                continue;
            }
            let place = self.place(held, before, &entry);
            // Behind the last row that is known there may be others before it.
            if !(held.more && place == before.len()) {
                enter.push((place, entry));
            }
        }
        // Rows of one place among each other.
        enter.sort_by(|(a_at, a), (b_at, b)| {
            let (a, b) = (a.whole(), b.whole());
            a_at.cmp(b_at).then_with(|| self.rank(a, b)).then_with(|| self.tell(a, b))
        });
        let leaves = gone.iter().zip(leaves).filter(|(_, leaves)| *leaves);
        let mut splices: Vec<(usize, Splice)> = leaves.map(|(at, _)| (*at, Splice::Remove)).collect();
        splices.extend(enter.iter().enumerate().map(|(which, (at, _))| (*at, Splice::Insert(which))));
        splices.sort_unstable();
        self.splice(held, before, stay, &enter, &splices)
    }

    fn splice(
        &self,
        held: &mut Held,
        before: &[Row],
        stay: Vec<(usize, Entry)>,
        enter: &[(usize, Entry)],
        splices: &[(usize, Splice)],
    ) -> Exchanged {
        let same = splices.is_empty() && stay.iter().all(|(at, entry)| before[*at] == entry.row);
        let mut rows = if same { Vec::new() } else { before.to_vec() };
        for (at, entry) in stay {
            if !same && rows[at] != entry.row {
                rows[at] = entry.row;
            }
            if let Some(terms) = held.terms.get_mut(at) {
                *terms = entry.terms;
            }
        }
        if same {
            return Exchanged::Same;
        }
        if !splices.is_empty() {
            rows = spliced(rows, 1, splices, |which| [enter[which].1.row.clone()]);
            let rowids = std::mem::take(&mut held.rowids);
            held.rowids =
                spliced(rowids, self.arity(), splices, |which| enter[which].1.rowids.iter().copied());
            if self.hidden_terms > 0 {
                let terms = std::mem::take(&mut held.terms);
                held.terms = spliced(terms, 1, splices, |which| [enter[which].1.terms.clone()]);
            }
        }
        Exchanged::Rows(rows)
    }

    /// Before which row of the old result a row comes. If rows that are equal in the order stood in the order of what tells them apart when the
    /// query was run, it goes where it belongs among them, and otherwise behind them.
    fn place(&self, held: &Held, before: &[Row], entry: &Entry) -> usize {
        let is_before = |at: usize| {
            let order = self.rank(held.whole(before, at), entry.whole());
            let told = |order: Ordering| match order {
                Ordering::Equal if held.ascending => self.tell(held.whole(before, at), entry.whole()),
                Ordering::Equal => Ordering::Less,
                order => order,
            };
            told(order).is_lt()
        };
        partition_point(before.len(), is_before)
    }

    /// By ORDER BY.
    pub(super) fn rank(&self, a: Whole<'_>, b: Whole<'_>) -> Ordering {
        let compare = |term: &super::SortTerm| match term.value {
            Place::Seen(at) => term.comparison.compare(&a.row[at], &b.row[at]),
            Place::Hidden(at) => term.comparison.compare(&a.terms[at], &b.terms[at]),
        };
        self.order.iter().map(compare).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }

    /// By what tells one row from another.
    pub(super) fn tell(&self, a: Whole<'_>, b: Whole<'_>) -> Ordering {
        match &self.groups {
            Some(groups) => groups.compare(a.terms, b.terms),
            None => a.rowids.cmp(b.rowids),
        }
    }
}

/// The first place for which it is not so, when it is so up to there.
fn partition_point(len: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut lo, mut hi) = (0, len);
    while lo < hi {
        let middle = lo + (hi - lo) / 2;
        if is_before(middle) { lo = middle + 1 } else { hi = middle }
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

/// Reads the columns that nobody sees while a query runs.
pub(super) struct Hidden<'a> {
    scope: &'a Scope,
    rowids: Vec<i64>,
    terms: Vec<Box<[Value]>>,
    /// Otherwise there are values that cannot be kept.
    readable: bool,
}

impl<'a> Hidden<'a> {
    pub(super) fn new(scope: &'a Scope) -> Self {
        Self { scope, rowids: Vec::new(), terms: Vec::new(), readable: true }
    }

    pub(super) fn read(&mut self, row: &opor_store::rusqlite::Row<'_>) {
        let scope = self.scope;
        if scope.groups.is_none() {
            self.readable &= scope.source.rowids(row, &mut self.rowids).is_ok();
        }
        if scope.hidden_terms > 0 {
            match values(row, scope.width + scope.arity(), scope.hidden_terms) {
                Ok(terms) => self.terms.push(terms.into()),
                Err(_) => self.readable = false,
            }
        }
    }

    /// `None` when something was not as expected.
    pub(super) fn held(self, rows: &[Row], steps: u64) -> Option<Held> {
        let scope = self.scope;
        let fits = self.rowids.len() == rows.len() * scope.arity()
            && (scope.hidden_terms == 0 || self.terms.len() == rows.len());
        if !self.readable || !fits {
            return None;
        }
        let mut held = Held {
            window: None,
            more: false,
            rowids: self.rowids,
            terms: self.terms,
            ascending: true,
            members: None,
            steps,
        };
        for at in 1..rows.len() {
            let (a, b) = (held.whole(rows, at - 1), held.whole(rows, at));
            match scope.rank(a, b) {
                Ordering::Less => {}
                Ordering::Equal => held.ascending &= scope.tell(a, b).is_le(),
                // What SQLite has sorted must be sorted by the comparisons here.
                Ordering::Greater => return None,
            }
        }
        Some(held)
    }
}

/// That a rowid stands for no row must not be taken for the least of all rowids.
const _: () = assert!(NO_ROW == i64::MIN, "it sorts before every rowid that is followed");
