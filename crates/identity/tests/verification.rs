//! Who a chain proves, and whom the rules accept.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{
    DAY, DOMAIN, Forged, HOUR, JOINED, MINUTE, TestMesh, declared, identity, judge, request, start,
};
use isthmus_identity::{
    BACKDATE, Callee, KeyPair, Leaf, PeerCluster, PeerRole, TrustBundle, TrustError, Unacceptable,
    VerifiedPeer, accept_callee, accept_caller, accept_control, accept_gateway,
};
use isthmus_model::{AccountName, Admission, Cluster, ClusterName, Namespace};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, SanType};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Name, chain, and the id or the reason.
type Case<'a> = (
    &'a str,
    Vec<CertificateDer<'a>>,
    Result<&'a str, &'static str>,
);

fn judge_all<'a>(bundle: &TrustBundle, cases: impl IntoIterator<Item = Case<'a>>) {
    for (name, chain, expected) in cases {
        let found = judge(bundle, &chain, start());
        assert_eq!(found, expected.map(str::to_owned), "{name}");
    }
}

fn verified(bundle: &TrustBundle, leaf: &Leaf) -> VerifiedPeer {
    bundle
        .verify(leaf.chain().as_slice(), start(), PeerRole::Server)
        .unwrap()
}

#[test]
fn chains() {
    let mesh = TestMesh::new(DOMAIN);
    let (west, east) = (mesh.cluster("us-west"), mesh.cluster("eu-central"));
    let foreign = TestMesh::new(DOMAIN)
        .cluster("us-west")
        .leaf("shop", "cart");
    let other_domain = TestMesh::new("other.mesh").cluster("us-west");
    let bundle = mesh.bundle();

    let cart = west.leaf("shop", "cart");
    let leaf = || cart.chain().as_slice()[0].clone();
    let issuer = || west.intermediate.clone();
    let root = || bundle.roots().as_slice()[0].clone();
    let chain = |leaf: &Leaf| leaf.chain().as_slice().to_vec();
    let foreign_leaf = foreign.chain().as_slice()[0].clone();
    let (cart_of_west, control_of_east) = (
        "spiffe://shop.mesh/ns/shop/sa/cart of us-west",
        "spiffe://shop.mesh/cluster/eu-central of eu-central",
    );
    let long = || CertificateDer::from(vec![0; 8 * 1024]);
    let cases: [Case<'_>; 13] = [
        ("workload", chain(&cart), Ok(cart_of_west)),
        ("root too", vec![leaf(), issuer(), root()], Ok(cart_of_west)),
        ("control", chain(&east.control()), Ok(control_of_east)),
        ("nothing", vec![], Err("no-certificate")),
        ("leaf alone", vec![leaf()], Err("wrong-chain")),
        (
            "much behind it",
            vec![leaf(), issuer(), long()],
            Err("wrong-chain"),
        ),
        (
            "four",
            vec![leaf(), issuer(), root(), root()],
            Err("wrong-chain"),
        ),
        ("root as issuer", vec![leaf(), root()], Err("wrong-chain")),
        (
            "other issuer",
            vec![leaf(), east.intermediate.clone()],
            Err("wrong-chain"),
        ),
        ("wrong order", vec![issuer(), leaf()], Err("wrong-chain")),
        (
            "foreign root, same names",
            chain(&foreign),
            Err("unknown-root"),
        ),
        (
            "foreign leaf",
            vec![foreign_leaf, issuer()],
            Err("wrong-chain"),
        ),
        (
            "other domain",
            chain(&other_domain.leaf("shop", "cart")),
            Err("unknown-root"),
        ),
    ];
    judge_all(&bundle, cases);
}

#[test]
fn times() {
    let mesh = TestMesh::new(DOMAIN);
    let bundle = mesh.bundle();
    let cart = mesh.cluster("us-west").leaf("shop", "cart");
    // Honest authorities cap a leaf by the intermediate; a stolen one need not.
    let short = mesh.cluster_for("short", HOUR).forged_leaf(Forged {
        subject: "x",
        uris: &["spiffe://shop.mesh/ns/shop/sa/cart"],
        ca: false,
    });
    let second = Duration::from_secs(1);
    for (name, leaf, now, expected) in [
        ("clock behind", &cart, start() - BACKDATE, Ok(())),
        (
            "too far behind",
            &cart,
            start() - BACKDATE - second,
            Err("not-yet-valid"),
        ),
        ("last second", &cart, start() + DAY, Ok(())),
        (
            "expired leaf",
            &cart,
            start() + DAY + second,
            Err("expired"),
        ),
        ("intermediate lives", &short, start() + HOUR, Ok(())),
        (
            "expired intermediate",
            &short,
            start() + HOUR + second,
            Err("expired"),
        ),
    ] {
        let found = judge(&bundle, leaf.chain().as_slice(), now).map(|_| ());
        assert_eq!(found, expected, "{name}");
    }
    let peer = verified(&bundle, &short);
    assert_eq!(
        peer.not_after(),
        start() + HOUR,
        "the first end of the chain counts"
    );
}

#[test]
fn names_that_a_stolen_cluster_may_not_give() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let forged = |uris: &[&str], ca| {
        let (_, leaf) = west.forge(Forged {
            subject: "x",
            uris,
            ca,
        });
        vec![leaf, west.intermediate.clone()]
    };
    let named = |uris: &[&str]| forged(uris, false);
    let cart = "spiffe://shop.mesh/ns/shop/sa/cart";
    let payment = "spiffe://shop.mesh/ns/shop/sa/payment";
    let cart_of_west = "spiffe://shop.mesh/ns/shop/sa/cart of us-west";
    let other_domain = "spiffe://other.mesh/ns/shop/sa/cart";
    let other_domain_control = "spiffe://other.mesh/cluster/us-west";
    let other_control = "spiffe://shop.mesh/cluster/eu-central";
    let cases: [Case<'_>; 9] = [
        ("honest", named(&[cart]), Ok(cart_of_west)),
        (
            "other domain",
            named(&[other_domain]),
            Err("wrong-trust-domain"),
        ),
        (
            "its control",
            named(&[other_domain_control]),
            Err("wrong-trust-domain"),
        ),
        (
            "other control",
            named(&[other_control]),
            Err("foreign-control"),
        ),
        ("no URI", named(&[]), Err("wrong-leaf")),
        ("two URIs", named(&[cart, payment]), Err("wrong-leaf")),
        ("one URI twice", named(&[cart, cart]), Err("wrong-leaf")),
        (
            "not SPIFFE",
            named(&["https://shop.mesh/ns/shop/sa/cart"]),
            Err("wrong-leaf"),
        ),
        ("an authority", forged(&[cart], true), Err("invalid-chain")),
    ];
    judge_all(&mesh.bundle(), cases);
}

#[test]
fn intermediates_must_be_clusters_signed_by_the_root() {
    let mesh = TestMesh::new(DOMAIN);
    let west = mesh.cluster("us-west");
    let bundle = mesh.bundle();
    let cart = &["spiffe://shop.mesh/ns/shop/sa/cart"][..];
    let below = |(key, issuer): (KeyPair, CertificateDer<'static>)| {
        let forged = Forged {
            subject: "leaf",
            uris: cart,
            ca: false,
        };
        let (_, leaf) = common::forge(forged, &issuer, &key.to_pem());
        vec![leaf, issuer]
    };
    let root_signs =
        |subject: &str, uris: &[&str], ca| below(mesh.forge(Forged { subject, uris, ca }));

    let workload = west.leaf("shop", "payment");
    let payment = (
        KeyPair::from_pem(&workload.key().to_pem()).unwrap(),
        workload.chain().as_slice()[0].clone(),
    );
    let sub_authority = west.forge(Forged {
        subject: "sub",
        uris: &["spiffe://shop.mesh/cluster/us-west"],
        ca: true,
    });
    let decoy = {
        // A leaf that the root itself signed, shown with a cluster's certificate beside it.
        let (_, leaf) = mesh.forge(Forged {
            subject: "leaf",
            uris: cart,
            ca: false,
        });
        vec![leaf, west.intermediate.clone()]
    };
    let with_west = |mut chain: Vec<CertificateDer<'static>>| {
        chain.push(west.intermediate.clone());
        chain
    };
    let (a, b, c) = (
        "spiffe://shop.mesh/cluster/a",
        "spiffe://shop.mesh/cluster/b",
        &["spiffe://shop.mesh/cluster/c"],
    );
    let other = &["spiffe://other.mesh/cluster/c"];
    let cart_of_c = "spiffe://shop.mesh/ns/shop/sa/cart of c";
    let (payment, sub_authority) = (below(payment), below(sub_authority));
    let cases: [Case<'_>; 11] = [
        ("honest", root_signs("c", c, true), Ok(cart_of_c)),
        ("workload", payment.clone(), Err("invalid-chain")),
        (
            "workload below its cluster",
            with_west(payment),
            Err("invalid-chain"),
        ),
        (
            "no CA flag",
            root_signs("c", c, false),
            Err("invalid-chain"),
        ),
        (
            "workload's name",
            root_signs("c", cart, true),
            Err("wrong-issuer"),
        ),
        (
            "two names",
            root_signs("c", &[a, b], true),
            Err("wrong-issuer"),
        ),
        ("no name", root_signs("c", &[], true), Err("wrong-issuer")),
        (
            "other domain",
            root_signs("c", other, true),
            Err("wrong-trust-domain"),
        ),
        ("sub-authority", sub_authority.clone(), Err("unknown-root")),
        (
            "sub-authority below its cluster",
            with_west(sub_authority),
            Err("unknown-root"),
        ),
        ("signed by the root", decoy, Err("wrong-chain")),
    ];
    judge_all(&bundle, cases);
}

/// A leaf that the root signed itself needs no intermediate. Beside it anybody can put a certificate
/// that bears the root's name and any cluster's id, signed by nobody: it must not give the cluster.
#[test]
fn a_decoy_with_the_roots_own_name_names_no_cluster() {
    let mesh = TestMesh::new(DOMAIN);
    let bundle = mesh.bundle();
    let uris = &["spiffe://shop.mesh/ns/shop/sa/cart"];
    let (_, leaf) = mesh.forge(Forged {
        subject: "leaf",
        uris,
        ca: false,
    });
    let root = &bundle.roots().as_slice()[0];
    let (_, root) = X509Certificate::from_der(root).unwrap();
    let unit = root.subject().iter_organizational_unit().next().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = &mut params.distinguished_name;
    name.push(DnType::OrganizationName, "Isthmus");
    name.push(DnType::OrganizationalUnitName, unit.as_str().unwrap());
    name.push(DnType::CommonName, DOMAIN);
    let uri = "spiffe://shop.mesh/cluster/us-west".try_into().unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let decoy = params
        .self_signed(&rcgen::KeyPair::generate().unwrap())
        .unwrap();
    let (_, parsed) = X509Certificate::from_der(decoy.der()).unwrap();
    assert_eq!(parsed.subject().as_raw(), root.subject().as_raw());
    let chain = [leaf, decoy.der().clone()];
    assert_eq!(judge(&bundle, &chain, start()), Err("wrong-chain"));
}

#[test]
fn a_rotated_bundle_trusts_both_roots() {
    let (old, new) = (TestMesh::new(DOMAIN), TestMesh::new(DOMAIN));
    let leaves = [&old, &new].map(|mesh| mesh.cluster("us-west").leaf("shop", "cart"));
    let both = TrustBundle::from_pem(&(old.bundle().to_pem() + &new.bundle().to_pem())).unwrap();
    for leaf in &leaves {
        assert!(judge(&both, leaf.chain().as_slice(), start()).is_ok());
    }
    let old_only = judge(&old.bundle(), leaves[1].chain().as_slice(), start());
    assert_eq!(old_only, Err("unknown-root"));
    assert!(matches!(
        TrustBundle::from_pem(&(old.bundle().to_pem() + &TestMesh::new("x").bundle().to_pem())),
        Err(TrustError::TwoTrustDomains { .. })
    ));
    let leaf = TrustBundle::from_pem(&leaves[0].chain().to_pem());
    assert!(
        matches!(leaf, Err(TrustError::Root { index: 0, .. })),
        "{leaf:?}"
    );
}

#[test]
fn callees() {
    let mesh = TestMesh::new(DOMAIN);
    let bundle = mesh.bundle();
    let (west, east) = (mesh.cluster("us-west"), mesh.cluster("eu-central"));
    let dialled = declared("us-west", Some(&["shop", "stock"]));
    let namespace = Namespace::new("shop").unwrap();
    let accounts = [
        AccountName::new("cart").unwrap(),
        AccountName::new("cart-v2").unwrap(),
    ];
    let callee = Callee {
        cluster: known(&dialled),
        namespace: &namespace,
        accounts: &accounts,
    };
    for (name, leaf, expected) in [
        ("declared", west.leaf("shop", "cart"), Ok(())),
        ("also declared", west.leaf("shop", "cart-v2"), Ok(())),
        (
            "other cluster",
            east.leaf("shop", "cart"),
            Err("other-cluster"),
        ),
        (
            "other account",
            west.leaf("shop", "payment"),
            Err("account-not-declared"),
        ),
        (
            "other namespace",
            west.leaf("stock", "cart"),
            Err("other-namespace"),
        ),
        (
            "not granted",
            west.leaf("bank", "cart"),
            Err("namespace-not-granted"),
        ),
        ("gateway", west.gateway(), Err("namespace-not-granted")),
        ("control plane", west.control(), Err("not-a-workload")),
    ] {
        let peer = verified(&bundle, &leaf);
        let accepted = accept_callee(&peer, &callee).map(|_| ());
        assert_eq!(accepted.map_err(|error| error.reason()), expected, "{name}");
    }
    let ungranted = declared("us-west", Some(&["stock"]));
    let peer = verified(&bundle, &west.leaf("shop", "cart"));
    assert_eq!(
        accept_callee(
            &peer,
            &Callee {
                cluster: known(&ungranted),
                ..callee
            }
        )
        .unwrap_err(),
        Unacceptable::NamespaceNotGranted {
            cluster: ungranted.name.clone(),
            namespace: namespace.clone()
        }
    );
    let revoked = BTreeSet::from([JOINED]);
    let revoking = PeerCluster {
        cluster: &dialled,
        revoked: &revoked,
    };
    let revoking = Callee {
        cluster: revoking,
        ..callee
    };
    assert_eq!(
        accept_callee(&peer, &revoking).unwrap_err(),
        Unacceptable::Revoked(JOINED)
    );
    let no_accounts = Callee {
        accounts: &[],
        ..callee
    };
    assert!(
        accept_callee(&peer, &no_accounts).is_err(),
        "nothing declared is nobody"
    );
}

#[test]
fn callers_gateways_and_control_planes() {
    let mesh = TestMesh::new(DOMAIN);
    let bundle = mesh.bundle();
    let clusters = [
        declared("us-west", Some(&["shop"])),
        declared("eu-central", None),
    ];
    let dialled = ClusterName::new("us-west").unwrap();
    let (west, east) = (mesh.cluster("us-west"), mesh.cluster("eu-central"));
    let gone = mesh.cluster("gone");
    for (name, leaf, caller, gateway, control) in [
        (
            "granted",
            west.leaf("shop", "cart"),
            Ok(()),
            Err("not-a-gateway"),
            Err("not-a-control-plane"),
        ),
        (
            "not granted",
            west.leaf("bank", "cart"),
            Err("namespace-not-granted"),
            Err("not-a-gateway"),
            Err("not-a-control-plane"),
        ),
        (
            "granted all",
            east.leaf("bank", "cart"),
            Ok(()),
            Err("other-cluster"),
            Err("other-cluster"),
        ),
        (
            "unknown cluster",
            gone.leaf("shop", "cart"),
            Err("unknown-cluster"),
            Err("other-cluster"),
            Err("other-cluster"),
        ),
        (
            "gateway",
            west.gateway(),
            Err("namespace-not-granted"),
            Ok(()),
            Err("not-a-control-plane"),
        ),
        (
            "other gateway",
            east.gateway(),
            Ok(()),
            Err("other-cluster"),
            Err("other-cluster"),
        ),
        (
            "control",
            west.control(),
            Err("not-a-workload"),
            Err("not-a-gateway"),
            Ok(()),
        ),
        (
            "other control",
            east.control(),
            Err("not-a-workload"),
            Err("other-cluster"),
            Err("other-cluster"),
        ),
    ] {
        let peer = verified(&bundle, &leaf);
        let find = |name: &ClusterName| {
            let declared = clusters.iter().find(|cluster| cluster.name == *name);
            declared.map(known)
        };
        let reason = |error: Unacceptable| error.reason();
        assert_eq!(
            accept_caller(&peer, find).map(|_| ()).map_err(reason),
            caller,
            "{name}"
        );
        assert_eq!(
            accept_gateway(&peer, known(&clusters[0])).map_err(reason),
            gateway,
            "{name}"
        );
        assert_eq!(
            accept_control(&peer, &dialled).map_err(reason),
            control,
            "{name}"
        );
    }
}

#[test]
fn an_admission_lasts_over_renewals_and_is_revoked_alone() {
    let mesh = TestMesh::new(DOMAIN);
    let bundle = mesh.bundle();
    let west = mesh.cluster("us-west");
    let identity = identity(DOMAIN, "shop", "cart");
    let other = Admission([0; 8]);
    let leaf = |admission, now| {
        let key = KeyPair::generate().unwrap();
        let chain = west
            .authority
            .issue(&request(&key), &identity, admission, now, DAY);
        Leaf::new(key, chain.unwrap()).unwrap()
    };
    let cluster = declared("us-west", None);
    let revoked = BTreeSet::from([JOINED]);
    let find = |_: &ClusterName| {
        Some(PeerCluster {
            cluster: &cluster,
            revoked: &revoked,
        })
    };
    let mut serials = BTreeSet::new();
    for (admission, accepted) in [
        (JOINED, Err(Unacceptable::Revoked(JOINED))),
        (other, Ok(())),
        (Admission([0xff; 8]), Ok(())),
    ] {
        for now in [start(), start() + MINUTE] {
            let leaf = leaf(admission, now);
            let chain = leaf.chain().as_slice();
            let peer = bundle.verify(chain, now, PeerRole::Client).unwrap();
            assert_eq!(peer.admission(), Some(admission));
            assert_eq!(
                accept_caller(&peer, find).map(|_| ()),
                accepted,
                "{admission}"
            );
            let (_, parsed) = X509Certificate::from_der(&leaf.chain().as_slice()[0]).unwrap();
            assert!(parsed.raw_serial().len() <= 20, "RFC 5280 section 4.1.2.2");
            serials.insert(parsed.raw_serial().to_vec());
        }
    }
    assert_eq!(serials.len(), 6, "no two share one");
    // Its gateway's rule is the same; its control plane was never admitted.
    let gateway = verified(&bundle, &west.gateway());
    let known = find(&cluster.name).unwrap();
    assert_eq!(
        accept_gateway(&gateway, known),
        Err(Unacceptable::Revoked(JOINED))
    );
    assert_eq!(verified(&bundle, &west.control()).admission(), None);
}

/// Of which nobody was revoked.
fn known(cluster: &Cluster) -> PeerCluster<'_> {
    static NOBODY: BTreeSet<Admission> = BTreeSet::new();
    PeerCluster {
        cluster,
        revoked: &NOBODY,
    }
}
