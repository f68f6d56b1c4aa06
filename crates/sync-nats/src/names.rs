//! What a room is called at a broker.

use opor_core::SiteId;
use opor_transport_nats::token;

/// Streams that the rooms of one namespace share. A fixed number, the same at every replica: a broker with a stream for each
/// room spends its time on bookkeeping.
const SHARDS: u8 = 16;

/// The most bytes of a room's name, as in sessions.
pub(crate) const ROOM_MAX: usize = 128;

/// The names that belong to a room.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// The room's, as one token.
    pub(crate) room: String,
    /// The stream.
    pub(crate) stream: String,
    /// All subjects of the stream.
    pub(crate) all: String,
    /// What the replicas wrote.
    pub(crate) log: String,
    /// Pieces of what is too large for one message.
    pub(crate) part: String,
    /// Which snapshot is the newest.
    pub(crate) snapshot: String,
    /// Who makes the next one.
    pub(crate) lease: String,
    /// The bucket of snapshots.
    pub(crate) bucket: String,
    /// Under these the places in the room's log are kept in the database.
    pub(crate) keys: Keys,
}

/// Sites that are nobody's: what is kept of a room in the database is kept as if the room were a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    /// How far the room's log has been read.
    pub(crate) inbox: SiteId,
    /// How far our own log has been published.
    pub(crate) outbox: SiteId,
    /// Where something was left out that may fit later.
    pub(crate) hole: SiteId,
}

impl Names {
    pub(crate) fn new(namespace: &str, room: &str) -> Self {
        let shard = blake3::hash(room.as_bytes()).as_bytes()[0] % SHARDS;
        let room = token(room);
        let head = format!("{namespace}.room.{shard:02}");
        let key = |kind: &str| {
            let hash = blake3::hash(format!("opor room {kind} {namespace} {room}").as_bytes());
            SiteId::new(&hash.as_bytes()[..16]).expect("16 bytes are a site id")
        };
        Self {
            stream: format!("{namespace}-rooms-{shard:02}"),
            all: format!("{head}.>"),
            log: format!("{head}.{room}.log"),
            part: format!("{head}.{room}.part"),
            snapshot: format!("{head}.{room}.snapshot"),
            lease: format!("{head}.{room}.lease"),
            bucket: format!("{namespace}-snapshots"),
            keys: Keys { inbox: key("inbox"), outbox: key("outbox"), hole: key("hole") },
            room,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_for_ever_and_no_two_rooms_share_any() {
        let names = Names::new("opor", "the garden");
        assert_eq!(names.log, "opor.room.06.the=20garden.log");
        assert_eq!((&*names.stream, &*names.all), ("opor-rooms-06", "opor.room.06.>"));
        let other = Names::new("opor", "the=20garden");
        assert_ne!((&names.log, names.keys.inbox), (&other.log, other.keys.inbox));
        assert_ne!(names.keys.inbox, names.keys.outbox);
    }
}
