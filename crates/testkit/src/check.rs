//! What must hold: after every commit, and at the end.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use opor_core::{Change, Cid, DbVersion};
use opor_store::Store;
use opor_store::rusqlite::types::ValueRef;

use crate::failure::{Failure, Invariant};
use crate::ledger::{self, Entry};
use crate::node::Held;
use crate::world::World;

/// After the last fault: sessions notice what was lost, and stamps from the future come into reach.
const MEND_MS: u64 = 60_000;
const MEND_SKEW_MS: u64 = 240_000;
/// No session may end in this time, which is longer than any of them waits for anything.
const CALM_MS: u64 = 30_000;

impl World<'_> {
    /// Looks at what a commit has brought, as a reader sees it.
    pub(crate) fn check_commit(&mut self, node: usize, version: DbVersion) -> Result<(), Failure> {
        let of = &mut self.nodes[node];
        let entries = ledger::new_entries(&of.keeper, &mut of.seen).expect("the ledger reads");
        for entry in entries {
            self.nodes[node].held.push(Held { version: version.0, entry });
            if !self.committed.contains_key(&entry.tx) {
                let detail = format!("replica {node} has transaction {}", entry.tx);
                return Err(self.failure(Invariant::NothingInvented, detail));
            }
            if self.plan.is_whole() && entry.count != entry.parts {
                let Entry { tx, count, parts } = entry;
                let detail = format!("replica {node} has {count} of {parts} rows of transaction {tx}");
                return Err(self.failure(Invariant::WholeTransactions, detail));
            }
        }
        self.check_schema(node)
    }

    /// Asks what must never be found. A replica that writes when it has half of a transaction may break it for good, so this
    /// is asked only where transactions arrive whole.
    fn check_schema(&self, node: usize) -> Result<(), Failure> {
        if !self.plan.is_whole() {
            return Ok(());
        }
        for sql in &self.schema.always {
            let found = self.nodes[node].keeper.prepare(sql).and_then(|mut query| query.exists([]));
            if found.expect("a query of the schema runs") {
                return Err(self.failure(Invariant::Schema, format!("replica {node}: {sql}")));
            }
        }
        Ok(())
    }

    /// A replica must hold a transaction, at least as far as it is known.
    pub(crate) fn check_holds(&self, node: usize, entry: Entry, why: &str) -> Result<(), Failure> {
        let count = ledger::count(&self.nodes[node].keeper, entry.tx).expect("the ledger reads");
        if count >= entry.count {
            return Ok(());
        }
        let Entry { tx, count: known, .. } = entry;
        let detail = format!("replica {node} {why} {known} rows of transaction {tx}, and holds {count}");
        Err(self.failure(Invariant::NothingLost, detail))
    }

    /// The beginning: everybody meets everybody that it is linked with by then, so that all are known.
    pub(crate) fn begin(&mut self) -> Result<(), Failure> {
        (0..self.links.len()).try_for_each(|link| self.connect(link))?;
        self.run_for(3_000)?;
        self.check_connected()
    }

    /// The end: no more faults; replicas come to rest, and agree.
    pub(crate) fn finish(&mut self) -> Result<(), Failure> {
        for node in 0..self.nodes.len() {
            let of = &mut self.nodes[node];
            of.crash_in = None;
            of.hung_until = self.now;
            of.skew.store(0, Ordering::Relaxed);
            self.restart(node);
        }
        for link in 0..self.links.len() {
            self.links[link].mishap = [None; 2];
            self.heal(link);
        }
        self.run_for(if self.skewed { MEND_SKEW_MS } else { MEND_MS })?;
        self.run_quiet()?;
        let ended = self.ended;
        self.run_for(CALM_MS)?;
        self.run_quiet()?;
        if self.ended != ended {
            let detail = format!("{} sessions ended long after the last fault", self.ended - ended);
            return Err(self.failure(Invariant::ComesToRest, detail));
        }
        self.check_connected()?;
        self.check_complete()?;
        self.check_equal()?;
        self.check_newest()
    }

    fn check_connected(&self) -> Result<(), Failure> {
        for (number, link) in self.links.iter().enumerate().filter(|(_, link)| !link.is_cut) {
            let conn = link.conn.and_then(|id| self.conns.get(&id));
            let is_open = |side: usize| {
                conn.and_then(|conn| conn.sides[side].as_ref()).is_some_and(|side| side.session.is_open())
            };
            if !is_open(0) || !is_open(1) {
                return Err(self.failure(Invariant::ComesToRest, format!("link {number} is down")));
            }
        }
        Ok(())
    }

    /// Every transaction that was committed is everywhere, and nothing else is.
    fn check_complete(&self) -> Result<(), Failure> {
        for (node, of) in self.nodes.iter().enumerate() {
            for (&tx, &parts) in &self.committed {
                self.check_holds(node, Entry { tx, count: parts, parts }, "should in the end have")?;
            }
            let mut from = i64::MIN;
            let entries = ledger::new_entries(&of.keeper, &mut from).expect("the ledger reads");
            if let Some(entry) = entries.iter().find(|entry| !self.committed.contains_key(&entry.tx)) {
                let detail = format!("replica {node} has transaction {}", entry.tx);
                return Err(self.failure(Invariant::NothingInvented, detail));
            }
            self.check_schema(node)?;
        }
        Ok(())
    }

    fn check_equal(&self) -> Result<(), Failure> {
        let first = self.content(&self.nodes[0].keeper);
        for node in 1..self.nodes.len() {
            let other = self.content(&self.nodes[node].keeper);
            if other != first {
                let lines = |of: &[String], not: &[String], sign: &str| {
                    let only = of.iter().filter(|line| !not.contains(line)).take(6);
                    only.map(|line| format!("\n  {sign} {line}")).collect::<String>()
                };
                let detail = format!(
                    "replicas 0 (-) and {node} (+) differ{}{}",
                    lines(&first, &other, "-"),
                    lines(&other, &first, "+")
                );
                return Err(self.failure(Invariant::Convergence, detail));
            }
        }
        Ok(())
    }

    /// Tables and log, as far as replicas must agree.
    ///
    /// Versions are of each replica alone. A sentinel of causal length 1 next to columns says nothing: peers do not store
    /// it. Who wrote a sentinel first is local knowledge too. Who has compacted has fewer tombstones.
    fn content(&self, store: &Store) -> Vec<String> {
        let tables = self.schema.tables.iter().map(String::as_str).chain([ledger::TABLE]);
        let mut lines: Vec<_> = tables.flat_map(|table| rows(store, table)).collect();
        let log = store.changes_since(DbVersion(0)).expect("the log reads");
        let says_something = |change: &Change| match change.cid {
            Cid::Sentinel => change.cl.0 > 1 && !(self.compacted && change.cl.is_deleted()),
            Cid::Column(_) => true,
        };
        lines.extend(log.changes().filter(says_something).map(|change| {
            let site = matches!(change.cid, Cid::Column(_)).then_some(change.site_id);
            let Change { table, pk, cid, val, col_version, cl, .. } = change;
            format!("log {table} ({pk}) {} {val:?} v{col_version} cl{cl} {site:?}", cid.as_str())
        }));
        lines.sort_unstable();
        lines
    }

    /// No cell is older than the newest write to it.
    fn check_newest(&self) -> Result<(), Failure> {
        let log = self.nodes[0].keeper.changes_since(DbVersion(0)).expect("the log reads");
        let mut lengths = BTreeMap::<_, u64>::new();
        let mut cells = BTreeMap::new();
        for change in log.changes() {
            let row = (change.table.to_string(), change.pk.as_bytes().to_vec());
            let length = lengths.entry(row.clone()).or_default();
            *length = change.cl.0.max(*length);
            cells.insert((row.0, row.1, change.cid.as_str().to_owned()), change.col_version.0);
        }
        let mut newest_lengths = BTreeMap::<_, u64>::new();
        for ((table, pk, _), &(cl, _)) in &self.newest {
            let length = newest_lengths.entry((table, pk)).or_default();
            *length = cl.max(*length);
        }
        for ((table, pk, cid), &(cl, col_version)) in &self.newest {
            let newest = newest_lengths[&(table, pk)];
            let now = lengths.get(&(table.clone(), pk.clone())).copied().unwrap_or_default();
            // Where unacknowledged deletes were forgotten, a row may begin anew; only rows that were never deleted tell.
            if self.forgot && (newest > 1 || now != 1) {
                continue;
            }
            let is_forgotten = now == 0 && newest.is_multiple_of(2) && self.compacted;
            let cell = cells.get(&(table.clone(), pk.clone(), cid.clone())).copied();
            let is_older = match cid == Cid::SENTINEL {
                true => now < cl,
                false => now < cl || (now == cl && cell.is_none_or(|cell| cell < col_version)),
            };
            if is_older && !is_forgotten {
                let detail = format!(
                    "{cid} of a row of {table} was written as version {col_version} in life {cl}, and is \
                     {cell:?} in life {now}"
                );
                return Err(self.failure(Invariant::NothingLost, detail));
            }
        }
        Ok(())
    }
}

fn rows(store: &Store, table: &str) -> Vec<String> {
    let quoted = table.replace('"', "\"\"");
    let mut select = store.prepare(&format!("SELECT * FROM \"{quoted}\"")).expect("the table is there");
    let width = select.column_count();
    let line = |row: &opor_store::rusqlite::Row<'_>| {
        let values = (0..width).map(|at| row.get_ref(at).map(shown)).collect::<Result<Vec<_>, _>>()?;
        Ok(format!("{table}: {}", values.join(", ")))
    };
    let rows = select.query_map([], line).expect("the table reads");
    rows.collect::<Result<_, _>>().expect("the table reads")
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Real(real) => format!("{real:?} ({:016x})", real.to_bits()),
        ValueRef::Text(text) => format!("'{}'", text.escape_ascii()),
        ValueRef::Blob(blob) => format!("x'{}'", blob.escape_ascii()),
        other => format!("{other:?}"),
    }
}
