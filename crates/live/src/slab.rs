//! Things by small numbers, which are used again: in pieces, so that growing copies nothing and what is empty is given back.

use std::collections::BTreeSet;

/// The things of one piece: as many as a word has bits.
const PIECE: usize = 64;

/// What numbers stay below: the topmost bit is left to whoever keeps them. Memory ends long before.
const NUMBERS: usize = 1 << 31;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    pieces: Vec<Piece<T>>,
    /// The pieces that have room.
    roomy: BTreeSet<u32>,
    len: usize,
}

#[derive(Debug)]
struct Piece<T> {
    things: Box<[Option<T>]>,
    /// A bit for each thing that is there.
    taken: u64,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), roomy: BTreeSet::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts a thing in, and gives its number: one that no other thing has at present.
    ///
    /// # Panics
    /// When 2^31 things are there.
    pub(crate) fn insert(&mut self, thing: T) -> u32 {
        let at = self.roomy.first().copied().unwrap_or_else(|| self.add_piece());
        let piece = &mut self.pieces[at as usize];
        if piece.things.is_empty() {
            piece.things = std::iter::repeat_with(|| None).take(PIECE).collect();
        }
        let place = piece.taken.trailing_ones();
        piece.things[place as usize] = Some(thing);
        piece.taken |= 1 << place;
        if piece.taken == u64::MAX {
            self.roomy.remove(&at);
        }
        self.len += 1;
        at * PIECE as u32 + place
    }

    fn add_piece(&mut self) -> u32 {
        let at = self.pieces.len();
        assert!(at < NUMBERS / PIECE, "there are no more than {NUMBERS} numbers");
        self.pieces.push(Piece { things: Box::default(), taken: 0 });
        self.roomy.insert(at as u32);
        at as u32
    }

    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let (at, place) = split(number);
        self.pieces.get(at)?.things.get(place)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (at, place) = split(number);
        self.pieces.get_mut(at)?.things.get_mut(place)?.as_mut()
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let (at, place) = split(number);
        let piece = self.pieces.get_mut(at)?;
        let thing = piece.things.get_mut(place)?.take()?;
        piece.taken &= !(1 << place);
        if piece.taken == 0 {
            piece.things = Box::default();
        }
        self.roomy.insert(at as u32);
        self.len -= 1;
        Some(thing)
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// All of them with their numbers, which ascend.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pieces.iter().enumerate().flat_map(|(at, piece)| {
            let numbered = (at as u32 * PIECE as u32..).zip(&piece.things);
            numbered.filter_map(|(number, thing)| Some((number, thing.as_ref()?)))
        })
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pieces.iter_mut().flat_map(|piece| piece.things.iter_mut().flatten())
    }
}

const fn split(number: u32) -> (usize, usize) {
    (number as usize / PIECE, number as usize % PIECE)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_map_would(steps in prop::collection::vec((any::<bool>(), 0..300_u32), 0..600)) {
            let mut slab = Slab::default();
            let mut map = BTreeMap::new();
            for (thing, (inserts, number)) in steps.into_iter().enumerate() {
                if inserts {
                    let number = slab.insert(thing);
                    prop_assert_eq!(map.insert(number, thing), None, "the number was free");
                } else {
                    prop_assert_eq!(slab.remove(number), map.remove(&number));
                }
                prop_assert_eq!(slab.get(number), map.get(&number));
                prop_assert_eq!(slab.get_mut(number).copied(), map.get(&number).copied());
            }
            prop_assert_eq!(slab.len(), map.len());
            let listed: Vec<_> = slab.iter().map(|(number, thing)| (number, *thing)).collect();
            prop_assert_eq!(listed, map.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn numbers_are_dense_and_empty_pieces_are_given_back() {
        let mut slab = Slab::default();
        let numbers: Vec<u32> = (0..200).map(|thing| slab.insert(thing)).collect();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>());
        assert_eq!(numbers.iter().filter_map(|number| slab.remove(*number)).count(), 200);
        assert!(slab.pieces.iter().all(|piece| piece.things.is_empty()));
        assert_eq!((slab.insert(7), slab.pieces.len()), (0, 4));
    }
}
