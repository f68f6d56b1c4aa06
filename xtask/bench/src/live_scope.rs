//! `cargo xtask bench live-scope`: what a commit of one row costs while a query with a large result is open, asked about the row
//! and run as a whole.

use anyhow::{Context as _, Result, ensure};
use futures::executor::block_on;
use opor_live::Live;
use opor_store::{OpenOptions, StoreHandle};
use serde::Deserialize;

use crate::clock::cpu;

/// Rows in the results.
const ROWS: usize = 100_000;
/// Commits that are measured together.
const COMMITS: usize = 100;

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
    let nothing = per_commit(None)?;
    println!("{ROWS} rows, CPU of one commit of one row, writer and live queries together");
    println!("no live query: {:.3} ms", nothing * 1e3);
    for (name, sql) in QUERIES {
        let scoped = per_commit(Some((sql, true)))?;
        let run = per_commit(Some((&format!("{sql} LIMIT -1"), false)))?;
        println!("{name}: asked about the row {:.3} ms, run as a whole {:.3} ms", scoped * 1e3, run * 1e3);
    }
    Ok(())
}

/// CPU seconds of a commit while a query is open, which is asked about rows or is not.
fn per_commit(query: Option<(&str, bool)>) -> Result<f64> {
    let folder = tempfile::tempdir().context("could not make a folder")?;
    let handle = StoreHandle::open(folder.path().join("live.db"), &OpenOptions::new(), 1)?;
    write(&handle, &schema())?;
    let live = Live::start(&handle)?;
    let open = query.map(|(sql, _)| block_on(live.query::<Any>(sql).subscribe())).transpose()?;
    let commits = || -> Result<()> {
        for commit in 0..COMMITS {
            let id = 1 + commit * 7_919 % ROWS;
            write(&handle, &format!("UPDATE items SET title = 'other {commit}' WHERE id = {id}"))?;
            block_on(live.settled())?;
        }
        Ok(())
    };
    let (seconds, ()) = cpu(commits)?;
    let expected = if query.is_some_and(|(_, scoped)| scoped) { COMMITS as u64 } else { 0 };
    ensure!(live.stats().scoped_runs == expected, "it is not kept in the way that is measured");
    drop((open, live));
    handle.close();
    Ok(seconds / COMMITS as f64)
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
