//! An owning handle for async programs: one thread that writes, and a pool of threads that read.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use async_channel::{Receiver, Sender, bounded};
use opor_core::DbVersion;

use crate::feed::{CommitSeq, Feeds, RowFeed};
use crate::options::OpenOptions;
use crate::store::{OpenError, Store};

/// Jobs that may wait for the writer, and as many for the readers: then callers wait to queue theirs. Enough that a
/// burst of small writes is taken in one go, few enough that a stalled disk does not fill the memory.
const JOBS_WAITING_MAX: usize = 256;

type Job = Box<dyn FnOnce(&mut Store) + Send>;

/// Why a job brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The handle has been closed; the job did not run.
    #[error("the database handle is closed")]
    Closed,
    /// The job panicked; its transaction was rolled back, and the handle goes on.
    #[error("the job panicked")]
    Panicked,
}

/// A file that async tasks share: jobs go to threads of its own, so no runtime is ever blocked, and none is needed.
///
/// Writes run one after the other in the order in which they were queued. Reads run beside them, each on the last
/// commit. Cheap to clone; the threads end when the last clone is gone and the queued jobs are done.
///
/// ```
/// use opor_store::{OpenOptions, StoreHandle};
///
/// # let folder = std::env::temp_dir().join(format!("opor-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let handle = StoreHandle::open(folder.join("app.db"), &OpenOptions::new(), 2)?;
/// # futures::executor::block_on(async {
/// handle
///     .write(|store| {
///         store.execute_batch("CREATE TABLE IF NOT EXISTS todos(id TEXT PRIMARY KEY NOT NULL, title TEXT)")?;
///         store.replicate("todos")?;
///         store.execute("INSERT OR IGNORE INTO todos VALUES ('a', 'buy milk')", [])?;
///         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
///     })
///     .await??;
/// let count: i64 =
///     handle.read(|store| store.query_row("SELECT count(*) FROM todos", [], |row| row.get(0))).await??;
/// assert_eq!(count, 1);
/// # Ok::<_, Box<dyn std::error::Error + Send + Sync>>(()) }).unwrap();
/// # handle.close();
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct StoreHandle {
    writer: Sender<Job>,
    readers: Sender<Job>,
    watchers: Watchers,
    feeds: Arc<Feeds>,
    threads: Arc<Threads>,
    file: Arc<(PathBuf, OpenOptions)>,
}

impl fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreHandle")
            .field("writes_waiting", &self.writer.len())
            .field("reads_waiting", &self.readers.len())
            .finish_non_exhaustive()
    }
}

/// The commits that the writer of a [`StoreHandle`] makes; see [`StoreHandle::commits`].
#[derive(Debug)]
pub struct Commits(Receiver<DbVersion>);

impl Commits {
    /// The version of the last commit that has not been told yet; earlier ones that nobody waited for are left out.
    /// `None` once the handle is closed.
    ///
    /// # Cancel safety
    /// Safe: what has not been returned, a later call returns.
    pub async fn next(&mut self) -> Option<DbVersion> {
        self.0.recv().await.ok()
    }
}

/// Who is told of commits. Each has a place for one version, so nobody who is slow holds up the writer.
#[derive(Clone, Debug, Default)]
struct Watchers(Arc<Mutex<Vec<Sender<DbVersion>>>>);

impl Watchers {
    fn add(&self) -> Commits {
        let (sender, receiver) = bounded(1);
        self.lock().push(sender);
        Commits(receiver)
    }

    fn tell(&self, version: DbVersion) {
        self.lock().retain(|watcher| watcher.force_send(version).is_ok());
    }

    fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sender<DbVersion>>> {
        // Nothing under the lock panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl StoreHandle {
    /// Opens a file with one writer and `readers` readers, at least one.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions, readers: usize) -> Result<Self, OpenError> {
        let path = path.as_ref();
        // The writer comes first: it makes the file and the tables that readers expect.
        let mut stores = vec![options.open(path)?];
        let feeds = Arc::new(Feeds::default());
        stores[0].record_for(feeds.clone());
        for _ in 0..readers.max(1) {
            stores.push(options.clone().read_only(true).open(path)?);
        }
        let (writer, writes) = bounded(JOBS_WAITING_MAX);
        let (sender, reads) = bounded(JOBS_WAITING_MAX);
        let watchers = Watchers::default();
        let threads: Result<Vec<_>, _> = stores
            .into_iter()
            .enumerate()
            .map(|(i, store)| {
                let (name, jobs) = if i == 0 { ("opor-writer", &writes) } else { ("opor-reader", &reads) };
                let jobs = jobs.clone();
                let watchers = (i == 0).then(|| (watchers.clone(), feeds.clone()));
                thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || work(store, &jobs, watchers.as_ref()))
            })
            .collect();
        let threads = threads.map_err(|error| OpenError::Thread { source: error })?;
        let threads = Arc::new(Threads(Mutex::new(threads)));
        let file = Arc::new((path.to_owned(), options.clone()));
        Ok(Self { writer, readers: sender, watchers, feeds, threads, file })
    }

    /// The file, as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.0
    }

    /// How it was opened.
    #[must_use]
    pub fn options(&self) -> &OpenOptions {
        &self.file.1
    }

    /// Tells of every commit to replicated tables that the writer makes from now on. What other connections commit, it
    /// does not notice: ask [`Store::db_version`] from time to time for that.
    #[must_use]
    pub fn commits(&self) -> Commits {
        self.watchers.add()
    }

    /// Tells which rows each commit changes from now on, in whatever table, replicated or not; what other processes commit it
    /// notices, too. Any number of feeds may be open.
    #[must_use]
    pub fn row_feed(&self) -> RowFeed {
        RowFeed::new(self.feeds.clone())
    }

    /// The last commit that the writer has made, and that everybody can see. Asked after a [`write`](Self::write) has
    /// returned, it is that write's or a later one.
    #[must_use]
    pub fn commit_seq(&self) -> CommitSeq {
        self.feeds.seq()
    }

    /// Runs a job on the writer's thread and waits for its answer.
    ///
    /// # Errors
    /// [`HandleError`]; what the job itself returns is its own.
    ///
    /// # Cancel safety
    /// Dropped before the job is queued, it never runs. Once queued it runs to its end, whether anybody waits or not.
    ///
    /// # Durability
    /// What the job commits is as durable as [`Store`] says.
    pub async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Result<T, HandleError> {
        run(&self.writer, job).await
    }

    /// Runs a job on one of the readers' threads and waits for its answer. SQL that writes fails there.
    ///
    /// # Errors
    /// [`HandleError`]; what the job itself returns is its own.
    ///
    /// # Cancel safety
    /// As [`write`](Self::write).
    pub async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<T, HandleError> {
        run(&self.readers, |store: &mut Store| job(store)).await
    }

    /// Runs a job on a connection and a thread of its own, which only read and end with it: for work that takes long and
    /// should hold up neither the writer nor the readers. How many there are at once is up to the caller.
    ///
    /// # Errors
    /// [`OpenError`] when there is no thread or no connection to be had; [`HandleError::Panicked`].
    ///
    /// # Cancel safety
    /// Once begun it runs to its end, whether anybody waits or not.
    pub async fn aside<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Result<Result<T, HandleError>, OpenError> {
        let (answer, answered) = bounded(1);
        let file = self.file.clone();
        let work = move || {
            let opened = file.1.clone().read_only(true).open(&file.0);
            let _ = answer.try_send(opened.map(|store| job(&store)));
        };
        // A panic ends the thread, and with it the sender.
        let thread = thread::Builder::new().name("opor-aside".to_owned()).spawn(work);
        thread.map_err(|source| OpenError::Thread { source })?;
        answered.recv().await.map_or(Ok(Err(HandleError::Panicked)), |done| done.map(Ok))
    }

    /// Takes no more jobs, from any clone, does those that are queued, and closes the file. Blocks until then.
    pub fn close(self) {
        let threads = match self.threads.0.lock() {
            Ok(mut threads) => std::mem::take(&mut *threads),
            Err(poisoned) => std::mem::take(&mut *poisoned.into_inner()),
        };
        let mut threads = threads.into_iter();
        let writer = threads.next();
        self.readers.close();
        // Jobs that panic are caught, so the thread itself does not.
        threads.for_each(|reader| drop(reader.join()));
        // The writer is the last to go: SQLite cleans up behind the last connection, if that can write.
        self.writer.close();
        writer.into_iter().for_each(|writer| drop(writer.join()));
    }
}

async fn run<T: Send + 'static>(
    queue: &Sender<Job>,
    job: impl FnOnce(&mut Store) -> T + Send + 'static,
) -> Result<T, HandleError> {
    let (answer, answered) = bounded(1);
    let job: Job = Box::new(move |store| {
        let done = job(store);
        // Who gets the answer may ask for the commit at once, also when SQLite called nobody back for it: for DDL it does not.
        store.engine.record_committed();
        // Nobody may be waiting any more; the job is done all the same.
        let _ = answer.try_send(done);
    });
    queue.send(job).await.map_err(|_| HandleError::Closed)?;
    answered.recv().await.map_err(|_| HandleError::Panicked)
}

fn work(mut store: Store, jobs: &Receiver<Job>, watchers: Option<&(Watchers, Arc<Feeds>)>) {
    let mut told = store.engine.db_version();
    while let Ok(job) = jobs.recv_blocking() {
        let panicked = catch_unwind(AssertUnwindSafe(|| job(&mut store))).is_err();
        if panicked || !store.is_autocommit() {
            // A job leaves no transaction behind for the next.
            let _ = store.execute_batch("ROLLBACK");
        }
        // The job may have made what something in quarantine was waiting for. A busy file is tried again after the next.
        let _ = store.engine.settle_after_ddl();
        store.engine.record_committed();
        let version = store.engine.db_version();
        if version != std::mem::replace(&mut told, version)
            && let Some((watchers, _)) = watchers
        {
            watchers.tell(DbVersion(version));
        }
    }
    if let Some((watchers, feeds)) = watchers {
        watchers.close();
        feeds.close();
    }
}
