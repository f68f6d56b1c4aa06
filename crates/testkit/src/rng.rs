//! Seeded randomness: SplitMix64, so that a printed seed repeats a run on every machine.

/// A small deterministic generator (Steele, Lea and Flood's SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that always yields the same numbers for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator for one place of a run. What happens at other places, or does not, moves none of its numbers.
    pub(crate) fn at(seed: u64, place: &[u64]) -> Self {
        Self(
            place
                .iter()
                .fold(seed, |seed, part| Self(seed ^ part.wrapping_mul(0xff51_afd7_ed55_8ccd)).bits()),
        )
    }

    /// The next 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is no number below 0");
        self.bits() % bound
    }

    /// One of `lo..=hi`.
    pub(crate) const fn between(&mut self, (lo, hi): (u64, u64)) -> u64 {
        lo + self.below(hi - lo + 1)
    }

    /// True about `permille` times in a thousand.
    pub const fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}
