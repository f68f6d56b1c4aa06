//! How long to wait before the next attempt.

use std::time::Duration;

/// The pauses between attempts: each up to twice as long as the one before, and never the same for two replicas.
///
/// ```
/// use std::time::Duration;
/// use opor_transport_traits::Backoff;
///
/// let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };
/// assert_eq!(backoff.pause(0, u32::MAX), Duration::from_millis(100));
/// assert_eq!(backoff.pause(9, 0), Duration::from_millis(500));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// About the first pause.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Default for Backoff {
    /// Short enough that a person does not notice a hub that restarts; at most a minute, so that a phone which comes back
    /// into reach is soon in step, and a hub that is down is asked a few times an hour by each of its thousands.
    fn default() -> Self {
        Self { first: Duration::from_millis(250), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The pause after so many failures in a row, the first being 0. The jitter, any number, is a share of the second half:
    /// who was cut off together does not come back together, and nobody comes back at once.
    #[must_use]
    pub fn pause(&self, failures: u32, jitter: u32) -> Duration {
        let whole = self.first.saturating_mul(2_u32.saturating_pow(failures)).min(self.max);
        let half = whole / 2;
        half + half.mul_f64(f64::from(jitter) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(failures: u32, jitter: u32, expected_ms: u64) {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_millis(1_000) };
        assert_eq!(backoff.pause(failures, jitter), Duration::from_millis(expected_ms));
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        check(0, u32::MAX, 100);
        check(1, u32::MAX, 200);
        check(3, u32::MAX, 800);
        check(4, u32::MAX, 1_000);
        check(u32::MAX, u32::MAX, 1_000);
    }

    #[test]
    fn half_of_a_pause_is_sure() {
        check(0, 0, 50);
        check(9, 0, 500);
    }
}
