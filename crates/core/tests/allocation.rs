//! A decoder takes no memory on the word of a peer. Alone in its process, because it counts every allocation.
#![expect(unsafe_code, reason = "an allocator that counts is unsafe to write")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use opor_core::{Changeset, DecodeError, DecodeLimits};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn sealed(flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'o', b'p', b'c', 1, flags];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(payload);
    bytes.extend_from_slice(&hasher.finalize().to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Decodes and says how much memory that took at most.
fn peak_of(bytes: &[u8], limits: &DecodeLimits) -> (Result<Changeset, DecodeError>, usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let read = Changeset::from_bytes(bytes, limits);
    (read, PEAK.load(Relaxed) - before)
}

#[track_caller]
fn check(bytes: &[u8], limits: &DecodeLimits, peak_max: usize) {
    let (read, peak) = peak_of(bytes, limits);
    read.expect_err("hostile");
    assert!(peak <= peak_max, "{peak} bytes for {} bytes of input", bytes.len());
}

/// 4 GiB of zeros in 131 KB, said to be `len`.
fn bomb(len: &[u8]) -> Vec<u8> {
    let mut payload = [len, &[0x28, 0xb5, 0x2f, 0xfd, 0, 0x38]].concat();
    for block in 1..=32_768_u32 {
        let header = (131_072 << 3) | (1 << 1) | u32::from(block == 32_768);
        payload.extend_from_slice(&header.to_le_bytes()[..3]);
        payload.push(0);
    }
    sealed(1, &payload)
}

#[test]
fn memory_follows_the_bytes_that_are_there() {
    let limits = DecodeLimits::default();
    let (read, peak) = peak_of(&sealed(0, &[0; 7]), &limits);
    assert_eq!((read, peak > 100_000), (Ok(Changeset::new()), false));

    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let large = [0xff, 0xff, 0xff, 0x7f];
    for count in [&huge[..], &large] {
        // Sites, tables, columns and cells without end; each also after what must come before it.
        for before in [&[][..], &[0], &[0, 1, 1, b't', 1], &[1, 1, 7, 0], &[1, 1, 7, 1, 1, b't', 0, 1]] {
            check(&sealed(0, &[before, count].concat()), &limits, 100_000);
        }
    }

    check(&bomb(&[0x80, 0x80, 0x80, 0x80, 0x10]), &limits, 100_000);
    check(&bomb(&[0x80, 0x80, 4]), &limits, 1 << 20);

    // Rows without end that take no bytes: what is counted is what is taken, but for the growth of the list.
    let run = [1, 0, 0, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f];
    let body = [&[1, 1, 7, 1, 1, b't', 0, 0, 15][..], &run, &[0; 4]].concat();
    let small = DecodeLimits { memory_max: 1 << 20, ..limits };
    assert_eq!(peak_of(&sealed(0, &body), &small).0, Err(DecodeError::TooMuchMemory { max: 1 << 20 }));
    check(&sealed(0, &body), &small, 4 << 20);
}
