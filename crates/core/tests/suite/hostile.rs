//! Damage, noise and bombs: an error each, and never a panic.

use opor_core::{Changeset, DecodeError, DecodeLimits, EncodeOptions, PackedKey};

use crate::fixture::{self, Numbers};
use crate::malformed::sealed;

const LIMITS: DecodeLimits = DecodeLimits { bytes_max: 1 << 20, memory_max: 16 << 20 };
const COMPRESS: EncodeOptions = EncodeOptions { compress_above: 0, level: 1 };

/// A changeset with all kinds of values, keys, clocks and rows, small enough to damage at every place.
fn varied() -> Changeset {
    let parts = [fixture::todos(2), fixture::mixed(3), fixture::composite(2)];
    let mut numbers = Numbers(5);
    let mut changeset = Changeset::new();
    for (at, mut change) in parts.iter().flat_map(Changeset::changes).enumerate() {
        if at % 7 == 0 {
            changeset.push(opor_core::Change {
                cid: "-1".into(),
                val: opor_core::Value::Null,
                ..change.clone()
            });
        }
        if at % 3 == 0 {
            change.col_version = numbers.below(1 << 50).into();
            change.db_version = numbers.below(1000).into();
            change.site_id = opor_core::SiteId::from([numbers.below(3) as u8; 16]);
        }
        changeset.push(change);
    }
    changeset
}

/// The checksum finds every damaged byte, whatever it is damaged to, and every missing end.
#[test]
fn damage_is_found() {
    let changeset = varied();
    for options in [EncodeOptions::RAW, COMPRESS] {
        let bytes = changeset.to_bytes_with(&options);
        assert_eq!(Changeset::from_bytes(&bytes, &LIMITS).as_ref(), Ok(&changeset));
        let mut damaged = bytes.clone();
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                damaged[at] ^= flip;
                let error = Changeset::from_bytes(&damaged, &LIMITS).expect_err("damaged");
                assert!(at < 5 || matches!(error, DecodeError::Checksum { .. }), "byte {at}: {error}");
                damaged[at] ^= flip;
            }
            Changeset::from_bytes(&bytes[..at], &LIMITS).expect_err("cut short");
        }
        damaged.push(0);
        Changeset::from_bytes(&damaged, &LIMITS).expect_err("followed by a byte");
    }
}

/// Changes some bytes: sets, flips, removes, repeats or inserts.
fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'-'];
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() as u64 + 1) as usize;
        let end = bytes.len().min(at + numbers.below(9) as usize);
        let telling = TELLING[numbers.below(8) as usize];
        match (numbers.below(6), bytes.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << numbers.below(8),
            (1, Some(byte)) => *byte = telling,
            (2, Some(byte)) => *byte = byte.wrapping_add(1),
            (3, _) => drop(bytes.drain(at..end)),
            (4, _) => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => bytes.insert(at, telling),
        }
    }
}

/// What was read is a changeset: it can be looked at and comes back the same.
fn check_whole(read: &Changeset) {
    assert_eq!(read.changes().count(), read.len());
    let again = Changeset::from_bytes(&read.to_bytes(), &DecodeLimits::default());
    assert_eq!(again.as_ref(), Ok(read));
}

/// Mutates what `f` accepts, many times, and says how many were accepted and how many refused.
fn storm(seeds: &[Vec<u8>], rounds: u64, mut f: impl FnMut(&[u8]) -> bool) -> (u64, u64) {
    let mut numbers = Numbers(6);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..rounds {
        let mut bytes = seeds[round as usize % seeds.len()].clone();
        mutate(&mut bytes, &mut numbers);
        if f(&bytes) { accepted += 1 } else { refused += 1 }
    }
    (accepted, refused)
}

#[test]
fn mutated_bodies() {
    let seeds = [varied(), fixture::todos(2), fixture::composite(1)];
    let bodies = seeds.map(|changeset| changeset.to_bytes()[9..].to_vec());
    let (accepted, refused) = storm(&bodies, 40_000, |body| {
        let read = Changeset::from_bytes(&sealed(1, 0, body), &LIMITS);
        read.as_ref().map(check_whole).is_ok()
    });
    assert!(accepted > 1_000 && refused > 1_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn mutated_frames() {
    let seeds = [varied(), fixture::todos(40)];
    let payloads = seeds.map(|changeset| changeset.to_bytes_with(&COMPRESS)[9..].to_vec());
    let (accepted, refused) = storm(&payloads, 10_000, |payload| {
        let read = Changeset::from_bytes(&sealed(1, 1, payload), &LIMITS);
        read.as_ref().map(check_whole).is_ok()
    });
    assert!(accepted + refused == 10_000 && refused > 1_000, "{accepted} accepted, {refused} refused");
}

#[test]
fn mutated_json() {
    let seeds = [varied(), fixture::todos(1)].map(|changeset| changeset.to_json().into_bytes());
    let (accepted, refused) = storm(&seeds, 20_000, |json| {
        let Ok(read) = Changeset::from_json(json, &LIMITS) else { return false };
        let again = Changeset::from_json(read.to_json(), &LIMITS).expect("written here");
        assert_eq!(again.len(), read.len());
        true
    });
    assert!(accepted > 500 && refused > 1_000, "{accepted} accepted, {refused} refused");
}

/// One in 4,900 such keys kills the genuine extension.
#[test]
fn mutated_and_random_keys() {
    let check = |bytes: &[u8]| {
        let Ok(key) = PackedKey::from_bytes(bytes) else { return false };
        assert_eq!(PackedKey::from_bytes(key.as_bytes()).as_ref(), Ok(&key));
        assert_eq!(PackedKey::pack(&key.unpack()), key);
        true
    };
    let rows = varied();
    let seeds: Vec<Vec<u8>> = rows.rows().iter().map(|row| row.key.as_bytes().to_vec()).collect();
    let (accepted, refused) = storm(&seeds, 40_000, check);
    assert!(accepted > 1_000 && refused > 1_000, "{accepted} accepted, {refused} refused");
    let mut numbers = Numbers(7);
    for _ in 0..40_000 {
        let len = numbers.below(40) as usize;
        check(&numbers.bytes(len));
    }
}

#[test]
fn noise() {
    let mut numbers = Numbers(8);
    for _ in 0..20_000 {
        let len = numbers.below(60) as usize;
        let noise = numbers.bytes(len);
        Changeset::from_bytes(&noise, &LIMITS).expect_err("noise");
        if let Ok(read) = Changeset::from_bytes(&sealed(1, 0, &noise), &LIMITS) {
            check_whole(&read);
        }
    }
}

/// 4 GiB of zeros as a zstd frame of 131 KB: 32,768 blocks that repeat one byte 131,072 times.
pub(crate) fn bomb() -> Vec<u8> {
    const BLOCKS: u32 = 32_768;
    // Magic number; no content size and no checksum; a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38];
    for block in 1..=BLOCKS {
        let header = (131_072 << 3) | (1 << 1) | u32::from(block == BLOCKS);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    assert_eq!(frame.len(), 131_078);
    frame
}

/// A varint of a length, and a frame.
fn compressed(len: &[u8], frame: &[u8]) -> Result<Changeset, DecodeError> {
    Changeset::from_bytes(&sealed(1, 1, &[len, frame].concat()), &LIMITS)
}

#[test]
fn bombs_do_not_go_off() {
    let four_gib = [0x80, 0x80, 0x80, 0x80, 0x10];
    let refused = DecodeError::TooLarge { len: 4 << 30, max: LIMITS.bytes_max };
    assert_eq!(compressed(&four_gib, &bomb()), Err(refused));
    // It may also lie about its length.
    assert_eq!(compressed(&[7], &bomb()), Err(DecodeError::Compression));
    // A frame that wants a window of 2 GiB.
    let wide = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
    assert_eq!(compressed(&[0], &wide), Err(DecodeError::Compression));
}

#[test]
fn frames() {
    let frame = zstd::bulk::compress(&[0; 7], 1).expect("zstd");
    assert_eq!(compressed(&[7], &frame), Ok(Changeset::new()));
    for (len, frame) in [
        (6, frame.clone()),
        (8, frame.clone()),
        (7, frame[..frame.len() - 1].to_vec()),
        (7, [&frame[..], &[0]].concat()),
        (14, frame.repeat(2)),
        (0, vec![]),
        (7, b"no frame at all".to_vec()),
    ] {
        assert_eq!(compressed(&[len], &frame), Err(DecodeError::Compression), "{len} {frame:?}");
    }
    assert_eq!(compressed(&[], &[]), Err(DecodeError::Truncated));
}
