//! The driver of every session: does what it wants, as `opor-sync` does, and checks how it behaves.

use opor_core::DbVersion;
use opor_sync_proto::{
    Ask, ByeCode, CloseReason, Cursor, Decoded, Event as Told, Input, Message, Output, Rejection, Wanted,
    decode,
};

use crate::failure::{Failure, Invariant};
use crate::network::{End, Lag, Mishap};
use crate::work::{self, Done, Job};
use crate::world::{Happening, World};

/// Entries that wait in a session: 64 items in each direction, one being applied, one being sent.
const ENTRIES_MAX: usize = 64 + 64 + 2;

impl World<'_> {
    pub(crate) fn feed(&mut self, at: End, input: Input<'_>) -> Result<(), Failure> {
        let now = self.now;
        match self.side(at) {
            Some(side) => {
                side.session.handle_input(input, now);
                self.settle(at)
            }
            None => Ok(()),
        }
    }

    /// Does all that a session wants, and plans its next wake-up.
    pub(crate) fn settle(&mut self, at: End) -> Result<(), Failure> {
        let Some(node) = self.node_of(at) else { return Ok(()) };
        loop {
            let Some(side) = self.side(at) else { return Ok(()) };
            let Some(output) = side.session.poll_output() else { break };
            if !self.effect(node)? {
                return Ok(());
            }
            self.output(at, output)?;
        }
        self.check_bounds(at, node)?;
        let now = self.now;
        let Some(side) = self.side(at) else { return Ok(()) };
        let Some(due) = side.session.poll_timeout() else { return Ok(()) };
        if side.wake.is_none_or(|wake| wake > due) {
            side.wake = Some(due);
            self.schedule(due.0.saturating_sub(now.0), Happening::Wake(at));
        }
        Ok(())
    }

    fn check_bounds(&mut self, at: End, node: usize) -> Result<(), Failure> {
        let config = self.config(node, opor_sync_proto::Role::Initiator);
        let bytes_max = config.window + config.item_max;
        let Some(side) = self.side(at) else { return Ok(()) };
        let (bytes, entries) = side.session.held();
        if bytes > bytes_max || entries > ENTRIES_MAX {
            let detail = format!("{bytes} bytes and {entries} entries wait in a session of {node}");
            return Err(self.failure(Invariant::Bounds, detail));
        }
        Ok(())
    }

    fn output(&mut self, at: End, output: Output) -> Result<(), Failure> {
        match output {
            Output::Send(frame) => self.send(at, frame),
            Output::Close { reason, farewell } => self.close(at, &reason, farewell),
            Output::Admit(hello) => {
                self.side(at).expect("it goes on").peer = Some(hello.site);
                self.ask_store(at, Job::LookUp(hello.site));
                Ok(())
            }
            Output::Read { req, wanted } => {
                let side = self.side(at).expect("it goes on");
                let peer = side.peer.expect("it is let in");
                if std::mem::replace(&mut side.reading, true) {
                    return Err(self.failure(Invariant::Bounds, "two reads at a time"));
                }
                // A peer that asks for its log again has been sent to a snapshot already.
                let in_standoff = matches!(wanted, Wanted::Log { standoff: true, .. });
                let judge =
                    matches!(wanted, Wanted::Log { .. }) && !std::mem::replace(&mut side.judged, true);
                self.ask_store(at, Job::Read(req, peer, wanted, judge));
                if in_standoff {
                    self.tally.count("both held");
                }
                Ok(())
            }
            Output::Apply { req, work } => {
                let side = self.side(at).expect("it goes on");
                let peer = side.peer.expect("it is let in");
                if std::mem::replace(&mut side.applying, true) {
                    return Err(self.failure(Invariant::Bounds, "two things are stored at a time"));
                }
                self.ask_store(at, Job::Apply(req, peer, work));
                Ok(())
            }
            Output::Event(event) => self.told(at, event),
        }
    }

    /// Hands a job to the store, which takes its time.
    fn ask_store(&mut self, at: End, job: Job) {
        let conn = self.conns.get_mut(&at.conn).expect("it goes on");
        conn.jobs[at.side] += 1;
        let (life, link) = (self.nodes[conn.ends[at.side]].life, conn.link);
        self.links[link].jobs[at.side] += 1;
        let place = [3, link as u64, at.side as u64, self.links[link].jobs[at.side]];
        let after = self.chance_at(&place).below(self.plan.work_ms);
        self.schedule(after, Happening::Work { at, life, job });
    }

    fn told(&mut self, at: End, event: Told) -> Result<(), Failure> {
        match event {
            Told::Open => self.tally.count("session open"),
            Told::CaughtUp => {
                self.tally.count("caught up");
                let conn = self.conns.get_mut(&at.conn).expect("it goes on");
                conn.caught_up[at.side] = true;
                if conn.caught_up == [true; 2] {
                    self.links[conn.link].failures = 0;
                }
            }
            Told::Acknowledged(cursor) => {
                self.check_acknowledged(at, &cursor)?;
                let side = self.side(at).expect("it goes on");
                if let Some(cursor) = work::of_store(&cursor) {
                    side.lag.acknowledged(cursor.base.0);
                    side.acknowledged = Some(cursor.base);
                }
                self.acknowledge(at);
            }
            Told::Behind { snapshot } => self.behind(at, snapshot)?,
        }
        Ok(())
    }

    /// The peer cannot go on from the cursor that is stored here.
    fn behind(&mut self, at: End, snapshot: bool) -> Result<(), Failure> {
        let from_start = self.side(at).is_some_and(|side| side.from_start);
        // Replicas that meet late learn from a snapshot what was forgotten before; others may then be behind them.
        if !(self.forgot || self.compacted && (from_start || self.plan.late > 0)) {
            let detail = "a cursor is refused, though only acknowledged deletes were forgotten";
            return Err(self.failure(Invariant::Cursor, detail));
        }
        self.tally.count("behind the horizon");
        let (node, now) = (self.node_of(at).expect("it goes on"), self.now);
        let peer = self.side(at).and_then(|side| side.peer).expect("it is let in");
        let input = if snapshot {
            let ask = self.nodes[node].ask_anew(peer, snapshot);
            if matches!(ask, Ask::Snapshot(Some(_))) {
                self.tally.count("snapshot resumed");
            }
            Input::Restart(ask)
        } else {
            // The snapshot that was begun is gone; a new session begins another.
            self.conns.get_mut(&at.conn).expect("it goes on").faulted = true;
            Input::Shutdown
        };
        self.side(at).expect("it goes on").session.handle_input(input, now);
        Ok(())
    }

    /// Notes the last acknowledgement, one at a time.
    fn acknowledge(&mut self, at: End) {
        let Some(side) = self.side(at) else { return };
        if side.acknowledging {
            return;
        }
        let Some((peer, version)) = side.peer.zip(side.acknowledged.take()) else { return };
        side.acknowledging = true;
        let held = side.lag.held();
        self.ask_store(at, Job::Acknowledge(peer, version, held));
    }

    /// The store does a job. What it has done is durable, whoever is still there to hear of it.
    pub(crate) fn work(&mut self, at: End, life: u64, job: Job) -> Result<(), Failure> {
        let Some(node) = self.node_of(at) else { return Ok(()) };
        if self.nodes[node].life != life || self.nodes[node].stores.is_none() {
            self.tally.count("job lost in a crash");
            return Ok(());
        }
        if !self.effect(node)? {
            return Ok(());
        }
        self.operations += 1;
        let name = match &job {
            Job::LookUp(_) => "look-up",
            Job::Read(..) => "read",
            Job::Apply(.., opor_sync_proto::Work::Changes { .. }) => "merge",
            Job::Apply(.., opor_sync_proto::Work::Install(_)) => "snapshot installed",
            Job::Apply(..) => "piece of a snapshot",
            Job::Acknowledge(..) => "acknowledgement noted",
        };
        self.tally.count(name);
        let done = work::run(&mut self.nodes[node], job);
        self.trace.note(format!("{} {at:?} {name}", self.now).as_bytes());
        let mut version = None;
        match &done {
            Done::Applied { merged, is_item, .. } => {
                version = merged.version;
                if merged.version != merged.echo {
                    self.tally.count("merge with news for its sender");
                }
                if let Some(side) = self.side(at) {
                    side.durable += u64::from(*is_item);
                }
            }
            Done::Rejected(_, rejection) => self.check_rejection(*rejection)?,
            Done::PeerBehind if !self.compacted => {
                let detail = "a peer passes for one that has missed deletes, though none were dropped";
                return Err(self.failure(Invariant::HonestIsTaken, detail));
            }
            Done::PeerBehind | Done::LookedUp { .. } | Done::Read(..) | Done::Acknowledged { .. } => {}
        }
        let link = self.conns[&at.conn].link;
        let place = [4, link as u64, at.side as u64, self.links[link].jobs[at.side]];
        let after = self.chance_at(&place).below(5);
        self.schedule(after, Happening::Done { at, life, done });
        match version {
            Some(version) => self.committed(node, version),
            None => Ok(()),
        }
    }

    /// Looks at what came with a commit, and tells the sessions of the replica.
    pub(crate) fn committed(&mut self, node: usize, version: DbVersion) -> Result<(), Failure> {
        self.check_commit(node, version)?;
        for at in self.ends_of(node) {
            let Some(side) = self.side(at) else { continue };
            if side.applying {
                side.commit_due = true;
            } else {
                self.feed(at, Input::LocalCommit)?;
            }
        }
        Ok(())
    }

    /// A session hears what came of a job.
    pub(crate) fn done(&mut self, at: End, life: u64, done: Done) -> Result<(), Failure> {
        let Some(node) = self.node_of(at) else { return Ok(()) };
        if self.nodes[node].life != life || self.nodes[node].stores.is_none() || !self.effect(node)? {
            return Ok(());
        }
        self.conns.get_mut(&at.conn).expect("it has jobs").jobs[at.side] -= 1;
        self.answer(at, done)?;
        self.leave(at.conn);
        Ok(())
    }

    fn answer(&mut self, at: End, done: Done) -> Result<(), Failure> {
        let now = self.now;
        let Some(side) = self.side(at) else { return Ok(()) };
        match done {
            Done::LookedUp { cursor, held, is_aware } => {
                side.lag = Lag::new(held.0);
                side.from_start = cursor.is_none();
                side.session.handle_input(Input::Admitted(Ask::Log(cursor)), now);
                if !is_aware {
                    side.session.handle_input(Input::Hold, now);
                    self.tally.count("peer held");
                }
                self.settle(at)
            }
            Done::Read(req, found, is_gone) => {
                side.reading = false;
                side.session.handle_input(Input::Read { req, found }, now);
                if is_gone {
                    // History was cut while it was away, or just now.
                    side.session.handle_input(Input::Hold, now);
                }
                self.settle(at)
            }
            Done::Applied { req, merged, .. } => {
                side.applying = false;
                if let Some(echo) = merged.echo {
                    side.lag.merged(echo.0);
                }
                // The merge is told of before its own commit, so that it is not sent back.
                side.session.handle_input(Input::Applied { req, version: merged.echo }, now);
                if std::mem::take(&mut side.commit_due) {
                    side.session.handle_input(Input::LocalCommit, now);
                }
                self.settle(at)
            }
            Done::Rejected(req, rejection) => {
                side.applying = false;
                self.feed(at, Input::Rejected { req, rejection })
            }
            Done::PeerBehind => {
                side.applying = false;
                self.tally.count("nothing taken from a peer that is behind");
                self.conns.get_mut(&at.conn).expect("it goes on").faulted = true;
                self.feed(at, Input::Shutdown)
            }
            Done::Acknowledged { is_aware } => {
                side.acknowledging = false;
                if is_aware {
                    self.feed(at, Input::Release)?;
                }
                self.acknowledge(at);
                Ok(())
            }
        }
    }

    fn check_rejection(&self, rejection: Rejection) -> Result<(), Failure> {
        let expected = match rejection {
            Rejection::Drift => self.skewed,
            // Two sessions of one peer may take it at once.
            Rejection::Snapshot => self.forgot,
            Rejection::Malformed | Rejection::Schema => false,
        };
        if expected {
            return Ok(());
        }
        Err(self.failure(Invariant::HonestIsTaken, format!("{rejection}")))
    }

    fn send(&mut self, at: End, frame: Vec<u8>) -> Result<(), Failure> {
        let frame_max = (0..2)
            .filter_map(|side| self.node_of(End { side, ..at }))
            .map(|node| self.config(node, opor_sync_proto::Role::Initiator).frame_max);
        let frame_max = frame_max.min().expect("it has ends");
        if frame.len() > frame_max {
            let detail = format!("a frame of {} bytes, the limit is {frame_max}", frame.len());
            return Err(self.failure(Invariant::Bounds, detail));
        }
        let side = self.side(at).expect("it goes on");
        let (was_sending, durable) = (std::mem::replace(&mut side.sending, true), side.durable);
        if was_sending {
            return Err(self.failure(Invariant::Bounds, "two frames at a time"));
        }
        match decode(&frame) {
            Ok(Decoded::Message(Message::Ack { items, .. })) if items > durable => {
                let detail = format!("{items} items are acknowledged, {durable} are durable");
                return Err(self.failure(Invariant::AckAfterDurability, detail));
            }
            Ok(_) => {}
            Err(error) => return Err(self.failure(Invariant::HonestIsTaken, error.to_string())),
        }
        self.schedule(0, Happening::Sent(at));
        self.carry(at, frame);
        Ok(())
    }

    /// Brings a frame to the other end, in order unless something goes wrong.
    fn carry(&mut self, at: End, frame: Vec<u8>) {
        let to = at.other();
        self.trace.note(&self.now.0.to_be_bytes());
        self.trace.note(&frame);
        let conn = self.conns.get_mut(&at.conn).expect("it goes on");
        let link = &mut self.links[conn.link];
        link.frames[to.side] += 1;
        let place = [5, conn.link as u64, to.side as u64, link.frames[to.side]];
        if link.is_mute {
            self.tally.count("frame swallowed");
            return;
        }
        let flight = &mut conn.flight[to.side];
        let mut copies = 1;
        match link.mishap[to.side] {
            Some(Mishap::Swap) if flight.is_empty() => {}
            None => {}
            Some(mishap) => {
                link.mishap[to.side] = None;
                conn.faulted = true;
                match mishap {
                    Mishap::Drop => {
                        self.tally.count("frame lost");
                        return;
                    }
                    Mishap::Duplicate => {
                        self.tally.count("frame duplicated");
                        copies = 2;
                        flight.push_back(frame.clone());
                    }
                    Mishap::Swap => {
                        self.tally.count("frames swapped");
                        let last = flight.pop_back().expect("one is on its way");
                        flight.push_back(frame.clone());
                        flight.push_back(last);
                        copies = 0;
                    }
                }
            }
        }
        let swapped = copies == 0;
        if !swapped {
            flight.push_back(frame);
        }
        let delay = 1 + crate::rng::Rng::at(self.plan.seed, &place).below(self.plan.delay_ms);
        let arrival = (self.now + delay).max(conn.arrival[to.side]);
        conn.arrival[to.side] = arrival;
        for _ in 0..copies.max(1) {
            self.schedule(arrival.0 - self.now.0, Happening::Arrive(to));
        }
    }

    fn close(&mut self, at: End, reason: &CloseReason, farewell: Option<Vec<u8>>) -> Result<(), Failure> {
        self.ended += 1;
        let now = self.now;
        let mut side =
            self.conns.get_mut(&at.conn).and_then(|conn| conn.sides[at.side].take()).expect("it ends");
        for input in [Input::LocalCommit, Input::Closed, Input::Message(&[0x10, 11, 0, 1]), Input::Shutdown] {
            side.session.handle_input(input, now);
        }
        side.session.handle_timeout(now + 1_000_000);
        if side.session.poll_output().is_some() || side.session.poll_timeout().is_some() {
            return Err(self.failure(Invariant::ClosedMeansSilent, format!("after: {reason}")));
        }
        self.check_close(at, reason)?;
        if let Some(farewell) = farewell {
            self.carry(at, farewell);
        }
        let conn = &self.conns[&at.conn];
        // Nobody hears of it where nothing gets through.
        if !self.links[conn.link].is_mute {
            let arrival = conn.arrival[at.other().side].max(now + 1);
            self.schedule(arrival.0 - now.0, Happening::Hangup(at.other()));
        }
        self.leave(at.conn);
        Ok(())
    }

    fn check_close(&mut self, at: End, reason: &CloseReason) -> Result<(), Failure> {
        let is_drift = match reason {
            CloseReason::Rejected(Rejection::Drift) => true,
            CloseReason::Peer(bye) => bye.code == ByeCode::Drift,
            _ => false,
        };
        let name = match reason {
            CloseReason::LinkClosed => "ended: link closed",
            CloseReason::Timeout(_) => "ended: timeout",
            CloseReason::Violation(_) => "ended: frames out of order",
            CloseReason::Rejected(Rejection::Drift) => "ended: clock too far ahead",
            CloseReason::Rejected(_) => "ended: snapshot taken twice at once",
            CloseReason::Peer(_) => "ended: peer left",
            CloseReason::Shutdown => "ended: shut down",
            CloseReason::Refused(_) | CloseReason::StoreFailed | CloseReason::TooLarge { .. } => {
                return Err(self.failure(Invariant::HealthyLinkStaysOpen, reason.to_string()));
            }
        };
        self.tally.count(name);
        let conn = self.conns.get_mut(&at.conn).expect("it ends");
        if is_drift && self.skewed || matches!(reason, CloseReason::Rejected(Rejection::Snapshot)) {
            conn.faulted = true;
        }
        if conn.faulted {
            return Ok(());
        }
        let detail = format!("{reason}: {:?}", std::error::Error::source(reason).map(ToString::to_string));
        Err(self.failure(Invariant::HealthyLinkStaysOpen, detail))
    }

    /// Lets go of a connection when its ends have; the end that dialled dials again.
    pub(crate) fn leave(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let is_done = |side: usize| conn.sides[side].is_none() && conn.jobs[side] == 0;
        let (dialler, all) = (is_done(0), is_done(0) && is_done(1));
        if dialler && !std::mem::replace(&mut conn.left, true) {
            let link = conn.link;
            self.links[link].conn = None;
            self.connect_later(link);
        }
        if all {
            self.conns.remove(&id);
        }
    }

    /// How far a peer has got, as it says: it must hold all that this replica held at that version.
    fn check_acknowledged(&mut self, at: End, cursor: &Cursor) -> Result<(), Failure> {
        let base = work::of_store(cursor).map(|cursor| cursor.base.0);
        let conn = &self.conns[&at.conn];
        let (node, peer) = (conn.ends[at.side], conn.ends[1 - at.side]);
        let Some(base) = base else {
            return Err(self.failure(Invariant::Cursor, format!("{cursor:?} is none of a store")));
        };
        let from = self.nodes[node].acknowledged.get(&peer).copied().unwrap_or_default();
        let held = self.nodes[node].held[from..].iter().take_while(|held| held.version <= base);
        let held: Vec<_> = held.copied().collect();
        for held in &held {
            self.check_holds(peer, held.entry, "has acknowledged")?;
        }
        self.nodes[node].acknowledged.insert(peer, from + held.len());
        Ok(())
    }
}
