//! A store whose values nobody reads without its key.
//!
//! What is found by is not hidden: names of tables, and the keys of values, among which are names of
//! objects and clusters. A value is AES-256-GCM (NIST SP 800-38D), bound to its table and key.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use isthmus_identity::{open, seal};
use isthmus_world::{Batch, Pair, RedbStore, Store, StoreError, StoreImage, Table};

use super::{AtRestError, BACKUP_HEADER, DataKey};

/// The keys of values, each sealed by the data key, by their numbers.
const KEYS: Table = Table::new("value-keys");
/// The first byte of a sealed value. Whatever changes its form changes this.
const FORMAT: u8 = 0x51;
/// Before what is sealed: format, number of its key, number of the value.
const HEADER: usize = 1 + 4 + 8;

/// Values are sealed on their way into `S` and opened on their way out.
pub(crate) struct SealedStore<S> {
    store: S,
    /// What errors name.
    path: PathBuf,
    keys: ValueKeys,
    /// The right to have the directory's keys, for as long as they are in use.
    #[expect(dead_code, reason = "held, never read")]
    lock: Option<File>,
}

/// The keys of values. Each process that opens a store seals by a key of its own, so that no key ever
/// seals two values under the same number, whichever copy of the store it was that was opened.
struct ValueKeys {
    known: Known,
    /// The number of our own.
    own: u32,
    /// What is kept of our own, and whether it is.
    entry: Bytes,
    is_kept: bool,
    /// Values that it has sealed.
    sealed: u64,
}

/// The keys that seal values of a store, by their numbers.
pub(super) type Known = BTreeMap<u32, LessSafeKey>;

impl<S: Store> SealedStore<S> {
    /// `lock`: what is held for as long as the store is.
    fn new(store: S, path: &Path, keys: ValueKeys, lock: Option<File>) -> Self {
        Self {
            store,
            path: path.to_owned(),
            keys,
            lock,
        }
    }

    fn sealed(&mut self, batch: &Batch) -> Result<Batch, StoreError> {
        let mut sealed = Batch::new();
        for write in batch.writes() {
            match &write.value {
                Some(value) => {
                    let value = self.keys.seal(write.table.name(), &write.key, value);
                    let value = value.ok_or_else(|| refused(&self.path))?;
                    sealed.put(write.table, write.key.clone(), value);
                }
                None => sealed.delete(write.table, write.key.clone()),
            }
        }
        Ok(sealed)
    }

    fn opened(&self, table: Table, key: &[u8], value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let opened = opened(&self.keys.known, table.name(), key, value);
        opened.ok_or_else(|| StoreError::Damaged {
            path: self.path.clone(),
            reason: format!("a value in table {} is not what was sealed", table.name()),
        })
    }
}

impl<S: Store> Store for SealedStore<S> {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut sealed = Batch::new();
        if !self.keys.is_kept {
            self.keys.keep(&mut sealed);
        }
        // After an error the file is opened anew, and may be another one.
        self.keys.is_kept = false;
        sealed.append(self.sealed(batch)?);
        self.store.commit(&sealed)?;
        self.keys.is_kept = true;
        Ok(())
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let pairs = self.store.scan(table, from, limit)?;
        let open = |(key, value): Pair| Ok((key.clone(), self.opened(table, &key, &value)?));
        pairs.into_iter().map(open).collect()
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.store.read(table, key)?;
        value
            .map(|value| self.opened(table, key, &value))
            .transpose()
    }

    fn image(&mut self, more: &Batch) -> Result<Box<dyn StoreImage>, StoreError> {
        let mut sealed = self.sealed(more)?;
        self.keys.keep(&mut sealed);
        self.store.image(&sealed)
    }
}

impl ValueKeys {
    /// With a new key of our own beside those that are `known`.
    fn new(mut known: Known, data_key: &DataKey) -> Result<Self, AtRestError> {
        let own = known.last_key_value().map_or(0, |(last, _)| last + 1);
        let key = DataKey::make()?;
        let entry = seal(&data_key.0, &context(own), &*key.0);
        let entry = entry.map_err(|_| AtRestError::NoChance)?.into();
        known.insert(own, cipher(&*key.0).ok_or(AtRestError::NoChance)?);
        Ok(Self {
            known,
            own,
            entry,
            is_kept: false,
            sealed: 0,
        })
    }

    /// Puts our own key beside the values.
    fn keep(&self, batch: &mut Batch) {
        batch.put(KEYS, self.own.to_be_bytes().to_vec(), self.entry.clone());
    }

    /// `None`: the library refuses.
    fn seal(&mut self, table: &str, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let cipher = self.known.get(&self.own)?;
        let number = self.sealed;
        self.sealed += 1;
        let mut sealed = Vec::with_capacity(HEADER + value.len() + AES_256_GCM.tag_len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&self.own.to_be_bytes());
        sealed.extend_from_slice(&number.to_be_bytes());
        sealed.extend_from_slice(value);
        let body = &mut sealed[HEADER..];
        let tag = cipher.seal_in_place_separate_tag(nonce(number), bound(table, key), body);
        sealed.extend_from_slice(tag.ok()?.as_ref());
        Some(sealed)
    }
}

/// `None`: it is not what was sealed for this place, or by none of these keys.
fn opened(known: &Known, table: &str, key: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (header, body) = sealed.split_first_chunk::<HEADER>()?;
    let [FORMAT, a, b, c, d, number @ ..] = *header else {
        return None;
    };
    let cipher = known.get(&u32::from_be_bytes([a, b, c, d]))?;
    let number = u64::from_be_bytes(number);
    let mut body = body.to_vec();
    let opened = cipher.open_in_place(nonce(number), bound(table, key), &mut body);
    let length = opened.ok()?.len();
    body.truncate(length);
    Some(body)
}

/// `None`: they are sealed by another data key.
fn known(store: &impl Store, data_key: &DataKey) -> Result<Option<Known>, StoreError> {
    Ok(opened_keys(store.scan_prefix(KEYS, b"")?, data_key))
}

/// `None`: they are sealed by another data key.
pub(super) fn known_of(
    image: &dyn StoreImage,
    data_key: &DataKey,
) -> Result<Option<Known>, StoreError> {
    let mut entries = Vec::new();
    image.each(KEYS.name(), &mut |number, sealed| {
        entries.push((number.to_vec(), sealed.to_vec()));
        Ok(())
    })?;
    Ok(opened_keys(entries, data_key))
}

fn opened_keys(entries: Vec<Pair>, data_key: &DataKey) -> Option<Known> {
    let entry = |(number, sealed): Pair| {
        let number = u32::from_be_bytes(number.try_into().ok()?);
        let key = open(&data_key.0, &context(number), &sealed).ok()?;
        Some((number, cipher(&key)?))
    };
    entries.into_iter().map(entry).collect()
}

fn cipher(key: &[u8]) -> Option<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
    Some(LessSafeKey::new(key))
}

fn context(number: u32) -> Vec<u8> {
    [b"isthmus value key ", &number.to_be_bytes()[..]].concat()
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// A name of a table has no zero in it.
fn bound(table: &str, key: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([&[FORMAT], table.as_bytes(), &[0], key].concat())
}

fn refused(path: &Path) -> StoreError {
    StoreError::Io {
        act: "seal values of",
        path: path.to_owned(),
        source: std::io::Error::other("the cryptographic library refuses"),
    }
}

/// Opens the store at `path`, or makes it. What in it is not sealed, or by one of `older`, is sealed by `key`
/// before: the file is written anew and takes the place of the old one.
///
/// Errors: as of [`RedbStore::open`]; it is sealed by none of these keys.
pub(super) fn open_store(
    path: &Path,
    key: &DataKey,
    older: &[DataKey],
    lock: File,
) -> Result<SealedStore<RedbStore>, AtRestError> {
    let sealed = |store, known| -> Result<_, AtRestError> {
        let keys = ValueKeys::new(known, key)?;
        Ok(SealedStore::new(store, path, keys, Some(lock)))
    };
    let foreign = || AtRestError::Foreign {
        path: path.to_owned(),
    };
    let mut store = RedbStore::open(path)?;
    let before = match known(&store, key)? {
        // One that was just made is empty, and one of an earlier run has keys.
        Some(known) if known.is_empty() && !store.is_empty()? => None,
        Some(known) => return sealed(store, known),
        None => {
            let mut older = older.iter();
            let of_older = older.find_map(|older| known(&store, older).transpose());
            Some(of_older.ok_or_else(foreign)??)
        }
    };
    tracing::info!("sealing all that is in {}", path.display());
    let image = store.image(&Batch::new())?;
    seal_anew(&*image, path, key, before.as_ref(), BACKUP_HEADER)?;
    drop((image, store));
    let store = RedbStore::open(path)?;
    let known = known(&store, key)?.ok_or_else(foreign)?;
    sealed(store, known)
}

/// Makes a store at `path` of what is in `from`, without its table `without`, sealed by `key`.
/// `before`: the keys that its values are sealed by; `None`: they are not.
pub(super) fn seal_anew(
    from: &dyn StoreImage,
    path: &Path,
    key: &DataKey,
    before: Option<&Known>,
    without: &str,
) -> Result<(), AtRestError> {
    let mut keys = ValueKeys::new(Known::new(), key)?;
    RedbStore::write_new(path, |new| {
        for table in tables(from, without)? {
            new.table(&table, |put| {
                from.each(&table, &mut |key, value| {
                    let plain = match before {
                        Some(before) => opened(before, &table, key, value),
                        None => Some(value.to_vec()),
                    };
                    let plain = plain.ok_or_else(|| StoreError::Damaged {
                        path: path.to_owned(),
                        reason: format!("a value in table {table} is not what was sealed"),
                    })?;
                    let sealed = keys.seal(&table, key, &plain);
                    put(key, &sealed.ok_or_else(|| refused(path))?)
                })
            })?;
        }
        new.table(KEYS.name(), |put| put(&keys.own.to_be_bytes(), &keys.entry))
    })?;
    Ok(())
}

/// The tables with values that are, or might be, sealed.
fn tables(of: &dyn StoreImage, without: &str) -> Result<Vec<String>, StoreError> {
    let mut tables = of.tables()?;
    tables.retain(|name| name != KEYS.name() && name != without);
    Ok(tables)
}

/// Makes a store at `path` of what is in `from`, where nothing is sealed, without its table `without`.
pub(super) fn copy(from: &dyn StoreImage, path: &Path, without: &str) -> Result<(), StoreError> {
    RedbStore::write_new(path, |new| {
        for table in tables(from, without)? {
            new.table(&table, |put| from.each(&table, put))?;
        }
        Ok(())
    })
}

/// Is anything in it sealed?
pub(crate) fn is_sealed(store: &impl Store) -> Result<bool, StoreError> {
    Ok(!store.scan(KEYS, b"", 1)?.is_empty())
}

/// Is anything in it sealed?
pub(crate) fn is_sealed_in(image: &dyn StoreImage) -> Result<bool, StoreError> {
    Ok(image.tables()?.iter().any(|name| name == KEYS.name()))
}

#[cfg(test)]
mod tests;
