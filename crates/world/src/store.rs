//! A durable store of keyed tables, written in atomic batches.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A table's name. Tables come into being with their first write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub(crate) &'static str);

impl Table {
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    pub fn name(self) -> &'static str {
        self.0
    }
}

/// One write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub table: Table,
    pub key: Bytes,
    /// `None` deletes.
    pub value: Option<Bytes>,
}

/// Writes that happen together or not at all. Of two writes to one key the later counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    writes: Vec<Write>,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write {
            table,
            key: key.into(),
            value: Some(value.into()),
        });
    }

    /// Deleting what is not there is no error.
    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.writes.push(Write {
            table,
            key: key.into(),
            value: None,
        });
    }

    /// Adds the other batch's writes behind this one's: how many callers share one commit.
    pub fn append(&mut self, other: Self) {
        self.writes.extend(other.writes);
    }

    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// Durable keyed tables. Calls block for as long as the disk takes: keep them off threads that
/// serve others.
pub trait Store: Send {
    /// Writes the batch. `Ok` means that it survives the death of the process and of the machine.
    ///
    /// Errors: after one, the batch is there in whole or not at all, and which is not known;
    /// committing the same batch again is right in both cases. A later commit first tries to open
    /// the store anew.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// At most `limit` pairs in order of their keys, beginning with the first key that is not below
    /// `from`.
    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError>;

    /// The value of `key`.
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// What would be in it if `more` were committed now, which it is not.
    fn image(&mut self, more: &Batch) -> Result<Box<dyn StoreImage>, StoreError>;

    /// All pairs whose key begins with `prefix`, in order of their keys.
    fn scan_prefix(&self, table: Table, prefix: &[u8]) -> Result<Vec<Pair>, StoreError> {
        const AT_ONCE: usize = 1024;
        let mut found = Vec::new();
        let mut from = prefix.to_vec();
        loop {
            let page = self.scan(table, &from, AT_ONCE)?;
            let full = page.len() == AT_ONCE;
            for pair in page {
                if !pair.0.starts_with(prefix) {
                    return Ok(found);
                }
                found.push(pair);
            }
            match found.last() {
                Some((last, _)) if full => {
                    from.clone_from(last);
                    from.push(0); // The smallest key behind `last`.
                }
                _ => return Ok(found),
            }
        }
    }
}

/// What a store held at one moment. The store goes on meanwhile, and another thread may read this.
pub trait StoreImage: Send + Sync {
    fn tables(&self) -> Result<Vec<String>, StoreError>;

    /// Gives all pairs of a table to `take`, in no order; ends with its first error.
    fn each(&self, table: &str, take: &mut TakePair<'_>) -> Result<(), StoreError>;
}

/// What is done with a key and its value.
pub type TakePair<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError> + 'a;

impl std::fmt::Debug for dyn StoreImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreImage").finish_non_exhaustive()
    }
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        (**self).commit(batch)
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        (**self).scan(table, from, limit)
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).read(table, key)
    }

    fn image(&mut self, more: &Batch) -> Result<Box<dyn StoreImage>, StoreError> {
        (**self).image(more)
    }
}

/// Why the store cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{} is in use by another process; stop that one first", path.display())]
    Locked { path: PathBuf },
    #[error(
        "{} has format {found}, this version of isthmus reads format {known}: use the version \
         that wrote it, or move the file away to start empty", path.display()
    )]
    UnknownFormat {
        path: PathBuf,
        found: u32,
        known: u32,
    },
    #[error("{} is not a store of isthmus; it was left as it is", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "{} is damaged ({reason}): restore it from a backup, or move it away to start empty; \
         the other clusters bring back what they know", path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("no space is left for {}", path.display())]
    Full { path: PathBuf },
    #[error("cannot {act} {}: {source}", path.display())]
    Io {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}
