//! Moves tables of an image as they are: rows, indexes and clocks at once, into tables here of which nothing is known yet.
//! That is how a new replica gets nearly all of what it starts with.
//!
//! SQLite copies the rows of one table to another of the same definition without looking into them, and the entries of indexes
//! beside. The entries of the key are then compared with the rows; other indexes are built anew, in sorted order. An image that
//! nobody has looked at row by row could not be trusted with that; see [`Regular`].

use std::path::{Path, PathBuf};
use std::rc::Rc;

use opor_core::{ColVersion, DbVersion, Hlc};
use rusqlite::{Error, ErrorCode};
use rustc_hash::FxHashMap;

use super::check::{self, ImageError};
use super::copy::file_uri;
use super::receive::RestoreError;
use super::regular::Regular;
use super::tick::ticking;
use crate::apply::ApplyReport;
use crate::block::{Block, Group};
use crate::catalog::Table;
use crate::conflict;
use crate::engine::Engine;
use crate::meta;
use crate::options::ClockPolicy;
use crate::progress::{Halt, Phase, Reporter};
use crate::quarantine;
use crate::records;
use crate::sqlite::{Db, failure, quote};
use crate::store::Store;

/// What the image is called in the SQL of this connection.
const IMAGE: &str = "opor_image";

impl From<Halt> for RestoreError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Cancelled => Self::Cancelled,
            Halt::Sqlite(error) => Self::Sqlite(error),
        }
    }
}

/// An image that is attached to a connection, until this is dropped. No transaction may be open at either moment.
struct Attached(Db);

impl Attached {
    /// `None` where it cannot be, which costs no more than time: a connection takes few databases, all in one encoding.
    fn new(db: Db, path: &Path) -> Result<Option<Self>, Error> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let Some(path) = path.to_str() else { return Ok(None) };
        // A transaction that is to write would else lock it.
        let name = format!("{}&mode=ro", file_uri(path));
        let mut attach = db.prepare(&format!("ATTACH ? AS {IMAGE}"))?;
        let mut run = attach.start();
        run.bind_text(&name)?;
        match run.step() {
            Ok(_) => Ok(Some(Self(db))),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::Unknown) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It is only read: should it stay, the next image finds its name taken and is merged row by row.
        let _stays = self.0.exec(&format!("DETACH {IMAGE}"));
    }
}

/// The tables that can be moved, with the image at hand.
#[derive(Default)]
pub(super) struct Transfer {
    path: PathBuf,
    tables: Vec<Regular>,
    attached: Option<Attached>,
}

impl Transfer {
    /// Looks for tables that can be moved, before the transaction of the merge begins.
    pub(super) fn prepare(
        store: &Store,
        image: &Store,
        path: &Path,
        reporter: &mut Reporter<'_>,
    ) -> Result<Self, RestoreError> {
        let theirs = image.engine.catalog.borrow().clone();
        let mut candidates = Vec::new();
        for table in &theirs.tables {
            if store.engine.in_snapshot(|| store.engine.untouched(table))?.is_some() {
                candidates.push(table);
            }
        }
        if candidates.is_empty() {
            return Ok(Self::default());
        }
        let mut total = 0;
        for table in &candidates {
            total += count_rows(image.engine.db, table)?;
        }
        reporter.begin(Phase::Check, total)?;
        let mut tables = Vec::new();
        for table in candidates {
            tables.extend(Regular::find(&image.engine, table, reporter)?);
        }
        reporter.end()?;
        let attached = if tables.is_empty() { None } else { Attached::new(store.engine.db, path)? };
        Ok(Self { path: path.to_owned(), tables, attached })
    }

    /// Moves tables in the open transaction of the merge. What is left is merged row by row.
    pub(super) fn run(
        &self,
        store: &Store,
        image: &Store,
        reporter: &mut Reporter<'_>,
    ) -> Result<ApplyReport, RestoreError> {
        let (engine, mut report) = (&store.engine, ApplyReport::default());
        if self.attached.is_none() {
            return Ok(report);
        }
        engine.enlist()?;
        engine.replay()?;
        for regular in &self.tables {
            // Somebody may have written to it, or altered it, since it was looked at.
            let Some(table) = engine.untouched(&regular.table)? else { continue };
            if !engine.accepts(regular.stamp) {
                continue;
            }
            let table = engine.guarded(table)?;
            let mut moving = Moving {
                path: &self.path,
                engine,
                image: &image.engine,
                regular,
                table,
                sites: FxHashMap::default(),
            };
            if moving.rows(reporter)? {
                moving.clocks(reporter)?;
                report.rows_inserted += regular.rows as usize;
                report.rows_deleted += regular.dead as usize;
                report.cells_won += regular.cells as usize;
                image.engine.left_out.borrow_mut().insert(regular.table.id);
            }
        }
        if report.rows_inserted + report.rows_deleted > 0 {
            engine.wrote_below()?;
            report.db_version = Some(DbVersion(engine.merge_version()));
        }
        Ok(report)
    }
}

/// One table on its way.
struct Moving<'a> {
    path: &'a Path,
    engine: &'a Engine,
    image: &'a Engine,
    regular: &'a Regular,
    table: Rc<Table>,
    /// By ordinal in the image, the ordinal here.
    sites: FxHashMap<u32, u32>,
}

impl Moving<'_> {
    /// Moves the rows; `false` when SQLite would do more than copy them.
    fn rows(&self, reporter: &mut Reporter<'_>) -> Result<bool, RestoreError> {
        let (db, name, expected) = (self.engine.db, self.table.sql_name(), self.regular);
        let insert = format!("INSERT INTO {name} SELECT * FROM {IMAGE}.{}", quote(&self.table.name));
        if !is_transfer(db, &insert)? {
            return Ok(false);
        }
        let run = |sql: &str, reporter: &mut Reporter<'_>| {
            self.engine.uncaptured(|| ticking(db, &mut || reporter.batch(0), || db.exec(sql)))
        };
        run(&insert, reporter)?;
        let (moved, rowid) = (db.changes().cast_unsigned(), self.table.rowid_name);
        let end = |which: &str| db.integer(&format!("SELECT {which}({rowid}) FROM {name}"));
        let ends = if moved > 0 { end("min")?.zip(end("max")?) } else { None };
        if (moved, ends) != (expected.rows, expected.ends) {
            return Err(failure("a table of the image was not moved whole").into());
        }
        for (index, of_key) in meta::indexes(db, &self.table.name)? {
            let is_sound = if index == meta::guard_name(self.table.id) {
                expected.guard_is_empty
            } else {
                let compare = || expected.keys.are_in(db, &self.table, &index);
                of_key && ticking(db, &mut || reporter.batch(0), compare)?
            };
            if is_sound {
                continue;
            }
            run(&format!("REINDEX main.{}", quote(&index)), reporter).map_err(|halt| match halt {
                Halt::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    self.unsound(&error)
                }
                halt => halt.into(),
            })?;
        }
        Ok(true)
    }

    fn unsound(&self, error: &Error) -> RestoreError {
        check::reason(ImageError::Unsound(error.to_string()), self.path)
    }

    /// Gives the rows the clocks that they have in the image, in the version of this merge.
    fn clocks(&mut self, reporter: &mut Reporter<'_>) -> Result<(), RestoreError> {
        let (version, mut after) = (self.engine.merge_version(), i64::MIN);
        loop {
            let page = records::blocks_after(self.image.db, self.regular.table.id, after)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.number;
            for stored in page {
                reporter.add(u64::from(stored.block.rows().count_ones()))?;
                let mut block = Block::default();
                for group in stored.block.groups {
                    let site = self.site(group.site)?;
                    block.put(Group { dv: version, shown_dv: version, site, ..group });
                }
                let id = (self.table.id, stored.number);
                self.engine.uncaptured(|| self.engine.clocks.borrow_mut().write_below(id, block))?;
            }
        }
    }

    fn site(&mut self, ordinal: u32) -> Result<u32, Error> {
        if let Some(known) = self.sites.get(&ordinal) {
            return Ok(*known);
        }
        let own = self.engine.ordinal(self.image.site_of(ordinal)?)?;
        self.sites.insert(ordinal, own);
        Ok(own)
    }
}

impl Engine {
    /// The table here that rows and clocks of another can be moved to: it has the same definition, and nothing is known of
    /// any row of it. A table with triggers of the user's has them run for each row that is merged.
    fn untouched(&self, other: &Table) -> Result<Option<Rc<Table>>, Error> {
        self.refresh()?;
        let catalog = self.catalog.borrow().clone();
        let Some(table) = catalog.table(&other.name).filter(|table| table.is_like(other)) else {
            return Ok(None);
        };
        let touched = table.keyed
            || meta::has_rows(self.db, &table.sql_name())?
            || self.clocks.borrow_mut().knows_of(table)?
            || meta::has_trigger(self.db, &table.name)?
            || (catalog.conflicts && conflict::has_any(self.db, table.id)?)
            || (catalog.quarantines && !quarantine::of_table(self.db, &table.name, None)?.is_empty());
        Ok((!touched).then(|| table.clone()))
    }

    /// A table whose guard covers every column, as it does in images: SQLite copies rows only between tables whose indexes
    /// are the same.
    fn guarded(&self, table: Rc<Table>) -> Result<Rc<Table>, Error> {
        if self.catalog.borrow().is_guarded(&table) {
            return Ok(table);
        }
        self.uncaptured(|| meta::add_guard(self.db, table.id, &table.name))?;
        self.load_catalog()?;
        Ok(self.table(&table.name).unwrap_or(table))
    }

    /// Moves the hybrid clock past a stamp, unless that is too far ahead.
    fn accepts(&self, stamp: u64) -> bool {
        if self.policy() != ClockPolicy::Hlc {
            return true;
        }
        let (stamp, mut clock) = (Hlc::from_version(ColVersion(stamp)), self.hybrid.borrow_mut());
        let accepted = clock.check(stamp, self.wall.now()).is_ok();
        if accepted {
            clock.restore(stamp);
        }
        accepted
    }
}

/// Whether SQLite copies records without looking into them, which also keeps their rowids.
fn is_transfer(db: Db, insert: &str) -> Result<bool, Error> {
    let mut plan = db.prepare(&format!("EXPLAIN {insert}"))?;
    let mut steps = plan.start();
    while steps.step()? {
        if matches!(steps.text(1)?, "RowData" | "RowCell") {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn count_rows(db: Db, table: &Table) -> Result<u64, Error> {
    let rows = db.integer(&format!("SELECT count(*) FROM {}", table.sql_name()))?;
    Ok(rows.unwrap_or(0).cast_unsigned())
}
