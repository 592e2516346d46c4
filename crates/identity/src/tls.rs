//! TLS 1.3 between members of a mesh (RFC 8446): identities instead of host names.
//!
//! No session is resumed unless tickets are offered and kept (`tickets`); there is no early data.
//!
//! A configuration is made once per identity and protocol. What changes while it lives (leaf, trust)
//! lies in cells, and wall time comes from the caller's [`TimeProvider`].

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::{ClusterName, SpiffeId};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, version};
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::Certificates;
use crate::{
    LeafCell, PeerError, PeerRole, RootFingerprint, TrustBundle, TrustCell, TrustError,
    VerifiedPeer, provider,
};

/// Must a client present a certificate?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    Required,
    /// For a control plane's port, where newcomers with a join token have none yet. One that is
    /// presented is verified all the same.
    Optional,
}

/// Why a first contact by fingerprint is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FirstContactError {
    #[error("the control plane did not send its mesh's root: is that a control plane of Isthmus?")]
    NoRoot,
    #[error("the control plane is of another mesh: root {found}, the join token names {expected}")]
    OtherRoot {
        found: RootFingerprint,
        expected: RootFingerprint,
    },
    #[error("the mesh root: {0}")]
    Root(#[from] TrustError),
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the peer is {0}, not a control plane")]
    NotControl(SpiffeId),
}

impl FirstContactError {
    /// Why a handshake of a [`pinned_client_config`] failed, when it was the server's identity.
    pub fn of(error: &rustls::Error) -> Option<Self> {
        if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error
            && let Some(found) = other.0.downcast_ref::<Self>()
        {
            return Some(found.clone());
        }
        PeerError::of(error).map(Self::Peer)
    }
}

/// For whoever accepts sessions as `leaf`, with protocols `alpn` in order of preference (RFC 7301).
/// A client that offers only other protocols is refused; one that offers none is not, ask
/// `alpn_protocol` afterwards.
pub fn server_config(
    leaf: Arc<LeafCell>,
    trust: Arc<TrustCell>,
    alpn: &[&[u8]],
    client: ClientAuth,
    time: Arc<dyn TimeProvider>,
) -> ServerConfig {
    let verifier = Arc::new(MeshVerifier { trust, client });
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has suites and groups of TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(leaf);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// For whoever opens sessions, as `leaf` or (with a join token) as nobody yet. The server's name is
/// sent and not checked: who answered is said by [`peer`], whether it may by the `accept_…` rules.
pub fn client_config(
    leaf: Option<Arc<LeafCell>>,
    trust: Arc<TrustCell>,
    alpn: &[&[u8]],
    time: Arc<dyn TimeProvider>,
) -> ClientConfig {
    let client = ClientAuth::Required;
    client_with(leaf, Arc::new(MeshVerifier { trust, client }), alpn, time)
}

/// For a newcomer's first contact: accepts only a control plane whose chain includes the mesh root
/// with this fingerprint. [`first_contact`] then says what was learnt.
pub fn pinned_client_config(
    root: RootFingerprint,
    alpn: &[&[u8]],
    time: Arc<dyn TimeProvider>,
) -> ClientConfig {
    client_with(None, Arc::new(PinnedVerifier { root }), alpn, time)
}

/// Who is at the other end of an established session, by the trust of now. `role` is the peer's.
pub fn peer(
    session: &CommonState,
    trust: &TrustBundle,
    role: PeerRole,
    now: SystemTime,
) -> Result<VerifiedPeer, PeerError> {
    trust.verify(session.peer_certificates().unwrap_or_default(), now, role)
}

/// The mesh and the control plane that a chain shows to somebody who knows the root's fingerprint.
pub fn first_contact(
    chain: &[CertificateDer<'_>],
    expected: RootFingerprint,
    now: SystemTime,
) -> Result<(TrustBundle, VerifiedPeer), FirstContactError> {
    let [_, _, root] = chain else {
        return Err(FirstContactError::NoRoot);
    };
    let found = RootFingerprint::of(root);
    if found != expected {
        return Err(FirstContactError::OtherRoot { found, expected });
    }
    let root = Certificates::new(vec![root.clone().into_owned()]).map_err(TrustError::from)?;
    let bundle = TrustBundle::new(root)?;
    let peer = bundle.verify(chain, now, PeerRole::Server)?;
    match peer.id() {
        SpiffeId::Cluster(_) => Ok((bundle, peer)),
        other @ SpiffeId::Workload(_) => Err(FirstContactError::NotControl(other.clone())),
    }
}

/// `gateway.<cluster>.mesh`: what a caller's outer session asks for (SNI, RFC 6066 section 3).
pub fn gateway_server_name(cluster: &ClusterName) -> ServerName<'static> {
    server_name("gateway", cluster)
}

/// `control.<cluster>.mesh`.
pub fn control_server_name(cluster: &ClusterName) -> ServerName<'static> {
    server_name("control", cluster)
}

fn server_name(first: &str, cluster: &ClusterName) -> ServerName<'static> {
    ServerName::try_from(format!("{first}.{cluster}.mesh"))
        .expect("three RFC 1123 labels are a DNS name")
}

fn client_with(
    leaf: Option<Arc<LeafCell>>,
    verifier: Arc<dyn ServerCertVerifier>,
    alpn: &[&[u8]],
    time: Arc<dyn TimeProvider>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&version::TLS13])
        .expect("the provider has suites and groups of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match leaf {
        Some(leaf) => builder.with_client_cert_resolver(leaf),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

/// Judges chains by the bundle of the moment; rustls brings the time.
#[derive(Debug)]
struct MeshVerifier {
    trust: Arc<TrustCell>,
    client: ClientAuth,
}

impl MeshVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
        role: PeerRole,
    ) -> Result<(), rustls::Error> {
        let chain = chain(leaf, others);
        self.trust.load().verify(&chain, wall(now), role)?;
        Ok(())
    }
}

impl ServerCertVerifier for MeshVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, others, now, PeerRole::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for MeshVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.client == ClientAuth::Required
    }

    /// None: whoever is of the mesh knows which certificate to send, and nobody else needs to learn
    /// the mesh's name.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, others, now, PeerRole::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// Knows nothing of the mesh but its root's fingerprint.
#[derive(Debug)]
struct PinnedVerifier {
    root: RootFingerprint,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match first_contact(&chain(leaf, others), self.root, wall(now)) {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(FirstContactError::Peer(error)) => Err(error.into()),
            Err(other) => Err(CertificateError::Other(OtherError(Arc::new(other))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn chain<'a>(leaf: &CertificateDer<'a>, others: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(others).cloned().collect()
}

fn wall(now: UnixTime) -> SystemTime {
    let since = Duration::from_secs(now.as_secs());
    UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
}

fn check_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let algorithms = &provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signed, algorithms)
}

fn schemes() -> Vec<SignatureScheme> {
    provider()
        .signature_verification_algorithms
        .supported_schemes()
}

fn tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken in a mesh".to_owned())
}
