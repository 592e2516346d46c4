//! What a proxy keeps on disk: its identity and its last view, sealed under the node key.
//!
//! Sealing protects against damage and copying, not against root. Whatever cannot be opened is
//! refused as a whole and counted; the proxy then starts as if it were not there. Of the processes
//! that have the folder, one at a time may write into it: who holds the lock.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use isthmus_identity::{OpenError, open, seal};
use isthmus_wire::proto::{StoredIdentity, StoredView};
use prost::Message;

/// The files of one proxy. Sealed ones are bound to `context`: mesh cluster, process identity.
#[derive(Debug)]
pub(crate) struct Vault {
    folder: PathBuf,
    context: String,
    /// Held by the process that writes.
    lock: Option<File>,
}

/// What was found.
pub(crate) struct Stored {
    pub(crate) node_key: [u8; 32],
    pub(crate) identity: StoredIdentity,
}

/// Why something stored is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Sealed { path: PathBuf, source: OpenError },
    #[error("{path}: its content cannot be read: {reason}")]
    Content { path: PathBuf, reason: String },
    #[error("{path}: it could not be sealed")]
    Seal { path: PathBuf },
}

impl VaultError {
    /// A short stable word for counters.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Sealed {
                source: OpenError::WrongVersion { .. },
                ..
            } => "version",
            Self::Sealed { .. } => "damaged-or-foreign",
            Self::Content { .. } => "content",
            Self::Seal { .. } => "seal",
        }
    }
}

impl Vault {
    /// Makes the folder, for its owner only.
    pub(crate) fn new(folder: &Path, context: String) -> Result<Self, VaultError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| VaultError::Io {
                path: folder.to_owned(),
                source,
            })?;
        Ok(Self {
            folder: folder.to_owned(),
            context,
            lock: None,
        })
    }

    /// Takes the right to write, if no other process has it. True: this process has it.
    pub(crate) fn claim(&mut self) -> bool {
        if self.lock.is_none() {
            let mut options = fs::OpenOptions::new();
            let file = options
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(self.folder.join("lock"));
            self.lock = file.ok().filter(|file| file.try_lock().is_ok());
        }
        self.lock.is_some()
    }

    /// Gives the right to write to whoever claims it next.
    pub(crate) fn release(&mut self) {
        self.lock = None;
    }

    /// The identity of an earlier run; `None`: there was none.
    pub(crate) fn identity(&self) -> Result<Option<Stored>, VaultError> {
        let path = self.folder.join("node.key");
        let Some(key) = read(&path)? else {
            return Ok(None);
        };
        let Ok(node_key) = <[u8; 32]>::try_from(key) else {
            let reason = "a node key has 32 bytes".to_owned();
            return Err(VaultError::Content { path, reason });
        };
        let identity = self.unseal("identity.sealed", &node_key, "identity")?;
        Ok(identity.map(|identity| Stored { node_key, identity }))
    }

    pub(crate) fn keep_identity(
        &self,
        node_key: &[u8; 32],
        identity: &StoredIdentity,
    ) -> Result<(), VaultError> {
        write(&self.folder.join("node.key"), node_key)?;
        self.seal("identity.sealed", node_key, "identity", identity)
    }

    /// The last view of an earlier run of the same identity; `None`: there was none.
    pub(crate) fn view(
        &self,
        node_key: &[u8; 32],
        identity: &str,
    ) -> Result<Option<StoredView>, VaultError> {
        self.unseal("view.sealed", node_key, &format!("view of {identity}"))
    }

    pub(crate) fn keep_view(
        &self,
        node_key: &[u8; 32],
        identity: &str,
        view: &StoredView,
    ) -> Result<(), VaultError> {
        self.seal(
            "view.sealed",
            node_key,
            &format!("view of {identity}"),
            view,
        )
    }

    fn unseal<M: Message + Default>(
        &self,
        file: &str,
        key: &[u8; 32],
        purpose: &str,
    ) -> Result<Option<M>, VaultError> {
        let path = self.folder.join(file);
        let Some(sealed) = read(&path)? else {
            return Ok(None);
        };
        let plain = open(key, self.bound(purpose).as_bytes(), &sealed).map_err(|source| {
            VaultError::Sealed {
                path: path.clone(),
                source,
            }
        })?;
        M::decode(plain.as_slice())
            .map(Some)
            .map_err(|error| VaultError::Content {
                path,
                reason: error.to_string(),
            })
    }

    fn seal<M: Message>(
        &self,
        file: &str,
        key: &[u8; 32],
        purpose: &str,
        message: &M,
    ) -> Result<(), VaultError> {
        let path = self.folder.join(file);
        let sealed = seal(
            key,
            self.bound(purpose).as_bytes(),
            &message.encode_to_vec(),
        )
        .map_err(|_| VaultError::Seal { path: path.clone() })?;
        write(&path, &sealed)
    }

    fn bound(&self, purpose: &str) -> String {
        format!("isthmus proxy {purpose} ({})", self.context)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, VaultError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(VaultError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// All or nothing: a reader never sees half of it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
    let failed = |source| VaultError::Io {
        path: path.to_owned(),
        source,
    };
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn vault(folder: &Path, context: &str) -> Vault {
        Vault::new(folder, context.to_owned()).unwrap()
    }

    fn stored() -> StoredView {
        StoredView {
            position: 9,
            topics: Vec::new(),
        }
    }

    #[test]
    fn a_view_comes_back_as_it_was_and_only_to_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let own = vault(folder.path(), "us-west frontend-1");
        assert!(own.view(&KEY, "me").unwrap().is_none());
        own.keep_view(&KEY, "me", &stored()).unwrap();
        assert_eq!(own.view(&KEY, "me").unwrap(), Some(stored()));

        let refused = |vault: &Vault, key: &[u8; 32], identity: &str| {
            vault.view(key, identity).unwrap_err().reason()
        };
        assert_eq!(refused(&own, &[8; 32], "me"), "damaged-or-foreign");
        assert_eq!(refused(&own, &KEY, "other"), "damaged-or-foreign");
        let other = vault(folder.path(), "us-west cart-1");
        assert_eq!(refused(&other, &KEY, "me"), "damaged-or-foreign");
    }

    #[test]
    fn one_at_a_time_may_write() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = vault(folder.path(), "us-west frontend-1");
        let mut second = vault(folder.path(), "us-west frontend-1");
        assert!(first.claim() && first.claim());
        assert!(!second.claim());
        first.release();
        assert!(second.claim());
        assert!(!first.claim());
        drop(second);
        assert!(first.claim());
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let own = vault(folder.path(), "here");
        own.keep_view(&KEY, "me", &stored()).unwrap();
        let path = folder.path().join("view.sealed");
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(own.view(&KEY, "me").is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_snapshot_of_release_0_1_0_is_read() {
        let text = include_str!("view-0.1.0.hex");
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pairs = digits
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        let sealed: Vec<u8> = pairs
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let own = vault(folder.path(), "us-west cart-1");
        fs::write(folder.path().join("view.sealed"), sealed).unwrap();
        let identity = "spiffe://shop.example/ns/shop/sa/cart";
        assert_eq!(own.view(&KEY, identity).unwrap(), Some(of_a_proxy()));
    }

    /// As a proxy keeps it.
    fn of_a_proxy() -> StoredView {
        use isthmus_wire::proto::{Resource, StoredTopic};
        let resource = |name: &str, version, body: &'static [u8]| Resource {
            topic: String::new(),
            name: name.to_owned(),
            version,
            body: body.into(),
        };
        let topic = |topic: &str, resources| StoredTopic {
            topic: topic.to_owned(),
            resources,
        };
        StoredView {
            position: 9,
            topics: vec![
                topic("mesh", vec![resource("mesh", 3, b"one")]),
                topic("service/shop/cart", vec![resource("cart", 7, b"two")]),
            ],
        }
    }
}
