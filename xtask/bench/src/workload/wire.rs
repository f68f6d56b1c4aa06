//! Bytes on the wire.

use anyhow::Result;
use opor_core::{Changeset, EncodeOptions};

use crate::clock::Stopwatch;
use crate::database::{Setting, Side, in_transaction};
use crate::log::{PIECE, Piece, Reader};
use crate::shape::{WRITTEN, shuffle};

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

/// Bytes of a changeset of one cell, told as a difference from the one before it: the median of a hundred edits of rows in
/// random order.
pub(crate) fn one_cell_in_session(setting: &Setting<'_>, side: Side) -> Result<f64> {
    let setting = Setting { rows: 1_000, ..*setting };
    let database = setting.filled(side)?;
    let (mut reader, mut before) = (Reader::new(&database)?, None::<Vec<u8>>);
    let mut indexes: Vec<u32> = (0..setting.rows as u32).collect();
    shuffle(&mut indexes);
    let mut sizes = Vec::new();
    for index in indexes.into_iter().take(101) {
        let version = database.version()?;
        in_transaction(&database, || database.update(&[setting.shape.row(index as usize)], WRITTEN))?;
        let bytes = changes(&reader.since(version)?)?.to_bytes();
        let told = before.and_then(|before| opor_core::delta(&before, &bytes));
        sizes.extend(told.map(|told| told.len()));
        before = Some(bytes);
    }
    anyhow::ensure!(sizes.len() == 100, "{} of 100 edits were told as differences", sizes.len());
    sizes.sort_unstable();
    Ok(sizes[50] as f64)
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
