//! What no honest peer does: a typed end each, bounded memory, and never a panic.

use opor_sync_proto::{
    Ask, CloseReason, DecodeError, Hello, Input, Kind, Message, Output, Rejection, Resume, Session,
    SnapshotId, Violation,
};

use crate::lone::{Lone, changes, config, cursor, hello};
use crate::rng::Rng;
use crate::snapshots::{offer, offered};

/// An open session that hears this ends so.
#[track_caller]
fn check(messages: &[Message<'_>], expected: Violation) {
    let mut lone = Lone::open();
    for message in messages {
        lone.say(message.clone());
    }
    lone.check_violation(expected);
}

/// An open session that has sent one item, and one part of another, hears this and ends so.
#[track_caller]
fn check_ack(items: u64, limit: u64, expected: Violation) {
    let mut lone = Lone::open_with(config(), hello(), 20_000);
    lone.find_batch(10, "1@1", false);
    lone.frame();
    lone.find_batch(30_000, "2@1", true);
    lone.frame();
    lone.say(Message::Ack { items: 1, limit: 20_000 });
    lone.say(Message::Ack { items, limit });
    lone.check_violation(expected);
}

#[test]
fn frames_that_are_no_messages() {
    for (frame, error) in [
        (&b""[..], DecodeError::Truncated { kind: None }),
        (b"\x10\x0b", DecodeError::Truncated { kind: None }),
        (b"GET / HTTP/1.1", DecodeError::Major { major: 4 }),
        (&[0x10, 0, 0], DecodeError::Kind { kind: 0 }),
        (&[0x10, 11, 0], DecodeError::Truncated { kind: Some(Kind::Ping) }),
        (&[0x10, 11, 0, 0x80, 0], DecodeError::Varint { kind: Kind::Ping }),
        (&[0x10, 11, 0, 1, 2, 3], DecodeError::Trailing { kind: Kind::Ping, count: 2 }),
        (&[0x10, 7, 0, 0, 0, 5, 1], DecodeError::Truncated { kind: Some(Kind::Part) }),
    ] {
        let mut lone = Lone::open();
        lone.hear(frame);
        lone.check_violation(Violation::Malformed(error));
    }
}

#[test]
fn a_frame_beyond_the_limit_is_not_even_read() {
    let mut lone = Lone::open();
    let (len, max) = ((16 << 10) + 1, 16 << 10);
    lone.input(Input::Message(&vec![0x1f; len]));
    lone.check_violation(Violation::FrameTooLarge { len, max });
}

#[test]
fn frames_out_of_order() {
    for (counts, expected) in [(&[2, 4][..], 3), (&[2, 3, 3], 4), (&[2, 3, 2], 4), (&[3], 2)] {
        let mut lone = Lone::open();
        for count in counts {
            lone.input(Input::Message(&Message::Ping { nonce: 1 }.to_bytes(*count)));
        }
        lone.check_violation(Violation::FrameOrder { expected, count: counts[counts.len() - 1] });
    }
    // After 255 comes 0; what is skipped is counted too.
    let mut lone = Lone::open();
    for count in (0..=255_u8).cycle().skip(2).take(1000) {
        lone.input(Input::Message(&[0x1f, 99 + count % 2, count, 7]));
    }
    assert!(lone.session.is_open());
}

#[test]
fn items_out_of_order() {
    check(&[changes(1, 1, b"x")], Violation::ItemOrder { expected: 0, number: 1 });
    let replay = [changes(0, 1, b"x"), changes(0, 1, b"x")];
    check(&replay, Violation::ItemOrder { expected: 1, number: 0 });
    let lost = [changes(0, 1, b"x"), changes(2, 1, b"x")];
    check(&lost, Violation::ItemOrder { expected: 1, number: 2 });
    let unfinished = [changes(0, 2, b"x"), changes(1, 1, b"x")];
    check(&unfinished, Violation::ItemOrder { expected: 1, number: 1 });
}

#[test]
fn parts_out_of_order() {
    let part = |number, offset, payload| Message::Part { number, offset, payload };
    check(&[part(0, 0, b"x")], Violation::PartOrder { number: 0, offset: 0, at: 0 });
    let order = |number, offset| Violation::PartOrder { number, offset, at: 1 };
    check(&[changes(0, 3, b"x"), part(1, 1, b"y")], order(1, 1));
    check(&[changes(0, 3, b"x"), part(0, 2, b"y")], order(0, 2));
    check(&[changes(0, 3, b"x"), part(0, 0, b"x")], order(0, 0));
}

#[test]
fn lengths_that_lie() {
    let part = Message::Part { number: 0, offset: 1, payload: b"yz" };
    check(&[changes(0, 2, b"x"), part], Violation::ItemLength { len: 2 });
    let part = Message::Part { number: 0, offset: 1, payload: b"" };
    check(&[changes(0, 2, b"x"), part], Violation::ItemLength { len: 2 });
    check(&[changes(0, 2, b"")], Violation::ItemLength { len: 2 });
    for len in [65_537, 1 << 40, u64::MAX] {
        check(&[changes(0, len, b"x")], Violation::ItemTooLarge { len, max: 65_536 });
    }
}

/// Nothing is held for what is only announced.
#[test]
fn a_length_takes_no_memory() {
    let mut lone = Lone::open();
    lone.say(changes(0, 65_536, b"x"));
    assert_eq!(lone.session.held(), (1, 0));
}

#[test]
fn credit_is_not_to_be_overrun() {
    let mut lone = Lone::open();
    lone.drain();
    let payload = [0; 16_000];
    // 102,400 bytes are allowed while nothing is durable: six items of 16,000, and no seventh.
    for number in 0..6 {
        lone.say(changes(number, 16_000, &payload));
        assert!(lone.session.held().0 <= 102_400);
    }
    lone.say(changes(6, 16_000, &payload));
    lone.check_violation(Violation::CreditOverrun { sent: 112_000, limit: 102_400 });
}

#[test]
fn items_without_bytes_have_a_limit_too() {
    let mut lone = Lone::open();
    lone.drain();
    for number in 0..64 {
        lone.say(changes(number, 0, b""));
    }
    assert!(lone.session.is_open());
    lone.say(changes(64, 0, b""));
    lone.check_violation(Violation::TooManyItems { max: 64 });
}

#[test]
fn acknowledgements_that_lie() {
    check_ack(2, 20_000, Violation::AckAhead { items: 2, sent: 1 });
    check_ack(u64::MAX, u64::MAX, Violation::AckAhead { items: u64::MAX, sent: 1 });
    check_ack(0, 20_000, Violation::AckBack);
    check_ack(1, 19_999, Violation::AckBack);
    let ahead = [Message::Ack { items: 1, limit: 1 << 20 }];
    check(&ahead, Violation::AckAhead { items: 1, sent: 0 });
}

#[test]
fn pongs_that_nobody_asked_for() {
    check(&[Message::Pong { nonce: 0 }], Violation::Pong { nonce: 0 });
    check(&[Message::Pong { nonce: 1 }], Violation::Pong { nonce: 1 });
}

#[test]
fn many_pings_are_answered_once() {
    let mut lone = Lone::open();
    lone.drain();
    for nonce in 0..10_000 {
        lone.say(Message::Ping { nonce });
    }
    assert_eq!(lone.drain(), [Output::Send(Message::Pong { nonce: 9_999 }.to_bytes(2))]);
}

#[test]
fn asking_twice() {
    let during = "while the log is sent";
    let pull = Message::Pull { cursor: None, limit: 1 << 20 };
    check(&[pull], Violation::OutOfPhase { kind: Kind::Pull, during });
    let fetch = Message::Fetch { resume: None, limit: 1 << 20 };
    check(std::slice::from_ref(&fetch), Violation::OutOfPhase { kind: Kind::Fetch, during });
    // While a snapshot is looked for, and while it is sent.
    let mut lone = Lone::admitted(config(), hello(), Ask::Log(None));
    lone.say(fetch.clone());
    lone.say(fetch);
    lone.check_violation(Violation::OutOfPhase { kind: Kind::Fetch, during: "while a snapshot is sent" });
}

#[test]
fn snapshots_that_were_not_agreed_on() {
    let plain = Hello { capabilities: opor_sync_proto::Capabilities::BINARY, ..hello() };
    let mut lone = Lone::admitted(config(), plain, Ask::Log(None));
    lone.say(Message::Fetch { resume: None, limit: 1 });
    lone.check_violation(Violation::NoSnapshots);
}

/// A session that has asked for a snapshot, of which it holds three chunks, hears this and ends so.
#[track_caller]
fn check_snapshot(messages: &[Message<'_>], expected: Violation) {
    let resume = Resume { id: SnapshotId(b"s".to_vec()), index: 3 };
    let mut lone = Lone::admitted(config(), hello(), Ask::Snapshot(Some(resume)));
    lone.say(Message::Pull { cursor: None, limit: 1 << 20 });
    for message in messages {
        lone.say(message.clone());
    }
    lone.check_violation(expected);
}

#[test]
fn snapshots_that_lie() {
    let chunk = |number, index, payload: &'static [u8]| {
        let len = payload.len() as u64;
        Message::Chunk { number, len, index, payload }
    };
    check_snapshot(&[offered(0, "s", 9, 4)], Violation::OfferStart { first: 4 });
    check_snapshot(&[offered(0, "t", 9, 3)], Violation::OfferStart { first: 3 });
    check_snapshot(&[offered(1, "s", 9, 3)], Violation::ItemOrder { expected: 0, number: 1 });
    let begun = offered(0, "s", 9, 3);
    let order = |index| Violation::ChunkOrder { expected: 3, index };
    check_snapshot(&[begun.clone(), chunk(1, 0, b"x")], order(0));
    check_snapshot(&[begun.clone(), chunk(1, 4, b"x")], order(4));
    // A chunk before the manifest is whole.
    let half = Message::Offer { number: 0, len: 9, offer: offer("s", 9, 3), payload: b"manifest" };
    check_snapshot(&[half, chunk(1, 3, b"x")], Violation::ItemOrder { expected: 1, number: 1 });
    let out = |kind, during| Violation::OutOfPhase { kind, during };
    check_snapshot(&[begun.clone(), begun.clone()], out(Kind::Offer, "while a snapshot comes"));
    check_snapshot(&[begun.clone(), changes(1, 1, b"x")], out(Kind::Changes, "while a snapshot comes"));
    check_snapshot(&[chunk(0, 3, b"x")], out(Kind::Chunk, "before a snapshot is offered"));
    check_snapshot(&[changes(0, 1, b"x")], out(Kind::Changes, "before a snapshot is offered"));
    let last = offered(0, "s", 4, 3);
    let after = [last.clone(), chunk(1, 3, b"x"), chunk(2, 4, b"x")];
    check_snapshot(&after, out(Kind::Chunk, "before the snapshot is installed"));
    let behind = Message::Behind { snapshot: true };
    check_snapshot(&[last, chunk(1, 3, b"x"), behind], out(Kind::Behind, "before the snapshot is installed"));
    check(&[begun], out(Kind::Offer, "while the log comes"));
    check(&[chunk(0, 0, b"x")], out(Kind::Chunk, "while the log comes"));
    let half = [changes(0, 2, b"x"), Message::Behind { snapshot: true }];
    check(&half, out(Kind::Behind, "while the log comes"));
}

#[test]
fn what_cannot_be_stored_ends_the_session() {
    for (rejection, is_final) in [
        (Rejection::Malformed, false),
        (Rejection::Drift, false),
        (Rejection::Schema, true),
        (Rejection::Snapshot, false),
    ] {
        let mut lone = Lone::open();
        lone.say(changes(0, 1, b"x"));
        let (req, _) = lone.apply();
        lone.input(Input::Rejected { req, rejection });
        let reason = CloseReason::Rejected(rejection);
        assert_eq!(reason.is_final(), is_final);
        lone.check_closed(reason);
    }
}

/// The frames of an honest peer, of which storms are made.
fn honest() -> Vec<Vec<u8>> {
    let resume = Some(Resume { id: SnapshotId(vec![1, 2]), index: 1 });
    let messages = [
        Message::Hello(Box::new(hello())),
        Message::Pull { cursor: Some(cursor("3@1")), limit: 100_000 },
        changes(0, 2, b"ab"),
        changes(1, 6, b"abc"),
        Message::Part { number: 1, offset: 3, payload: b"def" },
        Message::Ack { items: 1, limit: 200_000 },
        Message::Behind { snapshot: true },
        Message::Fetch { resume, limit: 100_000 },
        offered(2, "s", 3, 0),
        Message::Chunk { number: 3, len: 2, index: 0, payload: b"xy" },
        Message::Ping { nonce: 3 },
        Message::Pong { nonce: 1 },
        Message::Bye(opor_sync_proto::Bye { code: opor_sync_proto::ByeCode::Busy, detail: "later".into() }),
    ];
    messages.iter().map(|message| message.to_bytes(0)).collect()
}

fn mutate(frame: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..rng.below(3) {
        let at = rng.below(frame.len() as u64 + 1) as usize;
        match (rng.below(4), frame.get_mut(at)) {
            (0, Some(byte)) => *byte ^= 1 << rng.below(8),
            (1, Some(byte)) => *byte = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
            (2, _) => frame.truncate(at),
            _ => frame.insert(at, rng.bits() as u8),
        }
    }
}

/// Whatever outputs want, a careless store answers at once.
fn answer(session: &mut Session, output: Output, now: opor_sync_proto::MonoMillis, rng: &mut Rng) {
    use opor_sync_proto::{Found, Wanted};
    let input = match output {
        Output::Close { .. } => return,
        Output::Admit(_) if rng.chance(500) => Input::Admitted(Ask::Snapshot(None)),
        Output::Admit(_) => Input::Admitted(Ask::Log(None)),
        Output::Apply { req, .. } => Input::Applied { req, version: Some(opor_core::DbVersion(1)) },
        Output::Read { req, wanted } => {
            let found = match wanted {
                Wanted::Log { .. } if rng.chance(300) => Found::Behind,
                Wanted::Log { .. } => {
                    let changeset = vec![0; rng.below(40_000) as usize];
                    Found::Batch { changeset, cursor: cursor("4@1"), done: rng.chance(500) }
                }
                Wanted::Snapshot { .. } => {
                    Found::Snapshot { offer: offer("s", 3, 0), manifest: vec![1; 20_000] }
                }
                Wanted::Chunk { .. } => Found::Chunk(vec![0; 20_000]),
            };
            Input::Read { req, found }
        }
        Output::Event(opor_sync_proto::Event::Behind { .. }) => Input::Restart(Ask::Log(None)),
        Output::Event(_) => return,
        Output::Send(_) => Input::Sent,
    };
    session.handle_input(input, now);
}

/// Honest frames in any order, damaged or not: the session goes on or ends, and never holds more than it said.
#[test]
fn storms() {
    let (mut rng, frames) = (Rng(11), honest());
    let (mut opened, mut ended, mut longest) = (0, 0, 0);
    for round in 0..4_000_u64 {
        let mut lone = Lone::new(config());
        // Half of the storms begin after an honest handshake.
        let mut script: Vec<_> = if round % 2 == 0 { frames[..2].to_vec() } else { Vec::new() };
        let mut next = script.len();
        for _ in 0..30 {
            // Mostly what an honest peer would say next.
            next = if rng.chance(850) { next + 1 } else { rng.below(frames.len() as u64) as usize };
            let mut frame = frames[(next.max(1) - 1) % (frames.len() - 1)].clone();
            if rng.chance(100) {
                mutate(&mut frame, &mut rng);
            }
            script.push(frame);
        }
        let mut is_open = false;
        for (at, frame) in script.iter().enumerate() {
            lone.hear(frame);
            while let Some(output) = lone.session.poll_output() {
                if let Output::Close { .. } = output {
                    (ended, longest) = (ended + 1, longest.max(at));
                    assert_eq!(lone.session.poll_output(), None);
                    break;
                }
                answer(&mut lone.session, output, lone.now, &mut rng);
                if rng.chance(300) {
                    break;
                }
            }
            is_open |= lone.session.is_open();
            let (bytes, entries) = lone.session.held();
            assert!(bytes <= (100 << 10) + (64 << 10) && entries <= 130, "{bytes} bytes, {entries} entries");
        }
        opened += u64::from(is_open);
    }
    assert!(
        opened > 1_500 && ended > 3_000 && longest > 6,
        "{opened} opened, {ended} ended, {longest} frames"
    );
}
