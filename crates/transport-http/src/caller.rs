//! Who asks.

use opor_transport_traits::Peer;

/// Whose request it is, as the embedding server has found out: it has checked who that is, and what they may do.
///
/// A link belongs to who opened it, and to the place where it was opened. With the id of a link alone nobody else gets at
/// it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub(crate) place: Box<str>,
    pub(crate) who: Box<str>,
    pub(crate) counted: Option<Box<str>>,
    pub(crate) peer: Peer,
}

impl Caller {
    /// A caller at a place: a room, say. `who` is what must not change from one request to the next: the subject of a
    /// token, say, or an address without its port. Links are counted by it, unless [`counted_by`](Self::counted_by) says otherwise. It
    /// may be secret.
    #[must_use]
    pub fn new(place: impl Into<Box<str>>, who: impl Into<Box<str>>) -> Self {
        let place = place.into();
        let peer = Peer::new(format!("http:{place}"));
        let who = who.into();
        Self { place, counted: Some(who.clone()), who, peer }
    }

    /// Counts links of this caller by something else than `who`: by an address where many share a token. By nothing, it is
    /// not limited how many there are.
    #[must_use]
    pub fn counted_by(mut self, counted: Option<Box<str>>) -> Self {
        self.counted = counted;
        self
    }

    /// Describes the caller: what links of it have as their peer.
    #[must_use]
    pub fn described(mut self, peer: Peer) -> Self {
        self.peer = peer;
        self
    }
}
