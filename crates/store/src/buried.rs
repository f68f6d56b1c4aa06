//! The tombstones of one layer: those that can be found by key, and the ones after them in the order in which rows were
//! deleted.
//!
//! Most deletes are of rows that nobody asks for again before they are written. They cost the bytes of their keys and a
//! few words, all in two lists; a map would take an allocation and a look-up for each.

use rustc_hash::FxHashMap;

use crate::tombs::{News, Tomb, TombId, compact_into};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Buried {
    /// `None` says the tombstone is gone.
    by_key: FxHashMap<TombId, Option<Tomb>>,
    /// Newer than all of `by_key`; of two with one key the later counts.
    fresh: Vec<Grave>,
    /// The keys of `fresh`, one behind the other.
    keys: Vec<u8>,
}

/// A tombstone that is not found by key yet.
#[derive(Clone, Copy, Debug)]
struct Grave {
    table: u32,
    /// Where its key ends; it begins where that of the grave before ends.
    key_end: usize,
    tomb: Tomb,
}

impl Buried {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty() && self.fresh.is_empty()
    }

    /// How many there are at most.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len() + self.fresh.len()
    }

    /// A row is gone; `key` is its packed key.
    pub(crate) fn bury(&mut self, table: u32, key: &[u8], tomb: Tomb) {
        compact_into(key, &mut self.keys);
        self.fresh.push(Grave { table, key_end: self.keys.len(), tomb });
    }

    /// A key has this tombstone now, or none.
    pub(crate) fn set(&mut self, id: TombId, tomb: Option<Tomb>) {
        self.settle();
        self.by_key.insert(id, tomb);
    }

    /// What is said of a key.
    pub(crate) fn get(&mut self, id: &TombId) -> Option<Option<Tomb>> {
        self.settle();
        self.by_key.get(id).copied()
    }

    /// Lets all be found by key.
    pub(crate) fn settle(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        let Self { by_key, fresh, keys } = self;
        by_key.reserve(fresh.len());
        let mut from = 0;
        for grave in fresh.drain(..) {
            by_key.insert((grave.table, keys[from..grave.key_end].into()), Some(grave.tomb));
            from = grave.key_end;
        }
        keys.clear();
    }

    /// All of them, by key.
    ///
    /// # Panics
    /// When something was buried after the last [`settle`](Self::settle).
    pub(crate) fn by_key(&self) -> &FxHashMap<TombId, Option<Tomb>> {
        assert!(self.fresh.is_empty(), "what is read by key has been settled");
        &self.by_key
    }

    /// All of them. One may come twice; then the later counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = News<'_>> {
        let settled = self.by_key.iter().map(|((table, key), tomb)| (*table, &**key, *tomb));
        let mut from = 0;
        settled.chain(self.fresh.iter().map(move |grave| {
            let key = &self.keys[from..grave.key_end];
            from = grave.key_end;
            (grave.table, key, Some(grave.tomb))
        }))
    }

    /// Whether there may be one of this table, or one that was taken away.
    pub(crate) fn names(&self, table: u32) -> bool {
        self.by_key.keys().any(|id| id.0 == table) || self.fresh.iter().any(|grave| grave.table == table)
    }

    /// Forgets those of a table.
    pub(crate) fn forget_table(&mut self, table: u32) {
        self.settle();
        self.by_key.retain(|id, _| id.0 != table);
    }

    /// Takes those of the layer above, which are newer.
    pub(crate) fn append(&mut self, upper: &mut Self) {
        if self.is_empty() {
            *self = std::mem::take(upper);
        }
        if upper.is_empty() {
            return;
        }
        self.settle();
        if upper.by_key.is_empty() {
            self.fresh = std::mem::take(&mut upper.fresh);
            self.keys = std::mem::take(&mut upper.keys);
            return;
        }
        upper.settle();
        self.by_key.extend(upper.by_key.drain());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Bury(u32, Vec<u8>),
        Set(u32, Vec<u8>, bool),
        Get(u32, Vec<u8>),
        Settle,
        /// What follows is written to another layer, which goes under this one at the end.
        Layer,
        Forget(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        let id = || (1..3_u32, prop::collection::vec(0..3_u8, 0..3));
        prop_oneof![
            8 => id().prop_map(|(table, key)| Op::Bury(table, key)),
            2 => (id(), any::<bool>()).prop_map(|((table, key), dead)| Op::Set(table, key, dead)),
            2 => id().prop_map(|(table, key)| Op::Get(table, key)),
            1 => Just(Op::Settle),
            1 => Just(Op::Layer),
            1 => (1..3_u32).prop_map(Op::Forget),
        ]
    }

    proptest! {
        #[test]
        fn it_says_what_a_map_says(ops in prop::collection::vec(op(), 0..40)) {
            let (mut lower, mut buried) = (Buried::default(), Buried::default());
            let (mut below, mut model) = (BTreeMap::new(), BTreeMap::new());
            for (op, seq) in ops.into_iter().zip(0..) {
                let tomb = Tomb { cl: 2, dv: 1, seq, site: 0 };
                match op {
                    Op::Bury(table, key) => {
                        buried.bury(table, &key, tomb);
                        model.insert((table, key), Some(tomb));
                    }
                    Op::Set(table, key, dead) => {
                        let tomb = dead.then_some(tomb);
                        buried.set((table, key.as_slice().into()), tomb);
                        model.insert((table, key), tomb);
                    }
                    Op::Get(table, key) => {
                        let found = buried.get(&(table, key.as_slice().into()));
                        prop_assert_eq!(found, model.get(&(table, key)).copied());
                    }
                    Op::Settle => buried.settle(),
                    Op::Layer => {
                        lower.append(&mut buried);
                        prop_assert!(buried.is_empty());
                        below.append(&mut model);
                    }
                    Op::Forget(table) => {
                        buried.forget_table(table);
                        model.retain(|id, _| id.0 != table);
                    }
                }
                prop_assert_eq!(buried.is_empty(), model.is_empty());
                prop_assert!(buried.len() >= model.len());
                for table in 1..3 {
                    prop_assert_eq!(buried.names(table), model.keys().any(|id| id.0 == table));
                }
            }
            lower.append(&mut buried);
            below.append(&mut model);
            let all: BTreeMap<_, _> =
                lower.iter().map(|(table, key, tomb)| ((table, key.to_vec()), tomb)).collect();
            prop_assert_eq!(&all, &below);
            lower.settle();
            let all: BTreeMap<_, _> =
                lower.by_key().iter().map(|((table, key), tomb)| ((*table, key.to_vec()), *tomb)).collect();
            prop_assert_eq!(&all, &below);
        }
    }
}
