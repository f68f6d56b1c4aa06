//! The tasks: one for each peer that is dialled, one for each listener, one for each session that is accepted.

use std::sync::Arc;

use opor_transport_traits::{Dialer, Link, Listener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::backoff::jitter;
use crate::replicator::{Shared, stopped};
use crate::session::{Outcome, run};
use crate::status::{SyncEvent, SyncStatus};
use crate::verdict::{Ended, Verdict};

/// Sessions of one listener at once; further links wait to be accepted. What each holds is bounded, and so is this.
const ACCEPTED_MAX: usize = 1024;

/// Keeps in step with one peer, until it is stopped or refused.
///
/// # Cancel safety
/// When it is dropped the link is lost; see [`run`].
pub(crate) async fn keep(shared: Arc<Shared>, dialer: Box<dyn Dialer>, status: watch::Sender<SyncStatus>) {
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
                    status.send_replace(now);
                };
                run(&shared, link, shared.config.clone(), None, &tell).await
            }
            Err(error) => Outcome { ended: Ended::Link(error), was_live: false },
        };
        failures = if outcome.was_live { 0_u32 } else { failures };
        let ended = outcome.ended;
        if *stop.borrow() {
            break;
        }
        let verdict = ended.verdict();
        status.send_replace(match verdict {
            Verdict::Retry | Verdict::Over => SyncStatus::Offline,
            Verdict::Refused => SyncStatus::Refused { reason: ended.in_full() },
        });
        shared.tell(SyncEvent::Ended { peer: dialer.target().clone(), how: Arc::new(ended) });
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
            accepted = listener.accept(), if sessions.len() < ACCEPTED_MAX => match accepted {
                Ok(link) => drop(sessions.spawn(session(shared.clone(), link))),
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

async fn session(shared: Arc<Shared>, link: Link) {
    let peer = link.peer().clone();
    let outcome = run(&shared, link, shared.responder(), Some(&*shared.admit), &|_| {}).await;
    shared.tell(SyncEvent::Ended { peer, how: Arc::new(outcome.ended) });
}
