//! The events of a run, done to the world.

use opor_core::DbVersion;
use opor_store::rusqlite::{Error, ErrorCode};
use opor_store::{CompactOptions, Store};
use opor_sync_proto::Rejection;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::event::{Event, Step};
use crate::failure::Failure;
use crate::ledger;
use crate::network::{End, Mishap};
use crate::rng::Rng;
use crate::work;
use crate::world::{Happening, World};

impl World<'_> {
    /// Lets the time of a step pass, and does its event.
    pub(crate) fn perform(&mut self, step: &Step) -> Result<(), Failure> {
        self.run_for(step.after_ms)?;
        self.operations += 1;
        self.trace.note(step.to_string().as_bytes());
        let (nodes, links) = (self.nodes.len(), self.links.len());
        match step.event {
            Event::Write { replica, seed } if replica < nodes => self.write(replica, seed),
            Event::Cut { link } if link < links => self.cut(link),
            Event::Heal { link } if link < links => {
                self.heal(link);
                Ok(())
            }
            Event::Partition { mask } => self.partition(mask),
            Event::Join => {
                (0..links)
                    .filter(|link| !self.links[*link].is_mute)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .for_each(|link| self.heal(link));
                Ok(())
            }
            Event::Mute { link } if link < links => {
                self.mute(link);
                Ok(())
            }
            Event::Hang { replica, millis } if replica < nodes => {
                self.hang(replica, millis);
                Ok(())
            }
            Event::Crash { replica, effects } if replica < nodes => self.crash_soon(replica, effects),
            Event::Restart { replica } if replica < nodes => {
                self.restart(replica);
                Ok(())
            }
            Event::Skew { replica, millis } if replica < nodes => {
                self.skew(replica, millis);
                Ok(())
            }
            Event::Drop { link, side } if link < links => self.arm(link, side, Mishap::Drop),
            Event::Duplicate { link, side } if link < links => self.arm(link, side, Mishap::Duplicate),
            Event::Swap { link, side } if link < links => self.arm(link, side, Mishap::Swap),
            Event::Compact { replica } if replica < nodes => self.compact(replica, None),
            Event::Forget { replica } if replica < nodes => self.compact(replica, Some(Duration::ZERO)),
            Event::Snapshot { link, side } if link < links => self.carry_snapshot(link, side),
            // Of a plan with more replicas.
            _ => Ok(()),
        }
    }

    /// Whether a replica runs and can be asked for something now.
    fn is_awake(&self, node: usize) -> bool {
        self.nodes[node].stores.is_some() && self.nodes[node].hung_until <= self.now
    }

    /// A transaction of the application.
    fn write(&mut self, node: usize, seed: u64) -> Result<(), Failure> {
        if !self.is_awake(node) {
            self.tally.count("write skipped");
            return Ok(());
        }
        if !self.effect(node)? {
            return Ok(());
        }
        let mut rng = Rng::new(seed);
        let parts = 1 + rng.below(ledger::PARTS_MAX);
        let (rolls_back, tx) = (rng.chance(80), seed);
        let statements = (self.schema.write)(&mut rng);
        let store = &mut self.nodes[node].stores.as_mut().expect("it runs").writer;
        match transaction(store, &statements, (tx, parts), rolls_back) {
            Ok(true) => {}
            Ok(false) => {
                self.tally.count("transaction rolled back");
                return Ok(());
            }
            Err(error) => panic!("a transaction runs: {error}: {statements:?}"),
        }
        self.tally.count("transaction");
        self.committed.insert(tx, parts);
        let version = store.db_version().expect("the version reads");
        self.note_written(node, version);
        self.committed(node, version)
    }

    /// Remembers the clocks of what was written.
    fn note_written(&mut self, node: usize, version: DbVersion) {
        let store = &self.nodes[node].stores.as_ref().expect("it runs").writer;
        let written = store.changes_since(DbVersion(version.0 - 1)).expect("changes read");
        for change in written.changes() {
            let cell =
                (change.table.to_string(), change.pk.as_bytes().to_vec(), change.cid.as_str().to_owned());
            let newest = self.newest.entry(cell).or_default();
            *newest = (change.cl.0, change.col_version.0).max(*newest);
        }
    }

    fn cut(&mut self, link: usize) -> Result<(), Failure> {
        self.tally.count("link cut");
        self.links[link].is_cut = true;
        self.lose_connections(link)
    }

    /// Both ends lose every connection of a link; frames under way are gone.
    fn lose_connections(&mut self, link: usize) -> Result<(), Failure> {
        let of_link = self.conns.iter().filter(|(_, conn)| conn.link == link).map(|(id, _)| *id);
        for conn in of_link.collect::<Vec<_>>() {
            for side in 0..2 {
                let Some(of) = self.conns.get_mut(&conn) else { continue };
                of.faulted = true;
                of.flight.iter_mut().for_each(std::collections::VecDeque::clear);
                // A replica that hangs hears of it later.
                let at = End { conn, side };
                self.schedule(0, Happening::Hangup(at));
            }
        }
        Ok(())
    }

    fn partition(&mut self, mask: u64) -> Result<(), Failure> {
        self.tally.count("partition");
        for link in 0..self.links.len() {
            let [from, to] = self.links[link].ends.map(|end| mask >> end & 1);
            if from != to {
                self.links[link].is_cut = true;
                self.lose_connections(link)?;
            }
        }
        Ok(())
    }

    pub(crate) fn heal(&mut self, link: usize) {
        let of = &mut self.links[link];
        if of.is_cut || of.is_mute {
            (of.is_cut, of.is_mute) = (false, false);
            self.connect_later(link);
        }
    }

    fn mute(&mut self, link: usize) {
        self.tally.count("link mute");
        self.links[link].is_mute = true;
        for conn in self.conns.values_mut().filter(|conn| conn.link == link) {
            conn.faulted = true;
        }
    }

    fn hang(&mut self, node: usize, millis: u64) {
        if self.nodes[node].stores.is_none() {
            return;
        }
        self.tally.count("replica hangs");
        let until = self.now + millis;
        self.nodes[node].hung_until = self.nodes[node].hung_until.max(until);
        for conn in self.conns.values_mut().filter(|conn| conn.ends.contains(&node)) {
            conn.faulted = true;
        }
    }

    fn crash_soon(&mut self, node: usize, effects: u64) -> Result<(), Failure> {
        if self.nodes[node].stores.is_none() {
            return Ok(());
        }
        if effects == 0 {
            return self.crash(node);
        }
        self.nodes[node].crash_in = Some(effects);
        Ok(())
    }

    /// A replica loses all that is not in its database.
    pub(crate) fn crash(&mut self, node: usize) -> Result<(), Failure> {
        self.tally.count("crash");
        let of = &mut self.nodes[node];
        of.crash_in = None;
        of.hung_until = self.now;
        if of.stores.take().is_none() {
            return Ok(());
        }
        let busy =
            self.conns.values().any(|conn| (0..2).any(|side| conn.ends[side] == node && conn.jobs[side] > 0));
        if busy {
            self.tally.count("crash in the middle of work");
        }
        let ids = self.conns.iter().filter(|(_, conn)| conn.ends.contains(&node)).map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            let conn = self.conns.get_mut(&id).expect("it was there just now");
            conn.faulted = true;
            let side = usize::from(conn.ends[1] == node);
            (conn.sides[side], conn.jobs[side]) = (None, 0);
            // The system of the machine closes the link.
            if !self.links[conn.link].is_mute {
                let arrival = conn.arrival[1 - side].max(self.now + 1);
                self.schedule(arrival.0 - self.now.0, Happening::Hangup(End { conn: id, side: 1 - side }));
            }
            self.leave(id);
        }
        Ok(())
    }

    pub(crate) fn restart(&mut self, node: usize) {
        if self.nodes[node].stores.is_some() {
            return;
        }
        self.tally.count("restart");
        self.nodes[node].start();
        for link in 0..self.links.len() {
            if self.links[link].ends.contains(&node) {
                self.connect_later(link);
            }
        }
    }

    fn skew(&mut self, node: usize, millis: i64) {
        let before = self.nodes[node].skew.swap(millis, Ordering::Relaxed);
        self.tally.count(if millis < before { "clock stepped back" } else { "clock stepped forwards" });
        self.skewed = true;
    }

    fn arm(&mut self, link: usize, side: usize, mishap: Mishap) -> Result<(), Failure> {
        self.links[link].mishap[side] = Some(mishap);
        Ok(())
    }

    /// Drops tombstones. Sessions with those that have not learnt of what is gone notice it when something comes of them.
    fn compact(&mut self, node: usize, retention: Option<Duration>) -> Result<(), Failure> {
        if !self.is_awake(node) || !self.effect(node)? {
            return Ok(());
        }
        let stores = self.nodes[node].stores.as_mut().expect("it runs");
        let report = stores.writer.compact_with(&CompactOptions { retention }).expect("a compaction runs");
        if report.tombstones_dropped == 0 {
            return Ok(());
        }
        self.compacted = true;
        self.forgot |= retention.is_some();
        self.tally.count(if retention.is_some() {
            "deletes forgotten"
        } else {
            "acknowledged deletes dropped"
        });
        Ok(())
    }

    fn carry_snapshot(&mut self, link: usize, side: usize) -> Result<(), Failure> {
        let ends = self.links[link].ends;
        let (target, source) = (ends[side], ends[1 - side]);
        if !self.is_awake(target) || !self.is_awake(source) {
            return Ok(());
        }
        if !self.effect(target)? {
            return Ok(());
        }
        let (giver, taker) = (self.nodes[source].site, self.nodes[target].stores.as_ref().expect("it runs"));
        if !work::is_aware(&taker.writer, giver) {
            self.tally.count("snapshot of one that is behind");
        }
        let mut given = self.nodes[source].stores.take().expect("it runs");
        let merged = work::carry_snapshot(&mut given, &mut self.nodes[target]);
        self.nodes[source].stores = Some(given);
        match merged {
            Ok(version) => {
                self.tally.count("snapshot carried");
                version.map_or(Ok(()), |version| self.committed(target, version))
            }
            Err(Rejection::Drift) if self.skewed => {
                self.tally.count("snapshot refused: clock too far ahead");
                Ok(())
            }
            Err(rejection) => panic!("a snapshot of an honest replica is taken: {rejection}"),
        }
    }
}

/// Runs a transaction; says whether it was committed.
fn transaction(
    store: &mut Store,
    statements: &[String],
    (tx, parts): (u64, u64),
    rolls_back: bool,
) -> Result<bool, Error> {
    let transaction = store.transaction()?;
    for sql in statements {
        match transaction.execute_batch(sql) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                return Ok(false);
            }
            done => done?,
        }
    }
    match ledger::enter(&transaction, tx, parts) {
        // The same write twice: a list of steps may say so.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => return Ok(false),
        done => done?,
    }
    if rolls_back {
        return Ok(false);
    }
    transaction.commit()?;
    Ok(true)
}
