//! Real handshakes, two sessions pumped against each other in memory.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use common::pair::{Failed, Pair};
use common::{DAY, DOMAIN, Forged, HOUR, TestCluster, TestMesh, TestTime, start};
use isthmus_identity::{
    Certificates, ClientAuth, FirstContactError, KeyPair, Leaf, LeafCell, PeerError, PeerRole,
    RootFingerprint, TrustBundle, TrustCell, client_config, control_server_name, first_contact,
    peer, pinned_client_config, server_config,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    SignatureScheme, SupportedProtocolVersion, version,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

const ALPN: &[&[u8]] = &[b"isthmus/1", b"h2"];

type Make<'a> = Box<dyn Fn() -> Leaf + 'a>;

fn echo(pair: &mut Pair, text: &[u8]) {
    pair.client.writer().write_all(text).unwrap();
    pair.pump().unwrap();
    let mut read = vec![0; text.len()];
    pair.server.reader().read_exact(&mut read).unwrap();
    assert_eq!(read, text);
}

fn shake(client: ClientConfig, server: ServerConfig) -> Result<Pair, Failed> {
    let mut pair = Pair::new(client, server);
    pair.pump()?;
    assert!(!pair.client.is_handshaking() && !pair.server.is_handshaking());
    Ok(pair)
}

fn cell(leaf: Leaf) -> Arc<LeafCell> {
    Arc::new(LeafCell::new(leaf))
}

fn trust(mesh: &TestMesh) -> Arc<TrustCell> {
    Arc::new(TrustCell::new(mesh.bundle()))
}

fn client(leaf: Leaf, mesh: &TestMesh) -> ClientConfig {
    client_config(Some(cell(leaf)), trust(mesh), ALPN, TestTime::at(start()))
}

fn server(leaf: Leaf, mesh: &TestMesh) -> ServerConfig {
    let time = TestTime::at(start());
    server_config(cell(leaf), trust(mesh), ALPN, ClientAuth::Required, time)
}

#[test]
fn two_workloads_know_each_other() {
    let mesh = TestMesh::new(DOMAIN);
    let (west, east) = (mesh.cluster("us-west"), mesh.cluster("eu-central"));
    let dialler = client(west.leaf("shop", "frontend"), &mesh);
    let listener = server(east.leaf("shop", "cart"), &mesh);
    let mut pair = shake(dialler, listener).unwrap();
    echo(&mut pair, b"hello");
    let bundle = mesh.bundle();
    let found = peer(&pair.client, &bundle, PeerRole::Server, start()).unwrap();
    assert_eq!(found.id().to_string(), "spiffe://shop.mesh/ns/shop/sa/cart");
    assert_eq!(found.cluster().as_str(), "eu-central");
    assert_eq!(found.not_after(), start() + DAY);
    let found = peer(&pair.server, &bundle, PeerRole::Client, start()).unwrap();
    assert_eq!(
        found.id().to_string(),
        "spiffe://shop.mesh/ns/shop/sa/frontend"
    );
    assert_eq!(pair.server.server_name(), Some("gateway.us-west.mesh"));
    assert_eq!(pair.server.alpn_protocol(), Some(&b"isthmus/1"[..]));
    assert_eq!(
        pair.server.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    assert_eq!(pair.client.tls13_tickets_received(), 0);
    // Judged again later, the same session is no longer good.
    let late = peer(&pair.server, &bundle, PeerRole::Client, start() + 2 * DAY);
    assert_eq!(late, Err(PeerError::Expired));
}

#[test]
fn wrong_peers_are_refused_by_either_side() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let foreign = TestMesh::new(DOMAIN);
    let other = TestMesh::new("other.mesh");
    let expired = |cluster: &TestCluster| cluster.leaf_at("shop", "cart", start() - DAY, HOUR);
    let other_domain = |cluster: &TestCluster| {
        let uris = &["spiffe://other.mesh/ns/shop/sa/cart"];
        cluster.forged_leaf(Forged {
            subject: "x",
            uris,
            ca: false,
        })
    };
    let control_of_another = |cluster: &TestCluster| {
        let uris = &["spiffe://shop.mesh/cluster/eu-central"];
        cluster.forged_leaf(Forged {
            subject: "x",
            uris,
            ca: false,
        })
    };
    let cases: [(Make<'_>, &str); 5] = [
        (
            Box::new(|| foreign.cluster("us-west").leaf("shop", "cart")),
            "unknown-root",
        ),
        (
            Box::new(|| other.cluster("us-west").leaf("shop", "cart")),
            "unknown-root",
        ),
        (Box::new(|| expired(&west)), "expired"),
        (Box::new(|| control_of_another(&west)), "foreign-control"),
        (Box::new(|| other_domain(&west)), "wrong-trust-domain"),
    ];
    for (bad, reason) in &cases {
        let good = || west.leaf("shop", "frontend");
        let by_client = shake(client(good(), &mesh), server(bad(), &mesh))
            .err()
            .unwrap();
        assert_eq!(by_client.reason(), format!("client: {reason}"));
        let by_server = shake(client(bad(), &mesh), server(good(), &mesh))
            .err()
            .unwrap();
        assert_eq!(by_server.reason(), format!("server: {reason}"));
    }
}

#[test]
fn a_client_without_a_certificate() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let nobody = || client_config(None, trust(&mesh), ALPN, TestTime::at(start()));
    let refused = shake(nobody(), server(west.control(), &mesh))
        .err()
        .unwrap();
    assert_eq!(refused.reason(), "server: no-certificate");
    let open = |time| {
        server_config(
            cell(west.control()),
            trust(&mesh),
            ALPN,
            ClientAuth::Optional,
            time,
        )
    };
    let pair = shake(nobody(), open(TestTime::at(start()))).unwrap();
    let found = peer(&pair.server, &mesh.bundle(), PeerRole::Client, start());
    assert_eq!(found, Err(PeerError::NoCertificate));
    // Optional is not lax: a wrong one is still refused.
    let foreign = TestMesh::new(DOMAIN)
        .cluster("us-west")
        .leaf("shop", "cart");
    let refused = shake(client(foreign, &mesh), open(TestTime::at(start())))
        .err()
        .unwrap();
    assert_eq!(refused.reason(), "server: unknown-root");
}

/// A foreign rustls client with our leaf: any groups, any version, and it trusts anybody.
fn foreign_client(
    mesh: &TestMesh,
    leaf: Leaf,
    kx_groups: Vec<&'static dyn SupportedKxGroup>,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let ours = client(leaf, mesh);
    let groups = CryptoProvider {
        kx_groups,
        ..default_provider()
    };
    let mut config = ClientConfig::builder_with_details(Arc::new(groups), TestTime::at(start()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_cert_resolver(ours.client_auth_cert_resolver.clone());
    config.alpn_protocols.clone_from(&ours.alpn_protocols);
    config
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
fn only_tls_1_3() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let leaf = west.leaf("shop", "frontend");
    let old = foreign_client(&mesh, leaf, vec![kx_group::X25519], &version::TLS12);
    let refused = shake(old, server(west.leaf("shop", "cart"), &mesh))
        .err()
        .unwrap();
    let Failed::Server(rustls::Error::PeerIncompatible(_)) = refused else {
        panic!("{refused:?}");
    };
}

#[test]
fn key_exchange_is_post_quantum_unless_the_other_side_cannot() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let leaf = || west.leaf("shop", "frontend");
    let classic = vec![kx_group::X25519];
    for (client, expected) in [
        (client(leaf(), &mesh), NamedGroup::X25519MLKEM768),
        (
            foreign_client(&mesh, leaf(), classic, &version::TLS13),
            NamedGroup::X25519,
        ),
    ] {
        let pair = shake(client, server(west.leaf("shop", "cart"), &mesh)).unwrap();
        for group in [
            pair.client.negotiated_key_exchange_group(),
            pair.server.negotiated_key_exchange_group(),
        ] {
            assert_eq!(group.unwrap().name(), expected);
        }
        assert_eq!(
            pair.client.handshake_kind(),
            Some(HandshakeKind::Full),
            "no second round trip"
        );
    }
}

#[test]
fn unknown_protocols_are_refused() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let mut other = client(west.leaf("shop", "frontend"), &mesh);
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refused = shake(other, server(west.leaf("shop", "cart"), &mesh))
        .err()
        .unwrap();
    let Failed::Server(rustls::Error::NoApplicationProtocol) = refused else {
        panic!("{refused:?}");
    };
}

#[test]
fn a_leaf_is_renewed_while_a_session_lives() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let (time, life) = (TestTime::at(start()), HOUR);
    let leaf = |account, now| west.leaf_at("shop", account, now, life);
    let (ours, theirs) = (cell(leaf("frontend", start())), cell(leaf("cart", start())));
    let dialler = client_config(Some(ours.clone()), trust(&mesh), ALPN, time.clone());
    let listener = server_config(
        theirs.clone(),
        trust(&mesh),
        ALPN,
        ClientAuth::Required,
        time.clone(),
    );
    let mut old = shake(dialler.clone(), listener.clone()).unwrap();

    let later = start() + 2 * HOUR;
    time.set(later);
    let refused = shake(dialler.clone(), listener.clone()).err().unwrap();
    assert_eq!(refused.reason(), "client: expired");
    theirs.replace(leaf("cart", later)).unwrap();
    let refused = shake(dialler.clone(), listener.clone()).err().unwrap();
    assert_eq!(refused.reason(), "server: expired");
    ours.replace(leaf("frontend", later)).unwrap();
    let new = shake(dialler, listener).unwrap();
    let found = peer(&new.client, &mesh.bundle(), PeerRole::Server, later).unwrap();
    assert_eq!(found.not_after(), later + life);
    echo(&mut old, b"still here");
}

#[test]
fn roots_are_rotated_without_a_new_configuration() {
    let (old, new) = (TestMesh::new(DOMAIN), TestMesh::new(DOMAIN));
    let [before, after] = [&old, &new].map(|mesh| mesh.cluster("us-west"));
    let shared = trust(&old);
    let ours = cell(before.leaf("shop", "frontend"));
    let theirs = cell(before.leaf("shop", "cart"));
    let time = || TestTime::at(start());
    let dialler = client_config(Some(ours.clone()), shared.clone(), ALPN, time());
    let listener = server_config(
        theirs.clone(),
        shared.clone(),
        ALPN,
        ClientAuth::Required,
        time(),
    );
    let shake = || shake(dialler.clone(), listener.clone());
    shake().unwrap();
    let both = old.bundle().to_pem() + &new.bundle().to_pem();
    shared.replace(TrustBundle::from_pem(&both).unwrap());
    shake().unwrap();
    ours.replace(after.leaf("shop", "frontend")).unwrap();
    shake().unwrap();
    theirs.replace(after.leaf("shop", "cart")).unwrap();
    shake().unwrap();
    shared.replace(new.bundle());
    shake().unwrap();
    ours.replace(before.leaf("shop", "frontend")).unwrap();
    assert_eq!(shake().err().unwrap().reason(), "server: unknown-root");
}

#[test]
fn first_contact_needs_the_pinned_root_and_a_control_plane() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let pin = mesh.bundle().fingerprints().next().unwrap();
    let other_pin = TestMesh::new(DOMAIN)
        .bundle()
        .fingerprints()
        .next()
        .unwrap();
    assert_eq!(pin.to_string().parse::<RootFingerprint>().unwrap(), pin);
    let full = || west.control().with_root(&mesh.bundle()).unwrap();
    let workload = || west.leaf("shop", "cart").with_root(&mesh.bundle()).unwrap();
    let forged = || {
        // Another mesh's control plane with our root behind its chain.
        let foreign = TestMesh::new(DOMAIN).cluster("us-west").control();
        let mut chain = foreign.chain().as_slice().to_vec();
        chain.extend_from_slice(mesh.bundle().roots().as_slice());
        let key = KeyPair::from_pem(&foreign.key().to_pem()).unwrap();
        Leaf::new(key, Certificates::new(chain).unwrap()).unwrap()
    };
    let contact = |leaf: Leaf, pin| {
        let time = TestTime::at(start());
        let config = pinned_client_config(pin, ALPN, time.clone());
        let server = server_config(cell(leaf), trust(&mesh), ALPN, ClientAuth::Optional, time);
        shake(config, server)
    };
    let pair = contact(full(), pin).unwrap();
    let chain = pair.client.peer_certificates().unwrap();
    let (bundle, control) = first_contact(chain, pin, start()).unwrap();
    assert_eq!(bundle, mesh.bundle());
    assert_eq!(control.cluster().as_str(), "us-west");

    let name = control_server_name(control.cluster());
    assert_eq!(name.to_str(), "control.us-west.mesh");
    for (what, leaf, pin) in [
        ("other root", full(), other_pin),
        ("no root sent", west.control(), pin),
        ("workload", workload(), pin),
        ("forged", forged(), pin),
    ] {
        let found = first_contact(leaf.chain().as_slice(), pin, start()).unwrap_err();
        let fits = match what {
            "other root" => matches!(found, FirstContactError::OtherRoot { .. }),
            "no root sent" => matches!(found, FirstContactError::NoRoot),
            "workload" => matches!(found, FirstContactError::NotControl(_)),
            _ => matches!(found, FirstContactError::Peer(PeerError::UnknownRoot)),
        };
        assert!(fits, "{what}: {found:?}");
        let Err(Failed::Client(error)) = contact(leaf, pin) else {
            panic!("{what} was accepted");
        };
        assert_eq!(FirstContactError::of(&error), Some(found), "{what}");
    }
    // A control plane that sends its root is met as usual by those who trust it already.
    shake(
        client(west.leaf("shop", "cart"), &mesh),
        server(full(), &mesh),
    )
    .unwrap();
}
