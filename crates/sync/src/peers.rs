//! The tasks: one for each peer that is dialled, one for each listener, one for each session that is accepted.

use std::sync::Arc;

use opor_sync_proto::{Hello, Refusal};
use opor_transport_traits::{Dialer, Link, Listener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::backoff::jitter;
use crate::replicator::{AdmitRule, Shared, stopped};
use crate::session::{Outcome, run};
use crate::status::{SyncEvent, SyncStatus};
use crate::verdict::{Ended, Verdict};

/// Sessions beyond the limit that are told so, at once; still more links wait to be accepted.
const TURNED_AWAY_MAX: usize = 16;

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
    let mut failures = 0;
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
        failures = if outcome.got_on { 0_u32 } else { failures };
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
        failures = failures.saturating_add(1);
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
