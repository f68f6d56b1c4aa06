//! `cargo xtask fuzz`: the targets under `tests/fuzz`, one after the other.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::steps::{Ended, Steps};
use crate::workspace::{Workspace, run as run_command};

/// Which targets, and for how long.
#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// Only these targets.
    targets: Vec<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Fuzzes each target for its time; a crash ends the run.
pub(crate) fn run(workspace: &Workspace, args: &FuzzArgs, steps: &mut Steps) -> Result<()> {
    let all = targets(&workspace.root().join("tests/fuzz/fuzz_targets"))?;
    for wanted in &args.targets {
        ensure!(all.contains(wanted), "there is no target {wanted}; there are {}", all.join(", "));
    }
    check_tools(workspace)?;
    for target in all.iter().filter(|target| args.targets.is_empty() || args.targets.contains(target)) {
        steps.step(target, || {
            let mut command = workspace.command("cargo");
            command.args(["+nightly", "fuzz", "run", "--fuzz-dir", "tests/fuzz", target, "--"]);
            command.arg(format!("-max_total_time={}", args.seconds));
            run_command(&mut command)?;
            Ok(Ended::Passed(String::new()))
        })?;
    }
    Ok(())
}

fn targets(folder: &Path) -> Result<Vec<String>> {
    let entries =
        std::fs::read_dir(folder).context("there are no fuzz targets: no tests/fuzz/fuzz_targets")?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let rust = files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs"));
    let mut names: Vec<_> =
        rust.filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}

fn check_tools(workspace: &Workspace) -> Result<()> {
    let tools = [
        (["+nightly", "--version"].as_slice(), "a nightly compiler: rustup toolchain install nightly"),
        (["fuzz", "--version"].as_slice(), "cargo-fuzz: cargo install cargo-fuzz"),
    ];
    let missing = tools.iter().filter(|(args, _)| {
        let mut command = workspace.command("cargo");
        command.args(*args).stdout(Stdio::null()).stderr(Stdio::null());
        !command.status().is_ok_and(|status| status.success())
    });
    let missing: Vec<&str> = missing.map(|(_, mend)| *mend).collect();
    if !missing.is_empty() {
        bail!("fuzzing needs {}", missing.join(", and "));
    }
    Ok(())
}
