//! `cargo xtask test`: the whole suite.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::broker::{self, Broker};
use crate::interop;
use crate::steps::{Ended, Steps};
use crate::workspace::{Workspace, shown};

/// Runs every test there is; the first step that fails ends the run.
pub(crate) fn run(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    let broker = broker::step(workspace, steps)?;
    steps.step("cargo test", || cargo_test(workspace, &broker))?;
    // The genuine peers come after our own tests: what fails there is easier to understand when these pass.
    interop::step(workspace, steps)
}

/// Units, integration suites and documentation examples of every crate; without a broker, of those that need none.
fn cargo_test(workspace: &Workspace, broker: &Broker) -> Result<Ended> {
    let mut command = workspace.cargo();
    command.args(["test", "--workspace"]).stdout(Stdio::piped());
    if let Some(program) = broker.program() {
        command.env(broker::VARIABLE, program);
    } else {
        command.args(broker::NEED_IT.iter().flat_map(|package| ["--exclude", package]));
        command.args(["--", "--skip", broker::MODULE]);
    }
    let mut child = command.spawn().with_context(|| format!("could not run {}", shown(&command)))?;
    let output = child.stdout.take().expect("standard output was piped");
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("could not read what cargo test printed")?;
        println!("{line}");
        tally.add(&line);
    }
    let status = child.wait().context("could not wait for cargo test")?;
    if !status.success() {
        bail!("cargo test ended with {status}: {} passed, {} failed", tally.passed, tally.failed);
    }
    Ok(Ended::Passed(format!("{} tests in {} binaries", tally.passed, tally.binaries)))
}

/// What the `test result:` lines add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    binaries: usize,
    passed: usize,
    failed: usize,
}

impl Tally {
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let count = |what: &str| {
            let before = result.split(what).next()?;
            before.rsplit([' ', '.']).find(|word| !word.is_empty())?.parse::<usize>().ok()
        };
        let (passed, failed) = (count(" passed").unwrap_or(0), count(" failed").unwrap_or(0));
        self.binaries += usize::from(passed + failed > 0);
        self.passed += passed;
        self.failed += failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut tally = Tally::default();
        tally.add(
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        tally.add(
            "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        tally.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add("test version::tests::test result: ok ... ok");
        assert_eq!(tally, Tally { binaries: 2, passed: 15, failed: 2 });
    }
}
