//! Every message comes back from its bytes, and any bytes are read without harm.

use opor_core::SiteId;
use opor_sync_proto::{
    Bye, ByeCode, Capabilities, Cursor, DETAIL_LEN_MAX, DecodeError, Decoded, Hello, Kind, Message, Offer,
    ROOM_LEN_MAX, Resume, SCHEMA_LEN_MAX, SNAPSHOT_ID_LEN_MAX, SnapshotId, TOKEN_LEN_MAX, Token, decode,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => vec(any::<u8>(), 0..=max.min(40)), 1 => vec(any::<u8>(), max)]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300_u64, any::<u64>(), Just(u64::MAX)]
}

fn cursor() -> impl Strategy<Value = Cursor> {
    vec(any::<u8>(), 1..=Cursor::LEN_MAX).prop_map(|bytes| Cursor::new(&bytes).unwrap())
}

fn snapshot_id() -> impl Strategy<Value = SnapshotId> {
    vec(any::<u8>(), 1..=SNAPSHOT_ID_LEN_MAX).prop_map(SnapshotId)
}

fn hello() -> impl Strategy<Value = Hello> {
    let site = vec(any::<u8>(), 1..=16).prop_map(|bytes| SiteId::new(&bytes).unwrap());
    let room = prop_oneof![Just("r".repeat(ROOM_LEN_MAX)), "[a-z]{1,20}", "\\PC{1,30}"];
    let who = (1..=255_u8, site, room, bytes(TOKEN_LEN_MAX), bytes(SCHEMA_LEN_MAX));
    (who, number(), 16_384..u64::MAX, 16_384..u64::MAX).prop_map(
        |((newest_major, site, room, token, schema), capabilities, frame_max, item_max)| Hello {
            newest_major,
            site,
            room,
            token: Token(token),
            schema,
            capabilities: Capabilities(capabilities),
            frame_max,
            item_max,
        },
    )
}

fn bye() -> impl Strategy<Value = Bye> {
    let detail = prop_oneof!["\\PC{0,60}", Just("x".repeat(DETAIL_LEN_MAX))];
    let code = prop_oneof![
        proptest::sample::select(ByeCode::ALL.to_vec()).prop_map(|(code, _)| code),
        (15..=u64::MAX).prop_map(ByeCode::Other),
    ];
    (code, detail).prop_map(|(code, detail)| Bye { code, detail })
}

fn resume() -> impl Strategy<Value = Option<Resume>> {
    proptest::option::of((snapshot_id(), number()).prop_map(|(id, index)| Resume { id, index }))
}

fn offer() -> impl Strategy<Value = Offer> {
    (snapshot_id(), 1..=u64::MAX, number(), any::<u64>(), cursor()).prop_map(
        |(id, chunks, bytes, first, cursor)| Offer { id, chunks, bytes, first: first % chunks, cursor },
    )
}

/// Some message of every kind; payloads are leaked, there are few.
fn message() -> impl Strategy<Value = Message<'static>> {
    let payload = || vec(any::<u8>(), 0..200).prop_map(|bytes| &*bytes.leak());
    // An item is at least as long as its first part.
    let item = || (number(), payload(), number());
    prop_oneof![
        hello().prop_map(|hello| Message::Hello(Box::new(hello))),
        bye().prop_map(Message::Bye),
        (proptest::option::of(cursor()), number())
            .prop_map(|(cursor, limit)| Message::Pull { cursor, limit }),
        (resume(), number()).prop_map(|(resume, limit)| Message::Fetch { resume, limit }),
        (item(), cursor(), any::<[bool; 2]>()).prop_map(
            |((number, payload, more), cursor, [done, delta])| {
                let len = more.saturating_add(payload.len() as u64);
                Message::Changes { number, len, cursor, done, delta, payload }
            }
        ),
        (item(), number()).prop_map(|((number, payload, more), index)| Message::Chunk {
            number,
            len: more.saturating_add(payload.len() as u64),
            index,
            payload,
        }),
        (number(), number(), payload()).prop_map(|(number, offset, payload)| Message::Part {
            number,
            offset,
            payload
        }),
        (number(), number()).prop_map(|(items, limit)| Message::Ack { items, limit }),
        any::<bool>().prop_map(|snapshot| Message::Behind { snapshot }),
        (item(), offer()).prop_map(|((number, payload, more), offer)| Message::Offer {
            number,
            len: more.saturating_add(payload.len() as u64),
            offer,
            payload,
        }),
        number().prop_map(|nonce| Message::Ping { nonce }),
        number().prop_map(|nonce| Message::Pong { nonce }),
    ]
}

proptest! {
    #[test]
    fn every_message_comes_back(message in message()) {
        let frame = message.to_bytes(7);
        prop_assert_eq!(frame[1], message.kind() as u8);
        prop_assert_eq!(decode(&frame), Ok(Decoded::Message(message)));
    }

    #[test]
    fn a_message_that_is_cut_short_is_refused(message in message(), cut in any::<proptest::sample::Index>()) {
        let frame = message.to_bytes(7);
        let short = &frame[..cut.index(frame.len())];
        let kind = (short.len() >= 3).then_some(message.kind());
        prop_assert_eq!(decode(short), Err(DecodeError::Truncated { kind }));
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_unless_it_is_newer(message in message(), more in vec(any::<u8>(), 1..9)) {
        let mut frame = message.to_bytes(7);
        frame.extend_from_slice(&more);
        let (kind, count) = (message.kind(), more.len());
        let expected = match kind {
            Kind::Bye => Ok(Decoded::Message(message.clone())),
            _ => Err(DecodeError::Trailing { kind, count }),
        };
        prop_assert_eq!(decode(&frame), expected);
        frame[0] += 1;
        prop_assert_eq!(decode(&frame), Ok(Decoded::Message(message)));
    }

    /// What is read is written the same way: every message has one form.
    #[test]
    fn any_bytes_are_read_without_harm(head in 0..16_u8, rest in vec(any::<u8>(), 0..100)) {
        let frame = [&[0x10, head, 7][..], &rest].concat();
        if let Ok(Decoded::Message(message)) = decode(&frame) && message.kind() != Kind::Bye {
            prop_assert_eq!(message.to_bytes(7), frame);
        }
        if let Ok(Decoded::Message(message)) = decode(&rest) {
            let written = message.to_bytes(7);
            prop_assert_eq!(decode(&written), Ok(Decoded::Message(message.clone())));
        }
    }
}

/// A frame with these fields after the head.
#[track_caller]
fn check(frame: &[u8], expected: DecodeError) {
    assert_eq!(decode(frame), Err(expected), "{frame:?}");
}

#[test]
fn fields_out_of_range() {
    let range = |kind, field| DecodeError::Range { kind, field };
    // Cursors of no and of 129 bytes, in a Changes.
    check(&[0x10, 5, 0, 0, 0, 0, 0, 0], range(Kind::Changes, "cursor"));
    check(&[&[0x10, 5, 0, 0, 0, 0x81, 1][..], &[1; 129], &[0, 0]].concat(), range(Kind::Changes, "cursor"));
    // A flag that does not exist; in a newer version it may.
    check(&[0x10, 5, 0, 0, 0, 1, b'c', 4, 0], range(Kind::Changes, "flag"));
    let newer = [0x11, 5, 0, 0, 0, 1, b'c', 5, 0];
    assert!(matches!(decode(&newer), Ok(Decoded::Message(Message::Changes { done: true, .. }))));
    check(&[0x10, 9, 0, 2], range(Kind::Behind, "flag"));
    // A first part that is longer than the whole.
    check(&[0x10, 5, 0, 0, 1, 1, b'c', 0, 2, 1, 2], range(Kind::Changes, "payload"));
    check(&[0x10, 6, 0, 0, 1, 0, 2, 1, 2], range(Kind::Chunk, "payload"));
    // A place in no snapshot; an offer without a name; one that begins after its end, or has none.
    check(&[0x10, 4, 0, 0, 1, 9], range(Kind::Fetch, "index"));
    check(&[0x10, 10, 0, 0, 0, 0, 1, 1, 0, 1, b'c', 0], range(Kind::Offer, "snapshot"));
    check(&[0x10, 10, 0, 0, 0, 1, b's', 1, 1, 1, 1, b'c', 0], range(Kind::Offer, "index"));
    check(&[0x10, 10, 0, 0, 0, 1, b's', 0, 0, 0, 1, b'c', 0], range(Kind::Offer, "index"));
    check(&[0x10, 10, 0, 0, 0, 1, b's', 1, 1, 0, 0, 0], range(Kind::Offer, "cursor"));
    let longer = [0x10, 10, 0, 0, 1, 1, b's', 1, 1, 0, 1, b'c', 2, 1, 2];
    check(&longer, range(Kind::Offer, "payload"));
    check(&[0x10, 2, 0, 0, 2, 0xff, 0xfe], range(Kind::Bye, "detail"));
    check(&[0x10, 2, 0, 0, 0x81, 2], range(Kind::Bye, "detail"));
}

#[test]
fn hellos_out_of_range() {
    let range = |field| DecodeError::Range { kind: Kind::Hello, field };
    let hello = |newest: u8, site: &[u8], room: &[u8], frame_max: &[u8]| {
        let strings = [site, room, b"", b""].map(|bytes| [&[bytes.len() as u8][..], bytes].concat()).concat();
        [&[0x10, 1, 0, newest][..], &strings, &[1], frame_max, &[0x80, 0x80, 1]].concat()
    };
    let floor = [0x80, 0x80, 1];
    assert!(
        decode(&hello(1, b"s", b"r", &floor))
            .is_ok_and(|of| matches!(of, Decoded::Message(Message::Hello(_))))
    );
    check(&hello(0, b"s", b"r", &floor), range("newest version"));
    check(&hello(1, b"", b"r", &floor), range("site"));
    check(&hello(1, &[1; 17], b"r", &floor), range("site"));
    check(&hello(1, b"s", b"", &floor), range("room"));
    check(&hello(1, b"s", &[0xff], &floor), range("room"));
    check(&hello(1, b"s", b"r", &[0xff, 0x7f]), range("frame limit"));
    check(&[0x10, 1, 0, 1, 1, b's', 1, b'r', 0x81, 0x40], range("token"));
    check(&[0x10, 1, 0, 1, 1, b's', 1, b'r', 0, 33], range("schema"));
}

/// Integers have one form, as on the wire of changesets.
#[test]
fn integers_have_one_form() {
    let ping = |nonce: &[u8]| [&[0x10, 11, 0][..], nonce].concat();
    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(decode(&ping(&most)), Ok(Decoded::Message(Message::Ping { nonce: u64::MAX })));
    for other in
        [&[0x80, 0][..], &[0xff, 0x80, 0], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
    {
        check(&ping(other), DecodeError::Varint { kind: Kind::Ping });
    }
    check(&ping(&[0x80; 11]), DecodeError::Varint { kind: Kind::Ping });
}
