//! The commands of this repository, one file each: `cargo xtask <command>`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to the person who ran it")]

mod bench;
mod broker;
mod ci;
mod deny;
mod fuzz;
mod interop;
mod lab;
mod layers;
mod sim;
mod steps;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::steps::Steps;
use crate::workspace::Workspace;

/// The commands of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check this machine, build the `opor` command and walk through two replicas and a hub.
    Lab {
        /// Passed on to `opor lab`, for example `--json` or `--db FILE`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every test: units, documentation examples, the suites under `tests/`, the genuine peers.
    Test,
    /// Only the genuine peers of `test`.
    Interop,
    /// Everything a change must pass: `check`, then `test`.
    Ci,
    /// Everything but the tests: format, lints, documentation, layers, house rules, dependencies.
    Check,
    /// Check which crate depends on which.
    Layers,
    /// Check the house rules for files.
    Tidy,
    /// Check the licences and sources of dependencies against `deny.toml`.
    Deny,
    /// Throw random bytes at everything that decodes them; needs a nightly compiler and cargo-fuzz.
    Fuzz(fuzz::FuzzArgs),
    /// Play replicas on bad links, with crashes and wrong clocks, and look whether they end up equal.
    Sim {
        /// Passed on to the simulator, for example `--seeds 1000` or `--replay FILE`; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure against plain SQLite.
    Bench {
        /// Passed on to the benchmark, for example `store --only P1`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::load()?;
    match command {
        Command::Lab { args } => lab::run(&workspace, args),
        Command::Sim { args } => sim::run(&workspace, args),
        Command::Bench { args } => bench::run(&workspace, args),
        Command::Test => in_steps("test", |steps| test::run(&workspace, steps)),
        Command::Interop => in_steps("interop", |steps| interop::step(&workspace, steps)),
        Command::Ci => in_steps("ci", |steps| ci::run(&workspace, steps)),
        Command::Check => in_steps("check", |steps| ci::check(&workspace, steps)),
        Command::Fuzz(args) => in_steps("fuzz", |steps| fuzz::run(&workspace, args, steps)),
        Command::Layers => in_steps("layers", |steps| layers::step(&workspace, steps)),
        Command::Tidy => in_steps("tidy", |steps| tidy::step(&workspace, steps)),
        Command::Deny => in_steps("deny", |steps| deny::step(&workspace, steps)),
    }
}

fn in_steps(
    command: &'static str,
    work: impl FnOnce(&mut Steps) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut steps = Steps::new(command);
    let outcome = work(&mut steps);
    Ok(steps.finish(outcome))
}
