//! A backup: everything that a control plane's store held at one moment, in one file that can be
//! started from. What was sealed in the store is sealed in the file, and opened by the same operator's
//! key. The cluster's own key is not in it: it never leaves its directory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use isthmus_model::Position;
use isthmus_world::{RedbImage, RedbStore, StoreError, StoreImage};
use serde::{Deserialize, Serialize};

use crate::at_rest::{self, AtRestError, BACKUP_HEADER as HEADER, KeyFile};
use crate::config::{Config, DataError};
use crate::core::Backup;
use crate::hex::hex;
use crate::time::{from_unix_millis, unix_millis};

/// The version of the header that is written.
const FORMAT: u32 = 1;
const KEY: &[u8] = b"header";

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupInfo {
    pub mesh: String,
    pub trust_domain: String,
    pub cluster: String,
    pub taken: SystemTime,
    /// Where config stood.
    pub position: Position,
    /// The version of isthmus that wrote it.
    pub version: String,
    /// The name of the operator's key that opens it; `None`: it lies open.
    pub sealed_by: Option<String>,
}

/// What `restore` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restoration {
    pub backup: BackupInfo,
    pub store: PathBuf,
    /// Where the store went whose place it took.
    pub replaced: Option<PathBuf>,
    /// Why its control plane cannot start yet: what is wrong with the cluster's key or certificate.
    pub unsigned: Option<String>,
}

/// Why a backup cannot be read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    AtRest(#[from] AtRestError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("{} is a store and no backup: `isthmus backup create` makes one", path.display())]
    NoBackup { path: PathBuf },
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{} has format {found}, this version of isthmus reads format {FORMAT}: use the version that \
         wrote it", path.display()
    )]
    Format { path: PathBuf, found: u32 },
    #[error("{} is of {found}, the configuration says {expected}", path.display())]
    Other {
        path: PathBuf,
        found: String,
        expected: String,
    },
    #[error("there is a store at {}: restoring puts another one in its place", path.display())]
    Exists { path: PathBuf },
    #[error("{} is missing: without it nobody could open a backup of what is sealed", path.display())]
    NoDataKey { path: PathBuf },
    #[error("{} cannot be {act}: {source}", path.display())]
    File {
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format: u32,
    mesh: String,
    trust_domain: String,
    cluster: String,
    /// Milliseconds since 1970.
    taken: u64,
    position: u64,
    version: String,
    /// SHA-256 over all else, in hexadecimal.
    sha256: String,
    /// What is in `data.key`, where the store is sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_key: Option<KeyFile>,
}

/// What all headers have in common.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// Writes what the core gave into a file at `path`, in the place of whatever is there.
///
/// Errors: it cannot be written, or what seals the store cannot be read.
pub(crate) fn write(config: &Config, backup: &Backup, path: &Path) -> Result<(), BackupError> {
    let image = &*backup.image;
    let data_key = if at_rest::is_sealed_in(image)? {
        let path = config.data.join(at_rest::DATA_KEY_FILE);
        let key = KeyFile::read(&path)?;
        Some(key.ok_or(BackupError::NoDataKey { path })?)
    } else {
        None
    };
    let mut digest = Context::new(&SHA256);
    RedbStore::write_new(path, |new| {
        // One that was copied by hand and started from has a header of its own.
        for table in tables(image)? {
            new.table(&table, |put| {
                image.each(&table, &mut |key, value| {
                    add(&mut digest, &table, key, value);
                    put(key, value)
                })
            })?;
        }
        let header = Header {
            format: FORMAT,
            mesh: config.mesh.to_string(),
            trust_domain: config.trust_domain.to_string(),
            cluster: config.cluster.to_string(),
            taken: unix_millis(backup.taken),
            position: backup.position.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sha256: hex(digest.finish().as_ref()),
            data_key,
        };
        // Text and numbers always are JSON.
        let header = serde_json::to_vec(&header).unwrap_or_default();
        new.table(HEADER, |put| put(KEY, &header))
    })?;
    Ok(())
}

/// What a backup says of itself, if it is whole.
///
/// Errors: it is no backup, damaged, or of another format.
pub fn read_backup(path: &Path) -> Result<BackupInfo, BackupError> {
    let (_, header) = open(path)?;
    Ok(header.info())
}

/// Puts the backup at `path` where the control plane of `config` starts from, which must not run.
/// `even_there`: also where there is a store; that one is put aside.
///
/// Errors: it is no backup, of another cluster, or sealed by a key that is not configured; there is a
/// store. What there was to start from is as it was.
pub fn restore(config: &Config, path: &Path, even_there: bool) -> Result<Restoration, BackupError> {
    let (image, header) = open(path)?;
    for (found, expected) in [
        (&header.mesh, config.mesh.as_str()),
        (&header.trust_domain, config.trust_domain.as_str()),
        (&header.cluster, config.cluster.as_str()),
    ] {
        if found != expected {
            return Err(BackupError::Other {
                path: path.to_owned(),
                found: header.name(),
                expected: format!(
                    "cluster {} of mesh {} ({})",
                    config.cluster, config.mesh, config.trust_domain
                ),
            });
        }
    }
    let failed = |act: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::File { act, path, source }
    };
    fs::create_dir_all(&config.data).map_err(failed("made", &config.data))?;
    let store = config.store();
    let exists = at_rest::exists(&store)?;
    if exists && !even_there {
        return Err(BackupError::Exists { path: store });
    }
    // In the hands of one process: no control plane runs on it.
    let unlocked = config.unlock()?;
    // Until the other one is in its place. One that cannot be opened nobody has.
    let held = exists.then(|| RedbStore::open(&store));
    if let Some(Err(locked @ StoreError::Locked { .. })) = held {
        return Err(AtRestError::from(locked).into());
    }
    let replaced = exists.then(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        store.with_added_extension(format!("replaced-{seconds}"))
    });
    if let Some(aside) = &replaced {
        fs::hard_link(&store, aside).map_err(failed("put aside", &store))?;
    }
    let sealed = (path, header.data_key.as_ref());
    let keys = (config.at_rest.as_ref(), unlocked.as_ref());
    let written = at_rest::restore_store(&image, sealed, HEADER, keys, &store);
    drop(held);
    if let (Err(_), Some(aside)) = (&written, &replaced)
        && is_same_file(&store, aside)
    {
        // It is where it was, under its own name.
        let _ = fs::remove_file(aside);
    }
    written?;
    let authority = config.authority_at(unlocked.as_ref(), SystemTime::now());
    Ok(Restoration {
        backup: header.info(),
        store,
        replaced,
        unsigned: authority.err().map(|error| error.to_string()),
    })
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((inode(one), inode(other)), (Ok(one), Ok(other)) if one == other)
}

impl Header {
    fn info(&self) -> BackupInfo {
        BackupInfo {
            mesh: self.mesh.clone(),
            trust_domain: self.trust_domain.clone(),
            cluster: self.cluster.clone(),
            taken: from_unix_millis(self.taken),
            position: Position(self.position),
            version: self.version.clone(),
            sealed_by: self.data_key.as_ref().map(|key| key.sealed_by.clone()),
        }
    }

    fn name(&self) -> String {
        let Self {
            mesh,
            trust_domain,
            cluster,
            ..
        } = self;
        format!("cluster {cluster} of mesh {mesh} ({trust_domain})")
    }
}

fn open(path: &Path) -> Result<(RedbImage, Header), BackupError> {
    let damaged = |reason: &str| BackupError::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let image = RedbImage::open(path).map_err(|error| match error {
        StoreError::Damaged { reason, .. } => damaged(&reason),
        other => other.into(),
    })?;
    let mut header = None;
    image.each(HEADER, &mut |key, value| {
        if key == KEY {
            header = Some(value.to_vec());
        }
        Ok(())
    })?;
    let header = header.ok_or_else(|| BackupError::NoBackup {
        path: path.to_owned(),
    })?;
    let unreadable = |_| damaged("its header is not what was written");
    let Format { format } = serde_json::from_slice(&header).map_err(unreadable)?;
    if format != FORMAT {
        return Err(BackupError::Format {
            path: path.to_owned(),
            found: format,
        });
    }
    let header: Header = serde_json::from_slice(&header).map_err(unreadable)?;
    let mut digest = Context::new(&SHA256);
    for table in tables(&image)? {
        image.each(&table, &mut |key, value| {
            add(&mut digest, &table, key, value);
            Ok(())
        })?;
    }
    if hex(digest.finish().as_ref()) != header.sha256 {
        return Err(damaged(
            "its content does not have the digest in its header",
        ));
    }
    if header.data_key.is_some() != at_rest::is_sealed_in(&image)? {
        return Err(damaged(
            "it is sealed, and what opens it is not in it, or the other way round",
        ));
    }
    Ok((image, header))
}

fn tables(image: &dyn StoreImage) -> Result<Vec<String>, StoreError> {
    let mut tables = image.tables()?;
    tables.retain(|table| table != HEADER);
    Ok(tables)
}

/// Each part with its length, so that none can pass for another.
fn add(digest: &mut Context, table: &str, key: &[u8], value: &[u8]) {
    for part in [table.as_bytes(), key, value] {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
}

#[cfg(test)]
mod tests;
