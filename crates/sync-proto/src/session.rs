//! The session: what goes in, what comes out, and when.

use crate::close::{CloseReason, Timeout};
use crate::config::{Config, ConfigError, Role};
use crate::event::{Event, Input, Output};
use crate::handshake;
use crate::liveness::Liveness;
use crate::message::{Hello, Message};
use crate::phase::{Halves, OwnHello, Phase};
use crate::requests::Requests;
use crate::time::MonoMillis;

/// One side of a sync session, as a state machine without IO.
///
/// The driver feeds it with [`handle_input`](Self::handle_input) and [`handle_timeout`](Self::handle_timeout), and after
/// either does what [`poll_output`](Self::poll_output) says until that is `None`. It calls
/// [`handle_timeout`](Self::handle_timeout) when the moment of [`poll_timeout`](Self::poll_timeout) has come. Outputs come
/// from state, not from a queue; so nothing grows when a driver or a peer is slow.
///
/// ```
/// use opor_core::SiteId;
/// use opor_sync_proto::{Ask, Config, Event, Input, MonoMillis, Output, Session};
///
/// let now = MonoMillis(0);
/// let mut sides = [[1; 16], [2; 16]].map(|site| Session::new(Config::new(SiteId::from(site), "todos"), now).unwrap());
/// let mut open = 0;
/// for (from, to) in [(0, 1), (1, 0)].into_iter().cycle().take(8) {
///     while let Some(output) = sides[from].poll_output() {
///         match output {
///             Output::Send(frame) => {
///                 sides[to].handle_input(Input::Message(&frame), now);
///                 sides[from].handle_input(Input::Sent, now);
///             }
///             Output::Admit(_) => sides[from].handle_input(Input::Admitted(Ask::Log(None)), now),
///             Output::Event(Event::Open) => open += 1,
///             Output::Read { .. } => {} // The store is asked for the log; see `Input::Read`.
///             other => panic!("{other:?}"),
///         }
///     }
/// }
/// assert_eq!(open, 2);
/// ```
#[derive(Debug)]
pub struct Session {
    pub(crate) config: Config,
    pub(crate) started: MonoMillis,
    pub(crate) now: MonoMillis,
    pub(crate) phase: Phase,
    pub(crate) hello: OwnHello,
    pub(crate) liveness: Liveness,
    pub(crate) requests: Requests,
}

impl Session {
    /// A session on a link that was just made.
    ///
    /// # Errors
    /// [`ConfigError`] for a configuration that cannot work.
    pub fn new(config: Config, now: MonoMillis) -> Result<Self, ConfigError> {
        config.check()?;
        let hello = if config.role == Role::Initiator { OwnHello::Due } else { OwnHello::Withheld };
        let (liveness, requests) = (Liveness::new(now), Requests::new());
        Ok(Self { config, started: now, now, phase: Phase::Greeting, hello, liveness, requests })
    }

    /// Takes in what happened. After the end it does nothing. A time before one that was told already counts as that.
    ///
    /// # Panics
    /// When the driver answers what it was not asked: a request that is not under way, an admission twice, a frame that
    /// it was not given. Nothing that a peer sends panics.
    pub fn handle_input(&mut self, input: Input<'_>, now: MonoMillis) {
        self.now = self.now.max(now);
        if matches!(self.phase, Phase::Closing(_) | Phase::Closed) {
            return;
        }
        let handled = match input {
            Input::Message(frame) => self.frame(frame),
            Input::Sent => {
                self.liveness.taken();
                Ok(())
            }
            Input::Admitted(ask) => self.admitted(ask),
            Input::Denied(refusal) => Err(refusal.into()),
            Input::Read { req, found } => {
                let now = self.now;
                let (halves, requests) = self.answered();
                halves.outbound.read(req, found, requests, now)
            }
            Input::Applied { req, version } => {
                let now = self.now;
                let (halves, requests) = self.answered();
                halves.inbound.applied(req, version, requests, now);
                Ok(())
            }
            Input::Rejected { req, rejection } => {
                self.answered().0.inbound.rejected(req);
                Err(CloseReason::Rejected(rejection))
            }
            Input::LocalCommit => {
                if let Some(halves) = self.halves_and_requests().0 {
                    halves.outbound.commit();
                }
                Ok(())
            }
            Input::Restart(ask) => {
                self.answered().0.inbound.ask(ask);
                Ok(())
            }
            Input::Hold => {
                self.answered().0.inbound.hold();
                Ok(())
            }
            Input::Release => {
                self.answered().0.inbound.release();
                Ok(())
            }
            Input::StoreFailed => Err(CloseReason::StoreFailed),
            Input::Shutdown => Err(CloseReason::Shutdown),
            Input::Closed => Err(CloseReason::LinkClosed),
        };
        self.close_on(handled);
    }

    /// Does what is due at this time; harmless when nothing is.
    pub fn handle_timeout(&mut self, now: MonoMillis) {
        self.now = self.now.max(now);
        let ticked = self.tick().map_err(CloseReason::Timeout);
        self.close_on(ticked);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) if nothing happens before; never, after the end.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<MonoMillis> {
        let timeouts = &self.config.timeouts;
        let (halves, handshake) = match &self.phase {
            Phase::Greeting | Phase::Admitting { .. } => (None, Some(self.handshake_at())),
            Phase::Joining { halves } => (Some(halves), Some(self.handshake_at())),
            Phase::Open { halves, .. } => (Some(halves), None),
            Phase::Closing(_) | Phase::Closed => return None,
        };
        let mut moments = [handshake, self.liveness.unsent_at(timeouts), None, None, None, None, None];
        if let Some(halves) = halves {
            let stalled = |since: Option<MonoMillis>| since.map(|since| since + timeouts.stall_ms);
            moments[2] = Some(self.liveness.ping_at(timeouts));
            moments[3] = Some(self.liveness.idle_at(timeouts));
            moments[4] = stalled(halves.outbound.waiting_since());
            moments[5] = stalled(halves.inbound.waiting_since());
            moments[6] = halves.outbound.tell_at(timeouts.cursor_ms);
        }
        moments.into_iter().flatten().min()
    }

    /// What to do next. [`Output::Close`] is the last; after it there is nothing.
    pub fn poll_output(&mut self) -> Option<Output> {
        if matches!(self.phase, Phase::Closing(_) | Phase::Closed) {
            return self.poll_close();
        }
        if let Phase::Admitting { peer, asked: asked @ false, .. } = &mut self.phase {
            *asked = true;
            return Some(Output::Admit(peer.clone()));
        }
        if let Phase::Open { event_due, .. } = &mut self.phase
            && std::mem::take(event_due)
        {
            return Some(Output::Event(Event::Open));
        }
        self.poll_store().or_else(|| self.poll_send().map(Output::Send))
    }

    /// The peer, once it is let in.
    #[must_use]
    pub fn peer(&self) -> Option<&Hello> {
        match &self.phase {
            Phase::Joining { halves } | Phase::Open { halves, .. } => Some(&halves.peer),
            Phase::Greeting | Phase::Admitting { .. } | Phase::Closing(_) | Phase::Closed => None,
        }
    }

    /// Whether both sides have let each other in.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// How much of what this side and the peer send is held here: payload bytes, and entries of queues. At most
    /// `item_max` and `window` bytes together.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        match &self.phase {
            Phase::Joining { halves } | Phase::Open { halves, .. } => {
                let (taken, given) = (halves.inbound.held(), halves.outbound.held());
                (taken.0 + given.0, taken.1 + given.1)
            }
            Phase::Greeting | Phase::Admitting { .. } | Phase::Closing(_) | Phase::Closed => (0, 0),
        }
    }

    fn close_on(&mut self, result: Result<(), CloseReason>) {
        if let Err(reason) = result {
            self.phase = Phase::Closing(reason);
        }
    }

    fn halves_and_requests(&mut self) -> (Option<&mut Halves>, &mut Requests) {
        let halves = match &mut self.phase {
            Phase::Joining { halves } | Phase::Open { halves, .. } => Some(&mut **halves),
            Phase::Greeting | Phase::Admitting { .. } | Phase::Closing(_) | Phase::Closed => None,
        };
        (halves, &mut self.requests)
    }

    /// The halves, which made the request that is answered.
    fn answered(&mut self) -> (&mut Halves, &mut Requests) {
        let (halves, requests) = self.halves_and_requests();
        (halves.expect("nothing is asked of the store before a peer is let in"), requests)
    }

    fn handshake_at(&self) -> MonoMillis {
        self.started + self.config.timeouts.handshake_ms
    }

    fn tick(&mut self) -> Result<(), Timeout> {
        let (now, timeouts) = (self.now, self.config.timeouts);
        let handshake_at = self.handshake_at();
        let (halves, shaken) = match &mut self.phase {
            Phase::Greeting | Phase::Admitting { .. } => (None, false),
            Phase::Joining { halves } => (Some(halves), false),
            Phase::Open { halves, .. } => (Some(halves), true),
            Phase::Closing(_) | Phase::Closed => return Ok(()),
        };
        if !shaken && now >= handshake_at {
            return Err(Timeout::Handshake { after_ms: timeouts.handshake_ms });
        }
        let after_ms = timeouts.stall_ms;
        if self.liveness.unsent_at(&timeouts).is_some_and(|at| now >= at) {
            return Err(Timeout::Stalled { what: "a link that takes a frame", after_ms });
        }
        let Some(halves) = halves else { return Ok(()) };
        self.liveness.tick(now, &timeouts)?;
        let is_over = |since: Option<MonoMillis>| since.is_some_and(|since| now >= since + after_ms);
        if is_over(halves.outbound.waiting_since()) {
            return Err(Timeout::Stalled { what: "an acknowledgement", after_ms });
        }
        if is_over(halves.inbound.waiting_since()) {
            return Err(Timeout::Stalled { what: "the rest of an item", after_ms });
        }
        if halves.outbound.tell_at(timeouts.cursor_ms).is_some_and(|at| now >= at) {
            halves.outbound.tell(now);
        }
        Ok(())
    }

    fn poll_close(&mut self) -> Option<Output> {
        match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closing(reason) => {
                let farewell = reason.farewell().map(|bye| Message::Bye(bye).to_bytes(self.liveness.count()));
                Some(Output::Close { reason, farewell })
            }
            _ => None,
        }
    }

    /// What the store has to do, and what there is to know.
    fn poll_store(&mut self) -> Option<Output> {
        let (halves, requests) = self.halves_and_requests();
        let halves = halves?;
        if let Some((req, work)) = halves.inbound.poll_apply(requests) {
            return Some(Output::Apply { req, work });
        }
        if let Some(cursor) = halves.outbound.poll_acknowledged() {
            halves.inbound.acknowledged(cursor);
        }
        if let Some(event) = halves.inbound.poll_event() {
            return Some(Output::Event(event));
        }
        if let (true, asks) = halves.inbound.holds_back() {
            halves.outbound.put_back(asks);
            if !halves.outbound.is_owed() {
                halves.inbound.settle();
            }
        }
        let (req, wanted) = halves.outbound.poll_read(requests, halves.inbound.stance())?;
        Some(Output::Read { req, wanted })
    }

    /// The next frame, when the link has taken the one before.
    fn poll_send(&mut self) -> Option<Vec<u8>> {
        if !self.liveness.is_writable() {
            return None;
        }
        let frame = self.next_frame()?;
        self.liveness.send(self.now);
        Some(frame)
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        let count = self.liveness.count();
        match self.hello {
            OwnHello::Withheld => return None,
            OwnHello::Due => {
                let of_peer = match &self.phase {
                    Phase::Admitting { peer, .. } => Some(&peer.room),
                    Phase::Joining { halves } | Phase::Open { halves, .. } => Some(&halves.peer.room),
                    Phase::Greeting | Phase::Closing(_) | Phase::Closed => None,
                };
                let room = self.config.room.as_ref().or(of_peer).expect("whoever says hello knows a room");
                self.hello = OwnHello::Said;
                return Some(handshake::hello(&self.config, room, count));
            }
            OwnHello::Said => {}
        }
        match &mut self.phase {
            Phase::Greeting => None,
            Phase::Admitting { .. } => self.liveness.poll_send(),
            Phase::Joining { halves } => {
                self.liveness.poll_send().or_else(|| halves.inbound.poll_send(count))
            }
            Phase::Open { halves, .. } => {
                let frame = self.liveness.poll_send().or_else(|| halves.inbound.poll_send(count));
                frame.or_else(|| halves.outbound.poll_send(count, self.now))
            }
            Phase::Closing(_) | Phase::Closed => None,
        }
    }
}
