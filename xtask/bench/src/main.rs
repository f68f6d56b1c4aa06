//! Measures opor against plain SQLite: `cargo xtask bench store`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to the person who ran it")]

mod callgrind;
mod case;
mod clock;
mod database;
mod figure;
mod plot;
mod report;
mod save;
mod shape;
mod workload;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::case::{CASES, Case};
use crate::database::{Medium, Setting, Side};
use crate::figure::Figure;
use crate::shape::{SHAPES, Shape};

/// Measures opor against plain SQLite.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The store against ordinary tables: writes, reads, merges and sizes.
    Store(StoreArgs),
    /// One case on one side, for the instruction counter; prints what it measured.
    #[command(hide = true)]
    One(OneArgs),
}

#[derive(Args)]
struct StoreArgs {
    /// Rows in a table; cases that commit row by row take a tenth of it.
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// How often each side is measured; the medians are compared.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only these cases, by number (`P1,P6`) or by name (`insert`).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these table shapes.
    #[arg(long, value_delimiter = ',', value_parser = shape_of)]
    shapes: Vec<&'static Shape>,
    /// Databases in memory instead of in files.
    #[arg(long)]
    memory: bool,
    /// Count instructions too, under valgrind, on a tenth of the rows.
    #[arg(long)]
    callgrind: bool,
    /// Write the figures and plots to docs/bench.
    #[arg(long, conflicts_with_all = ["only", "shapes", "memory"])]
    save: bool,
}

#[derive(Args)]
struct OneArgs {
    case: String,
    #[arg(value_parser = shape_of)]
    shape: &'static Shape,
    side: Side,
    medium: Medium,
    rows: usize,
}

fn shape_of(letter: &str) -> Result<&'static Shape, String> {
    SHAPES.iter().find(|shape| shape.letter == letter).ok_or_else(|| "there are shapes a, b and c".to_owned())
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Store(args) => store(&args),
        Command::One(args) => one(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn store(args: &StoreArgs) -> Result<()> {
    ensure!(args.rows >= 1_000, "fewer than 1000 rows measure nothing but noise");
    ensure!(args.runs >= 1, "at least one run is needed");
    let cases: Vec<&Case> = CASES.iter().filter(|case| args.wants(case)).collect();
    ensure!(!cases.is_empty(), "no case is called {}", args.only.join(" or "));
    let medium = if args.memory { Medium::Memory } else { Medium::File };
    let folder = tempfile::tempdir().context("could not create a folder for databases")?;
    let mut figures = Vec::new();
    for case in cases {
        let shapes = SHAPES.iter().filter(|shape| args.wants_shape(shape));
        for shape in shapes.filter(|shape| case.goal(shape).is_some()) {
            if medium == Medium::Memory && case.needs_file {
                continue;
            }
            let setting = Setting { shape, rows: args.rows, medium, folder: folder.path() };
            eprintln!("{} {} ({})", case.number, case.name, shape.letter);
            figures.push(figure::cpu(case, &setting, args.runs));
            if args.callgrind && case.instructions.is_some() {
                let setting = Setting { rows: args.rows / 10, ..setting };
                figures.push(figure::instructions(case, &setting));
            }
        }
    }
    println!("{}", report::table(&figures));
    println!("{}", report::footer(&figures, args.rows, args.runs, medium));
    if args.save {
        save::all(&figures, args.rows, args.runs)?;
    }
    let failed: Vec<&Figure> = figures.iter().filter(|figure| figure.failed()).collect();
    ensure!(failed.is_empty(), "{} figures could not be measured", failed.len());
    Ok(())
}

impl StoreArgs {
    fn wants(&self, case: &Case) -> bool {
        let named = |only: &String| only.eq_ignore_ascii_case(case.number) || only == case.slug;
        self.only.is_empty() || self.only.iter().any(named)
    }

    fn wants_shape(&self, shape: &Shape) -> bool {
        self.shapes.is_empty() || self.shapes.iter().any(|wanted| wanted.letter == shape.letter)
    }
}

fn one(args: &OneArgs) -> Result<()> {
    let case = CASES.iter().find(|case| case.slug == args.case).context("no such case")?;
    let folder = tempfile::tempdir().context("could not create a folder for databases")?;
    let setting = Setting { shape: args.shape, rows: args.rows, medium: args.medium, folder: folder.path() };
    println!("{}", (case.measure)(&setting, args.side)?);
    Ok(())
}
