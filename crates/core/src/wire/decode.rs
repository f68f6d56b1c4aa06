//! Bytes to changeset: every length, count and index is checked before it is used.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::column::ColumnReader;
use super::encode::{COL_VERSION, DB_VERSION, Predicted, SEQ, SITE};
use super::varint::{self, Reader};
use super::{DecodeError, DecodeLimits, frame};
use crate::{
    CausalLength, Cell, Changeset, Clock, KeyError, PackedKey, RowChange, SiteId, TableHeader, Value,
};

/// The most columns of a packed key, which counts them in a byte.
const KEY_COLUMNS_MAX: u64 = 255;

impl Changeset {
    /// Reads the binary form, compressed or not.
    ///
    /// It says nothing about whether the changes are sensible: see [`validate`](Self::validate).
    ///
    /// ```
    /// use opor_core::{Changeset, DecodeError, DecodeLimits};
    ///
    /// let limits = DecodeLimits::default();
    /// assert_eq!(Changeset::from_bytes(b"PK\x03\x04", &limits), Err(DecodeError::NotAChangeset));
    /// ```
    ///
    /// # Errors
    /// [`DecodeError`] for anything that no encoder writes, damage in transit included.
    pub fn from_bytes(bytes: &[u8], limits: &DecodeLimits) -> Result<Self, DecodeError> {
        let body = frame::open(bytes, limits)?;
        let mut reader = Reader::new(&body);
        let decoder = Decoder::new(&mut reader, Budget::new(limits))?;
        reader.check_end()?;
        decoder.finish()
    }
}

/// Memory that may still be taken.
#[derive(Debug)]
struct Budget {
    left: usize,
    max: usize,
}

impl Budget {
    const fn new(limits: &DecodeLimits) -> Self {
        Self { left: limits.memory_max, max: limits.memory_max }
    }

    fn take(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.left = self.left.checked_sub(bytes).ok_or(DecodeError::TooMuchMemory { max: self.max })?;
        Ok(())
    }

    fn take_each<T>(&mut self, count: usize) -> Result<(), DecodeError> {
        self.take(count.saturating_mul(size_of::<T>()))
    }
}

#[derive(Debug)]
struct TableReader<'a> {
    keys: Vec<ColumnReader<'a>>,
    columns: Vec<ColumnReader<'a>>,
}

/// What rows have in common.
#[derive(Debug)]
struct Shape {
    table: u32,
    key_columns: usize,
    cl: CausalLength,
    sentinel: Option<u8>,
    /// Column and flags.
    cells: Vec<(u32, u8)>,
}

#[derive(Debug)]
struct Decoder<'a> {
    budget: Budget,
    headers: Vec<TableHeader>,
    sites: Vec<SiteId>,
    rows: Reader<'a>,
    clocks: Clocks<'a>,
    tables: Vec<TableReader<'a>>,
    shapes: Vec<Shape>,
    packed: Vec<u8>,
}

impl<'a> Decoder<'a> {
    fn new(body: &mut Reader<'a>, mut budget: Budget) -> Result<Self, DecodeError> {
        let sites = read_sites(body, &mut budget)?;
        let (headers, key_columns) = read_tables(body, &mut budget)?;
        let rows = Reader::new(body.prefixed()?);
        let clocks = Clocks::new(body, sites.len())?;
        let mut tables = Vec::new();
        for (header, keys) in headers.iter().zip(key_columns) {
            budget.take_each::<ColumnReader<'_>>(keys + header.columns.len())?;
            let keys = (0..keys).map(|_| ColumnReader::new(body)).collect::<Result<_, _>>()?;
            let columns = header.columns.iter().map(|_| ColumnReader::new(body)).collect::<Result<_, _>>()?;
            tables.push(TableReader { keys, columns });
        }
        Ok(Self { budget, headers, sites, rows, clocks, tables, shapes: Vec::new(), packed: Vec::new() })
    }

    fn finish(mut self) -> Result<Changeset, DecodeError> {
        let mut rows = Vec::new();
        while !self.rows.is_empty() {
            let (shape, repetitions) = self.run()?;
            for _ in 0..repetitions {
                rows.push(self.row(shape)?);
            }
        }
        self.clocks.check_end()?;
        for table in &self.tables {
            table.keys.iter().chain(&table.columns).try_for_each(ColumnReader::check_end)?;
        }
        Ok(Changeset::from_parts(self.headers, self.sites, rows))
    }

    fn run(&mut self) -> Result<(usize, u64), DecodeError> {
        let token = self.rows.varint()?;
        let count = self.shapes.len();
        let shape = index("shape", token >> 1, count + 1)?;
        if shape == count {
            let shape = self.shape()?;
            self.shapes.push(shape);
        }
        let repetitions = match token & 1 {
            0 => 1,
            _ => self.rows.varint()?.checked_add(2).ok_or(DecodeError::Varint)?,
        };
        Ok((shape, repetitions))
    }

    fn shape(&mut self) -> Result<Shape, DecodeError> {
        let table = index("table", self.rows.varint()?, self.headers.len())?;
        let key_columns = index("key column", self.rows.varint()?, self.tables[table].keys.len() + 1)?;
        let cl = CausalLength(self.rows.varint()?);
        let counts = self.rows.varint()?;
        let sentinel = if counts & 1 == 1 { Some(check_flags(self.rows.byte()?.into())?) } else { None };
        let columns = self.headers[table].columns.len();
        let count = index("cell", counts >> 1, columns + 1)?;
        if count == 0 && sentinel.is_none() {
            return Err(DecodeError::EmptyRow);
        }
        // A cell takes a byte at least, so that what is reserved here is there.
        if count > self.rows.remaining().len() {
            return Err(DecodeError::Truncated);
        }
        self.budget.take(size_of::<Shape>() + count * size_of::<(u32, u8)>())?;
        let mut cells = Vec::with_capacity(count);
        for _ in 0..count {
            let cell = self.rows.varint()?;
            cells.push((index("column", cell >> 4, columns)? as u32, (cell & 15) as u8));
        }
        check_distinct(&cells)?;
        Ok(Shape { table: table as u32, key_columns, cl, sentinel, cells })
    }

    fn row(&mut self, shape: usize) -> Result<RowChange, DecodeError> {
        let shape = &self.shapes[shape];
        let table = &mut self.tables[shape.table as usize];
        self.budget.take(size_of::<RowChange>() + shape.cells.len() * size_of::<Cell>())?;
        let key = read_key(&mut table.keys[..shape.key_columns], &mut self.packed, &mut self.budget)?;
        let sentinel = shape.sentinel.map(|flags| self.clocks.sentinel(flags, shape.cl)).transpose()?;
        let mut cells = Vec::with_capacity(shape.cells.len());
        for &(column, flags) in &shape.cells {
            let clock = self.clocks.cell(flags)?;
            let value = table.columns[column as usize].read()?.to_value();
            if let Value::Text(_) | Value::Blob(_) = value {
                self.budget.take(value.payload_len())?;
            }
            cells.push(Cell { column, value, clock });
        }
        Ok(RowChange { table: shape.table, key, cl: shape.cl, sentinel, cells })
    }
}

/// What was written where a clock was not as predicted.
#[derive(Debug)]
struct Clocks<'a> {
    col_versions: Reader<'a>,
    db_versions: Reader<'a>,
    seqs: Reader<'a>,
    sites: Reader<'a>,
    site_count: usize,
    next: Predicted,
}

impl<'a> Clocks<'a> {
    fn new(body: &mut Reader<'a>, site_count: usize) -> Result<Self, DecodeError> {
        let mut stream = || Ok(Reader::new(body.prefixed()?));
        Ok(Self {
            col_versions: stream()?,
            db_versions: stream()?,
            seqs: stream()?,
            sites: stream()?,
            site_count,
            next: Predicted::default(),
        })
    }

    fn sentinel(&mut self, flags: u8, cl: CausalLength) -> Result<Clock, DecodeError> {
        self.clock(flags, cl.0)
    }

    fn cell(&mut self, flags: u8) -> Result<Clock, DecodeError> {
        let clock = self.clock(flags, self.next.col_version)?;
        self.next.col_version = clock.col_version.0;
        Ok(clock)
    }

    fn clock(&mut self, flags: u8, mut col_version: u64) -> Result<Clock, DecodeError> {
        let next = &mut self.next;
        if flags & COL_VERSION != 0 {
            col_version = varint::travel(col_version, self.col_versions.varint()?);
        }
        if flags & DB_VERSION != 0 {
            next.db_version = varint::travel(next.db_version, self.db_versions.varint()?);
        }
        if flags & SEQ != 0 {
            next.seq = varint::travel(next.seq, self.seqs.varint()?);
        }
        if flags & SITE != 0 {
            next.site = index("site", self.sites.varint()?, self.site_count)? as u32;
        } else if self.site_count == 0 {
            return Err(DecodeError::IndexRange { what: "site", index: 0, count: 0 });
        }
        let (db_version, seq, site) = (next.db_version.into(), next.seq, next.site);
        next.seq = seq.wrapping_add(1);
        Ok(Clock { col_version: col_version.into(), db_version, seq, site })
    }

    fn check_end(&self) -> Result<(), DecodeError> {
        [self.col_versions, self.db_versions, self.seqs, self.sites].iter().try_for_each(Reader::check_end)
    }
}

fn read_sites(body: &mut Reader<'_>, budget: &mut Budget) -> Result<Vec<SiteId>, DecodeError> {
    let mut sites = Vec::new();
    let mut known = BTreeSet::new();
    for _ in 0..body.varint()? {
        let site = SiteId::new(body.prefixed()?).map_err(DecodeError::Site)?;
        budget.take_each::<SiteId>(2)?;
        if !known.insert(site) {
            return Err(DecodeError::Duplicate { what: "site" });
        }
        sites.push(site);
    }
    Ok(sites)
}

/// The tables, and the number of key columns of each.
fn read_tables(
    body: &mut Reader<'_>,
    budget: &mut Budget,
) -> Result<(Vec<TableHeader>, Vec<usize>), DecodeError> {
    let (mut headers, mut key_columns) = (Vec::new(), Vec::new());
    let mut known = BTreeSet::new();
    for _ in 0..body.varint()? {
        let name = read_name("table name", body, &mut known, budget)?;
        let keys = body.varint()?;
        if keys > KEY_COLUMNS_MAX {
            return Err(DecodeError::IndexRange { what: "key column", index: keys, count: 256 });
        }
        let mut columns = Vec::new();
        let mut known = BTreeSet::new();
        for _ in 0..body.varint()? {
            columns.push(read_name("column name", body, &mut known, budget)?);
        }
        budget.take(size_of::<TableHeader>() + size_of::<TableReader<'_>>())?;
        headers.push(TableHeader { name, columns });
        key_columns.push(keys as usize);
    }
    Ok((headers, key_columns))
}

fn read_name<'a>(
    what: &'static str,
    body: &mut Reader<'a>,
    known: &mut BTreeSet<&'a [u8]>,
    budget: &mut Budget,
) -> Result<Arc<str>, DecodeError> {
    let bytes = body.prefixed()?;
    let name = std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8 { what })?;
    budget.take(2 * size_of::<&[u8]>() + 2 * size_of::<usize>() + name.len())?;
    if !known.insert(bytes) {
        return Err(DecodeError::Duplicate { what });
    }
    Ok(name.into())
}

fn read_key(
    columns: &mut [ColumnReader<'_>],
    packed: &mut Vec<u8>,
    budget: &mut Budget,
) -> Result<PackedKey, DecodeError> {
    packed.clear();
    PackedKey::begin(columns.len(), packed);
    for column in columns {
        column.read()?.with(|value| PackedKey::pack_column(value, packed));
        if packed.len() > PackedKey::LEN_MAX {
            return Err(DecodeError::Key(KeyError::TooLong { len: packed.len() }));
        }
    }
    budget.take(packed.len())?;
    Ok(PackedKey::from_packed(packed))
}

fn index(what: &'static str, index: u64, count: usize) -> Result<usize, DecodeError> {
    match usize::try_from(index) {
        Ok(small) if small < count => Ok(small),
        _ => Err(DecodeError::IndexRange { what, index, count }),
    }
}

fn check_flags(flags: u64) -> Result<u8, DecodeError> {
    index("flag", flags, 16).map(|flags| flags as u8)
}

fn check_distinct(cells: &[(u32, u8)]) -> Result<(), DecodeError> {
    if cells.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Ok(());
    }
    let mut columns: Vec<u32> = cells.iter().map(|(column, _)| *column).collect();
    columns.sort_unstable();
    let distinct = columns.is_sorted_by(|a, b| a < b);
    if distinct { Ok(()) } else { Err(DecodeError::Duplicate { what: "column of a row" }) }
}
