//! A small mesh for tests: one root, clusters, leaves, and a way to forge what no honest cluster
//! issues. Time is a number that the test sets.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

pub mod pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_identity::{
    CertificateRequest, Certificates, ClusterAuthority, KeyPair, LEAF_LIFETIME, Leaf, MeshKey,
    PeerRole, TrustBundle,
};
use isthmus_model::{
    AccountName, Admission, Cluster, ClusterName, Identity, Namespace, RegionName, TrustDomain,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose, SanType};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, UnixTime};

pub const DOMAIN: &str = "shop.mesh";
/// Of everybody.
pub const JOINED: Admission = Admission([0xab; 8]);
pub const MINUTE: Duration = Duration::from_mins(1);
pub const HOUR: Duration = Duration::from_hours(1);
pub const DAY: Duration = Duration::from_hours(24);

/// The moment at which every test begins.
pub fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

/// A clock that stands until the test moves it.
#[derive(Debug)]
pub struct TestTime(AtomicU64);

impl TestTime {
    pub fn at(now: SystemTime) -> Arc<Self> {
        let time = Arc::new(Self(AtomicU64::new(0)));
        time.set(now);
        time
    }

    pub fn set(&self, now: SystemTime) {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.0.store(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for TestTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::Relaxed);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

pub fn request(key: &KeyPair) -> CertificateRequest {
    CertificateRequest::from_pem(&key.certificate_request().unwrap()).unwrap()
}

pub fn identity(domain: &str, namespace: &str, account: &str) -> Identity {
    Identity {
        trust_domain: TrustDomain::new(domain).unwrap(),
        namespace: Namespace::new(namespace).unwrap(),
        account: AccountName::new(account).unwrap(),
    }
}

/// A cluster as config declares it, granted `namespaces`.
pub fn declared(name: &str, namespaces: Option<&[&str]>) -> Cluster {
    Cluster {
        name: ClusterName::new(name).unwrap(),
        region: RegionName::new("region").unwrap(),
        zone: None,
        coordinates: None,
        jurisdiction: None,
        control: "127.0.0.1:15012".parse().unwrap(),
        namespaces: namespaces
            .map(|names| names.iter().map(|n| Namespace::new(n).unwrap()).collect()),
        revoked: None,
        traffic: isthmus_model::ALL_TRAFFIC,
    }
}

pub struct TestMesh {
    pub key: MeshKey,
    pub domain: String,
}

impl TestMesh {
    pub fn new(domain: &str) -> Self {
        let key = MeshKey::found(&TrustDomain::new(domain).unwrap(), start()).unwrap();
        let domain = domain.to_owned();
        Self { key, domain }
    }

    pub fn bundle(&self) -> TrustBundle {
        self.key.bundle().clone()
    }

    pub fn cluster(&self, name: &str) -> TestCluster {
        self.cluster_for(name, 365 * DAY)
    }

    pub fn cluster_for(&self, name: &str, lifetime: Duration) -> TestCluster {
        let key = KeyPair::generate().unwrap();
        let key_pem = key.to_pem().to_string();
        let name = ClusterName::new(name).unwrap();
        let chain = self
            .key
            .sign_cluster(&request(&key), &name, start(), lifetime)
            .unwrap();
        TestCluster {
            authority: ClusterAuthority::new(key, chain.clone(), start()).unwrap(),
            intermediate: chain.as_slice()[0].clone(),
            key_pem,
            domain: self.domain.clone(),
        }
    }

    /// What the root would sign if it could be talked into it.
    pub fn forge(&self, forged: Forged<'_>) -> (KeyPair, CertificateDer<'static>) {
        let [root] = self.key.bundle().roots().as_slice() else {
            panic!("one root");
        };
        forge(forged, root, &self.key.key_pem())
    }
}

pub struct TestCluster {
    pub authority: ClusterAuthority,
    pub intermediate: CertificateDer<'static>,
    pub key_pem: String,
    domain: String,
}

impl TestCluster {
    pub fn leaf(&self, namespace: &str, account: &str) -> Leaf {
        self.leaf_at(namespace, account, start(), LEAF_LIFETIME)
    }

    pub fn leaf_at(
        &self,
        namespace: &str,
        account: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let identity = identity(&self.domain, namespace, account);
        let chain = self
            .authority
            .issue(&request(&key), &identity, JOINED, now, lifetime);
        Leaf::new(key, chain.unwrap()).unwrap()
    }

    pub fn gateway(&self) -> Leaf {
        self.leaf("isthmus-system", "gateway")
    }

    pub fn control(&self) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let chain = self
            .authority
            .issue_control(&request(&key), start(), LEAF_LIFETIME);
        Leaf::new(key, chain.unwrap()).unwrap()
    }

    /// What a stolen cluster key can sign.
    pub fn forge(&self, forged: Forged<'_>) -> (KeyPair, CertificateDer<'static>) {
        forge(forged, &self.intermediate, &self.key_pem)
    }

    pub fn forged_leaf(&self, forged: Forged<'_>) -> Leaf {
        let (key, leaf) = self.forge(forged);
        let chain = Certificates::new(vec![leaf, self.intermediate.clone()]).unwrap();
        Leaf::new(key, chain).unwrap()
    }
}

/// A certificate of any names, CA or not, valid for the first day.
#[derive(Clone, Copy)]
pub struct Forged<'a> {
    pub subject: &'a str,
    pub uris: &'a [&'a str],
    pub ca: bool,
}

pub fn forge(
    forged: Forged<'_>,
    issuer: &CertificateDer<'_>,
    issuer_key: &str,
) -> (KeyPair, CertificateDer<'static>) {
    let issuer_key = rcgen::KeyPair::from_pem(issuer_key).unwrap();
    let issuer = Issuer::from_ca_cert_der(issuer, issuer_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, forged.subject);
    params.subject_alt_names = forged
        .uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params.not_before = (start() - HOUR).into();
    params.not_after = (start() + DAY).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if forged.ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
    (key, certificate.der().clone())
}

/// Both roles must say the same: the id and cluster, or the reason of the refusal.
pub fn judge(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<String, &'static str> {
    let [client, server] = [PeerRole::Client, PeerRole::Server].map(|role| {
        bundle
            .verify(chain, now, role)
            .map(|peer| format!("{} of {}", peer.id(), peer.cluster()))
            .map_err(|error| error.reason())
    });
    assert_eq!(client, server);
    client
}
