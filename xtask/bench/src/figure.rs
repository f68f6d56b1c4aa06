//! Figures: what a case came to on a shape, and how that stands to its goal.

use anyhow::Result;

use crate::callgrind;
use crate::case::{Basis, Case};
use crate::clock::median;
use crate::database::{Setting, Side};
use crate::shape::Shape;

/// This bar is the goal times this; the goal itself comes later.
pub(crate) const NEAR: f64 = 1.5;

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// CPU time, or what the case counts itself.
    Cpu,
    /// Instructions, under valgrind.
    Instructions,
}

/// What one case came to on one shape.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) case: &'static Case,
    pub(crate) shape: &'static Shape,
    pub(crate) metric: Metric,
    pub(crate) goal: f64,
    pub(crate) outcome: Result<Measured>,
}

/// What the sides measured: medians, or instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// `None` where plain SQLite has nothing like it.
    pub(crate) plain: Option<f64>,
    pub(crate) opor: f64,
}

/// How a figure stands to its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// At the goal or below.
    Reached,
    /// Within [`NEAR`] of it.
    Near,
    /// Beyond that.
    Far,
    /// There is no figure.
    Failed,
}

impl Figure {
    /// The figure itself; `None` where it could not be measured.
    pub(crate) fn value(&self) -> Option<f64> {
        let measured = self.outcome.as_ref().ok()?;
        match (self.case.basis, measured.plain) {
            (Basis::Ratio, Some(plain)) => Some(measured.opor / plain),
            (Basis::Extra(_), Some(plain)) => Some(measured.opor - plain),
            (_, None) | (Basis::Alone(_), Some(_)) => Some(measured.opor),
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match self.value() {
            None => Verdict::Failed,
            Some(value) if value <= self.goal => Verdict::Reached,
            Some(value) if value <= self.goal * NEAR => Verdict::Near,
            Some(_) => Verdict::Far,
        }
    }

    pub(crate) const fn failed(&self) -> bool {
        self.outcome.is_err()
    }

    /// The unit of the figure.
    pub(crate) const fn unit(&self) -> &'static str {
        match self.case.basis {
            Basis::Ratio => "x",
            Basis::Extra(unit) | Basis::Alone(unit) => unit,
        }
    }
}

/// Measures a case by CPU time: both sides in turn, each `runs` times.
pub(crate) fn cpu(case: &'static Case, setting: &Setting<'_>, runs: usize) -> Figure {
    let runs = if case.exact { 1 } else { runs };
    figure(case, setting.shape, Metric::Cpu, in_turn(case, setting, runs))
}

/// Counts the instructions of a case.
pub(crate) fn instructions(case: &'static Case, setting: &Setting<'_>) -> Figure {
    let count = |side| callgrind::instructions(case, setting, side);
    let outcome =
        count(Side::Plain).and_then(|plain| Ok(Measured { plain: Some(plain), opor: count(Side::Opor)? }));
    figure(case, setting.shape, Metric::Instructions, outcome)
}

fn figure(case: &'static Case, shape: &'static Shape, metric: Metric, outcome: Result<Measured>) -> Figure {
    let goal = match metric {
        Metric::Cpu => case.goal(shape),
        Metric::Instructions => case.instructions,
    };
    let goal = goal.expect("a case is measured on shapes and by metrics that have a goal");
    Figure { case, shape, metric, goal, outcome }
}

fn in_turn(case: &Case, setting: &Setting<'_>, runs: usize) -> Result<Measured> {
    let has_plain = !matches!(case.basis, Basis::Alone(_));
    let (mut plain, mut opor) = (Vec::new(), Vec::new());
    for run in 0..runs {
        // Who goes first changes, so that neither always finds the caches and the clock rate of the other.
        let order = if run % 2 == 0 { [Side::Plain, Side::Opor] } else { [Side::Opor, Side::Plain] };
        for side in order {
            match side {
                Side::Plain if has_plain => plain.push((case.measure)(setting, side)?),
                Side::Plain => {}
                Side::Opor => opor.push((case.measure)(setting, side)?),
            }
        }
    }
    Ok(Measured { plain: has_plain.then(|| median(plain)), opor: median(opor) })
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::case::CASES;
    use crate::shape::SHAPES;

    /// The figure of a case on shape a that measured this.
    pub(crate) fn figure(slug: &str, plain: Option<f64>, opor: f64) -> Figure {
        let case = CASES.iter().find(|case| case.slug == slug).expect("there is such a case");
        super::figure(case, &SHAPES[0], Metric::Cpu, Ok(Measured { plain, opor }))
    }

    /// The figure of a case on shape a that failed.
    pub(crate) fn failed(slug: &str, why: &str) -> Figure {
        Figure { outcome: Err(anyhow::anyhow!("{why}")), ..figure(slug, None, 0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{failed, figure};
    use super::*;

    #[test]
    fn a_figure_is_a_ratio_a_difference_or_itself() {
        assert_eq!(figure("insert", Some(2.0), 3.0).value(), Some(1.5));
        assert_eq!(figure("size-row", Some(40.0), 40.5).value(), Some(0.5));
        assert_eq!(figure("poll-one", None, 4.0).value(), Some(4.0));
        assert_eq!(failed("insert", "no table").value(), None);
    }

    #[test]
    fn the_verdict_compares_with_the_goal() {
        // The goal of inserts is 1.25.
        assert_eq!(figure("insert", Some(1.0), 1.25).verdict(), Verdict::Reached);
        assert_eq!(figure("insert", Some(1.0), 1.26).verdict(), Verdict::Near);
        assert_eq!(figure("insert", Some(1.0), 1.88).verdict(), Verdict::Far);
        assert_eq!(failed("insert", "no table").verdict(), Verdict::Failed);
    }
}
