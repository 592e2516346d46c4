//! A copy of somebody else's ledger. It only moves forward.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isthmus_model::Position;
use isthmus_world::{Batch as StoreBatch, Store};

use crate::message::{Batch, Entry, Part};
use crate::name::{LedgerName, Mark};
use crate::record::{self, Head, Kept, LoadError};

/// The copy.
#[derive(Debug)]
pub struct Follower {
    name: LedgerName,
    mark: Mark,
    saved: Mark,
    entries: BTreeMap<Bytes, Kept>,
    installing: Option<Installing>,
    /// Keys that changed since they were last given out to be saved.
    changed: BTreeSet<Bytes>,
    /// Keys that are being saved.
    saving: BTreeSet<Bytes>,
}

/// A checkpoint that is not complete.
#[derive(Debug)]
struct Installing {
    at: Mark,
    next: u64,
    entries: BTreeMap<Bytes, Kept>,
}

/// Why a piece changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    #[error("it ends at {to}, the copy is at {have}")]
    Older { have: Mark, to: Mark },
    #[error("it begins at {from}, the copy is at {have}: something between them is missing")]
    Gap { have: Mark, from: Mark },
    #[error("its entries contradict its marks")]
    Malformed,
}

impl Follower {
    /// The copy as it was last saved; an empty one when it never was.
    ///
    /// Errors: the store cannot be read, or what is in it not understood.
    pub fn load(name: LedgerName, store: &dyn Store) -> Result<Self, LoadError> {
        let (head, mut kept) = record::load(store, &name)?;
        kept.retain(|(_, kept)| kept.value.is_some());
        Ok(Self {
            mark: head.mark,
            saved: head.mark,
            entries: kept.into_iter().collect(),
            ..Self::empty(name)
        })
    }

    pub fn empty(name: LedgerName) -> Self {
        Self {
            name,
            mark: Mark::default(),
            saved: Mark::default(),
            entries: BTreeMap::new(),
            installing: None,
            changed: BTreeSet::new(),
            saving: BTreeSet::new(),
        }
    }

    /// A copy that stands at `mark`; the records of these keys in the store may differ from it.
    pub(crate) fn from_parts(
        name: LedgerName,
        mark: Mark,
        entries: BTreeMap<Bytes, Kept>,
        unsaved: BTreeSet<Bytes>,
    ) -> Self {
        Self {
            mark,
            entries,
            changed: unsaved,
            ..Self::empty(name)
        }
    }

    /// Name, mark, entries, and the keys whose records in the store may differ from them.
    pub(crate) fn into_parts(self) -> (LedgerName, Mark, BTreeMap<Bytes, Kept>, BTreeSet<Bytes>) {
        let mut unsaved = self.changed;
        unsaved.extend(self.saving);
        (self.name, self.mark, self.entries, unsaved)
    }

    pub fn name(&self) -> &LedgerName {
        &self.name
    }

    /// Where the copy stands.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Up to where it survives a restart.
    pub fn saved_mark(&self) -> Mark {
        self.saved
    }

    /// The value of `key`, and where its owner last changed it.
    pub fn find(&self, key: &[u8]) -> Option<(Position, &Bytes)> {
        let kept = self.entries.get(key)?;
        Some((kept.changed, kept.value.as_ref()?))
    }

    /// All entries, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&Bytes, Position, &Bytes)> {
        (self.entries.iter())
            .filter_map(|(key, kept)| Some((key, kept.changed, kept.value.as_ref()?)))
    }

    /// Applies what changed. Gives the keys that it touched.
    ///
    /// Errors: it is older than the copy, does not begin where the copy stands, or contradicts
    /// itself. The copy is as it was.
    pub fn on_batch(&mut self, batch: Batch) -> Result<Vec<Bytes>, Skipped> {
        let (have, from, to) = (self.mark, batch.from, batch.to);
        if to <= have {
            return Err(Skipped::Older { have, to });
        }
        if from != have {
            return Err(Skipped::Gap { have, from });
        }
        let between = |entry: &Entry| from.position < entry.changed && entry.changed <= to.position;
        if to.position < from.position || !batch.entries.iter().all(between) {
            return Err(Skipped::Malformed);
        }
        let keys = batch
            .entries
            .iter()
            .map(|entry| entry.key.clone())
            .collect();
        for entry in batch.entries {
            self.apply(entry.key, entry.changed, entry.value);
        }
        self.mark = to;
        Ok(keys)
    }

    /// Takes a part of a checkpoint. With the last one the copy becomes what the parts say, and the
    /// keys that this touched are given; until then it stays as it is and none are given.
    ///
    /// Errors: the checkpoint is not newer than the copy, a part is missing, or it contradicts
    /// itself.
    pub fn on_part(&mut self, part: Part) -> Result<Vec<Bytes>, Skipped> {
        let (have, at) = (self.mark, part.at);
        if at <= have {
            return Err(Skipped::Older { have, to: at });
        }
        if part.number == 0 {
            self.installing = Some(Installing {
                at,
                next: 0,
                entries: BTreeMap::new(),
            });
        }
        let expected =
            |installing: &&mut Installing| installing.at == at && installing.next == part.number;
        let Some(installing) = self.installing.as_mut().filter(expected) else {
            return Err(Skipped::Gap { have, from: at });
        };
        installing.next = installing.next.saturating_add(1);
        for Entry {
            key,
            changed,
            value,
        } in part.entries
        {
            if value.is_none() || changed > at.position {
                self.installing = None;
                return Err(Skipped::Malformed);
            }
            installing.entries.insert(key, Kept { changed, value });
        }
        if !part.last {
            return Ok(Vec::new());
        }
        Ok(self.install())
    }

    fn install(&mut self) -> Vec<Bytes> {
        let Some(complete) = self.installing.take() else {
            return Vec::new();
        };
        let mut touched: BTreeSet<Bytes> = BTreeSet::new();
        let gone = |key: &&Bytes| !complete.entries.contains_key(*key);
        touched.extend(self.entries.keys().filter(gone).cloned());
        for (key, kept) in &complete.entries {
            if self.entries.get(key) != Some(kept) {
                touched.insert(key.clone());
            }
        }
        self.entries = complete.entries;
        self.mark = complete.at;
        self.changed.extend(touched.iter().cloned());
        touched.into_iter().collect()
    }

    fn apply(&mut self, key: Bytes, changed: Position, value: Option<Bytes>) {
        self.changed.insert(key.clone());
        match value {
            Some(_) => self.entries.insert(key, Kept { changed, value }),
            None => self.entries.remove(&key),
        };
    }

    /// A checkpoint that was under way will not be finished.
    pub(crate) fn interrupt(&mut self) {
        self.installing = None;
    }

    /// What must be saved now. Until that has succeeded or failed, do not ask again; after a
    /// failure, asking again gives it again.
    pub(crate) fn unsaved(&mut self, batch: &mut StoreBatch) -> Option<Mark> {
        if self.mark == self.saved {
            return None;
        }
        self.saving.append(&mut self.changed);
        if self.name.is_durable() {
            for key in &self.saving {
                record::put_entry(batch, &self.name, key, self.entries.get(key));
            }
            let head = Head {
                mark: self.mark,
                floor: self.mark.position, // A copy remembers no deletions.
                ..Head::default()
            };
            record::put_head(batch, &self.name, &head);
        }
        Some(self.mark)
    }

    /// What `unsaved` gave is safe.
    pub(crate) fn saved(&mut self, to: Mark) {
        self.saving.clear();
        self.saved = to;
    }
}
