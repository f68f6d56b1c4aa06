//! What the suite and its helper program share: typed values as JSON, rows of `crsql_changes`, seeded randomness, the
//! statements of random histories, and a model of cr-sqlite's clocks to compare an engine with.

mod changes;
mod json;
mod model;
mod rng;
mod shape;
mod sql;
mod workload;

pub use changes::{ChangeRow, apply_row, changes_since};
pub use json::{change_from_json, change_to_json, hex, unhex, value_from_json, value_to_json};
pub use model::{Model, Refused};
pub use rng::Rng;
pub use shape::{SHAPES, Shape};
pub use sql::{literal, message, quote, rows_of, run, sql_value, table_dump};
pub use workload::{Filter, InsertMode, Statement, random_change, random_statement};
