//! What lies in a control plane's directory is sealed: the values of its store, and the cluster's key.
//!
//! They are sealed by a data key, and that by the operator's key, which lies elsewhere. With another operator's key
//! comes another data key, and all is sealed anew: a copy of what the old one opens is of no use
//! from then on. Each step can be interrupted, and the next start goes on with it.

mod source;
mod store;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use isthmus_identity::{open, seal};
use isthmus_world::{RedbStore, Store, StoreError, StoreImage};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::source::OperatorKey;
use crate::hex::{hex, unhex};

pub(crate) use self::store::is_sealed_in;

pub use self::source::{KeySource, SourceError};

/// The version of `data.key` that is written.
const FORMAT: u32 = 1;
const DATA_KEY: &[u8] = b"isthmus data key";
/// Files of the directory.
pub(crate) const STORE: &str = "store.redb";
pub(crate) const SEALED_CLUSTER_KEY: &str = "cluster.key.sealed";
pub(crate) const SEALED_NEXT_KEY: &str = "cluster.next.key.sealed";
/// The table by which a backup says what it is of. Nothing in it is sealed, and no store needs it.
pub(crate) const BACKUP_HEADER: &str = "backup";
pub(crate) const DATA_KEY_FILE: &str = "data.key";

/// By what a control plane seals what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtRest {
    pub key: KeySource,
    /// Keys that may have sealed it before; they are not needed once it has started with `key`.
    pub previous: Vec<KeySource>,
}

/// Why what lies in the directory cannot be opened or sealed.
#[derive(Debug, thiserror::Error)]
pub enum AtRestError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{} says that what lies beside it is sealed by key {sealed_by}, and no key is configured: \
         name it as `atRest.key`", path.display()
    )]
    NoKey { path: PathBuf, sealed_by: String },
    #[error(
        "{} is sealed by key {sealed_by}; configured are {}: name that key as `atRest.key`, or among \
         `atRest.previous` to have all sealed by another one", path.display(), configured.join(", ")
    )]
    OtherKey {
        path: PathBuf,
        sealed_by: String,
        configured: Vec<String>,
    },
    #[error(
        "{} is sealed, and not by what is in `data.key` beside it, or there is none: restore both from \
         one backup", path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "{} and {} hold different keys: take away the one that is not this cluster's",
        open.display(), sealed.display()
    )]
    TwoKeys { open: PathBuf, sealed: PathBuf },
    #[error("{} is damaged ({reason}): restore it from a backup", path.display())]
    Damaged { path: PathBuf, reason: &'static str },
    #[error(
        "{} has format {found}, this version of isthmus reads format {FORMAT}: use the version that \
         wrote it", path.display()
    )]
    Format { path: PathBuf, found: u32 },
    #[error("{} is in use by another process; stop that one first", path.display())]
    Locked { path: PathBuf },
    #[error("no key could be made: the system gives no random bytes, or the library refuses")]
    NoChance,
    #[error("{} cannot be {act}: {source}", path.display())]
    File {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// A key of 256 bits, wiped when dropped.
struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    fn make() -> Result<Self, AtRestError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *key).map_err(|_| AtRestError::NoChance)?;
        Ok(Self(key))
    }
}

/// `data.key`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyFile {
    format: u32,
    /// The name of the operator's key.
    pub(crate) sealed_by: String,
    /// Data keys, the newest first; older ones for as long as something is sealed by them.
    keys: Vec<String>,
}

/// What all formats of `data.key` have in common.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// The keys of a directory, in the hands of the one process that has it.
pub(crate) struct Unlocked {
    folder: PathBuf,
    operator: OperatorKey,
    key: DataKey,
    older: Vec<DataKey>,
    lock: File,
}

/// Opens what seals `folder`, or makes it. `None`: nothing there is sealed, or is to be.
///
/// Errors: no configured key opens it; it is in use, damaged, or cannot be read or written.
pub(crate) fn unlock(
    folder: &Path,
    at_rest: Option<&AtRest>,
) -> Result<Option<Unlocked>, AtRestError> {
    let path = folder.join(DATA_KEY_FILE);
    let Some(at_rest) = at_rest else {
        return match KeyFile::read(&path)? {
            None => Ok(None),
            Some(KeyFile { sealed_by, .. }) => Err(AtRestError::NoKey { path, sealed_by }),
        };
    };
    let operator = at_rest.key.read()?;
    let lock = lock(folder)?;
    let file = KeyFile::read(&path)?;
    let (key, older) = match &file {
        Some(file) if file.sealed_by == operator.name => {
            let mut keys = file.open(&path, &operator)?.into_iter();
            let key = keys.next();
            (
                key.ok_or_else(|| damaged(&path, "no key is in it"))?,
                keys.collect(),
            )
        }
        Some(file) => (
            DataKey::make()?,
            file.open_by(&path, &operator, &at_rest.previous)?,
        ),
        None => {
            refuse_foreign(folder)?;
            (DataKey::make()?, Vec::new())
        }
    };
    let is_kept = file.is_some_and(|file| file.sealed_by == operator.name);
    let unlocked = Unlocked {
        folder: folder.to_owned(),
        operator,
        key,
        older,
        lock,
    };
    if !is_kept {
        unlocked.save()?;
    }
    Ok(Some(unlocked))
}

/// Where there is no data key yet, nothing may be sealed: its key would be lost, and a new one would hide that.
fn refuse_foreign(folder: &Path) -> Result<(), AtRestError> {
    let store = folder.join(STORE);
    for sealed in [SEALED_CLUSTER_KEY, SEALED_NEXT_KEY] {
        let path = folder.join(sealed);
        if exists(&path)? {
            return Err(AtRestError::Foreign { path });
        }
    }
    if exists(&store)? && store::is_sealed(&RedbStore::open(&store)?)? {
        return Err(AtRestError::Foreign { path: store });
    }
    Ok(())
}

/// Opens a store in which nothing is sealed, or makes it.
///
/// Errors: as of [`RedbStore::open`]; something in it is sealed.
pub(crate) fn plain_store(path: &Path) -> Result<Box<dyn Store>, AtRestError> {
    let store = RedbStore::open(path)?;
    if store::is_sealed(&store)? {
        let path = path.to_owned();
        return Err(AtRestError::Foreign { path });
    }
    Ok(Box::new(store))
}

/// Makes a store of `image`, without its table `without`, sealed as `at_rest` says. `sealed`: the
/// file that it is from, and what is in its `data.key`, if its values are sealed.
///
/// Errors: no configured key opens it; it is damaged, or cannot be written.
pub(crate) fn restore_store(
    image: &dyn StoreImage,
    (from, sealed): (&Path, Option<&KeyFile>),
    without: &str,
    (at_rest, unlocked): (Option<&AtRest>, Option<&Unlocked>),
    path: &Path,
) -> Result<(), AtRestError> {
    let before = match (sealed, at_rest) {
        (None, _) => None,
        (Some(sealed), None) => {
            return Err(AtRestError::NoKey {
                path: from.to_owned(),
                sealed_by: sealed.sealed_by.clone(),
            });
        }
        (Some(sealed), Some(at_rest)) => {
            let operator = at_rest.key.read()?;
            let keys = if sealed.sealed_by == operator.name {
                sealed.open(from, &operator)?
            } else {
                sealed.open_by(from, &operator, &at_rest.previous)?
            };
            let mut keys = keys.iter();
            let known = keys.find_map(|key| store::known_of(image, key).transpose());
            let known = known.transpose()?;
            Some(known.ok_or_else(|| damaged(from, "its keys do not open its values"))?)
        }
    };
    match unlocked {
        Some(unlocked) => store::seal_anew(image, path, &unlocked.key, before.as_ref(), without),
        None => Ok(store::copy(image, path, without)?),
    }
}

impl Unlocked {
    fn save(&self) -> Result<(), AtRestError> {
        let keys = std::iter::once(&self.key).chain(&self.older);
        let sealed = keys.map(|key| seal(&self.operator.key, DATA_KEY, &*key.0));
        let sealed = sealed.collect::<Result<Vec<_>, _>>();
        let sealed = sealed.map_err(|_| AtRestError::NoChance)?;
        let file = KeyFile {
            format: FORMAT,
            sealed_by: self.operator.name.clone(),
            keys: sealed.iter().map(|key| hex(key)).collect(),
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|_| AtRestError::NoChance)?;
        replace(&self.folder.join(DATA_KEY_FILE), &text)
    }

    /// Opens the store, or makes it; what in it is not sealed by the newest key is sealed by it before. When that is done,
    /// and all files were read, everything is, and older keys are forgotten. The store keeps the right to the directory's
    /// keys.
    pub(crate) fn store(&mut self, path: &Path) -> Result<Box<dyn Store>, AtRestError> {
        let lock = self.lock.try_clone().map_err(failed("locked", path))?;
        let store = store::open_store(path, &self.key, &self.older, lock)?;
        if !self.older.is_empty() {
            self.older.clear();
            self.save()?;
        }
        Ok(Box::new(store))
    }

    /// What was sealed into a file. `None`: there is no such file.
    pub(crate) fn read(&self, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, AtRestError> {
        let Some(sealed) = read(path)? else {
            return Ok(None);
        };
        let context = context(path);
        if let Ok(plain) = open(&self.key.0, &context, &sealed) {
            return Ok(Some(Zeroizing::new(plain)));
        }
        let mut older = self.older.iter();
        let plain = older.find_map(|older| open(&older.0, &context, &sealed).ok());
        let plain = plain.ok_or_else(|| AtRestError::Foreign {
            path: path.to_owned(),
        })?;
        self.write(path, &plain)?;
        Ok(Some(Zeroizing::new(plain)))
    }

    /// Seals into a file, which is there in whole or not at all.
    pub(crate) fn write(&self, path: &Path, plain: &[u8]) -> Result<(), AtRestError> {
        let sealed = seal(&self.key.0, &context(path), plain);
        replace(path, &sealed.map_err(|_| AtRestError::NoChance)?)
    }
}

impl KeyFile {
    /// `None`: there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, AtRestError> {
        let Some(text) = read(path)? else {
            return Ok(None);
        };
        let unreadable = |_| damaged(path, "it is not what was written");
        let Format { format } = serde_json::from_slice(&text).map_err(unreadable)?;
        if format != FORMAT {
            return Err(AtRestError::Format {
                path: path.to_owned(),
                found: format,
            });
        }
        serde_json::from_slice(&text).map(Some).map_err(unreadable)
    }

    /// The data keys, by the operator's earlier key, one of `previous`; `operator` takes its place.
    fn open_by(
        &self,
        path: &Path,
        operator: &OperatorKey,
        previous: &[KeySource],
    ) -> Result<Vec<DataKey>, AtRestError> {
        let (mut configured, mut unread) = (vec![operator.name.clone()], None);
        for previous in previous {
            match previous.read() {
                Ok(previous) if self.sealed_by == previous.name => {
                    let (from, to) = (&previous.name, &operator.name);
                    tracing::info!("key {to} takes the place of key {from}: all is sealed anew");
                    return self.open(path, &previous);
                }
                Ok(previous) => configured.push(previous.name),
                Err(error) => {
                    unread.get_or_insert(error);
                }
            }
        }
        Err(unread.map_or_else(
            || AtRestError::OtherKey {
                path: path.to_owned(),
                sealed_by: self.sealed_by.clone(),
                configured,
            },
            AtRestError::from,
        ))
    }

    fn open(&self, path: &Path, operator: &OperatorKey) -> Result<Vec<DataKey>, AtRestError> {
        let opened = |sealed: &String| {
            let plain = open(&operator.key, DATA_KEY, &unhex(sealed)?).ok()?;
            let plain = Zeroizing::new(plain);
            let key = <[u8; 32]>::try_from(&plain[..]).ok()?;
            Some(DataKey(Zeroizing::new(key)))
        };
        let keys = self.keys.iter().map(opened);
        let keys = keys.collect::<Option<_>>();
        keys.ok_or_else(|| damaged(path, "a key in it is not what was sealed"))
    }
}

/// What a file is bound to: its name, so that none stands for another.
fn context(path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default();
    [b"isthmus file ", name.as_encoded_bytes()].concat()
}

fn damaged(path: &Path, reason: &'static str) -> AtRestError {
    let path = path.to_owned();
    AtRestError::Damaged { path, reason }
}

fn lock(folder: &Path) -> Result<File, AtRestError> {
    let path = folder.join("data.key.lock");
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("opened", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(AtRestError::Locked {
            path: folder.to_owned(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(failed("locked", &path)(error)),
    }
}

fn failed(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AtRestError + use<> {
    let path = path.to_owned();
    move |source| AtRestError::File { act, path, source }
}

pub(crate) fn exists(path: &Path) -> Result<bool, AtRestError> {
    path.try_exists().map_err(failed("read", path))
}

/// `None`: there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, AtRestError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Writes a file for its owner only; a crash leaves the old one or the new one.
/// Writes a file that only its owner can read, and that is there in whole or as it was before.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), AtRestError> {
    let write = || -> io::Result<()> {
        let beside = path.with_added_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    write().map_err(failed("written", path))
}

#[cfg(test)]
mod tests;
