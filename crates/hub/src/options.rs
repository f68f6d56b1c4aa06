//! How a hub is set up.

use std::path::PathBuf;
use std::time::Duration;

use opor_store::OpenOptions;
use opor_sync::Timeouts;

use crate::RoomSchema;
use crate::access::Tokens;

/// How a hub is set up: where rooms live, who is let in, and how much may be asked of it.
///
/// ```
/// use opor_hub::{HubOptions, RoomSchema};
///
/// let schema = RoomSchema::parse(
///     ["CREATE TABLE todos (id TEXT PRIMARY KEY NOT NULL, title TEXT)"],
///     ["todos"],
/// )?;
/// let options = HubOptions::new("rooms").schema_for_new_rooms(schema).token("s3cret").sessions_max(100);
/// # let _ = options;
/// # Ok::<(), opor_hub::SchemaError>(())
/// ```
#[derive(Clone, Debug)]
pub struct HubOptions {
    pub(crate) data_dir: PathBuf,
    pub(crate) schema: Option<RoomSchema>,
    pub(crate) open: OpenOptions,
    pub(crate) tokens: Tokens,
    pub(crate) body_bytes_max: usize,
    pub(crate) rooms_max: usize,
    pub(crate) rooms_open_max: usize,
    pub(crate) room_idle: Duration,
    pub(crate) sessions_max: usize,
    pub(crate) sessions_per_room_max: usize,
    pub(crate) sessions_per_peer_max: usize,
    pub(crate) item_bytes_max: usize,
    pub(crate) timeouts: Timeouts,
}

impl HubOptions {
    /// A page of 10,000 changes with short values is about 2 MiB of JSON; this leaves room for large values.
    pub const BODY_BYTES_MAX: usize = 16 << 20;
    /// A directory with so many files is still quick to use, and a client that makes rooms in a loop is stopped.
    pub const ROOMS_MAX: usize = 10_000;
    /// Each open room costs three threads, three page caches of up to 2 MiB, and nine open files.
    pub const ROOMS_OPEN_MAX: usize = 128;
    /// Long enough that a phone which comes back after a minute finds its room open.
    pub const ROOM_IDLE: Duration = Duration::from_secs(300);
    /// An idle session holds some 200 KiB; what a hostile one may hold is said in `docs/operations.md`.
    pub const SESSIONS_MAX: usize = 512;
    /// So one busy room leaves places for the others.
    pub const SESSIONS_PER_ROOM_MAX: usize = 256;
    /// A family behind one address, with all its devices; a proxy in front of the hub needs more.
    pub const SESSIONS_PER_PEER_MAX: usize = 32;
    /// How soon a peer is told that it holds its own writes from here too. Whoever syncs once and leaves waits for that, or
    /// gets them all again the next time.
    pub const CURSOR_MS: u64 = 200;
    /// The log is cut between blocks of up to 32 rows, so rows may have 1 MiB on average: photos fit.
    pub const ITEM_BYTES_MAX: usize = 32 << 20;

    /// A hub whose rooms are files in `data_dir`, which is created when the first room is. Everybody is let in.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            schema: None,
            open: OpenOptions::new(),
            tokens: Tokens::default(),
            body_bytes_max: Self::BODY_BYTES_MAX,
            rooms_max: Self::ROOMS_MAX,
            rooms_open_max: Self::ROOMS_OPEN_MAX,
            room_idle: Self::ROOM_IDLE,
            sessions_max: Self::SESSIONS_MAX,
            sessions_per_room_max: Self::SESSIONS_PER_ROOM_MAX,
            sessions_per_peer_max: Self::SESSIONS_PER_PEER_MAX,
            item_bytes_max: Self::ITEM_BYTES_MAX,
            timeouts: Timeouts { cursor_ms: Self::CURSOR_MS, ..Timeouts::default() },
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

    /// Lets in who shows this bearer token, and nobody without one. Called again, each of the tokens lets in.
    #[must_use]
    pub fn token(mut self, token: impl AsRef<[u8]>) -> Self {
        self.tokens.add(token.as_ref());
        self
    }

    /// The most bytes in the body of a request.
    #[must_use]
    pub const fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// The most rooms that there may be; past it no new one is made.
    #[must_use]
    pub const fn rooms_max(mut self, rooms: usize) -> Self {
        self.rooms_max = rooms;
        self
    }

    /// The most rooms open at once, at least one; past it the room that has been idle longest is closed.
    #[must_use]
    pub const fn rooms_open_max(mut self, rooms: usize) -> Self {
        self.rooms_open_max = if rooms == 0 { 1 } else { rooms };
        self
    }

    /// A room that nobody has used for so long is closed.
    #[must_use]
    pub const fn room_idle(mut self, idle: Duration) -> Self {
        self.room_idle = idle;
        self
    }

    /// The most sync sessions at once, in all rooms.
    #[must_use]
    pub const fn sessions_max(mut self, sessions: usize) -> Self {
        self.sessions_max = sessions;
        self
    }

    /// The most sync sessions at once in one room.
    #[must_use]
    pub const fn sessions_per_room_max(mut self, sessions: usize) -> Self {
        self.sessions_per_room_max = sessions;
        self
    }

    /// The most sync sessions at once of one peer: an IPv4 address, or an IPv6 network of 64 bits. Counts where
    /// [`serve`](crate::serve()) accepted the connection.
    #[must_use]
    pub const fn sessions_per_peer_max(mut self, sessions: usize) -> Self {
        self.sessions_per_peer_max = sessions;
        self
    }

    /// The largest changeset that a session takes or sends, and so the largest row; at least 16 KiB.
    #[must_use]
    pub const fn item_bytes_max(mut self, bytes: usize) -> Self {
        self.item_bytes_max = bytes;
        self
    }

    /// How long sessions wait for their peers.
    #[must_use]
    pub const fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}
