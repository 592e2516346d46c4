//! How ledgers and copies lie in the store.
//!
//! Table `ledger-heads`: the ledger's name → its head. Table `ledger-entries`: name, `/`, key → one
//! entry. In a table, no ledger's name followed by `/` is the beginning of another's. An owner's ledger and a
//! follower's copy look alike, so that a copy can become the ledger. History and authority lie in tables
//! of their own, and so does what clusters decide for themselves: versions that know none refuse a head whose
//! name they cannot read, and go on without these.

use bytes::Bytes;
use isthmus_model::Position;
use isthmus_world::{Batch, Store, StoreError, Table};

use crate::name::{Epoch, LedgerName, LedgerNameError, Mark};

const HEADS: Table = Table::new("ledger-heads");
const ENTRIES: Table = Table::new("ledger-entries");
const HISTORY_HEADS: Table = Table::new("history-heads");
const HISTORY_ENTRIES: Table = Table::new("history-entries");
const CLUSTER_HEADS: Table = Table::new("cluster-heads");
const CLUSTER_ENTRIES: Table = Table::new("cluster-entries");

/// The first byte of every record.
const FORMAT: u8 = 1;
const DELETED: u8 = 0;
const PRESENT: u8 = 1;

/// Why a ledger cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "ledger {ledger:?} has record format {found}, this version of isthmus reads format \
         {FORMAT}: use the version that wrote it"
    )]
    Format { ledger: String, found: u8 },
    #[error("a record of ledger {ledger:?} is damaged: restore the store from a backup")]
    Damaged { ledger: String },
    #[error("{name:?} is not the name of a ledger: {error}")]
    Name {
        name: String,
        error: LedgerNameError,
    },
    #[error("ledger {ledger} has no epochs left")]
    NoEpoch { ledger: LedgerName },
}

/// Where a ledger stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub(crate) mark: Mark,
    /// Deletions up to here may be forgotten: who is below needs a checkpoint.
    pub(crate) floor: Position,
    /// What others know from epochs below this, and we do not, is void by decision.
    pub(crate) overrules: Epoch,
    /// Earlier epochs and the position at which each ended, oldest first.
    pub(crate) lineage: Vec<(Epoch, Position)>,
}

/// The last change of a key; `None` is a deletion that is still remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) changed: Position,
    pub(crate) value: Option<Bytes>,
}

pub(crate) fn put_head(batch: &mut Batch, ledger: &LedgerName, head: &Head) {
    let mut record = vec![FORMAT];
    record.extend(head.mark.epoch.0.to_be_bytes());
    record.extend(head.mark.position.0.to_be_bytes());
    record.extend(head.floor.0.to_be_bytes());
    record.extend(head.overrules.0.to_be_bytes());
    for (epoch, end) in &head.lineage {
        record.extend(epoch.0.to_be_bytes());
        record.extend(end.0.to_be_bytes());
    }
    batch.put(heads(ledger), ledger.to_string().into_bytes(), record);
}

/// Writes the entry, or takes its record away when there is none.
pub(crate) fn put_entry(batch: &mut Batch, ledger: &LedgerName, key: &Bytes, kept: Option<&Kept>) {
    let mut place = prefix(ledger);
    place.extend(key);
    let Some(kept) = kept else {
        return batch.delete(entries(ledger), place);
    };
    let mut record = vec![FORMAT];
    record.push(kept.value.as_ref().map_or(DELETED, |_| PRESENT));
    record.extend(kept.changed.0.to_be_bytes());
    record.extend(kept.value.iter().flatten());
    batch.put(entries(ledger), place, record);
}

fn heads(ledger: &LedgerName) -> Table {
    match ledger {
        LedgerName::History | LedgerName::Authority => HISTORY_HEADS,
        LedgerName::ClusterConfig(_) | LedgerName::ClusterHistory(_) => CLUSTER_HEADS,
        _ => HEADS,
    }
}

fn entries(ledger: &LedgerName) -> Table {
    match ledger {
        LedgerName::History | LedgerName::Authority => HISTORY_ENTRIES,
        LedgerName::ClusterConfig(_) | LedgerName::ClusterHistory(_) => CLUSTER_ENTRIES,
        _ => ENTRIES,
    }
}

/// Names of all ledgers in the store, but those of which there is one in every store.
pub(crate) fn ledgers(store: &dyn Store) -> Result<Vec<LedgerName>, LoadError> {
    let mut heads = store.scan_prefix(HEADS, b"")?;
    heads.extend(store.scan_prefix(CLUSTER_HEADS, b"")?);
    let name = |(key, _): (Vec<u8>, Vec<u8>)| {
        let name = String::from_utf8_lossy(&key).into_owned();
        name.parse()
            .map_err(|error| LoadError::Name { name, error })
    };
    heads.into_iter().map(name).collect()
}

/// The ledger's head and entries; an empty one when it was never saved.
pub(crate) fn load(
    store: &dyn Store,
    ledger: &LedgerName,
) -> Result<(Head, Vec<(Bytes, Kept)>), LoadError> {
    let head = match store.read(heads(ledger), ledger.to_string().as_bytes())? {
        Some(record) => Reader::new(ledger, &record)?.head()?,
        None => Head::default(),
    };
    let prefix = prefix(ledger);
    let mut found = Vec::new();
    for (place, record) in store.scan_prefix(entries(ledger), &prefix)? {
        let key = Bytes::copy_from_slice(place.get(prefix.len()..).unwrap_or_default());
        let kept = Reader::new(ledger, &record)?.entry()?;
        if kept.changed > head.mark.position {
            return Err(damaged(ledger));
        }
        found.push((key, kept));
    }
    Ok((head, found))
}

fn prefix(ledger: &LedgerName) -> Vec<u8> {
    format!("{ledger}/").into_bytes()
}

fn damaged(ledger: &LedgerName) -> LoadError {
    LoadError::Damaged {
        ledger: ledger.to_string(),
    }
}

struct Reader<'a> {
    ledger: &'a LedgerName,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(ledger: &'a LedgerName, record: &'a [u8]) -> Result<Self, LoadError> {
        match record.split_first() {
            Some((&FORMAT, rest)) => Ok(Self { ledger, rest }),
            Some((&found, _)) => Err(LoadError::Format {
                ledger: ledger.to_string(),
                found,
            }),
            None => Err(damaged(ledger)),
        }
    }

    fn number(&mut self) -> Result<u64, LoadError> {
        let (number, rest) = (self.rest.split_first_chunk()).ok_or_else(|| damaged(self.ledger))?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*number))
    }

    fn head(mut self) -> Result<Head, LoadError> {
        let mark = Mark {
            epoch: Epoch(self.number()?),
            position: Position(self.number()?),
        };
        let floor = Position(self.number()?);
        let overrules = Epoch(self.number()?);
        let mut lineage = Vec::new();
        while !self.rest.is_empty() {
            lineage.push((Epoch(self.number()?), Position(self.number()?)));
        }
        Ok(Head {
            mark,
            floor,
            overrules,
            lineage,
        })
    }

    fn entry(mut self) -> Result<Kept, LoadError> {
        let (&kind, rest) = (self.rest.split_first()).ok_or_else(|| damaged(self.ledger))?;
        self.rest = rest;
        let changed = Position(self.number()?);
        let value = match kind {
            PRESENT => Some(Bytes::copy_from_slice(self.rest)),
            DELETED if self.rest.is_empty() => None,
            _ => return Err(damaged(self.ledger)),
        };
        Ok(Kept { changed, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_world::VirtualStore;

    fn example() -> (Head, Vec<(Bytes, Kept)>) {
        let head = Head {
            mark: Mark {
                epoch: Epoch(5),
                position: Position(9),
            },
            floor: Position(2),
            overrules: Epoch(1),
            lineage: vec![(Epoch(3), Position(4))],
        };
        let kept = |changed, value: Option<&'static str>| Kept {
            changed: Position(changed),
            value: value.map(Bytes::from),
        };
        let entries = vec![
            (Bytes::from(""), kept(9, Some("empty key"))),
            (Bytes::from("a/b"), kept(1, Some(""))),
            (Bytes::from("c"), kept(3, None)),
        ];
        (head, entries)
    }

    fn batch(ledger: &LedgerName) -> Batch {
        let (head, entries) = example();
        let mut batch = Batch::new();
        put_head(&mut batch, ledger, &head);
        for (key, kept) in &entries {
            put_entry(&mut batch, ledger, key, Some(kept));
        }
        batch
    }

    #[test]
    fn ledgers_come_back_as_they_were() {
        let ledger: LedgerName = "facts/us-west".parse().unwrap();
        let mut store = VirtualStore::new();
        store.commit(&batch(&ledger)).unwrap();
        store.commit(&batch(&LedgerName::Config)).unwrap();
        assert_eq!(load(&store, &ledger).unwrap(), example());
        assert_eq!(ledgers(&store).unwrap(), [LedgerName::Config, ledger]);
    }

    #[test]
    fn what_is_cut_or_unknown_is_an_error() {
        let ledger = LedgerName::Config;
        for write in batch(&ledger).writes() {
            let record = write.value.clone().unwrap();
            let refused = |record: &[u8]| {
                let mut changed = batch(&ledger);
                changed.put(write.table, write.key.clone(), record.to_vec());
                let mut store = VirtualStore::new();
                store.commit(&changed).unwrap();
                load(&store, &ledger).unwrap_err()
            };
            for length in 0..10.min(record.len()) {
                let error = refused(&record[..length]);
                assert!(matches!(error, LoadError::Damaged { .. }), "{error}");
            }
            let mut newer = record.to_vec();
            newer[0] = FORMAT + 1;
            assert!(matches!(
                refused(&newer),
                LoadError::Format { found: 2, .. }
            ));
        }
    }
}
