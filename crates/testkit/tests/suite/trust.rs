//! That a run is what its plan says: the same every time, calm where it is to be calm, and that it finds what is wrong.

use opor_testkit::{Clocks, Event, Faults, Invariant, Plan, Replay, Schema, Step, Topology, run, shrink};

fn calm(seed: u64, topology: Topology, clocks: Clocks) -> Plan {
    let plan = Plan::from_seed(seed);
    Plan { topology, clocks, replicas: 4, steps: 60, late: 0, faults: Faults::NONE, ..plan }
}

#[test]
fn the_same_plan_is_the_same_run() {
    let schema = Schema::default();
    for seed in [3, 4, 5] {
        let plan = Plan { steps: 80, ..Plan::from_seed(seed) };
        let [one, other] = [0, 1].map(|_| run(&plan, &schema, &plan.steps()));
        assert_eq!((one.trace, one.operations, one.lasted), (other.trace, other.operations, other.lasted));
        assert_eq!(one.tally, other.tally);
        let plan = Plan { seed: seed + 100, ..plan };
        assert_ne!(one.trace, run(&plan, &schema, &plan.steps()).trace);
    }
}

#[test]
fn where_nothing_goes_wrong_no_session_ends() {
    let schema = Schema::default();
    for (seed, topology) in Topology::ALL.into_iter().enumerate() {
        for clocks in Clocks::ALL {
            let plan = calm(seed as u64, topology, clocks);
            let report = run(&plan, &schema, &plan.steps());
            assert_eq!(report.failure, None, "{plan}");
            assert_eq!(report.tally.of("connection"), topology.links(4).len() as u64);
            assert!(report.tally.of("transaction") > 20, "{}", report.tally);
            for ended in ["ended: link closed", "ended: peer left", "ended: timeout"] {
                assert_eq!(report.tally.of(ended), 0);
            }
        }
    }
}

/// A query that must find nothing, and finds something as soon as one of many writes is there.
#[test]
fn a_failure_is_made_short_and_fails_again_when_it_is_read() {
    let create = "CREATE TABLE t(id INTEGER PRIMARY KEY NOT NULL, v)";
    let write = |rng: &mut opor_testkit::Rng| {
        vec![format!("INSERT OR IGNORE INTO t VALUES ({}, {})", rng.below(20), rng.below(5))]
    };
    let schema = Schema::new(create, &["t"], write).never("SELECT 1 FROM t WHERE id = 7");
    let plan = Plan { changes_max: Plan::WHOLE, ..Plan::from_seed(11) };
    let steps = plan.steps();
    let shrunk = shrink(&plan, &schema, &steps, 500).expect("somebody writes row 7");
    assert_eq!(shrunk.failure.invariant, Invariant::Schema);
    assert!(steps.len() > 20, "{}", steps.len());
    let [Step { event: Event::Write { .. }, .. }] = shrunk.steps[..] else { panic!("{:?}", shrunk.steps) };
    let text = Replay { plan, steps: shrunk.steps }.to_string();
    let Replay { plan, steps } = text.parse().expect("it is read as it was written");
    assert_eq!(run(&plan, &schema, &steps).failure, Some(shrunk.failure));
}

/// A trigger that runs at every replica, and writes what is not recorded: replicas differ by one for each merge on the way.
#[test]
fn replicas_that_differ_are_told_apart() {
    let create = "CREATE TABLE t(id INTEGER PRIMARY KEY NOT NULL, v, w DEFAULT 0);
        CREATE TRIGGER t_upset AFTER UPDATE OF v ON t BEGIN UPDATE t SET w = w + 1 WHERE id = new.id; END;";
    let write = |rng: &mut opor_testkit::Rng| {
        let (id, v) = (rng.below(6), rng.below(100));
        vec![format!("INSERT INTO t(id, v) VALUES ({id}, {v}) ON CONFLICT DO UPDATE SET v = excluded.v")]
    };
    let schema = Schema::new(create, &["t"], write);
    let found = (0..20).find_map(|seed| {
        let plan = Plan { faults: Faults { cut: 100, ..Faults::NONE }, ..Plan::from_seed(seed) };
        run(&plan, &schema, &plan.steps()).failure
    });
    assert_eq!(found.map(|failure| failure.invariant), Some(Invariant::Convergence));
}

#[test]
fn steps_of_another_plan_do_nothing_bad() {
    let plan = calm(1, Topology::Chain, Clocks::Hybrid);
    let strangers = [
        Event::Write { replica: 70, seed: 1 },
        Event::Cut { link: 70 },
        Event::Heal { link: 0 },
        Event::Restart { replica: 0 },
        Event::Write { replica: 1, seed: 9 },
        Event::Write { replica: 1, seed: 9 },
        Event::Crash { replica: 9, effects: 0 },
    ];
    let steps: Vec<_> = strangers.into_iter().map(|event| Step { after_ms: 1, event }).collect();
    let report = run(&plan, &Schema::default(), &steps);
    assert_eq!(report.failure, None);
}
