//! Indexes of the places at which queries wait for rows: by key, and by range.

use std::collections::BTreeSet;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::router::QueryId;

/// Queries by one key each.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    queries: FxHashMap<u64, Waiting>,
    /// Those that wait for NULL.
    null: Waiting,
}

/// Most keys have one query.
#[derive(Debug, Default)]
enum Waiting {
    #[default]
    Nobody,
    One(QueryId),
    Many(Box<FxHashSet<QueryId>>),
}

impl Waiting {
    fn insert(&mut self, query: QueryId) {
        match self {
            Self::Nobody => *self = Self::One(query),
            Self::One(other) if *other == query => {}
            Self::One(other) => *self = Self::Many(Box::new([*other, query].into_iter().collect())),
            Self::Many(queries) => {
                queries.insert(query);
            }
        }
    }

    /// Tells whether nobody is left.
    fn remove(&mut self, query: QueryId) -> bool {
        match self {
            Self::One(other) if *other == query => *self = Self::Nobody,
            Self::Many(queries) => {
                queries.remove(&query);
                if queries.is_empty() {
                    *self = Self::Nobody;
                }
            }
            Self::One(_) | Self::Nobody => {}
        }
        matches!(self, Self::Nobody)
    }

    fn each(&self, found: &mut impl FnMut(QueryId)) {
        match self {
            Self::Nobody => {}
            Self::One(query) => found(*query),
            Self::Many(queries) => queries.iter().for_each(|query| found(*query)),
        }
    }
}

impl Keys {
    /// Has a query wait for a key, or for NULL.
    pub(crate) fn insert(&mut self, key: Option<u64>, query: QueryId) {
        match key {
            Some(key) => self.queries.entry(key).or_default().insert(query),
            None => self.null.insert(query),
        }
    }

    pub(crate) fn remove(&mut self, key: Option<u64>, query: QueryId) {
        match key {
            Some(key) => {
                if self.queries.get_mut(&key).is_some_and(|waiting| waiting.remove(query)) {
                    self.queries.remove(&key);
                }
            }
            None => {
                self.null.remove(query);
            }
        }
    }

    pub(crate) fn find(&self, key: Option<u64>, found: &mut impl FnMut(QueryId)) {
        match key {
            Some(key) => self.queries.get(&key).into_iter().for_each(|waiting| waiting.each(found)),
            None => self.null.each(found),
        }
    }

    /// Everybody, when the key is not known.
    pub(crate) fn all(&self, found: &mut impl FnMut(QueryId)) {
        self.queries.values().chain([&self.null]).for_each(|waiting| waiting.each(found));
    }
}

/// An interval with both its ends, and who waits for what falls in it.
type Interval = (u64, u64, QueryId);

/// Queries by the interval they wait in: a tree of centres over all 64-bit numbers, of which only nodes with intervals are there.
///
/// An interval is in the node whose centre is the first that it contains, counted from the root. Whatever contains a place is in a
/// node on the way down to it, of which there are 65, and of each node only those are looked at that contain it.
#[derive(Debug)]
pub(crate) struct Intervals {
    nodes: FxHashMap<(u8, u64), Node>,
    /// How many nodes there are of each height.
    heights: [u32; 65],
}

impl Default for Intervals {
    fn default() -> Self {
        Self { nodes: FxHashMap::default(), heights: [0; 65] }
    }
}

/// Intervals in one node are in a list up to here; a search in a list this short takes no longer than one in a tree.
const LISTED_MAX: usize = 16;

#[derive(Debug)]
enum Node {
    Few(Vec<Interval>),
    /// By their low ends and by their high ends.
    Many(BTreeSet<Interval>, BTreeSet<Interval>),
}

/// The height of the node that an interval is in, and which of that height it is.
fn node_of(low: u64, high: u64) -> (u8, u64) {
    // The bits that both ends have in common lead to it.
    let height = (64 - (low ^ high).leading_zeros()) as u8;
    (height, prefix(low, height))
}

fn prefix(place: u64, height: u8) -> u64 {
    place.checked_shr(u32::from(height)).unwrap_or(0)
}

/// Whether a place is left of the centre of the node of this height above it.
fn is_left(place: u64, height: u8) -> bool {
    height == 0 || place >> (height - 1) & 1 == 0
}

impl Node {
    fn insert(&mut self, (low, high, query): Interval) {
        match self {
            Self::Few(list) => {
                list.push((low, high, query));
                if list.len() > LISTED_MAX {
                    let by_high = list.iter().map(|(low, high, query)| (*high, *low, *query)).collect();
                    *self = Self::Many(list.drain(..).collect(), by_high);
                }
            }
            Self::Many(by_low, by_high) => {
                by_low.insert((low, high, query));
                by_high.insert((high, low, query));
            }
        }
    }

    /// Tells whether none is left.
    fn remove(&mut self, (low, high, query): Interval) -> bool {
        match self {
            Self::Few(list) => {
                if let Some(at) = list.iter().position(|interval| *interval == (low, high, query)) {
                    list.swap_remove(at);
                }
                list.is_empty()
            }
            Self::Many(by_low, by_high) => {
                by_low.remove(&(low, high, query));
                by_high.remove(&(high, low, query));
                by_low.is_empty()
            }
        }
    }

    fn find(&self, place: u64, height: u8, found: &mut impl FnMut(QueryId)) {
        match self {
            Self::Few(list) => {
                list.iter()
                    .filter(|(low, high, _)| (*low..=*high).contains(&place))
                    .for_each(|one| found(one.2));
            }
            // All of them reach to the centre, so that one end tells.
            Self::Many(by_low, _) if is_left(place, height) => {
                by_low.iter().take_while(|(low, ..)| *low <= place).for_each(|one| found(one.2));
            }
            Self::Many(_, by_high) => {
                by_high.iter().rev().take_while(|(high, ..)| *high >= place).for_each(|one| found(one.2));
            }
        }
    }
}

impl Intervals {
    /// Has a query wait for places from `low` to `high`, both included; `low` is no more than `high`.
    pub(crate) fn insert(&mut self, low: u64, high: u64, query: QueryId) {
        let (height, at) = node_of(low, high);
        let heights = &mut self.heights[usize::from(height)];
        let node = self.nodes.entry((height, at)).or_insert_with(|| {
            *heights += 1;
            Node::Few(Vec::with_capacity(1))
        });
        node.insert((low, high, query));
    }

    pub(crate) fn remove(&mut self, low: u64, high: u64, query: QueryId) {
        let (height, at) = node_of(low, high);
        if self.nodes.get_mut(&(height, at)).is_some_and(|node| node.remove((low, high, query))) {
            self.nodes.remove(&(height, at));
            self.heights[usize::from(height)] -= 1;
        }
    }

    pub(crate) fn find(&self, place: u64, found: &mut impl FnMut(QueryId)) {
        for height in (0..=64_u8).filter(|height| self.heights[usize::from(*height)] > 0) {
            if let Some(node) = self.nodes.get(&(height, prefix(place, height))) {
                node.find(place, height, found);
            }
        }
    }

    /// Everybody, when the place is not known.
    pub(crate) fn all(&self, found: &mut impl FnMut(QueryId)) {
        for node in self.nodes.values() {
            match node {
                Node::Few(list) => list.iter().for_each(|one| found(one.2)),
                Node::Many(by_low, _) => by_low.iter().for_each(|one| found(one.2)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Ends near each other, near the borders of nodes, and at the ends of the line.
    fn place() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..40_u64,
            (0..40_u64).prop_map(|back| u64::MAX - back),
            ((1_u64 << 63) - 20)..((1 << 63) + 20),
            any::<u64>()
        ]
    }

    proptest! {
        #[test]
        fn a_place_finds_the_intervals_that_contain_it(
            intervals in prop::collection::vec((place(), place(), any::<bool>()), 0..120),
            places in prop::collection::vec(place(), 1..40),
        ) {
            let mut index = Intervals::default();
            let intervals: Vec<_> = intervals.into_iter().map(|(a, b, kept)| (a.min(b), a.max(b), kept)).collect();
            for (id, (low, high, _)) in intervals.iter().enumerate() {
                index.insert(*low, *high, QueryId(id as u64));
            }
            for (id, (low, high, _)) in intervals.iter().enumerate().filter(|(_, interval)| !interval.2) {
                index.remove(*low, *high, QueryId(id as u64));
            }
            let kept = || intervals.iter().enumerate().filter(|(_, interval)| interval.2);
            for place in places.iter().chain(intervals.iter().flat_map(|(low, high, _)| [low, high])) {
                let mut found = Vec::new();
                index.find(*place, &mut |query| found.push(query.0));
                let expected: BTreeSet<u64> = kept()
                    .filter(|(_, (low, high, _))| (low..=high).contains(&place))
                    .map(|(id, _)| id as u64)
                    .collect();
                prop_assert_eq!(found.len(), expected.len());
                prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
            }
            let mut all = 0;
            index.all(&mut |_| all += 1);
            prop_assert_eq!(all, kept().count());
            prop_assert_eq!(index.nodes.is_empty(), kept().count() == 0);
        }
    }

    #[test]
    fn queries_wait_for_keys_and_go() {
        let mut keys = Keys::default();
        let found = |keys: &Keys, key| {
            let mut found = Vec::new();
            keys.find(key, &mut |query| found.push(query.0));
            found.sort_unstable();
            found
        };
        for (key, query) in [(Some(1), 10), (Some(1), 11), (Some(1), 11), (Some(2), 12), (None, 13)] {
            keys.insert(key, QueryId(query));
        }
        assert_eq!(found(&keys, Some(1)), [10, 11]);
        assert_eq!(found(&keys, None), [13]);
        assert_eq!(found(&keys, Some(3)), [0; 0]);
        keys.remove(Some(1), QueryId(10));
        keys.remove(Some(2), QueryId(11));
        assert_eq!(found(&keys, Some(1)), [11]);
        assert_eq!(found(&keys, Some(2)), [12]);
        for (key, query) in [(Some(1), 11), (Some(2), 12), (None, 13)] {
            keys.remove(key, QueryId(query));
        }
        assert!(keys.queries.is_empty() && found(&keys, None).is_empty());
    }
}
