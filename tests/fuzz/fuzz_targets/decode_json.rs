//! Any bytes as a changeset in JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use opor_core::{Changeset, DecodeLimits};

/// The changes in an order that depends on nothing but themselves.
fn sorted(changeset: &Changeset) -> Vec<String> {
    let mut changes: Vec<String> = changeset.changes().map(|change| format!("{change:?}")).collect();
    changes.sort();
    changes
}

fuzz_target!(|data: &[u8]| {
    let limits = DecodeLimits { bytes_max: 16 << 20, memory_max: 64 << 20 };
    let Ok(read) = Changeset::from_json(data, &limits) else { return };
    let again = Changeset::from_json(read.to_json(), &DecodeLimits::default()).expect("written here");
    assert_eq!(sorted(&again), sorted(&read));
});
