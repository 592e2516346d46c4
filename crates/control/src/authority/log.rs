//! The group's log and what a member promised, as they lie in the store.
//!
//! Table `authority`: one record of what is no entry. Table `authority-log`: index → entry. What is in
//! memory is ahead of the store by one batch at most, and nobody is told of anything before that is saved.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use isthmus_model::ClusterName;
use isthmus_replica::{LedgerHead, LedgerName};
use isthmus_wire::proto;
use isthmus_world::{Batch, Store, Table};
use raft::prelude::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use serde::{Deserialize, Serialize};

use super::message::{from_entry, id_of, to_entry};
use crate::open_error::OpenError;

const STATE: Table = Table::new("authority");
const LOG: Table = Table::new("authority-log");
const KEY: &[u8] = b"state";
/// The first byte of every record.
const FORMAT: u8 = 1;
/// Applied entries that are kept for members who lag; who lags more follows the ledgers instead.
const KEPT: u64 = 256;

/// What a member knows of its group, besides the ledgers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Membership {
    /// What its founder drew.
    pub(super) group: u64,
    pub(super) voters: BTreeSet<ClusterName>,
    /// They take in the log and have no vote.
    pub(super) learners: BTreeSet<ClusterName>,
}

impl Membership {
    /// `None`: one of the names is none.
    pub(super) fn read(group: u64, voters: &[String], learners: &[String]) -> Option<Self> {
        let read = |names: &[String]| -> Option<BTreeSet<ClusterName>> {
            names.iter().map(|name| name.parse().ok()).collect()
        };
        Some(Self {
            group,
            voters: read(voters)?,
            learners: read(learners)?,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    term: u64,
    vote: u64,
    commit: u64,
    applied: u64,
    /// The last entry that is not kept.
    before: (u64, u64),
    group: u64,
    voters: Vec<String>,
    learners: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// Index and term of the last entry that is not kept.
    before: (u64, u64),
    hard: HardState,
    /// Up to here the ledgers have it; `heads` is where that brought them.
    applied: u64,
    heads: Vec<(LedgerName, LedgerHead)>,
    membership: Membership,
    /// Entries that are not saved, or are to go, by their index.
    unsaved: BTreeMap<u64, Option<Bytes>>,
    state_changed: bool,
}

impl Log {
    /// Of a group that begins with what the ledgers of its only member hold.
    pub(super) fn founded(group: u64, own: ClusterName) -> Self {
        let hard = HardState {
            term: 1,
            commit: 1,
            ..HardState::default()
        };
        Self {
            before: (1, 1),
            applied: 1,
            hard,
            membership: Membership {
                group,
                voters: BTreeSet::from([own]),
                learners: BTreeSet::new(),
            },
            state_changed: true,
            ..Self::default()
        }
    }

    /// Of a cluster that was made a member and knows nothing yet.
    pub(super) fn empty(group: u64) -> Self {
        let membership = Membership {
            group,
            ..Membership::default()
        };
        Self {
            membership,
            ..Self::default()
        }
    }

    /// `None`: this cluster is no member.
    pub(super) fn load(store: &dyn Store) -> Result<Option<Self>, OpenError> {
        let Some(record) = store.read(STATE, KEY)? else {
            return Ok(None);
        };
        let record = OpenError::check_format(STATE, FORMAT, &record)?;
        let state: State = serde_json::from_slice(record).map_err(|_| OpenError::damaged(STATE))?;
        let mut entries = VecDeque::new();
        for (key, record) in store.scan_prefix(LOG, b"")? {
            let record = OpenError::check_format(LOG, FORMAT, &record)?;
            let entry = isthmus_wire::decode_entry(record).ok().and_then(from_entry);
            let entry = entry.ok_or_else(|| OpenError::damaged(LOG))?;
            let expected = state.before.0 + 1 + entries.len() as u64;
            if key != expected.to_be_bytes() || entry.index != expected {
                return Err(OpenError::damaged(LOG));
            }
            entries.push_back(entry);
        }
        let last = state.before.0 + entries.len() as u64;
        if state.applied < state.before.0 || state.commit < state.applied || last < state.commit {
            return Err(OpenError::damaged(STATE));
        }
        let hard = HardState {
            term: state.term,
            vote: state.vote,
            commit: state.commit,
            ..HardState::default()
        };
        let membership = Membership::read(state.group, &state.voters, &state.learners)
            .ok_or_else(|| OpenError::damaged(STATE))?;
        Ok(Some(Self {
            entries,
            before: state.before,
            hard,
            applied: state.applied,
            membership,
            ..Self::default()
        }))
    }

    /// Takes everything out of the store.
    pub(super) fn erase(&self, batch: &mut Batch) {
        batch.delete(STATE, KEY);
        let entries = self.entries.iter().map(|entry| entry.index);
        // Of some that are not here any more it is not saved yet that they are not.
        for index in entries.chain(self.unsaved.keys().copied()) {
            batch.delete(LOG, place(index));
        }
    }

    pub(super) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(super) fn set_membership(&mut self, membership: Membership) {
        self.state_changed |= self.membership != membership;
        self.membership = membership;
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    /// Of entries that the ledgers do not have, what they decide if they stand.
    pub(super) fn ahead(&self) -> impl Iterator<Item = &[u8]> {
        let ahead = self
            .entries
            .iter()
            .filter(|entry| entry.index > self.applied);
        let ahead = ahead.filter(|entry| entry.get_entry_type() == EntryType::EntryNormal);
        ahead
            .map(|entry| &entry.data[..])
            .filter(|data| !data.is_empty())
    }

    pub(super) fn last(&self) -> u64 {
        self.entries.back().map_or(self.before.0, |last| last.index)
    }

    pub(super) fn set_hard(&mut self, hard: HardState) {
        self.hard = hard;
        self.state_changed = true;
    }

    pub(super) fn set_commit(&mut self, commit: u64) {
        self.hard.commit = commit;
        self.state_changed = true;
    }

    /// Entries that follow, or take the place of what did.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|first| first.index) else {
            return;
        };
        while self.entries.back().is_some_and(|last| last.index >= first)
            && let Some(void) = self.entries.pop_back()
        {
            self.unsaved.insert(void.index, None);
        }
        for entry in entries {
            let mut record = vec![FORMAT];
            record.extend(isthmus_wire::encode_entry(&to_entry(&entry)));
            self.unsaved.insert(entry.index, Some(record.into()));
            self.entries.push_back(entry);
        }
    }

    /// Begins anew behind `index`, of which the ledgers have everything.
    pub(super) fn restart(&mut self, index: u64, term: u64, membership: Membership) {
        self.erase_entries();
        self.before = (index, term);
        self.hard.commit = self.hard.commit.max(index);
        self.hard.term = self.hard.term.max(term);
        self.applied = index;
        self.membership = membership;
        self.state_changed = true;
    }

    fn erase_entries(&mut self) {
        for entry in std::mem::take(&mut self.entries) {
            self.unsaved.insert(entry.index, None);
        }
    }

    /// The ledgers have everything up to `index`, and stand there now.
    pub(super) fn set_applied(&mut self, index: u64, heads: Vec<(LedgerName, LedgerHead)>) {
        if index > self.applied {
            self.applied = index;
            self.state_changed = true;
        }
        self.heads = heads;
        let alone = self.membership.voters.len() + self.membership.learners.len() < 2;
        let kept = if alone { 0 } else { KEPT };
        let gone = self.applied.saturating_sub(kept);
        while self
            .entries
            .front()
            .is_some_and(|first| first.index <= gone)
            && let Some(entry) = self.entries.pop_front()
        {
            self.before = (entry.index, entry.term);
            self.state_changed = true;
            self.unsaved.insert(entry.index, None);
        }
    }

    /// What must be saved; until `saved` it is given again.
    pub(super) fn unsaved(&self) -> Option<Batch> {
        if !self.state_changed && self.unsaved.is_empty() {
            return None;
        }
        let mut batch = Batch::new();
        for (index, record) in &self.unsaved {
            match record {
                Some(record) => batch.put(LOG, place(*index), record.clone()),
                None => batch.delete(LOG, place(*index)),
            }
        }
        let state = State {
            term: self.hard.term,
            vote: self.hard.vote,
            commit: self.hard.commit.max(self.applied),
            applied: self.applied,
            before: self.before,
            group: self.membership.group,
            voters: names(&self.membership.voters),
            learners: names(&self.membership.learners),
        };
        let mut record = vec![FORMAT];
        // Numbers and names always are JSON.
        record.extend(serde_json::to_vec(&state).unwrap_or_default());
        batch.put(STATE, KEY, record);
        Some(batch)
    }

    pub(super) fn saved(&mut self) {
        self.state_changed = false;
        self.unsaved.clear();
    }

    /// Of an index that is kept, or the one before.
    fn find_term(&self, index: u64) -> Option<u64> {
        if index == self.before.0 {
            return Some(self.before.1);
        }
        let nth = usize::try_from(index.checked_sub(self.before.0 + 1)?).ok()?;
        self.entries.get(nth).map(|entry| entry.term)
    }
}

fn place(index: u64) -> Vec<u8> {
    index.to_be_bytes().to_vec()
}

fn ids<'a>(names: impl IntoIterator<Item = &'a ClusterName>) -> Vec<u64> {
    names.into_iter().map(id_of).collect()
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let Membership {
            voters, learners, ..
        } = &self.membership;
        let conf = ConfState::from((ids(voters), ids(learners)));
        Ok(RaftState::new(self.hard.clone(), conf))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.before.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let nth = |index: u64| usize::try_from(index - self.before.0 - 1).unwrap_or(usize::MAX);
        let wanted = self.entries.range(nth(low)..nth(high));
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let mut found = Vec::new();
        for entry in wanted {
            bytes = bytes.saturating_add((entry.data.len() + entry.context.len()) as u64);
            if bytes > limit && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.before.0 {
            return Err(StorageError::Compacted.into());
        }
        self.find_term(index)
            .ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.before.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Where the ledgers stand; they themselves go another way.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let term = self.find_term(self.applied);
        let Some(term) = term.filter(|_| self.applied >= request_index && !self.heads.is_empty())
        else {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        let heads = self.heads.iter();
        let contents = proto::RaftSnapshot {
            index: self.applied,
            term,
            voters: names(&self.membership.voters),
            learners: names(&self.membership.learners),
            ledgers: heads
                .map(|(name, head)| isthmus_wire::from_head(name, head))
                .collect(),
        };
        Ok(super::message::snapshot(&contents))
    }
}

fn names(names: &BTreeSet<ClusterName>) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}
