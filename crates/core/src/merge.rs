//! The merge rule: what an incoming change does to a row, as a pure function.

use std::cmp::Ordering;

use crate::{CausalLength, ColVersion, SiteId, ValueRef};

/// What this replica knows about the row, and the cell, that a change is about.
#[derive(Clone, Copy, Debug)]
pub struct LocalRow<'a> {
    /// The causal length of the row; 0 when it has never been seen.
    pub cl: CausalLength,
    /// The clock of the cell and its value; `None` when the cell has no clock.
    pub cell: Option<(ColVersion, SiteId, ValueRef<'a>)>,
}

/// The part of a change that decides.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// The causal length of the row where the change was made.
    pub cl: CausalLength,
    /// Whether the change is about the row itself.
    pub sentinel: bool,
    /// The version of the cell.
    pub col_version: ColVersion,
    /// Who wrote it.
    pub site_id: SiteId,
    /// The value.
    pub value: ValueRef<'a>,
}

/// What two equal writes of the same version come to: cr-sqlite's setting `merge-equal-values`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EqualValues {
    /// The local clock stays; replicas hold equal values but may disagree on who wrote them.
    #[default]
    KeepLocal,
    /// The clock of the larger site id wins, so that the change logs agree too.
    LargerSite,
}

/// What an incoming change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: the row has been created or deleted again since, or the change has no causal length.
    Stale,
    /// Nothing: the same is known already.
    Known,
    /// The row is deleted, and its column clocks with it.
    Delete,
    /// The row is created (or goes through a delete that was missed): its column clocks are zeroed, values stay.
    Create,
    /// The cell takes the incoming value.
    Win,
    /// [`Create`](Self::Create), then the cell takes the incoming value.
    CreateAndWin,
    /// The local cell stays: it is newer, or greater at the same version.
    Lose,
}

/// Decides what `incoming` does to `local`.
///
/// In this order, as cr-sqlite 0.16 does: an older causal length is ignored; an even newer one deletes; a sentinel with
/// an odd newer one creates; a column with an odd newer one creates and wins; at equal causal length a cell without a
/// clock loses to any, the higher `col_version` wins, a tie goes to the greater value
/// ([`ValueRef::merge_cmp`]), and a tie of that to `equal`.
#[must_use]
pub fn decide(local: LocalRow<'_>, incoming: Incoming<'_>, equal: EqualValues) -> Outcome {
    if incoming.cl < local.cl || incoming.cl == CausalLength(0) {
        return Outcome::Stale;
    }
    if incoming.cl.is_deleted() {
        return if incoming.cl == local.cl { Outcome::Known } else { Outcome::Delete };
    }
    if incoming.cl > local.cl {
        // A row seen for the first time at causal length 1 needs no sentinel: having columns says it exists.
        let plain_insert = local.cl == CausalLength(0) && incoming.cl == CausalLength(1);
        return match (incoming.sentinel, plain_insert) {
            (true, _) => Outcome::Create,
            (false, true) => Outcome::Win,
            (false, false) => Outcome::CreateAndWin,
        };
    }
    if incoming.sentinel {
        return Outcome::Known;
    }
    let Some((col_version, site_id, value)) = local.cell else {
        return Outcome::Win;
    };
    let order = incoming.col_version.cmp(&col_version).then_with(|| incoming.value.merge_cmp(value));
    match (order, equal) {
        (Ordering::Greater, _) => Outcome::Win,
        (Ordering::Less, _) => Outcome::Lose,
        (Ordering::Equal, EqualValues::LargerSite) if incoming.site_id > site_id => Outcome::Win,
        (Ordering::Equal, _) => Outcome::Known,
    }
}
