//! `cargo xtask bench live-scope`: what a commit costs while a query with a large result is open, asked about the rows that changed
//! and run as a whole.

use anyhow::{Context as _, Result, ensure};
use futures::executor::block_on;
use opor_live::Live;
use opor_store::{OpenOptions, StoreHandle};
use serde::Deserialize;

use crate::clock::cpu;

/// Rows in the results.
const ROWS: usize = 100_000;
/// Rows that a commit changes, and how many such commits are measured together.
const COMMITS: [(usize, usize); 3] = [(1, 100), (1_000, 20), (4_000, 10)];

/// The queries. With a LIMIT that does not limit each is run as a whole.
const QUERIES: [(&str, &str); 3] = [
    ("a table", "SELECT id, title, owner FROM items"),
    ("a table, sorted by a text", "SELECT id, title, owner FROM items ORDER BY title, id"),
    ("a join", "SELECT items.id, title, name FROM items JOIN owners ON owners.id = owner"),
];

/// Rows of any query.
#[derive(Debug, Deserialize)]
struct Any {}

/// Prints the figures.
pub(crate) fn print() -> Result<()> {
    println!("{ROWS} rows in the result; CPU of one commit, writer and live queries together, in ms");
    for (rows, commits) in COMMITS {
        println!("{rows} rows changed, no live query: {:.3}", per_commit(None, rows, commits)?);
        for (name, sql) in QUERIES {
            let scoped = per_commit(Some((sql, true)), rows, commits)?;
            let run = per_commit(Some((&format!("{sql} LIMIT -1"), false)), rows, commits)?;
            println!("{rows} rows changed, {name}: asked about {scoped:.3}, run as a whole {run:.3}");
        }
    }
    Ok(())
}

/// CPU milliseconds of a commit while a query is open, which is asked about rows or is not.
fn per_commit(query: Option<(&str, bool)>, rows: usize, commits: usize) -> Result<f64> {
    let folder = tempfile::tempdir().context("could not make a folder")?;
    let handle = StoreHandle::open(folder.path().join("live.db"), &OpenOptions::new(), 1)?;
    write(&handle, &schema())?;
    let live = Live::start(&handle)?;
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
    let expected = if query.is_some_and(|(_, scoped)| scoped) { commits as u64 } else { 0 };
    let scoped = live.stats().scoped_runs;
    ensure!(scoped == expected, "{scoped} of {commits} commits were asked about, and not {expected}");
    drop((open, live));
    handle.close();
    Ok(seconds / commits as f64 * 1e3)
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
