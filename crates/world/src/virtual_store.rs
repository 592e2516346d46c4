//! A store in memory that fails when told to: for tests and simulation.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::store::{Batch, Pair, Store, StoreError, StoreImage, Table, TakePair};

/// A disk in memory. Clones are handles of the same disk: it outlives the process that wrote it.
#[derive(Debug, Clone, Default)]
pub struct VirtualStore(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    tables: BTreeMap<Table, BTreeMap<Bytes, Bytes>>,
    next: Option<Fault>,
    down: bool,
    /// What is there when power fails, if that is not all.
    safe: Option<BTreeMap<Table, BTreeMap<Bytes, Bytes>>>,
    lies: bool,
}

/// What goes wrong with the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full: nothing is written.
    Full,
    /// An I/O error before (false) or after (true) the batch became durable.
    Io { durable: bool },
    /// Power fails in the middle: the batch is there in whole or not at all, by this seed, and
    /// every further call fails until `power_on`.
    Crash { seed: u64 },
}

impl VirtualStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// The next commit fails so.
    pub fn fail_next(&self, fault: Fault) {
        self.disk().next = Some(fault);
    }

    /// The next commit fails in no way.
    pub fn repair(&self) {
        self.disk().next = None;
    }

    /// Power returns: what was acknowledged is there, unless the disk lies.
    pub fn power_on(&self) {
        let mut disk = self.disk();
        disk.down = false;
        disk.next = None;
        if let Some(safe) = disk.safe.take() {
            disk.tables = safe;
        }
    }

    /// From now on it acknowledges a commit before it is safe: when power fails, the last one is lost.
    pub fn lie(&self) {
        self.disk().lies = true;
    }

    /// A copy of the disk as it is now, on a disk of its own: a backup.
    #[must_use]
    pub fn backup(&self) -> Self {
        let disk = Disk {
            tables: self.disk().tables.clone(),
            ..Disk::default()
        };
        Self(Arc::new(Mutex::new(disk)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // No call below can leave the disk half changed, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for VirtualStore {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut disk = self.disk();
        disk.check()?;
        match disk.next.take() {
            None => {
                disk.write(batch);
                Ok(())
            }
            Some(Fault::Full) => Err(StoreError::Full { path: path() }),
            Some(Fault::Io { durable }) => {
                if durable {
                    disk.write(batch);
                }
                Err(failed("write"))
            }
            Some(Fault::Crash { seed }) => {
                if seed % 2 == 0 {
                    disk.write(batch);
                }
                disk.down = true;
                Err(failed("write"))
            }
        }
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let disk = self.disk();
        disk.check()?;
        let Some(pairs) = disk.tables.get(&table) else {
            return Ok(Vec::new());
        };
        let behind = pairs.range(Bytes::copy_from_slice(from)..);
        Ok(behind
            .take(limit)
            .map(|(key, value)| (key.to_vec(), value.to_vec()))
            .collect())
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let disk = self.disk();
        disk.check()?;
        let value = disk.tables.get(&table).and_then(|pairs| pairs.get(key));
        Ok(value.map(|value| value.to_vec()))
    }

    fn image(&mut self, more: &Batch) -> Result<Box<dyn StoreImage>, StoreError> {
        self.disk().check()?;
        let image = self.backup();
        image.disk().write(more);
        Ok(Box::new(image))
    }
}

impl StoreImage for VirtualStore {
    fn tables(&self) -> Result<Vec<String>, StoreError> {
        let disk = self.disk();
        Ok(disk
            .tables
            .keys()
            .map(|table| table.name().to_owned())
            .collect())
    }

    fn each(&self, table: &str, take: &mut TakePair<'_>) -> Result<(), StoreError> {
        let disk = self.disk();
        let mut tables = disk.tables.iter();
        let found = tables.find(|(each, _)| each.name() == table);
        let mut pairs = found.into_iter().flat_map(|(_, pairs)| pairs);
        pairs.try_for_each(|(key, value)| take(key, value))
    }
}

impl Disk {
    fn check(&self) -> Result<(), StoreError> {
        if self.down {
            return Err(failed("reach"));
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch) {
        if self.lies {
            self.safe = Some(self.tables.clone());
        }
        for write in batch.writes() {
            let pairs = self.tables.entry(write.table).or_default();
            match &write.value {
                Some(value) => pairs.insert(write.key.clone(), value.clone()),
                None => pairs.remove(&write.key),
            };
        }
    }
}

fn path() -> PathBuf {
    PathBuf::from("virtual disk")
}

fn failed(act: &'static str) -> StoreError {
    StoreError::Io {
        act,
        path: path(),
        source: io::Error::other("injected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table::new("t");

    fn put(value: &'static str) -> Batch {
        let mut batch = Batch::new();
        batch.put(TABLE, "a", value);
        batch
    }

    #[test]
    fn faults_never_touch_what_was_acknowledged() {
        for (fault, expect) in [
            (Fault::Full, "old"),
            (Fault::Io { durable: false }, "old"),
            (Fault::Io { durable: true }, "new"),
            (Fault::Crash { seed: 1 }, "old"),
            (Fault::Crash { seed: 2 }, "new"),
        ] {
            let mut store = VirtualStore::new();
            store.commit(&put("old")).unwrap();
            store.fail_next(fault);
            assert!(store.commit(&put("new")).is_err(), "{fault:?}");
            if matches!(fault, Fault::Crash { .. }) {
                assert!(store.read(TABLE, b"a").is_err(), "{fault:?}: still up");
                store.power_on();
            }
            let value = store.read(TABLE, b"a").unwrap();
            assert_eq!(value.as_deref(), Some(expect.as_bytes()), "{fault:?}");
            store.commit(&put("again")).unwrap();
        }
    }

    #[test]
    fn a_disk_that_lies_loses_what_it_acknowledged_last() {
        let mut store = VirtualStore::new();
        store.commit(&put("safe")).unwrap();
        store.lie();
        store.commit(&put("old")).unwrap();
        store.commit(&put("new")).unwrap();
        assert_eq!(store.read(TABLE, b"a").unwrap(), Some(b"new".to_vec()));
        store.power_on();
        assert_eq!(store.read(TABLE, b"a").unwrap(), Some(b"old".to_vec()));
    }

    #[test]
    fn a_backup_is_a_disk_of_its_own() {
        let mut store = VirtualStore::new();
        store.commit(&put("old")).unwrap();
        let backup = store.backup();
        store.commit(&put("new")).unwrap();
        assert_eq!(backup.read(TABLE, b"a").unwrap(), Some(b"old".to_vec()));
    }
}
