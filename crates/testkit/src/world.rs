//! Replicas, links and sessions in virtual time, and the agenda of what happens next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opor_sync_proto::{Capabilities, Config, Input, MonoMillis, Role, Session, Timeouts};
use tempfile::TempDir;

use crate::failure::{Failure, Invariant};
use crate::network::{Conn, End, Link, Side};
use crate::node::Node;
use crate::plan::Plan;
use crate::rng::Rng;
use crate::schema::Schema;
use crate::tally::Tally;
use crate::trace::Trace;
use crate::work::{Done, Job, Newest};

/// Quick enough that silences and stalls happen within a run.
const IMPATIENT: Timeouts = Timeouts {
    handshake_ms: 4_000,
    keepalive_ms: 4_000,
    idle_ms: 12_000,
    stall_ms: 20_000,
    cursor_ms: 1_000,
};
/// The largest changeset or chunk where transactions may arrive in pieces: one chunk of a snapshot must fit.
const ITEM_MAX: usize = 512 << 10;
const FRAME_MAX: usize = 16 << 10;
/// Before dialling again, at first and at most.
const PAUSE_MS: u64 = 200;
const PAUSE_MS_MAX: u64 = 20_000;
/// Things that a run may do; the longest does a tenth. A session that sends for ever runs out of it.
const HAPPENINGS_MAX: u64 = 4_000_000;

/// What happens at a moment.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The first frame on its way to this end is there.
    Arrive(End),
    /// The link took the frame.
    Sent(End),
    /// The store does a job, unless the replica has crashed since.
    Work {
        at: End,
        life: u64,
        job: Job,
    },
    /// The session hears what came of it.
    Done {
        at: End,
        life: u64,
        done: Done,
    },
    Wake(End),
    /// The other end has closed.
    Hangup(End),
    Connect {
        link: usize,
    },
}

pub(crate) struct World<'s> {
    pub(crate) plan: Plan,
    pub(crate) schema: &'s Schema,
    pub(crate) now: MonoMillis,
    /// The same, for wall clocks.
    time: Arc<AtomicU64>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: Vec<Link>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    conns_made: u64,
    pub(crate) agenda: BTreeMap<(MonoMillis, u64), Happening>,
    numbered: u64,
    happenings: u64,
    /// Events, and jobs of stores.
    pub(crate) operations: u64,
    pub(crate) tally: Tally,
    pub(crate) trace: Trace,
    /// Every transaction that was committed, and how many parts it has in the ledger.
    pub(crate) committed: BTreeMap<u64, u64>,
    pub(crate) newest: Newest,
    /// Sessions that ended.
    pub(crate) ended: u64,
    pub(crate) skewed: bool,
    pub(crate) compacted: bool,
    pub(crate) forgot: bool,
    /// Holds snapshots that are being received.
    _folder: TempDir,
}

impl<'s> World<'s> {
    /// All replicas, empty but for the schema, and all links, on which nobody has dialled yet.
    pub(crate) fn new(plan: &Plan, schema: &'s Schema) -> Self {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        let world = format!("testkit-{}", WORLDS.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let time = Arc::new(AtomicU64::new(0));
        let node = |index| Node::new(index, plan, schema, &world, time.clone(), folder.path());
        let nodes = (0..plan.replicas).map(node).collect();
        let late = plan.late_links();
        let link = |(number, (from, to))| Link {
            ends: [from, to],
            is_cut: late.contains(&number),
            is_mute: false,
            conn: None,
            mishap: [None; 2],
            frames: [0; 2],
            jobs: [0; 2],
            tries: 0,
            failures: 0,
        };
        Self {
            plan: plan.clone(),
            schema,
            now: MonoMillis(0),
            time: time.clone(),
            nodes,
            links: plan.links().into_iter().enumerate().map(link).collect(),
            conns: BTreeMap::new(),
            conns_made: 0,
            agenda: BTreeMap::new(),
            numbered: 0,
            happenings: 0,
            operations: 0,
            tally: Tally::default(),
            trace: Trace::default(),
            committed: BTreeMap::new(),
            newest: Newest::new(),
            ended: 0,
            skewed: false,
            compacted: false,
            forgot: false,
            _folder: folder,
        }
    }

    pub(crate) fn failure(&self, invariant: Invariant, detail: impl Into<String>) -> Failure {
        Failure { invariant, detail: detail.into(), at: self.now }
    }

    /// Chance at one place, which nothing moves that happens elsewhere.
    pub(crate) fn chance_at(&self, place: &[u64]) -> Rng {
        Rng::at(self.plan.seed, place)
    }

    pub(crate) fn schedule(&mut self, after_ms: u64, happening: Happening) {
        self.numbered += 1;
        self.agenda.insert((self.now + after_ms, self.numbered), happening);
    }

    fn advance(&mut self, to: MonoMillis) {
        self.now = self.now.max(to);
        self.time.store(self.now.0, Ordering::Relaxed);
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, millis: u64) -> Result<(), Failure> {
        let until = self.now + millis;
        while let Some((&(at, _), _)) = self.agenda.first_key_value() {
            if at > until {
                break;
            }
            self.step()?;
        }
        self.advance(until);
        Ok(())
    }

    /// Runs until nothing is under way but timers.
    pub(crate) fn run_quiet(&mut self) -> Result<(), Failure> {
        while self.agenda.values().any(|happening| !matches!(happening, Happening::Wake(_))) {
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        self.happenings += 1;
        if self.happenings > HAPPENINGS_MAX {
            return Err(self.failure(Invariant::ComesToRest, "replicas keep each other busy for ever"));
        }
        let Some(((at, _), happening)) = self.agenda.pop_first() else { return Ok(()) };
        self.advance(at);
        if let Some(until) = self.hung_until(&happening) {
            self.schedule(until.0 - self.now.0, happening);
            return Ok(());
        }
        match happening {
            Happening::Arrive(at) => {
                let frame = self.conns.get_mut(&at.conn).and_then(|conn| conn.flight[at.side].pop_front());
                frame.map_or(Ok(()), |frame| self.feed(at, Input::Message(&frame)))
            }
            Happening::Sent(at) => {
                let Some(side) = self.side(at) else { return Ok(()) };
                side.sending = false;
                self.feed(at, Input::Sent)
            }
            Happening::Work { at, life, job } => self.work(at, life, job),
            Happening::Done { at, life, done } => self.done(at, life, done),
            Happening::Wake(at) => {
                let now = self.now;
                let Some(side) = self.side(at) else { return Ok(()) };
                side.wake = None;
                side.session.handle_timeout(now);
                self.settle(at)
            }
            Happening::Hangup(at) => self.feed(at, Input::Closed),
            Happening::Connect { link } => self.connect(link),
        }
    }

    /// Until when what is about to happen has to wait, because the replica hangs.
    fn hung_until(&self, happening: &Happening) -> Option<MonoMillis> {
        let node = match happening {
            Happening::Arrive(at) | Happening::Sent(at) | Happening::Wake(at) | Happening::Hangup(at) => {
                self.node_of(*at)?
            }
            Happening::Work { at, .. } | Happening::Done { at, .. } => self.node_of(*at)?,
            Happening::Connect { link } => self.links[*link].ends[0],
        };
        Some(self.nodes[node].hung_until).filter(|until| *until > self.now)
    }

    pub(crate) fn node_of(&self, at: End) -> Option<usize> {
        Some(self.conns.get(&at.conn)?.ends[at.side])
    }

    pub(crate) fn side(&mut self, at: End) -> Option<&mut Side> {
        self.conns.get_mut(&at.conn)?.sides[at.side].as_mut()
    }

    /// Every session of a replica.
    pub(crate) fn ends_of(&self, node: usize) -> Vec<End> {
        let ends = |(&conn, of): (&u64, &Conn)| {
            let here = [0, 1].into_iter().filter(|side| of.ends[*side] == node && of.sides[*side].is_some());
            here.map(|side| End { conn, side }).collect::<Vec<_>>()
        };
        self.conns.iter().flat_map(ends).collect()
    }

    /// Dials after a pause, which is longer after each failure.
    pub(crate) fn connect_later(&mut self, link: usize) {
        let Link { tries, failures, .. } = self.links[link];
        let pause = (PAUSE_MS << failures.min(16)).min(PAUSE_MS_MAX);
        let pause = self.chance_at(&[1, link as u64, tries]).between((pause / 4, pause));
        self.schedule(pause, Happening::Connect { link });
    }

    /// Dials. What stands in the way sees to it that somebody dials again when it is gone.
    pub(crate) fn connect(&mut self, link: usize) -> Result<(), Failure> {
        let of = &mut self.links[link];
        if of.conn.is_some() {
            return Ok(());
        }
        of.tries += 1;
        let ends = of.ends;
        if of.is_cut || of.is_mute || ends.iter().any(|end| self.nodes[*end].stores.is_none()) {
            return Ok(());
        }
        self.tally.count("connection");
        self.links[link].failures += 1;
        self.conns_made += 1;
        let id = self.conns_made;
        self.links[link].conn = Some(id);
        let roles = [Role::Initiator, Role::Responder];
        let side = |side: usize| {
            let session = Session::new(self.config(ends[side], roles[side]), self.now);
            Some(Side::new(session.expect("a configuration that works")))
        };
        let sides = [side(0), side(1)];
        let faulted = ends.iter().any(|end| self.nodes[*end].hung_until > self.now);
        let (flight, arrival) = ([VecDeque::new(), VecDeque::new()], [self.now; 2]);
        self.conns.insert(
            id,
            Conn {
                link,
                ends,
                sides,
                flight,
                arrival,
                jobs: [0; 2],
                faulted,
                caught_up: [false; 2],
                left: false,
            },
        );
        self.settle(End { conn: id, side: 0 })?;
        self.settle(End { conn: id, side: 1 })
    }

    /// What sessions of a replica are told before they begin.
    pub(crate) fn config(&self, node: usize, role: Role) -> Config {
        let mut config = Config { role, ..Config::new(self.nodes[node].site, "room") };
        let mut rng = self.chance_at(&[2, node as u64]);
        config.timeouts = IMPATIENT;
        config.frame_max = FRAME_MAX << rng.below(3);
        config.changes_max = self.plan.changes_max;
        if !self.plan.is_whole() {
            config.item_max = ITEM_MAX;
            config.window = ITEM_MAX + rng.below(ITEM_MAX as u64) as usize;
        }
        if self.plan.snapshots {
            config.capabilities = config.capabilities.with(Capabilities::SNAPSHOT);
        }
        config
    }

    /// Counts an effect of a replica. Says whether the replica is still there to have it.
    pub(crate) fn effect(&mut self, node: usize) -> Result<bool, Failure> {
        match self.nodes[node].crash_in {
            Some(0) => {
                self.crash(node)?;
                Ok(false)
            }
            Some(effects) => {
                self.nodes[node].crash_in = Some(effects - 1);
                Ok(true)
            }
            None => Ok(true),
        }
    }
}
