//! `opor gc`: drops what a database keeps for peers that have it by now.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use opor_store::{CompactOptions, CompactReport};
use serde_json::json;

use crate::bar::Bar;
use crate::database;
use crate::style::{DIM, GOOD, HEADING};
use crate::table::size;

/// Drop the record of deletes that every known peer has acknowledged, and tidy up.
///
/// A peer that comes back with an older cursor is told that it is behind, and catches up with a snapshot.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// The database.
    file: PathBuf,
    /// Also drop deletes older than this (30d, 12h, 90m, 45s), whether or not peers have acknowledged them.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Then give free space back to the disk. It takes as much again while it works, and others wait.
    #[arg(long)]
    vacuum: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut store = database::open_replicated(&self.file)?;
        let before = self.bytes();
        let mut bar = Bar::new(self.json)?;
        let options = CompactOptions { retention: self.older_than };
        let report = store
            .compact_watched(&options, &mut |progress| bar.watch(progress))
            .with_context(|| format!("{} was not compacted to the end", self.file.display()))?;
        if self.vacuum {
            store
                .execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
                .with_context(|| format!("{} was compacted, but not vacuumed", self.file.display()))?;
        }
        drop(bar);
        let peers = store.peers()?.len();
        drop(store);
        let after = self.bytes();
        if self.json {
            writeln!(out, "{}", json(&report, before, after))?;
            return Ok(());
        }
        show(out, &report, peers, (before, after))
    }

    fn bytes(&self) -> u64 {
        database::files(&self.file).iter().map(|(_, bytes)| bytes).sum()
    }
}

fn json(report: &CompactReport, before: u64, after: u64) -> serde_json::Value {
    json!({
        "tombstones_dropped": report.tombstones_dropped,
        "tombstones_left": report.tombstones_left,
        "blocks_tidied": report.blocks_tidied,
        "horizon": report.horizon,
        "bytes_before": before,
        "bytes_after": after,
    })
}

fn show(
    out: &mut dyn Write,
    report: &CompactReport,
    peers: usize,
    (before, after): (u64, u64),
) -> anyhow::Result<()> {
    let CompactReport { tombstones_dropped, tombstones_left, blocks_tidied, horizon } = report;
    writeln!(out, "{GOOD}compacted{GOOD:#}")?;
    let why = if peers == 0 { " (no peer is known that could have acknowledged them)" } else { "" };
    writeln!(
        out,
        "  {HEADING}deletes{HEADING:#}  {tombstones_dropped} dropped, {tombstones_left} kept{DIM}{why}{DIM:#}"
    )?;
    writeln!(out, "  {HEADING}clocks{HEADING:#}   {blocks_tidied} blocks made smaller")?;
    writeln!(out, "  {HEADING}horizon{HEADING:#}  commit {horizon}")?;
    writeln!(out, "  {HEADING}size{HEADING:#}     {}, was {}", size(after), size(before))?;
    Ok(())
}

/// `30d`, `12h`, `90m` or `45s`.
fn age(text: &str) -> Result<Duration, String> {
    let units = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let count: u64 = text.strip_suffix(*unit)?.parse().ok()?;
        count.checked_mul(*seconds).map(Duration::from_secs)
    });
    parsed.ok_or_else(|| "an age is a number and d, h, m or s, such as 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_units() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(age("0s"), Ok(Duration::ZERO));
        for bad in ["", "d", "30", "-1d", "1.5h", "99999999999999999999d", "999999999999999999d", "3 d"] {
            assert!(age(bad).is_err_and(|error| error.contains("such as 30d")), "{bad}");
        }
    }
}
