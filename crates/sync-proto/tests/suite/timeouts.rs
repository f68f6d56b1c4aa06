//! How long a peer is waited for.

use opor_sync_proto::{Ask, CloseReason, Config, Input, Message, MonoMillis, Output, Timeout, Timeouts};

use crate::lone::{Lone, changes, config, cursor, hello};
use crate::world::{Conditions, World};

const TIMES: Timeouts =
    Timeouts { handshake_ms: 100, keepalive_ms: 1_000, idle_ms: 3_000, stall_ms: 10_000, cursor_ms: 500 };

fn timed() -> Config {
    Config { timeouts: TIMES, ..config() }
}

/// A session that is open and has sent that it has nothing, at 0 ms.
fn open() -> Lone {
    let mut lone = Lone::open_with(timed(), hello(), 1 << 20);
    lone.find_batch(0, "1@1", true);
    lone.frame();
    lone.say(Message::Ack { items: 1, limit: 1 << 20 });
    lone.drain();
    lone
}

impl Lone {
    /// Goes to the next moment that the session wants to be woken at, which is this.
    #[track_caller]
    fn wake(&mut self, expected: u64) {
        assert_eq!(self.session.poll_timeout(), Some(MonoMillis(expected)));
        self.now = MonoMillis(expected - 1);
        self.session.handle_timeout(self.now);
        assert_eq!(self.session.poll_output(), None, "nothing is due a moment before");
        self.now = MonoMillis(expected);
        self.session.handle_timeout(self.now);
    }

    #[track_caller]
    fn check_timeout(&mut self, expected: Timeout) {
        self.check_closed(CloseReason::Timeout(expected));
    }
}

#[test]
fn a_handshake_has_to_end() {
    let after_ms = 100;
    let mut silent = Lone::new(timed());
    silent.frame();
    silent.wake(100);
    silent.check_timeout(Timeout::Handshake { after_ms });

    let mut half = Lone::admitted(timed(), hello(), Ask::Log(None));
    half.now = MonoMillis(60);
    half.say(Message::Ping { nonce: 1 });
    half.drain();
    half.wake(100);
    half.check_timeout(Timeout::Handshake { after_ms });

    let mut unjudged = Lone::new(timed());
    unjudged.say(Message::Hello(Box::new(hello())));
    unjudged.drain();
    unjudged.wake(100);
    unjudged.check_timeout(Timeout::Handshake { after_ms });
}

#[test]
fn silence_is_answered_with_pings_and_then_with_the_end() {
    let mut lone = open();
    lone.wake(1_000);
    lone.check_said(Message::Ping { nonce: 1 });
    lone.wake(2_000);
    lone.check_said(Message::Ping { nonce: 2 });
    lone.now = MonoMillis(2_500);
    lone.say(Message::Pong { nonce: 2 });
    lone.wake(3_500);
    lone.check_said(Message::Ping { nonce: 3 });
    lone.wake(4_500);
    lone.check_said(Message::Ping { nonce: 4 });
    lone.wake(5_500);
    lone.check_timeout(Timeout::Idle { after_ms: 3_000 });
}

#[test]
fn any_frame_is_a_sign_of_life() {
    let mut lone = open();
    for round in 1..20 {
        lone.now = MonoMillis(round * 900);
        lone.session.handle_timeout(lone.now);
        lone.hear(&[0x11, 99, 0]);
        assert_eq!(lone.session.poll_output(), None);
    }
}

/// A frame that the link does not take, an item that is not acknowledged, an item of which the rest does not come: a peer
/// that answers pings all the while is let go of all the same.
#[test]
fn a_peer_that_makes_no_progress_is_let_go_of() {
    let stalled = |what| Timeout::Stalled { what, after_ms: 10_000 };

    let mut lone = open();
    lone.say(Message::Ping { nonce: 1 });
    let Output::Send(_) = lone.poll() else { panic!("no pong") };
    keep_alive(&mut lone, 10_000);
    lone.check_timeout(stalled("a link that takes a frame"));

    let mut lone = open();
    lone.input(Input::LocalCommit);
    lone.find_batch(10, "2@1", true);
    lone.frame();
    keep_alive(&mut lone, 10_000);
    lone.check_timeout(stalled("an acknowledgement"));

    let mut lone = Lone::open_with(timed(), hello(), 5);
    lone.find_batch(10, "2@1", true);
    keep_alive(&mut lone, 10_000);
    lone.check_timeout(stalled("an acknowledgement"));

    let mut lone = open();
    lone.say(changes(0, 10, b"x"));
    keep_alive(&mut lone, 5_000);
    lone.say(Message::Part { number: 0, offset: 1, payload: b"y" });
    keep_alive(&mut lone, 14_999);
    assert_eq!(lone.session.poll_output(), None, "the part was progress");
    keep_alive(&mut lone, 15_000);
    lone.check_timeout(stalled("the rest of an item"));
}

/// The peer says something twice a second until that time; what is there to do but sending is not looked at.
fn keep_alive(lone: &mut Lone, until: u64) {
    while lone.now < MonoMillis(until) {
        lone.now = MonoMillis(until.min(lone.now.0 + 500));
        lone.hear(&[0x11, 99, 0]);
        lone.session.handle_timeout(lone.now);
    }
}

/// While this side is slow to store, the peer may lack credit; it is not blamed.
#[test]
fn a_peer_is_not_blamed_for_a_slow_store() {
    let mut lone = open();
    lone.say(changes(0, 5, b"abcde"));
    let (req, _) = lone.apply();
    lone.say(changes(1, 10, b"x"));
    keep_alive(&mut lone, 40_000);
    assert!(lone.session.is_open());
    lone.input(Input::Applied { req, version: None });
    lone.drain();
    keep_alive(&mut lone, 49_999);
    assert!(lone.session.is_open());
    keep_alive(&mut lone, 50_000);
    lone.check_timeout(Timeout::Stalled { what: "the rest of an item", after_ms: 10_000 });
}

#[test]
fn acknowledgements_are_progress() {
    let mut lone = open();
    for at in 0..5_u64 {
        lone.input(Input::LocalCommit);
        lone.find_batch(10, "2@1", true);
        lone.frame();
        keep_alive(&mut lone, (at + 1) * 9_000);
        lone.say(Message::Ack { items: at + 2, limit: 1 << 20 });
        assert_eq!(lone.drain().len(), 1, "the peer's cursor");
    }
    keep_alive(&mut lone, 100_000);
    assert!(lone.session.is_open(), "and nothing is owed");
}

#[test]
fn a_cursor_that_moved_is_told_after_a_while() {
    let mut lone = open();
    lone.input(Input::LocalCommit);
    lone.find_batch(0, "2@1", true);
    lone.input(Input::LocalCommit);
    lone.now = MonoMillis(200);
    lone.find_batch(0, "3@1", true);
    assert_eq!(lone.session.poll_output(), None, "what the peer wrote itself is not worth a frame");
    lone.wake(500);
    lone.check_said(Message::Changes {
        number: 1,
        len: 0,
        cursor: cursor("3@1"),
        done: true,
        delta: false,
        payload: b"",
    });
    assert_eq!(lone.session.poll_output(), None);
    // A change takes the cursor along.
    lone.input(Input::LocalCommit);
    lone.find_batch(0, "4@1", true);
    lone.input(Input::LocalCommit);
    lone.find_batch(1, "5@1", true);
    lone.check_said(Message::Changes {
        number: 2,
        len: 1,
        cursor: cursor("5@1"),
        done: true,
        delta: false,
        payload: &[7],
    });
    lone.now = MonoMillis(900);
    lone.hear(&[0x11, 99, 0]);
    lone.now = MonoMillis(1_100);
    lone.session.handle_timeout(lone.now);
    assert_eq!(lone.session.poll_output(), None);
}

#[test]
fn time_that_steps_back_does_nothing() {
    let mut lone = open();
    lone.now = MonoMillis(900);
    lone.hear(&[0x11, 99, 0]);
    lone.now = MonoMillis(10);
    lone.hear(&[0x11, 99, 0]);
    assert_eq!(lone.session.poll_timeout(), Some(MonoMillis(1_900)));
}

/// Two idle sessions keep each other open for days.
#[test]
fn a_healthy_link_stays_open() {
    let mut world = World::new(1, 2, Conditions { delay: (100, 2_000), ..Conditions::CALM });
    world.link(0, 1, false);
    world.run_for(3 * 24 * 3_600_000);
    assert_eq!(world.links[0].ended, []);
    assert!(world.tally.of("Ping") > 10_000 && world.tally.of("Changes") == 2, "{:?}", world.tally);
}
