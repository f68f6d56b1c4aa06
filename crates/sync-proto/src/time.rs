//! Time as the driver tells it.

use std::fmt;
use std::ops::Add;

/// Milliseconds since a start that the driver chose once; never backwards, and with no relation to the wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonoMillis(pub u64);

/// So many milliseconds later; a sum past the end of time is the end of time.
impl Add<u64> for MonoMillis {
    type Output = Self;

    fn add(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

impl fmt::Display for MonoMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}
