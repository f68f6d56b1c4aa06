//! Any bytes as a changeset: as they are, and as a raw and a compressed body behind a right header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use opor_core::{Changeset, DecodeLimits};

const LIMITS: DecodeLimits = DecodeLimits { bytes_max: 16 << 20, memory_max: 64 << 20 };

fn check(bytes: &[u8]) {
    let Ok(read) = Changeset::from_bytes(bytes, &LIMITS) else { return };
    assert_eq!(read.changes().count(), read.len());
    let again = Changeset::from_bytes(&read.to_bytes(), &DecodeLimits::default());
    assert_eq!(again.as_ref(), Ok(&read), "what was read is written and read again");
}

fn sealed(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'o', b'p', b'c', 1, flags];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(payload);
    bytes.extend_from_slice(&hasher.finalize().to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&sealed(0, data));
    check(&sealed(1, data));
});
