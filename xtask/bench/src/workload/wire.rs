//! Bytes on the wire.

use anyhow::Result;
use opor_core::{Changeset, DbVersion, EncodeOptions};

use crate::database::{self, Setting, Side};
use crate::shape::WRITTEN;

/// A changeset as it travels.
struct Encoded {
    raw_bytes: usize,
    compressed_bytes: usize,
}

/// Bytes a row of the whole log.
pub(crate) fn raw(setting: &Setting<'_>, side: Side) -> Result<f64> {
    Ok(whole_log(setting, side)?.raw_bytes as f64 / setting.rows as f64)
}

/// Bytes a row of the whole log, compressed.
pub(crate) fn compressed(setting: &Setting<'_>, side: Side) -> Result<f64> {
    Ok(whole_log(setting, side)?.compressed_bytes as f64 / setting.rows as f64)
}

/// Bytes of a changeset of one cell.
pub(crate) fn one_cell(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let rows = setting.shape.rows(1_000);
    let mut database = setting.filled(side, &rows)?;
    let before = database.store()?.db_version()?;
    database::update(&database, setting.shape, &rows[500..501], WRITTEN)?;
    let changeset = database.store()?.changes_since(before)?;
    anyhow::ensure!(changeset.len() == 1, "one update made {} changes", changeset.len());
    Ok(encoded(&changeset).raw_bytes as f64)
}

fn whole_log(setting: &Setting<'_>, side: Side) -> Result<Encoded> {
    let mut database = setting.filled(side, &setting.all_rows())?;
    Ok(encoded(&database.store()?.changes_since(DbVersion(0))?))
}

/// The one place that knows the codec.
fn encoded(changeset: &Changeset) -> Encoded {
    let compressed = changeset.to_bytes_with(&EncodeOptions::default());
    Encoded { raw_bytes: changeset.to_bytes().len(), compressed_bytes: compressed.len() }
}
