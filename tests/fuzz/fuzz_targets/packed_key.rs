//! Any bytes as a packed key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use opor_core::PackedKey;

fuzz_target!(|data: &[u8]| {
    let Ok(key) = PackedKey::from_bytes(data) else { return };
    assert_eq!(PackedKey::from_bytes(key.as_bytes()).as_ref(), Ok(&key));
    assert_eq!(PackedKey::pack(&key.unpack()), key);
});
