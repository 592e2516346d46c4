//! Which roots this cluster trusts: what the holder of the mesh key has said last, kept in `roots.json`. Where nothing
//! was said yet, it is the root that has signed this cluster.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use isthmus_api::NewRoots;
use isthmus_identity::{Certificates, ReadError, RootsError, SignedRoots, TrustBundle};

use crate::at_rest;
use crate::config::{Config, DataError, read};
use crate::hex::unhex;

/// The last word, and where it is kept.
#[derive(Debug)]
pub(crate) struct Roots {
    path: PathBuf,
    serial: u64,
    /// When it was kept: certificates that were issued before came with other roots.
    since: SystemTime,
}

/// Why a word does not hold.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotTrusted {
    #[error("roots: {0}")]
    Read(#[from] ReadError),
    #[error("signature: it is not hexadecimal")]
    Signature,
    #[error(transparent)]
    Roots(#[from] RootsError),
    #[error("it has serial {found}, and the last one had {known}: it is an older one")]
    Older { found: u64, known: u64 },
    #[error(
        "the root that has signed this cluster is not among them: it gets a certificate of another one first"
    )]
    NotOwn,
}

impl Roots {
    /// What was said last, and what is to be trusted by that. A cluster that was signed by hand since, by a root of
    /// which that says nothing, trusts that root alone.
    ///
    /// Errors: the file cannot be read or used.
    pub(crate) fn load(
        config: &Config,
        own: &TrustBundle,
    ) -> Result<(Self, TrustBundle), DataError> {
        let path = config.roots();
        let Some(text) = read(&path)? else {
            let bundle = own.clone();
            let none = Self {
                path,
                serial: 0,
                since: UNIX_EPOCH,
            };
            return Ok((none, bundle));
        };
        let odd = |reason: String| DataError::Roots {
            path: path.clone(),
            reason,
        };
        let said: NewRoots = serde_json::from_str(&text).map_err(|error| odd(error.to_string()))?;
        let said = signed(&said).map_err(|error| odd(error.to_string()))?;
        let serial = said.serial;
        let since = fs::metadata(&path).and_then(|file| file.modified());
        let since = since.map_err(|error| odd(error.to_string()))?;
        let bundle = TrustBundle::new(said.roots).map_err(|error| odd(error.to_string()))?;
        let bundle = if covers(&bundle, own) {
            bundle
        } else {
            let path = path.display();
            tracing::warn!(
                "{path} does not name the root that has signed this cluster: that one alone is trusted"
            );
            own.clone()
        };
        let known = Self {
            path,
            serial,
            since,
        };
        Ok((known, bundle))
    }

    /// Takes the word of whoever holds the key of a root of `trusted`, for a cluster signed by `own`. Gives what is
    /// to be trusted from then on; `None`: that was said before.
    pub(crate) fn check(
        &self,
        trusted: &TrustBundle,
        own: &TrustBundle,
        said: &NewRoots,
    ) -> Result<Option<TrustBundle>, NotTrusted> {
        let said = signed(said)?;
        let (found, known) = (said.serial, self.serial);
        if found == known && said.roots == *trusted.roots() {
            return Ok(None);
        }
        if found <= known {
            return Err(NotTrusted::Older { found, known });
        }
        let bundle = trusted.succeeded_by(&said)?;
        if !covers(&bundle, own) {
            return Err(NotTrusted::NotOwn);
        }
        Ok(Some(bundle))
    }

    /// The number of the last word; 0: none was said.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Whoever has a certificate from before may not know of them.
    pub(crate) fn since(&self) -> SystemTime {
        self.since
    }

    /// Keeps what was checked.
    pub(crate) fn keep(&mut self, said: &NewRoots) -> Result<(), DataError> {
        let text = serde_json::to_vec_pretty(said).map_err(|error| DataError::Roots {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        at_rest::replace(&self.path, &text)?;
        self.serial = said.serial;
        Ok(())
    }
}

fn covers(bundle: &TrustBundle, own: &TrustBundle) -> bool {
    let all = bundle.roots().as_slice();
    (own.roots().as_slice().iter()).all(|root| all.contains(root))
}

fn signed(said: &NewRoots) -> Result<SignedRoots, NotTrusted> {
    Ok(SignedRoots {
        serial: said.serial,
        roots: Certificates::from_pem(&said.roots)?,
        signature: unhex(&said.signature).ok_or(NotTrusted::Signature)?,
    })
}
