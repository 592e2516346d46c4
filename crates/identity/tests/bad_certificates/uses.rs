//! What a certificate is for: to sign others, to open sessions, to be called; and what else it says of itself.

use isthmus_identity::PeerRole;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Purpose, IsCa,
    KeyUsagePurpose as Usage, SanType, SignatureAlgorithm,
};

use crate::harness::{BOTH, Case, Der, HOLDER, Signer, Stage, WEST, subject, uri};

const CLIENT: &[PeerRole] = &[PeerRole::Client];
const SERVER: &[PeerRole] = &[PeerRole::Server];
const CA_AS_LEAF: &[&str] = &["CaUsedAsEndEntity"];
const LEAF_AS_CA: &[&str] = &["EndEntityUsedAsCa"];
const PURPOSE: &[&str] = &["InvalidPurpose"];
const LEAF_KEY: &[&str] = &["Leaf(Usage"];
const ISSUER_KEY: &[&str] = &["Issuer(Usage"];
const UNKNOWN_CRITICAL: &[&str] = &["UnsupportedCriticalExtension"];
const TWICE: &[&str] = &["ExtensionValueInvalid"];
/// Of an issuer only the last one is looked at.
const TWICE_OR_PURPOSE: &[&str] = &["ExtensionValueInvalid", "InvalidPurpose"];
const NOT_PERMITTED: &[&str] = &["NameConstraintViolation"];

/// The honest chain, but for a change to its leaf or to its intermediate.
fn changed(
    stage: &Stage,
    of_leaf: bool,
    change: impl FnOnce(&mut CertificateParams),
) -> (&'static str, Vec<Der>) {
    if of_leaf {
        let leaf = stage.west.leaf(change);
        ("leaf", vec![leaf, stage.west.der.clone()])
    } else {
        // Of its key and its name: what the honest intermediate signs is below this one too.
        let key = stage.west.copied_key();
        let cluster = stage.root.cluster_with(key, change);
        ("intermediate", vec![stage.west.leaf(|_| ()), cluster.der])
    }
}

pub fn authorities(stage: &Stage) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, constraints) in [
        ("without limit", BasicConstraints::Unconstrained),
        ("of none below", BasicConstraints::Constrained(0)),
        ("of one below", BasicConstraints::Constrained(1)),
        ("of 255 below", BasicConstraints::Constrained(255)),
    ] {
        for control in [false, true] {
            let (_, chain) = changed(stage, true, |params| {
                params.is_ca = IsCa::Ca(constraints);
                if control {
                    params.subject_alt_names = vec![uri(WEST)];
                }
            });
            let name = format!("leaf is an authority {name}, control plane: {control}");
            cases.push(Case::new(name, chain, CA_AS_LEAF));
        }
    }
    for (name, is_ca) in [
        ("says nothing", IsCa::NoCa),
        ("says it is none", IsCa::ExplicitNoCa),
    ] {
        let chain = stage.root.cluster(|params| params.is_ca = is_ca).chain();
        let name = format!("intermediate {name}");
        cases.push(Case::new(name, chain, LEAF_AS_CA));
    }
    let (west, root) = (&stage.honest_west, &stage.root.der);
    for (name, mut holder) in [
        ("workload", stage.issued(west, "shop", "cart")),
        ("gateway", stage.issued(west, "isthmus-system", "gateway")),
        ("control plane", stage.control(west)),
    ] {
        let key = rcgen::KeyPair::from_pem(&HOLDER.serialize_pem()).unwrap();
        let der = holder.remove(0);
        let chain = Signer { der, key }.chain();
        let with = |last: &Der| chain.iter().chain([last]).cloned().collect();
        let below = with(&west.intermediate);
        cases.push(Case::new(
            format!("{name} signs, its issuer shown"),
            below,
            LEAF_AS_CA,
        ));
        let rooted = with(root);
        cases.push(Case::new(
            format!("{name} signs, root shown"),
            rooted,
            LEAF_AS_CA,
        ));
        cases.push(Case::new(format!("{name} signs"), chain, LEAF_AS_CA));
    }
    cases
}

pub fn purposes(stage: &Stage) -> Vec<Case> {
    let other = || Purpose::Other(vec![1, 3, 6, 1, 4, 1, 99_999, 1]);
    let table = [
        ("client", vec![Purpose::ClientAuth], SERVER),
        ("server", vec![Purpose::ServerAuth], CLIENT),
        (
            "client and more",
            vec![Purpose::CodeSigning, Purpose::ClientAuth],
            SERVER,
        ),
        (
            "server and more",
            vec![Purpose::OcspSigning, Purpose::ServerAuth],
            CLIENT,
        ),
        ("code", vec![Purpose::CodeSigning], BOTH),
        ("mail", vec![Purpose::EmailProtection], BOTH),
        ("time", vec![Purpose::TimeStamping], BOTH),
        ("OCSP", vec![Purpose::OcspSigning], BOTH),
        ("anything", vec![Purpose::Any], BOTH),
        ("something of its own", vec![other()], BOTH),
        (
            "all but sessions",
            vec![
                Purpose::CodeSigning,
                Purpose::EmailProtection,
                Purpose::TimeStamping,
                other(),
            ],
            BOTH,
        ),
    ];
    let mut cases = Vec::new();
    for (name, purposes, roles) in table {
        for of_leaf in [true, false] {
            let purposes = purposes.clone();
            let (which, chain) = changed(stage, of_leaf, |params| {
                params.extended_key_usages = purposes;
            });
            let case = Case::new(format!("{which} is for {name}"), chain, PURPOSE);
            cases.push(case.only(roles));
        }
    }
    cases
}

/// What the keys themselves are for: one's own signatures, or certificates.
pub fn keys(stage: &Stage) -> Vec<Case> {
    let others = [
        Usage::ContentCommitment,
        Usage::KeyEncipherment,
        Usage::DataEncipherment,
        Usage::KeyAgreement,
        Usage::EncipherOnly,
        Usage::DecipherOnly,
    ];
    let all_but = |left_out: Usage| {
        let signing = [Usage::DigitalSignature, Usage::KeyCertSign, Usage::CrlSign];
        let all = others.iter().chain(&signing);
        all.copied().filter(|usage| *usage != left_out).collect()
    };
    let mut of_leaf: Vec<Vec<Usage>> = vec![
        vec![Usage::KeyCertSign],
        vec![Usage::CrlSign],
        vec![Usage::DigitalSignature, Usage::KeyCertSign],
        vec![Usage::DigitalSignature, Usage::CrlSign],
        all_but(Usage::DigitalSignature),
        all_but(Usage::KeyCertSign),
        all_but(Usage::CrlSign),
    ];
    let mut of_issuer = vec![
        vec![Usage::DigitalSignature],
        vec![Usage::CrlSign],
        vec![Usage::DigitalSignature, Usage::CrlSign],
        all_but(Usage::KeyCertSign),
    ];
    for usages in [&mut of_leaf, &mut of_issuer] {
        usages.push(Vec::new());
        usages.extend(others.map(|usage| vec![usage]));
    }
    let mut cases = Vec::new();
    for (is_of_leaf, usages) in [(true, of_leaf), (false, of_issuer)] {
        let expected = if is_of_leaf { LEAF_KEY } else { ISSUER_KEY };
        for usages in usages {
            let used = |params: &mut CertificateParams| params.key_usages.clone_from(&usages);
            let (which, chain) = changed(stage, is_of_leaf, used);
            let name = format!("the {which}'s key is for {usages:?}");
            cases.push(Case::new(name, chain, expected));
        }
    }
    cases
}

pub fn extensions(stage: &Stage) -> Vec<Case> {
    let extension = |oid: &[u64], critical, content: &[u8]| {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        extension
    };
    let null = &[5, 0][..];
    let san = [
        &[0x30, 0x24, 0x86, 0x22][..],
        crate::harness::CART.as_bytes(),
    ]
    .concat();
    let table = [
        (
            "unknown",
            extension(&[1, 3, 6, 1, 4, 1, 99_999, 7], true, null),
            UNKNOWN_CRITICAL,
        ),
        (
            "of X.509, unknown",
            extension(&[2, 5, 29, 99], true, null),
            UNKNOWN_CRITICAL,
        ),
        (
            "poison",
            extension(&[1, 3, 6, 1, 4, 1, 11_129, 2, 4, 3], true, null),
            UNKNOWN_CRITICAL,
        ),
        (
            "policies",
            extension(&[2, 5, 29, 32], true, &[0x30, 0]),
            UNKNOWN_CRITICAL,
        ),
        (
            "policy constraints",
            extension(&[2, 5, 29, 36], true, &[0x30, 0]),
            UNKNOWN_CRITICAL,
        ),
        (
            "no policy",
            extension(&[2, 5, 29, 54], true, &[2, 1, 0]),
            UNKNOWN_CRITICAL,
        ),
        (
            "names twice",
            extension(&[2, 5, 29, 17], false, &san),
            TWICE,
        ),
        (
            "usage twice",
            extension(&[2, 5, 29, 15], true, &[3, 2, 7, 0x80]),
            TWICE,
        ),
        (
            "purposes twice",
            extension(&[2, 5, 29, 37], false, &[0x30, 4, 6, 2, 0x2a, 3]),
            TWICE_OR_PURPOSE,
        ),
        (
            "constraints twice",
            extension(&[2, 5, 29, 19], true, &[0x30, 0]),
            TWICE,
        ),
    ];
    let mut cases = Vec::new();
    for (name, extension, expected) in table {
        for of_leaf in [true, false] {
            let extension = extension.clone();
            let (which, chain) = changed(stage, of_leaf, |params| {
                params.custom_extensions = vec![extension];
            });
            cases.push(Case::new(format!("{which}: {name}"), chain, expected));
        }
    }
    // GeneralSubtrees of one name each (RFC 5280 section 4.2.1.10).
    let subtree = |list: u8, tag: u8, name: &[u8]| {
        let length = u8::try_from(name.len()).unwrap();
        let head = [
            0x30,
            length + 6,
            list,
            length + 4,
            0x30,
            length + 2,
            tag,
            length,
        ];
        extension(&[2, 5, 29, 30], true, &[&head[..], name].concat())
    };
    for (list, word) in [(0xa0, "permitted"), (0xa1, "excluded")] {
        for name in ["shop.mesh", "other.mesh", ".mesh"] {
            let constraint = subtree(list, 0x86, name.as_bytes());
            let cluster = stage
                .root
                .cluster(|params| params.custom_extensions = vec![constraint]);
            let name = format!("URIs {word}: {name}");
            cases.push(Case::new(name, cluster.chain(), NOT_PERMITTED));
        }
    }
    for (name, constraint) in [
        (
            "another DNS name permitted",
            subtree(0xa0, 0x82, b"other.mesh"),
        ),
        ("its DNS name excluded", subtree(0xa1, 0x82, b"shop.mesh")),
    ] {
        let cluster = stage
            .root
            .cluster(|params| params.custom_extensions = vec![constraint]);
        let leaf = cluster.leaf(|params| {
            let name = SanType::DnsName("cart.shop.mesh".try_into().unwrap());
            params.subject_alt_names.push(name);
        });
        cases.push(Case::new(name, vec![leaf, cluster.der], NOT_PERMITTED));
    }
    cases
}

/// Signed with keys of another kind than the certificate of the issuer has.
pub fn algorithms(stage: &Stage) -> Vec<Case> {
    let kinds: [(&str, &'static SignatureAlgorithm); 5] = [
        ("P-256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("P-384", &rcgen::PKCS_ECDSA_P384_SHA384),
        ("P-521", &rcgen::PKCS_ECDSA_P521_SHA512),
        ("Ed25519", &rcgen::PKCS_ED25519),
        ("RSA", &rcgen::PKCS_RSA_SHA256),
    ];
    let refused = &["BadSignature", "UnsupportedSignatureAlgorithmForPublicKey"];
    let mut cases = Vec::new();
    for (name, kind) in kinds {
        let key = || rcgen::KeyPair::generate_for(kind).unwrap();
        let posing = |as_whom: &Signer| Signer {
            der: as_whom.der.clone(),
            key: key(),
        };
        let leaf = posing(&stage.west).chain();
        cases.push(Case::new(format!("leaf by some {name} key"), leaf, refused));
        let cluster = posing(&stage.root).cluster(|_| ()).chain();
        let title = format!("intermediate by some {name} key");
        cases.push(Case::new(title, cluster, refused));
        // The leaf is the cluster's, whose certificate has another key of this kind.
        let other = stage.root.cluster_with(key(), |params| {
            params.distinguished_name = subject("cluster us-west");
        });
        let chain = vec![stage.west.leaf(|_| ()), other.der];
        cases.push(Case::new(
            format!("intermediate of a {name} key"),
            chain,
            refused,
        ));
    }
    cases
}
