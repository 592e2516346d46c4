//! The newest version of something, published by one writer to any number of readers.
//!
//! Readers take no lock: a load is one atomic operation and they keep what they loaded for as long
//! as they use it. Those who wait for changes see the newest version, not every one.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

/// The reading side; clones read the same.
pub struct Snapshot<T> {
    cell: Arc<ArcSwap<T>>,
    generation: watch::Receiver<u64>,
}

/// The writing side. There is one, and it cannot be cloned.
pub struct SnapshotWriter<T> {
    cell: Arc<ArcSwap<T>>,
    generation: watch::Sender<u64>,
}

/// Tells of new versions.
#[derive(Debug)]
pub struct Published(watch::Receiver<u64>);

impl<T> Snapshot<T> {
    /// A cell that shows `initial` until the writer publishes.
    pub fn new(initial: T) -> (SnapshotWriter<T>, Self) {
        let cell = Arc::new(ArcSwap::from_pointee(initial));
        let (sender, generation) = watch::channel(0);
        let writer = SnapshotWriter {
            cell: Arc::clone(&cell),
            generation: sender,
        };
        (writer, Self { cell, generation })
    }

    /// The newest version, for the length of one decision. Cheap; takes no lock.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.cell.load()
    }

    /// The newest version, to be kept.
    pub fn load_full(&self) -> Arc<T> {
        self.cell.load_full()
    }

    /// How often the writer has published.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Tells of versions published from now on.
    pub fn subscribe(&self) -> Published {
        let mut receiver = self.generation.clone();
        receiver.mark_unchanged();
        Published(receiver)
    }
}

impl<T> SnapshotWriter<T> {
    /// Makes `next` visible to every load that begins after this returns.
    pub fn publish(&mut self, next: Arc<T>) {
        self.cell.store(next);
        self.generation
            .send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    /// Another reading side, also when all others are gone.
    pub fn snapshot(&self) -> Snapshot<T> {
        Snapshot {
            cell: Arc::clone(&self.cell),
            generation: self.generation.subscribe(),
        }
    }
}

impl Published {
    /// Waits until something was published since the last call (or since `subscribe`). False when
    /// the writer is gone, so that nothing will be published again.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self {
            cell: Arc::clone(&self.cell),
            generation: self.generation.clone(),
        }
    }
}

impl<T> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshot(generation {})", self.generation())
    }
}

impl<T> fmt::Debug for SnapshotWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SnapshotWriter(generation {})",
            *self.generation.borrow()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_see_the_newest_and_readers_keep_what_they_loaded() {
        let (mut writer, snapshot) = Snapshot::new(1);
        let mut published = snapshot.subscribe();
        let held = snapshot.load();
        writer.publish(Arc::new(2));
        writer.publish(Arc::new(3));
        assert_eq!((**held, **snapshot.load()), (1, 3));
        assert_eq!(snapshot.generation(), 2);

        assert!(published.changed().await);
        drop(writer);
        assert!(!published.changed().await, "both were told in one");
        assert_eq!(*snapshot.load_full(), 3);
    }
}
