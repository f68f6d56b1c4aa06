//! Rows of `crsql_changes` as SQL shows them: every number a signed integer, nothing checked.

use opor_core::{Change, Cid, Value};
use rusqlite::{Connection, Row, params};

use crate::sql::{sql_value, value_of};

/// One row of `crsql_changes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRow {
    /// The table.
    pub table: String,
    /// The packed key.
    pub pk: Vec<u8>,
    /// The column, or `-1`.
    pub cid: String,
    /// The value.
    pub val: Value,
    /// The version of the cell.
    pub col_version: i64,
    /// The commit.
    pub db_version: i64,
    /// Who wrote it; `None` for NULL.
    pub site_id: Option<Vec<u8>>,
    /// The causal length.
    pub cl: i64,
    /// The place within the commit.
    pub seq: i64,
}

const COLUMNS: &str = r#""table", pk, cid, val, col_version, db_version, site_id, cl, seq"#;

/// The rows of `crsql_changes` that satisfy `condition`, in the table's own order.
///
/// # Errors
/// Whatever SQLite says.
pub fn changes_since(conn: &Connection, condition: &str) -> rusqlite::Result<Vec<ChangeRow>> {
    let mut statement = conn.prepare(&format!("SELECT {COLUMNS} FROM crsql_changes WHERE {condition}"))?;
    let rows = statement.query_map([], ChangeRow::read)?;
    rows.collect()
}

/// Merges one change the way a cr-sqlite peer does: by inserting it into `crsql_changes`.
///
/// # Errors
/// Whatever the engine says.
pub fn apply_row(conn: &Connection, row: &ChangeRow) -> rusqlite::Result<()> {
    let sql = format!("INSERT INTO crsql_changes ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)");
    let mut statement = conn.prepare(&sql)?;
    statement.execute(params![
        row.table,
        row.pk,
        row.cid,
        sql_value(&row.val),
        row.col_version,
        row.db_version,
        row.site_id,
        row.cl,
        row.seq
    ])?;
    Ok(())
}

impl ChangeRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            table: row.get(0)?,
            pk: row.get(1)?,
            cid: row.get(2)?,
            val: value_of(row.get_ref(3)?),
            col_version: row.get(4)?,
            db_version: row.get(5)?,
            site_id: row.get(6)?,
            cl: row.get(7)?,
            seq: row.get(8)?,
        })
    }

    /// Whether the row is about the row of the table itself.
    #[must_use]
    pub fn is_sentinel(&self) -> bool {
        self.cid == Cid::SENTINEL
    }

    /// What change logs are listed by.
    #[must_use]
    pub fn log_order(&self) -> (i64, i64, String, Vec<u8>, String) {
        (self.db_version, self.seq, self.table.clone(), self.pk.clone(), self.cid.clone())
    }
}

impl From<&Change> for ChangeRow {
    fn from(change: &Change) -> Self {
        Self {
            table: change.table.to_string(),
            pk: change.pk.as_bytes().to_vec(),
            cid: change.cid.as_str().to_owned(),
            val: change.val.clone(),
            col_version: change.col_version.to_sql(),
            db_version: change.db_version.to_sql(),
            site_id: Some(change.site_id.as_bytes().to_vec()),
            cl: change.cl.to_sql(),
            seq: change.seq.cast_signed(),
        }
    }
}
