//! From one result to the next: edits by position.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::error::LiveError;
use crate::result::{Key, ResultSet, Row};

/// Moving rows by hand is quadratic: past this many steps the whole result is told anew.
const MOVE_STEPS_MAX: usize = 4_000_000;

/// One step from a result to the next. Steps are taken in the order in which they come; each is about the list as the steps
/// before have left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit<T> {
    /// The row at this place goes.
    Remove {
        /// The place, counted from 0.
        at: usize,
    },
    /// A row goes from one place to another: it is taken out, and then put in.
    Move {
        /// Where it is.
        from: usize,
        /// Where it is afterwards.
        to: usize,
    },
    /// A row comes in at this place; those from there on move up.
    Insert {
        /// The place.
        at: usize,
        /// The row.
        row: T,
    },
    /// The row at this place, which keeps its key, has other values.
    Update {
        /// The place.
        at: usize,
        /// The row.
        row: T,
    },
    /// The result is this, whatever it was.
    Reset {
        /// Every row.
        rows: Vec<T>,
    },
}

impl<T> Edit<T> {
    /// Takes the step.
    ///
    /// # Panics
    /// When the list is not the one that the edit was made for.
    pub fn apply_to(self, rows: &mut Vec<T>) {
        match self {
            Self::Remove { at } => {
                rows.remove(at);
            }
            Self::Move { from, to } => {
                let row = rows.remove(from);
                rows.insert(to, row);
            }
            Self::Insert { at, row } => rows.insert(at, row),
            Self::Update { at, row } => rows[at] = row,
            Self::Reset { rows: all } => *rows = all,
        }
    }

    pub(crate) fn try_map<U>(
        self,
        map: &impl Fn(usize, T) -> Result<U, LiveError>,
    ) -> Result<Edit<U>, LiveError> {
        Ok(match self {
            Self::Remove { at } => Edit::Remove { at },
            Self::Move { from, to } => Edit::Move { from, to },
            Self::Insert { at, row } => Edit::Insert { at, row: map(at, row)? },
            Self::Update { at, row } => Edit::Update { at, row: map(at, row)? },
            Self::Reset { rows } => {
                let rows = rows.into_iter().enumerate().map(|(at, row)| map(at, row));
                Edit::Reset { rows: rows.collect::<Result<_, _>>()? }
            }
        })
    }
}

/// The edits that lead from one result of a query to another.
pub(crate) fn edits(old: &ResultSet, new: &ResultSet, key: &Key) -> Vec<Edit<Row>> {
    // Most often little has changed, and what is before and behind it costs a look.
    let same = |(a, b): &(&Row, &Row)| Arc::ptr_eq(a, b) || a == b;
    let head = old.rows.iter().zip(&*new.rows).take_while(same).count();
    let (old_rows, new_rows) = (&old.rows[head..], &new.rows[head..]);
    let tail = old_rows.iter().rev().zip(new_rows.iter().rev()).take_while(same).count();
    let between =
        edits_between(&old_rows[..old_rows.len() - tail], &new_rows[..new_rows.len() - tail], head, key);
    match between {
        Some(edits) if edits.len() <= new.rows.len() || edits.len() <= 1 => edits,
        _ => vec![Edit::Reset { rows: new.rows.to_vec() }],
    }
}

/// The edits for rows that have `head` others before them; `None` if finding them takes too long.
fn edits_between(old: &[Row], new: &[Row], head: usize, key: &Key) -> Option<Vec<Edit<Row>>> {
    if old.is_empty() {
        let insert = |(at, row): (usize, &Row)| Edit::Insert { at: head + at, row: row.clone() };
        return Some(new.iter().enumerate().map(insert).collect());
    }
    let mut places = places(new, key);
    // For each old row, where it is now.
    let targets: Vec<Option<usize>> = old.iter().map(|row| take(&mut places, row, key)).collect();
    let mut edits: Vec<Edit<Row>> = Vec::new();
    let gone = targets.iter().enumerate().rev().filter(|(_, target)| target.is_none());
    edits.extend(gone.map(|(at, _)| Edit::Remove { at: head + at }));
    let mut kept: Vec<usize> = targets.iter().flatten().copied().collect();
    let moves = moves(&mut kept)?.into_iter();
    edits.extend(moves.map(|(from, to)| Edit::Move { from: head + from, to: head + to }));
    let mut was: Vec<Option<&Row>> = vec![None; new.len()];
    for (row, target) in old.iter().zip(&targets) {
        if let Some(target) = target {
            was[*target] = Some(row);
        }
    }
    for (at, row) in new.iter().enumerate().filter(|(at, _)| was[*at].is_none()) {
        edits.push(Edit::Insert { at: head + at, row: row.clone() });
    }
    for (at, row) in new.iter().enumerate() {
        if was[at].is_some_and(|was| was != row) {
            edits.push(Edit::Update { at: head + at, row: row.clone() });
        }
    }
    Some(edits)
}

/// The places of rows by their keys, last first.
fn places<'a>(rows: &'a [Row], key: &'a Key) -> FxHashMap<KeyOf<'a>, Vec<usize>> {
    let mut places: FxHashMap<KeyOf<'_>, Vec<usize>> = FxHashMap::default();
    for (at, row) in rows.iter().enumerate().rev() {
        places.entry(KeyOf::of(row, key)).or_default().push(at);
    }
    places
}

fn take<'a>(places: &mut FxHashMap<KeyOf<'a>, Vec<usize>>, row: &'a Row, key: &'a Key) -> Option<usize> {
    places.get_mut(&KeyOf::of(row, key))?.pop()
}

/// What tells a row from others.
#[derive(PartialEq, Eq, Hash)]
struct KeyOf<'a>(Vec<crate::result::Cell<'a>>);

impl<'a> KeyOf<'a> {
    fn of(row: &'a Row, key: &'a Key) -> Self {
        Self(key.cells(row).collect())
    }
}

/// Brings a list in ascending order, with as few moves, from and to, as there can be; `None` if that takes too long.
fn moves(list: &mut Vec<usize>) -> Option<Vec<(usize, usize)>> {
    if list.is_sorted() {
        return Some(Vec::new());
    }
    let stay = longest_ascent(list);
    let mut wander: Vec<usize> =
        list.iter().copied().filter(|target| stay.binary_search(target).is_err()).collect();
    if wander.len().saturating_mul(list.len()) > MOVE_STEPS_MAX {
        return None;
    }
    wander.sort_unstable();
    let mut settled = stay;
    let mut moves = Vec::with_capacity(wander.len());
    for target in wander {
        let from = list.iter().position(|other| *other == target)?;
        list.remove(from);
        // Behind the last settled one below it.
        let rank = settled.partition_point(|other| *other < target);
        let to = match rank.checked_sub(1) {
            None => 0,
            Some(below) => list.iter().position(|other| *other == settled[below])? + 1,
        };
        list.insert(to, target);
        settled.insert(rank, target);
        moves.push((from, to));
    }
    Some(moves)
}

/// The members of a longest ascending subsequence, in ascending order.
fn longest_ascent(list: &[usize]) -> Vec<usize> {
    // The place of the smallest member that ends an ascent of each length.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; list.len()];
    for (place, value) in list.iter().enumerate() {
        let length = ends.partition_point(|end| list[*end] < *value);
        before[place] = length.checked_sub(1).map(|shorter| ends[shorter]);
        if length == ends.len() {
            ends.push(place);
        } else {
            ends[length] = place;
        }
    }
    let mut ascent = Vec::with_capacity(ends.len());
    let mut at = ends.last().copied();
    while let Some(place) = at {
        ascent.push(list[place]);
        at = before[place];
    }
    ascent.reverse();
    ascent
}

#[cfg(test)]
mod tests {
    use opor_core::Value;
    use opor_store::CommitSeq;
    use proptest::prelude::*;

    use super::*;
    use crate::result::Heading;

    fn result(rows: &[(i64, i64)]) -> ResultSet {
        let rows = rows.iter().map(|(id, value)| Arc::from([Value::Integer(*id), Value::Integer(*value)]));
        ResultSet {
            rows: rows.collect::<Vec<_>>().into(),
            heading: Arc::new(Heading { columns: Arc::from([]) }),
            seq: CommitSeq(0),
            source: Arc::default(),
            version: 0,
        }
    }

    fn folded(old: &ResultSet, edits: Vec<Edit<Row>>) -> Vec<Row> {
        let mut rows = old.rows.to_vec();
        edits.into_iter().for_each(|edit| edit.apply_to(&mut rows));
        rows
    }

    fn distinct(rows: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
        let mut seen = std::collections::BTreeSet::new();
        rows.into_iter().filter(|(id, _)| seen.insert(*id)).collect()
    }

    proptest! {
        #[test]
        fn edits_lead_from_one_result_to_the_other(
            old in prop::collection::vec((0..12i64, 0..3i64), 0..14),
            new in prop::collection::vec((0..12i64, 0..3i64), 0..14),
        ) {
            // Without a key every row stands for itself, and may be there twice.
            let (before, after) = (result(&old), result(&new));
            prop_assert_eq!(folded(&before, edits(&before, &after, &Key::Whole)), after.rows.to_vec());
            let (before, after) = (result(&distinct(old)), result(&distinct(new)));
            let key = Key::Columns([0].into());
            prop_assert_eq!(folded(&before, edits(&before, &after, &key)), after.rows.to_vec());
        }
    }

    #[test]
    fn few_rows_move_and_the_rest_stays() {
        let before = result(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
        let after = result(&[(5, 0), (1, 0), (2, 7), (3, 0), (4, 0)]);
        let key = Key::Columns([0].into());
        let row = after.rows[2].clone();
        let expected = [Edit::Move { from: 4, to: 0 }, Edit::Update { at: 2, row }];
        assert_eq!(edits(&before, &after, &key), expected);
        assert_eq!(edits(&after, &after, &key), []);
    }
}
