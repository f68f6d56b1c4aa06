//! Whether rows that were asked about are those of a run.

use std::cmp::Ordering;

use opor_core::Value;

use super::{Asked, Kept, Window, plain};
use crate::error::LiveError;
use crate::options::ScopedRuns;
use crate::result::{Cell, Row};
use crate::run::same;
use crate::scope::Scope;
use crate::scope::held::Held;

/// Two sums of the same reals in another order differ by less than this part of them.
const DIFFERENCE: f64 = 1e-9;

impl Kept {
    /// Runs the query, and compares what it gives with `rows`. Rows that are equal in the order may stand in any, and of those at the ends
    /// of a LIMIT any may be there; without ORDER BY all may. What is kept stays as it is.
    ///
    /// # Errors
    /// Those of a run.
    pub(crate) fn agrees(&self, asked: Asked<'_>, rows: &[Row]) -> Result<bool, LiveError> {
        let scope = asked.plan.scope.as_ref().ok().filter(|_| asked.scoped != ScopedRuns::Never);
        let window = scope.and_then(|scope| Window::of(scope, asked));
        let plain = plain(asked, rows)?.rows;
        let (Some(scope), Some(window)) = (scope, window) else { return Ok(same(rows, &plain)) };
        // A run of more than the query is may fail where the query does not.
        let Ok(ran) = scope.run(asked, window, rows, true) else { return Ok(same(rows, &plain)) };
        let (Some(held), Some(now)) = (&self.held, ran.held) else { return Ok(same(rows, &ran.rows)) };
        let kept = Side { held, rows: held.window.as_deref().unwrap_or(rows) };
        let fresh = Side { held: &now, rows: now.window.as_deref().unwrap_or(&ran.rows) };
        let seen = window.map_or(0..rows.len(), |window| {
            window.skipped.min(kept.rows.len())..window.end.min(kept.rows.len())
        });
        let counts = rows.len() == seen.len() && rows.len() == ran.rows.len() && rows.len() == plain.len();
        Ok(counts && scope.alike(kept, fresh, seen))
    }
}

/// A result with what is kept of it.
#[derive(Clone, Copy)]
struct Side<'a> {
    held: &'a Held,
    rows: &'a [Row],
}

impl Scope {
    /// Whether two results are one, as far as SQL says what a result is.
    fn alike(&self, a: Side<'_>, b: Side<'_>, seen: std::ops::Range<usize>) -> bool {
        let ranks = |a: Side<'_>, at: usize, b: Side<'_>, other: usize| {
            self.rank(a.held.whole(a.rows, at), b.held.whole(b.rows, other))
        };
        if b.rows.len() < seen.end || !seen.clone().all(|at| ranks(a, at, b, at).is_eq()) {
            return false;
        }
        let inner = |side: Side<'_>| {
            let cut = |at: usize| {
                // A tie with what is skipped, or with what comes after the last.
                let tied = |end: usize, other: Option<usize>| {
                    let goes_on = other
                        .is_none_or(|other| other < side.rows.len() && ranks(side, end, side, other).is_eq());
                    goes_on && ranks(side, at, side, end).is_eq()
                };
                let unknown = seen.end == side.rows.len() && side.held.more;
                (seen.start > 0 && tied(seen.start, Some(seen.start - 1)))
                    || tied(seen.end - 1, if unknown { None } else { Some(seen.end) })
            };
            let mut all: Vec<usize> = seen.clone().filter(|at| !cut(*at)).collect();
            all.sort_by(|x, y| self.tell(side.held.whole(side.rows, *x), side.held.whole(side.rows, *y)));
            all
        };
        let (of_a, of_b) = (inner(a), inner(b));
        let pairs = || of_a.iter().zip(&of_b);
        of_a.len() == of_b.len()
            && pairs().all(|(x, y)| {
                let told = self.tell(a.held.whole(a.rows, *x), b.held.whole(b.rows, *y));
                told == Ordering::Equal && self.same_values(&a.rows[*x], &b.rows[*y])
            })
    }

    fn same_values(&self, a: &Row, b: &Row) -> bool {
        a.iter().zip(b.iter()).all(|(a, b)| match (a, b) {
            (Value::Real(a), Value::Real(b)) if self.groups.is_some() => {
                a.to_bits() == b.to_bits() || (a - b).abs() <= DIFFERENCE * a.abs().max(b.abs())
            }
            (a, b) => Cell::from(a) == Cell::from(b),
        })
    }
}
