//! The tasks: one for each peer that is dialled, one for each listener, one for each session that is accepted.

use std::sync::Arc;

use opor_sync_proto::{Hello, Refusal};
use opor_transport_traits::{Dialer, Link, Listener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::replicator::{AdmitRule, Shared, stopped};
use crate::session::{Outcome, run};
use crate::status::{SyncEvent, SyncStatus};
use crate::verdict::{Ended, Verdict};

/// Sessions beyond the limit that are told so, at once; still more links wait to be accepted.
const TURNED_AWAY_MAX: usize = 16;

/// Attempts that did not get on, since one that did.
#[derive(Debug, Default)]
struct Attempts {
    failures: u32,
}

impl Attempts {
    /// Counts an attempt; says how many failed before it. One that caught up and was then refused has failed: two whose
    /// clocks are apart would else catch up and part for ever, as fast as they can.
    fn ended(&mut self, outcome: &Outcome) -> u32 {
        if outcome.got_on && !outcome.ended.is_setback() {
            self.failures = 0;
        }
        let before = self.failures;
        self.failures = before.saturating_add(1);
        before
    }
}

/// Keeps in step with one peer, until it is stopped or refused.
///
/// # Cancel safety
/// When it is dropped the link is lost; see [`run`].
pub(crate) async fn keep(
    shared: Arc<Shared>,
    dialer: Box<dyn Dialer>,
    status: watch::Sender<SyncStatus>,
    last_end: watch::Sender<Option<Arc<Ended>>>,
) {
    let mut stop = shared.stop.clone();
    let mut attempts = Attempts::default();
    loop {
        status.send_replace(SyncStatus::Connecting);
        let dialled = tokio::select! {
            dialled = dialer.dial() => dialled,
            () = stopped(&mut stop) => break,
        };
        let outcome = match dialled {
            Ok(link) => {
                let tell = |now| {
                    status.send_if_modified(|before| {
                        *before != now && {
                            *before = now;
                            true
                        }
                    });
                };
                run(&shared, link, shared.config.clone(), None, &tell).await
            }
            Err(error) => Outcome { ended: Ended::Link(error), got_on: false },
        };
        let failures = attempts.ended(&outcome);
        let ended = Arc::new(outcome.ended);
        last_end.send_replace(Some(ended.clone()));
        if *stop.borrow() {
            break;
        }
        let verdict = ended.verdict();
        status.send_replace(match verdict {
            Verdict::Retry | Verdict::Over => SyncStatus::Offline,
            Verdict::Refused => SyncStatus::Refused { reason: ended.in_full() },
        });
        shared.tell(SyncEvent::Ended { peer: dialer.target().clone(), how: ended });
        if verdict != Verdict::Retry {
            return;
        }
        let pause = shared.backoff.pause(failures, jitter());
        tokio::select! {
            () = sleep(pause) => {}
            () = stopped(&mut stop) => break,
        }
    }
    status.send_replace(SyncStatus::Offline);
}

/// Accepts whoever dials in, until it is stopped.
///
/// # Cancel safety
/// When it is dropped, the links of all its sessions are lost; see [`run`].
pub(crate) async fn serve(shared: Arc<Shared>, mut listener: Box<dyn Listener>) {
    let mut stop = shared.stop.clone();
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if sessions.len() < shared.sessions_max + TURNED_AWAY_MAX => match accepted {
                Ok(link) => {
                    let is_full = sessions.len() >= shared.sessions_max;
                    sessions.spawn(session(shared.clone(), link, is_full));
                }
                Err(error) => {
                    let address = listener.address().to_owned();
                    shared.tell(SyncEvent::ListenerFailed { address, how: Arc::new(Ended::Link(error)) });
                    break;
                }
            },
            // One that panicked has said so, and the others go on.
            Some(_ended) = sessions.join_next(), if !sessions.is_empty() => {}
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

async fn session(shared: Arc<Shared>, link: Link, is_full: bool) {
    let peer = link.peer().clone();
    let admit: &AdmitRule = if is_full { &|_: &Hello| Err(Refusal::Busy) } else { &*shared.admit };
    let outcome = run(&shared, link, shared.responder(), Some(admit), &|_| {}).await;
    shared.tell(SyncEvent::Ended { peer, how: Arc::new(outcome.ended) });
}

/// Randomness of the system; without it the middle, as if there were no jitter.
fn jitter() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use opor_sync_proto::{Bye, ByeCode, CloseReason};

    use super::*;

    fn left_with(code: ByeCode) -> Outcome {
        let bye = Bye { code, detail: String::new() };
        Outcome { ended: Ended::Session(CloseReason::Peer(bye)), got_on: true }
    }

    #[test]
    fn a_peer_that_catches_up_and_refuses_is_asked_ever_less_often() {
        let mut attempts = Attempts::default();
        let refused: Vec<_> = (0..4).map(|_| attempts.ended(&left_with(ByeCode::Drift))).collect();
        assert_eq!(refused, [0, 1, 2, 3]);
        let went: Vec<_> = (0..2).map(|_| attempts.ended(&left_with(ByeCode::Shutdown))).collect();
        assert_eq!(went, [0, 0], "what was live and then left is dialled again soon");
    }
}
