//! How far a pull has got.

use std::fmt;
use std::str::FromStr;

use opor_core::DbVersion;

/// How far a pull from a peer has got; opaque to keep, with a text form to store and send.
///
/// Everything the peer committed at or below `base` is held. While a pull in pieces is under way the cursor also says
/// how far that pull is; only its last piece moves `base`. The epoch is the peer's: it changes when the peer's
/// history is cut, and a cursor of another epoch is refused ([`ReadError::BehindHorizon`](crate::ReadError)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Everything at or below this version is held.
    pub base: DbVersion,
    pub(crate) epoch: Option<u64>,
    pub(crate) position: Option<Position>,
}

/// A place in the walk over blocks by newest version: `(version, table, block)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) dv: u64,
    pub(crate) table: u32,
    pub(crate) place: i64,
}

impl Cursor {
    /// Before everything.
    #[must_use]
    pub const fn start() -> Self {
        Self::at(DbVersion(0))
    }

    /// After everything at or below `base`, whatever the epoch: for protocols that only know a number.
    #[must_use]
    pub const fn at(base: DbVersion) -> Self {
        Self { base, epoch: None, position: None }
    }

    /// Whether who stands here holds all that `other` says is held; `false` may be wrong where epochs differ, or where
    /// one is not known.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let same_epoch = self.epoch.is_some() && self.epoch == other.epoch;
        same_epoch && other.position.is_none() && other.base <= self.base
    }

    /// Whether a pull in pieces is under way.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.position.is_some()
    }
}

/// `base`, `base@epoch` or `base@epoch:version.table.block`.
impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        if let Some(epoch) = self.epoch {
            write!(f, "@{epoch}")?;
        }
        if let Some(Position { dv, table, place }) = self.position {
            write!(f, ":{dv}.{table}.{place}")?;
        }
        Ok(())
    }
}

/// Text that is not a [`Cursor`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a cursor")]
pub struct CursorError {
    text: String,
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        parse(text).ok_or_else(|| CursorError { text: text.chars().take(80).collect() })
    }
}

fn parse(text: &str) -> Option<Cursor> {
    let (head, position) = match text.split_once(':') {
        None => (text, None),
        Some((head, position)) => {
            let mut parts = position.splitn(3, '.');
            let position = Position {
                dv: parts.next()?.parse().ok()?,
                table: parts.next()?.parse().ok()?,
                place: parts.next()?.parse().ok()?,
            };
            (head, Some(position))
        }
    };
    let (base, epoch) = match head.split_once('@') {
        None => (head, None),
        Some((base, epoch)) => (base, Some(epoch.parse().ok()?)),
    };
    let base = DbVersion(base.parse().ok().filter(|base| *base <= DbVersion::MAX.0)?);
    Some(Cursor { base, epoch, position })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_round_trips() {
        let position = Some(Position { dv: 9, table: 2, place: -4 });
        for cursor in [
            Cursor::start(),
            Cursor { base: DbVersion(7), epoch: Some(12), position: None },
            Cursor { base: DbVersion(7), epoch: Some(12), position },
        ] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for bad in ["", "x", "1@", "1@2:3", "1:2.3", "-1", "1@2:3.4.x", "99999999999999999999"] {
            assert_eq!(bad.parse::<Cursor>(), Err(CursorError { text: bad.to_owned() }));
        }
    }
}
