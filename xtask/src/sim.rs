//! `cargo xtask sim`: builds the simulator and runs it.
//!
//! It is a package of its own, so that the other commands stay quick to build. It is built as the tests are: SQLite and the
//! engine are optimised there too, and checks on overflow and invariants are on.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::workspace::{Workspace, shown};

/// Runs the simulator with `args`; the exit status is the simulator's.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    let mut command = workspace.cargo();
    command.args(["run", "--quiet", "--package", "opor-sim", "--"]).args(args);
    let status = command.status().with_context(|| format!("could not run {}", shown(&command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
