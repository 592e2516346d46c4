//! The cluster's certificate authority while it runs: another one takes its place without a break.
//!
//! A rotation has two steps. A new key is made here and never leaves; what leaves is a request, which the holder of
//! the mesh key signs. With the signed certificate the new authority issues from the next certificate on. The ones
//! issued before stay valid, so nobody has to be in time; who holds one is asked to have it renewed.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use isthmus_api::NewRoots;
use isthmus_identity::{
    AuthorityError, Certificates, ClusterAuthority, KeyError, KeyPair, ReadError, TrustBundle,
    TrustCell,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::at_rest::Unlocked;
use crate::config::{Config, DataError};
use crate::core::Generation;
use crate::roots::{NotTrusted, Roots};

/// Issues, and is told when something else is to.
pub(crate) struct Issuer {
    config: Arc<Config>,
    trust: Arc<TrustCell>,
    current: ArcSwap<Issuing>,
    changes: Mutex<Changes>,
    replaced: watch::Sender<Generation>,
}

/// What issues at the moment.
#[derive(Debug)]
pub(crate) struct Issuing {
    pub(crate) authority: Arc<ClusterAuthority>,
    pub(crate) generation: Generation,
    /// What it issued before is of an earlier generation.
    since: SystemTime,
}

/// One change at a time.
struct Changes {
    unlocked: Option<Unlocked>,
    roots: Roots,
    /// The key that waits for its certificate.
    next: Option<KeyPair>,
}

/// Why the authority stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    #[error("nothing was asked for: begin with a request")]
    NothingAsked,
    #[error("these are no certificates: {0}")]
    Read(#[from] ReadError),
    #[error("this is not what was asked for: {0}")]
    Authority(#[from] AuthorityError),
    #[error("its root is not one that this mesh trusts")]
    ForeignRoot,
    #[error("these roots are not trusted: {0}")]
    Roots(#[from] NotTrusted),
    #[error(transparent)]
    OtherCluster(DataError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error("its certificate is there already: start this control plane anew to have it hold")]
    Installed,
}

impl IssuerError {
    /// Is it about what was sent?
    pub(crate) fn is_of_request(&self) -> bool {
        !matches!(self, Self::Key(_) | Self::Data(_))
    }
}

impl Issuer {
    /// Errors: the key that waits for its certificate cannot be read.
    pub(crate) fn new(
        config: Arc<Config>,
        authority: ClusterAuthority,
        (roots, trusted): (Roots, TrustBundle),
        unlocked: Option<Unlocked>,
    ) -> Result<Self, DataError> {
        let next = config.next_key().read(unlocked.as_ref())?;
        let next = next.map(|pem| KeyPair::from_pem(&pem)).transpose()?;
        let issuing = Issuing {
            authority: Arc::new(authority),
            generation: Generation::FIRST,
            since: roots.since(),
        };
        Ok(Self {
            config,
            trust: Arc::new(TrustCell::new(trusted)),
            current: ArcSwap::from_pointee(issuing),
            changes: Mutex::new(Changes {
                unlocked,
                roots,
                next,
            }),
            replaced: watch::Sender::new(Generation::FIRST),
        })
    }

    pub(crate) fn load(&self) -> Arc<Issuing> {
        self.current.load_full()
    }

    /// What this cluster trusts.
    pub(crate) fn trust(&self) -> &Arc<TrustCell> {
        &self.trust
    }

    /// The number of the word by which it does.
    pub(crate) fn serial(&self) -> u64 {
        self.changes().roots.serial()
    }

    /// The generation of the moment, told when another one takes its place.
    pub(crate) fn watch(&self) -> watch::Receiver<Generation> {
        self.replaced.subscribe()
    }

    /// The request for the certificate of a new key. The same one until it is signed or given up.
    pub(crate) fn request(&self) -> Result<String, IssuerError> {
        let mut changes = self.changes();
        let key = match changes.next.take() {
            Some(key) => key,
            None => {
                let key = KeyPair::generate()?;
                (self.config.next_key()).write(&key, changes.unlocked.as_ref())?;
                key
            }
        };
        let request = key.certificate_request();
        changes.next = Some(key);
        Ok(request?)
    }

    /// What was asked for and not signed yet.
    pub(crate) fn requested(&self) -> Result<Option<String>, IssuerError> {
        let changes = self.changes();
        let request = changes.next.as_ref().map(KeyPair::certificate_request);
        Ok(request.transpose()?)
    }

    /// The authority whose certificate was asked for takes over.
    pub(crate) fn install(&self, chain: &str, now: SystemTime) -> Result<Generation, IssuerError> {
        let mut changes = self.changes();
        let next = changes.next.as_ref().ok_or(IssuerError::NothingAsked)?;
        let certificates = Certificates::from_pem(chain)?;
        let key = KeyPair::from_pem(&next.to_pem())?;
        let authority = ClusterAuthority::new(key, certificates.clone(), now)?;
        let trusted = self.trust.load();
        let mut roots = authority.bundle().roots().as_slice().iter();
        if !roots.all(|root| trusted.roots().as_slice().contains(root)) {
            return Err(IssuerError::ForeignRoot);
        }
        let path = Path::new("the certificate");
        (self.config.check_is_own(authority.id(), path)).map_err(IssuerError::OtherCluster)?;
        let unlocked = changes.unlocked.as_ref();
        self.config.put_authority(next, &certificates, unlocked)?;
        changes.next = None;
        // All that it has issued is new.
        Ok(self.replace(Arc::new(authority), SystemTime::UNIX_EPOCH))
    }

    /// Trusts what the holder of the mesh key says, if that was not said before. Everybody learns of it with the next
    /// certificate, for which all are asked.
    pub(crate) fn trust_in(
        &self,
        said: &NewRoots,
    ) -> Result<(Generation, TrustBundle), IssuerError> {
        let mut changes = self.changes();
        let current = self.load().authority.clone();
        let checked = (changes.roots).check(&self.trust.load(), current.bundle(), said)?;
        let Some(bundle) = checked else {
            let bundle = self.trust.load();
            return Ok((self.load().generation, (*bundle).clone()));
        };
        changes.roots.keep(said)?;
        self.trust.replace(bundle.clone());
        Ok((self.replace(current, SystemTime::now()), bundle))
    }

    /// What was issued so far is of an earlier generation, and to be renewed.
    pub(crate) fn renew_all(&self, now: SystemTime) -> Generation {
        let _changes = self.changes();
        self.replace(self.load().authority.clone(), now)
    }

    /// Nothing is asked for any more. Was there anything?
    pub(crate) fn abort(&self, now: SystemTime) -> Result<bool, IssuerError> {
        let mut changes = self.changes();
        let Some(next) = &changes.next else {
            return Ok(false);
        };
        if self.config.is_certified(next, now)? {
            return Err(IssuerError::Installed);
        }
        self.config.next_key().remove()?;
        changes.next = None;
        Ok(true)
    }

    /// The generation of a certificate; one that another authority issued is older than any of this.
    pub(crate) fn generation_of(&self, chain: &[CertificateDer<'_>]) -> Generation {
        let issuing = self.load();
        match issuing.authority.issued(chain) {
            Some(at) if at >= issuing.since => issuing.generation,
            _ => Generation::default(),
        }
    }

    fn replace(&self, authority: Arc<ClusterAuthority>, since: SystemTime) -> Generation {
        let generation = self.load().generation.next();
        self.current.store(Arc::new(Issuing {
            authority,
            generation,
            since,
        }));
        self.replaced.send_replace(generation);
        generation
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({:?})", self.load())
    }
}

#[cfg(test)]
mod tests;
