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
        // Where a tie is cut, by OFFSET or by LIMIT, any of its rows may be there.
        let tied = |side: Side<'_>, at: usize, other: usize| {
            other < side.rows.len() && ranks(side, at, side, other).is_eq()
        };
        let goes_on = |side: Side<'_>| seen.end == side.rows.len() && side.held.more;
        let any = |cut: &dyn Fn(Side<'_>) -> bool| !seen.is_empty() && (cut(a) || cut(b));
        let first_cut = any(&|side| seen.start > 0 && tied(side, seen.start, seen.start - 1));
        let last_cut = any(&|side| goes_on(side) || tied(side, seen.end - 1, seen.end));
        let inner = |side: Side<'_>| {
            let cut = |at: usize| {
                (first_cut && ranks(side, at, side, seen.start).is_eq())
                    || (last_cut && ranks(side, at, side, seen.end - 1).is_eq())
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

#[cfg(test)]
mod tests {
    use opor_store::Store;

    use super::*;
    use crate::access::Listener;
    use crate::plan::plan;

    const FILLED: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, x, s TEXT);
        CREATE TABLE u(t INTEGER, y);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
        INSERT INTO t SELECT i, i % 6, 's' || i FROM n;
        INSERT INTO u SELECT id, x FROM t WHERE id % 2";

    /// Writes of which nobody tells, as if a row that changed had been forgotten: some change the result, and some only the order of ties.
    #[track_caller]
    fn check(sql: &str, unseen: &[&str], seen: &[&str]) {
        for (write, expected) in
            unseen.iter().map(|sql| (sql, true)).chain(seen.iter().map(|sql| (sql, false)))
        {
            let store = Store::open_in_memory().expect("it opens");
            store.execute_batch(FILLED).expect("it fills");
            let listener = Listener::install(&store);
            let plan = plan(&store, &listener, sql).expect("it is right");
            assert!(plan.scope.is_ok(), "{sql}: {:?}", plan.scope);
            let asked = Asked {
                store: &store,
                plan: &plan,
                parameters: &[],
                rows_max: 1_000,
                scoped: ScopedRuns::Always,
            };
            let mut kept = Kept::default();
            let rows = kept.bring(asked, &[], None).expect("it runs").rows.expect("rows");
            store.execute_batch(write).expect("it writes");
            assert_eq!(kept.agrees(asked, &rows), Ok(expected), "{sql}: {write}");
            listener.uninstall(&store);
        }
    }

    #[test]
    fn rows_that_are_not_those_of_a_run_are_found() {
        check(
            "SELECT s FROM t",
            &["UPDATE t SET x = 9", "UPDATE u SET y = 9"],
            &[
                "UPDATE t SET s = 'other' WHERE id = 9",
                "DELETE FROM t WHERE id = 60",
                "INSERT INTO t(id) VALUES (70)",
            ],
        );
        check(
            "SELECT x FROM t ORDER BY x DESC",
            &["UPDATE t SET s = '1'"],
            &["UPDATE t SET x = 9 WHERE id = 1"],
        );
        // Of ten rows with 0, two are skipped and one is cut off.
        check(
            "SELECT x FROM t ORDER BY x LIMIT 7 OFFSET 2",
            &["UPDATE t SET x = 7 WHERE x = 5", "UPDATE t SET x = x + 100 WHERE x > 4"],
            &["UPDATE t SET x = 1 WHERE id IN (6, 12)", "DELETE FROM t WHERE x = 0"],
        );
        check(
            "SELECT s FROM t ORDER BY x LIMIT 7 OFFSET 2",
            &["UPDATE t SET s = 'other' WHERE id = 59", "UPDATE t SET s = 'tied' WHERE id = 6"],
            &["UPDATE t SET x = -1 WHERE x = 5", "UPDATE t SET x = 1 WHERE x = 0"],
        );
        check(
            "SELECT s FROM t ORDER BY x LIMIT 15",
            &["UPDATE t SET s = 'tied' WHERE x = 1"],
            &["UPDATE t SET s = 'inner' WHERE id = 6"],
        );
        check(
            "SELECT x, count(*), sum(id + 0.1) FROM t GROUP BY x",
            &["UPDATE t SET s = 'other'"],
            &[
                "UPDATE t SET x = 1 WHERE x = 2 AND id < 5",
                "DELETE FROM t WHERE id = 5",
                "INSERT INTO t(x) VALUES (8)",
            ],
        );
        check(
            "SELECT t.id, u.y FROM t LEFT JOIN u ON u.t = t.id",
            &["UPDATE u SET y = y"],
            &[
                "DELETE FROM u WHERE t = 3",
                "INSERT INTO u(t) VALUES (2)",
                "UPDATE u SET y = 'other' WHERE t = 1",
            ],
        );
        check(
            "SELECT id FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.t = t.id)",
            &["UPDATE u SET y = 1"],
            &["DELETE FROM u WHERE t = 3"],
        );
    }
}
