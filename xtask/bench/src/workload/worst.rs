//! Workloads that opor's storage likes least, against the same writes on an ordinary table.

use anyhow::{Context as _, Result, ensure};
use opor_core::{Changeset, Clock, RowChange, SiteId};
use rusqlite::params_from_iter;
use rusqlite::types::Value;

use crate::clock::{Stopwatch, cpu};
use crate::database::{Database, Setting, Side, in_transaction};
use crate::log::Piece;
use crate::shape::{Row, WRITTEN};
use crate::workload::{bulk, merge, read};

/// How many sites write in turn.
const SITES: usize = 64;

/// How many keys are inserted and deleted over and over.
const KEYS: usize = 1_000;

/// How many rows a poll finds.
const FOUND: usize = 1_000;

/// Which column of a row of `crsql_changes` holds the site.
const SITE_COLUMN: usize = 6;

/// Merge what 64 sites wrote, a cell each, in turn all over the table: no two neighbours have the same site.
pub(crate) fn many_sites(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let mut watch = Stopwatch::default();
    if side == Side::Plain {
        let database = setting.filled(side)?;
        for site in 0..SITES {
            let rows: Vec<Row> =
                (site..setting.rows).step_by(SITES).map(|index| setting.shape.row(index)).collect();
            watch.run(|| in_transaction(&database, || database.update(&rows, WRITTEN)))?;
        }
        return Ok(watch.seconds());
    }
    let (mut target, everything) = merge::rival(setting, side)?;
    let mut won = 0;
    for site in 0..SITES {
        let piece = of_site(&everything, site)?;
        won += watch.run(|| target.merge(&piece))?.cells_won;
    }
    ensure!(side != Side::Opor || won == setting.rows, "{won} cells won");
    Ok(watch.seconds())
}

/// Every 64th row, as if this site had written it.
fn of_site(everything: &Piece, site: usize) -> Result<Piece> {
    let id = [site as u8 + 1; 16];
    Ok(match everything {
        Piece::Rows(rows) => {
            let mut rows: Vec<Row> = rows.iter().skip(site).step_by(SITES).cloned().collect();
            for row in &mut rows {
                *row.get_mut(SITE_COLUMN).context("a change has a site")? = Value::Blob(id.to_vec());
            }
            Piece::Rows(rows)
        }
        Piece::Changes(changes) => {
            let mut own = Changeset::new();
            let number = own.site_index(SiteId::from(id));
            for header in changes.tables() {
                let table = own.table_index(&header.name);
                header.columns.iter().for_each(|column| {
                    own.column_index(table, column);
                });
            }
            let by_site = |clock: Clock| Clock { site: number, ..clock };
            for row in changes.rows().iter().skip(site).step_by(SITES) {
                let mut row: RowChange = row.clone();
                row.sentinel = row.sentinel.map(by_site);
                row.cells.iter_mut().for_each(|cell| cell.clock = by_site(cell.clock));
                own.push_row(row);
            }
            Piece::Changes(own)
        }
    })
}

/// Insert a row and delete it again, over and over on the same keys, each in a transaction of its own.
pub(crate) fn insert_and_delete(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = Database::open(setting, side)?;
    let rows = setting.shape.rows(KEYS);
    let (mut insert, mut delete) =
        (database.prepare(&database.sql.insert())?, database.prepare(&database.sql.delete_by_key())?);
    let pairs = rows.iter().cycle().take(setting.commits() / 2);
    let work = || {
        for row in pairs {
            insert.execute(params_from_iter(row))?;
            delete.execute(params_from_iter(setting.shape.key_of(row)))?;
        }
        Ok(())
    };
    Ok(cpu(work)?.0)
}

/// Poll for what one commit updated: a few rows all over a large table; against those rows by key.
pub(crate) fn scattered_poll(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let indexes = (0..FOUND).map(|number| number * (setting.rows / FOUND));
    let written: Vec<Row> = indexes.map(|index| setting.shape.row(index)).collect();
    let before = database.version()?;
    in_transaction(&database, || database.update(&written, WRITTEN))?;
    read::read_again(&database, before, &written)
}

/// Update every column of every row, by key, in one transaction.
pub(crate) fn update_whole_rows(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let database = setting.filled(side)?;
    let columns: Vec<&str> = setting.shape.others.iter().map(String::as_str).collect();
    let sql = database.sql.update_by_key(&columns);
    let keys = setting.shape.key.len();
    // The values of the row before it, so that nearly every cell changes.
    bulk::in_one(&database, setting.chunks(), |rows| {
        let values = rows.iter().cycle().skip(rows.len() - 1).take(rows.len());
        let parameters = rows.iter().zip(values).map(|(row, other)| other[keys..].iter().chain(&row[..keys]));
        database.write(&sql, parameters)
    })
}
