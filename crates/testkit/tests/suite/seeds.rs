//! A hundred thousand operations, with every kind of fault among them.

use opor_testkit::{Faults, Plan, Replay, Schema, Tally, Topology, run, shrink};

/// In each run of the tests.
const OPERATIONS: u64 = 100_000;
/// Runs that are spent on making a failure short.
const SHRINK_RUNS: usize = 300;

/// What must have happened: a run in which it did not proves little.
const SOMETIMES: [&str; 33] = [
    "transaction",
    "transaction rolled back",
    "merge",
    "caught up",
    "link cut",
    "partition",
    "link mute",
    "frame swallowed",
    "frame lost",
    "frame duplicated",
    "frames swapped",
    "replica hangs",
    "crash",
    "crash in the middle of work",
    "job lost in a crash",
    "restart",
    "clock stepped back",
    "clock stepped forwards",
    "acknowledged deletes dropped",
    "deletes forgotten",
    "behind the horizon",
    "peer held",
    "both held",
    "piece of a snapshot",
    "snapshot installed",
    "snapshot carried",
    "ended: clock too far ahead",
    "ended: frames out of order",
    "ended: link closed",
    "ended: peer left",
    "ended: timeout",
    "write skipped",
    "acknowledgement noted",
];

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Plays a seed; a failure is made short and printed.
#[track_caller]
fn play(seed: u64, schema: &Schema) -> opor_testkit::Report {
    play_plan(Plan::from_seed(seed), schema)
}

#[track_caller]
fn play_plan(plan: Plan, schema: &Schema) -> opor_testkit::Report {
    let seed = plan.seed;
    let steps = plan.steps();
    let report = run(&plan, schema, &steps);
    if let Some(failure) = &report.failure {
        let steps = shrink(&plan, schema, &steps, SHRINK_RUNS).map_or(steps, |shrunk| shrunk.steps);
        panic!("seed {seed}: {failure}\n{}", Replay { plan, steps });
    }
    report
}

/// Deletes are forgotten four times as often, and half of the leaves of a star meet the hub when they have forgotten some.
#[test]
fn those_who_forget_often_and_meet_late_end_up_equal() {
    let schema = Schema::default();
    let mut all = Tally::default();
    for seed in 0..40 {
        let plan = Plan::from_seed(seed);
        let faults = Faults { compact: 120, ..plan.faults };
        let plan = Plan { topology: Topology::Star, replicas: 4, late: 2, faults, ..plan };
        all.add(&play_plan(plan, &schema).tally);
    }
    for what in ["both held", "snapshot installed", "deletes forgotten"] {
        assert!(all.of(what) >= 5, "{what} happened {} times: {all}", all.of(what));
    }
}

#[test]
fn replicas_end_up_equal_and_lose_nothing() {
    let schema = Schema::default();
    if let Some(seed) = variable("OPOR_SEED") {
        play(seed, &schema);
        return;
    }
    let wanted = variable("OPOR_OPS").unwrap_or(OPERATIONS).max(OPERATIONS);
    let (mut all, mut operations, mut seed) = (Tally::default(), 0, 0);
    while operations < wanted {
        let report = play(seed, &schema);
        all.add(&report.tally);
        operations += report.operations;
        seed += 1;
    }
    for what in SOMETIMES {
        assert!(all.of(what) >= 3, "{what} happened {} times in {seed} runs: {all}", all.of(what));
    }
}
