//! Transports that each break one sentence of the contract, and the cases that notice.
//!
//! Every case is seen to fail here: a case that nothing fails proves nothing.

mod endpoints;
mod fixture;
mod receivers;
mod senders;
mod shared;

use std::collections::BTreeSet;

use opor_transport_conformance::{CASES, FailureKind, check};

use FailureKind::{Breach, Hung, Panicked};
use fixture::Flawed;

/// How a case fails on a flawed transport.
type Caught = (&'static str, FailureKind);

macro_rules! flaws {
    ($($name:ident: $fixture:expr => [$(($case:ident, $kind:ident)),* $(,)?];)*) => {
        /// What every flaw is caught by.
        const CAUGHT: &[(&str, &[Caught])] = &[$((stringify!($name), &[$((stringify!($case), $kind)),*])),*];

        $(
            #[test]
            fn $name() {
                let caught = CAUGHT.iter().find(|(name, _)| *name == stringify!($name)).unwrap();
                for (case, kind) in caught.1 {
                    fails(case, *kind, || $fixture);
                }
            }
        )*
    };
}

flaws! {
    swaps_two_frames: Flawed::senders(senders::Swaps::around) => [(frames_arrive_in_order, Breach)];
    sends_some_frames_twice: Flawed::senders(senders::Twice::around) => [(frames_arrive_once, Breach)];
    splits_large_frames: Flawed::senders(senders::Splits::around) => [(frames_stay_whole, Breach)];
    joins_two_frames: Flawed::senders(senders::Joins::around) => [(frames_stay_whole, Breach)];
    takes_frames_for_text: Flawed::senders(senders::TextOnly::around) => [(frames_are_opaque, Breach)];
    leaves_empty_frames_out: Flawed::senders(senders::NoEmpty::around) => [(empty_frames_are_frames, Breach)];
    takes_less_than_it_says: Flawed::senders(senders::LessThanSaid::around) => [(largest_frame_passes, Breach)];
    takes_oversize_silently: Flawed::senders(senders::OversizeTaken::around) => [(oversize_is_refused, Breach)];
    loses_the_link_on_oversize: Flawed::senders(senders::OversizeEnds::around) => [(oversize_is_refused, Breach)];
    keeps_a_frame_until_the_next: Flawed::senders(senders::HoldsBack::around) => [(frames_leave_unasked, Hung)];
    has_no_bound: Flawed::senders(senders::Unbounded::around) => [(sends_wait_for_a_slow_receiver, Breach)];
    bounds_bytes_but_not_frames: Flawed::links(shared::counts_bytes) => [(sends_wait_for_a_slow_receiver, Breach)];
    drops_what_finds_no_room: Flawed::senders(senders::DropsNewest::around) => [(waiting_sends_go_on, Breach)];
    sends_a_frame_in_two_calls: Flawed::links(shared::in_parts) => [(cancelled_send_is_whole_or_nothing, Breach)];
    notes_a_close_before_it_is_done: Flawed::senders(senders::ClosesOnce::around) => [
        (cancelled_close_can_be_repeated, Hung),
    ];
    drops_its_queue_on_close: Flawed::senders(|sender| senders::Batches::around(sender, senders::Careless::OnClose)) => [
        (close_delivers_what_was_sent, Breach),
    ];
    drops_its_queue_with_itself: Flawed::senders(|sender| senders::Batches::around(sender, senders::Careless::OnDrop)) => [
        (close_survives_drop, Breach),
    ];
    forgets_why: Flawed::senders(senders::ForgetsReason::around) => [
        (close_gives_its_reason, Breach),
        (crossing_closes_agree, Breach),
    ];
    hides_that_the_link_is_closed: Flawed::senders(senders::NeverFails::around) => [
        (close_ends_both_directions, Breach),
        (errors_stay, Breach),
    ];
    closes_when_dropped: Flawed::senders(senders::ClosesOnDrop::around) => [(drop_is_a_loss_not_a_close, Breach)];
    sleeps_through_a_loss: Flawed::senders(senders::SleepsThroughLoss::around) => [(loss_wakes_a_waiting_send, Hung)];
    blocks_its_thread: Flawed::senders(senders::BlocksThread::around) => [(frames_arrive_in_order, Hung)];

    forgets_a_frame_when_cancelled: Flawed::receivers(receivers::Forgetful::around) => [
        (cancelled_receive_loses_nothing, Breach),
    ];
    gives_a_frame_after_the_close: Flawed::receivers(receivers::Afterwards::around) => [(closed_stays_closed, Breach)];
    takes_a_loss_for_a_close: Flawed::receivers(receivers::LossIsClose::around) => [
        (drop_is_a_loss_not_a_close, Breach),
        (loss_is_told_to_both_ends, Breach),
        (errors_stay, Breach),
    ];
    says_nothing_of_a_loss: Flawed::receivers(receivers::Silent::around) => [(loss_is_told_to_both_ends, Hung)];
    recovers_from_a_loss: Flawed::receivers(receivers::Recovers::around) => [(errors_stay, Breach)];
    panics: Flawed::receivers(receivers::Panics::around) => [(frames_arrive_in_order, Panicked)];

    reads_only_when_it_does_not_write: Flawed::links(shared::writing_stops_reading) => [
        (reading_goes_on_while_a_send_waits, Hung),
    ];
    has_one_lock_for_both_halves: Flawed::links(shared::one_lock) => [
        (halves_work_side_by_side, Hung),
        (sending_goes_on_while_a_receive_waits, Hung),
    ];
    stops_receiving_when_it_closes: Flawed::links(shared::deaf_after_close) => [(close_is_answered, Breach)];
    stays_half_open: Flawed::links(shared::half_open) => [(dropping_one_half_ends_the_link, Hung)];
    has_one_queue_for_all_links: Flawed::one_queue() => [(a_stalled_link_stops_no_other, Hung)];
    keeps_only_the_newest_when_cut: Flawed::keeps_newest() => [(what_came_before_a_loss_is_a_prefix, Breach)];

    forgets_a_link_when_cancelled: Flawed::listeners(endpoints::ForgetfulListener::around) => [
        (cancelled_accept_loses_no_link, Hung),
    ];
    mixes_links_up: Flawed::listeners(endpoints::MixesUp::around) => [(a_dial_is_an_accept, Breach)];
    listens_when_dropped: Flawed::listeners(endpoints::ListensOn::around) => [
        (a_dropped_listener_stops_listening, Breach),
    ];
    takes_its_links_along: Flawed::takes_links_along() => [(links_outlive_their_endpoints, Breach)];
    ends_all_links_with_one: Flawed::ends_all_with_one() => [(links_end_alone, Breach)];
    fails_with_a_handshake: Flawed::shakes_hands(endpoints::Handshake::FailsListener) => [
        (listener_survives_a_failed_handshake, Breach),
    ];
    shakes_one_hand_at_a_time: Flawed::shakes_hands(endpoints::Handshake::OneByOne) => [
        (a_stalled_handshake_stops_no_other, Hung),
    ];
    takes_what_it_forbids: Flawed::shakes_hands(endpoints::Handshake::OneByOne) => [
        (a_rule_breaker_ends_its_own_link, Breach),
    ];
    is_busy_for_ever_after_a_cancelled_dial: Flawed::dialers(endpoints::Busy::around) => [
        (cancelled_dial_leaves_no_trace, Breach),
    ];
    says_refused_when_nobody_is_there: Flawed::dialers(endpoints::SaysRefused::around) => [
        (nobody_is_unreachable, Breach),
    ];
    shows_its_token: Flawed::dialers(endpoints::ShowsToken::around) => [(descriptions_are_public, Breach)];
}

/// That the case fails in this way on a transport with a flaw.
#[track_caller]
fn fails(case: &str, kind: FailureKind, flawed: impl Fn() -> Flawed) {
    let case = CASES.iter().find(|known| known.name() == case).expect("the table names cases");
    let failure = check(case, flawed().expecting(kind)).expect_err("the case passes a flawed transport");
    assert_eq!((failure.case(), failure.kind()), (case.name(), kind), "{failure}");
}

#[test]
fn every_case_has_caught_something() {
    let caught: BTreeSet<_> = CAUGHT.iter().flat_map(|(_, caught)| *caught).map(|(case, _)| *case).collect();
    let never: Vec<_> = CASES.iter().map(|case| case.name()).filter(|name| !caught.contains(name)).collect();
    assert_eq!(never, Vec::<&str>::new(), "nothing here fails these cases");
}

/// By how it fails: with small frames, which have more to count than their bytes.
#[test]
fn empty_frames_count_against_the_bound() {
    let case = CASES.iter().find(|case| case.name() == "sends_wait_for_a_slow_receiver").unwrap();
    let failure = check(case, Flawed::links(shared::counts_bytes)).unwrap_err();
    assert!(failure.to_string().contains(" frames of 0 bytes were sent that nobody received"), "{failure}");
}

#[test]
fn a_failure_tells_what_the_contract_says_and_what_was_seen() {
    let case = CASES.iter().find(|case| case.name() == "empty_frames_are_frames").unwrap();
    let failure = check(case, Flawed::senders(senders::NoEmpty::around)).unwrap_err();
    assert_eq!(
        failure.to_string(),
        "the transport breaks its contract in `empty_frames_are_frames`\n  \
         the contract: A frame of no bytes is given like any other.\n  \
         the transport: frame 0 was given with 4 bytes, sent with 0\n  \
         the case was: working from the end that dialled to the end that accepted"
    );
}

#[test]
fn a_fixture_that_fails_is_not_taken_for_a_breach() {
    let failure = check(&CASES[0], fixture::Failing).unwrap_err();
    assert_eq!(failure.kind(), FailureKind::NotSetUp);
    assert_eq!(
        failure.to_string(),
        "the fixture failed in `frames_arrive_in_order`\n  \
         the contract: Frames are given in the order in which they were sent.\n  \
         the transport: it could not be set up: transport is not set up right: memory:hub is taken\n  \
         the case was: setting up"
    );
}

/// The wrappers alone, without a flaw, break nothing.
mod sound {
    use super::fixture::Flawed;

    opor_transport_conformance::suite!(Flawed::links(|link| link));
}
