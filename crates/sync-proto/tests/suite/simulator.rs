//! Many replicas, bad links, crashes: whatever happens, in the end all hold the same.
//!
//! `OPOR_SEED` repeats one run, `OPOR_SEEDS` changes how many there are.

use opor_core::Value;
use opor_sync_proto::{Capabilities, CloseReason, Rejection, Timeouts};

use crate::rng::Rng;
use crate::world::{Conditions, Tally, World};

/// Steps that a run may take until it is quiet: many times what the longest one takes. A session that sends for ever
/// runs out of it.
const BUDGET: u64 = 200_000;

/// Quick enough that stalls and silences happen within a run.
const IMPATIENT: Timeouts =
    Timeouts { handshake_ms: 3_000, keepalive_ms: 2_000, idle_ms: 6_000, stall_ms: 20_000, cursor_ms: 1_000 };

/// Who is linked with whom.
fn links(shape: u64) -> &'static [(usize, usize)] {
    match shape {
        // A hub, a line, a ring, and a pair that is linked twice.
        0 => &[(0, 1), (0, 2), (0, 3)],
        1 => &[(0, 1), (1, 2), (2, 3)],
        2 => &[(0, 1), (1, 2), (2, 3), (3, 0)],
        _ => &[(0, 1), (1, 0), (1, 2), (2, 3)],
    }
}

fn world(seed: u64, conditions: Conditions) -> World {
    let mut world = World::new(seed, 4, conditions);
    for config in &mut world.configs {
        config.timeouts = IMPATIENT;
        config.frame_max = 16 << 10;
        config.item_max = 64 << 10;
        config.window = (64 << 10) + world.rng.below(64 << 10) as usize;
        config.changes_max = 1 + world.rng.below(30) as usize;
        if world.rng.chance(700) {
            config.capabilities = config.capabilities.with(Capabilities::SNAPSHOT);
        }
        world.tally.count("configured");
    }
    for replica in &mut world.replicas {
        replica.has_snapshots = world.rng.chance(800);
    }
    world
}

/// A value; some are larger than a frame.
fn value(rng: &mut Rng) -> Value {
    match rng.below(20) {
        0 => Value::Blob((0..rng.below(5_000)).flat_map(|_| rng.bits().to_be_bytes()).collect()),
        1..8 => Value::Integer(rng.below(1_000) as i64),
        _ => Value::Text(format!("value {}", rng.below(1_000))),
    }
}

fn commit(world: &mut World) {
    let node = world.rng.below(4) as usize;
    let count = if world.rng.chance(50) { 40 } else { 1 + world.rng.below(3) };
    let rows: Vec<_> = (0..count).map(|_| (world.rng.below(200) as i64, value(&mut world.rng))).collect();
    world.commit(node, rows);
}

/// A run: commits, cuts, crashes and cut histories for a while, then peace; all replicas end up equal.
fn run(seed: u64) -> World {
    let mut rng = Rng(seed);
    let broken = rng.chance(300);
    let conditions = Conditions {
        delay: (1, 1 + rng.below(400)),
        take: (0, rng.below(50)),
        read: (0, rng.below(50)),
        apply: (0, rng.below(200)),
        reconnect: (10, 10 + rng.below(3_000)),
        lost: if broken { 20 } else { 0 },
        repeated: if broken { 20 } else { 0 },
        overtaking: if broken { 20 } else { 0 },
    };
    let mut world = world(seed, conditions);
    (0..rng.below(60)).for_each(|_| commit(&mut world));
    for (from, to) in links(rng.below(4)) {
        world.link(*from, *to, true);
    }
    for _ in 0..120 {
        match rng.below(40) {
            0 => world.cut(rng.below(world.links.len() as u64) as usize),
            1 => world.crash(rng.below(4) as usize),
            2 if rng.chance(300) => world.replicas[rng.below(4) as usize].cut_history(),
            3 => {
                let link = rng.below(world.links.len() as u64) as usize;
                world.links[link].is_mute = !world.links[link].is_mute;
            }
            4..20 => commit(&mut world),
            _ => {}
        }
        world.run_for(rng.below(800));
    }
    settle(&mut world, seed);
    world
}

/// No more faults: links are made again, and replicas come to rest and agree.
fn settle(world: &mut World, seed: u64) {
    world.links.iter_mut().for_each(|link| link.is_mute = false);
    world.conditions = Conditions { lost: 0, repeated: 0, overtaking: 0, ..world.conditions };
    // What a broken transport lost is noticed by timeouts; after the last reconnection nothing ends any more.
    world.run_for(60_000);
    let ended: usize = world.links.iter().map(|link| link.ended.len()).sum();
    assert!(world.run_quiet(BUDGET), "seed {seed} does not come to rest");
    world.run_for(30_000);
    let now: usize = world.links.iter().map(|link| link.ended.len()).sum();
    assert_eq!(ended, now, "seed {seed}: a healthy link was closed");
    world.check_converged();
    for link in &world.links {
        for end in link.sides.iter() {
            assert!(end.as_ref().is_some_and(|side| side.session.is_open()), "seed {seed}: a link is down");
        }
    }
}

/// The number in a variable of the environment.
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn all_replicas_end_up_equal() {
    if let Some(seed) = variable("OPOR_SEED") {
        run(seed);
        return;
    }
    let mut all = Tally::default();
    let mut rows = 0;
    for seed in 0..variable("OPOR_SEEDS").unwrap_or(200).max(200) {
        let world = run(seed);
        rows += world.replicas[0].cells.len();
        for (what, count) in &world.tally.0 {
            *all.0.entry(what).or_default() += count;
        }
        let stripped: usize = world.replicas.iter().map(|replica| replica.stripped).sum();
        *all.0.entry("stripped").or_default() += stripped as u64;
        for reason in world.links.iter().flat_map(|link| &link.ended) {
            all.count(match reason {
                CloseReason::LinkClosed => "ended: link closed",
                CloseReason::Violation(_) => "ended: violation",
                CloseReason::Timeout(_) => "ended: timeout",
                CloseReason::Rejected(Rejection::Snapshot) => "ended: snapshot taken twice at once",
                CloseReason::Peer(_) => "ended: peer left",
                other => panic!("seed {seed}: {other}"),
            });
        }
    }
    assert!(rows > 15_000, "{rows}");
    // A run in which a fault did not happen proves nothing about it.
    for what in [
        "cut",
        "crash",
        "lost in a crash",
        "lost",
        "mute",
        "repeated",
        "overtaking",
        "behind",
        "install",
        "stripped",
        "Hello",
        "Pull",
        "Fetch",
        "Changes",
        "Chunk",
        "Part",
        "Ack",
        "Behind",
        "Offer",
        "Ping",
        "Pong",
        "ended: link closed",
        "ended: violation",
        "ended: timeout",
        "ended: peer left",
    ] {
        assert!(all.of(what) >= 20, "{what} happened {} times: {all:?}", all.of(what));
    }
}

/// Links that only lose what they have to: where no fault is, no session ends.
#[test]
fn healthy_links_stay_open_under_load() {
    for seed in 0..20 {
        let conditions =
            Conditions { delay: (1, 300), take: (0, 40), read: (0, 40), apply: (0, 300), ..Conditions::CALM };
        let mut world = world(seed, conditions);
        for (from, to) in links(seed % 4) {
            world.link(*from, *to, false);
        }
        for _ in 0..300 {
            commit(&mut world);
            let pause = world.rng.below(200);
            world.run_for(pause);
        }
        assert!(world.run_quiet(BUDGET));
        world.check_converged();
        assert!(world.links.iter().all(|link| link.ended.is_empty()), "seed {seed}");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [7, 8, 9] {
        let (one, other) = (run(seed), run(seed));
        assert_eq!((one.trace, &one.tally, one.now), (other.trace, &other.tally, other.now));
        assert_ne!(one.trace, run(seed + 100).trace);
    }
}
