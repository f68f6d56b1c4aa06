//! Who is let in, and who is not.

use opor_core::SiteId;
use opor_sync_proto::{
    Ask, Bye, ByeCode, Capabilities, CloseReason, Config, DecodeError, Decoded, Event, Hello, Input, Kind,
    Message, Output, Refusal, Violation, Wanted, decode,
};

use crate::lone::{Lone, OWN, PEER, changes, config, cursor, hello};
use crate::world::World;

/// What a session makes of a hello.
#[track_caller]
fn check_refused(change: impl FnOnce(&mut Hello), refusal: Refusal, code: ByeCode) {
    let mut lone = Lone::new(config());
    let mut peer = hello();
    change(&mut peer);
    lone.say(Message::Hello(Box::new(peer)));
    let reason = CloseReason::Refused(refusal);
    let Output::Close { reason: found, farewell: Some(farewell) } = lone.poll() else { panic!("let in") };
    assert_eq!(found, reason);
    assert!(found.is_final());
    let Ok(Decoded::Message(Message::Bye(bye))) = decode(&farewell) else { panic!("{farewell:?}") };
    assert_eq!(bye, Bye { code, detail: refusal.to_string() });
    assert_eq!(lone.session.poll_output(), None);
}

#[test]
fn a_peer_that_does_not_fit_is_told_why() {
    let site = SiteId::from(OWN);
    check_refused(|peer| peer.site = site, Refusal::OwnSite { site }, ByeCode::OwnSite);
    check_refused(|peer| peer.room = "other".into(), Refusal::Room, ByeCode::Room);
    check_refused(|peer| peer.capabilities = Capabilities::ZSTD, Refusal::Encoding, ByeCode::Encoding);
}

#[test]
fn the_driver_has_the_last_word() {
    for (refusal, code) in [
        (Refusal::Token, ByeCode::Token),
        (Refusal::Forbidden, ByeCode::Forbidden),
        (Refusal::Schema, ByeCode::Schema),
        (Refusal::Busy, ByeCode::Busy),
    ] {
        let mut lone = Lone::new(config());
        lone.say(Message::Hello(Box::new(hello())));
        let Output::Admit(peer) = lone.poll() else { panic!("not asked") };
        assert_eq!((&*peer.token.0, &*peer.schema), (&b"secret"[..], &[7][..]));
        lone.input(Input::Denied(refusal));
        let reason = CloseReason::Refused(refusal);
        assert_eq!(reason.is_final(), refusal != Refusal::Busy);
        assert_eq!(reason.to_string(), "peer is refused");
        let Output::Close { farewell: Some(farewell), .. } = lone.poll() else { panic!("let in") };
        let Ok(Decoded::Message(Message::Bye(bye))) = decode(&farewell) else { panic!("{farewell:?}") };
        assert_eq!(bye.code, code);
    }
}

#[test]
fn a_secret_is_not_shown() {
    assert!(!format!("{:?}", hello()).contains("secret"));
    assert!(format!("{:?}", hello().token).contains("6 bytes"));
}

#[test]
fn another_major_version_is_refused_politely() {
    let mut frame = Message::Hello(Box::new(hello())).to_bytes(0);
    frame[0] = 0x20;
    let mut lone = Lone::new(config());
    lone.hear(&frame);
    let Output::Close { reason, farewell: Some(mut farewell) } = lone.poll() else { panic!("let in") };
    assert_eq!(reason, CloseReason::Refused(Refusal::Version { major: 2 }));
    // Whoever speaks another version reads the goodbye all the same.
    farewell[0] = 0x50;
    let Ok(Decoded::Message(Message::Bye(bye))) = decode(&farewell) else { panic!("{farewell:?}") };
    assert_eq!((bye.code, &*bye.detail), (ByeCode::Version, "protocol version 2 is not spoken here, only 1"));

    // In the middle of a session it is a breach.
    let mut lone = Lone::open();
    lone.hear(&frame);
    lone.check_violation(Violation::Malformed(DecodeError::Major { major: 2 }));
}

#[test]
fn a_newer_minor_version_is_read_as_far_as_it_is_known() {
    let mut frame = Message::Hello(Box::new(Hello { newest_major: 3, ..hello() })).to_bytes(0);
    frame[0] = 0x1f;
    frame.extend_from_slice(b"fields of the future");
    let mut lone = Lone::new(config());
    lone.frame();
    lone.hear(&[0x1f, 200, 0, 1, 2, 3]);
    lone.hear(&frame);
    let Output::Admit(peer) = lone.poll() else { panic!("not asked") };
    assert_eq!(*peer, Hello { newest_major: 3, ..hello() });
    lone.input(Input::Admitted(Ask::Log(None)));
    lone.hear(&[0x1f, 201, 0]);
    lone.say(Message::Pull { cursor: None, limit: 0 });
    assert!(lone.session.is_open());

    // What claims to be of this version and is unknown is no message.
    lone.hear(&[0x10, 200, 0]);
    lone.check_violation(Violation::Malformed(DecodeError::Kind { kind: 200 }));
}

/// Both say hello at once, and both are let in; nobody waits for the other.
#[test]
fn both_may_begin() {
    let mut world = World::pair();
    world.run_for(50);
    for side in 0..2 {
        assert!(world.side(0, side).session.is_open());
        assert_eq!(
            world.side(0, side).events,
            [Event::Open, Event::CaughtUp, Event::Acknowledged(cursor("0@1"))]
        );
    }
    assert_eq!((world.tally.of("Hello"), world.tally.of("Pull"), world.tally.of("Bye")), (2, 2, 0));
}

#[test]
fn a_responder_shows_itself_only_to_whom_it_lets_in() {
    let mut lone = Lone::new(Config { token: hello().token, ..Config::responder(SiteId::from(OWN)) });
    assert_eq!(lone.session.poll_output(), None);
    lone.say(Message::Hello(Box::new(Hello { room: "their room".into(), ..hello() })));
    let Output::Admit(peer) = lone.poll() else { panic!("not asked") };
    assert_eq!(peer.room, "their room");
    assert_eq!(lone.session.poll_output(), None, "nothing is said before the driver has judged");
    lone.input(Input::Admitted(Ask::Log(Some(cursor("4@2")))));
    let own = lone.frame();
    let Ok(Decoded::Message(Message::Hello(own))) = decode(&own) else { panic!("{own:?}") };
    assert_eq!((&*own.room, own.site), ("their room", SiteId::from(OWN)));
    let limit = Config::ITEM_MAX as u64;
    lone.check_said(Message::Pull { cursor: Some(cursor("4@2")), limit });
    assert_eq!((lone.session.poll_output(), lone.session.is_open()), (None, false));
    lone.say(Message::Pull { cursor: None, limit: 9 });
    assert!(lone.session.is_open());
    assert_eq!(lone.session.peer().map(|peer| peer.site), Some(SiteId::from(PEER)));
}

/// A peer may be quicker to let this side in than this side is; what it asks is kept until then.
#[test]
fn an_early_ask_is_kept() {
    let mut lone = Lone::new(config());
    lone.frame();
    lone.say(Message::Hello(Box::new(hello())));
    lone.say(Message::Pull { cursor: Some(cursor("3@1")), limit: 50 });
    let Output::Admit(_) = lone.poll() else { panic!("not asked") };
    assert_eq!(lone.session.poll_output(), None, "nothing is read for a peer that is not let in");
    lone.input(Input::Admitted(Ask::Log(None)));
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    let Output::Read { wanted: Wanted::Log { cursor: from, .. }, .. } = lone.poll() else {
        panic!("not read")
    };
    assert_eq!(from, Some(cursor("3@1")));
}

/// Every message in every phase of the handshake in which it has no place.
#[test]
fn messages_out_of_phase_end_the_session() {
    let resume = None;
    let asks = [Message::Pull { cursor: None, limit: 1 }, Message::Fetch { resume, limit: 1 }];
    let others = [
        changes(0, 0, b""),
        Message::Chunk { number: 0, len: 0, index: 0, payload: b"" },
        Message::Part { number: 0, offset: 0, payload: b"x" },
        Message::Ack { items: 0, limit: 1 },
        Message::Behind { snapshot: true },
        crate::snapshots::offered(0, "s", 3, 0),
    ];
    let alive = [Message::Ping { nonce: 1 }, Message::Pong { nonce: 1 }];
    let mut checked = 0;
    let mut check = |lone: Lone, message: &Message<'_>, during: &'static str| {
        let mut lone = lone;
        lone.say(message.clone());
        let kind = message.kind();
        lone.check_violation(Violation::OutOfPhase { kind, during });
        checked += 1;
    };
    for message in asks.iter().chain(&others).chain(&alive) {
        check(Lone::new(config()), message, "before a hello");
    }
    let admitting = || {
        let mut lone = Lone::new(config());
        lone.frame();
        lone.say(Message::Hello(Box::new(hello())));
        lone
    };
    let joining = || Lone::admitted(config(), hello(), Ask::Log(None));
    let again = Message::Hello(Box::new(hello()));
    for lone in [admitting(), joining(), Lone::open()] {
        check(lone, &again, "after a hello");
    }
    for message in &others {
        check(admitting(), message, "before the peer lets this side in");
        check(joining(), message, "before the peer lets this side in");
    }
    for message in &asks {
        let mut twice = admitting();
        twice.say(asks[0].clone());
        check(twice, message, "twice");
        check(Lone::open(), message, "while the log is sent");
        // A responder that has not said who it is cannot have been let in.
        let mut silent = Lone::new(Config::responder(SiteId::from(OWN)));
        silent.say(Message::Hello(Box::new(hello())));
        check(silent, message, "before this side said hello");
    }
    assert_eq!(checked, 10 + 3 + 12 + 6);
}

#[test]
fn the_peer_may_leave_at_any_time() {
    let bye = Bye { code: ByeCode::Other(77), detail: "so long".into() };
    for mut lone in [Lone::new(config()), Lone::admitted(config(), hello(), Ask::Log(None)), Lone::open()] {
        lone.say(Message::Bye(bye.clone()));
        let reason = CloseReason::Peer(bye.clone());
        assert_eq!(reason.to_string(), "peer left (Other(77)): so long");
        lone.check_closed(reason);
    }
}

#[test]
fn ends_that_the_driver_brings_about() {
    for (input, reason) in [
        (Input::Shutdown, CloseReason::Shutdown),
        (Input::StoreFailed, CloseReason::StoreFailed),
        (Input::Closed, CloseReason::LinkClosed),
    ] {
        let mut lone = Lone::open();
        lone.input(input);
        assert!(!reason.is_final());
        lone.check_closed(reason);
    }
}

/// A goodbye does not wait for a link that takes no frame: it goes with the end.
#[test]
fn the_end_does_not_wait_for_the_link() {
    let mut lone = Lone::new(config());
    let Output::Send(_) = lone.poll() else { panic!("no hello") };
    lone.input(Input::Shutdown);
    lone.check_closed(CloseReason::Shutdown);
}

/// A driver may run on any thread.
#[test]
fn a_session_can_be_sent_to_a_thread() {
    let Lone { mut session, .. } = Lone::new(config());
    let output = std::thread::spawn(move || session.poll_output()).join().unwrap();
    assert!(matches!(output, Some(Output::Send(_))));
}

#[test]
fn kinds_are_numbered_as_documented() {
    let numbers: Vec<u8> = Kind::ALL.into_iter().map(|kind| kind as u8).collect();
    assert_eq!(numbers, (1..=12).collect::<Vec<u8>>());
}
