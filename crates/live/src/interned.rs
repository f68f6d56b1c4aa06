//! Lists of names, each kept once for all who have it.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashSet;

/// With fewer lists than this, those that nobody has any more are not looked for.
const FEW: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Interned(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    lists: FxHashSet<Arc<[String]>>,
    /// How many there were when those that nobody had were last let go of.
    left: usize,
}

impl Interned {
    /// The list that is equal to this one, for all who ask for it.
    pub(crate) fn list(&self, list: &[String]) -> Arc<[String]> {
        // Nothing under the lock panics halfway through a change.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = known.lists.get(list) {
            return list.clone();
        }
        if known.lists.len() >= FEW.max(known.left * 2) {
            known.lists.retain(|list| Arc::strong_count(list) > 1);
            known.left = known.lists.len();
        }
        let list: Arc<[String]> = list.into();
        known.lists.insert(list.clone());
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_one_and_those_of_nobody_go() {
        let interned = Interned::default();
        let kept: Vec<_> = (0..100).map(|at| interned.list(&[format!("column {at}")])).collect();
        assert!(Arc::ptr_eq(&kept[3], &interned.list(&["column 3".to_owned()])));
        for at in 0..10_000 {
            interned.list(&["other".to_owned(), format!("column {at}")]);
        }
        let lists = interned.0.into_inner().expect("nobody panicked").lists;
        assert!(kept.iter().all(|list| lists.contains(list)));
        assert!(lists.len() <= 2 * kept.len() + 1, "{} lists", lists.len());
    }
}
