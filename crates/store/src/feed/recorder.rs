//! What the connection that writes notes for the feeds, and when it publishes it.
#![expect(unsafe_code, reason = "reads the values that SQLite's hook offers")]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use opor_core::Value;
use rusqlite::ffi;

use super::mailbox::{Feeds, Watch};
use super::{Beyond, Changes, ColumnMask, Image, Interest, Origin, ROWS_WAITING_MAX, RowChange};
use crate::engine::Engine;
use crate::sqlite::{Db, RawValue};
use crate::wal_index::WalHeader;

/// See the module.
#[derive(Debug)]
pub(crate) struct Recorder {
    feeds: Arc<Feeds>,
    log: RefCell<Log>,
    /// Something was written while nobody listened.
    unseen: Cell<bool>,
    /// Who the merges of the open transaction are from.
    merged: Cell<Option<Origin>>,
    /// The commit that is being made, or that was made and has not been published.
    commit: Cell<Option<Commit>>,
}

/// A commit, as it was when its pages were about to be written.
#[derive(Clone, Copy, Debug)]
struct Commit {
    before: Option<WalHeader>,
    pages_written: i32,
}

/// The rows of the open transaction.
#[derive(Debug, Default)]
struct Log {
    /// What was watched at its first write.
    watch: Option<Arc<Watch>>,
    tables: Vec<Touched>,
    rows: Vec<(usize, RowChange)>,
    /// The length of `rows` at each savepoint.
    marks: Vec<(i32, usize)>,
    /// The length at which SQLite began to call back for savepoints.
    enlisted_at: Option<usize>,
    last: Option<LastNamed>,
}

/// The name that SQLite gave last, and where its table is if it is watched.
#[derive(Debug)]
struct LastNamed {
    address: *const u8,
    name: Box<[u8]>,
    table: Option<usize>,
}

#[derive(Debug)]
struct Touched {
    name: Arc<str>,
    /// What of it is watched in this transaction.
    interest: Interest,
    beyond: Option<Beyond>,
}

/// Has SQLite call the recorder before each commit.
///
/// # Safety
/// `engine` outlives the connection.
pub(crate) unsafe fn install(db: Db, engine: *const Engine) {
    // SAFETY: the handle is open; the engine outlives it by the caller's promise.
    unsafe { ffi::sqlite3_commit_hook(db.0, Some(on_commit), engine.cast_mut().cast::<c_void>()) };
}

unsafe extern "C" fn on_commit(engine: *mut c_void) -> c_int {
    // SAFETY: `install` was given an engine that outlives the connection.
    unsafe { &*engine.cast::<Engine>() }.record_committing();
    0
}

impl Recorder {
    pub(crate) fn new(feeds: Arc<Feeds>) -> Self {
        Self {
            feeds,
            log: RefCell::default(),
            unseen: Cell::new(false),
            merged: Cell::new(None),
            commit: Cell::new(None),
        }
    }

    /// A row of the main database is being written; called from within the hook.
    pub(crate) fn row(&self, engine: &Engine, op: c_int, name: &CStr, old_row: i64, new_row: i64) {
        if self.commit.get().is_some() {
            self.settle(engine.db, engine.look_at_header());
        }
        if !self.feeds.any() {
            self.unseen.set(true);
            return;
        }
        let log = &mut *self.log.borrow_mut();
        if log.watch.is_none() {
            log.watch = Some(self.feeds.watched());
        }
        let Some(table) = log.table(name) else { return };
        let Touched { interest, beyond, .. } = &log.tables[table];
        if beyond.is_some_and(|beyond| beyond.covers(op, interest)) {
            return;
        }
        let Some(change) = (Write { db: engine.db, op, old_row, new_row }).change(interest) else { return };
        match &mut log.tables[table].beyond {
            Some(beyond) => beyond.add(&change),
            None if log.rows.len() >= ROWS_WAITING_MAX => {
                log.give_up();
                log.tables[table].beyond.get_or_insert_default().add(&change);
            }
            None => log.rows.push((table, change)),
        }
    }

    /// The open transaction merges what a peer sent.
    pub(crate) fn merges(&self, origin: Origin) {
        self.merged.set(Some(self.merged.get().map_or(origin, |before| before.and(origin))));
    }

    /// SQLite calls back from here on when savepoints come and go.
    pub(crate) fn enlisted(&self) {
        let mut log = self.log.borrow_mut();
        let rows = log.rows.len();
        log.enlisted_at.get_or_insert(rows);
    }

    pub(crate) fn savepoint(&self, level: i32) {
        let mut log = self.log.borrow_mut();
        let rows = log.rows.len();
        log.marks.retain(|mark| mark.0 < level);
        log.marks.push((level, rows));
    }

    pub(crate) fn release(&self, level: i32) {
        self.log.borrow_mut().marks.retain(|mark| mark.0 < level);
    }

    pub(crate) fn rollback_to(&self, level: i32) {
        let mut log = self.log.borrow_mut();
        let mark = log.marks.iter().rfind(|mark| mark.0 == level).map(|mark| mark.1);
        // A savepoint older than the first write that SQLite told of: what came before that may be undone or not.
        let rows = mark.or(log.enlisted_at).unwrap_or(usize::MAX);
        log.rows.truncate(rows);
        log.marks.retain(|mark| mark.0 <= level);
        // The schema may have gone back with the rest, and names with it.
        log.last = None;
    }

    /// The pages of a commit are about to be written.
    pub(crate) fn committing(&self, db: Db, header: Option<WalHeader>) {
        self.settle(db, header);
        self.commit.set(Some(Commit { before: header, pages_written: pages_written(db) }));
        self.feeds.begin_commit();
    }

    /// What became of a commit for which SQLite did not call back; asked before anything more is written, under the write lock.
    fn settle(&self, db: Db, header: Option<WalHeader>) {
        let Some(commit) = self.commit.get() else { return };
        if header.is_some() && header != commit.before {
            self.publish(db, header);
            return;
        }
        // Either it wrote nothing, or it failed and the transaction goes on with what is in the log.
        self.commit.set(None);
        self.unseen.set(self.unseen.get() || header.is_none());
        self.feeds.end_commit();
    }

    /// The transaction was rolled back.
    pub(crate) fn rolled_back(&self) {
        *self.log.borrow_mut() = Log::default();
        self.unseen.set(false);
        self.merged.set(None);
        if self.commit.take().is_some() {
            self.feeds.end_commit();
        }
    }

    /// The commit, if there was one since the last, is visible, and the header is this now.
    pub(crate) fn publish(&self, db: Db, header: Option<WalHeader>) {
        let Some(commit) = self.commit.take() else { return };
        let log = self.log.take();
        let unseen = self.unseen.replace(false);
        let origin = self.merged.take().unwrap_or_default();
        let wrote = pages_written(db) != commit.pages_written;
        if !wrote && header == commit.before && header.is_some() {
            self.feeds.end_commit();
            return;
        }
        let alone = match (commit.before, header) {
            (Some(before), Some(after)) => {
                if wrote {
                    after.follows(&before)
                } else {
                    after == before
                }
            }
            _ => false,
        };
        let stale = log.watch.as_ref().is_some_and(|watch| watch.generation != self.feeds.generation());
        let mut changes = log.into_changes();
        changes.unknown |= stale || unseen;
        changes.origin = Some(origin);
        self.feeds.publish(changes, commit.before, header.filter(|_| alone));
    }
}

impl Log {
    /// The place in `tables` of a table that is watched.
    fn table(&mut self, name: &CStr) -> Option<usize> {
        let bytes = name.to_bytes();
        if let Some(last) = &self.last
            && last.address == bytes.as_ptr()
            && *last.name == *bytes
        {
            return last.table;
        }
        let watch = self.watch.as_deref();
        let known = std::str::from_utf8(bytes).ok().and_then(|name| watch?.tables.get_key_value(name));
        let table = known.map(|(name, interest)| {
            self.tables.iter().position(|table| table.name == *name).unwrap_or_else(|| {
                self.tables.push(Touched { name: name.clone(), interest: interest.clone(), beyond: None });
                self.tables.len() - 1
            })
        });
        self.last = Some(LastNamed { address: bytes.as_ptr(), name: bytes.into(), table });
        table
    }

    /// Keeps only what is needed to say which tables changed. It is not taken back when rows are.
    fn give_up(&mut self) {
        for (table, row) in self.rows.drain(..) {
            self.tables[table].beyond.get_or_insert_default().add(&row);
        }
        self.marks.iter_mut().for_each(|mark| mark.1 = 0);
        self.enlisted_at = self.enlisted_at.map(|_| 0);
    }

    fn into_changes(self) -> Changes {
        let mut changes = Changes::default();
        let names: Vec<_> = self.tables.iter().map(|table| table.name.clone()).collect();
        let images: Vec<Arc<[usize]>> =
            self.tables.iter().map(|table| table.interest.images[..].into()).collect();
        for table in self.tables {
            if table.beyond.is_some() {
                changes.tables.entry(table.name).or_default().beyond = table.beyond;
            }
        }
        for (table, row) in self.rows {
            let changes = changes.tables.entry(names[table].clone()).or_default();
            if changes.rows.is_empty() {
                changes.images = images[table].clone();
            }
            changes.rows.push(row);
        }
        changes
    }
}

impl Beyond {
    /// Whether one more write of this kind tells nothing new.
    fn covers(&self, op: c_int, interest: &Interest) -> bool {
        let columns = ColumnMask(self.columns.0 & interest.columns.0) == interest.columns;
        self.rows && (op != ffi::SQLITE_UPDATE || columns)
    }
}

/// The write that the hook is being told of.
#[derive(Clone, Copy)]
struct Write {
    db: Db,
    op: c_int,
    old_row: i64,
    new_row: i64,
}

#[derive(Clone, Copy)]
enum Side {
    Old,
    New,
}

impl Write {
    /// `None` when nothing of interest changed.
    fn change(self, interest: &Interest) -> Option<RowChange> {
        // SAFETY: called from within the hook.
        let blob_column = unsafe { ffi::sqlite3_preupdate_blobwrite(self.db.0) };
        if blob_column >= 0 {
            let mut columns = ColumnMask::default();
            columns.insert(blob_column as usize);
            return interest.columns.intersects(columns).then_some(RowChange {
                old: Some(self.old_row),
                new: Some(self.old_row),
                columns,
                old_image: Image::Unknown,
                new_image: Image::Unknown,
            });
        }
        let old = (self.op != ffi::SQLITE_INSERT).then_some(self.old_row);
        let new = (self.op != ffi::SQLITE_DELETE).then_some(self.new_row);
        let mut columns = ColumnMask::default();
        if self.op == ffi::SQLITE_UPDATE {
            columns = self.changed(interest.columns);
            if columns.is_empty() && old == new {
                return None;
            }
        }
        let image = |side, there: Option<i64>| match there {
            Some(_) if interest.images.is_empty() => Image::Values(Box::default()),
            Some(_) => self.image(side, &interest.images),
            None => Image::Absent,
        };
        let (old_image, new_image) = (image(Side::Old, old), image(Side::New, new));
        Some(RowChange { old, new, columns, old_image, new_image })
    }

    /// Which of these columns an update changes.
    fn changed(self, of: ColumnMask) -> ColumnMask {
        // SAFETY: called from within the hook.
        let width = unsafe { ffi::sqlite3_preupdate_count(self.db.0) };
        let mut changed = ColumnMask::default();
        for place in (0..width as usize).filter(|place| of.contains(*place)) {
            let same = match (self.value(Side::Old, place), self.value(Side::New, place)) {
                // SAFETY: both values live while the hook runs.
                (Some(old), Some(new)) => unsafe { old.same(new) },
                // A column that is computed when it is read.
                _ => false,
            };
            if !same {
                changed.insert(place);
            }
        }
        changed
    }

    fn image(self, side: Side, places: &[usize]) -> Image {
        let value = |place: &usize| -> Option<Value> {
            let raw = self.value(side, *place)?;
            // SAFETY: the value lives while the hook runs, and is copied here.
            unsafe { raw.get() }.ok().map(opor_core::ValueRef::to_owned)
        };
        places.iter().map(value).collect::<Option<_>>().map_or(Image::Unknown, Image::Values)
    }

    fn value(self, side: Side, place: usize) -> Option<RawValue> {
        let place = c_int::try_from(place).ok()?;
        let mut value = ptr::null_mut();
        // SAFETY: called from within the hook, for a side that this kind of change has.
        let code = unsafe {
            match side {
                Side::Old => ffi::sqlite3_preupdate_old(self.db.0, place, &raw mut value),
                Side::New => ffi::sqlite3_preupdate_new(self.db.0, place, &raw mut value),
            }
        };
        (code == ffi::SQLITE_OK && !value.is_null()).then_some(RawValue(value))
    }
}

/// How many pages the connection has written to its file and its log so far.
fn pages_written(db: Db) -> i32 {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: the handle is open, and SQLite writes to both places.
    unsafe {
        ffi::sqlite3_db_status(db.0, ffi::SQLITE_DBSTATUS_CACHE_WRITE, &raw mut current, &raw mut highest, 0);
    }
    current
}
