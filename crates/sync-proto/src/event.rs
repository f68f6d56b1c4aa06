//! What goes into a session and what comes out.

use std::fmt;

use opor_core::DbVersion;

use crate::close::{CloseReason, Refusal, Rejection};
use crate::cursor::Cursor;
use crate::echo::Echoes;
use crate::message::{Hello, Offer, Resume, SnapshotId};

/// Which request an answer belongs to. Numbered from 0 within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub(crate) u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the driver tells a session.
#[derive(Debug)]
pub enum Input<'a> {
    /// A frame came from the peer.
    Message(&'a [u8]),
    /// The link took the frame of the last [`Output::Send`]; the next one may come.
    Sent,
    /// Answers [`Output::Admit`]: the peer is let in, and this is what is asked of it.
    Admitted(Ask),
    /// Answers [`Output::Admit`]: the peer is not let in.
    Denied(Refusal),
    /// Answers [`Output::Read`].
    Read {
        /// The request.
        req: RequestId,
        /// What was read.
        found: Found,
    },
    /// Answers [`Output::Apply`]: it is durable.
    Applied {
        /// The request.
        req: RequestId,
        /// The version that the merge took here, if it changed anything. What is of this version is not sent back to
        /// the peer; so tell it before the [`Input::LocalCommit`] of the merge. For a snapshot: none where versions may
        /// have been numbered anew, or where the merge also wrote something that the peer lacks; then everything is sent.
        version: Option<DbVersion>,
    },
    /// Answers [`Output::Apply`]: it cannot be taken, and nothing of it is stored. Ends the session.
    Rejected {
        /// The request.
        req: RequestId,
        /// Why.
        rejection: Rejection,
    },
    /// Something was committed here: by the application, or by a merge from any peer.
    LocalCommit,
    /// The store of this side cannot do what was asked of it. Ends the session.
    StoreFailed,
    /// Answers [`Event::Behind`].
    Restart(Ask),
    /// Takes no more of the peer's log than was allowed already, until [`Input::Release`]. Directly after
    /// [`Input::Admitted`] it takes nothing. A replica that has dropped tombstones needs this for a peer that has not
    /// learnt of those deletes: what the peer still holds must not be pulled before it has merged a snapshot.
    ///
    /// While it lasts, [`Event::Behind`] is withheld from the side with the greater site id, so that the other one takes a
    /// snapshot first. Asking for a snapshot releases too.
    Hold,
    /// Takes the peer's log again.
    Release,
    /// Ends the session, with a goodbye.
    Shutdown,
    /// The link is gone. Ends the session.
    Closed,
}

/// What is asked of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Its log, after a cursor that it gave; from the start, when there is none.
    Log(Option<Cursor>),
    /// A snapshot, best the one of which some chunks are held.
    Snapshot(Option<Resume>),
}

/// What the store found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A piece of the log.
    Batch {
        /// The changeset in its binary form; no bytes where there is no change.
        changeset: Vec<u8>,
        /// Where the next piece begins.
        cursor: Cursor,
        /// Whether all that is committed has now been read.
        done: bool,
    },
    /// The history that the cursor continues is gone; or the cursor, which the peer names, is none of this store.
    Behind,
    /// A snapshot.
    Snapshot {
        /// Which.
        offer: Offer,
        /// What the receiver checks its chunks with.
        manifest: Vec<u8>,
    },
    /// There is no snapshot to give.
    NoSnapshot,
    /// A chunk of the snapshot.
    Chunk(Vec<u8>),
}

/// What a session wants of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The session is over: send the farewell if the link takes it soon, then close. Nothing comes after this.
    Close {
        /// Why.
        reason: CloseReason,
        /// The last frame.
        farewell: Option<Vec<u8>>,
    },
    /// The peer said who it is. Check its token, and its room where the session has none of its own; then answer with
    /// [`Input::Admitted`] and the cursor that is stored for this peer, or [`Input::Denied`].
    Admit(Box<Hello>),
    /// Store this, and answer with [`Input::Applied`] once it is durable. There is one at a time.
    Apply {
        /// To answer with.
        req: RequestId,
        /// What to store.
        work: Work,
    },
    /// Read this, and answer with [`Input::Read`]. There is one at a time.
    Read {
        /// To answer with.
        req: RequestId,
        /// What to read.
        wanted: Wanted,
    },
    /// Something to know.
    Event(Event),
    /// Send this frame, and answer with [`Input::Sent`] once the link took it. There is one at a time.
    Send(Vec<u8>),
}

/// What to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Merge a changeset, and store the cursor for the peer in the same transaction.
    Changes {
        /// The changeset in its binary form; no bytes where only the cursor moved.
        changeset: Vec<u8>,
        /// The cursor.
        cursor: Cursor,
    },
    /// A snapshot is about to come: keep its manifest and make a place for it. Where it begins at a chunk that is not the
    /// first, the earlier ones are held.
    Offer {
        /// Which snapshot.
        offer: Offer,
        /// Its manifest.
        manifest: Vec<u8>,
    },
    /// A chunk of it: check it against the manifest and keep it.
    Chunk {
        /// Which.
        index: u64,
        /// The chunk.
        bytes: Vec<u8>,
    },
    /// The snapshot is whole: check it, merge it or put it in place, and store the cursor of its offer for the peer.
    Install(Offer),
}

/// What to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The next piece of the log: [`Found::Batch`] or [`Found::Behind`].
    Log {
        /// After this; from the start, when there is none.
        cursor: Option<Cursor>,
        /// About how many changes at most.
        changes_max: usize,
        /// What came from the peer itself: leave it out ([`Echoes::strip`]).
        echoes: Echoes,
        /// Whether the peer reads zstd.
        compress: bool,
        /// Both sides hold each other back. A cursor, or the want of one, that does not show that the peer has learnt of the
        /// deletes for which it is held is then answered with [`Found::Behind`].
        standoff: bool,
    },
    /// A snapshot of the whole: [`Found::Snapshot`] or [`Found::NoSnapshot`]. It stays until the session reads the log
    /// or closes.
    Snapshot {
        /// The one that the peer has begun to take, if there still is such a one.
        resume: Option<Resume>,
        /// The most bytes that the manifest or a chunk may have.
        item_max: u64,
    },
    /// A chunk of the snapshot offered last: [`Found::Chunk`].
    Chunk {
        /// The snapshot.
        id: SnapshotId,
        /// Which.
        index: u64,
    },
}

/// Something to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Both sides have let each other in.
    Open,
    /// All that the peer had committed when it last read is durable here.
    CaughtUp,
    /// The peer holds what this replica committed up to this cursor of its own.
    Acknowledged(Cursor),
    /// The peer does not send its log after the cursor it was asked with: that history is gone, or a snapshot is the shorter
    /// way. Nothing comes until [`Input::Restart`]. A replica that
    /// holds rows should take a snapshot: starting over does not bring deletes that are no longer on record.
    Behind {
        /// Whether a snapshot can be asked for.
        snapshot: bool,
    },
}
