//! Replicas, links and sessions in virtual time: the same seed gives the same run.
//!
//! It plays the driver for every session, slow where it is told to be, and checks after every step what must always
//! hold: frames within the limit, one request of a kind at a time, nothing acknowledged that is not durable, nothing
//! held beyond the window, and silence after the end.

use std::collections::BTreeMap;

use opor_core::{DbVersion, SiteId, Value};
use opor_sync_proto::{
    Ask, CloseReason, Config, Cursor, Decoded, Event, Input, Kind, Message, MonoMillis, Output, RequestId,
    Session, Wanted, Work, decode,
};

use crate::replica::Replica;
use crate::rng::Rng;

/// Steps that a whole run may take; the longest takes a tenth.
const STEPS_MAX: u64 = 2_000_000;

/// A session of one end of a link.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) session: Session,
    /// The moment of the wake-up that is on the agenda.
    wake: Option<MonoMillis>,
    /// Items that were stored for this session.
    durable: u64,
    /// Requests that are under way, and frames that the link has not taken.
    reads: u32,
    applies: u32,
    sends: u32,
    said_bye: bool,
    pub(crate) events: Vec<Event>,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) ends: [usize; 2],
    /// Counts the connections made; what belongs to an earlier one is dropped.
    generation: u64,
    pub(crate) sides: [Option<Side>; 2],
    /// Frames to an end arrive in order: not before the one that was sent earlier.
    arrival: [u64; 2],
    /// Why the sessions on it ended, the older first.
    pub(crate) ended: Vec<CloseReason>,
    reconnects: bool,
    /// Frames vanish, in both directions, and nobody is told.
    pub(crate) is_mute: bool,
}

/// What happens at a moment.
#[derive(Debug)]
enum Happening {
    Frame { at: End, frame: Vec<u8> },
    Sent { at: End },
    Read { at: End, req: RequestId, wanted: Wanted },
    Apply { at: End, life: u64, peer: SiteId, req: RequestId, work: Work },
    Admit { at: End, ask: Ask },
    Restart { at: End, snapshot: bool },
    Wake { at: End },
    Hangup { at: End },
    Connect { link: usize },
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    link: usize,
    side: usize,
    generation: u64,
}

/// How long things take, in milliseconds, and what goes wrong, in thousandths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) delay: (u64, u64),
    pub(crate) take: (u64, u64),
    pub(crate) read: (u64, u64),
    pub(crate) apply: (u64, u64),
    pub(crate) reconnect: (u64, u64),
    /// Frames that a broken transport loses, repeats or lets overtake.
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) overtaking: u64,
}

impl Conditions {
    pub(crate) const CALM: Self = Self {
        delay: (5, 5),
        take: (0, 0),
        read: (1, 1),
        apply: (3, 3),
        reconnect: (100, 100),
        lost: 0,
        repeated: 0,
        overtaking: 0,
    };
}

/// How often things happened: a run in which they did not proves little.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally(pub(crate) BTreeMap<&'static str, u64>);

impl Tally {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(crate) fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

pub(crate) struct World {
    pub(crate) now: MonoMillis,
    pub(crate) rng: Rng,
    pub(crate) conditions: Conditions,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) links: Vec<Link>,
    pub(crate) tally: Tally,
    /// How the sessions of each replica are configured.
    pub(crate) configs: Vec<Config>,
    /// How often each replica was started.
    lives: Vec<u64>,
    agenda: BTreeMap<(MonoMillis, u64), Happening>,
    numbered: u64,
    steps: u64,
    /// A hash of all frames, with their times.
    pub(crate) trace: u64,
}

impl World {
    /// So many replicas without links.
    pub(crate) fn new(seed: u64, replicas: usize, conditions: Conditions) -> Self {
        let replicas: Vec<_> = (1..=replicas as u8).map(Replica::new).collect();
        let configs = replicas.iter().map(|replica| Config::new(replica.site, "room")).collect();
        let lives = vec![0; replicas.len()];
        Self {
            now: MonoMillis(1000),
            rng: Rng(seed),
            conditions,
            replicas,
            links: Vec::new(),
            tally: Tally::default(),
            configs,
            lives,
            agenda: BTreeMap::new(),
            numbered: 0,
            steps: 0,
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Two replicas and a link between them.
    pub(crate) fn pair() -> Self {
        let mut world = Self::new(1, 2, Conditions::CALM);
        world.link(0, 1, true);
        world
    }

    /// Adds a link and connects it.
    pub(crate) fn link(&mut self, from: usize, to: usize, reconnects: bool) -> usize {
        let (sides, ended) = ([None, None], Vec::new());
        self.links.push(Link {
            ends: [from, to],
            generation: 0,
            sides,
            arrival: [0; 2],
            ended,
            reconnects,
            is_mute: false,
        });
        self.connect(self.links.len() - 1);
        self.links.len() - 1
    }

    pub(crate) fn connect(&mut self, link: usize) {
        let (ends, now) = (self.links[link].ends, self.now);
        let side = |node: usize| {
            let session = Session::new(self.configs[node].clone(), now).expect("a configuration that works");
            Side {
                session,
                wake: None,
                durable: 0,
                reads: 0,
                applies: 0,
                sends: 0,
                said_bye: false,
                events: Vec::new(),
            }
        };
        let sides = ends.map(|node| Some(side(node)));
        let of = &mut self.links[link];
        of.generation += 1;
        of.sides = sides;
        of.arrival = [now.0; 2];
        self.tally.count("connect");
        for side in 0..2 {
            self.settle(self.end(link, side));
        }
    }

    fn end(&self, link: usize, side: usize) -> End {
        End { link, side, generation: self.links[link].generation }
    }

    pub(crate) fn side(&self, link: usize, side: usize) -> &Side {
        self.links[link].sides[side].as_ref().expect("its session goes on")
    }

    fn side_at(&mut self, at: End) -> Option<&mut Side> {
        let link = &mut self.links[at.link];
        if link.generation == at.generation { link.sides[at.side].as_mut() } else { None }
    }

    fn schedule(&mut self, after: u64, happening: Happening) {
        self.numbered += 1;
        self.agenda.insert((self.now + after, self.numbered), happening);
    }

    /// Gives a session an input, and does what it wants.
    pub(crate) fn input(&mut self, link: usize, side: usize, input: Input<'_>) {
        let at = self.end(link, side);
        self.feed(at, input);
    }

    fn feed(&mut self, at: End, input: Input<'_>) {
        let now = self.now;
        if let Some(side) = self.side_at(at) {
            side.session.handle_input(input, now);
            self.settle(at);
        }
    }

    /// A commit of the application, which every session of the replica is told of.
    pub(crate) fn commit(&mut self, node: usize, rows: impl IntoIterator<Item = (i64, Value)>) {
        self.replicas[node].commit(rows);
        self.tell_commit(node);
    }

    fn tell_commit(&mut self, node: usize) {
        for link in 0..self.links.len() {
            for side in 0..2 {
                if self.links[link].ends[side] == node {
                    self.input(link, side, Input::LocalCommit);
                }
            }
        }
    }

    /// Both sessions of a link lose it at once; frames under way are gone.
    pub(crate) fn cut(&mut self, link: usize) {
        self.tally.count("cut");
        for side in 0..2 {
            self.input(link, side, Input::Closed);
        }
    }

    /// A replica loses what was not durable: its sessions, without a word, and what they were storing.
    pub(crate) fn crash(&mut self, node: usize) {
        self.tally.count("crash");
        self.lives[node] += 1;
        for link in 0..self.links.len() {
            for side in 0..2 {
                if self.links[link].ends[side] == node && self.links[link].sides[side].take().is_some() {
                    let other = self.end(link, 1 - side);
                    if self.side_at(other).is_some() {
                        let delay = self.rng.between(self.conditions.delay);
                        self.schedule(delay, Happening::Hangup { at: other });
                    } else {
                        self.reconnect_later(link);
                    }
                }
            }
        }
    }

    fn reconnect_later(&mut self, link: usize) {
        if self.links[link].reconnects {
            let after = self.rng.between(self.conditions.reconnect);
            self.schedule(after, Happening::Connect { link });
        }
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, millis: u64) {
        let until = self.now + millis;
        while let Some((&(at, _), _)) = self.agenda.first_key_value() {
            if at > until {
                break;
            }
            self.step();
        }
        self.now = until;
    }

    /// Runs until nothing is under way but timers, and says whether it came to that within the budget.
    pub(crate) fn run_quiet(&mut self, budget: u64) -> bool {
        for _ in 0..budget {
            if self.agenda.values().all(|happening| matches!(happening, Happening::Wake { .. })) {
                return true;
            }
            self.step();
        }
        false
    }

    fn step(&mut self) {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "a session spins");
        let Some(((at, _), happening)) = self.agenda.pop_first() else { return };
        self.now = self.now.max(at);
        match happening {
            Happening::Frame { at, frame } => self.feed(at, Input::Message(&frame)),
            Happening::Sent { at } => {
                if let Some(side) = self.side_at(at) {
                    side.sends -= 1;
                    self.feed(at, Input::Sent);
                }
            }
            Happening::Admit { at, ask } => self.feed(at, Input::Admitted(ask)),
            Happening::Restart { at, snapshot } => {
                let Some(peer) = self.side_at(at).and_then(|side| side.session.peer()) else { return };
                let peer = peer.site;
                let ask = self.replica(at).restart(peer, snapshot);
                self.feed(at, Input::Restart(ask));
            }
            Happening::Read { at, req, wanted } => {
                if self.side_at(at).is_some() {
                    let found = self.replica(at).read(&wanted);
                    self.side_at(at).unwrap().reads -= 1;
                    self.feed(at, Input::Read { req, found });
                }
            }
            Happening::Apply { at, life, peer, req, work } => self.apply(at, life, peer, req, &work),
            Happening::Wake { at } => {
                let now = self.now;
                if let Some(side) = self.side_at(at) {
                    side.wake = None;
                    side.session.handle_timeout(now);
                    self.settle(at);
                }
            }
            Happening::Hangup { at } => self.feed(at, Input::Closed),
            Happening::Connect { link } => {
                if self.links[link].sides.iter().all(Option::is_none) {
                    self.connect(link);
                }
            }
        }
    }

    fn replica(&mut self, at: End) -> &mut Replica {
        let node = self.links[at.link].ends[at.side];
        &mut self.replicas[node]
    }

    fn apply(&mut self, at: End, life: u64, peer: SiteId, req: RequestId, work: &Work) {
        let node = self.links[at.link].ends[at.side];
        if self.lives[node] != life {
            return self.tally.count("lost in a crash");
        }
        // A changeset that is being stored when its session ends is stored all the same.
        if self.side_at(at).is_none() && !matches!(work, Work::Changes { .. }) {
            return;
        }
        let is_item = matches!(work, Work::Changes { .. } | Work::Offer { .. } | Work::Chunk { .. });
        if let Work::Install(_) = work {
            self.tally.count("install");
        }
        let applied = self.replicas[node].apply(peer, work);
        if let Some(side) = self.side_at(at) {
            side.applies -= 1;
            side.durable += u64::from(is_item && applied.is_ok());
        }
        match applied {
            Ok(version) => {
                self.feed(at, Input::Applied { req, version: version.map(DbVersion) });
                if version.is_some() {
                    self.tell_commit(node);
                }
            }
            Err(rejection) => self.feed(at, Input::Rejected { req, rejection }),
        }
    }

    /// Does all that a session wants, and plans its next wake-up.
    fn settle(&mut self, at: End) {
        loop {
            let Some(side) = self.side_at(at) else { return };
            let Some(output) = side.session.poll_output() else { break };
            self.output(at, output);
        }
        self.check_bounds(at);
        let now = self.now;
        let Some(side) = self.side_at(at) else { return };
        let Some(due) = side.session.poll_timeout() else { return };
        if side.wake.is_none_or(|wake| wake > due) {
            side.wake = Some(due);
            self.schedule(due.0.saturating_sub(now.0), Happening::Wake { at });
        }
    }

    fn output(&mut self, at: End, output: Output) {
        let conditions = self.conditions;
        match output {
            Output::Send(frame) => self.send(at, frame),
            Output::Close { reason, farewell } => self.close(at, reason, farewell),
            Output::Admit(peer) => {
                let ask = self.replica(at).ask(peer.site);
                let after = self.rng.between(conditions.read);
                self.schedule(after, Happening::Admit { at, ask });
            }
            Output::Read { req, wanted } => {
                let side = self.side_at(at).unwrap();
                side.reads += 1;
                assert_eq!(side.reads, 1, "one read at a time");
                let after = self.rng.between(conditions.read);
                self.schedule(after, Happening::Read { at, req, wanted });
            }
            Output::Apply { req, work } => {
                let side = self.side_at(at).unwrap();
                side.applies += 1;
                assert_eq!(side.applies, 1, "one thing is stored at a time");
                let peer = side.session.peer().expect("it is let in").site;
                let life = self.lives[self.links[at.link].ends[at.side]];
                let after = self.rng.between(conditions.apply);
                self.schedule(after, Happening::Apply { at, life, peer, req, work });
            }
            Output::Event(event) => {
                if let Event::Behind { snapshot } = event {
                    self.tally.count("behind");
                    let after = self.rng.between(conditions.read);
                    self.schedule(after, Happening::Restart { at, snapshot });
                }
                self.side_at(at).unwrap().events.push(event);
            }
        }
    }

    fn send(&mut self, at: End, frame: Vec<u8>) {
        let frame_max = self.configs.iter().map(|config| config.frame_max).min().unwrap();
        assert!(frame.len() <= frame_max, "a frame of {} bytes, the limit is {frame_max}", frame.len());
        let Ok(Decoded::Message(message)) = decode(&frame) else { panic!("no message: {frame:?}") };
        let side = self.side_at(at).unwrap();
        side.sends += 1;
        assert_eq!(side.sends, 1, "one frame at a time");
        assert!(!side.said_bye, "nothing follows a goodbye");
        if let Message::Ack { items, .. } = message {
            assert!(items <= side.durable, "{items} acknowledged, {} durable", side.durable);
        }
        self.tally.count(name_of(message.kind()));
        let take = self.rng.between(self.conditions.take);
        self.schedule(take, Happening::Sent { at });
        self.carry(at, frame, take);
    }

    /// Brings a frame to the other end, in order unless the transport is broken.
    fn carry(&mut self, at: End, frame: Vec<u8>, take: u64) {
        let Conditions { delay, lost, repeated, overtaking, .. } = self.conditions;
        for byte in self.now.0.to_be_bytes().iter().chain(&frame) {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.links[at.link].is_mute {
            return self.tally.count("mute");
        }
        if self.rng.chance(lost) {
            return self.tally.count("lost");
        }
        let to = End { side: 1 - at.side, ..at };
        let copies = if self.rng.chance(repeated) { 2 } else { 1 };
        for copy in 0..copies {
            let mut arrival = self.now.0 + take + self.rng.between(delay);
            if self.rng.chance(overtaking) {
                self.tally.count("overtaking");
            } else {
                arrival = arrival.max(self.links[at.link].arrival[to.side]);
                self.links[at.link].arrival[to.side] = arrival;
            }
            if copy > 0 {
                self.tally.count("repeated");
            }
            self.schedule(arrival - self.now.0, Happening::Frame { at: to, frame: frame.clone() });
        }
    }

    fn close(&mut self, at: End, reason: CloseReason, farewell: Option<Vec<u8>>) {
        let now = self.now;
        let mut side = self.links[at.link].sides[at.side].take().expect("its session goes on");
        // Whatever still comes, it is silent.
        for input in [
            Input::LocalCommit,
            Input::Closed,
            Input::Message(&[0x10, 11, 0, 1]),
            Input::Sent,
            Input::Shutdown,
        ] {
            side.session.handle_input(input, now);
            assert_eq!(side.session.poll_output(), None, "silence after the end");
        }
        side.session.handle_timeout(now + 1_000_000);
        assert_eq!((side.session.poll_output(), side.session.poll_timeout()), (None, None));
        self.links[at.link].ended.push(reason);
        if let Some(farewell) = farewell {
            let Ok(Decoded::Message(Message::Bye(_))) = decode(&farewell) else { panic!("no goodbye") };
            self.carry(at, farewell, 0);
        }
        let other = End { side: 1 - at.side, ..at };
        if self.side_at(other).is_some() {
            let arrival = self.links[at.link].arrival[other.side].max(now.0 + self.conditions.delay.1);
            self.schedule(arrival - now.0, Happening::Hangup { at: other });
        } else {
            self.reconnect_later(at.link);
        }
    }

    fn check_bounds(&mut self, at: End) {
        let node = self.links[at.link].ends[at.side];
        let bytes_max = self.configs[node].window + self.configs[node].item_max;
        let Some(side) = self.side_at(at) else { return };
        let (bytes, entries) = side.session.held();
        assert!(bytes <= bytes_max, "{bytes} bytes held, the limit is {bytes_max}");
        assert!(entries <= 64 + 64 + 2, "{entries} entries held");
    }

    /// Checks that all replicas hold the same.
    #[track_caller]
    pub(crate) fn check_converged(&self) {
        let first = self.replicas[0].content();
        for replica in &self.replicas[1..] {
            assert!(replica.content() == first, "replica {} differs at {}", replica.site, self.now);
        }
    }

    /// How far one replica says it has pulled another.
    pub(crate) fn pulled(&self, by: usize, from: usize) -> Option<Cursor> {
        self.replicas[by].pulled.get(&self.replicas[from].site).cloned()
    }
}

const fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Hello => "Hello",
        Kind::Bye => "Bye",
        Kind::Pull => "Pull",
        Kind::Fetch => "Fetch",
        Kind::Changes => "Changes",
        Kind::Chunk => "Chunk",
        Kind::Part => "Part",
        Kind::Ack => "Ack",
        Kind::Behind => "Behind",
        Kind::Offer => "Offer",
        Kind::Ping => "Ping",
        Kind::Pong => "Pong",
    }
}
