//! Two replicas that hold each other back: each has dropped deletes of which the other has not learnt.

use opor_core::SiteId;
use opor_sync_proto::{
    Ask, Config, Cursor, Decoded, Event, Found, Input, Message, Offer, Output, SnapshotId, Wanted, Work,
    decode,
};

use crate::lone::{Lone, config, cursor, hello};

/// One that is greater than its peer.
fn greater() -> Config {
    Config { site: SiteId::from([3; 16]), ..config() }
}

/// A session that holds its peer back, and has nothing from it so far.
fn holding(config: Config) -> Lone {
    let mut lone = Lone::new(config);
    lone.frame();
    lone.say(Message::Hello(Box::new(hello())));
    assert!(matches!(lone.poll(), Output::Admit(_)));
    lone.input(Input::Admitted(Ask::Log(None)));
    lone.input(Input::Hold);
    lone.check_said(Message::Pull { cursor: None, limit: 0 });
    lone
}

/// The next output reads so much of the log, from here.
#[track_caller]
fn read(
    lone: &mut Lone,
    from: Option<&Cursor>,
    at_most: usize,
    in_standoff: bool,
) -> opor_sync_proto::RequestId {
    match lone.poll() {
        Output::Read { req, wanted: Wanted::Log { cursor, changes_max, standoff, .. } } => {
            assert_eq!((cursor.as_ref(), changes_max, standoff), (from, at_most, in_standoff));
            req
        }
        other => panic!("the log is not read: {other:?}"),
    }
}

fn offer() -> Offer {
    Offer { id: SnapshotId(vec![7]), chunks: 1, bytes: 9, first: 0, cursor: cursor("8@2") }
}

/// Neither has pulled from the other, so neither hears of a horizon unless the want of a cursor is looked at.
#[test]
fn the_want_of_a_cursor_is_looked_at_where_both_hold() {
    for config in [config(), greater()] {
        let changes_max = config.changes_max;
        let mut lone = holding(config);
        lone.say(Message::Pull { cursor: None, limit: 0 });
        assert_eq!(lone.poll(), Output::Event(Event::Open));
        let req = read(&mut lone, None, 1, true);
        lone.input(Input::Read { req, found: Found::Behind });
        lone.check_said(Message::Behind { snapshot: true });
        assert_eq!(lone.drain(), []);

        // Who has no such store, or no snapshots, finds something: nothing is sent of it, and it is asked once.
        let mut lone = holding(Config { changes_max, ..greater() });
        lone.say(Message::Pull { cursor: None, limit: 0 });
        assert_eq!(lone.poll(), Output::Event(Event::Open));
        lone.find_batch(50, "6@1", false);
        assert_eq!((lone.drain(), lone.session.held()), (vec![], (0, 0)));
        lone.input(Input::LocalCommit);
        assert_eq!(lone.drain(), []);
        lone.say(Message::Ack { items: 0, limit: 1 << 20 });
        read(&mut lone, None, changes_max, false);
    }
}

/// A pull that has not come to its end is good for going on, and does not say that all deletes have been heard of.
#[test]
fn a_cursor_in_the_middle_of_a_pull_is_weighed() {
    let held = || Message::Pull { cursor: Some(cursor("0@1:t1")), limit: 0 };
    let mut lone = holding(greater());
    lone.say(held());
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    let req = read(&mut lone, Some(&cursor("0@1:t1")), 1, true);
    lone.input(Input::Read { req, found: Found::Behind });
    lone.check_said(Message::Behind { snapshot: true });

    // It was looked at before this side began to hold the peer: so it is looked at once more.
    let mut lone = Lone::admitted(greater(), hello(), Ask::Log(None));
    lone.say(held());
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    let req = read(&mut lone, Some(&cursor("0@1:t1")), 1, false);
    let found = || Found::Batch { changeset: vec![7; 50], cursor: cursor("6@1"), done: false };
    lone.input(Input::Read { req, found: found() });
    assert_eq!(lone.poll(), Output::Event(Event::Acknowledged(cursor("0@1:t1"))));
    lone.input(Input::Hold);
    let req = read(&mut lone, Some(&cursor("0@1:t1")), 1, true);
    lone.input(Input::Read { req, found: found() });
    assert_eq!(lone.drain(), []);

    // A side that does not hold the peer serves it the rest as soon as it may.
    let mut lone = Lone::admitted(greater(), hello(), Ask::Log(None));
    lone.say(Message::Pull { cursor: None, limit: 0 });
    assert_eq!(lone.drain(), [Output::Event(Event::Open)]);
}

/// Both are behind: the one with the lesser site id takes a snapshot at once.
#[test]
fn the_lesser_site_gives_way() {
    let mut lone = holding(config());
    lone.say(Message::Pull { cursor: None, limit: 0 });
    lone.say(Message::Behind { snapshot: true });
    let told = [Output::Event(Event::Open), Output::Event(Event::Behind { snapshot: true })];
    assert_eq!([lone.poll(), lone.poll()], told);
    lone.input(Input::Restart(Ask::Snapshot(None)));
    lone.check_said(Message::Fetch { resume: None, limit: config().window as u64 });
}

/// And the greater one waits until the lesser has merged a snapshot of it. Then it sends no log, which the lesser would have
/// to refuse, until it has a snapshot itself.
#[test]
fn the_greater_site_waits_until_the_other_has_learnt() {
    let mut lone = holding(greater());
    lone.say(Message::Pull { cursor: Some(cursor("3@1")), limit: 0 });
    lone.say(Message::Behind { snapshot: true });
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    lone.find(Found::Behind);
    lone.check_said(Message::Behind { snapshot: true });
    assert_eq!(lone.drain(), [], "it is told nothing yet");

    lone.say(Message::Fetch { resume: None, limit: 1 << 20 });
    lone.find(Found::Snapshot { offer: offer(), manifest: vec![1; 10] });
    lone.frame();
    lone.find(Found::Chunk(vec![2; 10]));
    lone.frame();
    assert_eq!(lone.drain(), []);
    lone.say(Message::Ack { items: 2, limit: 1 << 20 });
    lone.input(Input::LocalCommit);
    lone.say(Message::Pull { cursor: Some(cursor("8@2")), limit: 1 << 20 });
    let req = read(&mut lone, Some(&cursor("8@2")), 1, true);
    let found = || Found::Batch { changeset: vec![7; 50], cursor: cursor("9@2"), done: true };
    lone.input(Input::Read { req, found: found() });
    assert_eq!(lone.drain(), [Output::Event(Event::Acknowledged(cursor("8@2")))], "and nothing is sent");

    lone.input(Input::Release);
    let mut outputs = lone.drain();
    outputs.retain(|output| !matches!(output, Output::Send(_)));
    assert_eq!(outputs, [Output::Event(Event::Behind { snapshot: true })], "now it is its turn");
    lone.input(Input::Restart(Ask::Snapshot(None)));
    assert_eq!(lone.drain().len(), 1, "it asks");
    lone.input(Input::LocalCommit);
    assert_eq!(lone.drain(), [], "and still sends nothing");
    lone.say(Message::Offer { number: 0, len: 3, offer: offer(), payload: b"man" });
    lone.say(Message::Chunk { number: 1, len: 2, index: 0, payload: b"ch" });
    for _ in 0..3 {
        let (req, work) = lone.apply();
        let version = matches!(work, Work::Install(_)).then_some(opor_core::DbVersion(9));
        lone.input(Input::Applied { req, version });
    }
    read(&mut lone, Some(&cursor("8@2")), greater().changes_max, false);
    let outputs = lone.drain();
    let Some(Output::Send(said)) = outputs.first() else { panic!("it says nothing: {outputs:?}") };
    match decode(said) {
        Ok(Decoded::Message(Message::Pull { cursor: at, .. })) => assert_eq!(at, Some(cursor("8@2"))),
        other => panic!("it does not say first what it holds now: {other:?}"),
    }
}

/// A peer that never had a snapshot of this side gets the log, however this side waits: it learns by that.
#[test]
fn who_waits_serves_a_peer_that_takes_the_log() {
    let mut lone = holding(greater());
    lone.say(Message::Pull { cursor: None, limit: 1 << 20 });
    lone.say(Message::Behind { snapshot: true });
    assert_eq!(lone.poll(), Output::Event(Event::Open));
    lone.find_batch(50, "6@1", true);
    assert_eq!(lone.drain().len(), 1, "a changeset");
    lone.say(Message::Ack { items: 1, limit: 1 << 20 });
    assert_eq!(lone.drain(), [Output::Event(Event::Acknowledged(cursor("6@1")))]);
    lone.input(Input::Release);
    assert_eq!(lone.poll(), Output::Event(Event::Behind { snapshot: true }));
    assert_eq!(lone.drain().len(), 1, "and credit");
}
