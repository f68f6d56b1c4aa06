//! What the genuine cr-sqlite 0.16.3 did, replayed: every recording, and the list of those where ours differs on purpose.

use crate::scenario;

/// Recordings of a fault that ours does not have. Each has a test of what ours does instead, in `deviations.rs`.
const DEVIATIONS: &[(&str, &str)] = &[
    ("alter_delete_rows", "a row deleted inside an alter leaves a tombstone, so that peers lose it too"),
    ("alter_update_existing_untracked", "an update inside an alter is tracked, so that sites converge"),
    ("local_update_noop", "an update that changes nothing takes no db_version"),
    ("pk_collate_nocase", "a row has one identity, whatever the collation of its key"),
    ("pk_update_delta_sync", "values that moved to a new key reach peers that pull only what is new"),
    (
        "tie_remote_affinity",
        "a value is compared as it would be stored, so that a second delivery is a no-op",
    ),
];

/// Recordings that are not marked as a fault, yet show one.
const UNMARKED_DEVIATIONS: &[(&str, &str)] =
    &[("alter_without_begin", "a plain ALTER TABLE is tracked; the genuine one then refuses every UPDATE")];

#[test]
fn every_recording_replays() {
    let mut failures = Vec::new();
    let scenarios = scenario::all();
    assert_eq!(scenarios.len(), 117, "all recordings are here");
    for scenario in &scenarios {
        let differences = scenario.differences();
        match (is_listed(&scenario.name), differences.is_empty()) {
            (false, false) => failures.push(format!("{}\n{}", scenario.name, differences.join("\n"))),
            (true, true) => failures.push(format!("{} is listed as a deviation and is none", scenario.name)),
            (false, true) | (true, false) => {}
        }
    }
    assert!(failures.is_empty(), "{} recordings differ\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn only_faults_may_deviate() {
    for scenario in scenario::all() {
        let listed = DEVIATIONS.iter().any(|(name, _)| *name == scenario.name);
        assert!(!listed || scenario.quirk.is_some(), "{} is not marked as a fault", scenario.name);
    }
}

fn is_listed(name: &str) -> bool {
    DEVIATIONS.iter().chain(UNMARKED_DEVIATIONS).any(|(listed, _)| *listed == name)
}
