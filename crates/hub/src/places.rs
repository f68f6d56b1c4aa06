//! The places for sessions: how many there may be in all, in a room, and of one peer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{HubError, HubOptions, RoomName};

/// Counts the sessions.
#[derive(Debug)]
pub(crate) struct Places {
    all_max: usize,
    room_max: usize,
    peer_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    rooms: BTreeMap<RoomName, usize>,
    peers: BTreeMap<IpAddr, usize>,
}

/// A place that a session has, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    room: RoomName,
    peer: Option<IpAddr>,
}

impl Places {
    pub(crate) fn new(options: &HubOptions) -> Self {
        Self {
            all_max: options.sessions_max,
            room_max: options.sessions_per_room_max,
            peer_max: options.sessions_per_peer_max,
            taken: Mutex::default(),
        }
    }

    /// A place for a session of this peer in this room.
    ///
    /// # Errors
    /// `Full`, naming what is full.
    pub(crate) fn take(self: &Arc<Self>, room: &RoomName, peer: Option<IpAddr>) -> Result<Place, HubError> {
        let peer = peer.map(network);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let in_room = taken.rooms.get(room).copied().unwrap_or(0);
        let of_peer = peer.and_then(|peer| taken.peers.get(&peer).copied()).unwrap_or(0);
        for (what, count, max) in [
            ("hub", taken.all, self.all_max),
            ("room", in_room, self.room_max),
            ("address", of_peer, self.peer_max),
        ] {
            if count >= max {
                return Err(HubError::Full { what, max });
            }
        }
        taken.all += 1;
        taken.rooms.insert(room.clone(), in_room + 1);
        if let Some(peer) = peer {
            taken.peers.insert(peer, of_peer + 1);
        }
        Ok(Place { places: self.clone(), room: room.clone(), peer })
    }

    /// How many sessions there are.
    pub(crate) fn count(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        leave(&mut taken.rooms, &self.room);
        if let Some(peer) = &self.peer {
            leave(&mut taken.peers, peer);
        }
    }
}

fn leave<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Whoever has one IPv6 address usually has 2^64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn full(taken: Result<Place, HubError>) -> &'static str {
        match taken {
            Err(HubError::Full { what, .. }) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_limit_counts_and_what_is_left_can_be_taken() {
        let options = HubOptions::new("").sessions_max(4).sessions_per_room_max(3).sessions_per_peer_max(2);
        let places = Arc::new(Places::new(&options));
        let (a, b) = (RoomName::new("a").expect("a name"), RoomName::new("b").expect("a name"));
        let ip = |text: &str| Some(text.parse().expect("an address"));
        let first = places.take(&a, ip("10.0.0.1")).expect("a place");
        let second = places.take(&a, ip("::ffff:10.0.0.1")).expect("a place");
        assert_eq!(full(places.take(&b, ip("10.0.0.1"))), "address");
        let third = places.take(&a, ip("2001:db8::1")).expect("a place");
        assert_eq!(full(places.take(&a, ip("10.0.0.2"))), "room");
        let fourth = places.take(&b, ip("2001:db8::ffff:2")).expect("a place");
        assert_eq!(full(places.take(&b, None)), "hub");
        drop(fourth);
        let again = places.take(&b, ip("2001:db8::3")).expect("the place that was left");
        drop(third);
        assert_eq!(full(places.take(&b, ip("10.0.0.1"))), "address");
        drop((first, second, again));
        assert_eq!(places.count(), 0);
        let taken = places.taken.lock().expect("nothing panicked");
        assert!(taken.rooms.is_empty() && taken.peers.is_empty(), "{taken:?}");
    }
}
