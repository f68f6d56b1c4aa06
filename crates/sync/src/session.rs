//! One session on one link: the state machine of the protocol, fed by the link, the store and the clock.

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use opor_core::SiteId;
use opor_sync_proto::{
    Ask, CloseReason, Config, Cursor, Event, Found, Hello, Input, MonoMillis, Output, RequestId, Session,
};
use opor_transport_traits::{
    CloseReason as LinkClose, Link, Peer, Received, Receiver, TransportError, TransportErrorKind,
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::outgoing::Outgoing;
use crate::replicator::{AdmitRule, Shared, stopped};
use crate::status::{SyncEvent, SyncStatus};
use crate::verdict::{Ended, close_code};
use crate::work::{self, Failed, Known, Merged, Size};

/// So long the goodbye may take: a peer that listens hears it in less, and one that does not will not hear it later.
const FAREWELL: Duration = Duration::from_secs(2);

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    /// Whether it was ever live.
    pub(crate) was_live: bool,
}

/// An answer of the store.
enum Done {
    LookedUp(Result<Known, Failed>),
    Read(RequestId, Result<(Found, Size), Failed>),
    Applied(RequestId, Result<Merged, Failed>),
    Acknowledged(Result<Option<(opor_core::DbVersion, bool)>, Failed>),
}

/// Runs a session to its end, and then waits for what the store is still doing for it.
///
/// # Cancel safety
/// When it is dropped the link is lost, as in a crash. What the store was asked for is done all the same; each piece of it
/// is a transaction, with the cursor in it.
pub(crate) async fn run(
    shared: &Shared,
    link: Link,
    config: Config,
    admit: Option<&AdmitRule>,
    status: &(dyn Fn(SyncStatus) + Sync),
) -> Outcome {
    let peer = link.peer().clone();
    let (sender, mut receiver) = link.split();
    let start = Instant::now();
    let session = Session::new(config, MonoMillis(0)).expect("the configuration was checked at the start");
    let mut driver = Driver {
        shared,
        admit,
        status,
        peer,
        start,
        session,
        site: None,
        work: FuturesUnordered::new(),
        applying: false,
        acknowledging: false,
        acknowledged: None,
        was_live: false,
        ended: None,
    };
    let mut outgoing = Outgoing::new(sender);
    let (reason, farewell) = driver.exchange(&mut outgoing, &mut *receiver).await;
    let close = LinkClose::explained(close_code(&reason), reason.to_string());
    let ended = driver.ended.take().unwrap_or(Ended::Session(reason));
    let goodbye = timeout(FAREWELL, outgoing.say_goodbye(receiver, farewell, close));
    // A peer that does not take the goodbye is left without.
    let (_taken, ()) = tokio::join!(goodbye, driver.finish());
    Outcome { ended, was_live: driver.was_live }
}

struct Driver<'a> {
    shared: &'a Shared,
    admit: Option<&'a AdmitRule>,
    status: &'a (dyn Fn(SyncStatus) + Sync),
    peer: Peer,
    start: Instant,
    session: Session,
    /// The replica at the other end, once it has said so.
    site: Option<SiteId>,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    applying: bool,
    acknowledging: bool,
    /// The last acknowledgement that is not noted yet; earlier ones need not be.
    acknowledged: Option<Cursor>,
    was_live: bool,
    /// Why it ended, where the session itself knows less.
    ended: Option<Ended>,
}

impl Driver<'_> {
    /// Everything up to the close.
    async fn exchange(
        &mut self,
        outgoing: &mut Outgoing,
        receiver: &mut dyn Receiver,
    ) -> (CloseReason, Option<Vec<u8>>) {
        let mut commits = self.shared.commits.clone();
        let mut stop = self.shared.stop.clone();
        let mut commits_end = false;
        loop {
            while let Some(output) = self.session.poll_output() {
                if let Output::Close { reason, farewell } = output {
                    return (reason, farewell);
                }
                self.output(output, outgoing);
            }
            let timer = self.session.poll_timeout().map(|at| self.start + Duration::from_millis(at.0));
            tokio::select! {
                received = receiver.recv() => self.received(received),
                sent = outgoing.taken() => self.sent(sent),
                Some(done) = self.work.next(), if !self.work.is_empty() => self.done(done),
                // A merge is told of before its own commit, so that it is not sent back.
                told = commits.changed(), if !self.applying && !commits_end => match told {
                    Ok(()) => self.feed(Input::LocalCommit),
                    Err(_) => commits_end = true,
                },
                () = sleep_until(timer.unwrap_or(self.start)), if timer.is_some() => {
                    let now = self.now();
                    self.session.handle_timeout(now);
                }
                () = stopped(&mut stop) => self.feed(Input::Shutdown),
            }
        }
    }

    /// Waits for the store to do what it was asked for.
    async fn finish(&mut self) {
        while let Some(done) = self.work.next().await {
            self.done(done);
        }
    }

    fn now(&self) -> MonoMillis {
        MonoMillis(self.start.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
    }

    fn feed(&mut self, input: Input<'_>) {
        let now = self.now();
        self.session.handle_input(input, now);
    }

    fn tell(&self, event: SyncEvent) {
        self.shared.tell(event);
    }

    fn output(&mut self, output: Output, outgoing: &mut Outgoing) {
        let store = self.shared.store.clone();
        match output {
            Output::Send(frame) => outgoing.send(frame.into()),
            Output::Admit(hello) => self.look_at(&hello),
            Output::Read { req, wanted } => {
                let read = work::read(store, wanted);
                self.work.push(Box::pin(async move { Done::Read(req, read.await) }));
            }
            Output::Apply { req, work } => {
                let Some(site) = self.site else { return self.feed(Input::StoreFailed) };
                self.applying = true;
                let (limits, turns) = (self.shared.decode_limits, self.shared.merge_turns.clone());
                self.work.push(Box::pin(async move {
                    let _turn = match turns {
                        Some(turns) => turns.acquire_owned().await.ok(),
                        None => None,
                    };
                    Done::Applied(req, work::apply(store, site, work, limits).await)
                }));
            }
            Output::Event(event) => self.event(event),
            Output::Close { .. } => unreachable!("the caller takes it"),
        }
    }

    fn look_at(&mut self, hello: &Hello) {
        if let Some(admit) = self.admit
            && let Err(refusal) = admit(hello)
        {
            return self.feed(Input::Denied(refusal));
        }
        self.site = Some(hello.site);
        let known = work::look_up(self.shared.store.clone(), hello.site);
        self.work.push(Box::pin(async move { Done::LookedUp(known.await) }));
    }

    fn event(&mut self, event: Event) {
        let Some(site) = self.site else { return };
        match event {
            Event::Open => {
                (self.status)(SyncStatus::CatchingUp);
                self.tell(SyncEvent::Open { peer: self.peer.clone(), site });
            }
            Event::CaughtUp => {
                if !std::mem::replace(&mut self.was_live, true) {
                    (self.status)(SyncStatus::Live);
                }
                self.tell(SyncEvent::CaughtUp { site });
            }
            Event::Acknowledged(cursor) => {
                self.acknowledged = Some(cursor);
                self.acknowledge();
            }
            Event::Behind { .. } => {
                // To start over would leave rows here that were deleted elsewhere.
                self.ended = Some(Ended::SnapshotNeeded);
                self.feed(Input::Shutdown);
            }
        }
    }

    /// Notes the last acknowledgement, one at a time.
    fn acknowledge(&mut self) {
        if self.acknowledging {
            return;
        }
        let Some((site, cursor)) = self.site.zip(self.acknowledged.take()) else { return };
        self.acknowledging = true;
        let noted = work::acknowledged(self.shared.store.clone(), site, cursor);
        self.work.push(Box::pin(async move { Done::Acknowledged(noted.await) }));
    }

    fn received(&mut self, received: Result<Received, TransportError>) {
        let error = match received {
            Ok(Received::Frame(frame)) => return self.feed(Input::Message(&frame)),
            Ok(Received::Closed(reason)) => TransportError::closed(reason),
            Err(error) => error,
        };
        self.ended = Some(Ended::Link(error));
        self.feed(Input::Closed);
    }

    fn sent(&mut self, sent: Result<(), TransportError>) {
        match sent {
            Ok(()) => self.feed(Input::Sent),
            // The peer's last words may still be on their way; the receiver tells the end.
            Err(error) if matches!(error.kind(), TransportErrorKind::Closed | TransportErrorKind::Lost) => {}
            Err(error) => {
                self.ended = Some(Ended::Link(error));
                self.feed(Input::Closed);
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::LookedUp(Ok(known)) => {
                self.feed(Input::Admitted(Ask::Log(known.cursor)));
                if !known.is_aware {
                    self.feed(Input::Hold);
                }
            }
            Done::Read(req, Ok((found, size))) => {
                if let Some(site) = self.site.filter(|_| size.changes > 0) {
                    self.tell(SyncEvent::Sending { site, rows: size.rows, changes: size.changes });
                }
                self.feed(Input::Read { req, found });
            }
            Done::Applied(req, result) => {
                self.applying = false;
                match result {
                    Ok(merged) => self.merged(req, &merged),
                    Err(Failed::Rejected(rejection)) => self.feed(Input::Rejected { req, rejection }),
                    Err(Failed::Here(ended)) => self.store_failed(ended),
                }
            }
            Done::Acknowledged(Ok(noted)) => {
                self.acknowledging = false;
                if let Some(((version, is_aware), site)) = noted.zip(self.site) {
                    if is_aware {
                        self.feed(Input::Release);
                    }
                    self.tell(SyncEvent::Acknowledged { site, version });
                }
                self.acknowledge();
            }
            Done::LookedUp(Err(failed)) | Done::Read(_, Err(failed)) | Done::Acknowledged(Err(failed)) => {
                if let Failed::Here(ended) = failed {
                    self.store_failed(ended);
                }
            }
        }
    }

    fn merged(&mut self, req: RequestId, merged: &Merged) {
        self.feed(Input::Applied { req, version: merged.version });
        if let Some(site) = self.site {
            let Merged { rows, changes, unchanged, quarantined, violations, version } = *merged;
            self.tell(SyncEvent::Merged { site, rows, changes, unchanged, version });
            if quarantined > 0 {
                self.tell(SyncEvent::Quarantined { site, changes: quarantined });
            }
            if violations > 0 {
                self.tell(SyncEvent::Conflict { site, violations });
            }
        }
    }

    fn store_failed(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
        self.feed(Input::StoreFailed);
    }
}
