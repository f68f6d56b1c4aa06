//! The suite: real SQLite, real files, real processes.

mod adversary;
mod compaction;
mod connections;
mod constraints;
mod convergence;
mod deviations;
mod faults;
mod feed;
mod golden;
mod histories;
mod hostile;
mod invariants;
mod live_histories;
mod model_histories;
mod processes;
mod quarantine;
mod replicas;
mod scenario;
mod schema_change;
mod schema_histories;
mod sessions;
mod shell;
mod snapshots;
mod store;
mod whole_rows;
mod writes;
