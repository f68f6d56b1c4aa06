//! The vocabulary and the rules of opor: what a change is, which of two changes wins, and how changes travel.
//!
//! Nothing here reads a clock, a file or a global: time arrives as an argument ([`WallMillis`]), bytes as slices.
//!
//! ```
//! use opor_core::{Change, Changeset, Cid, PackedKey, SiteId, Value};
//!
//! let mut changeset = Changeset::new();
//! changeset.push(Change {
//!     table: "todos".into(),
//!     pk: PackedKey::pack(&[Value::Integer(1)]),
//!     cid: Cid::Column("title".into()),
//!     val: Value::Text("buy milk".into()),
//!     col_version: 1.into(),
//!     db_version: 1.into(),
//!     site_id: SiteId::from([7; 16]),
//!     cl: 1.into(),
//!     seq: 0,
//! });
//! assert_eq!(changeset.changes().count(), 1);
//! ```

mod bytes_text;
mod change;
mod changeset;
mod hlc;
mod json;
mod key;
mod limits;
mod merge;
mod site;
mod value;
mod version;
mod wire;

pub use change::{Change, Cid};
pub use changeset::{Cell, Changeset, Clock, RowChange, TableHeader};
pub use hlc::{ClockDrift, Hlc, HybridClock, WallMillis};
pub use json::{FieldFault, JsonError};
pub use key::{KeyError, PackedColumn, PackedKey};
pub use limits::{Breach, InvalidChange, Limits, Validation};
pub use merge::{EqualValues, Incoming, LocalRow, Outcome, decide};
pub use site::{SiteId, SiteIdError};
pub use value::{Value, ValueRef};
pub use version::{CausalLength, ColVersion, DbVersion};
pub use wire::{DecodeError, DecodeLimits, DeltaError, EncodeOptions, apply_delta, delta};
