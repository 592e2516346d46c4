//! How keys, certificates and authorities live: made, stored, renewed, ended, and refused when they
//! are not what they should be.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, UNIX_EPOCH};

use common::{DAY, DOMAIN, HOUR, JOINED, TestMesh, declared, identity, judge, request, start};
use isthmus_identity::{
    AuthorityError, BACKDATE, CertificateRequest, Certificates, ClusterAuthority, IssueError,
    KeyPair, Leaf, LeafCell, LeafError, MeshKey, NotASignature, PeerRole, RENEW_AFTER,
    RequestError, Terms, TermsSignature, TrustBundle, gateway_identity,
};
use isthmus_model::{ClusterName, Egress, Mesh, Resource};
use proptest::prelude::*;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

#[test]
fn lifetimes() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster_for("us-west", 10 * DAY);
    let west_end = start() + 10 * DAY;
    assert_eq!(west.authority.not_after(), west_end);
    for (name, now, life, end, renew_at) in [
        ("a day", start(), DAY, start() + DAY, start() + HOUR),
        (
            "ten seconds",
            start(),
            Duration::from_secs(10),
            start() + Duration::from_secs(10),
            start() + Duration::from_secs(5),
        ),
        (
            "capped by the intermediate",
            west_end - HOUR,
            DAY,
            west_end,
            west_end - HOUR / 2,
        ),
        ("for ever", start(), Duration::MAX, west_end, start() + HOUR),
    ] {
        let leaf = west.leaf_at("shop", "cart", now, life);
        assert_eq!(leaf.not_before(), now - BACKDATE, "{name}");
        assert_eq!(leaf.not_after(), end, "{name}");
        assert_eq!(leaf.renew_at(RENEW_AFTER), renew_at, "{name}");
        assert!(
            !leaf.expired(end) && leaf.expired(end + Duration::from_secs(1)),
            "{name}"
        );
    }
    let key = KeyPair::generate().unwrap();
    let cart = identity(DOMAIN, "shop", "cart");
    let issued = west
        .authority
        .issue(&request(&key), &cart, JOINED, west_end, DAY);
    assert_eq!(issued.unwrap_err(), IssueError::AuthorityExpired);
    let foreign = identity("other.mesh", "shop", "cart");
    let issued = west
        .authority
        .issue(&request(&key), &foreign, JOINED, start(), DAY);
    assert!(matches!(issued, Err(IssueError::TrustDomain { .. })));
    let at_the_edges = [UNIX_EPOCH, UNIX_EPOCH - DAY, UNIX_EPOCH + DAY * 365 * 9000];
    for now in at_the_edges {
        let _ = MeshKey::found(mesh.bundle().trust_domain(), now);
        let _ = west
            .authority
            .issue(&request(&key), &cart, JOINED, now, Duration::MAX);
    }
}

#[test]
fn everything_survives_its_pem() {
    let mesh = TestMesh::new(DOMAIN);
    let key = MeshKey::from_pem(&mesh.key.key_pem(), &mesh.key.root_pem()).unwrap();
    assert_eq!(key.bundle(), mesh.key.bundle());
    let name = ClusterName::new("us-west").unwrap();
    let cluster_key = KeyPair::generate().unwrap();
    let chain = key
        .sign_cluster(&request(&cluster_key), &name, start(), DAY)
        .unwrap();
    let (key_pem, chain_pem) = (cluster_key.to_pem(), chain.to_pem());
    let authority = ClusterAuthority::from_pem(&key_pem, &chain_pem, start()).unwrap();
    assert_eq!(
        authority.id().to_string(),
        "spiffe://shop.mesh/cluster/us-west"
    );
    let leaf_key = KeyPair::generate().unwrap();
    let gateway = gateway_identity(mesh.bundle().trust_domain());
    let leaf = authority
        .issue(&request(&leaf_key), &gateway, JOINED, start(), DAY)
        .unwrap();
    let leaf = Leaf::from_pem(&leaf_key.to_pem(), &leaf.to_pem()).unwrap();
    assert!(judge(&mesh.bundle(), leaf.chain().as_slice(), start()).is_ok());

    let reopen = |key: &str, chain: &str, now| ClusterAuthority::from_pem(key, chain, now).err();
    let stranger = KeyPair::generate().unwrap().to_pem();
    let other_root = TestMesh::new(DOMAIN).key.root_pem();
    let own = Certificates::new(vec![chain.as_slice()[0].clone()])
        .unwrap()
        .to_pem();
    assert_eq!(
        reopen(&stranger, &chain_pem, start()),
        Some(AuthorityError::OtherKey)
    );
    assert_eq!(
        reopen(&key_pem, &chain_pem, start() + DAY),
        Some(AuthorityError::Expired)
    );
    assert_eq!(
        reopen(&key_pem, &chain_pem, start() - DAY),
        Some(AuthorityError::NotYetValid)
    );
    assert_eq!(
        reopen(&key_pem, &(own + &other_root), start()),
        Some(AuthorityError::OtherRoot)
    );
    let leaf_pem = leaf.chain().to_pem();
    assert!(reopen(&leaf_key.to_pem(), &leaf_pem, start()).is_some());
    assert_eq!(
        Leaf::from_pem(&stranger, &leaf_pem).unwrap_err(),
        LeafError::OtherKey
    );
    assert_eq!(
        MeshKey::from_pem(&stranger, &key.root_pem()).unwrap_err(),
        AuthorityError::OtherKey
    );
}

#[test]
fn keys_are_never_printed_and_requests_are_checked() {
    let key = KeyPair::generate().unwrap();
    assert!(key.to_pem().starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert!(format!("{key:?}").len() < 40);
    let pem = key.certificate_request().unwrap();
    assert_eq!(
        CertificateRequest::from_pem(&pem).unwrap().key_hash(),
        key.hash()
    );
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .unwrap()
        .to_vec();
    let mut changed = der.clone();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    let refused = CertificateRequest::from_der(&changed).unwrap_err();
    assert_eq!(refused, RequestError::Signature);
    let trailing = [&der[..], &[0]].concat();
    assert!(matches!(
        CertificateRequest::from_der(&trailing),
        Err(RequestError::Der(_))
    ));
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa_request = rcgen::CertificateParams::default()
        .serialize_request(&rsa)
        .unwrap();
    let refused = CertificateRequest::from_pem(&rsa_request.pem().unwrap()).unwrap_err();
    assert_eq!(refused, RequestError::Kind);
    // Names that a request asks for are not given.
    let mesh = TestMesh::new(DOMAIN);
    let own = rcgen::KeyPair::from_pem(&key.to_pem()).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["bank.mesh".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let greedy = params.serialize_request(&own).unwrap().pem().unwrap();
    let greedy = CertificateRequest::from_pem(&greedy).unwrap();
    let cart = identity(DOMAIN, "shop", "cart");
    let west = mesh.cluster("us-west");
    let issued = west
        .authority
        .issue(&greedy, &cart, JOINED, start(), DAY)
        .unwrap();
    let text = String::from_utf8_lossy(&issued.as_slice()[0]).into_owned();
    assert!(!text.contains("bank.mesh") && text.contains("/ns/shop/sa/cart"));
    assert!(judge(&mesh.bundle(), issued.as_slice(), start()).is_ok());
}

/// Verification takes only chains of three, so this is for everybody else who reads them.
#[test]
fn a_cluster_certifies_nothing_that_certifies() {
    let west = TestMesh::new(DOMAIN).cluster("us-west");
    let (_, certificate) = X509Certificate::from_der(&west.intermediate).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
}

#[test]
fn a_cell_keeps_its_identity() {
    let west = TestMesh::new(DOMAIN).cluster("us-west");
    let cell = LeafCell::new(west.leaf("shop", "cart"));
    let newer = west.leaf_at("shop", "cart", start() + HOUR, DAY);
    let end = newer.not_after();
    cell.replace(newer).unwrap();
    assert_eq!(cell.load().not_after(), end);
    assert!(cell.replace(west.leaf("shop", "payment")).is_err());
    assert_eq!(cell.load().not_after(), end);
}

#[test]
fn statements_bind_purpose_and_text() {
    let mesh = TestMesh::new(DOMAIN);
    let signature = mesh
        .key
        .sign_statement("cluster-grant", b"us-west: shop")
        .unwrap();
    let bundle = mesh.bundle();
    assert_eq!(
        bundle.check_statement("cluster-grant", b"us-west: shop", &signature),
        Ok(())
    );
    for (purpose, text) in [
        ("cluster-grant", &b"us-west: shop, bank"[..]),
        ("cluster-grand", b"us-west: shop"),
        ("role", b"us-west: shop"),
        ("cluster-gran", b"tus-west: shop"),
    ] {
        assert!(
            bundle.check_statement(purpose, text, &signature).is_err(),
            "{purpose}"
        );
    }
    let other = TestMesh::new(DOMAIN).bundle();
    assert!(
        other
            .check_statement("cluster-grant", b"us-west: shop", &signature)
            .is_err()
    );
    assert!(mesh.key.sign_statement(&"x".repeat(256), b"").is_err());
}

#[test]
fn terms_are_signed_whole() {
    let mesh = TestMesh::new(DOMAIN);
    let bundle = mesh.bundle();
    let cluster = |name: &str, namespaces: Option<&[&str]>, jurisdiction: Option<&str>| {
        let mut cluster = declared(name, namespaces);
        cluster.jurisdiction = jurisdiction.map(str::to_owned);
        Resource::Cluster(cluster)
    };
    let revoked = |revoked| {
        let mut cluster = declared("west", None);
        cluster.revoked = revoked;
        Resource::Cluster(cluster)
    };
    let mesh_with = |egress, voters: &[&str]| {
        Resource::Mesh(Mesh {
            name: "shop".parse().unwrap(),
            trust_domain: DOMAIN.parse().unwrap(),
            egress,
            voters: voters.iter().map(|name| name.parse().unwrap()).collect(),
            removals: isthmus_model::Removals::default(),
        })
    };
    let all = [
        cluster("west", None, None),
        cluster("west", Some(&[]), None),
        cluster("west", Some(&["a"]), None),
        cluster("west", Some(&["a", "b"]), None),
        cluster("west", Some(&["ab"]), None),
        cluster("west", Some(&["a"]), Some("de")),
        cluster("west", None, Some("de")),
        cluster("wes", None, Some("t")),
        revoked(Some(true)),
        revoked(Some(false)),
        mesh_with(Egress::Deny, &[]),
        mesh_with(Egress::Allow, &[]),
        mesh_with(Egress::Deny, &["west"]),
        mesh_with(Egress::Deny, &["east", "west"]),
    ];
    let all = all.map(|resource| Terms::of(&resource).unwrap());
    let other = TestMesh::new(DOMAIN).bundle();
    for (number, terms) in all.iter().enumerate() {
        let signature = mesh.key.sign_terms(terms, 7).unwrap();
        assert_eq!(signature.to_string().parse(), Ok(signature.clone()));
        let later = signature.to_string().replacen("7:", "8:", 1);
        let later = later.parse().unwrap();
        assert!(bundle.check_terms(terms, &later).is_err(), "{terms:?}");
        assert!(other.check_terms(terms, &signature).is_err(), "{terms:?}");
        for (other, claimed) in all.iter().enumerate() {
            let holds = bundle.check_terms(claimed, &signature).is_ok();
            assert_eq!(holds, number == other, "{terms:?} {claimed:?}");
        }
    }
    // Where it is and what it takes is nobody else's business; the order of names means nothing.
    let mut moved = declared("west", Some(&["b", "a"]));
    moved.control = "10.0.0.1:15012".parse().unwrap();
    moved.traffic = 3;
    let moved = Terms::of(&Resource::Cluster(moved)).unwrap();
    assert_eq!(moved, all[3]);
    let mut resource = cluster("west", None, Some("fr"));
    moved.bind(&mut resource);
    assert_eq!(Terms::of(&resource), Some(moved));
    for text in [
        "",
        "7",
        ":00",
        "x:00",
        "+7:00",
        "7:0",
        "7:0g",
        "7:\u{e9}",
        "18446744073709551616:00",
    ] {
        assert_eq!(text.parse::<TermsSignature>(), Err(NotASignature), "{text}");
    }
    assert!(
        format!("7:{}", "00".repeat(129))
            .parse::<TermsSignature>()
            .is_err()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        for text in [
            text.to_string(),
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"),
            format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"),
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"),
        ] {
            prop_assert!(Certificates::from_pem(&text).is_err());
            prop_assert!(TrustBundle::from_pem(&text).is_err());
            prop_assert!(KeyPair::from_pem(&text).is_err());
            prop_assert!(CertificateRequest::from_pem(&text).is_err());
        }
        prop_assert!(CertificateRequest::from_der(&bytes).is_err());
        prop_assert!(Certificates::new(vec![bytes.into()]).is_err());
    }
}

/// One changed byte anywhere in a good chain: refused or still the same peer (a byte may lie in what
/// is not signed, such as the length form of nothing), never a panic, never somebody else.
#[test]
fn a_changed_byte_makes_nobody_else() {
    let mesh = TestMesh::new(DOMAIN);
    let leaf = mesh.cluster("us-west").leaf("shop", "cart");
    let bundle = mesh.bundle();
    let good = judge(&bundle, leaf.chain().as_slice(), start());
    for which in 0..2 {
        for place in 0..leaf.chain().as_slice()[which].len() {
            let mut chain = leaf.chain().as_slice().to_vec();
            let mut der = chain[which].to_vec();
            der[place] ^= 0x15;
            chain[which] = der.clone().into();
            let found = bundle.verify(&chain, start(), PeerRole::Client);
            assert!(found.is_err(), "byte {place} of {which}, {good:?}");
            let _ = Certificates::new(vec![der.into()]).map(TrustBundle::new);
        }
    }
}
