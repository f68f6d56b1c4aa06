//! The command: the same seed in two processes, and what it says of bad input.

use std::process::{Command, Output};

use opor_testkit::{Plan, Schema, run};

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_opor-sim")).args(args).output().expect("the simulator runs")
}

#[test]
fn the_same_seed_is_the_same_run_in_every_process() {
    let args = ["--seed", "5", "--seeds", "3", "--steps", "40", "--traces"];
    let [one, other] = [0, 1].map(|_| sim(&args));
    assert!(one.status.success(), "{one:?}");
    let lines = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().take(3).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&one), lines(&other));
    let here = (5..8).map(|seed| {
        let plan = Plan { steps: 40, ..Plan::from_seed(seed) };
        format!("{seed} {:016x}", run(&plan, &Schema::default(), &plan.steps()).trace)
    });
    assert_eq!(lines(&one), here.collect::<Vec<_>>());
}

#[test]
fn what_is_no_run_is_refused_by_name() {
    let missing = sim(&["--replay", "no/such/file"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("could not read no/such/file"), "{missing:?}");
    let shape = sim(&["--topology", "tree"]);
    assert_eq!(shape.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&shape.stderr).contains("tree"), "{shape:?}");
}
