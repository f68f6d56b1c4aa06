//! One session on one link: the state machine of the protocol, fed by the link, the store and the clock.

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use opor_core::{DbVersion, SiteId};
use opor_sync_proto::{
    Capabilities, CloseReason, Config, Event, Hello, Input, MonoMillis, Output, RequestId, Session, Wanted,
    Work,
};
use opor_transport_traits::{
    CloseReason as LinkClose, Link, Peer, Received, Receiver, TransportError, TransportErrorKind,
};
use tokio::time::{Instant, sleep_until, timeout};

use crate::answers::Done;
use crate::lag::Lag;
use crate::outgoing::Outgoing;
use crate::replicator::{AdmitRule, Shared, stopped};
use crate::status::{CatchUp, SyncEvent, SyncStatus};
use crate::taking::Taking;
use crate::verdict::{Ended, close_code};
use crate::work::{self, Piece};

/// So long the goodbye may take: a peer that listens hears it in less, and one that does not will not hear it later.
const FAREWELL: Duration = Duration::from_secs(2);

/// What came of it.
pub(crate) struct Outcome {
    pub(crate) ended: Ended,
    /// Whether it got on: it was live, or took something in that stays.
    pub(crate) got_on: bool,
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
    let own = config.capabilities;
    let session = Session::new(config, MonoMillis(0)).expect("the configuration was checked at the start");
    let mut driver = Driver {
        shared,
        admit,
        status,
        peer,
        start,
        session,
        own,
        site: None,
        work: FuturesUnordered::new(),
        merging: false,
        acknowledging: false,
        acknowledged: None,
        lag: Lag::default(),
        log_is_judged: false,
        changes: 0,
        taking: Taking::default(),
        is_live: false,
        got_on: false,
        ended: None,
    };
    let mut outgoing = Outgoing::new(sender);
    let (reason, farewell) = driver.exchange(&mut outgoing, &mut *receiver).await;
    let close = LinkClose::explained(close_code(&reason), reason.to_string());
    let ended = driver.ended.take().unwrap_or(Ended::Session(reason));
    let goodbye = timeout(FAREWELL, outgoing.say_goodbye(receiver, farewell, close));
    // A peer that does not take the goodbye is left without.
    let (_taken, ()) = tokio::join!(goodbye, driver.finish());
    Outcome { ended, got_on: driver.got_on }
}

pub(crate) struct Driver<'a> {
    pub(crate) shared: &'a Shared,
    admit: Option<&'a AdmitRule>,
    pub(crate) status: &'a (dyn Fn(SyncStatus) + Sync),
    peer: Peer,
    start: Instant,
    pub(crate) session: Session,
    /// What this side can do.
    own: Capabilities,
    /// The replica at the other end, once it has said so.
    pub(crate) site: Option<SiteId>,
    pub(crate) work: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Something of the peer is being merged, whose commit is not to be told before its answer.
    pub(crate) merging: bool,
    pub(crate) acknowledging: bool,
    /// The last acknowledgement that is not noted yet; earlier ones need not be.
    acknowledged: Option<DbVersion>,
    pub(crate) lag: Lag,
    /// Whether it has been looked at how long the log is that the peer asks for. That is done once.
    log_is_judged: bool,
    /// Changes of the peer's log that are durable here.
    pub(crate) changes: u64,
    pub(crate) taking: Taking,
    pub(crate) is_live: bool,
    pub(crate) got_on: bool,
    /// Why it ended, where the session itself knows less.
    pub(crate) ended: Option<Ended>,
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
            if self.is_live {
                (self.status)(SyncStatus::Live { lag: self.lag.commits() });
            }
            let timer = self.session.poll_timeout().map(|at| self.start + Duration::from_millis(at.0));
            let stalled = self.taking.stalls_at();
            tokio::select! {
                received = receiver.recv() => self.received(received),
                sent = outgoing.taken() => self.sent(sent),
                Some(done) = self.work.next(), if !self.work.is_empty() => self.done(done),
                turn = self.taking.turn_comes() => self.turn(turn),
                // A merge is told of before its own commit, so that it is not sent back.
                told = commits.changed(), if !self.merging && !commits_end => match told {
                    Ok(()) => {
                        let version = *commits.borrow_and_update();
                        self.lag.committed(version.0);
                        self.feed(Input::LocalCommit);
                    }
                    Err(_) => commits_end = true,
                },
                () = sleep_until(timer.unwrap_or(self.start)), if timer.is_some() => {
                    let now = self.now();
                    self.session.handle_timeout(now);
                }
                () = sleep_until(stalled.unwrap_or(self.start)), if stalled.is_some() => self.stall(),
                () = stopped(&mut stop) => self.feed(Input::Shutdown),
            }
        }
    }

    /// Waits for the store to do what it was asked for.
    async fn finish(&mut self) {
        // Somebody else may take a snapshot now, once what this session has is written.
        self.taking.give_up();
        while let Some(done) = self.work.next().await {
            self.done(done);
        }
    }

    fn now(&self) -> MonoMillis {
        MonoMillis(self.start.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
    }

    pub(crate) fn feed(&mut self, input: Input<'_>) {
        let now = self.now();
        self.session.handle_input(input, now);
    }

    pub(crate) fn tell(&self, event: SyncEvent) {
        self.shared.tell(event);
    }

    fn output(&mut self, output: Output, outgoing: &mut Outgoing) {
        match output {
            Output::Send(frame) => outgoing.send(frame.into()),
            Output::Admit(hello) => self.look_at(&hello),
            Output::Read { req, wanted } => self.read(req, wanted),
            Output::Apply { req, work } => self.apply(req, work),
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

    /// Whether both sides do snapshots.
    pub(crate) fn has_snapshots(&self) -> bool {
        let common = self.session.peer().map(|peer| self.own.common(peer.capabilities));
        common.is_some_and(|common| common.has(Capabilities::SNAPSHOT))
    }

    fn read(&mut self, req: RequestId, wanted: Wanted) {
        let gallery = self.shared.gallery.clone();
        match wanted {
            Wanted::Log { cursor, changes_max, echoes, compress, standoff } => {
                // A peer that asks for its log again has been sent to a snapshot already.
                let judged = std::mem::replace(&mut self.log_is_judged, true);
                let far = (!judged && self.has_snapshots()).then(|| gallery.far());
                let Some(peer) = self.site else { return self.feed(Input::StoreFailed) };
                let piece = Piece { peer, cursor, changes_max, echoes, compress, far, standoff };
                let read = work::read_log(self.shared.store.clone(), piece);
                self.work.push(Box::pin(async move { Done::ReadLog(req, read.await) }));
            }
            Wanted::Snapshot { resume, item_max } => self.work.push(Box::pin(async move {
                Done::ReadSnapshot(req, gallery.offer(resume, item_max).await)
            })),
            Wanted::Chunk { id, index } => self
                .work
                .push(Box::pin(async move { Done::ReadSnapshot(req, gallery.chunk(&id, index).await) })),
        }
    }

    fn apply(&mut self, req: RequestId, work: Work) {
        let Some(site) = self.site else { return self.feed(Input::StoreFailed) };
        match work {
            Work::Changes { changeset, cursor } => {
                self.merging = true;
                let (limits, turns) = (self.shared.decode_limits, self.shared.merge_turns.clone());
                let apply = work::apply(self.shared.store.clone(), site, changeset, cursor, limits);
                self.work.push(Box::pin(async move {
                    let _turn = match turns {
                        Some(turns) => turns.acquire_owned().await.ok(),
                        None => None,
                    };
                    Done::Applied(req, apply.await)
                }));
            }
            Work::Offer { .. } | Work::Chunk { .. } | Work::Install(_) => self.take(req, site, work),
        }
    }

    fn event(&mut self, event: Event) {
        let Some(site) = self.site else { return };
        match event {
            Event::Open => {
                (self.status)(SyncStatus::CatchingUp { by: CatchUp::Log, done: 0, total: None });
                self.tell(SyncEvent::Open { peer: self.peer.clone(), site });
            }
            Event::CaughtUp => {
                (self.is_live, self.got_on) = (true, true);
                self.tell(SyncEvent::CaughtUp { site });
            }
            Event::Acknowledged(cursor) => {
                // It is one of this store, as the session checks; what is none tells nothing.
                let Some(cursor) = work::of_store(&cursor) else { return };
                self.lag.acknowledged(cursor.base.0);
                self.acknowledged = Some(cursor.base);
                self.acknowledge();
            }
            Event::Behind { snapshot } => self.behind(snapshot),
        }
    }

    /// Notes the last acknowledgement, one at a time.
    pub(crate) fn acknowledge(&mut self) {
        if self.acknowledging {
            return;
        }
        let Some((site, version)) = self.site.zip(self.acknowledged.take()) else { return };
        self.acknowledging = true;
        let noted = work::acknowledged(self.shared.store.clone(), site, version, self.lag.held());
        self.work.push(Box::pin(async move { Done::Acknowledged(noted.await) }));
    }

    fn received(&mut self, received: Result<Received, TransportError>) {
        let error = match received {
            Ok(Received::Frame(frame)) => return self.feed(Input::Message(&frame)),
            Ok(Received::Closed(reason)) => TransportError::closed(reason),
            Err(error) => error,
        };
        self.ended.get_or_insert(Ended::Link(error));
        self.feed(Input::Closed);
    }

    fn sent(&mut self, sent: Result<(), TransportError>) {
        match sent {
            Ok(()) => self.feed(Input::Sent),
            // The peer's last words may still be on their way; the receiver tells the end.
            Err(error) if matches!(error.kind(), TransportErrorKind::Closed | TransportErrorKind::Lost) => {}
            Err(error) => {
                self.ended.get_or_insert(Ended::Link(error));
                self.feed(Input::Closed);
            }
        }
    }
}
