//! The history of config: a record of each change that was accepted, with who made it, when, through
//! which cluster, and the object before and after.
//!
//! The authority writes it in the same commit as the change. The newest records are a ledger, so that
//! every cluster has them; each cluster also puts what it has seen into an archive of its own, where
//! nothing is ever taken away. Each record names the hash of the one before: whoever changes one must
//! change all that follow, in every cluster.

use std::collections::{BTreeSet, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use isthmus_api::{ChangeView, Failure, HistoryView};
use isthmus_model::{ClusterName, Origin, Position, ResourceKey};
use isthmus_replica::{Change, Expect, LedgerName};
use isthmus_world::{Batch, Pair, Store, StoreError, Table};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::Answer;
use super::objects::{BadRecord, decode, encode, ledger_key, resource_key};
use super::origin::history_of;
use super::watch::Selection;
use super::write::Submitted;
use super::{Core, RequestId};
use crate::hex::hex;
use crate::open_error::OpenError;
use crate::time::rfc3339_millis;

/// Records that the ledger holds, in the memory of every control plane; older ones are in archives only.
const WINDOW: usize = 1000;
/// The same in bytes.
const WINDOW_BYTES: usize = 16 * 1024 * 1024;
/// Inverted position and a part of the record's hash → the record: newest first, and of two that
/// stand at one position, since the authority was restored from a backup, both.
const ARCHIVE: Table = Table::new("history-archive");
/// The same of what belongs to clusters, each place behind the name of its cluster and a 0.
const ARCHIVES: Table = Table::new("history-archive-clusters");
/// Places in the archive whose changes are void → nothing.
const REJECTED: Table = Table::new("history-rejected");
/// Records that one answer looks at, so that nobody waits long for it.
const MOST_LOOKED_AT: usize = 1000;
/// Bytes of records after which an answer looks at no more.
const ENOUGH: usize = 4 * 1024 * 1024;
/// Writes of the archive that wait for the next tick; more are saved with the next commit.
const WAITING: usize = 200;
const WAITING_BYTES: usize = 2 * 1024 * 1024;

/// The only byte of what says that a change is void.
const FORMAT: u8 = 1;

/// Which changes are asked for.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    pub origin: Origin,
    /// `None`: of all objects of that origin.
    pub selection: Option<Selection>,
    /// Only what came before this position.
    pub before: Option<Position>,
    pub limit: usize,
    /// With the text that hashes are of.
    pub records: bool,
    /// Those that are void, and no others.
    pub rejected: bool,
}

/// One change that was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) position: u64,
    /// Milliseconds since 1970, by the authority's clock.
    pub(super) time: u64,
    pub(super) author: String,
    /// Through whose API it was asked for.
    pub(super) cluster: String,
    pub(super) verb: String,
    /// As in the config ledger.
    pub(super) key: String,
    /// No other write has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<String>,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
    /// Hash of the record before.
    pub(super) previous: Option<String>,
}

fn hash(record: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, record).as_ref());
    hash
}

pub(super) fn ledger_place(position: u64) -> Bytes {
    Bytes::copy_from_slice(&position.to_be_bytes())
}

fn archive_place(position: u64, record: &[u8]) -> Vec<u8> {
    let mut place = (!position).to_be_bytes().to_vec();
    place.extend(&hash(record)[..8]);
    place
}

/// The position of a place in the ledger.
fn ledger_position(place: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*place.first_chunk()?))
}

fn put(position: u64, value: Option<Bytes>) -> Change {
    Change {
        key: ledger_place(position),
        value,
        expect: Expect::Anything,
    }
}

/// Whether a write was accepted.
#[derive(Debug)]
pub(super) enum Recorded {
    /// `later`: what became of the object since.
    As {
        record: Box<Record>,
        later: Vec<Record>,
    },
    Not,
}

/// Where in the archive changes lie that are void.
pub(super) fn rejected(store: &impl Store) -> Result<BTreeSet<Vec<u8>>, OpenError> {
    let places = store.scan_prefix(REJECTED, b"")?.into_iter();
    Ok(places.map(|(place, _)| place).collect())
}

impl<S: Store> Core<S> {
    /// Changes beyond `position` that this cluster has are void from now on. Gives how many there are.
    ///
    /// Errors: the archive cannot be read.
    pub(super) fn reject_beyond(&mut self, position: Position) -> Result<usize, StoreError> {
        self.archive();
        let mut places = Vec::new();
        let rack = Rack::of(&Origin::Mesh);
        let mut archive = Archive::below(&self.store, rack, u64::MAX);
        while let Some((at, record)) = archive.peek()?
            && at > position.0
        {
            places.push(archive_place(at, record));
            archive.advance();
        }
        for (key, _, record) in self.replica.entries(&LedgerName::History) {
            let at = ledger_position(key).unwrap_or_default();
            if at > position.0 {
                places.push(archive_place(at, record));
            }
        }
        let before = self.rejected.len();
        for place in places {
            self.pending.put(REJECTED, place.clone(), vec![FORMAT]);
            self.rejected.insert(place);
        }
        Ok(self.rejected.len() - before)
    }

    /// Hash and time of the newest record below a position, saved or not.
    pub(super) fn recorded_before(
        &self,
        origin: &Origin,
        position: Position,
    ) -> Option<(String, u64)> {
        let ledger = self.replica.ledger(&history_of(origin))?;
        let (_, record) = ledger.last_latest_below(&ledger_place(position.0))?;
        let before = decode::<Record>(record);
        let time = before.map_or(0, |before| before.time);
        Some((hex(&hash(record)), time))
    }

    /// Was this write accepted after it was asked for, saved or not? `None`: that is not known here any more.
    pub(super) fn find_accepted(&self, asked: &Submitted) -> Option<Recorded> {
        let (object, source) = (ledger_key(&asked.write.key), asked.source.as_str());
        let mut later = Vec::new();
        let ledger = self.replica.ledger(&LedgerName::History)?;
        // Who asks has seen nothing that is not here, unless it was void.
        let mut reached = self.next_position_of(&Origin::Mesh).0;
        let first = asked.since.0.checked_add(1)?;
        if reached < first {
            return None;
        }
        // What stands beyond is of a change that did not happen.
        let mut below = ledger_place(reached);
        while reached > first {
            let (key, value) = ledger.last_latest_below(&below)?;
            let record: Record = decode(value).ok()?;
            if record.position.checked_add(1) != Some(reached) {
                return None; // Something between them is missing.
            }
            reached = record.position;
            below = key.clone();
            if record.key.as_bytes() != object {
                continue;
            }
            // A name is worth something only from the cluster that gave it.
            let is_it = record.request.as_deref() == Some(&asked.request);
            if is_it && record.cluster == source {
                let record = Box::new(record);
                return Some(Recorded::As { record, later });
            }
            later.push(record);
        }
        Some(Recorded::Not)
    }

    /// What becomes of the history ledger with a record: it is the last one, and the oldest go. A ledger
    /// that was a copy may know of changes that the config beside it does not: those did not happen.
    pub(super) fn recorded(&self, origin: &Origin, record: &Record) -> Vec<Change> {
        let kept = self.replica.entries(&history_of(origin));
        let newest = encode(record);
        let (mut count, mut bytes) = (1, newest.len());
        let mut changes = vec![put(record.position, Some(newest))];
        for (key, _, value) in kept.into_iter().rev() {
            let position = ledger_position(key).unwrap_or_default();
            if position == record.position {
                continue; // It is written over.
            }
            let is_below = position < record.position;
            if is_below {
                count += 1;
                bytes += value.len();
            }
            if !is_below || count > WINDOW || bytes > WINDOW_BYTES {
                changes.push(put(position, None));
            }
        }
        changes
    }

    /// These records are new, or have left the ledger. Of a copy that was far behind, some may have left
    /// it before they came here.
    pub(super) fn on_history_entries(&mut self, origin: &Origin, keys: Vec<Bytes>) {
        let (name, rack) = (history_of(origin), Rack::of(origin));
        let is_of_mesh = *origin == Origin::Mesh;
        let copy = self.replica.copy(&name).filter(|_| is_of_mesh);
        let is_overruled = copy.is_some_and(|copy| self.is_overruled(copy.mark()));
        let (decides, here) = (is_of_mesh && self.decides(), self.position().0);
        for key in keys {
            let entry = self.replica.find(&name, &key);
            let Some((_, record)) = entry else {
                continue;
            };
            let Some(position) = ledger_position(&key) else {
                let reason = "its key is not a position".to_owned();
                self.bad_entry(&name, &key, reason);
                continue;
            };
            // What others write may say anything.
            let says = || decode::<Record>(record).map(|record| record.position);
            if !is_of_mesh && says() != Ok(position) {
                let reason = "it says that it is of another place".to_owned();
                self.bad_entry(&name, &key, reason);
                continue;
            }
            let place = rack.place(position, record);
            // Whoever began anew went on with it.
            let is_void = is_overruled || decides && position > here;
            if is_of_mesh && !is_void && self.rejected.remove(&place) {
                self.pending.delete(REJECTED, place.clone());
            }
            // After a restart most are there. One that cannot be looked for is put there again.
            if !matches!(self.store.read(rack.table, &place), Ok(Some(_))) {
                self.unarchived.put(rack.table, place, record.clone());
            }
        }
        let waiting = self.unarchived.writes().iter();
        let bytes: usize = waiting.flat_map(|write| &write.value).map(Bytes::len).sum();
        if self.unarchived.writes().len() > WAITING || bytes > WAITING_BYTES {
            self.archive();
        }
        self.tell_of_changes(origin);
    }

    /// What is in the ledger and not yet in the archive goes there with the next commit.
    pub(super) fn archive(&mut self) {
        let unarchived = std::mem::replace(&mut self.unarchived, Batch::new());
        self.pending.append(unarchived);
    }

    pub(super) fn on_history(&mut self, id: RequestId, query: &HistoryQuery) {
        let is_kept = self.replica.copy(&history_of(&query.origin)).is_some();
        if let Err(failure) = self.check_cluster(&query.origin)
            && !is_kept
        {
            return self.answer(id, failure.into());
        }
        let answer = match self.history(query) {
            Ok(view) => Answer::view(&view),
            Err(error) => Failure::internal(format!("the history cannot be read: {error}")).into(),
        };
        self.answer(id, answer);
    }

    /// Ledger and archive, newest first, each record once.
    fn history(&self, query: &HistoryQuery) -> Result<HistoryView, StoreError> {
        let below = query.before.map_or(u64::MAX, |before| before.0);
        let position = self.position_of(&query.origin);
        let mut page = Page::new(query, &self.settings.cluster, position);
        let is_of_mesh = query.origin == Origin::Mesh;
        if query.rejected {
            // Of what belongs to a cluster nobody but that one could say that it is void.
            for place in self.rejected.iter().filter(|_| is_of_mesh) {
                let at = !ledger_position(place).unwrap_or_default();
                if at < below
                    && let Some(record) = self.store.read(ARCHIVE, place)?
                    && !page.take(at, &record)
                {
                    break;
                }
            }
            return Ok(page.view);
        }
        let rack = Rack::of(&query.origin);
        let ledger = self.replica.entries(&history_of(&query.origin));
        let ledger = ledger.into_iter().rev();
        let mut ledger = ledger
            .filter_map(|(key, _, record)| Some((ledger_position(key)?, record)))
            .filter(|(position, _)| *position < below)
            .peekable();
        let mut archive = Archive::below(&self.store, rack, below);
        let mut last: Option<(u64, &Bytes)> = None;
        loop {
            let archived = archive.peek()?;
            let is_newer = |(position, _): &(u64, &Bytes)| {
                archived.is_none_or(|(archived, _)| *position >= archived)
            };
            if let Some((position, record)) = ledger.next_if(is_newer) {
                last = Some((position, record));
                if !page.take(position, record) {
                    return Ok(page.view);
                }
                continue;
            }
            let Some((position, record)) = archived else {
                return Ok(page.view);
            };
            let is_known = last.is_some_and(|(at, known)| at == position && known == record)
                || is_of_mesh && (self.rejected).contains(&archive_place(position, record));
            if !is_known && !page.take(position, record) {
                return Ok(page.view);
            }
            archive.advance();
        }
    }
}

/// Where in the archive an origin's records stand.
struct Rack {
    table: Table,
    prefix: Vec<u8>,
}

impl Rack {
    fn of(origin: &Origin) -> Self {
        match origin {
            Origin::Mesh => Self {
                table: ARCHIVE,
                prefix: Vec::new(),
            },
            Origin::Cluster(cluster) => Self {
                table: ARCHIVES,
                prefix: [cluster.as_str().as_bytes(), &[0]].concat(),
            },
        }
    }

    fn place(&self, position: u64, record: &[u8]) -> Vec<u8> {
        [self.prefix.clone(), archive_place(position, record)].concat()
    }
}

/// The archive from some position down.
struct Archive<'a, S> {
    store: &'a S,
    rack: Rack,
    /// Where what was read ends; `None`: there is no more.
    from: Option<Vec<u8>>,
    read: VecDeque<Pair>,
}

impl<'a, S: Store> Archive<'a, S> {
    fn below(store: &'a S, rack: Rack, position: u64) -> Self {
        // Nothing stands below 0.
        let from = (!position).checked_add(1);
        let place = |place: u64| [&rack.prefix[..], &place.to_be_bytes()].concat();
        Self {
            store,
            from: from.map(place),
            rack,
            read: VecDeque::new(),
        }
    }

    /// The newest that was not passed.
    fn peek(&mut self) -> Result<Option<(u64, &[u8])>, StoreError> {
        const AT_ONCE: usize = 16;
        if self.read.is_empty()
            && let Some(from) = &self.from
        {
            let prefix = &self.rack.prefix;
            let mut found = self.store.scan(self.rack.table, from, AT_ONCE)?;
            // The next origin's begin there.
            found.truncate(found.partition_point(|(place, _)| place.starts_with(prefix)));
            self.from = found.get(AT_ONCE - 1).map(|(last, _)| {
                // The smallest place behind the last.
                [&last[..], &[0]].concat()
            });
            self.read = found.into();
        }
        Ok(self.read.front().map(|(place, record)| {
            let place = place.get(self.rack.prefix.len()..).unwrap_or_default();
            let inverted = ledger_position(place).unwrap_or_default();
            (!inverted, &record[..])
        }))
    }

    fn advance(&mut self) {
        self.read.pop_front();
    }
}

/// An answer that is being put together.
struct Page<'a> {
    query: &'a HistoryQuery,
    view: HistoryView,
    looked_at: usize,
    bytes: usize,
    last: u64,
}

impl<'a> Page<'a> {
    fn new(query: &'a HistoryQuery, cluster: &ClusterName, position: Position) -> Self {
        Self {
            query,
            view: HistoryView {
                cluster: cluster.to_string(),
                position: position.0,
                changes: Vec::new(),
                next: None,
                unreadable: Vec::new(),
            },
            looked_at: 0,
            bytes: 0,
            last: u64::MAX,
        }
    }

    /// False: there is no room for it, and the next page begins here.
    fn take(&mut self, position: u64, record: &[u8]) -> bool {
        let is_full = self.view.changes.len() >= self.query.limit
            || self.looked_at >= MOST_LOOKED_AT
            || self.bytes >= ENOUGH;
        // A page ends where a position does.
        if is_full && position < self.last {
            self.view.next = Some(self.last);
            return false;
        }
        self.last = position;
        self.looked_at += 1;
        self.bytes += record.len();
        match show(record, self.query.records) {
            Ok((key, change)) => {
                let selection = self.query.selection.as_ref();
                if selection.is_none_or(|selection| selection.contains(&key)) {
                    self.view.changes.push(change);
                }
            }
            Err(reason) => {
                let unreadable = format!("change {position}: {reason}");
                self.view.unreadable.push(unreadable);
            }
        }
        true
    }
}

fn show(bytes: &[u8], with_record: bool) -> Result<(ResourceKey, ChangeView), BadRecord> {
    let record: Record = decode(bytes)?;
    let key = resource_key(record.key.as_bytes())?;
    let text = bytes.get(1..).unwrap_or_default();
    let change = ChangeView {
        position: record.position,
        time: rfc3339_millis(record.time),
        author: record.author,
        cluster: record.cluster,
        verb: record.verb,
        kind: key.kind.name().to_owned(),
        namespace: key.namespace.as_ref().map(ToString::to_string),
        name: key.name.to_string(),
        origin: match &key.origin {
            Origin::Mesh => None,
            Origin::Cluster(cluster) => Some(cluster.to_string()),
        },
        before: record.before,
        after: record.after,
        hash: hex(&hash(bytes)),
        previous: record.previous,
        record: with_record.then(|| String::from_utf8_lossy(text).into_owned()),
    };
    Ok((key, change))
}
