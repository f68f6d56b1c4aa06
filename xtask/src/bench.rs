//! `cargo xtask bench`: builds the benchmark optimised and runs it.
//!
//! The benchmark is a package of its own, so that the other commands stay quick to build.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::workspace::{Workspace, shown};

/// Runs the benchmark with `args`; the exit status is the benchmark's.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    let mut command = workspace.cargo();
    command.args(["run", "--release", "--quiet", "--package", "opor-bench", "--"]).args(args);
    let status = command.status().with_context(|| format!("could not run {}", shown(&command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
