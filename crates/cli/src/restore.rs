//! `opor restore`: makes a new replica of a snapshot, or merges one into a database.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use opor_store::{
    ApplyReport, OpenOptions, SnapshotImage, SnapshotReader, SnapshotReceiver, Store, partial_path,
};
use serde_json::json;

use crate::bar::Bar;
use crate::database::{self, Kind};
use crate::snapshot::go_on;
use crate::style::{DIM, GOOD, HEADING};
use crate::table::printable;

/// Make a new replica of a snapshot, or merge one into a database.
///
/// A new replica has an id of its own. Every chunk is checked before it is used. What a broken-off restore had is kept
/// beside the database, and the next one goes on from there.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The snapshot, as `opor snapshot` wrote it.
    snapshot: PathBuf,
    /// The database.
    file: PathBuf,
    /// The database exists: merge the snapshot into it, and keep what was written there.
    #[arg(long)]
    merge: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let kind = database::kind(&self.file)?;
        match (kind, self.merge) {
            (Kind::Replicated, true) => {}
            (Kind::Replicated | Kind::Plain, false) => {
                bail!("{} exists; --merge merges the snapshot into it", self.file.display())
            }
            (Kind::Plain, true) => {
                bail!("{} has no replicated tables yet; see `opor init`", self.file.display())
            }
            (Kind::New, true) => bail!("{} does not exist; leave --merge out", self.file.display()),
            (Kind::New, false) => {}
        }
        let mut bar = Bar::new(self.json)?;
        let image = self.receive(&mut bar)?;
        if self.merge {
            let (store, report) = self.merge_image(image, &mut bar)?;
            drop(bar);
            return self.report(out, &store, Some(&report));
        }
        let store = image
            .install(&self.file, &OpenOptions::new())
            .with_context(|| format!("{} was not made", self.file.display()))?;
        drop(bar);
        self.report(out, &store, None)
    }

    fn receive(&self, bar: &mut Bar) -> anyhow::Result<SnapshotImage> {
        let name = self.snapshot.display();
        let file = File::open(&self.snapshot).with_context(|| format!("cannot open {name}"))?;
        let unusable = || format!("{name} cannot be used");
        let mut reader = SnapshotReader::new(BufReader::new(file)).with_context(unusable)?;
        let mut receiver = SnapshotReceiver::begin(partial_path(&self.file), reader.manifest().clone())?;
        let chunks = u64::from(reader.manifest().chunks());
        while let Some((index, chunk)) = reader.next_chunk().with_context(unusable)? {
            receiver.put(index, &chunk).with_context(unusable)?;
            go_on(bar.show("receiving", false, u64::from(index) + 1, chunks))?;
        }
        receiver
            .finish_watched(&OpenOptions::new(), &mut |progress| bar.watch(progress))
            .with_context(unusable)
    }

    fn merge_image(&self, image: SnapshotImage, bar: &mut Bar) -> anyhow::Result<(Store, ApplyReport)> {
        let mut store = database::open_replicated(&self.file)?;
        let merged = store.merge_snapshot_watched(&image, &mut |progress| bar.watch(progress));
        image.discard().with_context(|| format!("cannot remove {}", partial_path(&self.file).display()))?;
        let report = merged.with_context(|| format!("{} is unchanged", self.file.display()))?;
        Ok((store, report))
    }

    fn report(&self, out: &mut dyn Write, store: &Store, merged: Option<&ApplyReport>) -> anyhow::Result<()> {
        let (site, version) = (store.site_id(), store.db_version()?);
        if self.json {
            let report = merged.map(|report| {
                json!({
                    "rows_inserted": report.rows_inserted,
                    "rows_updated": report.rows_updated,
                    "rows_deleted": report.rows_deleted,
                    "cells_won": report.cells_won,
                    "cells_lost": report.cells_lost,
                    "unchanged": report.unchanged,
                })
            });
            let site = site.to_string();
            writeln!(
                out,
                "{}",
                json!({ "file": self.file, "site_id": site, "db_version": version, "merged": report })
            )?;
            return Ok(());
        }
        let name = printable(&self.file.display().to_string());
        let Some(report) = merged else {
            writeln!(out, "{GOOD}made{GOOD:#} {name} {DIM}site {site}, up to commit {version}{DIM:#}")?;
            return Ok(());
        };
        writeln!(out, "{GOOD}merged{GOOD:#} into {name}")?;
        let ApplyReport { rows_inserted, rows_updated, rows_deleted, .. } = report;
        writeln!(
            out,
            "  {HEADING}rows{HEADING:#}   {rows_inserted} inserted, {rows_updated} updated, {rows_deleted} deleted"
        )?;
        Ok(())
    }
}
