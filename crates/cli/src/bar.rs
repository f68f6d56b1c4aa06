//! How far long work is: a bar on the terminal, and nothing at all where standard error is not one.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use opor_store::{Phase, Progress};

/// Updates a second: smooth to the eye, and no work for the terminal.
const DRAWS_PER_SECOND: u8 = 12;

/// A bar, and a hand on the brake: Ctrl-C cancels the work at its next safe place.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    shown: Option<&'static str>,
    cancelled: Arc<AtomicBool>,
}

impl Bar {
    /// A bar that is drawn once something is known; `quiet` when the output is for a program.
    ///
    /// # Errors
    /// When the thread that waits for Ctrl-C cannot be started.
    pub(crate) fn new(quiet: bool) -> anyhow::Result<Self> {
        let target = if io::stderr().is_terminal() && !quiet {
            ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        Ok(Self { bar, shown: None, cancelled: on_interrupt()? })
    }

    /// What work reports to.
    pub(crate) fn watch(&mut self, progress: Progress) -> ControlFlow<()> {
        self.show(label(progress.phase), is_bytes(progress.phase), progress.done, progress.total)
    }

    /// Shows how far something is.
    pub(crate) fn show(
        &mut self,
        label: &'static str,
        bytes: bool,
        done: u64,
        total: u64,
    ) -> ControlFlow<()> {
        if self.shown != Some(label) {
            self.shown = Some(label);
            self.bar.reset();
            self.bar.set_style(style(bytes));
            self.bar.set_message(label);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.cancelled.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(bytes: bool) -> ProgressStyle {
    let template = if bytes {
        "{msg:12} {bar:40} {bytes:>10} of {total_bytes}  {eta}"
    } else {
        "{msg:12} {bar:40} {human_pos:>10} of {human_len}  {eta}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

const fn label(phase: Phase) -> &'static str {
    match phase {
        Phase::Upgrade => "upgrading",
        Phase::Merge => "merging",
        Phase::Copy => "copying",
        Phase::Strip => "stripping",
        Phase::Hash => "hashing",
        Phase::Check => "checking",
        Phase::Prune => "comparing",
        Phase::Survey => "looking",
        Phase::Sweep => "sweeping",
        _ => "working",
    }
}

const fn is_bytes(phase: Phase) -> bool {
    matches!(phase, Phase::Copy | Phase::Hash)
}

/// Set once Ctrl-C has been pressed. The second time ends the process.
fn on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let pressed = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for Ctrl-C")?;
    let flag = pressed.clone();
    let wait = move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("opor-interrupt".to_owned())
        .spawn(wait)
        .context("cannot wait for Ctrl-C")?;
    Ok(pressed)
}
