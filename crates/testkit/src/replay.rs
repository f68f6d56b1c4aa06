//! A run as text: the plan on one line, and each step on another.

use std::fmt;
use std::str::FromStr;

use crate::event::{Step, StepError};
use crate::plan::{Plan, PlanError};

/// A plan, and the steps to play instead of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The plan.
    pub plan: Plan,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Text that is not a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There is no line with a plan.
    #[error("there is no plan")]
    NoPlan,
    /// The first line is no plan.
    #[error("the first line is no plan")]
    Plan(#[source] PlanError),
    /// A later line is no step.
    #[error("line {line} is no step")]
    Step {
        /// Which, from 1.
        line: usize,
        /// What it says.
        #[source]
        source: StepError,
    },
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.plan)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

/// Empty lines, and those that begin with `#`, are left out.
impl FromStr for Replay {
    type Err = ReplayError;

    fn from_str(text: &str) -> Result<Self, ReplayError> {
        let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
        let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let (_, plan) = lines.next().ok_or(ReplayError::NoPlan)?;
        let plan = plan.parse().map_err(ReplayError::Plan)?;
        let step =
            |(line, text): (usize, &str)| text.parse().map_err(|source| ReplayError::Step { line, source });
        let steps = lines.map(step).collect::<Result<_, _>>()?;
        Ok(Self { plan, steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let plan = Plan::from_seed(3);
        let replay = Replay { steps: plan.steps(), plan };
        let text = format!("# found on a rainy day\n\n{replay}\n");
        assert_eq!(text.parse(), Ok(replay));
    }

    #[test]
    fn what_is_no_run_is_named() {
        assert_eq!("# nothing\n".parse::<Replay>(), Err(ReplayError::NoPlan));
        assert!(matches!("seed=x".parse::<Replay>(), Err(ReplayError::Plan(_))));
        let error = "seed=1\n+1 join\n+1 jump".parse::<Replay>();
        assert!(matches!(error, Err(ReplayError::Step { line: 3, .. })), "{error:?}");
    }
}
