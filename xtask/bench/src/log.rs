//! The change logs of the sides: reading them, in pieces, and merging what was read.

use anyhow::{Context as _, Result};
use opor_core::{Changeset, DbVersion};
use opor_store::Cursor;
use rusqlite::types::Value;
use rusqlite::{Rows, Statement, params_from_iter};

use crate::clock::Stopwatch;
use crate::database::{Database, Side, in_transaction, stamp};
use crate::shape::Row;

/// How many rows a piece of a log holds; a log of this many is one piece, and memory is bounded for greater ones.
pub(crate) const PIECE: usize = 100_000;

/// A part of a log, as its side hands it out.
#[derive(Debug)]
pub(crate) enum Piece {
    /// What opor's own interface gives.
    Changes(Changeset),
    /// What SQL gives.
    Rows(Vec<Row>),
}

impl Piece {
    /// How many rows of the table it speaks of; of cr-sqlite's log, how many cells.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Changes(changeset) => changeset.rows().len(),
            Self::Rows(rows) => rows.len(),
        }
    }
}

/// Reads a log again and again, with a held statement.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    database: &'a Database,
    statement: Option<Statement<'a>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(database: &'a Database) -> Result<Self> {
        let statement = match database.store() {
            Some(_) => None,
            None => Some(database.prepare(&database.sql.log())?),
        };
        Ok(Self { database, statement })
    }

    /// Everything after a version, at once.
    pub(crate) fn since(&mut self, version: i64) -> Result<Piece> {
        match (self.database.store(), &mut self.statement) {
            (Some(store), _) => Ok(Piece::Changes(store.changes_since(DbVersion(version as u64))?)),
            (None, Some(statement)) => Ok(Piece::Rows(taken(&mut query(statement, version)?, usize::MAX)?)),
            (None, None) => anyhow::bail!("this side has no log"),
        }
    }

    /// Everything, in pieces of about `rows` rows; only the reading is timed.
    pub(crate) fn pieces(
        &mut self,
        rows: usize,
        watch: &mut Stopwatch,
        mut each: impl FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        let columns = self.database.sql.shape.others.len();
        if let Some(store) = self.database.store() {
            let (mut cursor, mut done) = (Cursor::start(), false);
            while !done {
                let batch = watch.run(|| Ok(store.changes(&cursor, rows * columns)?))?;
                (cursor, done) = (batch.cursor, batch.done);
                each(Piece::Changes(batch.changeset))?;
            }
            return Ok(());
        }
        let statement = self.statement.as_mut().context("this side has no log")?;
        let limit = if self.database.sql.side == Side::CrSqlite { rows * columns } else { rows };
        let mut found = watch.run(|| query(statement, 0))?;
        loop {
            let piece = watch.run(|| taken(&mut found, limit))?;
            let last = piece.len() < limit;
            each(Piece::Rows(piece))?;
            if last {
                return Ok(());
            }
        }
    }
}

fn query<'s>(statement: &'s mut Statement<'_>, version: i64) -> Result<Rows<'s>> {
    let parameters = std::iter::repeat_n(version, statement.parameter_count());
    Ok(statement.query(params_from_iter(parameters))?)
}

fn taken(rows: &mut Rows<'_>, limit: usize) -> Result<Vec<Row>> {
    let mut taken = Vec::new();
    while taken.len() < limit {
        let Some(row) = rows.next()? else { break };
        let columns = row.as_ref().column_count();
        taken.push((0..columns).map(|column| row.get(column)).collect::<rusqlite::Result<Row>>()?);
    }
    Ok(taken)
}

/// What merging counted; only opor counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) rows_inserted: usize,
    pub(crate) cells_won: usize,
    pub(crate) cells_lost: usize,
    pub(crate) commits: usize,
}

impl Merged {
    fn add(&mut self, other: Self) {
        self.rows_inserted += other.rows_inserted;
        self.cells_won += other.cells_won;
        self.cells_lost += other.cells_lost;
        self.commits += other.commits;
    }

    /// Fails when opor counted something else than it must have.
    pub(crate) fn expect(self, side: Side, counted: impl Fn(Self) -> usize, expected: usize) -> Result<()> {
        let right = side != Side::Opor || counted(self) == expected;
        anyhow::ensure!(right, "merging did not come to {expected}: {self:?}");
        Ok(())
    }
}

impl Database {
    /// The newest version in the log.
    pub(crate) fn version(&self) -> Result<i64> {
        match (self.store(), self.sql.side) {
            (Some(store), _) => Ok(i64::try_from(store.db_version()?.0)?),
            (None, Side::ByHand) => Ok(stamp()),
            (None, Side::CrSqlite) => Ok(self.query_row("SELECT crsql_db_version()", [], |row| row.get(0))?),
            (None, Side::Plain | Side::Opor | Side::Floor) => Ok(0),
        }
    }

    /// Merges a piece of the log of another database of the same side, in one transaction.
    pub(crate) fn merge(&mut self, piece: &Piece) -> Result<Merged> {
        match piece {
            Piece::Changes(changeset) => {
                let report = self.store_mut().context("only opor merges changesets")?.apply(changeset)?;
                Ok(Merged {
                    rows_inserted: report.rows_inserted,
                    cells_won: report.cells_won,
                    cells_lost: report.cells_lost,
                    commits: usize::from(report.db_version.is_some()),
                })
            }
            Piece::Rows(rows) => {
                let mut statement = self.prepare(&self.sql.merge(stamp()))?;
                let merge = || rows.iter().try_for_each(|row| Ok(merge_row(&mut statement, row)?));
                in_transaction(self, merge)?;
                Ok(Merged::default())
            }
        }
    }

    /// Merges the whole log of another database; only the merging is timed.
    pub(crate) fn merge_all(&mut self, source: &Self, watch: &mut Stopwatch) -> Result<Merged> {
        let mut merged = Merged::default();
        Reader::new(source)?.pieces(PIECE, &mut Stopwatch::stopped(), |piece| {
            source.let_go_of_pages()?;
            merged.add(watch.run(|| self.merge(&piece))?);
            Ok(())
        })?;
        Ok(merged)
    }
}

fn merge_row(statement: &mut Statement<'_>, row: &[Value]) -> rusqlite::Result<()> {
    statement.execute(params_from_iter(row)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Medium, Setting};
    use crate::shape::SHAPES;

    #[test]
    fn pieces_hold_every_row_and_another_database_takes_them() {
        let folder = tempfile::tempdir().unwrap();
        let (shape, medium, folder) = (&SHAPES[0], Medium::File, folder.path());
        let setting = Setting { shape, rows: 1_000, tables: 1, medium, folder, crsqlite: None };
        for side in [Side::ByHand, Side::Opor] {
            let (source, mut target) =
                (setting.filled(side).unwrap(), Database::open(&setting, side).unwrap());
            let mut lengths = Vec::new();
            let merge = |piece: Piece| {
                lengths.push(piece.len());
                target.merge(&piece).map(drop)
            };
            Reader::new(&source).unwrap().pieces(300, &mut Stopwatch::stopped(), merge).unwrap();
            assert!(lengths.len() > 3, "{side:?} gave pieces of {lengths:?}");
            assert_eq!(lengths.iter().sum::<usize>(), 1_000, "{side:?}");
            let rows = |database: &Database| {
                let mut statement =
                    database.prepare("SELECT id, title, done FROM todos ORDER BY id").unwrap();
                taken(&mut statement.query([]).unwrap(), usize::MAX).unwrap()
            };
            assert_eq!(rows(&target), rows(&source), "{side:?}");
        }
    }

    #[test]
    fn the_later_write_to_a_row_wins_by_hand() {
        let folder = tempfile::tempdir().unwrap();
        let (shape, medium, folder) = (&SHAPES[0], Medium::File, folder.path());
        let setting = Setting { shape, rows: 1_000, tables: 1, medium, folder, crsqlite: None };
        let (one, mut other) =
            (setting.filled(Side::ByHand).unwrap(), Database::open(&setting, Side::ByHand).unwrap());
        other.merge_all(&one, &mut Stopwatch::stopped()).unwrap();
        let (row, next) = ([shape.row(7)], [shape.row(8)]);
        one.update(&row, 10).unwrap();
        other.update(&row, 11).unwrap();
        other.update(&next, 12).unwrap();
        one.update(&next, 13).unwrap();
        other.merge_all(&one, &mut Stopwatch::stopped()).unwrap();
        let done = |row: &Row| -> i64 {
            other.query_row("SELECT done FROM todos WHERE id = ?1", [&row[0]], |row| row.get(0)).unwrap()
        };
        assert_eq!((done(&row[0]), done(&next[0])), (11, 13));
    }
}
