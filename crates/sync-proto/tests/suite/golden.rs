//! The vectors of `tests/golden/protocol/messages.txt`: for every message, the bytes it has had since its version.

use std::collections::BTreeSet;

use opor_core::SiteId;
use opor_sync_proto::{
    Bye, ByeCode, Capabilities, Cursor, Decoded, Hello, Kind, MAJOR, Message, Offer, Resume, SnapshotId,
    Token, decode,
};

const VECTORS: &str = include_str!("../../../../tests/golden/protocol/messages.txt");

fn cursor(text: &str) -> Cursor {
    Cursor::new(text.as_bytes()).unwrap()
}

/// What stands in the vectors, in their order, under their names.
fn messages() -> Vec<(&'static str, Message<'static>)> {
    let hello = Hello {
        newest_major: MAJOR,
        site: SiteId::from([0x0a; 16]),
        room: "todos".into(),
        token: Token(b"key".to_vec()),
        schema: vec![7],
        capabilities: Capabilities::BINARY.with(Capabilities::ZSTD).with(Capabilities::SNAPSHOT),
        frame_max: 64 << 10,
        item_max: 64 << 20,
    };
    let resume = Resume { id: SnapshotId(vec![0xd1, 0xd2]), index: 3 };
    let offer = Offer {
        id: SnapshotId(vec![0xd1, 0xd2]),
        chunks: 12,
        bytes: 3_000_000,
        first: 3,
        cursor: cursor("40@2"),
    };
    vec![
        ("hello", Message::Hello(Box::new(hello))),
        ("bye", Message::Bye(Bye { code: ByeCode::Room, detail: "peer is in another room".into() })),
        ("pull from the start", Message::Pull { cursor: None, limit: 64 << 20 }),
        ("pull after a cursor", Message::Pull { cursor: Some(cursor("7@3")), limit: 64 << 20 }),
        ("fetch any snapshot", Message::Fetch { resume: None, limit: 64 << 20 }),
        ("fetch the rest of a snapshot", Message::Fetch { resume: Some(resume), limit: 64 << 20 }),
        (
            "changes, whole",
            Message::Changes {
                number: 0,
                len: 3,
                cursor: cursor("9@3"),
                done: true,
                delta: false,
                payload: b"opc",
            },
        ),
        (
            "changes, the first of two parts",
            Message::Changes {
                number: 1,
                len: 300,
                cursor: cursor("7@3:8.1.4"),
                done: false,
                delta: false,
                payload: b"opc",
            },
        ),
        (
            "changes, only a cursor",
            Message::Changes {
                number: 2,
                len: 0,
                cursor: cursor("9@3"),
                done: true,
                delta: false,
                payload: b"",
            },
        ),
        (
            "changes, told as a difference",
            Message::Changes {
                number: 3,
                len: 2,
                cursor: cursor("9@3"),
                done: true,
                delta: true,
                payload: b"de",
            },
        ),
        ("chunk", Message::Chunk { number: 3, len: 2, index: 3, payload: b"xy" }),
        ("part", Message::Part { number: 1, offset: 3, payload: b"more" }),
        ("ack", Message::Ack { items: 2, limit: 67_109_167 }),
        ("behind, with a snapshot", Message::Behind { snapshot: true }),
        ("behind, without", Message::Behind { snapshot: false }),
        ("offer", Message::Offer { number: 2, len: 300, offer, payload: b"manifest" }),
        ("ping", Message::Ping { nonce: 1 }),
        ("pong", Message::Pong { nonce: 300 }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex")).collect()
}

/// Name and bytes of every vector. A line is `name: hex`; what begins with `#` is for people.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let lines = VECTORS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.split_once(": ").map(|(name, hex)| (name, unhex(hex))).expect("name: hex"))
        .collect()
}

#[test]
fn messages_are_written_and_read_as_recorded() {
    let (messages, vectors) = (messages(), vectors());
    assert_eq!(messages.len(), vectors.len());
    for ((name, message), (recorded, frame)) in messages.iter().zip(&vectors) {
        assert_eq!(name, recorded);
        assert_eq!(hex(&message.to_bytes(0)), hex(frame), "{name}");
        assert_eq!(decode(frame).as_ref(), Ok(&Decoded::Message(message.clone())), "{name}");
    }
    let kinds: BTreeSet<Kind> = messages.iter().map(|(_, message)| message.kind()).collect();
    assert_eq!(kinds, Kind::ALL.into_iter().collect());
}

/// The example in the specification is a recorded one, so it cannot go stale.
#[test]
fn the_specification_shows_recorded_bytes() {
    let specification = include_str!("../../../../docs/protocol.md");
    let digits = |text: &str| text.chars().filter(char::is_ascii_hexdigit).collect::<String>();
    for (name, frame) in vectors() {
        let drawn = specification.lines().any(|line| {
            line.strip_prefix(&format!("{name:<32}")).is_some_and(|bytes| digits(bytes) == hex(&frame))
        });
        assert!(drawn, "docs/protocol.md does not show {name}: {}", hex(&frame));
    }
}

#[test]
fn goodbyes_have_the_numbers_of_the_specification() {
    for (code, number) in ByeCode::ALL {
        let detail = String::new();
        assert_eq!(Message::Bye(Bye { code, detail }).to_bytes(9), [0x10, 2, 9, number as u8, 0]);
    }
}
