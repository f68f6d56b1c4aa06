//! Bytes on the wire.

use anyhow::Result;
use opor_core::{Changeset, EncodeOptions};

use crate::clock::Stopwatch;
use crate::database::{Setting, Side, in_transaction};
use crate::log::{PIECE, Piece, Reader};
use crate::shape::WRITTEN;

/// Bytes a row of the whole log.
pub(crate) fn raw(setting: &Setting<'_>, side: Side) -> Result<f64> {
    whole_log(setting, side, &EncodeOptions::RAW)
}

/// Bytes a row of the whole log, compressed.
pub(crate) fn compressed(setting: &Setting<'_>, side: Side) -> Result<f64> {
    whole_log(setting, side, &EncodeOptions::default())
}

/// Bytes of a changeset of one cell.
pub(crate) fn one_cell(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let setting = Setting { rows: 1_000, ..*setting };
    let database = setting.filled(side)?;
    let before = database.version()?;
    in_transaction(&database, || database.update(&[setting.shape.row(500)], WRITTEN))?;
    let piece = Reader::new(&database)?.since(before)?;
    let changeset = changes(&piece)?;
    anyhow::ensure!(changeset.len() == 1, "one update made {} changes", changeset.len());
    Ok(changeset.to_bytes().len() as f64)
}

fn whole_log(setting: &Setting<'_>, side: Side, options: &EncodeOptions) -> Result<f64> {
    let database = setting.filled(side)?;
    let mut bytes = 0;
    Reader::new(&database)?.pieces(PIECE, &mut Stopwatch::stopped(), |piece| {
        bytes += changes(&piece)?.to_bytes_with(options).len();
        Ok(())
    })?;
    Ok(bytes as f64 / setting.rows as f64)
}

fn changes(piece: &Piece) -> Result<&Changeset> {
    match piece {
        Piece::Changes(changeset) => Ok(changeset),
        Piece::Rows(_) => anyhow::bail!("only opor has a wire"),
    }
}
