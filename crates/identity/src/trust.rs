//! What a mesh trusts, and who a peer is.
//!
//! A chain is exactly leaf ← cluster intermediate ← root. Signatures, validity, CA flags and uses
//! are rustls's and webpki's work; the names are ours: one SPIFFE id in the leaf, one cluster id in
//! the intermediate that issued it, both of this trust domain. Host names decide nothing.
//! Whether a peer is the *right* one is `accept`'s question.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use isthmus_model::{ClusterIdentity, ClusterName, SpiffeId, TrustDomain};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, OtherError, RootCertStore};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::X509Certificate;

use crate::certificate::{self, CertificateProblem, Certificates, ReadError, RootFingerprint};
use crate::peer::{PeerRole, VerifiedPeer};
use crate::proofs::{Proof, Proofs};
use crate::{provider, time};

/// The roots of one trust domain. During a rotation there are two of them; the first is the one that is to stay.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Certificates,
    root_subjects: Vec<Vec<u8>>,
    anchors: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    /// Of these roots: a clone has the same.
    proofs: Arc<Proofs>,
}

/// The bundle of the moment, shared by everything that verifies: replacing it changes the next
/// handshake, without a new configuration. Live sessions are judged again by their owners.
#[derive(Debug)]
pub struct TrustCell(ArcSwap<TrustBundle>);

/// Why certificates are not a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("root {}: {problem}", .index + 1)]
    Root {
        index: usize,
        problem: CertificateProblem,
    },
    #[error("root {} is not a certificate authority", .index + 1)]
    NotAuthority { index: usize },
    #[error("roots of two trust domains, {first} and {other}: a bundle has one")]
    TwoTrustDomains {
        first: TrustDomain,
        other: TrustDomain,
    },
    #[error("the roots cannot be used: {0}")]
    Anchors(String),
}

/// Bytes of all certificates that a peer presents: they are kept while its session is, or may be resumed. A
/// usual chain has one or two thousand.
const MOST_OF_CHAIN: usize = 8 * 1024;

/// Why a peer is not who the mesh knows.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PeerError {
    #[error("the peer presented no certificate")]
    NoCertificate,
    #[error("the peer presented {found} certificates: a leaf and its cluster's are expected")]
    ChainLength { found: usize },
    #[error("the peer presented certificates of {found} bytes, more than {MOST_OF_CHAIN}")]
    ChainSize { found: usize },
    #[error("the peer's certificate: {0}")]
    Leaf(CertificateProblem),
    #[error("the certificate of the peer's issuer: {0}")]
    Issuer(CertificateProblem),
    #[error("the peer's certificate was not issued by the cluster certificate that came with it")]
    NotItsIssuer,
    #[error("the peer's chain does not end in a root of this mesh")]
    UnknownRoot,
    #[error("the peer's chain has expired")]
    Expired,
    #[error("the peer's chain is not valid yet: is a clock wrong?")]
    NotYetValid,
    #[error("the peer's chain is not valid: {0}")]
    Chain(CertificateError),
    #[error("the peer is of trust domain {found}, this mesh is {expected}")]
    TrustDomain {
        found: TrustDomain,
        expected: TrustDomain,
    },
    #[error("cluster {issuer} issued a certificate for the control plane of cluster {claimed}")]
    ForeignControl {
        claimed: ClusterName,
        issuer: ClusterName,
    },
}

impl TrustBundle {
    /// The trust domain is read from the roots' own names, `spiffe://<trust-domain>`.
    pub fn new(roots: Certificates) -> Result<Self, TrustError> {
        let mut first: Option<TrustDomain> = None;
        let mut root_subjects = Vec::new();
        let mut anchors = RootCertStore::empty();
        for (index, der) in roots.as_slice().iter().enumerate() {
            let at = |problem| TrustError::Root { index, problem };
            let root = certificate::parse(der).map_err(at)?;
            let other = certificate::root_trust_domain(&root).map_err(at)?;
            if !root.is_ca() {
                return Err(TrustError::NotAuthority { index });
            }
            match &first {
                Some(first) if *first != other => {
                    let first = first.clone();
                    return Err(TrustError::TwoTrustDomains { first, other });
                }
                _ => first = Some(other),
            }
            anchors
                .add(der.clone())
                .map_err(|error| TrustError::Anchors(error.to_string()))?;
            root_subjects.push(root.subject().as_raw().to_vec());
        }
        let anchors = Arc::new(anchors);
        let clients = WebPkiClientVerifier::builder_with_provider(anchors.clone(), provider())
            .build()
            .map_err(|error| TrustError::Anchors(error.to_string()))?;
        Ok(Self {
            trust_domain: first.ok_or(ReadError::Empty)?,
            roots,
            root_subjects,
            anchors,
            clients,
            proofs: Arc::default(),
        })
    }

    pub fn from_pem(pem: &str) -> Result<Self, TrustError> {
        Self::new(Certificates::from_pem(pem)?)
    }

    pub fn to_pem(&self) -> String {
        self.roots.to_pem()
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn roots(&self) -> &Certificates {
        &self.roots
    }

    pub fn fingerprints(&self) -> impl Iterator<Item = RootFingerprint> + '_ {
        self.roots.as_slice().iter().map(RootFingerprint::of)
    }

    /// Does the chain end in the first of the roots? Whether it is valid is [`TrustBundle::verify`]'s to say.
    pub fn is_of_first(&self, chain: &[CertificateDer<'_>]) -> bool {
        if self.root_subjects.len() == 1 {
            return true;
        }
        let issuer = chain.get(1).map(|issuer| certificate::parse(issuer));
        let Some(Ok(issuer)) = issuer else {
            return false;
        };
        let root = self.root_subjects.first();
        root.is_some_and(|root| issuer.issuer().as_raw() == root)
    }

    /// Who presented `chain` (the leaf first, then its cluster's intermediate; a root behind them
    /// may be sent and is ignored), at wall time `now`. Signatures of a chain that was good before
    /// are not checked again.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
        role: PeerRole,
    ) -> Result<VerifiedPeer, PeerError> {
        let (leaf, issuer) = match chain {
            [] => return Err(PeerError::NoCertificate),
            [leaf, issuer] | [leaf, issuer, _] => (leaf, issuer),
            _ => return Err(PeerError::ChainLength { found: chain.len() }),
        };
        let found = chain.iter().map(|certificate| certificate.len()).sum();
        if found > MOST_OF_CHAIN {
            return Err(PeerError::ChainSize { found });
        }
        let prove = || self.prove(leaf, issuer, now, role);
        self.proofs.find_or(leaf, issuer, role, now, prove)
    }

    fn prove(
        &self,
        leaf_der: &CertificateDer<'_>,
        issuer_der: &CertificateDer<'_>,
        now: SystemTime,
        role: PeerRole,
    ) -> Result<Proof, PeerError> {
        let leaf = certificate::parse(leaf_der).map_err(PeerError::Leaf)?;
        let issuer = certificate::parse(issuer_der).map_err(PeerError::Issuer)?;
        self.check_issuer(&leaf, &issuer)?;
        self.check_chain(leaf_der, issuer_der, now, role)?;
        certificate::check_issuer_usage(&issuer).map_err(PeerError::Issuer)?;
        certificate::check_leaf_usage(&leaf).map_err(PeerError::Leaf)?;
        let issuer_id = self.issuer_id(&issuer)?;
        let id = self.leaf_id(&leaf, &issuer_id)?;
        let (leaf_begin, leaf_end) = certificate::validity(&leaf);
        let (issuer_begin, issuer_end) = certificate::validity(&issuer);
        let admission = match &id {
            SpiffeId::Workload(_) => Some(certificate::admission(&leaf)),
            SpiffeId::Cluster(_) => None,
        };
        Ok(Proof {
            peer: VerifiedPeer::new(id, issuer_id.cluster, admission, leaf_end.min(issuer_end)),
            not_before: leaf_begin.max(issuer_begin),
        })
    }

    /// The chain search below may use the intermediate or not; these names leave it no choice.
    ///
    /// Invariant: a chain that passes is leaf ← this intermediate ← root. The leaf's issuer is the
    /// intermediate, and no root bears the intermediate's name, so no root can have signed the leaf.
    fn check_issuer(
        &self,
        leaf: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
    ) -> Result<(), PeerError> {
        let name = issuer.subject().as_raw();
        if leaf.issuer().as_raw() != name || self.root_subjects.iter().any(|root| root == name) {
            return Err(PeerError::NotItsIssuer);
        }
        Ok(())
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        issuer: &CertificateDer<'_>,
        now: SystemTime,
        role: PeerRole,
    ) -> Result<(), PeerError> {
        let intermediates = std::slice::from_ref(issuer);
        let now = time::unix(now);
        let checked = match role {
            PeerRole::Client => self
                .clients
                .verify_client_cert(leaf, intermediates, now)
                .map(|_| ()),
            PeerRole::Server => ParsedCertificate::try_from(leaf).and_then(|leaf| {
                verify_server_cert_signed_by_trust_anchor(
                    &leaf,
                    &self.anchors,
                    intermediates,
                    now,
                    provider().signature_verification_algorithms.all,
                )
            }),
        };
        checked.map_err(PeerError::from_chain)
    }

    fn issuer_id(&self, issuer: &X509Certificate<'_>) -> Result<ClusterIdentity, PeerError> {
        match spiffe_id(issuer).map_err(PeerError::Issuer)? {
            SpiffeId::Cluster(id) => {
                self.check_trust_domain(&id.trust_domain)?;
                Ok(id)
            }
            other @ SpiffeId::Workload(_) => {
                let uri = other.to_string();
                Err(PeerError::Issuer(CertificateProblem::NotCluster { uri }))
            }
        }
    }

    fn leaf_id(
        &self,
        leaf: &X509Certificate<'_>,
        issuer: &ClusterIdentity,
    ) -> Result<SpiffeId, PeerError> {
        let id = spiffe_id(leaf).map_err(PeerError::Leaf)?;
        match &id {
            SpiffeId::Workload(identity) => self.check_trust_domain(&identity.trust_domain)?,
            SpiffeId::Cluster(control) => {
                self.check_trust_domain(&control.trust_domain)?;
                if control.cluster != issuer.cluster {
                    return Err(PeerError::ForeignControl {
                        claimed: control.cluster.clone(),
                        issuer: issuer.cluster.clone(),
                    });
                }
            }
        }
        Ok(id)
    }

    fn check_trust_domain(&self, found: &TrustDomain) -> Result<(), PeerError> {
        if *found == self.trust_domain {
            return Ok(());
        }
        Err(PeerError::TrustDomain {
            found: found.clone(),
            expected: self.trust_domain.clone(),
        })
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.fingerprints().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl TrustCell {
    pub fn new(bundle: TrustBundle) -> Self {
        Self(ArcSwap::from_pointee(bundle))
    }

    pub fn load(&self) -> Arc<TrustBundle> {
        self.0.load_full()
    }

    pub fn replace(&self, bundle: TrustBundle) {
        self.0.store(Arc::new(bundle));
    }
}

impl PeerError {
    /// A short stable word for counters and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::ChainLength { .. } | Self::ChainSize { .. } | Self::NotItsIssuer => "wrong-chain",
            Self::Leaf(_) => "wrong-leaf",
            Self::Issuer(_) => "wrong-issuer",
            Self::UnknownRoot => "unknown-root",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::Chain(_) => "invalid-chain",
            Self::TrustDomain { .. } => "wrong-trust-domain",
            Self::ForeignControl { .. } => "foreign-control",
        }
    }

    /// Why a handshake failed, when this side refused the peer; `None` for any other failure.
    pub fn of(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
                other.0.downcast_ref::<Self>().cloned()
            }
            rustls::Error::InvalidCertificate(_) => Some(Self::from_chain(error.clone())),
            _ => None,
        }
    }

    fn from_chain(error: rustls::Error) -> Self {
        use CertificateError as E;
        match error {
            rustls::Error::InvalidCertificate(reason) => match reason {
                E::UnknownIssuer => Self::UnknownRoot,
                E::Expired | E::ExpiredContext { .. } => Self::Expired,
                E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYetValid,
                reason => Self::Chain(reason),
            },
            other => Self::Chain(E::Other(OtherError(Arc::new(other)))),
        }
    }
}

/// What rustls tells the peer: the alert fits where TLS has a word for it (RFC 8446 section 6.2).
impl From<PeerError> for rustls::Error {
    fn from(error: PeerError) -> Self {
        match error {
            PeerError::NoCertificate => Self::NoCertificatesPresented,
            PeerError::UnknownRoot => CertificateError::UnknownIssuer.into(),
            PeerError::Expired => CertificateError::Expired.into(),
            PeerError::NotYetValid => CertificateError::NotValidYet.into(),
            PeerError::Chain(reason) => reason.into(),
            other => CertificateError::Other(OtherError(Arc::new(other))).into(),
        }
    }
}

pub(crate) fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, CertificateProblem> {
    let uri = certificate::only_uri(certificate)?;
    uri.parse().map_err(|error| CertificateProblem::Spiffe {
        uri: uri.to_owned(),
        error,
    })
}
