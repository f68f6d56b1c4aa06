//! `cargo xtask ci` and `check`: what every change must pass.

use anyhow::Result;

use crate::steps::{Ended, Steps};
use crate::workspace::{Workspace, run as run_command};
use crate::{deny, layers, test, tidy};

/// Everything: the checks, then the tests.
pub(crate) fn run(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    check(workspace, steps)?;
    test::run(workspace, steps)
}

/// Everything but the tests, the quick ones first.
pub(crate) fn check(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    let cargo = |name: &str, args: &[&str], steps: &mut Steps| {
        steps.step(name, || {
            let mut command = workspace.cargo();
            command.args(args).env("RUSTDOCFLAGS", "-D warnings");
            run_command(&mut command)?;
            Ok(Ended::Passed(String::new()))
        })
    };
    cargo("fmt", &["fmt", "--all", "--check"], steps)?;
    layers::step(workspace, steps)?;
    tidy::step(workspace, steps)?;
    deny::step(workspace, steps)?;
    cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], steps)?;
    cargo("doc", &["doc", "--workspace", "--no-deps", "--document-private-items"], steps)
}
