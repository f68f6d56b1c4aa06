//! `cargo xtask bench live-scope`: what a commit costs while a query with a large result is open, asked about the rows that changed
//! and run as a whole.

use anyhow::{Context as _, Result, ensure};
use futures::executor::block_on;
use opor_live::{Live, LiveOptions, ScopedRuns};
use opor_store::{OpenOptions, StoreHandle};
use serde::Deserialize;

use crate::clock::cpu;

/// Rows in the results.
const ROWS: usize = 100_000;
/// Rows that a commit changes, and how many such commits are measured together.
const COMMITS: [(usize, usize); 3] = [(1, 100), (1_000, 20), (4_000, 10)];

/// The queries, each of all rows.
const QUERIES: [(&str, &str); 8] = [
    ("a table", "SELECT id, title, owner FROM items"),
    ("a table, sorted by a text", "SELECT id, title, owner FROM items ORDER BY title, id"),
    ("a join", "SELECT items.id, title, name FROM items JOIN owners ON owners.id = owner"),
    ("the first hundred by a text", "SELECT id, title FROM items ORDER BY title, id LIMIT 100"),
    ("groups", "SELECT owner, count(*), max(title) FROM items GROUP BY owner"),
    ("distinct", "SELECT DISTINCT owner, length(title) FROM items"),
    ("a left join", "SELECT items.id, title, name FROM items LEFT JOIN owners ON owners.id = owner"),
    ("a subquery", "SELECT id, title FROM items WHERE EXISTS (SELECT 1 FROM owners WHERE owners.id = owner)"),
];

/// Rows of any query.
#[derive(Debug, Deserialize)]
struct Any {}

/// Prints the figures.
pub(crate) fn print() -> Result<()> {
    println!("{ROWS} rows in the result; CPU of one commit, writer and live queries together, in ms");
    for (rows, commits) in COMMITS {
        println!("{rows} rows changed, no live query: {:.3}", per_commit(None, rows, commits)?.0);
        for (name, sql) in QUERIES {
            let (scoped, asked) = per_commit(Some((sql, ScopedRuns::WhenCheaper)), rows, commits)?;
            let (run, _) = per_commit(Some((sql, ScopedRuns::Never)), rows, commits)?;
            let share = format!("{asked} of {commits} commits asked about");
            println!("{rows} rows changed, {name}: {scoped:.3} ({share}), run as a whole {run:.3}");
        }
    }
    Ok(())
}

/// CPU milliseconds of a commit while a query is open, and how many commits it was asked about.
fn per_commit(query: Option<(&str, ScopedRuns)>, rows: usize, commits: usize) -> Result<(f64, u64)> {
    let folder = tempfile::tempdir().context("could not make a folder")?;
    let handle = StoreHandle::open(folder.path().join("live.db"), &OpenOptions::new(), 1)?;
    write(&handle, &schema())?;
    let scoped_runs = query.map_or(ScopedRuns::Never, |(_, scoped_runs)| scoped_runs);
    let live = Live::start_with(&handle, LiveOptions { scoped_runs, ..LiveOptions::default() })?;
    let open = query.map(|(sql, _)| block_on(live.query::<Any>(sql).subscribe())).transpose()?;
    let work = || -> Result<()> {
        for commit in 0..commits {
            let first = 1 + commit * 7_919 % (ROWS - rows);
            let last = first + rows - 1;
            let set =
                format!("UPDATE items SET title = 'other {commit}' WHERE id BETWEEN {first} AND {last}");
            write(&handle, &set)?;
            block_on(live.settled())?;
        }
        Ok(())
    };
    let (seconds, ()) = cpu(work)?;
    let asked = live.stats().scoped_runs;
    // What is dearer to ask about is run; one row of so many never is.
    let expected = scoped_runs == ScopedRuns::WhenCheaper && rows == 1 && query.is_some();
    ensure!(!expected || asked > 0, "no commit was asked about");
    drop((open, live));
    handle.close();
    Ok((seconds / commits as f64 * 1e3, asked))
}

fn schema() -> String {
    format!(
        "CREATE TABLE owners(id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE items(id INTEGER PRIMARY KEY, title TEXT, owner INTEGER);
        CREATE INDEX items_owner ON items(owner);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
        INSERT INTO items SELECT i, 'item ' || (i * 7919 % {ROWS}), i % 1000 FROM n;
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
        INSERT INTO owners SELECT i, 'owner ' || i FROM n;"
    )
}

fn write(handle: &StoreHandle, sql: &str) -> Result<()> {
    let sql = sql.to_owned();
    Ok(block_on(handle.write(move |store| store.execute_batch(&sql)))??)
}
