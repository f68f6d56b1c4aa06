//! What the lab tells: steps, calls, states and checks, printed as they happen and kept for the JSON document.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use crate::style::{BAD, DIM, GOOD, HEADING, PLAIN, of_name};
use crate::table::{Cell, Table, WIDTH, printable};

const INDENT: usize = 3;

/// The lab's account of itself.
pub(crate) struct Story<'a> {
    /// `None` when only the JSON document is wanted.
    out: Option<&'a mut dyn Write>,
    steps: Vec<Step>,
    facts: Map<String, Json>,
}

#[derive(Debug, Default, Serialize)]
struct Step {
    title: String,
    notes: Vec<String>,
    calls: Vec<Call>,
    states: Vec<Json>,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize)]
struct Call {
    to: String,
    request: String,
    answer: String,
}

#[derive(Debug, Serialize)]
struct Check {
    what: String,
    holds: bool,
}

impl<'a> Story<'a> {
    /// A story told to `out`, or only kept.
    pub(crate) fn new(out: Option<&'a mut dyn Write>) -> Self {
        Self { out, steps: Vec::new(), facts: Map::new() }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, title: &str) -> anyhow::Result<()> {
        self.steps.push(Step { title: title.to_owned(), ..Step::default() });
        let number = self.steps.len();
        let head = format!("{number}  {title} ");
        let rule = "─".repeat(WIDTH.saturating_sub(head.chars().count()));
        self.print(|out| writeln!(out, "\n{HEADING}{head}{HEADING:#}{DIM}{rule}{DIM:#}"))
    }

    /// A sentence.
    pub(crate) fn note(&mut self, text: &str) -> anyhow::Result<()> {
        self.current().notes.push(text.to_owned());
        self.print(|out| writeln!(out, "{:INDENT$}{}", "", printable(text)))
    }

    /// A request and what came of it.
    pub(crate) fn call(&mut self, to: &str, request: &str, answer: &str) -> anyhow::Result<()> {
        let call = Call { to: to.to_owned(), request: request.to_owned(), answer: answer.to_owned() };
        self.current().calls.push(call);
        let (style, request, answer) = (of_name(to), printable(request), printable(answer));
        self.print(|out| {
            write!(out, "{:INDENT$}{style}{to:<5}{style:#}  {request}", "")?;
            if !answer.is_empty() {
                write!(out, "  {DIM}→ {answer}{DIM:#}")?;
            }
            writeln!(out)
        })
    }

    /// A table, and the same for the JSON document.
    pub(crate) fn state(&mut self, table: &Table, state: Json) -> anyhow::Result<()> {
        self.current().states.push(state);
        self.print(|out| {
            writeln!(out)?;
            table.write(out, INDENT)?;
            writeln!(out)
        })
    }

    /// Something that must hold for the lab to succeed.
    pub(crate) fn check(&mut self, what: &str, holds: bool) -> anyhow::Result<()> {
        self.current().checks.push(Check { what: what.to_owned(), holds });
        let (sign, style) = if holds { ("✓", GOOD) } else { ("✗", BAD) };
        self.print(|out| writeln!(out, "{:INDENT$}{style}{sign}{style:#} {}", "", printable(what)))
    }

    /// Adds a fact to the JSON document.
    pub(crate) fn fact(&mut self, name: &str, value: Json) {
        self.facts.insert(name.to_owned(), value);
    }

    /// The verdict: whether every check held.
    pub(crate) fn finish(&mut self, files: Option<&Path>) -> anyhow::Result<bool> {
        let checks = self.steps.iter().flat_map(|step| &step.checks);
        let (total, failed) =
            checks.fold((0, 0), |(total, failed), check| (total + 1, failed + usize::from(!check.holds)));
        let converged = failed == 0;
        self.fact("converged", converged.into());
        self.fact("files", json!(files));
        self.print(|out| {
            writeln!(out, "\n{DIM}{}{DIM:#}", "─".repeat(WIDTH))?;
            if converged {
                writeln!(out, "{GOOD}✓ converged{GOOD:#}: {total} of {total} checks hold")?;
            } else {
                writeln!(out, "{BAD}✗ did not converge{BAD:#}: {failed} of {total} checks fail")?;
            }
            match files {
                Some(dir) => writeln!(out, "{DIM}files: {}{DIM:#}", printable(&dir.display().to_string())),
                None => Ok(()),
            }
        })?;
        Ok(converged)
    }

    /// Commands to do the same by hand.
    pub(crate) fn show_curl(&mut self, steps: &[super::curl::CurlStep]) -> anyhow::Result<()> {
        self.fact("curl", json!(steps));
        self.print(|out| {
            writeln!(out, "\n{HEADING}The same by hand{HEADING:#}")?;
            for step in steps {
                writeln!(out, "\n{DIM}# {}{DIM:#}", step.what)?;
                step.commands.iter().try_for_each(|command| writeln!(out, "{PLAIN}{command}{PLAIN:#}"))?;
            }
            Ok(())
        })
    }

    /// The JSON document.
    pub(crate) fn into_json(self) -> Json {
        let mut document = self.facts;
        document.insert("steps".into(), json!(self.steps));
        Json::Object(document)
    }

    fn current(&mut self) -> &mut Step {
        self.steps.last_mut().expect("a story begins with a step")
    }

    fn print(&mut self, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> anyhow::Result<()> {
        if let Some(out) = &mut self.out {
            write(&mut **out)?;
            // Steps are read as they happen, also through a pipe.
            out.flush()?;
        }
        Ok(())
    }
}

/// A cell for a name, in its colour.
pub(crate) fn name_cell(name: &str) -> Cell {
    Cell::styled(name, of_name(name))
}
