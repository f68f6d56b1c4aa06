//! What each commit changed, row by row, for whoever keeps something current beside the database.
//!
//! The connection that writes records the rows it touches in the tables that some feed watches, and publishes them when the
//! commit is visible. A feed takes a snapshot of the file together with what was committed up to exactly that snapshot. What
//! it cannot know exactly (another process wrote, too much was written, somebody began to watch in the middle) it says it
//! does not know: a feed may tell of changes that did not happen, and never leaves one out.

mod mailbox;
mod recorder;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use opor_core::{SiteId, Value};
use std::collections::BTreeMap;

pub(crate) use mailbox::Feeds;
use mailbox::Mailbox;
pub(crate) use recorder::{Recorder, install};

use crate::store::{Store, StoreError};

/// Rows of one feed that wait to be taken. Past it only the tables that changed are known, with their columns: it is cheaper to
/// run a query anew than to look at more rows than this.
pub const ROWS_WAITING_MAX: usize = 8_192;

/// How often a snapshot is taken anew because a commit came between. The third time it is good enough that nothing is missed.
const ATTEMPTS: usize = 3;

/// A commit of this process, counted from 1 when the handle was opened; 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitSeq(pub u64);

/// Who made a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// SQL of this application.
    #[default]
    Local,
    /// A merge of what this peer sent.
    Peer(SiteId),
    /// Several of these, or nobody can say.
    Mixed,
}

impl Origin {
    /// The origin of two commits taken together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Mixed }
    }
}

/// A set of columns of a table, by their place in `PRAGMA table_xinfo`. It is exact for the first 63, and counts all others as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ColumnMask(u64);

impl ColumnMask {
    /// Every column.
    pub const ALL: Self = Self(u64::MAX);

    /// Adds the column at a place.
    pub fn insert(&mut self, place: usize) {
        self.0 |= 1 << place.min(63);
    }

    /// Adds all of another set.
    pub fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether both have a column in common, as far as can be told.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the column at a place is in it, as far as can be told.
    #[must_use]
    pub fn contains(self, place: usize) -> bool {
        self.0 >> place.min(63) & 1 == 1
    }
}

/// Which parts of a table a feed is told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Updates of these columns. Inserts, deletes and changes of rowids are always told.
    pub columns: ColumnMask,
    /// The places of columns whose values come with every row, as they were and as they are.
    pub images: Vec<usize>,
}

/// A row that was touched.
#[derive(Clone, Debug, PartialEq)]
pub struct RowChange {
    /// Its rowid before, if it was there; 0 in a table without rowids.
    pub old: Option<i64>,
    /// Its rowid after, if it is there.
    pub new: Option<i64>,
    /// The columns of [`Interest::columns`] that changed, when it was there before and is after.
    pub columns: ColumnMask,
    /// Before: the values of the columns of [`TableChanges::images`].
    pub old_image: Image,
    /// After.
    pub new_image: Image,
}

/// Values of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Image {
    /// There was no row.
    #[default]
    Absent,
    /// There was one, and it cannot be told what was in it.
    Unknown,
    /// The values.
    Values(Box<[Value]>),
}

/// What changed in one table.
#[derive(Clone, Debug, Default)]
pub struct TableChanges {
    /// The rows, in the order in which they were touched: one may be there several times, also when nothing came of it.
    pub rows: Vec<RowChange>,
    /// The places of the columns whose values come with the rows, in ascending order. There are more than one feed asked for when
    /// another asked too, and fewer when it asked later.
    pub images: Arc<[usize]>,
    /// More may have changed than `rows` says.
    pub beyond: Option<Beyond>,
}

impl TableChanges {
    /// Adds the rows of a later commit.
    fn extend(&mut self, later: &Self) {
        let known = self.rows.len();
        self.rows.extend_from_slice(&later.rows);
        if known == 0 {
            self.images = later.images.clone();
        } else if self.images != later.images && !later.rows.is_empty() {
            // Somebody has asked for others between the two.
            self.images = Arc::default();
            self.rows.iter_mut().for_each(RowChange::forget_images);
        }
    }
}

impl RowChange {
    fn forget_images(&mut self) {
        for image in [&mut self.old_image, &mut self.new_image] {
            if matches!(image, Image::Values(_)) {
                *image = Image::Unknown;
            }
        }
    }
}

/// What is known of changes whose rows are not told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// The columns that were updated.
    pub columns: ColumnMask,
    /// Rows came or went.
    pub rows: bool,
}

impl Beyond {
    pub(crate) fn add(&mut self, change: &RowChange) {
        self.columns.extend(change.columns);
        self.rows |= change.old != change.new;
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.columns.extend(other.columns);
        self.rows |= other.rows;
    }
}

/// What was committed since the snapshot before.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The last commit of this process that is in the snapshot.
    pub seq: CommitSeq,
    /// The watched tables that changed.
    pub tables: BTreeMap<Arc<str>, TableChanges>,
    /// Anything may have changed besides.
    pub unknown: bool,
    /// Who made the commits.
    pub origin: Option<Origin>,
}

impl Changes {
    /// Whether nothing watched has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && !self.unknown
    }

    fn rows(&self) -> usize {
        self.tables.values().map(|table| table.rows.len()).sum()
    }

    /// Adds what a later commit changed.
    fn append(&mut self, later: &Self) {
        let room = self.rows() + later.rows() <= ROWS_WAITING_MAX;
        for (name, changes) in &later.tables {
            let own = self.tables.entry(name.clone()).or_default();
            if room {
                own.extend(changes);
            } else {
                let beyond = own.beyond.get_or_insert_default();
                own.rows.drain(..).for_each(|row| beyond.add(&row));
                changes.rows.iter().for_each(|row| beyond.add(row));
            }
            if let Some(more) = changes.beyond {
                own.beyond.get_or_insert_default().extend(more);
            }
        }
        self.unknown |= later.unknown;
        self.origin = match (self.origin, later.origin) {
            (Some(own), Some(other)) => Some(own.and(other)),
            (own, other) => own.or(other),
        };
        self.seq = later.seq;
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Something was committed, here or by another process, or [`RowFeed::waker`] was used.
    Called,
    /// Nothing happened for as long as was asked.
    TimedOut,
    /// The handle is closed; nothing will be committed here any more.
    Closed,
}

/// Wakes whoever waits for a feed, from any thread.
#[derive(Clone, Debug)]
pub struct FeedWaker(Arc<Mailbox>);

impl FeedWaker {
    /// Ends the wait that is going on, or the next one.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// A stream of what is committed; see [`StoreHandle::row_feed`](crate::StoreHandle::row_feed).
///
/// One thread reads it, with a connection of its own to the same file.
#[derive(Debug)]
pub struct RowFeed {
    feeds: Arc<Feeds>,
    mailbox: Arc<Mailbox>,
    /// SQLite's count of what others have committed, as of the last snapshot of a file without a WAL index; that is slower to ask.
    taken_at: Cell<Option<i64>>,
}

impl Drop for RowFeed {
    fn drop(&mut self) {
        self.feeds.remove(&self.mailbox);
    }
}

impl RowFeed {
    pub(crate) fn new(feeds: Arc<Feeds>) -> Self {
        let mailbox = feeds.add();
        Self { feeds, mailbox, taken_at: Cell::new(None) }
    }

    /// Says what to watch from now on, in place of what was said before: by table, named as in the schema. A snapshot taken
    /// after this misses nothing of it.
    pub fn watch(&self, interests: BTreeMap<Arc<str>, Interest>) {
        self.feeds.watch(&self.mailbox, interests);
    }

    /// Something that ends [`wait`](Self::wait).
    #[must_use]
    pub fn waker(&self) -> FeedWaker {
        FeedWaker(self.mailbox.clone())
    }

    /// The last commit that this process has made, and that everybody can see.
    #[must_use]
    pub fn seq(&self) -> CommitSeq {
        self.mailbox.seq()
    }

    /// Waits until there is something to take a snapshot for. Other processes' commits are looked for whenever a `look` has
    /// passed, in memory that is shared with them.
    #[must_use]
    pub fn wait(&self, reader: &Store, look: Duration, limit: Option<Duration>) -> Woken {
        let mut waited = Duration::ZERO;
        loop {
            let slice = limit.map_or(look, |limit| look.min(limit.saturating_sub(waited)));
            match self.mailbox.wait(slice) {
                Woken::TimedOut => {}
                woken => return woken,
            }
            let header = reader.engine.look_at_header();
            if self.mailbox.taken_at() != header || (header.is_none() && self.is_behind(reader)) {
                return Woken::Called;
            }
            waited += slice;
            if limit.is_some_and(|limit| waited >= limit) {
                return Woken::TimedOut;
            }
        }
    }

    /// Whether somebody has committed to a file without a WAL index. One that cannot be read at present is looked at again later.
    fn is_behind(&self, reader: &Store) -> bool {
        reader.engine.seen_version().is_ok_and(|version| self.taken_at.get() != Some(version))
    }

    /// Begins a read transaction on `reader`, which sees one commit and all before it, and tells what was committed up to there
    /// since the last call. It stays open until the caller ends it.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be read; nothing is lost then, a later call tells all of it.
    pub fn snapshot(&self, reader: &Store) -> Result<Changes, StoreError> {
        for _ in 0..ATTEMPTS {
            let at = reader.engine.begin_at()?;
            if let Some(changes) = at.and_then(|at| self.mailbox.take_at(at)) {
                return Ok(changes);
            }
            reader.engine.db.exec("ROLLBACK")?;
        }
        // Another process writes, or the journal is none that tells. What is published by now is in a snapshot begun after it.
        let mut changes = self.mailbox.take_all();
        let at = match reader.engine.begin_at() {
            Ok(at) => at,
            Err(error) => {
                self.mailbox.give_back(changes);
                return Err(error.into());
            }
        };
        if at.is_none() {
            self.taken_at.set(reader.engine.seen_version().ok());
        }
        self.mailbox.caught_up_at(at, changes.seq);
        changes.unknown = true;
        changes.origin = Some(Origin::Mixed);
        Ok(changes)
    }
}
