//! Events of a merge as a peer's `/pull` reports them.

use opor_store::{MergeEvent, MergeEventKind, Side};
use serde::{Deserialize, Serialize};

use crate::database::literal;

/// What a merge did to a row or cell that others had written too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) table: String,
    /// The key, as people read it.
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) kind: EventKind,
}

/// The kinds; the plain ones (inserted, updated) are only counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum EventKind {
    Deleted,
    Resurrected,
    Stale { local_cl: u64, incoming_cl: u64 },
    Conflict { column: String, local: Written, incoming: Written, incoming_won: bool },
}

/// A value and its stamp.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Written {
    /// As an SQL literal.
    pub(crate) value: String,
    pub(crate) col_version: u64,
    pub(crate) site_id: String,
}

impl Event {
    /// The event, when it is of a kind that is reported.
    pub(crate) fn of(event: &MergeEvent) -> Option<Self> {
        let kind = match &event.kind {
            MergeEventKind::Deleted => EventKind::Deleted,
            MergeEventKind::Resurrected => EventKind::Resurrected,
            MergeEventKind::Stale { local_cl, incoming_cl } => {
                EventKind::Stale { local_cl: local_cl.0, incoming_cl: incoming_cl.0 }
            }
            MergeEventKind::Conflict { column, local, incoming, incoming_won } => EventKind::Conflict {
                column: column.to_string(),
                local: Written::of(local),
                incoming: Written::of(incoming),
                incoming_won: *incoming_won,
            },
            _ => return None,
        };
        Some(Self { table: event.table.to_string(), key: event.key.to_string(), kind })
    }
}

impl Written {
    /// What a change says.
    pub(crate) fn of_change(change: &opor_core::Change) -> Self {
        Self {
            value: literal(&change.val),
            col_version: change.col_version.0,
            site_id: change.site_id.to_string(),
        }
    }

    fn of(side: &Side) -> Self {
        Self {
            value: literal(&side.value),
            col_version: side.col_version.0,
            site_id: side.site_id.to_string(),
        }
    }
}
