//! The weather of a network: what frames meet on their way.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Shared by all links of a network.
#[derive(Debug, Default)]
pub(crate) struct Conditions(Mutex<Weather>);

#[derive(Debug, Default)]
struct Weather {
    latency: Duration,
    breaks: Option<Breaks>,
}

/// Which frames break their links: one in so many, drawn by a generator of its own.
#[derive(Debug)]
struct Breaks {
    state: u64,
    one_in: NonZeroU32,
}

impl Conditions {
    pub(crate) fn latency(&self) -> Duration {
        self.weather().latency
    }

    pub(crate) fn set_latency(&self, latency: Duration) {
        self.weather().latency = latency;
    }

    pub(crate) fn set_breaks(&self, seed: u64, one_in: NonZeroU32) {
        self.weather().breaks = Some(Breaks { state: seed, one_in });
    }

    pub(crate) fn clear_breaks(&self) {
        self.weather().breaks = None;
    }

    /// Whether the link breaks under the frame that is sent now.
    pub(crate) fn breaks_now(&self) -> bool {
        self.weather().breaks.as_mut().is_some_and(Breaks::next)
    }

    fn weather(&self) -> MutexGuard<'_, Weather> {
        // Every change is a single assignment, so what a panicking thread left is sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Breaks {
    /// SplitMix64 (Steele, Lea, Flood 2014): even enough to break links, and the same on every machine.
    fn next(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).is_multiple_of(u64::from(self.one_in.get()))
    }
}
