//! Any bytes as a frame of the sync protocol.
#![no_main]

use libfuzzer_sys::fuzz_target;
use opor_sync_proto::{Decoded, decode};

fuzz_target!(|data: &[u8]| {
    let Ok(Decoded::Message(message)) = decode(data) else { return };
    let written = message.to_bytes(data[2]);
    assert_eq!(decode(&written), Ok(Decoded::Message(message)), "what was read is written and read again");
});
