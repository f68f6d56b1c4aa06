//! Sets of columns: bit 0 is the sentinel, bit `n + 1` the column with id `n`.

/// A set of column ids, and possibly the sentinel. One word for tables of up to 63 columns, more on the heap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ColSet {
    low: u64,
    /// Words from bit 64 on; never ends in a zero word, so that equal sets compare equal.
    #[expect(clippy::box_collection, reason = "a thin pointer keeps notes and groups small")]
    high: Option<Box<Vec<u64>>>,
}

impl ColSet {
    pub(crate) const SENTINEL: u32 = 0;

    pub(crate) fn sentinel() -> Self {
        Self { low: 1, high: None }
    }

    pub(crate) fn one(bit: u32) -> Self {
        let mut set = Self::default();
        set.insert(bit);
        set
    }

    pub(crate) fn from_low(low: u64) -> Self {
        Self { low, high: None }
    }

    pub(crate) fn insert(&mut self, bit: u32) {
        if bit < 64 {
            self.low |= 1 << bit;
            return;
        }
        let (word, bit) = ((bit / 64 - 1) as usize, bit % 64);
        let high = self.high.get_or_insert_default();
        if high.len() <= word {
            high.resize(word + 1, 0);
        }
        high[word] |= 1 << bit;
    }

    pub(crate) fn contains(&self, bit: u32) -> bool {
        if bit < 64 {
            return self.low >> bit & 1 == 1;
        }
        let word = self.high.as_ref().and_then(|high| high.get((bit / 64 - 1) as usize));
        word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.low == 0 && self.high.is_none()
    }

    /// The bits, when all are in the first word.
    pub(crate) fn narrow(&self) -> Option<u64> {
        if self.high.is_none() { Some(self.low) } else { None }
    }

    pub(crate) fn len(&self) -> u32 {
        if let Some(low) = self.narrow() {
            return low.count_ones();
        }
        self.words().map(u64::count_ones).sum()
    }

    pub(crate) fn is_subset(&self, other: &Self) -> bool {
        if self.low & !other.low != 0 {
            return false;
        }
        let Some(high) = &self.high else { return true };
        let word = |i: usize| other.high.as_ref().and_then(|high| high.get(i)).copied().unwrap_or(0);
        high.iter().enumerate().all(|(i, own)| own & !word(i) == 0)
    }

    /// The only member, when there is just one.
    pub(crate) fn only(&self) -> Option<u32> {
        match self.narrow() {
            Some(low) => low.is_power_of_two().then(|| low.trailing_zeros()),
            None if self.len() == 1 => self.iter().next(),
            None => None,
        }
    }

    pub(crate) fn intersects(&self, other: &Self) -> bool {
        let high = || self.words().zip(other.words()).any(|(own, other)| own & other != 0);
        self.low & other.low != 0 || (self.high.is_some() && high())
    }

    /// How many members are below `bit`.
    pub(crate) fn rank(&self, bit: u32) -> u32 {
        if let (Some(low), true) = (self.narrow(), bit < 64) {
            return (low & ((1 << bit) - 1)).count_ones();
        }
        let full = (bit / 64) as usize;
        let below: u32 = self.words().take(full).map(u64::count_ones).sum();
        let word = self.words().nth(full).unwrap_or(0);
        below + (word & ((1 << (bit % 64)) - 1)).count_ones()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words().enumerate().flat_map(|(i, mut word)| {
            std::iter::from_fn(move || {
                if word == 0 {
                    return None;
                }
                let bit = word.trailing_zeros();
                word &= word - 1;
                Some(i as u32 * 64 + bit)
            })
        })
    }

    /// The words, lowest first; at least one.
    pub(crate) fn words(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::once(self.low).chain(self.high.iter().flat_map(|high| high.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_sets_behave_like_narrow_ones() {
        for offset in [0, 60, 64, 1900] {
            let mut set = ColSet::default();
            [1, 3, 7].iter().for_each(|bit| set.insert(bit + offset));
            assert_eq!(set.iter().collect::<Vec<_>>(), [1 + offset, 3 + offset, 7 + offset]);
            assert_eq!((set.len(), set.rank(7 + offset), set.rank(1 + offset)), (3, 2, 0));
            assert!(ColSet::one(3 + offset).is_subset(&set));
            assert!(!set.is_subset(&ColSet::one(3 + offset)));
            assert!(!set.contains(2 + offset));
        }
    }
}
