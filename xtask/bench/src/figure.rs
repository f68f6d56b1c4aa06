//! Figures: what a case came to on a shape, and how that stands to its goal.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::case::{Basis, Case, Goal};
use crate::cases::Part;
use crate::child;
use crate::clock::median;
use crate::database::{Setting, Side};
use crate::shape::Shape;

/// Beyond this many rows the genuine cr-sqlite is not measured: it takes a minute and more for each figure.
const CRSQLITE_ROWS_MAX: usize = 200_000;

/// The genuine cr-sqlite is measured so often: its figures are large, and take long.
const CRSQLITE_RUNS: usize = 1;

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
    pub(crate) part: Part,
    pub(crate) case: &'static Case,
    pub(crate) shape: &'static Shape,
    pub(crate) metric: Metric,
    pub(crate) goal: Goal,
    /// From the smallest size to the greatest.
    pub(crate) points: Vec<Point>,
}

/// What the sides measured at one size, run by run, or why they could not.
#[derive(Debug)]
pub(crate) struct Point {
    /// Rows, or tables.
    pub(crate) size: usize,
    pub(crate) sides: BTreeMap<Side, Result<Vec<f64>>>,
}

/// A figure, with what single runs came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// From the medians of the runs.
    pub(crate) value: f64,
    pub(crate) lo: f64,
    pub(crate) hi: f64,
}

/// How a figure stands to its goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// At the goal or below.
    Reached,
    /// This many times the goal.
    Missed(f64),
    /// There is no goal.
    Open,
    /// There is no figure.
    Failed,
}

impl Figure {
    /// What a side came to; `None` where it has no figure.
    pub(crate) fn of(&self, side: Side) -> Option<Spread> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        let own = last.runs(side)?;
        let (other, figure): (_, fn(f64, f64) -> f64) = match self.case.basis {
            Basis::Alone(_) => (own, |own, _| own),
            Basis::Ratio => (last.runs(Side::Plain)?, |own, plain| own / plain),
            Basis::Extra(_) => (last.runs(Side::Plain)?, |own, plain| own - plain),
            Basis::Growth(_) => (first.runs(side)?, |own, least| own / least),
        };
        // The runs of two sides that follow each other have the most in common. One with fewer runs is compared with
        // the first ones of the other.
        let single = own.iter().zip(other).map(|(own, other)| figure(*own, *other));
        let (lo, hi) = single.fold((f64::MAX, f64::MIN), |(lo, hi), value| (lo.min(value), hi.max(value)));
        Some(Spread { value: figure(median(own.to_vec()), median(other.to_vec())), lo, hi })
    }

    pub(crate) fn verdict(&self) -> Verdict {
        match (self.of(Side::Opor), self.goal) {
            (None, _) => Verdict::Failed,
            (Some(_), Goal::Open | Goal::Skip) => Verdict::Open,
            (Some(spread), Goal::AtMost(goal)) if spread.value <= goal => Verdict::Reached,
            (Some(spread), Goal::AtMost(goal)) => Verdict::Missed(spread.value / goal),
        }
    }

    /// Whether single runs were on both sides of the goal.
    pub(crate) fn is_noisy(&self) -> bool {
        let (Some(spread), Goal::AtMost(goal)) = (self.of(Side::Opor), self.goal) else { return false };
        spread.lo <= goal && goal < spread.hi
    }

    /// Why there is no figure; of the first side that failed.
    pub(crate) fn failure(&self) -> Option<(Side, &anyhow::Error)> {
        let sides = self.points.iter().flat_map(|point| &point.sides);
        sides.filter_map(|(side, runs)| Some((*side, runs.as_ref().err()?))).next()
    }

    /// The unit of the figure.
    pub(crate) const fn unit(&self) -> &'static str {
        match self.case.basis {
            Basis::Ratio | Basis::Growth(_) => "x",
            Basis::Extra(unit) | Basis::Alone(unit) => unit,
        }
    }

    /// The unit of what a side measures.
    pub(crate) const fn raw_unit(&self) -> &'static str {
        match (self.metric, self.case.basis) {
            (Metric::Instructions, _) => "instructions",
            (Metric::Cpu, Basis::Ratio) => "seconds",
            (Metric::Cpu, Basis::Extra(unit) | Basis::Alone(unit) | Basis::Growth(unit)) => unit,
        }
    }
}

impl Point {
    /// The runs of a side, when it was measured.
    pub(crate) fn runs(&self, side: Side) -> Option<&[f64]> {
        let runs = self.sides.get(&side)?.as_ref().ok()?;
        (!runs.is_empty()).then_some(runs)
    }
}

/// How often and how far a case is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) runs: usize,
    pub(crate) huge: bool,
}

/// Measures a case by CPU time: all sides and sizes in turn, each `runs` times.
pub(crate) fn cpu(part: Part, case: &'static Case, base: &Setting<'_>, effort: Effort) -> Figure {
    let settings = case.settings(base, effort.huge);
    let mut points: Vec<Point> =
        settings.iter().map(|(size, _)| Point { size: *size, sides: BTreeMap::new() }).collect();
    let runs = if case.traits.exact { 1 } else { effort.runs };
    for run in 0..runs {
        for (point, (_, setting)) in points.iter_mut().zip(&settings) {
            let wanted = case.sides.iter().copied().filter(|side| is_wanted(*side, setting, run));
            let mut sides: Vec<Side> = wanted.collect();
            // Who goes first changes, so that none always finds the caches and the clock rate of another.
            if run % 2 == 1 {
                sides.reverse();
            }
            for side in sides {
                point.measure(case, setting, side);
            }
        }
    }
    Figure { part, case, shape: base.shape, metric: Metric::Cpu, goal: case.goal(base.shape), points }
}

fn is_wanted(side: Side, setting: &Setting<'_>, run: usize) -> bool {
    side != Side::CrSqlite
        || (setting.crsqlite.is_some() && setting.rows <= CRSQLITE_ROWS_MAX && run < CRSQLITE_RUNS)
}

impl Point {
    /// One more run of a side; one that has failed is left alone.
    fn measure(&mut self, case: &Case, setting: &Setting<'_>, side: Side) {
        let Ok(runs) = self.sides.entry(side).or_insert_with(|| Ok(Vec::new())) else { return };
        let measured = if case.traits.own_process {
            child::measure(case, setting, side)
        } else {
            (case.measure)(setting, side)
        };
        match measured {
            Ok(value) => runs.push(value),
            Err(error) => {
                self.sides.insert(side, Err(error));
            }
        }
    }
}

/// Counts the instructions of a case.
pub(crate) fn instructions(part: Part, case: &'static Case, setting: &Setting<'_>, goal: f64) -> Figure {
    let count = |side: &Side| (*side, child::instructions(case, setting, *side).map(|count| vec![count]));
    let sides = [Side::Plain, Side::ByHand, Side::Floor, Side::Opor];
    let sides = sides.iter().filter(|side| case.sides.contains(side)).map(count).collect();
    let points = vec![Point { size: setting.rows, sides }];
    Figure {
        part,
        case,
        shape: setting.shape,
        metric: Metric::Instructions,
        goal: Goal::AtMost(goal),
        points,
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use crate::cases::every;
    use crate::shape::SHAPES;

    /// The figure of a case on shape b at one size.
    pub(crate) fn figure(slug: &str, plain: &[f64], opor: &[f64]) -> Figure {
        let (part, case) = every().find(|(_, case)| case.slug == slug).expect("there is such a case");
        let shape = &SHAPES[1];
        let mut figure =
            Figure { part, case, shape, metric: Metric::Cpu, goal: case.goal(shape), points: Vec::new() };
        add(&mut figure, 1_000, plain, opor);
        figure
    }

    /// One more size.
    pub(crate) fn add(figure: &mut Figure, size: usize, plain: &[f64], opor: &[f64]) {
        let sides = [(Side::Plain, Ok(plain.to_vec())), (Side::Opor, Ok(opor.to_vec()))];
        figure.points.push(Point { size, sides: BTreeMap::from(sides) });
    }

    /// The figure of a case that failed.
    pub(crate) fn failed(slug: &str, why: &str) -> Figure {
        let mut failed = figure(slug, &[], &[]);
        failed.points[0].sides.insert(Side::Opor, Err(anyhow::anyhow!("{why}")));
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{add, failed, figure};
    use super::*;

    #[test]
    fn a_figure_is_a_ratio_a_difference_or_itself() {
        let value = |figure: Figure| figure.of(Side::Opor).map(|spread| spread.value);
        assert_eq!(value(figure("insert", &[2.0], &[3.0])), Some(1.5));
        assert_eq!(value(figure("size-row", &[40.0], &[40.5])), Some(0.5));
        assert_eq!(value(figure("poll-one", &[], &[4.0])), Some(4.0));
        assert_eq!(value(failed("insert", "no table")), None);
    }

    #[test]
    fn growth_is_from_the_smallest_size_to_the_greatest() {
        let mut figure = figure("grow-insert", &[1.0], &[2.0]);
        add(&mut figure, 10_000, &[9.0], &[9.0]);
        add(&mut figure, 100_000, &[1.5], &[5.0]);
        assert_eq!(figure.of(Side::Opor), Some(Spread { value: 2.5, lo: 2.5, hi: 2.5 }));
        assert_eq!(figure.of(Side::Plain).map(|spread| spread.value), Some(1.5));
        assert_eq!(figure.of(Side::ByHand), None);
    }

    #[test]
    fn the_spread_compares_runs_that_followed_each_other() {
        let figure = figure("insert", &[1.0, 2.0, 4.0], &[1.0, 2.6, 4.0]);
        assert_eq!(figure.of(Side::Opor), Some(Spread { value: 1.3, lo: 1.0, hi: 1.3 }));
        assert!(figure.is_noisy());
    }

    #[test]
    fn the_verdict_compares_with_the_goal() {
        // The goal of inserts is 1.25.
        assert_eq!(figure("insert", &[1.0], &[1.25]).verdict(), Verdict::Reached);
        assert_eq!(figure("insert", &[1.0], &[2.5]).verdict(), Verdict::Missed(2.0));
        assert_eq!(figure("open", &[1.0], &[9.0]).verdict(), Verdict::Open);
        assert_eq!(failed("insert", "no table").verdict(), Verdict::Failed);
        assert!(!figure("insert", &[1.0], &[2.5]).is_noisy());
    }
}
