//! Variable-length integers in the store's own records: seven bits a byte, lowest first.

/// A record that does not decode: the file is damaged, or written by a newer opor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("clock record is damaged")]
pub(crate) struct DamagedRecord;

#[inline]
pub(crate) fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_signed(value: i64, out: &mut Vec<u8>) {
    put(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
}

pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Reads a record from the front.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DamagedRecord> {
        let (&byte, rest) = self.0.split_first().ok_or(DamagedRecord)?;
        self.0 = rest;
        Ok(byte)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, DamagedRecord> {
        if let [byte, rest @ ..] = self.0
            && *byte < 0x80
        {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DamagedRecord)
    }

    pub(crate) fn small(&mut self) -> Result<u32, DamagedRecord> {
        u32::try_from(self.varint()?).map_err(|_| DamagedRecord)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, DamagedRecord> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], DamagedRecord> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DamagedRecord)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DamagedRecord> {
        let len = usize::try_from(self.varint()?).map_err(|_| DamagedRecord)?;
        self.take(len)
    }
}
