//! Snapshots: asked for, offered, sent in chunks, resumed, installed.

use opor_core::{DbVersion, Value};
use opor_sync_proto::{
    Ask, Capabilities, CloseReason, Decoded, Event, Found, Hello, Input, Kind, Message, Offer, Output,
    Rejection, Resume, SnapshotId, Violation, Wanted, Work, decode,
};

use crate::lone::{Lone, changes, config, cursor, hello};
use crate::world::{Conditions, World};

/// An offer of chunks of ten bytes.
pub(crate) fn offer(id: &str, chunks: u64, first: u64) -> Offer {
    let id = SnapshotId(id.as_bytes().to_vec());
    Offer { id, chunks, bytes: 10 * chunks, first, cursor: cursor("40@2") }
}

fn resume(id: &str, index: u64) -> Resume {
    Resume { id: SnapshotId(id.as_bytes().to_vec()), index }
}

fn chunk(number: u64, index: u64, payload: &[u8]) -> Message<'_> {
    Message::Chunk { number, len: payload.len() as u64, index, payload }
}

/// An offer with a manifest of eight bytes.
pub(crate) fn offered(number: u64, id: &str, chunks: u64, first: u64) -> Message<'static> {
    Message::Offer { number, len: 8, offer: offer(id, chunks, first), payload: b"manifest" }
}

fn found(id: &str, chunks: u64, first: u64) -> Found {
    Found::Snapshot { offer: offer(id, chunks, first), manifest: b"manifest".to_vec() }
}

fn work(id: &str, chunks: u64, first: u64) -> Work {
    Work::Offer { offer: offer(id, chunks, first), manifest: b"manifest".to_vec() }
}

/// A session whose peer has asked for a snapshot.
fn asked(of: Option<Resume>) -> Lone {
    let mut lone = Lone::admitted(config(), hello(), Ask::Log(None));
    lone.say(Message::Fetch { resume: of, limit: 1 << 20 });
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    lone
}

#[test]
fn a_snapshot_is_sent_chunk_by_chunk_and_then_the_log() {
    let mut lone = asked(Some(resume("s", 2)));
    let Output::Read { req, wanted } = lone.poll() else { panic!("not looked for") };
    assert_eq!(wanted, Wanted::Snapshot { resume: Some(resume("s", 2)), item_max: 64 << 10 });
    lone.input(Input::Read { req, found: found("s", 4, 2) });
    lone.input(Input::LocalCommit);
    lone.check_said(offered(0, "s", 4, 2));
    for index in [2, 3] {
        let Output::Read { req, wanted } = lone.poll() else { panic!("not read") };
        assert_eq!(wanted, Wanted::Chunk { id: SnapshotId(b"s".to_vec()), index });
        lone.input(Input::Read { req, found: Found::Chunk(vec![1; 10]) });
        lone.check_said(chunk(index - 1, index, &[1; 10]));
    }
    assert_eq!(lone.session.poll_output(), None, "the log waits to be asked for");
    lone.say(Message::Ack { items: 3, limit: 1 << 20 });
    lone.say(Message::Pull { cursor: Some(cursor("40@2")), limit: 1 << 20 });
    let Output::Read { wanted: Wanted::Log { cursor: from, .. }, .. } = lone.poll() else {
        panic!("not read")
    };
    assert_eq!(from, Some(cursor("40@2")));
}

/// A session that has asked for a snapshot, and has told its peer that it has nothing itself.
fn asking(of: Option<Resume>) -> Lone {
    let mut lone = Lone::admitted(config(), hello(), Ask::Snapshot(of));
    lone.say(Message::Pull { cursor: None, limit: 1 << 20 });
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    lone.find_batch(0, "0@1", true);
    lone.frame();
    lone
}

#[test]
fn a_snapshot_is_stored_chunk_by_chunk_and_installed() {
    let mut lone = asking(Some(resume("old", 7)));
    let limit = |bytes: u64| bytes + config().window as u64;
    let store = |lone: &mut Lone, expected: Work| {
        let (req, work) = lone.apply();
        assert_eq!(work, expected);
        req
    };
    let of = |index: u64, bytes: &[u8]| Work::Chunk { index, bytes: bytes.to_vec() };
    let offer = offer("new", 2, 0);
    lone.say(Message::Offer { number: 0, len: 8, offer: offer.clone(), payload: b"mani" });
    assert_eq!(lone.session.poll_output(), None, "half a manifest is none");
    lone.say(Message::Part { number: 0, offset: 4, payload: b"fest" });
    let req = store(&mut lone, work("new", 2, 0));
    lone.say(chunk(1, 0, b"0123456789"));
    assert_eq!(lone.session.poll_output(), None, "a chunk waits for its place");
    lone.input(Input::Applied { req, version: None });
    let req = store(&mut lone, of(0, b"0123456789"));
    lone.check_said(Message::Ack { items: 1, limit: limit(8) });
    assert_eq!(lone.session.poll_output(), None, "not durable, not acknowledged");
    lone.input(Input::Applied { req, version: None });
    lone.check_said(Message::Ack { items: 2, limit: limit(18) });
    lone.say(chunk(2, 1, b"abcdefghij"));
    let req = store(&mut lone, of(1, b"abcdefghij"));
    lone.input(Input::Applied { req, version: None });
    let req = store(&mut lone, Work::Install(offer));
    lone.check_said(Message::Ack { items: 3, limit: limit(28) });
    assert_eq!(lone.session.poll_output(), None, "the log is asked for when the snapshot is in place");
    lone.input(Input::Applied { req, version: None });
    lone.check_said(Message::Pull { cursor: Some(cursor("40@2")), limit: limit(28) });
    lone.say(changes(3, 1, b"x"));
    assert!(matches!(lone.apply().1, Work::Changes { .. }));
}

/// The request for the log after a snapshot says that its deletes are known. What was read before it was merged is not sent, not even
/// where there is credit; and before what has begun is sent as a whole, the log is not asked for.
#[test]
fn what_was_read_before_a_snapshot_was_merged_is_not_sent_after() {
    let install = |lone: &mut Lone| {
        lone.say(offered(0, "s", 1, 0));
        lone.say(chunk(1, 0, b"0123456789"));
        for _ in 0..3 {
            let (req, _) = lone.apply();
            lone.input(Input::Applied { req, version: Some(DbVersion(4)) });
        }
    };
    let pulls = || Message::Pull { cursor: Some(cursor("40@2")), limit: 18 + config().window as u64 };
    let mut lone = asking(None);
    lone.input(Input::LocalCommit);
    let Output::Read { req, .. } = lone.poll() else { panic!("nothing is read") };
    install(&mut lone);
    lone.check_said(Message::Ack { items: 2, limit: 18 + config().window as u64 });
    assert_eq!(lone.session.poll_output(), None, "there is something that was read before");
    let found = Found::Batch { changeset: vec![7; 10], cursor: cursor("9@1"), done: true };
    lone.input(Input::Read { req, found });
    let Output::Read { wanted: Wanted::Log { cursor: from, echoes, .. }, .. } = lone.poll() else {
        panic!("not read anew")
    };
    assert_eq!((from, echoes.has(DbVersion(4))), (Some(cursor("0@1")), true));
    lone.check_said(pulls());

    let mut lone = asking(None);
    lone.input(Input::LocalCommit);
    lone.find_batch(40_000, "9@1", true);
    lone.frame();
    let Output::Send(_) = lone.poll() else { panic!("nothing to send") };
    install(&mut lone);
    lone.input(Input::Sent);
    lone.check_said(Message::Ack { items: 2, limit: 18 + config().window as u64 });
    let last = lone.frame();
    assert!(matches!(decode(&last), Ok(Decoded::Message(Message::Part { .. }))), "{last:?}");
    lone.check_said(pulls());
}

#[test]
fn a_resumed_snapshot_goes_on_where_it_was() {
    let mut lone = asking(Some(resume("s", 3)));
    lone.say(offered(0, "s", 4, 3));
    let (req, offered) = lone.apply();
    assert_eq!(offered, work("s", 4, 3));
    lone.input(Input::Applied { req, version: None });
    lone.frame();
    lone.say(chunk(1, 3, b"0123456789"));
    let (req, work) = lone.apply();
    assert!(matches!(work, Work::Chunk { index: 3, .. }));
    // A chunk that is not what the manifest says.
    lone.input(Input::Rejected { req, rejection: Rejection::Snapshot });
    lone.check_closed(CloseReason::Rejected(Rejection::Snapshot));
}

/// What a snapshot brought is not sent back, where it was merged; where it may have taken the place of the database, versions
/// may be others.
#[test]
fn what_a_snapshot_brought_is_not_sent_back() {
    for (version, expected) in [(Some(DbVersion(9)), true), (None, false)] {
        let mut lone = asking(None);
        lone.say(offered(0, "s", 1, 0));
        lone.say(chunk(1, 0, b"0123456789"));
        for version in [None, None, version] {
            let (req, _) = lone.apply();
            lone.input(Input::Applied { req, version });
        }
        lone.drain();
        lone.input(Input::LocalCommit);
        let Output::Read { wanted: Wanted::Log { echoes, .. }, .. } = lone.poll() else { panic!("not read") };
        assert_eq!((echoes.has(DbVersion(9)), echoes.is_empty()), (expected, !expected));
    }
}

#[test]
fn where_there_is_no_snapshot_the_peer_is_told() {
    let mut lone = asked(None);
    lone.find(Found::NoSnapshot);
    lone.check_said(Message::Behind { snapshot: false });
    lone.say(Message::Pull { cursor: None, limit: 1 << 20 });
    assert!(matches!(lone.poll(), Output::Read { wanted: Wanted::Log { cursor: None, .. }, .. }));

    let mut lone = asking(None);
    lone.say(Message::Behind { snapshot: false });
    assert_eq!(lone.poll(), Output::Event(Event::Behind { snapshot: false }));
    lone.input(Input::Restart(Ask::Log(None)));
    lone.check_said(Message::Pull { cursor: None, limit: config().window as u64 });
}

/// A snapshot that vanishes while it is sent, as when a new one takes its place.
#[test]
fn a_snapshot_may_vanish() {
    let mut lone = asked(None);
    lone.find(found("s", 3, 0));
    lone.frame();
    lone.find(Found::NoSnapshot);
    lone.check_said(Message::Behind { snapshot: false });

    let mut lone = asking(None);
    lone.say(offered(0, "s", 3, 0));
    lone.say(Message::Behind { snapshot: true });
    let (req, _) = lone.apply();
    lone.input(Input::Applied { req, version: None });
    assert_eq!(lone.poll(), Output::Event(Event::Behind { snapshot: true }));
}

/// A peer that offers and takes back, again and again, while the store here is slow.
#[test]
fn offers_do_not_pile_up() {
    let mut lone = asking(None);
    lone.say(offered(0, "s", 3, 0));
    let (req, _) = lone.apply();
    lone.say(Message::Behind { snapshot: true });
    assert_eq!(lone.session.poll_output(), None, "what came is stored first");
    lone.input(Input::Applied { req, version: None });
    assert_eq!(lone.poll(), Output::Event(Event::Behind { snapshot: true }));
    lone.say(offered(1, "s", 3, 0));
    let during = "when nothing was asked for";
    lone.check_violation(Violation::OutOfPhase { kind: Kind::Offer, during });
}

/// Two replicas that hold back for each other's snapshot do not wait for ever.
#[test]
fn asking_for_a_snapshot_releases() {
    let mut lone = Lone::new(config());
    lone.frame();
    lone.say(Message::Hello(Box::new(hello())));
    lone.poll();
    lone.input(Input::Admitted(Ask::Log(None)));
    lone.input(Input::Hold);
    lone.check_said(Message::Pull { cursor: None, limit: 0 });
    lone.say(Message::Pull { cursor: None, limit: 0 });
    lone.say(Message::Behind { snapshot: true });
    let told = [Output::Event(Event::Open), Output::Event(Event::Behind { snapshot: true })];
    assert_eq!([lone.poll(), lone.poll()], told);
    lone.input(Input::Restart(Ask::Snapshot(None)));
    lone.check_said(Message::Fetch { resume: None, limit: config().window as u64 });
    assert_eq!(lone.drain(), []);
}

/// A peer that takes nothing has said all the same what it holds: two that hold each other back wait for that.
#[test]
fn the_cursor_of_a_peer_that_takes_nothing_is_looked_at() {
    let held = || Message::Pull { cursor: Some(cursor("5@1")), limit: 0 };
    let mut lone = Lone::open_with(config(), hello(), 0);
    assert_eq!(lone.drain(), [], "a pull from the start says nothing");

    let mut lone = Lone::admitted(config(), hello(), Ask::Log(None));
    lone.say(held());
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    let Output::Read { req, wanted: Wanted::Log { changes_max: 1, .. } } = lone.poll() else {
        panic!("the cursor is not looked at")
    };
    let found = || Found::Batch { changeset: vec![7; 50], cursor: cursor("6@1"), done: false };
    lone.input(Input::Read { req, found: found() });
    assert_eq!(lone.drain(), [Output::Event(Event::Acknowledged(cursor("5@1")))], "and nothing is sent");
    assert_eq!(lone.session.held(), (0, 0), "or kept");
    lone.input(Input::LocalCommit);
    assert_eq!(lone.drain(), [], "or read");
    lone.say(Message::Ack { items: 0, limit: 1 << 20 });
    let Output::Read { wanted: Wanted::Log { cursor: from, changes_max, .. }, .. } = lone.poll() else {
        panic!("nothing is read")
    };
    assert_eq!((from, changes_max), (Some(cursor("5@1")), config().changes_max));

    let mut lone = Lone::admitted(config(), hello(), Ask::Log(None));
    lone.say(held());
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    lone.find(Found::Behind);
    lone.check_said(Message::Behind { snapshot: true });
    assert_eq!(lone.drain(), [], "its cursor is of no use");
}

/// What was read for a look is one change. It is not sent even when credit has come meanwhile: a commit travels as a whole.
#[test]
fn what_was_read_for_a_look_is_not_sent() {
    let mut lone = Lone::admitted(config(), hello(), Ask::Log(None));
    lone.say(Message::Pull { cursor: Some(cursor("5@1")), limit: 0 });
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    let Output::Read { req, wanted: Wanted::Log { changes_max: 1, .. } } = lone.poll() else {
        panic!("the cursor is not looked at")
    };
    lone.say(Message::Ack { items: 0, limit: 1 << 20 });
    let found = Found::Batch { changeset: vec![7; 50], cursor: cursor("5@1:6.1.0"), done: false };
    lone.input(Input::Read { req, found });
    assert_eq!(lone.poll(), Output::Event(Event::Acknowledged(cursor("5@1"))));
    let Output::Read { wanted: Wanted::Log { cursor: from, changes_max, .. }, .. } = lone.poll() else {
        panic!("it is not read again")
    };
    assert_eq!((from, changes_max), (Some(cursor("5@1")), config().changes_max));
}

/// A snapshot is not asked of a peer that gives none; the driver hears of it as if the peer had said so.
#[test]
fn a_peer_without_snapshots_is_not_asked_for_one() {
    let mut lone = Lone::new(config());
    lone.frame();
    let plain = Hello { capabilities: Capabilities::BINARY, ..hello() };
    lone.say(Message::Hello(Box::new(plain)));
    lone.poll();
    lone.input(Input::Admitted(Ask::Snapshot(None)));
    assert_eq!(lone.drain(), [Output::Event(Event::Behind { snapshot: false })]);
    lone.input(Input::Restart(Ask::Log(None)));
    lone.check_said(Message::Pull { cursor: None, limit: config().window as u64 });
}

#[test]
#[should_panic(expected = "the peer is asked anew only when it is behind")]
fn a_driver_asks_anew_only_when_it_may() {
    Lone::open().input(Input::Restart(Ask::Log(None)));
}

#[test]
#[should_panic(expected = "an answer belongs to the read that is under way")]
fn a_driver_answers_what_it_was_asked() {
    let mut lone = Lone::open();
    let Output::Read { req, .. } = lone.poll() else { panic!("not read") };
    lone.input(Input::Read { req, found: Found::Behind });
    lone.input(Input::Read { req, found: Found::Behind });
}

/// Two replicas of which one is behind; the snapshot comes over a link that is cut again and again.
#[test]
fn a_replica_behind_the_horizon_catches_up_by_snapshot() {
    let mut world = World::new(1, 2, Conditions { apply: (20, 20), ..Conditions::CALM });
    for config in &mut world.configs {
        config.capabilities = config.capabilities.with(Capabilities::SNAPSHOT);
        (config.item_max, config.window) = (16 << 10, 16 << 10);
    }
    world.commit(0, (0..10).map(|key| (key, Value::Integer(key))));
    let link = world.link(0, 1, true);
    assert!(world.run_quiet(1_000));
    world.check_converged();
    world.cut(link);
    for key in 0..6_000 {
        world.commit(0, [(key, Value::Text(format!("value {key}")))]);
    }
    world.replicas[0].cut_history();
    world.commit(1, [(9_000, Value::Text("written meanwhile".into()))]);
    for _ in 0..4 {
        world.run_for(300);
        world.cut(link);
    }
    assert!(world.run_quiet(10_000));
    world.check_converged();
    assert_eq!(world.replicas[1].cells.len(), 6_001);
    let (chunks, offers) = (world.tally.of("Chunk"), world.tally.of("Offer"));
    assert!(world.tally.of("install") == 1 && offers >= 4, "{:?}", world.tally);
    // Chunks that were under way at a cut came again, and no others.
    let image = world.replicas[0].image_chunks();
    assert!(image > 20 && chunks < image + 6 * offers, "{chunks} chunks were sent for {image}");
}
