//! Every order in which the writer, another process, somebody who wakes the reader, and the reader can take their steps. The steps
//! are those of the mailbox itself, each of which holds its lock from beginning to end.

use std::collections::HashSet;

use super::*;
use crate::feed::TableChanges;

/// As in `RowFeed::snapshot`, with one attempt less: a third is like the second.
const ATTEMPTS: usize = 2;

#[derive(Clone, Debug)]
struct World {
    state: State,
    seq: u64,
    published: Option<WalHeader>,
    /// For each commit that is visible, whether it is the writer's.
    committed: Vec<bool>,
    writer: Writer,
    commits_left: usize,
    foreign_left: usize,
    /// How often the reader finds that it cannot read the file after all.
    failures_left: usize,
    asker: Asker,
    /// Somebody wants something of the reader.
    asked: bool,
    reader: Reader,
    /// Commits that the last snapshot saw.
    seen: usize,
    /// Whether the header is looked at while the reader waits, as a commit of another process needs.
    looks: bool,
}

#[derive(Clone, Debug)]
enum Writer {
    Idle,
    Committing { before: WalHeader },
    Visible { before: WalHeader, commit: usize },
    Publishing { before: WalHeader, after: WalHeader, commit: usize },
}

#[derive(Clone, Copy, Debug)]
enum Asker {
    Idle,
    Asked,
    Done,
}

#[derive(Clone, Debug)]
enum Reader {
    Waiting,
    Beginning { attempt: usize },
    Reading { attempt: usize, before: WalHeader },
    Comparing { attempt: usize, before: WalHeader, seen: usize },
    Taking { attempt: usize, at: WalHeader, seen: usize },
    TakingAll,
    BeginningLate { changes: Changes },
    ReadingLate { changes: Changes, before: WalHeader },
    ComparingLate { changes: Changes, before: WalHeader, seen: usize },
    CatchingUp { changes: Changes, at: Option<WalHeader>, seen: usize },
}

impl World {
    fn new(commits: usize, foreign: usize, asks: bool) -> Self {
        let feeds = Arc::new(Feeds::default());
        let mailbox = feeds.add();
        let state = mailbox.lock().clone();
        Self {
            state,
            seq: 0,
            published: None,
            committed: Vec::new(),
            writer: Writer::Idle,
            commits_left: commits,
            foreign_left: foreign,
            failures_left: 1,
            asker: if asks { Asker::Idle } else { Asker::Done },
            asked: false,
            // It begins with a snapshot, as whoever subscribes does.
            reader: Reader::Beginning { attempt: 1 },
            seen: 0,
            looks: foreign > 0,
        }
    }

    fn header(&self) -> WalHeader {
        WalHeader::after(self.committed.len())
    }

    /// Does something with the real thing.
    fn with<T>(&mut self, deed: impl FnOnce(&Feeds, &Mailbox) -> T) -> T {
        let mailbox = Arc::new(Mailbox { state: Mutex::new(self.state.clone()), ready: Condvar::new() });
        let boxes = Boxes {
            boxes: vec![mailbox.clone()],
            watch: Arc::default(),
            seq: self.seq,
            closed: false,
            published: self.published,
        };
        let feeds = Feeds { boxes: Mutex::new(boxes), ..Feeds::default() };
        let done = deed(&feeds, &mailbox);
        let boxes = feeds.lock();
        (self.seq, self.published) = (boxes.seq, boxes.published);
        self.state = mailbox.lock().clone();
        done
    }

    /// All worlds that one step can lead to.
    fn steps(&self) -> Vec<Self> {
        let mut worlds = self.steps_of_writer();
        let locked = matches!(self.writer, Writer::Committing { .. });
        if self.foreign_left > 0 && !locked {
            let mut world = self.clone();
            world.foreign_left -= 1;
            world.committed.push(false);
            worlds.push(world);
        }
        let mut world = self.clone();
        match self.asker {
            Asker::Idle => {
                (world.asked, world.asker) = (true, Asker::Asked);
                worlds.push(world);
            }
            Asker::Asked => {
                world.with(|_, mailbox| mailbox.wake());
                world.asker = Asker::Done;
                worlds.push(world);
            }
            Asker::Done => {}
        }
        worlds.extend(self.failed());
        let mut world = self.clone();
        if world.step_of_reader() {
            worlds.push(world);
        }
        worlds
    }

    fn steps_of_writer(&self) -> Vec<Self> {
        let mut world = self.clone();
        match self.writer.clone() {
            Writer::Idle if self.commits_left == 0 => return Vec::new(),
            Writer::Idle => {
                world.commits_left -= 1;
                world.writer = Writer::Committing { before: world.header() };
                world.with(|feeds, _| feeds.begin_commit());
            }
            Writer::Committing { before } => {
                let mut failed = self.clone();
                failed.with(|feeds, _| feeds.end_commit());
                failed.writer = Writer::Idle;
                world.writer = Writer::Visible { before, commit: world.committed.len() };
                world.committed.push(true);
                return vec![failed, world];
            }
            Writer::Visible { before, commit } => {
                world.writer = Writer::Publishing { before, after: world.header(), commit };
            }
            Writer::Publishing { before, after, commit } => {
                let mut changes = Changes::default();
                changes.tables.insert(commit.to_string().into(), TableChanges::default());
                let alone = after.follows(&before);
                world.with(|feeds, _| feeds.publish(changes, Some(before), Some(after).filter(|_| alone)));
                world.writer = Writer::Idle;
            }
        }
        vec![world]
    }

    /// The reader could not begin its transaction, and looks for something to do.
    fn failed(&self) -> Option<Self> {
        let mut world = self.clone();
        world.failures_left = self.failures_left.checked_sub(1)?;
        match std::mem::replace(&mut world.reader, Reader::Waiting) {
            Reader::Beginning { .. } => {}
            Reader::BeginningLate { changes } => world.with(|_, mailbox| mailbox.give_back(changes)),
            _ => return None,
        }
        Some(world)
    }

    /// Whether the reader can go on.
    fn step_of_reader(&mut self) -> bool {
        let again = |attempt| {
            if attempt < ATTEMPTS { Reader::Beginning { attempt: attempt + 1 } } else { Reader::TakingAll }
        };
        self.reader = match self.reader.clone() {
            Reader::Waiting => {
                let woken = self.with(|_, mailbox| mailbox.wait(Duration::ZERO));
                if woken == Woken::TimedOut && !(self.looks && self.state.taken_at != Some(self.header())) {
                    return false;
                }
                self.asked = false;
                Reader::Beginning { attempt: 1 }
            }
            Reader::Beginning { attempt } => Reader::Reading { attempt, before: self.header() },
            Reader::Reading { attempt, before } => {
                Reader::Comparing { attempt, before, seen: self.committed.len() }
            }
            Reader::Comparing { attempt, before, seen } => {
                if self.header() == before {
                    Reader::Taking { attempt, at: before, seen }
                } else {
                    again(attempt)
                }
            }
            // The wait for a commit in flight may end at any time without one.
            Reader::Taking { attempt, at, seen } => {
                match self.with(|_, mailbox| mailbox.lock().take_at(at)) {
                    Some(changes) => self.see(&changes, seen),
                    None => again(attempt),
                }
            }
            Reader::TakingAll => {
                Reader::BeginningLate { changes: self.with(|_, mailbox| mailbox.take_all()) }
            }
            Reader::BeginningLate { changes } => Reader::ReadingLate { changes, before: self.header() },
            Reader::ReadingLate { changes, before } => {
                Reader::ComparingLate { changes, before, seen: self.committed.len() }
            }
            Reader::ComparingLate { changes, before, seen } => {
                let at = Some(before).filter(|before| *before == self.header());
                Reader::CatchingUp { changes, at, seen }
            }
            Reader::CatchingUp { mut changes, at, seen } => {
                self.with(|_, mailbox| mailbox.caught_up_at(at, changes.seq));
                changes.unknown = true;
                self.see(&changes, seen)
            }
        };
        true
    }

    fn see(&mut self, changes: &Changes, seen: usize) -> Reader {
        for commit in self.seen..seen {
            let told = changes.unknown || changes.tables.contains_key(commit.to_string().as_str());
            assert!(told, "commit {commit} is in the snapshot and not told: {changes:?}\n{self:?}");
        }
        for commit in changes.tables.keys() {
            let commit: usize = commit.parse().expect("a commit");
            assert!(commit < seen, "commit {commit} is told and not in the snapshot\n{self:?}");
        }
        let own = self.committed[..seen].iter().filter(|own| **own).count();
        assert!(changes.seq.0 <= own as u64, "the snapshot passes for a later one\n{self:?}");
        self.seen = seen;
        Reader::Waiting
    }
}

/// How many worlds there are, each of which was looked at.
fn explore(first: World) -> usize {
    let mut seen: HashSet<String> = HashSet::new();
    let mut open = vec![first];
    while let Some(world) = open.pop() {
        if !seen.insert(format!("{world:?}")) {
            continue;
        }
        let next = world.steps();
        if next.is_empty() {
            assert!(!world.asked, "who asked is not heard\n{world:?}");
            assert_eq!(
                world.seen,
                world.committed.len(),
                "the reader sleeps, and has not seen all\n{world:?}"
            );
            let own = world.committed.iter().filter(|own| **own).count() as u64;
            assert_eq!(world.state.waiting.seq.0, own, "the last commit is counted");
        }
        open.extend(next);
    }
    seen.len()
}

#[test]
fn no_order_of_steps_loses_a_commit_or_a_call() {
    // Without a look at the header everything depends on being called.
    assert!(explore(World::new(3, 0, true)) > 1_000);
    assert!(explore(World::new(2, 1, true)) > 1_000);
    assert!(explore(World::new(2, 2, false)) > 1_000);
    assert!(explore(World::new(0, 2, true)) > 100);
}
