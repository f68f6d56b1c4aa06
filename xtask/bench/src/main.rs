//! Measures opor against plain SQLite: `cargo xtask bench`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to the person who ran it")]

mod case;
mod cases;
mod child;
mod clock;
mod crsqlite;
mod database;
mod figure;
mod floor;
mod live_scope;
mod log;
mod plot;
mod report;
mod save;
mod shape;
mod statements;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

use crate::case::Case;
use crate::cases::{Part, every};
use crate::database::{Medium, Setting, Side};
use crate::figure::{Effort, Figure, Verdict};
use crate::report::Run;
use crate::shape::{SHAPES, Shape};

/// Measures opor against plain SQLite tables, tables kept by hand, and the genuine cr-sqlite.
#[derive(Parser)]
#[command(name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    child: Option<Child>,
    #[command(flatten)]
    args: Args,
}

#[derive(Subcommand)]
enum Child {
    /// One case on one side, for the instruction counter; prints what it measured.
    #[command(hide = true)]
    One(OneArgs),
    /// What a commit costs while a query with a large result is open.
    LiveScope,
}

#[derive(clap::Args)]
struct Args {
    /// Only this part.
    part: Option<Part>,
    /// Rows in a table, from 1,000 to 10,000,000; cases that commit row by row take a tenth of it.
    #[arg(long, default_value_t = 100_000, conflicts_with = "quick")]
    rows: usize,
    /// How often each side is measured; medians are compared.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// A look in about a minute: a tenth of the rows, and no instruction counts.
    #[arg(long)]
    quick: bool,
    /// Tables of a hundred times the rows as well, where growth is measured.
    #[arg(long)]
    huge: bool,
    /// Only these cases, by number (`P1,P6`) or by name (`insert`).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these table shapes.
    #[arg(long, value_delimiter = ',', value_parser = shape_of)]
    shapes: Vec<&'static Shape>,
    /// Databases in memory instead of in files.
    #[arg(long)]
    memory: bool,
    /// Do not count instructions, even if valgrind is there.
    #[arg(long)]
    no_callgrind: bool,
    /// The extension of the genuine cr-sqlite, to be measured beside.
    #[arg(long)]
    crsqlite: Option<PathBuf>,
    /// Write the figures and plots to docs/bench.
    #[arg(long, conflicts_with_all = ["only", "shapes", "memory", "quick"])]
    save: bool,
}

#[derive(clap::Args)]
struct OneArgs {
    case: String,
    #[arg(value_parser = shape_of)]
    shape: &'static Shape,
    side: Side,
    medium: Medium,
    rows: usize,
    tables: usize,
    folder: PathBuf,
    crsqlite: Option<PathBuf>,
}

fn shape_of(letter: &str) -> Result<&'static Shape, String> {
    let found = SHAPES.iter().find(|shape| shape.letter == letter);
    found.ok_or_else(|| "there are shapes a, b, c and w".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.child {
        Some(Child::One(args)) => one(&args),
        Some(Child::LiveScope) => live_scope::print(),
        None => bench(&cli.args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Result<()> {
    let run = args.run()?;
    let folder = tempfile::tempdir().context("could not create a folder for databases")?;
    let mut figures = Vec::new();
    for (part, case) in every().filter(|(part, case)| args.wants(*part, case)) {
        for shape in SHAPES.iter().filter(|shape| args.wants_shape(shape)) {
            if case.applies(shape, run.medium) {
                eprintln!("{} {} ({})", part.name(), case.name, shape.letter);
                measure(&mut figures, part, case, args, &run.setting(shape, folder.path()));
            }
        }
    }
    ensure!(!figures.is_empty(), "no case is called {}", args.only.join(" or "));
    println!("{}", report::table(&figures));
    println!("{}", report::footer(&figures, &run));
    if args.save {
        save::all(&figures, &run)?;
    }
    let failed = figures.iter().filter(|figure| figure.verdict() == Verdict::Failed).count();
    ensure!(failed == 0, "{failed} figures could not be measured");
    Ok(())
}

fn measure(figures: &mut Vec<Figure>, part: Part, case: &'static Case, args: &Args, setting: &Setting<'_>) {
    figures.push(figure::cpu(part, case, setting, Effort { runs: args.runs, huge: args.huge }));
    if let (Some(goal), true) = (case.instructions, args.counts_instructions()) {
        let setting = Setting { rows: setting.rows / 10, ..*setting };
        figures.push(figure::instructions(part, case, &setting, goal));
    }
}

impl Args {
    /// The run that is asked for.
    fn run(&self) -> Result<Run> {
        let rows = if self.quick { 10_000 } else { self.rows };
        ensure!((1_000..=10_000_000).contains(&rows), "--rows is from 1,000 to 10,000,000");
        ensure!(self.runs >= 1, "at least one run is needed");
        let mut run =
            Run { rows, medium: if self.memory { Medium::Memory } else { Medium::File }, ..Run::default() };
        if let Some(path) = &self.crsqlite {
            match crsqlite::check(path) {
                Ok(()) => run.crsqlite = Some(path.clone()),
                Err(error) => run.note(format!("without cr-sqlite: {:#}", anyhow::Error::new(error))),
            }
        }
        if !self.quick && !self.no_callgrind && !child::has_valgrind() {
            run.note("without instruction counts: valgrind is not installed".to_owned());
        }
        run.notes.iter().for_each(|note| eprintln!("{note}"));
        Ok(run)
    }

    fn wants(&self, part: Part, case: &Case) -> bool {
        let named = |only: &String| only.eq_ignore_ascii_case(case.number) || only == case.slug;
        self.part.is_none_or(|wanted| wanted == part) && (self.only.is_empty() || self.only.iter().any(named))
    }

    fn wants_shape(&self, shape: &Shape) -> bool {
        self.shapes.is_empty() || self.shapes.iter().any(|wanted| wanted.letter == shape.letter)
    }

    fn counts_instructions(&self) -> bool {
        !self.quick && !self.no_callgrind && child::has_valgrind()
    }
}

fn one(args: &OneArgs) -> Result<()> {
    let (_, case) = every().find(|(_, case)| case.slug == args.case).context("no such case")?;
    let setting = Setting {
        shape: args.shape,
        rows: args.rows,
        tables: args.tables,
        medium: args.medium,
        folder: &args.folder,
        crsqlite: args.crsqlite.as_deref(),
    };
    println!("{}", (case.measure)(&setting, args.side)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_part_and_a_child_are_told_apart() {
        let cli = Cli::parse_from(["bench", "scale", "--huge"]);
        assert!(cli.child.is_none() && cli.args.part == Some(Part::Scale) && cli.args.huge);
        let cli = Cli::parse_from(["bench", "one", "insert", "b", "by-hand", "file", "1000", "1", "/tmp"]);
        let Some(Child::One(args)) = cli.child else { panic!("no child") };
        assert_eq!((args.case.as_str(), args.side, args.rows), ("insert", Side::ByHand, 1_000));
    }

    #[test]
    fn without_the_extension_the_run_goes_on_and_says_so() {
        let cli = Cli::parse_from(["bench", "--no-callgrind", "--crsqlite", "/no/such.so"]);
        let run = cli.args.run().unwrap();
        assert_eq!(run.crsqlite, None);
        assert_eq!(run.notes, ["without cr-sqlite: there is no file /no/such.so"]);
    }
}
