//! A run as one number, by which two runs are told apart.

/// FNV-1a over all that happened, with its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace(u64);

impl Default for Trace {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    pub(crate) fn note(&mut self, bytes: &[u8]) {
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, fold);
    }

    pub(crate) const fn sum(self) -> u64 {
        self.0
    }
}
