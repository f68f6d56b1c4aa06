//! `GET` and `POST /changes/{room}`: the change log of a room as JSON rows.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::IntoResponse;
use opor_core::{Changeset, DbVersion, DecodeLimits, SiteId};
use opor_store::{ApplyOptions, ApplyReport, Cursor, Store};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use crate::body::{WholeBody, parse_json};
use crate::hub::Hub;
use crate::rooms::Visit;
use crate::{HubError, RoomName};

/// Memory for the changes of a body, for each byte of it: a change of 130 bytes of JSON takes about 200.
const MEMORY_PER_BYTE: usize = 8;

/// About how many changes are in memory for one answer: some 2 MiB of JSON with short values. More are sent piece by
/// piece.
const PIECE: usize = 10_000;

/// What is asked for in the query string.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PullQuery {
    /// Changes after this commit of the hub.
    since: Option<u64>,
    /// Where the last piece ended: the value of its header `opor-cursor`. Goes before `since`.
    cursor: Option<String>,
    /// About how many changes at most; a piece has [`PIECE`] of them at the most.
    limit: Option<usize>,
    /// Leave out what this site wrote, in hex.
    exclude: Option<String>,
}

/// A piece of the change log.
struct Piece {
    changeset: Changeset,
    site_id: SiteId,
    /// What was committed before the piece was read.
    db_version: DbVersion,
    cursor: Cursor,
    done: bool,
}

/// Answers an array of rows in order of `db_version` and `seq`, which are the hub's own. Without a limit it is the whole
/// log; where that has more than [`PIECE`] changes it is sent in pieces, each of them in order.
///
/// Headers: `opor-site-id`, the hub's identity; `opor-db-version`, the commit up to which the client now holds
/// everything, even when the array is empty; `opor-cursor`, where to go on; `opor-more`, whether there is more.
pub(crate) async fn pull(
    State(hub): State<Hub>,
    room: RoomName,
    query: Result<Query<PullQuery>, QueryRejection>,
) -> Result<impl IntoResponse, HubError> {
    let Query(query) = query.map_err(|error| HubError::Query { reason: error.body_text() })?;
    let (cursor, exclude) = (query.start()?, query.excluded()?);
    let limit = query.limit.unwrap_or(PIECE).clamp(1, PIECE);
    let place = hub.streams().clone().acquire_owned().await.map_err(|_| HubError::Closing)?;
    let room = hub.rooms().existing(&room).await?;
    let mut piece = read(&room, cursor, limit).await?;
    if piece.done || query.limit.is_some() {
        let headers = piece.headers();
        return Ok((headers, Body::from(encode(piece, exclude).await?)));
    }
    let rest = Rest { next: Some(piece.cursor), room, exclude, _place: place };
    // All that had been committed when the first piece was read is in the array, when it has come to its end.
    (piece.cursor, piece.done) = (Cursor::at(piece.db_version), true);
    let headers = piece.headers();
    let mut first = encode(piece, exclude).await?;
    first.pop();
    let stream = futures::stream::try_unfold((Some(first), rest), |(first, rest)| async move {
        match first {
            Some(first) => Ok(Some((first, (None, rest)))),
            None => Ok::<_, HubError>(rest.piece().await?.map(|(text, rest)| (text, (None, rest)))),
        }
    });
    Ok((headers, Body::from_stream(stream)))
}

/// What is still to be sent of an answer in pieces. The room stays open for it.
struct Rest {
    room: Visit,
    /// None once all is sent.
    next: Option<Cursor>,
    exclude: Option<SiteId>,
    _place: OwnedSemaphorePermit,
}

impl Rest {
    /// The next piece, as the middle of an array or its end.
    async fn piece(self) -> Result<Option<(String, Self)>, HubError> {
        let Some(cursor) = self.next else { return Ok(None) };
        let piece = read(&self.room, cursor, PIECE).await?;
        let next = (!piece.done).then_some(piece.cursor);
        let array = encode(piece, self.exclude).await?;
        let rows = &array[1..array.len() - 1];
        let separator = if rows.is_empty() { "" } else { "," };
        let end = if next.is_none() { "]" } else { "" };
        Ok(Some((format!("{separator}{rows}{end}"), Self { next, ..self })))
    }
}

/// Merges rows; answers what that did. All of them or, on an error, none.
pub(crate) async fn post(
    State(hub): State<Hub>,
    room: RoomName,
    WholeBody(body, _share): WholeBody,
) -> Result<impl IntoResponse, HubError> {
    let room = hub.rooms().existing(&room).await?;
    let bytes_max = hub.options().body_bytes_max;
    let limits = DecodeLimits { bytes_max, memory_max: bytes_max.saturating_mul(MEMORY_PER_BYTE) };
    let decode = tokio::task::spawn_blocking(move || decode(&body, &limits));
    let changeset = decode.await.map_err(|_| HubError::Closing)??;
    let answer = room.write(move |store| {
        // Who posts rows by hand is told what is wrong with them; replicas sync.
        let options = ApplyOptions { refuse_unstorable: true, ..ApplyOptions::default() };
        let report = store.apply_with(&changeset, &options)?;
        Ok(answer(&changeset, &report, store.site_id(), store.db_version()?))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], answer.await?.to_string()))
}

impl PullQuery {
    fn start(&self) -> Result<Cursor, HubError> {
        if let Some(cursor) = &self.cursor {
            return cursor
                .parse()
                .map_err(|_| HubError::Query { reason: "cursor is not one of ours".into() });
        }
        match DbVersion(self.since.unwrap_or(0)) {
            since if since > DbVersion::MAX => {
                Err(HubError::Query { reason: format!("since is {since}, the limit is {}", DbVersion::MAX) })
            }
            since => Ok(Cursor::at(since)),
        }
    }

    fn excluded(&self) -> Result<Option<SiteId>, HubError> {
        let Some(hex) = &self.exclude else { return Ok(None) };
        let site = SiteId::from_hex(hex).map_err(|error| HubError::Query { reason: error.to_string() })?;
        Ok(Some(site))
    }
}

impl Piece {
    fn headers(&self) -> HeaderMap {
        let text = |value: String| HeaderValue::try_from(value).expect("numbers and hex are header text");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("opor-site-id", text(self.site_id.to_string()));
        headers.insert("opor-db-version", text(self.cursor.base.to_string()));
        headers.insert("opor-cursor", text(self.cursor.to_string()));
        headers.insert("opor-more", text((!self.done).to_string()));
        headers
    }

    fn encode(self, exclude: Option<SiteId>) -> String {
        let Some(exclude) = exclude else { return self.changeset.to_json() };
        let others: Changeset = self.changeset.changes().filter(|change| change.site_id != exclude).collect();
        others.to_json()
    }
}

/// The changes as an array, or as `{"changes": [..]}`.
fn decode(body: &[u8], limits: &DecodeLimits) -> Result<Changeset, HubError> {
    #[derive(Deserialize)]
    struct Wrapped<'a> {
        #[serde(borrow)]
        changes: &'a RawValue,
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Ok(Changeset::from_json(body, limits)?);
    }
    let wrapped: Wrapped<'_> = parse_json(body)?;
    Ok(Changeset::from_json(wrapped.changes.get(), limits)?)
}

async fn read(room: &Visit, cursor: Cursor, limit: usize) -> Result<Piece, HubError> {
    let job = move |store: &Store| {
        let (site_id, db_version) = (store.site_id(), store.db_version()?);
        let batch = store.changes(&cursor, limit)?;
        Ok(Piece { changeset: batch.changeset, site_id, db_version, cursor: batch.cursor, done: batch.done })
    };
    room.read(job).await
}

async fn encode(piece: Piece, exclude: Option<SiteId>) -> Result<String, HubError> {
    let encoding = tokio::task::spawn_blocking(move || piece.encode(exclude));
    encoding.await.map_err(|_| HubError::Closing)
}

fn answer(
    changeset: &Changeset,
    report: &ApplyReport,
    site_id: SiteId,
    db_version: DbVersion,
) -> serde_json::Value {
    serde_json::json!({
        "applied": changeset.len(),
        "db_version": db_version,
        "site_id": site_id.to_string(),
        "rows_inserted": report.rows_inserted,
        "rows_updated": report.rows_updated,
        "rows_deleted": report.rows_deleted,
        "cells_won": report.cells_won,
        "cells_lost": report.cells_lost,
        "unchanged": report.unchanged,
    })
}
