//! An item on its way in, put together from its parts.

use crate::violation::Violation;

/// The bytes of one changeset or chunk that are there so far. What it is to have in all is only a promise: memory is
/// taken for bytes that came.
#[derive(Debug)]
pub(crate) struct Assembly<H> {
    number: u64,
    len: u64,
    head: H,
    bytes: Vec<u8>,
}

impl<H> Assembly<H> {
    /// Begins with the first bytes.
    pub(crate) fn begin(
        number: u64,
        len: u64,
        head: H,
        payload: &[u8],
        len_max: u64,
    ) -> Result<Self, Violation> {
        if len > len_max {
            return Err(Violation::ItemTooLarge { len, max: len_max });
        }
        let mut assembly = Self { number, len, head, bytes: Vec::new() };
        assembly.push(payload)?;
        Ok(assembly)
    }

    /// Adds a part. One without bytes is refused: a peer could send them for ever.
    pub(crate) fn add(&mut self, number: u64, offset: u64, payload: &[u8]) -> Result<(), Violation> {
        let at = self.bytes.len() as u64;
        if number != self.number || offset != at {
            return Err(Violation::PartOrder { number, offset, at });
        }
        self.push(payload)
    }

    fn push(&mut self, payload: &[u8]) -> Result<(), Violation> {
        let end = self.bytes.len() as u64 + payload.len() as u64;
        if end > self.len || (payload.is_empty() && self.len > 0) {
            return Err(Violation::ItemLength { len: self.len });
        }
        self.bytes.extend_from_slice(payload);
        Ok(())
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.bytes.len() as u64 == self.len
    }

    /// How many bytes are still to come.
    pub(crate) fn rest(&self) -> u64 {
        self.len - self.bytes.len() as u64
    }

    /// How many bytes are there.
    pub(crate) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// What it is, and all its bytes.
    pub(crate) fn finish(self) -> (H, Vec<u8>) {
        (self.head, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(len: u64, payload: &[u8]) -> Result<Assembly<()>, Violation> {
        Assembly::begin(7, len, (), payload, 10)
    }

    #[test]
    fn parts_make_a_whole() {
        let mut assembly = begun(5, b"ab").unwrap();
        assert!(!assembly.is_whole());
        assert_eq!(assembly.add(7, 2, b"cde"), Ok(()));
        assert!(assembly.is_whole());
        assert_eq!(assembly.finish().1, b"abcde");
        assert!(begun(0, b"").unwrap().is_whole());
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        assert_eq!(begun(11, b"a").unwrap_err(), Violation::ItemTooLarge { len: 11, max: 10 });
        assert_eq!(begun(1, b"ab").unwrap_err(), Violation::ItemLength { len: 1 });
        assert_eq!(begun(1, b"").unwrap_err(), Violation::ItemLength { len: 1 });
        let mut assembly = begun(5, b"ab").unwrap();
        for (number, offset) in [(6, 2), (7, 1), (7, 3)] {
            let expected = Violation::PartOrder { number, offset, at: 2 };
            assert_eq!(assembly.add(number, offset, b"c"), Err(expected));
        }
        assert_eq!(assembly.add(7, 2, b""), Err(Violation::ItemLength { len: 5 }));
        assert_eq!(assembly.add(7, 2, b"cdef"), Err(Violation::ItemLength { len: 5 }));
        assert_eq!(assembly.held(), 2);
    }
}
