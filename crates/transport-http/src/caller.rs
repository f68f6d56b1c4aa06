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
    pub(crate) peer: Peer,
}

impl Caller {
    /// A caller at a place: a room, say. `who` is what must not change from one request to the next: the subject of a
    /// token, say, or an address without its port. Links are counted by it. It may be secret.
    #[must_use]
    pub fn new(place: impl Into<Box<str>>, who: impl Into<Box<str>>) -> Self {
        let place = place.into();
        let peer = Peer::new(format!("http:{place}"));
        Self { place, who: who.into(), peer }
    }

    /// Describes the caller: what links of it have as their peer.
    #[must_use]
    pub fn described(mut self, peer: Peer) -> Self {
        self.peer = peer;
        self
    }
}
