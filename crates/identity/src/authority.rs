//! Issuing: the mesh key signs clusters, a cluster's authority signs leaves.
//!
//! Whether somebody may have the name is decided before (by a join token, an account token, an
//! operator); here a name becomes a certificate. What a request asks for is never read.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use isthmus_model::{Admission, ClusterIdentity, ClusterName, Identity, SpiffeId, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::certificate::{
    self, ADMITTED_MARK, ADMITTED_SERIAL, CertificateProblem, Certificates, ReadError, sha256,
};
use crate::{
    CertificateRequest, KeyError, KeyHash, KeyPair, TrustBundle, TrustError, gateway_identity,
    time, trust,
};

/// How far before now a new certificate begins, for clocks that are behind.
pub const BACKDATE: Duration = Duration::from_mins(5);
/// How long a mesh root lives.
pub const ROOT_LIFETIME: Duration = days(3650);
/// How long a cluster's intermediate lives unless the operator says otherwise.
pub const CLUSTER_LIFETIME: Duration = days(365);
/// How long a leaf lives unless the mesh says otherwise.
pub const LEAF_LIFETIME: Duration = days(1);
/// The age at which a leaf is renewed unless the mesh says otherwise.
pub const RENEW_AFTER: Duration = Duration::from_hours(1);

/// X.520's upper bound on a common name, in characters.
const COMMON_NAME_LIMIT: usize = 64;

/// The mesh's root of trust: signs the clusters in, and the statements that bind them all. Held by
/// the people who run the mesh, never by a control plane at rest.
pub struct MeshKey {
    key: KeyPair,
    root: CertificateDer<'static>,
    bundle: TrustBundle,
}

/// A cluster's certificate authority: its intermediate and the key that belongs to it.
pub struct ClusterAuthority {
    key: KeyPair,
    intermediate: CertificateDer<'static>,
    bundle: TrustBundle,
    id: ClusterIdentity,
    not_after: SystemTime,
}

/// Who gets a leaf.
struct Holder<'a> {
    uri: &'a str,
    names: Vec<SanType>,
    subject: DistinguishedName,
    admission: Option<Admission>,
}

/// Why a key and certificates are not a mesh key or a cluster's authority.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the root: {0}")]
    Root(#[from] TrustError),
    #[error("{expected} expected, {found} certificates found")]
    Length {
        expected: &'static str,
        found: usize,
    },
    #[error("the cluster's certificate: {0}")]
    Intermediate(CertificateProblem),
    #[error("the key does not belong to the certificate")]
    OtherKey,
    #[error("the cluster's certificate is not of a certificate authority")]
    NotAuthority,
    #[error("the cluster's certificate is not signed by the root that came with it")]
    OtherRoot,
    #[error("the cluster's certificate is of trust domain {found}, the root of {expected}")]
    TrustDomain {
        found: TrustDomain,
        expected: TrustDomain,
    },
    #[error("the cluster's certificate has expired: let the holder of the mesh key sign a new one")]
    Expired,
    #[error("the cluster's certificate is not valid yet: is the clock wrong?")]
    NotYetValid,
}

/// Why no certificate was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the issuer's own certificate has expired")]
    AuthorityExpired,
    #[error("{requested} is not of this mesh's trust domain {expected}")]
    TrustDomain {
        requested: Identity,
        expected: TrustDomain,
    },
    #[error("the certificate could not be signed: {0}")]
    Sign(String),
}

impl MeshKey {
    /// A new mesh: a self-signed P-256 root for `spiffe://<trust_domain>`.
    pub fn found(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, IssueError> {
        Self::found_with(KeyPair::generate()?, trust_domain, now)
    }

    /// A new mesh with a key that was made elsewhere.
    pub fn found_with(
        key: KeyPair,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, IssueError> {
        let name = format!("spiffe://{trust_domain}");
        let not_after = time::after(now, ROOT_LIFETIME);
        let mut params = template(key.signing(), &name, Vec::new(), now, not_after)?;
        params.distinguished_name = issuer_subject("mesh root", key.hash(), trust_domain.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let root = params.self_signed(key.signing()).map_err(not_signed)?;
        let root = root.der().clone();
        let bundle = TrustBundle::new(Certificates::trusted(vec![root.clone()]))
            .map_err(|error| IssueError::Sign(error.to_string()))?;
        Ok(Self { key, root, bundle })
    }

    /// Its root is the one of `roots_pem` that belongs to the key: while one root takes the place of another there
    /// are two.
    ///
    /// Errors: the texts are not a key and roots, or do not belong together.
    pub fn from_pem(key_pem: &str, roots_pem: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem)?;
        let roots = TrustBundle::from_pem(roots_pem)?.roots().clone();
        let mut roots = roots.into_vec().into_iter();
        let root = roots.find(|root| check_key(&key, root).is_ok());
        let root = root.ok_or(AuthorityError::OtherKey)?;
        let bundle = TrustBundle::new(Certificates::trusted(vec![root.clone()]))?;
        Ok(Self { key, root, bundle })
    }

    /// The private key: what an operator keeps.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }

    pub fn root_pem(&self) -> String {
        self.bundle.to_pem()
    }

    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// An intermediate for `cluster`, followed by the root: what [`ClusterAuthority::new`] takes.
    /// It ends after `lifetime`, or with the root.
    pub fn sign_cluster(
        &self,
        request: &CertificateRequest,
        cluster: &ClusterName,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Certificates, IssueError> {
        let id = ClusterIdentity {
            trust_domain: self.bundle.trust_domain().clone(),
            cluster: cluster.clone(),
        };
        let not_after = capped(&self.root, now, lifetime)?;
        let public_key = &request.public_key;
        let mut params = template(public_key, &id.to_string(), Vec::new(), now, not_after)?;
        params.distinguished_name = issuer_subject("cluster", request.key_hash(), cluster.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let intermediate = sign(&params, public_key, &self.root, &self.key)?;
        Ok(Certificates::trusted(vec![intermediate, self.root.clone()]))
    }

    pub(crate) fn key(&self) -> &KeyPair {
        &self.key
    }
}

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeshKey({})", self.bundle.trust_domain())
    }
}

impl ClusterAuthority {
    /// `chain` is the intermediate and its root, as [`MeshKey::sign_cluster`] gave them.
    ///
    /// Errors: they or the key do not belong together, or the intermediate is not valid at `now`.
    pub fn new(key: KeyPair, chain: Certificates, now: SystemTime) -> Result<Self, AuthorityError> {
        let [intermediate, root]: [_; 2] =
            chain
                .into_vec()
                .try_into()
                .map_err(|found: Vec<_>| AuthorityError::Length {
                    expected: "the cluster's certificate and the mesh root",
                    found: found.len(),
                })?;
        check_key(&key, &intermediate)?;
        let bundle = TrustBundle::new(Certificates::trusted(vec![root.clone()]))?;
        let (id, not_after) = check_intermediate(&intermediate, &root, &bundle, now)?;
        Ok(Self {
            key,
            intermediate,
            bundle,
            id,
            not_after,
        })
    }

    pub fn from_pem(
        key_pem: &str,
        chain_pem: &str,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        Self::new(
            KeyPair::from_pem(key_pem)?,
            Certificates::from_pem(chain_pem)?,
            now,
        )
    }

    pub fn id(&self) -> &ClusterIdentity {
        &self.id
    }

    /// The root that signed this cluster in.
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The intermediate, then its root.
    pub fn chain(&self) -> Certificates {
        let root = self.bundle.roots().as_slice().iter().cloned();
        Certificates::trusted(
            std::iter::once(self.intermediate.clone())
                .chain(root)
                .collect(),
        )
    }

    /// When this authority issued the first certificate of `chain`, by its own clock; `None`: another one did. The
    /// chain's signatures are the caller's to check.
    pub fn issued(&self, chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
        let [leaf, issuer, ..] = chain else {
            return None;
        };
        let leaf = certificate::parse(leaf).ok()?;
        (*issuer == self.intermediate).then(|| certificate::validity(&leaf).0 + BACKDATE)
    }

    /// When the intermediate ends; no leaf lives longer.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// A leaf for `identity`, which was admitted so, followed by the intermediate. It ends after `lifetime`, or with
    /// the intermediate. A gateway's leaf also has the DNS name `gateway.<cluster>.mesh`.
    pub fn issue(
        &self,
        request: &CertificateRequest,
        identity: &Identity,
        admission: Admission,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Certificates, IssueError> {
        if identity.trust_domain != self.id.trust_domain {
            return Err(IssueError::TrustDomain {
                requested: identity.clone(),
                expected: self.id.trust_domain.clone(),
            });
        }
        let mut names = Vec::new();
        if *identity == gateway_identity(&self.id.trust_domain) {
            names.push(dns_name(&format!("gateway.{}.mesh", self.id.cluster))?);
        }
        let holder = Holder {
            uri: &identity.to_string(),
            names,
            subject: subject(identity.namespace.as_str(), identity.account.as_str()),
            admission: Some(admission),
        };
        self.issue_leaf(request, holder, now, lifetime)
    }

    /// A leaf for this cluster's own control plane, with the cluster's id and the DNS name
    /// `control.<cluster>.mesh`; not a certificate authority.
    pub fn issue_control(
        &self,
        request: &CertificateRequest,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Certificates, IssueError> {
        self.issue_control_at(request, &[], now, lifetime)
    }

    /// The same, with the addresses that clients which check names (such as curl) connect to.
    pub fn issue_control_at(
        &self,
        request: &CertificateRequest,
        addresses: &[IpAddr],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Certificates, IssueError> {
        let mut names = vec![dns_name(&format!("control.{}.mesh", self.id.cluster))?];
        names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let holder = Holder {
            uri: &self.id.to_string(),
            names,
            subject: subject("control plane", self.id.cluster.as_str()),
            admission: None,
        };
        self.issue_leaf(request, holder, now, lifetime)
    }

    fn issue_leaf(
        &self,
        request: &CertificateRequest,
        holder: Holder<'_>,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Certificates, IssueError> {
        let not_after = capped(&self.intermediate, now, lifetime)?;
        let public_key = &request.public_key;
        let mut params = template(public_key, holder.uri, holder.names, now, not_after)?;
        if let Some(admission) = holder.admission {
            params.serial_number = params
                .serial_number
                .map(|serial| admitted(admission, &serial));
        }
        params.distinguished_name = holder.subject;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = sign(&params, public_key, &self.intermediate, &self.key)?;
        Ok(Certificates::trusted(vec![leaf, self.intermediate.clone()]))
    }
}

impl fmt::Debug for ClusterAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterAuthority({})", self.id)
    }
}

/// What all certificates of a mesh share: one URI name, validity, a serial number that no two
/// different certificates of an issuer share (RFC 5280 section 4.1.2.2).
fn template(
    key: &impl PublicKeyData,
    uri: &str,
    names: Vec<SanType>,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, IssueError> {
    let mut all = vec![SanType::URI(Ia5String::try_from(uri).map_err(not_signed)?)];
    all.extend(names);
    let not_before = time::before(now, BACKDATE);
    let mut params = CertificateParams::default();
    params.subject_alt_names = all;
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial(key, uri, not_before, not_after));
    Ok(params)
}

fn dns_name(name: &str) -> Result<SanType, IssueError> {
    Ia5String::try_from(name)
        .map(SanType::DnsName)
        .map_err(not_signed)
}

/// 127 bits of a hash over what the certificate says: no counter to keep, no chance needed.
fn serial(
    key: &impl PublicKeyData,
    uri: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> SerialNumber {
    let mut said = key.subject_public_key_info();
    said.extend_from_slice(&time::seconds(not_before).to_be_bytes());
    said.extend_from_slice(&time::seconds(not_after).to_be_bytes());
    said.extend_from_slice(uri.as_bytes());
    let mut hash = sha256(&said);
    hash[0] &= 0x7f;
    SerialNumber::from_slice(&hash[..16])
}

/// A serial number that says how its holder was admitted, with as much of `serial` as tells it from others.
fn admitted(Admission(id): Admission, serial: &SerialNumber) -> SerialNumber {
    let mut bytes = vec![ADMITTED_MARK];
    bytes.extend(id);
    bytes.extend(
        serial
            .as_ref()
            .iter()
            .rev()
            .take(ADMITTED_SERIAL - bytes.len()),
    );
    SerialNumber::from_slice(&bytes)
}

/// An issuer's subject says its key, so that no two issuers share one: a chain to a root of the same
/// mesh name but another key is then seen to be of an unknown root, not taken for a damaged one.
fn issuer_subject(unit: &str, key: KeyHash, common: &str) -> DistinguishedName {
    subject(&format!("{unit} {key:?}"), common)
}

/// Only for people who read certificates.
fn subject(unit: &str, common: &str) -> DistinguishedName {
    let common: String = common.chars().take(COMMON_NAME_LIMIT).collect();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Isthmus");
    name.push(DnType::OrganizationalUnitName, unit);
    name.push(DnType::CommonName, common);
    name
}

fn sign(
    params: &CertificateParams,
    public_key: &impl PublicKeyData,
    issuer: &CertificateDer<'_>,
    issuer_key: &KeyPair,
) -> Result<CertificateDer<'static>, IssueError> {
    let issuer = Issuer::from_ca_cert_der(issuer, issuer_key.signing()).map_err(not_signed)?;
    let signed = params.signed_by(public_key, &issuer).map_err(not_signed)?;
    Ok(signed.der().clone())
}

/// `now + lifetime`, but not beyond the issuer's own end.
fn capped(
    issuer: &CertificateDer<'_>,
    now: SystemTime,
    lifetime: Duration,
) -> Result<SystemTime, IssueError> {
    let issuer = certificate::parse(issuer).map_err(not_signed)?;
    let (_, end) = certificate::validity(&issuer);
    if end <= now {
        return Err(IssueError::AuthorityExpired);
    }
    Ok(time::after(now, lifetime).min(end))
}

fn check_key(key: &KeyPair, certificate: &CertificateDer<'_>) -> Result<(), AuthorityError> {
    let certificate = certificate::parse(certificate).map_err(AuthorityError::Intermediate)?;
    if certificate.public_key().raw == key.signing().subject_public_key_info() {
        Ok(())
    } else {
        Err(AuthorityError::OtherKey)
    }
}

fn check_intermediate(
    intermediate: &CertificateDer<'_>,
    root: &CertificateDer<'_>,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<(ClusterIdentity, SystemTime), AuthorityError> {
    let intermediate = certificate::parse(intermediate).map_err(AuthorityError::Intermediate)?;
    let root = certificate::parse(root).map_err(AuthorityError::Intermediate)?;
    let id = match trust::spiffe_id(&intermediate).map_err(AuthorityError::Intermediate)? {
        SpiffeId::Cluster(id) => id,
        other @ SpiffeId::Workload(_) => {
            let uri = other.to_string();
            let problem = CertificateProblem::NotCluster { uri };
            return Err(AuthorityError::Intermediate(problem));
        }
    };
    if !intermediate.is_ca() {
        return Err(AuthorityError::NotAuthority);
    }
    // Or nobody would believe what it issues.
    certificate::check_issuer_usage(&intermediate).map_err(AuthorityError::Intermediate)?;
    if intermediate
        .verify_signature(Some(root.public_key()))
        .is_err()
    {
        return Err(AuthorityError::OtherRoot);
    }
    if id.trust_domain != *bundle.trust_domain() {
        return Err(AuthorityError::TrustDomain {
            found: id.trust_domain,
            expected: bundle.trust_domain().clone(),
        });
    }
    let (not_before, not_after) = certificate::validity(&intermediate);
    if now < not_before {
        return Err(AuthorityError::NotYetValid);
    }
    if now >= not_after {
        return Err(AuthorityError::Expired);
    }
    Ok((id, not_after))
}

fn not_signed(error: impl fmt::Display) -> IssueError {
    IssueError::Sign(error.to_string())
}

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 24 * 60 * 60)
}
