//! What can go wrong with a request, and what the client is told.

use std::error::Error;
use std::fmt::Write as _;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opor_core::{InvalidChange, JsonError};
use opor_store::{ApplyError, OpenError, ReadError, ReplicateError, StoreError};
use opor_sync::StartError;

use crate::RoomNameError;

/// Why a request was not carried out. Nothing has been stored when one is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The room cannot be called that.
    #[error("not the name of a room")]
    RoomName(#[from] RoomNameError),
    /// There is no such room.
    #[error("room {room} does not exist; PUT /rooms/{room}/schema creates it")]
    UnknownRoom {
        /// Its name.
        room: String,
    },
    /// There is nothing at this address.
    #[error("no such endpoint")]
    UnknownEndpoint,
    /// The endpoint does not take this method.
    #[error("this endpoint does not take that method")]
    Method,
    /// The query string makes no sense.
    #[error("query string is not understood: {reason}")]
    Query {
        /// What is wrong with it.
        reason: String,
    },
    /// The body is not what it should be.
    #[error("body is not understood: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
    },
    /// The body is JSON, but holds no changes.
    #[error("body holds no changes")]
    Changes(#[from] JsonError),
    /// The body is too large.
    #[error("body is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("body did not arrive within {seconds} s")]
    TooSlow {
        /// The limit.
        seconds: u64,
    },
    /// The changes could not be merged.
    #[error("changes are refused")]
    Apply(#[from] ApplyError),
    /// The change log could not be read from where the client wants it.
    #[error("changes cannot be read")]
    Read(#[from] ReadError),
    /// The schema was not taken.
    #[error("schema is refused")]
    Schema(#[from] SchemaError),
    /// More requests wait for the room than it queues.
    #[error("room {room} has too many requests waiting, try again")]
    Busy {
        /// Its name.
        room: String,
    },
    /// No token was shown, or a wrong one.
    #[error("token is missing or not valid")]
    Unauthorized,
    /// A page of another site asks, and no token is needed.
    #[error("pages of other sites are let in only by a hub with a token")]
    Origin,
    /// No place for another session.
    #[error("{what} has all of its {max} sessions, try later")]
    Full {
        /// What is full.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// No more rooms are made.
    #[error("hub has {max} rooms, which is its limit")]
    TooManyRooms {
        /// The limit.
        max: usize,
    },
    /// A request that no session can begin with.
    #[error("a session begins with a WebSocket upgrade: {reason}")]
    Upgrade {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Too many requests of this kind are under way.
    #[error("hub has too many requests under way, try again")]
    Overloaded,
    /// The hub is shutting down.
    #[error("hub is closing")]
    Closing,
    /// The room's database cannot be opened.
    #[error("room's database does not open")]
    Open(#[from] OpenError),
    /// The room's database failed.
    #[error("room's database failed")]
    Store(#[from] StoreError),
    /// Syncing did not start.
    #[error("room cannot sync")]
    Sync(#[from] StartError),
    /// Something of the hub's own broke.
    #[error("hub failed")]
    Failed,
    /// The data directory failed.
    #[error("hub's data directory failed")]
    Directory(#[source] std::io::Error),
}

/// Why a schema is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// More statements or tables than a room may have.
    #[error("schema has {count} entries, the limit is {max}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A statement that does not run, or does something else than create a table or an index.
    #[error("statement {index} is not a CREATE TABLE or CREATE INDEX that runs")]
    Statement {
        /// Which, from 0.
        index: usize,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A name kept for internal tables.
    #[error("table {table:?} has a reserved name")]
    Reserved {
        /// The table.
        table: String,
    },
    /// A table to replicate that the schema does not create.
    #[error("table {table:?} is to be replicated, but the schema does not create it")]
    Missing {
        /// The table.
        table: String,
    },
    /// A table that cannot replicate.
    #[error("table {table:?} cannot replicate")]
    Replicate {
        /// The table.
        table: String,
        /// Why not.
        source: ReplicateError,
    },
    /// The room has a table or index of that name with other columns.
    #[error("{name:?} exists in the room already, with another definition")]
    Differs {
        /// The table or index.
        name: String,
    },
    /// SQLite failed for a reason of its own.
    #[error("schema could not be stored")]
    Sqlite(#[source] rusqlite::Error),
}

impl HubError {
    /// The stable name of the error, for programs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::RoomName(_) => "room_name",
            Self::UnknownRoom { .. } => "unknown_room",
            Self::UnknownEndpoint => "unknown_endpoint",
            Self::Method => "method",
            Self::Query { .. } => "query",
            Self::Malformed { .. } | Self::Changes(_) => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::TooSlow { .. } => "too_slow",
            Self::Apply(error) => apply_kind(error),
            Self::Schema(SchemaError::Differs { .. }) => "schema_conflict",
            Self::Read(ReadError::BehindHorizon { .. }) => "behind_horizon",
            Self::Read(_)
            | Self::Schema(SchemaError::Sqlite(_))
            | Self::Open(_)
            | Self::Store(_)
            | Self::Sync(_)
            | Self::Failed
            | Self::Directory(_) => "internal",
            Self::Schema(_) => "schema",
            Self::Busy { .. } | Self::Overloaded => "busy",
            Self::Unauthorized => "unauthorized",
            Self::Origin => "origin",
            Self::Full { .. } => "full",
            Self::TooManyRooms { .. } => "too_many_rooms",
            Self::Upgrade { .. } => "upgrade",
            Self::Closing => "closing",
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::RoomName(_) | Self::Query { .. } | Self::Malformed { .. } | Self::Changes(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::UnknownRoom { .. } | Self::UnknownEndpoint => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Read(ReadError::BehindHorizon { .. }) => StatusCode::GONE,
            Self::Read(_)
            | Self::Apply(ApplyError::Sqlite(_))
            | Self::Schema(SchemaError::Sqlite(_))
            | Self::Open(_)
            | Self::Store(_)
            | Self::Sync(_)
            | Self::Failed
            | Self::Directory(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Apply(ApplyError::Constraint { .. }) | Self::Schema(SchemaError::Differs { .. }) => {
                StatusCode::CONFLICT
            }
            Self::Apply(_) | Self::Schema(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Upgrade { .. } => StatusCode::UPGRADE_REQUIRED,
            Self::TooManyRooms { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Busy { .. } | Self::Overloaded | Self::Full { .. } | Self::Closing => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The sentence the client is told: this error and its causes. Faults of the hub itself are not spelled out, since
    /// their causes name files.
    pub(crate) fn message(&self) -> String {
        let mut message = self.to_string();
        if self.status().is_server_error() {
            return message;
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(message, ": {error}").expect("writing to a String does not fail");
            cause = error.source();
        }
        message
    }
}

/// `{"error": {"kind": .., "message": ..}}` with the status that fits.
impl IntoResponse for HubError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": { "kind": self.kind(), "message": self.message() } });
        let mut response =
            (self.status(), [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Upgrade { .. } => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            }
            _ => {}
        }
        response
    }
}

const fn apply_kind(error: &ApplyError) -> &'static str {
    match error {
        ApplyError::Invalid(InvalidChange { .. }) => "invalid_change",
        ApplyError::UnknownTable { .. } => "unknown_table",
        ApplyError::UnknownColumn { .. } => "unknown_column",
        ApplyError::KeyShape { .. } => "key_shape",
        ApplyError::Constraint { .. } => "constraint",
        ApplyError::Malformed(_) => "malformed",
        ApplyError::Sqlite(_) => "internal",
        _ => "refused",
    }
}
