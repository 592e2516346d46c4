//! A map of bounded size, in which those that are asked for stay: two generations, of which the old one is
//! forgotten when the young one is full.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// At most `EACH` entries in each generation.
pub(crate) struct Generations<K, V, const EACH: usize> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V, const EACH: usize> Default for Generations<K, V, EACH> {
    fn default() -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash, V, const EACH: usize> Generations<K, V, EACH> {
    /// What is kept of `key`, which is young again.
    pub(crate) fn find<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if !self.young.contains_key(key) {
            let (key, value) = self.old.remove_entry(key)?;
            self.keep(key, value);
        }
        self.young.get_mut(key)
    }

    pub(crate) fn keep(&mut self, key: K, value: V) {
        if self.young.len() >= EACH {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    pub(crate) fn take<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        // What was kept again lies in both.
        let (young, old) = (self.young.remove(key), self.old.remove(key));
        young.or(old)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_asked_for_stay_and_all_are_bounded() {
        const EACH: usize = 4;
        let mut kept = Generations::<u32, u32, EACH>::default();
        kept.keep(0, 0);
        for key in 1..10 * 4 {
            kept.keep(key, 2 * key);
            assert_eq!(kept.find(&key), Some(&mut (2 * key)));
            assert_eq!(kept.find(&0), Some(&mut 0), "{key}");
            assert!(kept.len() <= 2 * EACH);
        }
        assert_eq!(kept.find(&1), None);
    }

    #[test]
    fn what_was_taken_is_gone() {
        let mut kept = Generations::<u32, &str, 1>::default();
        kept.keep(1, "first");
        kept.keep(2, "other");
        kept.keep(1, "again");
        assert_eq!(kept.take(&1), Some("again"));
        assert_eq!(kept.take(&1), None);
        kept.keep(1, "first");
        kept.keep(2, "other");
        assert_eq!(kept.take(&1), Some("first"));
        assert_eq!(kept.take(&1), None);
    }
}
