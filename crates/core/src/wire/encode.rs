//! Changeset to bytes.

use std::collections::BTreeMap;

use super::column::ColumnWriter;
use super::{EncodeOptions, frame, varint};
use crate::{Changeset, Clock, RowChange};

/// A part of a clock is not as predicted. See the module documentation for the prediction.
pub(super) const COL_VERSION: u8 = 1;
pub(super) const DB_VERSION: u8 = 2;
pub(super) const SEQ: u8 = 4;
pub(super) const SITE: u8 = 8;

impl Changeset {
    /// The binary form, not compressed.
    ///
    /// ```
    /// use opor_core::{Changeset, DecodeLimits};
    ///
    /// let bytes = Changeset::new().to_bytes();
    /// assert_eq!(Changeset::from_bytes(&bytes, &DecodeLimits::default()), Ok(Changeset::new()));
    /// ```
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_with(&EncodeOptions::RAW)
    }

    /// The binary form, compressed when it is long; [`from_bytes`](Self::from_bytes) reads both.
    ///
    /// ```
    /// use opor_core::{Changeset, EncodeOptions};
    ///
    /// let bytes = Changeset::new().to_bytes_with(&EncodeOptions::default());
    /// assert_eq!(bytes, Changeset::new().to_bytes(), "too short to compress");
    /// ```
    ///
    /// # Panics
    /// When a level of zstd is asked for that does not exist.
    #[must_use]
    pub fn to_bytes_with(&self, options: &EncodeOptions) -> Vec<u8> {
        let mut encoder = Encoder::new(self);
        self.rows().iter().for_each(|row| encoder.row(row));
        frame::seal(encoder.finish(), options)
    }
}

/// The clock that the next change is compared with, without its site.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Predicted {
    pub(super) col_version: u64,
    pub(super) db_version: u64,
    pub(super) seq: u64,
    pub(super) site: u32,
}

#[derive(Debug, Default)]
struct TableWriter<'a> {
    keys: Vec<ColumnWriter<'a>>,
    columns: Vec<ColumnWriter<'a>>,
}

/// The shape of the last rows, not yet written because the next row may have it too.
#[derive(Debug, Default)]
struct Run {
    shape: u64,
    definition: Vec<u8>,
    new: bool,
    rows: u64,
}

#[derive(Debug)]
struct Encoder<'a> {
    changeset: &'a Changeset,
    tables: Vec<TableWriter<'a>>,
    shapes: BTreeMap<Vec<u8>, u64>,
    run: Run,
    scratch: Vec<u8>,
    rows: Vec<u8>,
    col_versions: Vec<u8>,
    db_versions: Vec<u8>,
    seqs: Vec<u8>,
    sites: Vec<u8>,
    next: Predicted,
}

impl<'a> Encoder<'a> {
    fn new(changeset: &'a Changeset) -> Self {
        let tables = changeset.tables().iter().map(|table| TableWriter {
            keys: Vec::new(),
            columns: table.columns.iter().map(|_| ColumnWriter::default()).collect(),
        });
        Self {
            changeset,
            tables: tables.collect(),
            shapes: BTreeMap::new(),
            run: Run::default(),
            scratch: Vec::new(),
            rows: Vec::new(),
            col_versions: Vec::new(),
            db_versions: Vec::new(),
            seqs: Vec::new(),
            sites: Vec::new(),
            next: Predicted::default(),
        }
    }

    fn row(&mut self, row: &'a RowChange) {
        if row.cells.is_empty() && row.sentinel.is_none() {
            return;
        }
        self.shape(row);
        let table = &mut self.tables[row.table as usize];
        if table.keys.len() < row.key.column_count() {
            table.keys.resize_with(row.key.column_count(), ColumnWriter::default);
        }
        table.keys.iter_mut().zip(row.key.columns()).for_each(|(column, value)| column.write(value));
        for cell in &row.cells {
            table.columns[cell.column as usize].write(cell.value.as_ref());
        }
    }

    /// Notes the shape of a row and the parts of its clocks that nobody could predict.
    fn shape(&mut self, row: &RowChange) {
        let mut shape = std::mem::take(&mut self.scratch);
        shape.clear();
        varint::write(row.table.into(), &mut shape);
        varint::write(row.key.column_count() as u64, &mut shape);
        varint::write(row.cl.0, &mut shape);
        varint::write((row.cells.len() as u64) << 1 | u64::from(row.sentinel.is_some()), &mut shape);
        if let Some(clock) = &row.sentinel {
            shape.push(self.clock(clock, row.cl.0));
        }
        for cell in &row.cells {
            let flags = self.clock(&cell.clock, self.next.col_version);
            self.next.col_version = cell.clock.col_version.0;
            varint::write(u64::from(cell.column) << 4 | u64::from(flags), &mut shape);
        }
        if self.run.rows == 0 || self.run.definition != shape {
            self.flush_run();
            self.start_run(&shape);
        }
        self.run.rows += 1;
        self.scratch = shape;
    }

    /// Writes what is not as predicted and says which parts those are.
    fn clock(&mut self, clock: &Clock, col_version: u64) -> u8 {
        let mut flags = 0;
        if clock.col_version.0 != col_version {
            flags |= COL_VERSION;
            varint::write(varint::distance(col_version, clock.col_version.0), &mut self.col_versions);
        }
        if clock.db_version.0 != self.next.db_version {
            flags |= DB_VERSION;
            varint::write(varint::distance(self.next.db_version, clock.db_version.0), &mut self.db_versions);
        }
        if clock.seq != self.next.seq {
            flags |= SEQ;
            varint::write(varint::distance(self.next.seq, clock.seq), &mut self.seqs);
        }
        if clock.site != self.next.site {
            flags |= SITE;
            varint::write(clock.site.into(), &mut self.sites);
        }
        self.next.db_version = clock.db_version.0;
        self.next.seq = clock.seq.wrapping_add(1);
        self.next.site = clock.site;
        flags
    }

    fn start_run(&mut self, shape: &[u8]) {
        let known = self.shapes.get(shape).copied();
        let number = known.unwrap_or_else(|| {
            let number = self.shapes.len() as u64;
            self.shapes.insert(shape.to_vec(), number);
            number
        });
        self.run = Run { shape: number, definition: shape.to_vec(), new: known.is_none(), rows: 0 };
    }

    fn flush_run(&mut self) {
        let run = &self.run;
        if run.rows == 0 {
            return;
        }
        varint::write(run.shape << 1 | u64::from(run.rows > 1), &mut self.rows);
        if run.new {
            self.rows.extend_from_slice(&run.definition);
        }
        if run.rows > 1 {
            varint::write(run.rows - 2, &mut self.rows);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.flush_run();
        let columns = self.tables.iter().flat_map(|table| table.keys.iter().chain(&table.columns));
        let columns_len: usize = columns.map(|column| column.len() + 10).sum();
        let clocks =
            [&self.rows, &self.col_versions, &self.db_versions, &self.seqs, &self.sites].map(|v| &v[..]);
        let clocks_len: usize = clocks.iter().map(|stream| stream.len()).sum();
        let mut out = frame::begin(columns_len + clocks_len + 256);
        self.dictionaries(&mut out);
        clocks.iter().for_each(|stream| varint::write_bytes(stream, &mut out));
        for table in &self.tables {
            table.keys.iter().chain(&table.columns).for_each(|column| column.finish(&mut out));
        }
        out
    }

    fn dictionaries(&self, out: &mut Vec<u8>) {
        varint::write(self.changeset.sites().len() as u64, out);
        self.changeset.sites().iter().for_each(|site| varint::write_bytes(site.as_bytes(), out));
        varint::write(self.tables.len() as u64, out);
        for (table, header) in self.tables.iter().zip(self.changeset.tables()) {
            varint::write_bytes(header.name.as_bytes(), out);
            varint::write(table.keys.len() as u64, out);
            varint::write(header.columns.len() as u64, out);
            header.columns.iter().for_each(|name| varint::write_bytes(name.as_bytes(), out));
        }
    }
}
