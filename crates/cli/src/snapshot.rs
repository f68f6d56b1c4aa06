//! `opor snapshot`: writes an image of a replica, for another to start from.

use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use opor_store::Manifest;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::bar::Bar;
use crate::database;
use crate::style::{DIM, GOOD, HEADING};
use crate::table::{printable, size};

/// Write a snapshot of a database, for another replica to start from or to catch up with.
///
/// It holds the tables that replicate, with their history. Rows of other tables, peers and the identity of this
/// replica stay behind. Others may write to the database meanwhile.
#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    /// The database.
    file: PathBuf,
    /// The snapshot; a file of this name is replaced, once the new one is complete.
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Snapshot {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let store = database::open_replicated(&self.file)?;
        let mut bar = Bar::new(self.json)?;
        let snapshot = store
            .snapshot_watched(&mut |progress| bar.watch(progress))
            .with_context(|| format!("{} was not copied", self.file.display()))?;
        let bytes = self.write(&snapshot, &mut bar)?;
        drop(bar);
        if self.json {
            writeln!(out, "{}", json(&self.out, snapshot.manifest(), bytes))?;
            return Ok(());
        }
        show(out, &self.out, snapshot.manifest(), bytes)
    }

    /// Writes beside the file and moves it into place, so that there is never half a snapshot.
    fn write(&self, snapshot: &opor_store::Snapshot, bar: &mut Bar) -> anyhow::Result<u64> {
        let cannot = || format!("cannot write {}", self.out.display());
        let folder = self.out.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).with_context(cannot)?;
        let mut counted = Counted { out: BufWriter::new(file.as_file_mut()), bar, written: 0, most: 0 };
        counted.most = snapshot.manifest().image_bytes;
        snapshot.write_to(&mut counted).with_context(cannot)?;
        let written = counted.written;
        drop(counted);
        file.as_file().sync_all().with_context(cannot)?;
        file.persist(&self.out).with_context(cannot)?;
        Ok(written)
    }
}

/// Counts what is written, and stops when the bar says so.
struct Counted<'b, W> {
    out: W,
    bar: &'b mut Bar,
    written: u64,
    /// What it would be without compression.
    most: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = self.out.write(bytes)?;
        self.written += len as u64;
        match self.bar.show("writing", true, self.written, self.most.max(self.written)) {
            ControlFlow::Continue(()) => Ok(len),
            ControlFlow::Break(()) => Err(std::io::Error::other("cancelled")),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn json(path: &Path, manifest: &Manifest, bytes: u64) -> serde_json::Value {
    let tables: Vec<_> = manifest.tables.iter().map(|table| &table.name).collect();
    json!({
        "snapshot": path,
        "site_id": manifest.site.to_string(),
        "db_version": manifest.db_version,
        "tables": tables,
        "chunks": manifest.chunks(),
        "image_bytes": manifest.image_bytes,
        "bytes": bytes,
    })
}

fn show(out: &mut dyn Write, path: &Path, manifest: &Manifest, bytes: u64) -> anyhow::Result<()> {
    writeln!(out, "{GOOD}written{GOOD:#} {}", printable(&path.display().to_string()))?;
    writeln!(
        out,
        "  {HEADING}of{HEADING:#}      site {}, up to commit {}",
        manifest.site, manifest.db_version
    )?;
    let names: Vec<_> = manifest.tables.iter().map(|table| printable(&table.name)).collect();
    writeln!(out, "  {HEADING}tables{HEADING:#}  {}", names.join(", "))?;
    writeln!(
        out,
        "  {HEADING}size{HEADING:#}    {} {DIM}in {} chunks, {} as a database{DIM:#}",
        size(bytes),
        manifest.chunks(),
        size(manifest.image_bytes)
    )?;
    Ok(())
}

/// Refuses to go on once somebody has pressed Ctrl-C.
pub(crate) fn go_on(flow: ControlFlow<()>) -> anyhow::Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => bail!("cancelled"),
    }
}
