//! `opor lab`: a hub and two peers in one process, and a walk through what they do.

#[cfg(feature = "nats")]
mod broker;
mod client;
mod compare;
mod conflicts;
mod copy;
mod curl;
mod edits;
mod event;
mod live;
mod peer;
mod peer_routes;
mod real;
mod server;
mod shape;
mod stage;
mod story;
mod todos;
mod tour;
mod wire;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use tempfile::TempDir;

use self::stage::{Setting, Stage};
use self::story::Story;
use self::wire::Transport;
use crate::style::DIM;

/// Exit status of a program ended by ctrl-c, by convention.
const INTERRUPTED: u8 = 130;

/// Start a hub and two peers, write on both sides, sync, and see them converge.
///
/// The exit status is 0 only when they did.
#[derive(Debug, Args)]
pub(crate) struct Lab {
    /// Do it with a copy of this database instead: every table, edited on both sides, merged, compared.
    #[arg(long, value_name = "FILE")]
    db: Option<PathBuf>,
    /// How changes travel: when a peer pushes or pulls, or as they happen.
    #[arg(long, value_enum, default_value_t = Transport::Http)]
    transport: Transport,
    /// Keep the servers up afterwards, and print the same steps as curl commands.
    #[arg(long)]
    stay: bool,
    /// Use ports N, N+1 and N+2 for hub, alice and bob instead of free ones.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=65_533))]
    port: Option<u16>,
    /// Keep the database files here. When a lab has been here before, its servers start again on its files.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Where the files are, and whether they go away.
enum Place {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Lab {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let place = self.place()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let code = runtime.block_on(async {
            // One future for the whole run, so that no ctrl-c falls between two.
            let mut ctrl_c = pin!(tokio::signal::ctrl_c());
            let (stage, verdict) = tokio::select! {
                played = self.play(place.path(), out) => played?,
                _ = &mut ctrl_c => return Ok(ExitCode::from(INTERRUPTED)),
            };
            if self.stay {
                ctrl_c.await.context("cannot wait for ctrl-c")?;
            }
            stage.stop().await?;
            Ok(if verdict { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        });
        // Blocking work that a ctrl-c left behind ends before the files go away.
        drop(runtime);
        code
    }

    async fn play(&self, dir: &Path, out: &mut dyn Write) -> anyhow::Result<(Stage, bool)> {
        let resumed = stage::was_here(dir);
        ensure!(
            !resumed || (self.stay && self.db.is_none()),
            "{} holds the files of an earlier lab; start it again with --stay, or choose another directory",
            dir.display(),
        );
        let mut story = Story::new(if self.json { None } else { Some(&mut *out) });
        let setting = Setting { dir: dir.to_owned(), port: self.port, transport: self.transport };
        let stage = match &self.db {
            Some(file) => real::play(&mut story, file, &setting).await?,
            None => tour::play(&mut story, &setting, resumed).await?,
        };
        let verdict = story.finish(self.keeps_files().then_some(dir))?;
        if self.stay {
            story.show_curl(&curl::steps(&stage, self.db.is_some()))?;
        }
        let document = story.into_json();
        if self.json {
            writeln!(out, "{document}")?;
        } else if self.stay {
            writeln!(out, "\n{DIM}The servers stay up; ctrl-c ends them.{DIM:#}")?;
        }
        out.flush()?;
        Ok((stage, verdict))
    }

    const fn keeps_files(&self) -> bool {
        self.dir.is_some() || self.stay
    }

    fn place(&self) -> anyhow::Result<Place> {
        if let Some(dir) = &self.dir {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            return Ok(Place::Kept(dir.clone()));
        }
        let dir = tempfile::Builder::new()
            .prefix("opor-lab-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        Ok(if self.stay { Place::Kept(dir.keep()) } else { Place::Temporary(dir) })
    }
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(dir) => dir,
        }
    }
}
