//! `opor status`: what a database is and how far it has synced.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use opor_core::SiteId;
use opor_store::{ClockPolicy, Incident, QuarantineReason, Store};
use serde::Serialize;

use crate::database;
use crate::style::{DIM, HEADING};
use crate::table::{Cell, Table, printable, size};

/// Show what a database is and how far it has synced.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The database.
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Facts {
    file: PathBuf,
    site_id: String,
    clock: &'static str,
    db_version: u64,
    tables: Vec<TableFacts>,
    peers: Vec<PeerFacts>,
    /// Changes that cannot be stored here yet.
    quarantine: Vec<QuarantineFacts>,
    /// Rules of tables that stand broken.
    conflicts: Vec<ConflictFacts>,
    /// What was done to the file without opor.
    incidents: Vec<IncidentFacts>,
    files: Vec<FileFacts>,
}

#[derive(Debug, Serialize)]
struct TableFacts {
    table: String,
    rows: u64,
    replicated: bool,
}

#[derive(Debug, Serialize)]
struct PeerFacts {
    site_id: String,
    /// How far this database has pulled from the peer.
    pulled: Option<String>,
    /// Up to which commit the peer has acknowledged what it was pushed.
    acknowledged: u64,
}

#[derive(Debug, Serialize)]
struct QuarantineFacts {
    table: String,
    reason: &'static str,
    changes: u64,
}

#[derive(Debug, Serialize)]
struct ConflictFacts {
    table: String,
    kind: &'static str,
    rows: u64,
}

#[derive(Debug, Serialize)]
struct IncidentFacts {
    at_ms: u64,
    table: String,
    what: String,
}

#[derive(Debug, Serialize)]
struct FileFacts {
    file: PathBuf,
    bytes: u64,
}

impl Status {
    pub(crate) fn run(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let facts = self.facts()?;
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&facts)?)?;
            return Ok(());
        }
        show(out, &facts)
    }

    fn facts(&self) -> anyhow::Result<Facts> {
        let store = database::open_replicated(&self.file)?;
        let files = database::files(&self.file).into_iter();
        Ok(Facts {
            file: self.file.clone(),
            site_id: store.site_id().to_string(),
            clock: match store.clock_policy() {
                ClockPolicy::Hlc => "hlc",
                ClockPolicy::Lamport => "lamport",
            },
            db_version: store.db_version()?.0,
            tables: tables(&store)?,
            peers: peers(&store)?,
            quarantine: quarantine(&store)?,
            conflicts: conflicts(&store)?,
            incidents: store.incidents()?.into_iter().map(IncidentFacts::from).collect(),
            files: files.map(|(file, bytes)| FileFacts { file, bytes }).collect(),
        })
    }
}

impl From<Incident> for IncidentFacts {
    fn from(incident: Incident) -> Self {
        Self { at_ms: incident.at.0, table: incident.table, what: incident.what }
    }
}

fn tables(store: &Store) -> anyhow::Result<Vec<TableFacts>> {
    let replicated = store.replicated_tables()?;
    let facts = |table: String| {
        let rows = database::row_count(store, &table)?;
        Ok(TableFacts { rows, replicated: replicated.contains(&table), table })
    };
    database::user_tables(store)?.into_iter().map(facts).collect()
}

fn peers(store: &Store) -> anyhow::Result<Vec<PeerFacts>> {
    let facts = |site: SiteId| {
        Ok(PeerFacts {
            site_id: site.to_string(),
            pulled: store.peer_cursor(site)?.map(|cursor| cursor.to_string()),
            acknowledged: store.acknowledged_by(site)?.0,
        })
    };
    store.peers()?.into_iter().map(facts).collect()
}

fn quarantine(store: &Store) -> anyhow::Result<Vec<QuarantineFacts>> {
    let facts = |(table, reason, changes)| QuarantineFacts { table, reason: why(reason), changes };
    Ok(store.quarantine()?.tables.into_iter().map(facts).collect())
}

const fn why(reason: QuarantineReason) -> &'static str {
    match reason {
        QuarantineReason::UnknownTable => "the table does not replicate here",
        QuarantineReason::UnknownColumn => "the table has no such column",
        QuarantineReason::KeyShape => "the key does not fit the table",
        QuarantineReason::Refused => "the table refuses the row",
        _ => "another reason",
    }
}

/// How many there are, by table and kind.
fn conflicts(store: &Store) -> anyhow::Result<Vec<ConflictFacts>> {
    let mut counts = BTreeMap::<(String, &'static str), u64>::new();
    for conflict in store.conflicts()? {
        *counts.entry((conflict.table.to_string(), conflict.kind.name())).or_default() += 1;
    }
    Ok(counts.into_iter().map(|((table, kind), rows)| ConflictFacts { table, kind, rows }).collect())
}

fn show(out: &mut dyn Write, facts: &Facts) -> anyhow::Result<()> {
    writeln!(out, "{HEADING}{}{HEADING:#}", printable(&facts.file.display().to_string()))?;
    writeln!(out, "  site     {}", facts.site_id)?;
    let clock = match facts.clock {
        "hlc" => "hybrid (a version is a time)",
        _ => "lamport (a version is a count, as in cr-sqlite)",
    };
    writeln!(out, "  clock    {clock}")?;
    writeln!(out, "  commits  {}", facts.db_version)?;
    for file in &facts.files {
        let name = file.file.file_name().unwrap_or_default().to_string_lossy();
        writeln!(out, "  file     {} {DIM}{}{DIM:#}", size(file.bytes), printable(&name))?;
    }
    writeln!(out)?;
    let mut table = Table::new(&["table", ">rows", "replicated"]);
    for facts in &facts.tables {
        let replicated = if facts.replicated { Cell::from("yes") } else { Cell::styled("no", DIM) };
        table.push(vec![Cell::from(&facts.table), facts.rows.to_string().into(), replicated]);
    }
    table.write(out, 2)?;
    writeln!(out)?;
    for QuarantineFacts { table, reason, changes } in &facts.quarantine {
        writeln!(out, "  waiting  {changes} changes of {}: {reason}", printable(table))?;
    }
    for ConflictFacts { table, kind, rows } in &facts.conflicts {
        writeln!(out, "  conflict {}: {kind}, {rows} times {DIM}(opor_conflicts){DIM:#}", printable(table))?;
    }
    for incident in &facts.incidents {
        writeln!(out, "  noticed  {}: {}", printable(&incident.table), printable(&incident.what))?;
    }
    if facts.peers.is_empty() {
        writeln!(out, "  {DIM}no peer has been synced with yet{DIM:#}")?;
        return Ok(());
    }
    let mut table = Table::new(&["peer", "pulled to", ">acknowledged"]);
    for peer in &facts.peers {
        let pulled = peer.pulled.as_deref().unwrap_or("never");
        table.push(vec![Cell::from(&peer.site_id), pulled.into(), peer.acknowledged.to_string().into()]);
    }
    table.write(out, 2)?;
    Ok(())
}
