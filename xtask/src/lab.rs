//! `cargo xtask lab`: checks the machine, builds the `opor` command and runs its lab.

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, run as run_command, shown};

/// Runs the lab with `args`; the exit status is the lab's.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    check_c_compiler(workspace)?;
    if !workspace.has_package("opor-cli") {
        bail!("this checkout has no crate opor-cli, which holds the lab");
    }
    // Progress goes to standard error, so that `cargo xtask lab --json` leaves standard output to the lab.
    eprintln!("building the opor command; the first time this takes a few minutes");
    run_command(workspace.cargo().args(["build", "--release", "--package", "opor-cli", "--bin", "opor"]))?;
    let mut lab = Command::new(workspace.target().join("release/opor"));
    lab.arg("lab").args(args);
    let status = lab.status().with_context(|| format!("could not run {}", shown(&lab)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// SQLite and zstd are compiled from C, so a compiler and the headers of the C library must be there.
fn check_c_compiler(workspace: &Workspace) -> Result<()> {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    if compiles(workspace, &compiler).unwrap_or(false) {
        return Ok(());
    }
    bail!(
        "no working C compiler ({compiler}), and SQLite is built from source; install one:\n  \
         Debian, Ubuntu: apt-get install build-essential\n  \
         Fedora: dnf install gcc glibc-devel\n  \
         Alpine: apk add build-base\n  \
         macOS: xcode-select --install"
    )
}

fn compiles(workspace: &Workspace, compiler: &str) -> Result<bool> {
    let mut words = compiler.split_whitespace();
    let mut command = workspace.command(words.next().context("CC is empty")?);
    command.args(words).args(["-fsyntax-only", "-x", "c", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut input = child.stdin.take().context("standard input was piped")?;
    input.write_all(b"#include <stdio.h>\nint main(void) { return 0; }\n")?;
    drop(input);
    Ok(child.wait()?.success())
}
