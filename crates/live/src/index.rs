//! Indexes of the places at which queries wait for rows: by key, and by range.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::router::QueryId;
use crate::slab::Slab;

/// Spreads what differs in any bit of a hash over all bits: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Maps with less than this part of what they have room for give room back.
const SPARSE: usize = 8;

/// Queries by one key each. Of a key only half of its bits are kept: that two have the same by chance costs a look at a query, and
/// there are twice as many of them in a cache.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    queries: FxHashMap<u32, Waiting>,
    /// Where several wait for one key.
    crowds: Slab<FxHashSet<QueryId>>,
    /// Those that wait for NULL.
    null: FxHashSet<QueryId>,
}

/// Who waits for a key: a query, or with the topmost bit set a place in [`Keys::crowds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting(u32);

/// See [`Waiting`].
const CROWD: u32 = 1 << 31;

impl Waiting {
    const fn who(self) -> Who {
        if self.0 & CROWD == 0 { Who::One(QueryId(self.0)) } else { Who::Crowd(self.0 & !CROWD) }
    }
}

/// Most keys have one query.
enum Who {
    One(QueryId),
    Crowd(u32),
}

const fn short(key: u64) -> u32 {
    (key.wrapping_mul(SPREAD) >> 32) as u32
}

/// Gives back room after something was taken out of a map, now and then.
fn trim<K: Eq + Hash, V>(map: &mut FxHashMap<K, V>) {
    if map.len() < map.capacity() / SPARSE {
        map.shrink_to(map.len() * 2);
    }
}

impl Keys {
    /// Has a query wait for a key, or for NULL.
    pub(crate) fn insert(&mut self, key: Option<u64>, query: QueryId) {
        let Some(key) = key.map(short) else {
            self.null.insert(query);
            return;
        };
        let there = self.queries.entry(key).or_insert(Waiting(query.0));
        match there.who() {
            Who::One(other) if other == query => {}
            Who::One(other) => {
                *there = Waiting(CROWD | self.crowds.insert([other, query].into_iter().collect()));
            }
            Who::Crowd(crowd) => {
                self.crowds.get_mut(crowd).into_iter().for_each(|queries| _ = queries.insert(query));
            }
        }
    }

    pub(crate) fn remove(&mut self, key: Option<u64>, query: QueryId) {
        let Some(key) = key.map(short) else {
            self.null.remove(&query);
            return;
        };
        let Some(there) = self.queries.get_mut(&key) else { return };
        match there.who() {
            Who::One(other) if other == query => {
                self.queries.remove(&key);
                trim(&mut self.queries);
            }
            Who::One(_) => {}
            Who::Crowd(crowd) => {
                let Some(queries) = self.crowds.get_mut(crowd) else { return };
                queries.remove(&query);
                let mut left = queries.iter();
                if let (Some(only), None) = (left.next().copied(), left.next()) {
                    *there = Waiting(only.0);
                    self.crowds.remove(crowd);
                }
            }
        }
    }

    pub(crate) fn find(&self, key: Option<u64>, found: &mut impl FnMut(QueryId)) {
        match key {
            Some(key) => self.queries.get(&short(key)).into_iter().for_each(|who| self.each(*who, found)),
            None => self.null.iter().for_each(|query| found(*query)),
        }
    }

    /// Everybody, when the key is not known.
    pub(crate) fn all(&self, found: &mut impl FnMut(QueryId)) {
        self.queries.values().for_each(|who| self.each(*who, found));
        self.null.iter().for_each(|query| found(*query));
    }

    fn each(&self, who: Waiting, found: &mut impl FnMut(QueryId)) {
        match who.who() {
            Who::One(query) => found(query),
            Who::Crowd(crowd) => self.crowds.get(crowd).into_iter().flatten().for_each(|query| found(*query)),
        }
    }
}

/// An interval with both its ends, and who waits for what falls in it.
type Interval = (u64, u64, QueryId);

/// Queries by the interval they wait in: a tree of centres over all 64-bit numbers, of which only nodes with intervals are there.
///
/// An interval is in the node whose centre is the first that it contains, counted from the root; a single place in the lowest node
/// beside it. Whatever contains a place is in a node on the way down to it, of which there are 64, and of each node only those are looked
/// at that contain it.
#[derive(Debug)]
pub(crate) struct Intervals {
    /// By the number right of their centres. How often it can be halved tells the height.
    nodes: FxHashMap<u64, Node>,
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

/// Most nodes have one interval: there may be as many of them as queries.
#[derive(Debug)]
enum Node {
    One { low: u64, high: u64, query: QueryId },
    Few(Box<[Interval]>),
    Many(Box<Ends>),
}

/// Intervals by their low ends and by their high ends.
#[derive(Debug)]
struct Ends {
    by_low: BTreeSet<Interval>,
    by_high: BTreeSet<Interval>,
}

/// The height of the node that an interval is in.
const fn height_of(low: u64, high: u64) -> u8 {
    // The bits that both ends have in common lead to it.
    let height = 64 - (low ^ high).leading_zeros() as u8;
    if height == 0 { 1 } else { height }
}

/// The number right of the centre of the node of this height, from 1 to 64, above a place.
const fn centre(place: u64, height: u8) -> u64 {
    let half = 1 << (height - 1);
    place & !(half - 1) | half
}

impl Node {
    const fn one((low, high, query): Interval) -> Self {
        Self::One { low, high, query }
    }

    fn insert(&mut self, (low, high, query): Interval) {
        match self {
            Self::One { low: other_low, high: other_high, query: other } => {
                *self = Self::Few([(*other_low, *other_high, *other), (low, high, query)].into());
            }
            Self::Few(list) if list.len() < LISTED_MAX => {
                *list = list.iter().copied().chain([(low, high, query)]).collect();
            }
            Self::Few(list) => {
                let by_low: BTreeSet<_> = list.iter().copied().chain([(low, high, query)]).collect();
                let by_high = by_low.iter().map(|(low, high, query)| (*high, *low, *query)).collect();
                *self = Self::Many(Box::new(Ends { by_low, by_high }));
            }
            Self::Many(ends) => {
                ends.by_low.insert((low, high, query));
                ends.by_high.insert((high, low, query));
            }
        }
    }

    /// Tells whether none is left.
    fn remove(&mut self, interval: Interval) -> bool {
        match self {
            Self::One { low, high, query } => (*low, *high, *query) == interval,
            Self::Few(list) => {
                // One that is there twice was put in twice.
                let at = list.iter().position(|other| *other == interval).unwrap_or(list.len());
                let left = list.iter().enumerate().filter(|(place, _)| *place != at);
                *list = left.map(|(_, interval)| *interval).collect();
                list.is_empty()
            }
            Self::Many(ends) => {
                let (low, high, query) = interval;
                ends.by_low.remove(&interval);
                ends.by_high.remove(&(high, low, query));
                ends.by_low.is_empty()
            }
        }
    }

    fn find(&self, place: u64, centre: u64, found: &mut impl FnMut(QueryId)) {
        match self {
            Self::One { low, high, query } => {
                if (*low..=*high).contains(&place) {
                    found(*query);
                }
            }
            Self::Few(list) => {
                let around = list.iter().filter(|(low, high, _)| (*low..=*high).contains(&place));
                around.for_each(|one| found(one.2));
            }
            // All of them reach to the centre, or are a place beside it, so that one end tells.
            Self::Many(ends) if place < centre => {
                ends.by_low.iter().take_while(|(low, ..)| *low <= place).for_each(|one| found(one.2));
            }
            Self::Many(ends) => {
                let reach = ends.by_high.iter().rev().take_while(|(high, ..)| *high >= place);
                reach.for_each(|one| found(one.2));
            }
        }
    }
}

impl Intervals {
    /// Has a query wait for places from `low` to `high`, both included; `low` is no more than `high`.
    pub(crate) fn insert(&mut self, low: u64, high: u64, query: QueryId) {
        let height = height_of(low, high);
        match self.nodes.entry(centre(low, height)) {
            Entry::Occupied(mut node) => node.get_mut().insert((low, high, query)),
            Entry::Vacant(node) => {
                node.insert(Node::one((low, high, query)));
                self.heights[usize::from(height)] += 1;
            }
        }
    }

    pub(crate) fn remove(&mut self, low: u64, high: u64, query: QueryId) {
        let height = height_of(low, high);
        let centre = centre(low, height);
        if self.nodes.get_mut(&centre).is_some_and(|node| node.remove((low, high, query))) {
            self.nodes.remove(&centre);
            trim(&mut self.nodes);
            self.heights[usize::from(height)] -= 1;
        }
    }

    pub(crate) fn find(&self, place: u64, found: &mut impl FnMut(QueryId)) {
        for height in (1..=64_u8).filter(|height| self.heights[usize::from(*height)] > 0) {
            let centre = centre(place, height);
            if let Some(node) = self.nodes.get(&centre) {
                node.find(place, centre, found);
            }
        }
    }

    /// Everybody, when the place is not known.
    pub(crate) fn all(&self, found: &mut impl FnMut(QueryId)) {
        for node in self.nodes.values() {
            match node {
                Node::One { query, .. } => found(*query),
                Node::Few(list) => list.iter().for_each(|one| found(one.2)),
                Node::Many(ends) => ends.by_low.iter().for_each(|one| found(one.2)),
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
                index.insert(*low, *high, QueryId(id as u32));
            }
            for (id, (low, high, _)) in intervals.iter().enumerate().filter(|(_, interval)| !interval.2) {
                index.remove(*low, *high, QueryId(id as u32));
            }
            let kept = || intervals.iter().enumerate().filter(|(_, interval)| interval.2);
            for place in places.iter().chain(intervals.iter().flat_map(|(low, high, _)| [low, high])) {
                let mut found = Vec::new();
                index.find(*place, &mut |query| found.push(query.0));
                let expected: BTreeSet<u32> = kept()
                    .filter(|(_, (low, high, _))| (low..=high).contains(&place))
                    .map(|(id, _)| id as u32)
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
    fn entries_are_small() {
        assert_eq!(size_of::<(u64, Node)>(), 32);
        assert_eq!(size_of::<(u32, Waiting)>(), 8);
    }

    #[test]
    fn maps_give_room_back() {
        let (mut keys, mut intervals) = (Keys::default(), Intervals::default());
        for query in 0..10_000 {
            keys.insert(Some(query.into()), QueryId(query));
            intervals.insert(u64::from(query) << 32, u64::from(query) << 32 | 9, QueryId(query));
        }
        for query in 5..10_000 {
            keys.remove(Some(query.into()), QueryId(query));
            intervals.remove(u64::from(query) << 32, u64::from(query) << 32 | 9, QueryId(query));
        }
        assert!(keys.queries.capacity() < 100 && intervals.nodes.capacity() < 100);
        let mut found = Vec::new();
        keys.find(Some(3), &mut |query| found.push(query.0));
        intervals.find(4 << 32 | 5, &mut |query| found.push(query.0));
        assert_eq!(found, [3, 4]);
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
        assert!(keys.queries.is_empty() && keys.crowds.len() == 0 && found(&keys, None).is_empty());
    }
}
