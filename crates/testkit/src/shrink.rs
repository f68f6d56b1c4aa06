//! Takes out of a failing run what it does not need in order to fail (Zeller's delta debugging).

use crate::event::Step;
use crate::failure::Failure;
use crate::plan::Plan;
use crate::run::run;
use crate::schema::Schema;

/// The shortest list of steps that was found, and how it fails.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The steps.
    pub steps: Vec<Step>,
    /// What they lead to.
    pub failure: Failure,
    /// How many runs it took.
    pub runs: usize,
}

/// Looks for fewer steps that break the same invariant, in at most so many runs. `None` when the steps do not fail.
#[must_use]
pub fn shrink(plan: &Plan, schema: &Schema, steps: &[Step], runs_max: usize) -> Option<Shrunk> {
    let failure = run(plan, schema, steps).failure?;
    let mut shrunk = Shrunk { steps: steps.to_vec(), failure, runs: 1 };
    let mut size = steps.len().div_ceil(2).max(1);
    loop {
        let before = shrunk.steps.len();
        let mut at = 0;
        while at < shrunk.steps.len() && shrunk.runs < runs_max {
            if !shrunk.leave_out(plan, schema, at, size) {
                at += size;
            }
        }
        if shrunk.runs >= runs_max || (size == 1 && shrunk.steps.len() == before) {
            return Some(shrunk);
        }
        size = size.div_ceil(2).min(shrunk.steps.len().max(1));
    }
}

impl Shrunk {
    /// Tries to do without some steps; time passes all the same.
    fn leave_out(&mut self, plan: &Plan, schema: &Schema, at: usize, size: usize) -> bool {
        let end = self.steps.len().min(at + size);
        let mut fewer = self.steps.clone();
        let waited: u64 = fewer.drain(at..end).map(|step| step.after_ms).sum();
        if let Some(next) = fewer.get_mut(at) {
            next.after_ms += waited;
        }
        self.runs += 1;
        match run(plan, schema, &fewer).failure {
            Some(failure) if failure.invariant == self.failure.invariant => {
                (self.steps, self.failure) = (fewer, failure);
                true
            }
            _ => false,
        }
    }
}
