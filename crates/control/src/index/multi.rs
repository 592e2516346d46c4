//! From one key to many values.

use std::collections::{BTreeMap, BTreeSet};

/// Ordered sets by key; a key without values is not there.
#[derive(Debug)]
pub(crate) struct Multi<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Multi<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord, V: Ord> Multi<K, V> {
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The key's values, in order.
    pub(crate) fn of(&self, key: &K) -> impl Iterator<Item = &V> {
        self.0.get(key).into_iter().flatten()
    }

    /// Keys from `first` on that have values, in order.
    pub(crate) fn keys_from(&self, first: &K) -> impl Iterator<Item = &K> {
        self.0.range(first..).map(|(key, _)| key)
    }
}
