//! How a database is opened.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opor_core::{SiteId, WallMillis};

use crate::quarantine::QuarantineLimits;
use crate::store::{OpenError, Store};

/// What fills `col_version`; fixed when the database is created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockPolicy {
    /// A hybrid logical clock: of two writes to one cell the later wins. The default.
    #[default]
    Hlc,
    /// A count of edits, as cr-sqlite keeps it: of two writes to one cell the one that saw more edits wins.
    Lamport,
}

/// Where the time comes from.
#[derive(Clone, Default)]
pub(crate) struct WallClock(Option<Arc<dyn Fn() -> WallMillis + Send + Sync>>);

impl WallClock {
    pub(crate) fn now(&self) -> WallMillis {
        match &self.0 {
            Some(clock) => clock(),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                WallMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl fmt::Debug for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "WallClock(given)" } else { "WallClock(system)" })
    }
}

/// How a database is opened.
///
/// ```
/// use opor_store::{ClockPolicy, OpenOptions};
///
/// let store = OpenOptions::new().clock(ClockPolicy::Lamport).open_in_memory()?;
/// assert_eq!(store.clock_policy(), ClockPolicy::Lamport);
/// # Ok::<(), opor_store::OpenError>(())
/// ```
#[derive(Clone, Debug)]
pub struct OpenOptions {
    pub(crate) policy: ClockPolicy,
    pub(crate) site: Option<SiteId>,
    pub(crate) drift_max_ms: u64,
    pub(crate) busy_timeout: Duration,
    pub(crate) wall: WallClock,
    pub(crate) random_seed: Option<u64>,
    pub(crate) read_only: bool,
    pub(crate) create: bool,
    pub(crate) quarantine: Option<QuarantineLimits>,
    /// The file is the image of a snapshot, which has no site of its own.
    pub(crate) image: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            policy: ClockPolicy::default(),
            site: None,
            drift_max_ms: 60_000,
            busy_timeout: Duration::from_secs(5),
            wall: WallClock::default(),
            random_seed: None,
            read_only: false,
            create: true,
            quarantine: None,
            image: false,
        }
    }
}

impl OpenOptions {
    /// The defaults: created when missing, hybrid clock, 60 s of drift, 5 s of waiting for a lock.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The clock of a database that this open creates; one that exists keeps its own.
    #[must_use]
    pub const fn clock(mut self, policy: ClockPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The site id of a database that this open creates, in place of a random one; for tests and for restoring a
    /// replica that is known to be gone. Two live replicas with one id lose writes.
    #[must_use]
    pub const fn site_id(mut self, site: SiteId) -> Self {
        self.site = Some(site);
        self
    }

    /// How far ahead of local time, in milliseconds, a stamp of a peer may be before its changeset is refused.
    #[must_use]
    pub const fn drift_max_ms(mut self, drift_max_ms: u64) -> Self {
        self.drift_max_ms = drift_max_ms;
        self
    }

    /// How long a write waits for another connection's.
    #[must_use]
    pub const fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Where the time comes from, in place of the system's clock; for tests.
    #[must_use]
    pub fn wall_clock(mut self, clock: Arc<dyn Fn() -> WallMillis + Send + Sync>) -> Self {
        self.wall = WallClock(Some(clock));
        self
    }

    /// What `random()` yields in the SQL of this store, and so the numbers that it draws for itself, such as its epochs; for
    /// tests that repeat a run exactly. Give every open of one database another seed: an epoch that is drawn twice lets cursors
    /// of a history that is gone pass for good ones.
    #[must_use]
    pub const fn random_seed(mut self, seed: u64) -> Self {
        self.random_seed = Some(seed);
        self
    }

    /// Opens to read only: SQL that writes fails, and the file must exist.
    #[must_use]
    pub const fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Whether a missing file is created. On by default.
    #[must_use]
    pub const fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// How much that cannot be stored here is kept when it comes in a changeset: changes for tables and columns that are
    /// not here yet, and rows that a table's own rules refuse. By default [`QuarantineLimits::default`] where the clock
    /// is hybrid, and [`QuarantineLimits::NONE`] where versions are counted: then such a changeset is refused, as
    /// cr-sqlite refuses it. Inserts into `crsql_changes` are always refused.
    #[must_use]
    pub const fn quarantine(mut self, limits: QuarantineLimits) -> Self {
        self.quarantine = Some(limits);
        self
    }

    /// Opens a file.
    ///
    /// # Errors
    /// See [`OpenError`]; a file that is not a database is left as it is.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Store, OpenError> {
        Store::open_file(path.as_ref(), self)
    }

    /// Opens a database in memory, gone when it is closed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_in_memory(&self) -> Result<Store, OpenError> {
        Store::open_memory(self)
    }

    /// Opens a database in memory that the stores of this process share by its name. It lasts as long as one of them is
    /// open: who keeps one can drop another in the middle of its work, as a crash would, and open it again.
    ///
    /// A reader that is in a transaction keeps others from committing, for there is no write-ahead log.
    ///
    /// ```
    /// use opor_store::OpenOptions;
    ///
    /// let keeper = OpenOptions::new().open_shared_memory("doc-shared")?;
    /// let store = OpenOptions::new().open_shared_memory("doc-shared")?;
    /// store.execute_batch("CREATE TABLE todos(id INTEGER PRIMARY KEY, title); BEGIN; INSERT INTO todos VALUES (1, 'milk')")?;
    /// drop(store);
    /// assert_eq!(keeper.query_row("SELECT count(*) FROM todos", [], |row| row.get::<_, i64>(0))?, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`OpenError`]; [`OpenError::UriName`] for a name with anything but ASCII letters, digits, `-` and `_`.
    pub fn open_shared_memory(&self, name: &str) -> Result<Store, OpenError> {
        Store::open_shared_memory(name, self)
    }
}
