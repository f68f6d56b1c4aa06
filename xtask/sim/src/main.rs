//! Runs the simulator: one seed after the other, until one fails or all are done.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to the person who ran it")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use opor_testkit::{Clocks, Plan, Replay, Report, Schema, Tally, Topology, run, shrink};

/// Runs that are spent on making a failure short: a minute or two.
const SHRINK_RUNS: usize = 600;
/// How often a line says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Plays runs of many seeds, and prints a short list of steps for the first that fails.
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Goes on until there were so many operations, whatever the number of seeds.
    #[arg(long)]
    ops: Option<u64>,
    /// Only this shape: star, ring, mesh or chain.
    #[arg(long)]
    topology: Option<Topology>,
    /// Only so many replicas.
    #[arg(long)]
    replicas: Option<usize>,
    /// Only these clocks: hybrid, counted or mixed.
    #[arg(long)]
    clocks: Option<Clocks>,
    /// So many steps in each run.
    #[arg(long)]
    steps: Option<usize>,
    /// So many links, the last ones, that are not there at first.
    #[arg(long)]
    late: Option<usize>,
    /// How often replicas compact, in thousandths of the steps.
    #[arg(long)]
    compact: Option<u64>,
    /// Prints a line for each seed: its trace.
    #[arg(long)]
    traces: bool,
    /// Does not look for fewer steps when a seed fails.
    #[arg(long)]
    no_shrink: bool,
    /// Plays the run in this file, once.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Where the steps of a failure are written.
    #[arg(long, default_value = "target/sim-failure.txt")]
    out: PathBuf,
}

fn main() -> ExitCode {
    // What panics is reported as a failure, and shrinking makes it panic many times.
    std::panic::set_hook(Box::new(|_| {}));
    let args = Args::parse();
    let done = match &args.replay {
        Some(file) => replay(file),
        None => many(&args),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn replay(file: &Path) -> Result<ExitCode> {
    let text = std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))?;
    let Replay { plan, steps } = text.parse().with_context(|| format!("{} is no run", file.display()))?;
    let report = run(&plan, &Schema::default(), &steps);
    println!("trace {:016x}, {} operations; {}", report.trace, report.operations, report.tally);
    let Some(failure) = report.failure else {
        println!("sim passed: the run in {} fails no more", file.display());
        return Ok(ExitCode::SUCCESS);
    };
    println!("sim FAILED: {failure}");
    Ok(ExitCode::FAILURE)
}

fn plan(args: &Args, seed: u64) -> Plan {
    let mut plan = Plan::from_seed(seed);
    plan.topology = args.topology.unwrap_or(plan.topology);
    plan.replicas = args.replicas.map_or(plan.replicas, |count| count.clamp(2, Plan::REPLICAS_MAX));
    plan.clocks = args.clocks.unwrap_or(plan.clocks);
    plan.steps = args.steps.unwrap_or(plan.steps);
    plan.late = args.late.unwrap_or(plan.late);
    plan.faults.compact = args.compact.unwrap_or(plan.faults.compact);
    plan
}

/// All that was run so far.
struct Sum {
    started: Instant,
    told: Instant,
    seeds: u64,
    operations: u64,
    lasted_ms: u64,
    tally: Tally,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.operations += report.operations;
        self.lasted_ms += report.lasted.0;
        self.tally.add(&report.tally);
    }

    fn line(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        format!(
            "{} seeds, {} operations in {seconds:.1} s ({:.0} a second), {:.1} hours of virtual time",
            self.seeds,
            self.operations,
            self.operations as f64 / seconds,
            self.lasted_ms as f64 / 3_600_000.0,
        )
    }
}

fn many(args: &Args) -> Result<ExitCode> {
    let schema = Schema::default();
    let now = Instant::now();
    let mut sum =
        Sum { started: now, told: now, seeds: 0, operations: 0, lasted_ms: 0, tally: Tally::default() };
    for seed in args.seed.. {
        if args.ops.map_or(sum.seeds >= args.seeds, |ops| sum.operations >= ops) {
            break;
        }
        let plan = plan(args, seed);
        let steps = plan.steps();
        let report = run(&plan, &schema, &steps);
        sum.add(&report);
        if args.traces {
            println!("{seed} {:016x}", report.trace);
        }
        if let Some(failure) = &report.failure {
            println!("seed {seed}: {failure}\n{plan}");
            report_failure(args, &plan, &schema, &sum)?;
            return Ok(ExitCode::FAILURE);
        }
        if sum.told.elapsed() >= TELL_EVERY {
            sum.told = Instant::now();
            eprintln!("... {}", sum.line());
        }
    }
    println!("{}", sum.tally);
    println!("sim passed: {}", sum.line());
    Ok(ExitCode::SUCCESS)
}

fn report_failure(args: &Args, plan: &Plan, schema: &Schema, sum: &Sum) -> Result<()> {
    if args.no_shrink {
        println!("sim FAILED after {}", sum.line());
        return Ok(());
    }
    eprintln!("looking for fewer steps that fail ...");
    let steps = plan.steps();
    let Some(shrunk) = shrink(plan, schema, &steps, SHRINK_RUNS) else {
        println!(
            "sim FAILED, but not again: a run that depends on more than its seed is a bug of the simulator"
        );
        return Ok(());
    };
    let text = format!(
        "# {}\n{}",
        shrunk.failure.to_string().replace('\n', "\n# "),
        Replay { plan: plan.clone(), steps: shrunk.steps.clone() }
    );
    println!("\n{text}");
    if let Some(folder) = args.out.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    std::fs::write(&args.out, text).with_context(|| format!("could not write {}", args.out.display()))?;
    println!(
        "sim FAILED after {}; {} of {} steps are left: cargo xtask sim --replay {}",
        sum.line(),
        shrunk.steps.len(),
        steps.len(),
        args.out.display()
    );
    Ok(())
}
