//! The `opor` command.

mod apply;
mod bar;
mod changes;
mod database;
mod gc;
mod init;
mod lab;
mod restore;
mod serve;
mod signals;
mod snapshot;
mod stamp;
mod status;
mod style;
mod sync;
mod table;
mod token;
mod trust;
mod watch;
mod web;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Replicated SQLite databases: look at them, move changes between them, try it all in a lab.
#[derive(Debug, Parser)]
#[command(name = "opor", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Changes(changes::Changes),
    Apply(apply::Apply),
    Status(status::Status),
    Serve(serve::Serve),
    Sync(sync::Sync),
    Watch(watch::Watch),
    Snapshot(snapshot::Snapshot),
    Restore(restore::Restore),
    Gc(gc::Gc),
    Lab(lab::Lab),
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // Whoever stops reading a list has seen enough; a lab that was not heard out has not converged.
    let unheard = if matches!(command, Command::Lab(_)) { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    match run(command) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => unheard,
        Err(error) => {
            // With nowhere left to complain, the exit status has to do.
            let _ = writeln!(anstream::stderr(), "{}opor:{:#} {error:#}", style::BAD, style::BAD);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = anstream::stdout().lock();
    let code = match command {
        Command::Init(init) => init.run(&mut out).map(|()| ExitCode::SUCCESS),
        Command::Changes(changes) => changes.run(&mut out).map(|()| ExitCode::SUCCESS),
        Command::Apply(apply) => apply.run(&mut out).map(|()| ExitCode::SUCCESS),
        Command::Status(status) => status.run(&mut out).map(|()| ExitCode::SUCCESS),
        Command::Serve(serve) => serve.run(&mut out),
        Command::Sync(sync) => sync.run(&mut out),
        Command::Watch(watch) => watch.run(&mut out),
        Command::Snapshot(snapshot) => snapshot.run(&mut out).map(|()| ExitCode::SUCCESS),
        Command::Restore(restore) => restore.run(&mut out).map(|()| ExitCode::SUCCESS),
        Command::Gc(gc) => gc.run(&mut out).map(|()| ExitCode::SUCCESS),
        Command::Lab(lab) => lab.run(&mut out),
    }?;
    out.flush()?;
    Ok(code)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_error = error.downcast_ref::<io::Error>();
    io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
