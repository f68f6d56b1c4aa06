//! The sync session of opor as a state machine without IO: two replicas that exchange what they wrote.
//!
//! A [`Session`] is one side of a link. It is fed with frames, with answers of the store and with the time, and says what
//! to send, to read, to store, and when to wake it. It reads no clock, holds no socket and asks for no randomness, so a
//! run with the same inputs is the same run. `docs/protocol.md` specifies the messages and their order.
//!
//! # What a driver does
//!
//! It owns the session, and has no logic of its own. After every input it polls outputs until there is none:
//!
//! | output | what to do | then |
//! |---|---|---|
//! | [`Send`](Output::Send) | give the frame to the link, without waiting for it to be taken | [`Input::Sent`] |
//! | [`Admit`](Output::Admit) | check the token; read the cursor stored for the peer | [`Input::Admitted`] or [`Input::Denied`] |
//! | [`Read`](Output::Read) | `changes(cursor, changes_max)`, then [`Echoes::strip`] | [`Input::Read`] |
//! | [`Apply`](Output::Apply) | apply, with the cursor for the peer in the same transaction | [`Input::Applied`] |
//! | [`Event`](Output::Event) | note it; after [`Event::Behind`] choose how to go on | [`Input::Restart`] |
//! | [`Close`](Output::Close) | send the farewell if the link takes it soon; close | |
//!
//! A replica that has dropped tombstones holds back ([`Input::Hold`]) a peer that has acknowledged less than the horizon for it,
//! and releases it when [`Event::Acknowledged`] has passed that.
//!
//! It reads from the link all the while, tells of every commit ([`Input::LocalCommit`]) after the answer that led to it,
//! and lets what is being stored end before it connects to the same peer again, so that the cursor is the last one.
//!
//! Both sides run the same machine. Each gives its own log and takes the other's; within a side the two halves
//! share nothing but the link, and what must not be sent back over it ([`Echoes`]).

mod assembly;
mod close;
mod codec;
mod config;
mod cursor;
mod echo;
mod event;
mod handshake;
mod inbound;
mod liveness;
mod message;
mod outbound;
mod phase;
mod requests;
mod session;
mod short;
mod time;
mod violation;

pub use close::{ByeCode, CloseReason, Refusal, Rejection, Timeout};
pub use codec::{DecodeError, Decoded, decode};
pub use config::{Config, ConfigError, Role, Timeouts};
pub use cursor::{Cursor, CursorLength};
pub use echo::Echoes;
pub use event::{Ask, Event, Found, Input, Output, RequestId, Wanted, Work};
pub use message::{
    Bye, Capabilities, DETAIL_LEN_MAX, FRAME_FLOOR, Hello, Kind, MAJOR, MINOR, Message, Offer, ROOM_LEN_MAX,
    Resume, SCHEMA_LEN_MAX, SNAPSHOT_ID_LEN_MAX, SnapshotId, TOKEN_LEN_MAX, Token,
};
pub use session::Session;
pub use time::MonoMillis;
pub use violation::Violation;
