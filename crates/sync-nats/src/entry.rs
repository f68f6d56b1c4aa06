//! What stands in a room's log, as bytes. `docs/nats.md` draws it.

use opor_core::SiteId;
use serde::{Deserialize, Serialize};

/// The most bytes of one changeset, in however many parts: as in sessions.
pub(crate) const CHANGESET_MAX: usize = 64 << 20;

/// The most parts that a changeset may have: as small as they may be, at brokers that take only little.
const PARTS_MAX: usize = 1 << 16;

/// Begin changesets of `docs/wire.md`.
const CHANGES: &[u8; 3] = b"opc";
/// Begin lists of parts, notices of snapshots, and requests for one.
const PARTS: &[u8; 4] = b"opp\x01";
const NOTICE: &[u8; 4] = b"ops\x01";
const WANT: &[u8; 4] = b"opw\x01";

/// The header with the site that published a message; it proves nothing.
pub(crate) const SITE_HEADER: &str = "Opor-Site";

/// A message of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A changeset.
    Changes,
    /// A changeset that lies in these messages of the stream, one after the other.
    Parts(Parts),
    /// A snapshot holds what the log does not: read it before going on.
    Notice(Record),
    /// A replica cannot go on from the log, and no snapshot helps it.
    Want,
}

/// Where a large changeset lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) bytes: u64,
    pub(crate) hash: [u8; 32],
    pub(crate) sequences: Vec<u64>,
}

/// A snapshot that lies in the object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its name; another for each snapshot.
    pub(crate) id: String,
    /// Who made it, in hex.
    pub(crate) site: String,
    /// The last commit of that site in it.
    pub(crate) version: u64,
    /// Everything in the log up to here is in it.
    pub(crate) covers: u64,
    /// Everything in the log up to here is gone from there, or may be.
    pub(crate) floor: u64,
    /// How many objects its chunks are in.
    pub(crate) pieces: u32,
    /// How many messages of the log it left there.
    pub(crate) kept: u64,
    /// The snapshot before it, whose objects are still there.
    pub(crate) previous: Option<Previous>,
}

/// What must be known of a snapshot to remove it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    pub(crate) id: String,
    pub(crate) pieces: u32,
    pub(crate) covers: u64,
}

/// The most pieces a snapshot may be said to have: 64 GiB in pieces of 4 MiB.
const PIECES_MAX: u32 = 1 << 14;

/// A message that is none of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Entry {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        if payload.starts_with(CHANGES) {
            return Ok(Self::Changes);
        }
        match payload.split_first_chunk() {
            Some((PARTS, rest)) => Parts::parse(rest).map(Self::Parts),
            Some((NOTICE, rest)) => Record::parse(rest).map(Self::Notice),
            Some((WANT, [])) => Ok(Self::Want),
            _ => Err(Malformed),
        }
    }

    pub(crate) fn want() -> Vec<u8> {
        WANT.to_vec()
    }
}

impl Parts {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48 + 8 * self.sequences.len());
        out.extend(PARTS);
        out.extend(self.bytes.to_le_bytes());
        out.extend(self.hash);
        self.sequences.iter().for_each(|sequence| out.extend(sequence.to_le_bytes()));
        out
    }

    fn parse(rest: &[u8]) -> Result<Self, Malformed> {
        let (bytes, rest) = rest.split_first_chunk().ok_or(Malformed)?;
        let (hash, rest) = rest.split_first_chunk().ok_or(Malformed)?;
        let (sequences, left) = rest.as_chunks();
        let bytes = u64::from_le_bytes(*bytes);
        let sequences = sequences.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect::<Vec<_>>();
        let rises = sequences.is_sorted_by(|a, b| a < b);
        let is_sound = left.is_empty()
            && (1..=PARTS_MAX).contains(&sequences.len())
            && bytes <= CHANGESET_MAX as u64
            && rises;
        if is_sound { Ok(Self { bytes, hash: *hash, sequences }) } else { Err(Malformed) }
    }
}

impl Record {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are JSON")
    }

    /// As a message of the log.
    pub(crate) fn notice(&self) -> Vec<u8> {
        [&NOTICE[..], &self.to_bytes()].concat()
    }

    /// # Errors
    /// When it is none, or says what cannot be.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let record: Self = serde_json::from_slice(bytes).map_err(|_| Malformed)?;
        let is_name =
            |id: &str| !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        let previous = record.previous.as_ref();
        let is_sound = is_name(&record.id)
            && SiteId::from_hex(&record.site).is_ok()
            && record.pieces <= PIECES_MAX
            && record.floor <= record.covers
            && previous.is_none_or(|previous| is_name(&previous.id) && previous.pieces <= PIECES_MAX);
        if is_sound { Ok(record) } else { Err(Malformed) }
    }

    pub(crate) fn site(&self) -> SiteId {
        SiteId::from_hex(&self.site).expect("it was checked when it was read")
    }

    pub(crate) fn as_previous(&self) -> Previous {
        Previous { id: self.id.clone(), pieces: self.pieces, covers: self.covers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            id: "a1b2".into(),
            site: "0a".repeat(16),
            version: 9,
            covers: 7,
            floor: 3,
            pieces: 2,
            kept: 4,
            previous: Some(Previous { id: "c3".into(), pieces: 1, covers: 3 }),
        }
    }

    #[test]
    fn entries_come_back_as_they_were_written() {
        let parts = Parts { bytes: 900, hash: [7; 32], sequences: vec![3, 5, 1 << 40] };
        assert_eq!(Entry::parse(&parts.to_bytes()), Ok(Entry::Parts(parts)));
        assert_eq!(Entry::parse(&record().notice()), Ok(Entry::Notice(record())));
        assert_eq!(Entry::parse(&Entry::want()), Ok(Entry::Want));
        assert_eq!(Entry::parse(b"opc\x01rest"), Ok(Entry::Changes));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let parts = |bytes, sequences: &[u64]| {
            Entry::parse(&Parts { bytes, hash: [0; 32], sequences: sequences.to_vec() }.to_bytes())
        };
        assert_eq!(parts(5, &[]), Err(Malformed));
        assert_eq!(parts(5, &[4, 4]), Err(Malformed));
        assert_eq!(parts(5, &[4, 3]), Err(Malformed));
        assert_eq!(parts(u64::MAX, &[1]), Err(Malformed));
        for wrong in [
            Record { id: "../../etc".into(), ..record() },
            Record { id: String::new(), ..record() },
            Record { site: "xyz".into(), ..record() },
            Record { pieces: u32::MAX, ..record() },
            Record { floor: 8, ..record() },
            Record { previous: Some(Previous { id: "a.b".into(), pieces: 1, covers: 1 }), ..record() },
        ] {
            assert_eq!(Entry::parse(&wrong.notice()), Err(Malformed), "{wrong:?}");
        }
        for wrong in
            [&b""[..], b"op", b"opx\x01", b"opw\x01x", b"ops\x01{}", b"opp\x01\0\0", b"\xff\xff\xff\xff"]
        {
            assert_eq!(Entry::parse(wrong), Err(Malformed), "{wrong:?}");
        }
    }
}
