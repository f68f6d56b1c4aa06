//! How a hub is set up.

use std::path::PathBuf;

use opor_store::OpenOptions;

use crate::RoomSchema;

/// How a hub is set up: where rooms live and how much a request may ask of it.
///
/// ```
/// use opor_hub::{HubOptions, RoomSchema};
///
/// let schema = RoomSchema::parse(
///     ["CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, title TEXT)"],
///     ["todos"],
/// )?;
/// let options = HubOptions::new("rooms").schema_for_new_rooms(schema).body_bytes_max(1 << 20);
/// # let _ = options;
/// # Ok::<(), opor_hub::SchemaError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HubOptions {
    pub(crate) data_dir: PathBuf,
    pub(crate) schema: Option<RoomSchema>,
    pub(crate) open: OpenOptions,
    pub(crate) body_bytes_max: usize,
    pub(crate) rooms_open_max: usize,
}

impl HubOptions {
    /// A page of 10,000 changes with short values is about 2 MiB of JSON; this leaves room for large values.
    pub const BODY_BYTES_MAX: usize = 16 << 20;
    /// Each open room costs a thread and a page cache of a few MiB.
    pub const ROOMS_OPEN_MAX: usize = 128;

    /// A hub whose rooms are files in `data_dir`, which is created when the first room is.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            schema: None,
            open: OpenOptions::new(),
            body_bytes_max: Self::BODY_BYTES_MAX,
            rooms_open_max: Self::ROOMS_OPEN_MAX,
        }
    }

    /// The schema of a room that is asked for and does not exist: it is then created. Without one, a room exists once
    /// its schema has been put.
    #[must_use]
    pub fn schema_for_new_rooms(mut self, schema: RoomSchema) -> Self {
        self.schema = Some(schema);
        self
    }

    /// How the databases of rooms are opened: clock policy, drift bound.
    #[must_use]
    pub fn open_options(mut self, open: OpenOptions) -> Self {
        self.open = open;
        self
    }

    /// The most bytes in the body of a request.
    #[must_use]
    pub const fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// The most rooms open at once, at least one; past it the room that has been idle longest is closed.
    #[must_use]
    pub const fn rooms_open_max(mut self, rooms: usize) -> Self {
        self.rooms_open_max = if rooms == 0 { 1 } else { rooms };
        self
    }
}
