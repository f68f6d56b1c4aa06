//! `opor changes`: the change log of a database.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Args;
use opor_core::{Change, Changeset, Cid, DbVersion};

use crate::style::{DIM, HEADING, MARK};
use crate::table::{Cell, Table, cut};
use crate::{database, stamp};

/// Values longer than this are cut in the table.
const VALUE_WIDTH: usize = 40;

/// Print the change log of a database.
#[derive(Debug, Args)]
pub(crate) struct Changes {
    /// The database.
    file: PathBuf,
    /// Only changes after this commit of the database.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=DbVersion::MAX.0))]
    since: u64,
    /// Only this table.
    #[arg(long, value_name = "T")]
    table: Option<String>,
    /// Print JSON rows, as the hub serves them and `opor apply` takes them.
    #[arg(long, conflicts_with = "binary")]
    json: bool,
    /// Write the compact binary form, which `opor apply` takes too.
    #[arg(long)]
    binary: bool,
    /// Write to this file instead of standard output.
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
}

impl Changes {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let changes = self.read()?;
        if self.binary {
            let changeset: Changeset = changes.into_iter().collect();
            return self.write_bytes(&changeset.to_bytes());
        }
        let Some(path) = &self.output else { return self.write(out, changes) };
        let mut file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        self.write(&mut anstream::StripStream::new(&mut file), changes)
    }

    fn write(&self, out: &mut dyn Write, changes: Vec<Change>) -> anyhow::Result<()> {
        if self.json { write_json(out, changes) } else { self.write_table(out, &changes) }
    }

    fn read(&self) -> anyhow::Result<Vec<Change>> {
        let store = database::open_replicated(&self.file)?;
        if let Some(table) = &self.table {
            let known = store.replicated_tables()?;
            ensure!(known.contains(table), "{} has no replicated table {table:?}", self.file.display());
        }
        let changeset = store.changes_since(DbVersion(self.since))?;
        let wanted = |change: &Change| self.table.as_deref().is_none_or(|table| *table == *change.table);
        let mut changes: Vec<Change> = changeset.changes().filter(wanted).collect();
        changes.sort_by_key(|change| (change.db_version, change.seq));
        Ok(changes)
    }

    fn write_bytes(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let Some(path) = &self.output else {
            let mut out = io::stdout().lock();
            ensure!(!out.is_terminal(), "binary changes are not for a terminal; name a file with -o");
            return Ok(out.write_all(bytes)?);
        };
        fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    fn write_table(&self, out: &mut dyn Write, changes: &[Change]) -> anyhow::Result<()> {
        if changes.is_empty() {
            writeln!(out, "{DIM}no changes after commit {}{DIM:#}", self.since)?;
            return Ok(());
        }
        let mut table =
            Table::new(&[">commit", ">seq", "table", "key", "column", "value", "version", ">cl", "site"]);
        for change in changes {
            table.push(row(change));
        }
        table.write(out, 0)?;
        writeln!(out, "{HEADING}{} changes{HEADING:#}", changes.len())?;
        Ok(())
    }
}

fn row(change: &Change) -> Vec<Cell> {
    let (column, value) = match &change.cid {
        Cid::Sentinel if change.cl.is_deleted() => (Cell::from(""), Cell::styled("deleted", MARK)),
        Cid::Sentinel => (Cell::from(""), Cell::styled("exists", DIM)),
        Cid::Column(name) => {
            (Cell::from(name), Cell::from(cut(&database::literal(&change.val), VALUE_WIDTH)))
        }
    };
    let site = change.site_id.to_string();
    let version = match change.cid {
        Cid::Sentinel => String::new(),
        Cid::Column(_) => stamp::full(change.col_version),
    };
    vec![
        change.db_version.to_string().into(),
        change.seq.to_string().into(),
        Cell::from(&change.table),
        cut(&change.pk.to_string(), VALUE_WIDTH).into(),
        column,
        value,
        Cell::styled(version, DIM),
        change.cl.to_string().into(),
        Cell::styled(&site[..site.len().min(8)], DIM),
    ]
}

fn write_json(out: &mut dyn Write, changes: Vec<Change>) -> anyhow::Result<()> {
    let changeset: Changeset = changes.into_iter().collect();
    writeln!(out, "{}", changeset.to_json())?;
    Ok(())
}
