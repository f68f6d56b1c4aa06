//! `opor init`: makes tables of a database replicate, or says which could.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use opor_store::{ClockPolicy, OpenOptions};
use rusqlite::Connection;
use serde::Serialize;

use crate::database::{self, Kind};
use crate::style::{BAD, DIM, GOOD, HEADING, MARK};
use crate::table::{Cell, Table, printable};

/// Make tables of a database replicate, or list which could.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The database; created when it does not exist.
    file: PathBuf,
    /// The tables to replicate; without any, list which could be and why not.
    tables: Vec<String>,
    /// What versions of cells are, fixed when opor first opens a database.
    #[arg(long, value_enum, default_value_t = Clock::Hlc)]
    clock: Clock,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Clock {
    /// Times: the last write wins.
    Hlc,
    /// Counts, as in cr-sqlite: the cell written most often wins.
    Lamport,
}

/// Whether a table replicates.
#[derive(Debug, Serialize)]
pub(crate) struct Candidate {
    pub(crate) table: String,
    rows: u64,
    state: State,
    /// Why it cannot replicate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Replicated,
    Possible,
    Impossible,
}

impl Init {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let kind = database::kind(&self.file)?;
        if kind == Kind::New && !self.tables.is_empty() {
            bail!("{} is new, so it has no table {:?}", self.file.display(), self.tables[0]);
        }
        if kind == Kind::New || !self.tables.is_empty() {
            self.replicate()?;
        }
        let tables = candidates(&self.file)?;
        if self.json {
            writeln!(out, "{}", serde_json::json!({ "file": self.file, "tables": tables }))?;
            return Ok(());
        }
        self.show(out, &tables)
    }

    fn replicate(&self) -> anyhow::Result<()> {
        self.refuse_impossible()?;
        let policy = match self.clock {
            Clock::Hlc => ClockPolicy::Hlc,
            Clock::Lamport => ClockPolicy::Lamport,
        };
        let mut store = OpenOptions::new()
            .clock(policy)
            .open(&self.file)
            .with_context(|| format!("cannot open {}", self.file.display()))?;
        for table in &self.tables {
            store.replicate(table).with_context(|| format!("table {table:?} cannot replicate"))?;
        }
        Ok(())
    }

    /// Finds tables that cannot replicate before the first one does.
    fn refuse_impossible(&self) -> anyhow::Result<()> {
        if self.tables.is_empty() {
            return Ok(());
        }
        let known = candidates(&self.file)?;
        for table in &self.tables {
            let found = known.iter().find(|candidate| candidate.table.eq_ignore_ascii_case(table));
            let Some(found) = found else {
                bail!("{} has no table {table:?}", self.file.display());
            };
            if let Some(reason) = &found.reason {
                bail!("table {table:?} cannot replicate: {reason}");
            }
        }
        Ok(())
    }

    fn show(&self, out: &mut dyn Write, tables: &[Candidate]) -> anyhow::Result<()> {
        writeln!(out, "{HEADING}{}{HEADING:#}", printable(&self.file.display().to_string()))?;
        if tables.is_empty() {
            writeln!(out, "no tables yet: create some with SQL, then name them to `opor init`")?;
            return Ok(());
        }
        let mut table = Table::new(&["table", ">rows", "replicates", "why not"]);
        for candidate in tables {
            let (state, style) = match candidate.state {
                State::Replicated => ("yes", GOOD),
                State::Possible => ("could", MARK),
                State::Impossible => ("cannot", BAD),
            };
            let why = Cell::styled(candidate.reason.as_deref().unwrap_or_default(), DIM);
            let rows = candidate.rows.to_string();
            table.push(vec![Cell::from(&candidate.table), rows.into(), Cell::styled(state, style), why]);
        }
        table.write(out, 0)?;
        Ok(())
    }
}

/// Every table of the application in a database, and whether it replicates. Changes nothing: what could replicate is
/// found by trying on the empty schema, in memory.
pub(crate) fn candidates(file: &Path) -> anyhow::Result<Vec<Candidate>> {
    let replicated = match database::kind(file)? {
        Kind::New => return Ok(Vec::new()),
        Kind::Plain => Vec::new(),
        Kind::Replicated => database::open(file)?.replicated_tables()?,
    };
    let db = database::read_only(file)?;
    let tables = database::user_tables(&db)?;
    tables.into_iter().map(|table| candidate(&db, &replicated, table)).collect()
}

fn candidate(db: &Connection, replicated: &[String], table: String) -> anyhow::Result<Candidate> {
    let rows = database::row_count(db, &table)?;
    let (state, reason) = if replicated.contains(&table) {
        (State::Replicated, None)
    } else {
        match rehearse(db, &table) {
            Ok(()) => (State::Possible, None),
            Err(error) => (State::Impossible, Some(format!("{error:#}"))),
        }
    };
    Ok(Candidate { table, rows, state, reason })
}

fn rehearse(db: &Connection, table: &str) -> anyhow::Result<()> {
    let mut scratch = OpenOptions::new().open_in_memory()?;
    for statement in database::statements(db, table)? {
        scratch.execute_batch(&statement)?;
    }
    scratch.replicate(table)?;
    Ok(())
}
