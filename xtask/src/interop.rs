//! The interop step: a genuine cr-sqlite peer, in node, against the engine built here.
//!
//! `tests/interop/package.json` and its lock file pin the peer; `tests/interop/run.mjs` is the test. The folder is
//! copied to `target/interop`, so that nothing is installed among the sources, and run there with `OPOR_PEER` in its
//! environment: the helper program of the suite, which holds one replica of ours.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};

use crate::steps::{Ended, Steps};
use crate::workspace::{Workspace, run};

/// Runs the step when there is a test to run.
pub(crate) fn step(workspace: &Workspace, steps: &mut Steps) -> Result<()> {
    let source = workspace.root().join("tests/interop");
    if !source.join("run.mjs").is_file() {
        return Ok(());
    }
    steps.step("interop", || interop(workspace, &source))
}

fn interop(workspace: &Workspace, source: &Path) -> Result<Ended> {
    for program in ["node", "npm"] {
        if !answers(workspace, program) {
            return Ok(Ended::Skipped(format!("{program} was not found; install Node.js 20 or newer")));
        }
    }
    let place = workspace.target().join("interop");
    copy_folder(source, &place)?;
    if let Some(why) = install(workspace, &place)? {
        return Ok(Ended::Skipped(why));
    }
    run(workspace.cargo().args(["build", "--package", "opor-tests", "--bin", "peer"]))?;
    let mut node = workspace.command("node");
    node.arg(place.join("run.mjs")).env("OPOR_PEER", workspace.target().join("debug/peer"));
    run(&mut node)?;
    Ok(Ended::Passed(String::new()))
}

fn answers(workspace: &Workspace, program: &str) -> bool {
    let mut command = workspace.command(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Installs what the lock file names, unless that has been done. Says why when it cannot.
fn install(workspace: &Workspace, place: &Path) -> Result<Option<String>> {
    let lock = std::fs::read(place.join("package-lock.json")).context("tests/interop has no lock file")?;
    let stamp = place.join("installed-lock.json");
    if std::fs::read(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(None);
    }
    let mut npm = workspace.command("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(place);
    let status = npm.status().context("could not run npm")?;
    if !status.success() {
        return Ok(Some(format!("npm ci ended with {status}; is the npm registry in reach?")));
    }
    std::fs::write(stamp, lock).context("could not note what was installed")?;
    Ok(None)
}

fn copy_folder(source: &Path, target: &Path) -> Result<()> {
    std::fs::create_dir_all(target).with_context(|| format!("could not create {}", target.display()))?;
    for entry in std::fs::read_dir(source).with_context(|| format!("could not list {}", source.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        if !entry.file_type()?.is_dir() {
            std::fs::copy(&from, &to).with_context(|| format!("could not copy {}", from.display()))?;
        } else if entry.file_name() != "node_modules" {
            copy_folder(&from, &to)?;
        }
    }
    Ok(())
}
