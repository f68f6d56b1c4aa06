//! What `opor sync` shows: a line that is kept up to date on a terminal, plain lines elsewhere, or JSON.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use opor_core::DbVersion;
use opor_sync::{CatchUp, SyncStatus};
use serde_json::{Value as Json, json};

use super::schema::Agreed;
use crate::stamp;
use crate::style::{DIM, GOOD, MARK};
use crate::table::printable;

/// Updates a second: smooth to the eye, and no work for the terminal.
const DRAWS_PER_SECOND: u8 = 12;
/// With fewer commits to come a bar would jump from nothing to all; then there is only a sign of life.
const BAR_COMMITS_MIN: u64 = 2;
/// How often the sign of life moves.
const TICK: Duration = Duration::from_millis(120);

/// What is shown, and what is counted for it.
pub(crate) struct View<'a> {
    out: &'a mut dyn Write,
    mode: Mode,
    remote: String,
    received: Count,
    sent: Count,
    status: SyncStatus,
    /// What is expected during the catch-up, where that is known, and how far it is: commits from there (messages, where a
    /// broker counts those), commits from here.
    expected: [Option<u64>; 2],
    reached: [u64; 2],
    /// When something travelled last.
    last: Option<String>,
    /// Why there is no link.
    why: String,
}

enum Mode {
    Json,
    Lines,
    Terminal(ProgressBar),
}

/// What travelled.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    rows: usize,
    changes: usize,
}

impl Count {
    fn add(&mut self, rows: usize, changes: usize) {
        self.rows += rows;
        self.changes += changes;
    }

    fn json(self) -> Json {
        json!({ "rows": self.rows, "changes": self.changes })
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(out: &'a mut dyn Write, json: bool, remote: &str) -> Self {
        let mode = if json {
            Mode::Json
        } else if io::stderr().is_terminal() {
            let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
            let bar = ProgressBar::with_draw_target(None, target);
            bar.enable_steady_tick(TICK);
            Mode::Terminal(bar)
        } else {
            Mode::Lines
        };
        Self {
            out,
            mode,
            remote: printable(remote),
            received: Count::default(),
            sent: Count::default(),
            status: SyncStatus::Offline,
            expected: [None; 2],
            reached: [0; 2],
            last: None,
            why: String::new(),
        }
    }

    /// What the sides have agreed on.
    pub(crate) fn agreed(&mut self, file: &Path, agreed: &Agreed) -> io::Result<()> {
        if let Mode::Json = self.mode {
            return self.json(&json!({
                "event": "schema", "created": agreed.created, "missing_here": agreed.missing_here,
                "differs": agreed.differs,
            }));
        }
        let file = printable(&file.display().to_string());
        if !agreed.created.is_empty() {
            let tables = printable(&agreed.created.join(", "));
            self.line(&format!("{file} has the tables of the room now: {tables}"))?;
        }
        if !agreed.missing_here.is_empty() {
            let tables = printable(&agreed.missing_here.join(", "));
            self.line(&format!(
                "{MARK}the room has tables that {file} does not replicate: {tables}{MARK:#}"
            ))?;
        }
        if let Some(differs) = &agreed.differs {
            self.line(&format!("{MARK}the tables are not the same: {}{MARK:#}", printable(differs)))?;
        }
        Ok(())
    }

    /// What has been committed here, and there where somebody has told.
    pub(crate) fn expects(&mut self, here: DbVersion, there: Option<DbVersion>) {
        self.expected = [there.map(|there| there.0), Some(here.0)];
    }

    /// How much of the catch-up is done, and how much it is in all; nothing where that is not known, or would be no bar.
    fn share(&self) -> Option<(u64, u64)> {
        let [Some(there), Some(here)] = self.expected else { return None };
        // What the other side tells may be anything.
        let all = there.saturating_add(here);
        let done = self.reached[0].min(there).saturating_add(self.reached[1].min(here));
        (all >= BAR_COMMITS_MIN).then_some((done, all))
    }

    pub(crate) fn status(&mut self, status: &SyncStatus) -> io::Result<()> {
        if self.status == *status {
            return Ok(());
        }
        if let SyncStatus::CatchingUp { by: CatchUp::Log, done, total: Some(total) } = status {
            (self.expected[0], self.reached[0]) = (Some(*total), *done);
        }
        // How far it is is drawn, and not told line by line.
        let same = std::mem::discriminant(&self.status) == std::mem::discriminant(status);
        self.status = status.clone();
        let name = match status {
            _ if same => return self.draw(),
            // Why is told by what ended the link.
            SyncStatus::Offline | SyncStatus::Refused { .. } => return self.draw(),
            SyncStatus::Connecting => "connecting",
            SyncStatus::CatchingUp { .. } => "catching_up",
            SyncStatus::Live { .. } => "live",
        };
        match self.mode {
            Mode::Json => self.json(&json!({ "event": "status", "status": name })),
            Mode::Lines => {
                let line = format!("{:12} {}", name.replace('_', " "), self.remote);
                self.line(&line)
            }
            Mode::Terminal(_) => self.draw(),
        }
    }

    pub(crate) fn offline(&mut self, why: &str) -> io::Result<()> {
        self.status = SyncStatus::Offline;
        // By the time there is a link again, more may have been committed there.
        self.expected[0] = None;
        match self.mode {
            Mode::Json => self.json(&json!({ "event": "offline", "why": why })),
            Mode::Lines => {
                let line = format!("{:12} {}", "offline", printable(why));
                self.line(&line)
            }
            Mode::Terminal(_) => {
                self.why = printable(why);
                self.draw()
            }
        }
    }

    pub(crate) fn received(&mut self, rows: usize, changes: usize, reached: DbVersion) -> io::Result<()> {
        self.received.add(rows, changes);
        self.reached[0] = self.reached[0].max(reached.0);
        self.traffic("received", rows, changes)
    }

    pub(crate) fn sending(&mut self, rows: usize, changes: usize) -> io::Result<()> {
        self.sent.add(rows, changes);
        self.traffic("sending", rows, changes)
    }

    pub(crate) fn acknowledged(&mut self, version: DbVersion) -> io::Result<()> {
        self.reached[1] = version.0;
        match self.mode {
            Mode::Json => self.json(&json!({ "event": "acknowledged", "db_version": version })),
            Mode::Lines => Ok(()),
            Mode::Terminal(_) => self.draw(),
        }
    }

    /// Something of the room was not taken.
    #[cfg(feature = "nats")]
    pub(crate) fn left_out(&mut self, why: &str) -> io::Result<()> {
        match self.mode {
            Mode::Json => self.json(&json!({ "event": "left_out", "why": why })),
            Mode::Lines | Mode::Terminal(_) => {
                let line = format!("{MARK}{:12} {}{MARK:#}", "left out", printable(why));
                self.line(&line)
            }
        }
    }

    fn traffic(&mut self, what: &str, rows: usize, changes: usize) -> io::Result<()> {
        if changes == 0 {
            return self.draw();
        }
        self.last = Some(stamp::now());
        match self.mode {
            Mode::Json => self.json(&json!({ "event": what, "rows": rows, "changes": changes })),
            Mode::Lines => self.line(&format!("{what:12} {}", in_rows(rows, changes))),
            Mode::Terminal(_) => self.draw(),
        }
    }

    /// The last word: `done`, `stopped` or `interrupted`.
    pub(crate) fn ended(&mut self, how: &str) -> io::Result<()> {
        if let Mode::Terminal(bar) = &self.mode {
            bar.finish_and_clear();
        }
        let (received, sent) = (self.received, self.sent);
        if let Mode::Json = self.mode {
            return self.json(&json!({ "event": how, "received": received.json(), "sent": sent.json() }));
        }
        let head = match how {
            "done" => format!("{GOOD}in step{GOOD:#} with {}", self.remote),
            how => format!("{MARK}{how}{MARK:#}"),
        };
        let line = format!(
            "{head}: {} received, {} sent",
            in_rows(received.rows, received.changes),
            in_rows(sent.rows, sent.changes),
        );
        self.line(&line)
    }

    fn draw(&mut self) -> io::Result<()> {
        let Mode::Terminal(bar) = &self.mode else { return Ok(()) };
        let traffic = format!("↓ {} ↑ {}", rows(self.received.rows), rows(self.sent.rows));
        let last = self.last.as_deref().unwrap_or_default();
        let (share, here) = (self.share(), self.expected[1].unwrap_or(0));
        let (template, message) = match &self.status {
            SyncStatus::CatchingUp { by: CatchUp::Snapshot, done, total: Some(total) } => {
                bar.set_style(style_of(
                    "{spinner} taking a snapshot  {bar:24} {bytes} of {total_bytes}  {wide_msg}",
                ));
                bar.set_length((*total).max(1));
                bar.set_position(*done);
                bar.set_message(format!("{DIM}{}{DIM:#}", self.remote));
                return Ok(());
            }
            SyncStatus::Live { .. } if self.reached[1] >= here => {
                let last =
                    if last.is_empty() { String::new() } else { format!("  {DIM}last at {last}{DIM:#}") };
                ("{wide_msg}", format!("{GOOD}● live{GOOD:#}  {}  {traffic}{last}", self.remote))
            }
            // All may have come while ours is still on its way.
            SyncStatus::CatchingUp { .. } | SyncStatus::Live { .. } => {
                let template = match share {
                    None => "{spinner} catching up  {wide_msg}",
                    Some(_) => "{spinner} catching up  {bar:24} {percent:>3}%  {wide_msg}",
                };
                (template, format!("{traffic}  {DIM}{}{DIM:#}", self.remote))
            }
            SyncStatus::Connecting => ("{spinner} {wide_msg}", format!("connecting to {}", self.remote)),
            SyncStatus::Offline | SyncStatus::Refused { .. } => {
                ("{wide_msg}", format!("{MARK}○ offline{MARK:#}  {DIM}{}{DIM:#}", self.why))
            }
        };
        bar.set_style(style_of(template));
        let (done, total) = share.unwrap_or((0, 1));
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(message);
        Ok(())
    }

    fn json(&mut self, event: &Json) -> io::Result<()> {
        writeln!(self.out, "{event}")?;
        self.out.flush()
    }

    /// A line that stays, above the one that is kept up to date.
    fn line(&mut self, text: &str) -> io::Result<()> {
        let out = &mut *self.out;
        let mut write = || writeln!(out, "{text}").and_then(|()| out.flush());
        match &self.mode {
            Mode::Terminal(bar) => bar.suspend(write),
            Mode::Json | Mode::Lines => write(),
        }
    }
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Mode::Terminal(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

fn in_rows(rows_changed: usize, changes: usize) -> String {
    if changes == 0 {
        return "nothing".into();
    }
    let changes = if changes == 1 { "1 change".into() } else { format!("{} changes", number(changes)) };
    format!("{changes} in {}", rows(rows_changed))
}

fn rows(count: usize) -> String {
    if count == 1 { "1 row".into() } else { format!("{} rows", number(count)) }
}

fn number(count: usize) -> HumanCount {
    HumanCount(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_needs_to_know_how_much_there_is() {
        let mut out = Vec::new();
        let mut view = View::new(&mut out, true, "ws://hub/sync/garden");
        assert_eq!(view.share(), None, "nothing is known yet");
        view.expects(DbVersion(1), Some(DbVersion(0)));
        assert_eq!(view.share(), None, "it would jump");
        view.expects(DbVersion(10), Some(DbVersion(30)));
        assert_eq!(view.share(), Some((0, 40)));
        view.received(1, 2, DbVersion(12)).expect("written");
        view.acknowledged(DbVersion(4)).expect("written");
        assert_eq!(view.share(), Some((16, 40)));
        view.received(1, 2, DbVersion(70)).expect("written");
        assert_eq!(view.share(), Some((34, 40)), "what came since is not part of it");
        view.offline("the hub said goodbye").expect("written");
        assert_eq!(view.share(), None, "more may be there by now");
        view.expects(DbVersion(10), Some(DbVersion(u64::MAX)));
        assert_eq!(view.share(), Some((74, u64::MAX)), "a hub may say anything");
        view.expects(DbVersion(10), None);
        assert_eq!(view.share(), None, "a broker has not told yet");
        let reading = |done, total| SyncStatus::CatchingUp { by: CatchUp::Log, done, total };
        view.status(&reading(0, None)).expect("written");
        assert_eq!(view.share(), None, "it does not know yet");
        view.status(&reading(5, Some(20))).expect("written");
        assert_eq!(view.share(), Some((9, 30)));
        view.status(&reading(21, Some(21))).expect("written");
        assert_eq!(view.share(), Some((25, 31)), "one more came meanwhile");
    }
}
