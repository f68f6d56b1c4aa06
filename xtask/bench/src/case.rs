//! What is measured and what it has to reach; the tables of cases are in [`crate::cases`].

use anyhow::Result;

use crate::database::{Medium, Setting, Side};
use crate::shape::{SHAPES, Shape};

/// How a figure comes from what the sides measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// CPU time over that of plain SQLite.
    Ratio,
    /// What there is more than in plain SQLite, in this unit.
    Extra(&'static str),
    /// What there is, in this unit.
    Alone(&'static str),
    /// What the greatest size takes over what the smallest takes; each is in this unit.
    Growth(&'static str),
}

/// The most a case may come to on a shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// The case makes no sense there.
    Skip,
    /// No goal is set; the figure is shown.
    Open,
    AtMost(f64),
}

/// The goals for shapes a, b, c and w.
pub(crate) type Goals = [Goal; 4];

/// The sizes that a case is measured at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// These parts, in thousandths, of the rows that are asked for.
    Rows(&'static [usize]),
    /// The same, and with `--huge` ten times the last.
    RowsAndHuge(&'static [usize]),
    /// So many tables; the first has a hundredth of the rows.
    Tables(&'static [usize]),
}

/// How it is measured, and when it is not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traits {
    /// It says nothing about a database in memory.
    pub(crate) needs_file: bool,
    /// Every run gives the same, or nearly.
    pub(crate) exact: bool,
    /// It needs a process of its own.
    pub(crate) own_process: bool,
}

/// One thing to measure.
#[derive(Debug)]
pub(crate) struct Case {
    /// The line of the table of goals in the design, where it has one.
    pub(crate) number: &'static str,
    /// Its name on the command line.
    pub(crate) slug: &'static str,
    /// Its name in a report.
    pub(crate) name: &'static str,
    pub(crate) basis: Basis,
    pub(crate) goals: Goals,
    /// The goal in instructions instead of CPU time, where there is one.
    pub(crate) instructions: Option<f64>,
    pub(crate) sizes: Sizes,
    pub(crate) sides: &'static [Side],
    pub(crate) traits: Traits,
    pub(crate) measure: fn(&Setting<'_>, Side) -> Result<f64>,
}

/// Every side.
pub(crate) const ALL: &[Side] = &[Side::Plain, Side::ByHand, Side::CrSqlite, Side::Opor];

impl Case {
    /// A case on every side, of the rows asked for.
    pub(crate) const fn new(
        [number, slug, name]: [&'static str; 3],
        basis: Basis,
        goals: Goals,
        measure: fn(&Setting<'_>, Side) -> Result<f64>,
    ) -> Self {
        let traits = Traits { needs_file: false, exact: false, own_process: false };
        let sizes = Sizes::Rows(&[1_000]);
        Self { number, slug, name, basis, goals, instructions: None, sizes, sides: ALL, traits, measure }
    }

    pub(crate) const fn instructions(self, goal: f64) -> Self {
        Self { instructions: Some(goal), ..self }
    }

    pub(crate) const fn sizes(self, sizes: Sizes) -> Self {
        Self { sizes, ..self }
    }

    pub(crate) const fn sides(self, sides: &'static [Side]) -> Self {
        Self { sides, ..self }
    }

    pub(crate) const fn in_files(self) -> Self {
        Self { traits: Traits { needs_file: true, ..self.traits }, ..self }
    }

    pub(crate) const fn exact(self) -> Self {
        Self { traits: Traits { exact: true, ..self.traits }, ..self }
    }

    /// In a process that is new each time runs hardly differ, so one is enough.
    pub(crate) const fn own_process(self) -> Self {
        Self { traits: Traits { own_process: true, needs_file: true, exact: true }, ..self }
    }

    /// What this may come to on a shape.
    pub(crate) fn goal(&self, shape: &Shape) -> Goal {
        let place = SHAPES.iter().position(|known| known.letter == shape.letter);
        place.map_or(Goal::Skip, |place| self.goals[place])
    }

    /// Whether it can be measured there at all.
    pub(crate) fn applies(&self, shape: &Shape, medium: Medium) -> bool {
        self.goal(shape) != Goal::Skip && !(self.traits.needs_file && medium == Medium::Memory)
    }

    /// The sizes, as settings with the number by which each is known.
    pub(crate) fn settings<'a>(&self, base: &Setting<'a>, huge: bool) -> Vec<(usize, Setting<'a>)> {
        let rows = |parts: usize| base.rows * parts / 1_000;
        let sized = |rows| (rows, Setting { rows, ..*base });
        match self.sizes {
            Sizes::Rows(parts) => parts.iter().map(|part| sized(rows(*part))).collect(),
            Sizes::RowsAndHuge(parts) => {
                let most = parts.last().filter(|_| huge).map(|last| last * 10);
                parts.iter().copied().chain(most).map(|part| sized(rows(part))).collect()
            }
            Sizes::Tables(counts) => {
                let with = |tables: &usize| (*tables, Setting { tables: *tables, rows: rows(10), ..*base });
                counts.iter().map(with).collect()
            }
        }
    }
}

/// The same goal for the three usual shapes.
pub(crate) const fn all(goal: f64) -> Goals {
    let goal = Goal::AtMost(goal);
    [goal, goal, goal, Goal::Skip]
}

/// Goals for a, b and c.
pub(crate) const fn each(a: f64, b: f64, c: f64) -> Goals {
    [Goal::AtMost(a), Goal::AtMost(b), Goal::AtMost(c), Goal::Skip]
}

/// For shapes a and b, which differ most.
pub(crate) const fn two(goal: Goal) -> Goals {
    [goal, goal, Goal::Skip, Goal::Skip]
}

/// For shape b alone, where plain SQLite grows least with the table.
pub(crate) const fn only_b(goal: Goal) -> Goals {
    [Goal::Skip, goal, Goal::Skip, Goal::Skip]
}

/// For the wide shape alone.
pub(crate) const fn wide(goal: f64) -> Goals {
    [Goal::Skip, Goal::Skip, Goal::Skip, Goal::AtMost(goal)]
}
