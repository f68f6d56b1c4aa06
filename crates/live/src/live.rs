//! Where live queries are asked for.

use std::marker::PhantomData;
use std::sync::Arc;
use std::thread;

use async_channel::{Receiver, Sender, bounded, unbounded};
use futures_util::stream::{self, BoxStream, StreamExt};
use opor_core::Value;
use opor_store::{CommitSeq, FeedWaker, StoreHandle};
use serde::de::DeserializeOwned;

use crate::error::{LiveError, StartError};
use crate::explain::Explanation;
use crate::interned::Interned;
use crate::options::LiveOptions;
use crate::parameters::Parameters;
use crate::result::Key;
use crate::shared::{Progress, Shared};
use crate::stats::{Counters, LiveStats};
use crate::subscription::{LiveState, Subscription};
use crate::worker::{Command, Worker};

/// The live queries of one database. Cheap to clone; the thread ends when the last clone and the last subscription are gone, or
/// the database is closed.
#[derive(Clone, Debug)]
pub struct Live {
    pub(crate) desk: Arc<Desk>,
}

/// What every clone and every subscription holds on to.
#[derive(Debug)]
pub(crate) struct Desk {
    commands: Sender<Command>,
    waker: FeedWaker,
    pub(crate) progress: Arc<Progress>,
    counters: Arc<Counters>,
    handle: StoreHandle,
    /// The columns by which subscribers tell rows apart.
    pub(crate) keys: Interned,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.commands.close();
        self.waker.wake();
    }
}

impl Desk {
    /// Hands a command to the thread; `false` when it has ended.
    pub(crate) fn ask(&self, command: Command) -> bool {
        // There are no more of them than subscriptions.
        let asked = self.commands.try_send(command).is_ok();
        self.waker.wake();
        asked
    }
}

impl Live {
    /// Starts live queries on a database, with the default options.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(handle: &StoreHandle) -> Result<Self, StartError> {
        Self::start_with(handle, LiveOptions::default())
    }

    /// Starts live queries on a database.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_with(handle: &StoreHandle, options: LiveOptions) -> Result<Self, StartError> {
        let feed = handle.row_feed();
        let store = handle.options().clone().read_only(true).open(handle.path())?;
        let (commands, asked) = unbounded();
        let progress = Arc::new(Progress::default());
        let counters = Arc::new(Counters::default());
        let waker = feed.waker();
        let (shown, counted) = (progress.clone(), counters.clone());
        let work = move || Worker::new(store, feed, asked, shown, counted, options).work();
        thread::Builder::new().name("opor-live".to_owned()).spawn(work).map_err(StartError::Thread)?;
        let (handle, keys) = (handle.clone(), Interned::default());
        Ok(Self { desk: Arc::new(Desk { commands, waker, progress, counters, handle, keys }) })
    }

    /// Begins a query whose rows are read as `T`: a struct by the names of the columns, a tuple by their order, or a single value.
    pub fn query<T: DeserializeOwned>(&self, sql: impl Into<Arc<str>>) -> Query<T> {
        Query {
            desk: self.desk.clone(),
            sql: sql.into(),
            parameters: Parameters::default(),
            key: Vec::new(),
            rows: PhantomData,
        }
    }

    /// Tells what a query depends on, and when it is run again.
    ///
    /// # Errors
    /// See [`LiveError`]: what [`Query::subscribe`] would refuse.
    ///
    /// # Cancel safety
    /// Safe: nothing is kept.
    pub async fn explain(&self, sql: impl Into<Arc<str>>) -> Result<Explanation, LiveError> {
        let (answer, answered) = bounded(1);
        self.desk.ask(Command::Explain { sql: sql.into(), answer });
        answered.recv().await.map_err(|_| LiveError::Closed)?
    }

    /// Waits until every result takes part in all that was committed up to `seq`, which is
    /// [`commit_seq`](StoreHandle::commit_seq) after a write: what one has written, one then reads.
    ///
    /// # Errors
    /// [`LiveError::Closed`].
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn caught_up(&self, seq: CommitSeq) -> Result<(), LiveError> {
        self.desk.progress.reached(seq).await
    }

    /// As [`caught_up`](Self::caught_up), with everything that has been committed by now.
    ///
    /// # Errors
    /// [`LiveError::Closed`].
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn settled(&self) -> Result<(), LiveError> {
        self.caught_up(self.desk.handle.commit_seq()).await
    }

    /// Looks at several subscriptions while none of them moves: what they show is of one commit. It must not wait for anything.
    pub fn together<T>(&self, look: impl FnOnce(CommitSeq) -> T) -> T {
        self.desk.progress.together(look)
    }

    /// Counts of what has been done so far.
    #[must_use]
    pub fn stats(&self) -> LiveStats {
        self.desk.counters.read()
    }
}

/// Where the answer to who subscribes comes. When it is given up, a query that has come and that nobody took is let go of.
struct Answered(Receiver<Result<Arc<Shared>, LiveError>>);

impl Drop for Answered {
    fn drop(&mut self) {
        // From here on the thread sees for itself that nobody waits.
        self.0.close();
        drop(self.0.try_recv());
    }
}

/// A query that is being put together; see [`Live::query`].
#[derive(Debug)]
#[must_use = "a query runs when it is subscribed to"]
pub struct Query<T> {
    desk: Arc<Desk>,
    sql: Arc<str>,
    parameters: Parameters,
    key: Vec<String>,
    rows: PhantomData<fn() -> T>,
}

impl<T> Clone for Query<T> {
    fn clone(&self) -> Self {
        Self {
            desk: self.desk.clone(),
            sql: self.sql.clone(),
            parameters: self.parameters.clone(),
            key: self.key.clone(),
            rows: PhantomData,
        }
    }
}

impl<T: DeserializeOwned + Send + 'static> Query<T> {
    /// The value of the next parameter.
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.parameters.positional.push(value.into());
        self
    }

    /// The value of a parameter that has a name, with or without the sign before it.
    pub fn bind_named(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.named.push((name.to_owned(), value.into()));
        self
    }

    /// The columns of the result that tell one row from another. With a key, diffs say that a row was updated; without, it goes
    /// and another comes.
    pub fn key<S: Into<String>>(mut self, columns: impl IntoIterator<Item = S>) -> Self {
        self.key = columns.into_iter().map(Into::into).collect();
        self
    }

    /// Runs the query and keeps its result current until the subscription is dropped. The same statement with the same parameters is
    /// run once for all who ask.
    ///
    /// # Errors
    /// See [`LiveError`]; other queries are not affected.
    ///
    /// # Cancel safety
    /// Safe: who does not wait for the answer has not subscribed.
    pub async fn subscribe(self) -> Result<Subscription<T>, LiveError> {
        let (answer, answered) = bounded(1);
        let Self { desk, sql, parameters, key, .. } = self;
        let answered = Answered(answered);
        desk.ask(Command::Subscribe { desk: desk.clone(), sql, parameters, answer });
        let shared = answered.0.recv().await.map_err(|_| LiveError::Closed)??;
        Key::named(&key, shared.now().0?.columns())?;
        Ok(Subscription::new(shared, &key))
    }

    /// What a user interface shows: loading at first, then the data, and errors beside the last data there was. The stream ends when the
    /// database is closed, or when the query is none.
    #[must_use]
    pub fn states(self) -> BoxStream<'static, LiveState<T>>
    where
        T: Clone + Sync,
    {
        let loading = LiveState { data: None, error: None, loading: true };
        let later = stream::once(self.subscribe()).flat_map(|subscribed| match subscribed {
            Err(error) => {
                stream::iter([LiveState { data: None, error: Some(error), loading: false }]).boxed()
            }
            Ok(subscription) => {
                let snapshots = subscription.snapshots();
                let states = snapshots.scan(None, |last, snapshot| {
                    let (data, error) = match snapshot {
                        Ok(snapshot) => (Some(Arc::new(snapshot.rows)), None),
                        Err(error) => (last.clone(), Some(error)),
                    };
                    last.clone_from(&data);
                    std::future::ready(Some(LiveState { data, error, loading: false }))
                });
                // The subscription lives as long as its snapshots.
                states.map(move |state| (&subscription, state).1).boxed()
            }
        });
        stream::iter([loading]).chain(later).boxed()
    }
}
