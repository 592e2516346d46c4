//! One honest chain, whoever may sign another, and the two ways by which a proxy judges: what the bundle says
//! of certificates, and a handshake in which they are shown. Both are followed by the rule of the meeting.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use isthmus_identity::{
    Callee, ClientAuth, KeyPair, LeafCell, PeerCluster, PeerError, PeerRole, TrustBundle,
    TrustCell, VerifiedPeer, accept_callee, accept_caller, accept_control, accept_gateway,
    client_config, peer, server_config,
};
use isthmus_model::{AccountName, Admission, Cluster, ClusterName, Namespace};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::common::pair::{Failed, Pair};
use crate::common::{
    DAY, DOMAIN, HOUR, JOINED, TestCluster, TestMesh, TestTime, declared, identity, request, start,
};

pub type Der = CertificateDer<'static>;

pub const CART: &str = "spiffe://shop.mesh/ns/shop/sa/cart";
pub const WEST: &str = "spiffe://shop.mesh/cluster/us-west";
pub const BOTH: &[PeerRole] = &[PeerRole::Client, PeerRole::Server];

/// Holds the key of every leaf that is shown.
pub static HOLDER: LazyLock<rcgen::KeyPair> = LazyLock::new(|| rcgen::KeyPair::generate().unwrap());

/// An issuer that signs whatever it is asked to.
pub struct Signer {
    pub der: Der,
    pub key: rcgen::KeyPair,
}

impl Signer {
    pub fn sign(&self, params: &CertificateParams, public_key: &impl PublicKeyData) -> Der {
        let issuer = Issuer::from_ca_cert_der(&self.der, &self.key).unwrap();
        params.signed_by(public_key, &issuer).unwrap().der().clone()
    }

    /// The honest leaf but for one change.
    pub fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Der {
        let mut params = leaf_params();
        change(&mut params);
        self.sign(&params, &*HOLDER)
    }

    /// The honest leaf but for its name.
    pub fn named(&self, uri: &str) -> Der {
        self.leaf(|params| params.subject_alt_names = vec![self::uri(uri)])
    }

    /// The honest intermediate but for one change.
    pub fn cluster(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        self.cluster_with(rcgen::KeyPair::generate().unwrap(), change)
    }

    pub fn cluster_with(
        &self,
        key: rcgen::KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = cluster_params();
        change(&mut params);
        let der = self.sign(&params, &key);
        Self { der, key }
    }

    pub fn copied_key(&self) -> rcgen::KeyPair {
        rcgen::KeyPair::from_pem(&self.key.serialize_pem()).unwrap()
    }

    /// A root of its own.
    pub fn root(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = cluster_params();
        params.distinguished_name = subject("another root");
        params.subject_alt_names = vec![uri("spiffe://shop.mesh")];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, key }
    }

    /// An honest leaf, below this.
    pub fn chain(&self) -> Vec<Der> {
        vec![self.leaf(|_| ()), self.der.clone()]
    }
}

pub fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

pub fn subject(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("cart");
    params.subject_alt_names = vec![uri(CART)];
    params.not_before = (start() - HOUR).into();
    params.not_after = (start() + DAY).into();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params
}

fn cluster_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("cluster us-west");
    params.subject_alt_names = vec![uri(WEST)];
    params.not_before = (start() - HOUR).into();
    params.not_after = (start() + 30 * DAY).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Which rule decides, and what config says to it.
#[derive(Debug, Clone)]
pub struct Meeting {
    pub rule: Rule,
    /// Dialled, or the only one that the mesh knows.
    pub cluster: &'static str,
    pub granted: &'static [&'static str],
    pub revoked: Vec<Admission>,
    pub namespace: &'static str,
    pub accounts: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Callee,
    Caller,
    Gateway,
    Control,
}

impl Default for Meeting {
    fn default() -> Self {
        Self {
            rule: Rule::Callee,
            cluster: "us-west",
            granted: &["shop", "stock"],
            revoked: Vec::new(),
            namespace: "shop",
            accounts: &["cart", "cart-v2"],
        }
    }
}

impl Meeting {
    pub fn of(rule: Rule) -> Self {
        Self {
            rule,
            ..Self::default()
        }
    }

    fn judge(&self, peer: &VerifiedPeer) -> Result<(), String> {
        let cluster: Cluster = declared(self.cluster, Some(self.granted));
        let revoked: BTreeSet<Admission> = self.revoked.iter().copied().collect();
        let known = PeerCluster {
            cluster: &cluster,
            revoked: &revoked,
        };
        let found = match self.rule {
            Rule::Callee => {
                let accounts = self.accounts.iter().map(|name| AccountName::new(name));
                let callee = Callee {
                    cluster: known,
                    namespace: &Namespace::new(self.namespace).unwrap(),
                    accounts: &accounts.collect::<Result<Vec<_>, _>>().unwrap(),
                };
                accept_callee(peer, &callee).map(|_| ())
            }
            Rule::Caller => {
                let find = |name: &ClusterName| (*name == cluster.name).then_some(known);
                accept_caller(peer, find).map(|_| ())
            }
            Rule::Gateway => accept_gateway(peer, known),
            Rule::Control => accept_control(peer, &cluster.name),
        };
        found.map_err(|refused| format!("{refused:?}"))
    }
}

/// What is shown, when, to whom; and of what the refusal speaks.
pub struct Case {
    pub name: String,
    pub chain: Vec<Der>,
    pub now: SystemTime,
    pub roles: &'static [PeerRole],
    pub meeting: Meeting,
    /// One of these is in the refusal, as `Debug` writes it.
    pub expected: &'static [&'static str],
}

impl Case {
    pub fn new(
        name: impl Into<String>,
        chain: Vec<Der>,
        expected: &'static [&'static str],
    ) -> Self {
        Self {
            name: name.into(),
            chain,
            now: start(),
            roles: BOTH,
            meeting: Meeting::default(),
            expected,
        }
    }

    pub fn at(self, now: SystemTime) -> Self {
        Self { now, ..self }
    }

    pub fn only(self, roles: &'static [PeerRole]) -> Self {
        Self { roles, ..self }
    }

    pub fn met(self, meeting: Meeting) -> Self {
        Self { meeting, ..self }
    }

    /// No two cases of a test share it.
    pub fn shown(&self) -> String {
        let Self {
            chain,
            now,
            roles,
            meeting,
            ..
        } = self;
        format!("{chain:?} {now:?} {roles:?} {meeting:?}")
    }
}

/// The mesh in which everything is shown.
pub struct Stage {
    pub mesh: TestMesh,
    pub honest_west: TestCluster,
    pub honest_east: TestCluster,
    pub root: Signer,
    /// Of a cluster whose key was stolen.
    pub west: Signer,
    pub bundle: TrustBundle,
}

impl Stage {
    pub fn new() -> Self {
        let mesh = TestMesh::new(DOMAIN);
        let bundle = mesh.bundle();
        let root = Signer {
            der: bundle.roots().as_slice()[0].clone(),
            key: rcgen::KeyPair::from_pem(&mesh.key.key_pem()).unwrap(),
        };
        Self {
            honest_west: mesh.cluster("us-west"),
            honest_east: mesh.cluster("eu-central"),
            west: root.cluster(|_| ()),
            root,
            bundle,
            mesh,
        }
    }

    /// The chain that every case has changed in one way.
    pub fn base(&self) -> Vec<Der> {
        self.west.chain()
    }

    /// What an honest authority issues to the holder, who joined as everybody.
    pub fn issued(&self, cluster: &TestCluster, namespace: &str, account: &str) -> Vec<Der> {
        let identity = identity(DOMAIN, namespace, account);
        let issued = cluster
            .authority
            .issue(&request(&holder()), &identity, JOINED, start(), DAY);
        issued.unwrap().into_vec()
    }

    pub fn control(&self, cluster: &TestCluster) -> Vec<Der> {
        let issued = cluster
            .authority
            .issue_control(&request(&holder()), start(), DAY);
        issued.unwrap().into_vec()
    }

    /// Errors: what either way of judging says, which has to be the same.
    pub fn judge(&self, case: &Case, role: PeerRole) -> Vec<Result<(), String>> {
        vec![self.verified(case, role), self.handshaken(case, role)]
    }

    pub fn verified(&self, case: &Case, role: PeerRole) -> Result<(), String> {
        let peer = self.bundle.verify(&case.chain, case.now, role);
        case.meeting.judge(&peer.map_err(|error| said(&error))?)
    }

    fn handshaken(&self, case: &Case, role: PeerRole) -> Result<(), String> {
        let session = self.shake(case, role, &HOLDER)?;
        let common = match role {
            PeerRole::Client => &**session.server,
            PeerRole::Server => &**session.client,
        };
        let found = peer(common, &self.bundle, role, case.now);
        case.meeting.judge(&found.map_err(|error| said(&error))?)
    }

    /// A session in which `role` shows the chain of `case`, and holds `key`.
    pub fn shake(&self, case: &Case, role: PeerRole, key: &rcgen::KeyPair) -> Result<Pair, String> {
        let cell = || Arc::new(LeafCell::new(self.honest_east.leaf("shop", "frontend")));
        let trust = || Arc::new(TrustCell::new(self.mesh.bundle()));
        let alpn: &[&[u8]] = &[b"isthmus/1"];
        let [of_client, of_server] = match role {
            PeerRole::Client => [start(), case.now],
            PeerRole::Server => [case.now, start()],
        }
        .map(TestTime::at);
        let mut client = client_config(Some(cell()), trust(), alpn, of_client);
        let required = ClientAuth::Required;
        let mut server = server_config(cell(), trust(), alpn, required, of_server);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let shown = CertifiedKey::new(case.chain.clone(), any_supported_type(&key).unwrap());
        let shown = Arc::new(SingleCertAndKey::from(shown));
        match role {
            PeerRole::Client => client.client_auth_cert_resolver = shown,
            PeerRole::Server => server.cert_resolver = shown,
        }
        let mut pair = Pair::new(client, server);
        match (role, pair.pump()) {
            (_, Ok(())) => Ok(pair),
            (PeerRole::Client, Err(Failed::Server(error)))
            | (PeerRole::Server, Err(Failed::Client(error))) => Err(refusal(&error)),
            (_, Err(other)) => panic!("{}: the other side gave up: {other:?}", case.name),
        }
    }
}

fn holder() -> KeyPair {
    KeyPair::from_pem(&HOLDER.serialize_pem()).unwrap()
}

fn refusal(error: &rustls::Error) -> String {
    PeerError::of(error).map_or_else(|| format!("{error:?}"), |error| said(&error))
}

fn said(error: &PeerError) -> String {
    format!("{error:?}")
}
