//! A run in steps: each announced and timed, a summary at the end.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How a step that did not fail ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It did its work; what to tell of it, or nothing.
    Passed(String),
    /// It could not run here, and why.
    Skipped(String),
}

/// The steps of one command so far.
#[derive(Debug)]
pub(crate) struct Steps {
    command: &'static str,
    started: Instant,
    /// In CI nothing may be skipped.
    skips_fail: bool,
    passed: Vec<String>,
    skipped: Vec<String>,
}

impl Steps {
    /// A run in which a skipped step is a failure when the environment says `CI=true`.
    pub(crate) fn new(command: &'static str) -> Self {
        let skips_fail = std::env::var("CI").is_ok_and(|value| value == "true");
        Self { command, started: Instant::now(), skips_fail, passed: Vec::new(), skipped: Vec::new() }
    }

    /// Announces a step, runs it and times it.
    ///
    /// # Errors
    /// What the step failed with, or the reason of a skip where nothing may be skipped.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Ended>) -> Result<()> {
        println!("==> {name}");
        let started = Instant::now();
        let ended = work();
        let took = seconds(started.elapsed());
        match ended {
            Ok(Ended::Passed(told)) => {
                let told = if told.is_empty() { String::new() } else { format!(": {told}") };
                println!("    {name} passed in {took}{told}\n");
                self.passed.push(name.to_owned());
                Ok(())
            }
            Ok(Ended::Skipped(why)) => {
                println!("!!! {name} SKIPPED: {why}\n");
                self.skipped.push(name.to_owned());
                if self.skips_fail {
                    bail!("{name} was skipped, and in CI nothing may be: {why}");
                }
                Ok(())
            }
            Err(error) => {
                println!("!!! {name} FAILED after {took}\n");
                Err(error.context(format!("{name} failed")))
            }
        }
    }

    /// Prints what happened, the verdict last.
    pub(crate) fn finish(self, outcome: Result<()>) -> ExitCode {
        if let Err(error) = &outcome {
            println!("{error:#}");
        }
        println!("{}", self.summary(outcome.is_ok(), self.started.elapsed()));
        if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn summary(&self, ok: bool, took: Duration) -> String {
        let verdict = if ok { "passed" } else { "FAILED" };
        let mut line = format!("{} {verdict} in {}", self.command, seconds(took));
        if !self.passed.is_empty() {
            line += &format!("; passed: {}", self.passed.join(", "));
        }
        if !self.skipped.is_empty() {
            line += &format!("; SKIPPED: {}", self.skipped.join(", "));
        }
        line
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(skips_fail: bool) -> Steps {
        Steps { skips_fail, ..Steps::new("test") }
    }

    #[test]
    fn the_summary_names_what_passed_and_what_was_skipped() {
        let mut steps = steps(false);
        steps.step("units", || Ok(Ended::Passed("3 tests".to_owned()))).unwrap();
        steps.step("interop", || Ok(Ended::Skipped("no node".to_owned()))).unwrap();
        let line = steps.summary(true, Duration::from_millis(1_500));
        assert_eq!(line, "test passed in 1.5 s; passed: units; SKIPPED: interop");
    }

    #[test]
    fn a_skip_is_a_failure_in_ci() {
        let error = steps(true).step("interop", || Ok(Ended::Skipped("no node".to_owned()))).unwrap_err();
        assert_eq!(error.to_string(), "interop was skipped, and in CI nothing may be: no node");
    }

    #[test]
    fn a_failed_step_is_named_and_not_counted_as_passed() {
        let mut steps = steps(false);
        let error = steps.step("units", || bail!("2 of 9 tests failed")).unwrap_err();
        assert_eq!(format!("{error:#}"), "units failed: 2 of 9 tests failed");
        assert_eq!(steps.summary(false, Duration::ZERO), "test FAILED in 0.0 s");
    }
}
