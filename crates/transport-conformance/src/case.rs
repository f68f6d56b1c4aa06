//! The list of cases, and the macro that makes tests of them.

use std::fmt;
use std::pin::Pin;

use crate::breach::Outcome;
use crate::cases;
use crate::scene::Scene;

/// A sentence of the contract as a test.
pub struct Case {
    name: &'static str,
    pub(crate) run: fn(Scene) -> Pin<Box<dyn Future<Output = Outcome>>>,
}

impl Case {
    /// The name of the sentence.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Calls a macro with what it is given and with the names of all cases: the only list of them.
#[doc(hidden)]
#[macro_export]
macro_rules! __with_cases {
    ([$($then:tt)*] $($given:tt)*) => {
        $($then)* ! {
            { $($given)* }
            frames_arrive_in_order
            frames_arrive_once
            frames_stay_whole
            frames_are_opaque
            empty_frames_are_frames
            largest_frame_passes
            oversize_is_refused
            frames_leave_unasked
            halves_work_side_by_side
            reading_goes_on_while_a_send_waits
            sending_goes_on_while_a_receive_waits
            sends_wait_for_a_slow_receiver
            waiting_sends_go_on
            a_stalled_link_stops_no_other
            cancelled_receive_loses_nothing
            cancelled_send_is_whole_or_nothing
            cancelled_close_can_be_repeated
            cancelled_accept_loses_no_link
            cancelled_dial_leaves_no_trace
            close_delivers_what_was_sent
            close_gives_its_reason
            close_is_answered
            close_ends_both_directions
            closed_stays_closed
            crossing_closes_agree
            close_survives_drop
            drop_is_a_loss_not_a_close
            dropping_one_half_ends_the_link
            loss_is_told_to_both_ends
            what_came_before_a_loss_is_a_prefix
            loss_wakes_a_waiting_send
            errors_stay
            nobody_is_unreachable
            a_dial_is_an_accept
            listener_survives_a_failed_handshake
            a_stalled_handshake_stops_no_other
            a_rule_breaker_ends_its_own_link
            a_dropped_listener_stops_listening
            links_outlive_their_endpoints
            links_end_alone
            descriptions_are_public
        }
    };
}

macro_rules! table {
    ({} $($name:ident)*) => {
        /// Every case, in the order of the contract.
        pub const CASES: &[Case] = &[
            $(Case { name: stringify!($name), run: |scene| Box::pin(cases::$name(scene)) }),*
        ];
    };
}
__with_cases!([table]);

#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ({ $fixture:expr } $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::check_or_panic(stringify!($name), $fixture);
            }
        )*
    };
}

/// One `#[test]` for each sentence of the contract, on the [`Fixture`](crate::Fixture) that the expression makes: anew for
/// each test. For two suites in one file, put each in a module of its own.
#[macro_export]
macro_rules! suite {
    ($fixture:expr) => {
        $crate::__with_cases!([$crate::__tests] $fixture);
    };
}

#[cfg(test)]
mod tests {
    use opor_transport_traits::contract;

    use super::*;

    #[test]
    fn every_sentence_is_a_case_and_every_case_a_sentence() {
        let sentences: Vec<_> = contract::clauses().map(|clause| clause.name).collect();
        assert_eq!(CASES.iter().map(Case::name).collect::<Vec<_>>(), sentences);
    }
}
