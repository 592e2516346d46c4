//! The owner's side of a ledger.
//!
//! A write is staged, saved by the caller, and only then shown. A save that failed may have
//! happened all the same: what it might have left in the store is put right by the next one.
//!
//! A ledger that several clusters write together is *shared*: a write that is staged is a proposal
//! until it is agreed, only then is it saved, and whoever wrote it, it is agreed at the same position
//! everywhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use isthmus_model::Position;
use isthmus_world::{Batch as StoreBatch, Store};

use crate::decision::{DecidedWrite, LedgerHead, OutOfOrder};
use crate::follower::Follower;
use crate::message::{Batch, Entry};
use crate::name::{Epoch, LedgerName, Mark};
use crate::record::{self, Head, Kept, LoadError};

/// Deletions that a ledger remembers, so that followers can catch up without a checkpoint.
pub const MAX_TOMBSTONES: usize = 4096;
/// Keys and values of one write, in bytes: an object before and after a change, and who made it.
pub const MAX_WRITE_BYTES: usize = 2 * 1024 * 1024 + 64 * 1024;
/// Earlier epochs from which followers can catch up without a checkpoint.
const MAX_LINEAGE: usize = 32;

/// Keyed entries that this process writes. Every write has the next position.
#[derive(Debug)]
pub struct Ledger {
    name: LedgerName,
    /// Of what is saved.
    head: Head,
    /// What is saved, remembered deletions included.
    entries: BTreeMap<Bytes, Kept>,
    /// Every entry by the place of its last change.
    order: BTreeSet<(Position, Bytes)>,
    tombstones: BTreeSet<(Position, Bytes)>,
    /// Written, not saved.
    staged: VecDeque<(Position, Vec<Bytes>)>,
    /// The last staged change of each key.
    latest: BTreeMap<Bytes, Kept>,
    /// Every staged change, for when the earlier of two is saved first.
    values: BTreeMap<(Position, Bytes), Option<Bytes>>,
    /// Keys whose records may differ from `entries`.
    repair: BTreeSet<Bytes>,
    head_changed: bool,
    /// The epoch can be shown.
    epoch_saved: bool,
    /// Others write it too.
    shared: bool,
    /// What is staged up to here may be saved.
    agreed: Position,
}

/// One change of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub key: Bytes,
    /// `None` deletes.
    pub value: Option<Bytes>,
    pub expect: Expect,
}

/// What must hold for a change to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Anything,
    /// The key has no value.
    Absent,
    /// The key has a value, and it was last changed at this position or before.
    UnchangedSince(Position),
}

/// Why a write was not accepted. Nothing of it happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// `current`: where the key was last changed; `None` when it has no value.
    #[error("the entry was changed by someone else")]
    Conflict {
        key: Bytes,
        current: Option<Position>,
    },
    #[error("the write has {bytes} bytes, {MAX_WRITE_BYTES} are allowed")]
    TooLarge { bytes: usize },
    #[error("ledger {ledger} is not written here")]
    NotOurs { ledger: LedgerName },
    #[error("the ledger has no positions left")]
    Exhausted,
}

/// What a follower at some mark needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changes {
    UpToDate,
    /// The follower knows what this owner does not: nothing is sent before that is decided.
    Foreign,
    Batch(Batch),
    /// Everything there is, for a follower that a batch cannot bring here.
    Checkpoint {
        at: Mark,
        entries: Vec<Entry>,
    },
}

/// What a follower's mark is to a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The ledger's history passed through it.
    Ours,
    /// The follower was told more by another of those who write it: this one hears of it soon.
    Ahead,
    /// Before any history, before what is remembered, or overruled: a checkpoint replaces it.
    Void,
    /// It comes from a life of the ledger that this owner does not know: the owner was restored
    /// from a backup.
    Foreign,
}

/// What `saved` must be told when a batch of the store is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SavedTo(Mark);

impl Ledger {
    /// Reads the ledger, or a copy that becomes the ledger, from the store, and begins a new epoch
    /// with it. `draw`: 64 random bits.
    ///
    /// Errors: the store cannot be read, or what is in it not understood.
    pub fn load(name: LedgerName, store: &dyn Store, draw: u64) -> Result<Self, LoadError> {
        let (head, kept) = record::load(store, &name)?;
        let mut ledger = Self::with(name, head, kept);
        if !ledger.begin_epoch(Epoch::default(), draw) {
            return Err(LoadError::NoEpoch {
                ledger: ledger.name,
            });
        }
        Ok(ledger)
    }

    /// Reads a shared ledger from the store. Which epoch it is in is agreed like all that is in it.
    ///
    /// Errors: as for `load`.
    pub(crate) fn load_shared(name: LedgerName, store: &dyn Store) -> Result<Self, LoadError> {
        let (mut head, kept) = record::load(store, &name)?;
        if head.lineage.is_empty() {
            // It was a copy when it was saved: of epochs before its own it knows nothing.
            head.overrules = head.overrules.max(head.mark.epoch);
        }
        let mut ledger = Self::with(name, head, kept);
        ledger.shared = true;
        ledger.epoch_saved = true;
        Ok(ledger)
    }

    /// The copy becomes the shared ledger, of whose past `head` tells. `head` must be before it in the same epoch.
    pub(crate) fn take_over(copy: Follower, head: LedgerHead) -> Self {
        let (name, mark, kept, unsaved) = copy.into_parts();
        let head = Head {
            mark,
            floor: mark.position, // A copy remembers no deletions.
            overrules: head.overrules,
            lineage: head.lineage,
        };
        let mut ledger = Self::with(name, head, kept);
        ledger.shared = true;
        ledger.head_changed = true;
        ledger.repair = unsaved;
        ledger
    }

    /// The shared ledger becomes a copy; what is not saved is left to those who go on writing it.
    pub(crate) fn hand_back(self) -> Follower {
        let mut unsaved = self.repair;
        unsaved.extend(self.tombstones.into_iter().map(|(_, key)| key));
        let live = self.entries.into_iter();
        let live = live.filter(|(_, kept)| kept.value.is_some());
        Follower::from_parts(self.name, self.head.mark, live.collect(), unsaved)
    }

    fn with(name: LedgerName, head: Head, kept: impl IntoIterator<Item = (Bytes, Kept)>) -> Self {
        let mut ledger = Self {
            name,
            agreed: head.mark.position,
            head,
            entries: BTreeMap::new(),
            order: BTreeSet::new(),
            tombstones: BTreeSet::new(),
            staged: VecDeque::new(),
            latest: BTreeMap::new(),
            values: BTreeMap::new(),
            repair: BTreeSet::new(),
            head_changed: false,
            epoch_saved: false,
            shared: false,
        };
        for (key, kept) in kept {
            ledger.keep(key, kept);
        }
        ledger
    }

    pub fn name(&self) -> &LedgerName {
        &self.name
    }

    /// Where the saved state stands.
    pub fn mark(&self) -> Mark {
        self.head.mark
    }

    /// The saved value of `key`, and where it was last changed.
    pub fn find(&self, key: &[u8]) -> Option<(Position, &Bytes)> {
        live(self.entries.get(key)?)
    }

    /// All saved entries, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&Bytes, Position, &Bytes)> {
        self.entries.iter().filter_map(|(key, kept)| {
            let (changed, value) = live(kept)?;
            Some((key, changed, value))
        })
    }

    /// The value of `key` as the next write will find it, saved or not.
    pub fn find_latest(&self, key: &[u8]) -> Option<(Position, &Bytes)> {
        let kept = self.latest.get(key).or_else(|| self.entries.get(key));
        live(kept?)
    }

    /// The entry with the highest key below `key`, as the next write will find it, saved or not.
    pub fn last_latest_below(&self, key: &[u8]) -> Option<(&Bytes, &Bytes)> {
        fn live<'a>((key, kept): (&'a Bytes, &'a Kept)) -> Option<(&'a Bytes, &'a Bytes)> {
            Some((key, kept.value.as_ref()?))
        }
        let below = (Bound::Unbounded, Bound::Excluded(key));
        let mut staged = self.latest.range::<[u8], _>(below).rev();
        let saved = self.entries.range::<[u8], _>(below).rev();
        let mut saved = saved.filter(|(key, _)| !self.latest.contains_key(*key));
        saved.find_map(live).max(staged.find_map(live))
    }

    /// What the next write that changes something will stand at.
    pub fn next_position(&self) -> Position {
        Position(self.last_position().0.saturating_add(1))
    }

    /// Accepts all changes at one position, or none. They are shown when they are saved. Of two
    /// changes of one key the later counts; a write that changes nothing takes no position.
    ///
    /// Errors: an expectation does not hold; too many bytes; no positions left.
    pub fn write(&mut self, changes: Vec<Change>) -> Result<Position, WriteError> {
        self.accepts(&changes)?;
        let mut effective = BTreeMap::new();
        for change in changes {
            effective.insert(change.key, change.value);
        }
        effective
            .retain(|key, value| self.find_latest(key).map(|(_, found)| found) != value.as_ref());
        let last = self.last_position();
        if effective.is_empty() {
            return Ok(last);
        }
        let next = last.0.checked_add(1).ok_or(WriteError::Exhausted)?;
        self.stage(Position(next), effective);
        Ok(Position(next))
    }

    /// Would `write` accept the changes?
    pub(crate) fn accepts(&self, changes: &[Change]) -> Result<(), WriteError> {
        let size = |change: &Change| {
            let value = change.value.as_ref().map_or(0, Bytes::len);
            change.key.len().saturating_add(value)
        };
        let bytes = changes.iter().map(size).fold(0, usize::saturating_add);
        if bytes > MAX_WRITE_BYTES {
            return Err(WriteError::TooLarge { bytes });
        }
        if self.last_position() == Position(u64::MAX) {
            return Err(WriteError::Exhausted);
        }
        changes.iter().try_for_each(|change| self.check(change))
    }

    fn check(&self, change: &Change) -> Result<(), WriteError> {
        let current = self.find_latest(&change.key).map(|(changed, _)| changed);
        let holds = match change.expect {
            Expect::Anything => true,
            Expect::Absent => current.is_none(),
            Expect::UnchangedSince(position) => current.is_some_and(|found| found <= position),
        };
        if holds {
            return Ok(());
        }
        Err(WriteError::Conflict {
            key: change.key.clone(),
            current,
        })
    }

    fn last_position(&self) -> Position {
        let staged = self.staged.back().map(|(position, _)| *position);
        staged.unwrap_or(self.head.mark.position)
    }

    fn stage(&mut self, changed: Position, values: BTreeMap<Bytes, Option<Bytes>>) {
        let keys = values.keys().cloned().collect();
        for (key, value) in values {
            self.values.insert((changed, key.clone()), value.clone());
            self.latest.insert(key, Kept { changed, value });
        }
        self.staged.push_back((changed, keys));
        if !self.shared {
            self.agreed = changed;
        }
    }

    /// Where the ledger stands with all that is agreed, saved or not.
    pub(crate) fn head(&self) -> LedgerHead {
        LedgerHead {
            mark: Mark {
                epoch: self.head.mark.epoch,
                position: self.agreed,
            },
            overrules: self.head.overrules,
            lineage: self.head.lineage.clone(),
        }
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared
    }

    /// What was staged here up to this position is agreed.
    pub(crate) fn agree(&mut self, position: Position) {
        self.agreed = self.agreed.max(position).min(self.last_position());
    }

    /// This is agreed, whoever wrote it. What was staged here and is not, is void. False when it was known already.
    ///
    /// Errors: something before it is missing.
    pub(crate) fn decide(&mut self, write: DecidedWrite) -> Result<bool, OutOfOrder> {
        if write.position <= self.agreed {
            return Ok(false); // A copy that became the ledger had it already.
        }
        if write.position.0 != self.agreed.0.saturating_add(1) {
            return Err(OutOfOrder {
                ledger: self.name.clone(),
                agreed: self.agreed,
                found: write.position,
            });
        }
        self.discard_unagreed();
        self.stage(write.position, write.entries.into_iter().collect());
        self.agreed = write.position;
        Ok(true)
    }

    /// What was staged and is not agreed did not happen.
    pub(crate) fn discard_unagreed(&mut self) {
        while let Some((changed, _)) = self.staged.back()
            && *changed > self.agreed
            && let Some((changed, keys)) = self.staged.pop_back()
        {
            for key in keys {
                self.values.remove(&(changed, key));
            }
        }
        self.latest.clear();
        for ((changed, key), value) in &self.values {
            let (changed, value) = (*changed, value.clone());
            self.latest.insert(key.clone(), Kept { changed, value });
        }
    }

    /// It is agreed that this epoch begins; one that began already, or before the present one, does not.
    pub(crate) fn begin(&mut self, epoch: Epoch) {
        if epoch > self.head.mark.epoch {
            self.enter(epoch, self.agreed);
        }
    }

    /// What must be saved now. Until that has succeeded or failed, do not ask again.
    pub(crate) fn unsaved(&self, batch: &mut StoreBatch) -> Option<SavedTo> {
        let mut head = self.head.clone();
        head.mark.position = self.agreed;
        if head.mark == self.head.mark && !self.head_changed {
            return None; // A forgotten deletion's record can wait for the next write.
        }
        if self.name.is_durable() {
            for key in &self.repair {
                record::put_entry(batch, &self.name, key, self.entries.get(key));
            }
            // Of two changes of a key the later one counts.
            for ((changed, key), value) in &self.values {
                if *changed <= self.agreed {
                    let (changed, value) = (*changed, value.clone());
                    record::put_entry(batch, &self.name, key, Some(&Kept { changed, value }));
                }
            }
            record::put_head(batch, &self.name, &head);
        }
        Some(SavedTo(head.mark))
    }

    /// What `unsaved` gave is safe: shows it. Gives the keys that changed.
    pub(crate) fn saved(&mut self, to: SavedTo) -> Vec<Bytes> {
        self.repair.clear();
        self.epoch_saved = self.head.mark.epoch == to.0.epoch;
        self.head_changed = !self.epoch_saved;
        let mut touched = BTreeSet::new();
        while let Some((changed, _)) = self.staged.front()
            && *changed <= to.0.position
            && let Some((changed, keys)) = self.staged.pop_front()
        {
            for key in keys {
                let place = (changed, key);
                let value = self.values.remove(&place).flatten();
                let key = place.1;
                if self
                    .latest
                    .get(&key)
                    .is_some_and(|last| last.changed == changed)
                {
                    self.latest.remove(&key);
                }
                self.keep(key.clone(), Kept { changed, value });
                touched.insert(key);
            }
            self.head.mark.position = changed;
        }
        self.forget_deletions();
        touched.into_iter().collect()
    }

    /// What `unsaved` gave could not be saved: nothing of it happened. Whoever wrote it must be
    /// told that it may come back after a restart.
    pub(crate) fn discard(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        self.head_changed = true; // So that the repair does not wait for the next write.
        self.repair.extend(self.latest.keys().cloned());
        self.staged.clear();
        self.latest.clear();
        self.values.clear();
        self.agreed = self.head.mark.position;
    }

    fn keep(&mut self, key: Bytes, kept: Kept) {
        let place = (kept.changed, key.clone());
        if kept.value.is_none() {
            self.tombstones.insert(place.clone());
        }
        self.order.insert(place);
        if let Some(old) = self.entries.insert(key.clone(), kept) {
            let place = (old.changed, key);
            self.order.remove(&place);
            self.tombstones.remove(&place);
        }
    }

    fn forget_deletions(&mut self) {
        while self.tombstones.len() > MAX_TOMBSTONES
            && let Some(place) = self.tombstones.pop_first()
        {
            self.order.remove(&place);
            self.entries.remove(&place.1);
            self.head.floor = self.head.floor.max(place.0);
            self.repair.insert(place.1);
        }
    }

    /// What others have from an epoch up to `seen` and this ledger has not is void from now on:
    /// begins an epoch above it. False when there is none left.
    pub(crate) fn overrule(&mut self, seen: Epoch, draw: u64) -> bool {
        let begun = self.begin_epoch(seen, draw);
        if begun {
            self.head.overrules = self.head.mark.epoch;
        }
        begun
    }

    /// Begins an epoch above `seen` and above the present one. False when there is none left.
    fn begin_epoch(&mut self, seen: Epoch, draw: u64) -> bool {
        let mark = self.head.mark;
        let Some(epoch) = Epoch::above(seen.max(mark.epoch), draw) else {
            return false;
        };
        self.enter(epoch, mark.position);
        true
    }

    /// `end`: where the present epoch ends.
    fn enter(&mut self, epoch: Epoch, end: Position) {
        self.head.lineage.push((self.head.mark.epoch, end));
        let surplus = self.head.lineage.len().saturating_sub(MAX_LINEAGE);
        self.head.lineage.drain(..surplus);
        self.head.mark.epoch = epoch;
        self.head_changed = self.name.is_durable();
        self.epoch_saved = !self.name.is_durable();
    }

    /// What a follower at `mark` needs next: of a batch about `budget` bytes, but always whole
    /// positions. An owner that has written nothing yet has nothing to say: that it is empty would
    /// take from its followers what an earlier life told them. A copy is a state that the ledger had whenever it is at the ledger's own mark.
    pub(crate) fn since(&self, mark: Mark, budget: usize) -> Changes {
        let nothing_yet = self.head.mark.position == Position(0);
        if mark == self.head.mark || !self.epoch_saved || nothing_yet {
            return Changes::UpToDate;
        }
        match self.relation(mark) {
            Relation::Foreign => return Changes::Foreign,
            Relation::Ahead => return Changes::UpToDate,
            Relation::Ours if mark.position >= self.head.floor => {}
            Relation::Ours | Relation::Void => return self.checkpoint(),
        }
        let mut batch = Batch {
            from: mark,
            to: self.head.mark,
            entries: Vec::new(),
            signature: None,
        };
        let mut bytes = 0usize;
        let next = Position(mark.position.0.saturating_add(1));
        for (changed, key) in self.order.range((next, Bytes::new())..) {
            let last = batch.entries.last().map(|entry: &Entry| entry.changed);
            if bytes >= budget
                && let Some(last) = last
                && last < *changed
            {
                batch.to.position = last;
                break;
            }
            let entry = self.entry(key, *changed);
            bytes = bytes.saturating_add(entry.size());
            batch.entries.push(entry);
        }
        Changes::Batch(batch)
    }

    /// Would a follower at this mark be told something, if there is something?
    pub(crate) fn tells(&self, mark: Mark) -> bool {
        self.epoch_saved && matches!(self.relation(mark), Relation::Ours | Relation::Void)
    }

    pub(crate) fn relation(&self, mark: Mark) -> Relation {
        let lineage = &self.head.lineage;
        let current = (self.head.mark.epoch, self.head.mark.position);
        let passed = |(epoch, end): &(Epoch, Position)| {
            *epoch == mark.epoch && mark.position <= *end && *epoch != Epoch::default()
        };
        if passed(&current) || lineage.iter().any(passed) {
            return Relation::Ours;
        }
        if self.shared && mark.epoch == self.head.mark.epoch {
            return Relation::Ahead;
        }
        let forgotten = lineage.len() >= MAX_LINEAGE
            && lineage
                .first()
                .is_some_and(|(oldest, _)| mark.epoch < *oldest);
        if mark.epoch == Epoch::default() || mark.epoch < self.head.overrules || forgotten {
            return Relation::Void;
        }
        Relation::Foreign
    }

    fn checkpoint(&self) -> Changes {
        let entry = |(key, changed, _): (&Bytes, Position, &Bytes)| self.entry(key, changed);
        Changes::Checkpoint {
            at: self.head.mark,
            entries: self.entries().map(entry).collect(),
        }
    }

    fn entry(&self, key: &Bytes, changed: Position) -> Entry {
        Entry {
            key: key.clone(),
            changed,
            value: self.entries.get(key).and_then(|kept| kept.value.clone()),
        }
    }
}

fn live(kept: &Kept) -> Option<(Position, &Bytes)> {
    kept.value.as_ref().map(|value| (kept.changed, value))
}
