//! A query that stays current, as those who subscribed see it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use opor_core::DbVersion;
use opor_store::{CommitSeq, Origin};
use serde::de::DeserializeOwned;

use crate::diff::{Edit, edits};
use crate::error::LiveError;
use crate::result::{Key, ResultSet, Row};
use crate::row;
use crate::shared::Shared;
use crate::worker::Command;

/// A result as it was after one commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<T> {
    /// Its rows, in the order of the query.
    pub rows: Vec<T>,
    /// The names of its columns.
    pub columns: Arc<[String]>,
    /// The commit at which the result became this.
    pub seq: CommitSeq,
    /// The last commit in the file then, of whatever process; see [`LiveOptions::tell_commits`](crate::LiveOptions::tell_commits).
    pub commit: Option<DbVersion>,
    /// Who made that commit; `None` for the first result.
    pub origin: Option<Origin>,
    /// Stands for this result.
    pub token: ResumeToken,
}

/// What leads from one result to a later one.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff<T> {
    /// The steps, in their order; see [`Edit`].
    pub edits: Vec<Edit<T>>,
    /// The names of the later result's columns. They are others than before only with an [`Edit::Reset`].
    pub columns: Arc<[String]>,
    /// The commit at which the result became the later one.
    pub seq: CommitSeq,
    /// The last commit in the file then, of whatever process; see [`LiveOptions::tell_commits`](crate::LiveOptions::tell_commits).
    pub commit: Option<DbVersion>,
    /// Who made that commit; `None` for the first result. When several commits lie between, it is that of the last that changed
    /// the result.
    pub origin: Option<Origin>,
    /// Stands for the later result.
    pub token: ResumeToken,
}

/// Stands for one result of one query, as long as somebody is subscribed to it; see [`Subscription::diffs_from`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResumeToken {
    query: u64,
    version: u64,
}

impl fmt::Display for ResumeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.query, self.version)
    }
}

/// What a user interface shows of a query; see [`Query::states`](crate::Query::states).
#[derive(Clone, Debug, PartialEq)]
pub struct LiveState<T> {
    /// The last rows there were.
    pub data: Option<Arc<Vec<T>>>,
    /// Why there are none, or none that are current.
    pub error: Option<LiveError>,
    /// Nothing has come yet.
    pub loading: bool,
}

/// A query that stays current until this is dropped, with all streams made from it.
#[derive(Debug)]
pub struct Subscription<T> {
    shared: Arc<Shared>,
    /// The columns that tell rows apart, where there are some.
    key: Option<Arc<[String]>>,
    rows: PhantomData<fn() -> T>,
}

impl<T> Clone for Subscription<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), key: self.key.clone(), rows: PhantomData }
    }
}

impl<T: DeserializeOwned + Send + 'static> Subscription<T> {
    /// Of a query that has a result in which these columns are.
    pub(crate) fn new(shared: Arc<Shared>, key: &[String]) -> Self {
        let key = (!key.is_empty()).then(|| shared.desk().keys.list(key));
        Self { shared, key, rows: PhantomData }
    }

    fn key_columns(&self) -> &[String] {
        self.key.as_deref().unwrap_or_default()
    }

    /// The result as it is now.
    ///
    /// # Errors
    /// Why there is none at present; see [`LiveError`].
    pub fn current(&self) -> Result<Snapshot<T>, LiveError> {
        self.snapshot(&*self.shared.now().0?)
    }

    /// The result as it is now, in values of SQLite, with the names of its columns.
    ///
    /// # Errors
    /// Why there is none at present; see [`LiveError`].
    pub fn current_values(&self) -> Result<(Arc<[String]>, Vec<Row>), LiveError> {
        let result = self.shared.now().0?;
        Ok((result.columns().clone(), result.rows.to_vec()))
    }

    /// The result as it is now, and then whenever it is another. Who is slow misses what lies between, never the last.
    ///
    /// An error is told, and the stream goes on: the query may have a result again. It ends when the database is closed.
    #[must_use]
    pub fn snapshots(&self) -> BoxStream<'static, Result<Snapshot<T>, LiveError>> {
        let subscription = self.clone();
        stream::unfold((subscription, 0), |(subscription, turn)| async move {
            let (outcome, turn) = subscription.shared.after(turn).await;
            let item = match outcome {
                Err(LiveError::Closed) => return None,
                outcome => outcome.and_then(|result| subscription.snapshot(&result)),
            };
            Some((item, (subscription, turn)))
        })
        .boxed()
    }

    /// What changes: first the result as it is now, as an [`Edit::Reset`], and then the steps to the next. Who is slow gets one
    /// diff for all that happened meanwhile; no more than two results are kept for it.
    ///
    /// An error is told, and the next diff leads from the last result before it. The stream ends when the database is closed.
    #[must_use]
    pub fn diffs(&self) -> BoxStream<'static, Result<Diff<T>, LiveError>> {
        self.follow(None, 0)
    }

    /// As [`diffs`](Self::diffs), for somebody who has the result that a token stands for: if it is still the one, the stream
    /// begins with the next change, and otherwise anew.
    #[must_use]
    pub fn diffs_from(&self, token: ResumeToken) -> BoxStream<'static, Result<Diff<T>, LiveError>> {
        let (outcome, turn) = self.shared.now();
        match outcome {
            Ok(result) if self.token(&result) == token => self.follow(Some(result), turn),
            _ => self.diffs(),
        }
    }

    fn follow(
        &self,
        last: Option<Arc<ResultSet>>,
        turn: u64,
    ) -> BoxStream<'static, Result<Diff<T>, LiveError>> {
        let subscription = self.clone();
        stream::unfold((subscription, last, turn), |(subscription, last, turn)| async move {
            let (outcome, turn) = subscription.shared.after(turn).await;
            let result = match outcome {
                Ok(result) => result,
                Err(LiveError::Closed) => return None,
                Err(error) => return Some((Err(error), (subscription, last, turn))),
            };
            match subscription.diff(last.as_deref(), &result) {
                Ok(diff) => Some((Ok(diff), (subscription, Some(result), turn))),
                Err(error) => Some((Err(error), (subscription, last, turn))),
            }
        })
        .boxed()
    }

    /// Runs the query anew, although nothing has changed for it as far as opor knows.
    pub fn refetch(&self) {
        self.shared.desk().ask(Command::Refetch { query: self.shared.id });
    }

    /// Waits until the result is another than that of a token. Cheaper than a stream for those who only want to look.
    ///
    /// # Errors
    /// [`LiveError::Closed`].
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn changed(&self, since: ResumeToken) -> Result<(), LiveError> {
        let mut seen = 0;
        loop {
            let (outcome, turn) = self.shared.after(seen).await;
            match outcome {
                Err(LiveError::Closed) => return Err(LiveError::Closed),
                Ok(result) if self.token(&result) == since => seen = turn,
                _ => return Ok(()),
            }
        }
    }

    fn token(&self, result: &ResultSet) -> ResumeToken {
        ResumeToken { query: self.shared.id.0.into(), version: result.version }
    }

    fn snapshot(&self, result: &ResultSet) -> Result<Snapshot<T>, LiveError> {
        Key::named(self.key_columns(), result.columns())?.check(&result.rows)?;
        let rows = result.rows.iter().enumerate().map(|(at, row)| row::read(at, row, result.columns()));
        Ok(Snapshot {
            rows: rows.collect::<Result<_, _>>()?,
            columns: result.columns().clone(),
            seq: result.seq,
            commit: result.source.commit,
            origin: result.source.origin,
            token: self.token(result),
        })
    }

    fn diff(&self, last: Option<&ResultSet>, result: &ResultSet) -> Result<Diff<T>, LiveError> {
        let key = Key::named(self.key_columns(), result.columns())?;
        key.check(&result.rows)?;
        let edits = match last.filter(|last| last.heading == result.heading) {
            Some(last) => edits(last, result, &key),
            None => vec![Edit::Reset { rows: result.rows.to_vec() }],
        };
        let read = |at: usize, row: Row| row::read(at, &row, result.columns());
        Ok(Diff {
            edits: edits.into_iter().map(|edit| edit.try_map(&read)).collect::<Result<_, _>>()?,
            columns: result.columns().clone(),
            seq: result.seq,
            commit: result.source.commit,
            origin: result.source.origin,
            token: self.token(result),
        })
    }
}
