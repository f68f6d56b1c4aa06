//! Bodies that no encoder writes, each put together by hand and sealed with a right checksum: a known error each.

use opor_core::{Changeset, DecodeError, DecodeLimits, KeyError, SiteIdError, Value};

const LIMITS: DecodeLimits = DecodeLimits { bytes_max: 1 << 16, memory_max: 1 << 20 };

/// A header and a right checksum before any payload.
pub(crate) fn sealed(version: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'o', b'p', b'c', version, flags];
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(payload);
    bytes.extend_from_slice(&hasher.finalize().to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The parts of a body, at first those of one row: table `t`, key 1, column `c` = 1, by one site.
#[derive(Clone)]
struct Body {
    sites: Vec<u8>,
    tables: Vec<u8>,
    rows: Vec<u8>,
    clocks: [Vec<u8>; 4],
    columns: Vec<[Vec<u8>; 2]>,
    tail: Vec<u8>,
}

/// The integer 1.
const ONE: u8 = 2 << 3 | 1;

impl Body {
    fn new() -> Self {
        Self {
            sites: vec![1, 2, 7, 7],
            tables: vec![1, 1, b't', 1, 1, 1, b'c'],
            // Shape 0, once: table 0, 1 key column, causal length 1, one cell, column 0 as predicted.
            rows: vec![0, 0, 1, 1, 2, 0],
            clocks: [const { Vec::new() }; 4],
            columns: vec![[vec![ONE], vec![]], [vec![ONE], vec![]]],
            tail: vec![],
        }
    }

    fn read(&self) -> Result<Changeset, DecodeError> {
        let mut body = [&self.sites[..], &self.tables].concat();
        let streams = [&self.rows].into_iter().chain(&self.clocks).chain(self.columns.iter().flatten());
        for stream in streams {
            let mut len = stream.len();
            while len >= 0x80 {
                body.push(len as u8 | 0x80);
                len >>= 7;
            }
            body.push(len as u8);
            body.extend_from_slice(stream);
        }
        body.extend_from_slice(&self.tail);
        Changeset::from_bytes(&sealed(1, 0, &body), &LIMITS)
    }
}

#[track_caller]
fn check(f: impl FnOnce(&mut Body), expected: DecodeError) {
    let mut body = Body::new();
    f(&mut body);
    assert_eq!(body.read(), Err(expected));
}

fn out_of_range(what: &'static str, index: u64, count: usize) -> DecodeError {
    DecodeError::IndexRange { what, index, count }
}

#[test]
fn the_body_that_the_others_differ_from_is_read() {
    let read = Body::new().read().expect("well formed");
    let change = read.changes().next().expect("one change");
    assert_eq!((&*change.table, change.cid.as_str(), change.val), ("t", "c", Value::Integer(1)));
    assert_eq!((change.site_id.as_bytes(), change.cl.0, change.seq), (&[7, 7][..], 1, 0));
    assert_eq!((change.col_version.0, change.db_version.0), (0, 0));
    assert_eq!(change.pk.unpack(), [Value::Integer(1)]);
}

#[test]
fn headers() {
    let limits = DecodeLimits::default();
    let check = |bytes: &[u8], expected| assert_eq!(Changeset::from_bytes(bytes, &limits), Err(expected));
    check(b"", DecodeError::NotAChangeset);
    check(b"op", DecodeError::NotAChangeset);
    check(b"opd\x01\0", DecodeError::NotAChangeset);
    check(b"opc", DecodeError::Truncated);
    check(b"opc\x01\0\0\0", DecodeError::Truncated);
    check(b"opc\x02 whatever a later opor may write", DecodeError::UnsupportedVersion { version: 2 });
    check(&sealed(0, 0, &[]), DecodeError::UnsupportedVersion { version: 0 });
    check(&sealed(1, 2, &[]), DecodeError::UnknownFlags { flags: 2 });
    check(&sealed(1, 0, &[]), DecodeError::Truncated);
    let found = u32::from_le_bytes(sealed(1, 0, &[])[5..].try_into().expect("4 bytes"));
    check(b"opc\x01\0\0\0\0\0", DecodeError::Checksum { stated: 0, found });
    assert_eq!(Changeset::from_bytes(&sealed(1, 0, &[0; 7]), &limits), Ok(Changeset::new()));
}

#[test]
fn dictionaries() {
    check(|b| b.sites = vec![2, 1, 7, 1, 7], DecodeError::Duplicate { what: "site" });
    check(|b| b.sites = vec![1, 0], DecodeError::Site(SiteIdError::Empty));
    check(
        |b| b.sites = [&[1, 17][..], &[7; 17]].concat(),
        DecodeError::Site(SiteIdError::TooLong { len: 17 }),
    );
    check(
        |b| b.tables = vec![2, 1, b't', 1, 0, 1, b't', 1, 0],
        DecodeError::Duplicate { what: "table name" },
    );
    check(
        |b| b.tables = vec![1, 1, b't', 1, 2, 1, b'c', 1, b'c'],
        DecodeError::Duplicate { what: "column name" },
    );
    check(|b| b.tables[2] = 0xff, DecodeError::NotUtf8 { what: "table name" });
    check(|b| b.tables[6] = 0xff, DecodeError::NotUtf8 { what: "column name" });
    check(|b| b.tables = vec![1, 1, b't', 0x80, 2, 0], out_of_range("key column", 256, 256));
}

#[test]
fn shapes() {
    check(|b| b.rows[0] = 2, out_of_range("shape", 1, 1));
    check(|b| b.rows[1] = 1, out_of_range("table", 1, 1));
    check(|b| b.rows[2] = 2, out_of_range("key column", 2, 2));
    check(|b| b.rows[5] = 1 << 4, out_of_range("column", 1, 1));
    check(|b| b.rows[4] = 4, out_of_range("cell", 2, 2));
    check(|b| b.rows = vec![0, 0, 1, 1, 1, 16], out_of_range("flag", 16, 16));
    check(|b| b.rows = vec![0, 0, 1, 1, 0], DecodeError::EmptyRow);
    check(|b| b.rows.truncate(5), DecodeError::Truncated);
    check(|b| b.rows.push(0x80), DecodeError::Truncated);
    check(|b| b.rows.extend([0x80, 0]), DecodeError::Varint);
    check(
        |b| {
            b.tables = vec![1, 1, b't', 1, 2, 1, b'c', 1, b'd'];
            b.columns.push([vec![ONE], vec![]]);
            b.rows = vec![0, 0, 1, 1, 4, 1 << 4, 1 << 4];
        },
        DecodeError::Duplicate { what: "column of a row" },
    );
}

#[test]
fn clocks() {
    let with_flag = |flag: u8| move |b: &mut Body| b.rows[5] = flag;
    for flag in [1, 2, 4, 8] {
        check(with_flag(flag), DecodeError::Truncated);
    }
    for stream in 0..4 {
        check(|b| b.clocks[stream] = vec![0], DecodeError::TrailingBytes { count: 1 });
    }
    check(
        |b| {
            b.rows[5] = 8;
            b.clocks[3] = vec![1];
        },
        out_of_range("site", 1, 1),
    );
    check(|b| b.sites = vec![0], out_of_range("site", 0, 0));
}

#[test]
fn columns() {
    check(|b| b.columns[1][0] = vec![], DecodeError::Truncated);
    check(|b| b.columns[0][0] = vec![], DecodeError::Truncated);
    check(|b| b.columns[1][0].push(ONE), DecodeError::TrailingBytes { count: 1 });
    check(|b| b.columns[1][1].push(0), DecodeError::TrailingBytes { count: 1 });
    check(|b| b.columns[1][0] = vec![2 << 3 | 4], DecodeError::Truncated);
    check(|b| b.columns[1] = [vec![1 << 3 | 4], vec![0xff]], DecodeError::NotUtf8 { what: "value" });
    check(|b| b.columns[1][0] = vec![7], DecodeError::ValueKind { kind: 7, argument: 0 });
    check(|b| b.columns[1][0] = vec![8], DecodeError::ValueKind { kind: 0, argument: 1 });
    let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    check(|b| b.columns[1][0] = [&[31 << 3 | 4][..], &longest].concat(), DecodeError::Varint);
    check(|b| b.columns.truncate(1), DecodeError::Truncated);
    check(|b| b.tail = vec![0, 0], DecodeError::TrailingBytes { count: 2 });
}

/// A table, a site, a name or a stream that is said to be longer than everything that is there.
#[test]
fn lengths_beyond_the_bytes() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    check(|b| b.sites = huge.to_vec(), DecodeError::Truncated);
    check(|b| b.sites = [&[1][..], &huge].concat(), DecodeError::Truncated);
    check(|b| b.tables = [&[1][..], &huge].concat(), DecodeError::Truncated);
    check(
        |b| b.tables = [&[1, 1, b't', 1][..], &huge, &[1, b'c']].concat(),
        // What follows is read as names, and two of them are empty.
        DecodeError::Duplicate { what: "column name" },
    );
    check(|b| b.tail = huge.to_vec(), DecodeError::TrailingBytes { count: 10 });
    check(|b| b.columns[1][0] = vec![31 << 3 | 4, 0xff, 0xff, 0xff, 0x7f], DecodeError::Truncated);
}

/// Few bytes that ask for much memory.
#[test]
fn memory_is_limited() {
    let too_much = DecodeError::TooMuchMemory { max: 1 << 20 };
    // 2^62 rows of no key columns and nothing but a sentinel, which take no bytes at all.
    let run = [&[1, 0, 0, 1, 1, 0][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f]].concat();
    check(|b| b.rows = run, too_much.clone());
    // A text of 10,000 bytes and then the same again, a byte each.
    check(
        |b| {
            b.rows = vec![1, 0, 1, 1, 2, 0, 0xff, 7];
            b.columns[0][0] = vec![ONE; 1025];
            b.columns[1] = [[&[31 << 3 | 4, 0xf1, 0x4d][..], &[8; 1024]].concat(), vec![b'x'; 10_000]];
        },
        too_much,
    );
}

#[test]
fn a_key_is_no_longer_than_a_key_can_be() {
    let text = "x".repeat(opor_core::PackedKey::LEN_MAX);
    let mut changeset = crate::fixture::todos(1);
    let row = opor_core::RowChange {
        key: opor_core::PackedKey::pack(&[text.as_str().into()]),
        ..changeset.rows()[0].clone()
    };
    changeset.push_row(row);
    let read = Changeset::from_bytes(&changeset.to_bytes(), &DecodeLimits::default());
    assert_eq!(read, Err(DecodeError::Key(KeyError::TooLong { len: text.len() + 5 })));
}

#[test]
fn input_is_limited() {
    let bytes = crate::fixture::todos(100).to_bytes();
    let limits = DecodeLimits { bytes_max: bytes.len() - 1, ..LIMITS };
    let refused = DecodeError::TooLarge { len: bytes.len() as u64, max: bytes.len() - 1 };
    assert_eq!(Changeset::from_bytes(&bytes, &limits), Err(refused));
}
