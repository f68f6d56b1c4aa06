//! `opor apply`: merges a changeset into a database.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use opor_core::{Changeset, DecodeLimits};
use opor_store::{ApplyOptions, ApplyReport};

use crate::database;
use crate::style::{DIM, GOOD, HEADING};

/// Merge a changeset into a database.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The database.
    file: PathBuf,
    /// The changeset, JSON or binary; - for standard input.
    #[arg(default_value = "-")]
    changeset: PathBuf,
    /// Keep what cannot be stored here yet, because a table or a column is missing or a rule of a table forbids it, and
    /// merge the rest. Without, the changeset is refused.
    #[arg(long)]
    keep: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Apply {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let limits = DecodeLimits::default();
        let bytes = read(&self.changeset, limits.bytes_max)?;
        let changeset =
            decode(&bytes, &limits).with_context(|| format!("{} is not a changeset", self.source()))?;
        let mut store = database::open_replicated(&self.file)?;
        let options = ApplyOptions { refuse_unstorable: !self.keep, ..ApplyOptions::default() };
        let report = store
            .apply_with(&changeset, &options)
            .with_context(|| format!("{} is unchanged: the changeset was refused", self.file.display()))?;
        if self.json {
            writeln!(out, "{}", json(&changeset, &report))?;
            return Ok(());
        }
        show(out, &changeset, &report)
    }

    fn source(&self) -> String {
        if is_stdin(&self.changeset) { "standard input".into() } else { self.changeset.display().to_string() }
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn read(path: &Path, bytes_max: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed, to tell "just enough" from "too many".
    let limit = bytes_max as u64 + 1;
    if is_stdin(path) {
        io::stdin().lock().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
    } else {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        file.take(limit)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    ensure!(bytes.len() <= bytes_max, "changeset is larger than {bytes_max} bytes");
    Ok(bytes)
}

/// JSON begins with a bracket, the binary form with letters.
fn decode(bytes: &[u8], limits: &DecodeLimits) -> anyhow::Result<Changeset> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        Some(b'[') => Ok(Changeset::from_json(bytes, limits)?),
        _ => Ok(Changeset::from_bytes(bytes, limits)?),
    }
}

fn json(changeset: &Changeset, report: &ApplyReport) -> serde_json::Value {
    serde_json::json!({
        "changes": changeset.len(),
        "db_version": report.db_version,
        "rows_inserted": report.rows_inserted,
        "rows_updated": report.rows_updated,
        "rows_deleted": report.rows_deleted,
        "cells_won": report.cells_won,
        "cells_lost": report.cells_lost,
        "unchanged": report.unchanged,
        "quarantined": report.quarantined,
        "violations": report.violations,
    })
}

fn show(out: &mut dyn Write, changeset: &Changeset, report: &ApplyReport) -> anyhow::Result<()> {
    let ApplyReport { rows_inserted, rows_updated, rows_deleted, cells_won, cells_lost, unchanged, .. } =
        report;
    let ApplyReport { quarantined, violations, .. } = report;
    match report.db_version {
        Some(version) => {
            writeln!(out, "{GOOD}merged{GOOD:#} {} changes as commit {version}", changeset.len())?;
        }
        None => writeln!(out, "{GOOD}nothing new{GOOD:#} in {} changes", changeset.len())?,
    }
    writeln!(
        out,
        "  {HEADING}rows{HEADING:#}   {rows_inserted} inserted, {rows_updated} updated, {rows_deleted} deleted"
    )?;
    writeln!(
        out,
        "  {HEADING}cells{HEADING:#}  {cells_won} won, {cells_lost} lost {DIM}(older or smaller than what is \
         here){DIM:#}, {unchanged} unchanged"
    )?;
    if *quarantined > 0 {
        writeln!(
            out,
            "  {HEADING}kept{HEADING:#}   {quarantined} that cannot be stored here yet {DIM}(opor status tells why){DIM:#}"
        )?;
    }
    if *violations > 0 {
        writeln!(
            out,
            "  {HEADING}rules{HEADING:#}  {violations} broken {DIM}(SELECT * FROM opor_conflicts){DIM:#}"
        )?;
    }
    Ok(())
}
