//! The log in pieces, live commits, acknowledgements, credit, echoes.

use opor_core::{DbVersion, Value};
use opor_sync_proto::{
    Ask, Capabilities, CloseReason, Config, Decoded, Event, Found, Hello, Input, Message, Output, Violation,
    Wanted, Work, decode,
};

use crate::lone::{Lone, changes, config, cursor, hello};
use crate::world::{Conditions, World};

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

#[test]
fn what_was_committed_apart_is_exchanged() {
    let mut world = World::new(1, 2, Conditions::CALM);
    for key in 0..250 {
        world.commit(0, [(key, text("a"))]);
        world.commit(1, [(key + 200, text("b"))]);
    }
    for config in &mut world.configs {
        config.changes_max = 40;
    }
    world.link(0, 1, true);
    assert!(world.run_quiet(10_000));
    world.check_converged();
    assert_eq!(world.replicas[0].content().len(), 450);
    assert!(world.tally.of("Changes") >= 14, "in pieces: {:?}", world.tally);
    for side in 0..2 {
        assert!(world.side(0, side).events.contains(&Event::CaughtUp));
    }
    assert_eq!(world.links[0].ended, []);
}

#[test]
fn a_live_commit_arrives_at_once_and_does_not_come_back() {
    let mut world = World::pair();
    world.run_for(50);
    let before = world.tally.of("Changes");
    world.commit(0, [(1, text("hello")), (2, text("world"))]);
    world.run_for(20);
    world.check_converged();
    assert_eq!(world.tally.of("Changes") - before, 1);
    assert_eq!((world.replicas[0].unchanged, world.replicas[1].stripped), (0, 2));
    // Later the peer is told that its cursor moved, once.
    world.run_for(Config::new(world.replicas[0].site, "r").timeouts.cursor_ms);
    assert_eq!(world.tally.of("Changes") - before, 2);
    assert_eq!(world.pulled(0, 1), Some(cursor("1@1")));
    assert_eq!(world.replicas[0].version, 1, "a cursor is no commit");
    world.run_for(15_000);
    assert_eq!(world.tally.of("Changes") - before, 2);
}

#[test]
fn a_hub_relays_to_the_others_only() {
    let mut world = World::new(1, 4, Conditions::CALM);
    for leaf in 1..4 {
        world.link(0, leaf, true);
    }
    world.run_for(100);
    let before = world.tally.of("Changes");
    world.commit(1, [(1, text("from a leaf"))]);
    world.run_for(100);
    world.check_converged();
    assert_eq!(world.tally.of("Changes") - before, 3, "to the hub, and to two leaves");
    assert!(world.replicas.iter().all(|replica| replica.unchanged == 0));
}

/// Two replicas that write one cell at once agree, and a change that lost is not sent around for ever.
#[test]
fn conflicts_come_to_rest() {
    let mut world = World::new(1, 3, Conditions::CALM);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        world.link(from, to, true);
    }
    world.run_for(100);
    for node in 0..3 {
        world.commit(node, [(1, text(["x", "z", "y"][node]))]);
    }
    assert!(world.run_quiet(1000));
    world.check_converged();
    assert_eq!(world.replicas[0].cells[&1].value, text("z"));
}

#[test]
fn commits_during_a_read_are_not_forgotten() {
    let mut lone = Lone::open();
    let Output::Read { req, .. } = lone.poll() else { panic!("not read") };
    lone.input(Input::LocalCommit);
    lone.input(Input::LocalCommit);
    assert_eq!(lone.session.poll_output(), None, "one read at a time");
    lone.input(Input::Read {
        req,
        found: Found::Batch { changeset: vec![1], cursor: cursor("1@1"), done: true },
    });
    lone.check_said(Message::Changes {
        number: 0,
        len: 1,
        cursor: cursor("1@1"),
        done: true,
        delta: false,
        payload: &[1],
    });
    lone.find(Found::Batch { changeset: vec![2, 2], cursor: cursor("3@1"), done: true });
    lone.check_said(Message::Changes {
        number: 1,
        len: 2,
        cursor: cursor("3@1"),
        done: true,
        delta: false,
        payload: &[2, 2],
    });
    assert_eq!(lone.session.poll_output(), None, "two commits are one piece");
}

/// The acknowledgement follows durability: no frame says anything before the driver does.
#[test]
fn nothing_is_acknowledged_before_it_is_durable() {
    let mut lone = Lone::open();
    lone.find_batch(0, "0@1", true);
    lone.check_said(Message::Changes {
        number: 0,
        len: 0,
        cursor: cursor("0@1"),
        done: true,
        delta: false,
        payload: b"",
    });
    lone.say(changes(0, 3, b"abc"));
    lone.say(Message::Changes {
        number: 1,
        len: 2,
        cursor: cursor("6@1"),
        done: true,
        delta: false,
        payload: b"de",
    });
    let (req, work) = lone.apply();
    assert_eq!(work, Work::Changes { changeset: b"abc".to_vec(), cursor: cursor("5@1") });
    assert_eq!(lone.session.poll_output(), None, "one at a time, and nothing is said of it");
    lone.input(Input::Applied { req, version: Some(DbVersion(4)) });
    let (second, work) = lone.apply();
    assert_eq!(work, Work::Changes { changeset: b"de".to_vec(), cursor: cursor("6@1") });
    assert_eq!(lone.poll(), Output::Event(Event::CaughtUp));
    let window = config().window as u64;
    lone.check_said(Message::Ack { items: 1, limit: 3 + window });
    lone.input(Input::Applied { req: second, version: None });
    assert_eq!(lone.poll(), Output::Event(Event::CaughtUp));
    lone.check_said(Message::Ack { items: 2, limit: 5 + window });
    assert_eq!(lone.session.poll_output(), None);
    // What the first merge took here is left out of what the peer gets.
    lone.input(Input::LocalCommit);
    let Output::Read { wanted: Wanted::Log { echoes, cursor: from, .. }, .. } = lone.poll() else {
        panic!("not read")
    };
    assert_eq!(
        (echoes.has(DbVersion(4)), echoes.has(DbVersion(5)), from),
        (true, false, Some(cursor("0@1")))
    );
}

/// What this side read before it merged something goes before the acknowledgement of that: it may be an edit of a row whose
/// delete it has only now merged. The credit does not wait, so neither side waits for the other.
#[test]
fn an_acknowledgement_does_not_overtake_what_was_read_before() {
    let mut lone = Lone::open();
    let window = config().window as u64;
    let Output::Read { req: read, .. } = lone.poll() else { panic!("nothing is read") };
    lone.say(changes(0, 3, b"abc"));
    let (req, _) = lone.apply();
    lone.input(Input::Applied { req, version: None });
    assert_eq!(lone.poll(), Output::Event(Event::CaughtUp));
    lone.check_said(Message::Ack { items: 0, limit: 3 + window });
    assert_eq!(lone.session.poll_output(), None);
    let found = Found::Batch { changeset: vec![7; 20_000], cursor: cursor("9@1"), done: true };
    lone.input(Input::Read { req: read, found });
    let parts = [lone.frame(), lone.frame()].map(|frame| decode(&frame).map(|told| format!("{told:?}")));
    assert!(parts[0].as_ref().is_ok_and(|told| told.contains("Changes")), "{parts:?}");
    assert!(parts[1].as_ref().is_ok_and(|told| told.contains("Part")), "{parts:?}");
    lone.check_said(Message::Ack { items: 1, limit: 3 + window });
    // What is read afterwards is newer, and waited for by nobody.
    lone.input(Input::LocalCommit);
    assert!(matches!(lone.poll(), Output::Read { .. }));
}

/// What is read and cannot be sent for want of credit is put back, and read anew when there is some: by then it is newer.
#[test]
fn what_there_is_no_credit_for_is_put_back_for_an_acknowledgement() {
    let mut lone = Lone::open_with(config(), hello(), 10);
    lone.find_batch(5_000, "9@1", true);
    assert_eq!(lone.session.poll_output(), None, "more than the peer takes now");
    lone.say(changes(0, 3, b"abc"));
    let (req, _) = lone.apply();
    lone.input(Input::Applied { req, version: Some(DbVersion(4)) });
    assert_eq!(lone.poll(), Output::Event(Event::CaughtUp));
    lone.check_said(Message::Ack { items: 1, limit: 3 + config().window as u64 });
    assert_eq!((lone.session.poll_output(), lone.session.held()), (None, (0, 0)));
    lone.say(Message::Ack { items: 0, limit: 10 });
    assert_eq!(lone.session.poll_output(), None, "not read again and again");
    lone.say(Message::Ack { items: 0, limit: 5_000 });
    let Output::Read { req, wanted: Wanted::Log { cursor: from, echoes, .. } } = lone.poll() else {
        panic!("not read")
    };
    assert_eq!((from, echoes.has(DbVersion(4))), (None, true));
    let found = Found::Batch { changeset: Vec::new(), cursor: cursor("9@1"), done: true };
    lone.input(Input::Read { req, found });
    let (number, len, done, delta, payload) = (0, 0, true, false, &[][..]);
    lone.check_said(Message::Changes { number, len, cursor: cursor("9@1"), done, delta, payload });
}

/// An item that has begun comes to its end, even when its peer takes nothing more: else neither would acknowledge anything.
#[test]
fn what_has_begun_gets_the_credit_for_its_end() {
    let mut lone = Lone::open();
    lone.find_batch(0, "0@1", true);
    lone.frame();
    let payload = [0; 16_000];
    (0..6).for_each(|number| lone.say(changes(number, 16_000, &payload)));
    lone.say(changes(6, 20_000, &payload[..6_000]));
    lone.input(Input::Hold);
    for _ in 0..6 {
        let (req, _) = lone.apply();
        lone.input(Input::Applied { req, version: None });
    }
    lone.drain();
    lone.say(Message::Part { number: 6, offset: 6_000, payload: &payload[..14_000] });
    lone.apply();
    lone.say(changes(7, 16_000, &payload));
    lone.check_violation(Violation::CreditOverrun { sent: 132_000, limit: 116_000 });
}

/// What the peer acknowledges counts when everything is applied that it sent before: so nobody drops the tombstones of
/// deletes that changes have still to meet.
#[test]
fn what_came_before_an_acknowledgement_is_applied_before_it_counts() {
    let mut lone = Lone::open();
    lone.find_batch(10, "5@1", true);
    lone.frame();
    for number in 0..2 {
        lone.say(changes(number, 3, b"abc"));
    }
    lone.say(Message::Ack { items: 1, limit: 1 << 20 });
    // What begins after it does not matter.
    lone.say(changes(2, 9, b"abc"));
    for _ in 0..2 {
        let (req, _) = lone.apply();
        assert!(lone.drain().iter().all(|output| !matches!(output, Output::Event(Event::Acknowledged(_)))));
        lone.input(Input::Applied { req, version: None });
    }
    assert!(lone.drain().contains(&Output::Event(Event::Acknowledged(cursor("5@1")))));
}

#[test]
fn a_large_changeset_is_cut_into_frames_and_put_together() {
    let mut lone = Lone::open();
    lone.find_batch(40_000, "9@1", true);
    let mut whole = Vec::new();
    for number in 0..3 {
        let frame = lone.frame();
        assert!(frame.len() <= config().frame_max);
        match opor_sync_proto::decode(&frame) {
            Ok(opor_sync_proto::Decoded::Message(Message::Changes { len: 40_000, payload, .. }))
                if number == 0 =>
            {
                whole.extend_from_slice(payload);
            }
            Ok(opor_sync_proto::Decoded::Message(Message::Part { number: 0, offset, payload })) => {
                assert_eq!(offset, whole.len() as u64);
                whole.extend_from_slice(payload);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((whole, lone.session.poll_output()), (vec![7; 40_000], None));

    let mut lone = Lone::open();
    lone.say(changes(0, 30_000, &[1; 16_000]));
    lone.say(Message::Ping { nonce: 4 });
    lone.say(Message::Part { number: 0, offset: 16_000, payload: &[2; 14_000] });
    let (_, work) = lone.apply();
    let changeset = [vec![1; 16_000], vec![2; 14_000]].concat();
    assert_eq!(work, Work::Changes { changeset, cursor: cursor("5@1") });
}

/// The smaller of both frame limits holds.
#[test]
fn frames_fit_both_sides() {
    let mut own = config();
    own.frame_max = 50_000;
    let peer = Hello { frame_max: 20_000, ..hello() };
    let mut lone = Lone::open_with(own.clone(), peer, 1 << 20);
    lone.find_batch(60_000, "9@1", true);
    let lens: Vec<_> = lone.drain().iter().map(frame_len).collect();
    assert!(lens.iter().all(|len| *len <= 20_000) && lens.len() == 4, "{lens:?}");
    let mut lone = Lone::open_with(own, Hello { frame_max: u64::MAX, ..hello() }, 1 << 20);
    lone.find_batch(60_000, "9@1", true);
    let lens: Vec<_> = lone.drain().iter().map(frame_len).collect();
    assert!(lens.iter().all(|len| *len <= 50_000) && lens.len() == 2, "{lens:?}");
}

fn frame_len(output: &Output) -> usize {
    match output {
        Output::Send(frame) => frame.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_sent_beyond_the_credit() {
    let mut lone = Lone::open_with(config(), hello(), 20_000);
    lone.find_batch(30_000, "9@1", true);
    assert_eq!(lone.drain().len(), 1, "the second frame does not fit");
    lone.say(Message::Ack { items: 0, limit: 29_999 });
    assert_eq!(lone.drain(), []);
    lone.say(Message::Ack { items: 0, limit: 30_000 });
    assert_eq!(lone.drain().len(), 1);
    lone.input(Input::LocalCommit);
    assert_eq!(lone.drain(), [], "without credit nothing is read");
    lone.say(Message::Ack { items: 1, limit: 30_001 });
    assert_eq!(lone.poll(), Output::Event(Event::Acknowledged(cursor("9@1"))));
    lone.find_batch(2, "10@1", true);
    assert_eq!(lone.drain(), []);
    lone.say(Message::Ack { items: 1, limit: 30_002 });
    assert_eq!(lone.drain().len(), 1);
}

/// A peer that has not learnt of deletes that are off the record is not pulled from until it has.
#[test]
fn a_peer_is_held_back_and_released() {
    let mut lone = Lone::new(config());
    lone.frame();
    lone.say(Message::Hello(Box::new(hello())));
    lone.poll();
    lone.input(Input::Admitted(Ask::Log(Some(cursor("3@1")))));
    lone.input(Input::Hold);
    lone.check_said(Message::Pull { cursor: Some(cursor("3@1")), limit: 0 });
    lone.say(Message::Pull { cursor: None, limit: 100 });
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    lone.find_batch(1, "7@1", true);
    lone.frame();
    lone.say(Message::Ack { items: 1, limit: 101 });
    assert_eq!(lone.drain(), [Output::Event(Event::Acknowledged(cursor("7@1")))]);
    lone.input(Input::Release);
    lone.input(Input::Release);
    lone.check_said(Message::Ack { items: 0, limit: config().window as u64 });
    assert_eq!(lone.session.poll_output(), None, "said once");
    lone.say(changes(0, 3, b"abc"));
    lone.apply();
    // A peer that sends while it is held back breaks the protocol.
    let mut lone = Lone::open();
    lone.input(Input::Hold);
    lone.drain();
    let payload = [0; 16_000];
    (0..6).for_each(|number| lone.say(changes(number, 16_000, &payload)));
    for _ in 0..6 {
        let (req, _) = lone.apply();
        lone.input(Input::Applied { req, version: None });
    }
    lone.drain();
    lone.say(changes(6, 16_000, &payload));
    lone.check_violation(Violation::CreditOverrun { sent: 112_000, limit: 102_400 });
}

/// For a peer that takes nothing now nothing is read either, and it is not blamed.
#[test]
fn a_peer_without_credit_costs_nothing() {
    let mut lone = Lone::open_with(config(), hello(), 0);
    lone.input(Input::LocalCommit);
    assert_eq!((lone.session.poll_output(), lone.session.held()), (None, (0, 0)));
    for minute in 1..60 {
        lone.now = opor_sync_proto::MonoMillis(minute * 59_000);
        lone.say(Message::Ping { nonce: minute });
        lone.session.handle_timeout(lone.now);
        lone.check_said(Message::Pong { nonce: minute });
    }
    lone.say(Message::Ack { items: 0, limit: 5 });
    assert!(matches!(lone.poll(), Output::Read { .. }));
}

/// A peer that acknowledges nothing gets so many items; then nothing is read for it any more.
#[test]
fn a_peer_that_never_acknowledges_costs_little() {
    let mut lone = Lone::open_with(config(), hello(), u64::MAX);
    let mut sent = 0;
    for _ in 0..1000 {
        lone.input(Input::LocalCommit);
        if let Some(Output::Read { req, .. }) = lone.session.poll_output() {
            let found = Found::Batch { changeset: vec![1; 1000], cursor: cursor("1@1"), done: true };
            lone.input(Input::Read { req, found });
            sent += lone.drain().len();
        }
    }
    assert_eq!((sent, lone.session.held()), (64, (0, 64)));
    lone.say(Message::Ack { items: 64, limit: u64::MAX });
    assert_eq!(lone.poll(), Output::Event(Event::Acknowledged(cursor("1@1"))));
    assert!(matches!(lone.poll(), Output::Read { .. }), "and now it goes on");
}

/// A link that takes no frame: one waits there, one item here, whatever is committed.
#[test]
fn a_peer_that_never_reads_costs_little() {
    let mut lone = Lone::open_with(config(), hello(), u64::MAX);
    lone.find_batch(60_000, "9@1", false);
    let Output::Send(_) = lone.poll() else { panic!("nothing to send") };
    for nonce in 0..1000 {
        lone.input(Input::LocalCommit);
        lone.say(Message::Ping { nonce });
        assert_eq!(lone.session.poll_output(), None);
    }
    assert_eq!(lone.session.held(), (60_000, 0));
    lone.input(Input::Sent);
    lone.check_said(Message::Pong { nonce: 999 });
}

/// A piece that is too large for the peer is read again, in smaller ones.
#[test]
fn pieces_adapt_to_what_the_peer_takes() {
    let mut lone = Lone::open();
    let mut wanted = Vec::new();
    for len in [70_000, 66_000, 50_000, 10] {
        let Output::Read { req, wanted: Wanted::Log { changes_max, cursor, .. } } = lone.poll() else {
            panic!("not read")
        };
        wanted.push((changes_max, cursor));
        let found = Found::Batch { changeset: vec![0; len], cursor: crate::lone::cursor("2@1"), done: false };
        lone.input(Input::Read { req, found });
        while lone.session.held().0 > 0 {
            lone.frame();
        }
    }
    let held = Some(cursor("2@1"));
    assert_eq!(wanted, [(50_000, None), (25_000, None), (12_500, None), (25_000, held)]);
}

#[test]
fn a_row_that_the_peer_does_not_take_ends_the_session() {
    let mut own = config();
    own.changes_max = 2;
    let mut lone = Lone::open_with(own, hello(), u64::MAX);
    lone.find_batch(70_000, "2@1", true);
    lone.find_batch(69_000, "1@1", false);
    let reason = CloseReason::TooLarge { len: 69_000, max: 65_536 };
    assert!(reason.is_final());
    lone.check_closed(reason);
}

#[test]
fn acknowledgements_name_the_cursor_that_is_held() {
    let mut lone = Lone::admitted(config(), hello(), Ask::Log(None));
    lone.say(Message::Pull { cursor: Some(cursor("3@1")), limit: 1 << 20 });
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    lone.find_batch(10, "3@1:7.1", false);
    assert_eq!(
        lone.poll(),
        Output::Event(Event::Acknowledged(cursor("3@1"))),
        "what it asked with it holds, and a read has shown that it is of this history",
    );
    let part = cursor("3@1:7.1");
    lone.check_said(Message::Changes {
        number: 0,
        len: 10,
        cursor: part,
        done: false,
        delta: false,
        payload: &[7; 10],
    });
    lone.find_batch(10, "9@1", true);
    lone.frame();
    lone.say(Message::Ack { items: 2, limit: 1 << 20 });
    assert_eq!(lone.drain(), [Output::Event(Event::Acknowledged(cursor("9@1")))]);
    lone.say(Message::Ack { items: 2, limit: 1 << 20 });
    assert_eq!(lone.drain(), [], "the same again says nothing new");
}

/// What an old history's cursor is acknowledged for says nothing about the new one.
#[test]
fn a_peer_behind_the_horizon_is_told_and_asks_anew() {
    let mut lone = Lone::open();
    lone.find_batch(10, "5@1", true);
    lone.frame();
    lone.input(Input::LocalCommit);
    lone.find(Found::Behind);
    lone.check_said(Message::Behind { snapshot: true });
    lone.input(Input::LocalCommit);
    lone.say(Message::Ack { items: 1, limit: 1 << 20 });
    assert_eq!(lone.drain(), [], "nothing is read, and the cursor of the old history is not reported");
    lone.say(Message::Pull { cursor: None, limit: 1 << 20 });
    let Output::Read { req, wanted } = lone.poll() else { panic!("not read") };
    assert!(matches!(wanted, Wanted::Log { cursor: None, .. }));
    let found = Found::Batch { changeset: vec![3], cursor: cursor("9@2"), done: true };
    lone.input(Input::Read { req, found });
    lone.check_said(Message::Changes {
        number: 1,
        len: 1,
        cursor: cursor("9@2"),
        done: true,
        delta: false,
        payload: &[3],
    });
}

/// Once versions may have been numbered anew, those before are not taken for echoes. What the peer sends after that does not come
/// back: a session goes on for days.
#[test]
fn a_cut_history_begins_the_leaving_out_anew() {
    let mut lone = Lone::open();
    lone.find_batch(0, "0@1", true);
    lone.drain();
    let mut number = 0;
    let mut merge = |lone: &mut Lone, version: u64| {
        lone.say(changes(number, 1, b"x"));
        number += 1;
        let (req, _) = lone.apply();
        lone.input(Input::Applied { req, version: Some(DbVersion(version)) });
        lone.drain();
    };
    merge(&mut lone, 6);
    lone.input(Input::LocalCommit);
    lone.find(Found::Behind);
    lone.drain();
    merge(&mut lone, 8);
    lone.say(Message::Pull { cursor: None, limit: 1 << 20 });
    let Output::Read { wanted: Wanted::Log { echoes, .. }, .. } = lone.poll() else { panic!("not read") };
    assert_eq!((echoes.has(DbVersion(6)), echoes.has(DbVersion(8))), (false, true));
}

#[test]
fn the_peer_can_say_that_this_side_is_behind() {
    let mut lone = Lone::open();
    lone.find_batch(0, "0@1", true);
    lone.frame();
    lone.say(Message::Behind { snapshot: false });
    assert_eq!(lone.drain(), [Output::Event(Event::Behind { snapshot: false })]);
    lone.say(Message::Ping { nonce: 1 });
    lone.check_said(Message::Pong { nonce: 1 });
    lone.input(Input::Restart(Ask::Log(None)));
    lone.check_said(Message::Pull { cursor: None, limit: config().window as u64 });
    lone.say(changes(0, 1, b"x"));
    assert!(matches!(lone.apply().1, Work::Changes { .. }));
    // Until this side has asked anew, nothing may come.
    lone.say(Message::Behind { snapshot: false });
    lone.say(changes(1, 1, b"x"));
    let during = "when nothing was asked for";
    lone.check_violation(Violation::OutOfPhase { kind: opor_sync_proto::Kind::Changes, during });
}

/// A peer that has lost its cursor asks from the start, and gets all.
#[test]
fn a_peer_may_forget_its_cursor() {
    let mut world = World::pair();
    world.commit(0, (0..30).map(|key| (key, text("a"))));
    assert!(world.run_quiet(1000));
    world.check_converged();
    world.cut(0);
    world.replicas[1].pulled.clear();
    world.replicas[1].cells.clear();
    assert!(world.run_quiet(1000));
    world.check_converged();
    assert_eq!(world.replicas[1].cells.len(), 30);
    assert_eq!(world.links[0].ended, [CloseReason::LinkClosed, CloseReason::LinkClosed]);
}

/// A pull that is interrupted goes on where it was, and does not begin anew.
#[test]
fn a_pull_in_pieces_resumes() {
    let mut world = World::new(1, 2, Conditions { apply: (50, 50), ..Conditions::CALM });
    world.commit(0, (0..1000).map(|key| (key, text("a"))));
    for config in &mut world.configs {
        config.changes_max = 50;
    }
    world.link(0, 1, true);
    world.run_for(500);
    let held = world.replicas[1].cells.len();
    assert!((100..1000).contains(&held), "{held}");
    assert!(world.pulled(1, 0).unwrap().as_text().unwrap().contains(':'), "within a pull");
    world.cut(0);
    assert!(world.run_quiet(1000));
    world.check_converged();
    // One piece was stored and its cursor too late for the second ask; none else came twice.
    assert!(world.replicas[1].unchanged <= 50, "{} came twice", world.replicas[1].unchanged);
}

/// Bytes that nothing makes shorter, but for the edit at their end.
fn edited(edit: u8) -> Vec<u8> {
    let noise = (0..80_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
    noise.chain([edit]).collect()
}

#[test]
fn a_short_changeset_is_told_as_a_difference_to_a_peer_that_reads_it() {
    let reads = Hello { capabilities: hello().capabilities.with(Capabilities::DELTA), ..hello() };
    for (peer, differs) in [(reads, true), (hello(), false)] {
        let mut lone = Lone::open_with(config(), peer, 1 << 20);
        let mut told = Vec::new();
        for edit in 1..4 {
            let at = cursor(&format!("{edit}@1"));
            lone.find(Found::Batch { changeset: edited(edit), cursor: at, done: true });
            let frame = lone.frame();
            let Ok(Decoded::Message(Message::Changes { delta, payload, .. })) = decode(&frame) else {
                panic!("no changes")
            };
            told.push((delta, payload.len() < 30));
            lone.input(Input::LocalCommit);
        }
        assert_eq!(told, [(false, false), (differs, differs), (differs, differs)]);
    }
}

#[test]
fn what_the_peer_tells_as_a_difference_is_stored_whole_and_acknowledged_as_sent() {
    let mut lone = Lone::open();
    lone.find(Found::Batch { changeset: Vec::new(), cursor: cursor("0@1"), done: true });
    lone.frame();
    let difference = opor_core::delta(&edited(1), &edited(2)).expect("they are much alike");
    let sent = edited(1).len() + difference.len();
    for (number, (payload, delta)) in [(edited(1), false), (difference, true)].into_iter().enumerate() {
        let (number, len, cursor) = (number as u64, payload.len() as u64, cursor("5@1"));
        lone.say(Message::Changes { number, len, cursor, done: true, delta, payload: &payload });
    }
    for edit in 1..3 {
        let (req, work) = lone.apply();
        assert_eq!(work, Work::Changes { changeset: edited(edit), cursor: cursor("5@1") });
        lone.input(Input::Applied { req, version: None });
    }
    let mut acks = lone.drain().into_iter().filter_map(|output| match output {
        Output::Send(frame) => match decode(&frame) {
            Ok(Decoded::Message(Message::Ack { items, limit })) => Some((items, limit)),
            _ => None,
        },
        _ => None,
    });
    let window = config().window as u64;
    assert_eq!(acks.next_back(), Some((2, sent as u64 + window)));
}

#[test]
fn a_difference_that_is_none_ends_the_session() {
    let mut lone = Lone::open();
    lone.find(Found::Batch { changeset: Vec::new(), cursor: cursor("0@1"), done: true });
    lone.frame();
    let (len, cursor) = (4, cursor("5@1"));
    lone.say(Message::Changes { number: 0, len, cursor, done: true, delta: true, payload: b"junk" });
    lone.check_violation(Violation::Difference);
}
