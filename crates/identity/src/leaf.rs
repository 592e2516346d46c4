//! A leaf in use: a key, its chain, and until when. And the cell in which the current one lies, so
//! that renewal needs no new TLS configuration and established sessions go on.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use isthmus_model::SpiffeId;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use crate::certificate::{self, CertificateProblem, Certificates, ReadError};
use crate::{BACKDATE, KeyError, KeyPair, TrustBundle, provider, trust};

/// A certificate chain with the private key that it certifies.
pub struct Leaf {
    chain: Certificates,
    key: KeyPair,
    certified: Arc<CertifiedKey>,
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// The current leaf of one identity, shared by every TLS configuration of that identity.
pub struct LeafCell {
    current: ArcSwap<Leaf>,
    id: SpiffeId,
}

/// Why a key and a chain are not a leaf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the leaf's certificate: {0}")]
    Certificate(CertificateProblem),
    #[error("the key does not belong to the certificate")]
    OtherKey,
    #[error("the key cannot be used for TLS: {0}")]
    Tls(String),
}

/// A leaf for somebody else: a cell keeps one identity for its whole life.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is a certificate of {found}, it cannot replace one of {expected}")]
pub struct OtherIdentity {
    pub found: SpiffeId,
    pub expected: SpiffeId,
}

impl Leaf {
    /// Errors: the chain's first certificate names nobody of a mesh, or is not of this key.
    pub fn new(key: KeyPair, chain: Certificates) -> Result<Self, LeafError> {
        let certified =
            CertifiedKey::from_der(chain.as_slice().to_vec(), key.to_der(), &provider()).map_err(
                |error| match error {
                    rustls::Error::InconsistentKeys(_) => LeafError::OtherKey,
                    other => LeafError::Tls(other.to_string()),
                },
            )?;
        let [leaf, ..] = chain.as_slice() else {
            return Err(ReadError::Empty.into());
        };
        let leaf = certificate::parse(leaf).map_err(LeafError::Certificate)?;
        let id = trust::spiffe_id(&leaf).map_err(LeafError::Certificate)?;
        let (not_before, not_after) = certificate::validity(&leaf);
        Ok(Self {
            chain,
            key,
            certified: Arc::new(certified),
            id,
            not_before,
            not_after,
        })
    }

    pub fn from_pem(key_pem: &str, chain_pem: &str) -> Result<Self, LeafError> {
        Self::new(
            KeyPair::from_pem(key_pem)?,
            Certificates::from_pem(chain_pem)?,
        )
    }

    /// The same leaf, sending the root behind its chain: for control planes, whose first-time
    /// callers know only the root's fingerprint. Costs each handshake the root's few hundred bytes.
    pub fn with_root(self, bundle: &TrustBundle) -> Result<Self, LeafError> {
        let mut chain = self.chain.as_slice().to_vec();
        let issued_by = |root: &&CertificateDer<'static>| {
            let (Some(issuer), Ok(root)) = (chain.get(1), certificate::parse(root)) else {
                return false;
            };
            certificate::parse(issuer)
                .is_ok_and(|issuer| issuer.verify_signature(Some(root.public_key())).is_ok())
        };
        if let Some(root) = bundle.roots().as_slice().iter().find(issued_by) {
            let root = root.clone();
            chain.truncate(2);
            chain.push(root);
        }
        let key = KeyPair::from_pem(&self.key.to_pem())?;
        Self::new(key, Certificates::trusted(chain))
    }

    pub fn chain(&self) -> &Certificates {
        &self.chain
    }

    /// For storing the leaf, sealed; see [`seal`](crate::seal).
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub fn expired(&self, now: SystemTime) -> bool {
        now > self.not_after
    }

    /// When to ask for the next one: `renew_after` its issue, but at the latest when half of its
    /// life is over, so that a short-lived leaf is renewed in time as well.
    pub fn renew_at(&self, renew_after: Duration) -> SystemTime {
        let issued = (self.not_before + BACKDATE).min(self.not_after);
        let life = self.not_after.duration_since(issued).unwrap_or_default();
        issued + renew_after.min(life / 2)
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl LeafCell {
    pub fn new(leaf: Leaf) -> Self {
        Self {
            id: leaf.id.clone(),
            current: ArcSwap::from_pointee(leaf),
        }
    }

    /// Whose leaves these are: the same for the cell's whole life, so pools may be keyed by it.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    pub fn load(&self) -> Arc<Leaf> {
        self.current.load_full()
    }

    /// The next handshake uses `leaf`; sessions that stand are not touched.
    pub fn replace(&self, leaf: Leaf) -> Result<(), OtherIdentity> {
        if leaf.id != self.id {
            return Err(OtherIdentity {
                found: leaf.id.clone(),
                expected: self.id.clone(),
            });
        }
        self.current.store(Arc::new(leaf));
        Ok(())
    }
}

impl fmt::Debug for LeafCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafCell({})", self.id)
    }
}

impl ResolvesServerCert for LeafCell {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified.clone())
    }
}

impl ResolvesClientCert for LeafCell {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
