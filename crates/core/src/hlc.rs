//! Hybrid logical clocks: time stamps that never run backwards and are exact in 53 bits.

use crate::ColVersion;

/// Milliseconds since the Unix epoch, as a clock on the wall shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallMillis(pub u64);

/// A hybrid logical clock stamp: 44 bits of Unix milliseconds, then 9 bits of counter.
///
/// 53 bits, so that a JavaScript number holds it exactly; good until the year 2527. When 512 stamps are not enough
/// for a millisecond the counter carries into the milliseconds.
/// The idea is from Kulkarni et al., "Logical Physical Clocks" (2014).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(u64);

impl Hlc {
    /// Bits of the counter below the milliseconds.
    pub const COUNTER_BITS: u32 = 9;
    /// The last stamp there is, in the year 2527.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// The first stamp of a millisecond; a time past the year 2527 gives [`Hlc::MAX`].
    #[must_use]
    pub const fn from_millis(wall: WallMillis) -> Self {
        if wall.0 >> 44 != 0 { Self::MAX } else { Self(wall.0 << Self::COUNTER_BITS) }
    }

    /// A stamp from the integer it travels as.
    #[must_use]
    pub const fn from_version(version: ColVersion) -> Self {
        Self(version.0)
    }

    /// The integer the stamp travels as.
    #[must_use]
    pub const fn version(self) -> ColVersion {
        ColVersion(self.0)
    }

    /// The milliseconds.
    #[must_use]
    pub const fn millis(self) -> WallMillis {
        WallMillis(self.0 >> Self::COUNTER_BITS)
    }

    /// The counter within the millisecond, below 512.
    #[must_use]
    pub const fn counter(self) -> u64 {
        self.0 & ((1 << Self::COUNTER_BITS) - 1)
    }
}

/// A stamp further ahead of local time than the clock accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stamp is {ahead_ms} ms ahead of local time, the limit is {limit_ms} ms")]
pub struct ClockDrift {
    /// How far ahead the stamp is, in milliseconds.
    pub ahead_ms: u64,
    /// How far ahead is accepted, in milliseconds.
    pub limit_ms: u64,
}

/// The clock of one replica: the last stamp given or seen.
///
/// ```
/// use opor_core::{HybridClock, WallMillis};
///
/// let mut clock = HybridClock::new(60_000);
/// let first = clock.tick(WallMillis(1_000));
/// // The wall clock steps back; the stamps do not.
/// assert!(clock.tick(WallMillis(5)) > first);
/// ```
#[derive(Clone, Debug)]
pub struct HybridClock {
    last: Hlc,
    drift_max_ms: u64,
}

impl HybridClock {
    /// A clock that refuses stamps more than `drift_max_ms` milliseconds ahead of local time.
    #[must_use]
    pub const fn new(drift_max_ms: u64) -> Self {
        Self { last: Hlc(0), drift_max_ms }
    }

    /// The last stamp given or seen.
    #[must_use]
    pub const fn last(&self) -> Hlc {
        self.last
    }

    /// A new stamp, greater than every one given or seen before and no earlier than `wall`.
    ///
    /// # Panics
    /// When the stamps are used up, in the year 2527: a later stamp would tie with the last and lose writes.
    pub fn tick(&mut self, wall: WallMillis) -> Hlc {
        assert!(self.last < Hlc::MAX, "the hybrid logical clock ends in the year 2527");
        self.last = Hlc::from_millis(wall).max(Hlc(self.last.0 + 1));
        self.last
    }

    /// Takes back what was known before a restart, without a drift check: these stamps were checked when they came.
    pub fn restore(&mut self, stamp: Hlc) {
        self.last = self.last.max(stamp);
    }

    /// Whether [`observe`](Self::observe) would accept a stamp.
    ///
    /// # Errors
    /// [`ClockDrift`] with the offset.
    pub const fn check(&self, stamp: Hlc, wall: WallMillis) -> Result<(), ClockDrift> {
        let ahead_ms = stamp.millis().0.saturating_sub(wall.0);
        if ahead_ms > self.drift_max_ms {
            return Err(ClockDrift { ahead_ms, limit_ms: self.drift_max_ms });
        }
        Ok(())
    }

    /// Moves the clock to a stamp received from a peer, so that later local stamps are greater.
    ///
    /// # Errors
    /// [`ClockDrift`] when it is too far ahead of `wall`; the clock is as before.
    pub fn observe(&mut self, stamp: Hlc, wall: WallMillis) -> Result<(), ClockDrift> {
        self.check(stamp, wall)?;
        self.restore(stamp);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_carries_into_the_milliseconds() {
        let mut clock = HybridClock::new(60_000);
        let first = clock.tick(WallMillis(1_000));
        assert_eq!((first.millis(), first.counter()), (WallMillis(1_000), 0));
        let mut last = first;
        for _ in 0..512 {
            let next = clock.tick(WallMillis(1_000));
            assert!(next > last);
            last = next;
        }
        assert_eq!((last.millis(), last.counter()), (WallMillis(1_001), 0));
    }

    #[test]
    fn a_refused_stamp_leaves_no_trace() {
        let mut clock = HybridClock::new(1_000);
        let now = WallMillis(10_000);
        let far = Hlc::from_millis(WallMillis(15_000));
        assert_eq!(clock.observe(far, now), Err(ClockDrift { ahead_ms: 5_000, limit_ms: 1_000 }));
        assert!(clock.tick(now) < far);
    }

    #[test]
    fn an_observed_stamp_is_passed() {
        let mut clock = HybridClock::new(1_000);
        let seen = Hlc::from_millis(WallMillis(10_900));
        clock.observe(seen, WallMillis(10_000)).expect("within the drift bound");
        assert!(clock.tick(WallMillis(10_000)) > seen);
    }

    #[test]
    fn times_past_the_end_saturate() {
        assert_eq!(Hlc::from_millis(WallMillis(u64::MAX)), Hlc::MAX);
        assert_eq!(Hlc::from_millis(WallMillis((1 << 44) - 1)).millis(), WallMillis((1 << 44) - 1));
    }
}
